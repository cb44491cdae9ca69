"""A workdir's config.json takes the place of --config, also one of another version, and faults in it get a sentence."""

import json
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import ade20k, default, folder
from configs.ablations import scenes
from cpnet_jax.config import command_line, experiments, recorded
from cpnet_jax.config.same_run import ADDED_LATER, as_dict
from cpnet_jax.errors import UserError

TUPLES = {
    "eval.class_names": (("auto", "car"), ("lorry", "car")),
    "finetune.lr_multipliers": (("backbone/.*", 0.1),),
    "data.folder.value_range": (0.0, 4095.0),
    "total_epochs": 2.5,
}


def write(workdir, config):
    (workdir / recorded.NAME).write_text(json.dumps(config))
    return workdir


def description(config):
    return {**as_dict(config), "trained_on": {"classes": ["a"], "fingerprint": "1", "value_range": None}}


def config_with(**fields):
    config = folder.get_config()
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.parametrize(
    "config", [default.get_config(), ade20k.get_config(), scenes.get_config("psp")], ids=lambda config: config.name
)
def test_the_recorded_config_is_the_runs(tmp_path, config):
    config.system.compilation_cache = default.get_config().system.compilation_cache
    assert recorded.get_config(str(write(tmp_path, description(config)))).to_dict() == config.to_dict()


def test_tuples_are_tuples_again(tmp_path):
    found = recorded.get_config(str(write(tmp_path, description(config_with(**TUPLES)))))
    assert found.eval.class_names == TUPLES["eval.class_names"]
    assert found.to_dict() == config_with(**TUPLES).to_dict()


def parse(monkeypatch, *arguments, needs_config=None):
    """The config that these arguments give, as the program parses them."""
    argv, values = ["main.py", *arguments], flags.FlagValues()
    monkeypatch.setattr(sys, "argv", argv)
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    for name in ("workdir", "mode"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    command_line.parse(argv, needs_config=needs_config, flag_values=values)
    return config.value


@pytest.mark.parametrize("place", [0, 1, 2])
def test_given_fields_override_the_recorded_ones_wherever_they_stand(tmp_path, monkeypatch, place):
    write(tmp_path, description(config_with(**{"eval.pictures": 3})))
    given = ["--config.data.source=moved", "--config.data.crop_size=(64,48)"]
    found = parse(monkeypatch, *given[:place], f"--workdir={tmp_path}", *given[place:])
    expected = config_with(**{"eval.pictures": 3, "data.source": "moved", "data.crop_size": (64, 48)})
    assert found.to_dict() == expected.to_dict()


def test_programs_are_never_taken_from_where_a_workdir_says(tmp_path):
    found = recorded.get_config(str(write(tmp_path, description(config_with(**{"system.compilation_cache": "/evil"})))))
    assert found.system.compilation_cache == experiments.default().system.compilation_cache


def test_a_run_of_an_earlier_version_has_the_values_that_it_had(tmp_path, monkeypatch):
    older = description(config_with(**{"system.threads": 7, "system.remat": "blocks"}))
    older["data"]["threads"] = older["system"].pop("threads")
    older["model"] |= {"remat": older["system"].pop("remat"), "stem_impl": "cells", "prior_impl": "dense"}
    del older["eval"]["class_names"], older["loss"]["mean_over"]
    monkeypatch.setitem(ADDED_LATER, "loss.mean_over", "all")
    found = recorded.get_config(str(write(tmp_path, older)))
    expected = config_with(**{"system.threads": 7, "system.remat": "blocks", "loss.mean_over": "all"})
    assert found.to_dict() == expected.to_dict()


FAULTS = {
    "of a newer version": ('{"loss": {"dice_weight": 1}}', "config.loss.dice_weight, which this version does not know"),
    "another type": ('{"batch_size": "many"}', "'many' as config.batch_size: correct it to a value like 16"),
    "null": ('{"data": {"scales": null}}', "None as config.data.scales"),
    "a section that is none": ('{"model": 3}', "config.model, which"),
    "a field that is a section": ('{"seed": {"x": 1}}', "config.seed.x, which"),
    "cut off": ('{"seed": ', "cannot be read"),
    "no text": (b"\xff\xfe", "cannot be read"),
    "a list": ("[1]", "cannot be read (it must hold a JSON object)"),
    "deep": ('{"seed": ' + "[" * 100_000, "cannot be read"),
    "nested": ("".join('{"a": ' for _ in range(900)) + "1" + "}" * 900, "which this version does not know"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_cannot_be_used_gets_one_sentence_that_asks_for_the_config(tmp_path, fault):
    content, said = FAULTS[fault]
    (tmp_path / recorded.NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        recorded.get_config(str(tmp_path))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/config.json ") and said in message and "--config, too" in message
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config is missing: name an experiment, for example --config=configs/quickstart.py, or the folder of"),
        (["--workdir={}"], "--config is missing, and {} holds no config.json: name an experiment, for example"),
        (["--config.seed=1"], "config.seed is given without --config: name an experiment"),
        (["--workdir", "{}", "--config.seed=1"], "config.seed is given without --config, and {} holds no config.json"),
    ],
)
def test_without_config_and_without_a_run_one_sentence_says_what_to_give(tmp_path, monkeypatch, arguments, said):
    with pytest.raises(UserError) as raised:
        parse(monkeypatch, *(argument.format(tmp_path) for argument in arguments))
    assert str(raised.value).startswith(said.format(tmp_path))


@pytest.mark.parametrize(("fields", "expected"), [([], None), (["--config.eval.pictures=3"], 3)])
def test_a_mode_that_needs_no_config_reads_the_file_only_if_a_field_is_set(tmp_path, monkeypatch, fields, expected):
    write(tmp_path, description(folder.get_config()) if fields else "damaged")
    found = parse(monkeypatch, "--mode=predict", f"--workdir={tmp_path}", *fields, needs_config={"predict": False})
    assert (found and found.eval.pictures) == expected


def test_a_mistyped_field_of_a_run_is_answered_as_ever(tmp_path, monkeypatch):
    write(tmp_path, description(folder.get_config()))
    with pytest.raises(UserError, match=r"^config\.eval\.pictuers does not exist: did you mean config\.eval\.pictures"):
        parse(monkeypatch, f"--workdir={tmp_path}", "--config.eval.pictuers=1")
