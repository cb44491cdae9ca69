"""Cityscapes, finely annotated: 19 classes, 2,975 / 500 images of 2048x1024."""

from pathlib import PurePosixPath
from typing import ClassVar

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, match
from cpnet_jax.data.catalog import CITYSCAPES
from cpnet_jax.data.catalog.cityscapes import LABEL_IDS

# The license plate's -1, in eight bits.
LICENSE_PLATE = 255
SPLITS = ("train", "val")


class CityscapesBuilder(SegmentationBuilder, skip_registration=True):
    """Reads leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png and gtFine/SPLIT/CITY/ID_gtFine_labelIds.png.

    From the labelIds of the release; trainIds need not be made first. The test split is left out: the labels published
    for its 1,525 images are dummies, the true ones are kept by the benchmark's server.
    """

    name = "cityscapes"
    DATASET = CITYSCAPES
    LABEL_RULE: ClassVar = {
        **dict.fromkeys((*range(34), LICENSE_PLATE), CITYSCAPES.ignore_label),
        **{label_id: train_id for train_id, label_id in enumerate(LABEL_IDS)},
    }

    def pairs(self) -> dict[str, list[Pair]]:
        # Each by itself: unpacking often makes a folder an archive.
        images, labels = (self.source.root_of(folder) + folder for folder in ("leftImg8bit/", "gtFine/"))
        return {
            split: match(
                self,
                f"{images}{split}/*_leftImg8bit.png",
                f"{labels}{split}/*_gtFine_labelIds.png",
                image_key=lambda name: PurePosixPath(name).name.removesuffix("_leftImg8bit.png"),
                label_key=lambda name: PurePosixPath(name).name.removesuffix("_gtFine_labelIds.png"),
            )
            for split in SPLITS
        }
