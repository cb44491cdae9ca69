"""Where the figures of a run go: metrics.jsonl and TensorBoard."""

import json
import math
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from cpnet_jax import files, sharding
from cpnet_jax.training.log_files import AppendedText, use_object_stores


class MetricsWriter:
    """Appends to DIR/metrics.jsonl and DIR/tensorboard; of several processes the main one does.

    Args:
      workdir: DIR.
      step: the run goes on from here; what an interrupted run logged after it is dropped, since those steps are
        taken again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._writes = sharding.is_main_process()
        if self._writes:
            path = workdir / "metrics.jsonl"
            _drop_after(path, step)
            self._file = AppendedText(path)
            use_object_stores()
            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writes:
            self._file.close()
            self._tensorboard.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, at once on a local disk (see `AppendedText`), and one scalar each."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """TensorBoard only."""
        if self._writes:
            self._tensorboard.add_image(name, np.asarray(picture), step, dataformats="HWC")


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
