"""Compares what a file of a whole CPNet states about it with the config that is to hold it.

Tensors alone do not show the order of the classes, height and width of the crop, or dilations and pool sizes: others
would load without an error and give wrong results.
"""

import math
import re
from collections.abc import Mapping, Sequence

import ml_collections

from cpnet_jax.errors import UserError
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.weights.convert import AUXILIARY
from cpnet_jax.weights.load import PyTorchWeights

# The kernel of the context prior in the authors' layout; the length of its first axis is the number of positions.
PRIOR_KEY = "decode_head.prior_conv.conv.weight"
AUXILIARY_KEY = f"{AUXILIARY}convs.0.conv.weight"
CLASSIFIER_KEY = "decode_head.conv_seg.weight"
# Fields of config.model that tensors do not show -> the context that they are of; "": of the backbone.
UNSEEN = {"multi_grid": "", "aspp_dilations": "aspp", "pool_sizes": "psp"}
Crop = tuple[int, int]
Numbers = tuple[int, ...]
SHOWN = 2  # names listed in a message; the rest is counted
# A crop proposed to the user is at most this many times longer than wide, if one with that area exists.
LONGEST = 3


def check_crop(found: PyTorchWeights, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the context prior in a file is of another crop than config.data.crop_size."""
    positions, ours, theirs = _length(found, PRIOR_KEY), tuple(config.data.crop_size), found.crop_size
    if not config.model.context_prior or not positions:
        return
    if theirs and theirs != ours:
        raise UserError(
            f"{found.location} was trained with crops of {_values(theirs)} (height, width), and config.data.crop_size "
            f"is {_values(ours)}: set config.data.crop_size={_values(theirs)}"
        )
    if positions != math.prod(ours) // OUTPUT_STRIDE**2:
        fitting = " or ".join(map(_values, crops_of(positions)))
        raise UserError(
            f"{found.location} has a context prior of {positions} positions, and config.data.crop_size={_values(ours)} "
            f"has {math.prod(ours) // OUTPUT_STRIDE**2}: set config.data.crop_size to height and width of the crop "
            f"that it was trained with, {fitting}"
        )


def crop_note(found: PyTorchWeights, config: ml_collections.ConfigDict) -> str | None:
    """What to know if height and width of the crop cannot be compared and might be swapped; None otherwise."""
    height, width = config.data.crop_size
    if not config.model.context_prior or found.crop_size or height == width:
        return None
    return (
        f"{found.location} does not state its crop, which is assumed to be {height} high and {width} wide as in "
        "config.data.crop_size"
    )


def crops_of(positions: int) -> list[Crop]:
    """Crops whose context prior has this many positions, the squarest first: a few that are not too long."""
    sides = [side for side in range(1, math.isqrt(positions) + 1) if positions % side == 0][::-1]
    usual = [side for side in sides if positions // side <= LONGEST * side] or sides[:1]
    pairs = [(side, positions // side) for side in usual[:2]]
    sizes = dict.fromkeys(size for low, high in pairs for size in ((low, high), (high, low)))
    return [(OUTPUT_STRIDE * height, OUTPUT_STRIDE * width) for height, width in sizes]


def check_auxiliary_head(found: PyTorchWeights, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if a file has no auxiliary head, or one of other channels than config.model.aux_channels."""
    ours, theirs = config.model.aux_channels, _length(found, AUXILIARY_KEY)
    of_another_kind = not theirs and any(key.startswith(AUXILIARY) for key in found.tensors)
    if CLASSIFIER_KEY in found.tensors and theirs != ours and not of_another_kind:
        head = f"an auxiliary head of {theirs} channels" if theirs else "no auxiliary head"
        raise UserError(
            f"{found.location} has {head}, and config.model.aux_channels is {ours}: set "
            f"config.model.aux_channels={theirs}"
        )


def unseen(config: ml_collections.ConfigDict) -> dict[str, Numbers]:
    """The fields in UNSEEN that change the network of this config, and their values."""
    context = "" if config.model.context_prior else config.model.context
    return {field: tuple(config.model[field]) for field, part in UNSEEN.items() if part in ("", context)}


def differing_unseen(theirs: Mapping[str, Numbers], ours: Mapping[str, Numbers]) -> dict[str, tuple[Numbers, Numbers]]:
    """(their value, ours) of each field that both know and whose values differ."""
    return {field: (theirs[field], ours[field]) for field in ours if field in theirs and theirs[field] != ours[field]}


def check_unseen(found: PyTorchWeights, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if a file states other dilations or pool sizes than config.model."""
    for field, (theirs, ours) in differing_unseen(found.network, unseen(config)).items():
        raise UserError(
            f"{found.location} was trained with config.model.{field}={_values(theirs)}, and it is {_values(ours)} "
            f"here: set config.model.{field}={_values(theirs)}"
        )


def check_classes(found: PyTorchWeights, classes: Sequence[str], dataset: str) -> None:
    """Raises UserError if a file has another number of classes, most of another name, or another order of them."""
    count = _length(found, CLASSIFIER_KEY)
    if count and count != len(classes):
        raise UserError(
            f"{found.location} has {count} classes and {dataset} has {len(classes)}: name the config of the dataset "
            "that it was trained on, or train from it by config.init.checkpoint"
        )
    different = _different(found.classes, classes)
    if not different:
        return
    ours = {_spelling(name) for name in classes}
    moved = [place for place in different if _spelling(found.classes[place]) in ours]
    advice = (
        "name the config of the dataset that it was trained on; for your own images, list the classes of the file in "
        "their order in the class file"
    )
    if moved:
        names = _names(found.classes, classes, moved[0])
        raise UserError(f"{found.location} has classes of {dataset} in another order ({names}): {advice}")
    if 2 * len(different) > len(classes):
        names = differing_names(found.classes, classes)
        raise UserError(f"{found.location} has other classes than {dataset} ({names}): {advice}")


def classes_note(found: PyTorchWeights, classes: Sequence[str], dataset: str) -> str | None:
    """What to know about a file that `check_classes` accepts although some names differ; None if none do."""
    if names := differing_names(found.classes, classes):
        return f"{found.location} has other names for classes of {dataset}, whose names are used ({names})"
    return None


def differing_names(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Lists the classes whose names differ; "" if none do, or if the numbers of names differ or are unknown."""
    different = _different(theirs, ours)
    names = "; ".join(_names(theirs, ours, place) for place in different[:SHOWN])
    return names + (f"; {len(different) - SHOWN} more differ" if len(different) > SHOWN else "")


def _length(found: PyTorchWeights, key: str) -> int:
    """Length of a tensor's first axis, the channels that it computes; 0 if the file does not have it."""
    tensor = found.tensors.get(key)
    return tensor.shape[0] if tensor is not None and tensor.ndim else 0


def _different(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """Places of the classes whose names differ; none if the file states no names, or not one for each class."""
    if len(theirs) != len(ours):
        return []
    return [place for place in range(len(ours)) if _spelling(theirs[place]) != _spelling(ours[place])]


def _spelling(name: str) -> str:
    """A name without case, spaces and punctuation, in which projects differ: "bed " and "traffic-light"."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _names(theirs: Sequence[str], ours: Sequence[str], place: int) -> str:
    return f"class {place} is {theirs[place]!r} there and {ours[place]!r} here"


def _values(values: Sequence[int]) -> str:
    """A tuple without spaces, so that it needs no more than quotes in a shell."""
    return str(tuple(values)).replace(" ", "")
