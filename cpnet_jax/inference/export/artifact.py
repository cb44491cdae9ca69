"""The file of an exported network: an uncompressed zip archive.

    metadata.json       classes, normalisation, crop size, origin
    model.stablehlo     the function (weights, windows) -> outputs, serialised by `jax.export`
    weights/NAME.npy    one array for each weight

`numpy.load` reads it as an .npz file and returns the other two entries as bytes. The weights are separate because
constants of the function would be compiled into it: four times slower, twice the memory.
"""

import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Shaped

from cpnet_jax.errors import UserError
from cpnet_jax.runtime.files import AnyPath

FORMAT = "cpnet_jax exported network"
# Increased whenever a reader of the previous version could misread the file.
FORMAT_VERSION = 1

METADATA, PROGRAM, WEIGHTS = "metadata.json", "model.stablehlo", "weights/"

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
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, **artifact.metadata}
    with path.open("wb") as file:
        arrays: Any = {f"{WEIGHTS}{name}": array for name, array in artifact.weights.items()}
        np.savez(file, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata, indent=2))
        archive.writestr(PROGRAM, artifact.program)


def read(path: AnyPath) -> Artifact:
    """Reads the whole file and verifies its checksums.

    Raises:
      UserError: if the file is missing, damaged, of another kind or of a newer format.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: name one written by --mode=export")
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = _metadata(path, archive)
            program = archive.read(PROGRAM)
            weights: Weights = {
                name.removeprefix(WEIGHTS).removesuffix(".npy"): _array(archive, name)
                for name in archive.namelist()
                if name.startswith(WEIGHTS)
            }
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} is damaged or not an exported network ({type(error).__name__}: {error}): copy it again, or export "
            "the network again"
        ) from error
    return Artifact(metadata, program, weights)


def _metadata(path: AnyPath, archive: zipfile.ZipFile) -> dict[str, Any]:
    if METADATA not in archive.namelist():
        raise UserError(f"{path} is an archive without {METADATA}: name a file written by --mode=export")
    metadata = json.loads(archive.read(METADATA))
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path} is an archive of another kind: name a file written by --mode=export")
    if metadata["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {metadata['format_version']} and this program knows up to {FORMAT_VERSION}: "
            "update cpnet_jax, or export with this version"
        )
    return metadata


def _array(archive: zipfile.ZipFile, name: str) -> Shaped[np.ndarray, "..."]:
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, because the checksum is compared there
    return array
