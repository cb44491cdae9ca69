"""What a training starts from: workdirs, files of whole networks, and backbones."""

from functools import partial

import jax
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
from cpnet_jax.training import loop
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import initial_variables
from cpnet_jax.weights import layouts, tensor_files
from cpnet_jax.weights.convert import to_tensors
from cpnet_jax.weights.merge import paths
from cpnet_jax.weights.resize_prior import resize_prior
from cpnet_jax.weights.start import Source, start_from

CLASSIFIERS = ("head/classifier/.*", "aux_head/classifier/.*")


def make_config(classes=11, crop=(32, 48)):
    config = default.get_config()
    config.data.num_classes, config.data.crop_size = classes, crop
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 8, 8
    return config


def make_variables(config, seed=0):
    init = partial(initial_variables, build.make_model(config), tuple(config.data.crop_size), jax.random.key(0))
    return draw(jax.eval_shape(init), seed)


def make_source(config, **fields):
    fields = {"backbone": "", "checkpoint": "", "skip": (), "saved_prior_size": ()} | fields
    size = build.prior_size(config) if config.model.context_prior else None
    return Source(prior_size=size, mean=tuple(config.data.mean), std=tuple(config.data.std), **fields)


def start(config=None, **fields):
    """(initial, started with, lines)."""
    config = config or make_config()
    mesh, initial = sharding.make_mesh(), make_variables(config, seed=1)
    variables, lines = start_from(make_source(config, **fields), initial, mesh)
    return initial, variables, lines


def flat(variables):
    return {path.partition("/")[2]: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of 11 classes: steps 3, the best, and 7."""
    path, config = tmp_path_factory.mktemp("runs") / "a", make_config()
    description = as_dict(config) | {"trained_on": {"classes": [f"class {i}" for i in range(11)]}}
    with Checkpoints(path / "checkpoints") as checkpoints:
        for step, miou in ((3, 0.5), (7, 0.1)):
            state = jax.tree.map(jax.numpy.asarray, make_variables(config, seed=step) | {"opt_state": {"momentum": 0}})
            checkpoints.save(step, state, position=step, config=description, miou=miou)
    return path


def write_backbone(path, variables):
    """As open-mmlab would have it."""
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in variables.items()}
    tensor_files.write(path, to_tensors(flatten_dict(backbone, sep="/"), layouts.OPEN_MMLAB, batches_tracked=1), {})
    return str(path)


def write_cpnet(path, variables, metadata=None):
    """As --mode=convert would write it; without metadata, as the authors."""
    tensor_files.write(path, weights.cpnet_tensors(variables, batches_tracked=1), metadata or {})
    return str(path)


OURS = {"experiment": "here"} | weights.Pixels().as_metadata()


def test_without_a_source_nothing_changes_and_nothing_is_said():
    initial, variables, lines = start()
    assert variables is initial and lines == []


def test_another_workdirs_network_is_taken_as_a_whole_from_its_latest_step_onto_every_device(workdir):
    initial, variables, lines = start(checkpoint=str(workdir))
    assert_equal(variables, make_variables(make_config(), seed=7))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(variables))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(variables))
    count = len(jax.tree.leaves(initial))
    assert lines == [f"{count} tensors are from {workdir}/checkpoints/7; none keep their initial values."]


def test_a_checkpoint_can_be_named_and_takes_the_place_of_the_backbone(workdir):
    _, variables, _ = start(checkpoint=f"{workdir}/checkpoints/3", backbone="hf://nobody/asks")
    assert_equal(variables, make_variables(make_config(), seed=3))


def test_other_classes_start_anew_where_skip_says_so(workdir):
    initial, variables, lines = start(make_config(classes=5), checkpoint=str(workdir), skip=CLASSIFIERS)
    ours, theirs, found = flat(initial), flat(make_variables(make_config(), seed=7)), flat(variables)
    for path in found:
        np.testing.assert_array_equal(found[path], (ours if "classifier" in path else theirs)[path], err_msg=path)
    assert lines[0].endswith("; 4 keep their initial values.")


def test_a_mismatch_is_told_with_both_shapes_and_the_patterns_to_add(workdir):
    with pytest.raises(UserError) as error:
        start(make_config(classes=5), checkpoint=str(workdir))
    said = str(error.value)
    assert said.startswith(f"config.init.checkpoint is {workdir}/checkpoints/7, which does not fit this network")
    assert "aux_head/classifier/kernel is 1x1x8x11 there and 1x1x8x5 here" in said
    assert "'aux_head/classifier/.*', 'head/classifier/.*'" in said


def test_what_only_one_of_them_has_is_told_too_and_can_be_skipped(workdir):
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
    with pytest.raises(UserError, match=r"skip leaves nothing .*, or leave config\.init\.checkpoint empty$"):
        start(checkpoint=str(workdir), skip=(".*",))


def test_a_workdir_says_its_own_prior_size(workdir):
    start(checkpoint=str(workdir), saved_prior_size=(4, 6))
    with pytest.raises(UserError, match=r"prior_size is \(6, 4\), and .* was trained with \(4, 6\): leave it empty"):
        start(checkpoint=str(workdir), saved_prior_size=(6, 4))


def test_another_crops_prior_is_resized_and_that_is_said(workdir):
    config = make_config(crop=(64, 40))
    _, variables, lines = start(config, checkpoint=str(workdir))
    expected = resize_prior(make_variables(make_config(), seed=7), (4, 6), (8, 5))
    assert_equal(variables, expected)
    assert lines[1:] == ["The context prior is resized from 4x6 to 8x5."]


def test_a_skipped_prior_is_not_resized(workdir):
    initial, variables, lines = start(make_config(crop=(64, 40)), checkpoint=str(workdir), skip=("context/prior/.*",))
    assert_equal(variables["params"]["context"]["prior"], initial["params"]["context"]["prior"])
    assert len(lines) == 1


def test_a_network_trained_on_otherwise_normalised_images_is_refused(workdir):
    config = make_config()
    config.data.std = (1.0, 1.0, 1.0)
    with pytest.raises(
        UserError, match=r"config\.data\.std is \(1\.0, 1\.0, 1\.0\), and the network in .* was trained"
    ):
        start(config, checkpoint=str(workdir))


@pytest.mark.parametrize("missing", ["", "checkpoints/5"])
def test_a_folder_without_such_a_checkpoint_is_refused_by_the_fields_name(workdir, tmp_path, missing):
    with pytest.raises(UserError, match=r"config\.init\.checkpoint|has no step 5"):
        start(checkpoint=str(workdir / missing) if missing else str(tmp_path))


def test_a_backbone_is_all_that_changes_and_its_patterns_are_whole_paths(tmp_path):
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
def test_a_file_that_cannot_be_had_is_told_by_its_field_with_the_other_ways(field, way_out):
    with pytest.raises(UserError, match=rf"^config\.init\.{field}: /nowhere/a\.pth .*, or .*{way_out}$"):
        start(**{field: "/nowhere/a.pth"})


def test_a_file_of_a_whole_network_is_read_in_its_own_prior_size_and_resized(tmp_path):
    saved = make_variables(make_config(crop=(40, 40)), seed=5)
    _, variables, lines = start(checkpoint=write_cpnet(tmp_path / "cpnet.safetensors", saved, OURS))
    assert_equal(variables, resize_prior(saved, (5, 5), (4, 6)))
    assert lines[1:] == ["The context prior is resized from 5x5 to 4x6."]


def test_a_network_that_would_answer_differently_here_is_refused(tmp_path):
    path = write_cpnet(tmp_path / "cpnet.safetensors", make_variables(make_config()))
    with pytest.raises(UserError, match=r"config\.init\.checkpoint: .* undilated"):
        start(checkpoint=path)


@pytest.mark.parametrize(
    ("ours", "saved", "given"),
    [((32, 48), (32, 48), ()), ((40, 40), (40, 40), ()), ((32, 48), (48, 32), (6, 4)), ((32, 32), (16, 64), (2, 8))],
)
def test_the_grid_of_a_files_prior_is_ours_where_it_fits_the_square_or_what_is_given(tmp_path, ours, saved, given):
    found = make_variables(make_config(crop=saved), seed=5)
    path = write_cpnet(tmp_path / "cpnet.safetensors", found, OURS)
    _, variables, lines = start(make_config(crop=ours), checkpoint=path, saved_prior_size=given)
    sizes = ((side[0] // 8, side[1] // 8) for side in (saved, ours))
    assert_equal(variables, resize_prior(found, *sizes))
    assert len(lines) == (1 if ours == saved else 2)


@pytest.mark.parametrize(
    ("crop", "saved", "given", "said"),
    [
        ((32, 48), (40, 56), (), "35 positions, which is no square"),
        ((32, 72), (48, 48), (), "36 positions, which is 6x6 as well as 4x9"),
        ((32, 48), (48, 48), (4, 4), r"config\.init\.prior_size is \(4, 4\), but .* has 36 positions"),
    ],
)
def test_a_grid_that_cannot_be_known_has_to_be_given(tmp_path, crop, saved, given, said):
    path = write_cpnet(tmp_path / "cpnet.safetensors", make_variables(make_config(crop=saved)), OURS)
    with pytest.raises(UserError, match=said) as error:
        start(make_config(crop=crop), checkpoint=path, saved_prior_size=given)
    assert "config.init.prior_size" in str(error.value)


def test_a_resumed_run_does_not_read_what_it_started_from(workdir, capsys):
    """Its own checkpoint is what it goes on from, also where the other one is gone."""
    config = make_config()
    config.init.checkpoint = "gone"
    description = {"trained_on": {"classes": list("ab")}} | as_dict(config)
    variables = jax.tree.map(jax.numpy.asarray, make_variables(config, seed=4))

    class Resumed:
        def __init__(self):
            self.config = ml_collections.ConfigDict(description)

        def description(self):
            return description

        def abstract_state(self):
            return variables

    own = workdir.parent / "own"
    with Checkpoints(own / "checkpoints") as checkpoints:
        checkpoints.save(2, variables, position=2, config=description, miou=None)
    with Checkpoints(own / "checkpoints") as checkpoints:
        state, step = loop._start(Resumed(), checkpoints, own)
    assert step == 2
    assert_equal(state, variables)
    assert capsys.readouterr().out == (
        f"config.init is not read again: {own} goes on from its own checkpoint of step 2.\n"
    )


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("init.skip", ("head/.*",), "nothing to skip"),
        ("init.skip", ("(",), "no regular expression"),
        ("init.prior_size", (60,), "height and width"),
        ("init.prior_size", (0, 60), "height and width"),
        ("init.prior_size", (60, 60), "no network is read that has a context prior"),
        ("finetune.freeze", ("*",), "no regular expression"),
        ("finetune.norms_in_eval_mode", ("[",), "no regular expression"),
        ("finetune.lr_multipliers", ("backbone/.*", 0.1), "pairs of a pattern and a positive factor"),
        ("finetune.lr_multipliers", (("backbone/.*", 0.0),), "pairs of a pattern and a positive factor"),
        ("finetune.lr_multipliers", (("(", 0.5),), "no regular expression"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_field(field, value, said):
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
