"""The affinity loss against a float64 oracle that loops over rows, and its corner cases."""

import functools
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import TERMS, assert_close  # noqa: E402

from cpnet_jax import losses, models  # noqa: E402

KINDS = ("logits", "factors")
DTYPES = ("float64", "float32")
TOLERANCE = {"float64": 1e-10, "float32": 5e-6}
# Every term has a different weight in the differentiated scalar, so that swapped cotangents are detected.
COTANGENTS = dict(zip(TERMS, (0.7, 1.3, -0.9, 0.4, 2.1), strict=True))
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(params=DTYPES)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_labels(ignore_label=255, dtype=np.int32):
    """Four images of 15 positions: mixed; ignored positions and a class of one pixel; one class; no label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 15))
    labels[1, :5] = ignore_label
    labels[1, 9] = 254
    labels[2] = 7
    labels[3] = ignore_label
    return labels.astype(dtype)


def make_prior(kind, dtype, shape=(4, 15), channels=6, scale=1.5, seed=1):
    """The arrays of a prior of this kind, as a tuple for `build`."""
    rng = np.random.default_rng(seed)
    batch, n = shape
    if kind == "logits":
        return (scale * rng.normal(size=(batch, n, n)).astype(dtype),)
    sizes = (batch, n, channels), (channels, n), (n,)
    return tuple((scale * rng.normal(size=size) / size[0] ** 0.25).astype(dtype) for size in sizes)


def build(arrays):
    # Blocks that divide neither 15 nor 16 positions.
    return arrays[0] if len(arrays) == 1 else models.PriorFactors(*arrays, block_rows=6)


def weigh(terms):
    return sum(weight * getattr(terms, name) for name, weight in COTANGENTS.items())


def intra_class_terms(terms):
    return terms.precision + terms.recall


@functools.cache
def compiled(scalar, **options):
    def loss(arrays, labels):
        terms = losses.affinity_loss(build(arrays), labels, **options)
        return scalar(terms), {name: getattr(terms, name) for name in TERMS}

    return jax.jit(jax.grad(loss, has_aux=True))


def evaluate(arrays, labels, scalar=weigh, **options):
    """(terms, gradients of `scalar(terms)` for every array), under jit."""
    grads, terms = compiled(scalar, **options)(tuple(jnp.asarray(a) for a in arrays), jnp.asarray(labels))
    return terms, grads


def evaluate_oracle(arrays, labels, scalar=weigh, **options):
    leaves = tuple(oracles.tensor(a, requires_grad=True) for a in arrays)
    logits = leaves[0] if len(leaves) == 1 else leaves[0] @ leaves[1] + leaves[2]
    terms = oracles.affinity_loss(logits, labels, **options)
    grads = torch.autograd.grad(scalar(terms), leaves, allow_unused=True, materialize_grads=True)
    return {name: getattr(terms, name) for name in TERMS}, grads


def assert_agrees(arrays, labels, tolerance, scalar=weigh, **options):
    terms, grads = evaluate(arrays, labels, scalar, **options)
    expected_terms, expected_grads = evaluate_oracle(arrays, labels, scalar, **options)
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


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("exclude_diagonal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_term_and_gradient_agrees_with_the_oracle(dtype, kind, exclude_diagonal, ignored, weights):
    options = dict(
        unary_weight=weights[0], global_weight=weights[1], exclude_diagonal=exclude_diagonal, ignored=ignored
    )
    assert_agrees(make_prior(kind, dtype), make_labels(), TOLERANCE[dtype], **options)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_total_alone_agrees_with_the_oracle(dtype, kind):
    assert_agrees(make_prior(kind, dtype), make_labels(), TOLERANCE[dtype], scalar=attrgetter("total"))


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_release(x64, kind):
    arrays, labels = make_prior(kind, "float64"), make_labels()
    release = dict(unary_weight=1.0, global_weight=1.0, exclude_diagonal=True, ignored="class", ignore_label=255)
    terms, _ = evaluate(arrays, labels)
    expected, _ = evaluate_oracle(arrays, labels, **release)
    for name in TERMS:
        assert_close(terms[name], expected[name], 1e-12, name=name)


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_agrees_with_the_oracle(dtype, kind, ignored):
    assert_agrees(make_prior(kind, dtype, shape=(1, 15)), make_labels()[1:2], TOLERANCE[dtype], ignored=ignored)


@pytest.mark.parametrize("ignore_label", [0, -1, 1000])
@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_any_ignore_label_works(x64, ignored, ignore_label):
    assert_agrees(
        make_prior("factors", "float64"),
        make_labels(ignore_label),
        1e-10,
        ignored=ignored,
        ignore_label=ignore_label,
    )


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_uint8_labels_are_not_wrapped(x64, kind, ignored):
    labels = make_labels(dtype=np.uint8)
    labels[0, :4] = 255, 0, 254, 1  # 255 + 1 would be 0
    assert_agrees(make_prior(kind, "float64"), labels, 1e-10, ignored=ignored)


@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_many_rows_agree_with_the_oracle(x64, ignored):
    """More positions than a block has rows, and not a multiple."""
    n = 2100
    labels = np.random.default_rng(2).integers(0, 9, (1, n))
    labels[0, 1000:1100] = 255
    assert_agrees(make_prior("factors", "float64", (1, n), channels=4), labels, 1e-10, ignored=ignored)


def test_bfloat16_logits_give_a_float32_loss():
    logits = jnp.asarray(make_prior("logits", "float32")[0], jnp.bfloat16)
    terms = losses.affinity_loss(logits, make_labels())
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
    terms, grads = evaluate(as_prior(kind, wrong), labels, attrgetter("unary"))
    assert_close(terms["unary"], level, 1e-6, name="unary")
    grad_of_logits = np.asarray(grads[kind == "factors"]).reshape(wrong.shape)
    assert_close(grad_of_logits, np.sign(wrong) / wrong.size, 1e-6, name="gradient")


# Classes of one pixel, images of one class, images without a label


@pytest.mark.parametrize("kind", KINDS)
def test_row_of_a_class_of_one_pixel_adds_exactly_100_and_no_gradient(dtype, kind):
    labels = np.arange(16)[None]
    arrays = make_prior(kind, dtype, shape=(1, 16))
    terms, grads = evaluate(arrays, labels, intra_class_terms)
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
    arrays = make_prior("logits", dtype, shape=(1, 15))
    terms, (grad,) = evaluate(arrays, labels, intra_class_terms)
    assert (np.asarray(grad)[0, 4] == 0).all()
    assert (np.abs(np.delete(np.asarray(grad)[0], 4, 0)).max(axis=1) > 1e-4).all()
    others = np.delete(np.arange(15), 4)
    expected, _ = evaluate_oracle(arrays, labels)
    z, y = arrays[0][0].astype(np.float64), labels[0]
    p = 1 / (1 + np.exp(-z))
    recalls = [p[i, (y == y[i]) & (np.arange(15) != i)].mean() for i in others]
    assert_close(expected["recall"], (100 - np.log(recalls).sum()) / 15, 1e-12)
    assert_close(terms["recall"], expected["recall"], TOLERANCE[dtype])


@pytest.mark.parametrize("ignored", ["class", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_image_of_one_class_has_constant_specificity(dtype, kind, ignored):
    labels = np.repeat([[3], [5]], 16, axis=1)
    arrays = make_prior(kind, dtype, shape=(2, 16))
    terms, grads = evaluate(arrays, labels, attrgetter("specificity"), ignored=ignored)
    assert terms["specificity"] == 100
    for grad in grads:
        assert (np.asarray(grad) == 0).all()
    assert_agrees(arrays, labels, TOLERANCE[dtype], ignored=ignored)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_a_label_is_zero_under_mask(dtype, kind):
    terms, grads = evaluate(make_prior(kind, dtype), np.full((4, 15), 255), ignored="mask")
    assert all(terms[name] == 0 for name in TERMS)
    for grad in grads:
        assert (np.asarray(grad) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_a_label_is_one_class_under_class(dtype, kind):
    arrays = make_prior(kind, dtype)
    terms, grads = evaluate(arrays, np.full((4, 15), 255), ignored="class")
    expected, expected_grads = evaluate(arrays, np.full((4, 15), 0), ignored="class")
    assert_finite(terms, grads)
    for name in TERMS:
        assert terms[name] == expected[name], name
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_array_equal(grad, expected_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_image_without_a_label_contributes_nothing_under_mask(dtype, kind):
    labels = make_labels()[[1, 3]]
    first, *shared = make_prior(kind, dtype, shape=(2, 15))
    terms, grads = evaluate((first, *shared), labels, ignored="mask")
    alone_terms, alone_grads = evaluate((first[:1], *shared), labels[:1], ignored="mask")
    tolerance = {"float64": 1e-14, "float32": 1e-6}[dtype]
    for name in TERMS:
        assert_close(terms[name], alone_terms[name], tolerance, name=name)
    assert (np.asarray(grads[0])[1] == 0).all()
    assert_close(grads[0][:1], alone_grads[0], tolerance, name="gradient 0")
    for grad, alone_grad in zip(grads[1:], alone_grads[1:], strict=True):
        assert_close(grad, alone_grad, tolerance, name="shared gradient")


def test_masked_positions_may_hold_anything(dtype):
    """Rows and columns of ignored positions do not affect the loss under mask, however large they are."""
    labels = make_labels()[1:2]
    (logits,) = make_prior("logits", dtype, shape=(1, 15))
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


def test_means_are_over_all_pairs_and_rows_of_the_batch_not_over_images(x64):
    """Under mask an image with fewer labels weighs less."""
    labels = np.zeros((2, 8), np.int64)
    labels[1, 2:] = 255
    logits = np.stack([np.full((8, 8), 1.0), np.full((8, 8), -2.0)])
    terms, _ = evaluate((logits,), labels, ignored="mask")
    softplus = lambda z: np.log1p(np.exp(z))  # noqa: E731
    assert_close(terms["unary"], (64 * softplus(-1.0) + 4 * softplus(2.0)) / 68, 1e-12)
    assert_close(terms["recall"], (8 * softplus(-1.0) + 2 * softplus(2.0)) / 10, 1e-12)


# Labels, arguments, memory


def test_ideal_affinity_map_is_one_where_labels_agree(dtype):
    labels = make_labels()
    affinity = losses.ideal_affinity_map(jnp.asarray(labels))
    assert affinity.shape == (4, 15, 15) and jnp.issubdtype(affinity.dtype, jnp.floating)
    np.testing.assert_array_equal(affinity, oracles.ideal_affinity_map(labels))


@pytest.mark.parametrize("label_dtype", [np.int32, np.uint8])
@pytest.mark.parametrize("grid, size", [((6, 8), (3, 2)), ((16, 24), (2, 3)), ((5, 7), (5, 7)), ((4, 4), (1, 1))])
def test_downsampling_takes_the_top_left_pixel_of_every_cell(grid, size, label_dtype):
    labels = np.random.default_rng(4).integers(0, 256, (2, *grid)).astype(label_dtype)
    out = jax.jit(losses.downsample_labels, static_argnums=1)(labels, size)
    assert jnp.issubdtype(out.dtype, jnp.integer)
    np.testing.assert_array_equal(out, oracles.downsample_labels(labels, size))


@pytest.mark.parametrize("size", [(4, 4), (3, 3), (16, 16), (0, 4)])
def test_label_grid_that_does_not_divide_is_refused(size):
    with pytest.raises(ValueError):
        losses.downsample_labels(np.zeros((1, 8, 10), np.int32), size)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignored", ["other", None, ""])
def test_unknown_treatment_of_ignored_pixels_is_refused(kind, ignored):
    with pytest.raises(ValueError, match=r"class.*mask|mask.*class"):
        losses.affinity_loss(build(make_prior(kind, "float32")), make_labels(), ignored=ignored)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("labels_shape", [(4, 14), (3, 15), (1, 15), (4, 1), (15,), (4, 3, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_do_not_match_the_prior_are_refused_naming_both_shapes(kind, labels_shape):
    arrays = make_prior(kind, "float32")
    with pytest.raises(ValueError) as error:
        losses.affinity_loss(build(arrays), np.zeros(labels_shape, np.int32))
    assert str(labels_shape) in str(error.value)
    assert "(4, 15, " in str(error.value)  # of the logits or of the features


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 6, 5), (2, 1, 6), (6, 6)])
def test_logits_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError):
        losses.affinity_loss(np.zeros(shape, np.float32), np.zeros((2, 6), np.int32))


def test_factors_with_another_number_of_channels_than_positions_are_refused():
    prior = models.PriorFactors(jnp.ones((2, 6, 4)), jnp.ones((4, 5)), jnp.ones(5))
    with pytest.raises(ValueError):
        losses.affinity_loss(prior, np.zeros((2, 6), np.int32))


def largest_array(jaxpr):
    """Size of the largest array that any equation of the program (or of one inside it) produces."""
    largest = 0
    for equation in jaxpr.eqns:
        largest = max([largest, *(var.aval.size for var in equation.outvars if hasattr(var.aval, "size"))])
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns"))
        for leaf in inner:
            leaf = getattr(leaf, "jaxpr", leaf)
            if hasattr(leaf, "eqns"):
                largest = max(largest, largest_array(leaf))
    return largest


@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_loss_of_factors_never_forms_an_array_of_all_pairs(ignored):
    n, channels = 9216, 8

    def loss(arrays, labels):
        prior = models.PriorFactors(*arrays)
        intra, inter = prior.contexts(arrays[0])
        return losses.affinity_loss(prior, labels, ignored=ignored).total + intra.sum() + (inter**2).sum()

    arrays = tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, n, channels), (channels, n), (n,)))
    program = jax.make_jaxpr(jax.value_and_grad(loss))(arrays, jax.ShapeDtypeStruct((1, n), jnp.int32))
    largest = largest_array(program.jaxpr)
    assert n * channels <= largest <= n * n // 4
