"""Textures and light: noise, ground in perspective, sky, cloth, and the camera.

In this file, `rng` is a numpy Generator, `size` is (h, w), and a texture is float32 (h, w, 3), about 0 .. 1.
"""

from typing import Any

import cv2
import numpy as np

REFERENCE_HEIGHT = 128  # feature sizes below are in pixels of a picture of this height


def noise(rng, size, cell, octaves=3) -> np.ndarray:
    """Fractal noise, float32 (h, w), with zero mean; `cell` is the size (y, x) of its coarsest grain."""
    scale = size[0] / REFERENCE_HEIGHT
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        grain = np.maximum(np.multiply(cell, scale / 2**octave), 1)
        grid = np.ceil(size / grain).astype(int) + 1
        knots = rng.standard_normal(grid, np.float32)
        total += cv2.resize(knots, size[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


def recede(tile: np.ndarray, horizon: float) -> np.ndarray:
    """Projects a tile (h, w) onto the ground plane, so that its features shrink towards the horizon.

    Its contrast fades out there, since features would be finer than pixels.
    """
    height, width = tile.shape
    near = height - horizon
    drop = np.arange(height, dtype=np.float32)[:, None] - horizon
    drop = np.maximum(drop, 0.06 * near)
    across = (np.arange(width, dtype=np.float32) - width / 2) * near / drop + width / 2
    along = np.broadcast_to(near * near / drop, tile.shape).astype(np.float32)
    laid = cv2.remap(tile, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return laid * np.minimum(drop / (0.3 * near), 1)


def tint(colour, *modulations) -> np.ndarray:
    """Multiplies a colour (3,) by 1 + the sum of modulations (h, w), to make a texture (h, w, 3)."""
    return np.asarray(1 + sum(modulations))[..., None] * np.asarray(colour, np.float32)


def between(rng, first, second) -> np.ndarray:
    """Draws a colour (3,) on the line between two colours."""
    colour = np.asarray(first) + rng.random() * np.subtract(second, first)
    return colour.astype(np.float32)


def sky(rng, size, horizon) -> np.ndarray:
    """Sky, deep above and pale at the horizon, with few or many clouds."""
    zenith = between(rng, (0.25, 0.45, 0.80), (0.55, 0.62, 0.72))
    haze = between(rng, (0.80, 0.88, 0.95), (0.98, 0.85, 0.72))
    fall = np.clip(np.arange(size[0], dtype=np.float32) / horizon, 0, 1)[:, None, None]
    clear = zenith + fall * (haze - zenith)
    billow = noise(rng, size, (18, 44), 4)
    cloud = np.clip(0.6 * billow + rng.uniform(-0.4, 0.3), 0, 0.85)[..., None]
    return clear + cloud * (0.96 - clear)


def bright_sea(rng, size) -> np.ndarray:
    """Sunlit water, saturated blue-green with glittering crests."""
    waves = noise(rng, size, (2.5, 16), 2)
    glitter = 0.5 * np.clip(waves - 0.9, 0, 1)
    return tint(between(rng, (0.10, 0.42, 0.62), (0.16, 0.58, 0.62)), 0.12 * waves, glitter)


def dusky_ground(rng, size, horizon) -> np.ndarray:
    """Rippled ground in shadow, the same for wet sand and dull water."""
    colour = between(rng, (0.34, 0.40, 0.45), (0.56, 0.49, 0.40)) * rng.uniform(0.85, 1.15)
    ripples = recede(noise(rng, size, (5, rng.uniform(12, 30)), 3), horizon)
    patches = noise(rng, size, (14, 50), 2)
    grain = noise(rng, size, (1, 1), 1)
    return tint(colour, rng.uniform(0.06, 0.14) * ripples, 0.05 * patches, 0.04 * grain)


def grass(rng, size) -> np.ndarray:
    """Grass: upright blades over clumps, green to straw."""
    blades = noise(rng, size, (9, 2.2), 2)
    clumps = noise(rng, size, (12, 20), 2)
    colour = between(rng, (0.22, 0.42, 0.13), (0.46, 0.50, 0.18))
    return tint(colour, 0.20 * blades, 0.12 * clumps)


def wall(rng, size) -> np.ndarray:
    """Wall of plaster, striped paper or painted brick, in a pale colour."""
    colour = between(rng, (0.86, 0.82, 0.72), (0.70, 0.78, 0.82))
    pattern = (_plain, _stripes, _bricks)[rng.integers(3)](rng, size)
    return tint(colour, 0.02 * noise(rng, size, (30, 30), 4), pattern)


def floor(rng, size, horizon) -> np.ndarray:
    """Brown floor of boards in perspective, or of carpet."""
    colour = between(rng, (0.34, 0.22, 0.14), (0.55, 0.38, 0.22))
    fleck = recede(noise(rng, size, (20, 3), 3), horizon)
    boards = 0.0 if rng.random() < 0.3 else recede(_boards(rng, size), horizon)
    return tint(colour, 0.07 * fleck, boards)


def cloth(rng, size) -> np.ndarray:
    """Woven cloth with soft folds, the same for bed covers and table cloths."""
    colour = rng.uniform((0.3, 0.25, 0.25), (0.9, 0.8, 0.8))
    folds = noise(rng, size, (26, 14), 2)
    weave = noise(rng, size, (1, 1), 1)
    print_ = (_plain, _stripes)[rng.integers(2)](rng, size)
    return tint(np.clip(colour, 0.15, 0.95), 0.06 * folds, 0.03 * weave, 2 * print_)


def _plain(rng, size) -> np.ndarray:
    return np.zeros(size, np.float32)


def _stripes(rng, size) -> np.ndarray:
    pitch = rng.uniform(6, 16) * size[0] / REFERENCE_HEIGHT
    stripe = 0.05 * np.sign(np.sin(2 * np.pi * np.arange(size[1]) / pitch))
    return np.broadcast_to(stripe.astype(np.float32), size)


def _bricks(rng, size) -> np.ndarray:
    course = max(round(rng.uniform(5, 9) * size[0] / REFERENCE_HEIGHT), 3)
    rows, columns = np.indices(size)
    shifted = columns + (rows // course % 2) * course
    joints = (rows % course == 0) | (shifted % (2 * course) == 0)
    return -0.10 * joints.astype(np.float32)


def _boards(rng, size) -> np.ndarray:
    pitch = max(round(rng.uniform(10, 18) * size[0] / REFERENCE_HEIGHT), 4)
    column = np.arange(size[1])
    tone = rng.uniform(-0.13, 0.13, size[1] // pitch + 1)[column // pitch]
    board = np.where(column % pitch == 0, -0.35, tone).astype(np.float32)
    return np.tile(board, (size[0], 1))


def light(rng, size) -> np.ndarray:
    """Light factor (h, w, 3): exposure, colour temperature, a slanted fall-off and cloud shadows."""
    warmth = rng.uniform(-0.08, 0.08)
    white = rng.uniform(0.78, 1.12) * np.array([1 + warmth, 1, 1 - warmth])
    down, across = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    slant = rng.uniform(-0.12, 0.12) * down[:, None] + rng.uniform(-0.12, 0.12) * across
    return tint(white, slant, 0.04 * noise(rng, size, (60, 60), 1))


def expose(rng, image: np.ndarray) -> np.ndarray:
    """Applies lens blur, sensor noise and JPEG compression; returns uint8 (h, w, 3)."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.75))
    noisy = soft + rng.uniform(0.008, 0.022) * rng.standard_normal(image.shape, np.float32)
    pixels = np.clip(noisy * 255, 0, 255).astype(np.uint8)
    quality = int(rng.integers(65, 93))
    _, packed = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])
