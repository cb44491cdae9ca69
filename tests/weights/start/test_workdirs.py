"""Starting a training from the workdir of another."""

import ast
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from starting_points import OURS, assert_equal, make_config, make_variables, start, write_cpnet

from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError
from cpnet_jax.modes import train as train_mode
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import TrainState
from cpnet_jax.weights.agreement import unseen
from cpnet_jax.weights.resize_prior import resize_prior

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")

CLASSIFIERS = ("head/classifier/.*", "aux_head/classifier/.*")

TRAINED_ON = {
    "classes": [f"class {i}" for i in range(11)],
    "palette": [[i, 0, 0] for i in range(11)],
    "ignore_label": 255,
}


def flat(variables):
    return {path.partition("/")[2]: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Workdir of a finished run with 11 classes and checkpoints of steps 3 (the best) and 7."""
    path, config = tmp_path_factory.mktemp("runs") / "a", make_config()
    description = as_dict(config) | {"trained_on": TRAINED_ON}
    with Checkpoints(path / "checkpoints") as checkpoints:
        for step, miou in ((3, 0.5), (7, 0.1)):
            state = jax.tree.map(jax.numpy.asarray, make_variables(config, seed=step) | {"opt_state": {"momentum": 0}})
            checkpoints.save(step, state, position=step, config=description, miou=miou)
    return path


def test_without_a_starting_point_the_initial_variables_are_kept():
    initial, variables, lines = start()
    assert variables is initial and lines == []


def test_a_workdirs_latest_checkpoint_is_loaded_onto_every_device(workdir):
    initial, variables, lines = start(checkpoint=str(workdir))
    assert_equal(variables, make_variables(make_config(), seed=7))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(variables))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(variables))
    count = len(jax.tree.leaves(initial))
    assert lines == [f"{count} tensors are from {workdir}/checkpoints/7; none keep their initial values."]


def test_a_named_checkpoint_is_read_instead_of_the_backbone(workdir):
    _, variables, _ = start(checkpoint=f"{workdir}/checkpoints/3", backbone="hf://nobody/asks")
    assert_equal(variables, make_variables(make_config(), seed=3))


def test_skipped_classifiers_keep_their_initial_values(workdir):
    initial, variables, lines = start(make_config(classes=5), checkpoint=str(workdir), skip=CLASSIFIERS)
    ours, theirs, found = flat(initial), flat(make_variables(make_config(), seed=7)), flat(variables)
    for path in found:
        np.testing.assert_array_equal(found[path], (ours if "classifier" in path else theirs)[path], err_msg=path)
    assert lines[0].endswith("; 4 keep their initial values.")


def test_a_mismatch_error_has_both_shapes_and_the_patterns_to_add(workdir):
    with pytest.raises(UserError) as error:
        start(make_config(classes=5), checkpoint=str(workdir))
    said = str(error.value)
    assert said.startswith(f"config.init.checkpoint is {workdir}/checkpoints/7, which does not fit this network")
    assert "aux_head/classifier/kernel is 1x1x8x11 there and 1x1x8x5 here" in said
    [pattern] = re.findall(r'give --config\.init\.skip="(.*)" to keep', said)
    start(make_config(classes=5), checkpoint=str(workdir), skip=ast.literal_eval(pattern))
    with pytest.raises(UserError, match=r"or add 'head/classifier/\.\*' to config\.init\.skip to keep"):
        start(make_config(classes=5), checkpoint=str(workdir), skip=("aux_head/classifier/.*",))


def test_variables_that_only_one_network_has_are_reported_and_can_be_skipped(workdir):
    without_aux = make_config()
    without_aux.model.aux_channels = 0
    with pytest.raises(UserError, match="aux_head/classifier/bias is there and not here"):
        start(without_aux, checkpoint=str(workdir))
    _, variables, _ = start(without_aux, checkpoint=str(workdir), skip=("aux_head/.*",))
    assert "aux_head" not in variables["params"]
    deeper = make_config()
    deeper.model.depth = 34
    with pytest.raises(UserError, match=r"is missing there.* and \d+ more\)"):
        start(deeper, checkpoint=str(workdir))


def test_a_skip_that_matches_nothing_is_refused(workdir):
    with pytest.raises(UserError, match=r"config\.init\.skip has 'hed/.*', which matches none"):
        start(checkpoint=str(workdir), skip=("hed/.*",))


def test_a_skip_that_leaves_nothing_to_take_is_refused(workdir):
    with pytest.raises(UserError, match=r"skip leaves nothing .*, or set config\.init\.checkpoint to ''$"):
        start(checkpoint=str(workdir), skip=(".*",))


def test_a_prior_size_that_contradicts_the_workdir_is_refused(workdir):
    start(checkpoint=str(workdir), saved_prior_size=(4, 6))
    with pytest.raises(UserError, match=r"prior_size is \(6, 4\), but .* was trained with \(4, 6\): set it to \(\)"):
        start(checkpoint=str(workdir), saved_prior_size=(6, 4))


def test_the_prior_of_another_crop_is_resized_and_that_is_reported(workdir):
    config = make_config(crop=(64, 40))
    _, variables, lines = start(config, checkpoint=str(workdir))
    expected = resize_prior(make_variables(make_config(), seed=7), (4, 6), (8, 5))
    assert_equal(variables, expected)
    assert lines[1:] == ["The context prior is resized from 4x6 to 8x5."]


def test_a_prior_of_pairs_fits_every_crop_as_it_is(tmp_path):
    def pairs(crop):
        config = make_config(crop=crop)
        config.model.prior = "pairs"
        return config

    trained = make_variables(pairs((32, 48)), seed=7)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = jax.tree.map(jnp.asarray, trained | {"opt_state": {"momentum": 0}})
        description = as_dict(pairs((32, 48))) | {"trained_on": TRAINED_ON}
        checkpoints.save(7, state, position=7, config=description, miou=None)
    initial, variables, lines = start(pairs((64, 40)), checkpoint=str(tmp_path))
    assert_equal(variables, trained)
    count = len(jax.tree.leaves(initial))
    assert lines == [f"{count} tensors are from {tmp_path}/checkpoints/7; none keep their initial values."]


def test_the_two_kinds_of_prior_do_not_fit_each_other(workdir, tmp_path):
    config = make_config()
    config.model.prior = "pairs"
    file = write_cpnet(tmp_path / "cpnet.pth", make_variables(make_config()), OURS)
    with pytest.raises(UserError, match=r"does not fit this network.*context/pair_prior/"):
        start(config, checkpoint=str(workdir))
    with pytest.raises(UserError, match=r"cpnet.pth does not fit the network .*context/pair_prior/.*prior_conv"):
        start(config, checkpoint=file)
    start(config, checkpoint=str(workdir), skip=("context/(pair_)?prior/.*",))
    start(config, checkpoint=file, skip=("context/(pair_)?prior/.*",))


def test_a_skipped_prior_is_not_resized(workdir):
    initial, variables, lines = start(make_config(crop=(64, 40)), checkpoint=str(workdir), skip=("context/prior/.*",))
    assert_equal(variables["params"]["context"]["prior"], initial["params"]["context"]["prior"])
    assert len(lines) == 1


def test_a_network_trained_with_another_normalisation_is_refused(workdir):
    config = make_config()
    config.data.std = (1.0, 1.0, 1.0)
    with pytest.raises(
        UserError, match=r"config\.data\.std is \(1\.0, 1\.0, 1\.0\), but the network in .* was trained"
    ):
        start(config, checkpoint=str(workdir))


@pytest.mark.parametrize("missing", ["", "checkpoints/5"])
def test_a_folder_without_such_a_checkpoint_is_refused_with_the_fields_name(workdir, tmp_path, missing):
    with pytest.raises(UserError, match=r"config\.init\.checkpoint|has no step 5"):
        start(checkpoint=str(workdir / missing) if missing else str(tmp_path))


def test_other_classes_of_the_same_number_are_reported(workdir):
    names = [f"class {i}" for i in range(11)]
    *_, lines = start(checkpoint=str(workdir), classes=[*names[:9], "kerb", "verge"])
    [note] = lines[1:]
    assert note.startswith("Note: ") and "class 9 is 'class 9' there and 'kerb' here" in note
    pattern = note.rpartition("--config.init.skip='")[2].rstrip("'")
    *_, lines = start(checkpoint=str(workdir), classes=[*names[:9], "kerb", "verge"], skip=(pattern,))
    assert len(lines) == 1
    *_, lines = start(checkpoint=str(workdir), classes=names)
    assert len(lines) == 1


def test_other_dilations_and_pool_sizes_are_reported_if_the_network_has_them(workdir):
    changed = make_config()
    changed.model.update(multi_grid=(1, 2), pool_sizes=(1, 2))  # the network has no pyramid pooling
    *_, lines = start(checkpoint=str(workdir), unseen=unseen(changed))
    assert lines[1:] == [
        f"Note: {workdir}/checkpoints/7 was trained with config.model.multi_grid=(), and it is (1, 2) here; tensors do "
        "not show this"
    ]
    *_, lines = start(checkpoint=str(workdir), unseen=unseen(make_config()))
    assert len(lines) == 1


def test_a_resumed_run_does_not_read_config_init_again(workdir, capsys):
    """It resumes from its own checkpoint, even if the other one is gone."""
    config = make_config()
    config.init.checkpoint = "gone"
    description = {"trained_on": TRAINED_ON} | as_dict(config)
    state = TrainState(
        step=jnp.asarray(2, jnp.int32),
        **jax.tree.map(jnp.asarray, make_variables(config, seed=4)),
        opt_state={"momentum": jnp.zeros(())},
        rng=jax.random.key_data(jax.random.key(0)),
        skipped=jnp.zeros((), jnp.int32),
    )

    class Resumed(Experiment):
        def __init__(self):
            self.config = ml_collections.ConfigDict(description)

        def description(self):
            return description

        def abstract_state(self):
            return state

    own = workdir.parent / "own"
    with Checkpoints(own / "checkpoints") as checkpoints:
        checkpoints.save(2, state, position=2, config=description, miou=None)
    with Checkpoints(own / "checkpoints") as checkpoints:
        resumed, step = train_mode._start(Resumed(), checkpoints, own)
    assert step == 2
    assert_equal(resumed, state)
    assert capsys.readouterr().out == (f"config.init is ignored: {own} continues from its checkpoint of step 2.\n")


def test_a_run_whose_checkpoints_are_all_damaged_says_that_it_starts_again(workdir, capsys):
    class New(Experiment):
        def __init__(self):
            pass

        def initial_state(self):
            return TrainState(step=0, params={}, batch_stats={}, opt_state={}, rng=np.zeros(2, np.uint32), skipped=0)

    own = workdir.parent / "damaged"
    (own / "checkpoints" / "2").mkdir(parents=True)
    with Checkpoints(own / "checkpoints") as checkpoints:
        _, step = train_mode._start(New(), checkpoints, own)
    assert step == 0
    assert f"Note: {own} has no whole checkpoint left: training starts again at step 0\n" in capsys.readouterr().out
