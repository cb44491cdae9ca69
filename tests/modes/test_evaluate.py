"""--mode=eval scores a trained network on any labelled images, by the names of their classes."""

import json
from pathlib import Path

import forked_program
import numpy as np
import pytest
from evaluated_runs import CLASSES, CROP, STEP, config_for, label_of, make, of_run, write
from raw_data import save
from small_main import CACHE
from whole_program import environment

from cpnet_jax import sharding
from cpnet_jax.config.compiled_fields import compiled_fields
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import load_exported
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.modes import evaluate as mode
from cpnet_jax.modes.evaluate import evaluate_exported, evaluate_workdir
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.modes.export import export_workdir

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with random weights, evaluated on its own data; and the result."""
    root = tmp_path_factory.mktemp("run")
    write(root / "own", {"val": 4, "train": 5, "test": 3})
    make(root)
    return root


def files_of(workdir: Path) -> dict[str, bytes]:
    """The content of every file besides other evaluations."""
    paths = [path for path in workdir.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths if "evaluations" not in path.parts}


def evaluated(run, config) -> dict:
    """The eval.json of an evaluation on other data, which leaves the run's own results as they are."""
    before, seen = files_of(run / "run"), set(run.glob("run/evaluations/*"))
    evaluate_workdir(config, run / "run")
    assert files_of(run / "run") == before
    [folder] = set(run.glob("run/evaluations/*")) - seen
    assert (folder / "report" / "index.html").exists()
    return json.loads((folder / "eval.json").read_text())


def own(run) -> dict:
    return json.loads((run / "run" / "eval.json").read_text())


FIGURES = ("mIoU", "mean_accuracy", "pixel_accuracy", "frequency_weighted_IoU", "per_class", "images")


def figures(found: dict) -> dict:
    return {name: found[name] for name in FIGURES}


def test_a_runs_own_data_are_evaluated_with_the_runs_settings_whatever_the_config_says_of_the_network(run):
    found = own(run)
    assert found["settings"]["experiment"] == "tiny" and found["settings"]["window"] == list(CROP)
    assert found["images"] == 4 and len({iou for iou in found["per_class"].values() if iou}) == 3, "it says something"
    (run / "run" / "eval.json").unlink()
    evaluate_workdir(config_for(run / "own", run / "data"), run / "run")
    assert own(run) == found and not (run / "run" / "evaluations").exists()


def test_an_evaluation_finds_the_programs_of_the_runs_training(run):
    experiment = Experiment(of_run(run))
    trained = mode._from_workdir(of_run(run), run / "run", "latest")
    assert compiled_fields(trained.config) == compiled_fields(experiment.config)


def test_classes_in_another_order_score_the_same(run, tmp_path):
    source = write(tmp_path / "new", {"": 4}, table=(2, 0, 1), classes=("road", "tree", "sky"))
    found = evaluated(run, config_for(source, tmp_path / "data"))
    assert figures(found) == figures(own(run))
    assert found["settings"]["split"] == "train+val" and found["settings"]["data"] == str(source)


def test_pixels_of_classes_that_the_network_does_not_know_are_ignored(run, tmp_path, capsys):
    source = write(tmp_path / "new", {"val": 4}, classes=(*CLASSES, "lake"))
    for path in source.glob("masks/val/*"):
        label = label_of(int(path.stem))
        save(path, np.where(label == 255, 3, label).astype(np.uint8))
    found = evaluated(run, config_for(source, tmp_path / "data"))
    assert figures(found) == figures(own(run))
    assert found["settings"]["ignored_classes"] == ["lake"]
    [note] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    assert "lake" in note and "ignored" in note


def test_several_classes_of_the_data_are_scored_as_one_of_the_network(run, tmp_path):
    """Where the network sees a road, the data tell two kinds of it apart, and they call the sky something else."""
    source = write(tmp_path / "new", {"val": 4}, classes=("heaven", "street", "tree", "lane"))
    for path in source.glob("masks/val/*"):
        label = label_of(int(path.stem))
        label[:, ::2][label[:, ::2] == 1] = 3
        save(path, label)
    names = (("heaven", "sky"), ("street", "road"), ("lane", "road"))
    found = evaluated(run, config_for(source, tmp_path / "data", **{"eval.class_names": names}))
    assert figures(found) == figures(own(run))
    assert found["settings"]["class_names"] == [list(pair) for pair in names]


def test_classes_that_the_data_do_not_have_are_left_out_of_the_means_and_wrong_if_predicted(run, tmp_path):
    source = write(tmp_path / "new", {"val": 4}, table=(0, 1, 255), classes=("sky", "road"))
    for path in source.glob("masks/val/*"):
        label = label_of(int(path.stem))
        save(path, np.where(label == 2, 255, label).astype(np.uint8))
    (source / "classes.txt").write_text("0: sky\n1: road\n255: ignore")
    found = evaluated(run, config_for(source, tmp_path / "data"))
    assert found["absent_classes"] == ["tree"] and found["per_class"]["tree"] is None
    assert found["per_class_accuracy"]["sky"] == own(run)["per_class_accuracy"]["sky"], "trees there stay wrong"


def test_a_published_dataset_is_evaluated_by_the_names_it_shares(run, tmp_path):
    for index in range(2):
        save(tmp_path / "camvid" / "val" / f"{index}.png", np.zeros((40, 56, 3), np.uint8))
        save(tmp_path / "camvid" / "valannot" / f"{index}.png", np.full((40, 56), 3 * index, np.uint8))  # sky, road
    found = evaluated(run, config_for(tmp_path / "camvid", tmp_path / "data", **{"data.name": "camvid"}))
    assert found["settings"]["dataset"] == "camvid" and found["images"] == 2
    assert list(found["per_class"]) == list(CLASSES) and found["absent_classes"] == ["tree"]
    assert "building" in found["settings"]["ignored_classes"]


def test_another_split_of_the_runs_data_is_kept_apart_and_the_protocol_is_the_configs(run):
    fields = {"data.eval_split": "test", "eval.multi_scale": True, "eval.scales": (1.0,), "eval.pictures": 0}
    found = evaluated(run, config_for(run / "own", run / "data", **fields))
    assert found["settings"]["split"] == "test" and found["images"] == 3 and found["settings"]["flip"]


def test_data_without_a_pixel_of_any_class_are_refused_and_nothing_is_written(run, tmp_path):
    source = write(tmp_path / "new", {"val": 2}, table=(255, 255, 255))
    seen = set(run.glob("run/evaluations/*"))
    with pytest.raises(UserError, match="no pixel in the 2 image"):
        evaluate_workdir(config_for(source, tmp_path / "data"), run / "run")
    assert set(run.glob("run/evaluations/*")) == seen


def test_an_exported_network_scores_as_its_workdir(run, tmp_path, without_shape_checks):
    export_workdir(run / "run", tmp_path / "tiny.cpnet", "latest")
    config = config_for(run / "own", run / "data", **{"eval.batch_size": 1})
    evaluate_exported(config, tmp_path / "tiny.cpnet", tmp_path / "results")
    found = json.loads((tmp_path / "results" / "eval.json").read_text())
    assert found["settings"]["experiment"] == "tiny" and found["settings"]["window"] == list(CROP)
    assert found["settings"]["step"] == STEP and found["images"] == 4
    assert found["pixel_accuracy"] == pytest.approx(own(run)["pixel_accuracy"], abs=0.002)
    page = (tmp_path / "results" / "report" / "index.html").read_text()
    for path in (run / "run", tmp_path / "tiny.cpnet"):
        model = (from_workdir if path.is_dir() else load_exported)(path, sharding.make_mesh())
        assert f" on {model.dataset.name}</title>" in page and model.dataset.name == "own", "one name of the images"
    with pytest.raises(UserError, match="a training run"):
        evaluate_exported(config, tmp_path / "tiny.cpnet", run / "run")


def test_one_command_evaluates_new_images_and_a_mistake_gets_one_sentence_and_exit_2(run, tmp_path):
    write(tmp_path / "new", {"test": 3})
    write(tmp_path / "strange", {"test": 2}, classes=("cat", "dog", "cow"))

    def command(name, *fields):
        fields = (f"data.source={tmp_path / name}", f"data.dir={tmp_path / 'data'}", *fields)
        fields = (*fields, f"system.compilation_cache={CACHE}")
        program = ["--mode=eval", f"--workdir={run / 'run'}"]
        return [*program, *(f"--config.{field}" for field in fields)]

    commands = [command("new"), command("strange"), command("new", "data.crop_size=(64,64)"), command("nowhere")]
    done, *mistakes = forked_program.run_all(commands, environment(devices=1), "small")
    assert done.returncode == 0, done.stderr
    [folder] = run.glob("run/evaluations/new-test-*")
    assert f"{folder}/eval.json holds these figures" in done.stdout
    assert json.loads((folder / "eval.json").read_text())["settings"]["window"] == list(CROP)
    parts = ("no name in common", "config.data.crop_size is (64, 64)", "nowhere")
    for result, named in zip(mistakes, parts, strict=True):
        [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.returncode == 2 and named in line and "Traceback" not in result.stderr
