"""The file of an exported network: an uncompressed zip archive.

    metadata.json       classes, normalisation, crop size, origin
    model.stablehlo     the function of `program`, serialised by `jax.export`
    weights/NAME.npy    one array for each weight

`numpy.load` reads it as an .npz file and returns the other two entries as bytes. The weights are separate because
constants of the function would be compiled into it: four times slower, twice the memory.
"""

import json
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from jaxtyping import Array, Shaped

from cpnet_jax import errors
from cpnet_jax.errors import UserError, reason
from cpnet_jax.inference import metadata
from cpnet_jax.inference.metadata import shown
from cpnet_jax.runtime.files import AnyPath

FORMAT = "cpnet_jax exported network"
# Increased whenever a reader of the previous version could misread the file. Files that do not need this version are
# still written as an earlier one, see `_version`.
FORMAT_VERSION = 3

METADATA, PROGRAM, WEIGHTS, ARRAY = "metadata.json", "model.stablehlo", "weights/", ".npy"
LARGEST_METADATA = 2**20  # bytes
ENCRYPTED = 1  # the bit of an entry's flags
# What zipfile, numpy and json raise on damaged files. RuntimeError includes NotImplementedError and RecursionError.
DAMAGE = (zipfile.BadZipFile, EOFError, LookupError, ValueError, ArithmeticError, OSError, RuntimeError, struct.error)

Weights = dict[str, Shaped[Array | np.ndarray, "..."]]


@dataclass(frozen=True)
class Artifact:
    """The contents of the file.

    Attributes:
      metadata: see docs/export.md; `write` adds `format` and `format_version`.
      program: a serialised `jax.export.Exported`.
      weights: arrays by names such as "params/head/classifier/kernel".
    """

    metadata: dict[str, Any]
    program: bytes
    weights: Weights


def write(path: AnyPath, artifact: Artifact) -> None:
    """Writes the file; overwrites an existing one."""
    described = {"format": FORMAT, "format_version": _version(artifact.metadata), **artifact.metadata}
    with path.open("wb") as file:
        arrays: Any = {f"{WEIGHTS}{name}": array for name, array in artifact.weights.items()}
        np.savez(file, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(described, indent=2))
        archive.writestr(PROGRAM, artifact.program)


def _version(metadata: dict[str, Any]) -> int:
    """The earliest version of the format that has these metadata."""
    return 3 if metadata.get("any_size") else 2 if metadata.get("value_range") else 1


def read(path: AnyPath) -> Artifact:
    """Reads the whole file. Verifies its checksums, its entries and the types of its metadata.

    No more is read into memory than the file holds, since its entries are neither compressed nor pickled.

    Raises:
      UserError: if the file is missing, damaged, of another kind or of a newer format.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: name one written by --mode=export")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if METADATA not in archive.namelist():
                raise UserError(f"{path} is an archive without {METADATA}: name a file written by --mode=export")
            entries = _entries(archive, size=file.seek(0, 2))
            described = _metadata(path, archive, entries[METADATA])
            program = archive.read(entries[PROGRAM])
            weights: Weights = {
                name.removeprefix(WEIGHTS).removesuffix(ARRAY): _array(archive, entry)
                for name, entry in entries.items()
                if name.startswith(WEIGHTS)
            }
    except DAMAGE as error:
        why = "" if isinstance(error, errors.DAMAGE) else f" ({reason(error)})"
        raise UserError(
            f"{path} is damaged or not an exported network{why}: copy it again, or export the network again"
        ) from error
    return Artifact(described, program, weights)


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, in the order of the file.

    Raises:
      ValueError: if there is an entry that `write` would not make, or one is missing.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ValueError("two entries have the same name")
    for name, entry in entries.items():
        if name not in (METADATA, PROGRAM) and not (name.startswith(WEIGHTS) and name.endswith(ARRAY)):
            raise ValueError(f"it has an unknown entry {shown(name)}")
        if entry.flag_bits & ENCRYPTED:
            raise ValueError(f"{shown(name)} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{shown(name)} is compressed")
    if PROGRAM not in entries:
        raise ValueError(f"{PROGRAM} is missing")
    if entries[METADATA].file_size > LARGEST_METADATA:
        raise ValueError(f"{METADATA} has more than {LARGEST_METADATA} bytes")
    if sum(entry.file_size for entry in entries.values()) > size:
        raise ValueError("its entries overlap")
    return entries


def _metadata(path: AnyPath, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> dict[str, Any]:
    found = metadata.parse(archive.read(entry))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is an archive of another kind: name a file written by --mode=export")
    version = found.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {shown(version)} and this program knows up to {FORMAT_VERSION}: "
            "update cpnet_jax, or export with this version"
        )
    try:
        metadata.check(found, {"format_version": metadata.whole(1, FORMAT_VERSION)})
        metadata.check_exported(found)
    except (ValueError, UserError) as error:
        raise UserError(
            f"{path}: its {METADATA} has a missing or invalid entry ({reason(error)}): export the network again"
        ) from error
    return found


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Shaped[np.ndarray, "..."]:
    with archive.open(entry) as file:
        shape, by_columns, dtype = _header(file, shown(entry.filename))
        values = file.read()  # to the end, because the checksum is compared there
    # Compared before numpy allocates the array.
    if dtype.hasobject or min(shape, default=0) < 0 or len(values) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{shown(entry.filename)} does not hold the values that its header announces")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if by_columns else "C")


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether its values are in the order of Fortran, and dtype of an array."""
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # numpy parses it with Python's tokeniser and parser
        raise ValueError(f"{name} has a damaged header") from error
    raise ValueError(f"{name} is not of the version of numpy's format that --mode=export writes")
