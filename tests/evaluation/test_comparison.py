"""Compared runs: what they kept is taken, and what is missing is computed or said to be missing."""

import json
import shutil
from pathlib import Path

import evaluated_runs
import numpy as np
import pytest
from evaluation.test_report import Page
from PIL import Image
from raw_data import save

from cpnet_jax.errors import UserError
from cpnet_jax.evaluation import shown_images
from cpnet_jax.evaluation.comparison import page
from cpnet_jax.evaluation.comparison.images import compare_images
from cpnet_jax.evaluation.comparison.runs import differing_fields, open_runs, protocols, short_names
from cpnet_jax.modes.compare import compare
from cpnet_jax.modes.evaluate import evaluate_exported
from cpnet_jax.modes.export import export_workdir
from cpnet_jax.runtime import files

pytestmark = pytest.mark.usefixtures("small_backbone_in_module", "quick_compilation")
PICTURES = 3
FIELDS = {"eval.pictures": PICTURES}
# Another crop, network and protocol.
OTHER = {**FIELDS, "data.crop_size": (24, 40), "model.prior": "pairs", "eval.multi_scale": True, "eval.scales": (1.0,)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of two evaluated runs."""
    root = tmp_path_factory.mktemp("compared")
    evaluated_runs.write(root / "own", {"val": 4, "train": 5})
    for name, seed, fields in (("first", 4, FIELDS), ("second", 5, OTHER)):
        run = evaluated_runs.make(root, name, seed, **fields)
        lines = [{"step": step, "loss": 2.0 - step / 10, "lr": 0.1} for step in range(1, 8)] + [
            {"step": 7, "mIoU": 0.4}
        ]
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return root


@pytest.fixture
def exported(made, without_shape_checks):
    """The first run, exported."""
    path = made / "first.cpnet"
    if not path.exists():
        export_workdir(made / "first", path, "latest")
    return path


@pytest.fixture
def pair(made, tmp_path):
    """A copy of the two runs that a test may change."""
    return [shutil.copytree(made / name, tmp_path / name) for name in ("first", "second")]


def change(path: Path, **values) -> None:
    """Changes entries of a JSON object; a name with dots leads into an object."""
    found = json.loads(path.read_text())
    for name, value in values.items():
        *sections, last = name.split("__")
        place = found
        for section in sections:
            place = place[section]
        place[last] = value
    files.write_json(path, found)


def assert_refused(runs, *words):
    with pytest.raises(UserError) as caught:
        open_runs(runs)
    assert all(str(word) in str(caught.value) for word in words), caught.value
    assert caught.value.exit_status == 2 and "\n" not in str(caught.value)


def known(image):
    return [prediction for prediction in image.predictions if prediction is not None]


def test_kept_predictions_are_those_of_the_networks(made, pair):
    """Nor are the networks or the data needed for what was kept."""
    kept = compare_images(open_runs([made / "first", made / "second"]), PICTURES)
    for run in pair:
        shutil.rmtree(run / "predictions")
    computed = compare_images(open_runs(pair), PICTURES)
    assert kept.notes == computed.notes == () and len(kept.images) == PICTURES
    assert [image.id for image in kept.images] == [image.id for image in computed.images]
    for ours, theirs in zip(kept.images, computed.images, strict=True):
        for name in ("image", "label"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        for a, b in zip(ours.predictions, theirs.predictions, strict=True):
            assert (a != b).mean() < 0.01, "ties may be decided otherwise"
    assert any((image.predictions[0] != image.predictions[1]).any() for image in kept.images)


def test_what_was_kept_needs_neither_network_nor_data(pair):
    for run in pair:
        shutil.rmtree(run / "checkpoints")
        change(run / "config.json", data__dir="/nowhere", data__source="/nowhere/own")
    assert len(compare_images(open_runs(pair), PICTURES).images) == PICTURES


def test_a_run_that_kept_nothing_and_has_no_network_is_left_out_of_the_pictures(pair):
    shutil.rmtree(pair[1] / "checkpoints")
    shutil.rmtree(pair[1] / "predictions")
    found = compare_images(open_runs(pair), PICTURES)
    assert [image.predictions[1] for image in found.images] == [None] * PICTURES
    assert all(image.predictions[0] is not None for image in found.images)
    assert len(found.notes) == 1 and "second has no network" in found.notes[0]


def test_predictions_of_an_older_evaluation_are_computed_again(pair):
    """As after --mode=eval and an evaluation while training, which replaces eval.json and keeps no images."""
    expected = [image.predictions[1] for image in compare_images(open_runs(pair), PICTURES).images]
    for path in pair[1].rglob("*_prediction.png"):
        save(path, np.full_like(np.asarray(Image.open(path)), 2))
    shown_images.forget(pair[1])
    found = [image.predictions[1] for image in compare_images(open_runs(pair), PICTURES).images]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours != theirs).mean() < 0.01, "ties may be decided otherwise"


def test_a_kept_image_of_the_same_name_with_another_label_is_another_image(pair):
    shutil.rmtree(pair[1] / "checkpoints")
    for path in pair[1].rglob("*_label.png"):
        save(path, np.zeros_like(np.asarray(Image.open(path))))
    found = compare_images(open_runs(pair), PICTURES)
    assert [image.predictions[1] for image in found.images] == [None] * PICTURES


def test_a_network_that_cannot_be_loaded_does_not_hide_the_figures(pair, tmp_path, capsys):
    shutil.rmtree(pair[1] / "predictions")
    for path in (pair[1] / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    compare(pair, tmp_path / "page.html")
    assert "Note: Predictions of second are missing" in capsys.readouterr().out
    assert Page((tmp_path / "page.html").read_text()).table("Class")


def test_without_pictures_and_data_the_rest_is_compared(pair, tmp_path, capsys):
    for run in pair:
        shutil.rmtree(run / "predictions")
        change(run / "config.json", data__dir=str(tmp_path / "gone"), data__source="/nowhere/own")
    compare(pair, tmp_path / "page.html")
    assert "Note: No images are shown: " in capsys.readouterr().out
    assert Page((tmp_path / "page.html").read_text()).attributes("img") == []


def test_images_come_by_disagreement_on_labelled_pixels(pair):
    shown = list(shown_images.read(pair[0], PICTURES))
    changed = shown[1].id
    for run, value in zip(pair, (0, 1), strict=True):
        for sample in shown:
            pixels = np.zeros_like(sample.label)
            pixels[:, : 8 if sample.id == changed else 2] = value
            save(run / "predictions" / f"{sample.id}_prediction.png", pixels)
    found = compare_images(open_runs(pair), PICTURES).images
    assert found[0].id == changed and found[0].disagreement > found[1].disagreement > 0
    image = found[0]
    is_labelled = image.label != 255
    expected = (image.predictions[0] != image.predictions[1])[is_labelled].mean()
    assert image.disagreement == pytest.approx(expected)


def test_classes_in_another_order_are_compared_by_name(pair):
    """The second run's classes are turned round, and so is what it kept."""
    order = [2, 0, 1]
    names = [evaluated_runs.CLASSES[i] for i in order]
    before = compare_images(open_runs(pair), PICTURES)
    run = pair[1]
    figures = json.loads((run / "eval.json").read_text())
    change(run / "eval.json", per_class={name: figures["per_class"][name] for name in names})
    change(run / "config.json", trained_on__classes=names)
    table = np.full(256, 255, np.uint8)
    table[order] = range(3)
    for path in [*run.rglob("*_label.png"), *run.rglob("*_prediction.png")]:
        save(path, table[np.asarray(Image.open(path))])
    after = compare_images(open_runs(pair), PICTURES)
    for ours, theirs in zip(before.images, after.images, strict=True):
        for a, b in zip(ours.predictions, theirs.predictions, strict=True):
            np.testing.assert_array_equal(a, b)
    assert [row.values for row in page.class_rows(open_runs(pair))] == [
        (json.loads((pair[0] / "eval.json").read_text())["per_class"][name], figures["per_class"][name])
        for name in evaluated_runs.CLASSES
    ]


def test_an_exported_file_predicts_as_its_run_and_says_that_it_has_no_figures(made, exported, tmp_path, capsys):
    compare([made / "first", exported], tmp_path / "page.html")
    found = compare_images(open_runs([made / "first", exported]), PICTURES)
    for image in found.images:
        assert (image.predictions[0] != image.predictions[1]).mean() < 0.01
    shown = Page((tmp_path / "page.html").read_text())
    assert any("B has no figures: an exported file holds no figures" in text for text in shown.texts)
    assert [row[2] for row in shown.table("Class")] == ["\N{EN DASH}"] * 3
    text = capsys.readouterr().out
    assert "B = first.cpnet" in text and text.splitlines()[5].split()[2:] == ["-", "-"]


def test_the_evaluation_of_an_exported_file_is_a_run(made, exported, tmp_path):
    config = evaluated_runs.config_for(made / "own", made / "data", **FIELDS)
    evaluate_exported(config, exported, tmp_path / "results")
    runs = open_runs([made / "first", tmp_path / "results"])
    assert runs[1].figures["images"] == 4 and not runs[1].has_network
    found = compare_images(runs, PICTURES)
    assert found.notes == () and all(len(known(image)) == 2 for image in found.images)


def test_the_page_and_the_table_hold_the_figures_and_their_differences(made, tmp_path, capsys):
    compare([made / "first", made / "second"], tmp_path / "page.html")
    values = [json.loads((made / name / "eval.json").read_text())["per_class"] for name in ("first", "second")]
    shown = Page((tmp_path / "page.html").read_text())
    text = capsys.readouterr().out
    for name, row in zip(evaluated_runs.CLASSES, shown.table("Class"), strict=True):
        a, b = (value[name] for value in values)
        assert row[:4] == [name, f"{100 * a:.1f} %", f"{100 * b:.1f} %", f"{100 * (b - a):+.1f}"]
        [line] = [line for line in text.splitlines() if line.startswith(name)]
        assert line.split() == [name, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (b - a):+.1f}"]
    fields = {row[0]: row[1:] for row in shown.table("Field")}
    assert fields["data.crop_size"] == ["[32, 48]", "[24, 40]"]
    assert fields["model.prior"] == ['"positions"', '"pairs"'] and "seed" not in fields
    assert any("The evaluations differ in flip" in text for text in shown.texts)
    # Image and label, a prediction each, and the comparison.
    assert len(shown.attributes("img")) == PICTURES * 5
    [data] = [text for attributes, text in shown.scripts if attributes.get("id") == "curves-data"]
    assert json.loads(data)["runs"] == ["A: first", "B: second"]


def test_the_page_loads_nothing_from_elsewhere_and_replaces_an_older_one(made, tmp_path):
    path = tmp_path / "new" / "page.html"
    for _ in range(2):
        compare([made / "first", made / "second"], path)
    shown = Page(path.read_text())
    for tag, attributes in shown.tags:
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in shown.attributes("a")} <= set(ids)
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_more_than_two_runs_are_compared_with_the_first(made, pair, tmp_path):
    compare([made / "first", *pair], tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    assert [float(row[4]) for row in shown.table("Class")] == [0.0] * 3, "the same run"
    assert len(shown.attributes("img")) == PICTURES * 7


def test_runs_that_cannot_be_compared_are_refused(made, pair, tmp_path):
    first, second = pair
    assert_refused([], "--runs needs two or more runs")
    assert_refused([first], "--runs needs two or more runs")
    assert_refused([first, second, first], f"--runs names {first} twice")
    assert_refused([first, tmp_path / "nowhere"], "nowhere, which does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused([first, tmp_path / "empty"], "holds neither config.json nor eval.json")
    (tmp_path / "text").write_text("not a network")
    assert_refused([first, tmp_path / "text"], tmp_path / "text")
    change(second / "config.json", trained_on__classes=["sky", "road", "lake"])
    change(second / "eval.json", per_class={"sky": 0.5, "road": 0.5, "lake": 0.5})
    assert_refused(pair, "classes differ", f"only {first} has 'tree'")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings__split": "test"}, ["split test and val", "--mode=eval"]),
        ({"images": 5}, ["images 5 and 4"]),
        ({"settings__data": "/photos/lakes"}, ["lakes and own"]),
        # Another folder of the same name, with as many images.
        ({"labelled_pixels__sky": 7}, ["labelled pixels of 'sky' 7 and"]),
    ],
)
def test_runs_evaluated_on_other_images_are_refused(pair, changes, words):
    change(pair[1] / "eval.json", **changes)
    assert_refused(pair, "their images differ", *words)


@pytest.mark.parametrize(
    "changes",
    [{"labelled_pixels": None}, {"labelled_pixels__sky": 7, "settings__class_names": [["heaven", "sky"]]}],
    ids=["not counted, as by earlier versions", "labels were read otherwise, which a note says"],
)
def test_labelled_pixels_are_compared_only_if_they_are_known_and_read_alike(pair, changes):
    change(pair[1] / "eval.json", **changes)
    assert len(open_runs(pair)) == 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_run_that_was_not_evaluated_hides_no_other_images(made, pair, tmp_path, place):
    unevaluated = shutil.copytree(made / "first", tmp_path / "unevaluated")
    (unevaluated / "eval.json").unlink()
    change(pair[1] / "eval.json", images=5)
    runs = list(pair)
    runs.insert(place, unevaluated)
    assert_refused(runs, "their images differ", "images 5 and 4")


def test_class_names_may_hold_dots(pair):
    names = ["sky", "misc. objects", "misc"]
    for run in pair:
        change(run / "config.json", trained_on__classes=names)
        change(run / "eval.json", per_class=dict.fromkeys(names, 0.5))
    assert [run.dataset.classes for run in open_runs(pair)] == [tuple(names)] * 2
    change(pair[1] / "eval.json", per_class=dict.fromkeys(names, 0.5) | {"misc. objects": 2})
    assert_refused(pair, "misc. objects is 2")


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("eval.json", {"mIoU": "high"}, ["mIoU is", "run --mode=eval again"]),
        ("eval.json", {"per_class": {"sky": 2}}, ["sky is 2"]),
        ("eval.json", {"per_class": {"sky": float("nan")}}, ["NaN"]),
        ("eval.json", {"settings": []}, ["settings is []"]),
        ("config.json", {"trained_on__palette": [[0, 0, 0]]}, ["palette has 1 entries"]),
        ("config.json", {"name": "a/b"}, ["name is"]),
    ],
)
def test_damaged_files_are_refused(pair, file, changes, words):
    change(pair[1] / file, **changes)
    assert_refused(pair, pair[1] / file, *words)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_files_that_are_no_json_objects_are_refused(pair, text):
    (pair[1] / "eval.json").write_text(text)
    assert_refused(pair, pair[1] / "eval.json", "cannot be read")


def test_data_that_were_moved_are_the_same(pair):
    change(pair[1] / "config.json", data__source="/elsewhere/copy")
    assert len(open_runs(pair)) == 2
    change(pair[1] / "config.json", trained_on__fingerprint="0123456789abcdef")
    assert_refused(pair, "copy and own")


def test_a_run_that_was_not_evaluated_has_no_figures(pair, tmp_path):
    (pair[1] / "eval.json").unlink()
    compare(pair, tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    assert any("B has no figures" in text for text in shown.texts)
    assert len(shown.attributes("img")) == PICTURES * 5, "its network predicts"


def test_an_output_that_is_a_folder_is_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"is a folder: name a file, for example .*comparison\.html"):
        compare([made / "first", made / "second"], tmp_path)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/r/pairs/seed_0", "/r/full/seed_0"], ["pairs", "full"]),
        (["/r/a", "/r/b", "/q/a"], ["r/a", "r/b", "q/a"]),
        (["/r/a", "/r/a/evaluations/x"], ["a", "evaluations/x"]),
        (["/r/a/a", "/r/a"], ["a", "a"]),
        (["a", "/other/a.cpnet"], None),
    ],
)
def test_names_are_the_parts_that_differ(paths, names):
    found = short_names([Path(path) for path in paths])
    assert found == names if names else len(set(found)) == len(paths)


def test_what_differs_is_listed_only_once_and_what_is_equal_is_not(made, exported):
    runs = open_runs([made / "first", made / "second", exported])
    assert differing_fields(runs)["data.crop_size"] == [[32, 48], [24, 40], None]
    assert set(protocols(runs)) == {"flip"}
    assert differing_fields([runs[0], runs[0]]) == {} and protocols([runs[0], runs[2]]) == {}


def test_evaluations_that_scored_other_classes_get_a_note_and_those_of_earlier_versions_none(pair):
    def settings(run, **changed):
        found = json.loads((run / "eval.json").read_text())["settings"] | {"flip": False} | changed
        change(run / "eval.json", settings={name: value for name, value in found.items() if value is not None})

    settings(pair[0])
    settings(pair[1], windows=None)
    assert protocols(open_runs(pair)) == {}
    settings(pair[1], windows=False, ignored_classes=["lake"], class_names=[["lane", "road"]])
    assert protocols(open_runs(pair)) == {
        "windows": [True, False],
        "ignored_classes": [[], ["lake"]],
        "class_names": [[], [["lane", "road"]]],
    }
