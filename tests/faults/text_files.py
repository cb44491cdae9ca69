"""Whole text files of every kind that the program reads, how it reads them, and how they are damaged."""

import hashlib
import json
from pathlib import Path

import exported_files
import numpy as np

from cpnet_jax.ablation.runs import _read as read_result
from cpnet_jax.config import experiments
from cpnet_jax.config.same_run import as_dict, check_same_run
from cpnet_jax.data.builders.pairing import find_pairs
from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.data.catalog.folder import FolderLayout
from cpnet_jax.inference.metadata import check_run
from cpnet_jax.modes.train import _figures as figures_of
from cpnet_jax.runtime import files
from cpnet_jax.training import checkpoint, checksums, metrics, workdir_lock

CLASSES = (
    b"# values\n255: ignore\n0: road\n1 sky\n2, 'new trees'\n-1 void\n",
    b'ignore 0 0 0\nroad 128,64,128\n"2 skies" #4682b4\n107 142 35 trees\n',
    b"__ignore__\n_background_\nroad\nsky\n",
)
YAML = b"""
classes: [{name: road, value: 7, colour: [128, 64, 128]}, {name: sky, value: 8, colour: "#4682b4"}]
ignore: [0, "#000000"]
map: &map {9: road, "#6b8e23": ignore, 10: 1}
"""
CSV = b'image,mask,split\nx/a.png,y/a.png,train\n"x/b.png",y\\b.png,val\n./x/c.png,x/../y/c.png,train\n'
METRICS = b"""{"step": 2, "loss": 0.5, "lr": 1e-3}
{"step": 4, "mIoU": null, "evaluation_seconds": 1.5}
{"step": 4, "loss": NaN}
"""
SUMS = f"{hashlib.sha256().hexdigest()}  a\n# 1 files\n".encode()
LOCK = b'{"host": "node-7", "pid": 4711}'
RUN = as_dict(experiments.default()) | {
    "trained_on": {
        "classes": [f"class {i}" for i in range(150)],
        "palette": [[i, 0, 0] for i in range(150)],
        "ignore_label": 255,
        "value_range": [0, 1023],
    }
}
RESULT = {"mIoU": 0.5, "pixel_accuracy": 0.9, "per_class": {"a": None}, "settings": {"split": "val", "step": 4}}
TOKENS = (
    *(
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r",
        b'"',
        b"'",
        b":",
        b"#",
        b"-",
        b"[",
        b"]",
        b"{",
        b"}",
        b"\\",
        b"/",
        b"../",
        b"\0",
    ),
    *(b"&a ", b"*a", b"<<: ", b"!!python/object:x ", b"null", b"NaN", b"1e999", b"7" * 5000, b"[" * 2000, b"\xff"),
    *(b"\xe2\x80\xae", b"\xef\xbb\xbf", b" " * 3000, b"ignore", b"0x" + b"f" * 5000, b"2001-02-30", b"-1", b"300"),
)


class Pairs:
    """A source with the images and masks of CSV, and a table of pairs."""

    path = Path("/nowhere/own")
    names = ("pairs.csv", *(f"{kind}/{name}.png" for kind in "xy" for name in "abc"))

    def __init__(self, table: bytes) -> None:
        self._table = table

    def read(self, name: str) -> bytes:
        return self._table


def read_as_csv(data: bytes, folder: Path) -> None:
    find_pairs(Pairs(data), FolderLayout(pairs="pairs.csv"))


def read_as_metrics(data: bytes, folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(data)
    published = metrics.is_published(folder, 4)
    metrics._drop_after(folder / "metrics.jsonl", 3)
    assert not metrics.is_published(folder, 4)
    if not published:
        raise ValueError("the evaluation of step 4 is damaged")


def read_as_lock(data: bytes, folder: Path) -> None:
    (folder / "lock").write_bytes(data)
    if not workdir_lock._holder(folder / "lock"):
        raise ValueError("the lock does not say who holds it")
    with workdir_lock.locked(folder):
        assert workdir_lock._holder(folder / "lock")


def read_as_description(data: bytes, folder: Path) -> None:
    found = files.parse_json(data)
    check_run(found)
    check_same_run(RUN, found, folder)


def read_as_result(data: bytes, folder: Path) -> None:
    (folder / "eval.json").write_bytes(data)
    figures_of(folder)
    read_result(folder / "eval.json", "", mIoU=object, pixel_accuracy=object, per_class=dict, settings=dict)


def read_as_position(data: bytes, folder: Path) -> None:
    place = folder / "4"
    (place / checkpoint.POSITION).parent.mkdir(parents=True, exist_ok=True)
    (place / checkpoint.POSITION).write_bytes(data)
    if damage := checkpoint._wrong_position(place):
        raise ValueError(damage)


def read_as_checksums(data: bytes, folder: Path) -> None:
    (folder / checksums.NAME).write_bytes(data)
    (folder / "a").write_bytes(b"")
    if damage := checksums.damage(folder):
        raise ValueError(damage)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Inserts or replaces with special characters and words, removes or repeats parts."""
    content = data
    for _ in range(rng.choice([1, 1, 2, 4])):
        place, length = int(rng.integers(0, len(content) + 1)), int(rng.choice([0, 0, 1, 4, 20]))
        new = TOKENS[rng.integers(0, len(TOKENS))] if rng.random() < 0.7 else content[place : place + length] * 2
        content = content[:place] + new + content[place + length :]
    return content


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """As `mutated`, or with a value of another type or range in any place."""
    return mutated(data, rng) if rng.random() < 0.4 else exported_files.mutated_json(data, rng)


# kind -> (how to read it, whole files, how to damage them)
KINDS = {
    "class files": (lambda data, folder: parse(data.decode(), "classes.txt"), CLASSES, mutated),
    "YAML class files": (lambda data, folder: parse(data.decode(), "classes.yaml"), (YAML,), mutated),
    "CSVs of pairs": (read_as_csv, (CSV,), mutated),
    "metrics.jsonl": (read_as_metrics, (METRICS,), mutated),
    "lock files": (read_as_lock, (LOCK,), mutated_json),
    "configs of checkpoints": (read_as_description, (json.dumps(RUN).encode(),), mutated_json),
    "positions of checkpoints": (read_as_position, (b'{"position": 4}',), mutated_json),
    "checksums of checkpoints": (read_as_checksums, (SUMS,), mutated),
    "eval.json": (read_as_result, (json.dumps(RESULT).encode(),), mutated_json),
}
