"""The file of an exported network: a zip archive, nothing in it compressed.

    metadata.json       what the network knows and expects
    model.stablehlo     the function (weights, windows) -> outputs, as `jax.export` serialises it
    weights/NAME.npy    its weights, one array each

It is also what numpy calls an .npz file: `numpy.load` gives the arrays, and the other two entries as bytes. The weights
stand apart because as constants of the function they would be compiled into it: four times slower, twice the memory.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cpnet_jax.errors import UserError

FORMAT = "cpnet_jax exported network"
# One more whenever a reader of this version could misread the file.
FORMAT_VERSION = 1

METADATA, PROGRAM, WEIGHTS = "metadata.json", "model.stablehlo", "weights/"

Weights = dict[str, Shaped[np.ndarray, "..."]]


@dataclass(frozen=True)
class Artifact:
    """What the file holds.

    Attributes:
      metadata: see docs/export.md; `format` and `format_version` are the file's own business and added to it.
      program: a serialised `jax.export.Exported`.
      weights: by names like "params/head/classifier/kernel".
    """

    metadata: dict[str, Any]
    program: bytes
    weights: Weights


def write(path: Path, artifact: Artifact) -> None:
    """Writes the file where it is named, whatever is there."""
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, **artifact.metadata}
    with path.open("wb") as file:
        np.savez(file, **{f"{WEIGHTS}{name}": array for name, array in artifact.weights.items()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata, indent=2))
        archive.writestr(PROGRAM, artifact.program)


def read(path: Path) -> Artifact:
    """Reads the file whole; its checksums are verified.

    Raises:
      UserError: where it is missing, damaged, something else, or of a newer format.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: name what --mode=export has written")
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = _metadata(path, archive)
            program = archive.read(PROGRAM)
            weights = {
                name.removeprefix(WEIGHTS).removesuffix(".npy"): _array(archive, name)
                for name in archive.namelist()
                if name.startswith(WEIGHTS)
            }
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} is damaged or no exported network ({type(error).__name__}: {error}): copy it again, or export anew"
        ) from error
    return Artifact(metadata, program, weights)


def _metadata(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if METADATA not in archive.namelist():
        raise UserError(
            f"{path} is an archive of something else, without {METADATA}: name what --mode=export has written"
        )
    metadata = json.loads(archive.read(METADATA))
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path} is an archive of something else: name what --mode=export has written")
    if metadata["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {metadata['format_version']} and this program knows up to {FORMAT_VERSION}: "
            "update cpnet_jax, or export with this version"
        )
    return metadata


def _array(archive: zipfile.ZipFile, name: str) -> Shaped[np.ndarray, "..."]:
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, where the checksum is compared
    return array
