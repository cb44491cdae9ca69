"""Linear functions whose transpose is written by hand, for derivatives in forward and reverse mode.

`jax.custom_vjp` has no forward mode, and `jax.custom_derivatives.linear_call` no `jax.vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree


def linear_call(
    function: Callable[[PyTree, PyTree], PyTree],
    transpose: Callable[[PyTree, PyTree], PyTree],
    residuals: PyTree,
    x: PyTree,
) -> PyTree:
    """Returns function(residuals, x), for a function that is linear in x.

    Args:
      function, transpose: must not close over traced arrays.
      transpose: from the residuals and the cotangent of the result to the cotangent of x.
    """
    leaves, tree = jax.tree.flatten((residuals, x))
    known = len(jax.tree.leaves(residuals))
    result_tree = jax.tree.structure(jax.eval_shape(function, residuals, x))

    def flat_function(*leaves: Array) -> list[Array]:
        return jax.tree.leaves(function(*tree.unflatten(leaves)))

    def flat_transpose(*leaves: Array) -> list[Array]:
        residuals = tree.children()[0].unflatten(leaves[:known])
        return jax.tree.leaves(transpose(residuals, result_tree.unflatten(leaves[known:])))

    result = _linear.bind(*leaves, function=flat_function, transpose=flat_transpose, residuals=known)
    return result_tree.unflatten(result)


# Its parameters are functions of flat arrays, and how many of the arguments are residuals.
_linear = Primitive("linear_with_transpose")
_linear.multiple_results = True
_linear.def_impl(lambda *arrays, function, **_: function(*arrays))
_linear.def_abstract_eval(lambda *avals, function, **_: jax.make_jaxpr(function)(*avals).out_avals)
mlir.register_lowering(_linear, mlir.lower_fun(lambda *arrays, function, **_: function(*arrays)))


def _differentiate(primals: Sequence[Array], tangents: Sequence[Any], *, function: Callable, **_: Any) -> Any:
    return jax.jvp(function, primals, [ad.instantiate_zeros(tangent) for tangent in tangents])


def _transpose(cotangents: Sequence[Any], *arrays: Any, transpose: Callable, residuals: int, **_: Any) -> list[Any]:
    found = transpose(*arrays[:residuals], *(ad.instantiate_zeros(cotangent) for cotangent in cotangents))
    wanted = map(ad.is_undefined_primal, arrays[residuals:])
    return [None] * residuals + [y if want else None for y, want in zip(found, wanted, strict=True)]


def _batch(
    arrays: Sequence[Array], axes: Sequence[int | None], *, function: Callable, transpose: Callable, residuals: int
) -> tuple[list[Array], list[int]]:
    (size,) = {array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None}
    # All of x gets the new axis, so that the transpose need not sum over it.
    arrays = [
        array if axis is None and place < residuals else batching.bdim_at_front(array, axis, size)
        for place, (array, axis) in enumerate(zip(arrays, axes, strict=True))
    ]
    known = [None if axis is None else 0 for axis in axes[:residuals]]

    def batched(function: Callable) -> Callable:
        def run(*arrays: Array) -> list[Array]:
            return jax.vmap(function, in_axes=(*known, *[0] * (len(arrays) - residuals)))(*arrays)

        return run

    result = _linear.bind(*arrays, function=batched(function), transpose=batched(transpose), residuals=residuals)
    return result, [0] * len(result)


ad.primitive_jvps[_linear] = _differentiate
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
