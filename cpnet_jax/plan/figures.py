"""What a compiled step comes to: seconds, memory, and what the chips exchange."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from cpnet_jax.models.forms.space_to_depth import SIDE
from cpnet_jax.plan import parts
from cpnet_jax.plan.compiler import Compiled
from cpnet_jax.plan.hlo import Array, Collective, Program
from cpnet_jax.plan.topologies import Chip

GRADIENTS, STATISTICS, SCALARS, OTHERS = "gradients", "BatchNorm statistics", "scalars", "something else"

POSITIONS_OF_A_CELL = SIDE**2


@dataclass(frozen=True)
class Traffic:
    """Arrays of one kind that all chips exchange in one way, in one step.

    Attributes:
      collective: how: one of `hlo.COLLECTIVES`.
      content: what: GRADIENTS, STATISTICS, SCALARS or OTHERS.
      times: the exchanges that hold some of them; one exchange may hold several kinds.
      bytes: of all of them on one chip.
    """

    collective: str
    content: str
    times: int
    bytes: int

    @property
    def expected(self) -> bool:
        """Whether data parallelism needs it."""
        return self.collective == "all-reduce" and self.content != OTHERS


@dataclass(frozen=True)
class Figures:
    """The step of so many images a chip. Needs a step that fits.

    Times are lower bounds: the compiler has no estimate for pooling, asynchronous copies and calls into its library,
    and none for launching the step and feeding it.
    """

    chip: Chip
    compiled: Compiled

    @property
    def images(self) -> int:
        return self.compiled.images

    @cached_property
    def _program(self) -> Program:
        return Program(self.compiled.program)

    @cached_property
    def compute(self) -> float:
        """Seconds of a step, without the exchange."""
        return self._program.cycles() / self.chip.clock

    @cached_property
    def cycles(self) -> dict[str, int]:
        """Of a step without the exchange, by part of the network (see `parts`)."""
        return parts.by_part(self._program.cycles_by_origin())

    def seconds(self, chips: int) -> float:
        """Of a step on that many chips. Nothing is computed while they exchange: the compiled all-reduces are
        synchronous."""
        return self.compute + all_reduce_seconds(self.exchanged, self.chip, chips)

    def images_per_second(self, chips: int) -> float:
        """Of one chip of that many."""
        return self.images / self.seconds(chips)

    def of_peak(self, chips: int) -> float:
        """The share of the chip's bfloat16 FLOP/s that does what the network asks for, in [0, 1]."""
        return self.compiled.flops / self.seconds(chips) / self.chip.peak

    @cached_property
    def exchanged(self) -> int:
        """Bytes of each chip that are all-reduced in a step."""
        return sum(group.bytes for group in self.traffic if group.collective == "all-reduce")

    @cached_property
    def exchanges(self) -> int:
        """Times that the chips exchange something in a step."""
        return sum(collective.times for collective in self._program.collectives())

    @cached_property
    def traffic(self) -> list[Traffic]:
        """Every exchange of the program, in groups, the largest first."""
        times: dict[tuple[str, str], int] = {}
        bytes_: dict[tuple[str, str], int] = {}
        for collective in self._program.collectives():
            contents = [self._content(array, collective) for array in collective.arrays]
            for content in set(contents):
                times[collective.kind, content] = times.get((collective.kind, content), 0) + collective.times
            for content, array in zip(contents, collective.arrays, strict=True):
                key = collective.kind, content
                bytes_[key] = bytes_.get(key, 0) + array.bytes * collective.times
        groups = [Traffic(*key, times[key], bytes_[key]) for key in times]
        return sorted(groups, key=lambda group: -group.bytes)

    def _content(self, array: Array, collective: Collective) -> str:
        """By shape, up to the order of the axes. Going forward, vectors of one number a channel, and the covariance
        of channels from which the prior's variance follows, are statistics; going backward, they are gradients of
        BatchNorm's scale and bias, which the gradients through its statistics are made of."""
        shape = _axes(array.shape)
        if not shape:
            return SCALARS
        channels = {_axes(shape) for shape in self.compiled.statistics}
        forward = "transpose(" not in collective.origin
        if forward and (shape in channels or (len(set(shape)) == 1 and shape[:1] in channels)):
            return STATISTICS
        if shape[:1] == (POSITIONS_OF_A_CELL,) and shape[1:] in channels:
            return GRADIENTS  # of scale and bias, for each position of a cell (see `models.forms.space_to_depth`)
        return GRADIENTS if shape in {_axes(shape) for shape in self.compiled.parameters} else OTHERS

    def memory(self) -> dict[str, int]:
        """Bytes on one chip, by what they hold."""
        compiled, memory = self.compiled, self.compiled.memory
        arguments = sum(compiled.state.values()) + compiled.batch
        return {
            "parameters": compiled.state["params"],
            "optimiser": compiled.state["opt_state"],
            "statistics": compiled.state["batch_stats"],
            "images, labels": compiled.batch,
            "activations, temporaries": memory["temp"],
            "program": memory["generated_code"],
            # Arrays are laid out in tiles; results that take no argument's place are a few scalars.
            "padding": max(memory["argument"] - arguments, 0) + memory["output"] - memory["alias"],
        }


def _axes(shape: Collection[int]) -> tuple[int, ...]:
    return tuple(sorted(side for side in shape if side != 1))


def all_reduce_seconds(size: int, chip: Chip, chips: int) -> float:
    """The least time in which so many chips can sum arrays of `size` bytes each.

    A chip has to send every byte of its sum to be, and of the sum, but for what stays with it: 2 (n - 1) / n. Within a
    slice over all links at once; between slices a chip takes part for its own share of the sum.
    """
    slices, inside = math.ceil(chips / chip.pod), min(chips, chip.pod)
    seconds = 2 * size * (inside - 1) / inside / chip.interconnect
    if slices > 1:
        seconds += 2 * size / inside * (slices - 1) / slices / chip.data_center
    return seconds
