"""TPU chips and slices of them."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from cpnet_jax.errors import UserError

GIB = 2**30
# Slices of chips that are wired in two dimensions, and those of the others that are smaller than a cube of 4x4x4.
FLAT = {(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)}
BELOW_A_CUBE = {(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)}


@dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      name: as in a topology's name.
      hbm: memory, in bytes.
      peak: bfloat16 FLOP/s.
      mxus, mxu_side: matrix units of all its cores, and their width.
      interconnect: bytes/s that it sends to its neighbours, over all links together (half of the figure that vendors
        call bidirectional).
      data_center: bytes/s that it sends to other slices, its share of the hosts' network cards; None where a slice
        may be so large that nobody needs two.
      pod: most chips in one slice.
      dimensions: of a slice, 2 or 3.
      options: what libtpu has to be told for one device a chip.
    """

    name: str
    hbm: int
    peak: float
    mxus: int
    mxu_side: int
    interconnect: float
    data_center: float | None
    pod: int
    dimensions: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def clock(self) -> float:
        """Hz: a matrix unit does side^2 multiplications and additions a cycle."""
        return self.peak / (2 * self.mxus * self.mxu_side**2)


# From the "System architecture" pages of Google's Cloud TPU documentation, one a chip:
# https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e. Two cores of a v4 work as one device ("megacore").
# For v6e they say two matrix units here and four there; four give the clock of the generation before, two the double.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * GIB, 275e12, 8, 128, 300e9, None, 4096, 3, {"chip_config_name": "megacore"}),
        Chip("v5e", 16 * GIB, 197e12, 4, 128, 200e9, 6.4e12 / 8 / 256, 256, 2),
        Chip("v5p", 95 * GIB, 459e12, 8, 128, 600e9, 50e9 / 8, 6144, 3),
        Chip("v6e", 32 * GIB, 918e12, 4, 256, 400e9, 25.6e12 / 8 / 256, 256, 2),
    )
}


@dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind, wired as a grid of `shape`."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `jax.experimental.topologies.get_topology_desc`, besides the name."""
        # Every host of these slices has four chips; only v4 must be told so.
        return self.chip.options and self.chip.options | {"chips_per_host_bounds": [2, 2, 1]}


def parse(name: str) -> Topology:
    """The slice of that name, such as v5e:16x16 or v4:2x2x4.

    Raises:
      UserError: on an unknown chip, or a shape that its slices do not have.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match:
        raise UserError(f"--topology is {name!r}: it must be a chip and a shape, as in v5e:4x4 or v4:2x2x4")
    if match[1] not in CHIPS:
        raise UserError(f"--topology is {name}: {match[1]} is no chip known here, take one of {', '.join(CHIPS)}")
    chip, shape = CHIPS[match[1]], tuple(map(int, match[2].split("x")))
    if chip.dimensions == 2 and shape not in FLAT:
        known = ", ".join("x".join(map(str, shape)) for shape in sorted(FLAT))
        raise UserError(f"--topology is {name}: slices of {chip.name} have one of the shapes {known}")
    cubes = len(shape) == 3 and all(side and side % 4 == 0 for side in shape) and math.prod(shape) <= chip.pod
    if chip.dimensions == 3 and shape not in BELOW_A_CUBE and not cubes:
        known = ", ".join("x".join(map(str, shape)) for shape in sorted(BELOW_A_CUBE))
        raise UserError(
            f"--topology is {name}: slices of {chip.name} have one of the shapes {known}, or three sides that are "
            f"multiples of 4 and at most {chip.pod} chips"
        )
    return Topology(chip, shape)
