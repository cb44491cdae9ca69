"""Files that grow, on local disks and in object stores, where an object can only be replaced as a whole."""

import time
from pathlib import Path
from types import SimpleNamespace

from etils import epath
from tensorboardX import record_writer

from cpnet_jax.runtime import files

# Between two uploads of an object that grows.
UPLOAD_SECONDS = 10.0


class AppendedText:
    """Text added to what a file holds: on a local disk at once; in an object store the whole is uploaded again when the
    last time is UPLOAD_SECONDS ago, and at the end. So a process that is killed loses the lines of the last seconds.

    Args:
      path: made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._remote = files.is_remote(path)
        if self._remote:
            self._text = path.read_text() if path.exists() else ""
            self._uploaded = time.monotonic()
        else:
            self._file = path.open("a")

    def write(self, text: str) -> None:
        if not self._remote:
            self._file.write(text)
            self._file.flush()
            return
        self._text += text
        if time.monotonic() - self._uploaded >= UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        self._upload() if self._remote else self._file.close()

    def _upload(self) -> None:
        self._path.write_text(self._text)
        self._uploaded = time.monotonic()


class _EventFile:
    """What tensorboardX writes to: uploaded as a whole, like `AppendedText`."""

    def __init__(self, url: str) -> None:
        self._path, self._data = epath.Path(url), bytearray()
        self._uploaded = time.monotonic()

    def write(self, data: bytes) -> None:
        self._data += data

    def flush(self) -> None:
        if time.monotonic() - self._uploaded >= UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        self._upload()

    def _upload(self) -> None:
        self._path.write_bytes(bytes(self._data))
        self._uploaded = time.monotonic()


def use_object_stores() -> None:
    """Lets tensorboardX write to URLs by etils, as all else here does; its own way needs one more package."""
    for store in files.STORES:
        record_writer.register_writer_factory(
            store, SimpleNamespace(open=_EventFile, directory_check=lambda folder: None)
        )
