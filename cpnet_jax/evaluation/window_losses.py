"""The training loss of single windows, from outputs that the network computed for an evaluation."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.inference.cutting import Window, WindowBatch
from cpnet_jax.models import CPNetOutput, PriorFactors
from cpnet_jax.training.step import Loss

Terms = dict[str, Float[Array, " b"]]
# Batches whose losses may still be computed on the devices.
RUNNING = 2


def compiled_losses(loss: Loss, mesh: Mesh) -> Callable[..., Terms]:
    """Returns a function (output, labels, real=None) -> the loss and its terms of each window alone, split over the
    mesh; `real` is that of `losses.total_loss`.

    Args:
      loss: see `losses.total_loss`.
    """

    def losses(
        block_rows: int | None,
        bfloat16: bool,
        shared: PyTree,
        own: PyTree,
        labels: UInt8[Array, "b h w"],
        *real: Bool[Array, "b h8 w8"],
    ) -> Terms:
        labels = labels.astype(jnp.int32)

        def of_window(place: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
            one = partial(lax.dynamic_slice_in_dim, start_index=place, slice_size=1)
            logits, aux_logits, each = jax.tree.map(one, own)
            prior = PriorFactors(*each, *shared, block_rows=block_rows, bfloat16=bfloat16) if each else None
            output = CPNetOutput(logits, aux_logits, prior)
            value, terms = loss(output, one(labels), **({"real": one(*real)} if real else {}))
            return {"loss": value} | terms

        # One window at a time, because the loss of a batch is one number.
        return lax.map(of_window, jnp.arange(labels.shape[0]))

    @cache
    def compiled(block_rows: int | None, bfloat16: bool) -> Callable[..., Terms]:
        """The program for priors that are computed in this way."""
        return jax.jit(sharding.per_device(partial(losses, block_rows, bfloat16), mesh, replicated=1))

    def of_output(
        output: CPNetOutput, labels: UInt8[Any, "b h w"], real: Bool[Array, "b h8 w8"] | None = None
    ) -> Terms:
        logits, aux_logits, prior = output
        shared, each = prior.parts() if prior else ((), ())
        run = compiled(prior.block_rows, prior.bfloat16) if prior else compiled(None, False)
        padding = () if real is None else (real,)
        return run(shared, (logits, aux_logits, each), sharding.to_devices(mesh, labels), *padding)

    return of_output


class WindowLosses:
    """Sums the training loss and its terms over the windows of an evaluation, at scale 1 and not mirrored.

    Args:
      losses: see `compiled_losses`.
      ignore_label: label of the padding of windows that reach beyond their image.
    """

    def __init__(self, losses: Callable[..., Terms], *, ignore_label: int) -> None:
        self._losses, self._ignore_label = losses, ignore_label
        self._running: deque[tuple[list[int], Terms]] = deque()
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, output: CPNetOutput, batch: WindowBatch, real: Bool[Array, "b h8 w8"] | None = None) -> None:
        """Adds the windows of a batch that count, given the network's output for it.

        Args:
          real: False for positions that only pad a whole image, which no term contains. The padding of windows counts
            as in training.
        """
        labels = np.full((len(batch.devices) * batch.slots, *batch.size), self._ignore_label, np.uint8)
        counted = []
        for slot, window in batch.numbered():
            if _counts(window):
                _write_label(labels[slot], window)
                counted.append(slot)
        if counted:
            self._running.append((counted, self._losses(output, labels, real)))
        while len(self._running) > RUNNING:
            self._sum(*self._running.popleft())

    def sums(self) -> tuple[dict[str, float], int]:
        """The sum of the loss and of each term, and the number of windows, so far."""
        while self._running:
            self._sum(*self._running.popleft())
        return self._sums, self._count

    def _sum(self, counted: list[int], terms: Terms) -> None:
        for name, values in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(np.asarray(values, np.float64)[counted].sum())
        self._count += len(counted)


def _counts(window: Window) -> bool:
    # A window is computed for each tile that it reaches: the tile with its corner counts it.
    inside = (begin <= at < end for at, (begin, end) in zip(window.corner, window.tile[1:], strict=True))
    return window.scale == 1 and not window.flipped and all(inside)


def _write_label(label: UInt8[np.ndarray, "h w"], window: Window) -> None:
    """Writes a window's part of its image's label to the top left."""
    (top, left), (height, width) = window.corner, label.shape
    part = window.tile.image.example["label"][top : top + height, left : left + width]
    label[: part.shape[0], : part.shape[1]] = part


def mean_losses(parts: list[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """The mean over the windows of all parts, each from `WindowLosses.sums`; empty without windows."""
    count = sum(part for _, part in parts)
    names = dict.fromkeys(name for sums, _ in parts for name in sums)
    return {name: sum(sums.get(name, 0.0) for sums, _ in parts) / count for name in names}
