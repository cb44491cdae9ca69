"""Parameters that stay as they are, learning rates by pattern, BatchNorms at rest."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from random_weights import draw

from cpnet_jax import losses
from cpnet_jax.errors import UserError
from cpnet_jax.models import CPNet, ResNet
from cpnet_jax.models.layers import ConvBN
from cpnet_jax.plan import flops
from cpnet_jax.training import finetune
from cpnet_jax.training.optimizer import poly_schedule, poly_sgd
from cpnet_jax.training.state import create_state
from cpnet_jax.training.step import train_step

LR, STEPS = 0.1, 3


class Network(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        x = ConvBN(4, (3, 3), stride=2, name="backbone")(images, train=train)
        return ConvBN(2, (3, 3), relu=False, name="head")(x, train=train)


def run(steps=STEPS, *, lr_multipliers=(), weight_decay=0.05, **options):
    """(flat parameters and statistics before, after), and the optimiser's flat state."""
    model = Network()
    tx = poly_sgd(lambda step: LR, weight_decay=weight_decay, lr_multipliers=lr_multipliers)
    state = create_state(model, tx, (8, 8), 0, options.get("freeze", ()))
    step = partial(
        train_step,
        model=model,
        loss=lambda out, labels: ((out - 1).var(), {}),
        tx=tx,
        normalize=lambda x: x / 64,
        **options,
    )
    step = jax.jit(step)
    before = state
    for seed in range(steps):
        image = np.random.default_rng(seed).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
        state, _ = step(state, {"image": image, "label": image[..., 0]})
    return flat(before), flat(state), state.opt_state


def flat(state):
    return {path: np.asarray(leaf) for tree in (state.params, state.batch_stats) for path, leaf in named(tree)}


def named(tree):
    return flatten_dict(tree, sep="/").items()


@pytest.fixture(scope="module")
def plain():
    return run()


def test_frozen_parameters_keep_every_bit_and_the_others_learn(plain):
    before, after, opt_state = run(freeze=["backbone/.*", ".*/bn/scale"])
    for path in ("backbone/conv/kernel", "backbone/bn/bias", "backbone/bn/scale", "head/bn/scale"):
        assert before[path].tobytes() == after[path].tobytes(), path
        assert (plain[0][path] != plain[1][path]).any(), "it learns unless it is frozen"
    for path in ("head/conv/kernel", "head/bn/bias"):
        assert (before[path] != after[path]).any(), path
    momentum = {leaf.shape for leaf in jax.tree.leaves(opt_state) if leaf.ndim}
    assert momentum == {before["head/conv/kernel"].shape, before["head/bn/bias"].shape}, "of those that learn alone"


def test_freezing_some_changes_nothing_of_the_first_step_of_the_others(plain):
    (_, free, _), (_, frozen, _) = run(1), run(1, freeze=["backbone/.*"])
    for path in free:
        if path.startswith("head"):
            np.testing.assert_allclose(frozen[path], free[path], rtol=1e-5, atol=1e-7, err_msg=path)


def test_a_frozen_backbone_costs_no_backward_pass(small_backbone):
    model = CPNet(num_classes=3, depth=18, prior_size=(4, 4), channels=8, aux_channels=8)
    tx = poly_sgd(poly_schedule(0.1, 10))
    batch = {
        "image": jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((2, 32, 32), jnp.uint8),
    }

    def cost(freeze):
        state = jax.eval_shape(partial(create_state, model, tx, (32, 32), 0, freeze))
        step = partial(
            train_step, model=model, loss=losses.total_loss, tx=tx, normalize=lambda x: x / 255, freeze=freeze
        )
        return flops.count(jax.make_jaxpr(step)(state, batch).jaxpr)

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    backbone = ResNet(18)
    variables = jax.eval_shape(partial(backbone.init, train=False), jax.random.key(0), images)
    forward = flops.count(jax.make_jaxpr(partial(backbone.apply, train=False))(variables, images).jaxpr)
    # With respect to its input and to its kernel, every convolution costs as much again; the first one's input is data.
    assert 1.9 * forward < cost(()) - cost(("backbone/.*",)) <= 2.05 * forward


def test_a_multiplied_learning_rate_makes_a_step_of_that_many_times_the_length():
    before, after, _ = run(1)
    for factors in ([("head/.*", 0.25)], [("head/.*", 0.5), (".*/kernel|.*/bias", 0.5)]):
        _, scaled, _ = run(1, lr_multipliers=factors)
        moved = {path: (scaled[path] - before[path], after[path] - before[path]) for path in before}
        for path in ("head/conv/kernel", "head/bn/bias"):
            np.testing.assert_allclose(moved[path][0], 0.25 * moved[path][1], rtol=1e-3, atol=1e-7, err_msg=path)
        np.testing.assert_allclose(*moved["backbone/bn/scale"], rtol=1e-3, atol=1e-7)


def test_multipliers_compose_with_that_of_the_heads():
    params = {"backbone": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    multipliers = [("head/kernel", 3.0), (".*/kernel", 0.5)]
    tx = poly_sgd(lambda step: 1.0, head_lr_multiplier=10.0, weight_decay=0.0, lr_multipliers=multipliers)
    updates, _ = tx.update(optax.tree.ones_like(params), tx.init(params), params)
    assert {path: float(-leaf[0]) for path, leaf in named(updates)} == {
        "backbone/kernel": 0.5,
        "head/kernel": 15.0,
        "head/bias": 10.0,
    }


def test_norms_at_rest_keep_their_statistics_bit_for_bit_and_the_others_move():
    before, after, _ = run(norms_in_eval_mode=["backbone/.*"])
    for name in ("mean", "var"):
        assert before[f"backbone/bn/{name}"].tobytes() == after[f"backbone/bn/{name}"].tobytes()
        assert (before[f"head/bn/{name}"] != after[f"head/bn/{name}"]).any()
    assert (before["backbone/bn/scale"] != after["backbone/bn/scale"]).any(), "at rest is not frozen"


def test_a_norm_at_rest_answers_as_in_evaluation():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, 8, 8, 3)), jnp.float32)
    model = Network()
    variables = draw(model.init(jax.random.key(0), x, train=False))
    with finetune.in_eval_mode({"backbone/bn", "head/bn"}):
        trained, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(trained, model.apply(variables, x, train=False))
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    moved, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.abs(moved - trained).max() > 0.1


def test_every_norm_of_the_network_can_rest_the_context_priors_too(small_backbone):
    """In the traced program their statistics come out as the very variables that went in."""
    model = CPNet(num_classes=3, depth=18, prior_size=(4, 4), channels=8, aux_channels=8)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)

    def statistics(batch_stats, params, images, patterns):
        with finetune.in_eval_mode(finetune.norms(batch_stats, patterns)):
            _, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
        return updates["batch_stats"]

    def kept(*patterns):
        arguments = (variables["batch_stats"], variables["params"], images)
        jaxpr = jax.make_jaxpr(partial(statistics, patterns=patterns))(*arguments).jaxpr
        names = [path for path, _ in named(variables["batch_stats"])]
        ins = jaxpr.invars[: len(names)]
        return {name for name, a, b in zip(sorted(names), ins, jaxpr.outvars, strict=True) if a is b}

    everything = {path for path, _ in named(variables["batch_stats"])}
    assert kept(".*") == everything and "context/prior/var" in everything
    assert kept("context/prior") == {"context/prior/mean", "context/prior/var"}
    assert kept("backbone/.*") == {path for path in everything if path.startswith("backbone/")}


MISTAKES = {
    "freeze": {"freeze": ["backbone/.*", "hed/.*"]},
    "norms_in_eval_mode": {"norms_in_eval_mode": ["backbone"]},
    "lr_multipliers": {"lr_multipliers": [("head/bn", 2.0)]},
}


@pytest.mark.parametrize("field", MISTAKES)
def test_a_pattern_that_matches_nothing_is_refused_by_its_field(field):
    with pytest.raises(UserError, match=rf"config\.finetune\.{field} has .* matches none"):
        run(1, **MISTAKES[field])


def test_a_multiplier_of_frozen_parameters_is_refused():
    with pytest.raises(UserError, match="lr_multipliers has"):
        run(1, freeze=["head/.*"], lr_multipliers=[("head/.*", 2.0)])


def test_something_has_to_be_left_to_train():
    with pytest.raises(UserError, match="leaves no parameter to train"):
        run(1, freeze=[".*"])
