"""The validation loss is the mean of the training loss over an evaluation's windows, each computed alone."""

from dataclasses import replace
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from configs import default
from cpnet_jax import losses, sharding
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.class_matching import match_classes
from cpnet_jax.data.normalize import normalize
from cpnet_jax.evaluation.data import EvaluationData
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.window_losses import WindowLosses, compiled_losses, mean_losses
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.network import compiled_network
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.prior_maps import prior_rows
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.windows import coarse, window_offsets
from cpnet_jax.models import CPNet, CPNetOutput, PriorOptions

CROP, PRIOR, IGNORE = (16, 24), (2, 3), 255
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 60.0, 60.0)
DATASET = Dataset("test", tuple("abcd"), ((0, 0, 0),) * 4)
MODEL = CPNet(num_classes=4, depth=18, prior_size=PRIOR, channels=8, aux_channels=4)
SIZES = [(16, 24), (9, 30), (30, 20), (41, 50), (5, 5)]

pytestmark = pytest.mark.usefixtures("small_backbone_in_module", "quick_compilation")


def variables_of(model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *CROP, 3)), train=False))
    return jax.tree.map(jnp.asarray, {name: random_weights.draw(part) for name, part in shapes.items()})


@pytest.fixture(scope="module")
def variables():
    return variables_of(MODEL)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return [
        {
            "id": str(size),
            "image": rng.integers(0, 256, (*size, 3)).astype(np.uint8),
            "label": np.where(rng.random(size) < 0.2, IGNORE, rng.integers(0, 4, size)).astype(np.uint8),
        }
        for size in SIZES
    ]


@pytest.fixture(scope="module")
def expected(variables, examples):
    """The means from windows cut here and batches of one."""
    apply = jax.jit(lambda image: MODEL.apply(variables, normalize(image[None], MEAN, STD), train=False))
    loss_of = jax.jit(losses.total_loss)
    found = []
    for example in examples:
        height, width = example["label"].shape
        below, right = max(CROP[0] - height, 0), max(CROP[1] - width, 0)
        image = cv2.copyMakeBorder(example["image"], 0, below, 0, right, cv2.BORDER_CONSTANT, value=MEAN)
        label = cv2.copyMakeBorder(example["label"], 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORE)
        for top in window_offsets(height, CROP[0]):
            for left in window_offsets(width, CROP[1]):
                window = slice(top, top + CROP[0]), slice(left, left + CROP[1])
                value, terms = loss_of(apply(image[window]), jnp.asarray(label[window], jnp.int32)[None])
                found.append({"loss": value} | terms)
    return {name: np.mean([float(terms[name]) for terms in found]) for name in found[0]}


def means(model, variables, examples, protocol, *, devices, batch_size, canvas_bytes=2**30):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    network = partial(compiled_network(model, mesh, mean=MEAN, std=STD), sharding.on_mesh(mesh, variables))
    total = WindowLosses(compiled_losses(losses.total_loss, mesh), ignore_label=IGNORE)

    def logits(inputs, batch):
        output = network(*inputs)
        total.add(output, batch)
        return output.logits

    of_inputs = lambda *inputs: network(*inputs).logits  # noqa: E731
    trained = TrainedModel(DATASET, CROP, MEAN, STD, of_inputs)
    predictor = Predictor(trained, mesh, protocol=protocol, batch_size=batch_size, canvas_bytes=canvas_bytes)
    watched = [classes for _, classes in predictor.classes(examples, logits=logits)]
    for one, other in zip(watched, predictor.classes(examples), strict=True):
        np.testing.assert_array_equal(one, other[1])
    return mean_losses([total.sums()])


@pytest.mark.parametrize(
    ("protocol", "devices", "batch_size", "canvas_bytes"),
    [
        (Protocol(), 1, 2, 2**30),
        (Protocol(), 8, 1, 2**30),
        (Protocol(scales=(0.5, 1.0), flip=True), 1, 3, 2**30),
        (Protocol(), 1, 2, 32 * 32 * 20),
    ],
    ids=["one device", "eight devices", "other scales and mirrored windows do not count", "tiles count windows once"],
)
def test_the_mean_is_that_of_every_window_alone(
    variables, examples, expected, protocol, devices, batch_size, canvas_bytes
):
    found = means(
        MODEL, variables, examples, protocol, devices=devices, batch_size=batch_size, canvas_bytes=canvas_bytes
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_padding_of_a_whole_image_is_in_no_term_of_its_loss(examples):
    examples = examples[1:3]
    model = MODEL.clone(prior_size=None, prior=PriorOptions(kind="pairs", aggregation_kernel=3))
    # A mean over all pixels would count padding; the default, a mean over labelled pixels, never does.
    variables, loss = variables_of(model), partial(losses.total_loss, mean_over="all")
    apply = jax.jit(partial(model.apply, variables, train=False))
    wanted = [unpadded_terms(apply, loss, example) for example in examples]
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            **{"data.crop_size": CROP, "data.mean": MEAN, "data.std": STD, "loss.mean_over": "all"},
            **{"eval.windows": False, "eval.pictures": 0},
        }
    )
    data = Decoded(DATASET, "val", examples, DATASET, match_classes(DATASET, DATASET))
    mesh = sharding.local_mesh()
    network = partial(compiled_network(model, mesh, mean=MEAN, std=STD), sharding.on_mesh(mesh, variables))
    found = Evaluator(config, data, any_size=True).validate(network).losses
    assert {"loss", "affinity_unary", "affinity_specificity"} <= found.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, np.mean([each[name] for each in wanted]), rtol=1e-4, err_msg=name)


class Decoded(EvaluationData):
    """Data whose records are examples."""

    def decode(self, record):
        return record


def unpadded_terms(apply, loss, example):
    """The terms of a padded image, with its padding cut off the output: the prior is its logits without padding."""
    rows, columns = example["label"].shape
    size, cells = (coarse(rows), coarse(columns)), (-(-rows // 8), -(-columns // 8))
    real = jnp.zeros((1, size[0] // 8, size[1] // 8), bool).at[:, : cells[0], : cells[1]].set(True)
    image = np.full((1, *size, 3), MEAN, np.uint8)
    image[0, :rows, :columns] = example["image"]
    output = apply(normalize(jnp.asarray(image), MEAN, STD), real=real)
    label = np.full((1, *size), IGNORE, np.int32)
    label[0, :rows, :columns] = example["label"]
    _, whole = loss(output._replace(prior=None), jnp.asarray(label))
    places = np.flatnonzero(real)
    prior = output.prior.logits()[:, places][:, :, places]
    cut = label[:, : 8 * cells[0], : 8 * cells[1]]
    logits = output.logits[:, : cells[0], : cells[1]]
    _, terms = loss(CPNetOutput(logits, None, prior), jnp.asarray(cut))
    # From the mean over all pixels to that over the image's cells. Interpolation at the edge sees the padding's logits.
    pixelwise = {name: whole[name] * label.size / cut.size for name in ("segmentation", "aux")}
    affinity = {name: value for name, value in terms.items() if name.startswith(("affinity", "clamped"))}
    seen = sum(value for name, value in affinity.items() if name.startswith("affinity"))
    return {**affinity, **pixelwise, "loss": pixelwise["segmentation"] + 0.4 * pixelwise["aux"] + seen}


def test_a_prior_of_bfloat16_products_has_the_loss_that_training_sees(variables, examples):
    """A window of a training crop, at once by the network and its loss."""
    model = MODEL.clone(prior=PriorOptions(aggregation_kernel=3, bfloat16=True))
    variables = variables_of(model)
    [example] = [example for example in examples if example["label"].shape == CROP]
    image, label = jnp.asarray(example["image"])[None], jnp.asarray(example["label"], jnp.int32)[None]
    output = jax.jit(partial(model.apply, train=False))(variables, normalize(image, MEAN, STD))
    loss_of = jax.jit(losses.total_loss)
    priors = output.prior, replace(output.prior, bfloat16=False)
    rounded, unrounded = (float(loss_of(output._replace(prior=p), label)[1]["affinity_unary"]) for p in priors)
    found = means(model, variables, [example], Protocol(), devices=1, batch_size=1)["affinity_unary"]
    assert abs(found - rounded) < 0.1 * abs(rounded - unrounded)


def test_without_a_context_prior_there_is_no_affinity_loss(examples):
    model = MODEL.clone(context_prior=False)
    found = means(model, variables_of(model), examples[:2], Protocol(), devices=1, batch_size=2)
    assert found.keys() == {"loss", "segmentation", "aux"}


@pytest.mark.parametrize("protocol", [Protocol(scales=(0.5,)), Protocol()])
def test_no_windows_at_scale_1_have_no_losses(variables, examples, protocol):
    given = examples[:1] if 1.0 not in protocol.scales else []
    assert means(MODEL, variables, given, protocol, devices=1, batch_size=2) == {}


def test_parts_are_weighted_by_their_windows():
    assert mean_losses([({"loss": 6.0}, 3), ({}, 0), ({"loss": 2.0}, 1)]) == {"loss": 2.0}


@pytest.mark.parametrize("devices", [1, 8])
def test_prior_rows_are_those_of_every_window_alone(variables, devices):
    mesh, rng = sharding.make_mesh(jax.devices()[:devices]), np.random.default_rng(1)
    windows = rng.integers(0, 256, (8, *CROP, 3)).astype(np.uint8)
    positions = rng.integers(0, 6, (8, 2)).astype(np.int32)
    network = compiled_network(MODEL, mesh, mean=MEAN, std=STD)
    prior = network(sharding.on_mesh(mesh, variables), sharding.to_devices(mesh, windows)).prior
    rows = jax.jit(prior_rows)(prior, sharding.to_devices(mesh, positions))
    apply = jax.jit(partial(MODEL.apply, variables, train=False))
    for window, places, found in zip(windows, positions, rows, strict=True):
        alone = apply(normalize(jnp.asarray(window[None]), MEAN, STD)).prior
        np.testing.assert_allclose(found, jax.nn.sigmoid(alone.logits())[0, places], atol=1e-5)
