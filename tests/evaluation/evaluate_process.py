"""One process of an evaluation:  python evaluate_process.py FOLDER WORKDIR INDEX COUNT PORT

Evaluates a workdir made by `test_processes` in FOLDER, with 4 virtual CPU devices over all COUNT processes.
"""

import sys
from pathlib import Path

import jax
from small_main import use_small_backbone

DEVICES = 4


def get_config(folder: Path):
    """The config of a tiny CPNet for images in CamVid's layout."""
    from configs import camvid

    config = camvid.get_config()
    config.data.source = str(folder / "camvid")
    config.data.dir = str(folder / "data")
    config.data.crop_size = (32, 48)
    config.system.compilation_cache = ""
    config.batch_size = 8
    config.model.channels = 16
    config.model.aux_channels = 0
    config.model.bfloat16 = False
    config.eval.batch_size = 2
    config.eval.pictures = 2
    return config


def main(folder: str, workdir: str, index: str, count: str, port: str) -> None:
    use_small_backbone()
    jax.config.update("jax_num_cpu_devices", DEVICES // int(count))
    if count != "1":
        jax.distributed.initialize(f"localhost:{port}", int(count), int(index))
    from cpnet_jax.modes.evaluate import evaluate_workdir

    evaluate_workdir(get_config(Path(folder)), Path(workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
