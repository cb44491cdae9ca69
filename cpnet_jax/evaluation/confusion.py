"""The confusion matrix. Counts are int64, because float32 stops counting at 2^24 pixels."""

import numpy as np
from jaxtyping import Int64, Integer


def confusion_matrix(
    label: Integer[np.ndarray, "..."], prediction: Integer[np.ndarray, "..."], num_classes: int, ignore_label: int = 255
) -> Int64[np.ndarray, "k k"]:
    """Pixel counts by (true class, predicted class); ignored pixels are left out.

    Raises:
      ValueError: on a value that is neither a class nor ignored. A histogram would count it as another class.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label has shape {label.shape} and prediction {prediction.shape}")
    valid = label != ignore_label
    true, predicted = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for name, values in (("label", true), ("prediction", predicted)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(f"{name} has values outside 0 .. {num_classes - 1}: {values.min()} to {values.max()}")
    counts = np.bincount(num_classes * true + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def without_class(confusion: Int64[np.ndarray, "k k"], index: int) -> Int64[np.ndarray, "k k"]:
    """The matrix if the pixels labelled as one class were ignored. Predicting that class elsewhere stays wrong."""
    kept = confusion.copy()
    kept[index] = 0
    return kept
