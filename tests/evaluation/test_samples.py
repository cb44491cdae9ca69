"""The images picked out of an evaluation are its worst and best; prior samples carry what the prior is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax import losses
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.confusion import confusion_matrix, scores
from cpnet_jax.evaluation.evaluate import evaluate
from cpnet_jax.evaluation.extremes import Extremes
from cpnet_jax.evaluation.prior_samples import prior_sample
from cpnet_jax.models import PriorFactors

TINY = Dataset("tiny", ("water", "sand", "sky"), ((0, 0, 255), (255, 255, 0), (0, 255, 255)))


def make_predictions(count: int) -> list:
    rng = np.random.default_rng(1)
    pairs = []
    for i in range(count):
        label = rng.choice([0, 1, 2, 255], (6, 8)).astype(np.uint8)
        predicted = np.where(rng.random((6, 8)) < rng.random(), rng.integers(0, 3, (6, 8)), label % 3)
        example = {"id": str(i), "image": np.full((6, 8, 3), i, np.uint8), "label": label}
        pairs.append((example, predicted.astype(np.uint8)))
    return pairs


def mean_iou(prediction) -> float:
    example, predicted = prediction
    return scores(confusion_matrix(example["label"], predicted, 3)).mean_iou


@pytest.mark.parametrize(("images", "count"), [(30, 4), (9, 4), (8, 4), (6, 4), (3, 4), (1, 1), (2, 1), (0, 3), (5, 0)])
def test_the_worst_and_the_best_are_those_of_the_sorted_list(images, count):
    predictions = make_predictions(images)
    extremes = Extremes(TINY, count)
    evaluate(predictions, TINY, each=extremes)
    ranked = [example["id"] for example, _ in sorted(predictions, key=mean_iou)]
    assert [sample.id for sample in extremes.worst] == ranked[:count]
    assert [sample.id for sample in extremes.best] == ranked[count:][::-1][:count]


def test_a_sample_holds_the_image_and_its_own_figures():
    [prediction] = make_predictions(1)
    extremes = Extremes(TINY, 1)
    evaluate([prediction], TINY, each=extremes)
    [sample], (example, predicted) = extremes.worst, prediction
    assert sample.image is example["image"] and sample.label is example["label"] and sample.prediction is predicted
    right = (example["label"] == predicted).sum() / (example["label"] != 255).sum()
    assert sample.figures == {"mIoU": mean_iou(prediction), "pixel accuracy": pytest.approx(right)}


def test_images_without_a_label_are_neither_good_nor_bad():
    predictions = make_predictions(3)
    predictions[1][0]["label"][:] = 255
    extremes = Extremes(TINY, 5)
    evaluate(predictions, TINY, each=extremes)
    assert sorted(sample.id for sample in extremes.worst) == ["0", "2"]


def make_prior(n: int) -> PriorFactors:
    rng = np.random.default_rng(0)
    return PriorFactors(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((1, n, 3), (3, n), (n,))))


def test_a_prior_sample_has_the_priors_rows_and_the_ideal_ones():
    label = np.repeat([[0, 0, 0, 1, 1, 2]], 4, axis=0)
    prior = make_prior(24)
    sample = prior_sample("a", np.zeros((32, 48, 3), np.uint8), prior, label, count=2)
    whole = jax.nn.sigmoid(prior.logits())[0]
    ideal = losses.ideal_affinity_map(jnp.asarray(label.reshape(1, -1)))[0]
    assert [label[p] for p in sample.positions] == [0, 1]
    for (row, column), found, wanted in zip(sample.positions, sample.rows, sample.ideal, strict=True):
        np.testing.assert_allclose(found.ravel(), whole[row * 6 + column], rtol=1e-6)
        assert np.array_equal(wanted.ravel(), ideal[row * 6 + column])


def test_without_a_label_positions_come_from_the_prediction_and_nothing_is_ideal():
    prediction = np.repeat([[0, 0, 0, 1, 1, 2]], 4, axis=0)
    sample = prior_sample("a", np.zeros((32, 48, 3), np.uint8), make_prior(24), prediction=prediction, count=3)
    assert [prediction[p] for p in sample.positions] == [0, 1, 2]
    assert sample.ideal is None and sample.rows.shape == (3, 4, 6)


def test_a_window_without_any_label_has_no_rows():
    label = np.full((4, 6), 255)
    sample = prior_sample("a", np.zeros((32, 48, 3), np.uint8), make_prior(24), label)
    assert sample.positions == () and sample.rows.shape == sample.ideal.shape == (0, 4, 6)
