"""Downloads a file over HTTP from the first address that gives it. An interrupted download is continued.

The bytes go to NAME.part beside the file, which is renamed when it is complete and its checksum is right.
NAME.part.json says which version of which address they are from: a server sends the rest of that version only.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests

from cpnet_jax.runtime import files
from cpnet_jax.runtime.progress import ByteProgress, readable_size

# Attempts in a row that bring no new byte, after which an address is given up: once it has answered, and before.
ATTEMPTS = 6
ATTEMPTS_TO_REACH = 2
PAUSE = 1.0  # seconds before the second attempt; each further pause is twice as long
TIMEOUT = (20, 60)  # seconds to connect, and to wait for bytes
BLOCK = 2**16
FULL = (errno.ENOSPC, errno.EDQUOT)
# What urllib3 writes before the reason: "HTTPConnection(host='localhost', port=80): "
PREFIX = re.compile(r"^(<.*?>|\w+\(.*?\)): ")


class Unavailable(Exception):
    """No address gives the file. The message has the reason for each."""


class DiskFull(Exception):
    """The file does not fit on the disk. What has arrived is kept."""


class _Interrupted(Exception):
    """A failure that may pass, such as a connection that was cut."""


MAY_PASS = (_Interrupted, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Fetched:
    """A complete file: the address that it is from, its size in bytes and its SHA-256."""

    address: str
    size: int
    sha256: str


def fetch(addresses: Sequence[str], path: Path, digest: str = "") -> Fetched:
    """Downloads a file; `path` exists only when all of it has arrived.

    Only one process may do so at a time. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).

    Args:
      addresses: where the file is, tried in this order.
      path: the file, in an existing folder.
      digest: its checksum if it is known, "sha256:HEX" or "md5:HEX".

    Raises:
      Unavailable: if no address gives the file, or all of them another one.
      DiskFull: if the file does not fit on the disk.
    """
    reasons = []
    try:
        with requests.Session() as session:
            for address in addresses:
                try:
                    return _fetch(session, address, path, digest)
                except (Unavailable, requests.RequestException) as error:
                    reasons.append(f"{address}: {_reason(error)}")
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(f"the disk of {path} is full") from error
    raise Unavailable("; ".join(reasons))


def digest_of(path: Path, algorithm: str) -> str:
    """The checksum of a file as "ALGORITHM:HEX"."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, partial(_new_hash, algorithm)).hexdigest()}"


def _new_hash(algorithm: str) -> Any:
    return hashlib.new(algorithm, usedforsecurity=False)  # MD5 is refused for security on some systems


def _fetch(session: requests.Session, address: str, path: Path, digest: str) -> Fetched:
    """Downloads from one address; tries again after failures that may pass."""
    with _Part(path, address, digest.partition(":")[0]) as part:
        failures, attempts = 0, ATTEMPTS_TO_REACH
        while True:
            before = part.size
            try:
                _receive(session, address, part, path.name)
                break
            except MAY_PASS as error:
                if part.size > before or isinstance(error, _Interrupted):
                    attempts = ATTEMPTS
                failures = 1 if part.size > before else failures + 1
                if failures >= attempts:
                    raise Unavailable(_reason(error)) from error
                time.sleep(PAUSE * 2 ** (failures - 1))
        found = part.digests()
        if digest and digest not in found:
            algorithm, _, expected = digest.partition(":")
            wrong = next(value for value in found if value.startswith(f"{algorithm}:"))
            part.discard()
            raise Unavailable(f"its checksum is {wrong}, not {expected}")
        part.rename_to(path)
        return Fetched(address, part.size, next(value for value in found if value.startswith("sha256:"))[7:])


def _receive(session: requests.Session, address: str, part: "_Part", name: str) -> None:
    """Receives what is missing of a file; raises an error if the connection ends before."""
    # Compressed on the way, the bytes could not be counted.
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    with session.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        status, total = answer.status_code, _total(answer)
        if status == requests.codes.requested_range_not_satisfiable and "Range" in headers:
            if total == part.size:  # killed between the last byte and the renaming
                return
            part.restart("")
            raise _Interrupted("the file has changed on the server")
        if status == requests.codes.too_many_requests or status >= 500:
            raise _Interrupted(f"HTTP status {status} {answer.reason}")
        if status not in (requests.codes.ok, requests.codes.partial_content):
            raise Unavailable(f"HTTP status {status} {answer.reason}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise Unavailable("it answers with a web page instead of the file")
        other = _validator(answer) not in ("", part.validator)
        if status == requests.codes.ok or not part.size or _start(answer) != part.size or other:
            part.restart(_validator(answer))
            if status == requests.codes.partial_content:
                raise _Interrupted("the server sent another part than was asked for")
        _check_room(part, total)
        with ByteProgress(total, f"Downloading {name}", initial=part.size) as progress:
            for block in answer.iter_content(BLOCK):
                part.write(block)
                progress.advance(len(block))
    if total is not None and part.size < total:
        raise _Interrupted(f"the connection ended after {readable_size(part.size)} of {readable_size(total)}")


def _total(answer: requests.Response) -> int | None:
    """The size of the whole file, if the server says it."""
    if match := re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", answer.headers.get("Content-Range", "")):
        return int(match[1])
    length = answer.headers.get("Content-Length", "")
    return int(length) if answer.status_code == requests.codes.ok and length.isdecimal() else None


def _start(answer: requests.Response) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _validator(answer: requests.Response) -> str:
    """What identifies this version of the file in If-Range, where weak entity tags are not allowed."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _check_room(part: "_Part", total: int | None) -> None:
    free, missing = shutil.disk_usage(part.path.parent).free, (total or 0) - part.size
    if missing > free:
        raise DiskFull(f"{part.path} needs {readable_size(missing)} more, and its disk has {readable_size(free)} free")


def _reason(error: Exception) -> str:
    """The cause of an error in a few words; urllib3 wraps it in several layers, each with the address."""
    cause: Any = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, Exception) and cause.args:
        cause = cause.args[0]
    return PREFIX.sub("", " ".join(str(cause).split()))[:200]


class _Part:
    """NAME.part and its checksums. What came from another address stays until this one answers.

    Attributes:
      path: NAME.part.
      size: number of bytes that have arrived.
      validator: what the server calls the version of the file; empty if it has no name, and then it is not continued.
    """

    def __init__(self, path: Path, address: str, algorithm: str) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self._address, self._algorithms = address, {"sha256", algorithm or "sha256"}
        self.size, self.validator, self._hashes = 0, self._noted_validator(), self._new_hashes()
        self._file: Any = None
        if self.validator and self.path.exists():
            self._file = self.path.open("r+b")
            while block := self._file.read(2**20):
                self._count(block)

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file:
            self._file.close()

    def restart(self, validator: str) -> None:
        """Forgets all bytes; those that follow are of the version that the validator names."""
        self.__exit__()
        self._file = self.path.open("w+b")
        self.size, self.validator, self._hashes = 0, validator, self._new_hashes()
        files.write_json(self._note, {"address": self._address, "validator": validator})

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self._count(block)

    def digests(self) -> list[str]:
        return [f"{name}:{value.hexdigest()}" for name, value in self._hashes.items()]

    def rename_to(self, path: Path) -> None:
        """Makes the complete part the file itself."""
        self._file.flush()
        os.fsync(self._file.fileno())  # a renamed file counts as whole, also after a power failure
        os.replace(self.path, path)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def _new_hashes(self) -> dict[str, Any]:
        return {name: _new_hash(name) for name in self._algorithms}

    def _count(self, block: bytes) -> None:
        self.size += len(block)
        for value in self._hashes.values():
            value.update(block)

    def _noted_validator(self) -> str:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["address"] == self._address else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""
