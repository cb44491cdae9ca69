"""--mode=check_data finds, names and counts all problems of single pairs in one run, and changes nothing."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from camvid_source import VOID, Tree, check, encoded, found_in, image_of, label_of, plant_all
from PIL import Image

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.data.doctor.examined_data import Entry, ExaminedData
from cpnet_jax.data.doctor.findings import KINDS
from cpnet_jax.data.doctor.scan import examine


def snapshot(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """(tree, expected findings, report, its folder, snapshot of the source from before)"""
    folder = tmp_path_factory.mktemp("doctor")
    tree = Tree(folder / "raw")
    planted = plant_all(tree)
    before = snapshot(tree.root)
    return tree, planted, check(tree.root, folder), folder, before


def test_exactly_the_expected_problems_are_found_named_and_counted(faulty):
    _, planted, report, *_ = faulty
    found = found_in(report)
    assert {kind: set(where) for kind, where in found.items()} == {kind: set(where) for kind, where in planted.items()}
    for kind, expected in planted.items():
        for where, named in expected.items():
            assert named in found[kind][where], (kind, where)


def test_faults_come_first_and_warnings_are_not_faults(faulty):
    fault = [(found["kind"], found["fault"]) for found in faulty[2]["findings"]]
    assert [is_fault for _, is_fault in fault] == sorted((is_fault for _, is_fault in fault), reverse=True)
    odd = {"duplicate_image", "all_ignored", "image_turned", "image_grey", "image_transparent", "image_cmyk"}
    assert odd | {"image_deep", "split_size"} == {kind for kind, is_fault in fault if not is_fault}


def test_readable_files_are_counted_although_others_are_broken(faulty):
    tree, planted, report, *_ = faulty
    unusable = {where for kind in ("label_unreadable", "label_no_indices", "label_lossy") for where in planted[kind]}
    labels = {str(path.relative_to(tree.root)): path for path in tree.root.glob("*annot/*.png")}
    usable = labels.keys() - unusable - planted["label_without_image"].keys()
    counts = sum(np.bincount(np.asarray(Image.open(labels[name])).ravel(), minlength=256) for name in usable)
    by_value = {row["value"]: row for row in report["raw_values"]}
    assert {value: row["pixels"] for value, row in by_value.items()} == {
        value: int(counts[value]) for value in (*range(13), 200)
    }
    assert by_value[VOID]["becomes"] == "ignored" and by_value[VOID]["training_id"] == 255
    assert by_value[3]["becomes"] == "road" and by_value[3]["images"] == len(usable) - 1, "in all but void.png"
    assert by_value[200] == {"value": 200, "becomes": None, "training_id": None, "pixels": 1, "images": 1}
    assert sum(report["classes"]["road"].values()) == counts[3]
    sizes = {(row["width"], row["height"]): row["images"] for row in report["image_sizes"]}
    assert sizes == {(96, 64): 23, (64, 96): 1}


def test_only_the_report_and_the_sheet_are_written(faulty):
    tree, _, _, folder, before = faulty
    assert snapshot(tree.root) == before
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in written if not name.startswith("raw/")} == {
        "run/check_data/report.json",
        "run/check_data/sheet.png",
    }


@pytest.mark.parametrize("threads", [1, 16])
def test_the_report_is_the_same_for_any_number_of_threads(faulty, tmp_path, threads):
    assert check(faulty[0].root, tmp_path, threads=threads) == faulty[2]


def test_an_archive_has_the_report_of_its_folder(faulty, tmp_path):
    tree, _, report, *_ = faulty
    with zipfile.ZipFile(tmp_path / "camvid.zip", "w") as archive:
        for path in tree.root.rglob("*.png"):
            archive.write(path, path.relative_to(tree.root))
    assert {**check(tmp_path / "camvid.zip", tmp_path), "origin": None} == {**report, "origin": None}


def test_the_text_shows_each_kind_with_files_and_the_meaning_of_values(faulty, tmp_path, capsys):
    check(faulty[0].root, tmp_path)
    printed = capsys.readouterr().out
    for kind, where in faulty[1].items():
        assert f"{KINDS[kind].title} ({len(where)}). {KINDS[kind].remedy}" in printed
        assert all(f"  {name}" in printed for name in where)
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert any(line.startswith("0 -> sky ") for line in lines)
    assert any(line.startswith("11 -> ignored ") for line in lines)
    assert any(line.startswith("200 -> UNKNOWN VALUE ") for line in lines)
    assert "Not sound to train on: 13 faults" in printed


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_of_every_type_are_counted_alike(dtype):
    raw = label_of(0).astype(dtype)
    raw[0, :3] = 255
    entry = Entry("train", "a.png", "a", lambda: encoded(image_of(0)), None, lambda: raw)
    examined = ExaminedData(CAMVID, "", {value: value for value in range(12)}, {"train": [entry]})
    seen = examine(entry, examined)
    assert seen.values == {value: int((raw == value).sum()) for value in (*range(12), 255)}
    assert [finding.detail for finding in seen.findings] == ["255 (3 pixels)"]
