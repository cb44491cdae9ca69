"""The flags of --mode=convert."""

import os
from pathlib import Path

import forked_program
import pytest
from absl import flags
from absl.testing import flagsaver
from converted_networks import HERE, config, run
from safetensors.numpy import save_file

from cpnet_jax import modes
from cpnet_jax.errors import UserError
from cpnet_jax.modes import convert as convert_mode


def test_the_program_ends_with_2_and_one_sentence_or_prints_notes(tensors, tmp_path):
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    save_file(tensors, tmp_path / "turned.ckpt", HERE | {"crop_size": "[24, 16]"})
    save_file(tensors, tmp_path / "good.ckpt", HERE)
    small = {"data.crop_size": "(16,24)", "model.depth": 18, "model.stem": "deep", "model.channels": 8,
             "model.aux_channels": 4, "model.bfloat16": False,
             "system.compilation_cache": tmp_path / "programs"}  # fmt: skip
    flags = [
        "--mode=convert",
        "--config=configs/camvid.py",
        *(f"--config.{name}={value}" for name, value in small.items()),
    ]
    commands = [
        [*flags, f"--weights={tmp_path}/{file}", f"--workdir={tmp_path}/{file}-run"]
        for file in ("pointer.pth", "turned.ckpt", "good.ckpt")
    ]
    *refused, converted = forked_program.run_all(commands, os.environ)
    for ended in refused:
        assert ended.returncode == 2
        [line] = ended.stderr.splitlines()
        assert line.startswith("error: ")
    assert converted.returncode == 0
    [note] = converted.stderr.splitlines()
    assert note.startswith("Note: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"config": None}, "--config is missing"),
        ({"workdir": Path("x"), "output": Path("x.pth")}, "--output and --workdir both"),
        ({"output": Path("x.npz")}, "x.npz has an unknown suffix"),
        ({"output": Path("x.pth"), "std": (0.0, 1.0, 1.0)}, "--weights_std=0.0,1.0,1.0: each value must be positive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictory_arguments_are_refused(tensors, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(tensors, tmp_path / "cpnet.safetensors", HERE)
    with pytest.raises(UserError, match=said):
        run(tmp_path / "cpnet.safetensors", **{"config": config(), **arguments})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "--weights is missing"),
        (["--weights="], "--weights is missing"),
        (["--weights=x.pth", "--checkpoint=best"], "--checkpoint is given with --weights"),
        (["--weights_order=bgr"], "--weights_order is given without --weights"),
        (["--weights=x.pth", "--weights_mean=1,2"], "--weights_mean=1,2: give three numbers"),
        (["--weights=x.pth", "--weights_std=nan,1,1"], "--weights_std=nan,1,1: give three numbers"),
    ],
    ids=str,
)
def test_impossible_flags_are_refused(given, said):
    with flagsaver.flagsaver(), pytest.raises(UserError) as refused:
        flags.FLAGS(["main.py", *given])
        convert_mode.arguments(None, None)
    assert str(refused.value).startswith(said)


def test_other_modes_refuse_the_flags_of_convert():
    with flagsaver.flagsaver(), pytest.raises(UserError, match="--weights is given with --mode=train"):
        flags.FLAGS(["main.py", "--weights=x.pth"])
        modes.find("train")


def test_flags_become_arguments():
    with flagsaver.flagsaver():
        flags.FLAGS(["main.py", "--weights=x.pth", "--output=y.pt", "--weights_std=1,2,3.5", "--weights_order=bgr"])
        modes.find("convert")
        arguments = convert_mode.arguments(None, None)
    assert arguments["normalization"] == {"order": "bgr", "mean": None, "std": (1.0, 2.0, 3.5)}
    assert (arguments["weights"], arguments["output"], arguments["workdir"]) == ("x.pth", Path("y.pt"), None)
