"""The PASCAL-Context builders read every published form of the labels, with the same result."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask as rle
from raw_data import assert_refused

from cpnet_jax.data import builders, catalog
from cpnet_jax.data.records import decode_record

# pycocotools uses numpy's API from before version 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
# fmt: off
# The lines of the release's labels.txt that name one of the 59 classes.
CATEGORIES = {
    2: "aeroplane", 9: "bag", 18: "bed", 19: "bedclothes", 22: "bench", 23: "bicycle", 25: "bird", 31: "boat",
    33: "book", 34: "bottle", 44: "building", 45: "bus", 46: "cabinet", 59: "car", 65: "cat", 68: "ceiling",
    72: "chair", 80: "cloth", 85: "computer", 98: "cow", 104: "cup", 105: "curtain", 113: "dog", 115: "door",
    144: "fence", 158: "floor", 159: "flower", 162: "food", 187: "grass", 189: "ground", 207: "horse",
    220: "keyboard", 232: "light", 258: "motorbike", 259: "mountain", 260: "mouse", 284: "person", 295: "plate",
    296: "platform", 308: "pottedplant", 324: "road", 326: "rock", 347: "sheep", 349: "shelves", 354: "sidewalk",
    355: "sign", 360: "sky", 366: "snow", 368: "sofa", 397: "table", 415: "track", 416: "train", 420: "tree",
    424: "truck", 427: "tvmonitor", 440: "wall", 445: "water", 454: "window", 458: "wood",
}
# The release's 59_labels.txt, which has another order and three other names.
RELEASED = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed", "bench",
    "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door", "fence", "floor", "flower",
    "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform", "sign", "plate",
    "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedcloth", "track", "tree", "truck", "wall", "water",
    "window", "wood",
]
# fmt: on
RENAMED = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}
SPLITS = {"train": ["2008_000008", "2008_000015", "2009_000006"], "val": ["2008_000002", "2010_000661"]}
NAMES = [name for ids in SPLITS.values() for name in ids]
SIZE = (40, 48)
FOLDER = Path("VOCdevkit/VOC2010")


def categories_of(name: str) -> np.ndarray:
    """A label with squares of all 459 categories and of unlabelled pixels."""
    values = np.concatenate([np.arange(460), np.zeros(20, int)]).reshape(20, 24)
    return np.roll(values.repeat(2, 0).repeat(2, 1), int(name[-2:]), axis=1)


def names_in(label: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda number: CATEGORIES.get(number, "background"))(label)


def numbered(name: str, order: list[str]) -> np.ndarray:
    """The same label with the 59 classes numbered 1, 2, ... in the given order; 0 is the background."""
    numbers = {"background": 0, **{RENAMED.get(text, text): place for place, text in enumerate(order, 1)}}
    return np.vectorize(numbers.get)(names_in(categories_of(name))).astype(np.uint8)


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, ids in SPLITS.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))


def write_voc2010(root: Path) -> Path:
    """Write what VOCtrainval_03-May-2010.tar unpacks to."""
    (root / FOLDER / "JPEGImages").mkdir(parents=True)
    for name in (*NAMES, "2007_000032"):  # no list of Main names the last one
        pixels = np.random.default_rng(int(name.replace("_", ""))).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / FOLDER / "JPEGImages" / f"{name}.jpg")
    write_lists(root / FOLDER / "ImageSets/Main")
    (root / FOLDER / "ImageSets/Segmentation").mkdir()
    (root / FOLDER / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n")
    return root


def write_class_images(root: Path) -> None:
    """Write the labels as mmsegmentation's converter does."""
    write_lists(root / FOLDER / "ImageSets/SegmentationContext")
    (root / FOLDER / "SegmentationClassContext").mkdir()
    for place, name in enumerate(NAMES):
        picture = Image.fromarray(numbered(name, [CATEGORIES[number] for number in sorted(CATEGORIES)]))
        if place % 2:
            picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        picture.save(root / FOLDER / "SegmentationClassContext" / f"{name}.png")


def detail_annotations(name: str) -> list[dict]:
    """A mask for each category, and for each person."""
    label = categories_of(name)
    even = np.arange(SIZE[1]) % 2 == 0
    masks = [(number, label == number) for number in CATEGORIES if number != 284]
    masks += [(284, (label == 284) & even), (284, (label == 284) & ~even)]
    return [
        {"segmentation": run_lengths(mask), "category_id": number, "image_id": image_id(name)} for number, mask in masks
    ]


def run_lengths(mask: np.ndarray) -> dict:
    return {"size": list(SIZE), "counts": rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()}


def image_id(name: str) -> int:
    return int(name.replace("_", ""))


def detail_content() -> dict:
    images, annotations = [], []
    for name in [*NAMES, "2008_000001"]:
        phase = next((split for split, ids in SPLITS.items() if name in ids), "test")
        file = {"file_name": f"{name}.jpg", "image_id": image_id(name), "phase": phase}
        images.append({**file, "height": SIZE[0], "width": SIZE[1], "date_captured": "31-Oct-2008"})
        if phase != "test":
            annotations += detail_annotations(name)
    numbered_annotations = [
        {**entry, "id": place, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1], "parts": []}
        for place, entry in enumerate(annotations)
    ]
    categories = [
        {"category_id": number, "name": name, "supercategory": "object", "onlysemantic": 0, "parts": []}
        for number, name in CATEGORIES.items()
    ]
    return {
        "info": {"description": "PASCAL in Detail"},
        "images": images,
        "annos_segmentation": numbered_annotations,
        "annos_joints": [],
        "annos_occlusion": [],
        "annos_boundary": [],
        "categories": categories,
        "parts": [],
    }


def write_detail(root: Path) -> None:
    (root / FOLDER / "trainval_merged.json").write_text(json.dumps(detail_content()))


def write_released_images(root: Path) -> None:
    """Write what 59_context_labels.tar.gz unpacks to, and 59_labels.txt beside it."""
    (root / "59_context_labels").mkdir()
    for name in NAMES:
        Image.fromarray(numbered(name, RELEASED)).save(root / "59_context_labels" / f"{name}.png")
    lines = [f"{place}: {text}" for place, text in enumerate(RELEASED, 1)]
    (root / "59_labels.txt").write_text("\n".join(lines) + "\n")


def write_label_maps(root: Path) -> None:
    """Write what trainval.tar.gz unpacks to."""
    (root / "trainval").mkdir()
    for place, name in enumerate(NAMES):
        dtype = (np.uint16, np.int16, float)[place % 3]
        scipy.io.savemat(
            root / "trainval" / f"{name}.mat", {"LabelMap": categories_of(name).astype(dtype)}, do_compression=True
        )


FORMS = {
    "SegmentationClassContext": write_class_images,
    "trainval_merged.json": write_detail,
    "59_context_labels": write_released_images,
    "LabelMap": write_label_maps,
}


def read(builder: builders.SegmentationBuilder, split: str) -> dict[str, np.ndarray]:
    records = builders.records(builder, split)
    num_classes = len(builder.DATASET.classes)
    decoded = (decode_record(record, num_classes=num_classes, ignore_label=255) for record in records)
    return {example["id"]: example["label"] for example in decoded}


@pytest.fixture
def source(tmp_path) -> Path:
    return write_voc2010(tmp_path / "raw")


@pytest.mark.parametrize(
    "dataset", [catalog.PASCAL_CONTEXT, catalog.PASCAL_CONTEXT_60], ids=lambda dataset: dataset.name
)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_labels_names_every_pixel_as_the_release_does(form, dataset, source, tmp_path):
    FORMS[form](source)
    builder = builders.prepare(dataset, tmp_path / "out", source)
    for split, ids in SPLITS.items():
        found = read(builder, split)
        assert sorted(found) == sorted(ids)
        for name, label in found.items():
            meaning = np.array([*dataset.classes, *[None] * (255 - len(dataset.classes)), "background"])[label]
            assert np.array_equal(meaning, names_in(categories_of(name)))


@pytest.mark.parametrize("form", FORMS)
def test_label_rule_is_that_of_the_published_tables(form, source):
    FORMS[form](source)
    builder = builders.BUILDERS["pascal_context"](data_dir=source / "out", source=source)
    if form in ("trainval_merged.json", "LabelMap"):
        expected = {number: CATEGORIES.get(number) for number in range(460)}
    else:
        order = RELEASED if form == "59_context_labels" else sorted(CATEGORIES.values())
        expected = {0: None, **{place: RENAMED.get(name, name) for place, name in enumerate(order, 1)}}
    classes = catalog.PASCAL_CONTEXT.classes
    assert {raw: classes[new] if new != 255 else None for raw, new in builder.LABEL_RULE.items()} == expected


def test_images_are_stored_unchanged(source, tmp_path):
    write_label_maps(source)
    for record in builders.records(builders.prepare(catalog.PASCAL_CONTEXT, tmp_path / "out", source), "train"):
        assert record["image"] == (source / FOLDER / "JPEGImages" / f"{record['id'].decode()}.jpg").read_bytes()


def test_later_masks_of_the_json_cover_earlier_ones(source, tmp_path):
    content = detail_content()
    road = {"segmentation": run_lengths(np.ones(SIZE)), "category_id": 324, "image_id": image_id("2008_000002")}
    content["annos_segmentation"].insert(0, road)
    (source / FOLDER / "trainval_merged.json").write_text(json.dumps(content))
    label = read(builders.prepare(catalog.PASCAL_CONTEXT, tmp_path / "out", source), "val")["2008_000002"]
    names = names_in(categories_of("2008_000002"))
    expected = np.where(names == "background", "road", names)
    assert np.array_equal(np.array(catalog.PASCAL_CONTEXT.classes)[label], expected)


def test_both_kinds_are_prepared_side_by_side(source, tmp_path):
    write_class_images(source)
    labels = [
        read(builders.prepare(dataset, tmp_path / "out", source), "val")["2008_000002"]
        for dataset in (catalog.PASCAL_CONTEXT, catalog.PASCAL_CONTEXT_60)
    ]
    assert np.array_equal(np.where(labels[0] == 255, 0, labels[0] + 1), labels[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_zip_archive_is_read_in_place(form, source, tmp_path):
    FORMS[form](source)
    archive = shutil.make_archive(str(tmp_path / "context"), "zip", source)
    builder = builders.prepare(catalog.PASCAL_CONTEXT, tmp_path / "out", archive)
    assert sorted(read(builder, "train")) == SPLITS["train"]


def test_2010_is_chosen_among_several_years(source, tmp_path):
    shutil.copytree(source / FOLDER, source / "VOCdevkit/VOC2012")
    for path in (source / "VOCdevkit/VOC2012/JPEGImages").iterdir():
        path.write_bytes(b"not to be read")
    write_label_maps(source)
    assert sorted(read(builders.prepare(catalog.PASCAL_CONTEXT, tmp_path / "out", source), "val")) == SPLITS["val"]


def test_the_converters_images_are_preferred_to_the_json_they_were_made_from(source, tmp_path):
    write_class_images(source)
    (source / FOLDER / "trainval_merged.json").write_text("not to be read")
    assert sorted(read(builders.prepare(catalog.PASCAL_CONTEXT, tmp_path / "out", source), "val")) == SPLITS["val"]


def test_descriptors_are_as_published():
    assert catalog.PASCAL_CONTEXT.classes == tuple(CATEGORIES[number] for number in sorted(CATEGORIES))
    assert catalog.PASCAL_CONTEXT.splits == {"train": 4_998, "val": 5_105}
    assert catalog.PASCAL_CONTEXT_60.classes == ("background", *catalog.PASCAL_CONTEXT.classes)
    assert catalog.PASCAL_CONTEXT_60.palette == ((0, 0, 0), *catalog.PASCAL_CONTEXT.palette)
    assert len(set(catalog.PASCAL_CONTEXT_60.palette)) == 60


# --- bad input ------------------------------------------------------------------------------------------------------

JSON, MAT = str(FOLDER / "trainval_merged.json"), "trainval/2008_000015.mat"
PNG = str(FOLDER / "SegmentationClassContext/2008_000015.png")


def change_json(change):
    def damage(root: Path) -> None:
        content = json.loads((root / JSON).read_text())
        change(content)
        (root / JSON).write_text(json.dumps(content))

    return damage


def set_mask(**fields):
    return change_json(lambda content: content["annos_segmentation"][0]["segmentation"].update(fields))


def write_png(label: np.ndarray):
    return lambda root: Image.fromarray(label).save(root / PNG)


def write_mat(**content):
    return lambda root: scipy.io.savemat(root / MAT, content)


# case -> (form of the labels, change to the source, what the error message must name)
BROKEN = {
    "no labels": (None, lambda root: None, ["no PASCAL-Context labels", "trainval_merged.json", "trainval.tar.gz"]),
    "no images": (
        "LabelMap",
        lambda root: shutil.rmtree(root / FOLDER / "JPEGImages"),
        ["JPEGImages", "VOCtrainval_03-May-2010.tar"],
    ),
    "images of 2012": (
        "LabelMap",
        lambda root: (root / FOLDER).rename(root / "VOCdevkit/VOC2012"),
        ["VOC2010", "VOC2012"],
    ),
    "list missing": (
        "SegmentationClassContext",
        lambda root: (root / FOLDER / "ImageSets/SegmentationContext/val.txt").unlink(),
        ["SegmentationContext/val.txt"],
    ),
    "label missing": ("LabelMap", lambda root: (root / MAT).unlink(), ["no label for 2008_000015"]),
    "image missing": (
        "trainval_merged.json",
        lambda root: (root / FOLDER / "JPEGImages/2008_000015.jpg").unlink(),
        ["no image for 2008_000015"],
    ),
    "png of value 60": ("SegmentationClassContext", write_png(np.full(SIZE, 60, np.uint8)), [PNG, "60", "0 to 59"]),
    "png of another size": ("SegmentationClassContext", write_png(np.zeros((4, 5), np.uint8)), [PNG, "5x4", "48x40"]),
    "png in colours": ("SegmentationClassContext", write_png(np.zeros((*SIZE, 3), np.uint8)), [PNG, "RGB"]),
    "json cut off": (
        "trainval_merged.json",
        lambda root: (root / JSON).write_bytes((root / JSON).read_bytes()[:5000]),
        [JSON],
    ),
    "json of something else": (
        "trainval_merged.json",
        lambda root: (root / JSON).write_text('{"annotations": []}'),
        [JSON, "annos_segmentation"],
    ),
    "json of the test set alone": (
        "trainval_merged.json",
        change_json(lambda content: [image.update(phase="test") for image in content["images"]]),
        [JSON, "phase"],
    ),
    "json of a list": ("trainval_merged.json", lambda root: (root / JSON).write_text("[]"), [JSON]),
    "json with polygons": (
        "trainval_merged.json",
        change_json(lambda content: content["annos_segmentation"][0].update(segmentation=[[1, 2, 3, 4]])),
        [JSON],
    ),
    "json of category 460": (
        "trainval_merged.json",
        change_json(lambda content: content["annos_segmentation"][-1].update(category_id=460)),
        [f"{JSON}#2010_000661", "460"],
    ),
    "mask of another size": ("trainval_merged.json", set_mask(size=[4, 5]), [JSON, "2008_000008"]),
    "mask that is not run-length code": ("trainval_merged.json", set_mask(counts="zzz"), [JSON, "2008_000008"]),
    "mask that ends early": ("trainval_merged.json", set_mask(counts="0" * 9), [JSON, "2008_000008", "too early"]),
    "59_labels.txt missing": (
        "59_context_labels",
        lambda root: (root / "59_labels.txt").unlink(),
        ["59_labels.txt"],
    ),
    "59_labels.txt of other classes": (
        "59_context_labels",
        lambda root: (root / "59_labels.txt").write_text("1: aeroplane\n2: unicorn\n"),
        ["59_labels.txt"],
    ),
    "mat cut off": ("LabelMap", lambda root: (root / MAT).write_bytes((root / MAT).read_bytes()[:200]), [MAT]),
    "mat of nothing": ("LabelMap", lambda root: (root / MAT).write_bytes(b""), [MAT]),
    "mat without LabelMap": ("LabelMap", write_mat(labels=np.ones(SIZE)), [MAT, "LabelMap"]),
    "mat of text": ("LabelMap", write_mat(LabelMap="sky"), [MAT, "LabelMap"]),
    "mat of not a number": ("LabelMap", write_mat(LabelMap=np.full(SIZE, np.nan)), [MAT, "LabelMap"]),
    "mat of negative numbers": ("LabelMap", write_mat(LabelMap=np.full(SIZE, -1, np.int16)), [MAT, "LabelMap"]),
    "mat of category 460": ("LabelMap", write_mat(LabelMap=np.full(SIZE, 460)), [MAT, "460", "0 to 459"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_source_is_refused_in_one_line_and_nothing_is_written(name, source, tmp_path):
    form, damage, named = BROKEN[name]
    if form:
        FORMS[form](source)
    damage(source)
    assert_refused(catalog.PASCAL_CONTEXT, tmp_path / "out", source, *named)
