"""What a network says of single windows: the training objective, without augmentation, dropout or batch statistics, and
rows of its context prior."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

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


class Subject(NamedTuple):
    """A window to inspect; `positions` are those whose prior rows are wanted, row-major."""

    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    positions: Int[np.ndarray, " p"]


class Inspection(NamedTuple):
    """Attributes:
    losses: the loss as if the batch held nothing else, and its terms.
    rows: P_i of each position, in [0, 1]; None without a context prior.
    """

    losses: dict[str, Float[Array, ""]]
    rows: Float[Array, "p n"] | None


class Inspector:
    """Inspects windows with a model.

    Args:
      model, loss: see `training.step`.
      mesh: of devices of this process, to divide batches over.
      normalize: uint8 images -> what the model takes.
      batch_size: a multiple of the devices.
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

        def inspect(variables: PyTree, batch: Subject) -> Inspection:
            output = model.apply(variables, normalize(batch.image), train=False)
            labels = batch.label.astype(jnp.int32)

            def losses(place: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
                value, terms = loss(_example(output, place), lax.dynamic_slice_in_dim(labels, place, 1))
                return {"loss": value} | terms

            rows = None if output.prior is None else prior_rows(output.prior, batch.positions)
            # One after the other: the loss of a batch is one number, wanted is that of each example.
            return Inspection(lax.map(losses, jnp.arange(labels.shape[0])), rows)

        self._inspect = jax.jit(sharding.per_device(inspect, mesh, replicated=1))

    def __call__(self, variables: PyTree, subjects: Iterable[Subject]) -> Iterator[Inspection]:
        """Of each subject, in order; all must have the same shapes."""
        subjects = iter(subjects)
        while some := list(islice(subjects, self._batch_size)):
            # The last batch is filled up with what nobody looks at.
            batch = [np.stack(parts) for parts in zip(*_filled(some, self._batch_size), strict=True)]
            found = jax.device_get(self._inspect(variables, sharding.to_devices(self._mesh, Subject(*batch))))
            for place in range(len(some)):
                yield jax.tree.map(lambda x: x[place], found)  # noqa: B023 (used at once)


def _filled(subjects: Sequence[Subject], size: int) -> list[Subject]:
    return [*subjects, *[subjects[0]] * (size - len(subjects))]


def _example(output: CPNetOutput, place: Int[Array, ""]) -> CPNetOutput:
    """One example of a batch, as a batch."""

    def part(x: Array | None) -> Array | None:
        return None if x is None else lax.dynamic_slice_in_dim(x, place, 1)

    # The other factors are the same for every example.
    prior = None if output.prior is None else output.prior.replace(features=part(output.prior.features))
    return CPNetOutput(part(output.logits), part(output.aux_logits), prior)
