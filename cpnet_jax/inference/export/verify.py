"""Verifies that an exported network computes the same as the live one."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.program import class_map
from cpnet_jax.models import upsample

# Largest difference of any logit relative to the largest logit, by the dtype of the activations. The compiler may
# change the order of sums, and on accelerators it may choose other algorithms.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}

# windows (b, h, w, 3) -> {"logits": (b, h/8, w/8, k), "classes": (b, h, w)}
Outputs = Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, Array]]
# windows (b, h, w, 3) -> logits (b, h/8, w/8, k)
Logits = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]


@dataclass(frozen=True)
class Agreement:
    """How closely an exported network agrees with the live one.

    Attributes:
      difference: largest difference of any logit, relative to the largest logit.
      pixels: share of pixels with the same class, in [0, 1].
    """

    difference: float
    pixels: float


def verify(
    exported: Outputs,
    live: Logits,
    crop_size: tuple[int, int],
    dtype: str,
    announce: Callable[[str], None] = lambda stage: None,
) -> Agreement:
    """Compares both on noise, a gradient and blocks of colour, in batches of one and of three.

    `announce` is called with what is done next: each is a compilation.

    A class may differ only if the live network's two best logits differ by less than the tolerance allows.

    Raises:
      UserError: if they differ by more than TOLERANCE, or the logits are not finite.
    """
    images = probe_images(crop_size)
    announce("compiling the live network")
    logits = live(images)
    if not jnp.isfinite(logits).all():
        raise UserError("the network's logits are not finite: export another checkpoint")
    found = []
    for part, count in ((slice(1), "one picture"), (slice(None), "three pictures")):
        announce(f"compiling the file's network for {count} and comparing it")
        found.append(_compare(exported(images[part]), logits[part], TOLERANCE[dtype]))
    return Agreement(max(each.difference for each in found), min(each.pixels for each in found))


def _compare(ours: dict[str, Array], logits: Float[Array, "b h8 w8 k"], tolerance: float) -> Agreement:
    largest = float(jnp.abs(logits).max())
    difference = float(jnp.abs(ours["logits"] - logits).max())
    shortfall = max(_shortfall(*pair) for pair in zip(logits, ours["classes"], strict=True))
    if not (difference <= tolerance * largest and shortfall <= 2 * tolerance * largest):
        raise UserError(
            f"the exported network differs from the live one by {difference:.2g}, with logits up to {largest:.2g} "
            f"({tolerance:.0e} of that is allowed), so no file was written: update JAX, and report this if it persists"
        )
    same = jnp.mean(ours["classes"] == class_map(logits, ours["classes"].shape[1:]))
    return Agreement(difference / largest if largest else 0.0, float(same))


def probe_images(crop_size: tuple[int, int]) -> UInt8[np.ndarray, "3 h w 3"]:
    """Three test images: noise, a gradient, and blocks of colour."""
    height, width = crop_size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    gradient = np.stack([255 * rows // height, 255 * columns // width, 255 * (rows + columns) // (height + width)], -1)
    colours = np.random.default_rng(1).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    blocks = colours.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([noise, gradient, blocks]).astype(np.uint8)


@jax.jit
def _shortfall(logits: Float[Array, "h w k"], classes: UInt8[Array, "H W"]) -> Float[Array, ""]:
    """The largest amount by which a chosen class's upsampled logit is below the best one."""
    scores = upsample(logits[None], classes.shape)[0]
    chosen = jnp.take_along_axis(scores, classes[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return jnp.max(scores.max(axis=-1) - chosen)
