"""A metric is one entry of a table, and appears wherever figures are shown."""

import json

import numpy as np
import pytest

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.evaluation import metrics
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.metrics import Metric
from cpnet_jax.evaluation.report import write_report

SHARES = np.arange(1, 12) / 20


def make_evaluation() -> Evaluation:
    confusion = np.random.default_rng(0).integers(1, 1000, (11, 11))
    return Evaluation(CAMVID, confusion, images=3)


def share_of_first_class(confusion) -> float:
    return float(confusion[0].sum() / confusion.sum())


def write_page(evaluation: Evaluation, path) -> str:
    write_report(
        path, title=("tiny", "made"), figures=evaluation.as_json(), confusion=evaluation.confusion, dataset=CAMVID
    )
    return path.read_text()


@pytest.mark.parametrize("logged", [False, True])
def test_a_metric_added_by_one_entry_is_in_eval_json_table_report_and_log(monkeypatch, tmp_path, logged):
    monkeypatch.setitem(metrics.METRICS, "sky_share", Metric(share_of_first_class, logged=logged))
    evaluation = make_evaluation()
    value = share_of_first_class(evaluation.confusion)
    assert json.loads(json.dumps(evaluation.as_json()))["sky_share"] == value
    assert (
        f"\nsky share  {'':{len('frequency-weighted IoU') - len('sky share')}}{100 * value:6.1f}" in evaluation.table()
    )
    assert f'<th scope="row">sky share</th><td>{100 * value:.2f} %</td>' in write_page(evaluation, tmp_path / "r.html")
    assert evaluation.logged().get("sky_share") == (value if logged else None)


def test_a_per_class_metric_added_by_one_entry_is_a_column_of_table_and_report(monkeypatch, tmp_path):
    monkeypatch.setitem(metrics.METRICS, "per_class_toy_measure", Metric(lambda confusion: SHARES))
    evaluation = make_evaluation()
    assert evaluation.as_json()["per_class_toy_measure"] == dict(zip(CAMVID.classes, SHARES, strict=True))
    head, _, *rows = evaluation.table().splitlines()
    assert head.endswith("Dice %  toy measure %") and max(map(len, [head, *rows])) <= 100
    end = len(head)
    assert [row[end - 6 : end].strip() for row in rows[:11]] == [f"{100 * share:.1f}" for share in SHARES]
    page = write_page(evaluation, tmp_path / "r.html")
    assert 'data-sort="number">Toy measure</th>' in page
    assert all(f">{100 * share:.1f} %</td>" in page for share in SHARES)


def test_metrics_logged_during_training_are_the_defined_ones_flagged_so():
    assert list(make_evaluation().logged()) == ["mIoU", "mean_accuracy", "pixel_accuracy"]
    assert Evaluation(CAMVID, np.zeros((11, 11), np.int64), images=0).logged() == {}
