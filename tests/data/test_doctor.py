"""--mode=check_data finds, names and counts all problems of a dataset in one run, and changes nothing."""

import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from configs import camvid
from cpnet_jax.data import builders, catalog, large_images
from cpnet_jax.data.builders.base import SegmentationBuilder
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.data.doctor.examined_data import Entry, ExaminedData
from cpnet_jax.data.doctor.findings import KINDS
from cpnet_jax.data.doctor.scan import MOST_UNKNOWN, Observation, examine
from cpnet_jax.data.doctor.sheet import COLUMNS, ROWS, UNKNOWN_COLOUR, choose
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data
from cpnet_jax.modes.prepare import prepare

ROOT = Path(__file__).parents[2]
VOID, SIZE = 11, (64, 96)
COUNTS = {"train": 6, "val": 3}


def label_of(seed: int) -> np.ndarray:
    """Raw label with blocks of 16 pixels, two of each class and two of void."""
    blocks = np.random.default_rng(seed).permutation(np.arange(24) % 12).reshape(4, 6)
    return blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def image_of(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng([1, seed]).integers(0, 256, (*size, 3)).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, encoding: str = "PNG", **options) -> bytes:
    stream = BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, encoding, **options)
    return stream.getvalue()


class Tree:
    """Source in CamVid's layout."""

    def __init__(self, root: Path, relabel: Callable[[np.ndarray], np.ndarray] = lambda label: label) -> None:
        self.root, self._seed = root, 0
        for split, count in COUNTS.items():
            for index in range(count):
                self.add(f"{split}/{index}", label=encoded(relabel(label_of(self._seed + 1))))

    def add(self, name: str, *, image: bytes | None = None, label: bytes | None = None) -> None:
        """Add a pair; image and label are sound by default."""
        self._seed += 1
        split, stem = name.split("/")
        self.write(f"{split}/{stem}.png", encoded(image_of(self._seed)) if image is None else image)
        self.write(f"{split}annot/{stem}.png", encoded(label_of(self._seed)) if label is None else label)

    def write(self, name: str, data: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)


def plant_all(tree: Tree) -> dict[str, dict[str, str]]:
    """Add every problem that one pair can have; returns kind -> file -> text that the finding's detail must hold."""
    whole, wrong = encoded(image_of(90)), label_of(91)
    wrong[:2, :2], wrong[5, 7] = 12, 200
    palette = Image.fromarray(label_of(92))
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    tree.add("train/palette", label=encoded(palette))  # a sound pair
    tree.write("train/alone_1.png", whole)
    tree.write("train/alone_2.png", whole)
    tree.write("valannot/alone.png", encoded(label_of(0)))
    tree.add("train/cut", image=whole[: len(whole) // 2])
    tree.add("train/text", image=b"404: Not Found")
    tree.add("val/empty", image=b"")
    tree.add("train/label_cut", label=encoded(label_of(93))[:60])
    tree.add("train/colours", label=encoded(image_of(94)))
    tree.add("train/lossy", label=encoded(label_of(95), "JPEG"))
    tree.add("val/small", label=encoded(label_of(96)[:60, :90]))
    tree.add("train/on_its_side", image=encoded(image_of(97, SIZE[::-1]), "JPEG", exif=exif))
    tree.add("train/wrong", label=encoded(wrong))
    tree.add("train/twice", image=(tree.root / "train/1.png").read_bytes())
    tree.add("val/leak", image=encoded(Image.open(tree.root / "train/2.png"), compress_level=1))
    tree.add("train/void", label=encoded(np.full(SIZE, VOID, np.uint8)))
    tree.add("train/turned", image=encoded(image_of(98), "JPEG", exif=exif))
    tree.add("train/grey", image=encoded(image_of(99)[..., 0]))
    tree.add("train/alpha", image=encoded(np.dstack([image_of(100), image_of(101)[..., 0]])))
    tree.add("train/cmyk", image=encoded(Image.fromarray(image_of(102)).convert("CMYK"), "JPEG"))
    tree.add("train/deep", image=encoded(image_of(103)[..., 0].astype(np.uint16) * 256))
    return {
        "image_without_label": {"train/alone_1.png": "trainannot", "train/alone_2.png": "trainannot"},
        "label_without_image": {"valannot/alone.png": "val/"},
        "image_unreadable": {"train/cut.png": "truncated", "train/text.png": "not a JPEG", "val/empty.png": ""},
        "label_unreadable": {"trainannot/label_cut.png": "cannot be read"},
        "label_no_indices": {"trainannot/colours.png": "RGB"},
        "label_lossy": {"trainannot/lossy.png": ""},
        "size_mismatch": {"valannot/small.png": "90x60, image 96x64", "trainannot/on_its_side.png": "EXIF"},
        "unknown_values": {"trainannot/wrong.png": "12 (4 pixels), 200 (1 pixel)"},
        "in_two_splits": {"val/leak.png": "train/2.png, with another label"},
        "duplicate_image": {"train/twice.png": "train/1.png, with another label"},
        "all_ignored": {"trainannot/void.png": "11"},
        "image_turned": {"train/on_its_side.png": "6", "train/turned.png": "6"},
        "image_grey": {"train/grey.png": "L"},
        "image_transparent": {"train/alpha.png": "RGBA"},
        "image_cmyk": {"train/cmyk.png": "CMYK"},
        "image_deep": {"train/deep.png": "16 bits"},
        "split_size": {"train": "21 pairs here, 367", "val": "6 pairs here, 101", "test": "0 pairs"},
    }


def config_for(source: Path, data_dir: Path, threads: int = 3):
    config = camvid.get_config()
    config.data.source, config.data.dir, config.system.threads = str(source), str(data_dir), threads
    return config


def check(source: Path, folder: Path, *, threads: int = 3) -> dict:
    """Examine a source and return the report, read as strict JSON."""
    try:
        check_data(config_for(source, folder / "data", threads), folder / "run")
        sound = True
    except UserError as error:
        assert "report.json" in str(error) and str(source) in str(error) and error.exit_status == 2
        sound = False

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((folder / "run/check_data/report.json").read_text(), parse_constant=refuse)
    assert report["sound"] == sound
    assert any(found["fault"] for found in report["findings"]) == (not sound)
    return report


def found_in(report: dict) -> dict[str, dict[str, str]]:
    """Kind -> where -> detail."""
    for found in report["findings"]:
        assert found["count"] == len(found["where"]) == len({item["where"] for item in found["where"]})
    return {found["kind"]: {item["where"]: item["detail"] for item in found["where"]} for found in report["findings"]}


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


# --- problems of single pairs -----------------------------------------------------------------------------------------


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


# --- the sheet -------------------------------------------------------------------------------------------------------


def test_the_sheet_shows_overlays_and_a_legend_of_every_class_and_of_unknown_values(faulty):
    sheet = np.asarray(Image.open(faulty[3] / "run/check_data/sheet.png").convert("RGB"))
    colours = {tuple(colour) for colour in sheet[:60].reshape(-1, 3).tolist()}
    assert {*CAMVID.palette, UNKNOWN_COLOUR} <= colours
    assert len(np.unique(sheet[100:].reshape(-1, 3), axis=0)) > 1000, "images, not flat colours alone"


def test_a_single_unknown_pixel_is_visible(tmp_path):
    label = label_of(0)
    label[40, 40] = 12
    tree = Tree(tmp_path / "raw")
    tree.add("train/wrong", label=encoded(label))
    check(tree.root, tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "run/check_data/sheet.png"))
    assert 9 <= (sheet[60:] == UNKNOWN_COLOUR).all(-1).sum() <= 16, "one pixel, enlarged"


@pytest.mark.parametrize("place", [0, 1, 50, 98, 99])
def test_the_sheet_is_limited_and_shows_a_class_that_only_one_image_has(place):
    entry = Entry("train", "a.png", "a", lambda: b"", None, lambda: label_of(0))
    seen = [
        Observation(entry, values={1: 5, 2: 5} | ({10: 1} if i == place else {}), image_digest="-") for i in range(100)
    ]
    chosen = choose(seen, 12)
    assert seen[place] in chosen and len(set(chosen)) == len(chosen) == 12
    assert [len(choose(seen[:few], 12)) for few in (0, 1, 5)] == [0, 1, 5]


def test_a_large_tree_gets_a_sheet_of_bounded_size(tmp_path):
    tree = Tree(tmp_path / "raw")
    for index in range(COLUMNS * ROWS + 5):
        tree.add(f"val/more_{index}")
    check(tree.root, tmp_path)
    height, width = np.asarray(Image.open(tmp_path / "run/check_data/sheet.png")).shape[:2]
    assert height < ROWS * 320 + 60 and width < COLUMNS * 320


def test_an_old_sheet_is_deleted_if_nothing_can_be_drawn(tmp_path):
    tree = Tree(tmp_path / "raw")
    check(tree.root, tmp_path)
    assert (tmp_path / "run/check_data/sheet.png").exists()
    for path in tree.root.glob("*annot/*"):
        path.write_bytes(b"")
    report = check(tree.root, tmp_path)
    assert not (tmp_path / "run/check_data/sheet.png").exists()
    assert set(found_in(report)["no_labels"]) == {"train", "val"}


# --- problems of the whole dataset ------------------------------------------------------------------------------------


def whole(tmp_path: Path, relabel: Callable[[np.ndarray], np.ndarray]) -> dict[str, dict[str, str]]:
    """Return what is found in a tree of such labels, except findings about its size."""
    found = found_in(check(Tree(tmp_path / "raw", relabel).root, tmp_path))
    return {kind: where for kind, where in found.items() if kind != "split_size"}


def test_a_clean_tree_is_sound(tmp_path):
    assert whole(tmp_path, lambda label: label) == {}


def test_flat_images_of_different_shapes_are_not_duplicates(tmp_path):
    tree = Tree(tmp_path / "raw")
    for name, size in (("train/high", (96, 64)), ("val/wide", SIZE)):
        tree.add(name, image=encoded(np.zeros((*size, 3), np.uint8)), label=encoded(np.resize(label_of(0), size)))
    assert set(found_in(check(tree.root, tmp_path))) == {"split_size"}


def test_labels_without_void_are_sound(tmp_path):
    assert whole(tmp_path, lambda label: label % VOID) == {}


@pytest.mark.parametrize(
    ("relabel", "where", "detail"),
    [
        (lambda label: label + 1, "values 1 to 12", "one lower"),
        (lambda label: np.where(label == VOID, 0, label + 1) + (label == 10), "values 0 to 12", "one lower"),
        (lambda label: np.where(label == VOID, 255, label), "value 255", "unknown here"),
        (lambda label: np.maximum(label, 1), "value 0", "first class"),
        (lambda label: np.minimum(label, 9), "value 10", "last class"),
    ],
)
def test_shifted_labels_and_unknown_void_are_found(tmp_path, relabel, where, detail):
    found = whole(tmp_path, lambda label: relabel(label.astype(int)).astype(np.uint8))
    assert detail in found["off_by_one"][where]


def test_a_photo_in_a_labels_place_does_not_fill_the_memory_with_its_values(tmp_path):
    photo = np.arange(SIZE[0] * SIZE[1]).astype(np.uint8).reshape(SIZE)
    found = whole(tmp_path, lambda label: photo)
    listed = found["unknown_values"]["trainannot/0.png"].split(", ")
    unknown = 256 - len(CAMVID.classes) - 1
    assert len(listed) == MOST_UNKNOWN + 1 and listed[-1] == f"and {unknown - MOST_UNKNOWN} more"


def test_large_labels_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    at_once, most, lock = [0], [0], threading.Lock()
    read = SegmentationBuilder.read_label

    def watched(*arguments):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1
        return read(*arguments)

    monkeypatch.setattr(SegmentationBuilder, "read_label", watched)
    monkeypatch.setattr(large_images, "MOST", SIZE[0] * SIZE[1])
    whole(tmp_path, lambda label: label)
    assert most[0] == 1


def test_void_saved_as_class_0_is_found_by_its_thin_lines(tmp_path):
    def outlined(label):
        label = np.where(label == 0, 1, label)
        label[::16], label[:, ::16] = 0, 0
        return label

    assert "sky" in whole(tmp_path, outlined)["zero_outlines"]["value 0"]


def test_missing_classes_are_found(tmp_path):
    places = iter(range(100))

    def relabel(label):
        train = next(places) < COUNTS["train"]
        label = np.where(label == 5, 4, label)  # never
        return np.where((label == 7) & train, 4, label)  # in val only

    found = whole(tmp_path, relabel)
    assert set(found) == {"class_never_seen", "class_not_trained"}
    assert set(found["class_never_seen"]) == {"tree"}
    assert found["class_not_trained"] == {"fence": f"{COUNTS['val'] * 512} pixels in val"}


def test_a_class_of_few_pixels_is_found(tmp_path):
    places = iter(range(100))

    def relabel(label):
        label = np.where(label == 8, 4, label)
        label[0, 0] = 8 if next(places) in (0, 7) else 4  # one pixel in train, one in val
        return label

    assert "1 pixels" in whole(tmp_path, relabel)["class_rare"]["car"]


def test_labels_without_any_labelled_pixel_are_a_fault(tmp_path):
    found = whole(tmp_path, lambda label: np.full_like(label, VOID))
    assert set(found["no_labels"]) == {"train", "val"} and len(found["all_ignored"]) == sum(COUNTS.values())


# --- the modes -------------------------------------------------------------------------------------------------------


def test_prepared_records_are_examined_without_their_source(tmp_path, capsys):
    tree = Tree(tmp_path / "raw")
    raw = check(tree.root, tmp_path)
    prepare(config_for(tree.root, tmp_path / "data"))
    assert "train 6, val 3" in capsys.readouterr().out
    shutil.rmtree(tree.root)
    check_data(config_for("", tmp_path / "data"), tmp_path / "run")
    prepared = json.loads((tmp_path / "run/check_data/report.json").read_text())
    assert prepared["sound"] and prepared["classes"] == raw["classes"] and prepared["splits"] == raw["splits"]
    assert [row["value"] for row in prepared["raw_values"]] == [*range(11), 255]


def test_damaged_records_are_found(tmp_path, monkeypatch):
    tree = Tree(tmp_path / "raw")
    prepare(config_for(tree.root, tmp_path / "data"))
    intact = builders.records

    def damaged(builder, split):
        examples = [intact(builder, split)[index] for index in range(COUNTS[split])]
        return [{**examples[0], "label": encoded(label_of(1) + 3)}, *examples[1:]]

    monkeypatch.setattr(builders, "records", damaged)
    with pytest.raises(UserError, match="not sound"):
        check_data(config_for("", tmp_path / "data"), tmp_path / "run")
    report = json.loads((tmp_path / "run/check_data/report.json").read_text())
    assert set(found_in(report)["unknown_values"]) == {"train record 0 (label)", "val record 0 (label)"}


def test_a_missing_split_names_the_field(tmp_path):
    config = config_for(Tree(tmp_path / "raw").root, tmp_path / "data")
    config.data.eval_split = "vale"
    with pytest.raises(UserError, match=r"config\.data\.eval_split is 'vale'"):
        check_data(config, tmp_path / "run")


@pytest.mark.parametrize("mode", ["prepare", "check_data"])
def test_the_error_for_a_missing_source_says_how_to_get_it(tmp_path, mode):
    config = config_for("", tmp_path / "data")
    config.data.download = False
    with pytest.raises(UserError) as caught:
        prepare(config) if mode == "prepare" else check_data(config, tmp_path / "run")
    assert catalog.CAMVID.source_help in str(caught.value)
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()


def test_the_program_exits_with_2_on_faults_and_prepares_sound_data(faulty, tmp_path):
    def run(mode, source):
        program = [sys.executable, "main.py", "--config=configs/camvid.py", f"--mode={mode}"]
        fields = [f"--config.data.source={source}", f"--config.data.dir={tmp_path}/data"]
        command = [*program, f"--workdir={tmp_path}/run", "--config.system.compilation_cache=", *fields]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    checked = run("check_data", faulty[0].root)
    assert checked.returncode == 2 and "train/cut.png" in checked.stdout
    assert "\nWARNING: " in checked.stdout and r"\n" not in checked.stdout, "each finding begins a line"
    [line] = [line for line in checked.stderr.splitlines() if line.startswith("error: ")]
    assert "13 fault(s)" in line and "Traceback" not in checked.stderr
    prepared = run("prepare", Tree(tmp_path / "raw").root)
    assert prepared.returncode == 0 and "train 6, val 3" in prepared.stdout
    assert not (tmp_path / "run/config.json").exists()
