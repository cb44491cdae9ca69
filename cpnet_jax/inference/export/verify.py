"""Whether a file computes what the live network does, asked before anyone relies on it."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.program import class_map
from cpnet_jax.models import upsample

# Largest difference of any logit, in parts of the largest logit, by the mantissa of the activations: the compiler may
# sum in another order, and on accelerators it may choose other algorithms.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}

# windows (b, h, w, 3) -> {"logits": (b, h/8, w/8, k), "classes": (b, h, w)}
Outputs = Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, Array]]
# windows (b, h, w, 3) -> logits (b, h/8, w/8, k)
Logits = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]


@dataclass(frozen=True)
class Agreement:
    """Attributes:
    difference: largest of any logit, in parts of the largest logit.
    pixels: share with the same class.
    """

    difference: float
    pixels: float


def verify(exported: Outputs, live: Logits, crop_size: tuple[int, int], dtype: str) -> Agreement:
    """Compares the two on noise, a gradient and blocks of colour, one at a time and three.

    A class may differ only where the live network's best two are as close as the logits may differ.

    Raises:
      UserError: where they differ by more than TOLERANCE, or are not finite.
    """
    images = probe_images(crop_size)
    logits = live(images)
    if not jnp.isfinite(logits).all():
        raise UserError("the network gives numbers that are not finite: export another checkpoint")
    found = [_compare(exported(images[part]), logits[part], TOLERANCE[dtype]) for part in (slice(1), slice(None))]
    return Agreement(max(each.difference for each in found), min(each.pixels for each in found))


def _compare(ours: dict[str, Array], logits: Float[Array, "b h/8 w/8 k"], tolerance: float) -> Agreement:
    largest = float(jnp.abs(logits).max())
    difference = float(jnp.abs(ours["logits"] - logits).max())
    shortfall = max(_shortfall(*pair) for pair in zip(logits, ours["classes"], strict=True))
    if not (difference <= tolerance * largest and shortfall <= 2 * tolerance * largest):
        raise UserError(
            f"the exported network differs from the live one by {difference:.2g} where logits go up to {largest:.2g} "
            f"({tolerance:.0e} of that is allowed), so no file is left: update JAX, and report this if it stays"
        )
    same = jnp.mean(ours["classes"] == class_map(logits, ours["classes"].shape[1:]))
    return Agreement(difference / largest if largest else 0.0, float(same))


def probe_images(crop_size: tuple[int, int]) -> UInt8[np.ndarray, "3 h w 3"]:
    """Noise, a gradient, and blocks of colour: fine, smooth and edged."""
    height, width = crop_size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    gradient = np.stack([255 * rows // height, 255 * columns // width, 255 * (rows + columns) // (height + width)], -1)
    colours = np.random.default_rng(1).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    blocks = colours.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([noise, gradient, blocks]).astype(np.uint8)


@jax.jit
def _shortfall(logits: Float[Array, "h w k"], classes: UInt8[Array, "H W"]) -> Float[Array, ""]:
    """By how much the chosen classes' upsampled logits fall short of the best, at worst."""
    scores = upsample(logits[None], classes.shape)[0]
    chosen = jnp.take_along_axis(scores, classes[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return jnp.max(scores.max(axis=-1) - chosen)
