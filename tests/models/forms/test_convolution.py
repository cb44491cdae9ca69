"""Forms for a platform compute what XLA computes, and other platforms do not get them."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax import sharding
from cpnet_jax.models.forms import convolution, platforms, winograd
from cpnet_jax.models.forms.convolution import conv_general_dilated
from cpnet_jax.models.forms.max_pool import max_pool

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def options(size, *, dilation=1, stride=1, groups=1):
    return {
        "window_strides": (stride, stride),
        "padding": [(dilation * (side - 1) // 2,) * 2 for side in size],
        "rhs_dilation": (dilation, dilation),
        "feature_group_count": groups,
        "dimension_numbers": DIMENSIONS,
    }


@pytest.fixture
def winograd_for_all(monkeypatch):
    """Uses Winograd's algorithm for small 3x3 convolutions, too."""
    monkeypatch.setattr(winograd, "WORTHWHILE", 0)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function, *arrays):
    value, transpose = jax.vjp(function, *arrays)
    return value, transpose(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))


def arrays_of(*shapes, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


# (images, kernel, options, whether CPUs have another form)
CONVOLUTIONS = {
    "3x3": ((2, 4, 6, 3), (3, 3, 3, 5), {}, True),
    "3x3, dilation 2": ((2, 8, 4, 3), (3, 3, 3, 5), {"dilation": 2}, True),
    "3x3, dilation 4": ((1, 8, 16, 2), (3, 3, 2, 3), {"dilation": 4}, True),
    "3x3, an odd side": ((2, 5, 6, 3), (3, 3, 3, 5), {}, False),
    "3x3, sides that the dilation does not halve": ((2, 6, 8, 3), (3, 3, 3, 5), {"dilation": 2}, False),
    "3x3, stride 2": ((2, 8, 6, 3), (3, 3, 3, 5), {"stride": 2}, False),
    "1x1": ((2, 5, 3, 4), (1, 1, 4, 6), {}, True),
    "1x1, stride 2": ((2, 5, 4, 4), (1, 1, 4, 6), {"stride": 2}, False),
    "7x7": ((1, 8, 9, 2), (7, 7, 2, 3), {}, False),
    "depthwise 11x1": ((2, 7, 5, 4), (11, 1, 1, 4), {"groups": 4}, True),
    "depthwise 1x11": ((2, 7, 5, 4), (1, 11, 1, 4), {"groups": 4}, True),
    "depthwise 3x3, dilation 2": ((2, 7, 5, 4), (3, 3, 1, 4), {"groups": 4, "dilation": 2}, True),
    "in groups": ((2, 6, 4, 4), (3, 3, 2, 6), {"groups": 2}, False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_gradients_equal_those_of_xla(name, winograd_for_all, monkeypatch):
    images, kernel, given, has_form = CONVOLUTIONS[name]
    forms = []
    by_platform = convolution.by_platform
    monkeypatch.setattr(convolution, "by_platform", lambda *given: forms.append(given) or by_platform(*given))
    given = options(kernel[:2], **given)
    with jax.enable_x64(True):
        arrays = arrays_of(images, kernel)
        expected = value_and_gradients(partial(jax.lax.conv_general_dilated, **given), *arrays)
        found = value_and_gradients(partial(conv_general_dilated, **given), *arrays)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), found, expected)
    assert bool(forms) == has_form


def test_winograd_loses_at_most_one_digit_in_float32(winograd_for_all):
    given = options((3, 3))
    arrays = arrays_of((2, 16, 16, 64), (3, 3, 64, 64), dtype=np.float32)
    with jax.enable_x64(True):
        wide = [array.astype(np.float64) for array in arrays]
        exact = jax.device_get(value_and_gradients(partial(jax.lax.conv_general_dilated, **given), *wide))
    found = value_and_gradients(partial(conv_general_dilated, **given), *arrays)
    for ours, true in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert np.abs(np.asarray(ours) - true).max() < 1e-6 * np.abs(true).max()


def windowed(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7)])
def test_the_max_pool_equals_xlas_and_the_first_of_equal_maxima_gets_the_gradient(size):
    (x,) = arrays_of((2, *size, 3))
    with jax.enable_x64(True):
        for images in (x, np.round(x), np.zeros_like(x)):  # few, many, and only equal values
            expected, found = (value_and_gradients(pool, images) for pool in (windowed, max_pool))
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), found, expected)


def operations(function, shapes, platform):
    """The operations that a platform gets to compile, sorted, without the names of values."""
    text = value_and_gradients.trace(function, *shapes).lower(lowering_platforms=(platform,)).as_text()
    lines = (re.sub(r"%\w+(#\d+)?", "%", line).strip() for line in text.splitlines())
    operations = sorted(line for line in lines if re.match("%.*= stablehlo", line))
    # Without the platform's index, which selects the only form that is left.
    return [line for line in operations if not line.endswith(": tensor<i32>")]


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", [name for name, (*_, has_form) in CONVOLUTIONS.items() if has_form])
def test_accelerators_get_the_operations_of_lax_only(name, platform, winograd_for_all):
    (_, *image), kernel, given, _ = CONVOLUTIONS[name]
    given = options(kernel[:2], **given)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, *image), kernel)]
    of_lax, ours = (
        partial(operations, partial(function, **given), shapes)
        for function in (jax.lax.conv_general_dilated, conv_general_dilated)
    )
    assert ours(platform) == of_lax(platform)
    assert ours("cpu") != of_lax("cpu")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_xlas_max_pool(platform):
    shapes = [jax.ShapeDtypeStruct((2, 6, 8, 3), jnp.float32)]
    of_xla, ours = (partial(operations, pool, shapes) for pool in (windowed, max_pool))
    # A set, because the form of the gradient repeats the value, unused.
    assert set(ours(platform)) == set(of_xla(platform))
    assert set(ours("cpu")) != set(of_xla("cpu"))


@pytest.mark.parametrize("devices", [1, 8])
def test_a_compiled_program_holds_only_the_chosen_form(devices):
    """Devices that share a batch exchange the kernel's gradient, as they do without the choice."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    placed = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
        for shape, where in (((8, 5, 4, 3), sharding.split(mesh)), ((7, 7, 3, 5), sharding.replicated(mesh)))
    ]
    plain = partial(jax.lax.conv_general_dilated, **options((7, 7)))
    form = platforms.Form(plain, partial(convolution._gradients, plain))
    chosen = partial(platforms.by_platform, platforms.Form(*map(_negated, form)), {"cpu": form})
    programs = [
        value_and_gradients.trace(function, *placed).lower().compile().as_text() for function in (plain, chosen)
    ]
    of_plain, of_chosen = (sorted(re.findall(r" = \S+ ([\w-]+)\(", program)) for program in programs)
    assert of_chosen == of_plain
    assert ("all-reduce" in of_chosen) == (devices > 1)


def _negated(function):
    return lambda *arrays: jax.tree.map(jnp.negative, function(*arrays))


def is_a_product(platform, images, dtype, mesh=None):
    """Whether the platform gets a 1x1 convolution of this many images as a matrix product."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((images, 5, 3, 4), (1, 1, 4, 6))]
    convolve = partial(conv_general_dilated, **options((1, 1)))
    text = " ".join(operations(sharding.in_context(convolve, mesh) if mesh else convolve, shapes, platform))
    assert ("stablehlo.dot_general" in text) != ("stablehlo.convolution" in text)
    return "stablehlo.dot_general" in text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tpus_get_products_if_a_devices_images_do_not_fill_a_tile(dtype):
    assert is_a_product("tpu", 4, dtype) and is_a_product("tpu", 12, dtype)
    assert not is_a_product("tpu", 8, dtype) and not is_a_product("cuda", 4, dtype)
    eight = sharding.make_mesh()
    assert is_a_product("tpu", 32, dtype, eight) and not is_a_product("tpu", 64, dtype, eight)
    # Three devices do not divide eight images, so each device has all of them.
    assert not is_a_product("tpu", 8, dtype, sharding.make_mesh(jax.devices()[:3]))


def test_bfloat16_has_no_other_form_because_xla_sums_it_in_float32(winograd_for_all):
    for (_, *image), kernel, given, has_form in CONVOLUTIONS.values():
        if has_form:
            given = options(kernel[:2], **given)
            shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((8, *image), kernel)]
            ours, of_lax = (
                str(jax.make_jaxpr(partial(function, **given))(*shapes))
                for function in (conv_general_dilated, jax.lax.conv_general_dilated)
            )
            assert ours == of_lax
