"""Tensors with the names of real files convert to variables and back, bit for bit."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from weights import key_lists

from cpnet_jax import weights
from cpnet_jax.errors import UserError
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.weights import layouts
from cpnet_jax.weights.convert import to_tensors

# Layouts with their key lists, depth and stem.
BACKBONES = [
    (layouts.TORCHVISION, "torchvision_resnet18", 18, "classic"),
    (layouts.TORCHVISION, "torchvision_resnet50", 50, "classic"),
    (layouts.TORCHVISION, "torchvision_resnet101", 101, "classic"),
    (layouts.OPEN_MMLAB, "v1c_resnet18", 18, "deep"),
    (layouts.OPEN_MMLAB, "v1c_resnet50", 50, "deep"),
    (layouts.OPEN_MMLAB, "v1c_resnet101", 101, "deep"),
    (layouts.TIMM_DEEP, "timm_resnet50c", 50, "deep"),
    (layouts.TIMM_DEEP, "timm_resnet101c", 101, "deep"),
]
CPNETS = [("cpnet_resnet18", 18), ("cpnet_resnet50", 50), ("cpnet_resnet101", 101)]


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and found[key].tobytes() == tensor.tobytes(), key
        assert found[key].shape == tensor.shape, key


def assert_fills(variables, like):
    def same(array, wanted):
        return isinstance(array, np.ndarray) and (array.shape, array.dtype) == (wanted.shape, wanted.dtype)

    assert jax.tree.all(jax.tree.map(same, variables, like))


@pytest.mark.parametrize(("layout", "name", "depth", "stem"), BACKBONES, ids=[name for _, name, _, _ in BACKBONES])
def test_a_backbone_of_every_layout_converts_to_variables_and_back_bitwise(layout, name, depth, stem, capsys):
    tensors, like = key_lists.tensors(name), key_lists.backbone(depth, stem)
    variables = weights.backbone_variables(tensors, like=like, name=name)
    assert_fills(variables, like)
    assert f"{name}: fc.bias, fc.weight not used (the ImageNet classifier)" in capsys.readouterr().err

    inside = {collection: {"backbone": tree} for collection, tree in variables.items()}
    back = to_tensors(flatten_dict(inside, sep="/"), layout, batches_tracked=90_000)
    assert_same_tensors(back, {key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")})


@pytest.mark.parametrize(("name", "depth"), CPNETS)
def test_the_authors_cpnet_converts_to_variables_and_back_bitwise(name, depth):
    tensors, like = key_lists.tensors(name), key_lists.cpnet(depth)
    variables = weights.cpnet_variables(tensors, like=like)
    assert_fills(variables, like)
    assert_same_tensors(weights.cpnet_tensors(variables, batches_tracked=90_000), tensors)


@pytest.mark.parametrize(
    "attributes",
    [
        {"stem": "classic"},
        {"context_prior": False},
        {"aux_channels": 0},
        {"context": "psp", "context_prior": False},
        {"context": "aspp", "context_prior": False},
        {"context": "non_local", "context_prior": False},
    ],
    ids=str,
)
def test_other_cpnets_convert_to_tensors_and_back_bitwise(attributes):
    attributes = {name: CONTEXTS[value] if name == "context" else value for name, value in attributes.items()}
    like = key_lists.cpnet(18, prior_size=(2, 3), num_classes=4, **attributes)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), like)
    tensors = weights.cpnet_tensors(variables, batches_tracked=5)
    back = weights.cpnet_variables(tensors, like=like)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, variables))


@pytest.mark.parametrize("context", ["psp", "aspp", "non_local"])
def test_the_heads_of_mmsegmentation_have_its_names_and_shapes(context):
    pytest.importorskip("torch", reason="PyTorch modules are the reference for the names")
    from parity import torch_contexts

    heads = {"psp": torch_contexts.PSPHead, "aspp": torch_contexts.ASPPHead, "non_local": torch_contexts.NLHead}
    like = key_lists.cpnet(
        18, prior_size=(2, 3), num_classes=4, channels=8, context=CONTEXTS[context], context_prior=False
    )
    ours = weights.cpnet_tensors(jax.tree.map(lambda leaf: np.zeros(leaf.shape), like), batches_tracked=5)
    prefix = "decode_head."
    found = {key.removeprefix(prefix): tensor.shape for key, tensor in ours.items() if key.startswith(prefix)}
    theirs = heads[context](512, 8, 4).state_dict()
    assert found == {key: tuple(tensor.shape) for key, tensor in theirs.items()}


def test_kernels_are_transposed_and_the_two_depthwise_orders_not_confused():
    tensors = key_lists.tensors("cpnet_resnet18")
    params = weights.cpnet_variables(tensors, like=key_lists.cpnet(18))["params"]
    # (out, in, h, w) there, (h, w, in, out) here; a square 1x1 convolution would fit both ways round.
    there, here = tensors["decode_head.intra_conv.conv.weight"], params["context"]["intra"]["conv"]["kernel"]
    assert here[0, 0, 3, 7] == there[7, 3, 0, 0] != there[3, 7, 0, 0]
    there, here = tensors["decode_head.bottleneck.conv.weight"], params["head"]["conv"]["conv"]["kernel"]
    assert here[0, 2, 3, 7] == there[7, 3, 0, 2]
    there, here = tensors["decode_head.prior_conv.conv.weight"], params["context"]["prior"]["kernel"]
    assert here[3, 4000] == there[4000, 3, 0, 0]
    # t is k x 1, then 1 x k; p the other way round.
    aggregation = params["context"]["aggregation"]
    for ours, theirs in (("column_row", "t"), ("row_column", "p")):
        for name in ("column", "row"):
            which = "1" if ours.startswith(name) else "2"
            there = tensors[f"decode_head.aggregation.{theirs}{which}.conv.weight"]
            assert np.array_equal(aggregation[ours][name]["kernel"].ravel(), there.transpose(2, 3, 1, 0).ravel())


@pytest.mark.parametrize("key", ["stem.3.weight", "layer4.2.bn3.running_var", "layer2.0.downsample.0.weight"])
def test_a_renamed_tensor_is_reported_as_missing_and_as_left_over(key):
    tensors = dict(key_lists.tensors("v1c_resnet50"))
    tensors[f"{key}_renamed"] = tensors.pop(key)
    with pytest.raises(UserError) as refused:
        weights.backbone_variables(tensors, like=key_lists.backbone(50, "deep"))
    assert f"1 missing: {key}; 1 that it does not have: {key}_renamed" in str(refused.value)


def test_old_files_without_counters_are_read():
    tensors = {key: value for key, value in key_lists.tensors("v1c_resnet18").items() if key_lists.COUNTER not in key}
    like = key_lists.backbone(18, "deep")
    assert_fills(weights.backbone_variables(tensors, like=like), like)
