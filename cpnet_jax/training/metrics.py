"""Writes the figures of a run to metrics.jsonl and TensorBoard."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from PIL import Image

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training.log_files import AppendedText
from cpnet_jax.training.tensorboard import EventFile

# The entry that the line of a published evaluation has, and no other line.
EVALUATED = "evaluation_seconds"
# Beside it: seconds for eval.json, the report and the pictures.
PUBLISHING = "publishing_seconds"
# No step of a run is as large; a damaged line may have any.
FURTHEST_STEP = 2**53


class MetricsWriter:
    """Appends to DIR/metrics.jsonl and DIR/tensorboard, on the main process only.

    A failure to write raises nothing at once, so that the steps taken can be saved first: it ends the writing, and
    `check` raises it.

    Args:
      workdir: DIR.
      step: the step that the run starts from. Entries of later steps are dropped, because these steps are taken again.
      on_failure: called at the first failure to write.

    Raises:
      UserError: on every process, if the files cannot be opened.
    """

    def __init__(self, workdir: AnyPath, step: int, *, on_failure: Callable[[], None]) -> None:
        self._workdir, self._on_failure = workdir, on_failure
        self._writes = processes.is_main_process()
        self._failure: UserError | None = None
        processes.on_all(lambda: self._open(step) if self._writes else None)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writes:
            with self._noting_failures():
                self._file.close()
                self._tensorboard.close()
        if error is None:  # otherwise do not hide it
            self.check()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of a step as TensorBoard scalars and as one line of JSON."""
        if self._writes and not self._failure:
            with self._noting_failures():
                for name, value in values.items():
                    self._tensorboard.scalar(_tag(name, of_evaluation=EVALUATED in values), value, step)
                self._tensorboard.flush()
                # Last, since this line says that an evaluation is published.
                self._file.write(json.dumps({"step": step, **values}) + "\n")

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Writes a picture to TensorBoard."""
        if self._writes and not self._failure:
            with self._noting_failures():
                self._tensorboard.picture(name, picture, step)

    def flush(self) -> None:
        """Makes what was written readable for `entries`, also in an object store."""
        if self._writes and not self._failure:
            with self._noting_failures():
                self._file.flush()

    def check(self) -> None:
        """Raises UserError if something could not be written."""
        if self._failure:
            raise self._failure

    def _open(self, step: int) -> None:
        try:
            _drop_after(_file_in(self._workdir), step)
            self._file = AppendedText(_file_in(self._workdir))
            self._tensorboard = EventFile(self._workdir / "tensorboard", step + 1)
        except OSError as error:
            raise self._unwritable(error) from error

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failure:
                self._failure = self._unwritable(error)
                self._on_failure()

    def _unwritable(self, error: OSError) -> UserError:
        where = error.filename or f"{_file_in(self._workdir)} or {self._workdir / 'tensorboard'}"
        return UserError(
            f"{where} cannot be written ({error.strerror or error}): free space, fix permissions or move away what is "
            "there, then run the same command again"
        )


def is_published(workdir: AnyPath, step: int) -> bool:
    """Whether DIR/metrics.jsonl holds the evaluation of a step, which is the last thing written of it."""
    return published(workdir, step) is not None


def published(workdir: AnyPath, step: int) -> dict[str, Any] | None:
    """The figures in DIR/metrics.jsonl of a step's evaluation, by name; None if the file does not hold it."""
    path = _file_in(workdir)
    if not path.is_file():
        return None
    entries = (entry for entry in map(_entry, _lines(path)) if entry.get("step") == step and EVALUATED in entry)
    return next(entries, None)


def entries(workdir: AnyPath) -> list[dict[str, Any]]:
    """The entries of DIR/metrics.jsonl by ascending step; empty without the file.

    Entries of steps that a resumed run took again are left out, and so are damaged lines.
    """
    path = _file_in(workdir)
    found: list[dict[str, Any]] = []
    lowest = math.inf
    for line in reversed(_lines(path) if path.is_file() else []):
        step = _step(line)
        # A lower step below this line says that the run went back and took this one again.
        if 0 <= step <= lowest and step < FURTHEST_STEP:
            lowest = step
            found.append(_entry(line))
    return found[::-1]


def _tag(name: str, *, of_evaluation: bool) -> str:
    """The name of a figure in TensorBoard, which groups by what stands before the slash: time/, val/ or train/."""
    if name.endswith("_seconds") or name == "images_per_second":
        return f"time/{name}"
    return f"val/{name.removeprefix('val_')}" if of_evaluation else f"train/{name}"


def _file_in(workdir: AnyPath) -> AnyPath:
    return workdir / "metrics.jsonl"


def _lines(path: AnyPath) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _drop_after(path: AnyPath, step: int) -> None:
    """Drops the entries of later steps, and with a note the lines that are no entries."""
    if not path.exists():
        return
    lines = _lines(path)
    steps = [_step(line) for line in lines]
    files.write_bytes(path, b"".join(line for line, found in zip(lines, steps, strict=True) if found <= step))
    # A crash may cut off the last line.
    damaged = [number for number, found in enumerate(steps, 1) if found == math.inf and number < len(steps)]
    if damaged:
        print(
            f"Note: {path} has {len(damaged)} damaged line(s), the first one is line {damaged[0]}; they are dropped",
            file=sys.stderr,
        )


def _step(line: bytes) -> float:
    """The step of a line; infinite if the line is damaged or cut off."""
    step = _entry(line).get("step")
    return step if isinstance(step, int) and line.endswith(b"\n") else math.inf


def _entry(line: bytes) -> dict[str, Any]:
    """The entry of a line; empty if the line is damaged."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
