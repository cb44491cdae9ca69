"""Evaluation takes any labelled images, and never silently those that the network was trained on."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from raw_data import pack, save

from configs import default
from cpnet_jax.data import builders
from cpnet_jax.data.catalog import ADE20K, CAMVID, FolderLayout
from cpnet_jax.data.records import fingerprint
from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.data import open_data

NAMES = ("sky", "road", "tree")


def write(root: Path, *splits: str, count: int = 4, classes=NAMES) -> Path:
    """Writes `count` pairs of each split; "" stands for no split folder."""
    for split in splits:
        for index in range(count):
            rng = np.random.default_rng([index, len(split)])
            name = f"{split}/{split or 'a'}{index}.png".lstrip("/")
            save(root / "images" / name, rng.integers(0, 256, (10, 14, 3)).astype(np.uint8))
            save(root / "masks" / name, rng.integers(0, 3, (10, 14)).astype(np.uint8))
    (root / "classes.txt").write_text("\n".join(classes))
    return root


def config_for(data_dir: Path, source: Path | str, **fields):
    config = default.get_config()
    config.update_from_flattened_dict({"data.name": "folder", "data.source": str(source), "data.dir": str(data_dir)})
    config.update_from_flattened_dict(fields)
    return config


def network_of(config):
    """The classes of the data that a config names, as those of a network."""
    return builders.describe_folder(config.data.source, FolderLayout())


def trained_on(config):
    """The description of a run on the data of a config."""
    dataset = network_of(config)
    builder = builders.prepare(dataset, config.data.dir, config.data.source)
    run = config.copy_and_resolve_references()
    with run.unlocked():
        run.trained_on = {
            "fingerprint": fingerprint(builders.records(builder, "train")),
            "classes": list(dataset.classes),
        }
    return run, dataset


def ids(data) -> set[str]:
    return {data.decode(data.records[place])["id"] for place in range(len(data.records))}


NETWORK = CAMVID  # it knows sky, road and tree


@pytest.mark.parametrize(
    ("splits", "evaluated", "count"),
    [(("test",), "test", 4), (("val",), "val", 4), (("",), "train+val", 4), (("train", "val"), "val", 4)]
    + [(("train", "test"), "test", 4), (("train",), "train+val", 4), (("val", "test"), "val", 4)],
)
def test_what_the_makers_held_out_is_evaluated_or_else_every_image(splits, evaluated, count, tmp_path):
    data = open_data(config_for(tmp_path / "data", write(tmp_path / "new", *splits)), NETWORK)
    assert data.split == evaluated and len(ids(data)) == count
    assert any("all its 4 images" in note for note in data.notes) == ("+" in evaluated)


def test_a_single_image_is_evaluated(tmp_path):
    data = open_data(config_for(tmp_path / "data", write(tmp_path / "new", "", count=1)), NETWORK)
    assert ids(data) == {"a0"}


@pytest.mark.parametrize("split", ["train", "val", "test", "train+val", "val+test"])
def test_any_split_can_be_named(split, tmp_path):
    source = write(tmp_path / "new", "train", "val", "test")
    data = open_data(config_for(tmp_path / "data", source, **{"data.eval_split": split}), NETWORK)
    assert {name.split("/")[0] for name in ids(data)} == set(split.split("+"))


def test_a_split_that_the_data_do_not_have_is_named_with_the_field_and_those_that_they_have(tmp_path):
    source = write(tmp_path / "new", "test")
    with pytest.raises(UserError, match=r"no split 'val': set config.data.* eval_split.* to one of \['test'\]"):
        open_data(config_for(tmp_path / "data", source, **{"data.eval_split": "val"}), NETWORK)


def test_a_table_of_pairs_and_an_archive_are_evaluated(tmp_path):
    source = write(tmp_path / "new", "")
    rows = [f"images/a{index}.png,masks/a{index}.png,test" for index in range(3)]
    (source / "pairs.csv").write_text("\n".join(["image,mask,split", *rows]))
    data = open_data(config_for(tmp_path / "data", source, **{"data.folder.pairs": "pairs.csv"}), NETWORK)
    assert data.split == "test" and len(ids(data)) == 3
    archive = pack(write(tmp_path / "other", "test"), tmp_path / "other.zip")
    assert len(ids(open_data(config_for(tmp_path / "data", archive), NETWORK))) == 4


@pytest.mark.parametrize("splits", [("",), ("test",)])
def test_prepared_data_are_evaluated_without_their_source(splits, tmp_path):
    source = write(tmp_path / "new", *splits)
    first = open_data(config_for(tmp_path / "data", source), NETWORK)
    shutil.rmtree(source)
    one = next(tmp_path.glob("data/**/folder/*"))
    for folder, named in ((tmp_path / "data", ""), (one.parent, ""), (one, ""), (tmp_path / "data", source)):
        again = open_data(config_for(folder, named), NETWORK)
        assert ids(again) == ids(first) and again.name == first.name
    with pytest.raises(UserError, match=r"nowhere, which does not exist, and .*data holds no prepared folder of it"):
        open_data(config_for(tmp_path / "data", tmp_path / "nowhere"), NETWORK)


def test_one_of_several_prepared_folders_must_be_named(tmp_path):
    for name in ("one", "two"):
        open_data(config_for(tmp_path / "data", write(tmp_path / name, "")), NETWORK)
    with pytest.raises(UserError) as caught:
        open_data(config_for(tmp_path / "data", ""), NETWORK)
    advised = str(caught.value).rsplit(" ", 1)[1]
    assert open_data(config_for(Path(advised), ""), NETWORK).split == "train+val"
    with pytest.raises(UserError, match="holds no prepared folder"):
        open_data(config_for(tmp_path / "nothing", ""), NETWORK)


def test_a_run_is_evaluated_on_its_own_split_of_its_own_data_wherever_they_are_now(tmp_path):
    config = config_for(tmp_path / "data", write(tmp_path / "own", "", count=20))
    run, network = trained_on(config)
    moved = shutil.copytree(tmp_path / "own", tmp_path / "moved")
    for source in (tmp_path / "own", moved):
        data = open_data(config_for(tmp_path / "new_data", source), network, run)
        assert data.split == "val" and not data.name and not data.notes and not data.settings
    other = open_data(config_for(tmp_path / "data", moved, **{"data.eval_split": "train"}), network, run)
    assert other.split == "train" and other.name.startswith("moved-train-")


def test_images_trained_on_are_not_evaluated_after_others_were_added_to_their_folder(tmp_path):
    config = config_for(tmp_path / "data", write(tmp_path / "own", "", count=20))
    run, network = trained_on(config)
    seen = ids(open_data(config_for(tmp_path / "data", tmp_path / "own", **{"data.eval_split": "train"}), network, run))
    write(tmp_path / "own", "", count=25)
    data = open_data(config_for(tmp_path / "new_data", tmp_path / "own"), network, run)
    assert data.name and data.split == "val" and not ids(data) & seen


def test_the_same_data_have_the_same_name_and_other_data_another(tmp_path):
    def name(source, data_dir="data", **fields):
        return open_data(config_for(tmp_path / data_dir, source, **fields), NETWORK).name

    source = write(tmp_path / "new photos", "val", "test")
    usual = name(source)
    assert usual.startswith("new_photos-val-") and usual == name(source) == name(source, "elsewhere")
    assert name(source, **{"data.eval_split": "test"}).startswith("new_photos-test-")
    darker = shutil.copytree(source, tmp_path / "dark" / "new photos")
    save(darker / "images" / "val" / "val0.png", np.zeros((10, 14, 3), np.uint8))
    assert name(darker) != usual, "the same labels, other images"


def test_nothing_is_prepared_if_no_class_is_known(tmp_path):
    source = write(tmp_path / "new", "val", classes=("cat", "dog", "cow"))
    with pytest.raises(UserError, match="no name in common"):
        open_data(config_for(tmp_path / "data", source), NETWORK)
    assert not (tmp_path / "data").exists()


def test_images_of_more_bits_that_are_scaled_otherwise_than_those_trained_on_are_noted(tmp_path):
    source = write(tmp_path / "new", "val")
    for path in source.glob("images/val/*"):
        cv2.imwrite(str(path), np.full((10, 14), 900, np.uint16))
    config = config_for(tmp_path / "data", source)
    [note] = open_data(config, NETWORK, value_range=(0, 4095)).notes[-1:]
    assert note.startswith("Note: ") and "(0, 1023)" in note and "(0, 4095)" in note
    fields = {"data.folder.value_range": (0.0, 4095.0)}
    alike = open_data(config_for(tmp_path / "data", source, **fields), NETWORK, value_range=(0, 4095))
    assert not any("bits" in note for note in alike.notes)


def test_classes_of_the_data_that_the_network_does_not_know_are_ignored_and_said(tmp_path):
    source = write(tmp_path / "new", "val", classes=("road", "lake", "sky"))
    data = open_data(config_for(tmp_path / "data", source), NETWORK)
    example = data.decode(data.records[0])
    assert set(np.unique(example["label"])) == {CAMVID.classes.index("road"), CAMVID.classes.index("sky"), 255}
    assert data.settings["ignored_classes"] == ["lake"] and "lake" in data.notes[0]
    assert data.dataset.classes == NETWORK.classes and data.dataset.name == "folder"


def write_ade20k(root: Path, *folders: str) -> Path:
    for folder in folders:
        for index in range(3):
            save(root / "images" / folder / f"{folder}_{index}.jpg", np.zeros((10, 14, 3), np.uint8))
            save(root / "annotations" / folder / f"{folder}_{index}.png", np.ones((10, 14), np.uint8))
    return root


def write_camvid(root: Path, *folders: str) -> Path:
    for folder in folders:
        for index in range(3):
            save(root / folder / f"{index}.png", np.zeros((10, 14, 3), np.uint8))
            save(root / f"{folder}annot" / f"{index}.png", np.ones((10, 14), np.uint8))
    return root


VAL_ALONE = [(ADE20K, write_ade20k, "validation"), (CAMVID, write_camvid, "val"), (CAMVID, write_camvid, "test")]


@pytest.mark.parametrize(("dataset", "write", "folder"), VAL_ALONE)
def test_one_split_of_a_published_dataset_is_enough_to_evaluate_but_not_to_train(dataset, write, folder, tmp_path):
    source = write(tmp_path / "raw", folder)
    named = {"data.name": dataset.name}
    data = open_data(config_for(tmp_path / "data", source, **named), dataset)
    assert folder.startswith(data.split) and len(ids(data)) == 3
    with pytest.raises(UserError, match="train"):
        builders.prepare(dataset, tmp_path / "data", source)
    assert len(open_data(config_for(tmp_path / "data", "", **named), dataset).records) == 3


def test_data_prepared_for_evaluation_are_not_taken_for_a_dataset_to_train_on(tmp_path):
    source = write_ade20k(tmp_path / "raw", "validation")
    open_data(config_for(tmp_path / "data", source, **{"data.name": "ade20k"}), ADE20K)
    write_ade20k(source, "training")
    builder = builders.prepare(ADE20K, tmp_path / "data", source)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 3, "val": 3}


def test_training_on_a_folder_that_has_only_a_test_split_says_what_is_missing(tmp_path):
    source = write(tmp_path / "new", "test")
    config = config_for(tmp_path / "data", source)
    open_data(config, NETWORK)
    with pytest.raises(UserError, match="only test images: add images to train on, or evaluate"):
        builders.prepare(network_of(config), config.data.dir, source)
