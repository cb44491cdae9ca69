"""Images are paired with masks and assigned to splits by their folders, and mistakes are reported."""

import csv
import os
import tarfile
import time
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cpnet_jax.data.builders.pairing import _split_named, find_pairs
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.errors import UserError


def tree(root: Path, *pairs: str, pattern: str = "{}/{}") -> Path:
    """Make empty files of pairs, as images/NAME.jpg and masks/NAME.png; they are never opened."""
    for pair in pairs:
        folder, name = os.path.split(pair)
        for kind, ending in (("images", "jpg"), ("masks", "png")):
            touch(root, f"{pattern.format(kind, folder).strip('/')}/{name}.{ending}")
    return root


def touch(root: Path, *names: str | bytes) -> None:
    for name in map(os.fsdecode, names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def packed(root: Path, form: str) -> Path:
    """Return the folder itself, or an archive of it."""
    files = [(str(path), str(path.relative_to(root))) for path in root.rglob("*") if path.is_file()]
    if form == "zip":
        with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
            for path, name in files:
                archive.write(path, name)
    if form == "tar":
        with tarfile.open(root.with_suffix(".tar"), "w") as archive:
            for path, name in files:
                archive.add(path, name)
    return root if form == "folder" else root.with_suffix(f".{form}")


def splits(source: Path, notes: list[str] | None = None, **layout) -> dict[str, set[str]]:
    notes = [] if notes is None else notes
    found, _ = find_pairs(Source(source), FolderLayout(**layout), note=notes.append)
    return {split: {pair.name for pair in pairs} for split, pairs in found.items()}


def refusal(source: Path, **layout) -> str:
    with pytest.raises(UserError) as caught:
        splits(source, **layout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- splits -----------------------------------------------------------------------------------------------------------

SPLITS = {
    "loose images and test": (["a", "b", "test/t"], {"test": {"test/t"}}),
    "loose images and val": (["a", "b", "val/v"], {"train": {"a", "b"}, "val": {"val/v"}}),
    "other folders and test": (["berlin/a", "rome/b", "test/t"], {"test": {"test/t"}}),
    "capitals": (["Train/a", "VAL/v", "Test/t"], {"train": {"Train/a"}, "val": {"VAL/v"}, "test": {"Test/t"}}),
    "train and dev": (["train/a", "dev/v", "dev/w"], {"train": {"train/a"}, "val": {"dev/v", "dev/w"}}),
    "longer words": (["training/a", "development/v"], {"train": {"training/a"}, "val": {"development/v"}}),
    "eval": (["train/a", "eval/v", "holdout/t"], {"val": {"eval/v"}, "test": {"holdout/t"}}),
    "verbs": (["train/a", "validate/v", "tests/t"], {"val": {"validate/v"}, "test": {"tests/t"}}),
    "years": (["train2017/a", "val2017/v", "val2017/w"], {"val": {"val2017/v", "val2017/w"}}),
    "sets": (["train_set/a", "val-images/v", "Testing Data/t"], {"val": {"val-images/v"}, "test": {"Testing Data/t"}}),
    "a folder named test around all": (["test/train/a", "test/val/v"], {"train": {"test/train/a"}}),
}


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
@pytest.mark.parametrize("pattern", ["{}/{}", "{1}/{0}"])
@pytest.mark.parametrize("name", SPLITS)
def test_split_folders_are_honoured_in_every_spelling_and_whatever_lies_beside_them(name, pattern, form, tmp_path):
    pairs, expected = SPLITS[name]
    found = splits(packed(tree(tmp_path / "own", *pairs, pattern=pattern), form))
    assert {split: found[split] for split in expected} == expected
    assert set().union(*found.values()) == set(pairs)


def test_an_image_in_a_test_folder_is_never_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    folders = ["", "berlin", "train", "Train2", "training", "val", "Dev", "validation_set"]
    held_out = ["test", "TEST", "testing", "test2017", "test_images", "held-out"]
    refused = 0
    for trial in range(60):
        chosen = [*rng.choice(folders, 3, replace=False), rng.choice(held_out)]
        root = tree(tmp_path / str(trial), *(f"{folder}/x{n}".strip("/") for folder in chosen for n in range(2)))
        try:
            found = splits(root)
        except UserError:
            refused += 1
            continue
        assert found["test"] == {f"{chosen[-1]}/x0", f"{chosen[-1]}/x1"}, chosen
    assert 0 < refused < 50, "both outcomes were tried"


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_images_in_no_split_beside_train_and_another_split_are_refused(held_out, tmp_path):
    message = refusal(tree(tmp_path, "train/a", "stray", f"{held_out}/b"))
    assert "images/stray.jpg is in no folder named train or " + held_out in message


def test_a_folder_that_may_be_a_split_is_pointed_out(tmp_path):
    notes = []
    found = splits(tree(tmp_path, "a", "old_test/b", "latest/c"), notes)
    assert found["train"] | found["val"] == {"a", "old_test/b", "latest/c"}
    [note] = notes
    assert "old_test" in note and "training" in note


def test_a_test_split_without_masks_is_left_out_with_one_line(tmp_path):
    tree(tmp_path, "train/a", "val/v")
    touch(tmp_path, "images/test/t0.jpg", "images/test/t1.jpg")
    notes = []
    assert splits(tmp_path, notes) == {"train": {"train/a"}, "val": {"val/v"}}
    [note] = notes
    assert "2 images of test" in note and "images/test/t0.jpg" in note and "--mode=predict" in note


def test_a_test_split_without_masks_does_not_hide_a_suffix_of_the_others(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a_mask.png", "masks/b_mask.png", "images/test/t.jpg")
    found = splits(tmp_path)
    assert found["train"] | found["val"] == {"a", "b"}


def test_a_test_split_without_masks_may_lie_in_the_folder_of_all_files(tmp_path):
    touch(tmp_path, "all/a.png", "all/a_m.png", "all/b.png", "all/b_m.png", "all/test/t.png")
    found = splits(tmp_path, images="all", masks="all", mask_name="*_m")
    assert found["train"] | found["val"] == {"a", "b"}


@pytest.mark.parametrize("lacking", ["train/b", "val/w", "test/u"])
def test_other_images_without_masks_are_still_refused(lacking, tmp_path):
    tree(tmp_path, "train/a", "val/v", "test/t")
    touch(tmp_path, f"images/{lacking}.jpg")
    assert f"images/{lacking}.jpg has no mask" in refusal(tmp_path)


# --- partners that are almost there -----------------------------------------------------------------------------------

NEAR = {
    "an image whose format is not read": ("images/p.heic", "masks/p.png", ["images/p.heic", ".heic is not read"]),
    "a mask whose format is not read": ("images/p.jpg", "masks/p.webp", ["masks/p.webp", ".webp is not read"]),
    "polygons instead of a mask": ("images/p.jpg", "masks/p.json", ["masks/p.json", ".json is not read"]),
    "folders that disagree": ("images/train/p.jpg", "masks/val/p.png", ["masks/val/p.png", "subfolders"]),
    "masks without the images' folders": ("images/x/p.jpg", "masks/p.png", ["masks/p.png", "subfolders"]),
    "another case": ("images/P.jpg", "masks/p.png", ["masks/p.png", "same case"]),
}


@pytest.mark.parametrize("name", NEAR)
def test_the_message_names_the_file_that_is_almost_the_partner(name, tmp_path):
    image, mask, named = NEAR[name]
    touch(tree(tmp_path, "train/a", "val/v"), image, mask)
    message = refusal(tmp_path)
    assert all(text in message for text in named), message


def test_pictures_that_are_not_read_are_not_left_out_silently(tmp_path):
    touch(tree(tmp_path, "a", "b"), "images/c.HEIC", "images/d.avif", "images/a.dng", "images/notes.txt")
    notes = []
    splits(tmp_path, notes)
    [note] = notes
    assert "images/c.HEIC" in note and "2 such files" in note, "a.dng is there as a.jpg"


def test_masks_named_as_whole_image_files_are_found(tmp_path):
    touch(tmp_path, "images/a.jpg", "masks/a.jpg.png", "images/b.png", "masks/b.png.png")
    found = splits(tmp_path)
    assert found["train"] | found["val"] == {"a", "b"}


# --- names ------------------------------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
GBK = "中文".encode("gbk")


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_names_match_in_whatever_unicode_form_they_are_stored(form, tmp_path):
    root = tree(tmp_path / "own", "b")
    touch(root, f"images/{NFD}.jpg", f"masks/{NFC}.png")
    found = splits(packed(root, form))
    assert found["train"] | found["val"] == {NFC, "b"}


def test_two_files_whose_names_differ_only_in_unicode_form_stay_two(tmp_path):
    found = splits(tree(tmp_path, NFC, NFD, "b"))
    assert found["train"] | found["val"] == {NFC, NFD, "b"}


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_ids_of_names_that_are_no_utf8_can_be_printed(form, tmp_path):
    root = tree(tmp_path / "own", "b")
    touch(root, b"images/" + GBK + b".jpg", b"masks/" + GBK + b".png", "images/a\nb.jpg", "masks/a\nb.png")
    source = Source(packed(root, form))
    found = splits(source.path)
    ids = found["train"] | found["val"]
    assert ids == {r"\xd6\xd0\xce\xc4", r"a\nb", "b"}
    for name in source.names:
        assert f"{name} {source.where(name)}".encode().isascii() and source.read(name) == b""


def test_a_csv_names_files_that_are_no_utf8_as_messages_do(tmp_path):
    touch(tree(tmp_path, "b"), b"images/" + GBK + b".jpg", b"masks/" + GBK + b".png")
    rows = ["image,mask", r"images/\xd6\xd0\xce\xc4.jpg,masks/\xd6\xd0\xce\xc4.png", "images/b.jpg,masks/b.png"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    found = splits(tmp_path, pairs="pairs.csv")
    assert found["train"] | found["val"] == {r"images/\xd6\xd0\xce\xc4", "images/b"}


def test_names_that_macos_packs_match_a_csv(tmp_path):
    """The archiver of macOS stores UTF-8 without the flag that says so."""
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for name in (f"{NFD}.jpg", f"{NFD}.png", "b.jpg", "b.png"):
            info = zipfile.ZipInfo(name.encode().decode("cp437"))
            archive.writestr(info, b"")
        archive.writestr("pairs.csv", f"image,mask\n{NFC}.jpg,{NFC}.png\nb.jpg,b.png\n")
    data = (tmp_path / "mac.zip").read_bytes()
    flagged = NFD.encode().decode("cp437").encode()
    assert flagged in data, "stored by Python with the flag"
    found = splits(unflagged(tmp_path / "mac.zip"), pairs="pairs.csv")
    assert found["train"] | found["val"] == {NFC, "b"}


def unflagged(path: Path) -> Path:
    """Rewrite an archive's names as macOS does: bytes of UTF-8, without the flag."""
    target = path.with_name("unflagged.zip")

    class Info(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):
            return self.filename.encode("cp437"), self.flag_bits & ~0x800

    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(Info(info.filename), old.read(info))
    return target


# --- tables of pairs --------------------------------------------------------------------------------------------------


def table(root: Path, text: str) -> Path:
    touch(root, *(f"{kind}/{name}" for name in "abc" for kind in ("x", "y")))
    (root / "pairs.csv").write_text(text)
    return root


TABLES = {
    "semicolons, as Excel writes them": "image;mask;split\nx/a;y/a;train\nx/b;y/b;val\n",
    "tabs": "image\tmask\tsplit\nx/a\ty/a\ttrain\nx/b\ty/b\tval\n",
    "backslashes": "image,mask,split\nx\\a,y\\a,train\n.\\x\\b,y\\b,val\n",
    "other words and capitals": "Image,Mask,Split\n./x/a,y/a,Training\nx/b,y/b,DEV\n",
    "a test split without masks": "image,mask,split\nx/a,y/a,train\nx/b,y/b,val\nx/c,,test\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_every_spelling_of_a_csv_is_read(name, tmp_path):
    notes = []
    found = splits(table(tmp_path, TABLES[name]), notes, pairs="pairs.csv")
    assert found == {"train": {"x/a"}, "val": {"x/b"}}
    assert len(notes) == ("test" in TABLES[name]) and all("x/c" in note for note in notes)


def test_ids_of_files_outside_the_folder_do_not_lead_outside(tmp_path):
    touch(tmp_path, *(f"{kind}/{name}" for name in ("a.jpg", "b.jpg", "a.png", "b.png", "c.jpg") for kind in "pq"))
    root = tmp_path / "own"
    touch(root, "x/c.jpg")
    rows = [("../p/a.jpg", "../p/a.png"), (f"{tmp_path}/q/b.jpg", "../q/b.png"), (f"{root}/x/c.jpg", "../p/b.png")]
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mask"), *rows])
    found, _ = find_pairs(Source(root), FolderLayout(pairs="pairs.csv"))
    ids = {pair.name for pairs in found.values() for pair in pairs}
    assert ids == {"p/a", f"{tmp_path}/q/b".lstrip("/"), "x/c"}
    assert all(Source(root).read(pair.image) == b"" for pairs in found.values() for pair in pairs)


@pytest.mark.parametrize("spelling", ["y/a", "./y//a", "x/../y/a", "{root}/y/a", "../{name}/y/a", "..\\{name}\\y\\a"])
def test_a_mask_of_two_images_is_pointed_out(tmp_path, spelling):
    notes, mask = [], spelling.format(root=tmp_path, name=tmp_path.name)
    splits(table(tmp_path, f"image,mask\nx/a,y/a\nx/b,{mask}\nx/c,y/c\n"), notes, pairs="pairs.csv")
    [note] = notes
    assert "y/a" in note and "lines 2 and 3" in note


@pytest.mark.parametrize("spelling", ["x/a", "y/../x/a", "{root}/x/a", "../{name}/x/a", "link/../a"])
def test_an_image_listed_twice_is_refused_whatever_its_spelling(tmp_path, spelling):
    (tmp_path / "x" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("x/deep")  # link/../a is x/a
    touch(tmp_path, "a")
    image = spelling.format(root=tmp_path, name=tmp_path.name)
    message = refusal(table(tmp_path, f"image,mask\nx/a,y/a\n{image},y/b\n"), pairs="pairs.csv")
    assert "pairs.csv, line 3: image 'x/a' is the one of line 2 again" in message


def test_links_to_one_file_are_two_images(tmp_path):
    root = table(tmp_path, "image,mask\nx/a,y/a\nx/link,y/b\n")
    (root / "x" / "link").symlink_to("a")
    assert sum(map(len, splits(root, pairs="pairs.csv").values())) == 2


def test_an_empty_cell_is_not_the_archive_itself(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("pairs.csv", "image,mask\nx/a,\n")
        archive.writestr("x/a", b"")
    assert "line 2: mask is ''" in refusal(tmp_path / "own.zip", pairs="pairs.csv")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (f"x/b,{'y' * 200_000}", ["line 3", "field larger"]),
        (f"x/b,{'y' * 5000}", ["line 3", "not a file"]),
        ('"x/b,y/b\n' + "x/c,y/c\n" * 30_000, ["quotes"]),
    ],
)
def test_a_bad_row_is_refused_in_one_line(row, named, tmp_path):
    message = refusal(table(tmp_path, f"image,mask\nx/a,y/a\n{row}\n"), pairs="pairs.csv")
    assert "pairs.csv" in message and all(text in message for text in named), message[:300]


def test_long_names_of_splits_are_compared_in_linear_time():
    start = time.process_time()
    assert _split_named("train" + "7" * 5000 + "x") is None
    assert _split_named("train_" + "2024_" * 1000) == "train"
    assert time.process_time() - start < 1


def test_a_column_given_twice_is_refused(tmp_path):
    message = refusal(table(tmp_path, "image,mask,Image\nx/a,y/a,x/b\n"), pairs="pairs.csv")
    assert "pairs.csv has several columns 'image'" in message
