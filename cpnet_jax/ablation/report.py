"""Formats the results of a table as Markdown and JSON."""

import json
import math
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpnet_jax.ablation.runs import Result, Run
from cpnet_jax.ablation.table import Table

# By row and seed; missing entries have not been run.
Results = Mapping[str, Mapping[int, Result]]
SHARES = ("precision", "recall", "specificity")
PRIOR_HEADS = ("prior's cross entropy", "precision %", "recall %", "specificity %")
PRIOR_NOTE = (
    "The last four columns are about the context prior on the evaluation's windows: the mean binary cross entropy, and "
    "the geometric means over positions of precision, recall and specificity, without rows in which one of them is 0."
)


def markdown(
    table: Table,
    runs: Sequence[Run],
    results: Results,
    failed: Mapping[str, Sequence[int]],
    *,
    settings: str,
    classes: Sequence[str] = (),
    prior: bool = False,
    main: Path,
) -> str:
    """Formats the table, followed by the command of each row.

    Args:
      table: its rows and published figures.
      runs: of all rows and seeds.
      results: of the finished runs.
      failed: seeds of the failed runs, by row.
      settings: a sentence on what all rows have in common.
      classes: whose IoU gets a column.
      prior: whether the context prior's cross entropy, precision, recall and specificity get columns.
      main: path of main.py.
    """
    published = ["published mIoU %"] if table.published else []
    heads = ["row", "mIoU %", "pixel accuracy %", "parameters (M)", "seeds", *published, *classes, *PRIOR_HEADS * prior]
    lines = [f"# Ablation: {table.name}", "", settings, "", _line(heads), "|---" * len(heads) + "|"]
    for row in table.rows:
        found = _in_order(results, row)
        cells = [f"`{row}`", *_figures(found), _seeds(row, runs, results, failed)]
        if table.published:
            cells.append(f"{table.published[row]:.2f}" if row in table.published else "")
        cells += [_iou(found, name) for name in classes]
        lines.append(_line([*cells, *(_prior_figures(found) if prior else [])]))
    lines += ["", "Mean ± sample standard deviation over the seeds."]
    lines += [PRIOR_NOTE] if prior else []
    lines += ["The first run of each row:", "", "```"]
    first = {run.row: run for run in reversed(runs)}
    lines += [f"# {row}\n{_command(first[row], main)}" for row in table.rows]
    return "\n".join([*lines, "```", ""])


def as_json(table: Table, config: str, results: Results) -> str:
    """Results as one line of JSON, in the order of `seeds`. Shares are in [0, 1]; the cross entropy is in nats."""
    rows = {
        row: {
            "seeds": sorted(results[row]),
            "mIoU": [result.miou for result in found],
            "pixel_accuracy": [result.pixel_accuracy for result in found],
            "per_class": [result.per_class for result in found],
            "parameters": found[0].parameters,
            "prior": [_prior(result) for result in found],
        }
        for row in table.rows
        if (found := _in_order(results, row))
    }
    return json.dumps({"table": table.name, "config": config, "rows": rows})


def mean_and_spread(shares: Sequence[float], factor: int = 100) -> str:
    """Mean in %, with ± sample standard deviation if there are several values; a dash without any.

    Args:
      shares: the values.
      factor: that they are multiplied by.
    """
    values = [factor * share for share in shares]
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _in_order(results: Results, row: str) -> list[Result]:
    return [result for _, result in sorted(results.get(row, {}).items())]


def _figures(found: Sequence[Result]) -> list[str]:
    miou = mean_and_spread([result.miou for result in found])
    accuracy = mean_and_spread([result.pixel_accuracy for result in found])
    return [miou, accuracy, f"{found[0].parameters / 1e6:.2f}" if found else "-"]


def _iou(found: Sequence[Result], name: str) -> str:
    # The IoU of a class that neither occurs nor is predicted is None.
    shares = [result.per_class[name] for result in found]
    return mean_and_spread([share for share in shares if share is not None])


def _prior_figures(found: Sequence[Result]) -> list[str]:
    figures = [prior for result in found if (prior := _prior(result))]
    return [
        mean_and_spread([each["cross_entropy"] for each in figures], factor=1),
        *(mean_and_spread([each[name] for each in figures]) for name in SHARES),
    ]


def _prior(result: Result) -> dict[str, float] | None:
    """The prior's cross entropy and its shares; a share's term of the loss is its negative logarithm."""
    if not result.prior:
        return None
    return {"cross_entropy": result.prior["unary"]} | {name: math.exp(-result.prior[name]) for name in SHARES}


def _seeds(row: str, runs: Sequence[Run], results: Results, failed: Mapping[str, Sequence[int]]) -> str:
    seeds = [run.seed for run in runs if run.row == row]
    finished = f"{len(results.get(row, {}))} of {len(seeds)}"
    lost = ", ".join(map(str, failed.get(row, ())))
    return f"{finished}; **failed**: seed {lost}" if lost else finished


def _command(run: Run, main: Path) -> str:
    program = [os.path.relpath(main), *run.arguments, f"--workdir={os.path.relpath(run.workdir)}"]
    return shlex.join(["python", *program])


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"
