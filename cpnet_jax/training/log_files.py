"""Files that grow, on local disks and in object stores. Stores can only replace a whole object."""

import time

from etils import epath

from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

# Seconds between two uploads of a growing object: of text, and of TensorBoard's events, which have pictures.
UPLOAD_SECONDS, EVENTS_SECONDS = 10.0, 120.0


class AppendedText:
    """Appends text to a file.

    A local file is written at once. An object is uploaded again every UPLOAD_SECONDS and at the end, so a process that
    is killed loses the lines of the last seconds.

    Args:
      path: the file; it is made if it does not exist.
    """

    def __init__(self, path: AnyPath) -> None:
        self._path = path
        self._remote = files.is_remote(path)
        if self._remote:
            self._text = path.read_text(encoding="utf-8") if path.exists() else ""
            self._uploaded = time.monotonic()
        else:
            self._file = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        if not self._remote:
            self._file.write(text)
            self._file.flush()
            return
        self._text += text
        if time.monotonic() - self._uploaded >= UPLOAD_SECONDS:
            self._upload()

    def flush(self) -> None:
        """Uploads what was written since the last upload."""
        if self._remote:
            self._upload()

    def close(self) -> None:
        self._upload() if self._remote else self._file.close()

    def _upload(self) -> None:
        with files.store_errors(self._path):
            self._path.write_text(self._text, encoding="utf-8")
        self._uploaded = time.monotonic()


class UploadedFile:
    """A binary file object whose content is uploaded again every EVENTS_SECONDS and at the end."""

    def __init__(self, url: str) -> None:
        self._path, self._data = epath.Path(url), bytearray()
        self._uploaded = time.monotonic()

    def write(self, data: bytes) -> None:
        self._data += data

    def flush(self) -> None:
        if time.monotonic() - self._uploaded >= EVENTS_SECONDS:
            self._upload()

    def close(self) -> None:
        self._upload()

    def _upload(self) -> None:
        with files.store_errors(self._path):
            self._path.write_bytes(bytes(self._data))
        self._uploaded = time.monotonic()
