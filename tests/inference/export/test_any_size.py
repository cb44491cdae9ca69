"""A network without a prior of positions is exported for images of any size."""

import json
import runpy
import sys

import exported_files
import jax
import numpy as np
import pytest
from exported_networks import DATASET, DESCRIPTION, EXAMPLE, MEAN, MODEL, STD, read_program, trained_variables
from PIL import Image

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import export_model
from cpnet_jax.models import PriorOptions, upsample
from cpnet_jax.modes.predict import predict

pytestmark = pytest.mark.usefixtures("small_backbone_in_module", "quick_compilation")

PAIRS = MODEL.clone(prior_size=None, prior=PriorOptions(kind="pairs", aggregation_kernel=3))


@pytest.fixture(scope="module")
def exported_pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "pairs.cpnet"
    variables = trained_variables(PAIRS)
    export_model(path, PAIRS, variables, **DESCRIPTION)
    return path, variables


@jax.jit
def live_pairs(variables, images, real):
    return PAIRS.apply(variables, (images - np.float32(MEAN)) / np.float32(STD), train=False, real=real).logits


@pytest.mark.parametrize("size", [(8, 8), (168, 240)])  # one position; more positions than a block of rows
def test_a_network_without_prior_of_positions_is_exported_for_any_size(exported_pairs, size):
    path, variables = exported_pairs
    network, weights = read_program(path)
    images = np.random.default_rng(2).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    real = np.ones((2, size[0] // 8, size[1] // 8), bool)
    real[1, :, -1] = size[1] == 8  # of an image of one position, that one must be real
    expected = np.asarray(live_pairs(variables, images, real))
    outputs = jax.jit(network.call)(weights, images, real)
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4 * np.abs(expected).max())
    assert outputs["classes"].shape == (2, *size)


def test_a_file_for_any_size_says_so_in_a_version_of_its_own(exported_pairs):
    metadata = json.loads(np.load(exported_pairs[0])["metadata.json"])
    assert metadata["any_size"] is True and metadata["format_version"] == 3


def predicted(path, image, folder, settings):
    predict(
        [str(image)],
        workdir=None,
        exported=path,
        checkpoint="latest",
        settings=settings,
        multi_scale=None,
        output=folder,
        overlays=False,
        probabilities=False,
    )
    return np.asarray(Image.open(folder / "classes" / f"{image.stem}.png"))


def test_whole_images_are_predicted_with_a_file_for_any_size(exported_pairs, tmp_path, monkeypatch):
    alone = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda: alone)
    path, variables = exported_pairs
    pixels = np.random.default_rng(4).integers(0, 256, (64, 96, 3)).astype(np.uint8)  # padded sizes
    image = tmp_path / "in.png"
    Image.fromarray(pixels).save(image)
    whole = predicted(path, image, tmp_path / "whole", {"windows": False})
    scores = upsample(live_pairs(variables, pixels[None], np.ones((1, 8, 12), bool)), (64, 96))[0]
    assert np.mean(whole == scores.argmax(-1)) > 0.999
    assert np.mean(whole == predicted(path, image, tmp_path / "windows", {"windows": True})) < 0.99
    described = json.loads((tmp_path / "whole" / "predictions.json").read_text())
    assert described["settings"]["windows"] is False and described["settings"]["window"] is None
    monkeypatch.setattr(sys, "argv", list(map(str, (EXAMPLE, path, image, tmp_path / "out.png"))))
    runpy.run_path(str(EXAMPLE))
    np.testing.assert_array_equal(Image.open(tmp_path / "out.png"), np.uint8(DATASET.palette)[whole])
    (tmp_path / "of_one_size.cpnet").write_bytes(exported_files.whole())
    with pytest.raises(UserError, match="windows is False, but this network"):
        predicted(tmp_path / "of_one_size.cpnet", image, tmp_path / "refused", {"windows": False})
    assert not (tmp_path / "refused").exists()
