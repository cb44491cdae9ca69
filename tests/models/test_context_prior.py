"""The Context Prior Layer against a float64 oracle of plain torch layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import assert_close  # noqa: E402
from parity import torch_cpnet, transfer  # noqa: E402

from cpnet_jax import losses, models  # noqa: E402
from cpnet_jax.models.aggregation import Aggregation  # noqa: E402
from cpnet_jax.models.context_prior import ContextPrior  # noqa: E402

BATCH, GRID, FAN_IN, CHANNELS = 2, (3, 5), 7, 6
N = GRID[0] * GRID[1]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def parameter_shapes(n=N, channels=CHANNELS, kernel=5, fan_in=FAN_IN):
    bn = {"scale": (channels,), "bias": (channels,)}
    column = {"kernel": (kernel, 1, 1, channels), "bias": (channels,)}
    row = {"kernel": (1, kernel, 1, channels), "bias": (channels,)}
    return {
        "aggregation": {
            "reduce": {"conv": {"kernel": (3, 3, fan_in, channels)}, "bn": bn},
            "column_row": {"column": column, "row": row},
            "row_column": {"row": row, "column": column},
            "bn": bn,
        },
        "prior": {"kernel": (channels, n), "scale": (n,), "bias": (n,)},
        "intra": {"conv": {"kernel": (1, 1, channels, channels)}, "bn": bn},
        "inter": {"conv": {"kernel": (1, 1, channels, channels)}, "bn": bn},
    }


def statistics_shapes(n=N, channels=CHANNELS):
    bn = {"mean": (channels,), "var": (channels,)}
    return {
        "aggregation": {"reduce": {"bn": bn}, "bn": bn},
        "prior": {"mean": (n,), "var": (n,)},
        "intra": {"bn": bn},
        "inter": {"bn": bn},
    }


def fill(shapes, rng):
    """Random values for a tree of shapes: kernels of unit gain, scales and variances away from zero."""

    def leaf(path, shape):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=shape) / np.prod(shape[:-1]) ** 0.5
        return rng.uniform(0.5, 1.5, shape) if name in ("scale", "var") else 0.5 * rng.normal(size=shape)

    return jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=lambda node: isinstance(node, tuple))


def make_case(kernel=5, grid=GRID, seed=0):
    """(input, params, batch_stats) as float64 numpy arrays."""
    rng = np.random.default_rng(seed)
    n = grid[0] * grid[1]
    x = rng.normal(size=(BATCH, *grid, FAN_IN))
    return x, fill(parameter_shapes(n, kernel=kernel), rng), fill(statistics_shapes(n), rng)


def make_module(kernel=5, grid=GRID, dtype=jnp.float64):
    # Four rows in a block do not divide 15 positions.
    return ContextPrior(grid, CHANNELS, models.PriorOptions(aggregation_kernel=kernel), block_rows=4, dtype=dtype)


def apply(module, x, params, stats, train):
    """(outputs, statistics after the step)."""
    x = jnp.asarray(x)
    variables = {"params": params, "batch_stats": stats}
    if not train:
        return module.apply(variables, x, train=False), stats
    outputs, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return outputs, updates["batch_stats"]


def make_oracle(params, stats, train, kernel=5):
    """The layer in torch, in float64, with these values."""
    layer = torch_cpnet.ContextPrior(FAN_IN, CHANNELS, GRID, kernel).double().train(train)
    transfer.load(layer, params, stats)
    return layer


def channels_first(x):
    return (x if isinstance(x, torch.Tensor) else oracles.tensor(x)).movedim(-1, 1)


def channels_last(x):
    return x.movedim(1, -1)


def outputs(oracle, x):
    """(intra (B, H, W, C), inter (B, H, W, C), prior logits (B, N, N), features (B, N, C))."""
    intra, inter, logits, features = oracle(channels_first(x))
    return channels_last(intra), channels_last(inter), logits, features.flatten(2).movedim(1, -1)


def assert_named_close(actual, expected, tolerance, floor=0.0):
    """`actual` is a linen tree, `expected` has torch's names."""
    actual = transfer.as_torch(actual)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, floor, name)


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


# Aggregation


@pytest.mark.parametrize("kernel", [5, 11])
@pytest.mark.parametrize("train", [True, False])
def test_aggregation_agrees_with_the_oracle(x64, train, kernel):
    x, params, stats = make_case(kernel)
    oracle = make_oracle(params, stats, train, kernel).aggregation
    module = Aggregation(channels=CHANNELS, kernel_size=kernel, dtype=jnp.float64)
    out, new_stats = jax.jit(lambda *args: apply(module, *args, train))(x, params["aggregation"], stats["aggregation"])
    assert_close(out, channels_last(oracle(channels_first(x))), 1e-10)
    expected = {f"aggregation.{name}": value for name, value in transfer.statistics(oracle).items()}
    assert_named_close({"aggregation": new_stats}, expected, 1e-10)


def test_aggregation_defaults_are_those_of_the_paper():
    module = Aggregation()
    assert (module.channels, module.kernel_size) == (512, 11)
    layer = ContextPrior(prior_size=(60, 60))
    assert (layer.channels, layer.options.aggregation_kernel) == (512, 11)


# The whole layer


@pytest.mark.parametrize("kernel", [5, 11])
def test_parameters_have_the_documented_names_and_shapes(kernel):
    x = jnp.zeros((BATCH, *GRID, FAN_IN))
    variables = make_module(kernel, dtype=jnp.float32).init(jax.random.key(0), x, train=False)
    assert shapes(variables["params"]) == parameter_shapes(kernel=kernel)
    assert shapes(variables["batch_stats"]) == statistics_shapes()
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("kernel", [5, 11])
@pytest.mark.parametrize("train", [True, False])
def test_outputs_and_prior_agree_with_the_oracle(x64, train, kernel):
    x, params, stats = make_case(kernel)

    @jax.jit
    def run(x, params, stats):
        (intra, inter, prior), new_stats = apply(make_module(kernel), x, params, stats, train)
        return intra, inter, prior.logits(), prior.features, new_stats

    *actual, new_stats = run(x, params, stats)
    oracle = make_oracle(params, stats, train, kernel)
    for name, got, wanted in zip(("intra", "inter", "logits", "features"), actual, outputs(oracle, x), strict=True):
        assert_close(got, wanted, 1e-10, name=name)
    assert_named_close(new_stats, transfer.statistics(oracle), 1e-10)


def test_float32_agrees_with_the_oracle():
    x, params, stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), make_case())
    (intra, inter, prior), _ = apply(make_module(dtype=jnp.float32), x, params, stats, True)
    expected = outputs(make_oracle(params, stats, True), x)
    for name, got, wanted in zip(
        ("intra", "inter", "logits"), (intra, inter, prior.logits()), expected[:3], strict=True
    ):
        assert got.dtype == jnp.float32
        assert_close(got, wanted, 3e-5, name=name)


@pytest.mark.parametrize(
    ("train", "kernel", "ignored"), [(True, 5, "mask"), (True, 11, "class"), (False, 5, "class"), (False, 11, "mask")]
)
def test_gradients_for_input_and_parameters_agree_with_the_oracle(x64, train, kernel, ignored):
    """Gradients of a random combination of both contexts, the prior's logits and the affinity loss."""
    x, params, stats = make_case(kernel)
    rng = np.random.default_rng(1)
    by_intra, by_inter = rng.normal(size=(2, BATCH, *GRID, CHANNELS))
    by_logits = 0.1 * rng.normal(size=(BATCH, N, N))
    labels = rng.integers(0, 3, (BATCH, N))
    labels[1, 4:9] = 255

    @jax.jit
    def run(x, params):
        def scalar(x, params):
            (intra, inter, prior), _ = apply(make_module(kernel), x, params, stats, train)
            affinity = losses.affinity_loss(prior, labels, ignored=ignored).total
            return (intra * by_intra).sum() + (inter * by_inter).sum() + (prior.logits() * by_logits).sum() + affinity

        return jax.value_and_grad(scalar, argnums=(0, 1))(x, params)

    value, (grad_x, grad_params) = run(x, params)

    tx, oracle = oracles.tensor(x, True), make_oracle(params, stats, train, kernel)
    intra, inter, logits, _ = outputs(oracle, tx)
    expected = (intra * oracles.tensor(by_intra)).sum() + (inter * oracles.tensor(by_inter)).sum()
    expected = expected + (logits * oracles.tensor(by_logits)).sum()
    expected = expected + oracles.affinity_loss(logits, labels, ignored=ignored).total
    expected.backward()

    assert_close(value, expected, 1e-10, name="value")
    assert_close(grad_x, tx.grad, 1e-10, name="input")
    # The floor is for biases in front of a BatchNorm: their gradient is zero except for rounding.
    assert_named_close(grad_params, transfer.gradients(oracle), 1e-10, floor=1e-2)


def test_running_statistics_move_a_tenth_towards_torchs_batch_statistics(x64):
    """Torch normalises with the biased variance but stores the unbiased one."""
    x, params, stats = make_case()
    (_, _, prior), new_stats = apply(make_module(), x, params, stats, True)
    z = np.asarray(prior.features).reshape(-1, CHANNELS) @ params["prior"]["kernel"]
    assert_close(new_stats["prior"]["mean"], 0.9 * stats["prior"]["mean"] + 0.1 * z.mean(0), 1e-10)
    assert_close(new_stats["prior"]["var"], 0.9 * stats["prior"]["var"] + 0.1 * z.var(0, ddof=1), 1e-10)


def test_variance_survives_a_mean_a_thousand_times_the_spread():
    """In float32: uncentred moments would lose the variance, or turn it negative."""
    x, params, stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), make_case())
    params["aggregation"]["bn"]["bias"][:] = 100.0
    params["aggregation"]["bn"]["scale"][:] = 0.1
    (_, _, prior), new_stats = apply(make_module(dtype=jnp.float32), x, params, stats, True)
    features = np.asarray(prior.features, np.float64).reshape(-1, CHANNELS)
    variance = (features @ params["prior"]["kernel"].astype(np.float64)).var(0, ddof=1)
    batch_variance = (np.asarray(new_stats["prior"]["var"], np.float64) - 0.9 * stats["prior"]["var"]) / 0.1
    assert_close(batch_variance, variance, 1e-3)


def test_evaluation_leaves_the_statistics_alone(x64):
    x, params, stats = make_case()
    _, updates = make_module().apply(
        {"params": params, "batch_stats": stats}, jnp.asarray(x), train=False, mutable=["batch_stats"]
    )
    jax.tree.map(np.testing.assert_array_equal, updates.get("batch_stats", stats), stats)


def test_evaluation_of_one_image_does_not_depend_on_the_others(x64):
    x, params, stats = make_case()
    (intra, inter, _), _ = apply(make_module(), x, params, stats, False)
    (intra_alone, inter_alone, _), _ = apply(make_module(), x[1:], params, stats, False)
    assert_close(intra[1:], intra_alone, 1e-13)
    assert_close(inter[1:], inter_alone, 1e-13)


def test_contexts_are_computed_from_the_prior_that_the_layer_returns(x64):
    """intra = relu(bn(conv(contexts of the features))), and the same for inter."""
    x, params, stats = make_case()
    (intra, inter, prior), _ = apply(make_module(), x, params, stats, False)
    contexts = prior.contexts(prior.features)
    oracle = make_oracle(params, stats, False)
    for name, out, context in zip(("intra", "inter"), (intra, inter), contexts, strict=True):
        context = channels_first(np.asarray(context).reshape(BATCH, *GRID, CHANNELS))
        expected = getattr(oracle, f"{name}_conv")(context)
        assert_close(out, channels_last(expected), 1e-10, name=name)


def test_a_row_of_the_prior_depends_only_on_its_neighbourhood(x64):
    """Rows are positions in row-major order; a pixel changes only the rows within reach of the aggregation."""
    grid = (6, 8)
    x, params, stats = make_case(kernel=3, grid=grid)
    moved = x.copy()
    moved[0, 1, 5] += 1.0
    module = make_module(kernel=3, grid=grid)
    logits, moved_logits = (apply(module, y, params, stats, False)[0][2].logits() for y in (x, moved))
    change = np.abs(np.asarray(moved_logits - logits)).max(-1).reshape(BATCH, *grid)
    reached = np.zeros((BATCH, *grid), bool)
    reached[0, 0:4, 3:8] = True  # the 3x3 convolution and a path of kernel 3 reach two positions each way
    assert (change[~reached] < 1e-12).all()
    assert (change[reached] > 1e-6).mean() > 0.8


# PriorFactors


def make_factors(batch=2, n=12, channels=4, dtype=np.float64, seed=2):
    rng = np.random.default_rng(seed)
    sizes = (batch, n, channels), (channels, n), (n,)
    return models.PriorFactors(*(jnp.asarray(rng.normal(size=size).astype(dtype)) for size in sizes))


def test_logits_of_factors_are_their_affine_product(x64):
    prior = make_factors()
    expected = np.asarray(prior.features) @ np.asarray(prior.kernel) + np.asarray(prior.bias)
    assert_close(jax.jit(lambda prior: prior.logits())(prior), expected, 1e-13)


@pytest.mark.parametrize("n", [12, 2100])
def test_contexts_and_their_gradients_agree_with_the_oracle(x64, n):
    """With fewer and with more positions than a block has rows."""
    prior = make_factors(batch=2 if n < 100 else 1, n=n)
    rng = np.random.default_rng(3)
    shape = (*prior.features.shape[:2], 3)  # the values may have another number of channels than the features
    values, by_intra, by_inter = rng.normal(size=(3, *shape))

    def scalar(prior, values):
        intra, inter = prior.contexts(values)
        return (intra * by_intra).sum() + (inter * by_inter).sum(), (intra, inter)

    (grad_prior, grad_values), (intra, inter) = jax.jit(jax.grad(scalar, (0, 1), has_aux=True))(prior, values)

    x, w, b, v = (oracles.tensor(a, True) for a in (prior.features, prior.kernel, prior.bias, values))
    p = torch.sigmoid(x @ w + b)
    expected = p @ v / n, (1 - p) @ v / n
    ((expected[0] * oracles.tensor(by_intra)).sum() + (expected[1] * oracles.tensor(by_inter)).sum()).backward()
    assert_close(intra, expected[0], 1e-10, name="intra")
    assert_close(inter, expected[1], 1e-10, name="inter")
    for name, grad, leaf in zip(
        ("features", "kernel", "bias", "values"),
        (grad_prior.features, grad_prior.kernel, grad_prior.bias, grad_values),
        (x, w, b, v),
        strict=True,
    ):
        assert_close(grad, leaf.grad, 1e-10, name=name)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-6)])
def test_contexts_sum_to_the_mean_over_all_positions(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        prior = make_factors(dtype=dtype)
        intra, inter = prior.contexts(prior.features)
        mean = np.asarray(prior.features, np.float64).mean(1, keepdims=True)
        assert_close(intra + inter, np.broadcast_to(mean, intra.shape), tolerance)


def test_a_row_depends_only_on_its_positions_features(x64):
    prior = make_factors()
    moved = models.PriorFactors(prior.features.at[1, 5].add(1.0), prior.kernel, prior.bias)
    changed = np.asarray(prior.logits() != moved.logits()).any(-1)
    assert changed.sum() == 1 and changed[1, 5]


@pytest.mark.parametrize("level", [30.0, 200.0])
def test_saturated_prior_splits_the_positions_between_the_contexts(level):
    """P is 1 for large logits and 0 for small ones, without overflow."""
    n = 6
    sign = np.random.default_rng(4).choice([-1.0, 1.0], (n, n)).astype(np.float32)
    prior = models.PriorFactors(jnp.eye(n)[None], jnp.asarray(level * sign), jnp.zeros(n))
    values = np.random.default_rng(5).normal(size=(1, n, 3)).astype(np.float32)
    intra, inter = prior.contexts(jnp.asarray(values))
    assert_close(intra[0], (sign > 0) @ values[0] / n, 1e-6)
    assert_close(inter[0], (sign < 0) @ values[0] / n, 1e-6)
    grad = jax.grad(lambda prior: (prior.contexts(jnp.asarray(values))[0] ** 2).sum())(prior)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
