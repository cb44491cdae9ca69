"""The confusion matrix and what is read off it. Counts are int64: float32 stops counting at 2^24 pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer


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
    """Figures in [0, 1]; NaN where there is nothing to measure.

    A class is absent where no labelled pixel is of it. It has no figures of its own and leaves the means, also where
    it is predicted: those pixels are missing from the classes they belong to, and so cost these. Other systems treat
    absent classes otherwise; what they would call mIoU is given beside ours. All four agree where no class is absent.

    Attributes:
      iou: intersection over union, tp / (tp + fp + fn), of each class.
      accuracy: tp / (tp + fn).
      dice: 2 tp / (2 tp + fp + fn), also known as F1.
      mean_iou, mean_accuracy, mean_dice: over the classes that are labelled.
      mean_iou_of_shown: over the classes that are labelled or predicted, the latter with IoU 0 (cityscapesScripts,
        MMSegmentation).
      mean_iou_absent_zero: over all classes, absent ones with IoU 0 (the toolkit of SceneParse150).
      mean_iou_absent_one: over all classes; one neither labelled nor predicted counts 1, as a perfect match (systems
        that add the same small number to intersection and union), one only predicted 0.
      pixel_accuracy: correct pixels among the labelled ones.
      frequency_weighted_iou: mean of the IoUs weighted by labelled pixels.
    """

    iou: Float[np.ndarray, " k"]
    accuracy: Float[np.ndarray, " k"]
    dice: Float[np.ndarray, " k"]
    mean_iou: float
    mean_accuracy: float
    mean_dice: float
    mean_iou_of_shown: float
    mean_iou_absent_zero: float
    mean_iou_absent_one: float
    pixel_accuracy: float
    frequency_weighted_iou: float


def scores(confusion: Int64[np.ndarray, "k k"]) -> Scores:
    """All figures of a confusion matrix."""
    correct = np.diag(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    union = labelled + predicted - correct
    iou = _ratio(correct, union, where=labelled > 0)
    accuracy = _ratio(correct, labelled, where=labelled > 0)
    dice = _ratio(2 * correct, labelled + predicted, where=labelled > 0)
    total = labelled.sum()
    if total == 0:
        return Scores(iou, accuracy, dice, *[float("nan")] * 8)
    return Scores(
        iou=iou,
        accuracy=accuracy,
        dice=dice,
        mean_iou=float(np.nanmean(iou)),
        mean_accuracy=float(np.nanmean(accuracy)),
        mean_dice=float(np.nanmean(dice)),
        mean_iou_of_shown=float(np.nansum(iou) / (union > 0).sum()),
        mean_iou_absent_zero=float(np.nansum(iou) / iou.size),
        mean_iou_absent_one=float((np.nansum(iou) + (union == 0).sum()) / iou.size),
        pixel_accuracy=float(correct.sum() / total),
        frequency_weighted_iou=float(np.nansum(iou * labelled) / total),
    )


def _ratio(
    numerator: Float[np.ndarray, " k"], denominator: Float[np.ndarray, " k"], *, where: Bool[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """NaN elsewhere."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=where)


def without_class(confusion: Int64[np.ndarray, "k k"], index: int) -> Int64[np.ndarray, "k k"]:
    """The matrix with the pixels labelled as that class ignored. Elsewhere it remains a wrong prediction."""
    kept = confusion.copy()
    kept[index] = 0
    return kept
