"""Segments a picture of any size with an exported network, as --mode=predict does at one scale, without cpnet_jax.

python examples/run_exported_model.py MODEL.cpnet IMAGE.jpg RESULT.png
"""

import itertools
import json
import sys

import cv2
import jax.export
import numpy as np
from PIL import Image, ImageOps


def read_picture(path, value_range):
    """RGB, uint8 (h, w, 3); more than 8 bits are scaled as in training."""
    pixels = cv2.imread(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype == np.uint8:  # Pillow decodes JPEG as training does, but cuts colours to 8 bits
        return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    pixels = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., ::-1]
    low, high = value_range or (0, 65535)
    return ((pixels.astype(float) - low) * 256 / (high - low)).clip(0, 255).astype(np.uint8)


def starts(side, window):
    """Where the windows along a side start: every 2/3 of a window, the last one flush with the edge."""
    return [min(start, side - window) for start in range(0, side - window + window * 2 // 3, window * 2 // 3)]


model, input_file, result = sys.argv[1:]
file = np.load(model)
metadata = json.loads(file["metadata.json"])
network = jax.export.deserialize(bytearray(file["model.stablehlo"]))
weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
any_size, settings = metadata.get("any_size"), metadata["origin"].get("eval") or {}


@jax.jit
def window_scores(weights, window):
    real = [np.ones((1, crop[0] // 8, crop[1] // 8), bool)] if any_size else []  # which positions are no padding
    logits = network.call(weights, window[None], *real)["logits"]  # (1, height/8, width/8, classes)
    logits = jax.image.resize(logits[0], (*crop, len(metadata["classes"])), "bilinear")
    return logits if settings.get("overlap") == "average_logits" else jax.nn.softmax(logits)


picture = read_picture(input_file, metadata.get("value_range"))
crop = [-(-side // 8) * 8 for side in picture.shape[:2]] if any_size else metadata["crop_size"]  # whole, or windows
height, width = map(max, picture.shape, crop)
padded = np.full((height, width, 3), np.round(metadata["mean"]), np.uint8)
padded[: picture.shape[0], : picture.shape[1]] = picture
scores = np.zeros((height, width, len(metadata["classes"])), np.float32)
for top, left in itertools.product(starts(height, crop[0]), starts(width, crop[1])):
    place = np.s_[top : top + crop[0], left : left + crop[1]]
    scores[place] += window_scores(weights, padded[place])
classes = scores[: picture.shape[0], : picture.shape[1]].argmax(axis=-1)
Image.fromarray(np.array(metadata["palette"], np.uint8)[classes]).save(result)
for index, pixels in zip(*np.unique(classes, return_counts=True), strict=True):
    print(f"{metadata['classes'][index]:<20} {pixels / classes.size:6.1%}")
