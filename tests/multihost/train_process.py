"""One process of a training run:  python train_process.py FOLDER INDEX COUNT PORT

Trains on the data that `test_layouts` made in FOLDER, with 4 virtual CPU devices, and saves metrics and states.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from small_main import BLOCKS

from cpnet_jax.models import resnet
from cpnet_jax.modes.experiment import Experiment
from cpnet_jax.runtime import distributed
from cpnet_jax.training.checkpoint import Checkpoints

DEVICES, STEPS, SAVED = 4, 20, 10


def get_config(folder: Path):
    """A CPNet small enough, with a learning rate low enough, to compare losses after many steps."""
    from configs import camvid

    config = camvid.get_config()
    config.data.source = str(folder / "camvid")
    config.data.dir = str(folder / "data")
    config.data.crop_size = (16, 24)
    config.system.compilation_cache = ""
    config.batch_size = 8
    config.total_steps = STEPS
    config.model.depth = 18
    config.model.channels = 16
    config.model.aux_channels = 8
    config.model.dropout = 0.5
    config.model.bfloat16 = False
    config.optimizer.base_lr = 1e-4
    config.optimizer.warmup_steps = 0
    return config


class Trainer:
    """Trains without logs and evaluation."""

    def __init__(self, folder: Path) -> None:
        self._experiment = Experiment(get_config(folder))
        # Two blocks, since compilation takes most of the time.
        resnet.STAGE_SIZES[10] = BLOCKS
        self._experiment.model = self._experiment.model.clone(depth=10)
        self._step = self._experiment.train_step()

    def train(self, checkpoints: Path, *, resume: Path | None = None):
        """Trains from step 0, saving at step SAVED, or from SAVED; returns all metrics and the final state."""
        start, state = 0, None
        if resume:
            with Checkpoints(resume) as saved:
                state, start = saved.restore(SAVED, self._experiment.abstract_state())
        state = state or self._experiment.initial_state()
        history = []
        with self._experiment.train_stream(start) as stream:
            for step in range(start, STEPS):
                if step == SAVED and not resume:
                    with Checkpoints(checkpoints) as saved:
                        saved.save(step, state, position=stream.position, config={}, miou=None)
                state, metrics = self._step(state, next(stream))
                history.append({name: float(value) for name, value in metrics.items()})
        return history, jax.device_get(state)


def save_result(path: Path, found) -> None:
    """Saves the result of `Trainer.train`."""
    history, state = found
    path.with_suffix(".json").write_text(json.dumps(history))
    np.savez(path.with_suffix(".npz"), *jax.tree.leaves(state))


def main(folder: str, index: str, count: str, port: str) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES)
    distributed.start(f"localhost:{port}", int(count), int(index))
    root = Path(folder)
    out = root / f"process_{index}"
    trainer = Trainer(root)
    # Gloo gives up if a process reaches the first step 30 seconds after another, as compiling on few cores may make it.
    (out / "compiled").touch()
    while not all((root / f"process_{other}" / "compiled").exists() for other in range(int(count))):
        time.sleep(0.1)
    save_result(out / "straight", trainer.train(root / "two_processes"))
    save_result(out / "resumed", trainer.train(root, resume=root / "two_processes"))
    save_result(out / "from_eight_devices", trainer.train(root, resume=root / "eight_devices"))


if __name__ == "__main__":
    main(*sys.argv[1:])
