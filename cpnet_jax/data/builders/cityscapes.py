"""Builder of Cityscapes with fine annotations: 19 classes, 2,975 / 500 images of 2048x1024."""

from pathlib import PurePosixPath
from typing import ClassVar

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, match_pairs
from cpnet_jax.data.catalog import CITYSCAPES
from cpnet_jax.data.catalog.cityscapes import LABEL_IDS

# Label id -1 (license plate), stored in eight bits.
LICENSE_PLATE = 255
SPLITS = ("train", "val")


class CityscapesBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png and gtFine/SPLIT/CITY/ID_gtFine_labelIds.png.

    It reads the release's labelIds, so trainIds need not be generated first. The test split is not used, because the
    labels published for its 1,525 images are dummies.
    """

    name = "cityscapes"
    DATASET = CITYSCAPES
    LABEL_RULE: ClassVar = {
        **dict.fromkeys((*range(34), LICENSE_PLATE), CITYSCAPES.ignore_label),
        **{label_id: train_id for train_id, label_id in enumerate(LABEL_IDS)},
    }

    def pairs(self) -> dict[str, list[Pair]]:
        # Located separately, since each archive is often unpacked into a folder named after it.
        images, labels = (self.source.root_of(folder) + folder for folder in ("leftImg8bit/", "gtFine/"))
        return {
            split: match_pairs(
                self,
                f"{images}{split}/*_leftImg8bit.png",
                f"{labels}{split}/*_gtFine_labelIds.png",
                image_key=lambda name: PurePosixPath(name).name.removesuffix("_leftImg8bit.png"),
                label_key=lambda name: PurePosixPath(name).name.removesuffix("_gtFine_labelIds.png"),
            )
            for split in SPLITS
        }
