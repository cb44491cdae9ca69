"""Counts and figures equal those of the benchmarks' own evaluations, to the last digit."""

from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as cityscapes
from cityscapesscripts.helpers.labels import id2label, trainId2label
from PIL import Image

from cpnet_jax.data.builders.base import translate
from cpnet_jax.data.builders.cityscapes import CityscapesBuilder
from cpnet_jax.data.catalog import ADE20K, CITYSCAPES
from cpnet_jax.evaluation.evaluate import evaluate
from cpnet_jax.evaluation.metrics import compute_all
from cpnet_jax.inference.submissions import ADE20K_TEST, CITYSCAPES_TEST

IDS = [trainId2label[i].id for i in range(19)]
VOID = [i for i in range(34) if i not in IDS]
TRAIN, TRUCK = (CITYSCAPES.classes.index(name) for name in ("train", "truck"))


def blocky(rng, values, shape, block=8):
    """A label-like image of uniform patches."""
    patches = rng.choice(values, (-(-shape[0] // block), -(-shape[1] // block)))
    return patches.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]].astype(np.uint8)


@pytest.fixture(scope="module")
def city_set(tmp_path_factory):
    """Ground truth and submitted predictions on disk, as labelIds.

    The ground truth has all void labels but no train. Trains are predicted in some images, trucks in none.
    """
    root, rng = tmp_path_factory.mktemp("cityscapes"), np.random.default_rng(0)
    cores = [f"{city}_{number:06}_000019" for city in ("frankfurt", "lindau") for number in range(4)]
    truths, predictions = {}, {}
    for core in cores:
        truth = blocky(rng, [i for i in range(34) if i != IDS[TRAIN]], (128, 256))
        truth_classes = translate(truth, CityscapesBuilder.LABEL_RULE, core)
        guess = blocky(rng, [k for k in range(19) if k != TRUCK], truth.shape, block=5)
        right = (rng.random(truth.shape) < 0.6) & (truth_classes != 255) & (truth_classes != TRUCK)
        predictions[core] = np.where(right, truth_classes, guess).astype(np.uint8)
        truths[core] = truth_classes
        city = core.split("_")[0]
        path = root / "gtFine/val" / city / f"{core}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth).save(path)
        CITYSCAPES_TEST.write(root / "results", root / f"{core}_leftImg8bit.png", predictions[core])
    ours = evaluate((({"label": truths[core]}, predictions[core]) for core in cores), CITYSCAPES)
    return SimpleNamespace(ours=ours, official=run_official(root))


def run_official(root):
    """Results of the benchmark's script, without instance-level figures and printing."""
    settings = SimpleNamespace(**vars(cityscapes.args))
    settings.predictionPath, settings.predictionWalk = str(root / "results"), None
    settings.evalInstLevelScore, settings.JSONOutput, settings.quiet = False, False, True
    truths = sorted(map(str, root.glob("gtFine/val/*/*_gtFine_labelIds.png")))
    return cityscapes.evaluateImgLists(
        [cityscapes.getPrediction(settings, truth) for truth in truths], truths, settings
    )


def test_confusion_matrix_is_that_of_the_official_cityscapes_script(city_set):
    """The script's rows of void labels are the ignored pixels."""
    official = np.array(city_set.official["confMatrix"], np.int64)
    assert city_set.ours.confusion.dtype == np.int64
    assert np.array_equal(city_set.ours.confusion, official[np.ix_(IDS, IDS)])
    assert official[VOID].sum() > 0 and official.sum() == city_set.ours.confusion.sum() + official[VOID].sum()
    assert all(id2label[i].ignoreInEval for i in VOID)


def test_ious_are_those_of_the_official_cityscapes_script(city_set):
    """A class predicted but never labelled counts 0 in the script's mean and is left out of ours."""
    found, official = compute_all(city_set.ours.confusion), city_set.official
    theirs = np.array([official["classScores"][name] for name in CITYSCAPES.classes])
    labelled = np.arange(19) != TRAIN
    assert np.array_equal(found["per_class"][labelled], theirs[labelled])
    assert theirs[TRAIN] == 0 and np.isnan(found["per_class"][TRAIN]) and city_set.ours.absent_classes == ["train"]
    assert found["per_class"][TRUCK] == 0, "labelled, never predicted"
    assert found["mIoU_labelled_or_predicted"] == pytest.approx(official["averageScoreClasses"], rel=1e-15)
    assert found["mIoU"] == pytest.approx(official["averageScoreClasses"] * 19 / 18, rel=1e-15)


def scene_parsing_areas(prediction, label, classes=150):
    """Areas of intersection and union by class, correct and labelled pixels, as the scene parsing kit defines them.

    Classes are 1 .. 150, and 0 is unlabelled. Unlabelled pixels do not count.
    """
    labelled = label > 0
    areas = []
    for k in range(1, classes + 1):
        true, predicted = labelled & (label == k), labelled & (prediction == k)
        areas.append(((true & predicted).sum(), (true | predicted).sum()))
    return np.array(areas, np.int64), (labelled & (label == prediction)).sum(), labelled.sum()


def test_figures_are_those_of_the_scene_parsing_kit():
    rng = np.random.default_rng(1)
    areas, correct, labelled, pairs = np.zeros((150, 2), np.int64), 0, 0, []
    for shape in [(96, 128), (85, 61), (1, 40)]:
        label = blocky(rng, rng.choice(151, 40), shape)
        label[0, :5] = 0
        classes = blocky(rng, rng.choice(150, 30), shape, block=5)
        classes = np.where((rng.random(shape) < 0.6) & (label > 0), label - 1, classes).astype(np.uint8)
        found = scene_parsing_areas(ADE20K_TEST.encode(classes), label)
        areas, correct, labelled = areas + found[0], correct + found[1], labelled + found[2]
        pairs.append(({"label": np.where(label > 0, label - 1, 255).astype(np.uint8)}, classes))
    ours = evaluate(pairs, ADE20K)
    true, predicted, hit = ours.confusion.sum(1), ours.confusion.sum(0), np.diag(ours.confusion)
    assert np.array_equal(np.stack([hit, true + predicted - hit], 1), areas)
    found, present = compute_all(ours.confusion), true > 0
    assert 0 < present.sum() < 150 and ((areas[:, 1] > 0) & ~present).any(), "absent classes, some of them predicted"
    assert np.array_equal(found["per_class"][present], areas[present, 0] / areas[present, 1])
    assert found["pixel_accuracy"] == correct / labelled
    kit = areas[:, 0] / (np.spacing(1) + areas[:, 1])  # absent classes are 0 in its mean over all 150
    assert found["mIoU_absent_as_0"] == pytest.approx(kit.mean(), rel=1e-14)
