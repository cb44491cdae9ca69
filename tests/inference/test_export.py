"""An exported file computes the same as the live network; other files are rejected."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import export
from PIL import ExifTags, Image

from configs import camvid
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.data.catalog import CAMVID, Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import artifact, export_model, load_exported
from cpnet_jax.inference.export.verify import TOLERANCE, Agreement, probe_images, verify
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.models import CPNet, PriorOptions, upsample
from cpnet_jax.modes import export as export_mode
from cpnet_jax.modes.export import export_workdir
from cpnet_jax.modes.predict import predict
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.training.state import create_state

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")
ROOT = Path(__file__).parents[2]
CROP = (16, 24)
MEAN, STD = (120.0, 110.0, 100.0), (50.0, 60.0, 70.0)
DATASET = Dataset(
    name="lake",
    classes=("water", "sand", "boat", "sky"),
    palette=((0, 0, 255), (255, 255, 0), (255, 0, 0), (0, 255, 255)),
    ignore_label=200,
)
MODEL = CPNet(
    num_classes=4,
    depth=18,
    prior_size=(2, 3),
    channels=8,
    aux_channels=4,
    prior=PriorOptions(aggregation_kernel=3),
)
DESCRIPTION = {
    "dataset": DATASET,
    "crop_size": CROP,
    "mean": MEAN,
    "std": STD,
    "origin": {"experiment": "x", "step": 7},
}


def trained_variables(model=MODEL, crop=CROP):
    """Random weights, like those of a trained network: no scale is 1 and no bias 0."""
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *crop, 3)), train=False))()
    rng = np.random.default_rng(0)

    def trained(path, value):
        if "kernel" in jax.tree_util.keystr(path):
            return np.array(value)
        return rng.uniform(0.2, 0.6, value.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(trained, variables)
    variables["params"]["head"]["classifier"]["kernel"] *= 100  # classes that differ from pixel to pixel
    return variables


@pytest.fixture(scope="module", autouse=True)
def _without_shape_checks():
    """Turns the checks off: a program for any batch size is traced with a symbolic size, which they cannot compare."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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


def read_program(path):
    """(function, weights), read without this package."""
    file = np.load(path)
    weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
    return export.deserialize(bytearray(file["model.stablehlo"])), weights


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


def test_each_compilation_is_announced_before_it_starts():
    said, when = [], []

    def network(images):
        when.append(len(said))
        return {"logits": jnp.zeros((len(images), 4, 4, 2)), "classes": jnp.zeros((len(images), 32, 32), jnp.uint8)}

    verify(network, lambda images: network(images)["logits"], (32, 32), "float32", said.append)
    assert when == [1, 2, 3] and len(set(said)) == 3


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


def test_weights_of_another_network_are_not_exported(tmp_path, variables):
    for model in (MODEL.clone(channels=16), MODEL.clone(depth=34)):
        with pytest.raises((KeyError, ValueError)):
            export_model(tmp_path / "m.cpnet", model, variables, **DESCRIPTION)
    assert not list(tmp_path.iterdir())


def outputs(logits):
    return {"logits": logits, "classes": jnp.argmax(upsample(logits, CROP), axis=-1).astype(jnp.uint8)}


def some_logits(images):
    """The same for an image alone as in a batch."""
    return jnp.asarray(np.random.default_rng(2).normal(0, 5, (3, 2, 3, 4)), jnp.float32)[: len(images)]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_may_differ_up_to_the_tolerance(dtype):
    def shifted(images, parts):
        logits = some_logits(images)
        return outputs(logits.at[0, 0, 0, 0].add(parts * TOLERANCE[dtype] * jnp.abs(logits).max()))

    agreement = verify(lambda images: shifted(images, 0.9), some_logits, CROP, dtype)
    assert agreement.difference == pytest.approx(0.9 * TOLERANCE[dtype], rel=1e-2)
    with pytest.raises(UserError, match="differs"):
        verify(lambda images: shifted(images, 1.1), some_logits, CROP, dtype)


def test_a_single_wrong_class_is_rejected():
    def with_one_wrong(images):
        right = outputs(some_logits(images))
        return right | {"classes": right["classes"].at[-1, 0, 0].set((right["classes"][-1, 0, 0] + 1) % 4)}

    with pytest.raises(UserError, match="differs"):
        verify(with_one_wrong, some_logits, CROP, "float32")


def test_non_finite_logits_are_rejected():
    def nan(images):
        return some_logits(images).at[0, 0, 0, 0].set(jnp.nan)

    with pytest.raises(UserError, match="not finite"):
        verify(lambda images: outputs(nan(images)), nan, CROP, "float32")
    with pytest.raises(UserError, match="differs"):
        verify(lambda images: outputs(nan(images)), some_logits, CROP, "float32")


@pytest.mark.parametrize("size", [(16, 24), (480, 488)])
def test_images_to_compare_on_are_of_the_windows_size_and_use_the_whole_range(size):
    images = probe_images(size)
    assert images.shape == (3, *size, 3) and images.dtype == np.uint8
    assert all(np.ptp(image) > 150 for image in images)


def one_sentence(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(exported, tmp_path, kept):
    path, whole = tmp_path / "cut.cpnet", exported[0].read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    assert "cut.cpnet is damaged" in one_sentence(error)


@pytest.mark.parametrize("entry", ["metadata.json", "model.stablehlo", "weights/params/head/classifier/kernel.npy"])
def test_a_flipped_bit_is_found(exported, tmp_path, entry):
    whole = bytearray(exported[0].read_bytes())
    with zipfile.ZipFile(exported[0]) as archive:
        info, content = archive.getinfo(entry), archive.read(entry)
    start = whole.index(content, info.header_offset)
    whole[start + len(content) - 2] ^= 1
    path = tmp_path / "flipped.cpnet"
    path.write_bytes(whole)
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    assert "flipped.cpnet is damaged" in one_sentence(error)


def make_foreign(path, kind):
    if kind == "a text":
        path.write_text("hello")
    elif kind == "a picture":
        Image.new("RGB", (4, 4)).save(path, "PNG")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "another archive":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif kind == "another archive with metadata":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps(["somebody", "else's"]))


KINDS = ["a text", "a picture", "a folder", "another archive", "another archive with metadata", "nothing"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_refused(tmp_path, kind):
    make_foreign(tmp_path / "other.cpnet", kind)
    with pytest.raises(UserError) as error:
        load_exported(tmp_path / "other.cpnet", sharding.make_mesh())
    assert "other.cpnet " in one_sentence(error)


def rewritten(source, path, program=None, **metadata):
    """The file with another program or other metadata; None leaves an entry of the metadata out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                changed = json.loads(content) | metadata
                content = json.dumps({key: value for key, value in changed.items() if value is not None})
            new.writestr(name, program if program and name == "model.stablehlo" else content)
    return path


def test_a_newer_format_is_refused_and_named(exported, tmp_path):
    path = rewritten(exported[0], tmp_path / "newer.cpnet", format_version=artifact.FORMAT_VERSION + 1)
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    assert "format version 4 and this program knows up to 3" in one_sentence(error)


def newer_calling_convention(path):
    """The program as written by a JAX with a newer calling convention."""
    network, _ = read_program(path)
    newest = export.maximum_supported_calling_convention_version
    return bytes(dataclasses.replace(network, calling_convention_version=newest + 1).serialize())


@pytest.mark.parametrize("program", ["garbage", "newer"])
def test_a_program_that_this_jax_cannot_read_is_refused_with_both_versions(exported, tmp_path, program):
    content = b"garbage" if program == "garbage" else newer_calling_convention(exported[0])
    path = rewritten(exported[0], tmp_path / "m.cpnet", program=content, versions={"jax": "99.1.0"})
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    message = one_sentence(error)
    assert "99.1.0" in message and jax.__version__ in message


@pytest.mark.parametrize("changed", [{"classes": None}, {"mean": 3}, {"palette": [[0, 0, 0]]}, {"origin": None}])
def test_invalid_metadata_are_rejected(exported, tmp_path, changed):
    path = rewritten(exported[0], tmp_path / "m.cpnet", **changed)
    with pytest.raises(UserError, match=r"metadata\.json"):
        load_exported(path, sharding.make_mesh())


def run_without_cpnet_jax(script, *arguments):
    code = (
        "import runpy, sys; sys.modules['cpnet_jax'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    program = [sys.executable, "-c", code, script, *arguments]
    return subprocess.run(list(map(str, program)), env=environment, capture_output=True, text=True)


EXAMPLE = ROOT / "examples" / "run_exported_model.py"


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


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with a better evaluation at step 1 than at step 2; its data do not exist."""
    config = camvid.get_config()
    config.data.crop_size, config.data.num_classes, config.data.source = CROP, len(CAMVID.classes), "/nowhere"
    config.model.channels, config.model.aux_channels, config.model.aggregation_kernel = 8, 4, 3
    config.model.bfloat16 = False
    known = {
        "classes": list(CAMVID.classes),
        "palette": [list(colour) for colour in CAMVID.palette],
        "ignore_label": 255,
        "value_range": [0, 1023],
    }
    description = as_dict(config) | {"trained_on": known}
    model = MODEL.clone(num_classes=len(CAMVID.classes))
    state = create_state(model, build.make_optimizer(config), CROP, 0).replace(**trained_variables(model))
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, miou in ((1, 0.5), (2, 0.4)):
            checkpoints.save(step, state, position=step, config=description, miou=miou)
    return folder


def test_one_command_exports_a_workdir_without_config_and_data(workdir, tmp_path):
    flags = ["--mode=export", f"--workdir={workdir}", f"--output={tmp_path}/lake.cpnet"]
    command = [sys.executable, "tests/small_main.py", *flags]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "differ from the live network's by at most" in result.stdout
    model = load_exported(tmp_path / "lake.cpnet", sharding.make_mesh())
    assert model.origin["step"] == 2 and model.dataset.classes == CAMVID.classes
    assert model.value_range == from_workdir(workdir, sharding.make_mesh()).value_range == (0, 1023)


@pytest.mark.parametrize(("checkpoint", "step"), [("best", 1), ("latest", 2)])
def test_the_best_or_latest_checkpoint_is_exported_into_the_workdir_unless_a_file_is_named(
    workdir, monkeypatch, checkpoint, step
):
    def write(path, *_, origin, **__):
        path.write_text(str(origin["step"]))
        return Agreement(0, 1)

    monkeypatch.setattr(export_mode, "export_model", write)
    export_workdir(workdir, None, checkpoint)
    assert (workdir / "camvid.cpnet").read_text() == str(step)


@pytest.mark.parametrize(
    ("run", "output", "named"),
    [
        ("nowhere", None, "nowhere does not exist"),
        ("empty", None, "holds no whole checkpoint"),
        ("run", "folder", "--output"),
        ("run", "file/m.cpnet", "--output"),
    ],
)
def test_a_mistake_gets_one_sentence(workdir, tmp_path, run, output, named):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        export_workdir(workdir if run == "run" else tmp_path / run, output and tmp_path / output, "latest")
    assert named in one_sentence(error)


def test_no_workdir_and_no_config_gets_one_sentence_and_exit_2():
    result = subprocess.run([sys.executable, "main.py", "--mode=export"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: --workdir is missing")


# --- images of any size -----------------------------------------------------------------------------------------------

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


def test_a_file_for_any_size_says_so_in_a_version_of_its_own(exported, exported_pairs):
    described = [json.loads(np.load(path)["metadata.json"]) for path in (exported[0], exported_pairs[0])]
    assert [(each.get("any_size"), each["format_version"]) for each in described] == [(None, 1), (True, 3)]


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


def test_whole_images_are_predicted_with_a_file_for_any_size(exported, exported_pairs, tmp_path, monkeypatch):
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
    with pytest.raises(UserError, match="windows is False, but this network"):
        predicted(exported[0], image, tmp_path / "refused", {"windows": False})
    assert not (tmp_path / "refused").exists()
