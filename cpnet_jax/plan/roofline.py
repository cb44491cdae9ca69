"""Time of a step on a GPU, kernel by kernel: the longer of its arithmetic and its memory traffic, and a launch.

It is a lower bound for kernels in this order: arithmetic at the card's peak, memory at its full bandwidth, nothing at
once. It is not one for data that a kernel finds in the caches, which count as read from memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cpnet_jax.plan import parts
from cpnet_jax.plan.gpus import Card
from cpnet_jax.plan.hlo import Program
from cpnet_jax.plan.kernels import Kernel, kernels

# Between two kernels; XLA's own model of GPUs has the same figure.
LAUNCH_SECONDS = 1e-6


@dataclass(frozen=True)
class Part:
    """Kernels of one part of the network, in one step.

    Attributes:
      launches: number of kernels.
      flops: of matrix products and convolutions.
      bytes: read and written.
      arithmetic, memory: seconds that each would take alone.
      seconds: of the kernels, one after the other.
    """

    launches: int
    flops: int
    bytes: int
    arithmetic: float
    memory: float
    seconds: float

    @classmethod
    def of(cls, found: Sequence[Kernel], card: Card) -> "Part":
        return cls(
            sum(kernel.times for kernel in found),
            sum(kernel.times * kernel.flops.total() for kernel in found),
            sum(kernel.times * kernel.bytes for kernel in found),
            sum(kernel.times * _arithmetic(kernel, card) for kernel in found),
            sum(kernel.times * _memory(kernel, card) for kernel in found),
            sum(seconds(kernel, card) for kernel in found),
        )


def by_part(program: Program, card: Card) -> dict[str, Part]:
    """The step's kernels by part of the network (see `parts`); all parts and the rest are present."""
    found: dict[str, list[Kernel]] = {part: [] for part in (*parts.PATTERNS, parts.REST)}
    for kernel in kernels(program, lambda kernel: seconds(kernel, card)):
        found[parts.part_of(kernel.origin)].append(kernel)
    return {part: Part.of(each, card) for part, each in found.items()}


def seconds(kernel: Kernel, card: Card) -> float:
    """Of all runs of a kernel in a step."""
    return kernel.times * (max(_arithmetic(kernel, card), _memory(kernel, card)) + LAUNCH_SECONDS)


def _arithmetic(kernel: Kernel, card: Card) -> float:
    """Seconds of one run's arithmetic."""
    # Types without a peak, such as integers, are computed by the float32 units.
    products = sum(flops / card.peaks.get(dtype, card.peaks["f32"]) for dtype, flops in kernel.flops.items())
    return products + kernel.operations / card.operations


def _memory(kernel: Kernel, card: Card) -> float:
    """Seconds of one run's reads and writes."""
    return kernel.bytes / card.bandwidth
