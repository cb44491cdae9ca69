"""--mode=demo predicts with the settings that it is given."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from absl import flags

from configs import default
from cpnet_jax import sharding
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.demo.picture import make_predict
from cpnet_jax.errors import UserError
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.modes import Call
from cpnet_jax.modes import demo as demo_mode


def test_the_page_predicts_with_the_given_settings(monkeypatch):
    config = default.get_config()
    config.eval.multi_scale = True
    config.eval.scales = (1.0,)
    page = Mock(side_effect=InterruptedError)
    monkeypatch.setattr(demo_mode, "demo", page)
    flags.FLAGS.mark_as_parsed()
    for given, multi_scale in ((config, True), (None, None)):
        with pytest.raises(InterruptedError):
            demo_mode.run(Call(given, Path("w"), Mock()))
        settings = page.call_args.args[-1]
        assert (settings and settings["multi_scale"]) == multi_scale


def test_a_page_without_windows_needs_a_network_of_any_size():
    model = TrainedModel(CAMVID, (16, 16), (0.0,) * 3, (1.0,) * 3, Mock(), any_size=False)
    with pytest.raises(UserError, match="windows"):
        make_predict(model, sharding.make_mesh(), {"windows": False})
