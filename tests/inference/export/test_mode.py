"""--mode=export writes the network of a workdir."""

import os

import pytest
from exported_networks import CROP, MODEL, one_sentence, trained_variables
from forked_program import run_all

from configs import camvid
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import load_exported
from cpnet_jax.inference.export.verify import Agreement
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.modes import export as export_mode
from cpnet_jax.modes.export import export_workdir
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import create_state

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with a better evaluation at step 1 than at step 2; its data do not exist."""
    config = camvid.get_config()
    config.data.crop_size, config.data.num_classes, config.data.source = CROP, len(CAMVID.classes), "/nowhere"
    config.model.channels, config.model.aux_channels, config.model.aggregation_kernel = 8, 4, 3
    config.model.bfloat16 = False
    known = {
        "classes": list(CAMVID.classes),
        "palette": [list(colour) for colour in CAMVID.palette],
        "ignore_label": 255,
        "value_range": [0, 1023],
    }
    description = as_dict(config) | {"trained_on": known}
    model = MODEL.clone(num_classes=len(CAMVID.classes))
    state = create_state(model, build.make_optimizer(config), CROP, 0).replace(**trained_variables(model))
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, miou in ((1, 0.5), (2, 0.4)):
            checkpoints.save(step, state, position=step, config=description, miou=miou)
    return folder


@pytest.fixture(scope="module")
def commands(workdir, tmp_path_factory):
    """How the program ended with a workdir and without one, and the file that it wrote."""
    path = tmp_path_factory.mktemp("export") / "lake.cpnet"
    flags = [["--mode=export", f"--workdir={workdir}", f"--output={path}"], ["--mode=export"]]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return *run_all(flags, environment, "small"), path


def test_one_command_exports_a_workdir_without_config_and_data(workdir, commands):
    result, _, path = commands
    assert result.returncode == 0, result.stderr
    assert "differ from the live network's by at most" in result.stdout
    model = load_exported(path, sharding.make_mesh())
    assert model.origin["step"] == 2 and model.dataset.classes == CAMVID.classes
    assert model.value_range == from_workdir(workdir, sharding.make_mesh()).value_range == (0, 1023)


@pytest.mark.parametrize(("checkpoint", "step"), [("best", 1), ("latest", 2)])
def test_the_best_or_latest_checkpoint_is_exported_into_the_workdir_unless_a_file_is_named(
    workdir, monkeypatch, checkpoint, step
):
    def write(path, *_, origin, **__):
        path.write_text(str(origin["step"]))
        return Agreement(0, 1)

    monkeypatch.setattr(export_mode, "export_model", write)
    export_workdir(workdir, None, checkpoint)
    assert (workdir / "camvid.cpnet").read_text() == str(step)


def test_the_file_states_the_given_settings_for_predictions(workdir, tmp_path, monkeypatch):
    stated = []

    def write(path, *_, origin, **__):
        path.write_text("a network")
        stated.append(origin["eval"])
        return Agreement(0, 1)

    monkeypatch.setattr(export_mode, "export_model", write)
    config = camvid.get_config()
    config.eval.multi_scale = True
    export_workdir(workdir, tmp_path / "m.cpnet", "latest")
    export_workdir(workdir, tmp_path / "m.cpnet", "latest", config.eval.to_dict())
    assert [settings["multi_scale"] for settings in stated] == [False, True]


@pytest.mark.parametrize(
    ("run", "output", "named"),
    [
        ("nowhere", None, "nowhere does not exist"),
        ("empty", None, "holds no whole checkpoint"),
        ("run", "folder", "--output"),
        ("run", "file/m.cpnet", "--output"),
    ],
)
def test_a_mistake_gets_one_sentence(workdir, tmp_path, run, output, named):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        export_workdir(workdir if run == "run" else tmp_path / run, output and tmp_path / output, "latest")
    assert named in one_sentence(error)


def test_no_workdir_and_no_config_gets_one_sentence_and_exit_2(commands):
    _, result, _ = commands
    assert result.returncode == 2
    assert result.stderr.startswith("error: --workdir is missing")
