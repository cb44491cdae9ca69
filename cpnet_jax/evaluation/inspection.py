"""Computes the training loss and rows of the context prior for single windows.

The network runs in inference mode: without augmentation, dropout or batch statistics.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.inference.prior_maps import prior_rows
from cpnet_jax.models import CPNetOutput
from cpnet_jax.training.step import Loss


class InspectionInput(NamedTuple):
    """A window to inspect, and the positions (row-major indices) whose prior rows are wanted."""

    image: UInt8[Any, "h w 3"]
    label: UInt8[Any, "h w"]
    positions: Int[Any, " p"]


class Inspection(NamedTuple):
    """The result for one window.

    Attributes:
      losses: the loss and its terms, computed for this window alone.
      rows: the prior row P_i of each position, in [0, 1]; None without a context prior.
    """

    losses: dict[str, Float[Array, ""]]
    rows: Any  # Float[Array, "p n"] | None


class Inspector:
    """Inspects windows with a model.

    Args:
      model, loss: see `training.step`.
      mesh: devices of this process; batches are split over them.
      normalize: maps uint8 images to the model's input.
      batch_size: a multiple of the number of devices.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        mesh: Mesh,
        *,
        normalize: Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h w 3"]],
        batch_size: int,
    ) -> None:
        self._mesh, self._batch_size = mesh, batch_size

        def inspect(variables: PyTree, batch: InspectionInput) -> Inspection:
            output: Any = model.apply(variables, normalize(batch.image), train=False)
            labels = batch.label.astype(jnp.int32)

            def losses(place: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
                value, terms = loss(_example(output, place), lax.dynamic_slice_in_dim(labels, place, 1))
                return {"loss": value} | terms

            rows = None if output.prior is None else prior_rows(output.prior, batch.positions)
            # One example at a time, because the loss of a batch is one number.
            return Inspection(lax.map(losses, jnp.arange(labels.shape[0])), rows)

        self._inspect = jax.jit(sharding.per_device(inspect, mesh, replicated=1))

    def __call__(self, variables: PyTree, inputs: Iterable[InspectionInput]) -> Iterator[Inspection]:
        """Yields the inspection of each input, in order; all inputs must have equal shapes."""
        inputs = iter(inputs)
        while some := list(islice(inputs, self._batch_size)):
            # The last batch is padded with copies of its first input; their results are dropped.
            padded = [*some, *[some[0]] * (self._batch_size - len(some))]
            batch = InspectionInput(*(np.stack(parts) for parts in zip(*padded, strict=True)))
            found = jax.device_get(self._inspect(variables, sharding.to_devices(self._mesh, batch)))
            for place in range(len(some)):
                yield jax.tree.map(lambda x: x[place], found)  # noqa: B023 (used at once)


def _example(output: CPNetOutput, place: Int[Array, ""]) -> CPNetOutput:
    """One example of a batch, as a batch of one."""

    def part(x: Any) -> Any:
        return None if x is None else lax.dynamic_slice_in_dim(x, place, 1)

    # The prior's other factors are parameters, shared by all examples.
    prior = None if output.prior is None else replace(output.prior, features=part(output.prior.features))
    return CPNetOutput(part(output.logits), part(output.aux_logits), prior)
