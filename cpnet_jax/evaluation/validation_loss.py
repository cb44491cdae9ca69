"""The training objective on images that are not trained on: without augmentation, dropout or batch statistics."""

from collections.abc import Callable, Iterable
from itertools import islice

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.models import CPNetOutput
from cpnet_jax.training.step import Loss

Batch = dict[str, np.ndarray]
# (variables, batch) -> the loss and its terms of each example alone
Losses = Callable[[PyTree, Batch], dict[str, Float[Array, " b"]]]


def compiled_losses(
    model: nn.Module, loss: Loss, mesh: Mesh, *, normalize: Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h w 3"]]
) -> Losses:
    """Of each example the loss as if the batch held nothing else, so that it does not depend on how they are batched.

    Args:
      model, loss: see `training.step`.
      mesh: to divide batches over.
      normalize: uint8 images -> what the model takes.
    """

    def losses(variables: PyTree, batch: Batch) -> dict[str, Float[Array, " b"]]:
        output = model.apply(variables, normalize(batch["image"]), train=False)
        labels = batch["label"].astype(jnp.int32)

        def one(place: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
            value, terms = loss(_example(output, place), lax.dynamic_slice_in_dim(labels, place, 1))
            return {"loss": value} | terms

        # One after the other: losses of a whole batch would hold an N x N array for each example.
        return lax.map(one, jnp.arange(labels.shape[0]))

    return jax.jit(sharding.per_device(losses, mesh, replicated=1))


def _example(output: CPNetOutput, place: Int[Array, ""]) -> CPNetOutput:
    """One example of a batch, as a batch."""

    def part(x: Array | None) -> Array | None:
        return None if x is None else lax.dynamic_slice_in_dim(x, place, 1)

    # The other factors are the same for every example.
    prior = None if output.prior is None else output.prior.replace(features=part(output.prior.features))
    return CPNetOutput(part(output.logits), part(output.aux_logits), prior)


def summed_losses(
    losses: Losses, variables: PyTree, crops: Iterable[Batch], *, mesh: Mesh, batch_size: int
) -> tuple[dict[str, float], int]:
    """The loss and its terms added up over all crops, and their number.

    Args:
      crops: "image" and "label" of the crop size each.
      batch_size: a multiple of the devices of `mesh`; the last batch is filled up with what is not counted.
    """
    sums, count, crops = {}, 0, iter(crops)
    while some := list(islice(crops, batch_size)):
        batch = {name: np.stack([crop[name] for crop in some]) for name in ("image", "label")}
        missing = batch_size - len(some)
        batch = {name: np.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]) for name, x in batch.items()}
        found = jax.device_get(losses(variables, sharding.to_devices(mesh, batch)))
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + float(values[: len(some)].sum(dtype=np.float64))
        count += len(some)
    return sums, count
