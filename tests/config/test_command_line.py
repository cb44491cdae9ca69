"""Mistakes in flags and config files are answered with one sentence that names the field."""

import ast
import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from configs import default
from cpnet_jax.config import command_line, renamed, tuple_flags
from cpnet_jax.config.check import check_config
from cpnet_jax.config.same_run import as_dict, flat
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import programs

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
    ("field", "text", "advice"),
    [
        ("data.crop_size", "128", 'give two numbers, height and width, as --config.data.crop_size="(128, 128)"'),
        ("data.crop_size", "128x96", "(128, 96)"),
        ("data.crop_size", "128 96", "(128, 96)"),
        ("data.crop_size", "(128, 96", "(128, 96)"),
        ("data.crop_size", "", "(384, 384)"),
        ("data.crop_size", "100", "(384, 384)"),
        ("data.mean", "(1,2)", "three numbers, R, G and B"),
        ("data.scales", "a", 'give numbers, as --config.data.scales="(0.5, 1.0, 2.0)"'),
        (
            "data.folder.value_range",
            "4095",
            "two numbers, the lower one first, as --config",
        ),
        ("finetune.freeze", "(1,)", "give patterns, as --config.finetune.freeze=\"('backbone/.*',)\""),
        ("finetune.lr_multipliers", "('head/.*', 0.1)", "\"(('head/.*', 0.1),)\""),
        ("eval.class_names", "auto", "\"(('auto', 'car'),)\""),
        ("init.prior_size", "(" * 10_000, "(60, 60)"),
    ],
)
def test_a_field_of_several_values_is_answered_with_a_flag_that_works(field, text, advice):
    message = refusal(f"--config.{field}={text}")
    assert message.startswith(f"config.{field} is ") and advice in message and len(message) < 300
    works = shlex.split(message.partition(" as ")[2])[0]
    config = default.get_config()
    config.update_from_flattened_dict({field: ast.literal_eval(works.partition("=")[2])})
    if field != "init.prior_size":  # only with a file
        check_config(config)


def test_every_field_of_several_values_has_an_example_that_works():
    fields = {field for field, value in flat(default.get_config().to_dict()) if isinstance(value, tuple)}
    assert tuple_flags.FORMS.keys() == fields | {"data.folder.value_range"}
    for field, form in tuple_flags.FORMS.items():
        tuple_flags.check(field, repr(form.example))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("data.crop_size", "64,96"),
        ("data.crop_size", "[64, 96]"),
        ("finetune.freeze", "backbone/.*"),
        ("init.skip", "()"),
    ],
)
def test_short_texts_of_several_values_are_accepted(field, text):
    tuple_flags.check(field, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "defines no function get_config: see "),
        ("import sys\n\ndef get_config():\n    sys.exit(3)\n", "cannot be loaded: SystemExit: 3"),
        ("def get_config():\n    raise ValueError('two\\nlines')\n", "cannot be loaded: ValueError: two lines"),
        ("def get_config():\n    return {}\n", "get_config returns a dict; it must return a ConfigDict"),
        ("get_config = 1\n", "defines no function get_config: see "),
        ("def get_config(row):\n    pass\n", "get_config of this file needs an argument: append a colon and its value"),
        ("def get_config(row, seed):\n    pass\n", "get_config(row, seed) must have at most one parameter"),
        (
            "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict()\n",
            "is missing: begin with the config of ",
        ),
        (
            f"{HEAD}    config.eval.scales = None\n    return config\n",
            "config.eval.scales is None: give a value like (0.5,",
        ),
        (f"{HEAD}    config.eval = None\n    return config\n", "config.eval is None: give a ConfigDict"),
        (
            f"{HEAD}    with config.ignore_type():\n        config.name = 5\n    return config\n",
            "config.name is 5: give a value like 'default'",
        ),
    ],
    ids=str,
)
def test_a_file_that_is_not_a_config_gets_one_line(tmp_path, text, said):
    path = tmp_path / "own.py"
    path.write_text(text)
    message = refusal(path=path)
    assert said in message and "\n" not in message


@pytest.mark.parametrize("field", [field for field, value in flat(default.get_config().to_dict()) if value is not None])
def test_a_field_that_a_config_file_sets_to_none_is_named(tmp_path, field):
    path = tmp_path / "own.py"
    path.write_text(f"{HEAD}    config.{field} = None\n    return config\n")
    assert refusal(path=path).startswith(f"{path}: config.{field} is None: give a value like ")


def test_an_argument_that_a_config_file_does_not_take_is_refused():
    path = "configs/quickstart.py"
    assert refusal(path=f"{path}:foo") == (
        f"--config={path}:foo: get_config of this file takes no argument, so give --config={path}"
    )


def test_an_unknown_mode_is_named_before_a_missing_config():
    with pytest.raises(UserError, match="--mode=trian does not exist: choose one of train, plan"):
        command_line.parse(["main.py", "--mode=trian"], needs_config={"train": True, "plan": True})


def test_a_config_in_an_object_store_is_refused():
    assert refusal(path="gs://bucket/own.py") == (
        "--config=gs://bucket/own.py is in an object store: copy it to a local disk first"
    )


def test_the_config_file_is_part_of_the_key_of_compiled_programs(tmp_path):
    """It may define a module or a loss term."""
    path, keys = tmp_path / "own.py", set()
    for content in ("width = 1\n", "width = 2\n"):
        path.write_text(f"{content}{HEAD}    return config\n")
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        command_line.parse(["main.py", f"--config={path}"], flag_values=values)
        programs._source.cache_clear()
        keys.add(programs._source())
    programs._source.cache_clear()
    assert len(keys) == 2
