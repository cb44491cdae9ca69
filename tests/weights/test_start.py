"""Starting a training from workdirs, files of whole networks, and backbones."""

import ast
import re
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from random_weights import draw

from configs import default
from cpnet_jax import sharding, weights
from cpnet_jax.config import build
from cpnet_jax.config.check import check_config
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError
from cpnet_jax.modes import train as train_mode
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime.signals import Stop
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import TrainState, initial_variables
from cpnet_jax.weights import layouts, tensor_files
from cpnet_jax.weights.convert import to_tensors
from cpnet_jax.weights.merge import paths
from cpnet_jax.weights.resize_prior import resize_prior
from cpnet_jax.weights.start import StartingPoint, start_from

CLASSIFIERS = ("head/classifier/.*", "aux_head/classifier/.*")


TRAINED_ON = {
    "classes": [f"class {i}" for i in range(11)],
    "palette": [[i, 0, 0] for i in range(11)],
    "ignore_label": 255,
}


def make_config(classes=11, crop=(32, 48)):
    config = default.get_config()
    config.data.num_classes, config.data.crop_size = classes, crop
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 8, 8
    return config


def make_variables(config, seed=0):
    init = partial(initial_variables, build.make_model(config), tuple(config.data.crop_size), jax.random.key(0))
    return draw(jax.eval_shape(init), seed)


def starting_point(config, **fields):
    fields = {"backbone": "", "checkpoint": "", "skip": (), "saved_prior_size": ()} | fields
    size = build.fixed_prior_size(config)
    return StartingPoint(prior_size=size, mean=tuple(config.data.mean), std=tuple(config.data.std), **fields)


def start(config=None, **fields):
    """Returns the initial variables, those that training starts from, and the printed lines."""
    config = config or make_config()
    mesh, initial = sharding.make_mesh(), make_variables(config, seed=1)
    variables, lines = start_from(starting_point(config, **fields), initial, mesh)
    return initial, variables, lines


def flat(variables):
    return {path.partition("/")[2]: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


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


def write_backbone(path, variables):
    """Writes a backbone in open-mmlab's layout."""
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in variables.items()}
    tensor_files.write(path, to_tensors(flatten_dict(backbone, sep="/"), layouts.OPEN_MMLAB, batches_tracked=1), {})
    return str(path)


def write_cpnet(path, variables, metadata=None):
    """Writes a whole network as --mode=convert does; without metadata, like the authors."""
    tensor_files.write(path, weights.cpnet_tensors(variables, batches_tracked=1), metadata or {})
    return str(path)


OURS = {"experiment": "here"} | weights.InputNormalization().as_metadata()


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


def test_only_the_backbone_changes_and_skip_patterns_are_whole_paths(tmp_path):
    config = make_config()
    pretrained = make_variables(config, seed=5)
    path = write_backbone(tmp_path / "resnet18.safetensors", pretrained)
    initial, variables, lines = start(config, backbone=path)
    for name, tree in variables.items():
        assert_equal(tree, initial[name] | {"backbone": pretrained[name]["backbone"]})
    taken = len(paths({name: tree["backbone"] for name, tree in pretrained.items()}))
    rest = len(jax.tree.leaves(initial)) - taken
    assert lines == [f"{taken} tensors are from {path}; {rest} keep their initial values."]

    _, variables, _ = start(config, backbone=path, skip=("backbone/stem1/.*",))
    for stem, kept in (("stem1", initial), ("stem2", pretrained)):
        assert_equal(variables["params"]["backbone"][stem], kept["params"]["backbone"][stem])


@pytest.mark.parametrize(("field", "way_out"), [("backbone", "train from scratch"), ("checkpoint", "a workdir")])
def test_an_unreadable_file_is_reported_with_its_field_and_the_alternative(field, way_out):
    with pytest.raises(UserError, match=rf"^config\.init\.{field}: /nowhere/a\.pth .*, or .*{way_out}$"):
        start(**{field: "/nowhere/a.pth"})


def test_a_file_of_a_whole_network_is_read_in_its_own_prior_size_and_resized(tmp_path):
    saved = make_variables(make_config(crop=(40, 40)), seed=5)
    _, variables, lines = start(checkpoint=write_cpnet(tmp_path / "cpnet.safetensors", saved, OURS))
    assert_equal(variables, resize_prior(saved, (5, 5), (4, 6)))
    assert lines[1:] == ["The context prior is resized from 5x5 to 4x6."]


def test_a_network_that_would_give_other_results_here_is_refused(tmp_path):
    path = write_cpnet(tmp_path / "cpnet.safetensors", make_variables(make_config()))
    with pytest.raises(UserError, match=r"config\.init\.checkpoint: .* would give other results here"):
        start(checkpoint=path)


def test_a_file_of_this_project_states_its_prior_size(tmp_path):
    """24 positions could be 4x6, as here, or 6x4."""
    saved = make_variables(make_config(crop=(48, 32)), seed=5)
    path = write_cpnet(tmp_path / "cpnet.safetensors", saved, OURS | {"crop_size": "[48, 32]"})
    _, variables, lines = start(checkpoint=path)
    assert_equal(variables, resize_prior(saved, (6, 4), (4, 6)))
    assert lines[1:] == ["The context prior is resized from 6x4 to 4x6."]
    with pytest.raises(UserError, match=r"prior_size is \(4, 6\), but .* was trained with \(6, 4\): set it to \(\)"):
        start(checkpoint=path, saved_prior_size=(4, 6))


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


@pytest.mark.parametrize(
    ("ours", "saved", "given"),
    [((32, 48), (32, 48), ()), ((40, 40), (40, 40), ()), ((32, 48), (48, 32), (6, 4)), ((32, 32), (16, 64), (2, 8))],
)
def test_the_prior_size_of_a_file_is_ours_or_the_square_or_the_one_given(tmp_path, ours, saved, given):
    found = make_variables(make_config(crop=saved), seed=5)
    path = write_cpnet(tmp_path / "cpnet.safetensors", found, OURS)
    _, variables, lines = start(make_config(crop=ours), checkpoint=path, saved_prior_size=given)
    sizes = ((side[0] // 8, side[1] // 8) for side in (saved, ours))
    assert_equal(variables, resize_prior(found, *sizes))
    assert len(lines) == (1 if ours == saved else 2)


@pytest.mark.parametrize(
    ("crop", "saved", "given", "said"),
    [
        ((32, 48), (40, 56), (), "35 positions, which are not a square"),
        ((32, 72), (48, 48), (), "36 positions, which can be 6x6 or 4x9"),
        ((32, 48), (48, 48), (4, 4), r"config\.init\.prior_size is \(4, 4\), but .* has 36 positions"),
    ],
)
def test_an_ambiguous_prior_size_must_be_given(tmp_path, crop, saved, given, said):
    path = write_cpnet(tmp_path / "cpnet.safetensors", make_variables(make_config(crop=saved)), OURS)
    with pytest.raises(UserError, match=said) as error:
        start(make_config(crop=crop), checkpoint=path, saved_prior_size=given)
    assert "config.init.prior_size" in str(error.value)


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
