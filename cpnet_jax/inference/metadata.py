"""Types and ranges of what a file says about its network: one table, for exported files and checkpoints.

Files may come from strangers. Their metadata are checked before anything is allocated or computed from them.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from cpnet_jax.config import experiments
from cpnet_jax.config.check import check_config
from cpnet_jax.config.ranges import LARGEST_CROP
from cpnet_jax.config.same_run import FREE_SECTIONS
from cpnet_jax.models.cpnet import OUTPUT_STRIDE

LONGEST_TEXT = 1000  # characters
MOST_CLASSES = 255
LARGEST_NUMBER = 1e30  # far from the largest float32
LARGEST_STEP = 2**53  # JSON has no larger whole number that every reader keeps


class Type(NamedTuple):
    """A type of JSON values.

    Attributes:
      accepts: whether a value is of the type.
      description: what a value must be, for messages.
    """

    accepts: Callable[[Any], bool]
    description: str


def whole(low: int, high: int, multiple: int = 1) -> Type:
    """Whole numbers from `low` to `high`, multiples of `multiple`."""
    kind = f"a multiple of {multiple}" if multiple > 1 else "a whole number"
    return Type(
        lambda value: type(value) is int and low <= value <= high and value % multiple == 0,
        f"{kind} from {low} to {high}",
    )


def number(low: float, high: float) -> Type:
    """Numbers from `low` to `high`, which are finite."""
    return Type(
        lambda value: type(value) in (int, float) and low <= value <= high,  # integers of any size can be compared
        f"a number from {low:g} to {high:g}",
    )


def items(entry: Type, fewest: int, most: int) -> Type:
    """Lists of `fewest` to `most` values of one type."""
    count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return Type(
        lambda value: isinstance(value, list) and fewest <= len(value) <= most and all(map(entry.accepts, value)),
        f"a list of {count} entries, each {entry.description}",
    )


def or_null(entry: Type) -> Type:
    """Values of a type, and null."""
    return Type(lambda value: value is None or entry.accepts(value), f"null or {entry.description}")


def _is_text(value: Any) -> bool:
    # JSON can hold surrogates, which have no UTF-8.
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_TEXT
        and not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    )


TEXT = Type(_is_text, f"a text of 1 to {LONGEST_TEXT} characters")
FLAG = Type(lambda value: isinstance(value, bool), "true or false")
SECTION = Type(lambda value: isinstance(value, dict), "an object")
NUMBER = number(-LARGEST_NUMBER, LARGEST_NUMBER)

# Names of experiments are names of files and folders, too.
NAME = Type(
    lambda value: _is_text(value) and value.isprintable() and "/" not in value,
    f"a name of 1 to {LONGEST_TEXT} printable characters without a slash",
)
CROP = items(whole(OUTPUT_STRIDE, LARGEST_CROP, OUTPUT_STRIDE), 2, 2)
MEAN = items(NUMBER, 3, 3)
STD = items(number(1e-6, 1e6), 3, 3)

# What prediction needs to know of the training data. Entries that may be null may also be missing.
TRAINED_ON = {
    "classes": items(TEXT, 1, MOST_CLASSES),
    "palette": items(items(whole(0, 255), 3, 3), 1, MOST_CLASSES),
    "ignore_label": whole(0, 255),
    "value_range": or_null(items(NUMBER, 2, 2)),
}
EXPORTED = {
    **TRAINED_ON,
    "dataset": TEXT,
    "crop_size": CROP,
    "any_size": or_null(FLAG),
    "output_stride": whole(OUTPUT_STRIDE, OUTPUT_STRIDE),
    "mean": MEAN,
    "std": STD,
    "platforms": items(TEXT, 1, 16),
    "date": TEXT,
    "versions": SECTION,
    "versions.jax": TEXT,
    "origin": SECTION,
    "origin.experiment": NAME,
    "origin.step": whole(0, LARGEST_STEP),
    "origin.eval": or_null(SECTION),
}
# The description of a run in a checkpoint, see `Experiment.description`.
RUN = {
    "name": NAME,
    "data": SECTION,
    "data.name": TEXT,
    "data.crop_size": CROP,
    "data.mean": MEAN,
    "data.std": STD,
    "data.num_classes": whole(1, MOST_CLASSES),
    "model": SECTION,
    "eval": SECTION,
    "trained_on": SECTION,
    **{f"trained_on.{name}": wanted for name, wanted in TRAINED_ON.items()},
}


def check_exported(found: Mapping[str, Any]) -> None:
    """Checks the metadata of an exported file.

    Raises:
      ValueError, UserError: if an entry is missing or of another type, or if two contradict each other.
    """
    check(found, EXPORTED)
    _check_classes(found)
    check_section("eval", found["origin"].get("eval") or {})


def check_run(found: Any) -> None:
    """Checks what loading a network needs of the description of a run.

    Raises:
      ValueError, UserError: if an entry is missing or of another type, or if two contradict each other.
    """
    check({"config": found}, {"config": SECTION})
    check(found, RUN)
    _check_classes(found["trained_on"])
    if (named := len(found["trained_on"]["classes"])) != found["data"]["num_classes"]:
        raise ValueError(f"data.num_classes is {found['data']['num_classes']}, and trained_on has {named} classes")
    for section in ("model", "eval"):
        check_section(section, found[section])


def check(found: Mapping[str, Any], types: Mapping[str, Type]) -> None:
    """Checks values by their names; a dot leads into an object. Values that are not in the table may be anything.

    Raises:
      ValueError: if an entry is missing or of another type.
    """
    for name, wanted in types.items():
        value: Any = found
        for part in name.split("."):
            value = value.get(part)
        check_value(name, value, wanted)


def check_value(name: str, value: Any, wanted: Type) -> None:
    """Raises ValueError if a value, called by this name, is None or of another type."""
    if not wanted.accepts(value):
        problem = "is missing or null" if value is None else f"is {shown(value)}"
        raise ValueError(f"{name} {problem}: it must be {wanted.description}")


def check_resumable(found: Any) -> None:
    """Checks everything in the description of a run that decides what a resumed run learns.

    Raises:
      ValueError, UserError: as `check_run`.
    """
    check_run(found)
    config = experiments.default()
    _set(config, {name: value for name, value in found.items() if f"{name}." not in FREE_SECTIONS})
    check_config(config)


def check_section(name: str, found: Mapping[str, Any]) -> None:
    """Checks a section of a config by the types of the default config and the ranges of `check_config`.

    Fields of other versions of this program may be anything.
    """
    config = experiments.default()
    _set(config, {name: found})
    check_config(config)


def _set(config: ml_collections.ConfigDict, found: Mapping[str, Any], prefix: str = "") -> None:
    """Sets fields of a config. Raises ValueError if a value has another type than the field."""
    for name, value in found.items():
        if name not in config:
            continue
        field, default = f"{prefix}{name}", config[name]
        if isinstance(default, ml_collections.ConfigDict):
            if not SECTION.accepts(value):
                raise ValueError(f"{field} is {shown(value)}: it must be {SECTION.description}")
            _set(default, value, f"{field}.")
            continue
        try:
            if value is None and default is not None:
                raise TypeError("only fields that are optional may be null")
            config[name] = value
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{field} is {shown(value)}: it must be like {shown(default)}") from error


def _check_classes(found: Mapping[str, Any]) -> None:
    classes, colours = len(found["classes"]), len(found["palette"])
    if classes != colours:
        raise ValueError(f"palette has {colours} entries, and there are {classes} classes")
    if found["ignore_label"] < classes:
        raise ValueError(f"ignore_label is {found['ignore_label']}, the number of one of its {classes} classes")
    if (pair := found.get("value_range")) and pair[0] >= pair[1]:
        raise ValueError(f"value_range is {pair}: the lower number must come first")


def parse(text: bytes) -> Any:
    """Parses JSON; unlike `json.loads` refuses NaN, infinities, and names that occur twice in an object.

    Raises:
      ValueError, RecursionError: if it is not JSON.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{shown(repeated)} occurs twice")
    return found


def shown(value: Any) -> str:
    """A value for a message, cut off if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
