"""From a mode's name to what it does. Each is imported when asked for: none waits for what it does not use."""

from pathlib import Path

import ml_collections

from cpnet_jax.modes import flags
from cpnet_jax.runtime.signals import Stop


def run(mode: str, config: ml_collections.ConfigDict | None, workdir: Path | None, stop: Stop) -> None:
    """Does what `mode` says.

    Args:
      config: of --config; None where the mode works without one and none is given.
      workdir: of --workdir or the config's name; None likewise.
      stop: how a training learns that it is to stop.
    """
    if mode == "train":
        from cpnet_jax.training.loop import train

        train(config, workdir, stop)
    elif mode == "eval":
        from cpnet_jax.modes.evaluate import evaluate_workdir

        evaluate_workdir(flags.apply_to_evaluation(config), workdir)
    elif mode == "predict":
        from cpnet_jax.modes.predict import predict

        predict(**flags.predict_arguments(config, workdir))
    elif mode == "export":
        from cpnet_jax.modes.export import export_workdir

        export_workdir(**flags.export_arguments(config, workdir))
    elif mode == "convert":
        from cpnet_jax.modes.convert import convert

        convert(**flags.convert_arguments(config, workdir))
    elif mode == "check_submission":
        from cpnet_jax.modes.check_submission import check_submission

        check_submission(**flags.submission_arguments())
    elif mode == "plan":
        from cpnet_jax.modes.plan import plan

        plan(config, **flags.plan_arguments())
    elif mode == "prepare":
        from cpnet_jax.modes.prepare import prepare

        prepare(config)
    else:
        from cpnet_jax.modes.check_data import check_data

        check_data(config, workdir)
