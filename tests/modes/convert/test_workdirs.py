"""--mode=convert: files to workdirs and back, and file to file."""

import errno
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from converted_networks import CROP, HERE, config, run
from etils import epath
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from weights import key_lists

from cpnet_jax import sharding, weights
from cpnet_jax.config import build
from cpnet_jax.config.same_run import as_dict, check_same_run
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError, WriteFailed
from cpnet_jax.inference.load import restore
from cpnet_jax.runtime import files
from cpnet_jax.training import checksums
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.weights import tensor_files
from cpnet_jax.weights.convertible import check_convertible


@pytest.fixture(scope="module")
def converted(tensors, tmp_path_factory):
    """A file, and the workdir converted from it."""
    folder = tmp_path_factory.mktemp("converted")
    save_file(tensors, folder / "cpnet.safetensors", {"experiment": "lake"})
    run(folder / "cpnet.safetensors", config=config(), workdir=folder / "run")
    return folder / "cpnet.safetensors", folder / "run"


def with_classes(fields):
    fields.data.num_classes = len(CAMVID.classes)
    return fields


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_file_through_a_workdir_is_the_same_bit_for_bit(converted, tensors):
    _, workdir = converted
    run(workdir=workdir)
    assert_same(load_file(workdir / "camvid.safetensors"), tensors)


def test_the_file_says_which_classes_and_images_it_is_for(converted, tmp_path):
    run(workdir=converted[1], output=tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", framework="np") as file:
        metadata = file.metadata()
    fields = config()
    assert metadata["format"] == "pt" and metadata["channel_order"] == "rgb"
    assert json.loads(metadata["mean"]) == list(fields.data.mean) and json.loads(metadata["std"]) == list(
        fields.data.std
    )
    assert json.loads(metadata["classes"]) == list(CAMVID.classes)
    assert json.loads(metadata["palette"]) == [list(colour) for colour in CAMVID.palette]
    assert json.loads(metadata["crop_size"]) == list(CROP)


def test_a_written_file_has_the_usual_permissions(converted, tmp_path):
    run(workdir=converted[1], output=tmp_path / "out.safetensors")
    (tmp_path / "any").touch()
    assert (tmp_path / "out.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_file_for_torch_has_the_structure_mmsegmentation_opens(converted, tensors, tmp_path):
    torch = pytest.importorskip("torch", reason="torch writes its own files")
    run(workdir=converted[1], output=tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert_same({key: tensor.numpy() for key, tensor in written["state_dict"].items()}, tensors)
    assert written["meta"]["CLASSES"] == CAMVID.classes == written["meta"]["dataset_meta"]["classes"]
    assert written["meta"]["PALETTE"] == [list(colour) for colour in CAMVID.palette]


def test_a_converted_workdir_can_be_restored_and_resumed_with_any_data(converted):
    file, workdir = converted
    found = restore(workdir, sharding.make_mesh())
    assert found.step == 0 and found.dataset.classes == CAMVID.classes and found.config.model.depth == 18
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        saved = checkpoints.config(0)
    assert saved["trained_on"]["weights"] == str(file)
    ours = as_dict(config())
    ours["total_steps"] += 1  # of a duration in epochs
    ours["trained_on"] = {**saved["trained_on"], "fingerprint": "of some data"}
    del ours["trained_on"]["weights"]
    check_same_run(ours, saved, workdir)
    ours["model"]["dropout"] = 0.5
    with pytest.raises(UserError, match=r"config.model.dropout"):
        check_same_run(ours, saved, workdir)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"backbone": "plain"}, "config.model.backbone is 'plain'"),
        ({"context": "psp"}, "config.model.context is 'psp'.*with context prior.*'none'"),
        ({"context": "strips", "context_prior": False}, "config.model.context is 'strips'.*without context prior"),
        ({"aggregation": False}, "config.model.aggregation is False"),
        ({"prior_contexts": "intra"}, "config.model.prior_contexts is 'intra'"),
        ({"divide_by_n": False}, "config.model.divide_by_n is False"),
        ({"prior": "pairs"}, "config.model.prior is 'pairs'"),
    ],
    ids=str,
)
def test_a_network_that_pytorch_code_does_not_have_is_refused(fields, said):
    model = config().model
    model.update(fields)
    with pytest.raises(UserError, match=said):
        check_convertible(model)


def copy_with(workdir, copy, **fields):
    """The workdir with other fields in its checkpoint's config.model."""
    shutil.copytree(workdir, copy)
    path = copy / "checkpoints" / "0" / "config" / "metadata"
    saved = json.loads(path.read_text())
    saved["model"] |= fields
    path.write_text(json.dumps(saved))
    folder = epath.Path(copy / "checkpoints" / "0")
    (folder / checksums.NAME).unlink()
    checksums.write(folder)
    return copy


def test_differences_that_tensors_do_not_show_are_refused_or_reported(converted, tmp_path, capsys):
    """Tensors show neither divide_by_n, which is refused, nor multi_grid, which is reported."""
    file, workdir = converted
    changed = config()
    changed.model.divide_by_n = False
    with pytest.raises(UserError, match="divide_by_n"):
        run(file, config=changed, workdir=tmp_path / "in")
    with pytest.raises(UserError, match="divide_by_n"):
        run(workdir=copy_with(workdir, tmp_path / "out", divide_by_n=False))
    run(workdir=copy_with(workdir, tmp_path / "grid", multi_grid=[1, 2]))
    assert "needs multi_grid=(2, 8) in the backbone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "noted"),
    [
        ({"context": "aspp", "aspp_dilations": (2, 4, 6)}, "needs dilations=(1, 2, 4, 6) in the decode_head"),
        ({"context": "psp", "pool_sizes": (1, 2)}, "needs pool_scales=(1, 2) in the decode_head"),
    ],
    ids=["aspp", "psp"],
)
def test_dilations_and_pool_sizes_are_noted_and_compared_when_the_file_returns(tmp_path, capsys, fields, noted):
    def network(**changed):
        made = config()
        made.model.update(context_prior=False, **fields | changed)
        return made

    like = jax.eval_shape(build.make_create_state(with_classes(network())))
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.random(leaf.shape, np.float32)  # noqa: E731
    variables = jax.tree.map(draw, {"params": like.params, "batch_stats": like.batch_stats})
    save_file(weights.cpnet_tensors(variables, batches_tracked=0), tmp_path / "cpnet.safetensors", HERE)
    run(tmp_path / "cpnet.safetensors", config=network(), workdir=tmp_path / "run")
    run(workdir=tmp_path / "run", output=tmp_path / "out.safetensors")
    assert noted in capsys.readouterr().err

    run(tmp_path / "out.safetensors", config=network(), workdir=tmp_path / "same")
    field = next(field for field in fields if field != "context")
    others = tuple(value + 1 for value in fields[field])
    with pytest.raises(UserError, match=rf"set config\.model\.{field}=") as refused:
        run(tmp_path / "out.safetensors", config=network(**{field: others}), workdir=tmp_path / "other")
    assert str(refused.value).endswith(f"set config.model.{field}={fields[field]}".replace(", ", ","))
    assert not (tmp_path / "other").exists()


def test_a_converted_workdir_with_frozen_parameters_has_the_state_that_training_restores(converted, tmp_path):
    fields = config()
    fields.finetune.freeze = ("backbone/.*",)
    run(converted[0], config=fields, workdir=tmp_path / "run")
    like = jax.jit(build.make_create_state(with_classes(fields)))()
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        state, position = checkpoints.restore(0, like)
    assert position == 0 and jax.tree.structure(state) == jax.tree.structure(like)


def test_a_workdir_with_checkpoints_is_not_overwritten(converted):
    file, workdir = converted
    with pytest.raises(UserError, match="has checkpoints already: name another"):
        run(file, config=config(), workdir=workdir)


def test_a_conversion_that_failed_can_be_repeated(converted, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise WriteFailed("the disk is full")

    for broken in ((files, "write_json"), (Checkpoints, "save")):
        with monkeypatch.context() as patch, pytest.raises(WriteFailed):
            patch.setattr(*broken, fail)
            run(converted[0], config=config(), workdir=tmp_path / "run")
    run(converted[0], config=config(), workdir=tmp_path / "run")
    assert restore(tmp_path / "run", sharding.make_mesh()).step == 0
    assert (tmp_path / "run" / "config.json").exists()


def test_from_file_to_file_the_names_of_the_classes_stay(tensors, tmp_path):
    """Those of mmsegmentation are a tuple, which a safetensors file cannot hold."""
    pytest.importorskip("torch", reason="torch writes its own files")
    swapped = (CAMVID.classes[1], CAMVID.classes[0], *CAMVID.classes[2:])
    tensor_files.write(tmp_path / "bgr.pth", tensors, {"CLASSES": swapped})
    run(tmp_path / "bgr.pth", output=tmp_path / "rgb.safetensors", order="bgr")
    assert weights.load(str(tmp_path / "rgb.safetensors")).classes == swapped


def test_weights_of_another_network_leave_no_workdir(converted, tmp_path):
    fields = config()
    fields.model.depth = 50
    with pytest.raises(UserError, match="or set config"):
        run(converted[0], config=fields, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path, monkeypatch, suffix):
    if suffix == "pth":
        pytest.importorskip("torch", reason="torch writes its own files")

    def write_a_part(path, contents):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_a_part)
    with pytest.raises(UserError, match=rf"out\.{suffix} cannot be written \(No space left on device\)"):
        tensor_files.write(tmp_path / f"out.{suffix}", {"a": np.zeros(3, np.float32)}, {})
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_folder_is_refused(converted, tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UserError, match=r"folder\.pth is a folder: name a file"):
        run(converted[0], output=tmp_path / "folder.pth")


def test_from_file_to_file_only_the_first_convolution_changes(converted, tensors, tmp_path):
    path = tmp_path / "rgb.safetensors"
    run(converted[0], output=path, order="bgr", std=(1.0, 1.0, 1.0))
    found, first = load_file(path), "backbone.stem.0.weight"
    assert_same({**found, first: tensors[first]}, tensors)
    expected = tensors[first][:, ::-1] * np.reshape(weights.InputNormalization().std, (3, 1, 1))
    np.testing.assert_allclose(found[first], expected, rtol=1e-6)
    # What was adapted once is not adapted again.
    run(path, output=tmp_path / "again.safetensors")
    assert_same(load_file(tmp_path / "again.safetensors"), found)
    with safe_open(tmp_path / "again.safetensors", framework="np") as file:
        assert file.metadata()["experiment"] == "lake", "what the first file says is not lost"


def test_another_mean_is_refused_unless_the_config_has_it(converted, tmp_path):
    fields = config()
    with pytest.raises(UserError, match=r"set config.data.mean=\(1,2,3\)"):
        run(converted[0], config=fields, output=tmp_path / "out.safetensors", mean=(1.0, 2.0, 3.0))
    assert not (tmp_path / "out.safetensors").exists()
    fields.data.mean = (1.0, 2.0, 3.0)
    run(converted[0], config=fields, output=tmp_path / "out.safetensors", mean=(1.0, 2.0, 3.0))
    assert weights.load(str(tmp_path / "out.safetensors")).normalization.mean == (1.0, 2.0, 3.0)


def test_networks_with_basic_blocks_are_converted_only_if_trained_here(converted, tensors, tmp_path, capsys):
    foreign = tmp_path / "foreign.safetensors"
    save_file(tensors, foreign)
    with pytest.raises(UserError, match="which would give other results here"):
        run(foreign, config=config(), workdir=tmp_path / "run")
    run(foreign, output=tmp_path / "rewritten.safetensors")
    with pytest.raises(UserError, match="would give other results here"):
        run(tmp_path / "rewritten.safetensors", config=config(), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(workdir=converted[1], output=tmp_path / "out.safetensors")
    assert "will give other results in mmsegmentation" in capsys.readouterr().err
    # A ResNet-50 has no such blocks, and a backbone of ImageNet's no dilation.
    for name in ("cpnet_resnet50", "torchvision_resnet18"):
        weights.check_dilation(weights.PyTorchWeights(name, key_lists.tensors(name), weights.InputNormalization()))


def test_a_network_with_non_finite_values_is_not_written(tensors, tmp_path):
    key = "backbone.layer1.0.bn1.running_var"
    save_file(tensors | {key: tensors[key] * np.float32(np.nan)}, tmp_path / "in.safetensors", HERE)
    with pytest.raises(UserError, match=rf"in.safetensors: {key} has non-finite values: name weights"):
        run(tmp_path / "in.safetensors", output=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
