"""Measures everything that only an accelerator can show, in order of importance and within a time limit.

    python benchmarks/accelerator.py --minutes=12 --out=DIR [--only=step,prior] [--data_dir=data] [--plan]
    python benchmarks/accelerator.py --tiny --out=DIR

The items, in this order:

- right: a training step and the affinity loss against the same on the CPU.
- step: training steps at ADE20K's settings against PyTorch.
- prior: the context prior with its loss against PyTorch.
- camvid: a whole training run, evaluated on val and test. Time is reserved for it: what no longer fits before it is
  done after it.
- forms: what each form of the step and each option of the compiler is worth.
- evaluation: the multi-scale evaluation against windows one by one.
- table: rows of the ablation on CamVid.

Each measurement runs in its own process. Its result is written at once, so nothing is lost if the machine goes away:
DIR/results.jsonl has a line for each, and DIR/table.md shows them. A failure does not stop the others. The same command
goes on where it stopped, and repeats what failed. A measurement is started only if its estimated time is left; --plan
prints these estimates, made for an H100, and measures nothing.

Everything else is in --work, by default DIR/work: the output of each measurement in logs, runs, and in cache the
compiled programs and the results of autotuning. A copy of cache saves a second machine of the same kind from compiling
again. --data_dir is a folder with CamVid's prepared records, or where to prepare them from
--source. --tiny takes every item in small sizes, to test this program without an accelerator.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ITEMS = ("right", "step", "prior", "camvid", "forms", "evaluation", "table")
DONE, FAILED, TIMED_OUT, LEFT_OUT = "done", "failed", "out of time", "left out"
# Seconds that a process has to end after its limit.
SECONDS_TO_END = 10
ABLATION_STEPS = 1500


@dataclass(frozen=True)
class Measurement:
    """A command whose last line of output is its result in JSON.

    Attributes:
      item: one of ITEMS.
      name: unique within the item.
      command: arguments of Python.
      minutes: estimate for an H100; it is started only if as much time is left.
      takes_all: whether it may take all the time that is left, which --minutes passes on.
    """

    item: str
    name: str
    command: list[str]
    minutes: float
    takes_all: bool = False

    @property
    def key(self) -> str:
        return f"{self.item}: {self.name}"


# --- what is measured -------------------------------------------------------------------------------------------------


def measurements(arguments: argparse.Namespace) -> list[Measurement]:
    chosen = _tiny(arguments) if arguments.tiny else _full(arguments)
    return [one for one in chosen if one.item in arguments.only]


def _full(arguments: argparse.Namespace) -> list[Measurement]:
    # Imported here: the ablation's table imports configs of the package.
    from benchmarks.step_forms import VARIANTS
    from configs.ablations import camvid

    step = ["benchmarks/train_step.py", "--config=configs/ade20k.py", "--crop=512", "--bfloat16", "--rounds=3"]
    prior = ["benchmarks/context_prior.py", "--rounds=1", "--bfloat16"]
    ways = "torch,compiled,dense,blocks,blocks:256,blocks:1024,blocks:2048,blocks:4096"
    table = ["benchmarks/ablation.py", "--table=camvid", f"--config.total_steps={ABLATION_STEPS}"]
    table += ["--config.eval_every=0", f"--config.checkpoint_every={ABLATION_STEPS}", *_camvid_fields(arguments)]
    return [
        Measurement("right", "step and prior", ["benchmarks/agreement.py"], 1.0),
        *(
            Measurement("step", f"R{depth}, batch {size}", [*step, f"--depth={depth}", f"--batch_size={size}"], minutes)
            for depth, size, minutes in ((50, 16, 2.5), (50, 8, 2.5), (101, 16, 3.5), (101, 8, 3.5))
        ),
        *(
            Measurement("prior", case, [*prior, f"--cases={case}", f"--ways={ways}"], 2.0)
            for case in ("4096x8", "9216x2")
        ),
        _camvid(arguments, minutes=4.5),
        *(
            Measurement("forms", variant, ["benchmarks/step_forms.py", f"--variant={variant}"], 1.0)
            for variant in VARIANTS
        ),
        Measurement("evaluation", "ADE20K's sizes", ["benchmarks/evaluation.py", "--rounds=1"], 3.0),
        *(
            Measurement(
                "table",
                f"{row}, seed {seed}",
                [*table, f"--rows={row}", f"--seeds={seed}", f"--out={arguments.work}/table"],
                2.0,
            )
            for seed in range(3)
            for row in camvid.ROWS
        ),
    ]


def _tiny(arguments: argparse.Namespace) -> list[Measurement]:
    """The same programs in sizes that two CPU cores take in two minutes."""
    small = ["--config=configs/quickstart.py", "--depth=18", "--crop=64", "--batch_size=2", "--rounds=1", "--steps=1"]
    fields = [*_camvid_fields(arguments), "--config.model.channels=16", "--config.model.aux_channels=8"]
    fields += ["--config.data.crop_size=(32,48)", "--config.batch_size=4", "--config.eval.pictures=1"]
    ablation = ["--table=camvid", "--rows=full", "--seeds=0", "--config.total_steps=2", "--config.eval_every=0"]
    evaluation = ["--networks=linear", "--images=1", "--crop=64", "--classes=5", "--rounds=1"]
    camvid = _camvid(arguments, minutes=2.0, fields=[*fields, "--steps=8", "--log_every=1"])
    prior = ["--cases=64x1", "--channels=16", "--rounds=1", "--ways=torch,dense,blocks,blocks:32", "--bfloat16"]
    return [
        Measurement("right", "step and prior", ["benchmarks/agreement.py", "--tiny"], 1.0),
        Measurement("step", "R18, batch 2", ["benchmarks/train_step.py", *small, "--peers=eager"], 1.0),
        Measurement("prior", "64x1", ["benchmarks/context_prior.py", *prior], 1.0),
        camvid,
        Measurement("forms", "default", ["benchmarks/step_forms.py", "--variant=default", *small, "--tiny"], 1.0),
        Measurement("evaluation", "linear", ["benchmarks/evaluation.py", *evaluation], 1.0),
        Measurement(
            "table",
            "full, seed 0",
            ["benchmarks/ablation.py", *ablation, *fields, f"--out={arguments.work}/table"],
            1.0,
        ),
    ]


def _camvid(arguments: argparse.Namespace, minutes: float, fields: Iterable[str] = ()) -> Measurement:
    command = ["benchmarks/camvid.py", f"--workdir={arguments.work}/camvid", *(fields or _camvid_fields(arguments))]
    return Measurement("camvid", "configs/camvid.py", command, minutes, takes_all=True)


def _camvid_fields(arguments: argparse.Namespace) -> list[str]:
    fields = {
        "data.dir": arguments.data_dir,
        "data.source": arguments.source,
        "system.compilation_cache": f"{arguments.work}/cache",
    }
    return [f"--config.{name}={value}" for name, value in fields.items() if value]


# --- running ----------------------------------------------------------------------------------------------------------


class Results:
    """The results in a folder, of this run and earlier ones: the last line of a measurement counts."""

    def __init__(self, out: Path) -> None:
        self._out = out
        file = out / "results.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        # A line that was cut off by the end of the machine is dropped.
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        self._by_key = {result["key"]: result for result in found}

    def is_done(self, measurement: Measurement) -> bool:
        return self._by_key.get(measurement.key, {}).get("status") == DONE

    def add(self, measurement: Measurement, status: str, **figures: Any) -> None:
        result = {"key": measurement.key, "item": measurement.item, "status": status, **figures}
        self._by_key[measurement.key] = result
        with (self._out / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())
        (self._out / "table.md").write_text(self.table())

    def table(self) -> str:
        lines = ["| measurement | status | seconds | result |", "|---|---|---:|---|"]
        for result in self._by_key.values():
            shown = _shown(result["item"], result["output"]) if "output" in result else result.get("reason", "")
            lines.append(f"| {result['key']} | {result['status']} | {result.get('seconds', 0):.0f} | {shown} |")
        return "\n".join([*lines, *_parts(self._by_key.get("forms: default", {}).get("output"))]) + "\n"


def _parts(step: dict[str, Any] | None) -> list[str]:
    """Lines of a table of the default step by part of the network, as planned and as measured; none if not measured."""
    if step is None:
        return []
    planned, measured = step["planned_parts"], step["measured_parts"]
    lines = ["", "| part of the default step | planned ms | measured ms |", "|---|---:|---:|"]
    for name in sorted(measured, key=measured.__getitem__, reverse=True):
        plan = f"{1e3 * planned[name]:.2f}" if planned else ""
        lines.append(f"| {name} | {plan} | {1e3 * measured[name]:.2f} |")
    plan = f"{1e3 * sum(planned.values()):.2f}" if planned else ""
    unprofiled = f"{1e3 * step['seconds']:.2f} ms without a profile"
    lines.append(f"| all ({unprofiled}) | {plan} | {1e3 * sum(measured.values()):.2f} |")
    return lines


def _shown(item: str, output: dict[str, Any]) -> str:
    """One line of a measurement's figures; all of them are in results.jsonl."""
    if item == "camvid":
        mious = ", ".join(f"{split} {100 * miou:.2f}" for split, miou in output["mIoU"].items())
        return f"mIoU % {mious}; {output['steps']} steps of {1e3 * output['step_seconds']:.1f} ms"
    if item == "forms":
        return f"{1e3 * output['seconds']:.1f} ms, {output['bytes'] / 1e9:.2f} GB"
    if item == "step":
        return "; ".join(
            f"{side} {figures['images_per_second']:.1f} images/s, {figures['bytes'] / 1e9:.1f} GB"
            for side, figures in output["results"].items()
        )
    if item == "right":
        return f"largest difference {max(found['values'] for found in output['results'].values()):.1e}"
    return ""


def run_all(chosen: list[Measurement], results: Results, arguments: argparse.Namespace) -> None:
    """Runs what is not done, as far as the time allows.

    In the first pass, time stays reserved for the measurements that may take all of it. The second pass does what did
    not fit beside them.
    """
    ends = time.monotonic() + 60 * arguments.minutes
    waiting = [one for one in chosen if not results.is_done(one)]
    for reserving in (True, False):
        for measurement in list(waiting):
            later = waiting[waiting.index(measurement) + 1 :] if reserving else []
            left = (ends - time.monotonic()) / 60 - sum(one.minutes for one in later if one.takes_all)
            if left >= measurement.minutes:
                run(measurement, left, results, arguments)
                waiting.remove(measurement)
    for measurement in waiting:
        results.add(measurement, LEFT_OUT, reason=f"needs about {measurement.minutes:.1f} minutes, which were not left")


def run(measurement: Measurement, minutes: float, results: Results, arguments: argparse.Namespace) -> None:
    """Runs a measurement, which is stopped after `minutes`, and records its result."""
    command = [sys.executable, *measurement.command]
    command += [f"--minutes={minutes}"] * measurement.takes_all
    log = arguments.work / "logs" / f"{measurement.key.replace(': ', '-').replace(' ', '_').replace('/', '_')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{measurement.key}: started, {minutes:.1f} minutes are left", flush=True)
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(arguments), stdout=file, stderr=file, start_new_session=True
        )
        status = _wait(process, began + 60 * minutes)
    seconds = time.monotonic() - began
    output = _last_json(log)
    if status == DONE and output is None:
        status = FAILED
    reason = {} if status == DONE else {"reason": f"see {log.name}: {_last_line(log)}"}
    results.add(measurement, status, seconds=seconds, **({"output": output} if output else {}), **reason)
    print(f"{measurement.key}: {status} after {seconds:.0f} s", flush=True)


def _wait(process: subprocess.Popen, ends: float) -> str:
    """Waits for a process until a time, then ends it with all that it has started."""
    try:
        return FAILED if process.wait(max(ends - time.monotonic(), 0)) else DONE
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sent)
                process.wait(SECONDS_TO_END)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    cache = arguments.work / "cache"
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "xla_gpu_per_fusion_autotune_cache_dir",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }


def _last_json(log: Path) -> dict[str, Any] | None:
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                return None
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")[:200].replace("|", "/")


# --- the command line -------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of logs, runs and compiled programs; default: DIR/work")
    parser.add_argument("--only", type=_items, default=",".join(ITEMS), help="items, separated by commas")
    parser.add_argument("--data_dir", default="data", help="folder of CamVid's prepared records")
    parser.add_argument("--source", default="", help="the raw CamVid, if it is not prepared")
    parser.add_argument("--plan", action="store_true", help="print the estimates and measure nothing")
    parser.add_argument("--tiny", action="store_true", help="every item in small sizes, on made images")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.work = (arguments.work or arguments.out / "work").resolve()
    return arguments


def _items(text: str) -> list[str]:
    items = text.split(",")
    if unknown := [item for item in items if item not in ITEMS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not an item: use {','.join(ITEMS)}")
    return items


def print_plan(chosen: list[Measurement], minutes: float) -> None:
    print("| measurement | minutes, estimated for an H100 | sum |\n|---|---:|---:|")
    total = 0.0
    for measurement in chosen:
        total += measurement.minutes
        most = " at least" if measurement.takes_all else ""
        print(f"| {measurement.key} | {measurement.minutes:.1f}{most} | {total:.1f} |")
    print(f"\nIn {minutes:g} minutes, camvid and whatever fits beside it are measured, in this order.")


def main() -> None:
    arguments = parse()
    sys.path += [str(ROOT), str(ROOT / "tests")]
    if arguments.plan:
        print_plan(measurements(arguments), arguments.minutes)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.tiny:
        import whole_program

        arguments.data_dir, arguments.source = arguments.work / "data", arguments.work / "raw" / "camvid"
        whole_program.write_camvid(arguments.source, test=3)
    results = Results(arguments.out)
    chosen = measurements(arguments)
    run_all(chosen, results, arguments)
    print(results.table())
    sys.exit(not all(results.is_done(one) for one in chosen))


if __name__ == "__main__":
    main()
