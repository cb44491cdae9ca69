"""Which fields of a config may change when a run is resumed, and which may differ between its processes."""

import json
from pathlib import Path

import ml_collections
import pytest

from configs import default
from cpnet_jax.config import build, same_run
from cpnet_jax.config.check import EPOCHS
from cpnet_jax.config.same_run import (
    UNKNOWN_TO_CONVERTED,
    as_dict,
    check_same_everywhere,
    check_same_run,
    with_added_fields,
)
from cpnet_jax.errors import UserError

FREE = {
    "name",
    "data.dir",
    "data.source",
    "data.download",
    "data.eval_split",
    "data.on_error",
    "eval_every",
    "eval_every_epochs",
    "checkpoint_every",
    "checkpoint_every_epochs",
    "optimizer.skip_nonfinite",
}


def fields(nested, prefix=""):
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def changed(field):
    """A copy of the description with another value in that field."""
    *sections, name = field.split(".")
    copy = as_dict(default.get_config())
    section = copy
    for part in sections:
        section = section[part]
    section[name] = "another value"
    return copy


OURS = as_dict(default.get_config())


@pytest.mark.parametrize("field", [*fields(OURS)])
def test_a_field_may_change_on_resume_only_if_it_cannot_change_what_is_learned(field):
    theirs = changed(field)
    if field in FREE or field.startswith(("system.", "eval.")):
        check_same_run(OURS, theirs, Path("runs/x"))
    else:
        with pytest.raises(UserError, match=rf"runs/x holds .*config\.{field} is 'another value' there"):
            check_same_run(OURS, theirs, Path("runs/x"))


def test_a_run_of_a_version_without_a_field_resumes_with_the_value_that_it_had():
    older = as_dict(default.get_config())
    del older["loss"]["mean_over"]
    check_same_run(OURS, older, Path("runs/x"))
    with pytest.raises(UserError, match=r"config\.loss\.mean_over is 'labelled' there and 'another value' here"):
        check_same_run(changed("loss.mean_over"), older, Path("runs/x"))


def with_field(value):
    """A run with a field that configs/default.py does not have."""
    copy = as_dict(default.get_config())
    copy["loss"]["dice_weight"] = value
    return copy


def test_a_new_field_of_an_extension_does_not_lock_an_older_run_out_if_it_is_off(monkeypatch):
    for off in (0.0, False, None, [], ""):
        check_same_run(with_field(off), OURS, Path("runs/x"))
    with pytest.raises(UserError, match=r"config\.loss\.dice_weight is not recorded there and 0\.5 here"):
        check_same_run(with_field(0.5), OURS, Path("runs/x"))
    monkeypatch.setitem(same_run.ADDED_LATER, "loss.dice_weight", 0.5)
    check_same_run(with_field(0.5), OURS, Path("runs/x"))
    with pytest.raises(UserError, match=r"config\.loss\.dice_weight is 0\.5 there and 0\.0 here"):
        check_same_run(with_field(0.0), OURS, Path("runs/x"))


def test_a_recorded_field_of_an_extension_is_compared():
    for theirs, ours in ((0.5, 0.0), (0.0, 0.5)):
        with pytest.raises(UserError, match=rf"config\.loss\.dice_weight is {theirs} there and {ours} here"):
            check_same_run(with_field(ours), with_field(theirs), Path("runs/x"))
    with pytest.raises(UserError, match=r"config\.loss\.dice_weight is 0\.5 there and not recorded here"):
        check_same_run(OURS, with_field(0.5), Path("runs/x"))


def test_a_run_of_a_version_with_other_names_of_fields_resumes():
    older = as_dict(default.get_config())
    older["data"]["threads"] = older["system"].pop("threads")
    older["model"] |= {"remat": older["system"].pop("remat"), "prior_block_rows": 512, "dilation_impl": "plain"}
    older["compiler"] = {"tpu_space_to_batch": False}
    check_same_run(OURS, older, Path("runs/x"))


def test_a_run_of_before_backbones_were_named_resumes_and_its_network_is_built():
    """The file is the default config of then, as a checkpoint recorded it."""
    older = json.loads(Path(__file__).with_name("earlier_config.json").read_text())
    assert "backbone" not in older["model"]
    check_same_run(OURS, older, Path("runs/x"))
    filled = ml_collections.ConfigDict(with_added_fields(older))
    filled.data.num_classes = 3
    today = default.get_config()
    today.data.num_classes = 3
    assert repr(build.make_model(filled)) == repr(build.make_model(today))


def test_what_converted_weights_do_not_know_are_the_durations_that_epochs_replace():
    assert set(EPOCHS.values()) <= UNKNOWN_TO_CONVERTED


def test_only_a_hosts_own_disks_and_cores_may_differ_between_processes():
    different = {field for field in fields(OURS) if allowed_to_differ(field)}
    assert different == {
        "data.dir",
        "data.source",
        "data.download",
        "system.compilation_cache",
        "system.data_cache",
        "system.threads",
        "system.workers",
        "system.batches_ahead",
    }


def allowed_to_differ(field):
    try:
        check_same_everywhere([OURS, changed(field)])
    except UserError:
        return False
    return True


def test_other_training_data_are_another_run():
    ours, theirs = ({**OURS, "trained_on": {"fingerprint": f, "classes": ["a"]}} for f in ("1", "2"))
    with pytest.raises(UserError, match=r"config\.trained_on\.fingerprint is '2' there and '1' here"):
        check_same_run(ours, theirs, Path("runs/x"))


def test_a_description_of_any_depth_is_compared():
    deep, lists = {"a": 1}, [1]
    for _ in range(100_000):
        deep = {"a": deep}
    for _ in range(900):  # about as deep as JSON is parsed
        lists = [lists]
    for saved in (deep, {"a": lists}):
        with pytest.raises(UserError, match="holds a run with another config"):
            check_same_run({"seed": 0}, saved, Path("run"))
