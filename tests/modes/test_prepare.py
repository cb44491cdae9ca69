"""--mode=prepare ends with records that the next command can train on, or says why not."""

import numpy as np
import pytest
from raw_data import save

from configs import default
from cpnet_jax.errors import UserError
from cpnet_jax.modes.prepare import prepare


def config_for(root, *, train=(0, 1), val=(0, 1), **fields):
    """A folder with one image in each split, whose mask has the values `train` and `val`."""
    for split, values in (("train", train), ("val", val)):
        save(root / "own" / "images" / split / f"{split}.png", np.zeros((8, 16, 3), np.uint8))
        save(root / "own" / "masks" / split / f"{split}.png", np.array(values, np.uint8).repeat(64).reshape(8, 16))
    (root / "own" / "classes.txt").write_text("sky\nsea\nland\n")
    config = default.get_config()
    fields |= {"data.name": "folder", "data.source": str(root / "own"), "data.dir": str(root), "data.num_classes": 0}
    config.update_from_flattened_dict(fields)
    return config


def test_records_that_can_be_trained_on_are_announced(tmp_path, capsys):
    prepare(config_for(tmp_path))
    assert "is ready in" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_refused(tmp_path, split):
    with pytest.raises(UserError, match=f"every pixel of split '{split}' of folder is ignored"):
        prepare(config_for(tmp_path, **{split: (255, 255)}))


def test_a_training_split_of_one_class_is_noted(tmp_path, capsys):
    prepare(config_for(tmp_path, train=(255, 2)))
    assert "Note: split 'train' of folder shows no other class than 'land'\n" in capsys.readouterr().out


@pytest.mark.parametrize("field", ["data.train_split", "data.eval_split"])
def test_a_split_that_does_not_exist_is_refused(tmp_path, field):
    with pytest.raises(UserError, match=r"has no split 'trian': set config\.data\.train_split or eval_split"):
        prepare(config_for(tmp_path, **{field: "trian"}))
