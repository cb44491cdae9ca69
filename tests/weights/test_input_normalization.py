"""Weights for other images are adapted exactly in the first convolution, or refused."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cpnet_jax import weights
from cpnet_jax.errors import UserError
from cpnet_jax.weights import InputNormalization, input_normalization

OURS = InputNormalization()
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(5, 3, 3, 3))


def first_layer(kernel, images):
    """torch's convolution (out, in, h, w), stride 2 and zero padding, of images (b, 3, h, w)."""
    return np.asarray(jax.lax.conv_general_dilated(images, kernel, (2, 2), [(1, 1), (1, 1)]))


def normalised(images, expected):
    found = (images - np.reshape(expected.mean, (3, 1, 1))) / np.reshape(expected.std, (3, 1, 1))
    return found if expected.order == "rgb" else found[:, ::-1]


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", ["conv1.weight", "conv1.0.weight", "stem.0.weight"])
@pytest.mark.parametrize(
    "theirs",
    [
        InputNormalization(order="bgr"),
        InputNormalization(std=(1.0, 1.0, 1.0)),
        InputNormalization(std=(10.0, 20.0, 30.0), order="bgr"),
    ],
    ids=str,
)
def test_the_adapted_first_convolution_gives_the_same_outputs_border_included(theirs, name, prefix):
    with jax.enable_x64(True):
        images = RNG.uniform(0, 255, (2, 3, 6, 9))
        tensors = weights.adapt({f"{prefix}{name}": KERNEL, "fc.bias": KERNEL}, theirs, mean=OURS.mean, std=OURS.std)
        assert tensors["fc.bias"] is KERNEL
        found = first_layer(tensors[f"{prefix}{name}"], normalised(images, OURS))
        expected = first_layer(KERNEL, normalised(images, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_same_normalisation_changes_nothing():
    rounded = InputNormalization(mean=(123.68, 116.28, 103.53))
    tensors = weights.adapt({"conv1.weight": KERNEL}, rounded, mean=OURS.mean, std=OURS.std)
    assert tensors["conv1.weight"] is KERNEL


def test_another_mean_is_refused_with_the_mean_to_set():
    with pytest.raises(UserError, match=r"w.pth expects.* set config.data.mean=\(127.5,127.5,127.5\)"):
        weights.adapt({}, InputNormalization(mean=(127.5,) * 3), mean=OURS.mean, std=OURS.std, name="w.pth")


def test_a_network_without_such_a_first_convolution_is_refused():
    for tensors in ({}, {"conv1.weight": KERNEL[:, :1]}):
        with pytest.raises(UserError, match="no first convolution with 3 input channels"):
            weights.adapt(tensors, InputNormalization(order="bgr"), mean=OURS.mean, std=OURS.std)


def test_a_file_written_by_convert_states_its_normalisation(tmp_path):
    expected = InputNormalization((1.5, 2.0, 3.25), (4.0, 5.0, 6.125), "bgr")
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": KERNEL.astype(np.float32)}, path, expected.as_metadata())
    assert weights.load(str(path)).normalization == expected


@pytest.mark.parametrize("card", ["", "{", "[]", "{}", '{"pretrained_cfg": 3}', '{"pretrained_cfg": {}}'])
def test_a_file_without_metadata_gets_imagenets_normalisation(tmp_path, card):
    save_file({"conv1.weight": KERNEL.astype(np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(card)
    assert weights.load(str(tmp_path / "model.safetensors")).normalization == InputNormalization()


def test_timms_imagenet_numbers_are_the_default():
    card = {"pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    assert input_normalization.from_metadata({}, card) == InputNormalization()


@pytest.mark.parametrize(
    "wrong",
    [{"mean": ""}, {"mean": "[1,2]"}, {"mean": '["a","b","c"]'}, {"std": "[0,1,1]"}, {"std": "[NaN,1,1]"}, {"std": "3"}]
    + [{"channel_order": "grb"}],
    ids=str,
)
def test_impossible_metadata_is_refused(tmp_path, wrong):
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": KERNEL.astype(np.float32)}, path, OURS.as_metadata() | wrong)
    with pytest.raises(UserError, match=r"model\.safetensors: its metadata states an impossible normalisation"):
        weights.load(str(path))


@pytest.mark.parametrize("numbers", ["abc", [0.5, 0.5], [0.0, 0.5, 0.5]], ids=str)
def test_an_impossible_card_is_refused(numbers):
    card = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": numbers}}
    with pytest.raises(UserError, match=r"m\.pth: the config\.json beside it states an impossible"):
        input_normalization.from_metadata({}, card, "m.pth")
