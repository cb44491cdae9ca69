"""benchmarks/ablation.py with a stand-in for main.py."""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import ablation
from cpnet_jax.ablation import devices, report, runs
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import exit_status

FAKE = Path(__file__).with_name("fake_main.py")
ROOT = Path(__file__).parents[2]
ROWS = ["none", "aux", "full"]


@pytest.fixture(autouse=True)
def fake_main(monkeypatch):
    monkeypatch.setattr(ablation, "MAIN", FAKE)
    monkeypatch.setattr(runs, "count_parameters", count_parameters)
    monkeypatch.chdir(ROOT)


COUNTED: dict[str, int] = {}


def count_parameters(config, classes, count=runs.count_parameters):
    """The counts of the few networks of these tests, each computed once."""
    network = json.dumps([as_dict(config)["model"], classes, list(config.data.crop_size)])
    if network not in COUNTED:
        COUNTED[network] = count(config, classes)
    return COUNTED[network]


def make(out, rows=ROWS, seeds=(0, 1), overrides=(), classes=(), prior=False):
    return ablation.Ablation(
        ablation.choose("scenes", rows),
        "configs/quickstart.py",
        list(seeds),
        overrides=["--config.total_steps=5", *overrides],
        classes=list(classes),
        prior=prior,
        out=out,
    )


def complete(out, jobs=1, **options):
    """Runs an ablation; returns it and its table.md."""
    made = make(out, **options)
    ablation.run(made, jobs)
    return made, made.write()


def calls(out):
    return [line.split() for line in (out / "calls.txt").read_text().splitlines()]


def without_folders(text, out):
    return text.replace(os.path.relpath(out), "OUT")


def test_every_row_is_run_with_its_fields_and_every_seed(tmp_path):
    made, _ = complete(tmp_path)
    assert Counter(row for row, *_ in calls(tmp_path)) == dict.fromkeys(ROWS, 2)
    figures = [result.miou for found in made.results.values() for result in found.values()]
    assert len(set(figures)) == 6, "every run has different arguments"
    commands = {run.row: run.arguments for run in made.runs if run.seed == 1}
    assert commands["aux"] == (
        "--config=configs/quickstart.py",
        "--config.model.context_prior=False",
        "--config.total_steps=5",
        "--config.seed=1",
    )


def test_finished_runs_are_not_run_again(tmp_path):
    _, first = complete(tmp_path)
    before = calls(tmp_path)
    _, second = complete(tmp_path)
    assert calls(tmp_path) == before
    assert second == first


def test_results_of_another_config_are_not_used(tmp_path):
    complete(tmp_path, seeds=[0])
    before = len(calls(tmp_path))
    assert not make(tmp_path, seeds=[0]).unfinished()
    assert len(make(tmp_path, seeds=[0], overrides=["--config.batch_size=4"]).unfinished()) == len(ROWS)
    assert [run.seed for run in make(tmp_path).unfinished()] == [1] * len(ROWS)
    assert len(calls(tmp_path)) == before


def test_a_damaged_result_is_replaced(tmp_path):
    """Also one with other fields, for example of an older version."""
    _, first = complete(tmp_path, rows=["aux"], seeds=[0])
    path = tmp_path / "aux" / "seed_0" / runs.RESULT
    other_fields = json.dumps(json.loads(path.read_text()) | {"result": {"miou": 1.0}})
    for damaged in ("", "{", "[]", '{"config": {}}', "[" * 10_000, other_fields):
        path.write_text(damaged)
        assert len(make(tmp_path, rows=["aux"], seeds=[0]).unfinished()) == 1
    assert complete(tmp_path, rows=["aux"], seeds=[0])[1] == first


def test_a_failed_run_is_reported_with_its_error_and_the_others_continue(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "aux")
    made, table = complete(tmp_path)
    said = capsys.readouterr().out
    sentence = f"exit status 1, config.model.depth is 7: it must be one of these): see {tmp_path}/aux/seed_1/log.txt"
    assert f"aux, seed 1 failed ({sentence}" in said
    assert made.failed == {"aux": [0, 1]}
    assert {row for row, found in made.results.items() if found} == {"none", "full"}
    [line] = [line for line in table.splitlines() if line.startswith("| `aux`")]
    assert line == "| `aux` | - | - | - | 0 of 2; **failed**: seed 0, 1 |"

    monkeypatch.delenv("FAIL")
    made, table = complete(tmp_path)
    assert not made.failed and "**failed**" not in table
    assert Counter(row for row, *_ in calls(tmp_path)) == {"none": 2, "full": 2, "aux": 4}


def test_a_run_that_the_kernel_killed_is_said_to_lack_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KILLED", "aux")
    complete(tmp_path, rows=["aux"], seeds=[0])
    assert "aux, seed 0 failed (it was killed, most likely out of memory: give fewer --jobs" in capsys.readouterr().out


def test_an_evaluation_with_other_settings_is_refused(tmp_path):
    made = make(tmp_path, rows=["full"], seeds=[0])
    ablation.run(made, 1)
    [run] = made.runs
    evaluation = json.loads((run.workdir / "eval.json").read_text())
    others = {"step": 4, "split": "test", "scales": [1.0, 0.5], "flip": True, "overlap": "average", "windows": False}
    for name, value in others.items():
        other = evaluation | {"settings": evaluation["settings"] | {name: value}}
        (run.workdir / "eval.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match=f"has {name} {re.escape(str(value))}, but this config needs"):
            runs.save_result(run, made.configs[run])
    other_types = '{"per_class": 7, "settings": [], "total_steps": "x"}'
    for name in ("eval.json", "config.json"):
        whole = (run.workdir / name).read_text()
        for damaged in ("", "[]", "{}", "7" * 5000, "[" * 10_000, other_types):
            (run.workdir / name).write_text(damaged)
            with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): (write it again|delete .* to train)"):
                runs.save_result(run, made.configs[run])
        (run.workdir / name).write_text(whole)
    (run.workdir / "eval.json").unlink()
    with pytest.raises(UserError, match=r"eval\.json cannot be read"):
        runs.save_result(run, made.configs[run])


PROGRAM = f"""
import sys
from pathlib import Path
from benchmarks import ablation
from cpnet_jax.runtime import exit_status
ablation.MAIN = Path({str(FAKE)!r})
exit_status.run(ablation.main)
"""


def program(out, *arguments):
    table = ["--table=scenes", f"--rows={','.join(ROWS)}", "--seeds=0,1", "--config.total_steps=5"]
    return [sys.executable, "-c", PROGRAM, *table, f"--out={out}", *arguments]


def test_an_interrupted_and_resumed_table_is_the_same(tmp_path):
    """SIGTERM arrives while one run is active and another has finished: the active one saves and stops."""
    out, straight = tmp_path / "interrupted", tmp_path / "straight"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WAIT": "aux"}
    process = subprocess.Popen(program(out), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (out / "aux" / "seed_0" / "waiting").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 75, said
    assert "run the same command to continue" in said and "Traceback" not in said
    assert [row for row, *_ in calls(out)] == ["none", "aux"]

    environment.pop("WAIT")
    result = subprocess.run(program(out), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    _, expected = complete(straight)
    assert without_folders((out / "table.md").read_text(), out) == without_folders(expected, straight)
    assert [row for row, *_ in calls(out)] == ["none", "aux", "aux", "full", *ROWS]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["table"] == "scenes" and list(found["rows"]) == ROWS
    assert found["rows"]["full"]["seeds"] == [0, 1]


def test_a_second_interrupt_stops_at_once(tmp_path):
    """The active run gets SIGINT, as from a terminal, and no traceback is shown."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WAIT": "none", "DEAF": "1"}
    process = subprocess.Popen(
        # If the tests run in the background, they and their children ignore SIGINT.
        ["env", "--default-signal=INT", *program(tmp_path)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    waiting = tmp_path / "none" / "seed_0"
    for happened in ("waiting", "asked"):
        deadline = time.monotonic() + 600
        while not (waiting / happened).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 130, said
    assert (
        said.splitlines()[-1] == "Stopped without saving: run the same command to continue." and "Traceback" not in said
    )
    assert (waiting / "ended").exists()


def test_a_failed_run_exits_with_1_and_a_mistake_with_2(tmp_path, monkeypatch):
    for name, value in {"FAIL": "aux", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    failed = subprocess.run(program(tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 1 and "aux, seed 0 failed" in failed.stdout
    mistake = subprocess.run(program(tmp_path, "--config.model.dept=18"), cwd=ROOT, capture_output=True, text=True)
    assert mistake.returncode == 2
    assert mistake.stderr.splitlines()[-1].startswith("error: row none: config.model.dept does not exist")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--out={file}", "error: --out is {file}, which is not writable (File exists): name another folder"),
        ("--out=gs://bucket/table", "error: --out is gs://bucket/table: name a folder on a local disk"),
        ("--seeds=0,b", "ablation.py: error: argument --seeds: '0,b' is not a list of whole numbers such as 0,1,2"),
        ("--jobs=0", "ablation.py: error: --jobs must be at least 1"),
    ],
)
def test_a_mistake_in_an_argument_is_reported_in_one_line(tmp_path, monkeypatch, capsys, argument, said):
    (tmp_path / "file").touch()
    argument, said = (text.format(file=tmp_path / "file") for text in (argument, said))
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--table=scenes", argument])
    with pytest.raises(SystemExit) as ended:
        exit_status.run(ablation.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": ["non"]}, "--rows has 'non': the rows of scenes are none, aux"),
        ({"classes": ["cloud"]}, "--classes has 'cloud': the classes are sky, sea"),
        ({"overrides": ["--config.model.depth=7"]}, "row none: config.model.depth is 7"),
        ({"overrides": ["--config.seed=7"]}, "config.seed is given twice"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_run(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        make(tmp_path, **options)
    assert not list(tmp_path.iterdir())


# Simultaneous runs


@pytest.fixture
def machine(monkeypatch):
    """Sets the devices that JAX finds."""

    def has(platform, count):
        monkeypatch.setattr(devices, "_count_devices", lambda: (platform, count))

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return has


def test_simultaneous_runs_have_the_same_results_and_a_gpu_each(tmp_path, machine):
    machine("gpu", 2)
    _, alone = complete(tmp_path / "alone")
    _, spread = complete(tmp_path / "spread", jobs=2)
    assert without_folders(spread, tmp_path / "spread") == without_folders(alone, tmp_path / "alone")
    assert {tuple(rest) for _, _, *rest in calls(tmp_path / "alone")} == {()}, "a single run has all devices"
    assert {tuple(rest) for _, _, *rest in calls(tmp_path / "spread")} == {("0",), ("1",)}


def test_every_simultaneous_run_gets_its_own_device(monkeypatch, machine):
    assert devices.places(1) == [devices.Place()]
    machine("tpu", 4)
    chips = [place.environment["TPU_VISIBLE_CHIPS"] for place in devices.places(4)]
    assert chips == ["0", "1", "2", "3"]
    machine("gpu", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in devices.places(2)] == ["5", "3"]
    with pytest.raises(UserError, match=r"--jobs is 3, but JAX finds 2 GPU\(s\) here: use at most 2"):
        devices.places(3)


def test_runs_on_the_cpu_share_its_cores(monkeypatch, machine):
    machine("cpu", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 4, 5, 8, 9})
    assert [place.cores for place in devices.places(2)] == [{3, 4}, {5, 8}]
    assert devices.places(6) == [devices.Place()] * 6, "more runs than cores"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert devices.places(2) == [devices.Place()] * 2, "not every system can limit a process"


def test_a_run_is_limited_to_its_cores(tmp_path, monkeypatch, machine):
    machine("cpu", 1)
    limited = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: limited.append(set(cores)))
    complete(tmp_path, jobs=2)
    assert {0} in limited and {1} in limited


def test_the_devices_are_those_that_jax_finds():
    assert devices._count_devices() == ("cpu", 1)


# The Markdown


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_line_has_mean_and_sample_standard_deviation(tmp_path):
    made, text = complete(tmp_path, seeds=[0, 1, 2], classes=["sea"])
    lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {6}
    assert lines[0] == ["row", "mIoU %", "pixel accuracy %", "parameters (M)", "seeds", "sea"]
    for row, line in zip(ROWS, lines[2:], strict=True):
        percent = [100 * result.miou for result in made.results[row].values()]
        mean, spread = statistics.mean(percent), statistics.stdev(percent)
        assert line[:2] == [f"`{row}`", f"{mean:.2f} ± {spread:.2f}"]
        assert line[4:] == ["3 of 3", f"{mean / 2:.2f} ± {spread / 2:.2f}"]
    parameters = [float(line[3]) for line in lines[2:]]
    assert parameters == sorted(parameters) and len(set(parameters)) == 3
    assert "5 steps of 8, single scale, seeds 0, 1, 2" in text


def test_the_figures_of_the_context_prior_have_columns(tmp_path):
    """The cross entropy itself, and exp(-loss) of the other terms in %; dashes for a network without a prior."""
    made, text = complete(tmp_path, rows=["none", "full"], seeds=[0, 1], prior=True)
    heads, _, none, full = (cells(line) for line in text.splitlines() if line.startswith("|"))
    assert heads[-4:] == ["prior's cross entropy", "precision %", "recall %", "specificity %"]
    assert none[-4:] == ["-"] * 4
    losses = [result.miou for result in made.results["full"].values()]
    assert full[-4] == f"{statistics.mean(losses):.2f} ± {statistics.stdev(losses):.2f}"
    shares = [100 * math.exp(-loss) for loss in losses]
    assert full[-3:] == [f"{statistics.mean(shares):.2f} ± {statistics.stdev(shares):.2f}"] * 3


def test_the_table_can_be_computed_from_the_json(tmp_path):
    made, text = complete(tmp_path, rows=["none", "full"], seeds=[0, 1], classes=["sea"], prior=True)
    rows = json.loads(report.as_json(made.table, made.config, made.results))["rows"]
    for line in text.splitlines():
        if line.startswith("| `"):
            name, miou, accuracy, _, _, sea, *prior = cells(line)
            row = rows[name.strip("`")]
            assert miou == report.mean_and_spread(row["mIoU"])
            assert accuracy == report.mean_and_spread(row["pixel_accuracy"])
            assert sea == report.mean_and_spread([found["sea"] for found in row["per_class"]])
            figures = [found for found in row["prior"] if found]
            expected = [
                report.mean_and_spread(
                    [found[figure] for found in figures], factor=1 if figure == "cross_entropy" else 100
                )
                for figure in ("cross_entropy", "precision", "recall", "specificity")
            ]
            assert prior == expected


def test_one_seed_has_no_deviation_and_a_row_without_results_has_dashes(tmp_path):
    assert report.mean_and_spread([0.5]) == "50.00"
    line = next(line for line in make(tmp_path).write().splitlines() if line.startswith("| `aux`"))
    assert cells(line) == ["`aux`", "-", "-", "-", "0 of 2"]


def test_the_printed_command_of_a_row_runs_it(tmp_path):
    _, text = complete(tmp_path / "a folder", seeds=[0])
    commands = text.split("```")[1].strip().splitlines()
    assert commands[::2] == [f"# {row}" for row in ROWS]
    before = (tmp_path / "a folder/aux/seed_0/eval.json").read_text()
    (tmp_path / "a folder/aux/seed_0/eval.json").unlink()
    subprocess.run(commands[3].replace("python ", f"{sys.executable} ", 1), shell=True, check=True, cwd=ROOT)
    assert (tmp_path / "a folder/aux/seed_0/eval.json").read_text() == before


def test_published_figures_have_a_column(tmp_path):
    chosen = ablation.choose("paper", ["full", "kernel_3"])
    made = ablation.Ablation(chosen, "configs/ade20k.py", [0], overrides=[], classes=[], out=tmp_path)
    lines = [cells(line) for line in made.write().splitlines() if line.startswith("|")]
    assert lines[0][-1] == "published mIoU %"
    assert [line[-1] for line in lines[2:]] == ["43.92", ""]
