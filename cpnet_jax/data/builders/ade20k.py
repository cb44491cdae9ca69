"""Builder of ADE20K, the version of the scene parsing challenge: 150 classes, 0 = other, 20,210 / 2,000 images."""

from typing import ClassVar

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, match_pairs
from cpnet_jax.data.catalog import ADE20K
from cpnet_jax.errors import UserError

OTHER = 0
FOLDERS = {"train": "training", "val": "validation"}


class Ade20kBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads images/FOLDER/ID.jpg and annotations/FOLDER/ID.png in ADEChallengeData2016.

    The test images are a separate download without published labels, and are not used.
    """

    name = "ade20k"
    DATASET = ADE20K
    LABEL_RULE: ClassVar = {OTHER: ADE20K.ignore_label, **{i + 1: i for i in range(len(ADE20K.classes))}}

    def pairs(self) -> dict[str, list[Pair]]:
        # Not located by images/, since the full release has images/training, too.
        root = self.source.root_of("annotations/")
        if not self.source.glob(f"{root}annotations/*"):
            self._refuse_full_release()
        return {
            split: match_pairs(self, f"{root}images/{folder}/*.jpg", f"{root}annotations/{folder}/*.png")
            for split, folder in FOLDERS.items()
        }

    def _refuse_full_release(self) -> None:
        found = self.source.glob("*index_ade20k.*") or self.source.glob("*_seg.png")
        if found:
            raise UserError(
                f"config.data.source is {self.source.path}, which holds the full ADE20K release "
                f"({self.source.where(found[0])}), not the challenge's 150 classes: set it to {ADE20K.source_help}"
            )
