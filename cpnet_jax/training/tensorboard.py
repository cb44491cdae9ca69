"""Writes TensorBoard events synchronously, so that a full disk raises here."""

import time
from types import SimpleNamespace

import numpy as np
from PIL import Image

from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.imports import without
from cpnet_jax.training.log_files import UploadedFile

with without("torch"):  # tensorboardX imports it if it is installed: over a second, and 200 MB
    from tensorboardX import record_writer, summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore[missing-module-attribute]


class EventFile:
    """A TensorBoard event file.

    Args:
      folder: the folder of the file; it is made if it does not exist.
      step: TensorBoard hides the events that older files have for this step and later ones.
    """

    def __init__(self, folder: AnyPath, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_to_object_stores()
        self._writer = EventsWriter(str(folder / "events"))
        self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(step=step, summary=summary.scalar(name, value)))

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        self._write(Event(step=step, summary=summary.image(name, np.asarray(picture), dataformats="HWC")))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)


def _write_to_object_stores() -> None:
    """Makes tensorboardX write to URLs by etils; its default needs another package."""
    for store in files.STORES:
        record_writer.register_writer_factory(
            store, SimpleNamespace(open=UploadedFile, directory_check=lambda folder: None)
        )
