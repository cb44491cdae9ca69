"""Augments an image and its label together, as the paper's training protocol does; numpy and OpenCV only.

The crop is drawn before the image is decoded. The image is then decoded only as finely as the scale needs, and only
the part that the crop shows is resized.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import cv2
import numpy as np
from jaxtyping import Int, UInt8

Image = UInt8[np.ndarray, "h w 3"]
Label = UInt8[np.ndarray, "h w"]
CroppedImage = UInt8[np.ndarray, "rows columns 3"]
CroppedLabel = UInt8[np.ndarray, "rows columns"]
# Loads an image: wanted scale -> (pixels, reduction). Each side is divided by the reduction, rounded up, and is
# at least the wanted scale times the stored side.
LoadImage = Callable[[float], tuple[Image, int]]
# Rows and columns of the scaled image that a crop shows.
CropBox = tuple[slice, slice]

# Crops drawn at most while one class exceeds `cat_max_ratio`; the last is used in any case (as in mmsegmentation).
CROP_TRIES = 10


def augment(
    load: LoadImage,
    label: Label,
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int],
    scales: Sequence[float],
    flip_probability: float,
    fill: Sequence[float],
    ignore_label: int,
    cat_max_ratio: float = 1.0,
    jitter: bool = False,
) -> tuple[CroppedImage, CroppedLabel]:
    """Applies a random scale, crop (padded if the image is smaller), horizontal flip and colour jitter.

    Args:
      load: loads the image that the label belongs to.
      label: label at the image's stored size.
      rng: the only source of randomness.
      crop_size: (height, width) of the result.
      scales: scales to draw from uniformly, each at least 0.01; the paper uses 0.5, 0.75, 1, 1.5, 1.75, 2.
      flip_probability: 0 .. 1; the paper uses 0.5.
      fill: RGB of the padding, 0 .. 255; with the dataset's mean, padding is about 0 after normalisation.
      ignore_label: label of the padding.
      cat_max_ratio: largest share of a crop's labelled pixels that one class may have, 0 .. 1; 1 accepts any crop.
        If CROP_TRIES crops exceed it, the last one is used.
      jitter: whether to change the colours, see `photometric_jitter`.
    """
    scale = Fraction(scales[int(rng.integers(len(scales)))]).limit_denominator(1000)
    for _ in range(CROP_TRIES):
        box = random_crop_box(scaled_size(label.shape, scale), crop_size, rng)
        crop = resize_nearest(label, scale, box)
        if cat_max_ratio >= 1 or largest_share(crop, ignore_label) <= cat_max_ratio:
            break
    flip = rng.random() < flip_probability
    pixels, reduction = load(float(scale))
    image = resize_bilinear(pixels, scale * reduction, box)
    if jitter:
        image = photometric_jitter(image, rng)
    image, crop = pad(image, crop, crop_size, fill, ignore_label)
    if flip:
        return cv2.flip(image, 1), cv2.flip(crop, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(crop)


def scaled_size(size: tuple[int, int], scale: Fraction) -> tuple[int, int]:
    """Scales (height, width), rounded down: a pixel that lies partly outside the image would be extrapolated."""
    height, width = (max(int(side * scale), 1) for side in size)
    return height, width


def random_crop_box(size: tuple[int, int], crop_size: tuple[int, int], rng: np.random.Generator) -> CropBox:
    """Draws a crop uniformly; it is as large as the crop size, or as the image along sides that are smaller."""
    starts = [int(rng.integers(max(side - crop, 0) + 1)) for side, crop in zip(size, crop_size, strict=True)]
    rows, columns = (
        slice(start, min(start + crop, side)) for start, crop, side in zip(starts, crop_size, size, strict=True)
    )
    return rows, columns


def largest_share(label: Label, ignore_label: int) -> float:
    """Returns the most frequent class's share of the labelled pixels, 0 .. 1; 1 if no pixel is labelled."""
    counts = np.bincount(label.ravel(), minlength=256)
    counts[ignore_label] = 0
    return counts.max() / counts.sum() if counts.any() else 1.0


def resize_nearest(picture: UInt8[np.ndarray, "h w ..."], scale: Fraction, box: CropBox) -> UInt8[np.ndarray, "..."]:
    """Resize by nearest neighbour and crop; each pixel is the source pixel that its centre falls into."""
    if scale == 1:
        return picture[box]
    rows, columns = (_nearest(span, side, scale) for span, side in zip(box, picture.shape, strict=False))
    return picture.take(rows, axis=0).take(columns, axis=1)


def _nearest(span: slice, side: int, scale: Fraction) -> Int[np.ndarray, " n"]:
    """Source indices floor((x + 1/2) / scale) of the target positions x in a span, in exact integer arithmetic."""
    targets = np.arange(span.start, span.stop)
    return np.minimum((2 * targets + 1) * scale.denominator // (2 * scale.numerator), side - 1)


def resize_bilinear(image: Image, scale: Fraction, box: CropBox) -> CroppedImage:
    """Resizes bilinearly and crops; half-pixel centres, no antialiasing, as in mmsegmentation.

    The result equals the crop of the whole resized image, but only the source pixels it needs are resized.
    """
    if scale == 1:
        return image[box]
    rows, columns = (_support(span, side, scale) for span, side in zip(box, image.shape, strict=False))
    part = image[rows, columns]
    if min(part.shape[:2]) * scale <= Fraction(1, 2):  # OpenCV would round the size down to 0
        return resize_nearest(image, scale, box)
    # By factors, since OpenCV would derive slightly different ones from a rounded size.
    resized = cv2.resize(part, None, fx=float(scale), fy=float(scale), interpolation=cv2.INTER_LINEAR)
    return resized[
        tuple(
            slice(x.start - int(s.start * scale), x.stop - int(s.start * scale))
            for x, s in zip(box, (rows, columns), strict=True)
        )
    ]


def _support(span: slice, side: int, scale: Fraction) -> slice:
    """Source range that a target span is interpolated from.

    It starts where the edges of a source and a target pixel coincide, so that a part of the image is sampled at the
    same points as the whole.
    """
    period = scale.denominator
    first = max(int(span.start / scale) - 1, 0) // period * period
    return slice(first, min(int(span.stop / scale) + 3, side))


def pad(
    image: Image, label: Label, size: tuple[int, int], fill: Sequence[float], ignore_label: int
) -> tuple[CroppedImage, CroppedLabel]:
    """Pads image and label at the bottom and on the right to at least `size`."""
    below, right = (max(wanted - have, 0) for wanted, have in zip(size, label.shape, strict=True))
    if not below and not right:
        return image, label
    padded = np.empty((label.shape[0] + below, label.shape[1] + right, 3), np.uint8)
    padded[:] = np.round(fill)
    padded[: label.shape[0], : label.shape[1]] = image
    return padded, np.pad(label, ((0, below), (0, right)), constant_values=ignore_label)


def central_crop(
    image: Image, label: Label, crop_size: tuple[int, int], fill: Sequence[float], ignore_label: int
) -> tuple[CroppedImage, CroppedLabel]:
    """Crops the centre of image and label; pads as `pad` does if they are smaller."""
    starts = [max(side - crop, 0) // 2 for side, crop in zip(label.shape, crop_size, strict=True)]
    box = tuple(slice(start, start + crop) for start, crop in zip(starts, crop_size, strict=True))
    return pad(image[box], label[box], crop_size, fill, ignore_label)


def photometric_jitter(image: Image, rng: np.random.Generator) -> Image:
    """Changes brightness, contrast, saturation and hue, each with probability 1/2.

    The recipe is SSD's (Liu et al., 2016) and mmsegmentation's PhotoMetricDistortion. Brightness is shifted by up to
    32, contrast and saturation are multiplied by 0.5 to 1.5, hue is shifted by up to 18 of OpenCV's 180 steps.
    Contrast is changed before or after saturation and hue with equal probability.
    """
    brightness, contrast, contrast_first, saturation, hue = rng.random(5) < 0.5
    shift, gain = rng.uniform(-32, 32), rng.uniform(0.5, 1.5)
    saturate, turn = rng.uniform(0.5, 1.5), int(rng.integers(-18, 19))
    levels = np.arange(256.0)
    tone = _bytes(levels + shift) if brightness else _bytes(levels)
    if contrast and contrast_first:
        tone = _bytes(tone * gain)
    image = cv2.LUT(np.ascontiguousarray(image), tone)
    if saturation or hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        table = np.stack(3 * [levels], -1)
        if hue:
            table[:, 0] = (levels + turn) % 180
        if saturation:
            table[:, 1] = levels * saturate
        image = cv2.cvtColor(cv2.LUT(hsv, _bytes(table)[None]), cv2.COLOR_HSV2RGB)
    if contrast and not contrast_first:
        image = cv2.LUT(image, _bytes(levels * gain))
    return image


def _bytes(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
