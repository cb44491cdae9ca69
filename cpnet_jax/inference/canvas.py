"""The score canvas: on each device, the per-pixel sum of the class probabilities of one tile's windows.

Windows come as logits at output stride 8. They become probabilities at the crop's size, are resized to the image's own
size and added, a few rows at a time. Thus the canvas is the only array with the size of the image times the classes.
After a tile's last window, the best class of each pixel is read and the canvas is cleared for the next tile.

If logits are averaged before the softmax, a second array of that size holds their weighted sum over the windows of a
pass; after its last window, their softmax is added to the probabilities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from cpnet_jax.inference.cutting import Window
from cpnet_jax.inference.windows import Reach, bilinear_taps

# Maps the logits of pixels to what is added.
Scores = Callable[[Float[Array, "h w k"]], Float[Array, "h w k"]]


class Canvas(NamedTuple):
    """The sums of a device's tile, or of one tile on each device of a mesh, at the size of the image.

    Attributes:
      scores: of probabilities.
      logits: of logits in the current pass; None if windows become probabilities one by one.
    """

    scores: Float[Array, "d h w k"]
    logits: Float[Array, "d h w k"] | None


class Placement(NamedTuple):
    """Where and how the windows of a batch are added to the canvas; every array has one entry per window.

    Attributes:
      scale: index of the window's scale; -1 adds nothing.
      flipped: whether the window is mirrored.
      clear: rows to clear before the window; 0 unless it is the first of its tile.
      read: rows to read after the window; 0 unless it is the last of its tile.
      begin: rows of logits to clear before the window; 0 unless it is the first of its pass.
      end: rows of logits that become probabilities after the window; 0 unless it is the last of its pass.
      top, left: corner on the canvas of the patch that the window reaches.
      rows: height of the patch.
      row_index, row_weight, column_index, column_weight: lower and upper taps of the patch, see `windows.Taps`.
    """

    scale: Int[Any, " n"]
    flipped: Bool[Any, " n"]
    clear: Int[Any, " n"]
    read: Int[Any, " n"]
    begin: Int[Any, " n"]
    end: Int[Any, " n"]
    top: Int[Any, " n"]
    left: Int[Any, " n"]
    rows: Int[Any, " n"]
    row_index: Int[Any, "n 2 p"]
    row_weight: Float[Any, "n 2 p"]
    column_index: Int[Any, "n 2 q"]
    column_weight: Float[Any, "n 2 q"]


@dataclass(frozen=True)
class Accumulator:
    """Adds batches of windows of one crop size to canvases of one size.

    Attributes:
      canvas_size: (height, width), multiples of GRANULE.
      crop_size: (height, width) of the windows.
      scales: the scales that windows may have.
      block_rows: rows processed at once; a divisor of GRANULE.
    """

    canvas_size: Sequence[int]
    crop_size: tuple[int, int]
    scales: tuple[float, ...]
    block_rows: int

    @cached_property
    def _patches(self) -> list[tuple[int, int]]:
        """(height, width) of the largest patch that a window can reach, at each scale.

        A patch begins at a multiple of the block, up to block - 1 rows before the window's first row.
        """
        reach = [[_largest_reach(crop, scale) for crop in self.crop_size] for scale in self.scales]
        patches = ((height + 2 * self.block_rows, width) for height, width in reach)
        return [tuple(map(min, patch, self.canvas_size)) for patch in patches]

    def padding(self) -> Placement:
        """The placement of a window that only pads a batch."""
        height, width = map(max, zip(*self._patches, strict=True))
        index, weight = partial(np.zeros, dtype=np.int32), partial(np.zeros, dtype=np.float32)
        return Placement(
            scale=np.int32(-1),
            flipped=np.False_,
            **{name: np.int32(0) for name in ("clear", "read", "begin", "end", "top", "left", "rows")},
            row_index=index((2, height)),
            row_weight=weight((2, height)),
            column_index=index((2, width)),
            column_weight=weight((2, width)),
        )

    def place(self, window: Window) -> Placement:
        """The placement of a window on the canvas, whose top left corner is that of the window's tile."""
        blank, (rows, columns) = self.padding(), (window.rows, window.columns)
        top = rows.start // self.block_rows * self.block_rows
        scale = self.scales.index(window.scale)
        left = min(columns.start, self.canvas_size[1] - self._patches[scale][1])
        _write(blank.row_index, blank.row_weight, rows, rows.start - top)
        _write(blank.column_index, blank.column_weight, columns, columns.start - left)
        height = window.tile.size[0]
        return blank._replace(
            scale=np.int32(scale),
            flipped=np.bool_(window.flipped),
            clear=np.int32(height if window.first else 0),
            read=np.int32(height if window.last else 0),
            begin=np.int32(height if window.begins else 0),
            end=np.int32(height if window.ends else 0),
            top=np.int32(top),
            left=np.int32(left),
            rows=np.int32(rows.start - top + rows.taps.lower.size),
        )

    def add(
        self, canvas: Canvas, logits: Float[Array, "n h8 w8 k"], placement: Placement
    ) -> tuple[Canvas, UInt8[Array, "n h w"]]:
        """Adds one device's windows one by one; pure, for use under jit and shard_map.

        Returns:
          The canvas, and after each window the best classes of the rows to read (0 elsewhere).
        """

        def one(canvas: Canvas, window: tuple[Array, Placement]) -> tuple[Canvas, Array]:
            z, place = window
            z = jnp.where(place.flipped, z[:, ::-1], z)
            scores, logits = self._clear(canvas.scores, place.clear), canvas.logits
            if logits is None:
                scores = self._add_window(scores, z, place, partial(jax.nn.softmax, axis=-1))
            else:
                logits = self._add_window(self._clear(logits, place.begin), z, place, lambda z: z)
                scores = self._add_softmax(scores, logits, place.end)
            return Canvas(scores, logits), self._read(scores, place.read)

        added, classes = lax.scan(one, jax.tree.map(lambda x: x[0], canvas), (logits, placement))
        return jax.tree.map(lambda x: x[None], added), classes

    def _blocks(self, rows: Int[Array, ""]) -> Int[Array, ""]:
        return (rows + self.block_rows - 1) // self.block_rows

    # The following parts are loops over blocks of rows, whose count is 0 if there is nothing to do. A loop updates the
    # canvas in place; a conditional could copy it.

    def _clear(self, canvas: Float[Array, "h w k"], rows: Int[Array, ""]) -> Float[Array, "h w k"]:
        zeros = jnp.zeros((self.block_rows, *canvas.shape[1:]), canvas.dtype)

        def block(i: Int[Array, ""], canvas: Float[Array, "h w k"]) -> Float[Array, "h w k"]:
            return lax.dynamic_update_slice_in_dim(canvas, zeros, i * self.block_rows, 0)

        return lax.fori_loop(0, self._blocks(rows), block, canvas)

    def _read(self, canvas: Float[Array, "h w k"], rows: Int[Array, ""]) -> UInt8[Array, "h w"]:
        def block(i: Int[Array, ""], classes: UInt8[Array, "h w"]) -> UInt8[Array, "h w"]:
            scores = lax.dynamic_slice_in_dim(canvas, i * self.block_rows, self.block_rows)
            best = jnp.argmax(scores, axis=-1).astype(jnp.uint8)
            return lax.dynamic_update_slice_in_dim(classes, best, i * self.block_rows, 0)

        return lax.fori_loop(0, self._blocks(rows), block, jnp.zeros(canvas.shape[:2], jnp.uint8))

    def _add_softmax(
        self, scores: Float[Array, "h w k"], logits: Float[Array, "h w k"], rows: Int[Array, ""]
    ) -> Float[Array, "h w k"]:
        def block(i: Int[Array, ""], scores: Float[Array, "h w k"]) -> Float[Array, "h w k"]:
            start = i * self.block_rows
            old, z = (lax.dynamic_slice_in_dim(x, start, self.block_rows) for x in (scores, logits))
            return lax.dynamic_update_slice_in_dim(scores, old + jax.nn.softmax(z, axis=-1), start, 0)

        return lax.fori_loop(0, self._blocks(rows), block, scores)

    def _add_window(
        self, canvas: Float[Array, "h w k"], logits: Float[Array, "h8 w8 k"], place: Placement, scores: Scores
    ) -> Float[Array, "h w k"]:
        for number in range(len(self.scales)):
            canvas = self._add_at_scale(canvas, logits, place, scores, number)
        return canvas

    def _add_at_scale(
        self,
        canvas: Float[Array, "h w k"],
        logits: Float[Array, "h8 w8 k"],
        place: Placement,
        scores: Scores,
        number: int,
    ) -> Float[Array, "h w k"]:
        """Adds the scores of a window's logits if the window is of scale `number`."""
        scale, (height, width) = self.scales[number], self._patches[number]
        interpolate = scale != 1
        # Number of window rows that one block of image rows depends on.
        window_rows = math.ceil((self.block_rows - 1) * scale + 0.5) + 2 if interpolate else self.block_rows
        window_rows = min(window_rows, self.crop_size[0])
        rows = _Taps(place.row_index[:, :height], place.row_weight[:, :height])
        columns = _Taps(place.column_index[:, :width], place.column_weight[:, :width])
        to_crop = bilinear_taps(logits.shape[0], self.crop_size[0])
        up = _Taps(jnp.asarray([to_crop.lower, to_crop.upper]), jnp.asarray(to_crop.weight, canvas.dtype))

        def block(i: Int[Array, ""], canvas: Float[Array, "h w k"]) -> Float[Array, "h w k"]:
            wanted = rows.part(i * self.block_rows, self.block_rows)
            first = jnp.minimum(wanted.index[0, 0], self.crop_size[0] - window_rows)
            z = _interpolate(logits, up.part(first, window_rows), axis=0)
            z = jax.image.resize(z, (window_rows, self.crop_size[1], z.shape[2]), "bilinear", antialias=False)
            p = scores(z)
            p = _interpolate(p, _Taps(wanted.index - first, wanted.weight), axis=0, upper=interpolate)
            p = _interpolate(p, columns, axis=1, upper=interpolate)
            corner = (place.top + i * self.block_rows, place.left, 0)
            return lax.dynamic_update_slice(canvas, lax.dynamic_slice(canvas, corner, p.shape) + p, corner)

        return lax.fori_loop(0, jnp.where(place.scale == number, self._blocks(place.rows), 0), block, canvas)


class _Taps(NamedTuple):
    index: Int[Array, "2 out"]
    weight: Float[Array, "2 out"]

    def part(self, start: Int[Array, ""], size: int) -> "_Taps":
        return _Taps(*(lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in self))


def _interpolate(x: Array, taps: _Taps, *, axis: int, upper: bool = True) -> Array:
    """Interpolates along one axis; without `upper`, the upper taps must have weight 0."""
    weight = taps.weight.reshape(2, *([1] * axis), -1, *([1] * (x.ndim - axis - 1)))
    lower = x.at[(slice(None),) * axis + (taps.index[0],)].get(mode="promise_in_bounds") * weight[0]
    if not upper:
        return lower
    return lower + x.at[(slice(None),) * axis + (taps.index[1],)].get(mode="promise_in_bounds") * weight[1]


def _largest_reach(crop: int, scale: float) -> int:
    """Upper bound on the image pixels that a window contributes to along one side, see `windows.Side`."""
    return math.ceil((crop + 2) / scale) + 2


def _write(index: Int[np.ndarray, "2 p"], weight: Float[np.ndarray, "2 p"], reach: Reach, start: int) -> None:
    size = reach.taps.lower.size
    index[:, start : start + size] = reach.taps.lower, reach.taps.upper
    weight[:, start : start + size] = reach.taps.weight
    # Taps must not decrease along the patch, because a block's first tap selects its window rows.
    index[:, start + size :] = index[:, start + size - 1 : start + size]
