"""An exported file computes the same as the live network."""

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
import zipfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported_networks import (
    CROP,
    DATASET,
    DESCRIPTION,
    EXAMPLE,
    MEAN,
    MODEL,
    STD,
    outputs,
    read_program,
    rewritten,
    trained_variables,
)
from jax import export
from PIL import ExifTags, Image

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import artifact, export_model, load_exported
from cpnet_jax.inference.export.verify import TOLERANCE
from cpnet_jax.models import upsample
from cpnet_jax.modes.predict import predict

pytestmark = pytest.mark.usefixtures("small_backbone_in_module", "quick_compilation")


@pytest.fixture(scope="module")
def variables():
    return trained_variables()


@pytest.fixture(scope="module")
def exported(variables, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "lake.cpnet"
    agreement = export_model(path, MODEL, variables, **DESCRIPTION)
    return path, agreement


WINDOWS = np.random.default_rng(1).integers(0, 256, (16, *CROP, 3)).astype(np.uint8)


@jax.jit
def live(variables, images):
    return MODEL.apply(variables, (images - np.float32(MEAN)) / np.float32(STD), train=False).logits


@pytest.fixture(scope="module")
def logits(variables):
    return np.asarray(live(variables, WINDOWS))


def test_the_file_computes_what_the_live_network_does(exported, logits):
    network, weights = read_program(exported[0])
    outputs, expected = network.call(weights, WINDOWS[:5]), logits[:5]
    assert outputs["logits"].dtype == jnp.float32 and outputs["classes"].dtype == jnp.uint8
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5 * np.abs(expected).max())
    best, second = np.sort(upsample(expected, CROP), axis=-1)[..., :-3:-1].transpose(3, 0, 1, 2)
    clear = best - second > 1e-4 * np.abs(expected).max()
    chosen = np.asarray(upsample(expected, CROP)).argmax(axis=-1)
    assert clear.mean() > 0.99 and len(np.unique(chosen)) > 1
    np.testing.assert_array_equal(np.asarray(outputs["classes"])[clear], chosen[clear])


def test_a_lack_of_memory_is_left_to_the_predictor_which_knows_the_fields(exported, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    mesh = sharding.make_mesh(jax.devices()[:1])
    with monkeypatch.context() as patched:
        patched.setattr(jax, "jit", lambda *_, **__: broken)
        model = load_exported(exported[0], mesh)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        model.logits(sharding.to_devices(mesh, WINDOWS[:1]))


def test_one_device_equals_eight_inside_another_compiled_function(exported, logits):
    one, eight = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), sharding.make_mesh()
    alone = load_exported(exported[0], one).logits(sharding.to_devices(one, WINDOWS))
    np.testing.assert_allclose(alone, logits, atol=1e-5 * np.abs(logits).max())
    model = load_exported(exported[0], eight)
    doubled = jax.jit(lambda windows: 2 * model.logits(windows))(sharding.to_devices(eight, WINDOWS))
    assert doubled.sharding.is_equivalent_to(sharding.split(eight), doubled.ndim)
    np.testing.assert_allclose(doubled, 2 * logits, atol=2e-5 * np.abs(logits).max())


def test_the_program_is_for_every_platform_and_any_batch(exported):
    network, _ = read_program(exported[0])
    assert set(network.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    assert network.nr_devices == 1
    batch = network.in_avals[-1].shape[0]
    assert export.is_symbolic_dim(batch)
    assert [aval.shape for aval in network.out_avals] == [(batch, *CROP), (batch, 2, 3, 4)]  # classes, logits


def test_the_files_metadata_describe_the_exported_network(exported):
    model = load_exported(exported[0], sharding.make_mesh())
    assert model.dataset == DATASET
    assert (model.crop_size, model.mean, model.std) == (CROP, MEAN, STD)
    assert (model.origin["experiment"], model.origin["step"]) == ("x", 7)
    metadata = json.loads(np.load(exported[0])["metadata.json"])
    assert metadata["versions"]["jax"] == jax.__version__ and metadata["output_stride"] == 8
    assert "any_size" not in metadata


def test_the_file_holds_neither_the_auxiliary_head_nor_anything_compressed(exported):
    with zipfile.ZipFile(exported[0]) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        names = archive.namelist()
    assert any("context/prior" in name for name in names)
    assert not any("aux_head" in name for name in names)


def test_bfloat16_activations_are_exported_as_such_and_compared_with_their_own_tolerance(
    tmp_path, variables, monkeypatch
):
    monkeypatch.setattr("cpnet_jax.inference.export.export.verify", lambda *arguments: arguments)
    for dtype, named in ((None, "float32"), (jnp.bfloat16, "bfloat16")):
        *_, asked, _ = export_model(tmp_path / "m.cpnet", MODEL.clone(dtype=dtype), variables, **DESCRIPTION)
        network, _ = read_program(tmp_path / "m.cpnet")
        assert asked == named and asked in TOLERANCE
        assert ("bf16" in network.mlir_module()) == (dtype is not None)


def test_no_file_is_left_if_it_computes_something_else(tmp_path, variables, monkeypatch):
    path = tmp_path / "m.cpnet"
    path.write_bytes(b"what was there before")
    write = artifact.write

    def write_damaged(where, whole):
        name = "params/head/classifier/bias"
        write(where, dataclasses.replace(whole, weights={**whole.weights, name: whole.weights[name] + 1}))

    monkeypatch.setattr(artifact, "write", write_damaged)
    with pytest.raises(UserError, match="differs from the live one"):
        export_model(path, MODEL, variables, **DESCRIPTION)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_loaded_is_not_exported(tmp_path, variables, monkeypatch):
    """As own modules whose program calls functions of the library, such as a Fourier transform."""
    monkeypatch.setattr("cpnet_jax.inference.export.interface.OUTWARD", re.compile(r"stablehlo\.(convolution)"))
    with pytest.raises(UserError, match=r"cannot be exported, since --model would refuse the file .*convolution"):
        export_model(tmp_path / "m.cpnet", MODEL, variables, **DESCRIPTION)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_not_exported(tmp_path, variables):
    for model in (MODEL.clone(channels=16), MODEL.clone(depth=34)):
        with pytest.raises((KeyError, ValueError)):
            export_model(tmp_path / "m.cpnet", model, variables, **DESCRIPTION)
    assert not list(tmp_path.iterdir())


def run_without_cpnet_jax(script, *arguments):
    code = (
        "import runpy, sys; sys.modules['cpnet_jax'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    program = [sys.executable, "-c", code, script, *arguments]
    return subprocess.run(list(map(str, program)), env=environment, capture_output=True, text=True)


def write_pictures(folder):
    """Pictures larger, smaller and in one direction larger than CROP, in files of every depth."""
    colours = np.random.default_rng(3).integers(0, 256, (41, 61, 3), np.uint8)
    cv2.imwrite(str(folder / "larger_deep.png"), colours.astype(np.uint16) << 4)
    cv2.imwrite(str(folder / "smaller_grey.png"), colours[:7, :11, 0])
    cv2.imwrite(str(folder / "higher_deep_grey.tif"), colours[:33, :9, 0].astype(np.uint16) << 4)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(colours[:, :17]).save(folder / "wider_turned.jpg", exif=turned)


@pytest.mark.parametrize(("overlap", "names"), [("sum", "*"), ("average_logits", "larger*")])
def test_the_example_equals_predict_on_every_pixel(exported, tmp_path, monkeypatch, overlap, names):
    origin = {"experiment": "x", "step": 7, "eval": {"overlap": overlap}}
    model = rewritten(exported[0], tmp_path / "m.cpnet", value_range=[0, 4095], origin=origin)
    (tmp_path / "in").mkdir()
    write_pictures(tmp_path / "in")
    alone = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])  # one device has less to compile
    monkeypatch.setattr(sharding, "make_mesh", lambda: alone)
    predict(
        [str(tmp_path / "in" / names)],
        workdir=None,
        exported=model,
        checkpoint="latest",
        settings=None,
        multi_scale=None,
        output=tmp_path / "predictions",
        overlays=False,
        probabilities=False,
    )
    pictures = list((tmp_path / "in").glob(names))
    assert len(pictures) == len(list((tmp_path / "predictions" / "classes").iterdir())) in (1, 4)
    for picture in pictures:
        monkeypatch.setattr(sys, "argv", list(map(str, (EXAMPLE, model, picture, tmp_path / "out.png"))))
        runpy.run_path(str(EXAMPLE))
        classes = np.asarray(Image.open(tmp_path / "predictions" / "classes" / f"{picture.stem}.png"))
        np.testing.assert_array_equal(Image.open(tmp_path / "out.png"), np.uint8(DATASET.palette)[classes])


def test_the_example_runs_without_our_code_and_prints_the_classes(exported, logits, tmp_path):
    Image.fromarray(WINDOWS[0]).save(tmp_path / "in.png")
    result = run_without_cpnet_jax(EXAMPLE, exported[0], tmp_path / "in.png", tmp_path / "out.png")
    assert result.returncode == 0, result.stderr
    classes = np.asarray(outputs(logits[:1])["classes"][0])
    assert DATASET.classes[np.bincount(classes.ravel()).argmax()] in result.stdout
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_only_a_file_with_a_value_range_needs_a_new_reader(exported, tmp_path):
    old = artifact.read(exported[0])
    assert old.metadata["format_version"] == 1
    metadata = {key: value for key, value in old.metadata.items() if not key.startswith("format")}
    artifact.write(tmp_path / "deep.cpnet", dataclasses.replace(old, metadata={**metadata, "value_range": [0, 1023]}))
    assert artifact.read(tmp_path / "deep.cpnet").metadata["format_version"] == 2
    assert load_exported(tmp_path / "deep.cpnet", sharding.make_mesh()).value_range == (0, 1023)
