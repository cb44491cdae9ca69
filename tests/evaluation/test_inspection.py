"""Losses and prior rows of windows in a batch equal those of each window alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from cpnet_jax import losses, sharding
from cpnet_jax.data.normalize import normalize
from cpnet_jax.evaluation.inspection import InspectionInput, Inspector
from cpnet_jax.models import CPNet

CROP, PRIOR = (16, 24), (2, 3)
NORMALIZE = partial(normalize, mean=(120.0, 110.0, 100.0), std=(60.0, 60.0, 60.0))
LOSS = partial(losses.total_loss, prior_size=PRIOR)
MODEL = CPNet(num_classes=4, depth=18, prior_size=PRIOR, channels=8, aux_channels=4)
INPUTS = 5


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, *CROP, 3)), train=False))
    return {name: random_weights.draw(part) for name, part in shapes.items()}


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    found = []
    for place in range(INPUTS):
        label = rng.integers(0, 4, (4, 6)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        label[: 3 * place] = 255  # the last but one shows few labels, the last hardly any
        image = rng.integers(0, 256, (*CROP, 3)).astype(np.uint8)
        found.append(InspectionInput(image, label, rng.integers(0, 6, 2).astype(np.int32)))
    return found


@pytest.fixture(scope="module")
def alone(variables, inputs):
    """The expected result of each input, from a batch of one."""
    apply = jax.jit(lambda image: MODEL.apply(variables, NORMALIZE(image[None]), train=False))
    found = []
    for given in inputs:
        output = apply(given.image)
        loss, terms = LOSS(output, jnp.asarray(given.label, jnp.int32)[None])
        found.append(({"loss": loss} | terms, jax.nn.sigmoid(output.prior.logits())[0, given.positions]))
    return found


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 2), (8, 8)])
def test_each_window_is_inspected_as_if_it_were_alone(variables, inputs, alone, devices, batch_size):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    inspect = Inspector(MODEL, LOSS, mesh, normalize=NORMALIZE, batch_size=batch_size)
    found = list(inspect(sharding.on_mesh(mesh, jax.tree.map(jnp.asarray, variables)), iter(inputs)))
    assert len(found) == INPUTS
    for inspection, (terms, rows) in zip(found, alone, strict=True):
        assert inspection.losses.keys() == terms.keys()
        for name, value in terms.items():
            np.testing.assert_allclose(inspection.losses[name], value, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(inspection.rows, rows, atol=1e-5)


def test_without_a_context_prior_there_are_losses_and_no_rows(variables, inputs):
    model, mesh = MODEL.clone(context_prior=False), sharding.make_mesh()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *CROP, 3)), train=False))
    inspect = Inspector(model, LOSS, mesh, normalize=NORMALIZE, batch_size=8)
    found = list(inspect({name: random_weights.draw(part) for name, part in shapes.items()}, inputs))
    assert all(inspection.rows is None for inspection in found)
    assert found[0].losses.keys() == {"loss", "segmentation", "aux"}


def test_no_inputs_yield_no_inspections(variables):
    inspect = Inspector(MODEL, LOSS, sharding.make_mesh(), normalize=NORMALIZE, batch_size=8)
    assert list(inspect(variables, [])) == []
