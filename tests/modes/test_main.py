"""The whole program, run as its users run it: one real run, a crash and a resume, and the mistakes people make."""

import gzip
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter

import forked_program
import jax
import numpy as np
import pytest
from small_main import CACHE
from tensorboardX.proto import event_pb2
from whole_program import ROOT, STEPS, command, write_camvid

from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.metrics import MetricsWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("main")
    write_camvid(root / "camvid")
    return root


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {"JAX_PLATFORMS": "cpu", **os.environ, "XLA_FLAGS": flags}


def run(*arguments, devices=1):
    arguments = list(map(str, arguments))
    return subprocess.run(arguments, cwd=ROOT, env=environment(devices), capture_output=True, text=True)


def of_run(workdir, *arguments):
    """The command for a run whose config is in its workdir."""
    cache = f"--config.system.compilation_cache={CACHE}"
    return [sys.executable, "tests/small_main.py", f"--workdir={workdir}", cache, *arguments]


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


def read_metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


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


def test_four_devices_train_and_evaluate_as_one(folder, finished):
    workdir = folder / "four_devices"
    result = run(*command(folder, workdir), devices=4)
    assert result.returncode == 0, result.stderr
    assert "4 CPU device(s)" in result.stdout
    ours, theirs = (json.loads((path / "eval.json").read_text()) for path in (workdir, finished[0]))
    assert ours["images"] == theirs["images"] == 3
    assert ours["pixel_accuracy"] == pytest.approx(theirs["pixel_accuracy"], abs=0.02)
    # Later steps multiply what rounding differs by; training.test_step looks closer on a calmer problem.
    for line, reference in zip(read_metrics(workdir)[:2], read_metrics(finished[0])[:2], strict=True):
        for name in ("loss", "segmentation", "affinity_recall"):
            assert line[name] == pytest.approx(reference[name], rel=1e-5), name


def test_a_workdir_is_not_resumed_on_other_data(folder, finished):
    other = folder / "other"
    write_camvid(other, train=13)
    elsewhere = (f"--config.data.source={other}", f"--config.data.dir={folder / 'other_data'}")
    result = run(*command(folder, finished[0], *elsewhere))
    assert result.returncode == 2 and "trained_on.fingerprint" in result.stderr


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


DIVERGING = ("--config.optimizer.base_lr=1e6", "--config.eval_every=0", "--config.checkpoint_every=100")


@pytest.fixture(scope="module")
def diverged(folder):
    workdir = folder / "diverged"
    return workdir, run(*command(folder, workdir, *DIVERGING))


def test_a_loss_that_is_not_finite_stops_the_run_names_step_and_examples_and_keeps_the_last_good_state(diverged):
    workdir, result = diverged
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    named = int(line.split("error: step ")[1].split(":")[0])
    ids = line.split("the examples ")[1].split(", ")
    assert len(set(ids)) == 4 and set(ids) <= {f"train_{index}" for index in range(12)}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == named - 1 > 0
        assert str(workdir / "checkpoints" / str(named - 1)) in line
        state = checkpoints.restore_as_saved(named - 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))
    assert int(state["step"]) == named - 1 and state["skipped"] == 0


def test_a_run_goes_on_past_steps_that_are_not_finite_up_to_the_limit(folder, diverged):
    workdir, first = diverged
    stopped = int(first.stderr.split("error: step ")[1].split(":")[0])
    result = run(*command(folder, workdir, *DIVERGING, "--config.optimizer.skip_nonfinite=2"))
    assert result.returncode == 3 and f"error: step {stopped + 2}: " in result.stderr
    said = [line for line in result.stdout.splitlines() if "is skipped" in line]
    assert [line.split()[1] for line in said] == [str(stopped), str(stopped + 1)]
    assert said[0].split("its batch: ")[1] == first.stderr.strip().split("the examples ")[1], "the very same batch"
    assert [line["skipped_steps"] for line in read_metrics(workdir) if "skipped_steps" in line] == [1, 1]
    assert all(math.isfinite(value) for line in read_metrics(workdir) for value in line.values())


def flip_a_byte(data, split, record):
    """Within that record, in the file that holds the split."""
    [path] = data.rglob(f"*-{split}.array_record*")
    content = bytearray(path.read_bytes())
    # The name is near the middle of the record; what is around it belongs to the same chunk.
    content[content.index(record.encode()) + 40] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture(scope="module")
def watched(folder, finished):
    """Five steps with a damaged record that is skipped, a worker process and a trace of the second and third step."""
    data, workdir = folder / "damaged", folder / "watched"
    shutil.copytree(folder / "data", data)
    flip_a_byte(data, "train", "train_7")
    overrides = ["data.on_error=skip", "system.workers=1", "system.profile_steps=2:3", "total_steps=5", "eval_every=0"]
    overrides += [f"data.dir={data}", "checkpoint_every=3", "system.log_every=1"]
    result = run(*command(folder, workdir, *(f"--config.{override}" for override in overrides)))
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_damaged_record_is_replaced_said_once_and_counted(watched):
    workdir, result = watched
    [line] = [line for line in result.stdout.splitlines() if line.startswith("Replaced by another: ")]
    assert "record" in line and "hash mismatch" in line
    counts = [line["replaced_examples"] for line in read_metrics(workdir) if "replaced_examples" in line]
    assert len(counts) == 5 and sum(counts) >= 1, "20 examples of 12 records"
    assert f"1 unreadable record(s) were replaced {sum(counts)} time(s)" in result.stdout


def test_metrics_tell_where_the_time_goes(watched):
    lines = read_metrics(watched[0])
    steps = {line["step"]: line for line in lines if "loss" in line}
    assert "step_seconds" not in steps[1], "it compiles"
    assert all(line["step_seconds"] > 0 and line["input_seconds"] >= 0 for step, line in steps.items() if step > 1)
    assert [line["step"] for line in lines if line.get("checkpoint_seconds", 0) > 0] == [3, 5]
    assert [line["step"] for line in lines if line.get("evaluation_seconds", 0) > 0] == [5]


def test_a_trace_of_the_steps_asked_for_is_written_and_said(watched):
    workdir, result = watched
    assert f"Trace of the steps 2 to 3: {workdir}/tensorboard/plugins/profile" in result.stdout
    [trace] = (workdir / "tensorboard" / "plugins" / "profile").glob("*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert steps == {"2", "3"}
    assert list(trace.parent.glob("*.xplane.pb")), "what TensorBoard opens"


def test_workers_leave_no_complaint_behind(watched):
    assert "leaked" not in watched[1].stderr and "Traceback" not in watched[1].stderr


def test_an_evaluation_stops_at_a_damaged_record(folder, finished):
    data = folder / "damaged_val"
    shutil.copytree(folder / "data", data)
    flip_a_byte(data, "val", "val_1")
    overrides = (f"--config.data.dir={data}", "--config.data.on_error=skip")
    result = run(*command(folder, finished[0], *overrides, mode="eval"))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "cannot be read" in result.stderr


OF_A_RUN = "a field that may not change on resume"
MISTAKES = {
    "a field that does not exist": (["--config.model.dept=50"], "model.dept"),
    "a value of the wrong type": (["--config.batch_size=many"], "batch_size"),
    "a crop that 8 does not divide": (["--config.data.crop_size=(30,48)"], "config.data.crop_size"),
    "a missing data folder": (["--config.data.source=/nowhere", "--config.data.dir={tmp}/a"], "/nowhere"),
    "an unset data folder": (["--config.data.source=", "--config.data.dir={tmp}/b"], "config.data.source"),
    "an unknown dataset": (["--config.data.name=camvidd"], "config.data.name"),
    "a workdir that is a file": (["--workdir={tmp}/file"], "--workdir is"),
    "a data folder that cannot be made": (["--config.data.dir={tmp}/file/data"], "config.data.dir"),
    "a field given twice": (["--config.seed=1", "--config.seed=2"], "config.seed is given twice"),
    "a stray argument": (["train"], "'train'"),
    "an unknown flag": (["--confg=x"], "confg"),
    "an unknown mode": (["--mode=fly"], "mode"),
    OF_A_RUN: (["--config.model.channels=24"], "config.model.channels is 16 there and 24 here"),
}


@pytest.fixture(scope="module")
def mistakes(folder, finished):
    """Folder of each mistake's run, and the run."""
    folders, commands = {}, []
    for index, (mistake, (overrides, _)) in enumerate(MISTAKES.items()):
        folders[mistake] = folder / f"mistake_{index}"
        folders[mistake].mkdir()
        (folders[mistake] / "file").touch()
        overrides = [override.format(tmp=folders[mistake]) for override in overrides]
        if mistake == OF_A_RUN:
            _, _, *arguments = of_run(finished[0], *overrides)
        else:
            _, _, *arguments = command(folder, folders[mistake] / "run", *overrides)
        commands.append(arguments)
    results = forked_program.run_all(commands, environment(devices=1))
    return {mistake: (folders[mistake], result) for mistake, result in zip(MISTAKES, results, strict=True)}


def assert_is_one_sentence(result, named):
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert named in line


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_2(mistakes, mistake):
    directory, result = mistakes[mistake]
    assert_is_one_sentence(result, MISTAKES[mistake][1])
    assert not (directory / "run" / "config.json").exists()


def test_a_device_that_is_not_there_gets_one_sentence_and_exit_2(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "bogus")
    assert_is_one_sentence(run(*command(folder, tmp_path / "run")), "JAX finds no device")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_value_that_cannot_work_is_refused_before_the_devices_are_asked(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "bogus")
    result = run(*command(folder, tmp_path / "run", "--config.eval.scales=(16,)"))
    assert_is_one_sentence(result, "config.eval.scales is (16,)")
    assert not result.stdout and not (tmp_path / "run").exists()


def test_a_config_file_that_is_not_there_gets_one_sentence_and_exit_2():
    result = run(sys.executable, "main.py", "--config=configs/nowhere.py")
    assert result.returncode == 2
    assert "configs/nowhere.py" in result.stderr and "Traceback" not in result.stderr


def test_a_flag_that_the_mode_does_not_read_is_refused(folder, finished):
    result = run(*command(folder, finished[0], "--images=photos", mode="eval"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: --images is given with --mode=eval, which does not read it")


def test_eval_mode_takes_scales_and_checkpoint_from_the_short_flags_too(folder, finished):
    workdir = folder / "copy"
    shutil.copytree(finished[0], workdir)
    result = run(*command(folder, workdir, "--multi_scale", "--checkpoint=best", mode="eval"))
    assert result.returncode == 0, result.stderr
    settings = json.loads((workdir / "eval.json").read_text())["settings"]
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert settings["step"] == checkpoints.best()
    assert settings["multi_scale"] and settings["flip"] and len(settings["scales"]) == 5
