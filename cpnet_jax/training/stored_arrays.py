"""Compares what a checkpoint says of its arrays with the arrays that are wanted, before any memory is allocated."""

import json
from collections.abc import Iterator
from typing import Any

import jax
import tensorstore
from etils import epath
from jaxtyping import PyTree

from cpnet_jax.runtime import files

# Orbax keeps all arrays in one key-value store. In it, zarr describes each array under this key.
DESCRIPTION = "/.zarray"
# Bytes of the store's index to keep, so that an object store is not asked for it once for each array.
INDEX_BYTES = 10**8


def check(folder: epath.Path, like: PyTree) -> None:
    """Checks shapes, types and chunks of arrays in a checkpoint. Arrays that it lacks are not checked.

    Orbax would convert other types silently, and TensorStore allocates whole chunks, whatever their size.

    Args:
      folder: the "state" folder of a checkpoint.
      like: the wanted shapes and dtypes.

    Raises:
      ValueError: if an array is another one, or the store cannot be read.
    """
    wanted = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(like)
    }
    for name, found in _descriptions(folder, list(wanted)):
        if problem := _problem(found, wanted[name]):
            raise ValueError(f"{name.replace('.', '/')} {problem}")


def _descriptions(folder: epath.Path, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Pairs of an array's name and its description, for the arrays that exist; not valid JSON becomes None."""
    base = str(folder) if files.is_remote(folder) else folder.absolute().as_uri()
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": INDEX_BYTES}})
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"{base}/"}, context=context).result()
    reads = [(name, store.read(name + DESCRIPTION)) for name in names]
    for name, read in reads:
        result = read.result()
        if result.state != "value":
            continue
        try:
            yield name, json.loads(result.value)
        except (ValueError, RecursionError):
            yield name, None


def _problem(found: Any, wanted: Any) -> str | None:
    """What is wrong with the description of an array."""
    if not isinstance(found, dict):
        return "has a damaged description"
    shape, chunks, dtype = list(wanted.shape), found.get("chunks"), found.get("dtype")
    if found.get("shape") != shape:
        return f"is of shape {_shown(found.get('shape'))} and should be of {shape}"
    if dtype not in (wanted.dtype.str, wanted.dtype.name):
        return f"is of type {_shown(dtype)} and should be of {wanted.dtype.name}"
    if not isinstance(chunks, list) or len(chunks) != len(shape) or not all(map(_is_part, chunks, shape)):
        return f"has chunks of shape {_shown(chunks)}, which are no parts of {shape}"
    return None


def _is_part(side: Any, whole: int) -> bool:
    return type(side) is int and 0 < side <= max(whole, 1)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
