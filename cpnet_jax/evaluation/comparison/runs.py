"""What runs kept of themselves: figures, config and classes. Decides whether runs can be compared."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from cpnet_jax.config import renamed
from cpnet_jax.config.recorded import NAME as CONFIG
from cpnet_jax.config.same_run import ADDED_LATER, flat
from cpnet_jax.data import catalog
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.catalog.voc import voc_palette
from cpnet_jax.errors import UserError, quoted, reason, shortened
from cpnet_jax.inference import metadata
from cpnet_jax.inference.export import artifact
from cpnet_jax.runtime.files import AnyPath

EVALUATION = "eval.json"
# What comparing needs of eval.json. Entries that may be null may also be missing.
SHARE = metadata.or_null(metadata.number(0, 1))
EVALUATED = {
    "mIoU": SHARE,
    "per_class": metadata.SECTION,
    "labelled_pixels": metadata.or_null(metadata.SECTION),
    "images": metadata.whole(0, metadata.LARGEST_STEP),
    "settings": metadata.SECTION,
    "settings.dataset": metadata.TEXT,
    "settings.split": metadata.TEXT,
    "settings.data": metadata.or_null(metadata.TEXT),
    "settings.step": metadata.whole(0, metadata.LARGEST_STEP),
}
# The settings of an evaluation that decide its figures, and the values where eval.json has none.
PROTOCOL: dict[str, Any] = {
    "scales": None,
    "flip": None,
    "overlap": None,
    "windows": True,
    "ignored_classes": [],
    "class_names": [],
}


@dataclass(frozen=True)
class ComparedRun:
    """A trained network and what is known of it.

    Attributes:
      path: a workdir, the folder of an evaluation, or an exported file.
      dataset: its classes and their colours; the name is for people.
      figures: the contents of eval.json; empty if it was not evaluated.
      description: that of its run, see `Experiment.description`; empty if it is not known.
      about: what an exported file says about itself besides its classes; empty for a folder.
      name: short, and different for each compared run.
    """

    path: AnyPath
    dataset: Dataset
    figures: Mapping[str, Any] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its evaluation; empty if it was not evaluated."""
        return self.figures.get("settings", {})

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of its config by their dotted names, in those of this version; empty if it is not known."""
        if not self.description:
            return {}
        known = {name: value for name, value in self.description.items() if name != "trained_on"}
        data = {"trained_on.fingerprint": self.description["trained_on"].get("fingerprint")}
        return {**ADDED_LATER, **renamed.present(dict(flat(known))), **data}

    @property
    def has_network(self) -> bool:
        """Whether it can predict."""
        return bool(self.about) or (self.path / "checkpoints").is_dir()


def open_runs(paths: Sequence[AnyPath]) -> list[ComparedRun]:
    """Reads what the runs kept, and checks that they can be compared.

    Raises:
      UserError: if there are fewer than two, one is named twice, damaged or something else than a run; or if their
        classes or the images that they were evaluated on differ.
    """
    if len(paths) < 2:
        raise UserError("--runs needs two or more runs, separated by commas: for example --runs=runs/a,runs/b")
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise UserError(f"--runs names {path} twice: name it once")
    runs = [_open(path) for path in paths]
    evaluated = [run for run in runs if run.figures]  # only these have images to compare
    for first, other in [*((runs[0], run) for run in runs[1:]), *((evaluated[0], run) for run in evaluated[1:])]:
        check_comparable(first, other)
    return [replace(run, name=name) for run, name in zip(runs, short_names(paths), strict=True)]


def _open(path: AnyPath) -> ComparedRun:
    if path.is_file():
        return _exported(path)
    figures, description = (_read_json(path / name) for name in (EVALUATION, CONFIG))
    if not figures and not description:
        what = f"holds neither {CONFIG} nor {EVALUATION}" if path.is_dir() else "does not exist"
        raise UserError(f"--runs names {path}, which {what}: name workdirs, folders of evaluations or exported files")
    try:
        if figures:
            metadata.check(figures, EVALUATED)
            for name, share in figures["per_class"].items():
                metadata.check_value(name, share, SHARE)
    except ValueError as error:
        raise UserError(f"{path / EVALUATION} cannot be used ({reason(error)}): run --mode=eval again") from error
    try:
        if description:
            metadata.check_run(description)
    except (ValueError, UserError) as error:
        raise UserError(f"{path / CONFIG} cannot be used ({reason(error)}): train again") from error
    return ComparedRun(path, _dataset(figures, description), figures, description)


def _read_json(path: AnyPath) -> dict[str, Any]:
    """The object in a file; empty if the file does not exist."""
    if not path.exists():
        return {}
    try:
        found = metadata.parse(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it must hold a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): restore it, or name another run") from error
    return found


def _dataset(figures: Mapping[str, Any], description: Mapping[str, Any]) -> Dataset:
    """Classes and colours, those of the run if they are known; the name of the images that were evaluated."""
    if figures:
        settings, classes = figures["settings"], tuple(figures["per_class"])
        source = settings.get("data") or description.get("data", {}).get("source") or ""
        name = catalog.folder.readable_name(settings["dataset"], source)
    else:
        data, classes = description["data"], ()
        name = catalog.folder.readable_name(data["name"], str(data.get("source") or ""))
    if not description:
        return Dataset(name, classes, voc_palette(len(classes) + 1)[1:])
    return _described(name, description["trained_on"])


def _described(name: str, known: Mapping[str, Any]) -> Dataset:
    return Dataset(
        name=name,
        classes=tuple(known["classes"]),
        palette=tuple(tuple(colour) for colour in known["palette"]),
        ignore_label=known["ignore_label"],
    )


def _exported(path: AnyPath) -> ComparedRun:
    found = artifact.read(path).metadata
    return ComparedRun(path, _described(found["dataset"], found), about=found)


def check_comparable(first: ComparedRun, other: ComparedRun) -> None:
    """Raises UserError if two runs have other classes, or were evaluated on other images."""
    ours, theirs = first.dataset, other.dataset
    if {*ours.classes} != {*theirs.classes}:
        named = _only(first, other) or _only(other, first)
        raise UserError(
            f"{other.path} and {first.path} cannot be compared, since their classes differ ({named}): name runs of the "
            "same classes"
        )
    if ours.name != theirs.name and not _same_training_data(first, other):
        raise _other_images(first, other, f"{theirs.name} and {ours.name}")
    if not first.figures or not other.figures:
        return
    for name in ("split", "images"):
        here, there = (({**run.settings, "images": run.figures["images"]})[name] for run in (first, other))
        if here != there:
            raise _other_images(first, other, f"{name} {there} and {here}")
    if difference := _other_labels(first, other):
        raise _other_images(first, other, difference)


def _other_labels(first: ComparedRun, other: ComparedRun) -> str:
    """How the labels of two evaluations differ; empty if they do not, or were not read alike or not counted."""
    here, there = (run.figures.get("labelled_pixels") or {} for run in (first, other))
    if any(first.settings.get(name) != other.settings.get(name) for name in ("ignored_classes", "class_names")):
        return ""
    differ = (name for name in here if name in there and here[name] != there[name])
    name = next(differ, "")
    return f"labelled pixels of {quoted(name)} {there[name]} and {here[name]}" if name else ""


def _only(run: ComparedRun, other: ComparedRun) -> str:
    names = [name for name in run.dataset.classes if name not in other.dataset.classes]
    return f"only {run.path} has {shortened(', '.join(map(quoted, names)))}" if names else ""


def _other_images(first: ComparedRun, other: ComparedRun, what: str) -> UserError:
    return UserError(
        f"{other.path} and {first.path} cannot be compared, since their images differ ({what}): evaluate both on the "
        "same ones with --mode=eval, and name the folders that it writes"
    )


def _same_training_data(first: ComparedRun, other: ComparedRun) -> bool:
    """Whether two runs were trained on the same images, which may have been moved."""
    ours, theirs = (run.fields.get("trained_on.fingerprint") for run in (first, other))
    moved = not any(run.settings.get("data") for run in (first, other))
    return moved and ours is not None and ours == theirs


def short_names(paths: Sequence[AnyPath]) -> list[str]:
    """The parts of the paths that differ, without folders that all have at their start or end."""
    parts = [PurePath(os.path.abspath(path)).parts for path in paths]
    start = _shared(parts)
    end = _shared([part[: start - 1 if start else None : -1] for part in parts])
    # One path may be the parent of another: its last folder names it.
    return [str(PurePath(*(part[start : len(part) - end] or part[-1:]))) for part in parts]


def _shared(parts: Sequence[tuple[str, ...]]) -> int:
    """The number of first parts that are the same everywhere."""
    same = itertools.takewhile(lambda names: len({*names}) == 1, zip(*parts, strict=False))
    return sum(1 for _ in same)


def protocols(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """The settings of the evaluations that are not the same in all evaluated runs: name -> value of each run."""
    found = {name: [run.settings.get(name, usual) for run in runs] for name, usual in PROTOCOL.items()}
    differ = {}
    for name, values in found.items():
        known = [value for run, value in zip(runs, values, strict=True) if run.figures]
        if any(value != known[0] for value in known[1:]):
            differ[name] = values
    return differ


def differing_fields(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """Config fields whose values differ among the runs that have a config: name -> value of each run."""
    fields = [run.fields for run in runs]
    recorded = [known for known in fields if known]
    names = sorted({name for known in recorded for name in known})
    return {
        name: [known.get(name) for known in fields]
        for name in names
        if any(known.get(name) != recorded[0].get(name) for known in recorded[1:])
    }
