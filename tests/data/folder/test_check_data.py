"""What --mode=check_data reports of a user's folder."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from users_folder import COLOURS, NAMES, config_for, ids, in_colours, prepare, save, write

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.data.doctor import examined_data
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.scan import scan
from cpnet_jax.modes import prepare as prepare_mode
from cpnet_jax.modes.check_data import check_data


def test_check_data_lists_every_file_without_its_partner_and_every_unknown_value(tmp_path):
    source = write(tmp_path / "own", 6)
    for name in ("masks/a1.png", "masks/a4.png", "images/a2.png"):
        (source / name).unlink()
    save(Image.fromarray(np.full_like(ids(0), 9)), source / "masks/a0.png")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert {(finding.kind, finding.where) for finding in examined.unpaired} == {
        ("image_without_label", "images/a1.png"),
        ("image_without_label", "images/a4.png"),
        ("label_without_image", "masks/a2.png"),
    }
    [unknown] = [finding for seen in scan(examined, 2) for finding in seen.findings]
    assert unknown.where == "masks/a0.png" and "9" in unknown.detail


def test_check_data_keeps_the_results_of_each_task_on_the_same_images(tmp_path, capsys):
    source = write(tmp_path / "own")
    config = config_for(source, tmp_path)
    check_data(config, tmp_path / "run")
    (source / "classes.txt").write_text("sky\nroad\nVoid\n")
    check_data(config.copy_and_resolve_references(), tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.count("WARNING: class whose name says") == 1 and "Note: " not in printed
    found = [json.loads(path.read_text()) for path in (tmp_path / "run/check_data").glob("own-*/report.json")]
    assert {tuple(report["classes"]) for report in found} == {NAMES, ("sky", "road", "Void")}


def test_a_class_whose_name_marks_pixels_without_a_class_is_noted_once(tmp_path, capfd):
    source = write(tmp_path / "own", classes="road\nsky\nVoid\n")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert "Note: " not in capfd.readouterr().out, "--mode=check_data lists it among its warnings"
    findings = Census(examined, [], "train", "val").findings
    assert [finding.where for finding in findings if finding.kind == "void_class"] == ["Void"]
    builder = prepare(source, tmp_path / "data")
    assert f"Note: {source}/classes.txt has the class 'Void', which is trained" in capfd.readouterr().out
    prepare(source, tmp_path / "data")  # as every start of a run
    assert "Void" not in capfd.readouterr().out
    (source / "classes.txt").write_text("road\nsky\nignore\n")  # as the note says
    assert builders.describe_folder(source, FolderLayout()).classes == builder.DATASET.classes[:2]


def test_the_report_says_what_each_mask_value_becomes_and_a_split_folder_in_an_archive_is_honoured(tmp_path, capsys):
    source = write(tmp_path / "own", names=["a0", "a1", "test/a2"], classes="0: road\n1: sky\n2: tree\n255: Ignore\n")
    with tarfile.open(tmp_path / "own.tar.gz", "w:gz") as archive:
        archive.add(source, "own")
    config = config_for(tmp_path / "own.tar.gz", tmp_path / "data")
    check_data(config, tmp_path / "run")
    rows = [" ".join(line.split()[:3]) for line in capsys.readouterr().out.splitlines() if " -> " in line]
    assert rows == ["0 -> road", "1 -> sky", "2 -> tree", "255 -> ignored"]
    prepare_mode.prepare(config)
    assert "1 train, 1 test, 1 val" in capsys.readouterr().out


def test_the_report_shows_the_values_and_colours_of_the_class_file(tmp_path):
    source = write(tmp_path / "own")
    in_colours(source)
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert [examined.stored(value) for value in (0, 1, 2, 255)] == [*(" ".join(map(str, c)) for c in COLOURS), "0 0 0"]
    many = "classes: [road, sky, tree]\nmap: {1: road, 2: road, 3: road, 4: road, 5: road, 6: sky, 7: tree, 0: ignore}"
    (source / "classes.txt").unlink()
    (source / "classes.yaml").write_text(many)
    for index in range(4):
        save(Image.fromarray(ids(index) % 4 + 4), source / f"masks/a{index}.png")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    assert [examined.stored(value) for value in (0, 1, 2, 255)] == ["1, 2, 3, 4, ...", "6", "7", "0, 255"]


@pytest.mark.parametrize(("first", "found"), [("0 0 0", True), ("9 9 9", False)])
def test_only_a_class_of_value_0_or_black_can_be_void_by_its_thin_lines(first, found, tmp_path):
    source = write(tmp_path / "own", classes=f"edge {first}\nroad 128 64 128\n")
    for index in range(4):
        mask = np.full((*ids(index).shape, 3), COLOURS[0], np.uint8)
        mask[::8] = [int(part) for part in first.split()]
        save(Image.fromarray(mask), source / f"masks/a{index}.png")
    dataset = builders.describe_folder(source, FolderLayout())
    examined = examined_data.from_source(builders.make_builder(dataset, tmp_path / "data", source))
    findings = Census(examined, scan(examined, 1), "train", "val").findings
    details = [f"{finding.where}: {finding.detail}" for finding in findings if finding.kind == "zero_outlines"]
    start, end = "value 0 0 0: trained as edge; in 4 mask(s), such as masks/a", " are within 3 pixels of another value"
    assert len(details) == found
    assert all(text.startswith(start) and text.endswith(".png, 100 % of its pixels" + end) for text in details)
