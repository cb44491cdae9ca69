"""Downloads Cityscapes with the user's account, by the downloader of the official package cityscapesScripts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from cpnet_jax.errors import UserError, reason

USERNAME, PASSWORD = "CITYSCAPES_USERNAME", "CITYSCAPES_PASSWORD"
LOGIN = "https://www.cityscapes-dataset.com/login"
# The downloader writes to a file of the final name, so it works in a folder apart.
UNFINISHED = ".unfinished"


def fetch(names: Sequence[str], folder: Path) -> None:
    """Downloads files into a folder; an interrupted download is continued. The package compares their checksums.

    Raises:
      UserError: if the account is not given or not accepted, the package is missing, or the download fails.
    """
    if not (os.environ.get(USERNAME) and os.environ.get(PASSWORD)):
        raise UserError(
            f"Cityscapes gives {' and '.join(names)} to registered users only: set the environment variables "
            f"{USERNAME} and {PASSWORD} (register at https://www.cityscapes-dataset.com/register), or download them "
            f"from https://www.cityscapes-dataset.com/downloads and put them into {folder}"
        )
    downloader = _downloader()
    (folder / UNFINISHED).mkdir(exist_ok=True)
    try:
        with requests.Session() as session:
            _log_in(session)
            for name in names:
                _download(downloader, session, folder / UNFINISHED / name)
                os.replace(folder / UNFINISHED / name, folder / name)
    except UserError:
        raise
    except Exception as error:  # the package raises plain Exceptions, also for a wrong checksum
        raise UserError(
            f"{' and '.join(names)} cannot be downloaded from cityscapes-dataset.com ({reason(error)}): run the same "
            f"command again, or download them from https://www.cityscapes-dataset.com/downloads and put them into "
            f"{folder}"
        ) from error


def _downloader() -> Any:
    try:
        from cityscapesscripts.download import downloader
    except ImportError as error:
        raise UserError(
            f"downloading Cityscapes needs the package cityscapesScripts ({error}): run `pip install cityscapesScripts`"
        ) from error
    return downloader


def _log_in(session: requests.Session) -> None:
    """Logs in as the package's own `login` does, which only takes a typed or a stored password."""
    session.get(LOGIN, allow_redirects=False, timeout=60).raise_for_status()
    fields = {"username": os.environ[USERNAME], "password": os.environ[PASSWORD], "submit": "Login"}
    answer = session.post(LOGIN, data=fields, allow_redirects=False, timeout=60)
    answer.raise_for_status()
    if answer.status_code != requests.codes.found:  # a successful login redirects
        raise UserError(f"cityscapes-dataset.com does not accept {USERNAME} and {PASSWORD}: correct them")


def _download(downloader: Any, session: requests.Session, path: Path) -> None:
    arguments = {"session": session, "package_names": [path.name], "destination_path": str(path.parent)}
    try:
        downloader.download_packages(**arguments, resume=path.exists())
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != requests.codes.requested_range_not_satisfiable:
            raise
        path.unlink()  # it has more bytes than the file, or all of them without a checked checksum
        downloader.download_packages(**arguments)
    except OSError:  # a lost connection, or a full disk
        raise
    except Exception:
        path.unlink(missing_ok=True)  # its checksum is wrong, so it must not be continued
        raise
