"""Cross entropy over the labelled pixels, and its upsampled form, against float64 oracles."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import assert_close  # noqa: E402

from cpnet_jax import losses, models, sharding  # noqa: E402
from cpnet_jax.losses import pixel_blocks  # noqa: E402
from cpnet_jax.plan.hlo import Program  # noqa: E402

FORMS = ["blocks", "windows"]
TOLERANCE = {"float64": 1e-10, "float32": 5e-6}
CLASSES = 5
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(params=TOLERANCE)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def make_logits(shape, dtype, scale=3.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(*shape, CLASSES))).astype(dtype)


def make_labels(shape, ignore_label=255, dtype=np.int32, seed=1):
    """A third of the pixels is ignored, a different number in each image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, shape)
    ignored = rng.random(shape) < np.linspace(0.1, 0.6, shape[0])[:, None, None]
    return np.where(ignored, ignore_label, labels).astype(dtype)


def evaluate(loss, logits, labels, **options):
    """(value, gradient for the logits), under jit."""
    run = jax.jit(jax.value_and_grad(lambda logits, labels: loss(logits, labels, **options)))
    value, grad = run(jnp.asarray(logits), jnp.asarray(labels))
    assert value.shape == ()
    return value, grad


def evaluate_oracle(loss, logits, labels, *options):
    leaf = oracles.tensor(logits, requires_grad=True)
    value = loss(leaf, labels, *options)
    return value, torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("label_dtype", [np.int32, np.uint8])
def test_cross_entropy_agrees_with_the_oracle(dtype, label_dtype):
    logits, labels = make_logits((3, 6, 7), dtype), make_labels((3, 6, 7), dtype=label_dtype)
    value, grad = evaluate(losses.cross_entropy, logits, labels)
    expected, expected_grad = evaluate_oracle(oracles.cross_entropy, logits, labels)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")


@pytest.mark.parametrize("ignore_label", [0, 2, -1, 1000])
@pytest.mark.parametrize("name", ["cross_entropy", "upsampled_cross_entropy"])
def test_any_ignore_label_works(dtype, name, ignore_label):
    logits = make_logits((2, 8, 16) if name == "cross_entropy" else (2, 1, 2), dtype)
    labels = make_labels((2, 8, 16), ignore_label)
    value, grad = evaluate(getattr(losses, name), logits, labels, ignore_label=ignore_label)
    expected, expected_grad = evaluate_oracle(getattr(oracles, name), logits, labels, ignore_label)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")


def test_ignored_pixels_get_no_gradient(dtype):
    logits, labels = make_logits((2, 6, 7), dtype), make_labels((2, 6, 7))
    _, grad = evaluate(losses.cross_entropy, logits, labels)
    assert (np.asarray(grad)[labels == 255] == 0).all()
    assert (np.abs(np.asarray(grad)[labels != 255]).max(-1) > 0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "upsampled_cross_entropy"])
def test_batch_without_a_label_is_zero_with_zero_gradient(dtype, name):
    logits = make_logits((2, 16, 8) if name == "cross_entropy" else (2, 2, 1), dtype)
    value, grad = evaluate(getattr(losses, name), logits, np.full((2, 16, 8), 255))
    assert value == 0
    assert (np.asarray(grad) == 0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "upsampled_cross_entropy"])
def test_image_without_a_label_does_not_change_the_mean(dtype, name):
    logits = make_logits((2, 16, 8) if name == "cross_entropy" else (2, 2, 1), dtype)
    labels = make_labels((2, 16, 8))
    labels[1] = 255
    value, grad = evaluate(getattr(losses, name), logits, labels)
    alone, alone_grad = evaluate(getattr(losses, name), logits[:1], labels[:1])
    tolerance = {"float64": 1e-14, "float32": 1e-6}[dtype]
    assert_close(value, alone, tolerance)
    assert_close(grad[:1], alone_grad, tolerance)
    assert (np.asarray(grad)[1] == 0).all()


def test_mean_is_over_pixels_not_over_images(dtype):
    logits, labels = make_logits((2, 4, 4), dtype), make_labels((2, 4, 4))
    labels[0], labels[1] = 1, 255
    labels[1, 3, 3] = 2
    one, _ = evaluate(losses.cross_entropy, logits[:1], labels[:1])
    other, _ = evaluate(losses.cross_entropy, logits[1:], labels[1:])
    both, _ = evaluate(losses.cross_entropy, logits, labels)
    assert_close(both, (16 * float(one) + float(other)) / 17, TOLERANCE[dtype])
    assert abs(float(one) - float(other)) > 0.1


@pytest.mark.parametrize("name", ["cross_entropy", "upsampled_cross_entropy"])
def test_extreme_logits_stay_finite(dtype, name):
    logits = make_logits((2, 16, 8) if name == "cross_entropy" else (2, 2, 1), dtype, scale=1e4)
    labels = make_labels((2, 16, 8))
    value, grad = evaluate(getattr(losses, name), logits, labels)
    expected, _ = evaluate_oracle(getattr(oracles, name), logits, labels)
    assert_close(value, expected, TOLERANCE[dtype])
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["cross_entropy", "upsampled_cross_entropy"])
def test_bfloat16_logits_give_a_float32_loss(name):
    logits = jnp.asarray(make_logits((2, 16, 8) if name == "cross_entropy" else (2, 2, 1), "float32"), jnp.bfloat16)
    labels = make_labels((2, 16, 8))
    value = getattr(losses, name)(logits, labels)
    expected, _ = evaluate_oracle(getattr(oracles, name), np.asarray(logits, np.float32), labels)
    assert value.dtype == jnp.float32
    assert_close(value, expected, 5e-6)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("labels_shape", [(2, 4, 5), (1, 4, 4), (2, 16), (2, 4, 4, 1), (3, 4, 4)])
def test_labels_of_another_shape_are_refused(labels_shape):
    with pytest.raises(ValueError):
        losses.cross_entropy(jnp.zeros((2, 4, 4, CLASSES)), np.zeros(labels_shape, np.int32))


# Upsampled

SIZES = [((2, 3), (16, 24)), ((3, 2), (24, 16)), ((1, 1), (8, 8)), ((3, 4), (17, 25)), ((4, 4), (4, 4))]
in_each_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.parametrize("grid, size", SIZES)
def test_upsampling_is_bilinear_with_half_pixel_centres(dtype, grid, size):
    logits = make_logits((2, *grid), dtype)
    out = jax.jit(models.upsample, static_argnums=1)(jnp.asarray(logits), size)
    assert_close(out, oracles.upsample(oracles.tensor(logits), size), TOLERANCE[dtype])


@in_each_form
@pytest.mark.parametrize("grid, size", SIZES)
def test_upsampled_cross_entropy_agrees_with_the_oracle(dtype, grid, size, form):
    logits, labels = make_logits((3, *grid), dtype), make_labels((3, *size))
    value, grad = evaluate(losses.upsampled_cross_entropy, logits, labels, form=form)
    expected, expected_grad = evaluate_oracle(oracles.upsampled_cross_entropy, logits, labels)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")


@pytest.mark.parametrize("grid, size", SIZES[:3])
def test_upsampled_cross_entropy_equals_cross_entropy_of_upsampled_logits(dtype, grid, size):
    logits, labels = make_logits((3, *grid), dtype), make_labels((3, *size), dtype=np.uint8)
    value, grad = evaluate(losses.upsampled_cross_entropy, logits, labels)
    expected, expected_grad = evaluate(lambda z, y: losses.cross_entropy(models.upsample(z, size), y), logits, labels)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")


# Against the definition

EXACT = {"float64": 1e-12, "float32": 1e-6}
# grid, size, classes, scale of the logits; a block has 8 rows with the setting below.
BLOCKS = [
    ((3, 2), (24, 16), 150, 3.0),
    ((4, 3), (29, 20), 3, 3.0),  # a last block that is not full, and a fractional factor
    ((9, 7), (13, 5), 4, 3.0),  # more columns of cells than of pixels
    ((2, 2), (16, 16), 1, 3.0),
    ((3, 2), (24, 16), 5, 1e4),  # exponentials underflow
]


def plain(logits, labels, **options):
    """The definition: cross entropy after upsampling."""
    return losses.cross_entropy(models.upsample(logits, labels.shape[1:]), labels, **options)


@cache
def defined(dtype, grid, size, classes, scale):
    """Logits, labels, and the value and gradient of the definition; both forms are compared with the same ones."""
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(2, *grid, classes))).astype(dtype)
    labels = np.where(rng.random((2, *size)) < 0.3, 255, rng.integers(0, classes, (2, *size)))
    return logits, labels, *evaluate(plain, logits, labels)


@pytest.fixture
def eight_rows(monkeypatch):
    monkeypatch.setattr(pixel_blocks, "BLOCK", 1)


@in_each_form
@pytest.mark.parametrize(("grid", "size", "classes", "scale"), BLOCKS)
def test_both_forms_have_the_value_and_gradient_of_the_definition(eight_rows, dtype, grid, size, classes, scale, form):
    logits, labels, expected, expected_grad = defined(dtype, grid, size, classes, scale)
    value, grad = evaluate(losses.upsampled_cross_entropy, logits, labels, form=form)
    assert_close(value, expected, EXACT[dtype], name="value")
    assert_close(grad, expected_grad, EXACT[dtype] * max(scale / 10, 1), name="gradient")


def sizes_in(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from sizes_in(getattr(inner, "jaxpr", inner))


def test_no_array_is_as_large_as_the_upsampled_logits(eight_rows):
    logits, labels = make_logits((2, 8, 8), "float32"), make_labels((2, 64, 64))
    largest = [
        max(sizes_in(jax.make_jaxpr(jax.value_and_grad(loss))(logits, labels).jaxpr))
        for loss in (plain, losses.upsampled_cross_entropy)
    ]
    whole = 2 * 64 * 64 * CLASSES
    assert largest[0] >= whole
    assert largest[1] < whole // 4


@in_each_form
def test_sums_of_bfloat16_are_float32(form):
    logits, labels = make_logits((2, 8, 8), "float32"), make_labels((2, 64, 64))
    value, grad = evaluate(losses.upsampled_cross_entropy, logits, labels, dtype=jnp.bfloat16, form=form)
    expected, expected_grad = evaluate(plain, logits, labels)
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.float32)
    assert_close(value, expected, 1e-3, name="value")
    assert_close(grad, expected_grad, 1e-2, name="gradient")
    assert value != expected


@in_each_form
def test_devices_exchange_only_scalars(eight_rows, form):
    mesh = sharding.make_mesh()
    logits, labels = make_logits((8, 4, 4), "float32"), make_labels((8, 32, 32))
    split = jax.device_put((logits, labels), sharding.split(mesh))
    loss = partial(losses.upsampled_cross_entropy, form=form)
    run = jax.jit(jax.value_and_grad(loss)).lower(*split).compile()
    exchanges = Program(run.as_text()).collectives()
    assert exchanges
    assert all(array.shape == () for exchange in exchanges for array in exchange.arrays)
    value, grad = run(*split)
    expected, expected_grad = evaluate(losses.upsampled_cross_entropy, logits, labels)
    assert_close(value, expected, 1e-6, name="value")
    assert_close(grad, expected_grad, 1e-6, name="gradient")


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'blocks' or 'windows'"):
        losses.upsampled_cross_entropy(make_logits((1, 2, 2), "float32"), make_labels((1, 4, 4)), form="tiles")


@pytest.mark.parametrize(
    ("logits", "labels"), [((2, 4, 4), (2, 8, 8)), ((2, 4, 4, 3), (3, 8, 8)), ((2, 4, 4, 3), (2, 64))]
)
@pytest.mark.usefixtures("without_shape_checks")
def test_labels_of_another_batch_or_rank_are_refused(logits, labels):
    with pytest.raises(ValueError, match="logits have shape"):
        losses.upsampled_cross_entropy(jnp.zeros(logits), np.zeros(labels, np.int32))
