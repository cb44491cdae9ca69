"""--mode=convert: files to workdirs and back, and file to file."""

import errno
import json
import os
import shutil
from pathlib import Path

import forked_program
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from weights import key_lists

from configs import camvid, folder
from cpnet_jax import modes, sharding, weights
from cpnet_jax.config.same_run import as_dict, check_same_run
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import restore
from cpnet_jax.modes import convert as convert_mode
from cpnet_jax.modes.convert import convert
from cpnet_jax.training import checksums
from cpnet_jax.training.checkpoint import Checkpoints
from cpnet_jax.weights import agreement, tensor_files
from cpnet_jax.weights.convertible import check_convertible

CROP = (16, 24)


def config():
    fields = camvid.get_config()
    fields.data.crop_size = CROP
    fields.model.update(depth=18, stem="deep", channels=8, aux_channels=4)
    return fields


@pytest.fixture(scope="module")
def tensors():
    like = key_lists.cpnet(18, prior_size=(2, 3), num_classes=11, channels=8, aux_channels=4)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), like)
    return weights.cpnet_tensors(variables, batches_tracked=0)


def run(file=None, *, config=None, workdir=None, output=None, **normalization):
    convert(
        weights=file and str(file),
        config=config,
        workdir=workdir,
        output=output,
        checkpoint="latest",
        normalization={"order": None, "mean": None, "std": None} | normalization,
    )


@pytest.fixture(scope="module")
def converted(tensors, tmp_path_factory):
    """A file, and the workdir converted from it."""
    folder = tmp_path_factory.mktemp("converted")
    save_file(tensors, folder / "cpnet.safetensors", {"experiment": "lake"})
    run(folder / "cpnet.safetensors", config=config(), workdir=folder / "run")
    return folder / "cpnet.safetensors", folder / "run"


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


def test_a_workdir_with_checkpoints_is_not_overwritten(converted):
    file, workdir = converted
    with pytest.raises(UserError, match="has checkpoints already: name another"):
        run(file, config=config(), workdir=workdir)


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


# What a file states about its network

HERE = {"experiment": "lake"}


def save_torch(path, tensors, **meta):
    torch = pytest.importorskip("torch", reason="torch writes its own files")
    state = {key: torch.from_numpy(np.array(tensor)) for key, tensor in tensors.items()}
    torch.save({"meta": HERE | meta, "state_dict": state}, path)
    return path


def refusal(file, fields, workdir):
    with pytest.raises(UserError) as refused:
        run(file, config=fields, workdir=workdir)
    assert not workdir.exists()
    message = str(refused.value)
    assert "\n" not in message and "skip" not in message
    return message


def test_another_orientation_of_the_crop_is_refused(tensors, tmp_path):
    """Its context prior has the same number of positions."""
    save_file(tensors, tmp_path / "cpnet.safetensors", HERE | {"crop_size": "[24, 16]"})
    message = refusal(tmp_path / "cpnet.safetensors", config(), tmp_path / "run")
    assert message.endswith("config.data.crop_size is (16,24): set config.data.crop_size=(24,16)")
    fields = config()
    fields.data.crop_size = (24, 16)
    run(tmp_path / "cpnet.safetensors", config=fields, workdir=tmp_path / "run")


def test_a_prior_of_another_size_names_the_crops_that_fit(tensors, tmp_path):
    save_file(tensors, tmp_path / "cpnet.safetensors", HERE)
    fields = config()
    fields.data.crop_size = (32, 32)
    message = refusal(tmp_path / "cpnet.safetensors", fields, tmp_path / "run")
    assert "a context prior of 6 positions, and config.data.crop_size=(32,32) has 16" in message
    assert message.endswith(
        "set config.data.crop_size to height and width of the crop that it was trained with, (16,24) or (24,16)"
    )


@pytest.mark.parametrize(
    ("positions", "crops"),
    [
        (4096, [(512, 512)]),
        (96, [(64, 96), (96, 64), (48, 128), (128, 48)]),
        (13, [(8, 104), (104, 8)]),
    ],
)
def test_proposed_crops_have_the_priors_positions_and_are_not_too_long(positions, crops):
    assert agreement.crops_of(positions) == crops
    assert all(height * width == 64 * positions for height, width in crops)


def test_a_crop_that_may_be_turned_is_noted(tensors, tmp_path, capsys):
    save_file(tensors, tmp_path / "cpnet.safetensors", HERE)
    run(tmp_path / "cpnet.safetensors", config=config(), workdir=tmp_path / "run")
    [note] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note: ")]
    assert note.endswith("is assumed to be 16 high and 24 wide as in config.data.crop_size")


OTHER = tuple(f"thing {place}" for place in range(len(CAMVID.classes)))
MOVED = (CAMVID.classes[1], CAMVID.classes[0], *CAMVID.classes[2:])
RENAMED = ("firmament", *CAMVID.classes[1:])
RESPELLED = tuple(f"{name.upper().replace(' ', '_')} " for name in CAMVID.classes)


@pytest.mark.parametrize("meta", [lambda names: {"CLASSES": names}, lambda names: {"dataset_meta": {"classes": names}}])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (OTHER, f"has other classes than camvid (class 0 is 'thing 0' there and {CAMVID.classes[0]!r} here"),
        (MOVED, f"in another order (class 0 is {CAMVID.classes[1]!r} there and {CAMVID.classes[0]!r} here)"),
    ],
    ids=["other", "moved"],
)
def test_other_classes_and_another_order_of_them_are_refused(tensors, tmp_path, meta, names, said):
    file = save_torch(tmp_path / "cpnet.pth", tensors, **meta(names))
    message = refusal(file, config(), tmp_path / "run")
    assert said in message and "name the config of the dataset" in message


def test_classes_in_a_file_of_this_project_are_compared(tensors, tmp_path):
    normalization = weights.InputNormalization().as_metadata()
    save_file(tensors, tmp_path / "cpnet.safetensors", HERE | normalization | {"classes": json.dumps(OTHER)})
    assert "has other classes than camvid" in refusal(tmp_path / "cpnet.safetensors", config(), tmp_path / "run")


def test_own_classes_convert_when_the_class_file_lists_them(tensors, tmp_path):
    """The way out that the refusal names."""
    file = save_torch(tmp_path / "cpnet.pth", tensors, CLASSES=OTHER)
    fields = folder.get_config()
    fields.data.update(source=str(tmp_path), crop_size=CROP)
    fields.model.update(depth=18, stem="deep", channels=8, aux_channels=4)
    (tmp_path / "classes.txt").write_text("\n".join(OTHER))
    run(file, config=fields, workdir=tmp_path / "run")
    assert restore(tmp_path / "run", sharding.make_mesh()).dataset.classes == OTHER


@pytest.mark.parametrize(("names", "noted"), [(RESPELLED, False), (RENAMED, True)], ids=["respelled", "renamed"])
def test_another_spelling_is_accepted_and_a_few_other_names_are_noted(tensors, tmp_path, capsys, names, noted):
    file = save_torch(tmp_path / "cpnet.pth", tensors, CLASSES=names, crop_size=json.dumps(CROP))
    run(file, config=config(), workdir=tmp_path / "run")
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note: ")]
    assert len(notes) == noted
    assert not noted or f"(class 0 is 'firmament' there and {CAMVID.classes[0]!r} here)" in notes[0]


def test_another_number_of_classes_is_refused_with_both_numbers(tmp_path):
    like = key_lists.cpnet(18, prior_size=(2, 3), num_classes=7, channels=8, aux_channels=4)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), like)
    save_file(weights.cpnet_tensors(variables, batches_tracked=0), tmp_path / "cpnet.safetensors", HERE)
    with pytest.raises(UserError, match=rf"has 7 classes and camvid has {len(CAMVID.classes)}: name the config"):
        run(tmp_path / "cpnet.safetensors", config=config(), workdir=tmp_path / "run")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"), [(0, 4, "no auxiliary head"), (4, 0, "of 4 channels"), (4, 8, "of 4")]
)
def test_another_auxiliary_head_is_refused_with_the_field_to_set(tensors, tmp_path, theirs, ours, said):
    kept = {key: tensor for key, tensor in tensors.items() if theirs or not key.startswith("auxiliary_head.")}
    save_file(kept, tmp_path / "cpnet.safetensors", HERE)
    fields = config()
    fields.model.aux_channels = ours
    message = refusal(tmp_path / "cpnet.safetensors", fields, tmp_path / "run")
    assert said in message and message.endswith(f"set config.model.aux_channels={theirs}")
    fields.model.aux_channels = theirs
    run(tmp_path / "cpnet.safetensors", config=fields, workdir=tmp_path / "run")


def test_a_network_that_will_compute_in_bfloat16_is_noted(converted, tmp_path, capsys):
    fields = config()
    fields.model.bfloat16 = True
    run(converted[0], config=fields, workdir=tmp_path / "run")
    [note] = [line for line in capsys.readouterr().err.splitlines() if "bfloat16" in line]
    assert note.startswith("Note: ") and note.endswith("convert with --config.model.bfloat16=False")


def test_a_network_with_non_finite_values_is_not_written(tensors, tmp_path):
    key = "backbone.layer1.0.bn1.running_var"
    save_file(tensors | {key: tensors[key] * np.float32(np.nan)}, tmp_path / "in.safetensors", HERE)
    with pytest.raises(UserError, match=rf"in.safetensors: {key} has non-finite values: name weights"):
        run(tmp_path / "in.safetensors", output=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_program_ends_with_2_and_one_sentence_or_prints_notes(tensors, tmp_path):
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    save_file(tensors, tmp_path / "turned.ckpt", HERE | {"crop_size": "[24, 16]"})
    save_file(tensors, tmp_path / "good.ckpt", HERE)
    small = {"data.crop_size": "(16,24)", "model.depth": 18, "model.stem": "deep", "model.channels": 8,
             "model.aux_channels": 4, "system.compilation_cache": tmp_path / "programs"}  # fmt: skip
    flags = [
        "--mode=convert",
        "--config=configs/camvid.py",
        *(f"--config.{name}={value}" for name, value in small.items()),
    ]
    commands = [
        [*flags, f"--weights={tmp_path}/{file}", f"--workdir={tmp_path}/{file}-run"]
        for file in ("pointer.pth", "turned.ckpt", "good.ckpt")
    ]
    *refused, converted = forked_program.run_all(commands, os.environ)
    for ended in refused:
        assert ended.returncode == 2
        [line] = ended.stderr.splitlines()
        assert line.startswith("error: ")
    assert converted.returncode == 0
    [note] = converted.stderr.splitlines()
    assert note.startswith("Note: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"config": None}, "--config is missing"),
        ({"workdir": Path("x"), "output": Path("x.pth")}, "--output and --workdir both"),
        ({"output": Path("x.npz")}, "x.npz has an unknown suffix"),
        ({"output": Path("x.pth"), "std": (0.0, 1.0, 1.0)}, "--weights_std=0.0,1.0,1.0: each value must be positive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictory_arguments_are_refused(converted, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        run(converted[0], **{"config": config(), **arguments})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "--weights is missing"),
        (["--weights="], "--weights is missing"),
        (["--weights=x.pth", "--checkpoint=best"], "--checkpoint is given with --weights"),
        (["--weights_order=bgr"], "--weights_order is given without --weights"),
        (["--weights=x.pth", "--weights_mean=1,2"], "--weights_mean=1,2: give three numbers"),
        (["--weights=x.pth", "--weights_std=nan,1,1"], "--weights_std=nan,1,1: give three numbers"),
    ],
    ids=str,
)
def test_impossible_flags_are_refused(given, said):
    with flagsaver.flagsaver(), pytest.raises(UserError) as refused:
        flags.FLAGS(["main.py", *given])
        convert_mode.arguments(None, None)
    assert str(refused.value).startswith(said)


def test_other_modes_refuse_the_flags_of_convert():
    with flagsaver.flagsaver(), pytest.raises(UserError, match="--weights is given with --mode=train"):
        flags.FLAGS(["main.py", "--weights=x.pth"])
        modes.find("train")


def test_flags_become_arguments():
    with flagsaver.flagsaver():
        flags.FLAGS(["main.py", "--weights=x.pth", "--output=y.pt", "--weights_std=1,2,3.5", "--weights_order=bgr"])
        modes.find("convert")
        arguments = convert_mode.arguments(None, None)
    assert arguments["normalization"] == {"order": "bgr", "mean": None, "std": (1.0, 2.0, 3.5)}
    assert (arguments["weights"], arguments["output"], arguments["workdir"]) == ("x.pth", Path("y.pt"), None)
