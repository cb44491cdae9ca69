"""TPU chips and slices; `parse` also knows machines with GPUs."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.experimental import topologies

from cpnet_jax.errors import UserError
from cpnet_jax.plan import gpus

GIB = 2**30
# Shapes of slices wired in two dimensions; shapes of those wired in three that are smaller than 4x4x4.
FLAT = {(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)}
BELOW_A_CUBE = {(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)}


@dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      name: as in a topology's name.
      hbm: memory, in bytes.
      peak: bfloat16 FLOP/s.
      mxus, mxu_side: number of matrix units in all its cores, and their width.
      interconnect: bytes/s that it sends to its neighbours over all links (half of the bidirectional figure).
      data_center: bytes/s that it sends to other slices, its share of the hosts' network cards; None if one slice is
        large enough for all purposes.
      pod: most chips in one slice.
      dimensions: of a slice, 2 or 3.
      options: arguments of libtpu that make the chip one device.
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
    def room(self) -> int:
        """Bytes that a step may take."""
        return self.hbm

    @property
    def clock(self) -> float:
        """Hz: a matrix unit does side^2 multiplications and additions per cycle."""
        return self.peak / (2 * self.mxus * self.mxu_side**2)


# Figures from the system architecture pages of the Cloud TPU documentation: https://cloud.google.com/tpu/docs/v4, /v5e,
# /v5p and /v6e. Two cores of a v4 work as one device ("megacore"). The pages give both two and four matrix units for
# v6e; four is right, since two would double the clock of the previous generation.
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
    unit: str = field(default="chip", init=False)
    platform: str = field(default="tpu", init=False)

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    def devices(self) -> list[jax.Device]:
        """Stand-ins for the chips, to compile for; needs libtpu, and the environment that `compiler` sets."""
        # Every host of these slices has four chips; only v4 needs the option.
        options = self.chip.options and self.chip.options | {"chips_per_host_bounds": [2, 2, 1]}
        return topologies.get_topology_desc(platform="tpu", topology_name=self.name, **options).devices


def parse(name: str) -> Topology | gpus.Machine:
    """Parses the name of a slice, such as v5e:16x16 or v4:2x2x4, or of GPUs in a machine, such as h100:8.

    Raises:
      UserError: if the chip is unknown or has no slices of this shape.
    """
    if name.split(":")[0] in gpus.CARDS:
        return gpus.parse(name)
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match:
        raise UserError(
            f"--topology is {name!r}: it must be a TPU chip and a shape, or GPUs of one machine, for example v5e:4x4, "
            "v4:2x2x4 or h100:8"
        )
    if match[1] not in CHIPS:
        raise UserError(
            f"--topology is {name}: {match[1]} is an unknown chip, use one of {', '.join((*CHIPS, *gpus.CARDS))}"
        )
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
