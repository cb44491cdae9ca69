"""Loads PyTorch weights, from a file or the Hugging Face hub, as tensors by name."""

import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files, processes
from cpnet_jax.weights import hub, input_normalization, layouts, tensor_files
from cpnet_jax.weights.input_normalization import InputNormalization

# Entries under which training programs save the weights.
WRAPPERS = ("state_dict", "model", "model_state_dict")
# Metadata entry of files that --mode=convert wrote from a workdir: the experiment's name.
ORIGIN = "experiment"
# Prefixes of the names in moving averages of a model.
AVERAGES = ("ema_model.", "model_ema.", "ema.")
# Prefixes of the names in models that are wrapped: for several devices, or in a module of Lightning.
PREFIXES = ("module.", "model.", *AVERAGES)
# Parts of the names in modules that are compiled, divided or checkpointed.
WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Counters of torch's and mmengine's moving averages.
COUNTERS = ("n_averaged", "steps")


@dataclass(frozen=True)
class PyTorchWeights:
    """Weights of a PyTorch model.

    Attributes:
      location: file or hub address, for messages.
      tensors: by PyTorch's names; floating-point ones are float32.
      normalization: of the images that they expect.
      metadata: the other text in the file.
      classes: names of the network's classes; empty if the file does not state them.
    """

    location: str
    tensors: dict[str, Shaped[np.ndarray, "..."]]
    normalization: InputNormalization
    metadata: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def trained_here(self) -> bool:
        """Whether --mode=convert wrote them from a workdir."""
        return ORIGIN in self.metadata

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the crops that they were trained with; None if they were not trained here."""
        try:
            height, width = files.parse_json(self.metadata["crop_size"]) if self.trained_here else (None, None)
        except (KeyError, TypeError, ValueError):
            return None
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    @property
    def network(self) -> dict[str, tuple[int, ...]]:
        """Fields of config.model that tensors do not show, as `write_checkpoint` states them; empty if not stated."""
        try:
            stated = files.parse_json(self.metadata["network"]) if self.trained_here else {}
            return {name: tuple(map(int, values)) for name, values in stated.items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}


def read(location: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Loads only the tensors; see `load`."""
    return load(location).tensors


def load(location: str) -> PyTorchWeights:
    """Loads weights that PyTorch wrote.

    Casts floating-point tensors to float32, and ignores other contents of the file and moving averages beside the
    weights; all is reported on stderr.

    Args:
      location: a file of safetensors or of torch.save, on a disk or in a bucket, or hf://ORG/MODEL[@REVISION][/FILE].

    Raises:
      UserError: if the file cannot be read, is damaged, holds no tensors by name, or holds objects that would run code.
    """
    if location.startswith(hub.PREFIX):
        path, card = hub.fetch(location)
    else:
        path = files.as_path(location)
        card = path.with_name(hub.CARD)
    contents, metadata = tensor_files.read(path)
    tensors = _with_plain_names(_unwrapped(contents, location), location)
    normalization = input_normalization.from_metadata(metadata, _read_card(card), location)
    texts = {name: value for name, value in metadata.items() if isinstance(value, str)}
    return PyTorchWeights(location, _as_float32(tensors, location), normalization, texts, _classes(metadata))


def _classes(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the metadata of mmsegmentation 1.x or 0.x, or of --mode=convert; empty if there are none."""
    dataset = metadata.get("dataset_meta")
    found = dataset.get("classes") if isinstance(dataset, Mapping) else metadata.get("CLASSES")
    if found is None and input_normalization.MARK in metadata:
        try:
            found = files.parse_json(metadata.get("classes", "[]"))
        except (TypeError, ValueError):
            found = None
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


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


def _with_plain_names(
    tensors: dict[str, Shaped[np.ndarray, "..."]], location: str
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Removes what wrappers add to the names, and moving averages beside the weights.

    If there are only mmcv's moving averages, they get the names of the weights.
    """
    if _all_start_with("ema_", tensors):
        name_of = layouts.ANY_MMSEGMENTATION.plain_name
        tensors = {name_of(name) or name: tensor for name, tensor in tensors.items()}
    for wrapper in WRAPPED:
        tensors = {name.replace(wrapper, ""): tensor for name, tensor in tensors.items()}
    averages = _averages(tensors)
    if averages:
        more = f" and {len(averages) - 1} more" if len(averages) > 1 else ""
        _report(f"Note: {location}: {min(averages)}{more} not used (moving averages of the weights, or their counters)")
    kept = {name: tensor for name, tensor in tensors.items() if name not in averages}
    while prefix := next((prefix for prefix in PREFIXES if _all_start_with(prefix, kept)), None):
        kept = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    return kept


def _averages(names: Collection[str]) -> set[str]:
    """Those names that belong to moving averages of other tensors, or to their counters."""
    others = {_without_prefixes(name) for name in names if not name.startswith(AVERAGES)}
    underscored = {f"ema_{name.replace('.', '_')}" for name in others}  # mmcv's names
    return {
        name
        for name in names
        if name in COUNTERS or name in underscored or (name.startswith(AVERAGES) and _without_prefixes(name) in others)
    }


def _without_prefixes(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def _all_start_with(prefix: str, names: Collection[str]) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


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
        found = files.parse_json(path.read_bytes()) if path else {}
    except (OSError, ValueError):
        return {}
    known = found.get("pretrained_cfg") if isinstance(found, dict) else None
    return found if isinstance(known, dict) else {}


def _report(line: str) -> None:
    if processes.is_main_process():
        print(line, file=sys.stderr, flush=True)
