"""Defines the exported function and serialises it for every platform.

(weights, uint8 windows of the crop size) -> outputs
(weights, uint8 images of any size, which positions are real) -> outputs, for networks that take any size
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, PyTree, UInt8

from cpnet_jax.data.normalize import normalize
from cpnet_jax.inference.export.artifact import Weights
from cpnet_jax.models import CPNet, upsample
from cpnet_jax.models.cpnet import OUTPUT_STRIDE

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# (weights, windows (b, h, w, 3), *real (b, h/8, w/8)) -> {"logits": (b, h/8, w/8, k), "classes": (b, h, w)}
Network = Callable[..., dict[str, Array]]


def make_network(model: CPNet, mean: Sequence[float], std: Sequence[float]) -> Network:
    """Makes the function to export.

    Args:
      mean, std: normalisation constants, RGB, in units of 0 .. 255.
    """
    model = _for_prediction(model)

    def network(
        weights: Weights, windows: UInt8[Array, "b h w 3"], real: Bool[Array, "b h/8 w/8"] | None = None
    ) -> dict[str, Array]:
        variables = flax.traverse_util.unflatten_dict(weights, sep="/")
        output: Any = model.apply(variables, normalize(windows, mean, std), train=False, real=real)
        return {"logits": output.logits, "classes": class_map(output.logits, windows.shape[1:3])}

    return network


def class_map(logits: Float[Array, "b h w k"], size: Sequence[int]) -> UInt8[Array, "b H W"]:
    """The class of every pixel: argmax of the bilinearly upsampled logits."""
    return jnp.argmax(upsample(logits, size), axis=-1).astype(jnp.uint8)


def weights_for(model: CPNet, variables: PyTree, crop_size: tuple[int, int]) -> Weights:
    """The weights needed for prediction (without the auxiliary head), flat and on the host.

    Raises:
      KeyError, ValueError: if the variables do not fit the model.
    """
    images = jax.ShapeDtypeStruct((1, *crop_size, 3), jnp.float32)
    wanted = jax.eval_shape(lambda: _for_prediction(model).init(jax.random.key(0), jnp.zeros_like(images), train=False))
    found = flax.traverse_util.flatten_dict(variables, sep="/")
    weights: Weights = {}
    wanted: Any = flax.traverse_util.flatten_dict(wanted, sep="/")
    for name, shape in wanted.items():
        weights[name] = np.asarray(found[name])
        if (weights[name].shape, weights[name].dtype) != (shape.shape, shape.dtype):
            raise ValueError(f"{name} is {weights[name].dtype}{weights[name].shape}, the model's is {shape}")
    return weights


def serialise(network: Network, weights: Weights, crop_size: tuple[int, int] | None) -> bytes:
    """Serialises the network for all platforms and any batch size.

    Args:
      crop_size: of the windows; None: for images of any size in multiples of 8.
    """
    batch, rows, columns = export.symbolic_shape("b, h, w")
    size = crop_size or (OUTPUT_STRIDE * rows, OUTPUT_STRIDE * columns)
    inputs = [jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)]
    if crop_size is None:
        inputs.append(jax.ShapeDtypeStruct((batch, rows, columns), jnp.bool_))
    shapes: Any = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    return bytes(export.export(jax.jit(network), platforms=PLATFORMS)(shapes, *inputs).serialize())


def _for_prediction(model: CPNet) -> CPNet:
    return model.clone(aux_channels=0)
