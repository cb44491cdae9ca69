"""Pairs that cannot be read stop the preparation, or are skipped and counted."""

from pathlib import Path

import pytest
from users_folder import IMAGE, assert_one_sentence, examples_of, prepare, write

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.errors import UserError


def damaged(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:70])
    return root


def prepare_and_skip(source: Path, data_dir: Path) -> builders.FolderBuilder:
    dataset = builders.describe_folder(source, FolderLayout())
    return builders.prepare(dataset, data_dir, source, skip_unreadable=True)


def test_faulty_pairs_can_be_skipped_with_a_line_each_and_their_number(tmp_path, capsys):
    names = [*(f"train/{index}" for index in range(6)), "val/v", "val/w"]
    source = damaged(
        write(tmp_path / "own", names=names), "masks/train/0.png", "images/train/2.png", "images/val/w.png"
    )
    builder = prepare_and_skip(source, tmp_path / "data")
    assert set(examples_of(builder)) == {"train/1", "train/3", "train/4", "train/5", "val/v"}
    lines = capsys.readouterr().err.splitlines()
    skipped = [line for line in lines if line.startswith("Skipped: ")]
    assert len(skipped) == 3 and all(any(name in line for line in skipped) for name in ("0.png", "2.png", "w.png"))
    assert "Note: 2 of 6 pairs of train were skipped, each is named above" in lines
    assert "Note: 1 of 2 pairs of val were skipped, each is named above" in lines
    prepare_and_skip(source, tmp_path / "data")
    assert "Note" not in "".join(capsys.readouterr()), "the skipped pairs are not missed later"


def test_faulty_pairs_are_not_skipped_by_default(tmp_path):
    source = damaged(write(tmp_path / "own"), IMAGE)
    with pytest.raises(UserError, match=IMAGE):
        prepare(source, tmp_path / "data")


@pytest.mark.parametrize("faulty", [["images/val/v.png"], ["masks/train/x.png", "masks/train/y.png"]])
def test_a_split_of_which_every_pair_is_faulty_is_refused(faulty, tmp_path):
    source = damaged(write(tmp_path / "own", names=["train/x", "train/y", "val/v"]), *faulty)
    with pytest.raises(UserError) as caught:
        prepare_and_skip(source, tmp_path / "data")
    assert_one_sentence(caught.value, faulty[-1])
    assert not list(tmp_path.rglob("*.array_record*"))
