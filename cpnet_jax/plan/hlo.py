"""What a compiled program's text says: the compiler's estimate of its cycles, and what its devices exchange."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
# Attributes that name computations which the instruction runs once each (but for a loop's, once a trip). The insides of
# a fusion have no cycles of their own, and what a reduction applies to its elements is part of it.
RUNS = {
    "while": ("body",),
    "call": ("to_apply",),
    "conditional": ("true_computation", "false_computation", "branch_computations"),
    "async-start": ("calls",),
}

# What the compiler writes where it has no estimate, the largest of its integers.
NO_ESTIMATE = 2**63 - 1

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\w*\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Array:
    """One array that travels: its element type, shape and bytes."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 8 if self.dtype == "pred" else int(re.search(r"\d+", self.dtype)[0])
        return math.prod(self.shape) * bits // 8


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of COLLECTIVES.
      arrays: each device's results.
      origin: the operation of the source that asked for it, as JAX names it.
      times: that it runs a step.
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
    """The text of a compiled module, as XLA prints it."""

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
        """The compiler's estimate of one run: a lower bound, since it has none for exchanges and some others. Of
        alternatives, the cheapest counts."""
        return self._cycles.total()

    def cycles_by_origin(self) -> Counter[str]:
        """The same, by the operation of the source, as JAX names it; "" where the compiler does not tell it. What it
        has fused counts for one of the operations."""
        return self._cycles

    def collectives(self) -> list[Collective]:
        """In the program's order."""
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
        """Every instruction that runs, with how often."""
        for instruction in self._computations[computation]:
            yield instruction, times
            for called in _called(instruction):
                yield from self._walk(called, times * self._times(instruction))

    def _times(self, loop: _Instruction) -> int:
        """That an instruction runs what it calls: the trips of a loop that counts up to a constant, as those of `scan`
        do."""
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
            raise ValueError(f"the trips of a loop cannot be told from its condition, {condition}")
        return bounds[0]


def _called(instruction: _Instruction) -> list[str]:
    attributes = RUNS.get(instruction.operation, ())
    return [name for attribute in attributes for name in _names(instruction.rest, attribute)]


def _names(text: str, attribute: str) -> list[str]:
    """The computations that `attribute=%name` or `attribute={%name, %name}` names."""
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
        # An asynchronous one's type is (operands, results, and scalars that only the device needs).
        whole = [array for array in arrays if array.shape]
        arrays = whole[len(whole) // 2 :]
    return Collective(kind, tuple(arrays), _origin(instruction), times)
