"""Finds the range of values of a user's images that have more than 8 bits a channel."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cpnet_jax.data import image_files
from cpnet_jax.data.builders.pairing import FIELD
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.large_images import work_on
from cpnet_jax.data.value_range import Extremes, ValueRange, extremes_of
from cpnet_jax.errors import UserError

RANGE_FIELD = f"{FIELD}.value_range"
HOW_TO_SET = f"set {RANGE_FIELD} to the values that shall become black and white, such as '(0,4095)'"


def range_of_images(
    source: Source, names: Sequence[str], find_range: Callable[[Mapping[str, Extremes]], ValueRange]
) -> ValueRange | None:
    """Reads all images of more than 8 bits; prints their range and returns it, or None if there are none.

    Args:
      source: the raw files.
      names: names of all images.
      find_range: returns the range for the extremes of the images by name; raises ValueError if they show none.

    Raises:
      UserError: if the values show no range.
    """
    with ThreadPoolExecutor() as pool:
        found = dict(zip(names, pool.map(partial(_extremes, source), names), strict=True))
    deep = {name: extremes for name, extremes in found.items() if extremes}
    if not deep:
        return None
    try:
        low, high = find_range(deep)
    except ValueError as error:
        raise UserError(f"in {source.path}, {error}: {HOW_TO_SET}") from error
    lowest, highest = min(each.lowest for each in deep.values()), max(each.highest for each in deep.values())
    print(
        f"Note: {len(deep)} image(s) have more than 8 bits a channel and values of {lowest:g} to {highest:g}: "
        f"{low:g} to {high:g} becomes 0 to 255; if their range is another, set {RANGE_FIELD}",
        flush=True,
    )
    return low, high


def _extremes(source: Source, name: str) -> Extremes | None:
    """Returns the extremes of an image of more than 8 bits; None for others, and for those that cannot be read."""
    try:
        data = source.read(name)
        if not image_files.is_deep(data):
            return None
        with work_on(data):
            return extremes_of(image_files.pixel_values(image_files.open_image(data), data))
    except (UserError, ValueError):  # raised again, with advice, when the image is prepared
        return None
