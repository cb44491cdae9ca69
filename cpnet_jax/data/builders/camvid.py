"""CamVid, the SegNet version: 11 classes, 11 = void, 367 / 101 / 233 images of 480x360."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cpnet_jax.data.builders.base import SegmentationBuilder, encode_label, read_pair
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError

VOID = 11
LOOKUP = {**{i: i for i in range(len(CAMVID.classes))}, VOID: CAMVID.ignore_label}
REQUIRED, OPTIONAL = ("train", "val"), ("test",)


class CamvidBuilder(SegmentationBuilder, skip_registration=True):
    """Reads SPLIT/NAME.png and SPLITannot/NAME.png below the source; the test split may be absent."""

    name = "camvid"
    DATASET = CAMVID

    def check_source(self) -> None:
        if self.source is None or not self.source.is_dir():
            missing = "is not set" if self.source is None else f"is {self.source}, which is not a folder"
            raise UserError(f"config.data.source {missing}: name the folder of {CAMVID.source_help}")
        for split in self._present_splits():
            _pairs(self.source, split)

    def _present_splits(self) -> list[str]:
        found = [s for s in OPTIONAL if (self.source / s).is_dir() or (self.source / f"{s}annot").is_dir()]
        return [*REQUIRED, *found]

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(_examples(self.source, split)) for split in self._present_splits()}


def _examples(source: Path, split: str) -> Iterator[tuple[str, bytes, bytes]]:
    for image_path, label_path in _pairs(source, split):
        image, label = read_pair(image_path, label_path, LOOKUP)
        yield image_path.stem, image, encode_label(label)


def _pairs(source: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, label) paths by name; UserError where a folder, an image or a label is missing."""
    images, labels = source / split, source / f"{split}annot"
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: config.data.source must hold {CAMVID.source_help}")
    image_names = {path.name for path in images.glob("*.png")}
    label_names = {path.name for path in labels.glob("*.png")}
    if not image_names:
        raise UserError(f"{images} holds no PNG: config.data.source must hold {CAMVID.source_help}")
    for here, there, what in ((images, labels, "label"), (labels, images, "image")):
        lonely = sorted((image_names if here is images else label_names) - {path.name for path in there.glob("*.png")})
        if lonely:
            raise UserError(
                f"{here / lonely[0]} has no {what} in {there} ({len(lonely)} such in all): add it or take the file out"
            )
    return [(images / name, labels / name) for name in sorted(image_names)]
