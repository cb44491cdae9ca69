"""Reads and writes files of tensors: safetensors, and those of torch.save, which need PyTorch.

Files to read are recognised by their first bytes, since those of torch.save have many suffixes: .pth.tar, .ckpt.
"""

import errno
import io
import pickle
import pickletools
import shutil
import tempfile
import warnings
import zipfile
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
from cpnet_jax.runtime.files import AnyPath

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".bin")
INSTALL_TORCH = "pip install torch"
# Parts of torch's messages about objects in a pickle: the instruction that names what to call, and that with a state.
REFUSED = ("GLOBAL", "Can only build")
# First bytes of files of torch.save: a zip archive, or a pickle in older ones.
PICKLE_START = b"\x80"
TORCH_STARTS = (b"PK\x03\x04", PICKLE_START)
# The pickles of an older file up to the one with the state_dict.
LEGACY_PICKLES = 4
LARGEST_HEADER = 10**8  # bytes, of a file of safetensors
# Other files that people name: the place of some bytes, the bytes, what the file is, and what to do.
OTHER_KINDS = (
    (0, b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "run git lfs pull where it is"),
    (0, b"<", "is a web page, not weights", "download the file itself, as the page's download button does"),
    (0, b"\x1f\x8b", "is a compressed archive", "unpack it and name the file of weights in it"),
    (257, b"ustar", "is an archive", "unpack it and name the file of weights in it"),
)


def check_exists(path: AnyPath) -> None:
    """Raises UserError if a path is not a file."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: name one that ends with {SAFETENSORS}, {', '.join(TORCH)}")


def read(path: AnyPath) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the contents of a file, tensors as numpy arrays of the same dtype, and its metadata.

    A file of torch.save may hold nested dicts; its metadata is the entry "meta", as in mmsegmentation.

    Raises:
      UserError: if the file is missing, damaged, of another kind, or holds objects that would run code.
    """
    check_exists(path)
    with _local(path) as local:
        if _is_safetensors(local, path):
            return _read_safetensors(local, path)
        contents = _read_torch(local, path)
        metadata = contents.get("meta")
        return contents, metadata if isinstance(metadata, dict) else {}


def write(path: AnyPath, tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, Any]) -> None:
    """Writes a file atomically; an existing one is replaced.

    Args:
      path: its suffix selects the format. For torch, tensors are under "state_dict" and metadata under "meta".
      metadata: strings only, for safetensors.

    Raises:
      UserError: if the suffix is unknown, torch is needed and not installed, or the file cannot be written.
    """
    check_suffix(path)
    # In memory first: safetensors makes its files private, and torch raises RuntimeError on a full disk.
    if path.suffix == SAFETENSORS:
        contents = save(dict(tensors), metadata=dict(metadata))
    else:
        torch, buffer = _torch(path), io.BytesIO()
        state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        torch.save({"meta": dict(metadata), "state_dict": state}, buffer)
        contents = buffer.getvalue()
    try:
        with files.replacing(path) as temporary:
            temporary.write_bytes(contents)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or _first_sentence(error)}): free space or fix permissions, "
            "or name another file"
        ) from error


def check_suffix(path: AnyPath) -> None:
    """Raises UserError if the file's name ends with none of the known suffixes."""
    if path.suffix not in (SAFETENSORS, *TORCH):
        raise UserError(f"{path} has an unknown suffix: its name must end with {SAFETENSORS}, {', '.join(TORCH)}")


def _is_safetensors(local: AnyPath, path: AnyPath) -> bool:
    """Whether a file holds safetensors, otherwise it is one of torch.save; by its suffix if it is damaged.

    Raises:
      UserError: if it is of another kind.
    """
    try:
        with local.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error
    # First, since the length of its header, the first 8 bytes, can begin like any other file.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER:
        return True
    for place, other, problem, advice in OTHER_KINDS:
        if start[place:].lstrip().startswith(other):
            raise UserError(f"{path} {problem}: {advice}")
    if start.startswith(TORCH_STARTS):
        return False
    check_suffix(path)
    return path.suffix == SAFETENSORS


def _read_safetensors(local: AnyPath, path: AnyPath) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safetensors.safe_open(local, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise _damaged(path) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except AttributeError as error:  # numpy lacks the dtype
        raise _unsupported(path, error) from error


def _is_cut_off(local: AnyPath) -> bool:
    """Whether a file of torch's older format ends inside one of its first pickles.

    Torch refuses a name that is cut off like that of an object it does not know.
    """
    with local.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            start = file.tell()
            if file.read(1) != PICKLE_START:
                return False
            file.seek(start)
            try:
                for _ in pickletools.genops(file):
                    pass
            except ValueError:
                return True
    return False


def _read_torch(local: AnyPath, path: AnyPath) -> dict[str, Any]:
    torch = _torch(path)
    if _is_torchscript(local):
        raise UserError(
            f"{path} is a TorchScript program, and reading it would run code: if you trust it, save only its "
            "state_dict (docs/weights.md shows how)"
        )
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.simplefilter("ignore")  # torch's warnings are about its API
            with local.open("rb") as file:  # given a path, torch takes the format from its suffix
                contents = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_cut_off(local) or not any(refused in str(error) for refused in REFUSED):
            raise _damaged(path) from error
        raise UserError(
            f"{path} holds Python objects besides tensors, and reading them would run code: if you trust it, save only "
            "its state_dict (docs/weights.md shows how)"
        ) from error
    except OSError as error:
        # torch seeks to places before the start of archives that are not its own.
        raise (_damaged(path) if error.errno == errno.EINVAL else _unreadable(path, error)) from error
    except Exception as error:  # torch has no error class for this, and instructions of a damaged file may do anything
        raise _damaged(path) from error
    if not isinstance(contents, Mapping):
        raise UserError(f"{path} holds a {type(contents).__name__}, not tensors by name: save a state_dict")
    try:
        return _to_numpy(contents, torch)
    except TypeError as error:
        raise _unsupported(path, error) from error


def _is_torchscript(local: AnyPath) -> bool:
    try:
        with zipfile.ZipFile(local) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _numpy_scalars() -> list[Any]:
    """What a pickle needs to hold numpy's numbers, such as the best score in mmcv's files; none of it runs code."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in np.typecodes["AllFloat"] + np.typecodes["AllInteger"] + "?"]
    # numpy 1 called the module numpy.core.
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _to_numpy(value: Any, torch: Any) -> Any:
    """Converts all tensors in nested dicts. Raises TypeError on quantised, sparse and 8-bit ones."""
    if isinstance(value, Mapping):
        return {str(name): _to_numpy(entry, torch) for name, entry in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()  # older files hold nn.Parameter
    if value.dtype == torch.bfloat16:  # numpy has no bfloat16, ml_dtypes has
        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _torch(path: AnyPath) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} needs PyTorch, which is not installed: {INSTALL_TORCH}, or use a {SAFETENSORS} file"
        ) from error
    return torch


def _damaged(path: AnyPath) -> UserError:
    # What the libraries say about such files is of their internals, such as PytorchStreamReader.
    return UserError(f"{path} is truncated, damaged or another kind of file: download or copy it again")


def _unreadable(path: AnyPath, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({error.strerror or _first_sentence(error)}): fix its permissions, or name another file"
    )


def _unsupported(path: AnyPath, error: Exception) -> UserError:
    return UserError(
        f"{path} holds tensors that numpy cannot hold ({_first_sentence(error)}): save them as dense float32 ones"
    )


def _first_sentence(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].partition(". ")[0]


@contextmanager
def _local(path: AnyPath) -> Iterator[AnyPath]:
    """Yields the path itself, or that of a temporary copy if it is in an object store."""
    if not files.is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
        with path.open("rb") as remote:
            shutil.copyfileobj(remote, copy)
        copy.flush()
        yield Path(copy.name)
