"""Serves the page with Gradio, to this machine only; nothing is sent anywhere else."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cpnet_jax.demo.picture import LARGEST_FILE
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.standard_streams import printable

ADDRESS = "127.0.0.1"
NAMES = [ADDRESS, "localhost"]
# What browsers may load for the page. Gradio's own scripts need eval, and its styles are inline.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; form-action 'self'; "
    "base-uri 'self'; frame-ancestors 'none'"
)
FRAME = Markup('<iframe title="Prediction" style="width: 100%; height: 40rem; border: 0" srcdoc="{}"></iframe>')
FAULT = Markup('<p class="error" role="alert">{}</p>')
# Seconds after which Gradio deletes files that it still holds.
KEPT_SECONDS = 60
WAITING_PICTURES = 8


class Server:
    """The page at http://127.0.0.1:PORT. Uploads are deleted when they have been read; `close` deletes the rest.

    Args:
      title: the network and its data, for people.
      show: maps an uploaded file to the document that shows its prediction; raises UserError.
      port: the local port.

    Raises:
      UserError: if Gradio is not installed, or the port is in use.
    """

    def __init__(self, title: str, show: Callable[[Path], str], port: int) -> None:
        self._uploads = tempfile.mkdtemp(prefix="cpnet_demo_")
        gradio = _import_gradio(self._uploads)
        self._show = show
        with gradio.Blocks(title=printable(title), analytics_enabled=False, delete_cache=(KEPT_SECONDS,) * 2) as page:
            gradio.HTML(Markup("<h1>{}</h1>").format(printable(title)))
            upload = gradio.File(label="An image file: JPEG, PNG, WebP, BMP, TIFF or GIF", elem_id="upload", height=140)
            result = gradio.HTML(elem_id="result")
            upload.upload(self._answer, upload, [upload, result], concurrency_limit=1, api_visibility="private")
        page.queue(max_size=WAITING_PICTURES)
        _, self.url, _ = page.launch(
            server_name=ADDRESS,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=LARGEST_FILE,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            app_kwargs={"middleware": _middleware()},
        )

    def close(self) -> None:
        """Deletes the folder of uploads."""
        shutil.rmtree(self._uploads, ignore_errors=True)

    def _answer(self, upload: str | None) -> tuple[None, str]:
        """The new contents of the page: an empty drop zone, and the result or what is wrong with the file."""
        if upload is None:
            return None, ""
        path = Path(upload)
        try:
            document = self._show(path)
        except (UserError, OSError) as error:
            return None, FAULT.format(printable(str(error)))
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)  # Gradio gives each upload its own folder
        return None, FRAME.format(document)


def check_port(port: int) -> None:
    """Raises UserError if a local port cannot be used."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((ADDRESS, port))
        except OSError as error:
            raise UserError(
                f"--port is {port}, which cannot be used ({error.strerror}): name another one, for example "
                f"--port={port % 65535 + 1 if port >= 1024 else 7860}"
            ) from error


def _import_gradio(uploads: str) -> Any:
    # Gradio reads these when it is imported.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": uploads}
    # Gradio asks its own page whether it is there: not through a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join([*filter(None, [os.environ.get("NO_PROXY")]), *NAMES])
    try:
        import gradio
    except ImportError as error:
        shutil.rmtree(uploads)
        raise UserError(
            "--mode=demo needs the package gradio, which is not installed: run `pip install gradio`"
        ) from error
    return gradio


def _middleware() -> list[Any]:
    """Refuses other host names, with which other sites could reach the page, and forbids the page to load from them."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return [Middleware(TrustedHostMiddleware, allowed_hosts=NAMES), Middleware(_WithPolicy)]


class _WithPolicy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy)
