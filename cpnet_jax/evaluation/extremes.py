"""Which images of an evaluation went worst and best."""

import numpy as np

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.confusion import confusion_matrix, scores
from cpnet_jax.evaluation.evaluate import Prediction
from cpnet_jax.evaluation.samples import Sample


class Extremes:
    """The images with the lowest and the highest mIoU so far. Images without a labelled pixel have none.

    To be handed to `evaluate` as `each`. An image is kept once: with few of them the worst come first.

    Args:
      count: of each kind.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        self._dataset, self._count = dataset, count
        self._kept: list[tuple[float, int, Sample]] = []  # from the worst to the best

    def __call__(self, place: int, prediction: Prediction) -> None:
        example, predicted = prediction
        counts = confusion_matrix(example["label"], predicted, len(self._dataset.classes), self._dataset.ignore_label)
        found = scores(counts)
        if np.isnan(found.mean_iou):
            return
        figures = {"mIoU": found.mean_iou, "pixel accuracy": found.pixel_accuracy}
        sample = Sample(str(example["id"]), example["image"], example["label"], predicted, figures)
        self._kept.append((found.mean_iou, place, sample))
        self._kept.sort(key=lambda kept: kept[:2])
        del self._kept[self._count : -self._count or None]

    @property
    def worst(self) -> list[Sample]:
        """From the lowest mIoU on."""
        return [sample for _, _, sample in self._kept[: self._count]]

    @property
    def best(self) -> list[Sample]:
        """From the highest mIoU on."""
        return [sample for _, _, sample in reversed(self._kept[self._count :])]
