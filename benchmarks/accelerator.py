"""Measures everything that only an accelerator can show, in order of importance and within a time limit.

    python benchmarks/accelerator.py --minutes=12 --out=DIR [--only=step,prior] [--data_dir=data] [--plan]
    python benchmarks/accelerator.py --tiny --out=DIR

The items:

- right: a training step and the affinity loss against the same on the CPU.
- step: training steps at ADE20K's settings against PyTorch.
- prior: the context prior with its loss against PyTorch.
- camvid: a whole training run, evaluated on val and test. Time is reserved for it: what no longer fits before it is
  done after it.
- forms: what each form of the step and each option of the compiler is worth.
- evaluation: the multi-scale evaluation against windows one by one.
- table: rows of the ablation on CamVid.

The most important measurements of right, step and prior come first, then camvid, which takes the time that is left. All
others are for further calls.

Each measurement runs in its own process. Its result is written at once, so nothing is lost if the machine goes away:
DIR/results.jsonl has a line for each, and DIR/table.md shows them. A failure does not stop the others. The same command
goes on where it stopped, and repeats what failed. A measurement is started only if its estimated time is left; --plan
prints the schedule by these estimates, made for an H100, and measures nothing.

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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ITEMS = ("right", "step", "prior", "camvid", "forms", "evaluation", "table")
DONE, FAILED, TIMED_OUT, LEFT_OUT = "done", "failed", "out of time", "left out"
# Seconds that a process has to end after its limit.
SECONDS_TO_END = 10
ABLATION_STEPS = 1500
# Positions x images of the context prior.
PRIORS = ("4096x8", "9216x2")

# Minutes on an H100 beside 16 CPU cores; estimated, not measured. They are sums of:
# - 0.2 for a process that imports JAX or PyTorch and takes the device.
# - 1.0 to compile a ResNet-50's step, 1.7 for a ResNet-101's, 0.4 for a ResNet-18's. Two CPU cores take 0.6 for the
#   first without autotuning (measured); autotuning is guessed.
# - 1.3 for torch.compile of a ResNet-50's step, 2.0 of a ResNet-101's, 0.2 of the context prior alone (guessed).
# - Steps at 1.7 times the planned time (docs/performance.md#gpus), a factor for what the plan leaves out.
# A process, two initialisations on the CPU, and the compilations of 16 small programs side by side.
RIGHT = 1.3
# By depth: initialisation and step of cpnet_jax, PyTorch, compiled PyTorch: four processes, 15 steps each.
STEP = {50: 3.3, 101: 4.7}
# Four processes, each with one small program.
PRIOR = 1.2
# Training: a process, its step, and 2.3 minutes of steps (13.4 planned ms each); evaluation: two after the other.
CAMVID = 4.5
# A process, its step, some steps, and a profile of them.
FORM = 1.5
# Two networks in three ways. Adding up windows on the host dominates: 0.1 s each for 150 classes, 50 windows an image.
EVALUATION = 2.5
# The ablation's own process, training, 1,500 steps, and the evaluation on val.
TABLE_ROW = 2.0


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

    return [
        Measurement("right", "step and prior", ["benchmarks/agreement.py"], RIGHT),
        _step(depth=50, size=16),
        *(_prior(case, case, "torch,compiled,dense,blocks") for case in PRIORS),
        _camvid(arguments, minutes=CAMVID),
        *(_step(depth=depth, size=size) for depth, size in ((50, 8), (101, 16), (101, 8))),
        *(
            _prior(case, f"{case}, rows of a block", "blocks:256,blocks:1024,blocks:2048,blocks:4096")
            for case in PRIORS
        ),
        *(
            Measurement("forms", variant, ["benchmarks/step_forms.py", f"--variant={variant}"], FORM)
            for variant in VARIANTS
        ),
        Measurement(
            "evaluation", "ADE20K's sizes", ["benchmarks/evaluation.py", "--rounds=1", "--images=4"], EVALUATION
        ),
        *(_table_row(arguments, row, seed) for seed in range(3) for row in camvid.ROWS),
    ]


def _step(*, depth: int, size: int) -> Measurement:
    command = ["benchmarks/train_step.py", "--config=configs/ade20k.py", "--crop=512", "--bfloat16", "--rounds=3"]
    command += [f"--depth={depth}", f"--batch_size={size}"]
    return Measurement("step", f"R{depth}, batch {size}", command, STEP[depth])


def _prior(case: str, name: str, ways: str) -> Measurement:
    command = ["benchmarks/context_prior.py", "--rounds=1", "--bfloat16", f"--cases={case}", f"--ways={ways}"]
    return Measurement("prior", name, command, PRIOR)


def _table_row(arguments: argparse.Namespace, row: str, seed: int) -> Measurement:
    command = ["benchmarks/ablation.py", "--table=camvid", f"--rows={row}", f"--seeds={seed}"]
    command += [f"--out={arguments.work}/table", f"--config.total_steps={ABLATION_STEPS}", "--config.eval_every=0"]
    command += [f"--config.checkpoint_every={ABLATION_STEPS}", *_camvid_fields(arguments)]
    return Measurement("table", f"{row}, seed {seed}", command, TABLE_ROW)


def _tiny(arguments: argparse.Namespace) -> list[Measurement]:
    """The same programs in sizes that two CPU cores take in a few minutes."""
    small = ["--config=configs/quickstart.py", "--depth=18", "--crop=64", "--batch_size=2", "--rounds=1", "--steps=1"]
    fields = [*_camvid_fields(arguments), "--config.model.channels=16", "--config.model.aux_channels=8"]
    fields += ["--config.model.bfloat16=False"]
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
        return _time_and_memory(output["seconds"], output["bytes"])
    if item == "step":
        return "; ".join(
            f"{side} {figures['images_per_second']:.1f} images/s, {figures['bytes'] / 1e9:.1f} GB"
            for side, figures in output["results"].items()
        )
    if item == "prior":
        [ways] = output["results"].values()
        return "; ".join(
            # A text is the reason why there are no figures.
            f"{way} {found if isinstance(found, str) else _time_and_memory(found['wall'], found['bytes'])}"
            for way, found in ways.items()
        )
    if item == "evaluation":
        return "; ".join(
            f"{network}, {way}: {figures['images/s']:.1f} images/s"
            for network in output["networks"].split(",")
            for way, figures in output[network].items()
        )
    if item == "right":
        return f"largest difference {max(found['values'] for found in output['results'].values()):.1e}"
    return ""


def _time_and_memory(seconds: float, size: float) -> str:
    return f"{1e3 * seconds:.1f} ms, {size / 1e9:.2f} GB"


def schedule(waiting: list[Measurement], left: Callable[[], float]) -> Iterator[tuple[Measurement, float]]:
    """Yields what to run next, and the minutes it may take; removes it from `waiting`, where the rest stays.

    In the first pass, time stays reserved for the measurements that may take all of it. The second pass yields what did
    not fit beside them.

    Args:
      left: returns the minutes that are left for everything.
    """
    for reserving in (True, False):
        for measurement in list(waiting):
            later = waiting[waiting.index(measurement) + 1 :] if reserving else []
            minutes = left() - sum(one.minutes for one in later if one.takes_all)
            if minutes >= measurement.minutes:
                waiting.remove(measurement)
                yield measurement, minutes


def run_all(chosen: list[Measurement], results: Results, arguments: argparse.Namespace) -> None:
    """Runs what is not done, as far as the time allows."""
    ends = time.monotonic() + 60 * arguments.minutes
    waiting = [one for one in chosen if not results.is_done(one)]
    for measurement, minutes in schedule(waiting, lambda: (ends - time.monotonic()) / 60):
        run(measurement, minutes, results, arguments)
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
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "xla_gpu_per_fusion_autotune_cache_dir",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }
    if arguments.tiny:
        # In small sizes, optimising programs takes longer than it saves.
        variables["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    return os.environ | variables


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
    """Prints a table of what fits into the time if the estimates are right, and of the rest."""
    print("| measurement | minutes, estimated for an H100 | ends after |\n|---|---:|---:|")
    waiting, taken = list(chosen), [0.0]
    for measurement, most in schedule(waiting, lambda: minutes - sum(taken)):
        taken.append(most if measurement.takes_all else measurement.minutes)
        print(f"| {measurement.key} | {taken[-1]:.1f} | {sum(taken):.1f} |")
    for measurement in waiting:
        print(f"| {measurement.key} | {measurement.minutes:.1f} | another call |")


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
