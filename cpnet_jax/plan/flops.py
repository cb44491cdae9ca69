"""Counts the floating-point operations of a program's convolutions and matrix products, before compilation.

XLA's own count is of no use here: it counts the body of a loop once, and includes zeros that the compiler inserts.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(jaxpr: Jaxpr) -> int:
    """Counts the FLOPs of one run on the global batch; a multiplication and an addition are two.

    The body of a loop with an unknown number of iterations counts once. Of a conditional the most expensive branch
    counts.
    """
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "dot_general":
        return _matrix_product(equation)
    inner = [count(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * _repetitions(name, params)


def _repetitions(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # its body is the program of one device
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _convolution(equation: Any) -> int:
    """2 x outputs x products per output; products with the zeros that `lhs_dilation` inserts do not count."""
    kernel = equation.invars[1].aval.shape
    outputs_of_kernel = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    products = equation.outvars[0].aval.size * (math.prod(kernel) // outputs_of_kernel)
    return 2 * products // math.prod(equation.params["lhs_dilation"])


def _matrix_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for leaf in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
        if isinstance(leaf, ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, Jaxpr):
            yield leaf
