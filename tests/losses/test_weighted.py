"""Class weights, hard pixels and the weights of single terms, against plain torch in float64."""

import math
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from oracles import assert_close  # noqa: E402

from configs import default  # noqa: E402
from cpnet_jax import losses, models, sharding  # noqa: E402
from cpnet_jax.config import build  # noqa: E402
from cpnet_jax.config.check import check_config  # noqa: E402
from cpnet_jax.errors import UserError  # noqa: E402
from cpnet_jax.losses import pixel_blocks  # noqa: E402
from cpnet_jax.losses.ohem import hard_pixels  # noqa: E402
from cpnet_jax.plan.hlo import Program  # noqa: E402

TOLERANCE = {"float64": 1e-10, "float32": 5e-6}
CLASSES = 5
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 3.5])
GRID, SIZE = (3, 2), (20, 16)
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(params=TOLERANCE)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(autouse=True)
def eight_rows(monkeypatch):
    """Several blocks of rows, with a last one that is not full."""
    monkeypatch.setattr(pixel_blocks, "BLOCK", 1)


def make_logits(batch=3, dtype="float64", scale=3.0):
    return (scale * np.random.default_rng(0).normal(size=(batch, *GRID, CLASSES))).astype(dtype)


def make_labels(batch=3, ignored=0.3):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, (batch, *SIZE)).astype(np.int32)
    return np.where(rng.random(labels.shape) < ignored, 255, labels)


def full_size(logits, labels, **options):
    return losses.cross_entropy(models.upsample(logits, labels.shape[1:]), labels, **options)


FORMS = {
    "cross_entropy": full_size,
    "blocks": losses.upsampled_cross_entropy,
    "windows": partial(losses.upsampled_cross_entropy, form="windows"),
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def evaluate(loss, logits, labels, **options):
    run = jax.jit(jax.value_and_grad(lambda logits, labels: loss(logits, labels, **options)))
    return run(jnp.asarray(logits), jnp.asarray(labels))


def torch_loss(logits, labels, class_weights=None, threshold=None, min_kept=None, *, over_all=False):
    """(value, gradient for the logits at stride 8) by torch's cross entropy of the kept pixels.

    `over_all` averages as mmsegmentation 0.x does with avg_non_ignore=False: over all pixels, with a loss of 0 for
    ignored and easy ones.
    """
    leaf = oracles.tensor(logits, requires_grad=True)
    full = oracles.upsample(leaf, labels.shape[1:]).permute(0, 3, 1, 2)
    target = torch.tensor(labels, dtype=torch.int64)
    if threshold is not None:
        target = kept_labels(full.detach(), target, threshold, min_kept)
    weight = None if class_weights is None else torch.tensor(class_weights)
    reduction = "none" if over_all else "mean"
    value = F.cross_entropy(full, target, weight=weight, ignore_index=255, reduction=reduction).mean()
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def kept_labels(logits, target, threshold, min_kept):
    """The definition: sorts the probabilities of all labelled pixels and ignores the easy ones."""
    probability = F.softmax(logits, dim=1).gather(1, target.masked_fill(target == 255, 0)[:, None])[:, 0]
    in_order = probability[target != 255].sort().values
    count = min(min_kept * len(target), len(in_order))
    hard = probability < threshold
    if count:
        hard |= probability <= in_order[count - 1]
    return target.masked_fill(~hard, 255)


# Class weights


def test_class_weights_agree_with_torch(dtype, form):
    logits, labels = make_logits(dtype=dtype), make_labels()
    value, grad = evaluate(form, logits, labels, class_weights=tuple(WEIGHTS))
    expected, expected_grad = torch_loss(logits, labels, WEIGHTS)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")


def test_pixels_whose_classes_all_have_weight_zero_count_like_no_pixels(form):
    labels = np.where(make_labels() == 255, 255, 2)
    value, grad = evaluate(form, make_logits(dtype="float32"), labels, class_weights=WEIGHTS)
    assert value == 0 and (np.asarray(grad) == 0).all()


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("weights", [np.ones(4), np.ones(6), np.ones((5, 1)), 1.0])
def test_a_number_of_weights_that_is_not_the_number_of_classes_is_refused(form, weights):
    with pytest.raises(ValueError, match=r"class_weights have shape .*.*5 classes"):
        jax.eval_shape(partial(form, class_weights=weights), make_logits(dtype="float32"), make_labels())


# The mean over all pixels


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["", "class weights"])
@pytest.mark.parametrize("ohem", [None, (0.3, 100)], ids=["", "hard pixels"])
def test_the_mean_over_all_pixels_is_that_of_the_release(dtype, form, class_weights, ohem):
    logits, labels = make_logits(dtype=dtype), make_labels()
    options = {"class_weights": class_weights, "ohem": ohem and losses.Ohem(*ohem)}
    value, grad = evaluate(form, logits, labels, mean_over="all", **options)
    expected, expected_grad = torch_loss(logits, labels, class_weights, *(ohem or ()), over_all=True)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")
    labelled, _ = torch_loss(logits, labels, class_weights, *(ohem or ()))
    assert abs(float(labelled) / value - 1) > 0.01, "else no pixel was ignored"


def test_the_mean_over_all_pixels_of_no_label_is_zero(form):
    value, grad = evaluate(form, make_logits(dtype="float32"), np.full((3, *SIZE), 255), mean_over="all")
    assert value == 0 and (np.asarray(grad) == 0).all()


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_mean_is_refused(form):
    with pytest.raises(ValueError, match="mean_over is 'valid': it must be one of"):
        jax.eval_shape(partial(form, mean_over="valid"), make_logits(dtype="float32"), make_labels())


# Hard pixels

# (threshold, min_kept): the threshold decides; the count decides; the count exceeds the number of pixels.
KINDS = [(0.7, 10), (0.05, 200), (0.5, 10**6)]


@pytest.mark.parametrize(("threshold", "min_kept"), KINDS)
def test_hard_pixels_agree_with_the_definition_by_sorting(threshold, min_kept):
    logits, labels = make_logits(), make_labels()
    with jax.enable_x64(True):
        value, grad = evaluate(losses.upsampled_cross_entropy, logits, labels, ohem=losses.Ohem(threshold, min_kept))
    expected, expected_grad = torch_loss(logits, labels, None, threshold, min_kept)
    assert_close(value, expected, 1e-10, name="value")
    assert_close(grad, expected_grad, 1e-10, name="gradient")
    plain, _ = torch_loss(logits, labels)
    assert (float(expected) > 1.01 * float(plain)) == (min_kept < 10**6), "else nothing was selected"


def test_hard_pixels_may_have_class_weights(dtype, form):
    logits, labels = make_logits(dtype=dtype), make_labels()
    value, grad = evaluate(form, logits, labels, class_weights=tuple(WEIGHTS), ohem=losses.Ohem(0.3, 100))
    expected, expected_grad = torch_loss(logits, labels, WEIGHTS, 0.3, 100)
    assert_close(value, expected, TOLERANCE[dtype], name="value")
    assert_close(grad, expected_grad, TOLERANCE[dtype], name="gradient")


@pytest.mark.parametrize("ohem", [losses.Ohem(1.5), losses.Ohem(-0.1), losses.Ohem(math.nan), losses.Ohem(0.7, -1)])
def test_an_impossible_threshold_or_number_of_hard_pixels_is_refused(form, ohem):
    with pytest.raises(ValueError, match="the threshold must be in"):
        jax.eval_shape(partial(form, ohem=ohem), make_logits(dtype="float32"), make_labels())


def test_batch_without_a_label_has_no_hard_pixels(form):
    value, grad = evaluate(form, make_logits(dtype="float32"), np.full((3, *SIZE), 255), ohem=losses.Ohem())
    assert value == 0 and (np.asarray(grad) == 0).all()


def test_a_nan_is_kept_and_shows_in_the_loss(form):
    """Even if other pixels are harder."""
    logits, labels = make_logits(dtype="float32"), make_labels(ignored=0)
    logits[0, 0, 0, 0] = np.nan
    value, _ = evaluate(form, logits, labels, ohem=losses.Ohem(0.0, 1))
    assert np.isnan(value)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_nan_counts_as_hardest(sign):
    values = np.array([[[5.0, np.copysign(np.nan, sign), np.inf]]], np.float32)
    assert select(values, np.ones_like(values, bool), 0.0, 1).tolist() == [[[False, True, False]]]


def select(values, labelled, threshold, min_kept):
    run = jax.jit(hard_pixels, static_argnums=2)
    return np.asarray(run(jnp.asarray(values), jnp.asarray(labelled), losses.Ohem(threshold, min_kept)))


@pytest.mark.parametrize("min_kept", [0, 1, 30, 60])
def test_the_count_is_exact_and_ties_stay_together(dtype, min_kept):
    """Against a sort, over all magnitudes of floats."""
    rng = np.random.default_rng(2)
    values = np.exp(rng.uniform(-80, 80, (2, 6, 10))).astype(dtype)
    values[0, :2] = values[0, 2, 0]
    values[1, 0, :3] = 0, np.finfo(dtype).smallest_subnormal, np.inf
    labelled = rng.random(values.shape) < 0.9
    in_order = np.sort(values[labelled])[::-1]
    count = min(2 * min_kept, len(in_order))
    expected = labelled & (values >= in_order[count - 1]) if count else np.zeros_like(labelled)
    # No probability is below 0, so the count alone decides.
    np.testing.assert_array_equal(select(values, labelled, 0.0, min_kept), expected)


def test_the_threshold_is_on_the_probability(dtype):
    probabilities = np.array([0.1, 0.6999, 0.7001, 0.999, 1.0])
    values = -np.log(probabilities).reshape(1, 1, 5).astype(dtype)
    labelled = np.ones(values.shape, bool)
    assert select(values, labelled, 0.7, 0).tolist() == [[[True, True, False, False, False]]]
    assert select(values, labelled, 0.7, 3).tolist() == [[[True, True, True, False, False]]]
    assert select(values, labelled, 1.0, 0).sum() == 4


def test_slightly_negative_losses_are_ordered_by_magnitude():
    values = np.array([[[-1e-7, 0.5, 0.2]]], np.float32)
    assert select(values, np.ones_like(values, bool), 0.0, 2).tolist() == [[[False, True, True]]]


def test_eight_devices_select_what_one_does_and_exchange_only_scalars():
    mesh = sharding.make_mesh()
    logits, labels = make_logits(8, "float32"), make_labels(8)
    labels[3] = 255
    loss = partial(losses.upsampled_cross_entropy, ohem=losses.Ohem(0.05, 100), class_weights=WEIGHTS)
    split = jax.device_put((logits, labels), sharding.split(mesh))
    run = jax.jit(jax.value_and_grad(loss)).lower(*split).compile()
    exchanges = Program(run.as_text()).collectives()
    assert exchanges and all(array.shape == () for exchange in exchanges for array in exchange.arrays)
    assert "all-gather" not in run.as_text() and " sort(" not in run.as_text()
    value, grad = run(*split)
    expected, expected_grad = evaluate(loss, logits, labels)
    assert_close(value, expected, 1e-6, name="value")
    assert_close(grad, expected_grad, 1e-6, name="gradient")


def test_bfloat16_has_nearly_the_same_gradient():
    logits, labels = make_logits(dtype="float32"), make_labels()
    value, grad = evaluate(
        losses.upsampled_cross_entropy, logits, labels, ohem=losses.Ohem(0.3, 100), dtype=jnp.bfloat16
    )
    expected, expected_grad = torch_loss(logits, labels, None, 0.3, 100)
    assert_close(value, expected, 5e-3, name="value")
    assert_close(grad, expected_grad, 5e-2, name="gradient")


# Weights of terms


def affinity(labels, **weights):
    """A jitted function from logits to (terms, gradient of the total)."""

    def loss(logits):
        terms = losses.affinity_loss(logits, labels, **weights)
        return terms.total, terms

    run = jax.jit(jax.grad(loss, has_aux=True))
    return lambda logits: run(logits)[::-1]


def test_every_term_has_its_weight_and_is_reported_unweighted(dtype):
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(2, 9, 9)), rng.integers(0, 3, (2, 9))
    weights = {"unary_weight": 0.3, "precision_weight": 2.0, "recall_weight": 0.0, "specificity_weight": 5.0}
    terms, grad = affinity(labels, global_weight=0.7, **weights)(logits)
    leaf = oracles.tensor(logits, requires_grad=True)
    expected = oracles.affinity_loss(leaf, labels)
    total = 0.3 * expected.unary + 0.7 * (2 * expected.precision + 5 * expected.specificity)
    assert_close(terms.total, total, TOLERANCE[dtype])
    assert_close(grad, torch.autograd.grad(total, leaf)[0], TOLERANCE[dtype])
    for name in oracles.TERMS[1:]:
        assert_close(getattr(terms, name), getattr(expected, name), TOLERANCE[dtype], name=name)


def test_a_nan_of_the_prior_shows_in_every_term():
    logits = np.zeros((2, 4, 4), np.float32)
    logits[0, 1] = np.nan
    terms, _ = affinity(np.array([[0, 0, 1, 1]] * 2))(logits)
    assert all(math.isnan(value) for value in terms)


def test_an_infinite_term_of_weight_zero_makes_no_nan():
    labels = np.array([[0, 0, 1, 1]])
    logits = np.zeros((1, 4, 4), np.float32)
    logits[0, 0, 3] = np.inf
    terms, grad = affinity(labels, unary_weight=0.0, precision_weight=0.0, specificity_weight=0.0)(logits)
    assert math.isinf(terms.unary)
    assert math.isfinite(terms.total) and np.isfinite(grad).all()


def total_loss(**options):
    """A jitted function from the prior to (gradient for the prior, terms)."""
    logits = jnp.asarray(make_logits(2, "float32"))
    labels = make_labels(2)[:, :3, :2].repeat(8, axis=1).repeat(8, axis=2)

    def loss(prior):
        output = types.SimpleNamespace(logits=logits, aux_logits=2 * logits, prior=prior)
        return losses.total_loss(output, labels, **options)

    run = jax.jit(jax.grad(loss, has_aux=True))
    return lambda prior: jax.tree.map(np.asarray, run(prior))


@pytest.fixture(scope="module")
def prior():
    return np.random.default_rng(5).normal(size=(2, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(prior):
    return total_loss()(prior)


def test_an_unsupervised_prior_is_reported_and_gets_no_gradient(prior, plain):
    grad, terms = total_loss(prior_weight=0.0)(prior)
    assert (grad == 0).all() and (plain[0] != 0).any()
    for name in plain[1].keys() - {"loss"}:
        assert_close(terms[name], plain[1][name], 1e-6, name=name)


def test_a_further_term_is_named_and_weighted(monkeypatch):
    def mean_logit(output, labels, *, prior_size, ignore_label):
        assert (labels.shape, prior_size, ignore_label) == ((2, 24, 16), (3, 2), 255)
        return output.logits.mean()

    monkeypatch.setitem(losses.TERMS, "mean_logit", mean_logit)
    output = types.SimpleNamespace(logits=jnp.asarray(make_logits(2, "float32")), aux_logits=None, prior=None)
    labels = make_labels(2)[:, :3, :2].repeat(8, axis=1).repeat(8, axis=2)
    without, _ = losses.total_loss(output, labels)
    total, terms = losses.total_loss(output, labels, term_weights={"mean_logit": 0.5})
    assert terms["mean_logit"] == output.logits.mean() != 0
    assert_close(total, without + 0.5 * terms["mean_logit"], 1e-6)


def test_a_term_may_change_the_labels_although_the_prior_knows_sums_of_the_unchanged_ones(monkeypatch):
    """Training hands the labels to the network, which then sums over the rows of the prior by them."""

    def of_groups(output, labels, *, prior_size, ignore_label):
        groups = jnp.minimum(losses.downsample_labels(labels, prior_size), 1)
        return losses.affinity_loss(output.prior, groups, ignore_label=ignore_label).total

    monkeypatch.setitem(losses.TERMS, "groups", of_groups)
    labels = make_labels(2)[:, :3, :2].repeat(8, axis=1).repeat(8, axis=2)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32))
    prior = models.PriorFactors(features, features[0].T, jnp.zeros(6))
    targets = losses.AffinityTargets(losses.downsample_labels(jnp.asarray(labels), GRID))
    found = []
    for known in (None, (targets, prior.row_sums(targets))):
        output = models.CPNetOutput(jnp.zeros((2, *GRID, CLASSES)), None, prior.replace(known=known))
        found.append(losses.total_loss(output, labels, term_weights={"groups": 1.0})[1])
    assert found[0]["groups"] == found[1]["groups"] != found[0]["affinity_unary"]


def test_a_loss_of_weight_zero_costs_no_backward_pass(prior):
    def flops(**weights):
        grad = affinity(np.zeros((2, 6), np.int32), **weights)
        compiled = jax.jit(lambda logits: grad(logits)[1]).lower(prior).compile()
        return compiled.cost_analysis().get("flops", 0)

    assert flops(unary_weight=0.0, global_weight=0.0) == 0 < flops(global_weight=0.0) < flops()


def test_the_mean_over_all_pixels_applies_to_both_cross_entropies_and_to_nothing_else(prior, plain):
    """The labels are 3/10 ignored, so both shrink by the share of labelled pixels."""
    _, over_all = total_loss(mean_over="all")(prior)
    shares = {name: over_all[name] / plain[1][name] for name in plain[1]}
    assert 0.5 < shares["segmentation"] < 0.9
    assert_close(shares["aux"], shares["segmentation"], 1e-6)
    assert all(share == 1 for name, share in shares.items() if name.startswith("affinity"))


def test_the_config_chooses_the_mean():
    config = default.get_config()
    config.data.crop_size = (24, 16)
    logits = jnp.asarray(make_logits(2, "float32"))
    labels = make_labels(2)[:, :3, :2].repeat(8, axis=1).repeat(8, axis=2)
    output = types.SimpleNamespace(logits=logits, aux_logits=None, prior=None)
    found = []
    for mean_over in ("labelled", "all"):
        config.loss.mean_over = mean_over
        check_config(config)
        found.append(build.make_loss(config)(output, labels)[0])
    assert_close(found[1] / found[0], (labels != 255).mean(), 1e-5)
    config.loss.mean_over = "valid"
    with pytest.raises(UserError, match=r"config\.loss\.mean_over is 'valid'"):
        check_config(config)


def test_hard_pixels_apply_to_the_segmentation_loss_and_class_weights_to_both(prior, plain):
    _, hard = total_loss(ohem=losses.Ohem(0.1, 5))(prior)
    assert hard["segmentation"] > 1.5 * plain[1]["segmentation"]
    assert_close(hard["aux"], plain[1]["aux"], 1e-6)
    _, weighted = total_loss(class_weights=tuple(WEIGHTS))(prior)
    assert all(abs(weighted[name] / plain[1][name] - 1) > 1e-2 for name in ("segmentation", "aux"))
