"""All processes start from a pretrained backbone that only the first host has."""

import json

import numpy as np
from flax.traverse_util import flatten_dict
from multihost import backbone_process
from multihost.processes import run_processes

from cpnet_jax.weights import layouts, tensor_files
from cpnet_jax.weights.convert import to_tensors


def test_a_backbone_on_the_first_host_is_what_every_process_starts_from(tmp_path):
    rng = np.random.default_rng(0)
    shapes = flatten_dict(backbone_process.backbone_shapes(), sep="/")
    variables = {path: rng.random(leaf.shape, np.float32) for path, leaf in shapes.items()}
    tensors = to_tensors(variables, layouts.TORCHVISION, batches_tracked=1)
    folders = [tmp_path / f"process_{index}" for index in range(2)]
    for folder in folders:
        folder.mkdir()
    tensor_files.write(folders[0] / "resnet18.safetensors", tensors, {})

    run_processes(backbone_process.__file__, tmp_path)
    for folder in folders:
        found = np.load(folder / "variables.npz")
        assert set(found) == set(variables)
        assert all(np.array_equal(found[path], variables[path]) for path in variables), folder
        assert json.loads((folder / "lines.json").read_text())[0].startswith(f"{len(variables)} tensors are from")
        assert "absent.safetensors is not a file" in (folder / "refused.txt").read_text(), (
            "every process raises instead of waiting"
        )
