"""Augmentation of an image and its label together (the paper's training protocol): numpy only, pure given an rng."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "h w 3"]
Label = UInt8[np.ndarray, "h w"]


def augment(
    image: Image,
    label: Label,
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int],
    scales: Sequence[float],
    flip_probability: float,
    fill: Sequence[float],
    ignore_label: int,
) -> tuple[Image, Label]:
    """Random scale, random crop (padded where the image is smaller), random horizontal flip.

    Args:
      image, label: of one size.
      rng: the only source of randomness.
      crop_size: (height, width) of the result.
      scales: one is drawn uniformly (the paper: 0.5, 0.75, 1, 1.5, 1.75, 2).
      flip_probability: the paper: 0.5.
      fill: RGB of the padding, 0 .. 255; the dataset's mean, so that padding is about 0 after normalisation.
      ignore_label: the padding's label.
    """
    image, label = resize(image, label, scales[rng.integers(len(scales))])
    top, left = (int(rng.integers(max(size - crop, 0) + 1)) for size, crop in zip(label.shape, crop_size, strict=True))
    rows, columns = slice(top, top + crop_size[0]), slice(left, left + crop_size[1])
    image, label = pad(image[rows, columns], label[rows, columns], crop_size, fill, ignore_label)
    if rng.random() < flip_probability:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def resize(image: Image, label: Label, scale: float) -> tuple[Image, Label]:
    """Both scaled about pixel centres: the image bilinearly without antialiasing (as mmsegmentation and torch-era
    training code do), the label by nearest neighbour."""
    if scale == 1:
        return image, label
    height, width = (max(round(side * scale), 1) for side in label.shape)
    return (
        cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR),
        # INTER_NEAREST takes the top-left neighbour, half a pixel off the bilinear image.
        cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
    )


def pad(
    image: Image, label: Label, size: tuple[int, int], fill: Sequence[float], ignore_label: int
) -> tuple[Image, Label]:
    """Both extended at the bottom and on the right to at least `size`."""
    below, right = (max(wanted - have, 0) for wanted, have in zip(size, label.shape, strict=True))
    if not below and not right:
        return image, label
    padded = np.empty((label.shape[0] + below, label.shape[1] + right, 3), np.uint8)
    padded[:] = np.round(fill)
    padded[: label.shape[0], : label.shape[1]] = image
    return padded, np.pad(label, ((0, below), (0, right)), constant_values=ignore_label)
