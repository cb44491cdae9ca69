"""Builder of PASCAL VOC 2012, with the labels of the Semantic Boundaries Dataset (SBD) if the source has them."""

from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, files_by_id
from cpnet_jax.data.builders.voc_devkit import SPLITS, files_in, pairs_of, read_ids, read_matrix, release_root
from cpnet_jax.data.catalog import VOC

BORDER = 255
# Both common names of the list of the augmented training set.
AUGMENTED_LISTS = ("trainaug.txt", "train_aug.txt")


class VocBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads VOC2012 and, for more training images, SegmentationClassAug/*.png or SBD's dataset/cls/*.mat.

    If VOC itself labels an image, that label is used: its objects have an ignored border, SBD's do not. Images of
    VOC's val split are never used for training, even if a list names them.
    """

    name = "voc"
    DATASET = VOC
    LABEL_RULE: ClassVar = {**{i: i for i in range(len(VOC.classes))}, BORDER: VOC.ignore_label}

    def pairs(self) -> dict[str, list[Pair]]:
        root = release_root(self, 2012)
        train, val = (read_ids(self, f"{root}ImageSets/Segmentation/{split}.txt") for split in SPLITS)
        own = files_by_id(self.source, files_in(self.source, f"{root}SegmentationClass/", ".png"))
        ids, labels = self._augmentation
        labels = {name: labels[name] for name in labels.keys() - {*train}}
        return {
            "train": pairs_of(self, root, {*train, *ids} - {*val}, labels | own),
            "val": pairs_of(self, root, val, own),
        }

    def read_label(self, pair: Pair) -> Integer[np.ndarray, "h w"]:
        if pair.label.endswith(".mat"):
            return read_matrix(self.source, pair.label, "GTcls", "Segmentation")
        return super().read_label(pair)

    @cached_property
    def _augmentation(self) -> tuple[list[str], dict[str, str]]:
        """The ids of the augmented training set, and id -> label file."""
        images = files_by_id(self.source, self.source.glob("*SegmentationClassAug/*.png"))
        if images:
            lists = [name for file in AUGMENTED_LISTS for name in self.source.glob(f"*ImageSets/Segmentation/{file}")]
            # Without a list, the folder's own files count: it holds all of VOC and SBD.
            return (read_ids(self, lists[0]) if lists else list(images)), images
        matrices = self.source.glob("*dataset/cls/*.mat")
        if matrices:
            folder = matrices[0][: matrices[0].rindex("cls/")]
            ids = [name for split in SPLITS for name in read_ids(self, f"{folder}{split}.txt")]
            return ids, files_by_id(self.source, matrices)
        print(
            f"Note: {self.source.path} has neither SBD's dataset/cls nor SegmentationClassAug: training uses only VOC "
            "2012's own 1,464 images, not the usual 10,582",
            flush=True,
        )
        return [], {}
