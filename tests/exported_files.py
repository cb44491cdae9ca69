"""Small exported networks: whole ones, changed ones, and randomly damaged ones with right checksums."""

import copy
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cpnet_jax.inference.export import artifact
from cpnet_jax.inference.export.artifact import METADATA, PROGRAM, Artifact
from cpnet_jax.inference.export.program import PLATFORMS, class_map, serialise

CROP = (16, 24)
WEIGHTS = {
    "params/scale": np.ones(3, np.float32),
    "params/classifier/kernel": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
}
DESCRIBED = {
    "dataset": "lake",
    "classes": ["water", "sand", "boat", "sky"],
    "palette": [[0, 0, 255], [255, 255, 0], [255, 0, 0], [0, 255, 255]],
    "ignore_label": 255,
    "crop_size": list(CROP),
    "output_stride": 8,
    "mean": [120.0, 110.0, 100.0],
    "std": [50.0, 60.0, 70.0],
    "value_range": [0, 4095],
    "origin": {"experiment": "x", "step": 7, "eval": {"multi_scale": False, "scales": [0.5, 1.0], "flip": True}},
    "platforms": list(PLATFORMS),
    "versions": {"cpnet_jax": "0", "jax": jax.__version__},
    "date": "2026-01-01T00:00:00+00:00",
}
# Values that metadata never have.
STRANGE = (
    *(None, True, -1, 0, 1, 7, 2**31, 10**400, 0.5, -1e300, float("nan"), float("inf"), "", "\ud800", "x" * 10_000),
    *([], [[]], {}, [1e9] * 3, [8, 8], ["a"], {"scales": []}, {"scales": "x", "batch_size": []}),
)


def network(weights: Any, windows: Any) -> dict[str, Any]:
    """A network of one pixel's colour."""
    pixels = windows[:, ::8, ::8].astype(jnp.float32) * weights["params/scale"]
    logits = pixels @ weights["params/classifier/kernel"]
    return {"logits": logits, "classes": class_map(logits, windows.shape[1:3])}


def network_of_any_size(weights: Any, images: Any, real: Any) -> dict[str, Any]:
    return network(weights, images * real[:, :1, :1, None])


def program(function: Any = network, weights: Any = WEIGHTS) -> bytes:
    return serialise(function, weights, CROP)


def program_of_any_size(function: Any = network_of_any_size, weights: Any = WEIGHTS) -> bytes:
    return serialise(function, weights, None)


def whole(changed_program: bytes | None = None, weights: Any = WEIGHTS, **described: Any) -> bytes:
    """The bytes of an exported file with changed parts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.cpnet"
        artifact.write(path, Artifact({**DESCRIBED, **described}, changed_program or program(), weights))
        return path.read_bytes()


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Damages the archive, its metadata, or an entry other than the program.

    The program is left out: native code of JAX reads it, which some damages crash.
    """
    if rng.random() < 0.25:
        return _flipped(data, rng)
    entries = entries_of(data)
    if rng.random() < 0.6:
        metadata = entries[METADATA]
        entries[METADATA] = _flipped(metadata, rng) if rng.random() < 0.2 else mutated_json(metadata, rng)
        return packed(list(entries.items()))
    names = [name for name in entries if name != PROGRAM]
    name = names[rng.integers(0, len(names))]
    listed = dict(entries)
    match rng.integers(0, 5):
        case 0:
            del listed[name]
        case 1:
            listed[name + str(rng.choice(["x", "/../a", "\n", ".npy"]))] = listed.pop(name)
        case 2:
            return packed(list(entries.items()), int(rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])))
        case _:
            listed[name] = _flipped(listed[name], rng)
    return packed(list(listed.items()))


def mutated_json(text: bytes, rng: np.random.Generator) -> bytes:
    """A JSON object with a strange value in any place."""
    described = copy.deepcopy(json.loads(text))
    holder: Any = described
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = keys[rng.integers(0, len(keys))]
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.5:
            break
        holder = holder[key]
    holder[key] = STRANGE[rng.integers(0, len(STRANGE))]
    return json.dumps(described).encode()


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice([1, 2, 4])):
        content[rng.integers(0, len(content))] = int(rng.integers(0, 256))
    return bytes(content)
