"""Where the figures of a run go: metrics.jsonl and TensorBoard."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from PIL import Image

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.training.log_files import AppendedText
from cpnet_jax.training.tensorboard import EventFile


class MetricsWriter:
    """Appends to DIR/metrics.jsonl and DIR/tensorboard; of several processes the main one does.

    Args:
      workdir: DIR.
      step: the run goes on from here; what an interrupted run logged after it is dropped, since those steps are
        taken again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._path, self._writes = workdir / "metrics.jsonl", processes.is_main_process()
        if self._writes:
            _drop_after(self._path, step)
            self._file = AppendedText(self._path)
            self._tensorboard = EventFile(workdir / "tensorboard", step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._writes:
            return
        # What cannot be written any more must not stand in the way of what is told about it.
        with suppress(*(() if error is None else (UserError,))), self._telling_failures():
            self._file.close()
            self._tensorboard.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, at once on a local disk (see `AppendedText`), and one scalar each."""
        if not self._writes:
            return
        with self._telling_failures():
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._tensorboard.scalar(name, value, step)
            self._tensorboard.flush()

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """TensorBoard only."""
        if self._writes:
            with self._telling_failures():
                self._tensorboard.picture(name, picture, step)

    @contextmanager
    def _telling_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path} and {self._path.parent}/tensorboard cannot be written ({error.strerror}): see to that "
                "disk, and run the same command again"
            ) from error


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines(keepends=True) if _step(line) <= step]
    files.write_text(path, "".join(kept))


def _step(line: str) -> float:
    """That of a whole line; infinite for one that a crash cut off."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
