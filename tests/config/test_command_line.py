"""Mistakes in flags and config files are answered with one sentence that names the field."""

import pytest
from absl import flags

from configs import default
from cpnet_jax.config import command_line, renamed
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError

HEAD = "from configs import default\n\ndef get_config():\n    config = default.get_config()\n"


def refusal(*arguments, path="configs/default.py"):
    with pytest.raises(UserError) as error:
        command_line.parse(["main.py", f"--config={path}", *arguments], flag_values=flags.FlagValues())
    return str(error.value)


@pytest.mark.parametrize("field", [*renamed.MOVED, *renamed.DELETED])
def test_an_old_field_is_answered_with_what_replaces_it(field):
    assert refusal(f"--config.{field}=1") == f"config.{field} does not exist: {renamed.advice(field)}"


@pytest.mark.parametrize(("old", "new"), renamed.MOVED.items())
def test_replacements_exist(old, new):
    value = as_dict(default.get_config())
    for part in new.split("."):
        value = value[part]


def test_a_misspelt_field_is_answered_with_the_closest_one():
    assert refusal("--config.data.crop_sise=1").endswith("did you mean config.data.crop_size?")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("config.data.threads = 8", "If config.data.threads is meant: it is config.system.threads now"),
        ("config.profile.steps = '1:2'", "If config.profile.steps is meant: it is config.system.profile_steps now"),
        ("config.model.dephts = 18", "dephts"),
        ("[].no_method", "'list' object has no attribute 'no_method'"),
        ("raise ValueError('odd')", "ValueError: odd"),
    ],
)
def test_a_mistake_in_a_config_file_names_the_file(tmp_path, line, said):
    path = tmp_path / "own.py"
    path.write_text(f"{HEAD}    {line}\n    return config\n")
    message = refusal(path=path)
    assert message.startswith(f"{path} cannot be loaded: ") and said in message


def test_a_field_given_twice_is_refused():
    assert refusal("--config.seed=1", "--config.seed=2") == "config.seed is given twice: give it once"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/voc.py"], "--config is given twice: give it once"),
        (["--workdir=a", "--workdir=b"], "--workdir is given twice: give it once"),
        (["--flagfile=x"], "--flagfile is not supported"),
    ],
    ids=str,
)
def test_flags_that_would_be_taken_silently_are_refused(arguments, said):
    assert refusal(*arguments).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "defines no function get_config: see "),
        ("import sys\n\ndef get_config():\n    sys.exit(3)\n", "cannot be loaded: SystemExit: 3"),
        ("def get_config():\n    raise ValueError('two\\nlines')\n", "cannot be loaded: ValueError: two lines"),
        ("def get_config():\n    return {}\n", "get_config returns a dict; it must return a ConfigDict"),
    ],
    ids=str,
)
def test_a_file_that_is_not_a_config_gets_one_line(tmp_path, text, said):
    path = tmp_path / "own.py"
    path.write_text(text)
    message = refusal(path=path)
    assert said in message and "\n" not in message


def test_an_unknown_mode_is_named_before_a_missing_config():
    with pytest.raises(UserError, match="--mode=trian does not exist: choose one of train, plan"):
        command_line.parse(["main.py", "--mode=trian"], needs_config={"train": True, "plan": True})


def test_a_config_in_an_object_store_is_refused():
    assert refusal(path="gs://bucket/own.py") == (
        "--config=gs://bucket/own.py is in an object store: copy it to a local disk first"
    )
