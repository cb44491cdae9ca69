"""Loads PyTorch weights, from a file or the Hugging Face hub, as tensors by name."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.weights import hub, input_normalization, tensor_files
from cpnet_jax.weights.input_normalization import InputNormalization

# Entries under which training programs save the weights.
WRAPPERS = ("state_dict", "model", "model_state_dict")
# Metadata entry of files that --mode=convert wrote from a workdir: the experiment's name.
ORIGIN = "experiment"
# Prefixes of the names in models wrapped for several devices, or compiled.
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class PyTorchWeights:
    """Weights of a PyTorch model.

    Attributes:
      location: file or hub address, for messages.
      tensors: by PyTorch's names; floating-point ones are float32.
      normalization: of the images that they expect.
      metadata: the other text in the file.
    """

    location: str
    tensors: dict[str, Shaped[np.ndarray, "..."]]
    normalization: InputNormalization
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def trained_here(self) -> bool:
        """Whether --mode=convert wrote them from a workdir."""
        return ORIGIN in self.metadata


def read(location: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Loads only the tensors; see `load`."""
    return load(location).tensors


def load(location: str) -> PyTorchWeights:
    """Loads weights that PyTorch wrote.

    Casts floating-point tensors to float32 and ignores other contents of the file; both are reported on stderr.

    Args:
      location: a .safetensors, .pth, .pt or .bin file, on a disk or in a bucket, or hf://ORG/MODEL[@REVISION][/FILE].

    Raises:
      UserError: if the file cannot be read, is damaged, holds no tensors by name, or holds objects that would run code.
    """
    if location.startswith(hub.PREFIX):
        path, card = hub.fetch(location)
    else:
        path = files.as_path(location)
        card = path.with_name(hub.CARD)
    contents, metadata = tensor_files.read(path)
    tensors = _without_prefixes(_unwrapped(contents, location))
    normalization = input_normalization.from_metadata(metadata, _read_card(card), location)
    texts = {name: value for name, value in metadata.items() if isinstance(value, str)}
    return PyTorchWeights(location, _as_float32(tensors, location), normalization, texts)


def _unwrapped(contents: Mapping[str, Any], location: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    for wrapper in WRAPPERS:
        if isinstance(contents.get(wrapper), Mapping):
            beside = sorted(set(contents) - {wrapper, "meta"})
            if beside:
                _report(f"{location}: reading {wrapper!r}, ignoring {', '.join(map(str, beside))}")
            return _unwrapped(contents[wrapper], location)
    strange = [str(name) for name, value in contents.items() if not isinstance(value, np.ndarray)]
    if strange or not contents:
        problem = f"has {', '.join(strange[:4])}, which are not tensors" if strange else "is empty"
        raise UserError(f"{location} {problem}: save only the model's state_dict")
    return dict(contents)


def _without_prefixes(
    tensors: dict[str, Shaped[np.ndarray, "..."]],
) -> dict[str, Shaped[np.ndarray, "..."]]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _as_float32(tensors: dict[str, Shaped[np.ndarray, "..."]], location: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    # By name, since numpy does not count bfloat16 as floating-point.
    other = {
        name: tensor.dtype.name
        for name, tensor in tensors.items()
        if "float" in tensor.dtype.name and tensor.dtype != np.float32
    }
    for dtype, count in sorted(Counter(other.values()).items()):
        _report(f"{location}: {count} {dtype} tensors cast to float32")
    return {name: tensor.astype(np.float32) if name in other else tensor for name, tensor in tensors.items()}


def _read_card(path: files.AnyPath | None) -> dict[str, Any]:
    """Contents of timm's config.json beside the file; empty without one."""
    try:
        found = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    known = found.get("pretrained_cfg") if isinstance(found, dict) else None
    return found if isinstance(known, dict) else {}


def _report(line: str) -> None:
    if processes.is_main_process():
        print(line, file=sys.stderr, flush=True)
