"""A run with a damaged record, a worker process and a trace."""

import gzip
import json
import shutil

import pytest
from whole_program import command, of_run, read_metrics, run

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import CAMVID


def flip_a_byte(data, split, record):
    """Within that record, in the file that holds the split."""
    [path] = data.rglob(f"*-{split}.array_record*")
    content = bytearray(path.read_bytes())
    # The name is near the middle of the record; what is around it belongs to the same chunk.
    content[content.index(record.encode()) + 40] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture(scope="module")
def watched(folder):
    """Five steps with a damaged record that is skipped, a worker process and a trace of the second and third step."""
    data, workdir = folder / "damaged", folder / "watched"
    builders.prepare(CAMVID, folder / "data", folder / "camvid")
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


def test_an_evaluation_stops_at_a_damaged_record(folder, watched):
    data = folder / "damaged_val"
    shutil.copytree(folder / "data", data)
    flip_a_byte(data, "val", "val_1")
    overrides = (f"--config.data.dir={data}", "--config.data.on_error=skip")
    result = run(*of_run(watched[0], "--mode=eval", *overrides))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "cannot be read" in result.stderr
