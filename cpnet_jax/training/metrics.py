"""Writes the figures of a run to metrics.jsonl and TensorBoard."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from PIL import Image

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.training.log_files import AppendedText
from cpnet_jax.training.tensorboard import EventFile


class MetricsWriter:
    """Appends to DIR/metrics.jsonl and DIR/tensorboard, on the main process only.

    Args:
      workdir: DIR.
      step: the step that the run starts from. Entries of later steps are dropped, because these steps are taken again.
    """

    def __init__(self, workdir: AnyPath, step: int) -> None:
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
        # Do not let close() hide the original exception.
        with suppress(*(() if error is None else (UserError,))), self._reporting_failures():
            self._file.close()
            self._tensorboard.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of a step as one line of JSON and as TensorBoard scalars."""
        if not self._writes:
            return
        with self._reporting_failures():
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._tensorboard.scalar(name, value, step)
            self._tensorboard.flush()

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Writes a picture to TensorBoard."""
        if self._writes:
            with self._reporting_failures():
                self._tensorboard.picture(name, picture, step)

    @contextmanager
    def _reporting_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path} and {self._path.parent}/tensorboard cannot be written ({error.strerror}): free space or "
                "fix permissions there, then run the same command again"
            ) from error


def _drop_after(path: AnyPath, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines(keepends=True) if _step(line) <= step]
    files.write_text(path, "".join(kept))


def _step(line: str) -> float:
    """The step of a line; infinite if the line was cut off by a crash."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
