"""Checkpoints: state + data position + config, one atomic thing. Nobody else knows Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from cpnet_jax import files

METRIC = "mIoU"


def _miou(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


class Checkpoints:
    """The checkpoints of a workdir: the newest, and the best by validation mIoU.

    Saving is asynchronous: training goes on while the files are written; a checkpoint appears under its final name only
    when it is whole.
    """

    def __init__(self, directory: Path) -> None:
        best = preservation.BestN(get_metric_fn=_miou, n=1, keep_checkpoints_without_metrics=False)
        keep = preservation.AnyPreservationPolicy([preservation.LatestN(1), best])
        self._manager = ocp.CheckpointManager(
            files.absolute(directory),
            # Without best_fn Orbax does not write the metrics, and a resumed run would forget what was best.
            options=ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=_miou),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the write in progress."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Of every whole checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the highest mIoU; the newest step where none was evaluated."""
        metrics = {step: self._manager.metrics(step) for step in self.steps()}
        scored = {step: _miou(found) for step, found in metrics.items() if found}
        return max(scored, key=scored.get) if scored else self.latest()

    def save(self, step: int, state: PyTree, *, position: int, config: dict[str, Any], miou: float | None) -> None:
        """Args: position: global batches taken from the training stream; miou: if the step was evaluated."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave({"position": position}),
                config=ocp.args.JsonSave(config),
            ),
            metrics=None if miou is None else {METRIC: miou},
            force=True,
        )

    def config(self, step: int) -> dict[str, Any]:
        """The resolved config that a checkpoint was trained with."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]

    def restore_as_saved(self, step: int) -> dict[str, Any]:
        """The state as nested dicts of arrays on the default device, for whoever wants to look into a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, int]:
        """(state, data position). `like` has the shapes, dtypes and shardings wanted."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
        )
        return restored["state"], restored["data"]["position"]
