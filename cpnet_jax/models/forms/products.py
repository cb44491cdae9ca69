"""Matrix products whose operands may be rounded to bfloat16."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cpnet_jax.models.forms.linear import linear_call


def product(
    left: Float[Array, "*b n k"], right: Float[Array, "*b k m"], *, bfloat16: bool = False
) -> Float[Array, "*b n m"]:
    """left @ right, for operands of one dtype, float32 or wider.

    With `bfloat16`, both operands are rounded to bfloat16, and so are those of the products in the derivatives. Sums
    keep the operands' dtype.
    """
    return _rounded(left, right) if bfloat16 else left @ right


@jax.custom_jvp
def _rounded(left: Array, right: Array) -> Array:
    return _multiply(left, right)


@_rounded.defjvp
def _derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (left, right), (left_dot, right_dot) = primals, tangents
    # Transposed by hand: JAX would multiply the unrounded cotangent.
    of_left = linear_call(lambda b, a: _multiply(a, b), lambda b, y: _multiply(y, b.mT), right, left_dot)
    of_right = linear_call(_multiply, lambda a, y: _multiply(a.mT, y), left, right_dot)
    return _rounded(left, right), of_left + of_right


def _multiply(left: Array, right: Array) -> Array:
    left, right, dtype = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), left.dtype
    return jnp.matmul(left, right, preferred_element_type=dtype)
