"""A run from a stranger is refused in one sentence before its network is made, or it is usable."""

import hashlib
import json
import shutil
from functools import cache
from unittest.mock import create_autospec

import jax
import numpy as np
import pytest

from configs import default
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.same_run import ADDED_LATER, as_dict, flat
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import from_workdir, restore
from cpnet_jax.modes import train
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.training.checkpoint import Checkpoints

CROP = (16, 24)
TRAINED_ON = {
    "classes": ["water", "sand", "sky"],
    "palette": [[0, 0, 255], [255, 255, 0], [0, 255, 255]],
    "ignore_label": 255,
    "value_range": [0, 1023],
}


def tiny_config():
    config = default.get_config()
    fields = {"name": "tiny", "data.crop_size": CROP, "data.num_classes": 3, "model.depth": 18}
    config.update_from_flattened_dict({**fields, "model.channels": 8, "model.aux_channels": 4})
    return config


@cache
def shapes():
    """Of the training state."""
    return jax.eval_shape(build.make_create_state(tiny_config()))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config, rng = tiny_config(), np.random.default_rng(0)
    state = jax.tree.map(
        lambda like: np.resize(rng.uniform(0.1, 0.2, 1009), like.shape).astype(like.dtype),
        shapes(),
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, miou in ((1, 0.5), (2, 0.4)):
            description = as_dict(config) | {"trained_on": TRAINED_ON}
            checkpoints.save(step, state, position=step, config=description, miou=miou)
    return folder


def rewritten(workdir, target, text):
    """The run with another config in checkpoint 2, and checksums that match it."""
    shutil.copytree(workdir, target)
    folder = target / "checkpoints" / "2"
    (folder / "config" / "metadata").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    sums = folder / "SHA256SUMS"
    lines = [
        f"{digest}  config/metadata" if line.endswith("  config/metadata") else line
        for line in sums.read_text().split("\n")
    ]
    sums.write_text("\n".join(lines))
    return target


def put(path, value, config):
    *sections, name = path.split(".")
    for section in sections:
        config = config[section]
    config[name] = value


def refusal(path):
    with pytest.raises(UserError) as error:
        from_workdir(path, sharding.make_mesh())
    message = str(error.value)
    assert "/checkpoints/2 cannot be used (" in message
    assert message.endswith("choose another checkpoint of [1], or train again")
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../../evil"),
        ("name", "a\0b"),
        ("name", 7),
        ("data", None),
        ("data.name", ["x"]),
        ("data.crop_size", [8 * 10**6, 8 * 10**6]),
        ("data.crop_size", "abc"),
        ("data.mean", "x"),
        ("data.std", [0, 0, 0]),
        ("data.num_classes", 10**9),
        ("data.num_classes", 5),
        ("model", 3),
        ("model.depth", 7),
        ("model.backbone", ["x"]),
        ("model.bfloat16", "yes"),
        ("model.channels", 10**7),
        ("model.channels", -1),
        ("model.aggregation_kernel", 10**6 + 1),
        ("model.pool_sizes", [1] * 10**5),
        ("model.aspp_dilations", [1] * 10**5),
        ("eval", 5),
        ("eval.scales", []),
        ("eval.scales", [1e9]),
        ("eval.batch_size", "x"),
        ("eval.overlap", "x"),
        ("trained_on", None),
        ("trained_on.classes", 5),
        ("trained_on.classes", ["a", "b"]),
        ("trained_on.palette", [[300, 0, 0]] * 3),
        ("trained_on.ignore_label", "x"),
        ("trained_on.ignore_label", 1),
        ("trained_on.value_range", [5]),
        ("trained_on.value_range", [0, float("nan")]),
    ],
)
def test_a_config_of_another_type_or_range_is_refused(workdir, tmp_path, field, value):
    config = as_dict(tiny_config()) | {"trained_on": json.loads(json.dumps(TRAINED_ON))}
    put(field, value, config)
    message = refusal(rewritten(workdir, tmp_path / "run", json.dumps(config)))
    assert field.rpartition(".")[2] in message or "bytes of its network" in message


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("total_steps", "many"),
        ("total_steps", None),
        ("batch_size", 0),
        pytest.param("batch_size", 10**400, id="huge batch"),
        ("seed", [1]),
        ("seed", {"a": 1}),
        ("loss", 5),
        ("loss.aux_weight", float("nan")),
        ("loss.class_weights", [1, "x", 2]),
        ("optimizer", None),
        ("optimizer.accumulate", 0),
        ("optimizer.base_lr", "fast"),
        ("data.scales", [[1]]),
        ("data.folder", 5),
        ("data.crop_size", [10**9, 10**9]),
        ("model.depth", 7),
        ("finetune.freeze", ["("]),
        ("trained_on", []),
        ("trained_on.classes", None),
    ],
)
def test_a_run_with_a_damaged_config_is_not_resumed(workdir, tmp_path, field, value):
    config = as_dict(tiny_config()) | {"trained_on": json.loads(json.dumps(TRAINED_ON))}
    wanted = json.loads(json.dumps(config))
    put(field, value, config)
    path = rewritten(workdir, tmp_path / "run", json.dumps(config))
    experiment = create_autospec(Experiment, instance=True)
    experiment.description.return_value = wanted
    with Checkpoints(path / "checkpoints", read_only=True) as checkpoints, pytest.raises(UserError) as error:
        train._start(experiment, checkpoints, path)
    message = str(error.value)
    assert "/checkpoints/2 cannot be used (" in message and field.rpartition(".")[2] in message, message
    assert message.endswith("move it away, then run the same command again to use an older checkpoint")
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize("text", ["[1]", "hello", "[" * 10**5, "9" * 5000, ""])
def test_a_config_that_is_no_object_is_refused(workdir, tmp_path, text):
    with pytest.raises(UserError, match=r"/checkpoints/2 cannot be (used|read) \("):
        from_workdir(rewritten(workdir, tmp_path / "run", text), sharding.make_mesh())


def test_a_config_with_fields_of_other_versions_is_read(workdir, tmp_path):
    config = as_dict(tiny_config()) | {"trained_on": {**TRAINED_ON, "more": 1}}
    config["eval"]["of_the_future"] = {"a": [1]}
    del config["eval"]["canvas_mib"], config["trained_on"]["value_range"]
    model = from_workdir(rewritten(workdir, tmp_path / "run", json.dumps(config)), sharding.make_mesh())
    assert model.crop_size == CROP and model.origin["step"] == 2


@pytest.mark.parametrize("field", ["backbone", "context"])
def test_a_part_that_a_config_file_adds_needs_that_file(workdir, tmp_path, field):
    config = as_dict(tiny_config()) | {"trained_on": TRAINED_ON}
    config["model"] |= {field: "mine", "mine": {"width": 3}}
    with pytest.raises(UserError, match=rf"^config.model.{field} is 'mine': .* give --config with the file that adds"):
        from_workdir(rewritten(workdir, tmp_path / "run", json.dumps(config)), sharding.make_mesh())


def test_more_memory_than_the_files_can_fill_is_not_allocated(workdir, tmp_path):
    config = as_dict(tiny_config()) | {"trained_on": TRAINED_ON}
    config["model"]["channels"] = 4096
    message = refusal(rewritten(workdir, tmp_path / "run", json.dumps(config)))
    assert "far too few for the" in message


@pytest.mark.parametrize("collection", ["params", "batch_stats"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_that_is_not_finite_is_refused_and_its_tensor_named(tmp_path, collection, value):
    config = tiny_config()
    state = jax.tree.map(lambda like: np.full(like.shape, 1, like.dtype), shapes())
    getattr(state, collection)["backbone"]["stem1"]["bn"]["scale" if collection == "params" else "var"][3] = value
    description = as_dict(config) | {"trained_on": TRAINED_ON}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, state, position=2, config=description, miou=None)
    with pytest.raises(UserError, match=rf"2 cannot be used \({collection}/backbone/stem1/bn/\w+ has non-finite val"):
        restore(tmp_path, sharding.make_mesh())


def test_a_run_of_an_earlier_version_is_usable(workdir, monkeypatch):
    """Its config lacks the fields that were added later; they get the values that it was trained with."""
    read = Checkpoints.config

    def earlier(checkpoints, step):
        saved = read(checkpoints, step)
        for field in ADDED_LATER:
            section, name = field.split(".")
            del saved[section][name]
        return saved

    today = restore(workdir, sharding.make_mesh())
    monkeypatch.setattr(Checkpoints, "config", earlier)
    before = restore(workdir, sharding.make_mesh())
    assert ADDED_LATER.items() <= dict(flat(before.config.to_dict())).items()
    assert before.model.prior == today.model.prior
    np.testing.assert_array_equal(*(jax.tree.leaves(found.variables)[0] for found in (before, today)))
