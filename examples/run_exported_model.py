"""Segments an image with an exported network, using only JAX, numpy, OpenCV and Pillow, without cpnet_jax.

python examples/run_exported_model.py MODEL.cpnet IMAGE.jpg RESULT.png
"""

import json
import sys

import cv2
import jax
import numpy as np
from jax import export
from PIL import Image

model, input_file, result = sys.argv[1:]
file = np.load(model)
metadata = json.loads(file["metadata.json"])
network = export.deserialize(bytearray(file["model.stablehlo"]))
weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}

pixels = cv2.imread(input_file, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)  # not Pillow: it cuts colours to 8 bits
pixels = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., ::-1]
if pixels.dtype != np.uint8:
    low, high = metadata.get("value_range") or (0, 65535)
    pixels = ((pixels.astype(float) - low) * 256 / (high - low)).clip(0, 255).astype(np.uint8)

# Resizes the image to one window. The --mode=predict of cpnet_jax covers it with overlapping windows instead.
image = Image.fromarray(np.ascontiguousarray(pixels))
height, width = metadata["crop_size"]
windows = np.asarray(image.resize((width, height)))[None]  # uint8 (b, height, width, 3)
outputs = jax.jit(network.call)(weights, windows)  # "logits" (b, height/8, width/8, k), "classes" (b, height, width)

classes = np.asarray(outputs["classes"][0])
colours = np.array(metadata["palette"], np.uint8)[classes]
Image.fromarray(colours).resize(image.size, Image.Resampling.NEAREST).save(result)
for index, pixels in zip(*np.unique(classes, return_counts=True), strict=True):
    print(f"{metadata['classes'][index]:<20} {pixels / classes.size:6.1%}")
