"""The affinity loss against a float64 oracle that loops over rows, and its corner cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import TERMS, assert_close  # noqa: E402
from small_priors import KINDS, build, make_labels, make_prior  # noqa: E402

from cpnet_jax import losses  # noqa: E402

DTYPES = ("float64", "float32")
TOLERANCE = {"float64": 1e-10, "float32": 5e-6}
# Every term has a different weight in the differentiated scalar, so that swapped cotangents are detected.
WEIGHTS = dict(zip(TERMS, (0.7, 1.3, -0.9, 0.4, 2.1), strict=True))
INTRA_CLASS = {"precision": 1.0, "recall": 1.0}
# All of them, so that one program serves tests that name an option and tests that do not.
DEFAULTS = {"exclude_diagonal": True, "ignored": "class", "ignore_label": 255}
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(params=DTYPES)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def compiled(**options):
    """One program for all weights of the terms; a test chooses with them what is differentiated."""

    def loss(arrays, labels, weights):
        terms = losses.affinity_loss(build(arrays), labels, **options)._asdict()
        return sum(weights[name] * terms[name] for name in TERMS), terms

    return jax.jit(jax.grad(loss, has_aux=True))


def evaluate(arrays, labels, weights=WEIGHTS, **options):
    """(terms, gradients of the weighted sum of the terms for every array), under jit."""
    arrays = tuple(jnp.asarray(a) for a in arrays)
    labels = jnp.asarray(labels, labels.dtype if labels.dtype == np.uint8 else np.int32)
    weights = {name: jnp.asarray(weights.get(name, 0.0), arrays[0].dtype) for name in TERMS}
    grads, terms = compiled(**DEFAULTS | options)(arrays, labels, weights)
    return terms, grads


def evaluate_oracle(arrays, labels, weights=WEIGHTS, **options):
    leaves = tuple(oracles.tensor(a, requires_grad=True) for a in arrays)
    logits = leaves[0] if len(leaves) == 1 else leaves[0] @ leaves[1] + leaves[2]
    terms = vars(oracles.affinity_loss(logits, labels, **options))
    scalar = sum(weight * terms[name] for name, weight in weights.items())
    return terms, torch.autograd.grad(scalar, leaves, allow_unused=True, materialize_grads=True)


def assert_agrees(arrays, labels, tolerance, **options):
    terms, grads = evaluate(arrays, labels, **options)
    expected_terms, expected_grads = evaluate_oracle(arrays, labels, **options)
    for name in TERMS:
        assert terms[name].shape == (), name
        assert_close(terms[name], expected_terms[name], tolerance, name=name)
    for k, (grad, expected) in enumerate(zip(grads, expected_grads, strict=True)):
        assert_close(grad, expected, tolerance, name=f"gradient {k}")


def assert_finite(terms, grads):
    for name in TERMS:
        assert np.isfinite(terms[name]), name
    for grad in grads:
        assert np.isfinite(grad).all()


# Parity


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("exclude_diagonal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_term_and_gradient_agrees_with_the_oracle(dtype, kind, exclude_diagonal, ignored):
    options = {"exclude_diagonal": exclude_diagonal, "ignored": ignored}
    assert_agrees(make_prior(kind, dtype), make_labels(), TOLERANCE[dtype], **options)


def test_the_total_is_the_weighted_sum_of_the_oracle(x64):
    options = {"unary_weight": 0.3, "global_weight": 2.0}
    assert_agrees(make_prior("logits", "float64"), make_labels(), TOLERANCE["float64"], **options)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_total_alone_agrees_with_the_oracle(x64, kind):
    """As in training: the other terms have no cotangent at all, instead of one of zero."""
    arrays, labels = make_prior(kind, "float64"), make_labels()
    total = lambda arrays: losses.affinity_loss(build(arrays), labels).total  # noqa: E731
    grads = jax.jit(jax.grad(total))(tuple(jnp.asarray(a) for a in arrays))
    _, expected = evaluate_oracle(arrays, labels, {"total": 1.0})
    for k, (grad, one) in enumerate(zip(grads, expected, strict=True)):
        assert_close(grad, one, TOLERANCE["float64"], name=f"gradient {k}")


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_release(x64, kind):
    arrays, labels = make_prior(kind, "float64"), make_labels()
    release = dict(unary_weight=1.0, global_weight=1.0, exclude_diagonal=True, ignored="class", ignore_label=255)
    terms = jax.jit(lambda arrays: losses.affinity_loss(build(arrays), labels))(tuple(jnp.asarray(a) for a in arrays))
    expected, _ = evaluate_oracle(arrays, labels, **release)
    for name in TERMS:
        assert_close(getattr(terms, name), expected[name], 1e-12, name=name)


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_agrees_with_the_oracle(dtype, kind, ignored):
    arrays = make_prior(kind, dtype, shape=(1, 16), channels=16)
    assert_agrees(arrays, make_labels()[1:2], TOLERANCE[dtype], ignored=ignored)


@pytest.mark.parametrize("ignore_label", [0, -1, 1000])
@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_any_ignore_label_works(x64, ignored, ignore_label):
    options = {"ignored": ignored, "ignore_label": ignore_label}
    assert_agrees(make_prior("logits", "float64"), make_labels(ignore_label), 1e-10, **options)


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_uint8_labels_are_not_wrapped(x64, kind, ignored):
    labels = make_labels(dtype=np.uint8)
    labels[0, :4] = 255, 0, 254, 1  # 255 + 1 would be 0
    assert_agrees(make_prior(kind, "float64"), labels, 1e-10, ignored=ignored)


@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_many_rows_agree_with_the_oracle(x64, ignored):
    """Many blocks of rows, the last of which is not full."""
    n = 200
    labels = np.random.default_rng(2).integers(0, 9, (1, n))
    labels[0, 100:110] = 255
    assert_agrees(make_prior("factors", "float64", (1, n), channels=4), labels, 1e-10, ignored=ignored)


def test_bfloat16_logits_give_a_float32_loss():
    logits = jnp.asarray(make_prior("logits", "float32")[0], jnp.bfloat16)
    terms = jax.jit(losses.affinity_loss)(logits, make_labels())
    expected, _ = evaluate_oracle((np.asarray(logits, np.float32),), make_labels())
    for name in TERMS:
        assert getattr(terms, name).dtype == jnp.float32, name
        assert_close(getattr(terms, name), expected[name], 5e-6, name=name)


# Saturated logits


def saturated(pattern, level, labels, dtype):
    """Logits of +-level: all right, all wrong, one sign everywhere, or random signs."""
    same = oracles.ideal_affinity_map(labels)
    sign = {
        "right": 2 * same - 1,
        "wrong": 1 - 2 * same,
        "positive": np.ones_like(same),
        "negative": -np.ones_like(same),
        "random": np.random.default_rng(3).choice([-1.0, 1.0], same.shape),
    }[pattern]
    return (level * sign).astype(dtype)


def as_prior(kind, logits):
    """One image's logits as an array, or as factors whose features are the identity."""
    if kind == "logits":
        return (logits,)
    n = logits.shape[-1]
    return np.eye(n, dtype=logits.dtype)[None], logits[0], np.zeros(n, logits.dtype)


@pytest.mark.parametrize("level", [30, 95, 200])
@pytest.mark.parametrize("pattern", ["right", "wrong", "positive", "negative", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_saturated_logits_give_finite_values_and_gradients(dtype, kind, pattern, level):
    labels = make_labels()[1:2]
    logits = saturated(pattern, level, labels, dtype)
    terms, grads = evaluate(as_prior(kind, logits), labels)
    assert_finite(terms, grads)
    expected, _ = evaluate_oracle((logits,), labels)
    assert_close(terms["unary"], expected["unary"], 1e-6, floor=1e-6, name="unary")
    for name in ("precision", "recall", "specificity"):
        assert 0 <= terms[name] <= 100.001, name


@pytest.mark.parametrize("logits", [(-95, -95, 30, 30), (-103, -103, 0, 200), (95, -88, 88, 88)])
@pytest.mark.parametrize("kind", KINDS)
def test_vanishing_ratios_give_finite_values_and_gradients(dtype, kind, logits):
    """Ratios near exp(-100), outside float32's normal range: tiny over large sums, or tiny over tiny."""
    labels = np.array([[0, 0, 1, 1]])
    rows = np.array([logits, logits, logits[::-1], logits[::-1]], dtype)
    terms, grads = evaluate(as_prior(kind, rows[None]), labels)
    assert_finite(terms, grads)
    for name in ("precision", "recall", "specificity"):
        assert 0 <= terms[name] <= 100.001, name


@pytest.mark.parametrize("level", [17.5, 30, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_binary_cross_entropy_of_a_wrong_saturated_pair_stays_linear(dtype, kind, level):
    """Computed from probabilities it would jump to 100 near a logit of 17, and its gradient would vanish."""
    labels = make_labels()[1:2]
    wrong = saturated("wrong", level, labels, dtype)
    terms, grads = evaluate(as_prior(kind, wrong), labels, {"unary": 1.0})
    assert_close(terms["unary"], level, 1e-6, name="unary")
    grad_of_logits = np.asarray(grads[kind == "factors"]).reshape(wrong.shape)
    assert_close(grad_of_logits, np.sign(wrong) / wrong.size, 1e-6, name="gradient")


# Classes of one pixel, images of one class, images without a label


@pytest.mark.parametrize("kind", KINDS)
def test_row_of_a_class_of_one_pixel_adds_exactly_100_and_no_gradient(dtype, kind):
    labels = np.arange(16)[None]
    arrays = make_prior(kind, dtype, shape=(1, 16), channels=16)
    terms, grads = evaluate(arrays, labels, INTRA_CLASS)
    assert terms["precision"] == 100
    assert terms["recall"] == 100
    for grad in grads:
        assert (np.asarray(grad) == 0).all()


def test_the_loss_to_read_is_the_loss_without_the_constants_of_clamped_rows():
    """An image of one class, and one with a class of one position: 12 + 1 of 24 rows are clamped."""
    labels = np.stack([np.zeros(12, np.int32), np.repeat([1, 2, 3], [6, 5, 1])])
    logits = np.random.default_rng(3).normal(size=(2, 12, 12)).astype(np.float32)

    def both(logits):
        loss, to_read = losses.affinity_loss_to_read(logits, labels, specificity_weight=2.0)
        return loss.total, to_read.loss.total, loss, to_read

    (gradient, _, loss, to_read), (gradient_to_read, *_) = (
        jax.jit(lambda z, n=n: (jax.grad(lambda z: both(z)[n])(z), *both(z)[1:]))(logits) for n in (0, 1)
    )
    assert_close(to_read.clamped, 13 / 24, 1e-6)
    constants = {"unary": 0, "precision": 100 / 24, "recall": 100 / 24, "specificity": 50, "total": 100 + 200 / 24}
    for name, constant in constants.items():
        assert_close(getattr(loss, name) - constant, getattr(to_read.loss, name), 1e-5, name=name)
    assert to_read.loss.specificity < 2
    np.testing.assert_array_equal(gradient, gradient_to_read)
    alone = jax.jit(jax.grad(lambda z: losses.affinity_loss(z, labels, specificity_weight=2.0).total))(logits)
    np.testing.assert_array_equal(gradient, alone)


def test_class_of_one_pixel_leaves_the_other_rows_alone(dtype):
    labels = make_labels()[:1].copy()
    labels[0, 4] = 99
    arrays = make_prior("logits", dtype, shape=(1, 16))
    terms, (grad,) = evaluate(arrays, labels, INTRA_CLASS)
    assert (np.asarray(grad)[0, 4] == 0).all()
    assert (np.abs(np.delete(np.asarray(grad)[0], 4, 0)).max(axis=1) > 1e-4).all()
    others = np.delete(np.arange(16), 4)
    expected, _ = evaluate_oracle(arrays, labels)
    z, y = arrays[0][0].astype(np.float64), labels[0]
    p = 1 / (1 + np.exp(-z))
    recalls = [p[i, (y == y[i]) & (np.arange(16) != i)].mean() for i in others]
    assert_close(expected["recall"], (100 - np.log(recalls).sum()) / 16, 1e-12)
    assert_close(terms["recall"], expected["recall"], TOLERANCE[dtype])


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_image_of_one_class_has_constant_specificity(dtype, kind, ignored):
    labels = np.repeat([[3], [5], [3], [0]], 16, axis=1)
    arrays = make_prior(kind, dtype)
    terms, grads = evaluate(arrays, labels, {"specificity": 1.0}, ignored=ignored)
    assert terms["specificity"] == 100
    for grad in grads:
        assert (np.asarray(grad) == 0).all()
    assert_agrees(arrays, labels, TOLERANCE[dtype], ignored=ignored)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_a_label_is_zero_under_mask(dtype, kind):
    terms, grads = evaluate(make_prior(kind, dtype), np.full((4, 16), 255), ignored="mask")
    assert all(terms[name] == 0 for name in TERMS)
    for grad in grads:
        assert (np.asarray(grad) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_a_label_is_one_class_under_class(dtype, kind):
    arrays = make_prior(kind, dtype)
    terms, grads = evaluate(arrays, np.full((4, 16), 255), ignored="class")
    expected, expected_grads = evaluate(arrays, np.full((4, 16), 0), ignored="class")
    assert_finite(terms, grads)
    for name in TERMS:
        assert terms[name] == expected[name], name
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_array_equal(grad, expected_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_image_without_a_label_contributes_nothing_under_mask(dtype, kind):
    labels = make_labels()[[1, 3, 3, 3]]
    first, *shared = make_prior(kind, dtype)
    terms, grads = evaluate((first, *shared), labels, ignored="mask")
    alone_terms, alone_grads = evaluate((first[:1], *shared), labels[:1], ignored="mask")
    tolerance = {"float64": 1e-14, "float32": 1e-6}[dtype]
    for name in TERMS:
        assert_close(terms[name], alone_terms[name], tolerance, name=name)
    assert (np.asarray(grads[0])[1:] == 0).all()
    assert_close(grads[0][:1], alone_grads[0], tolerance, name="gradient 0")
    for grad, alone_grad in zip(grads[1:], alone_grads[1:], strict=True):
        assert_close(grad, alone_grad, tolerance, name="shared gradient")


def test_masked_positions_may_hold_anything(dtype):
    """Rows and columns of ignored positions do not affect the loss under mask, however large they are."""
    labels = make_labels()[1:2]
    (logits,) = make_prior("logits", dtype, shape=(1, 16))
    gone = labels[0] == 255
    loud = logits.copy()
    loud[0, gone] = 200
    loud[0, :, gone] = -200
    terms, (grad,) = evaluate((logits,), labels, ignored="mask")
    loud_terms, (loud_grad,) = evaluate((loud,), labels, ignored="mask")
    for name in TERMS:
        assert terms[name] == loud_terms[name], name
    np.testing.assert_array_equal(grad, loud_grad)
    assert (np.asarray(grad)[0, gone] == 0).all() and (np.asarray(grad)[0, :, gone] == 0).all()


@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_padding_is_in_no_sum_whatever_its_labels(x64, ignored):
    """The loss and gradient are those of the real positions alone, and 0 elsewhere."""
    labels = make_labels()[1:2]
    (logits,) = make_prior("logits", "float64", shape=(1, 16))
    real = np.arange(16) % 4 != 3
    assert {*labels[0][real]} & {*labels[0][~real]}, "padding has labels that real positions have"
    inside = np.ix_([True], real, real)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(logits, labels, real=None):
        found = losses.affinity_loss(logits, labels, ignored=ignored, real=real)
        return found.total, found

    grad, terms = gradient(logits, labels, real[None])
    grad_alone, alone = gradient(logits[inside], labels[:, real])
    for name in TERMS:
        assert_close(getattr(terms, name), getattr(alone, name), 1e-12, name=name)
    wanted = np.zeros_like(logits)
    wanted[inside] = grad_alone
    assert_close(grad, wanted, 1e-12, name="gradient")


def test_means_are_over_all_pairs_and_rows_of_the_batch_not_over_images(x64):
    """Under mask an image with fewer labels weighs less."""
    labels = np.zeros((2, 8), np.int64)
    labels[1, 2:] = 255
    logits = np.stack([np.full((8, 8), 1.0), np.full((8, 8), -2.0)])
    terms, _ = evaluate((logits,), labels, ignored="mask")
    softplus = lambda z: np.log1p(np.exp(z))  # noqa: E731
    assert_close(terms["unary"], (64 * softplus(-1.0) + 4 * softplus(2.0)) / 68, 1e-12)
    assert_close(terms["recall"], (8 * softplus(-1.0) + 2 * softplus(2.0)) / 10, 1e-12)
