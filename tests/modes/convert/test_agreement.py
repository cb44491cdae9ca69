"""--mode=convert refuses a file that states another network or other classes than the config."""

import json

import jax
import numpy as np
import pytest
from converted_networks import CROP, HERE, config, run
from safetensors.numpy import save_file
from weights import key_lists

from configs import folder
from cpnet_jax import sharding, weights
from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import restore
from cpnet_jax.weights import agreement


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


def test_a_network_that_will_compute_in_bfloat16_is_noted(tensors, tmp_path, capsys):
    save_file(tensors, tmp_path / "cpnet.safetensors", HERE)
    fields = config()
    fields.model.bfloat16 = True
    run(tmp_path / "cpnet.safetensors", config=fields, workdir=tmp_path / "run")
    [note] = [line for line in capsys.readouterr().err.splitlines() if "bfloat16" in line]
    assert note.startswith("Note: ") and note.endswith("convert with --config.model.bfloat16=False")
