"""Runs an ablation: trains every row of a table with several seeds and tabulates the results.

    python benchmarks/ablation.py --table=scenes [--config=configs/quickstart.py] [--rows=aux,full] [--seeds=0,1,2]
        [--out=runs/ablation/scenes] [--jobs=1] [--classes=sea,sand,bed,table] [--prior] [--config.FIELD=VALUE ...]

A table is a file in configs/ablations/: a base config, and rows of fields that differ from it. Each run is a run of
main.py in the workdir OUT/ROW/seed_SEED, which also has its log. After an interruption the same command continues;
finished runs are not repeated. --jobs=4 does four runs at a time, each on its own GPU or TPU chip; on CPUs each
gets a share of the cores, which is faster than one run after the other. --config.FIELD=VALUE applies to all rows.

OUT/table.md has a line per row and the commands. It is updated after each run, and printed at the end with one JSON
line. If a run fails, the others continue and the exit status is 1.
"""

import argparse
import dataclasses
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

import jax
import ml_collections

from cpnet_jax.ablation import devices, launch, report, runs, table
from cpnet_jax.config import build
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import exit_status, files
from cpnet_jax.runtime.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "main.py"


class Ablation:
    """The runs of a table and their results.

    Args:
      chosen: the table.
      config: path of the config that the rows change.
      seeds: of each row.
      overrides: --config.FIELD=VALUE for all rows.
      classes: whose IoU gets a column.
      prior: whether the context prior's figures get columns.
      out: folder of the runs' workdirs and of table.md.

    Raises:
      UserError: if a row's config cannot work, or a class does not exist.
    """

    def __init__(
        self,
        chosen: table.Table,
        config: str,
        seeds: list[int],
        *,
        overrides: list[str],
        classes: list[str],
        prior: bool = False,
        out: Path,
    ) -> None:
        self.table, self.config, self.seeds, self.out = chosen, config, seeds, out
        self.classes, self.prior = classes, prior
        self.runs = runs.make_runs(chosen, config, seeds, overrides, out)
        self.configs = {run: runs.load_config(run) for run in self.runs}
        known = build.make_dataset(self.configs[self.runs[0]]).classes
        if unknown := [name for name in classes if name not in known]:
            raise UserError(f"--classes has {unknown[0]!r}: the classes are {', '.join(known)}")
        self.results: dict[str, dict[int, runs.Result]] = defaultdict(dict)
        self.failed: dict[str, list[int]] = defaultdict(list)
        for run in self.runs:
            if result := runs.read_result(run, self.configs[run]):
                self.results[run.row][run.seed] = result

    def unfinished(self) -> list[runs.Run]:
        return [run for run in self.runs if run.seed not in self.results[run.row]]

    def finish(self, run: runs.Run, status: int) -> str:
        """Records a run that ended with this exit status and writes the table; returns a line to print."""
        try:
            if status:
                raise UserError(launch.failure(run, status))
            result = runs.save_result(run, self.configs[run])
            self.results[run.row][run.seed] = result
            line = f"{run.title}: mIoU {100 * result.miou:.2f} %"
        except UserError as error:
            self.failed[run.row].append(run.seed)
            line = f"{run.title} failed ({error}): see {run.log}"
        self.write()
        return line

    def write(self) -> str:
        """Writes table.md; returns its text."""
        text = report.markdown(
            self.table,
            self.runs,
            self.results,
            self.failed,
            settings=f"`{self.config}`, {_settings(self.configs[self.runs[0]])}, seeds {_listed(self.seeds)}.",
            classes=self.classes,
            prior=self.prior,
            main=MAIN,
        )
        files.write_text(self.out / "table.md", text)
        return text


def _settings(config: ml_collections.ConfigDict) -> str:
    length = f"{config.total_epochs:g} epochs" if config.total_epochs else f"{config.total_steps} steps"
    scales = "several scales" if config.eval.multi_scale else "single scale"
    return f"{length} of {config.batch_size}, {scales}"


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def run(ablation: Ablation, jobs: int) -> None:
    """Runs everything that is not finished."""
    todo = ablation.unfinished()
    if not todo:
        return
    places = devices.places(jobs)
    done = len(ablation.runs) - len(todo)
    with Progress(len(ablation.runs), "Ablation", initial=done, unit="run") as progress:

        def on_end(run: runs.Run, status: int) -> None:
            progress.say(ablation.finish(run, status))
            progress.advance()

        launch.run_all(
            todo,
            places,
            MAIN,
            on_start=lambda run: progress.say(f"{run.title}: started, log in {run.log}"),
            on_end=on_end,
        )


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Parses the arguments; returns them and the overrides of the config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--table", required=True, help="name of a file in configs/ablations/, without .py")
    parser.add_argument("--config", help="config file; default: the table's")
    parser.add_argument("--rows", type=_words, default=[], help="only these rows, separated by commas")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="separated by commas")
    parser.add_argument("--out", help="folder; default: runs/ablation/TABLE")
    parser.add_argument("--jobs", type=int, default=1, help="number of simultaneous runs")
    parser.add_argument("--classes", type=_words, default=[], help="classes whose IoU gets a column")
    parser.add_argument("--prior", action="store_true", help="columns on how well the context prior knows the affinity")
    arguments, overrides = parser.parse_known_args()
    if strange := [one for one in overrides if not one.startswith("--config.") or "=" not in one]:
        parser.error(f"unknown argument {strange[0]!r}: set fields of the config by --config.FIELD=VALUE")
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    return arguments, overrides


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(text.split(",")))


def _numbers(text: str) -> list[int]:
    words = _words(text)
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1,2")
    return [int(word) for word in words]


def choose(name: str, rows: list[str]) -> table.Table:
    chosen = table.load(name, ROOT / "configs" / "ablations")
    if unknown := [row for row in rows if row not in chosen.rows]:
        raise UserError(f"--rows has {unknown[0]!r}: the rows of {name} are {', '.join(chosen.rows)}")
    return dataclasses.replace(chosen, rows={row: chosen.rows[row] for row in rows or chosen.rows})


def _folder(name: str) -> Path:
    """Creates the folder of --out."""
    if files.is_remote(name):
        raise UserError(f"--out is {name}: name a folder on a local disk, since logs are written line by line")
    path = files.as_path(name)
    files.make_folder(path, "--out")
    return path


def main() -> None:
    """Runs the program; exits with 130 on a second Ctrl-C, or on the first one if no run is active."""
    try:
        compare()
    except KeyboardInterrupt:
        print("Stopped without saving: run the same command to continue.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def compare() -> None:
    arguments, overrides = parse()
    sys.path.append(str(ROOT))  # the configs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # This process only counts parameters; the runs need the devices.
    jax.config.update("jax_platforms", "cpu")
    chosen = choose(arguments.table, arguments.rows)
    ablation = Ablation(
        chosen,
        arguments.config or os.path.relpath(ROOT / chosen.config),
        arguments.seeds,
        overrides=overrides,
        classes=arguments.classes,
        prior=arguments.prior,
        out=_folder(arguments.out or f"runs/ablation/{chosen.name}"),
    )
    run(ablation, arguments.jobs)
    print(ablation.write())
    print(report.as_json(ablation.table, ablation.config, ablation.results))
    sys.exit(1 if any(ablation.failed.values()) else 0)


if __name__ == "__main__":
    exit_status.run(main)
