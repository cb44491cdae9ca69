"""--mode=demo: a local web page that predicts pictures with a trained network."""

import threading
from collections.abc import Callable
from pathlib import Path

from cpnet_jax import sharding
from cpnet_jax.demo.page import render
from cpnet_jax.demo.picture import make_predict
from cpnet_jax.demo.server import Server
from cpnet_jax.errors import UserError
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.modes import Call, flags
from cpnet_jax.modes.predict import OR_MODEL, load_model
from cpnet_jax.runtime.files import AnyPath


def demo(workdir: AnyPath | None, exported: AnyPath | None, checkpoint: str | int, port: int) -> Server:
    """Loads a network and starts to serve the page.

    Args:
      workdir, exported: location of the network; exactly one is given.
      checkpoint: "latest", "best" or a step of the workdir.
      port: of the page.

    Raises:
      UserError: if there is no network, Gradio is not installed, or the port is in use.
    """
    model = load_model(workdir, exported, checkpoint, sharding.make_mesh())
    return Server(_title(model), _show(model), port)


def _show(model: TrainedModel) -> Callable[[Path], str]:
    predict = make_predict(model, sharding.make_mesh())
    return lambda path: render(predict(path), model.dataset)


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
