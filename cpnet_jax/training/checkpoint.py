"""Checkpoints: state, data position and config, written as one atomic unit. The only module that uses Orbax."""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from cpnet_jax.errors import Stopped, UserError, WriteFailed
from cpnet_jax.runtime import files, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training import abandoned_io, checksums, stored_arrays

METRIC = "mIoU"
# Orbax's names: the files written last, and the mark of a folder that is being written.
METADATA, COMMITTED, UNFINISHED = "_CHECKPOINT_METADATA", "commit_success.txt", ".orbax-checkpoint-tmp"
# Where Orbax writes what `save` passes as data, as state and as metrics.
POSITION, STATE, METRICS = "data/metadata", "state", "metrics/metrics"
DAMAGED = ".damaged"
# The names of checkpoints: steps without leading zeros.
NAME = re.compile("0|[1-9][0-9]*")
# Trained parameters compress little. A checkpoint that needs more than MOST_COMPRESSED times the memory of its files
# was made to exhaust it. Up to ANY_SIZE bytes this does no harm.
MOST_COMPRESSED, ANY_SIZE = 10, 2**30


def _miou(metrics: Any) -> float:
    """The mIoU of a checkpoint's metrics; minus infinity if they hold none."""
    found = metrics.get(METRIC) if isinstance(metrics, dict) else None
    return float(found) if isinstance(found, int | float) and 0 <= found <= 1 else -math.inf


class Checkpoints:
    """The checkpoints of a workdir. Keeps the newest one and the best one by validation mIoU.

    Saving is asynchronous: training continues while the files are written. A checkpoint gets its final name only when
    it is complete, with the checksums of its files. Damaged checkpoints, and copies under other names, are reported on
    stderr and skipped.

    Args:
      directory: the folder of the checkpoints.
      read_only: changes nothing on disk. Otherwise the directory is made, damaged checkpoints are renamed, so that
        their steps can be saved again, and unfinished ones are removed.

    Attributes:
      damaged: step -> what is wrong with its checkpoint; without the steps that were saved again.

    Raises:
      UserError: if something else is in the directory's place.
    """

    def __init__(self, directory: AnyPath, *, read_only: bool = False) -> None:
        self._directory = epath.Path(directory).absolute()
        self._read_only = read_only
        abandoned_io.hide()
        processes.on_all(self._check_is_folder)
        self.damaged = processes.from_main(self._inspect)
        processes.on_all(lambda: self._report_damage() if processes.is_main_process() else None)
        best = preservation.BestN(get_metric_fn=_miou, n=1, keep_checkpoints_without_metrics=False)
        keep = preservation.AnyPreservationPolicy([preservation.LatestN(1), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            # Without best_fn Orbax does not write the metrics, so a resumed run would not know the best step.
            best_fn=_miou,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums),
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            lightweight_initialize=read_only,  # damaged checkpoints may be present
        )
        with self._reading("the checkpoint there that was changed last"):
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._saving: int | None = None
        self._identity = self._identify()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if error is not None and processes.is_lost_peer(error):
            return  # finishing a write needs all processes
        # Do not let a failure to save hide the original exception.
        with suppress(*(() if kind is None or issubclass(kind, Stopped) else (Exception,))):
            self.close()

    def close(self) -> None:
        """Waits for the write in progress. Raises WriteFailed if it fails."""
        with self._reporting_failures():
            self._manager.close()
            self._complete_checksums()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints in ascending order."""
        # Orbax also counts digits of other scripts.
        named = (step for step in self._manager.all_steps() if (self._directory / str(step)).exists())
        return sorted(set(named) - self.damaged.keys())

    def begun(self) -> bool:
        """Whether there is a checkpoint, complete or being written."""
        return self._saving is not None or bool(self.steps())

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest mIoU; the newest step if none was evaluated."""
        metrics = {}
        for step in self.steps():
            with self._reading(step):
                metrics[step] = self._manager.metrics(step)
        scored = {step: miou for step, found in metrics.items() if (miou := _miou(found)) > -math.inf}
        return max(scored, key=scored.__getitem__) if scored else self.latest()

    def save(self, step: int, state: PyTree, *, position: int, config: dict[str, Any], miou: float | None) -> None:
        """Starts writing a checkpoint. Raises WriteFailed if this write or the one before fails.

        Args:
          step: steps taken.
          state: the training state.
          position: global batches taken from the training stream.
          config: the description of the run, see `Experiment.description`.
          miou: validation mIoU in [0, 1]; None if the step was not evaluated.
        """
        self.finish_saving()
        self.damaged.pop(step, None)
        with self._reporting_failures():
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave({"position": position}),
                    config=ocp.args.JsonSave(config),
                ),
                metrics=None if miou is None else {METRIC: miou},
                force=True,
            )

    def add_miou(self, step: int, miou: float | None) -> None:
        """Adds the mIoU of a step that was saved without one, so that it may be the best; keeps one that is there.

        Raises:
          UserError: if the checkpoint cannot be read or written.
        """
        if miou is None:
            return
        processes.on_all(lambda: self._write_miou(step, miou) if processes.is_main_process() else None)
        self._manager.reload()

    def _write_miou(self, step: int, miou: float) -> None:
        """Decides and writes on process 0: another process could already see what it wrote."""
        with self._reading(step):
            if _miou(self._manager.metrics(step)) > -math.inf:
                return
        folder = self._directory / str(step)
        with self._reporting_failures():
            files.write_json(folder / METRICS, {METRIC: miou})
            checksums.write(folder)

    def check(self) -> None:
        """Raises WriteFailed if the save in progress has failed or the directory is gone. Does not wait."""
        with self._reporting_failures():
            if self._identify() != self._identity:
                raise FileNotFoundError("the folder was removed or replaced")
            if not self._manager.is_saving_in_progress():
                self._manager.wait_until_finished()  # raises the errors of its threads
                self._complete_checksums()

    def finish_saving(self) -> None:
        """Waits for the write in progress. Raises WriteFailed if it fails."""
        with self._reporting_failures():
            self._manager.wait_until_finished()
            self._complete_checksums()

    def config(self, step: int) -> dict[str, Any]:
        """The description of the run that wrote a checkpoint, see `Experiment.description`."""
        with self._reading(step):
            return dict(self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"])

    def restore_as_saved(self, step: int) -> dict[str, Any]:
        """The state as nested dicts of arrays, for inspection; on the default device if its own is gone."""
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        saved = ocp.args.StandardRestore(fallback_sharding=here)
        return self._manager.restore(step, args=ocp.args.Composite(state=saved))["state"]

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, int]:
        """Restores the state and the data position. `like` has the wanted shapes, dtypes and shardings."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        with self._reading(step):
            stored_arrays.check(self._directory / str(step) / STATE, like)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
            )
            return restored["state"], restored["data"]["position"]

    def restore_variables(self, step: int, like: PyTree) -> PyTree:
        """Restores the parameters and BatchNorm statistics without the optimiser's state.

        Args:
          step: a complete checkpoint's.
          like: {"params": ..., "batch_stats": ...} with the wanted shapes, dtypes and shardings.

        Raises:
          ValueError: if the checkpoint lacks one of these parameters, is far too small to hold them, or holds others;
            if it cannot be read.
        """
        self._check_size(step, like)
        stored_arrays.check(self._directory / str(step) / STATE, like)
        wanted = ocp.args.PyTreeRestore(
            item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
        )
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(state=wanted))["state"]
        except Exception as error:  # Orbax and TensorStore share no error type
            raise ValueError(_reason(error)) from error
        missing = [path for path, leaf in jax.tree.leaves_with_path(found) if not isinstance(leaf, jax.Array)]
        if missing:
            raise ValueError(f"it has no {jax.tree_util.keystr(missing[0], simple=True, separator='/')}")
        return found

    def _check_is_folder(self) -> None:
        if self._directory.exists() and not self._directory.is_dir():
            raise UserError(f"{self._directory} is not a folder: move it away, then run the same command again")

    def _check_size(self, step: int, like: PyTree) -> None:
        """Raises ValueError if the files are too small for the arrays, whose missing parts would be read as zeros."""
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
        stored = checksums.size(self._directory / str(step))
        if needed > max(MOST_COMPRESSED * stored, ANY_SIZE):
            raise ValueError(f"its files have {stored:,} bytes, far too few for the {needed:,} bytes of its network")

    def _inspect(self) -> dict[int, str]:
        """Step -> what is wrong with its checkpoint."""
        if not self._directory.is_dir():
            return {}
        folders = {int(path.name): path for path in self._directory.iterdir() if NAME.fullmatch(path.name)}
        return {step: damage for step in sorted(folders) if (damage := _damage(folders[step]))}

    def _report_damage(self) -> None:
        """Prints what is damaged or unfinished, and renames damaged checkpoints."""
        if not self._directory.is_dir():
            return
        for step, damage in self.damaged.items():
            line = f"{self._directory / str(step)} is damaged and skipped: {damage}"
            if not self._read_only:
                line += f"; renamed to {_set_aside(self._directory / str(step)).name}"
            print(line, file=sys.stderr, flush=True)
        for path in self._directory.iterdir():
            if path.name.isdecimal() and not NAME.fullmatch(path.name):
                line = f"Note: {path} is ignored: the checkpoint of step {int(path.name)} is named {int(path.name)}"
                print(line, file=sys.stderr, flush=True)
            if UNFINISHED in path.name and not self._read_only:
                print(f"{path} is removed: it is an unfinished checkpoint", file=sys.stderr, flush=True)

    def _write_checksums(self) -> None:
        """Called by Orbax when all files are written, before their folder gets its final name."""
        if processes.is_main_process():
            name = str(self._saving)
            [folder] = [path for path in self._directory.iterdir() if path.name in (name, name + UNFINISHED)]
            checksums.write(folder, unfinished=[METADATA])

    def _complete_checksums(self) -> None:
        """Adds the files that Orbax writes last; no restore depends on them."""
        if self._saving is not None and processes.is_main_process():
            checksums.write(self._directory / str(self._saving))
        self._saving = None

    def _identify(self) -> tuple[int, int] | None:
        """Device and inode of the directory, to notice that it was replaced; None for a remote one."""
        if "://" in str(self._directory):
            return None
        try:
            found = os.stat(self._directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _reading(self, what: int | str) -> Iterator[None]:
        """Raises UserError if a step's checkpoint cannot be read, although its checksums are right."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore share no error type
            if processes.is_lost_peer(error):
                raise
            where, which = (self._directory / str(what), "it") if isinstance(what, int) else (self._directory, what)
            raise UserError(
                f"{where} cannot be read ({_reason(error)}): move {which} away, then run the same command again to use "
                "an older checkpoint"
            ) from error

    @contextmanager
    def _reporting_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore share no error type
            if processes.is_lost_peer(error):
                raise
            kept = [path.name for path in self._committed()]
            remains = (
                f"the newest complete checkpoint is step {max(map(int, kept))}" if kept else "no checkpoint exists"
            )
            step = "" if self._saving is None else f"/{self._saving}"
            raise WriteFailed(
                f"{self._directory}{step} could not be written ({_reason(error)}); {remains}. Free space or fix "
                "permissions there, then run the same command again"
            ) from error

    def _committed(self) -> list[epath.Path]:
        with suppress(OSError):
            return [p for p in self._directory.iterdir() if NAME.fullmatch(p.name) and (p / COMMITTED).exists()]
        return []


def _damage(folder: epath.Path) -> str | None:
    """What is wrong with a checkpoint; None if it is complete and unchanged."""
    if not (folder / COMMITTED).exists():
        return f"{COMMITTED} is missing"
    try:
        return checksums.damage(folder) or _wrong_position(folder)
    except FileNotFoundError:
        return f"{checksums.NAME} is missing"


def _wrong_position(folder: epath.Path) -> str | None:
    """What is wrong if a checkpoint was not saved under this name: one global batch is taken a step."""
    try:
        position = json.loads((folder / POSITION).read_text(encoding="utf-8"))["position"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{POSITION} cannot be read"
    return None if position == int(folder.name) else f"it is the checkpoint of step {str(position)[:20]}"


def _set_aside(folder: epath.Path) -> epath.Path:
    names = [folder.name + DAMAGED, *(f"{folder.name}{DAMAGED}.{number}" for number in range(2, 1000))]
    target = next(path for name in names if not (path := folder.parent / name).exists())
    return folder.rename(target)


def _reason(error: Exception) -> str:
    """The operating system's words if the error contains them: TensorStore wraps them in a paragraph."""
    text = " ".join(str(error).split())
    text = re.split(r" \[tensorstore_spec|\. See full TensorStore details", text)[0]
    known = ("No space left on device", "Read-only file system", "File too large", "Disk quota exceeded")
    return next((phrase for phrase in known if phrase in text), f"{type(error).__name__}: {text[:200]}")
