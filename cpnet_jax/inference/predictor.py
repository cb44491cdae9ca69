"""Predicts images of any size, with sliding windows or whole, over all devices.

Each device works on one image tile at a time. A batch has the same number of windows for every device. All sliding
windows have one shape, so one compiled function runs them all, whatever the image, scale or flip. Whole images have a
few shapes (see `whole_images`). Scores stay on the device until they are reduced to classes (see `canvas`). While the
devices compute, the host cuts the next windows and yields earlier results.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.errors import UserError, reason
from cpnet_jax.inference.canvas import Accumulator, Canvas
from cpnet_jax.inference.cutting import ImageQueue, Window, WindowBatch, cut
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.whole_images import whole_batches
from cpnet_jax.inference.windows import GRANULE, coarse
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.runtime import memory

MEBIBYTE = 2**20
# A canvas shrinks if it is more than this many times larger than a batch needs.
LARGEST_EXCESS = 4
Example = dict[str, Any]
# What the network takes: windows, and for whole images which of their positions are not padding.
Inputs = tuple[UInt8[Array, "b h w 3"]] | tuple[UInt8[Array, "b h w 3"], Bool[Array, "b h8 w8"]]
BatchLogits = Callable[[Inputs, WindowBatch], Float[Array, "b h/8 w/8 k"]]


class Predictor:
    """Predicts images with a trained model.

    Args:
      model: the network, compiled for `mesh`.
      mesh: devices of this process.
      protocol: scales, flip and overlap.
      windows: whether images are cut into windows of the model's crop size; otherwise they are predicted whole.
      batch_size: windows per device in a batch; None: see `usual_batch_size`. Whole images have no more pixels in a
        batch than these windows, except that an image may be larger.
      canvas_bytes: limit for the scores and classes kept on a device. Larger images are predicted in tiles with equal
        results; windows across tile borders are then computed once for each tile.
      block_bytes: limit for the probabilities that a device processes at once.

    Raises:
      UserError: without windows, if the model takes windows of its crop size only.
    """

    def __init__(
        self,
        model: TrainedModel,
        mesh: Mesh,
        *,
        protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
        windows: bool = True,
        batch_size: int | None = None,
        canvas_bytes: int = 1024 * MEBIBYTE,
        block_bytes: int = 16 * MEBIBYTE,
    ) -> None:
        check_windows(windows, any_size=model.any_size)
        self._model, self._mesh, self._protocol, self._windows = model, mesh, protocol, windows
        self._batch_size, self._canvas_bytes = batch_size or usual_batch_size(mesh), canvas_bytes
        self._classes = len(model.dataset.classes)
        self._averages_logits = protocol.overlap == "average_logits"
        # Per pixel: the scores, their logits, and the classes after each window of this batch and the previous one.
        pixel_bytes = 4 * self._classes * (1 + self._averages_logits) + 2 * self._batch_size
        self._largest_side = max(math.isqrt(canvas_bytes // pixel_bytes) // GRANULE, 1) * GRANULE
        self._block_bytes = block_bytes

    def classes(
        self, examples: Iterable[Example], *, logits: BatchLogits | None = None
    ) -> Iterator[tuple[Example, UInt8[np.ndarray, "h w"]]]:
        """Yields (example, class of every pixel), in order.

        Args:
          examples: each with "image", uint8 RGB (h, w, 3) of any size; consumed lazily.
          logits: used in place of the model's; it is also passed the batch that the inputs are from.

        Raises:
          UserError: if a whole image, or a batch of windows, does not fit into the memory of a device.
        """
        images = self._images(examples)
        canvas, running = None, deque()
        with self._explaining_memory():
            for batch in self._batches(images):
                busy = not batch.empty
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
        with self._explaining_memory():
            # A canvas must be read before the next tile is added to it.
            for batch in self._batches(images, end_with_tile=True):
                canvas, _ = self._run(batch, canvas)
                _store_probabilities(batch, canvas.scores)
                yield from images.finished()

    @contextmanager
    def _explaining_memory(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if not memory.is_lacking(error):
                raise
            raise UserError(self._less_memory(why=reason(error).rstrip("."))) from error
        except MemoryError as error:
            raise UserError(
                f"this machine's memory is not enough for an image and what is predicted of it ({reason(error)}): cut "
                "the image into parts, or leave out --probabilities"
            ) from error

    def _less_memory(self, why: str) -> str:
        """What does not fit into a device's memory, and the fields that help."""
        if not self._windows:
            return (
                f"config.eval.windows is False, and a whole image does not fit into the memory of a device ({why}): "
                "give --config.eval.windows=True to cut images into windows"
            )
        count = self._batch_size
        fewer = f"--config.eval.batch_size={count // 2} or " if count > 1 else ""
        return (
            f"the memory of a device is not enough for {count} window(s) and the scores of an image ({why}): give "
            f"{fewer}--config.eval.canvas_mib={max(self._canvas_bytes // MEBIBYTE // 2, 1)}"
        )

    def _images(self, examples: Iterable[Example]) -> ImageQueue:
        # Long enough that a device with a large image does not stall the others soon.
        return ImageQueue(
            examples, largest_side=self._largest_side, most_waiting=8 * self._mesh.size * self._batch_size
        )

    def _batches(self, images: ImageQueue, *, end_with_tile: bool = False) -> Iterator[WindowBatch]:
        """Yields batches; with `end_with_tile`, a device gets windows of one tile only."""
        if self._windows:
            return self._window_batches(images, end_with_tile)
        return whole_batches(
            images,
            self._protocol,
            self._model.mean,
            devices=self._mesh.size,
            slots=self._slots,
            single_tiles=end_with_tile,
        )

    def _slots(self, size: tuple[int, int]) -> int:
        """Whole images of a padded size that a device predicts at once."""
        pixels = self._batch_size * math.prod(self._model.crop_size)
        return min(max(pixels // math.prod(size), 1), self._batch_size)

    def _window_batches(self, images: ImageQueue, end_with_tile: bool) -> Iterator[WindowBatch]:
        """Yields up to `batch_size` windows for each device.

        A device gets fewer at the end, if it would run too far ahead of the others, or, with `end_with_tile`, after a
        tile's last window. A batch without any window means that results must be yielded first.
        """
        model = self._model
        streams = [cut(images, self._protocol, model.crop_size, model.mean) for _ in range(self._mesh.size)]
        while True:
            devices = [_take(stream, self._batch_size, end_with_tile) for stream in streams]
            batch = WindowBatch(devices, self._batch_size)
            if images.exhausted and batch.empty:
                return
            yield batch

    def _run(
        self, batch: WindowBatch, canvas: Canvas | None, logits_of: BatchLogits | None = None
    ) -> tuple[Canvas, UInt8[Array, "b h w"]]:
        canvas = self._resized(canvas, batch)
        accumulator = self._accumulator(canvas, batch)
        count = self._mesh.size * batch.slots
        pixels = np.zeros((count, *batch.size, 3), np.uint8)
        placements = [accumulator.padding()] * count
        for slot, window in batch.numbered():
            pixels[slot] = window.pixels
            placements[slot] = accumulator.place(window)
        inputs = sharding.to_devices(self._mesh, (pixels,) if self._windows else (pixels, _real(batch, count)))
        logits = self._model.logits(*inputs) if logits_of is None else logits_of(inputs, batch)
        placements = jax.tree.map(lambda *values: np.stack(values), *placements)
        return _compiled(accumulator, self._mesh)(canvas, logits, sharding.to_devices(self._mesh, placements))

    def _accumulator(self, canvas: Canvas, batch: WindowBatch) -> Accumulator:
        rows = self._block_bytes // (4 * self._classes * batch.size[1])
        block_rows = 2 ** min(max(rows, 1).bit_length() - 1, GRANULE.bit_length() - 1)
        # Whole images in a batch have one scale, and their sizes differ from scale to scale.
        scales = self._protocol.scales if self._windows else (next(batch.numbered())[1].scale,)
        return Accumulator(canvas.scores.shape[1:3], batch.size, scales, block_rows)

    def _resized(self, canvas: Canvas | None, batch: WindowBatch) -> Canvas:
        """The canvas, resized if needed so that every tile of the batch fits.

        Every size is compiled once, so it grows in large steps and shrinks only if most of it is unused. Whole
        images get a new one of the size that they need, since that size is compiled anyway. It is always empty then,
        because tiles of different canvas sizes share no batch.
        """
        tiles = [window.tile.size for _, window in batch.numbered()]
        needed = tuple(min(coarse(max(sides)), self._largest_side) for sides in zip(*tiles, strict=True))
        if canvas is None or (not self._windows and canvas.scores.shape[1:3] != needed):
            shape = (self._mesh.size, *needed, self._classes)
            blank = partial(jnp.zeros, shape, jnp.float32, device=sharding.split(self._mesh))
            return Canvas(blank(), blank() if self._averages_logits else None)
        size = tuple(map(max, needed, canvas.scores.shape[1:3]))
        if math.prod(size) > LARGEST_EXCESS * math.prod(needed):
            size = needed
        if size == canvas.scores.shape[1:3]:
            return canvas
        return jax.tree.map(partial(_with_size, size=size), canvas)


def check_windows(windows: bool, *, any_size: bool) -> None:
    """Raises UserError if images are to be predicted whole by a network that takes windows of one size only."""
    if not windows and not any_size:
        raise UserError(
            "config.eval.windows is False, but this network takes windows of its training crop only: leave it True, or "
            "use a network that takes images of any size (docs/evaluation.md)"
        )


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


def _real(batch: WindowBatch, count: int) -> Bool[np.ndarray, "n h8 w8"]:
    # Blanks are all real: without any real position, means would divide by 0.
    real = np.ones((count, *(side // OUTPUT_STRIDE for side in batch.size)), bool)
    for slot, window in batch.numbered():
        real[slot] = window.real()
    return real


def _store_classes(batch: WindowBatch, classes: UInt8[Array, "b h w"]) -> None:
    for windows, part in zip(batch.devices, _parts(classes), strict=True):
        if any(window.last for window in windows):
            part = np.asarray(part)
            for window, found in zip(windows, part, strict=False):
                if window.last:
                    window.tile.store(found)


def _store_probabilities(batch: WindowBatch, canvas: Float[Array, "d h w k"]) -> None:
    for windows, part in zip(batch.devices, _parts(canvas), strict=True):
        if windows and windows[-1].last:
            tile = windows[-1].tile
            scores = np.asarray(part)[0, : tile.size[0], : tile.size[1]]
            tile.store(scores / scores.sum(axis=-1, keepdims=True))


def _parts(x: Array) -> list[Array]:
    """Each device's part of an array, in the order of the mesh."""
    return [shard.data for shard in sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)]
