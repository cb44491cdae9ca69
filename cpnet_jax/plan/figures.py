"""Derives time, memory and communication from a compiled step."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cpnet_jax.models.forms.space_to_depth import SIDE
from cpnet_jax.plan import cycles, gpus, parts, roofline
from cpnet_jax.plan.compiler import Compiled
from cpnet_jax.plan.hlo import Array, Program
from cpnet_jax.plan.topologies import Chip, Topology

GRADIENTS, STATISTICS, SCALARS, OTHERS = "gradients", "BatchNorm statistics", "scalars", "something else"

BLOCK_POSITIONS = SIDE**2


@dataclass(frozen=True)
class Traffic:
    """All arrays of one kind that the chips exchange by one kind of collective in a step.

    Attributes:
      collective: one of `hlo.COLLECTIVES`.
      content: GRADIENTS, STATISTICS, SCALARS or OTHERS.
      times: number of collectives with such arrays; one may also hold arrays of other kinds.
      bytes: of these arrays on one chip.
    """

    collective: str
    content: str
    times: int
    bytes: int

    @property
    def expected(self) -> bool:
        """Whether data parallelism needs this exchange."""
        return self.collective == "all-reduce" and self.content != OTHERS


@dataclass(frozen=True)
class Figures:
    """Time, memory and communication of a compiled step that fits.

    Times are lower bounds; see `TpuFigures` and `GpuFigures`.
    """

    chip: Any
    compiled: Compiled

    @property
    def compute(self) -> float:
        """Seconds of a step without communication."""
        raise NotImplementedError

    @property
    def images(self) -> int:
        return self.compiled.images

    @cached_property
    def _program(self) -> Program:
        return Program(self.compiled.program or "")

    def seconds(self, chips: int) -> float:
        """Seconds of a step on that many chips; the compiled all-reduces do not overlap with computation."""
        return self.compute + all_reduce_seconds(self.exchanged, self.chip, chips)

    def images_per_second(self, chips: int) -> float:
        """Images per second of each chip, on that many chips."""
        return self.images / self.seconds(chips)

    def utilization(self, chips: int) -> float:
        """Model FLOP utilisation: share of the chip's bfloat16 peak that the network's FLOPs take, in [0, 1]."""
        return self.compiled.flops / self.seconds(chips) / self.chip.peak

    @cached_property
    def exchanged(self) -> int:
        """Bytes that are all-reduced in a step, on each chip."""
        return sum(group.bytes for group in self.traffic if group.collective == "all-reduce")

    @cached_property
    def exchanges(self) -> int:
        """Number of collectives in a step."""
        return sum(collective.times for collective in self._program.collectives())

    @cached_property
    def traffic(self) -> list[Traffic]:
        """All communication of a step in groups, the largest first."""
        times: dict[tuple[str, str], int] = {}
        bytes_: dict[tuple[str, str], int] = {}
        for collective in self._program.collectives():
            contents = [self._content(*of) for of in zip(collective.arrays, collective.origins, strict=True)]
            for content in set(contents):
                times[collective.kind, content] = times.get((collective.kind, content), 0) + collective.times
            for content, array in zip(contents, collective.arrays, strict=True):
                key = collective.kind, content
                bytes_[key] = bytes_.get(key, 0) + array.bytes * collective.times
        groups = [Traffic(*key, times[key], bytes_[key]) for key in times]
        return sorted(groups, key=lambda group: -group.bytes)

    def _content(self, array: Array, origin: str) -> str:
        """Recognises an array by its shape, up to the order of the axes.

        In the forward pass, vectors over channels and the covariance of channels (for the prior's variance) are
        statistics. In the backward pass, vectors over channels are gradients of BatchNorm's scale and bias.
        """
        shape = _axes(array.shape)
        if not shape:
            return SCALARS
        channels = {_axes(shape) for shape in self.compiled.statistics}
        forward = "transpose(" not in origin
        if forward and (shape in channels or (len(set(shape)) == 1 and shape[:1] in channels)):
            return STATISTICS
        if shape[:1] == (BLOCK_POSITIONS,) and shape[1:] in channels:
            return GRADIENTS  # of scale and bias, for each position of a block (see `models.forms.space_to_depth`)
        return GRADIENTS if shape in {_axes(shape) for shape in self.compiled.parameters} else OTHERS

    def memory(self) -> dict[str, int]:
        """Bytes on one chip by content."""
        compiled, memory = self.compiled, self.compiled.memory
        assert memory is not None, "only a step that fits has figures"
        arguments = sum(compiled.state.values()) + compiled.batch
        return {
            "parameters": compiled.state["params"],
            "optimiser": compiled.state["opt_state"],
            "statistics": compiled.state["batch_stats"],
            "images, labels": compiled.batch,
            "activations, temporaries": memory["temp"],
            "program": memory["generated_code"],
            # Arrays are padded to tiles; negative if the program does not use all arguments. Outputs that are not
            # aliased are a few scalars.
            "padding": memory["argument"] - arguments + memory["output"] - memory["alias"],
        }


class TpuFigures(Figures):
    """Figures for a TPU chip, whose compiler estimates cycles.

    It has no estimate for pooling, asynchronous copies, calls into its library, launching the step and feeding it.
    """

    chip: Chip

    @cached_property
    def cycles(self) -> dict[str, int]:
        """Cycles of a step without communication, by part of the network (see `parts`)."""
        return parts.by_part(cycles.by_origin(self._program))

    @property
    def compute(self) -> float:
        return sum(self.cycles.values()) / self.chip.clock


class GpuFigures(Figures):
    """Figures for a GPU, see `roofline`."""

    chip: gpus.Card

    @cached_property
    def parts(self) -> dict[str, roofline.Part]:
        """The kernels of a step by part of the network."""
        return roofline.by_part(self._program, self.chip)

    @property
    def compute(self) -> float:
        return sum(part.seconds for part in self.parts.values())

    @property
    def floor(self) -> float:
        """Seconds of the network's FLOPs as defined, at the bfloat16 peak."""
        return self.compiled.flops / self.chip.peak


def figures(topology: Topology | gpus.Machine, compiled: Compiled) -> TpuFigures | GpuFigures:
    """Figures of a step that was compiled for this topology."""
    return (TpuFigures if isinstance(topology, Topology) else GpuFigures)(topology.chip, compiled)


def _axes(shape: Collection[int]) -> tuple[int, ...]:
    return tuple(sorted(side for side in shape if side != 1))


def all_reduce_seconds(size: int, chip: Chip | gpus.Card, chips: int) -> float:
    """Lower bound on the seconds of an all-reduce of arrays of `size` bytes per chip.

    Each of n chips sends 2 (n - 1) / n of its bytes: once to sum, once to distribute the sum. Within a slice all links
    work at once. Between slices each chip sends its share of the sum.
    """
    slices, inside = math.ceil(chips / chip.pod), min(chips, chip.pod)
    seconds = 2 * size * (inside - 1) / inside / chip.interconnect
    if slices > 1:
        assert chip.data_center is not None, "chips of several slices exchange data by the data centre's network"
        seconds += 2 * size / inside * (slices - 1) / slices / chip.data_center
    return seconds
