"""Reads a compiled program's text: its instructions, how often they run, and its collectives."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
# Attributes that name the computations an instruction runs, once each or once per iteration of a loop. A fusion or
# reduction is one operation, whatever computations it names.
CALLS = {
    "while": ("body",),
    "call": ("to_apply",),
    "conditional": ("true_computation", "false_computation", "branch_computations"),
    "async-start": ("calls",),
}

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\w*\[([\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NAME = re.compile(r"%([\w.-]+)")


@dataclass(frozen=True)
class Array:
    """One array of a program.

    Attributes:
      dtype: XLA's name, such as "bf16", "f32" or "pred".
      shape: its sides.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        if self.dtype == "token":
            return 0
        match = re.search(r"\d+", self.dtype)
        assert match or self.dtype == "pred", self.dtype
        bits = int(match[0]) if match else 8
        return self.size * bits // 8


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
class Instruction:
    """One instruction.

    Attributes:
      name: unique in its computation.
      type: of its result, as printed.
      operation: such as "fusion" or "custom-call".
      rest: operands and attributes, as printed.
      root: whether it is the result of its computation.
    """

    name: str
    type: str
    operation: str
    rest: str
    root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result."""
        return tuple(
            Array(dtype, tuple(int(side) for side in sides.split(",") if side))
            for dtype, sides in _ARRAY.findall(self.type)
        )

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of its operands."""
        depth = 1
        for end, character in enumerate(self.rest):
            depth += (character in "({") - (character in ")}")
            if not depth:
                return tuple(_NAME.findall(self.rest[:end]))
        return tuple(_NAME.findall(self.rest))

    @cached_property
    def origin(self) -> str:
        """JAX's name of the operation, "" if unknown. A fusion has the name of one of its operations."""
        match = _OP_NAME.search(self.rest)
        return match[1] if match else ""

    def named(self, attribute: str) -> list[str]:
        """Names in `attribute=%name` or `attribute={%name, %name}`."""
        match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.-]+)", self.rest)
        return re.findall(r"[\w.-]+", match[1]) if match else []

    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        return [name for attribute in CALLS.get(self.operation, ()) for name in self.named(attribute)]


class Program:
    """A compiled module, parsed from the text that XLA prints.

    Attributes:
      computations: the instructions of each, by name and in order.
      entry: name of the computation that a run starts with.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        entry, current = None, None
        for line in text.splitlines():
            if match := _HEADER.match(line):
                current = self.computations.setdefault(match[2], [])
                entry = match[2] if match[1] else entry
            elif current is not None and (match := _INSTRUCTION.match(line)):
                root, name, type_, operation, rest = match.groups()
                current.append(Instruction(name, type_, operation, rest, root is not None))
        if entry is None:
            raise ValueError("the text of the compiled program has no ENTRY computation")
        self.entry = entry

    def collectives(self) -> list[Collective]:
        """All collectives, in the program's order."""
        run = self._walk(self.entry, 1)
        return [found for instruction, times in run if (found := _collective(instruction, times))]

    def _walk(self, computation: str, times: int) -> Iterator[tuple[Instruction, int]]:
        """Yields every instruction that runs, with its number of runs; all branches of a conditional count."""
        for instruction in self.computations[computation]:
            yield instruction, times
            for called in instruction.called():
                yield from self._walk(called, times * self.times(instruction))

    def times(self, loop: Instruction) -> int:
        """Number of times that an instruction runs the computations it calls.

        For a loop, the number of iterations; it must count up to a constant, as `scan` does.
        """
        if loop.operation != "while":
            return 1
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        [condition] = loop.named("condition")
        bounds = [
            int(instruction.rest.split(")")[0])
            for instruction in self.computations[condition]
            if instruction.operation == "constant" and instruction.type.startswith("s32[]")
        ]
        if len(bounds) != 1:
            raise ValueError(f"the iterations of a loop cannot be derived from its condition, {condition}")
        return bounds[0]


def _collective(instruction: Instruction, times: int) -> Collective | None:
    kind = instruction.operation.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    arrays = instruction.arrays
    if instruction.operation.endswith("-start") and kind != "all-reduce":
        # The type of an asynchronous collective is (operands, results, scalars for the device).
        whole = [array for array in arrays if array.shape]
        arrays = whole[len(whole) // 2 :]
    return Collective(kind, tuple(arrays), instruction.origin, times)
