"""Records that exist are used if they fit, and kept beside those of another class file."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
from users_folder import COLOURED, assert_one_sentence, config_for, examples_of, prepare, write

from cpnet_jax.data import builders
from cpnet_jax.data.builders.folder import FILES
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_preparing_twice_writes_once(tmp_path, capsys):
    source = write(tmp_path / "own")
    prepare(source, tmp_path / "data")
    before = stamps(tmp_path / "data")
    capsys.readouterr()
    assert len(examples_of(prepare(source, tmp_path / "data"))) == 4
    assert stamps(tmp_path / "data") == before and not capsys.readouterr().out


def test_folders_of_the_same_name_are_kept_apart(tmp_path):
    ours, theirs = write(tmp_path / "a/own"), write(tmp_path / "b/own", 3)
    assert len(examples_of(prepare(ours, tmp_path / "data"))) == 4
    assert len(examples_of(prepare(theirs, tmp_path / "data"))) == 3
    assert len(examples_of(prepare(ours, tmp_path / "data"))) == 4


CHANGES = {
    "another order of classes": (lambda root: (root / "classes.txt").write_text("sky\nroad\ntree"), {}, "classes"),
    "another value": (lambda root: (root / "classes.txt").write_text("1: road\n0: sky\n2: tree"), {}, "mask values"),
    "colours": (lambda root: (root / "classes.txt").write_text(COLOURED), {}, "mask colours"),
    "another fraction": (lambda root: None, {"val_fraction": 0.4}, "val_fraction"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_images_read_in_another_way_are_prepared_beside_and_both_are_found_again(name, tmp_path, capsys):
    change, layout, named = CHANGES[name]
    source, data = write(tmp_path / "own"), tmp_path / "data"
    first = prepare(source, data)
    before, was = stamps(data), (source / "classes.txt").read_text()
    change(source)
    capsys.readouterr()
    second = prepare(source, data, **layout)
    [note] = [line for line in capsys.readouterr().out.splitlines() if "the same images" in line]
    folder = Path(first.data_dir).parent
    assert note.startswith(f"Note: {folder.parent} also holds the same images as {folder.name} (other ")
    assert named in note and note.endswith("): delete it if no run needs it")
    both = stamps(data)
    assert first.data_dir != second.data_dir and before.items() <= both.items()
    assert prepare(source, data, **layout).data_dir == second.data_dir
    (source / "classes.txt").write_text(was)
    assert prepare(source, data).data_dir == first.data_dir and stamps(data) == both


def test_one_note_names_all_folders_of_the_same_images_and_what_differs_in_words(tmp_path, capsys):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    first = prepare(source, data)
    second = prepare(source, data, val_fraction=0.4)
    (source / "classes.txt").unlink()
    (source / "classes.yaml").write_text("classes: [road, sky, tree]\nmap: {0: road, 1: sky, 2: tree, '*': tree}")
    capsys.readouterr()
    prepare(source, data)
    [note] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    for builder, differs in ((first, "(other class of '*',"), (second, "(other val_fraction, class of '*',")):
        assert f"{Path(builder.data_dir).parent.name} {differs}" in note
    assert note.endswith("delete those that no run needs") and "rest" not in note


def test_records_where_an_earlier_version_put_them_are_used_if_they_fit(tmp_path):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    new = Path(prepare(source, data).data_dir).parent
    old = new.with_name(f"own-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}")
    new.rename(old)
    before = stamps(data)
    builder = prepare(source, data)
    assert Path(builder.data_dir).parent == old and len(examples_of(builder)) == 4 and stamps(data) == before
    records = pickle.loads(pickle.dumps(builders.records(builder, "train")))
    assert records[0] == builders.records(builder, "train")[0], "a worker process reads the same folder"
    prepare(source, data, val_fraction=0.4)
    assert before.items() <= stamps(data).items() and len(list((data / "folder").iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"settings": 1}', b"[" * 100_000])
def test_damaged_records_are_named_alone_and_stop_neither_check_data_nor_another_class_file(content, tmp_path):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    builder = prepare(source, data)
    for name in ("metadata.json", "dataset_info.json"):
        (Path(builder.data_dir) / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        builders.records(prepare(source, data), "train")
    assert_one_sentence(caught.value, f"delete {Path(builder.data_dir).parent} and run --mode=prepare again")
    before = stamps(data)
    check_data(config_for(source, data), tmp_path / "run")
    assert stamps(data) == before
    (source / "classes.txt").write_text(COLOURED)
    assert len(examples_of(prepare(source, data))) == 4


def test_an_abandoned_preparation_of_another_class_file_is_removed(tmp_path):
    source, data = write(tmp_path / "own"), tmp_path / "data"
    abandoned, live = (data / "folder" / "own-12345678" / f"incomplete.{name}_1.0.0" for name in ("ABCDEF", "GHIJKL"))
    abandoned.mkdir(parents=True)
    live.mkdir()
    os.utime(abandoned, (0, 0))
    prepare(source, data)
    assert live.exists() and not abandoned.exists()


def test_a_replaced_image_and_an_edited_csv_are_noted(tmp_path, capsys):
    source, data = write(tmp_path / "own"), tmp_path / "data"

    def list_pairs(*splits):
        rows = [f"images/a{index}.png,masks/a{index}.png,{split}" for index, split in enumerate(splits)]
        (source / "pairs.csv").write_text("\n".join(["image,mask,split", *rows]))

    def noted(**layout):
        capsys.readouterr()
        builder = prepare(source, data, **layout)
        note = f"now holds other images, masks or splits than {builder.data_dir} was prepared from"
        return note in capsys.readouterr().out

    list_pairs("train", "train", "train", "val")
    for layout in ({}, {"pairs": "pairs.csv"}) * 2:
        assert not noted(**layout)
    list_pairs("train", "train", "val", "train")
    assert noted(pairs="pairs.csv") and not noted()
    for folder in ("images", "masks"):
        (source / folder / "a1.png").rename(source / folder / "b1.png")
    assert noted()
    [path] = [path for path in data.rglob("metadata.json") if '"pairs": ""' in path.read_text()]
    path.write_text(json.dumps({name: entry for name, entry in json.loads(path.read_text()).items() if name != FILES}))
    assert not noted(), "records of earlier versions only have the number of images"


def test_added_images_are_noted(tmp_path, capsys):
    source = write(tmp_path / "own")
    prepare(source, tmp_path / "data")
    write(source, 6)
    capsys.readouterr()
    assert len(examples_of(prepare(source, tmp_path / "data"))) == 4
    assert "Note" in capsys.readouterr().out
    write(source, 7)
    (source / "masks/a6.png").unlink()  # an image without a mask does not stop a run on existing records
    assert len(examples_of(prepare(source, tmp_path / "data"))) == 4
