"""The curves of a run are one line without gaps, however often it was resumed, and keep their extremes if thinned."""

import json
import math

import numpy as np
import pytest

from cpnet_jax.evaluation.report import times
from cpnet_jax.evaluation.report.curves import MOST_POINTS, curves, thin
from cpnet_jax.training.metrics import EVALUATED, entries


def write(workdir, lines):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return entries(workdir)


def line_of(payload, title, run=0, of="training"):
    [panel] = [panel for panel in payload["panels"] if panel["title"] == title]
    [line] = [line for line in panel["lines"] if (line["run"], line["of"]) == (run, of)]
    return line


def test_a_run_that_was_killed_and_resumed_has_one_gap_free_curve(tmp_path):
    """Killed at 130 and resumed at 100, then killed at 160 and resumed at 140: every step once, the last value."""
    lines = [{"step": step, "loss": 1.0} for step in range(10, 140, 10)]
    lines += [{"step": 100, EVALUATED: 1.0, "mIoU": 0.3}, {"step": 100, EVALUATED: 1.0, "mIoU": 0.4}]
    lines += [{"step": step, "loss": 2.0} for step in range(110, 170, 10)]
    lines += [{"step": step, "loss": 3.0} for step in range(150, 210, 10)]
    payload = curves({"run": write(tmp_path, lines)})
    loss = line_of(payload, "Loss")
    assert loss["x"] == list(range(10, 210, 10))
    assert loss["y"] == [1.0] * 10 + [2.0] * 4 + [3.0] * 6
    assert line_of(payload, "mIoU", of="validation") == {"run": 0, "of": "validation", "x": [100], "y": [0.4]}


def test_steps_that_were_taken_again_with_other_intervals_leave_nothing_behind(tmp_path):
    """Logged at every third step before, and at every fifth after it was resumed at step 12."""
    lines = [{"step": step, "loss": 1.0} for step in range(3, 31, 3)] + [{"step": 15, "loss": 2.0}]
    assert [entry["step"] for entry in write(tmp_path, lines)] == [3, 6, 9, 12, 15, 15]
    assert line_of(curves({"": entries(tmp_path)}), "Loss")["y"] == [1.0] * 4 + [2.0]


def test_training_and_validation_share_a_panel_and_several_runs_too(tmp_path):
    one = [{"step": 1, "loss": 5.0, "lr": 0.1}, {"step": 1, "val_loss": 4.0, "mIoU": 0.25, EVALUATED: 1.0}]
    other = [{"step": 1, "loss": 3.0, "focal": 7.0}]
    payload = curves({"a": one, "b": other})
    assert payload["runs"] == ["a", "b"]
    assert [panel["title"] for panel in payload["panels"]] == ["Loss", "mIoU", "Learning rate", "Focal"]
    [loss, miou, _, focal] = payload["panels"]
    assert [(line["run"], line["of"], line["y"]) for line in loss["lines"]] == [
        (0, "training", [5.0]),
        (0, "validation", [4.0]),
        (1, "training", [3.0]),
    ]
    assert miou["share"] and not loss["share"] and focal["lines"][0]["run"] == 1


def test_what_is_no_number_is_left_out_and_the_line_goes_on(tmp_path):
    values = [1.0, math.nan, math.inf, None, "2", [3], 10**400, 4.0]
    lines = [{"step": step, "loss": value} for step, value in enumerate(values)]
    drawn = line_of(curves({"": write(tmp_path, lines)}), "Loss")
    assert (drawn["x"], drawn["y"]) == ([0, 7], [1.0, 4.0])
    json.dumps(curves({"": lines}), allow_nan=False)


def test_entries_without_a_possible_step_are_left_out(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in (1, -5, 10**400, 2**60, None, 2)] + [{"loss": 1.0}]
    assert [entry["step"] for entry in write(tmp_path, lines)] == [1, 2]


def test_no_metrics_have_no_panels(tmp_path):
    assert entries(tmp_path) == []
    assert curves({"": []})["panels"] == [] and curves({})["panels"] == []


def test_a_long_line_keeps_its_ends_and_its_extremes():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000)
    values[[777, 12_345]] = 50, -50
    points = list(zip(range(10, 200_010, 10), values.tolist(), strict=True))
    kept = thin(points)
    assert len(kept) <= MOST_POINTS
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert {points[777], points[12_345]} <= set(kept) <= set(points)
    assert kept == sorted(kept)
    # Every span of steps has its own extremes: nowhere is the drawn band much narrower than the true one.
    steps, drawn = np.array(kept).T
    for begin in range(10, 200_000, 10_000):
        inside = (steps >= begin) & (steps < begin + 10_000)
        true = values[(begin - 10) // 10 : (begin + 9_990) // 10]
        assert drawn[inside].max() == true.max() and drawn[inside].min() == true.min()


@pytest.mark.parametrize("count", [1, 2, MOST_POINTS, MOST_POINTS + 1])
def test_short_lines_are_kept_whole(count):
    points = [(step, float(step % 7)) for step in range(count)]
    assert len(thin(points)) == min(count, len(thin(points)))
    assert count > MOST_POINTS or thin(points) == points


def test_time_is_the_sum_of_all_steps_and_pauses():
    logged = [
        {"step": 10, "loss": 1.0, "first_step_seconds": 30.0, "step_seconds": 2.0, "input_seconds": 0.5},
        {"step": 20, "loss": 1.0, "step_seconds": 3.0, "input_seconds": 0.0},
        {"step": 20, "checkpoint_seconds": 4.0},
        {"step": 20, EVALUATED: 40.0, "publishing_seconds": 6.0, "mIoU": 0.1},
    ]
    found = {part.name: part.seconds for part in times.parts(logged)}
    assert list(found.values()) == [9 * 2 + 10 * 3, 9 * 0.5, 30, 40, 6, 4]
    assert sum(part.share for part in times.parts(logged)) == pytest.approx(1)
    assert times.line(times.parts(logged)).startswith("training steps 48.0 s (36%), evaluations 40.0 s")


@pytest.mark.parametrize("value", [None, "3", math.nan, -1.0, 1e300, [1]])
def test_damaged_times_count_nothing(value):
    assert times.parts([{"step": 3, "loss": 1.0, "step_seconds": value, EVALUATED: value}]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 04 h"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert times.duration(seconds) == text
