"""Verifies that an exported network computes the same as the live one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.program import class_map
from cpnet_jax.models import upsample
from cpnet_jax.models.cpnet import OUTPUT_STRIDE

# Largest difference of any logit relative to the largest logit, by the dtype of the activations. The compiler may
# change the order of sums, and on accelerators it may choose other algorithms.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}

# (windows (b, h, w, 3), *real (b, h/8, w/8)) -> {"logits": (b, h/8, w/8, k), "classes": (b, h, w)}
Outputs = Callable[..., dict[str, Array]]
# (windows (b, h, w, 3), *real (b, h/8, w/8)) -> logits (b, h/8, w/8, k)
Logits = Callable[..., Float[Array, "b h/8 w/8 k"]]


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
    return _verify(exported, live, dtype, announce, probe_images(crop_size))


def verify_any_size(
    exported: Outputs,
    live: Logits,
    crop_size: tuple[int, int],
    dtype: str,
    announce: Callable[[str], None] = lambda stage: None,
) -> Agreement:
    """Does the same as `verify` at the crop's size, and in batches of three at a larger and at a small size. The last
    row and column are padding."""
    height, width = crop_size
    larger, small = (height + 3 * OUTPUT_STRIDE, width + OUTPUT_STRIDE), (2 * OUTPUT_STRIDE, 5 * OUTPUT_STRIDE)
    found = []
    for size, counts in ((crop_size, (1, 3)), (larger, (3,)), (small, (3,))):

        def announce_size(stage: str, size: tuple[int, int] = size) -> None:
            announce(f"{stage} ({size[0]}x{size[1]})")

        found.append(_verify(exported, live, dtype, announce_size, probe_images(size), _real(size), counts=counts))
    return _worst(found)


def _real(size: tuple[int, int]) -> Bool[np.ndarray, "3 h8 w8"]:
    real = np.ones((3, size[0] // OUTPUT_STRIDE, size[1] // OUTPUT_STRIDE), bool)
    if min(real.shape) > 1:
        real[:, -1] = real[:, :, -1] = False
    return real


def _verify(
    exported: Outputs,
    live: Logits,
    dtype: str,
    announce: Callable[[str], None],
    *inputs: Shaped[np.ndarray, "3 ..."],
    counts: Sequence[int] = (1, 3),
) -> Agreement:
    announce("compiling the live network")
    logits = live(*inputs)
    if not jnp.isfinite(logits).all():
        raise UserError("the network's logits are not finite: export another checkpoint")
    found = []
    for count in counts:
        pictures = "one picture" if count == 1 else "three pictures"
        announce(f"compiling the file's network for {pictures} and comparing it")
        found.append(_compare(exported(*(x[:count] for x in inputs)), logits[:count], TOLERANCE[dtype]))
    return _worst(found)


def _worst(found: Sequence[Agreement]) -> Agreement:
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
