"""Weights from a file or the hub as tensors by name, whatever they are wrapped in."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.weights import hub, pixels, tensor_files
from cpnet_jax.weights.pixels import Pixels

# Where training programs put the weights beside what else they save.
WRAPPERS = ("state_dict", "model", "model_state_dict")
# In the metadata of what --mode=convert writes out of a workdir.
ORIGIN = "experiment"
# Of models wrapped for several devices, or compiled.
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Weights:
    """Attributes:
    source: what was asked for, for messages.
    tensors: by the source's own names; floating ones float32.
    pixels: the images they expect.
    metadata: what else the source says, as far as it is text.
    """

    source: str
    tensors: dict[str, Shaped[np.ndarray, "..."]]
    pixels: Pixels
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained_here(self) -> bool:
        """Whether it is a workdir's network, by --mode=convert."""
        return ORIGIN in self.metadata


def read(source: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The tensors of `load`."""
    return load(source).tensors


def load(source: str) -> Weights:
    """Weights that PyTorch made.

    Args:
      source: a .safetensors, .pth, .pt or .bin file, on a disk or in a bucket, or hf://ORG/MODEL[@REVISION][/FILE].

    Floating tensors of another precision than float32 are cast, and what else a file holds is passed over; both are
    said on stderr.

    Raises:
      UserError: where it cannot be had, is damaged, holds no tensors by name, or holds objects that would run code.
    """
    if source.startswith(hub.PREFIX):
        path, card = hub.fetch(source)
    else:
        path = files.as_path(source)
        card = path.with_name(hub.CARD)
    contents, metadata = tensor_files.read(path)
    tensors = _without_prefixes(_unwrapped(contents, source))
    expected = pixels.described(metadata, _card(card), source)
    told = {name: value for name, value in metadata.items() if isinstance(value, str)}
    return Weights(source, _as_float32(tensors, source), expected, told)


def _unwrapped(contents: Mapping[str, Any], source: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    for wrapper in WRAPPERS:
        if isinstance(contents.get(wrapper), Mapping):
            beside = sorted(set(contents) - {wrapper, "meta"})
            if beside:
                _say(f"{source}: its {wrapper!r} is read; beside it are {', '.join(map(str, beside))}")
            return _unwrapped(contents[wrapper], source)
    strange = [str(name) for name, value in contents.items() if not isinstance(value, np.ndarray)]
    if strange or not contents:
        what = f"has {', '.join(strange[:4])}, which are no tensors" if strange else "is empty"
        raise UserError(f"{source} {what}: save the model's state_dict alone")
    return dict(contents)


def _without_prefixes(
    tensors: dict[str, Shaped[np.ndarray, "..."]],
) -> dict[str, Shaped[np.ndarray, "..."]]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _as_float32(tensors: dict[str, Shaped[np.ndarray, "..."]], source: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    # numpy's own kinds leave out bfloat16.
    other = {
        name: tensor.dtype.name
        for name, tensor in tensors.items()
        if "float" in tensor.dtype.name and tensor.dtype != np.float32
    }
    for dtype, count in sorted(Counter(other.values()).items()):
        _say(f"{source}: {count} tensors are {dtype} and cast to float32")
    return {name: tensor.astype(np.float32) if name in other else tensor for name, tensor in tensors.items()}


def _card(path: Path | None) -> dict[str, Any]:
    """What timm writes beside the file; empty where nothing of the kind is there."""
    try:
        found = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    known = found.get("pretrained_cfg") if isinstance(found, dict) else None
    return found if isinstance(known, dict) else {}


def _say(line: str) -> None:
    if processes.is_main_process():
        print(line, file=sys.stderr, flush=True)
