"""FLOPs counted in a traced program equal the textbook formulas."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from cpnet_jax import sharding
from cpnet_jax.plan import flops


def counted(function, *shapes):
    return flops.count(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def convolution(x, kernel, *, stride=1, dilation=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


PRODUCT = 2 * 4 * 5 * 6


def test_a_matrix_product():
    assert counted(jnp.matmul, (4, 5), (5, 6)) == PRODUCT
    assert counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (3, 4, 5), (3, 5, 6)) == 3 * PRODUCT


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 8}, {"stride": 2, "groups": 8}])
def test_a_convolution_and_its_two_gradients_have_the_same_count(options):
    stride, groups = options.get("stride", 1), options.get("groups", 1)
    shapes = (2, 16, 16, 8), (3, 3, 8 // groups, 16)
    once = 2 * (2 * (16 // stride) ** 2 * 16) * 3 * 3 * (8 // groups)

    def forward(x, kernel):
        return convolution(x, kernel, **options)

    def loss(x, kernel):
        return jnp.sum(forward(x, kernel) ** 2)

    assert counted(forward, *shapes) == once
    assert counted(jax.grad(loss, argnums=(0, 1)), *shapes) == 3 * once


def test_loops_count_every_iteration_and_conditionals_the_most_expensive_branch():
    def loop(a, b):
        return jax.lax.scan(lambda carry, _: (carry @ b, None), a, length=7)[0]

    def choice(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: (a @ b) @ b, lambda: a @ b)

    assert counted(loop, (4, 4), (4, 4)) == 7 * 2 * 4**3
    assert counted(choice, (4, 4), (4, 4)) == 2 * 2 * 4**3


def test_the_work_of_all_devices_counts():
    mesh = sharding.make_mesh()
    split, whole = PartitionSpec(sharding.DATA_AXIS), PartitionSpec()
    by_device = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(split, whole), out_specs=split)
    assert counted(by_device, (8, 5), (5, 6)) == counted(jnp.matmul, (8, 5), (5, 6))


def test_operations_inside_jit_custom_derivatives_and_checkpoints_count():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    assert counted(jax.jit(product), (4, 5), (5, 6)) == PRODUCT
    both = jax.grad(lambda a, b: product(a, b).sum(), argnums=(0, 1))
    assert counted(both, (4, 5), (5, 6)) == 3 * PRODUCT
    # The first product is recomputed.
    remembered = jax.grad(jax.checkpoint(lambda a, b: jnp.sin(a @ b).sum()), argnums=(0, 1))
    assert counted(remembered, (4, 5), (5, 6)) in (3 * PRODUCT, 4 * PRODUCT)
