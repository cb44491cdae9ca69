"""Converts PyTorch tensors to Flax variables and back, by the tables in `layouts`.

One error lists everything that does not fit.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Shaped

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import processes
from cpnet_jax.weights import layouts
from cpnet_jax.weights.architecture import ResNetKind, describe_network, resnet_kind
from cpnet_jax.weights.rules import Layout, Rule

Tensors = Mapping[str, Shaped[np.ndarray, "..."]]
# {"params": ..., "batch_stats": ...}: nested dicts of arrays, or of anything with a shape and a dtype.
Variables = dict[str, Any]

SHOWN = 4  # names listed in an error; the rest is counted
AUXILIARY = "auxiliary_head."


def backbone_variables(
    tensors: Tensors, *, like: Variables, skip: Sequence[str] = (), name: str = "the weights"
) -> Variables:
    """Converts an ImageNet ResNet of torchvision, open-mmlab (v1c) or timm to the variables of a backbone.

    The layout is recognised by the tensors' names. The ImageNet classifier is dropped, with a line on stderr. Names may
    have the prefix of mmpretrain's classifiers, "backbone.".

    Args:
      tensors: by PyTorch's names, as `read` returns them.
      like: shapes and dtypes of the backbone's variables: {"params": {"stem1": ...}, "batch_stats": ...}.
      skip: regular expressions. A variable whose whole path ("backbone/stem1/conv/kernel") matches one of them is not
        converted and not returned.
      name: of the file, for messages.

    Returns:
      numpy arrays, nested like `like`.

    Raises:
      UserError: if the tensors are another network's, or if tensors are missing, left over, of another shape, not
        floating-point or not finite. The message lists them.
    """
    tensors = _without_classifier(tensors, name)
    inside = {collection: {"backbone": tree} for collection, tree in like.items()}
    wanted = _flat(inside)
    deep = "params/backbone/stem2/conv/kernel" in wanted
    layout = (layouts.TIMM_DEEP if "conv1.0.weight" in tensors else layouts.OPEN_MMLAB) if deep else layouts.TORCHVISION
    kind = resnet_kind(tensors)
    if kind is None:
        raise UserError(
            f"{name} holds {describe_network(tensors)}: name an ImageNet ResNet of torchvision, timm or open-mmlab"
        )
    _check_kind(kind, _kind_of(wanted, layout), name)
    found = _to_variables(tensors, layout, wanted, skip, name)
    return {collection: found.get(collection, {}).get("backbone", {}) for collection in like}


def cpnet_variables(
    tensors: Tensors, *, like: Variables, skip: Sequence[str] | None = (), name: str = "the weights"
) -> Variables:
    """Converts a whole CPNet of the authors' code on mmsegmentation (0.x or 1.x) to variables.

    A network without context prior is read from mmsegmentation's head of the same kind: FCNHead or, with a context
    module, PSPHead, ASPPHead or NLHead. Arguments, result and errors are those of `backbone_variables`, except that
    errors do not propose to skip variables if `skip` is None.
    """
    wanted = _flat(like)
    layout = layouts.mmsegmentation(wanted)
    if not any(key.startswith("decode_head.") for key in tensors):
        plain = _without_classifier(tensors, name)
        way_out = f", or train from this backbone by config.init.backbone={name}" if resnet_kind(plain) else ""
        raise UserError(
            f"{name} holds {describe_network(plain)}: name a whole CPNet in the layout of mmsegmentation{way_out}"
        )
    kind = resnet_kind(_without(layouts.BACKBONE, tensors))
    if kind is None:
        raise UserError(f"{name} has a backbone that is not a ResNet: name a CPNet in the layout of mmsegmentation")
    _check_kind(kind, _kind_of(wanted, layout, layouts.BACKBONE), name)
    return _to_variables(tensors, layout, wanted, skip, name)


def cpnet_tensors(variables: Variables, *, batches_tracked: int) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Converts the variables of a CPNet to the tensors of the authors' code: the inverse of `cpnet_variables`.

    Args:
      variables: {"params": ..., "batch_stats": ...} of a CPNet.
      batches_tracked: value of the BatchNorms' counters, the number of training steps. PyTorch reads them only if a
        BatchNorm's momentum is None.
    """
    flat = _flat(variables)
    return to_tensors(flat, layouts.mmsegmentation(flat), batches_tracked=batches_tracked)


def to_tensors(
    flat: Mapping[str, Any], layout: Layout, *, batches_tracked: int
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Converts variables, given by path ("params/backbone/stem1/conv/kernel"), to the tensors of a layout.

    Raises:
      ValueError: if the layout has no tensor for a variable.
    """
    tensors = {}
    for path, variable in flat.items():
        place = layout.to_theirs(path)
        if place is None:
            raise ValueError(f"{path} has no place in the layout of {layout.name}")
        key, rule = place
        tensors[key] = np.ascontiguousarray(rule.to_theirs(np.asarray(variable)))
        for counter in layout.counters(path):
            tensors[counter] = np.asarray(batches_tracked, np.int64)
    return tensors


def _without_classifier(tensors: Tensors, name: str) -> Tensors:
    """The ResNet, under its own names, if these are the tensors of a classifier of mmpretrain or of its backbone."""
    backbone = {key.removeprefix(layouts.BACKBONE): key for key in tensors if key.startswith(layouts.BACKBONE)}
    others = sorted(tensors.keys() - backbone.values())
    if not resnet_kind(backbone) or not all(key.startswith("head.") for key in others):
        return tensors
    if others:
        _report(f"Note: {name}: {', '.join(others)} not used (the ImageNet classifier)")
    return {key: tensors[theirs] for key, theirs in backbone.items()}


def _to_variables(
    tensors: Tensors, layout: Layout, wanted: Mapping[str, Any], skip: Sequence[str] | None, name: str
) -> Variables:
    skips = [re.compile(pattern) for pattern in skip or ()]

    def skipped(path: str | None) -> bool:
        return path is not None and any(pattern.fullmatch(path.partition("/")[2]) for pattern in skips)

    places = {path: layout.to_theirs(path) for path in wanted if not skipped(path)}
    missing = [path if place is None else place[0] for path, place in places.items()]
    missing = [key for key in missing if key not in tensors]
    used = {place[0] for place in places.values() if place}
    rest = [key for key in tensors if key not in used and not layout.is_counter(key)]
    unused = {key: what for key in rest if (what := layout.unused(key))}
    left_over = [key for key in rest if key not in unused and not skipped(layout.to_ours(key))]
    present = {path: place for path, place in places.items() if place and place[0] in tensors}
    unfit = {
        path: f"{key} {why}"
        for path, (key, rule) in present.items()
        if (why := _why_unfit(key, tensors[key], _shape_there(rule, wanted[path].shape)))
    }
    if missing or left_over or unfit:
        raise UserError(_mismatch(name, missing, left_over, unfit, can_skip=skip is not None))
    if unused:
        what = ", ".join(sorted(set(unused.values())))
        _report(f"{name}: {', '.join(sorted(unused))} not used ({what})")
    found = {
        path: np.ascontiguousarray(rule.to_ours(tensors[key]).astype(wanted[path].dtype, copy=False))
        for path, (key, rule) in present.items()
    }
    return unflatten_dict(found, sep="/")


def _why_unfit(key: str, tensor: Shaped[np.ndarray, "..."], shape: tuple[int, ...]) -> str | None:
    """Reason why the tensor cannot become a variable of that shape; None if it can."""
    if tensor.shape != shape:
        return f"is {_times(tensor.shape)} and should be {_times(shape)}"
    if not np.issubdtype(tensor.dtype, np.floating):
        return f"is of {tensor.dtype} and should be of float32"
    if not np.isfinite(tensor).all():
        return "has non-finite values"
    if key.endswith("running_var") and tensor.min(initial=0) < 0:
        return "has negative variances"
    return None


def _mismatch(name: str, missing: list[str], left_over: list[str], unfit: dict[str, str], *, can_skip: bool) -> str:
    """Error message about all tensors that do not fit."""
    if not unfit and not left_over and all(key.startswith(AUXILIARY) for key in missing):
        to_train = ", or config.init.skip=('aux_head/.*',) to train a new one" if can_skip else ""
        return f"{name} has no auxiliary head: set config.model.aux_channels=0{to_train}"
    problems = []
    if unfit:
        problems.append(_shortened(sorted(unfit.values())))
    if missing:
        problems.append(f"{len(missing)} missing: {_shortened(sorted(missing))}")
    if left_over:
        problems.append(f"{len(left_over)} that it does not have: {_shortened(sorted(left_over))}")
    modules = sorted({path.partition("/")[2].rpartition("/")[0] for path in unfit})
    to_skip = ",".join(f"'{module}/.*'" for module in modules)
    advice = "name weights of the same network, or change the config to theirs"
    if can_skip and 0 < len(modules) <= SHOWN:
        advice += f"; to train from the rest, config.init.skip=({to_skip},)"
    return f"{name} does not fit the network ({'; '.join(problems)}): {advice}"


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_kind(theirs: ResNetKind, ours: ResNetKind, name: str) -> None:
    if theirs == ours:
        return
    changes = [f"config.model.depth={theirs.depth}"] * (theirs.depth != ours.depth)
    changes += [f"config.model.stem={theirs.stem}"] * (theirs.stem != ours.stem)
    can_change = theirs.depth in (18, 34, 50, 101)
    raise UserError(
        f"{name} holds {theirs} and the network has {ours}: name weights of the same architecture"
        + (f", or set {' and '.join(changes)}" if can_change else "")
    )


def _kind_of(wanted: Iterable[str], layout: Layout, prefix: str = "") -> ResNetKind:
    keys = [place[0] for path in wanted if (place := layout.to_theirs(path))]
    kind = resnet_kind(_without(prefix, keys))
    assert kind is not None, "the backbone of every CPNet is a ResNet"
    return kind


def _without(prefix: str, keys: Iterable[str]) -> list[str]:
    return [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]


def _report(line: str) -> None:
    if processes.is_main_process():
        print(line, file=sys.stderr, flush=True)


def _flat(variables: Variables) -> dict[str, Any]:
    return flatten_dict({name: variables[name] for name in ("params", "batch_stats")}, sep="/")


def _shape_there(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    return rule.to_theirs(np.broadcast_to(np.float32(0), shape)).shape


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
