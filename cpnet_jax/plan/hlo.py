"""Reads a compiled program's text: the compiler's estimate of its cycles, and its collectives."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
# Attributes that name the computations an instruction calls, once each or once per iteration of a loop. The cycles of
# a fusion or reduction include those of the computations it names.
CALLS = {
    "while": ("body",),
    "call": ("to_apply",),
    "conditional": ("true_computation", "false_computation", "branch_computations"),
    "async-start": ("calls",),
}

# The compiler writes its largest integer if it has no estimate.
NO_ESTIMATE = 2**63 - 1

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\w*\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Array:
    """One array that devices exchange."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        match = re.search(r"\d+", self.dtype)
        assert match or self.dtype == "pred", self.dtype
        bits = int(match[0]) if match else 8
        return math.prod(self.shape) * bits // 8


@dataclass(frozen=True)
class Collective:
    """One collective operation between devices.

    Attributes:
      kind: one of COLLECTIVES.
      arrays: its results on each device.
      origin: JAX's name of the operation that it belongs to.
      times: number of runs in a step.
    """

    kind: str
    arrays: tuple[Array, ...]
    origin: str
    times: int


@dataclass(frozen=True)
class _Instruction:
    type: str
    operation: str
    rest: str  # operands and attributes


class Program:
    """A compiled module, parsed from the text that XLA prints."""

    def __init__(self, text: str) -> None:
        self._computations: dict[str, list[_Instruction]] = {}
        entry, current = None, None
        for line in text.splitlines():
            if match := _HEADER.match(line):
                current = self._computations.setdefault(match[2], [])
                entry = match[2] if match[1] else entry
            elif current is not None and (match := _INSTRUCTION.match(line)):
                current.append(_Instruction(*match.groups()))
        if entry is None:
            raise ValueError("the text of the compiled program has no ENTRY computation")
        self._cycles = self._estimate(entry)
        self._run = list(self._walk(entry, 1))

    def cycles(self) -> int:
        """The compiler's estimate for one run: a lower bound, since collectives and some others have no estimate.

        Of a conditional the cheapest branch counts.
        """
        return self._cycles.total()

    def cycles_by_origin(self) -> Counter[str]:
        """The same by JAX's name of the operation, "" if unknown. A fusion counts for one of its operations."""
        return self._cycles

    def collectives(self) -> list[Collective]:
        """All collectives, in the program's order."""
        return [found for instruction, times in self._run if (found := _collective(instruction, times))]

    def _estimate(self, computation: str) -> Counter[str]:
        cycles = Counter()
        for instruction in self._computations[computation]:
            if (own := _CYCLES.search(instruction.rest)) and int(own[1]) != NO_ESTIMATE:
                cycles[_origin(instruction)] += int(own[1])
            if inner := [self._estimate(called) for called in _called(instruction)]:
                run = [min(inner, key=Counter.total)] if instruction.operation == "conditional" else inner
                for origin, count in sum(run, Counter()).items():
                    cycles[origin] += count * self._times(instruction)
        return cycles

    def _walk(self, computation: str, times: int) -> Iterator[tuple[_Instruction, int]]:
        """Yields every instruction that runs, with its number of runs."""
        for instruction in self._computations[computation]:
            yield instruction, times
            for called in _called(instruction):
                yield from self._walk(called, times * self._times(instruction))

    def _times(self, loop: _Instruction) -> int:
        """Number of times that an instruction runs the computations it calls.

        For a loop, the number of iterations; it must count up to a constant, as `scan` does.
        """
        if loop.operation != "while":
            return 1
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        [condition] = _names(loop.rest, "condition")
        bounds = [
            int(instruction.rest.split(")")[0])
            for instruction in self._computations[condition]
            if instruction.operation == "constant" and instruction.type.startswith("s32[]")
        ]
        if len(bounds) != 1:
            raise ValueError(f"the iterations of a loop cannot be derived from its condition, {condition}")
        return bounds[0]


def _called(instruction: _Instruction) -> list[str]:
    attributes = CALLS.get(instruction.operation, ())
    return [name for attribute in attributes for name in _names(instruction.rest, attribute)]


def _names(text: str, attribute: str) -> list[str]:
    """Names in `attribute=%name` or `attribute={%name, %name}`."""
    match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.-]+)", text)
    return re.findall(r"[\w.-]+", match[1]) if match else []


def _origin(instruction: _Instruction) -> str:
    match = _OP_NAME.search(instruction.rest)
    return match[1] if match else ""


def _collective(instruction: _Instruction, times: int) -> Collective | None:
    kind = instruction.operation.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    arrays = [
        Array(dtype, tuple(int(side) for side in sides.split(",") if side))
        for dtype, sides in _ARRAY.findall(instruction.type)
    ]
    if instruction.operation.endswith("-start") and kind != "all-reduce":
        # The type of an asynchronous collective is (operands, results, scalars for the device).
        whole = [array for array in arrays if array.shape]
        arrays = whole[len(whole) // 2 :]
    return Collective(kind, tuple(arrays), _origin(instruction), times)
