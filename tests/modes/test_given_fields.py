"""Modes that use a trained network refuse a field of the network that is set to another value."""

import json
import os

import forked_program
import pytest
from PIL import Image
from whole_program import assert_is_one_sentence

from configs import quickstart
from cpnet_jax.config.same_run import as_dict

MODES = {
    "predict": ["--images={}/photo.png"],
    "demo": [],
    "export": [],
    "convert": [],
    "eval": [],
}


def run_modes(folder, *fields):
    """mode -> how it ended, in the workdir of a run of which only the config is there."""
    (folder / "config.json").write_text(json.dumps(as_dict(quickstart.get_config())))
    Image.new("RGB", (8, 8)).save(folder / "photo.png")
    commands = [
        [f"--mode={mode}", f"--workdir={folder}", *(flag.format(folder) for flag in flags), *fields]
        for mode, flags in MODES.items()
    ]
    return dict(zip(MODES, forked_program.run_all(commands, {**os.environ, "JAX_PLATFORMS": "cpu"}), strict=True))


@pytest.fixture(scope="module")
def other_network(tmp_path_factory):
    return run_modes(tmp_path_factory.mktemp("run"), "--config.model.channels=8")


@pytest.mark.parametrize("mode", ["predict", "demo"])
def test_an_exported_file_needs_no_config(exported_network, mode):
    assert_is_one_sentence(exported_network[None, mode], "m.cpnet")


@pytest.mark.parametrize("field", ["--config.model.channels=8", "--checkpoint=best"])
def test_an_exported_file_decides_what_the_network_is(exported_network, field):
    for mode in ("predict", "demo", "eval"):
        result = exported_network[field, mode]
        assert_is_one_sentence(result, f"{field.partition('=')[0]} is given with --model: leave it out")


@pytest.fixture(scope="module")
def exported_network(tmp_path_factory):
    """(field, mode) -> how it ended with a file that need not exist."""
    folder = tmp_path_factory.mktemp("file")
    Image.new("RGB", (8, 8)).save(folder / "photo.png")
    commands = {
        (field, mode): [f"--mode={mode}", "--config=configs/quickstart.py", f"--model={folder}/m.cpnet", field]
        for field in ("--config.model.channels=8", "--checkpoint=best")
        for mode in ("predict", "demo", "eval")
    }
    commands |= {(None, mode): [f"--mode={mode}", f"--model={folder}/m.cpnet"] for mode in ("predict", "demo")}
    for (_, mode), command in commands.items():
        command += [f"--images={folder}/photo.png"] if mode == "predict" else []
        command += [f"--workdir={folder}/run"] if mode == "eval" else []
    ended = forked_program.run_all([*commands.values()], {**os.environ, "JAX_PLATFORMS": "cpu"})
    return dict(zip(commands, ended, strict=True))


@pytest.fixture(scope="module")
def same_network(tmp_path_factory):
    return run_modes(tmp_path_factory.mktemp("run"), "--config.data.crop_size=(128,128)", "--config.eval.flip=True")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eval"])
def test_another_value_than_the_networks_is_refused(other_network, mode):
    assert_is_one_sentence(other_network[mode], "config.model.channels is 8, but the network in")


@pytest.mark.parametrize("mode", MODES)
def test_the_networks_own_value_and_other_fields_may_be_given(same_network, mode):
    assert_is_one_sentence(same_network[mode], "holds no checkpoints")
