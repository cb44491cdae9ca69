"""The context prior of pairs: the formulas in plain torch, any image size, and images with padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import assert_close  # noqa: E402

from cpnet_jax import losses, models  # noqa: E402
from cpnet_jax.models.context_prior import ContextPrior, PairPrior  # noqa: E402

BATCH, N, FAN_IN, CHANNELS = 2, 15, 7, 6
LABELS = np.array([[0] * 6 + [1] * 7 + [2, 255], [3, 1] * 7 + [1]], np.int32)
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_case(seed=0):
    """(features, params) as float64 numpy arrays."""
    rng = np.random.default_rng(seed)
    params = {"kernel": rng.normal(size=(FAN_IN, CHANNELS)), "scale": np.float64(3.0), "bias": np.float64(-1.0)}
    return rng.normal(size=(BATCH, N, FAN_IN)), params


def oracle_logits(x, params):
    e = x @ params["kernel"]
    e = e / torch.linalg.vector_norm(e, dim=-1, keepdim=True)
    return params["scale"] * e @ e.mT + params["bias"]


def combined(contexts, total, weights):
    return sum((weight * context).sum() for weight, context in zip(weights, contexts, strict=True)) + total


def test_contexts_loss_and_gradients_agree_with_the_oracle(x64):
    x, params = make_case()
    weights = np.random.default_rng(1).normal(size=(2, BATCH, N, FAN_IN))

    def run(x, params):
        prior = PairPrior(CHANNELS, block_rows=4).apply({"params": params}, x, train=True)
        targets = losses.AffinityTargets(jnp.asarray(LABELS))
        contexts, sums = prior.contexts_and_row_sums(x, targets)
        loss = losses.affinity_loss(prior.replace(known=(targets, sums)), LABELS)
        return combined(contexts, loss.total, weights), (contexts, loss, prior.logits())

    arguments = jax.tree.map(jnp.asarray, (x, params))
    (_, (contexts, loss, logits)), gradients = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(*arguments)

    leaves = jax.tree.map(lambda leaf: oracles.tensor(leaf, True), (x, params))
    z = oracle_logits(*leaves)
    expected = [p @ leaves[0] / N for p in (torch.sigmoid(z), 1 - torch.sigmoid(z))]
    expected_loss = oracles.affinity_loss(z, LABELS)
    combined(expected, expected_loss.total, map(oracles.tensor, weights)).backward()
    assert_close(logits, z, 1e-10)
    for name in oracles.TERMS:
        assert_close(getattr(loss, name), getattr(expected_loss, name), 1e-10, name=name)
    for actual, wanted in zip(contexts, expected, strict=True):
        assert_close(actual, wanted, 1e-10)
    for (path, actual), leaf in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(leaves), strict=True
    ):
        assert_close(actual, leaf.grad, 1e-9, floor=1e-3, name=jax.tree_util.keystr(path))


def layer(**options):
    return ContextPrior(channels=CHANNELS, options=models.PriorOptions(kind="pairs", **options), dtype=jnp.float64)


def variables_of(module, grid=(3, 5)):
    """Variables as of a trained layer: random ones would leave the BatchNorms without effect."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(BATCH, *grid, FAN_IN)))
    variables = module.init(jax.random.key(0), x, train=False)
    _, updates = module.apply(variables, 3 * x + 1, train=True, mutable=["batch_stats"])
    return {"params": variables["params"], **updates}


def test_one_set_of_variables_fits_every_size(x64):
    module = layer(aggregation_kernel=3)
    for grid in ((3, 5), (8, 2)):
        x = jnp.ones((1, *grid, FAN_IN))
        intra, inter, prior = module.apply(variables_of(module), x, train=False)
        assert intra.shape == inter.shape == (1, *grid, CHANNELS)
        assert prior.shape == (1, grid[0] * grid[1], grid[0] * grid[1])


def test_contexts_keep_their_scale_over_sizes(x64):
    """A picture shown twice has the contexts of the picture, since they are divided by the number of positions."""
    x, params = make_case()
    once, twice = jnp.asarray(x), jnp.concatenate([x, x], axis=1)
    small, large = (PairPrior(CHANNELS).apply({"params": params}, y, train=False).contexts(y) for y in (once, twice))
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(b, jnp.concatenate([a, a], axis=1), atol=1e-12)


@pytest.mark.parametrize("divide_by_n", [True, False])
def test_padding_leaves_both_contexts(x64, divide_by_n):
    """Behind a border as wide as the convolutions reach, padding may hold anything."""
    module = layer(aggregation=False, divide_by_n=divide_by_n)
    variables, rng = variables_of(module), np.random.default_rng(3)
    picture = np.zeros((2, 4, 6, FAN_IN))
    picture[:, :3, :4] = rng.normal(size=(2, 3, 4, FAN_IN))
    padded = rng.normal(size=(2, 7, 9, FAN_IN))
    padded[:, :4, :6] = picture
    run = jax.jit(lambda x, real: module.apply(variables, x, train=False, real=real)[:2])
    found = [run(jnp.asarray(x), jnp.asarray(_real(x.shape[1:3], (3, 4)))) for x in (picture, padded)]
    for cropped, whole in zip(*found, strict=True):
        np.testing.assert_allclose(whole[:, :3, :4], cropped[:, :3, :4], atol=1e-12)


def _real(size, part):
    real = np.zeros((2, *size), bool)
    real[:, : part[0], : part[1]] = True
    return real


def test_an_image_without_padding_may_say_so(x64):
    module = layer(aggregation_kernel=3)
    variables, x = variables_of(module), jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, 5, FAN_IN)))
    stated = module.apply(variables, x, train=False, real=jnp.ones((2, 3, 5), bool))[:2]
    jax.tree.map(np.testing.assert_array_equal, stated, module.apply(variables, x, train=False)[:2])


def test_an_unknown_kind_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="kind is 'pixels': it must be 'positions' or 'pairs'"):
        models.PriorOptions(kind="pixels")
