"""Augmentation of an image and its label together (the paper's training protocol): numpy only, pure given an rng.

What will be shown is decided before the image is decoded, so that no more of it is decoded and resized than is shown.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import cv2
import numpy as np
from jaxtyping import Int, UInt8

Image = UInt8[np.ndarray, "h w 3"]
Label = UInt8[np.ndarray, "h w"]
# Smallest scale at which the image is wanted -> (pixels, reduction): the image with each side divided by the
# reduction (and rounded up), which leaves it no smaller than asked for.
LoadImage = Callable[[float], tuple[Image, int]]
# A row range and a column range of the scaled image.
Window = tuple[slice, slice]

# Crops drawn until no class takes too much of one; the last is taken as it is.
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
) -> tuple[Image, Label]:
    """Random scale, random crop (padded where the image is smaller), random horizontal flip, random colours.

    Args:
      load: gives the image that the label belongs to.
      label: at the image's stored size.
      rng: the only source of randomness.
      crop_size: (height, width) of the result.
      scales: one is drawn uniformly (the paper: 0.5, 0.75, 1, 1.5, 1.75, 2); each at least 0.01.
      flip_probability: the paper: 0.5.
      fill: RGB of the padding, 0 .. 255; the dataset's mean, so that padding is about 0 after normalisation.
      ignore_label: the padding's label.
      cat_max_ratio: share of a crop's labelled pixels that one class may have, 0 .. 1; 1 takes any crop. Where
        CROP_TRIES crops have more, the last of them is taken.
      jitter: whether to change the colours, see `photometric_jitter`.
    """
    scale = Fraction(scales[rng.integers(len(scales))]).limit_denominator(1000)
    for _ in range(CROP_TRIES):
        window = random_window(scaled_size(label.shape, scale), crop_size, rng)
        crop = resize_nearest(label, scale, window)
        if cat_max_ratio >= 1 or largest_share(crop, ignore_label) <= cat_max_ratio:
            break
    flip = rng.random() < flip_probability
    pixels, reduction = load(float(scale))
    image = resize_bilinear(pixels, scale * reduction, window)
    if jitter:
        image = photometric_jitter(image, rng)
    image, crop = pad(image, crop, crop_size, fill, ignore_label)
    if flip:
        return cv2.flip(image, 1), cv2.flip(crop, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(crop)


def scaled_size(size: tuple[int, int], scale: Fraction) -> tuple[int, int]:
    """Whole pixels only: one that lay half outside would have to be made up."""
    return tuple(max(int(side * scale), 1) for side in size)


def random_window(size: tuple[int, int], crop_size: tuple[int, int], rng: np.random.Generator) -> Window:
    """A window of the crop's size, or of the image's where that is smaller."""
    starts = [int(rng.integers(max(side - crop, 0) + 1)) for side, crop in zip(size, crop_size, strict=True)]
    return tuple(
        slice(start, min(start + crop, side)) for start, crop, side in zip(starts, crop_size, size, strict=True)
    )


def largest_share(label: Label, ignore_label: int) -> float:
    """Of the labelled pixels, that of the class with the most; 1 where none is labelled."""
    counts = np.bincount(label.ravel(), minlength=256)
    counts[ignore_label] = 0
    return counts.max() / counts.sum() if counts.any() else 1.0


def resize_nearest(picture: UInt8[np.ndarray, "h w ..."], scale: Fraction, window: Window) -> UInt8[np.ndarray, "..."]:
    """The window of the scaled picture; every pixel is the source pixel that its centre falls into."""
    if scale == 1:
        return picture[window]
    rows, columns = (_sources(span, side, scale) for span, side in zip(window, picture.shape, strict=False))
    return picture.take(rows, axis=0).take(columns, axis=1)


def _sources(span: slice, side: int, scale: Fraction) -> Int[np.ndarray, " n"]:
    """floor((x + 1/2) / scale) in whole numbers."""
    targets = np.arange(span.start, span.stop)
    return np.minimum((2 * targets + 1) * scale.denominator // (2 * scale.numerator), side - 1)


def resize_bilinear(image: Image, scale: Fraction, window: Window) -> Image:
    """The window of the scaled image, scaled about pixel centres without antialiasing (as mmsegmentation and torch-era
    training code do). Equal to that window of the whole image resized, but only the part that it shows is worked on."""
    if scale == 1:
        return image[window]
    rows, columns = (_support(span, side, scale) for span, side in zip(window, image.shape, strict=False))
    part = image[rows, columns]
    if min(part.shape[:2]) * scale <= Fraction(1, 2):  # OpenCV would make it an image without pixels
        return resize_nearest(image, scale, window)
    # By factors rather than by size, which would round them.
    resized = cv2.resize(part, None, fx=float(scale), fy=float(scale), interpolation=cv2.INTER_LINEAR)
    return resized[
        tuple(
            slice(x.start - int(s.start * scale), x.stop - int(s.start * scale))
            for x, s in zip(window, (rows, columns), strict=True)
        )
    ]


def _support(span: slice, side: int, scale: Fraction) -> slice:
    """The source pixels that the span is interpolated from. They begin where a source and a target pixel begin
    together, so that the part is sampled at the very same points as the whole."""
    period = scale.denominator
    first = max(int(span.start / scale) - 1, 0) // period * period
    return slice(first, min(int(span.stop / scale) + 3, side))


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


def central_crop(
    image: Image, label: Label, crop_size: tuple[int, int], fill: Sequence[float], ignore_label: int
) -> tuple[Image, Label]:
    """The middle of both, padded as by `pad` where they are smaller."""
    starts = [max(side - crop, 0) // 2 for side, crop in zip(label.shape, crop_size, strict=True)]
    window = tuple(slice(start, start + crop) for start, crop in zip(starts, crop_size, strict=True))
    return pad(image[window], label[window], crop_size, fill, ignore_label)


def photometric_jitter(image: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue, each changed with probability 1/2.

    The published recipe (SSD's; mmsegmentation's PhotoMetricDistortion): brightness shifted by up to 32, contrast and
    saturation multiplied by 0.5 to 1.5, hue turned by up to 18 of OpenCV's 180 steps; contrast before or after the
    others, as often.
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
