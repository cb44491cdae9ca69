"""The splits of a user's folder: from its folders, from a CSV file, or drawn."""

from pathlib import Path

import pytest
from PIL import Image
from users_folder import ids, picture, save, write

from cpnet_jax.data.builders.pairing import find_pairs
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.errors import UserError


def split_names(source: Path, **layout) -> dict[str, list[str]]:
    found, _ = find_pairs(Source(source), FolderLayout(**layout))
    return {split: [pair.name for pair in pairs] for split, pairs in found.items()}


@pytest.mark.parametrize("files", [("images/{}.png", "masks/{}.png"), ("{}.png", "{}.png")])
def test_folders_named_as_splits_are_the_splits(files, tmp_path):
    names = ["train/x", "train/y", "validation/x", "test/z"]
    if files[0].startswith("{}"):  # train/images/x.png
        for index, name in enumerate(names):
            split, stem = name.split("/")
            save(picture(index), tmp_path / split / "images" / f"{stem}.png")
            save(Image.fromarray(ids(index)), tmp_path / split / "masks" / f"{stem}.png")
    else:
        write(tmp_path, names=names)
    assert split_names(tmp_path) == {"train": ["train/x", "train/y"], "val": ["validation/x"], "test": ["test/z"]}


def test_without_a_val_folder_val_is_drawn_from_train(tmp_path):
    write(tmp_path, names=[*(f"train/{index}" for index in range(6)), "test/a", "test/b"])
    found = split_names(tmp_path, val_fraction=0.5)
    assert found["test"] == ["test/a", "test/b"]
    assert {len(found["train"]) + len(found["val"])} == {6} and found["val"]


def test_a_folder_named_train_among_others_is_not_a_split(tmp_path):
    """Images in folders named after trains and cars, not splits."""
    write(tmp_path, names=["train/x", "car/x", "car/y"])
    found = split_names(tmp_path)
    assert sorted(found["train"] + found["val"]) == ["car/x", "car/y", "train/x"]


def csv_of(names: list[str], tmp_path: Path) -> Path:
    """Write a source whose pairs are listed in a CSV file and never opened."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "pairs.csv").write_text("image,mask\n" + "".join(f"{name}.png,{name}.png\n" for name in names))
    return tmp_path


def test_the_drawn_split_stays_when_files_are_added_and_has_its_fraction(tmp_path):
    names = [f"n{index}" for index in range(800)]
    some, all_ = (
        split_names(csv_of(part, tmp_path / str(len(part))), pairs="pairs.csv", val_fraction=0.2)
        for part in (names[::-2], names)
    )
    assert set(some["val"]) == set(all_["val"]) & set(names[::-2])
    assert 0.15 < len(all_["val"]) / 800 < 0.25
    assert not set(all_["val"]) & set(all_["train"]) and set(all_["val"]) | set(all_["train"]) == set(names)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_neither_drawn_split_is_empty(fraction, tmp_path):
    for count in (2, 3, 5):
        found = split_names(
            csv_of([f"n{i}" for i in range(count)], tmp_path / str(count)), pairs="pairs.csv", val_fraction=fraction
        )
        assert found["train"] and found["val"]


def test_a_csv_may_name_the_splits(tmp_path):
    write(tmp_path, image="x/{}.png", mask="y/{}.png")
    rows = ["\ufeffmask, image, split"]
    rows += [
        f"y/a{index}.png, x/a{index}.png, {split}" for index, split in enumerate(["val", "train", "train", "test"])
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    found = split_names(tmp_path, pairs="pairs.csv")
    assert found == {"train": ["x/a1", "x/a2"], "val": ["x/a0"], "test": ["x/a3"]}


def test_images_outside_train_and_val_are_not_dropped_silently(tmp_path):
    write(tmp_path, names=["train/x", "val/x", "extra/x"])
    with pytest.raises(UserError, match="extra/x"):
        split_names(tmp_path)
