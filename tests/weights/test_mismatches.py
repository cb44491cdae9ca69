"""A file that does not fit is refused with one line that names its contents; only skipped variables are left out."""

import jax
import numpy as np
import pytest
from weights import key_lists

from cpnet_jax import weights
from cpnet_jax.errors import UserError

SMALL = {"prior_size": (2, 3), "num_classes": 4, "channels": 8, "aux_channels": 4}


def refusal(function, tensors, like, **arguments):
    with pytest.raises(UserError) as refused:
        function(tensors, like=like, name="file.pth", **arguments)
    message = str(refused.value)
    assert message.startswith("file.pth ") and "\n" not in message
    return message


def small_cpnet(**attributes):
    """Returns the tensors of a small network and the shapes of its variables."""
    like = key_lists.cpnet(18, **SMALL | attributes)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), like)
    return weights.cpnet_tensors(variables, batches_tracked=1), like


def test_a_resnet_50_for_a_resnet_101():
    message = refusal(weights.backbone_variables, key_lists.tensors("v1c_resnet50"), key_lists.backbone(101, "deep"))
    assert "holds a ResNet-50 with the deep stem and the network has a ResNet-101 with the deep stem" in message
    assert message.endswith("or set config.model.depth=50")


def test_the_classic_stem_for_the_deep_one():
    tensors = key_lists.tensors("torchvision_resnet50")
    message = refusal(weights.backbone_variables, tensors, key_lists.backbone(50, "deep"))
    assert "holds a ResNet-50 with the classic stem" in message and message.endswith("config.model.stem=classic")


@pytest.mark.parametrize(
    "keys",
    [
        ["backbone.body.conv1.weight", "backbone.fpn.inner_blocks.0.0.weight", "rpn.head.conv.0.0.weight"],
        ["backbone.conv1.weight", "neck.lateral_convs.0.conv.weight", "roi_head.bbox_head.fc_cls.weight"],
    ],
    ids=["torchvision", "mmdetection"],
)
@pytest.mark.parametrize("function", [weights.backbone_variables, weights.cpnet_variables])
def test_a_detection_model(function, keys):
    tensors = {key: np.zeros(1, np.float32) for key in keys}
    like = key_lists.backbone(18, "deep") if function is weights.backbone_variables else key_lists.cpnet(18, **SMALL)
    assert "holds a detection model" in refusal(function, tensors, like)


def test_a_whole_network_is_refused_as_a_backbone_and_a_backbone_as_a_whole_network():
    whole, like = small_cpnet()
    message = refusal(weights.backbone_variables, whole, key_lists.backbone(18, "deep"))
    assert "holds a whole segmentation network" in message
    message = refusal(weights.cpnet_variables, key_lists.tensors("v1c_resnet18"), like)
    assert "holds a ResNet-18 with the deep stem" in message


def test_another_kind_of_network_is_named_by_its_tensors():
    message = refusal(
        weights.backbone_variables, {"blocks.0.attn.qkv.weight": np.zeros(1)}, key_lists.backbone(18, "deep")
    )
    assert "another network (its tensors are blocks.0.attn.qkv.weight" in message


def test_a_resnet_d_whose_shortcuts_have_a_layer_more():
    renamed = {
        key.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1."): tensor
        for key, tensor in key_lists.tensors("timm_resnet50c").items()
    }
    message = refusal(weights.backbone_variables, renamed, key_lists.backbone(50, "deep"))
    assert "layer1.0.downsample.0.weight" in message and "layer1.0.downsample.2.bias" in message


def test_one_error_lists_everything_that_does_not_fit():
    tensors, like = small_cpnet(num_classes=7)
    like = key_lists.cpnet(18, **SMALL)
    del tensors["backbone.layer2.0.bn1.bias"]
    tensors["backbone.extra.weight"] = np.zeros(3, np.float32)
    message = refusal(weights.cpnet_variables, tensors, like)
    assert "decode_head.conv_seg.weight is 7x8x1x1 and should be 4x8x1x1" in message
    assert "1 missing: backbone.layer2.0.bn1.bias" in message
    assert "1 that it does not have: backbone.extra.weight" in message
    assert message.endswith("config.init.skip=('aux_head/classifier/.*','head/classifier/.*',)")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.float32(np.nan), "has non-finite values"),
        (np.float32(np.inf), "has non-finite values"),
        (np.int8(1), "is of int8 and should be of float32"),
        (np.complex64(1), "is of complex64 and should be of float32"),
    ],
    ids=str,
)
def test_non_finite_and_non_float_tensors_are_refused(value, said):
    tensors, like = small_cpnet()
    name = "decode_head.conv_seg.bias"
    tensors[name] = np.array([0, 1, 2, value], value.dtype)
    assert f"({name} {said})" in refusal(weights.cpnet_variables, tensors, like)
    weights.cpnet_variables(tensors, like=like, skip=["head/classifier/bias"])


@pytest.mark.parametrize("function", [weights.backbone_variables, weights.cpnet_variables])
def test_negative_variances_are_refused(function):
    """Their BatchNorm would give NaN."""
    if function is weights.cpnet_variables:
        (tensors, like), key = small_cpnet(), "backbone.layer1.0.bn1.running_var"
    else:
        tensors, like = dict(key_lists.tensors("v1c_resnet18")), key_lists.backbone(18, "deep")
        key = "layer1.0.bn1.running_var"
    tensors[key] = tensors[key] - 1
    assert f"({key} has negative variances)" in refusal(function, tensors, like)


@pytest.mark.parametrize("classifier", [{}, {"head.fc.weight": np.zeros(1), "head.fc.bias": np.zeros(1)}], ids=len)
def test_the_backbone_of_mmpretrain_is_read(classifier, capsys):
    plain, like = key_lists.tensors("v1c_resnet18"), key_lists.backbone(18, "deep")
    plain = {key: tensor for key, tensor in plain.items() if not key.startswith("fc.")}
    prefixed = {f"backbone.{key}": tensor for key, tensor in plain.items()}
    found = weights.backbone_variables(prefixed | classifier, like=like, name="file.pth")
    expected = weights.backbone_variables(plain, like=like)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    said = "Note: file.pth: head.fc.bias, head.fc.weight not used (the ImageNet classifier)\n"
    assert capsys.readouterr().err == (said if classifier else "")


def test_a_backbone_in_place_of_a_whole_network_is_for_training():
    _, like = small_cpnet()
    prefixed = {f"backbone.{key}": tensor for key, tensor in key_lists.tensors("v1c_resnet18").items()}
    message = refusal(weights.cpnet_variables, prefixed, like)
    assert "holds a ResNet-18 with the deep stem" in message
    assert message.endswith("or train from this backbone by config.init.backbone=file.pth")


def test_a_missing_auxiliary_head_is_named_with_both_ways_out():
    tensors, like = small_cpnet()
    alone = {key: tensor for key, tensor in tensors.items() if not key.startswith("auxiliary_head.")}
    message = refusal(weights.cpnet_variables, alone, like)
    assert message.startswith("file.pth has no auxiliary head: set config.model.aux_channels=0")
    assert message.endswith("or config.init.skip=('aux_head/.*',) to train a new one")
    weights.cpnet_variables(alone, like=like, skip=["aux_head/.*"])
    weights.cpnet_variables(alone, like=key_lists.cpnet(18, **SMALL | {"aux_channels": 0}))


def test_nothing_is_to_be_skipped_where_it_cannot_be():
    tensors, _ = small_cpnet(num_classes=7)
    assert "skip" not in refusal(weights.cpnet_variables, tensors, key_lists.cpnet(18, **SMALL), skip=None)


def test_hundreds_of_misfits_are_counted_and_not_listed():
    tensors = {f"{key}.x" if ".bn" in key else key: t for key, t in key_lists.tensors("v1c_resnet18").items()}
    tensors["layer1.0.bn1.weight"] = np.zeros(64, np.float32)
    message = refusal(weights.backbone_variables, tensors, key_lists.backbone(18, "deep"))
    assert "63 missing: layer1.0.bn1.bias, " in message and "and 59 more" in message and len(message) < 700


def test_skipped_variables_are_neither_compared_nor_returned():
    tensors, _ = small_cpnet(num_classes=7)
    like = key_lists.cpnet(18, **SMALL)
    found = weights.cpnet_variables(tensors, like=like, skip=["head/classifier/.*", "aux_head/.*"])
    assert set(found["params"]) == {"backbone", "context", "head"} and set(found["params"]["head"]) == {"conv"}
    assert found["batch_stats"].keys() == {"backbone", "context", "head"}
    assert jax.tree.map(np.shape, found["params"]["context"]) == jax.tree.map(
        lambda leaf: leaf.shape, like["params"]["context"]
    )


def test_skipping_matches_whole_paths():
    tensors, like = small_cpnet()
    everything = weights.cpnet_variables(tensors, like=like, skip=["classifier", "head", "backbone"])
    assert jax.tree.structure(everything) == jax.tree.structure(like)


def test_a_head_that_the_network_does_not_have_must_be_skipped():
    tensors, _ = small_cpnet()
    like = key_lists.cpnet(18, **SMALL | {"aux_channels": 0})
    assert "auxiliary_head.conv_seg.bias" in refusal(weights.cpnet_variables, tensors, like)
    found = weights.cpnet_variables(tensors, like=like, skip=["aux_head/.*"])
    assert jax.tree.structure(found) == jax.tree.structure(like)


def test_skip_patterns_of_a_backbone_are_whole_network_paths():
    found = weights.backbone_variables(
        key_lists.tensors("v1c_resnet18"), like=key_lists.backbone(18, "deep"), skip=["backbone/layer4_.*"]
    )
    assert "layer3_1" in found["params"] and not {"layer4_0", "layer4_1"} & found["params"].keys()
