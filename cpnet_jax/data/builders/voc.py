"""PASCAL VOC 2012, its training set enlarged by the Semantic Boundaries Dataset (SBD) where that is there."""

from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder
from cpnet_jax.data.builders.voc_devkit import SPLITS, by_stem, files_in, pairs_of, read_ids, read_matrix, release_root
from cpnet_jax.data.catalog import VOC

BORDER = 255
# The two names that the list of the enlarged training set goes by.
AUGMENTED_LISTS = ("trainaug.txt", "train_aug.txt")


class VocBuilder(SegmentationBuilder, skip_registration=True):
    """Reads VOC2012 and, for more training images, SegmentationClassAug/*.png or SBD's dataset/cls/*.mat.

    An image that VOC labels itself keeps that label, whose objects have an ignored border; SBD's have none. Images of
    VOC's val never train, whatever a list says.
    """

    name = "voc"
    DATASET = VOC
    LABEL_RULE: ClassVar = {**{i: i for i in range(len(VOC.classes))}, BORDER: VOC.ignore_label}

    def pairs(self) -> dict[str, list[Pair]]:
        root = release_root(self, 2012)
        train, val = (read_ids(self, f"{root}ImageSets/Segmentation/{split}.txt") for split in SPLITS)
        own = by_stem(files_in(self.source, f"{root}SegmentationClass/", ".png"))
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
        """(ids, id -> label's file) beyond VOC's own."""
        images = by_stem(self.source.glob("*SegmentationClassAug/*.png"))
        if images:
            lists = [name for file in AUGMENTED_LISTS for name in self.source.glob(f"*ImageSets/Segmentation/{file}")]
            # Without a list the folder is one: it holds all of VOC and SBD.
            return (read_ids(self, lists[0]) if lists else list(images)), images
        matrices = self.source.glob("*dataset/cls/*.mat")
        if matrices:
            folder = matrices[0][: matrices[0].rindex("cls/")]
            return [name for split in SPLITS for name in read_ids(self, f"{folder}{split}.txt")], by_stem(matrices)
        print(
            f"Note: {self.source.path} has neither SBD's dataset/cls nor SegmentationClassAug: only VOC 2012's own "
            "1,464 images will train, not the usual 10,582",
            flush=True,
        )
        return [], {}
