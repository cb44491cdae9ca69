"""The key of stored programs holds every field that they depend on, and no field that people vary without effect."""

import jax
import numpy as np

from configs import quickstart
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.config.compiled_fields import OTHER_FIELDS, compiled_fields
from cpnet_jax.inference.network import compiled_network

ANOTHER = {
    "name": "another",
    "seed": 7,
    "eval_every": 11,
    "eval_every_epochs": 1.5,
    "checkpoint_every": 11,
    "checkpoint_every_epochs": 1.5,
    "data.dir": "elsewhere",
    "data.source": "elsewhere",
    "data.download": False,
    "data.train_split": "val",
    "data.eval_split": "train",
    "data.folder.masks": "elsewhere",
    "data.on_error": "skip",
    "data.scales": (1.0,),
    "data.flip_probability": 0.1,
    "data.cat_max_ratio": 0.5,
    "data.photometric_jitter": True,
    "data.class_uniform": True,
    "init.backbone": "elsewhere",
    "eval.class_names": (("auto", "car"),),
    "eval.windows": False,
    "eval.checkpoint": "best",
    "eval.multi_scale": True,
    "eval.scales": (1.0,),
    "eval.flip": False,
    "eval.overlap": "average",
    "eval.pictures": 1,
    "system.compilation_cache": "elsewhere",
    "system.data_cache": "elsewhere",
    "system.threads": 1,
    "system.workers": 1,
    "system.batches_ahead": 1,
    "system.log_every": 1,
    "system.profile_steps": "1:2",
}


def small():
    config = quickstart.get_config()
    config.model.channels = config.model.aux_channels = 8
    config.data.crop_size = (32, 32)
    return config


def changed():
    config = small()
    config.update_from_flattened_dict(ANOTHER)
    return config


def programs(config):
    """The training step and the evaluation's network, before compilation, as text."""
    mesh = sharding.make_mesh()
    state = jax.eval_shape(build.make_create_state(config))
    crop = tuple(config.data.crop_size)
    batch = {
        "image": jax.ShapeDtypeStruct((8, *crop, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((8, *crop), np.uint8),
    }
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    network = compiled_network(build.make_model(config), mesh, mean=config.data.mean, std=config.data.std)
    return (
        build.make_train_step(config, mesh).lower(state, batch).as_text(),
        network.lower(variables, batch["image"]).as_text(),
    )


def test_the_fields_outside_the_key_change_no_program(small_backbone):
    assert {name for name in OTHER_FIELDS if not any(field.startswith(name) for field in ANOTHER)} == set()
    assert compiled_fields(small()) == compiled_fields(changed())
    assert programs(small()) == programs(changed())


def test_all_other_fields_are_in_the_key():
    config = small()
    config.unlock()
    before = compiled_fields(config)
    config.optimizer.base_lr = 0.5
    config.mine = "a field of an extension"
    after = compiled_fields(config)
    assert {name for name in after if after[name] != before.get(name)} == {"optimizer.base_lr", "mine"}
