"""Every number in a config is meaningful, or refused in one short sentence before anything is allocated."""

import math
import time

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from cpnet_jax.config import command_line, experiments
from cpnet_jax.config.check import EPOCHS, check_config, resolve_durations
from cpnet_jax.config.ranges import RANGES
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.settings import make_predictor
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.sharding import make_mesh

HUGE = int("7" * 4000) * 10**1000  # Python refuses to write out its digits
EXTREMES = (-1, 0, 10**9, HUGE, -HUGE, math.nan, math.inf, "text", True)
# Fields for which 0 is meaningful besides those whose range begins at 0.
ZERO = {"data.mean", "data.folder.value_range", "loss.class_weights"}
MINUS_ONE = {"data.mean", "data.folder.value_range"}
BILLION = {
    *("total_steps", "eval_every", "checkpoint_every", "system.log_every", "optimizer.warmup_steps", "seed"),
    *("optimizer.skip_nonfinite", "loss.ohem_min_kept", "data.mean", "data.folder.value_range"),
}
# Whole sequences with an extreme number in them.
SEQUENCES = {
    "data.crop_size": lambda x: (x, 64),
    "data.scales": lambda x: (1.0, x),
    "data.mean": lambda x: (1.0, x, 1.0),
    "data.std": lambda x: (1.0, x, 1.0),
    "data.folder.value_range": lambda x: (-5, x) if x == 0 else (x, 2e9),
    "model.multi_grid": lambda x: (1, 1, x),
    "model.pool_sizes": lambda x: (1, x),
    "model.aspp_dilations": lambda x: (1, x),
    "init.prior_size": lambda x: (60, x),
    "finetune.lr_multipliers": lambda x: ((".*", x),),
    "loss.class_weights": lambda x: (1.0,) * 149 + (x,),
    "eval.scales": lambda x: (x,),
}
TEXTS = {"init.skip", "finetune.freeze", "finetune.norms_in_eval_mode", "eval.class_names"}


def flat(config, prefix=""):
    for name in config:
        if isinstance(config[name], ConfigDict):
            yield from flat(config[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", config.get_type(name)


FIELDS = {field: kind for field, kind in flat(experiments.default()) if kind not in (str, bool)}


def refused(field, value):
    """The message about a value; None if it is accepted."""
    config = experiments.default()
    if field == "init.prior_size":
        config.init.checkpoint = "x"
    start = time.process_time()
    try:
        config.update_from_flattened_dict({field: value})
    except (TypeError, OverflowError):
        return "not of the field's type"  # Config files and flags report it: see below.
    try:
        check_config(config)
        return None
    except UserError as error:
        message = str(error)
    assert time.process_time() - start < 10  # 1.5 seconds on a slow machine
    assert message.startswith(f"config.{field} ") and len(message) < 500 and message.isprintable()
    return message


def test_every_numeric_field_has_a_range():
    scalars = {field for field, kind in FIELDS.items() if kind in (int, float)}
    assert scalars == {*RANGES, *EPOCHS, "model.depth"}
    assert {field for field, kind in FIELDS.items() if kind is tuple} == {*SEQUENCES, *TEXTS}


@pytest.mark.parametrize("field", sorted(FIELDS.keys() - TEXTS))
def test_an_extreme_number_is_meaningful_or_refused(field):
    low, _ = RANGES.get(field, (1, 1))
    whole = SEQUENCES.get(field, lambda value: value)
    assert (refused(field, whole(0)) is None) == (field in ZERO or low == 0)
    assert (refused(field, whole(-1)) is None) == (field in MINUS_ONE)
    assert (refused(field, whole(10**9)) is None) == (field in BILLION)
    for value in (HUGE, -HUGE, math.nan, math.inf, -math.inf, "text"):
        assert refused(field, whole(value)), value
    if field in SEQUENCES:
        assert refused(field, whole(True)) and refused(field, ("text",)) and refused(field, (1,) * 10**5)


def given(*arguments):
    values, argv = flags.FlagValues(), ["main.py", "--config=default", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    with pytest.raises(UserError) as error:
        command_line.parse(argv, flag_values=values)
        check_config(values.config)
    return str(error.value)


@pytest.mark.parametrize(
    "field", ["batch_size", "optimizer.base_lr", "total_epochs", "eval.scales", "model.bfloat16", "data.crop_size"]
)
@pytest.mark.parametrize("value", ["7" * 5000, f"({'7' * 5000},)", "1e999", "nan", "text", "-" * 5000 + "1"])
def test_a_flag_of_any_value_is_refused_in_one_short_sentence(field, value):
    start = time.process_time()
    message = given(f"--config.{field}={value}")
    assert time.process_time() - start < 3
    assert f"config.{field}" in message and len(message) < 500 and message.isprintable()


def test_epochs_that_make_too_many_steps_are_refused():
    config = experiments.default()
    config.total_epochs = 1e6
    with pytest.raises(UserError, match=r"config\.total_epochs is 1000000\.0: these are \d+ steps"):
        resolve_durations(config, num_train=10**6)


def test_a_batch_larger_than_all_memory_is_refused_before_it_is_allocated(tmp_path):
    config = command_line._load(experiments.find("quickstart"))
    config.batch_size, config.data.crop_size, config.data.dir = 2**20, (4096, 4096), str(tmp_path)
    with pytest.raises(UserError, match=r"config\.batch_size is 1048576: the images of a batch take \d+\.0 GiB"):
        Experiment(config)
    config.batch_size, config.eval.batch_size = 8, 2**16
    model = TrainedModel(CAMVID, (4096, 4096), (0.0,) * 3, (1.0,) * 3, logits=lambda *_: None)
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 65536: the images of a batch take \d+\.0 GiB"):
        make_predictor(model, make_mesh(), config.eval.to_dict())
    assert not list(tmp_path.iterdir())
