"""The kernels of a program compiled for GPUs, each with its arithmetic and the bytes it reads and writes.

XLA's GPU compiler prints its final program but no estimates. The shapes in that program give both figures: of calls to
cuDNN and cuBLAS by the definition of a convolution or product, of a fusion by the instructions inside it.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cpnet_jax.plan.hlo import COLLECTIVES, Array, Instruction, Program, source

# Instructions that start no kernel: they name or rearrange buffers, or wait.
FREE = {
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
# Evaluated by the special-function units of a GPU, which are an eighth as many as its float32 units.
TRANSCENDENTAL = {"cosine", "divide", "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic"}
TRANSCENDENTAL |= {"power", "rsqrt", "sine", "sqrt", "tan", "tanh"}
TRANSCENDENTAL_COST = 8
# Fused instructions without arithmetic.
MOVES = FREE | {"broadcast", "concatenate", "copy", "dynamic-slice", "dynamic-update-slice", "gather", "iota", "pad"}
MOVES |= {"reshape", "reverse", "slice", "transpose"}
# Fused instructions that need part of their first operand.
SLICES = {"slice", "dynamic-slice", "gather"}
# Fused instructions that change part of their first operand in place, by the number of the operand with the new values.
UPDATES = {"dynamic-update-slice": 1, "scatter": -1}

CONVOLUTIONS = {
    "__cudnn$convForward",
    "__cudnn$convBiasActivationForward",
    "__cudnn$convForwardGraph",
    "__cudnn$convBackwardInput",
    "__cudnn$convBackwardFilter",
}
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[:=][\[{]([\d", ]*)[\]}]')
_WINDOW = re.compile(r"window={size=([\dx]+)")


@dataclass(frozen=True)
class Kernel:
    """One kernel, or one call of a library.

    Attributes:
      name: of the instruction.
      kind: "convolution", "product", "fusion", "copy" or another operation.
      origin: JAX's name of the operation, "" if unknown.
      times: number of runs in a step.
      flops: multiplications and additions of one run, by type: "bf16", "f16", "tf32", "f32" or "f64".
      operations: elementwise float32 operations of one run; a transcendental function counts for eight.
      bytes: that one run reads and writes.
    """

    name: str
    kind: str
    origin: str
    times: int
    flops: Counter[str]
    operations: int
    bytes: int


def kernels(program: Program, seconds: Callable[[Kernel], float]) -> list[Kernel]:
    """All kernels of a step, except collectives, in the program's order.

    Args:
      seconds: of all runs of a kernel. Of a conditional the branch counts that takes the least.

    Raises:
      ValueError: if the number of iterations of a loop cannot be derived.
    """
    return _of(program, program.entry, seconds)


def _of(program: Program, computation: str, seconds: Callable[[Kernel], float]) -> list[Kernel]:
    found: list[Kernel] = []
    instructions = program.computations[computation]
    types = {instruction.name: instruction.arrays for instruction in instructions}
    for instruction in instructions:
        inner = [_of(program, called, seconds) for called in instruction.called()]
        if inner and instruction.operation == "conditional":
            inner = [min(inner, key=lambda branch: sum(map(seconds, branch)))]
        times = program.times(instruction)
        found += [replace(kernel, times=kernel.times * times) for branch in inner for kernel in branch]
        if not inner and (kernel := _kernel(program, instruction, types)):
            found.append(kernel)
    return found


def _kernel(program: Program, instruction: Instruction, types: dict[str, tuple[Array, ...]]) -> Kernel | None:
    operation = instruction.operation.removesuffix("-start").removesuffix("-done")
    if operation in FREE or operation in COLLECTIVES or instruction.operation.endswith("-done"):
        return None
    operands = [array for name in instruction.operands for array in types.get(name, ())]
    if operation == "fusion":
        return _fusion(program, instruction, operands)
    if operation == "custom-call":
        return _library_call(instruction, operands)
    return Kernel(
        instruction.name, operation, instruction.origin, 1, Counter(), 0, _bytes(operands) + _bytes(instruction.arrays)
    )


# --- calls of libraries -----------------------------------------------------------------------------------------------


def _library_call(instruction: Instruction, operands: Sequence[Array]) -> Kernel:
    """A call's first array is its result, others are working memory."""
    target = _TARGET.search(instruction.rest)
    name = target[1] if target else ""
    result, kind, flops = instruction.arrays[0], name or "custom-call", Counter()
    if name in CONVOLUTIONS:
        kind, flops = "convolution", _convolution(name, instruction.rest, operands, result)
    elif "matmul" in name or "gemm" in name:
        kind, flops = "product", _product(instruction.rest, operands, result)
    size = _bytes(operands) + result.bytes
    return Kernel(instruction.name, kind, instruction.origin, 1, flops, 0, size)


def _convolution(target: str, attributes: str, operands: Sequence[Array], result: Array) -> Counter[str]:
    """Two for each product of an output of the forward convolution; products with inserted zeros do not count."""
    labels = _LABELS.search(attributes)
    assert labels, attributes
    x, other = operands[:2]
    # (outputs of the forward convolution, its kernel)
    outputs, kernel = {
        "__cudnn$convBackwardInput": (x, other),
        "__cudnn$convBackwardFilter": (other, result),
    }.get(target, (result, other))
    products = kernel.size // kernel.shape[labels[2].index("o")]
    return Counter({_arithmetic(x, attributes): 2 * outputs.size * products})


def _product(attributes: str, operands: Sequence[Array], result: Array) -> Counter[str]:
    axes = _CONTRACTED.search(attributes)
    left = operands[0]
    contracted = math.prod(left.shape[int(axis)] for axis in re.findall(r"\d+", axes[1])) if axes else 1
    return Counter({_arithmetic(left, attributes): 2 * result.size * contracted})


def _arithmetic(operand: Array, attributes: str) -> str:
    """The type that a GPU multiplies in: float32 with precision HIGHEST as such, otherwise rounded to tf32."""
    if operand.dtype == "f32" and "HIGHEST" not in attributes and "operand_precision={highest" not in attributes:
        return "tf32"
    return operand.dtype


# --- fusions ----------------------------------------------------------------------------------------------------------


def _fusion(program: Program, instruction: Instruction, operands: Sequence[Array]) -> Kernel:
    [name] = instruction.named("calls")
    body = program.computations[name]
    by_name = {inner.name: inner for inner in body}
    used, written = _used(body, by_name)
    operations, flops = 0, Counter()
    for inner in body:
        size = sum(array.size for array in inner.arrays[:1])
        if inner.operation in ("dot", "convolution"):
            flops += _fused_product(inner, by_name)
        elif inner.operation == "reduce-window":
            operations += int(size * _window(inner) * used[inner.name])
        elif inner.operation in ("reduce", "select-and-scatter"):
            operations += by_name[inner.operands[0]].arrays[0].size
        elif inner.operation == "scatter":
            operations += _new_values(inner, by_name).size
        elif inner.operation not in MOVES:
            cost = TRANSCENDENTAL_COST if inner.operation in TRANSCENDENTAL else 1
            operations += int(cost * size * used[inner.name])
    read = 0
    for inner in body:
        if inner.operation == "parameter":
            place = int(inner.rest.split(")")[0])
            read += int(operands[place].bytes * used[inner.name]) if place < len(operands) else 0
    return Kernel(instruction.name, "fusion", instruction.origin, 1, flops, operations, read + written)


def _used(body: Sequence[Instruction], by_name: dict[str, Instruction]) -> tuple[dict[str, float], int]:
    """(the share of each instruction's elements that the fusion needs, at most 1; bytes that it writes).

    A slice needs only what it takes. An update in place writes only what it changes, and does not read the rest. A
    scatter reads what it changes, since it adds to it.
    """
    [root] = [inner for inner in body if inner.root]
    results = [by_name[name] for name in root.operands] if root.operation == "tuple" else [root]
    updates = [update for result in results if (update := source(result, by_name)).operation in UPDATES]
    written = sum(_bytes(result.arrays) for result in results if source(result, by_name) not in updates)
    written += sum(_new_values(update, by_name).bytes for update in updates)
    used: dict[str, float] = defaultdict(float, {root.name: 1.0})
    for inner in reversed(body):
        share = used[inner.name]
        for place, name in enumerate(inner.operands):
            size = max(by_name[name].arrays[0].size, 1)
            if place == 0 and inner.operation in SLICES:
                part = inner.arrays[0].size / size
                used[name] = min(used[name] + share * part, 1.0)  # other slices may take other elements
            elif place == 0 and inner.operation == "reduce-window":
                part = inner.arrays[0].size * _window(inner) / size
                used[name] = max(used[name], min(share * part, 1.0))
            elif place == 0 and inner in updates:
                part = _new_values(inner, by_name).size / size if inner.operation == "scatter" else 0.0
                used[name] = max(used[name], min(part, 1.0))
            else:
                used[name] = max(used[name], share)
    return used, written


def _new_values(update: Instruction, by_name: dict[str, Instruction]) -> Array:
    return by_name[update.operands[UPDATES[update.operation]]].arrays[0]


def _window(inner: Instruction) -> int:
    """Number of elements in each window of a reduce-window."""
    match = _WINDOW.search(inner.rest)
    return math.prod(map(int, match[1].split("x"))) if match else 1


def _fused_product(inner: Instruction, by_name: dict[str, Instruction]) -> Counter[str]:
    left, right = (by_name[name].arrays[0] for name in inner.operands[:2])
    if inner.operation == "dot":
        return _product(inner.rest, [left, right], inner.arrays[0])
    return _convolution("", inner.rest, [left, right], inner.arrays[0])


def _bytes(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays)
