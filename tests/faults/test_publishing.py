"""A run that cannot evaluate or write its results loses no step, and makes up for it once it is started again."""

import json
import os
import shutil

import pytest
from faults.tiny_run import STEPS, Run, assert_as_uninterrupted, checkpoint_steps


def refused(run, said, saved):
    """Checks that the run ended with one sentence in which this is said, after it had saved this step."""
    assert run.status() == 2, run.output()
    [line] = run.errors()
    assert str(said) in line and "Traceback" not in run.output(), run.output()
    assert checkpoint_steps(run.workdir)[-1] == saved


def test_an_evaluation_or_result_that_fails_costs_no_step_and_is_made_up_for(folder, undisturbed):
    workdir, data = folder / "unpublished", folder / "damaged_data"
    fields = {"data.dir": data, "eval_every": 4}
    shutil.copytree(folder / "data", data)
    [records] = data.glob("**/*-val.array_record*")
    whole = records.read_bytes()
    records.write_bytes(whole[:200] + bytes(len(whole) - 400) + whole[-200:])
    with Run(folder, workdir, **fields) as run:
        refused(run, "cannot be read", saved=4)

    records.write_bytes(whole)
    (workdir / "eval.json").mkdir()
    with Run(folder, workdir, **fields) as run:
        refused(run, workdir / "eval.json", saved=4)
    assert run.resumed_at() == 4

    (workdir / "eval.json").rmdir()
    (workdir / "report").write_text("in the way")
    with Run(folder, workdir, **fields) as run:
        refused(run, workdir / "report", saved=4)
    assert run.resumed_at() == 4 and "Step 4: mIoU" in run.output(), "the figures were printed all the same"

    (workdir / "report").unlink()
    with Run(folder, workdir, **fields) as run:
        assert run.status() == 0, run.output()
    assert_as_uninterrupted(workdir, undisturbed)
    assert json.loads((workdir / "eval.json").read_text())["settings"]["step"] == STEPS
    assert (workdir / "report" / "index.html").is_file()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mIoU" in line] == [4, 8, STEPS]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))


@pytest.mark.long
def test_a_reader_of_the_output_that_exits_costs_no_evaluated_step(folder, undisturbed):
    workdir = folder / "piped"
    reading, writing = os.pipe()
    with Run(folder, workdir, eval_every=4, stdout=writing) as run:
        os.close(writing)
        with open(reading) as pipe:
            assert any("training for" in line for line in pipe)
        assert run.status() == 141, run.output()
    assert "Traceback" not in run.output()
    assert checkpoint_steps(workdir) == [4], "its figures were the first thing that could not be printed"
