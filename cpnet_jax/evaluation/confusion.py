"""The confusion matrix and what is read off it. Counts are int64: float32 stops counting at 2^24 pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer


def confusion_matrix(
    label: Integer[np.ndarray, "..."], prediction: Integer[np.ndarray, "..."], num_classes: int, ignore_label: int = 255
) -> Int64[np.ndarray, "k k"]:
    """Pixels by (true class, predicted class), ignored pixels left out.

    Raises:
      ValueError: on a value that is neither a class nor ignored. A histogram would count it as another class.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label has shape {label.shape} and prediction {prediction.shape}")
    valid = label != ignore_label
    true, predicted = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for name, values in (("label", true), ("prediction", predicted)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(f"{name} holds values outside 0 .. {num_classes - 1}: {values.min()} to {values.max()}")
    counts = np.bincount(num_classes * true + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True)
class Scores:
    """Figures in [0, 1]. Classes without a labelled pixel have IoU NaN and leave the means."""

    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: Float[np.ndarray, " k"]


def scores(confusion: Int64[np.ndarray, "k k"]) -> Scores:
    """mIoU, mean accuracy and pixel accuracy of a confusion matrix."""
    correct = np.diag(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = labelled > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.where(present, correct / (labelled + predicted - correct), np.nan)
        accuracy = np.where(present, correct / labelled, np.nan)
    if not present.any():
        return Scores(float("nan"), float("nan"), float("nan"), iou)
    return Scores(
        mean_iou=float(np.nanmean(iou)),
        mean_accuracy=float(np.nanmean(accuracy)),
        pixel_accuracy=float(correct.sum() / confusion.sum()),
        iou=iou,
    )
