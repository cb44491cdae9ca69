"""Files of tensors: safetensors, for which numpy is enough, and what torch.save writes."""

import io
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from jaxtyping import Shaped
from safetensors.numpy import save

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import files

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".bin")
INSTALL_TORCH = "pip install 'cpnet-jax[torch]'"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file holds, tensors as numpy arrays of their own dtype, and its metadata.

    A file of torch.save may hold nested dicts; its metadata are the entry "meta", as mmsegmentation has it.

    Raises:
      UserError: where it is missing, damaged, of another kind, or holds anything that would have to be executed.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: name one that ends with {SAFETENSORS}, {', '.join(TORCH)}")
    check_suffix(path)
    with _local(path) as local:
        if path.suffix == SAFETENSORS:
            return _read_safetensors(local, path)
        contents = _read_torch(local, path)
        metadata = contents.get("meta")
        return contents, metadata if isinstance(metadata, dict) else {}


def write(path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, Any]) -> None:
    """Replaces the file in one step.

    Args:
      path: its suffix decides the format. For torch the tensors stand under "state_dict", the metadata under "meta".
      metadata: for safetensors strings only.

    Raises:
      UserError: on another suffix, where torch is needed and not installed, or where the file cannot be written.
    """
    check_suffix(path)
    # In memory first: a file that safetensors writes nobody else may read, and torch calls a full disk a RuntimeError.
    if path.suffix == SAFETENSORS:
        contents = save(dict(tensors), metadata=dict(metadata))
    else:
        torch, buffer = _torch(path), io.BytesIO()
        state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        torch.save({"meta": dict(metadata), "state_dict": state}, buffer)
        contents = buffer.getbuffer()
    try:
        with files.replacing(path) as temporary:
            temporary.write_bytes(contents)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or _first_sentence(error)}): see to that disk, or name another"
        ) from error


def check_suffix(path: Path) -> None:
    """UserError on a file that is of neither kind by its name."""
    if path.suffix not in (SAFETENSORS, *TORCH):
        raise UserError(f"{path} is of no known kind: its name must end with {SAFETENSORS}, {', '.join(TORCH)}")


def _read_safetensors(local: Path, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        local.open("rb").close()  # safetensors says that a file is missing which only may not be read
        with safetensors.safe_open(local, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except AttributeError as error:  # a dtype that safetensors looks for in numpy
        raise _of_strange_kind(path, error) from error


def _read_torch(local: Path, path: Path) -> dict[str, Any]:
    torch = _torch(path)
    try:
        with warnings.catch_warnings():  # which are for whoever calls torch
            warnings.simplefilter("ignore")
            contents = torch.load(local, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # the instruction that names what to call
            raise _damaged(path, error) from error
        raise UserError(
            f"{path} holds Python objects beside its tensors, and reading them would run code: save its state_dict "
            "alone, on a machine where you trust it (docs/weights.md says how)"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:  # torch has none of its own
        raise _damaged(path, error) from error
    if not isinstance(contents, Mapping):
        raise UserError(f"{path} holds a {type(contents).__name__}, no tensors by name: save a state_dict")
    try:
        return _to_numpy(contents, torch)
    except TypeError as error:
        raise _of_strange_kind(path, error) from error


def _to_numpy(value: Any, torch: Any) -> Any:
    """Tensors wherever they are in it. Raises TypeError on a quantised, a sparse one, an eight-bit float ..."""
    if isinstance(value, Mapping):
        return {str(name): _to_numpy(entry, torch) for name, entry in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()  # older files hold parameters
    if value.dtype == torch.bfloat16:  # which numpy has from elsewhere
        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is PyTorch's, which is not installed: {INSTALL_TORCH}, or give a {SAFETENSORS} file"
        ) from error
    return torch


def _damaged(path: Path, error: Exception) -> UserError:
    # The pickle's are a paragraph on how to run its code.
    reason = "" if isinstance(error, pickle.UnpicklingError) else _first_sentence(error)
    said = ": ".join(filter(None, [type(error).__name__, reason]))
    return UserError(f"{path} is cut off, damaged or something else ({said}): fetch or copy it again")


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or _first_sentence(error)}): see to it, or name another")


def _of_strange_kind(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} holds tensors of a kind that numpy has not ({_first_sentence(error)}): save them as dense float32 ones"
    )


def _first_sentence(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].partition(". ")[0]


@contextmanager
def _local(path: Path) -> Iterator[Path]:
    """The file itself, or a copy where it is in an object store."""
    if not files.is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
        with path.open("rb") as source:
            shutil.copyfileobj(source, copy)
        copy.flush()
        yield Path(copy.name)
