"""The report shows the worst and the best images, with the predictions that the evaluation has made."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from configs import folder
from cpnet_jax.data import pictures
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.evaluation import publish, shown_images
from cpnet_jax.evaluation.data import data_of_run
from cpnet_jax.evaluation.evaluate import evaluate, merge
from cpnet_jax.evaluation.evaluator import Evaluator
from cpnet_jax.evaluation.kept_predictions import KeptPredictions, merged
from cpnet_jax.evaluation.samples import Sample


def evaluation(images):
    """(evaluation, order): image i has i + 1 of 20 pixels right; the images are shuffled."""
    order = np.random.default_rng(0).permutation(images)
    label = np.zeros((1, 20), np.uint8)
    return evaluate((({"label": label}, (np.arange(20) > i).astype(np.uint8)[None]) for i in order), CAMVID), order


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("images", [0, 1, 3, 8, 15])
def test_the_worst_and_the_best_are_shown_and_none_twice(images, count):
    found, order = evaluation(images)
    worst, best = ([int(order[place]) for place in places] for places in found.worst_and_best(count))
    assert worst == list(range(images))[: -(-count // 2)]
    assert best == [i for i in range(images)[::-1] if i not in worst][: count // 2]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_pictures_show_is_kept_and_little_else(count, processes):
    """Equal images, images without labels and images of several sizes among them."""
    rng = np.random.default_rng(1)
    labels = [rng.choice([0, 1, 255], size=(1, size)).astype(np.uint8) for size in (4, 6, 9) * 8]
    labels[5][:], labels[20][:] = 255, 255
    predictions = [rng.integers(0, 2, label.shape).astype(np.uint8) for label in labels]
    for place in (3, 9, 12):
        labels[place], predictions[place] = labels[0], predictions[0]
    pairs = [({"label": label}, predicted) for label, predicted in zip(labels, predictions, strict=True)]
    keepers = [KeptPredictions(count) for _ in range(processes)]
    found = merge(
        [
            evaluate(pairs[start::processes], CAMVID, start=start, step=processes, keep=keep)
            for start, keep in enumerate(keepers)
        ]
    )
    shown = {*range(count), *itertools.chain(*found.worst_and_best(count))}
    kept = merged(keep.take(shown) for keep in keepers)
    assert kept.keys() == shown
    for place, packed in kept.items():
        np.testing.assert_array_equal(packed.unpack(), predictions[place])
    assert all(len(keep.take(range(len(pairs)))) <= 3 * count for keep in keepers)


def test_an_evaluation_without_panels_leaves_no_index_of_older_ones(tmp_path):
    """As while training: the panels of an earlier evaluation stay, and are not those of the new eval.json."""
    (tmp_path / "predictions").mkdir()
    shown_images.write_index(tmp_path, ["old"])
    config = folder.get_config()
    config.data.num_classes, config.eval.pictures = len(CAMVID.classes), 0
    evaluator = Evaluator(config, data_of_run(CAMVID, "val", []))
    publish.write_all(tmp_path, evaluation(3)[0], evaluator, lambda *_: None, step=2, panels=False)
    assert json.loads((tmp_path / "eval.json").read_text())["settings"]["step"] == 2
    assert not (tmp_path / "predictions" / "shown.json").exists()


@pytest.mark.usefixtures("without_shape_checks")
def test_pictures_in_tensorboard_are_shrunk_and_keep_their_shape(monkeypatch):
    monkeypatch.setattr(publish, "LONGEST_LOGGED", 500)
    samples = [Sample("large", *large_image(300, 400), {}), Sample("small", *large_image(30, 40), {})]
    evaluator = SimpleNamespace(
        pictures=2,
        first_places=range,
        places_with_prior=lambda places: (),
        samples=lambda evaluation, places: iter(samples),
        prior_samples=lambda network, places: iter(()),
    )
    shown = {}
    publish.draw(shown.__setitem__, evaluation(2)[0], evaluator, lambda *_: None, count=2)
    assert list(shown) == ["prediction/large", "prediction/small"]
    whole = [pictures.panel(sample.image, sample.label, sample.prediction, CAMVID) for sample in samples]
    assert shown["prediction/large"].width == 500 < whole[0].width
    assert shown["prediction/large"].height == round(500 / whole[0].width * whole[0].height)


def large_image(height, width):
    """Image, label and prediction."""
    classes = np.zeros((height, width), np.uint8)
    return np.zeros((height, width, 3), np.uint8), classes, classes


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, "CPNet (ResNet-18) on leaves"),
        ({"name": "leaves"}, "CPNet (ResNet-18) on leaves"),
        ({"name": "run", "model.context_prior": False}, "run: dilated FCN (ResNet-18) on leaves"),
        ({"model.context": "psp"}, "CPNet with psp (ResNet-18) on leaves"),
    ],
)
def test_the_title_names_the_experiment_the_network_and_the_data(changes, title):
    config = folder.get_config()
    config.data.source = "/photos/leaves/"
    config.update_from_flattened_dict(changes)
    dataset = dataclasses.replace(CAMVID, name="folder")
    assert " on ".join(Evaluator(config, data_of_run(dataset, "val", [])).title()) == title
