"""The predictor equals the slow reference for every image size and any number of devices."""

import contextlib
import gc
import itertools
import weakref
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from inference import reference

from cpnet_jax import sharding
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.normalize import normalize
from cpnet_jax.errors import UserError
from cpnet_jax.inference import predictor as predictor_module
from cpnet_jax.inference.cutting import PendingImage
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.models import CPNet

CLASSES = 6
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CROP = (24, 32)
# Equal to the crop, smaller, larger, one row of windows, one column, slivers, odd.
SIZES = [(24, 32), (5, 7), (1, 1), (24, 75), (80, 32), (3, 200), (190, 2), (31, 53), (25, 33), (1, 33), (47, 95)]
PROTOCOLS = {
    "single scale": Protocol(),
    "the paper's": Protocol(scales=(0.5, 0.75, 1.0, 1.5, 1.75), flip=True),
    "averaged": Protocol(scales=(0.75, 1.25), flip=True, overlap="average"),
    "averaged logits": Protocol(overlap="average_logits"),
    "mmsegmentation's": Protocol(scales=(0.5, 1.0, 1.75), flip=True, overlap="average_logits"),
    "extreme scales": Protocol(scales=(0.1, 2.3)),
}
# Two scores that differ by less may come in either order.
TIE = 1e-5
pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_images(sizes=tuple(SIZES), seed=0):
    """Images of smooth colours with noise, so that scaling does not turn them grey."""
    rng = np.random.default_rng(seed)
    return [_picture(rng, *size) for size in sizes]


def _picture(rng, height, width):
    coarse = rng.normal(128, 70, (height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.clip(coarse + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)


def examples_of(images):
    return [{"id": str(place), "image": image} for place, image in enumerate(images)]


def make_mesh(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), (sharding.DATA_AXIS,))


def trained(logits, classes=CLASSES, crop=CROP):
    dataset = Dataset("made", tuple(f"class {k}" for k in range(classes)), ((0, 0, 0),) * classes)
    return TrainedModel(dataset, crop, MEAN, STD, logits)


@cache
def toy_logits():
    """A tiny network. An output depends on the 8x8 pixels there, on its position and on the whole window."""
    rng = np.random.default_rng(1)
    height, width = CROP[0] // 8, CROP[1] // 8
    kernel = rng.normal(0, 0.25, (8, 8, 3, CLASSES)).astype(np.float32)
    places = rng.normal(0, 1, (height, width, CLASSES)).astype(np.float32)
    whole = rng.normal(0, 1, (3, CLASSES)).astype(np.float32)

    @jax.jit
    def logits(windows):
        x = normalize(windows, MEAN, STD)
        cells = x.reshape(-1, height, 8, width, 8, 3)
        local = jnp.einsum("nycxdi,cdik->nyxk", cells, kernel)
        return local + places + (x.mean((1, 2)) @ whole)[:, None, None]

    return logits


@cache
def toy_predictor(name, devices=8, batch_size=2):
    """A cached predictor, because compiling takes longer than running."""
    return Predictor(trained(toy_logits()), make_mesh(devices), protocol=PROTOCOLS[name], batch_size=batch_size)


def one_window(logits):
    """The network as a function of one window, for the reference."""
    return lambda window: np.asarray(logits(window[None])[0])


@cache
def expected(protocol, logits=None, crop=CROP):
    """Scores of `make_images()`."""
    return [slow(image, protocol, logits, crop) for image in make_images()]


def slow(image, protocol, logits=None, crop=CROP):
    return reference.scores(
        image,
        one_window(logits or toy_logits()),
        crop=crop,
        mean=MEAN,
        scales=protocol.scales,
        flip=protocol.flip,
        overlap=protocol.overlap,
    )


def assert_classes_agree(predicted, scores):
    """Classes agree wherever the reference's two best scores differ clearly."""
    assert predicted.dtype == np.uint8 and predicted.shape == scores.shape[:2]
    second, best = np.moveaxis(np.sort(reference.probabilities(scores), axis=-1)[..., -2:], -1, 0)
    clear = best - second > TIE
    assert clear.mean() > 0.99 or clear.size < 100
    assert np.array_equal(predicted[clear], reference.classes(scores)[clear])


def assert_probabilities_agree(found, scores):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.probabilities(scores), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=0, atol=1e-5)


def assert_agrees(predictor, images, scores):
    """Classes and probabilities, in one stream each."""
    examples = examples_of(images)
    for run, check in (
        (predictor.classes, assert_classes_agree),
        (predictor.probabilities, assert_probabilities_agree),
    ):
        for given, wanted, (example, found) in zip(examples, scores, run(iter(examples)), strict=True):
            assert example is given
            check(found, wanted)


def test_the_protocols_give_different_results():
    """The toy's output depends on everything in which the protocols differ, and every class occurs."""
    for protocol in PROTOCOLS.values():
        predicted = np.concatenate([reference.classes(found).ravel() for found in expected(protocol)])
        assert np.bincount(predicted, minlength=CLASSES).min() > 0.01 * len(predicted)
    image = make_images([(47, 95)])[0]
    variants = [
        Protocol(),
        Protocol(scales=(1.5,)),
        Protocol(scales=(1.0, 1.5)),
        Protocol(scales=(1.0, 1.5), overlap="average"),
        Protocol(scales=(1.0, 1.5), overlap="average_logits"),
        Protocol(scales=(1.0, 1.5), flip=True),
        Protocol(scales=(1.0, 1.5), flip=True, overlap="average_logits"),
    ]
    for one, other in itertools.combinations(
        [reference.probabilities(slow(image, variant)) for variant in variants], 2
    ):
        assert np.abs(one - other).max() > 0.05


@pytest.mark.parametrize("name", PROTOCOLS)
def test_prediction_agrees_with_the_reference(name):
    assert_agrees(toy_predictor(name), make_images(), expected(PROTOCOLS[name]))


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 5), (3, 2), (8, 1)])
def test_devices_and_the_size_of_the_batches_change_nothing(devices, batch_size):
    assert_agrees(toy_predictor("averaged", devices, batch_size), make_images(), expected(PROTOCOLS["averaged"]))


@pytest.mark.parametrize(
    ("name", "windows"), [("single scale", 0), ("the paper's", 2), ("averaged", 7), ("mmsegmentation's", 5)]
)
def test_a_canvas_cut_into_tiles_gives_the_same(name, windows):
    """Holds for any canvas size."""
    predictor = Predictor(
        trained(toy_logits()),
        make_mesh(8),
        protocol=PROTOCOLS[name],
        batch_size=1,
        canvas_bytes=max(1, windows * 4 * CLASSES * CROP[0] * CROP[1]),
    )
    assert_agrees(predictor, make_images(), expected(PROTOCOLS[name]))


def test_a_cpnet_agrees_with_the_reference(small_backbone):
    crop, protocol = (32, 48), Protocol(scales=(0.75, 1.5), flip=True)
    logits, images = tiny_cpnet(crop), make_images([(32, 48), (20, 31), (45, 81)])
    predictor = Predictor(trained(logits, crop=crop), make_mesh(8), protocol=protocol, batch_size=1)
    scores = [slow(image, protocol, logits, crop) for image in images]
    assert len(np.unique(np.concatenate([reference.classes(found).ravel() for found in scores]))) > 2
    assert_agrees(predictor, images, scores)


@cache
def tiny_cpnet(crop):
    model = CPNet(CLASSES, depth=18, prior_size=(crop[0] // 8, crop[1] // 8), channels=16, aux_channels=0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *crop, 3)), train=False))
    variables = random_weights.draw(shapes, seed=1)  # with which it predicts several classes
    return jax.jit(lambda windows: model.apply(variables, normalize(windows, MEAN, STD), train=False).logits)


def test_the_first_class_wins_ties():
    """A class whose logits always equal an earlier class's is never predicted."""

    @jax.jit
    def logits(windows):
        found = toy_logits()(windows)
        return jnp.concatenate([found, found[..., ::-1]], axis=-1)

    model = trained(logits, classes=2 * CLASSES)
    predictor = Predictor(model, make_mesh(8), protocol=PROTOCOLS["averaged"], batch_size=1)
    for _, found in predictor.classes(examples_of(make_images())):
        assert found.max() < CLASSES


def test_images_may_be_read_only_views():
    images = make_images()
    views = [np.repeat(image, 2, axis=0)[::2, :, :] for image in images]
    for view in views:
        view.flags.writeable = False
    assert_agrees(toy_predictor("averaged"), views, expected(PROTOCOLS["averaged"]))
    assert all(np.array_equal(view, image) for view, image in zip(views, images, strict=True))


def test_no_examples_give_no_predictions():
    predictor = toy_predictor("the paper's")
    assert list(predictor.classes([])) == list(predictor.probabilities(iter([]))) == []


def test_a_predictor_can_be_used_repeatedly():
    predictor = toy_predictor("single scale")
    examples = examples_of(make_images())
    stopped_early = predictor.classes(examples)
    first = next(stopped_early)[1]
    stopped_early.close()
    runs = [[found for _, found in predictor.classes(examples)] for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(first, runs[0][0])


@pytest.fixture
def no_garbage_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("size", [(10, 12), (60, 60)])
@pytest.mark.usefixtures("no_garbage_collector")
def test_examples_are_consumed_lazily_and_freed_at_once(kind, size):
    """A validation set does not fit into memory, nor do its scores."""
    count, few = 120, 40
    images, taken = [], 0

    def source():
        nonlocal taken
        for shade in range(count):
            image = np.full((*size, 3), shade, np.uint8)
            images.append(weakref.ref(image))
            taken += 1
            yield {"image": image}
            del image

    predictor = toy_predictor("single scale")
    for done, _ in enumerate(getattr(predictor, kind)(source())):
        assert taken <= done + few
        assert sum(image() is not None for image in images) <= few
    assert taken == count


def test_results_larger_than_the_machines_memory_are_said_in_one_sentence(monkeypatch):
    def store(*_):
        raise MemoryError("Unable to allocate 60.3 GiB for an array with shape (12000, 9000, 150)")

    monkeypatch.setattr(PendingImage, "store", store)
    with pytest.raises(UserError, match=r"memory is not enough .*60\.3 GiB.*: cut the image .*--probabilities"):
        list(toy_predictor("single scale").probabilities(examples_of(make_images([(24, 32)]))))


def test_an_error_of_the_examples_reaches_the_caller():
    def source():
        yield from examples_of(make_images([(24, 32)] * 3))
        raise OSError("the disk is gone")

    predictor = toy_predictor("single scale")
    with pytest.raises(OSError, match="the disk is gone"):
        list(predictor.classes(source()))


@contextlib.contextmanager
def compilations():
    """A list with one entry for every program that XLA compiles."""
    compiled = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def test_programs_are_compiled_a_few_times_not_once_per_image_size():
    jax.clear_caches()
    rng = np.random.default_rng(3)
    sizes = [tuple(rng.integers(20, 90, 2).tolist()) for _ in range(40)]
    assert len(set(sizes)) > 35
    first, second = (examples_of(make_images(part)) for part in (sizes[:20], sizes[20:]))
    protocol = Protocol(scales=(0.5, 1.0, 1.5), flip=True)
    predictor = Predictor(trained(toy_logits()), make_mesh(8), protocol=protocol, batch_size=1)
    with compilations() as compiled:
        for run in (predictor.classes, predictor.probabilities):
            list(run(first))
        assert 0 < len(compiled) <= 20
        del compiled[:]
        for run in (predictor.classes, predictor.probabilities):
            list(run(second))
        assert len(compiled) <= 3


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_other_devices_do_not_run_ahead_of_one_with_a_large_image(kind):
    sizes, taken = [(150, 200), *[(24, 32)] * 300], 0

    def source():
        nonlocal taken
        for size in sizes:
            taken += 1
            yield {"image": np.zeros((*size, 3), np.uint8)}

    predictions = getattr(toy_predictor("single scale", batch_size=1), kind)(source())
    next(predictions)
    assert taken <= 100
    assert sum(1 for _ in predictions) == len(sizes) - 1


def test_the_canvas_shrinks_after_large_images(monkeypatch):
    areas, compiled = [], predictor_module._compiled

    def noting(accumulator, mesh):
        areas.append(np.prod(accumulator.canvas_size))
        return compiled(accumulator, mesh)

    monkeypatch.setattr(predictor_module, "_compiled", noting)
    images = make_images([(24, 32), (4, 900), (900, 4), *[(24, 32)] * 6])
    assert_agrees(
        toy_predictor("single scale", devices=1, batch_size=1), images, [slow(image, Protocol()) for image in images]
    )
    assert areas[0] == areas[-1] == 32 * 32 < max(areas) < 2 * 1024 * 32
