"""Poly SGD against torch's, and its options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cpnet_jax.training.optimizer import poly_schedule, poly_sgd


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"backbone": {"conv": {"kernel": (3, 4)}, "bn": {"scale": (4,)}}, "head": {"kernel": (4, 2), "bias": (2,)}}
    return jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def run(tx, params, gradients):
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("step", [0, 1, 50, 99, 100])
def test_poly_schedule_is_the_papers_formula(step):
    assert float(poly_schedule(0.02, 100)(step)) == pytest.approx(0.02 * (1 - step / 100) ** 0.9, rel=1e-6)
    floor = poly_schedule(0.02, 100, power=2.0, min_lr=1e-4)(step)
    assert float(floor) == pytest.approx((0.02 - 1e-4) * (1 - step / 100) ** 2 + 1e-4, rel=1e-6)


def test_warm_up_multiplies_the_poly_schedule_and_ends_on_it():
    plain, warm = poly_schedule(0.02, 100), poly_schedule(0.02, 100, warmup_steps=5)
    ratios = [float(warm(step) / plain(step)) for step in range(8)]
    np.testing.assert_allclose(ratios, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("multiplier", [1.0, 10.0])
@pytest.mark.parametrize("decay_all", [True, False])
def test_updates_are_torchs_step_for_step(multiplier, decay_all):
    torch = pytest.importorskip("torch")
    params, gradients = make_params(), [make_params(seed) for seed in range(1, 8)]
    schedule = poly_schedule(0.1, 10)
    ours = run(
        poly_sgd(schedule, head_lr_multiplier=multiplier, decay_norm_and_bias=decay_all, weight_decay=0.05),
        params,
        gradients,
    )
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    tensors = [torch.tensor(leaf, requires_grad=True) for _, leaf in flat]
    groups = []
    for (path, _), tensor in zip(flat, tensors, strict=True):
        scale = 1 if path[0].key == "backbone" else multiplier
        decay = 0.05 if decay_all or path[-1].key == "kernel" else 0.0
        groups.append({"params": [tensor], "lr": scale, "scale": scale, "weight_decay": decay})
    sgd = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    for step, gradient in enumerate(gradients):
        for group in sgd.param_groups:
            group["lr"] = group["scale"] * 0.1 * (1 - step / 10) ** 0.9
        for tensor, leaf in zip(tensors, jax.tree.leaves(gradient), strict=True):
            tensor.grad = torch.tensor(leaf)
        sgd.step()
    for tensor, leaf in zip(tensors, jax.tree.leaves(ours), strict=True):
        # Schedules are float32.
        np.testing.assert_allclose(leaf, tensor.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_clipping_is_off_by_default_and_bounds_the_whole_gradient_when_on():
    params, gradient = make_params(), jax.tree.map(lambda leaf: 100 * leaf, make_params(1))
    plain = optax.constant_schedule(1.0)
    free = run(poly_sgd(plain, weight_decay=0.0), params, [gradient])
    clipped = run(poly_sgd(plain, weight_decay=0.0, clip_global_norm=2.0), params, [gradient])

    def moved(after):
        return float(optax.tree.norm(jax.tree.map(jnp.subtract, after, params)))

    assert moved(free) == pytest.approx(float(optax.tree.norm(gradient)))
    assert moved(clipped) == pytest.approx(2.0)
