"""Reference implementation of whole-image prediction, written for clarity, not speed.

NumPy in float64, one image, one scale, one window at a time. It shares no code with `cpnet_jax`; only the network is
passed in, as a function of one window: uint8 (h, w, 3) -> logits (h / 8, w / 8, K).
"""

import math

import cv2
import numpy as np


def scores(image, network, *, crop, mean, scales=(1.0,), flip=False, overlap="sum"):
    """(h, w, K): the scores of all scales added, at the image's own size."""
    total = 0.0
    for scale in scales:
        scaled = scaled_image(image, scale)
        if overlap == "average_logits":
            for mirrored in (False, True) if flip else (False,):
                found = averaged_logits(scaled, network, crop=crop, mean=mean, mirrored=mirrored)
                total = total + softmax(resize(found, image.shape[:2]))
            continue
        at_scale = scaled_scores(scaled, network, crop=crop, mean=mean, flip=flip, overlap=overlap)
        total = total + resize(at_scale, image.shape[:2])
    return total


def scaled_scores(image, network, *, crop, mean, flip, overlap):
    """(h, w, K): the scores of an image without rescaling."""
    canvas = padded(image, crop, mean)
    total, windows = 0.0, np.zeros((*canvas.shape[:2], 1))
    for top in starts(canvas.shape[0], crop[0]):
        for left in starts(canvas.shape[1], crop[1]):
            place = np.s_[top : top + crop[0], left : left + crop[1]]
            found = window_scores(canvas[place], network, flip)
            placed = np.zeros((*canvas.shape[:2], found.shape[-1]))
            placed[place] = found
            total = total + placed
            windows[place] += 1
    if overlap == "average":
        total = total / windows
    return total[: image.shape[0], : image.shape[1]]


def averaged_logits(image, network, *, crop, mean, mirrored):
    """(h, w, K): the mean over the windows of their logits; those of the mirrored image are mirrored back."""
    canvas = padded(image, crop, mean)
    if mirrored:
        canvas = mirror(canvas)
    total, windows = 0.0, np.zeros((*canvas.shape[:2], 1))
    for top in starts(canvas.shape[0], crop[0]):
        for left in starts(canvas.shape[1], crop[1]):
            place = np.s_[top : top + crop[0], left : left + crop[1]]
            found = resize(network(canvas[place]), crop)
            placed = np.zeros((*canvas.shape[:2], found.shape[-1]))
            placed[place] = found
            total = total + placed
            windows[place] += 1
    mean_logits = total / windows
    if mirrored:
        mean_logits = mirror(mean_logits)
    return mean_logits[: image.shape[0], : image.shape[1]]


def window_scores(window, network, flip):
    """(h, w, K): softmax of the upsampled logits; with flip, that of the mirrored window, mirrored back, is added."""
    found = softmax(resize(network(window), window.shape[:2]))
    if flip:
        mirrored = softmax(resize(network(mirror(window)), window.shape[:2]))
        found = found + mirror(mirrored)
    return found


def mirror(picture):
    return picture[:, ::-1]


def scaled_image(image, scale):
    height, width = (max(1, math.floor(side * scale + 0.5)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def padded(image, crop, mean):
    """The image padded with the mean colour at the bottom and right to at least the crop's size."""
    height, width = max(image.shape[0], crop[0]), max(image.shape[1], crop[1])
    canvas = np.full((height, width, 3), np.round(mean), np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def starts(size, crop):
    """Window starts: every 2/3 crop, the last window flush with the edge."""
    found, stride = [0], max(1, crop * 2 // 3)
    while found[-1] + crop < size:
        found.append(min(found[-1] + stride, size - crop))
    return found


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def resize(picture, size):
    """Bilinear, half-pixel centres, clamped to the edges, no antialiasing: (h, w, K) -> (*size, K)."""
    rows, columns = (interpolation(*sides) for sides in zip(picture.shape[:2], size, strict=True))
    along_rows = np.tensordot(rows, np.asarray(picture, np.float64), axes=(1, 0))
    return np.tensordot(columns, along_rows, axes=(1, 1)).transpose(1, 0, 2)


def interpolation(size, new_size):
    """(new_size, size): row i holds the weights of the two pixels around the centre of new pixel i."""
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    distances = np.abs(np.clip(centres, 0, size - 1)[:, None] - np.arange(size))
    return np.maximum(0.0, 1.0 - distances)


def classes(found):
    """The class of each pixel; the first one wins ties."""
    return found.argmax(axis=-1).astype(np.uint8)


def probabilities(found):
    return found / found.sum(axis=-1, keepdims=True)
