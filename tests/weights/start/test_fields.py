"""Values of config.init and config.finetune."""

import pytest
from starting_points import make_config

from configs import default
from cpnet_jax.config.check import check_config
from cpnet_jax.errors import UserError
from cpnet_jax.modes import train as train_mode
from cpnet_jax.runtime.signals import Stop


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("checkpoint", "gone", r"config\.init\.checkpoint: .*gone is not a file"),
        ("checkpoint", "gone/checkpoints/3", r"gone does not exist: train first, or name another config\.init\.check"),
        ("backbone", "net{depth}.pth", r"config\.init\.backbone: .*net18\.pth is not a file"),
    ],
)
def test_a_missing_starting_point_is_found_before_anything_is_written(tmp_path, field, value, said):
    config = make_config()
    config.data.dir = str(tmp_path / "data")
    config.init[field] = str(tmp_path / value)
    with pytest.raises(UserError, match=said):
        train_mode.train(config, tmp_path / "run", Stop())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("init.skip", ("head/.*",), "no weights are loaded"),
        ("init.skip", ("(",), "not a regular expression"),
        ("init.prior_size", (60,), "height and width"),
        ("init.prior_size", (0, 60), "height and width"),
        ("init.prior_size", (60, 60), "no context prior is loaded"),
        ("finetune.freeze", ("*",), "not a regular expression"),
        ("finetune.norms_in_eval_mode", ("[",), "not a regular expression"),
        ("finetune.lr_multipliers", ("backbone/.*", 0.1), "pairs of a pattern and a positive factor"),
        ("finetune.lr_multipliers", (("backbone/.*", 0.0),), "pairs of a pattern and a positive factor"),
        ("finetune.lr_multipliers", (("(", 0.5),), "not a regular expression"),
    ],
)
def test_an_impossible_value_is_refused_with_its_field(field, value, said):
    config = default.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=said) as error:
        check_config(config)
    assert f"config.{field}" in str(error.value)


def test_published_experiments_start_from_imagenet_weights_of_their_depth():
    from configs import ade20k, cityscapes, pascal_context

    for config in (ade20k.get_config(), pascal_context.get_config(), cityscapes.get_config()):
        assert config.init.backbone == default.IMAGENET_BACKBONE and config.model.stem == "deep"
    assert default.get_config().init.backbone == ""
