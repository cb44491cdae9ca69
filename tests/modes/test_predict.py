"""--mode=predict needs only a workdir and images, and reports images that it could not read."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import cv2
import jax
import ml_collections
import numpy as np
import pytest
from absl import flags
from forked_program import run_all
from PIL import Image

from configs import default
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.data.normalize import normalize
from cpnet_jax.errors import UserError
from cpnet_jax.inference.images import read_image
from cpnet_jax.inference.inputs import InputImage, find_images
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.inference.outputs import PredictionWriter
from cpnet_jax.inference.predict_files import predict_files
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.settings import make_protocol
from cpnet_jax.modes import predict as predict_mode
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.training.checkpoint import Checkpoints

CROP = (32, 48)
CLASSES = "water 10 20 200\nsand 230 220 100\numbrella 200 30 40\n"
PALETTE = ((10, 20, 200), (230, 220, 100), (200, 30, 40))
STEPS = (3, 7)
pytestmark = pytest.mark.usefixtures("small_backbone_in_module")


def tiny_config(folder: Path) -> ml_collections.ConfigDict:
    config = default.get_config()
    fields = {
        "name": "tiny",
        "batch_size": 8,
        "total_steps": STEPS[-1],
        "system.compilation_cache": "",
        "data.name": "folder",
        "data.num_classes": 0,
        "data.source": str(folder),
        "data.dir": str(folder / "prepared"),
        "data.crop_size": CROP,
        "model.depth": 18,
        "model.channels": 16,
        "model.aux_channels": 8,
    }
    config.update_from_flattened_dict(fields)
    return config


def made_up_weights(rng: np.random.Generator, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """Positive random weights, valid as variances, too; faster than compiling the initialisation."""
    return np.resize(0.05 * rng.uniform(size=1009), like.shape).astype(like.dtype)


@pytest.fixture(scope="module")
def workdir(small_backbone_in_module, tmp_path_factory):
    """A finished run, its best checkpoint before the latest; its training data are deleted."""
    root = tmp_path_factory.mktemp("predict")
    folder, rng = root / "folder", np.random.default_rng(0)
    for index in range(20):
        for kind, picture in (("images", rng.integers(0, 256, (40, 56, 3))), ("masks", rng.integers(0, 3, (40, 56)))):
            path = folder / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture.astype(np.uint8))
    (folder / "classes.txt").write_text(CLASSES)
    experiment = Experiment(tiny_config(folder))
    workdir = root / "run"
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step, miou in zip(STEPS, (0.5, 0.1), strict=True):
            state = jax.tree.map(partial(made_up_weights, rng), experiment.abstract_state())
            checkpoints.save(step, state, position=step, config=experiment.description(), miou=miou)
    shutil.rmtree(folder)
    return workdir


@pytest.fixture(scope="module")
def model(workdir):
    return from_workdir(workdir, sharding.make_mesh())


def test_a_network_comes_with_its_classes_their_own_colours_and_its_normalisation(model, workdir):
    assert (model.dataset.classes, model.dataset.palette) == (("water", "sand", "umbrella"), PALETTE)
    assert (model.dataset.name, model.dataset.ignore_label, model.crop_size) == ("folder", 255, CROP)
    assert model.mean == default.get_config().data.mean and model.std == default.get_config().data.std
    assert model.origin["step"] == 7 and model.origin["experiment"] == "tiny"
    json.dumps(model.origin)


def test_its_logits_are_the_checkpoints_split_over_the_devices(model, workdir):
    windows = np.random.default_rng(1).integers(0, 256, (8, *CROP, 3)).astype(np.uint8)
    logits = model.logits(sharding.to_devices(sharding.make_mesh(), windows))
    assert len(logits.sharding.device_set) == 8 and not logits.sharding.is_fully_replicated
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, config = checkpoints.restore_as_saved(7), ml_collections.ConfigDict(checkpoints.config(7))
    variables = {name: state[name] for name in ("params", "batch_stats")}
    images = normalize(jax.numpy.asarray(windows), model.mean, model.std)
    expected = jax.jit(partial(build.make_model(config).apply, train=False))(variables, images).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-3)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize(("checkpoint", "step"), [("latest", 7), ("best", 3), (3, 3)])
def test_the_checkpoint_can_be_chosen(workdir, checkpoint, step):
    assert from_workdir(workdir, sharding.make_mesh(), checkpoint).origin["step"] == step


def test_a_workdir_without_a_usable_checkpoint_is_refused(workdir, tmp_path):
    mesh = sharding.make_mesh()
    with pytest.raises(UserError, match="holds no checkpoints"):
        from_workdir(tmp_path, mesh)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no whole checkpoint"):
        from_workdir(tmp_path, mesh)
    with pytest.raises(UserError, match=r"no step 5: choose latest, best or one of \[3, 7\]"):
        from_workdir(workdir, mesh, 5)
    damaged = shutil.copytree(workdir, tmp_path / "damaged")
    for path in (damaged / "checkpoints" / "7" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert from_workdir(damaged, mesh).origin["step"] == 3, "the newest whole one is taken"
    shutil.rmtree(damaged / "checkpoints" / "3")
    with pytest.raises(UserError, match="no whole checkpoint"):
        from_workdir(damaged, mesh)


SETTINGS = {"multi_scale": False, "scales": [0.5, 1.0], "flip": True, "overlap": "average"}


def test_scales_and_flip_are_used_with_multi_scale():
    single, multiple = Protocol(overlap="average"), Protocol((0.5, 1.0), True, "average")
    assert make_protocol(SETTINGS) == single
    assert make_protocol(SETTINGS, multi_scale=True) == multiple
    assert make_protocol({**SETTINGS, "multi_scale": True}) == multiple
    assert make_protocol({**SETTINGS, "multi_scale": True}, multi_scale=False) == single
    assert make_protocol({}) == Protocol()
    with pytest.raises(UserError, match="--multi_scale"):
        make_protocol({}, multi_scale=True)


def test_an_overlap_of_a_newer_version_is_refused():
    with pytest.raises(UserError, match=r"eval\.overlap='median'.*update cpnet_jax"):
        make_protocol({"overlap": "median"})


class Oracle(Predictor):
    """A fake predictor: every pixel's class is its red value."""

    def __init__(self):
        pass

    def probabilities(self, examples):
        for example in examples:
            yield example, np.eye(3, dtype=np.float32)[example["image"][..., 0]]

    def classes(self, examples):
        for example, probabilities in self.probabilities(examples):
            yield example, probabilities.argmax(-1).astype(np.uint8)


@pytest.mark.parametrize("probabilities", [False, True])
def test_each_prediction_is_written_under_its_own_images_name(tmp_path, model, probabilities):
    rng, expected = np.random.default_rng(0), {}
    for index in range(6):
        expected[f"{index}"] = rng.integers(0, 3, (5 + index, 7)).astype(np.uint8)
        Image.fromarray(np.dstack([expected[f"{index}"]] * 3)).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"")
    del expected["2"]
    with PredictionWriter(tmp_path / "out", model.dataset, description={}) as writer:
        images = [InputImage(tmp_path / f"{index}.png", str(index)) for index in range(6)]
        unreadable = predict_files(images, Oracle(), writer, probabilities=probabilities)
    assert [str(tmp_path / "2.png") in str(error) for error in unreadable] == [True]
    assert {path.stem for path in (tmp_path / "out" / "classes").iterdir()} == set(expected)
    for name, classes in expected.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "classes" / f"{name}.png")), classes)
        if probabilities:
            with np.load(tmp_path / "out" / "probabilities" / f"{name}.npz") as found:
                assert np.array_equal(found["probabilities"].argmax(-1), classes)
    assert (tmp_path / "out" / "probabilities").exists() == probabilities


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_writer_counts_the_predictions_that_it_wrote(tmp_path, model, count):
    with PredictionWriter(tmp_path, model.dataset, description=None, overlays=False) as writer:
        for index in range(count):
            name = str(index)
            writer.write(InputImage(tmp_path / name, name), np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8))
    assert writer.written == count == len(list(tmp_path.glob("classes/*.png")))


def test_images_that_are_almost_black_are_noted(tmp_path, model, capsys):
    """Values of 12 bits in a file of 16 look so to a network that was trained on 8 bits."""
    images = []
    for name, high in (("dark", 2**12), ("bright", 2**16)):
        values = np.linspace(0, high - 1, 35).astype(np.uint16).reshape(5, 7)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        images.append(InputImage(tmp_path / f"{name}.png", name))
    for value_range, notes in ((None, 1), ((0, 4095), 0)):
        with PredictionWriter(tmp_path / "out", model.dataset, description={}) as writer:
            assert predict_files(images, Black(), writer, value_range=value_range) == []
        output = capsys.readouterr().out
        assert output.count("Note: 1 image(s) are almost black") == notes and "bright.png" not in output


def test_images_are_read_by_the_range_of_the_training_images(tmp_path, model, monkeypatch):
    Image.fromarray(np.full((5, 7), 700, np.uint16)).save(tmp_path / "a.png")
    read = []

    def record(images, predictor, writer, *, value_range, **_):
        for image in images:
            pixels = read_image(image.path, value_range=value_range)
            read.append(pixels.max())
            writer.write(image, pixels, np.zeros(pixels.shape[:2], np.uint8))
        return []

    monkeypatch.setattr(predict_mode, "predict_files", record)
    monkeypatch.setattr(predict_mode, "from_workdir", lambda *_: replace(model, value_range=(0, 1023)))
    given = {"workdir": tmp_path, "exported": None, "checkpoint": "latest", "settings": None, "multi_scale": None}
    predict_mode.predict([str(tmp_path / "a.png")], **given, output=None, overlays=False, probabilities=False)
    assert read == [700 >> 2]


class Black(Predictor):
    """A fake predictor: class 0 everywhere."""

    def __init__(self):
        pass

    def classes(self, examples):
        for example in examples:
            yield example, np.zeros(example["image"].shape[:2], np.uint8)


SIZES = {"a.png": (50, 70), "day/b.jpg": (20, 90), "night/b.jpg": (1, 1)}
MISTAKES = {
    "only unreadable images": (["--workdir={workdir}", "--images={root}/empty.bin"], "none of the 1 image(s)"),
    "a pattern that the shell expanded": (["--images", "a.jpg", "b.jpg"], "needs quotes"),
    "a field without its config": (["--config.seed=1", "--images=a.jpg"], "config.seed is given without"),
}


@pytest.fixture(scope="module")
def ended(workdir, tmp_path_factory):
    """How the program ended on one device, with readable and unreadable images and with each mistake; their folder."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, size in SIZES.items():
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    (root / "photos" / "notes.txt").touch()
    (root / "photos" / "cut.png").write_bytes((root / "photos" / "a.png").read_bytes()[:200])
    (root / "empty.bin").touch()
    wrong = ([each.format(workdir=workdir, root=root) for each in arguments] for arguments, _ in MISTAKES.values())
    commands = [[f"--workdir={workdir}", f"--images={root}/photos"], *wrong]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "HOME": str(root)}
    results = run_all([["--mode=predict", *command] for command in commands], environment, "small")
    return dict(zip(["no mistake", *MISTAKES], results, strict=True)), root


def test_readable_images_are_predicted_and_the_others_are_named(workdir, ended):
    results, root = ended
    result = results["no mistake"]
    assert result.returncode == 0, result.stderr
    assert "1 other file(s) skipped" in result.stdout and f"3 prediction(s) in {workdir}/predictions" in result.stdout
    assert f"warning: {root}/photos/cut.png cannot be read" in result.stderr
    output = workdir / "predictions"
    for name, size in SIZES.items():
        classes = np.asarray(Image.open(output / "classes" / Path(name).with_suffix(".png")))
        assert classes.shape == size and classes.max() <= 2
        assert (output / "overlays" / Path(name).with_suffix(".png")).exists()
    described = json.loads((output / "predictions.json").read_text())
    assert described["classes"] == ["water", "sand", "umbrella"] and described["network"]["step"] == 7
    assert described["settings"]["window"] == list(CROP)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_2(ended, mistake):
    result, (_, said) = ended[0][mistake], MISTAKES[mistake]
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert said in line


@pytest.fixture
def given(monkeypatch):
    """A function from flags to the arguments of `predict`."""

    def arguments(*, config=None, workdir=None, **values):
        for name, value in values.items():
            monkeypatch.setattr(flags.FLAGS[name], "value", value)
        return predict_mode.arguments(config, workdir)

    flags.FLAGS.mark_as_parsed()
    return arguments


def test_the_network_is_that_of_the_workdir_of_the_configs_own_or_an_exported_one(given):
    config = default.get_config()
    assert given(workdir=Path("w"))["workdir"] == given(workdir=Path("w"), config=config)["workdir"] == Path("w")
    assert given(config=config)["workdir"] == Path("runs/default")
    assert given(config=config)["settings"]["batch_size"] == config.eval.batch_size
    assert given(workdir=Path("w"))["settings"] is None, "the workdir's own config counts"
    exported = given(config=config, model="m")
    assert (exported["workdir"], exported["exported"]) == (None, Path("m"))


def test_what_earlier_commands_wrote_is_no_input(tmp_path, monkeypatch, given):
    """Neither predictions nor a submission of the same folder."""
    (tmp_path / "predictions" / "submission_ade20k").mkdir(parents=True)
    for name in ("photo.png", "predictions/submission_ade20k/photo.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.setattr(predict_mode, "_load", Mock(side_effect=InterruptedError))
    seen = []
    monkeypatch.setattr(predict_mode, "find_images", lambda *a, **k: seen.append(find_images(*a, **k)) or seen[-1])
    with pytest.raises(InterruptedError):
        predict_mode.predict(**given(model="m", images=[str(tmp_path)], output=str(tmp_path / "predictions")))
    assert [image.name for image in seen[0].images] == ["photo"]


def test_a_config_that_cannot_work_is_refused(given):
    config = default.get_config()
    config.eval.batch_size = -1
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is -1"):
        given(config=config)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "--workdir is missing"),
        ({"workdir": Path("w"), "model": "m"}, "--model and --workdir"),
        ({"workdir": Path("w"), "checkpoint": "first"}, "--checkpoint is 'first'"),
    ],
)
def test_flags_that_name_no_network_or_two_are_refused(given, values, said):
    with pytest.raises(UserError, match=said):
        given(**values)
