"""Starting a training from files of whole networks and of backbones."""

import jax
import pytest
from flax.traverse_util import flatten_dict
from starting_points import OURS, assert_equal, make_config, make_variables, start, write_cpnet

from cpnet_jax.errors import UserError
from cpnet_jax.weights import layouts, tensor_files
from cpnet_jax.weights.convert import to_tensors
from cpnet_jax.weights.merge import paths
from cpnet_jax.weights.resize_prior import resize_prior

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")


def write_backbone(path, variables):
    """Writes a backbone in open-mmlab's layout."""
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in variables.items()}
    tensor_files.write(path, to_tensors(flatten_dict(backbone, sep="/"), layouts.OPEN_MMLAB, batches_tracked=1), {})
    return str(path)


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
    stated = OURS | {"crop_size": "[48, 32]", "network": '{"multi_grid": [1, 2]}'}
    *_, lines = start(checkpoint=write_cpnet(tmp_path / "grid.safetensors", saved, stated), unseen={"multi_grid": ()})
    assert "was trained with config.model.multi_grid=(1, 2), and it is () here" in lines[-1]
    with pytest.raises(UserError, match=r"prior_size is \(4, 6\), but .* was trained with \(6, 4\): set it to \(\)"):
        start(checkpoint=path, saved_prior_size=(4, 6))


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
