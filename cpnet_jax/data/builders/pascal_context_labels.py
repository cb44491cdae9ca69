"""Reads the published forms of PASCAL-Context's labels."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer
from pycocotools import mask as rle

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, files_by_id, read_indices
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.builders.voc_devkit import SPLITS, read_ids, read_matrix
from cpnet_jax.data.catalog import PASCAL_CONTEXT
from cpnet_jax.data.catalog.pascal_context import BACKGROUND
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.files import parse_json

# fmt: off
# Numbers of the 59 classes, in their order, among the release's 459 categories (its labels.txt). The Detail API uses
# the same numbers.
CATEGORY_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on
NUM_CATEGORIES = 459
# 59_labels.txt names three classes differently from labels.txt.
RENAMED = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


class Masks(NamedTuple):
    """An image's (height, width), and its (category, run-length mask) pairs in pycocotools' format."""

    size: tuple[int, int]
    coded: list[tuple[int, Any]]


@dataclass(frozen=True)
class Labels:
    """Labels in one of the published forms.

    Attributes:
      splits: split -> ids.
      files: id -> name of its label's file, followed by "#id" if the file holds all labels.
      meaning: raw value -> name of a class, or "background".
      read: pair -> raw label values.
    """

    splits: dict[str, list[str]]
    files: dict[str, str]
    meaning: dict[int, str]
    read: Callable[[Pair], Integer[np.ndarray, "h w"]]


def class_images(builder: SegmentationBuilder, root: str) -> Labels | None:
    """Labels of mmsegmentation's converter, SegmentationClassContext/ID.png: 0 = background, 1 .. 59 = the classes."""
    files = files_by_id(builder.source, builder.source.glob("*SegmentationClassContext/*.png"))
    if not files:
        return None
    return Labels(
        splits=_lists(builder, f"{root}ImageSets/SegmentationContext/"),
        files=files,
        meaning=dict(enumerate((BACKGROUND, *PASCAL_CONTEXT.classes))),
        read=partial(_read_image, builder.source),
    )


def detail_masks(builder: SegmentationBuilder, root: str) -> Labels | None:
    """Labels of the Detail API, trainval_merged.json: a run-length mask for each category or object of an image."""
    found = builder.source.glob("*trainval_merged.json")
    if not found:
        return None
    where = builder.source.where(found[0])
    print(f"Reading {where}", flush=True)
    try:
        splits, masks = _parse_detail(parse_json(builder.source.read(found[0])))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is not the Detail API's ({type(error).__name__}: {error}): download it again or remove it"
        ) from error
    return Labels(
        splits=splits,
        files={name: f"{found[0]}#{name}" for name in masks},
        meaning=_category_meaning(),
        read=lambda pair: _paint(masks[pair.name], where=builder.source.where(pair.label)),
    )


def released_images(builder: SegmentationBuilder, root: str) -> Labels | None:
    """Labels of the release, 59_context_labels/ID.png; 59_labels.txt defines the order of the classes."""
    source = builder.source
    files = files_by_id(source, source.glob("*59_context_labels/*.png"))
    if not files:
        return None
    found = source.glob("*59_labels.txt")
    if not found:
        raise UserError(
            f"{source.path} has 59_context_labels but not 59_labels.txt, which names their classes: download it from "
            "the same page"
        )
    return Labels(
        splits=_lists(builder, f"{root}ImageSets/Main/"),
        files=files,
        meaning={0: BACKGROUND, **_read_names(source, found[0])},
        read=partial(_read_image, source),
    )


def label_maps(builder: SegmentationBuilder, root: str) -> Labels | None:
    """Labels of the release, trainval/ID.mat: a matrix LabelMap with its 459 categories."""
    files = files_by_id(builder.source, builder.source.glob("*trainval/*.mat"))
    if not files:
        return None
    return Labels(
        splits=_lists(builder, f"{root}ImageSets/Main/"),
        files=files,
        meaning=_category_meaning(),
        read=lambda pair: read_matrix(builder.source, pair.label, "LabelMap"),
    )


# In order of preference.
FORMS = (class_images, detail_masks, released_images, label_maps)


def _category_meaning() -> dict[int, str]:
    return {
        **dict.fromkeys(range(NUM_CATEGORIES + 1), BACKGROUND),
        **dict(zip(CATEGORY_IDS, PASCAL_CONTEXT.classes, strict=True)),
    }


def _lists(builder: SegmentationBuilder, folder: str) -> dict[str, list[str]]:
    return {split: read_ids(builder, f"{folder}{split}.txt") for split in SPLITS}


def _read_image(source: Source, pair: Pair) -> Integer[np.ndarray, "h w"]:
    return read_indices(source, pair.label)


def _parse_detail(content: Any) -> tuple[dict[str, list[str]], dict[str, Masks]]:
    """Returns (split -> ids, id -> masks); raises ValueError, KeyError or TypeError on other content."""
    annotations = defaultdict(list)
    for annotation in content["annos_segmentation"]:
        mask = {field: annotation["segmentation"][field] for field in ("size", "counts")}
        annotations[annotation["image_id"]].append((annotation["category_id"], mask))
    splits, masks = {split: [] for split in SPLITS}, {}
    for image in content["images"]:
        if image["phase"] in SPLITS:  # the others are from VOC's test set and have no labels
            name = PurePosixPath(image["file_name"]).stem
            splits[image["phase"]].append(name)
            masks[name] = Masks((image["height"], image["width"]), annotations[image["image_id"]])
    if not all(splits.values()):
        raise ValueError(f"no images of phase {' or '.join(SPLITS)}")
    return splits, masks


def _paint(masks: Masks, where: str) -> Integer[np.ndarray, "h w"]:
    """Paints later masks over earlier ones, as the Detail API does."""
    label = np.zeros(masks.size, np.int32)
    for category, mask in masks.coded:
        try:
            inside = rle.decode(mask)
            label[inside > 0] = category
            complete = inside.sum() == rle.area(mask)  # if runs end early, decode leaves the rest uninitialised
        except Exception as error:  # wrong size, or not run lengths
            raise UserError(f"{where} has a mask that cannot be read ({error}): download the file again") from error
        if not complete:
            raise UserError(f"{where} has a mask whose runs end too early: download the file again")
    return label


def _read_names(source: Source, name: str) -> dict[int, str]:
    """Reads number -> class from lines "number: name"."""
    lines = [line.partition(":") for line in source.read(name).decode(errors="replace").splitlines() if line.strip()]
    names = {number.strip(): text.replace(" ", "") for number, _, text in lines}
    meaning = {int(number): RENAMED.get(text, text) for number, text in names.items() if number.isdecimal()}
    if sorted(meaning.values()) != sorted(PASCAL_CONTEXT.classes):
        raise UserError(f"{source.where(name)} does not name the 59 classes in lines 'number: name': download it again")
    return meaning
