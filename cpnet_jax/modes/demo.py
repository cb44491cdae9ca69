"""--mode=demo: a local web page that predicts pictures with a trained network."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from cpnet_jax import sharding
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


def demo(workdir: Any, exported: AnyPath | None, checkpoint: str | int, port: int) -> Server:
    """Loads a network and starts to serve the page.

    Args:
      workdir, exported: location of the network; exactly one is given.
      checkpoint: "latest", "best" or a step of the workdir.
      port: of the page.

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
    return Server(_title(model), _show(model, mesh, prior, without_prior), port)


def _show(
    model: TrainedModel, mesh: Mesh, prior: Callable[[Prediction], Touchable] | None, without_prior: str
) -> Callable[[Path], str]:
    predict = make_predict(model, mesh)

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
    if flags.MODEL.value and call.workdir:
        raise UserError("--model and --workdir both name a network: give one of them")
    exported = flags.local_path(flags.MODEL)
    workdir = None if exported else flags.workdir_of(call.config, call.workdir, alternative=OR_MODEL)
    server = demo(workdir, exported, flags.checkpoint_of(call.config), flags.PORT.value)
    call.stop.before_exit(server.close)
    print(
        f"{server.url} shows the page, to this machine only. The first picture compiles. Press Ctrl-C to stop.",
        flush=True,
    )
    threading.Event().wait()
