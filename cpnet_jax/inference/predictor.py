"""Predicts whole images of any size with sliding windows, over all devices.

Each device works on one image tile at a time. A batch has the same number of windows for every device. All windows
have one shape, so one compiled function runs them all, whatever the image, scale or flip. Scores stay on the device
until they are reduced to classes (see `canvas`). While the devices compute, the host cuts the next windows and yields
earlier results.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.inference.canvas import GRANULE, Accumulator, Canvas
from cpnet_jax.inference.cutting import ImageQueue, Window, cut
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.protocol import Protocol

MEBIBYTE = 2**20
# A canvas shrinks if it is more than this many times larger than a batch needs.
LARGEST_EXCESS = 4
Example = dict[str, Any]
# A batch: a list of windows for each device.
WindowBatch = list[list[Window]]
BatchLogits = Callable[[UInt8[Array, "b h w 3"], WindowBatch], Float[Array, "b h/8 w/8 k"]]


class Predictor:
    """Predicts images with a trained model.

    Args:
      model: the network, compiled for `mesh`.
      mesh: devices of this process.
      protocol: scales, flip and overlap.
      batch_size: windows per device in a batch; None: see `usual_batch_size`.
      canvas_bytes: limit for the scores and classes kept on a device. Larger images are predicted in tiles with equal
        results; windows across tile borders are then computed once for each tile.
      block_bytes: limit for the probabilities that a device processes at once.
    """

    def __init__(
        self,
        model: TrainedModel,
        mesh: Mesh,
        *,
        protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
        batch_size: int | None = None,
        canvas_bytes: int = 1024 * MEBIBYTE,
        block_bytes: int = 16 * MEBIBYTE,
    ) -> None:
        self._model, self._mesh, self._protocol = model, mesh, protocol
        self._batch_size = batch_size or usual_batch_size(mesh)
        self._classes = len(model.dataset.classes)
        self._averages_logits = protocol.overlap == "average_logits"
        # Per pixel: the scores, their logits, and the classes after each window of this batch and the previous one.
        pixel_bytes = 4 * self._classes * (1 + self._averages_logits) + 2 * self._batch_size
        self._largest_side = max(math.isqrt(canvas_bytes // pixel_bytes) // GRANULE, 1) * GRANULE
        rows = block_bytes // (4 * self._classes * model.crop_size[1])
        self._block_rows = 2 ** min(max(rows, 1).bit_length() - 1, GRANULE.bit_length() - 1)

    def classes(
        self, examples: Iterable[Example], *, logits: BatchLogits | None = None
    ) -> Iterator[tuple[Example, UInt8[np.ndarray, "h w"]]]:
        """Yields (example, class of every pixel), in order.

        Args:
          examples: each with "image", uint8 RGB (h, w, 3) of any size; consumed lazily.
          logits: used in place of the model's; it is also passed the batch that the windows are from.
        """
        images = self._images(examples)
        canvas, running = None, deque()
        for batch in self._batches(images):
            busy = any(batch)
            if busy:
                canvas, classes = self._run(batch, canvas, logits)
                running.append((batch, classes))
            # While this batch is computed, the results of the previous one are yielded.
            while len(running) > busy:
                _store_classes(*running.popleft())
            yield from images.finished()
        for done in running:
            _store_classes(*done)
        yield from images.finished()

    def probabilities(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Float[np.ndarray, "h w k"]]]:
        """Yields (example, float32 class probabilities of every pixel), in order; see `classes`."""
        images = self._images(examples)
        canvas = None
        # A canvas must be read before the next tile is added to it.
        for batch in self._batches(images, end_with_tile=True):
            canvas, _ = self._run(batch, canvas)
            _store_probabilities(batch, canvas.scores)
            yield from images.finished()

    def _images(self, examples: Iterable[Example]) -> ImageQueue:
        # Long enough that a device with a large image does not stall the others soon.
        return ImageQueue(
            examples, largest_side=self._largest_side, most_waiting=8 * self._mesh.size * self._batch_size
        )

    def _batches(self, images: ImageQueue, *, end_with_tile: bool = False) -> Iterator[WindowBatch]:
        """Yields up to `batch_size` windows for each device.

        A device gets fewer at the end, if it would run too far ahead of the others, or, with `end_with_tile`, after a
        tile's last window. A batch without any window means that results must be yielded first.
        """
        streams = [cut(images, self._model, self._protocol) for _ in range(self._mesh.size)]
        while True:
            batch = [_take(stream, self._batch_size, end_with_tile) for stream in streams]
            if images.exhausted and not any(batch):
                return
            yield batch

    def _run(
        self, batch: WindowBatch, canvas: Canvas | None, logits_of: BatchLogits | None = None
    ) -> tuple[Canvas, UInt8[Array, "b h w"]]:
        canvas = self._resized(canvas, batch)
        accumulator = Accumulator(
            canvas.scores.shape[1:3], self._model.crop_size, self._protocol.scales, self._block_rows
        )
        blank = np.zeros((*self._model.crop_size, 3), np.uint8)
        pixels, placements = [], []
        for windows in batch:
            missing = self._batch_size - len(windows)
            pixels += [window.pixels for window in windows] + [blank] * missing
            placements += [accumulator.place(window) for window in windows] + [accumulator.padding()] * missing
        windows = sharding.to_devices(self._mesh, np.stack(pixels))
        logits = self._model.logits(windows) if logits_of is None else logits_of(windows, batch)
        placements = jax.tree.map(lambda *values: np.stack(values), *placements)
        return _compiled(accumulator, self._mesh)(canvas, logits, sharding.to_devices(self._mesh, placements))

    def _resized(self, canvas: Canvas | None, batch: WindowBatch) -> Canvas:
        """The canvas, resized if needed so that every tile of the batch fits.

        Every size is compiled once, so it grows in large steps and shrinks only if most of it is unused.
        """
        tiles = [window.tile.size for windows in batch for window in windows]
        needed = tuple(min(_stride(max(sides)), self._largest_side) for sides in zip(*tiles, strict=True))
        if canvas is None:
            shape = (self._mesh.size, *needed, self._classes)
            blank = partial(jnp.zeros, shape, jnp.float32, device=sharding.split(self._mesh))
            return Canvas(blank(), blank() if self._averages_logits else None)
        size = tuple(map(max, needed, canvas.scores.shape[1:3]))
        if math.prod(size) > LARGEST_EXCESS * math.prod(needed):
            size = needed
        if size == canvas.scores.shape[1:3]:
            return canvas
        return jax.tree.map(partial(_with_size, size=size), canvas)


# Cached: the evaluations of a training run differ only in the model's parameters.
@lru_cache
def _compiled(accumulator: Accumulator, mesh: Mesh) -> Callable[..., tuple[Canvas, Array]]:
    return jax.jit(sharding.per_device(accumulator.add, mesh), donate_argnums=0)


def usual_batch_size(mesh: Mesh) -> int:
    """Default number of windows per device: CPUs are slower with more (10 % with 4), accelerators with fewer."""
    return 2 if sharding.is_on_cpus(mesh) else 8


def _with_size(x: Float[Array, "d h w k"], size: tuple[int, ...]) -> Float[Array, "d h2 w2 k"]:
    kept = x[:, : size[0], : size[1]]
    return jnp.pad(kept, [(0, 0), *((0, new - old) for new, old in zip(size, kept.shape[1:3], strict=True)), (0, 0)])


def _take(windows: Iterator[Window | None], count: int, end_with_tile: bool) -> list[Window]:
    taken = []
    while len(taken) < count and (window := next(windows, None)) is not None:
        taken.append(window)
        if end_with_tile and window.last:
            break
    return taken


def _stride(side: int) -> int:
    """The smallest canvas side that fits: GRANULE times 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    granules = -(-side // GRANULE)
    power = 2 ** (granules - 1).bit_length()
    return GRANULE * (power * 3 // 4 if granules <= power * 3 // 4 else power)


def _store_classes(batch: WindowBatch, classes: UInt8[Array, "b h w"]) -> None:
    for windows, part in zip(batch, _parts(classes), strict=True):
        if any(window.last for window in windows):
            part = np.asarray(part)
            for window, found in zip(windows, part, strict=False):
                if window.last:
                    window.tile.store(found)


def _store_probabilities(batch: WindowBatch, canvas: Float[Array, "d h w k"]) -> None:
    for windows, part in zip(batch, _parts(canvas), strict=True):
        if windows and windows[-1].last:
            tile = windows[-1].tile
            scores = np.asarray(part)[0, : tile.size[0], : tile.size[1]]
            tile.store(scores / scores.sum(axis=-1, keepdims=True))


def _parts(x: Array) -> list[Array]:
    """Each device's part of an array, in the order of the mesh."""
    return [shard.data for shard in sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)]
