"""--mode=demo: a local web page that predicts pictures with a trained network."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cpnet_jax import sharding
from cpnet_jax.config.check import check_config
from cpnet_jax.demo.page import render
from cpnet_jax.demo.picture import Prediction, make_predict
from cpnet_jax.demo.prior import Touchable, make_prior
from cpnet_jax.demo.server import Server, check_port
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import restore, trained_model
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.modes import Call, flags
from cpnet_jax.modes.predict import OR_MODEL
from cpnet_jax.runtime.files import AnyPath


def demo(
    workdir: Any,
    exported: AnyPath | None,
    checkpoint: str | int,
    port: int,
    settings: Mapping[str, Any] | None = None,
) -> Server:
    """Loads a network and starts to serve the page.

    Args:
      workdir, exported: location of the network; exactly one is given.
      checkpoint: "latest", "best" or a step of the workdir.
      port: of the page.
      settings: config.eval of the config given by flags; None: the settings stored with the network.

    Raises:
      UserError: if the network is missing, Gradio is not installed, or the port is in use.
    """
    check_port(port)
    mesh = sharding.make_mesh()
    if exported is not None:
        from cpnet_jax.inference.export import load_exported

        model, prior, without_prior = load_exported(exported, mesh), None, "An exported file gives no context prior."
    else:
        found = restore(workdir, mesh, checkpoint)
        model = trained_model(found, workdir, mesh)
        prior = make_prior(found, mesh) if found.config.model.context_prior else None
        without_prior = "This network has no context prior."
    return Server(_title(model), _show(model, make_predict(model, mesh, settings), prior, without_prior), port)


def _show(
    model: TrainedModel,
    predict: Callable[[Path], Prediction],
    prior: Callable[[Prediction], Touchable] | None,
    without_prior: str,
) -> Callable[[Path], str]:
    def show(path: Path) -> str:
        prediction = predict(path)
        touched = None if prior is None else prior(prediction)
        return render(prediction, model.dataset, touched, without_prior)

    return show


def _title(model: TrainedModel) -> str:
    origin = model.origin
    return (
        f"{origin['experiment']}, step {origin['step']}: {len(model.dataset.classes)} classes of {model.dataset.name}"
    )


def run(call: Call) -> None:
    config = call.config
    if config is not None:
        check_config(config)
    if flags.MODEL.value and call.workdir:
        raise UserError("--model and --workdir both name a network: give one of them")
    exported = flags.exported_network()
    workdir = None if exported else flags.workdir_of(config, call.workdir, alternative=OR_MODEL)
    settings = config and config.eval.to_dict()
    server = demo(workdir, exported, flags.checkpoint_of(config), flags.PORT.value, settings)
    call.stop.before_exit(server.close)
    print(
        f"{server.url} shows the page, to this machine only. The first picture compiles. Press Ctrl-C to stop.",
        flush=True,
    )
    threading.Event().wait()
