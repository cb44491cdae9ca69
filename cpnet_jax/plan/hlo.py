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
      arrays: its results on each device. If XLA joins several to one long array, as for GPUs, these are its parts.
      origins: JAX's name of the operation that each array belongs to.
      times: number of runs in a step.
    """

    kind: str
    arrays: tuple[Array, ...]
    origins: tuple[str, ...]
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
        found = (self._collective(*run) for run in self._walk(self.entry, 1))
        return [collective for collective in found if collective]

    def _walk(self, computation: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        """Yields every instruction that runs, with its computation and its number of runs; all branches of a
        conditional count."""
        for instruction in self.computations[computation]:
            yield computation, instruction, times
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

    def _collective(self, computation: str, instruction: Instruction, times: int) -> Collective | None:
        kind = instruction.operation.removesuffix("-start")
        if kind not in COLLECTIVES:
            return None
        arrays = instruction.arrays
        if instruction.operation.endswith("-start") and kind != "all-reduce":
            # The type of an asynchronous collective is (operands, results, scalars for the device).
            whole = [array for array in arrays if array.shape]
            arrays = tuple(whole[len(whole) // 2 :])
        by_name = {other.name: other for other in self.computations[computation]}
        if kind == "all-reduce" and len(arrays) == 1 and (joined := self._joined(instruction, by_name)):
            sources = [source(by_name[name], by_name) for name in joined]
            return Collective(kind, tuple(s.arrays[0] for s in sources), tuple(s.origin for s in sources), times)
        return Collective(kind, arrays, (instruction.origin,) * len(arrays), times)

    def _joined(self, collective: Instruction, by_name: dict[str, Instruction]) -> list[str]:
        """Names of the arrays that a fusion joins to a collective's operand; empty if the operand is another one."""
        operand = by_name.get(collective.operands[0]) if collective.operands else None
        if operand is None or operand.operation != "fusion":
            return []
        body = self.computations.get(operand.named("calls")[0], [])
        place = {inner.name: int(inner.rest.split(")")[0]) for inner in body if inner.operation == "parameter"}
        for root in body:
            if root.root and root.operation == "concatenate" and place.keys() >= set(root.operands):
                return [operand.operands[place[name]] for name in root.operands]
        return []


def source(instruction: Instruction, by_name: dict[str, Instruction]) -> Instruction:
    """The instruction whose result a chain of bitcasts and reshapes renames."""
    while instruction.operation in ("bitcast", "reshape") and instruction.operands[0] in by_name:
        instruction = by_name[instruction.operands[0]]
    return instruction
