"""benchmarks/accelerator.py loses no result, keeps to its time, and goes on where it stopped."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import Measurement, Results

SAYS_ONE = ["-c", "print('some output'); print('{\"value\": 1}')"]
FAILS = ["-c", "raise SystemExit('error: the device is lost')"]
TAKES_LONG = ["-c", "import time; print('started', flush=True); time.sleep(60)"]


@pytest.fixture
def arguments(tmp_path):
    return argparse.Namespace(out=tmp_path, work=tmp_path / "work", minutes=1.0, tiny=True)


def measure(arguments, *measurements):
    results = Results(arguments.out)
    accelerator.run_all(list(measurements), results, arguments)
    return statuses(arguments.out)


def statuses(out):
    lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return [(line["key"], line["status"]) for line in lines]


def test_a_failure_does_not_stop_the_others_and_is_repeated_alone(arguments):
    failing = Measurement("table", "failing", FAILS, 0.0)
    working = Measurement("table", "working", SAYS_ONE, 0.0)
    assert measure(arguments, failing, working) == [("table: failing", "failed"), ("table: working", "done")]
    assert measure(arguments, failing, working)[2:] == [("table: failing", "failed")]
    assert "the device is lost" in (arguments.out / "table.md").read_text()


def test_the_result_is_the_last_line_of_json(arguments):
    measure(arguments, Measurement("table", "one", SAYS_ONE, 0.0))
    assert json.loads((arguments.out / "results.jsonl").read_text())["output"] == {"value": 1}


def test_a_result_that_was_cut_off_is_measured_again(arguments):
    one = Measurement("table", "one", SAYS_ONE, 0.0)
    measure(arguments, one)
    file = arguments.out / "results.jsonl"
    file.write_text(file.read_text()[:-5])
    assert not Results(arguments.out).is_done(one)


def test_a_measurement_without_end_is_stopped_when_the_time_is_over(arguments):
    arguments.minutes = 2 / 60
    assert measure(arguments, Measurement("table", "long", TAKES_LONG, 0.0)) == [("table: long", "out of time")]


def test_time_is_kept_for_the_measurement_that_may_take_all_of_it(arguments):
    before, after = (Measurement("table", name, SAYS_ONE, 0.3) for name in ("before", "after"))
    large = Measurement("table", "large", SAYS_ONE, 0.7)
    greedy = Measurement("table", "run", ["-c", f"import sys; print(sys.argv); {SAYS_ONE[1]}"], 0.5, takes_all=True)
    order = [key for key, _ in measure(arguments, before, large, greedy, after)]
    assert order == ["table: before", "table: run", "table: after", "table: large"]


def test_what_does_not_fit_is_said_and_done_by_the_next_call(arguments):
    large = Measurement("table", "large", SAYS_ONE, 2.0)
    assert measure(arguments, large) == [("table: large", "left out")]
    arguments.minutes = 3.0
    assert measure(arguments, large)[1:] == [("table: large", "done")]


def test_twelve_minutes_are_enough_for_the_most_important_items_and_a_long_run_on_camvid(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accelerator.py", f"--out={tmp_path}"])
    arguments = accelerator.parse()
    taken = {}
    for one, most in accelerator.schedule(
        accelerator.measurements(arguments), lambda: arguments.minutes - sum(taken.values())
    ):
        taken[one.item, one.name] = most if one.takes_all else one.minutes
    assert {item for item, _ in taken} == {"right", "step", "prior", "camvid"}
    assert taken["camvid", "configs/camvid.py"] >= 4.5 and sum(taken.values()) < 12.001


@pytest.mark.parametrize("tiny", [False, True])
def test_every_item_has_measurements_whose_programs_exist(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accelerator.py", f"--out={tmp_path}", *["--tiny"] * tiny])
    chosen = accelerator.measurements(accelerator.parse())
    assert list(dict.fromkeys(one.item for one in chosen)) == list(accelerator.ITEMS)
    assert all(Path(one.command[0]).is_file() for one in chosen)
    assert len({one.key for one in chosen}) == len(chosen)
