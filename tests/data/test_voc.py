"""The VOC builder reads VOC 2012 and SBD as unpacked, and chooses training images and labels as published."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from raw_data import assert_refused

from cpnet_jax.data import builders, catalog
from cpnet_jax.data.catalog.voc import voc_palette
from cpnet_jax.data.records import decode_record

TRAIN, VAL = ["2007_000032", "2007_000039"], ["2007_000033", "2007_000042"]
# SBD's split ignores VOC's: its train list holds an image of VOC's val split.
SBD_TRAIN, SBD_VAL = ["2007_000032", "2007_000033", "2008_000002"], ["2008_000007", "2007_000042"]
AUGMENTED = ["2007_000032", "2007_000039", "2008_000002", "2008_000007"]
SIZE = (12, 25)
FOLDER = Path("VOCdevkit/VOC2012")
SBD = Path("benchmark_RELEASE/dataset")


def voc_label(name: str) -> np.ndarray:
    """VOC's label: every class, with 255 around them."""
    label = np.full(SIZE, 255, np.uint8)
    label[1:-1, 2:23] = np.roll(np.arange(21), int(name[-2:]))
    return label


def sbd_label(name: str) -> np.ndarray:
    """SBD's label: differs from VOC's, and has no ignored pixels."""
    label = np.zeros(SIZE, np.uint8)
    label[2:-2, 3:23] = np.roll(np.arange(1, 21), int(name[-2:]))
    return label


def write_lists(folder: Path, **lists: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def write_image(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(int(name.replace("_", ""))).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.jpg")


def write_index_image(path: Path, label: np.ndarray, *, palette: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label)
    if palette:
        picture.putpalette(np.array(voc_palette(256), np.uint8).tobytes())
        assert picture.mode == "P"
    picture.save(path)


def write_voc(root: Path) -> Path:
    """Write what VOCtrainval_11-May-2012.tar unpacks to."""
    folder = root / FOLDER
    for name in sorted({*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL, "2011_003285"}):  # no list names the last one
        write_image(folder / "JPEGImages", name)
    for name in (*TRAIN, *VAL):
        write_index_image(folder / "SegmentationClass" / f"{name}.png", voc_label(name), palette=True)
        write_index_image(folder / "SegmentationObject" / f"{name}.png", voc_label(name) % 7, palette=True)
    write_lists(folder / "ImageSets/Segmentation", train=TRAIN, val=VAL, trainval=[*TRAIN, *VAL])
    write_lists(folder / "ImageSets/Main", train=["2008_000002"], val=["2008_000007"])
    return root


def write_sbd(root: Path) -> None:
    """Write what benchmark.tgz unpacks to."""
    folder = root / SBD
    write_lists(folder, train=SBD_TRAIN, val=SBD_VAL)
    boundaries = np.empty((20, 1), object)
    for place in range(20):
        boundaries[place, 0] = scipy.sparse.csc_matrix(np.eye(*SIZE, dtype=bool))
    for name in (*SBD_TRAIN, *SBD_VAL):
        write_image(folder / "img", name)
        present = np.arange(1, 21, dtype=np.uint8)[:, None]
        content = {"Boundaries": boundaries, "Segmentation": sbd_label(name), "CategoriesPresent": present}
        for kind in ("cls", "inst"):
            (folder / kind).mkdir(exist_ok=True)
            scipy.io.savemat(folder / kind / f"{name}.mat", {f"GT{kind}": content}, do_compression=True)


def write_aug(root: Path) -> None:
    """Write what SegmentationClassAug.zip unpacks to: no list, and also the labels of VOC's val split."""
    for name in {*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL}:
        write_index_image(root / FOLDER / "SegmentationClassAug" / f"{name}.png", sbd_label(name), palette=False)


def write_aug_with(name: str, lines: list[str]):
    def write(root: Path) -> None:
        write_aug(root)
        write_lists(root / FOLDER / "ImageSets/Segmentation", **{name: lines})

    return write


PATHS = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in AUGMENTED]
FORMS = {
    "SBD": write_sbd,
    "SegmentationClassAug": write_aug,
    "SegmentationClassAug with trainaug.txt": write_aug_with("trainaug", AUGMENTED),
    "SegmentationClassAug with a list of paths": write_aug_with("train_aug", PATHS),
    "SegmentationClassAug with a list that holds val": write_aug_with("trainaug", [*AUGMENTED, *VAL]),
}


def read(builder: builders.SegmentationBuilder, split: str) -> dict[str, np.ndarray]:
    records = builders.records(builder, split)
    decoded = (decode_record(record, num_classes=21, ignore_label=255) for record in records)
    return {example["id"]: example["label"] for example in decoded}


@pytest.fixture
def source(tmp_path) -> Path:
    return write_voc(tmp_path / "raw")


@pytest.mark.parametrize("form", FORMS)
def test_augmented_training_set_is_vocs_train_and_sbd_without_vocs_val(form, source, tmp_path):
    FORMS[form](source)
    builder = builders.prepare(catalog.VOC, tmp_path / "out", source)
    train, val = read(builder, "train"), read(builder, "val")
    assert sorted(train) == AUGMENTED and sorted(val) == VAL
    for name, label in {**train, **val}.items():
        own = name in (*TRAIN, *VAL)
        assert np.array_equal(label, voc_label(name) if own else sbd_label(name)), "VOC's label if it has one"


def test_images_are_stored_unchanged(source, tmp_path):
    write_sbd(source)
    for record in builders.records(builders.prepare(catalog.VOC, tmp_path / "out", source), "train"):
        assert record["image"] == (source / FOLDER / "JPEGImages" / f"{record['id'].decode()}.jpg").read_bytes()


def test_two_files_of_one_id_are_refused(source, tmp_path):
    write_aug(source)
    shutil.copytree(source / FOLDER / "SegmentationClassAug", source / "old/SegmentationClassAug")
    assert_refused(catalog.VOC, tmp_path / "out", source, "old/SegmentationClassAug", str(FOLDER), "keep only one")


def test_without_sbd_plain_voc_is_read_and_one_note_says_so(source, tmp_path, capsys):
    builder = builders.prepare(catalog.VOC, tmp_path / "out", source)
    assert sorted(read(builder, "train")) == TRAIN and sorted(read(builder, "val")) == VAL
    assert capsys.readouterr().out.count("only VOC 2012's own 1,464 images") == 1


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_source_may_be_any_folder_around_the_images(source, tmp_path, inside):
    builder = builders.prepare(catalog.VOC, tmp_path / "out", source / inside)
    assert sorted(read(builder, "val")) == VAL


def test_a_zip_archive_is_read_in_place(source, tmp_path):
    write_sbd(source)
    archive = shutil.make_archive(str(tmp_path / "voc"), "zip", source)
    builder = builders.prepare(catalog.VOC, tmp_path / "out", archive)
    assert sorted(read(builder, "train")) == AUGMENTED


def test_2012_is_chosen_among_several_years(source, tmp_path):
    shutil.copytree(source / FOLDER, source / "VOCdevkit/VOC2007")
    for path in (source / "VOCdevkit/VOC2007/SegmentationClass").iterdir():
        path.write_bytes(b"not to be read")
    assert sorted(read(builders.prepare(catalog.VOC, tmp_path / "out", source), "val")) == VAL


def test_descriptor_is_as_published():
    assert len(catalog.VOC.classes) == 21 and catalog.VOC.classes[15] == "person"
    assert catalog.VOC.splits == {"train": 10_582, "val": 1_449}
    # Values of the development kit's VOClabelcolormap.
    assert catalog.VOC.palette[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert catalog.VOC.palette[15] == (192, 128, 128) and catalog.VOC.palette[20] == (0, 64, 128)
    assert voc_palette(256)[255] == (224, 224, 192) and len(set(voc_palette(256))) == 256


# --- bad input ------------------------------------------------------------------------------------------------------


def write_mat(path: Path, **content) -> None:
    scipy.io.savemat(path, content)


MAT = str(SBD / "cls/2008_000002.mat")
OWN = str(FOLDER / "SegmentationClass/2007_000032.png")
LISTS = FOLDER / "ImageSets/Segmentation"
BROKEN = {
    "nothing there": (lambda root: shutil.rmtree(root / FOLDER), ["VOC2012", "JPEGImages", "VOCtrainval_11-May-2012"]),
    "another year": (lambda root: (root / FOLDER).rename(root / "VOCdevkit/VOC2010"), ["VOC2012", "VOC2010"]),
    "val.txt missing": (lambda root: (root / LISTS / "val.txt").unlink(), ["Segmentation/val.txt"]),
    "train.txt empty": (lambda root: (root / LISTS / "train.txt").write_text("\n"), ["train.txt", "empty"]),
    "image missing": (
        lambda root: (root / FOLDER / "JPEGImages/2008_000007.jpg").unlink(),
        ["no image for 2008_000007"],
    ),
    "VOC's label missing where SBD has one": (lambda root: (root / OWN).unlink(), ["no label for 2007_000032"]),
    "SBD's label missing": (lambda root: (root / MAT).unlink(), ["no label for 2008_000002"]),
    "SBD's list missing": (lambda root: (root / SBD / "train.txt").unlink(), ["dataset/train.txt"]),
    "mat cut off": (lambda root: (root / MAT).write_bytes((root / MAT).read_bytes()[:300]), [MAT]),
    "mat without GTcls": (lambda root: write_mat(root / MAT, GTinst={"Segmentation": np.eye(3)}), [MAT, "GTcls"]),
    "mat of fractions": (lambda root: write_mat(root / MAT, GTcls={"Segmentation": np.full(SIZE, 0.5)}), [MAT]),
    "mat of another size": (
        lambda root: write_mat(root / MAT, GTcls={"Segmentation": np.eye(3, 4, dtype=np.uint8)}),
        [MAT, "4x3", "25x12"],
    ),
    "mat of class 21": (
        lambda root: write_mat(root / MAT, GTcls={"Segmentation": np.full(SIZE, 21, np.uint8)}),
        [MAT, "21"],
    ),
    "label in VOC's colours": (
        lambda root: Image.open(root / OWN).convert("RGB").save(root / OWN),
        [OWN, "RGB", "indices"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_source_is_refused_in_one_line_and_nothing_is_written(name, source, tmp_path):
    write_sbd(source)
    damage, named = BROKEN[name]
    damage(source)
    assert_refused(catalog.VOC, tmp_path / "out", source, *named)
