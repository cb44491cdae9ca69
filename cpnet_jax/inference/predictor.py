"""Prediction of whole images of any size: many windows a batch, all of one shape, over all devices.

Every device works on an image of its own and takes the next one when it is done. Each batch has equally many windows
for each device, so one compiled function runs them all, whatever the image, the scale or the flip; the scores stay on
the device until they are classes (see `canvas`). While the devices compute, the windows of the next batch are cut and
what was predicted before is handed on.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.inference.canvas import GRANULE, Painter
from cpnet_jax.inference.cutting import Images, Window, cut
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.protocol import Protocol

MEBIBYTE = 2**20
# A canvas shrinks when it is that many times larger than what a batch needs.
IDLE = 4
Example = dict[str, Any]
# One device's windows of a batch, and a batch.
Share = list[Window]
Batch = list[Share]


class Predictor:
    """Predicts images with a trained model.

    Args:
      model: its logits run over `mesh`.
      mesh: of devices of this process.
      protocol: scales, flip, and what happens where windows overlap.
      batch_size: windows at once on each device; see `usual_batch_size` where None.
      canvas_bytes: of scores and classes that a device keeps. Larger images are predicted in tiles: equal results, for
        the price of seeing the windows along the seams once for each tile.
      block_bytes: of probabilities that a device works on at once.
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
        # Of each pixel, the scores, and the classes found after each window, of this batch and the one before.
        pixel_bytes = 4 * self._classes + 2 * self._batch_size
        self._largest_side = max(math.isqrt(canvas_bytes // pixel_bytes) // GRANULE, 1) * GRANULE
        rows = block_bytes // (4 * self._classes * model.crop_size[1])
        self._block_rows = 2 ** min(max(rows, 1).bit_length() - 1, GRANULE.bit_length() - 1)

    def classes(self, examples: Iterable[Example]) -> Iterator[tuple[Example, UInt8[np.ndarray, "h w"]]]:
        """Yields (example, class of every pixel of its "image"), in order.

        Args:
          examples: each with "image", uint8 RGB (h, w, 3) of any size; taken as they are needed.
        """
        images = self._images(examples)
        canvas, running = None, deque()
        for batch in self._batches(images):
            busy = any(batch)
            if busy:
                canvas, classes = self._run(batch, canvas)
                running.append((batch, classes))
            # One batch is computed while what its predecessor completed is handed on.
            while len(running) > busy:
                _store_classes(*running.popleft())
            yield from images.finished()
        for done in running:
            _store_classes(*done)
        yield from images.finished()

    def probabilities(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Float[np.ndarray, "h w k"]]]:
        """Yields (example, float32 scores of every pixel, adding up to 1 over the classes), in order; see `classes`."""
        images = self._images(examples)
        canvas = None
        # A canvas has to be read before the next image is painted on it.
        for batch in self._batches(images, end_with_image=True):
            canvas, _ = self._run(batch, canvas)
            _store_probabilities(batch, canvas)
            yield from images.finished()

    def _images(self, examples: Iterable[Example]) -> Images:
        # Enough that every device has one and its next, and that one with a large image does not stop the others soon.
        return Images(examples, largest_side=self._largest_side, most_waiting=8 * self._mesh.size * self._batch_size)

    def _batches(self, images: Images, *, end_with_image: bool = False) -> Iterator[Batch]:
        """Equally many windows for every device: fewer at the end, where one's image ends if asked for, or where the
        others would run too far ahead of one. A batch without any window asks for what is done to be handed on."""
        streams = [cut(images, self._model, self._protocol) for _ in range(self._mesh.size)]
        while True:
            batch = [_take(stream, self._batch_size, end_with_image) for stream in streams]
            if images.exhausted and not any(batch):
                return
            yield batch

    def _run(self, batch: Batch, canvas: Array | None) -> tuple[Array, UInt8[Array, "b h w"]]:
        canvas = self._resized(canvas, batch)
        painter = Painter(canvas.shape[1:3], self._model.crop_size, self._protocol.scales, self._block_rows)
        blank = np.zeros((*self._model.crop_size, 3), np.uint8)
        pixels, placements = [], []
        for share in batch:
            missing = self._batch_size - len(share)
            pixels += [window.pixels for window in share] + [blank] * missing
            placements += [painter.place(window) for window in share] + [painter.nothing()] * missing
        logits = self._model.logits(sharding.to_devices(self._mesh, np.stack(pixels)))
        placements = jax.tree.map(lambda *values: np.stack(values), *placements)
        return _compiled(painter, self._mesh)(canvas, logits, sharding.to_devices(self._mesh, placements))

    def _resized(self, canvas: Float[Array, "d h w k"] | None, batch: Batch) -> Float[Array, "d h w k"]:
        """The canvas with room for every tile of the batch; whatever is not done yet lies within these.

        It grows in large strides, since every size is compiled once, and shrinks only where most of it lay idle.
        """
        tiles = [window.tile.size for share in batch for window in share]
        needed = tuple(min(_stride(max(sides)), self._largest_side) for sides in zip(*tiles, strict=True))
        if canvas is None:
            shape = (self._mesh.size, *needed, self._classes)
            return jnp.zeros(shape, jnp.float32, device=sharding.split(self._mesh))
        size = tuple(map(max, needed, canvas.shape[1:3]))
        if math.prod(size) > IDLE * math.prod(needed):
            size = needed
        if size == canvas.shape[1:3]:
            return canvas
        kept = canvas[:, : size[0], : size[1]]
        return jnp.pad(
            kept, [(0, 0), *((0, new - old) for new, old in zip(size, kept.shape[1:3], strict=True)), (0, 0)]
        )


# Kept for good: every evaluation of a training run paints alike, with another model.
@lru_cache
def _compiled(painter: Painter, mesh: Mesh) -> Callable[..., tuple[Array, Array]]:
    return jax.jit(sharding.per_device(painter.paint, mesh), donate_argnums=0)


def usual_batch_size(mesh: Mesh) -> int:
    """Windows at once on each device. CPUs are slower with more (measured: 10 % with 4), accelerators with fewer."""
    return 2 if sharding.is_on_cpus(mesh) else 8


def _take(windows: Iterator[Window], count: int, end_with_image: bool) -> Share:
    taken = []
    while len(taken) < count and (window := next(windows, None)) is not None:
        taken.append(window)
        if end_with_image and window.last:
            break
    return taken


def _stride(side: int) -> int:
    """The next canvas side: GRANULE times 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    granules = -(-side // GRANULE)
    power = 2 ** (granules - 1).bit_length()
    return GRANULE * (power * 3 // 4 if granules <= power * 3 // 4 else power)


def _store_classes(batch: Batch, classes: UInt8[Array, "b h w"]) -> None:
    for share, part in zip(batch, _parts(classes), strict=True):
        if any(window.last for window in share):
            part = np.asarray(part)
            for window, found in zip(share, part, strict=False):
                if window.last:
                    window.tile.store(found)


def _store_probabilities(batch: Batch, canvas: Float[Array, "d h w k"]) -> None:
    for share, part in zip(batch, _parts(canvas), strict=True):
        if share and share[-1].last:
            tile = share[-1].tile
            scores = np.asarray(part)[0, : tile.size[0], : tile.size[1]]
            tile.store(scores / scores.sum(axis=-1, keepdims=True))


def _parts(x: Array) -> list[Array]:
    """Each device's part, in the order of the mesh."""
    return [shard.data for shard in sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)]
