"""Builders of PASCAL-Context, from VOC2010's images and any published form of its labels."""

from functools import cached_property

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder
from cpnet_jax.data.builders.pascal_context_labels import FORMS, Labels
from cpnet_jax.data.builders.voc_devkit import pairs_of, release_root
from cpnet_jax.data.catalog import PASCAL_CONTEXT, PASCAL_CONTEXT_60
from cpnet_jax.errors import UserError


class PascalContextBuilder(SegmentationBuilder, skip_registration=True):
    """Builder with 59 classes; all other pixels are ignored. It reads the first form of the labels it finds."""

    name = "pascal_context"
    DATASET = PASCAL_CONTEXT

    @cached_property
    def LABEL_RULE(self) -> dict[int, int]:  # pyrefly: ignore[bad-override]  # raw values differ between forms
        known = {name: index for index, name in enumerate(self.DATASET.classes)}
        return {value: known.get(name, self.DATASET.ignore_label) for value, name in self._labels.meaning.items()}

    def pairs(self) -> dict[str, list[Pair]]:
        labels = self._labels
        return {split: pairs_of(self, self._root, ids, labels.files) for split, ids in labels.splits.items()}

    def read_label(self, pair: Pair) -> Integer[np.ndarray, "h w"]:
        return self._labels.read(pair)

    @cached_property
    def _root(self) -> str:
        return release_root(self, 2010)

    @cached_property
    def _labels(self) -> Labels:
        for form in FORMS:
            labels = form(self, self._root)
            if labels is not None:
                return labels
        raise UserError(
            f"{self.source.path} has VOC2010's images but no PASCAL-Context labels: config.data.source must be "
            f"{self.DATASET.source_help}"
        )


class PascalContext60Builder(PascalContextBuilder, skip_registration=True):
    """Builder with 60 classes: the 59, and class 0 for all other pixels."""

    name = "pascal_context_60"
    DATASET = PASCAL_CONTEXT_60
