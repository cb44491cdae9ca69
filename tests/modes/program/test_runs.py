"""The whole program, run as its users run it: one real run, a crash and a resume."""

import json
import math
import os
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter

import forked_program
import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from whole_program import (
    ROOT,
    STEPS,
    assert_is_one_sentence,
    command,
    environment,
    of_run,
    read_metrics,
    run,
    write_camvid,
)

from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.metrics import MetricsWriter


def final_state(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest()
        return step, checkpoints.restore_as_saved(step)


@pytest.fixture(scope="module")
def finished(folder):
    """A run from nothing to its end."""
    workdir = folder / "finished"
    result = run(*command(folder, workdir))
    assert result.returncode == 0, result.stderr
    return workdir, result


def read_events(path):
    """A TensorBoard file is records of: length, its checksum, a protocol buffer, its checksum."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        yield event_pb2.Event.FromString(data[place + 12 : place + 12 + size])
        place += 12 + size + 4


def test_one_command_trains_evaluates_and_saves(finished):
    workdir, result = finished
    assert "mIoU" in result.stdout and "bicyclist" in result.stdout
    evaluation = json.loads((workdir / "eval.json").read_text())
    assert evaluation["images"] == 3 and len(evaluation["per_class"]) == 11
    assert evaluation["settings"]["step"] == STEPS
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == STEPS
    assert len(list((workdir / "predictions").glob("*_panel.png"))) == 2
    page = (workdir / "report" / "index.html").read_text()
    assert "<title>CPNet (ResNet-18) on camvid</title>" in page
    assert f"{100 * evaluation['mIoU']:.2f} %" in page and page.count("<figure") >= 2 * 4 + 1


def data_in_report(workdir, name):
    page = (workdir / "report" / "index.html").read_text()
    return json.loads(page.split(f'<script type="application/json" id="{name}-data">')[1].split("</script>")[0])


def curve(workdir, title):
    """{"training": (steps, values), "validation": ...} of a panel of the report."""
    [panel] = [panel for panel in data_in_report(workdir, "curves")["panels"] if panel["title"] == title]
    return {line["of"]: (line["x"], line["y"]) for line in panel["lines"]}


def test_the_report_shows_curves_config_command_and_the_prior_of_every_evaluation(finished):
    workdir, _ = finished
    loss, miou = curve(workdir, "Loss"), curve(workdir, "mIoU")
    assert loss["training"][0] == list(range(1, STEPS + 1))
    assert loss["validation"][0] == miou["validation"][0] == [4, 8, 12], "the last one is in its own report"
    images = data_in_report(workdir, "touch")["images"]
    assert [[frame["step"] for frame in image["frames"]] for image in images] == [[4, 8, 12]] * 2
    page = (workdir / "report" / "index.html").read_text()
    assert "python main.py --config=configs/camvid.py" in page
    assert '<th scope="row">model.channels</th><td>16</td><td>512</td>' in page
    assert "first steps, which compile" in page and "checkpoints" in page
    [start] = json.loads((workdir / "starts.json").read_text())
    assert start["step"] == 0 and start["devices"] == 1 and start["packages"]["jax"] == jax.__version__


def test_metrics_hold_every_step_its_terms_and_the_evaluations(finished):
    lines = read_metrics(finished[0])
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert steps[1].keys() >= {"segmentation", "aux", "affinity_unary", "affinity_recall", "clamped_rows", "lr"}
    for line in steps:
        assert line["lr"] == pytest.approx(0.02 * (1 - (line["step"] - 1) / STEPS) ** 0.9, rel=1e-5)
    evaluations = [line for line in lines if "mIoU" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 12]
    assert all(math.isfinite(line[f"val_{term}"]) for line in evaluations for term in ("loss", "aux", "affinity_unary"))


def test_tensorboard_holds_predictions_and_prior_maps_of_every_evaluation(finished):
    pictures, scalars = Counter(), set()
    for file in (finished[0] / "tensorboard").iterdir():
        for event in read_events(file):
            for value in event.summary.value:
                if value.HasField("image"):
                    pictures[value.tag.split("/")[0]] += 1
                else:
                    scalars.add(value.tag)
    assert {tag.split("/")[0] for tag in scalars} == {"train", "val", "time"}
    assert scalars >= {"train/loss", "train/lr", "val/loss", "val/mIoU", "val/clamped_rows", "time/step_seconds"}
    assert pictures == {"prediction": 3 * 2, "context_prior": 3 * 2}


def test_latest_and_best_checkpoint_are_kept(finished):
    workdir, _ = finished
    miou = {line["step"]: line["mIoU"] for line in read_metrics(workdir) if "mIoU" in line}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == STEPS
        assert checkpoints.best() == max(miou, key=miou.get)
        assert set(checkpoints.steps()) == {checkpoints.latest(), checkpoints.best()}


def test_a_finished_run_says_so_and_exits_0(finished):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_text()
    result = run(*of_run(workdir))
    assert result.returncode == 0 and "is finished" in result.stdout
    assert (workdir / "metrics.jsonl").read_text() == before


def test_resume_is_bitwise(folder, finished):
    """Killed without warning after some checkpoint, started again: all is as if it had never stopped."""
    workdir = folder / "killed"
    process = subprocess.Popen(
        list(map(str, command(folder, workdir))),
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = workdir / "checkpoints"
    while process.poll() is None and not any((checkpoints / str(step)).exists() for step in range(2, STEPS)):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (checkpoints / str(STEPS)).exists(), "it was to be killed before its end"

    result = run(*of_run(workdir))
    assert result.returncode == 0, result.stderr
    assert "resuming at step" in result.stdout
    (step, resumed), (_, straight) = final_state(workdir), final_state(finished[0])
    assert step == STEPS
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)

    def comparable(path):
        """All that does not depend on the clock."""
        clocks = ("images_per_second", "_seconds")
        lines = [{k: v for k, v in line.items() if not k.endswith(clocks)} for line in read_metrics(path)]
        return [line for line in lines if len(line) > 1]

    assert comparable(workdir) == comparable(finished[0])
    # The report's curves have no gap, and say nothing of the interruption; a list of starts does.
    for title in ("Loss", "mIoU", "Learning rate"):
        assert curve(workdir, title) == curve(finished[0], title)
    assert "The\n    program was started 2 times, at steps 0, " in (workdir / "report" / "index.html").read_text()


def test_four_devices_train_as_one_and_evaluate(folder, finished):
    workdir = folder / "four_devices"
    result = run(*command(folder, workdir, "--config.total_steps=2"), devices=4)
    assert result.returncode == 0, result.stderr
    assert "4 CPU device(s)" in result.stdout
    assert json.loads((workdir / "eval.json").read_text())["images"] == 3
    # BatchNorm, ReLU and the step multiply what rounding differs by, on some processors beyond 1e-5;
    # training.test_step looks closer on a calmer problem.
    for line, reference in zip(read_metrics(workdir)[:2], read_metrics(finished[0])[:2], strict=True):
        for name in ("loss", "segmentation", "affinity_recall"):
            assert line[name] == pytest.approx(reference[name], rel=1e-3), name


@pytest.fixture(scope="module")
def changed(folder, finished):
    """How the program ended when the run was to go on with other data, and with another field."""
    write_camvid(folder / "other", train=13)
    elsewhere = (f"--config.data.source={folder / 'other'}", f"--config.data.dir={folder / 'other_data'}")
    commands = command(folder, finished[0], *elsewhere), of_run(finished[0], "--config.model.channels=24")
    return forked_program.run_all([arguments for _, _, *arguments in commands], environment(devices=1), "small")


def test_a_workdir_is_not_resumed_on_other_data(changed):
    assert changed[0].returncode == 2 and "trained_on.fingerprint" in changed[0].stderr


def test_a_field_that_may_not_change_on_resume_is_refused_in_one_sentence(changed):
    assert_is_one_sentence(changed[1], "config.model.channels is 16 there and 24 here")


def test_damaged_logs_do_not_stop_a_run_from_being_resumed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n{"step": 3, "loss": 1.0}\n{"step": 4, "loss": 1')
    with MetricsWriter(tmp_path, 3, on_failure=pytest.fail) as writer:
        writer.write(4, {"loss": 0.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3, 4]


def test_eval_mode_finds_what_training_found(finished):
    workdir, _ = finished
    trained = json.loads((workdir / "eval.json").read_text())
    (workdir / "eval.json").unlink()
    result = run(*of_run(workdir, "--mode=eval"))
    assert result.returncode == 0, result.stderr
    assert json.loads((workdir / "eval.json").read_text()) == trained


def test_eval_mode_takes_scales_and_checkpoint_from_the_short_flags_too(folder, finished):
    workdir = folder / "copy"
    shutil.copytree(finished[0], workdir)
    result = run(*command(folder, workdir, "--multi_scale", "--checkpoint=best", mode="eval"))
    assert result.returncode == 0, result.stderr
    settings = json.loads((workdir / "eval.json").read_text())["settings"]
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert settings["step"] == checkpoints.best()
    assert settings["multi_scale"] and settings["flip"] and len(settings["scales"]) == 5
