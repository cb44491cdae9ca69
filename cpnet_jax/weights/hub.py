"""Files on the Hugging Face hub: hf://ORG/MODEL[@REVISION][/FILE]. They are kept in the hub's own cache."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from cpnet_jax.errors import UserError

PREFIX = "hf://"
FILE = "model.safetensors"
# What timm writes beside the weights: mean and standard deviation of the images, among others.
CARD = "config.json"
URI = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")


def fetch(uri: str) -> tuple[Path, Path | None]:
    """The file and its model's CARD, which not every model has.

    The hub is asked only for what the cache does not hold.

    Raises:
      UserError: on an address of another form, a file that does not exist, or a hub that cannot be reached.
    """
    match = URI.fullmatch(uri)
    if not match:
        raise UserError(f"{uri} is no address on the hub: write hf://ORG/MODEL or hf://ORG/MODEL/FILE")
    # A hub that cannot be reached is told once, by us, and not at every try.
    huggingface_hub.logging.set_verbosity_error()
    file = match["file"] or FILE
    get = partial(_get, repo_id=match["repo"], revision=match["revision"])
    try:
        # First, so that nobody can have the file and, the connection lost, not know what images it expects.
        card, reached = get(filename=str(Path(file).with_name(CARD)))
        path, _ = get(filename=file, reachable=reached)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = (str(error).splitlines() or [""])[-1]
        raise UserError(f"{uri} cannot be had ({type(error).__name__}: {reason}): look it up on the hub") from error
    if path is None and reached:
        raise UserError(f"{uri}: the hub's {match['repo']} has no {file}: name the file, hf://{match['repo']}/FILE")
    if path is None:
        url = huggingface_hub.hf_hub_url(match["repo"], file, revision=match["revision"])
        raise UserError(
            f"{uri} is not in the cache and the hub cannot be reached: fetch {url} elsewhere and name the file instead"
        )
    return path, card


def _get(*, reachable: bool = True, **what: Any) -> tuple[Path | None, bool]:
    """A file, None where there is none, and whether the hub could be reached, as far as that was tried."""
    try:
        return Path(huggingface_hub.hf_hub_download(local_files_only=True, **what)), True
    except errors.LocalEntryNotFoundError:
        if not reachable:
            return None, False
    print(f"{what['filename']} of {what['repo_id']} is not in the cache: asking the hub", file=sys.stderr, flush=True)
    try:
        return Path(huggingface_hub.hf_hub_download(**what)), True
    except errors.LocalEntryNotFoundError:
        return None, False
    except errors.EntryNotFoundError:
        return None, True
