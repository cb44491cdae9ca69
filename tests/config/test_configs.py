"""Every experiment in configs/ can be built."""

import importlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from cpnet_jax import losses
from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes, resolve_durations
from cpnet_jax.data import catalog
from cpnet_jax.data.normalize import normalize
from cpnet_jax.errors import UserError
from cpnet_jax.models import resnet
from cpnet_jax.models.backbones import BACKBONES
from cpnet_jax.training.state import create_state
from cpnet_jax.training.step import train_step

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py"))


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_every_config_traces_one_training_step_at_its_full_size(monkeypatch, name):
    # One block a stage, except in the last one, for which a config may name dilations.
    stages = {depth: (1, 1, 1, blocks[-1]) for depth, blocks in resnet.STAGE_SIZES.items()}
    monkeypatch.setattr(resnet, "STAGE_SIZES", stages)
    config = load(name)
    check_config(config)
    assert config.name == name, "the workdir is named after the config"
    config.data.num_classes = config.data.num_classes or 3  # where only the user's data tells
    model, tx = build.make_model(config), build.make_optimizer(config)
    crop = tuple(config.data.crop_size)
    state = jax.eval_shape(partial(create_state, model, tx, crop, config.seed))
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size, *crop), jnp.uint8),
    }
    step = partial(
        train_step,
        model=model,
        loss=build.make_loss(config),
        tx=tx,
        normalize=partial(normalize, mean=config.data.mean, std=config.data.std),
    )
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize("name", sorted(catalog.DATASETS))
def test_every_dataset_has_a_builder_of_its_name(name):
    from cpnet_jax.data import builders

    assert builders.BUILDERS[name].DATASET is catalog.get(name)


def test_defaults_are_the_papers():
    config = load("default")
    assert config.data.scales == (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    assert (config.batch_size, config.optimizer.momentum, config.optimizer.weight_decay) == (16, 0.9, 1e-4)
    assert (config.loss.aux_weight, config.loss.prior_weight, config.optimizer.power) == (0.4, 1.0, 0.9)
    assert (config.loss.unary_weight, config.loss.global_weight, config.optimizer.clip_global_norm) == (1.0, 1.0, None)
    assert (config.model.channels, config.model.aggregation_kernel, config.model.dropout) == (512, 11, 0.1)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("data.crop_size", (100, 96), "multiples of 8"),
        ("data.crop_size", (96,), "multiples of 8"),
        ("data.crop_size", ("96", "x"), "multiples of 8"),
        ("data.scales", (), "at least one number"),
        ("data.scales", (1.0, -1.0), "at least one number"),
        ("total_epochs", -1.0, "positive"),
        ("batch_size", 0, "between"),
        ("name", "../x", "without a slash"),
        ("name", "..", "without a slash"),
        ("name", "a\u202eb", "without control characters"),
        ("name", "n" * 10**6, "at most 200 bytes"),
        ("data.dir", "", "empty"),
        ("data.std", ("nan", 1, 1), "three positive numbers"),
        ("loss.prior_weight", -1.0, "between"),
        ("optimizer.base_lr", float("inf"), "between"),
        ("optimizer.clip_global_norm", -1.0, "between"),
        ("total_epochs", float("nan"), "positive number"),
        ("seed", -1, "between"),
        ("data.flip_probability", 2.0, "between 0 and 1"),
        ("data.num_classes", -1, "between 0 and 255"),
        ("data.folder.val_fraction", 0.0, "between"),
        ("data.folder.mask_format", "rgb", "one of"),
        ("data.folder.orientation", "up", "one of"),
        ("data.mean", (1.0, 2.0), "three numbers"),
        ("data.std", (1.0, 0.0, 1.0), "positive"),
        ("eval_every", -5, "between"),
        ("total_steps", -5, "between"),
        ("model.depth", 20, "one of"),
        ("model.stem", "soft", "one of"),
        ("system.forms", "abacus", "one of"),
        ("model.backbone", "vgg", "one of"),
        ("loss.ignored", "drop", "one of"),
        ("loss.precision_weight", -1.0, "between"),
        ("loss.dice_weight", 1.0, "belongs to no loss term: give --config with the file"),
        ("loss.ohem_threshold", 70.0, "between 0 and 1"),
        ("loss.ohem_min_kept", -1, "between 0"),
        ("loss.class_weights", (1.0, 2.0), "each of the 150 classes"),
        ("loss.class_weights", (1.0,) * 149 + (-1.0,), "at least 0"),
        ("loss.class_weights", (0.0,) * 150, "not all 0"),
        ("model.aggregation_kernel", 10, "odd"),
        ("model.context", "pyramid", "one of"),
        ("model.prior_contexts", "none", "one of"),
        ("model.multi_grid", (1, 2), "3 blocks in the last stage of a ResNet-50"),
        ("model.multi_grid", (1, 2, 0), "positive whole number"),
        ("model.pool_sizes", (), "one or more positive"),
        ("model.pool_sizes", (1, 2.5), "one or more positive"),
        ("model.aspp_dilations", (0, 12), "one or more positive"),
        ("optimizer.accumulate", 3, "multiple of"),
        ("optimizer.skip_nonfinite", -1, "between 0"),
        ("data.on_error", "ignore", "one of"),
        ("system.profile_steps", "10", "first and the last step"),
        ("system.profile_steps", "0:4", "first and the last step"),
        ("system.profile_steps", "15:10", "first and the last step"),
        ("system.profile_steps", "ten:15", "first and the last step"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_field(field, value, said):
    config = load("default")
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=said) as error:
        check_config(config)
    assert f"config.{field}" in str(error.value)


def test_a_loss_term_of_a_config_file_has_a_weight(monkeypatch):
    monkeypatch.setitem(losses.TERMS, "dice", lambda *_, **__: 0.0)
    config = load("default")
    for weight, passed_on in ((None, {}), (0.0, {}), (0.5, {"dice": 0.5})):
        if weight is not None:
            with config.unlocked():
                config.loss.dice_weight = weight
        check_config(config)
        assert build.make_loss(config).keywords["term_weights"] == passed_on
    for wrong in (-1.0, float("nan")):
        config.loss.dice_weight = wrong
        with pytest.raises(UserError, match=rf"config\.loss\.dice_weight is {wrong}: it must be between 0"):
            check_config(config)


def test_a_section_of_a_modules_name_holds_its_attributes(monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", SimpleNamespace)
    config = load("default")
    config.model.backbone = "mine"
    assert build.make_model(config).backbone.keywords == {}
    with config.unlocked():
        config.model.mine = ConfigDict({"widths": [8, 16], "depth": 2})  # JSON has lists
    assert build.make_model(config).backbone.keywords == {"widths": (8, 16), "depth": 2}


def test_the_contexts_own_fields_reach_it():
    config = load("default")
    config.model.pool_sizes, config.model.aspp_dilations = (1, 2), (3, 4, 5)
    found = {}
    for config.model.context in ("psp", "aspp", "non_local"):
        found[config.model.context] = build.make_model(config).context.keywords
    assert found == {"psp": {"pool_sizes": (1, 2)}, "aspp": {"dilations": (3, 4, 5)}, "non_local": {}}
    config.model.context = "none"
    assert build.make_model(config).context is None


def test_epochs_become_steps():
    config = load("default")
    config.total_epochs, config.eval_every_epochs, config.optimizer.warmup_epochs = 2.5, 1.0, 0.001
    resolve_durations(config, num_train=64)
    assert (config.total_steps, config.eval_every, config.optimizer.warmup_steps) == (10, 4, 1)
    assert config.checkpoint_every == load("default").checkpoint_every


def test_a_lower_bound_of_the_learning_rate_above_its_start_is_refused():
    config = load("default")
    config.optimizer.min_lr = config.optimizer.base_lr
    check_config(config)
    config.optimizer.min_lr = 1.0
    with pytest.raises(UserError, match=r"config\.optimizer\.min_lr is 1\.0: .* config\.optimizer\.base_lr, 0\.02"):
        check_config(config)


def test_class_weights_are_counted_once_the_classes_are_known():
    config = load("folder")
    config.loss.class_weights = (1.0, 2.0)
    check_config(config)
    with pytest.raises(UserError, match="each of the 11 classes"):
        resolve_classes(config, catalog.get("camvid").classes)


def test_cityscapes_learns_from_hard_pixels_and_no_other_config_does():
    assert {name for name in NAMES if build.make_loss(load(name)).keywords["ohem"]} == {"cityscapes"}
    assert build.make_loss(load("cityscapes")).keywords["ohem"] == (0.7, 100_000)


def test_a_compiler_without_an_option_compiles_without_it():
    assert build._is_known(tuple(build.CPU_OPTIONS.items()))
    assert not build._is_known((("xla_no_such_option", "1"),))
