"""Events for TensorBoard, written at once: a background writer would take a full disk for nobody's business."""

import time
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cpnet_jax.training.log_files import use_object_stores


class EventFile:
    """A file of events in the folder.

    Args:
      folder: is made where it is missing.
      step: what older files of the folder say of this step and later ones is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        use_object_stores()
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
