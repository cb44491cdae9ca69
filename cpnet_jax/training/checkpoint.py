"""Checkpoints: state + data position + config, one atomic thing. Nobody else knows Orbax."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from cpnet_jax.errors import Stopped, WriteFailed
from cpnet_jax.runtime import processes
from cpnet_jax.training import checksums

METRIC = "mIoU"
# Orbax's: the files that end a folder's writing, and what is in the name of one that is being written.
METADATA, COMMITTED, UNFINISHED = "_CHECKPOINT_METADATA", "commit_success.txt", ".orbax-checkpoint-tmp"
DAMAGED = ".damaged"


def _miou(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


class Checkpoints:
    """The whole checkpoints of a workdir: the newest, and the best by validation mIoU.

    Saving is asynchronous: training goes on while the files are written; a checkpoint appears under its final name only
    when it is whole, and with it the checksums of its files. Those that are damaged since are told on stderr and
    passed over.

    Args:
      directory: of the checkpoints.
      read_only: leave everything as it is. Otherwise damaged checkpoints are set aside under another name, so that
        their steps can be saved again, what a crash left unfinished is removed, and the directory is made.

    Attributes:
      damaged: what is wrong with those that were passed over, by step.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = epath.Path(directory).absolute()
        self._read_only = read_only
        self.damaged = self._inspect()
        self._report_damage()
        best = preservation.BestN(get_metric_fn=_miou, n=1, keep_checkpoints_without_metrics=False)
        keep = preservation.AnyPreservationPolicy([preservation.LatestN(1), best])
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                # Without best_fn Orbax does not write the metrics, and a resumed run would forget what was best.
                best_fn=_miou,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums),
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                lightweight_initialize=read_only,  # those that are damaged are still there
            ),
        )
        self._saving: int | None = None
        self._identity = self._identify()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if error is not None and processes.is_lost_peer(error):
            return  # to finish a write takes all processes
        # A failure to save is told unless another one is on its way already.
        with suppress(*(() if kind is None or issubclass(kind, Stopped) else (Exception,))):
            self.close()

    def close(self) -> None:
        """Waits for the write in progress; WriteFailed where it failed."""
        with self._telling_failures():
            self._manager.close()
            self._complete_checksums()

    def steps(self) -> list[int]:
        """Of every whole checkpoint, oldest first."""
        return sorted(set(self._manager.all_steps()) - self.damaged.keys())

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest mIoU; the newest step where none was evaluated."""
        metrics = {step: self._manager.metrics(step) for step in self.steps()}
        scored = {step: _miou(found) for step, found in metrics.items() if found}
        return max(scored, key=scored.get) if scored else self.latest()

    def save(self, step: int, state: PyTree, *, position: int, config: dict[str, Any], miou: float | None) -> None:
        """Begins to write; WriteFailed where that cannot be, or could not at the save before.

        Args:
          position: global batches taken from the training stream.
          miou: if the step was evaluated.
        """
        with self._telling_failures():
            self._manager.wait_until_finished()
            self._complete_checksums()
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

    def check(self) -> None:
        """WriteFailed where the save in progress has failed, or the directory has gone. Does not wait."""
        with self._telling_failures():
            if self._identify() != self._identity:
                raise FileNotFoundError("the folder has vanished")
            if not self._manager.is_saving_in_progress():
                self._manager.wait_until_finished()  # which raises what its threads met with
                self._complete_checksums()

    def config(self, step: int) -> dict[str, Any]:
        """The resolved config that a checkpoint was trained with."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]

    def restore_as_saved(self, step: int) -> dict[str, Any]:
        """The state as nested dicts of arrays on the default device, for whoever wants to look into a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, int]:
        """(state, data position). `like` has the shapes, dtypes and shardings wanted."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
        )
        return restored["state"], restored["data"]["position"]

    def restore_variables(self, step: int, like: PyTree) -> PyTree:
        """The parameters and BatchNorm statistics alone, whatever optimiser they were trained with.

        Args:
          like: {"params": ..., "batch_stats": ...} with the shapes, dtypes and shardings wanted.

        Raises:
          ValueError: where the checkpoint has other parameters.
        """
        wanted = ocp.args.PyTreeRestore(
            item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
        )
        found = self._manager.restore(step, args=ocp.args.Composite(state=wanted))["state"]
        missing = [path for path, leaf in jax.tree.leaves_with_path(found) if not isinstance(leaf, jax.Array)]
        if missing:
            raise ValueError(f"it has no {jax.tree_util.keystr(missing[0], simple=True, separator='/')}")
        return found

    def _inspect(self) -> dict[int, str]:
        """{step: what is wrong with it}, the same on every process: process 0 reads for all."""
        found = {}
        if processes.is_main_process() and self._directory.is_dir():
            folders = {int(path.name): path for path in self._directory.iterdir() if path.name.isdecimal()}
            found = {step: damage for step in sorted(folders) if (damage := _damage(folders[step]))}
        return processes.gather(found)[0]

    def _report_damage(self) -> None:
        """Tells what is passed over, and sets it aside."""
        if not processes.is_main_process() or not self._directory.is_dir():
            return
        for step, damage in self.damaged.items():
            line = f"{self._directory / str(step)} is damaged and passed over: {damage}"
            if not self._read_only:
                line += f"; it is {_set_aside(self._directory / str(step)).name} now"
            print(line, file=sys.stderr, flush=True)
        if not self._read_only:
            for path in self._directory.iterdir():
                if UNFINISHED in path.name:
                    print(f"{path} is removed: its writing was never finished", file=sys.stderr, flush=True)

    def _write_checksums(self) -> None:
        """Called by Orbax when all files are written, just before their folder gets its final name."""
        if processes.is_main_process():
            name = str(self._saving)
            [folder] = [path for path in self._directory.iterdir() if path.name in (name, name + UNFINISHED)]
            checksums.write(folder, unfinished=[METADATA])

    def _complete_checksums(self) -> None:
        """Adds what Orbax writes at the very end; nothing that a restore depends on."""
        if self._saving is not None and processes.is_main_process():
            checksums.write(self._directory / str(self._saving))
        self._saving = None

    def _identify(self) -> tuple[int, int] | None:
        """By what a directory is told from another one of the same name; a remote one has nothing of that kind."""
        if "://" in str(self._directory):
            return None
        try:
            found = os.stat(self._directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _telling_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore have no error in common
            if processes.is_lost_peer(error):
                raise
            kept = [path.name for path in self._committed()]
            remains = f"step {max(map(int, kept))} is the newest that is whole" if kept else "none is there"
            step = "" if self._saving is None else f"/{self._saving}"
            raise WriteFailed(
                f"{self._directory}{step} could not be written ({_reason(error)}), and {remains}: see to that disk, "
                "and run the same command again"
            ) from error

    def _committed(self) -> list[epath.Path]:
        with suppress(OSError):
            return [p for p in self._directory.iterdir() if p.name.isdecimal() and (p / COMMITTED).exists()]
        return []


def _damage(folder: epath.Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing."""
    if not (folder / COMMITTED).exists():
        return f"{COMMITTED} is missing"
    try:
        return checksums.damage(folder)
    except FileNotFoundError:
        return _damage_without_checksums(folder)


def _damage_without_checksums(folder: epath.Path) -> str | None:
    """By reading all of it: that of an older version of this program."""
    try:
        for item in ("data", "config"):
            json.loads((folder / item / "metadata").read_text())
        handler = ocp.PyTreeCheckpointHandler()
        as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder / "state"))
        handler.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=as_arrays))
    except Exception as error:  # Orbax and TensorStore have no error in common
        return f"it has no {checksums.NAME} and cannot be read ({_reason(error)})"
    return None


def _set_aside(folder: epath.Path) -> epath.Path:
    names = [folder.name + DAMAGED, *(f"{folder.name}{DAMAGED}.{number}" for number in range(2, 1000))]
    target = next(path for name in names if not (path := folder.parent / name).exists())
    return folder.rename(target)


def _reason(error: Exception) -> str:
    """What the operating system says, where it is in there: TensorStore wraps it in a paragraph."""
    text = " ".join(str(error).split())
    known = ("No space left on device", "Read-only file system", "File too large", "Disk quota exceeded")
    return next((phrase for phrase in known if phrase in text), f"{type(error).__name__}: {text[:200]}")
