"""The runs of a table: their commands, configs and results."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from cpnet_jax.ablation.table import Table
from cpnet_jax.config import build, command_line
from cpnet_jax.config.check import check_config
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError, quoted, reason
from cpnet_jax.inference.settings import make_protocol
from cpnet_jax.runtime import files
from cpnet_jax.training.metrics import published

# File in the workdir of a finished run, with its config and figures.
RESULT = "ablation.json"


# The terms of the affinity loss that a result has.
PRIOR_TERMS = ("unary", "precision", "recall", "specificity")


class Result(NamedTuple):
    """The figures of a finished run.

    Attributes:
      miou, pixel_accuracy, per_class: those of eval.json, in [0, 1].
      parameters: their number in training, auxiliary head included.
      prior: the terms of the affinity loss in the last validation, by PRIOR_TERMS; None without a context prior.
    """

    miou: float
    pixel_accuracy: float
    per_class: dict[str, float | None]
    parameters: int
    prior: dict[str, float] | None


@dataclass(frozen=True)
class Run:
    """Training of one row with one seed. `arguments` are those of main.py, without --workdir."""

    row: str
    seed: int
    arguments: tuple[str, ...]
    workdir: Path

    @property
    def title(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.workdir / "log.txt"

    def command(self, main: Path) -> list[str]:
        return [sys.executable, str(main), *self.arguments, f"--workdir={self.workdir}"]


def make_runs(table: Table, config: str, seeds: Sequence[int], overrides: Sequence[str], out: Path) -> list[Run]:
    """Lists the runs of every row with every seed, all rows of a seed before the next seed.

    Args:
      table: the rows.
      config: path of the config that the rows change.
      seeds: values of config.seed.
      overrides: --config.FIELD=VALUE for all rows.
      out: folder of the runs' workdirs.
    """
    return [
        Run(
            row,
            seed,
            (f"--config={config}", *_as_flags(fields), *overrides, f"--config.seed={seed}"),
            out / row / f"seed_{seed}",
        )
        for seed in seeds
        for row, fields in table.rows.items()
    ]


def _as_flags(fields: Any) -> Iterable[str]:
    return (f"--config.{field}={_as_flag(value)}" for field, value in fields.items())


def _as_flag(value: Any) -> str:
    # Without spaces, tuples need no quotes in a shell. A string keeps its spaces.
    return value if isinstance(value, str) else str(value).replace(" ", "")


def load_config(run: Run) -> ml_collections.ConfigDict:
    """Loads and checks the config that main.py will use.

    Raises:
      UserError: if a field does not exist or its value cannot work; the message names the row.
    """
    values, argv = flags.FlagValues(), ["main.py", *run.arguments]
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        command_line.parse(argv, flag_values=values)
        check_config(config.value)
    except UserError as error:
        raise UserError(f"row {run.row}: {error}") from error
    return config.value


def read_result(run: Run, config: ml_collections.ConfigDict) -> Result | None:
    """Result of a finished run with this config, or None if it is missing or damaged."""
    try:
        found = files.parse_json((run.workdir / RESULT).read_bytes())
        return Result(**found["result"]) if found["config"] == as_dict(config) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the run is started again; if it was finished, main.py ends at once and eval.json is read


def save_result(run: Run, config: ml_collections.ConfigDict) -> Result:
    """Reads the result of a run that has just finished, and saves it for `read_result`.

    Raises:
      UserError: if eval.json is not of the last step, or its settings differ from config.eval, since main.py does not
        evaluate a finished run again.
    """
    path, described = run.workdir / "eval.json", run.workdir / "config.json"
    miou, pixel_accuracy, per_class, settings = _read(
        path, "write it again by --mode=eval", mIoU=object, pixel_accuracy=object, per_class=dict, settings=dict
    )
    [step] = _read(described, f"delete {run.workdir} to train again", total_steps=int)
    for name, wanted in _evaluation_settings(config, step).items():
        if (found := ({"windows": True} | settings).get(name)) != wanted:  # earlier versions had windows only
            raise UserError(
                f"{path} has {name} {found}, but this config needs {wanted}: evaluate the last step with this config "
                "by --mode=eval"
            )
    result = Result(
        miou,
        pixel_accuracy,
        per_class,
        parameters=count_parameters(config, classes=len(per_class)),
        prior=_prior_terms(run.workdir, step),
    )
    files.write_json(run.workdir / RESULT, {"config": as_dict(config), "result": result._asdict()})
    return result


def _prior_terms(workdir: Path, step: int) -> dict[str, float] | None:
    figures = published(workdir, step) or {}
    found = {term: figures.get(f"val_affinity_{term}") for term in PRIOR_TERMS}
    return {term: value for term, value in found.items() if value is not None} or None


def _read(path: Path, advice: str, **types: type) -> list[Any]:
    """Reads the entries of these names from a JSON object; raises UserError if one is missing or of another type."""
    try:
        found = files.parse_json(path.read_bytes())
        for name, kind in types.items():
            if not isinstance(found[name], kind):
                raise ValueError(f"{name} is {quoted(found[name])}")
        return [found[name] for name in types]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): {advice}") from error


def _evaluation_settings(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """Entries of eval.json's settings that its figures depend on."""
    protocol = make_protocol(config.eval.to_dict())
    return {
        "step": step,
        "split": config.data.eval_split or build.make_dataset(config).eval_split,
        "scales": list(protocol.scales),
        "flip": protocol.flip,
        "overlap": protocol.overlap,
        "windows": config.eval.windows,
    }


def count_parameters(config: ml_collections.ConfigDict, classes: int) -> int:
    """Number of parameters of the network, auxiliary head included; computes shapes only."""
    config = config.copy_and_resolve_references()
    config.data.num_classes = classes
    state = jax.eval_shape(build.make_create_state(config))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
