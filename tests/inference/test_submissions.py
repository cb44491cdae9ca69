"""Submissions have the format of the benchmarks' servers, and faults are found before uploading."""

import dataclasses
import os
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from cityscapesscripts.helpers.csHelpers import getCoreImageFileName
from cityscapesscripts.helpers.labels import trainId2label
from PIL import Image

from cpnet_jax.data.catalog import CAMVID, DATASETS
from cpnet_jax.errors import UserError
from cpnet_jax.inference.submissions import ADE20K_TEST, CITYSCAPES_TEST, FORMATS, validate, write_zip

SIZES = [(5, 7), (1, 1), (12, 30)]
NAMES = {
    "cityscapes": [
        "berlin_000000_000019_leftImg8bit.png",
        "berlin_000001_000019_leftImg8bit.png",
        "munich_000397_000019_leftImg8bit.png",
    ],
    "ade20k": ["ADE_test_00000001.jpg", "ADE_test_00000002.jpg", "ADE_test_00001361.jpg"],
}
BOTH = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())


def make_images(folder: Path, form) -> list[Path]:
    folder.mkdir()
    for name, (height, width) in zip(NAMES[form.dataset.name], SIZES, strict=True):
        Image.new("RGB", (width, height)).save(folder / name)
    return sorted(folder.iterdir())


def make_classes(form, size, seed=0):
    return np.random.default_rng(seed).integers(0, len(form.values), size).astype(np.uint8)


@pytest.fixture(params=FORMATS)
def made(request, tmp_path):
    """A complete submission: its format, images and folder."""
    form = FORMATS[request.param]
    images = make_images(tmp_path / "images", form)
    folder = tmp_path / "submission"
    written = [form.write(folder, image, make_classes(form, size)) for image, size in zip(images, SIZES, strict=True)]
    return SimpleNamespace(form=form, images=images, folder=folder, written=written, tmp=tmp_path)


def faults(made, path=None, images="all") -> list[str]:
    return validate(made.form, path or made.folder, made.images if images == "all" else images)


def replace(path: Path, array: np.ndarray, **how) -> None:
    Image.fromarray(array).save(path, **{"format": "PNG", **how})


def test_cityscapes_values_are_the_scripts_label_ids():
    assert CITYSCAPES_TEST.values == tuple(trainId2label[i].id for i in range(19))
    assert CITYSCAPES_TEST.dataset.classes == tuple(trainId2label[i].name for i in range(19))


def test_ade20k_values_are_index_plus_one():
    classes = np.arange(150, dtype=np.uint8).reshape(10, 15)
    assert np.array_equal(ADE20K_TEST.encode(classes), classes + 1)


def test_the_official_evaluation_finds_each_cityscapes_prediction(tmp_path):
    """The server finds one file per ground truth, by the beginning of its name, in any folder."""
    cores = [getCoreImageFileName(name) for name in NAMES["cityscapes"]]
    for core, size in zip(cores, SIZES, strict=True):
        city = core.split("_")[0]
        image = Path(f"leftImg8bit/test/{city}/{core}_leftImg8bit.png")
        CITYSCAPES_TEST.write(tmp_path / city, image, make_classes(CITYSCAPES_TEST, size))
    arguments = SimpleNamespace(predictionPath=str(tmp_path), predictionWalk=None)
    for core in cores:
        found = official.getPrediction(arguments, f"gtFine/test/city/{core}_gtFine_labelIds.png")
        assert Path(found).name == f"{core}_labelIds.png"


def test_ade20k_predictions_have_the_images_names():
    assert ADE20K_TEST.name(Path("a/ADE_test_00000001.jpg")) == "ADE_test_00000001.png"


@BOTH
def test_a_written_png_holds_the_classes_and_the_size_of_the_image(form, tmp_path):
    classes = make_classes(form, (6, 11))
    path = form.write(tmp_path / "new/folder", Path(form.example), classes)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (11, 6))
        values = np.asarray(picture)
    assert [[form.values[k] for k in row] for row in classes.tolist()] == values.tolist()
    assert [p.name for p in path.parent.iterdir()] == [form.name(Path(form.example))], "nothing else is left"


@BOTH
@pytest.mark.parametrize("value", [-1, 150, 255])
def test_a_value_that_is_not_a_class_is_not_encoded(form, value):
    with pytest.raises(ValueError, match=f"{len(form.values)} classes"):
        form.encode(np.array([[0, value]]))


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "holiday.jpg",
        "berlin_1_2_leftImg8bit.png",
        "berlin_000000_0000190_leftImg8bit.png",
        "ADE_test_1.jpg",
        "ADE_test_000000010.jpg",
        "test_00000001.jpg",
    ],
)
def test_an_image_that_cannot_be_named_is_refused_before_predicting(form, name):
    with pytest.raises(UserError, match=f"{re.escape(name)} is not named"):
        form.check(form.dataset, [Path(form.example), Path(name)])


@BOTH
def test_images_whose_predictions_would_overwrite_each_other_are_refused(form):
    pair = [Path("a", form.example), Path("b", form.example)]
    form.check(form.dataset, pair[:1])
    with pytest.raises(UserError, match="would both be written"):
        form.check(form.dataset, pair)


@BOTH
def test_a_model_of_other_classes_is_refused(form):
    for other in [*DATASETS.values(), dataclasses.replace(form.dataset, classes=form.dataset.classes[::-1])]:
        if other != form.dataset:
            with pytest.raises(UserError, match=f"classes of {other.name}"):
                form.check(other, [])


def test_whole_submissions_are_valid_as_folder_and_as_zip(made):
    write_zip(sorted(made.folder.glob("[!.]*.png")), made.tmp / "out/submission.zip")
    assert faults(made) == []
    assert faults(made, made.tmp / "out/submission.zip") == []
    assert sorted(p.name for p in (made.tmp / "out").iterdir()) == ["submission.zip"]


def test_the_zip_holds_the_pngs_as_they_are_and_nothing_else(made):
    (made.folder / "notes.txt").write_text("mine")
    (made.folder / ".half.png").write_bytes(b"half")
    write_zip(sorted(made.folder.glob("[!.]*.png")), made.tmp / "submission.zip")
    with zipfile.ZipFile(made.tmp / "submission.zip") as packed:
        assert packed.namelist() == [path.name for path in sorted(made.written)]
        assert all(packed.read(path.name) == path.read_bytes() for path in made.written)


def test_a_failing_zip_keeps_the_old_one_and_leaves_no_temporary_file(made, monkeypatch):
    archive = made.tmp / "zips/submission.zip"
    write_zip(sorted(made.folder.glob("[!.]*.png")), archive)
    before, write = archive.read_bytes(), zipfile.ZipFile.write

    def full_disk(self, path, name):
        if path == sorted(made.written)[-1]:
            raise OSError(28, "No space left on device")
        write(self, path, name)

    monkeypatch.setattr(zipfile.ZipFile, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_zip(sorted(made.folder.glob("[!.]*.png")), archive)
    assert archive.read_bytes() == before
    assert [p.name for p in archive.parent.iterdir()] == ["submission.zip"]


def test_files_are_replaced_in_one_step(made, monkeypatch):
    """The old files stay whole until then."""
    archive, image = made.tmp / "submission.zip", made.images[0]
    write_zip(sorted(made.folder.glob("[!.]*.png")), archive)
    before = archive.read_bytes(), made.written[0].read_bytes()
    made.written[1].unlink()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_zip(sorted(made.folder.glob("[!.]*.png")), archive)
    with pytest.raises(KeyboardInterrupt):
        made.form.write(made.folder, image, make_classes(made.form, SIZES[0], seed=1))
    assert (archive.read_bytes(), made.written[0].read_bytes()) == before


def test_a_missing_prediction_is_named_by_its_image(made):
    made.written[1].unlink()
    (fault,) = faults(made)
    assert str(made.images[1]) in fault


def test_predictions_of_other_images_and_other_files_are_named(made):
    other = made.written[0].name.replace("000000", "000777")
    replace(made.folder / other, np.full((2, 2), made.form.values[0], np.uint8))
    (made.folder / "readme.txt").write_text("")
    (made.folder / f"._{made.written[0].name}").write_bytes(b"as a Mac packs it")
    found = faults(made)
    assert len(found) == 3
    assert [fault.split()[0] for fault in found] == [f"._{made.written[0].name}", other, "readme.txt"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_predictions_of_an_image_are_reported_in_folders_and_zips(made):
    (made.folder / "more").mkdir()
    (made.folder / "more" / made.written[0].name).write_bytes(made.written[0].read_bytes())
    (fault,) = faults(made)
    assert "second prediction" in fault and f"more/{made.written[0].name}" in fault
    with zipfile.ZipFile(made.tmp / "twice.zip", "w") as packed:
        for path in [*made.written, made.written[0]]:
            packed.write(path, path.name)
    (fault,) = faults(made, made.tmp / "twice.zip")
    assert "second prediction" in fault


def test_a_cityscapes_image_may_have_any_ending_but_one_prediction(tmp_path):
    (image, *_) = make_images(tmp_path / "images", CITYSCAPES_TEST)
    folder = tmp_path / "submission"
    written = CITYSCAPES_TEST.write(folder, image, make_classes(CITYSCAPES_TEST, SIZES[0]))
    renamed = written.rename(folder / "berlin_000000_000019_my_net_v2.png")
    assert validate(CITYSCAPES_TEST, folder, [image]) == []
    (folder / "berlin_000000_000019.png").write_bytes(renamed.read_bytes())
    (fault,) = validate(CITYSCAPES_TEST, folder, [image])
    assert "second prediction" in fault
    with pytest.raises(SystemExit):  # so does the benchmark's own evaluation
        arguments = SimpleNamespace(predictionPath=str(folder), predictionWalk=None)
        official.getPrediction(arguments, "berlin_000000_000019_gtFine_labelIds.png")


def test_an_ade20k_prediction_must_have_exactly_its_images_name(tmp_path):
    images = make_images(tmp_path / "images", ADE20K_TEST)[:1]
    written = ADE20K_TEST.write(tmp_path / "submission", images[0], make_classes(ADE20K_TEST, SIZES[0]))
    written.rename(written.with_name("ADE_test_00000001_pred.png"))
    assert "not named" in validate(ADE20K_TEST, written.parent, images)[0]


def test_a_wrong_size_is_reported_with_both_sizes(made):
    replace(made.written[0], np.full((9, 8), made.form.values[0], np.uint8))
    (fault,) = faults(made)
    assert made.written[0].name in fault and "8x9" in fault and "7x5" in fault


def test_sizes_are_those_of_the_stored_image_whatever_its_orientation_flag(made):
    height, width = SIZES[0]
    flag = Image.Exif()
    flag[0x0112] = 6
    Image.new("RGB", (width, height)).save(made.images[0], exif=flag)
    assert faults(made) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
def test_other_image_modes_are_reported(made, mode):
    classes = np.full(SIZES[0], made.form.values[0], np.uint8)
    picture = Image.fromarray(classes.astype(np.uint16)) if mode == "I;16" else Image.fromarray(classes).convert(mode)
    picture.save(made.written[0])
    (fault,) = faults(made)
    assert made.written[0].name in fault and "one channel" in fault


def test_a_palette_is_allowed_as_its_indices_are_the_values(made):
    values = made.form.encode(make_classes(made.form, SIZES[0]))
    picture = Image.fromarray(values)
    picture.putpalette([255 - i // 3 for i in range(768)])
    assert picture.mode == "P"
    picture.save(made.written[0])
    assert faults(made) == []
    picture.putpixel((0, 0), 255)
    picture.save(made.written[0])
    assert "255" in faults(made)[0]


def test_values_that_are_not_classes_are_reported(made):
    """For example untranslated training ids: 0 is not a class in either format."""
    values = np.full(SIZES[2], made.form.values[0], np.uint8)
    values[0, :3] = 0, 200, 255
    replace(made.written[2], values)
    (fault,) = faults(made)
    assert made.written[2].name in fault and "0, 200, 255" in fault


def test_damaged_files_and_files_with_a_wrong_suffix_are_reported(made):
    data = made.written[2].read_bytes()
    made.written[2].write_bytes(data[: len(data) // 2])
    made.written[1].write_bytes(b"")
    replace(made.written[0], np.full(SIZES[0], made.form.values[0], np.uint8), format="BMP")
    assert [fault.split()[0] for fault in faults(made)] == [path.name for path in made.written]


def test_all_faults_are_reported_at_once(made):
    made.written[0].unlink()
    replace(made.written[1], np.zeros((2, 2), np.uint8))
    (made.folder / "stray.png").write_bytes(b"")
    assert len(faults(made)) == 4, "missing, size, values, stray"


def test_a_damaged_archive_is_reported(made):
    archive = made.tmp / "submission.zip"
    write_zip(sorted(made.folder.glob("[!.]*.png")), archive)
    data = bytearray(archive.read_bytes())
    archive.write_bytes(data[:-30])
    assert "cannot be opened" in faults(made, archive)[0]
    place = data.index(b"IDAT") + 6
    data[place] ^= 255
    archive.write_bytes(data)
    (fault,) = faults(made, archive)
    assert "cannot be read" in fault and ".png" in fault


def test_a_path_that_does_not_exist_is_reported(made):
    (fault,) = faults(made, made.tmp / "nowhere.zip")
    assert "nowhere.zip" in fault and "No such file" in fault


def test_without_images_the_number_must_be_that_of_a_published_test_set(made):
    (fault, *sizes) = faults(made, images=None)
    assert "predictions of 3 test images" in fault and f"{made.form.counts[-1]:,}" in fault
    assert all("2048x1024" in fault for fault in sizes)
    assert len(sizes) == (3 if made.form is CITYSCAPES_TEST else 0)


@pytest.mark.parametrize("count", ADE20K_TEST.counts)
def test_a_whole_test_set_without_its_images_is_valid(tmp_path, count):
    image = ADE20K_TEST.write(tmp_path, Path("ADE_test_00000000.jpg"), np.zeros((2, 3), np.uint8))
    data = image.read_bytes()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for i in range(count):
            packed.writestr(f"ADE_test_{i:08}.png", data)
    assert validate(ADE20K_TEST, tmp_path / "all.zip") == []


@pytest.mark.parametrize("with_images", [True, False])
@pytest.mark.parametrize("name", ["frankfurt_000000_000294_labelIds.png", "ADE_val_00000001.png"])
def test_predictions_of_another_split_are_reported(tmp_path, name, with_images):
    """Even if all images are given: ADE20K has as many for validation as for a test."""
    form = CITYSCAPES_TEST if name[0] == "f" else ADE20K_TEST
    prediction, image = tmp_path / "packed" / name, tmp_path / name.replace("labelIds", "leftImg8bit")
    prediction.parent.mkdir()
    for path in (prediction, image):
        replace(path, np.full((1024, 2048), form.values[0], np.uint8))
    assert validate(form, prediction.parent, [image] if with_images else None)[0] == (
        f"{name} is a prediction of no test image"
    )


def test_an_empty_folder_is_not_a_submission(tmp_path):
    assert len(validate(CITYSCAPES_TEST, tmp_path)) == 1
    assert CAMVID.name not in FORMATS
