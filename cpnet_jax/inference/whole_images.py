"""Batches of whole images, for networks that take images of any size: all devices work on one padded size at a time.

Images are not predicted in their order, but grouped by size among those that wait (see `ImageQueue`). A device without
an image of that size computes blanks. What is computed for an image depends on its own size only: neither on the other
images nor on the number of devices.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

from cpnet_jax.inference.cutting import ImageQueue, Tile, WindowBatch, padded_size, windows_of
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.windows import coarse

# The canvas's size and the padded size at each scale: tiles of one kind go through the same programs.
Kind = tuple[tuple[int, int], ...]


def whole_batches(
    images: ImageQueue,
    protocol: Protocol,
    mean: Sequence[float],
    *,
    devices: int,
    slots: Callable[[tuple[int, int]], int],
    single_tiles: bool,
) -> Iterator[WindowBatch]:
    """Yields batches of whole images, padded.

    A batch without any window means that results must be yielded first.

    Args:
      mean: colour of the padding, RGB.
      slots: the largest number of windows of a size that a device can compute at once.
      single_tiles: whether a device must not get two tiles in a batch.
    """
    flips = 2 if protocol.flip else 1
    # With several scales, a device finishes a tile before it starts the next: it has one canvas.
    single_tiles = single_tiles or len(protocol.scales) > 1
    waiting: list[tuple[Kind, Tile]] = []

    def tiles_at_once(kind: Kind) -> int:
        return 1 if single_tiles else max(slots(kind[1]) // flips, 1)

    while True:
        group = _next_group(images, waiting, protocol, lambda kind: devices * tiles_at_once(kind))
        if not group and images.exhausted:
            return
        if not group:
            yield WindowBatch([[] for _ in range(devices)], 0)
            continue
        kind, tiles = group
        streams = [
            itertools.chain.from_iterable(windows_of(tile, protocol, None, mean) for tile in tiles[device::devices])
            for device in range(devices)
        ]
        windows = tiles_at_once(kind) * flips
        for size in kind[1:]:
            count = min(slots(size), windows)
            for _ in range(0, windows, count):
                yield WindowBatch([list(itertools.islice(stream, count)) for stream in streams], count)


def _next_group(
    images: ImageQueue,
    waiting: list[tuple[Kind, Tile]],
    protocol: Protocol,
    largest: Callable[[Kind], int],
) -> tuple[Kind, list[Tile]] | None:
    """Takes the oldest tile and others of its kind; first reads ahead until they are enough, or too many images wait.

    Args:
      waiting: tiles that were handed out by `images` but not taken yet; is changed.
      largest: how many tiles of a kind are enough.
    """
    if not waiting and not _read(images, waiting, protocol):
        return None
    kind = waiting[0][0]
    while sum(other == kind for other, _ in waiting) < largest(kind) and _read(images, waiting, protocol):
        pass
    numbers = [number for number, (other, _) in enumerate(waiting) if other == kind][: largest(kind)]
    tiles = [waiting[number][1] for number in numbers]
    for number in reversed(numbers):
        del waiting[number]
    return kind, tiles


def _read(images: ImageQueue, waiting: list[tuple[Kind, Tile]], protocol: Protocol) -> bool:
    tile = images.next_tile()
    if tile is None:
        return False
    height, width = tile.size
    kind = (coarse(height), coarse(width)), *(padded_size(tile.image, scale) for scale in protocol.scales)
    waiting.append((kind, tile))
    return True
