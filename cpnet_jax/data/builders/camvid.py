"""Builder of CamVid, SegNet's version: 11 classes, 11 = void, 367 / 101 / 233 images of 480x360."""

from typing import ClassVar

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, match_pairs
from cpnet_jax.data.catalog import CAMVID

VOID = 11
REQUIRED, OPTIONAL = ("train", "val"), ("test",)


class CamvidBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads SPLIT/NAME.png and SPLITannot/NAME.png; the test split is optional.

    The source is the folder CamVid, or contains it, as the archive of SegNet's repository does.
    """

    name = "camvid"
    DATASET = CAMVID
    LABEL_RULE: ClassVar = {**{i: i for i in range(len(CAMVID.classes))}, VOID: CAMVID.ignore_label}

    def pairs(self) -> dict[str, list[Pair]]:
        root = self.source.root_of("CamVid/train/")
        root += "CamVid/" if self.source.glob(f"{root}CamVid/train/*") else ""
        present = [s for s in OPTIONAL if self.source.glob(f"{root}{s}/*") or self.source.glob(f"{root}{s}annot/*")]
        return {
            split: match_pairs(self, f"{root}{split}/*.png", f"{root}{split}annot/*.png")
            for split in (*REQUIRED, *present)
        }
