"""Whole images, padded to a few sizes, are predicted as by the slow reference, whatever else is predicted."""

import weakref
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from inference import reference
from inference.test_predictor import (
    CLASSES,
    MEAN,
    STD,
    assert_agrees,
    assert_classes_agree,
    assert_probabilities_agree,
    compilations,
    examples_of,
    make_images,
    make_mesh,
    trained,
)

from cpnet_jax import sharding
from cpnet_jax.data.normalize import normalize
from cpnet_jax.errors import UserError
from cpnet_jax.inference.network import compiled_logits
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.windows import coarse, scaled_size
from cpnet_jax.models import CPNet, PriorOptions

CROP = (32, 64)
PROTOCOLS = {
    "single scale": Protocol(),
    "several scales": Protocol(scales=(0.5, 1.0, 1.75), flip=True),
    "averaged": Protocol(scales=(0.75, 1.25), flip=True, overlap="average"),
    "averaged logits": Protocol(scales=(1.0, 1.5), flip=True, overlap="average_logits"),
}
# A padded size, smaller and larger ones.
SIZES = ((32, 64), (5, 7), (33, 70), (1, 33), (30, 60))
pytestmark = pytest.mark.usefixtures("quick_compilation")


@cache
def toy_logits():
    """A tiny network. An output depends on the 8x8 pixels there and on all pixels of the image, not on padding."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.25, (8, 8, 3, CLASSES)).astype(np.float32)
    whole = rng.normal(0, 3, (3, CLASSES)).astype(np.float32)

    @jax.jit
    def logits(windows, real=None):
        b, height, width, _ = windows.shape
        cells = normalize(windows, MEAN, STD).reshape(b, height // 8, 8, width // 8, 8, 3)
        weights = jnp.ones(cells.shape[:1] + cells.shape[1:5:2]) if real is None else real
        mean = (cells.mean((2, 4)) * weights[..., None]).sum((1, 2)) / weights.sum((1, 2))[:, None]
        return jnp.einsum("nycxdi,cdik->nyxk", cells, kernel) + (mean @ whole)[:, None, None]

    return logits


def one_image(window):
    """The network as a function of one padded image, for the reference: a cell of the mean colour is padding."""
    cells = window.reshape(window.shape[0] // 8, 8, window.shape[1] // 8, 8, 3)
    real = (cells != np.round(MEAN)).any((1, 3, 4))
    return np.asarray(toy_logits()(jnp.asarray(window)[None], jnp.asarray(real)[None])[0])


def slow(image, protocol):
    """The reference's scores, every scale padded to its own size."""
    return sum(
        reference.scores(
            image,
            one_image,
            crop=[coarse(scaled_size(side, scale)) for side in image.shape[:2]],
            mean=MEAN,
            scales=(scale,),
            flip=protocol.flip,
            overlap=protocol.overlap,
        )
        for scale in protocol.scales
    )


@cache
def expected(protocol):
    return [slow(image, protocol) for image in make_images(SIZES)]


def whole(protocol, *, logits=None, devices=8, crop=CROP, **options):
    model = replace(trained(logits or toy_logits(), crop=crop), any_size=True)
    return Predictor(model, make_mesh(devices), protocol=protocol, windows=False, **options)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_prediction_agrees_with_the_reference(name):
    protocol = PROTOCOLS[name]
    assert_agrees(whole(protocol, batch_size=1), make_images(SIZES), expected(protocol))


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 5), (3, 2)])
@pytest.mark.parametrize("name", ["single scale", "averaged"])
def test_devices_and_the_size_of_the_batches_change_nothing(name, devices, batch_size):
    protocol = PROTOCOLS[name]
    assert_agrees(whole(protocol, devices=devices, batch_size=batch_size), make_images(SIZES), expected(protocol))


def test_the_other_images_and_their_order_change_nothing():
    images, predictor = make_images(SIZES), whole(PROTOCOLS["averaged"], batch_size=1)
    alone = [next(predictor.classes(examples_of([image])))[1] for image in images]
    for order in (range(len(images)), reversed(range(len(images))), [3, 3, 0, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3]):
        order = list(order)
        found = [classes for _, classes in predictor.classes(examples_of([images[i] for i in order]))]
        assert all(np.array_equal(classes, alone[i]) for i, classes in zip(order, found, strict=True))


@pytest.mark.parametrize("overlap", ["sum", "average", "average_logits"])
@pytest.mark.parametrize("flip", [False, True])
def test_an_image_of_the_size_of_a_window_gives_the_same_as_in_a_window(overlap, flip):
    protocol = Protocol(flip=flip, overlap=overlap)
    model, mesh = replace(trained(toy_logits(), crop=CROP), any_size=True), make_mesh(8)
    images = examples_of(make_images((CROP,) * 3))
    kinds = [Predictor(model, mesh, protocol=protocol, windows=windows, batch_size=1) for windows in (True, False)]
    for one, other in zip(*(kind.classes(images) for kind in kinds), strict=True):
        assert np.array_equal(one[1], other[1])
    for one, other in zip(*(kind.probabilities(images) for kind in kinds), strict=True):
        np.testing.assert_allclose(one[1], other[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "canvas"), [("single scale", 1), ("averaged logits", 1)])
def test_a_canvas_cut_into_tiles_gives_the_same(name, canvas):
    predictor = whole(PROTOCOLS[name], batch_size=1, canvas_bytes=canvas * 4 * CLASSES)
    assert_agrees(predictor, make_images(SIZES), expected(PROTOCOLS[name]))


def test_only_networks_of_any_size_predict_whole_images():
    with pytest.raises(UserError, match="windows is False"):
        Predictor(trained(toy_logits()), make_mesh(8), windows=False)


# --- real networks ----------------------------------------------------------------------------------------------------


def pairs(**options):
    prior = PriorOptions(kind="pairs", aggregation_kernel=3)
    return CPNet(CLASSES, depth=18, prior_size=None, channels=16, aux_channels=0, prior=prior, **options)


@cache
def pair_logits():
    model = pairs()
    variables = random_weights.draw(
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *CROP, 3)), train=False))
    )
    return model, variables


@pytest.mark.parametrize("devices", [1, 8])
def test_a_cpnet_gives_the_same_on_every_device(small_backbone, devices):
    (model, variables), protocol = pair_logits(), Protocol(flip=True)
    mesh, images = make_mesh(devices), make_images([(32, 64), (20, 50)])
    apply = compiled_logits(model, mesh, mean=MEAN, std=STD)
    moved = jax.device_put(variables, sharding.replicated(mesh))
    predictor = whole(protocol, logits=lambda *inputs: apply(moved, *inputs), devices=devices, batch_size=2)

    def one(window):
        cells = window.reshape(window.shape[0] // 8, 8, window.shape[1] // 8, 8, 3)
        real = jnp.asarray((cells != np.round(MEAN)).any((1, 3, 4)))[None]
        return np.asarray(alone(jnp.asarray(window)[None], real)[0])

    alone = jax.jit(lambda x, real: model.apply(variables, normalize(x, MEAN, STD), train=False, real=real).logits)
    for image, (_, found), (_, scores) in zip(
        images, predictor.classes(examples_of(images)), predictor.probabilities(examples_of(images)), strict=True
    ):
        wanted = sum(
            reference.scores(
                image,
                one,
                crop=[coarse(scaled_size(side, scale)) for side in image.shape[:2]],
                mean=MEAN,
                scales=(scale,),
                flip=True,
            )
            for scale in protocol.scales
        )
        assert_classes_agree(found, wanted)
        assert_probabilities_agree(scores, wanted)


@jax.jit
def huge(x):
    """0, by way of an array that exceeds any address space."""
    row = jnp.full(10**8, x)
    return 0 * (row[:, None] * row).cumsum(0).sum()


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_a_lack_of_memory_is_reported_with_the_fields_that_help(kind):
    model = replace(
        trained(lambda windows, real=None: toy_logits()(windows, real) + huge(windows[0, 0, 0, 0].astype(jnp.float32))),
        any_size=True,
    )
    images = examples_of(make_images([(20, 30)] * 3))
    with pytest.raises(UserError, match=r"eval\.windows is False.* memory .*give --config\.eval\.windows=True"):
        list(getattr(Predictor(model, make_mesh(2), windows=False, batch_size=1), kind)(images))
    with pytest.raises(UserError, match=r"4 window.* give --config\.eval\.batch_size=2 or .*canvas_mib=512"):
        list(getattr(Predictor(model, make_mesh(2), batch_size=4), kind)(images))
    with pytest.raises(UserError, match=r"1 window.* give --config\.eval\.canvas_mib=512"):
        list(getattr(Predictor(model, make_mesh(2), batch_size=1), kind)(images))


@pytest.mark.parametrize("windows", [True, False])
def test_other_errors_of_a_device_keep_their_traceback(windows):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: not about memory")

    predictor = Predictor(replace(trained(toy_logits()), any_size=True), make_mesh(2), windows=windows)
    with pytest.raises(jax.errors.JaxRuntimeError, match="not about memory"):
        list(predictor.classes(examples_of(make_images([(20, 30)])), logits=broken))


# --- memory and programs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("sizes", [[(10, 12)], [(10, 12), (60, 60), (30, 90)]])
def test_few_images_are_in_memory_and_results_are_in_order(kind, sizes):
    count, devices, batch_size = 150, 2, 1
    room = 8 * devices * batch_size
    images, taken = [], 0

    def source():
        nonlocal taken
        for number in range(count):
            image = np.full((*sizes[number % len(sizes)], 3), number, np.uint8)
            images.append(weakref.ref(image))
            taken += 1
            yield {"image": image, "number": number}
            del image

    predictor = whole(PROTOCOLS["single scale"], devices=devices, batch_size=batch_size)
    for done, (example, _) in enumerate(getattr(predictor, kind)(source())):
        assert example["number"] == done
        # Those that wait, and those whose results were stored at once with this one's.
        assert taken <= done + 2 * room
        assert sum(image() is not None for image in images) <= 2 * room
        del example
    assert taken == count


def test_programs_are_compiled_a_few_times_not_once_per_image_size():
    jax.clear_caches()
    rng = np.random.default_rng(3)
    sizes = [tuple(rng.integers(20, 64, 2).tolist()) for _ in range(80)]
    assert len(set(sizes)) > 60
    first, second = (examples_of(make_images(part)) for part in (sizes[:40], sizes[40:]))
    predictor = whole(Protocol(flip=True), batch_size=2)
    with compilations() as compiled:
        list(predictor.classes(first))
        assert len(compiled) >= 4  # two sides, four sizes
        assert len(compiled) <= 3 * 4 + 10
        del compiled[:]
        list(predictor.classes(second))
        assert not compiled


def test_images_of_a_size_share_batches(monkeypatch):
    """Sizes in turns do not leave devices without work."""
    batches = []
    predictor = whole(PROTOCOLS["single scale"], devices=4, batch_size=1)
    run = predictor._run
    monkeypatch.setattr(predictor, "_run", lambda batch, *rest: batches.append(batch) or run(batch, *rest))
    list(predictor.classes(examples_of(make_images([(20, 30), (40, 30), (64, 64), (90, 20)] * 8))))
    assert len(batches) == 8 and all(all(batch.devices) for batch in batches)
