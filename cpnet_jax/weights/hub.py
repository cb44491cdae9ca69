"""Downloads files from the Hugging Face hub, hf://ORG/MODEL[@REVISION][/FILE], into its usual cache."""

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
# timm stores the images' mean and standard deviation in it.
CARD = "config.json"
URI = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")


def fetch(uri: str) -> tuple[Path, Path | None]:
    """Returns the paths of a file and of its model's CARD (None if the model has none).

    The hub is asked only for files that are not in the cache.

    Raises:
      UserError: if the address has another form, the file does not exist, or the hub cannot be reached.
    """
    match = URI.fullmatch(uri)
    if not match:
        raise UserError(f"{uri} is not an address on the Hugging Face hub: write hf://ORG/MODEL or hf://ORG/MODEL/FILE")
    # The error below reports an unreachable hub once; its client would log every retry.
    huggingface_hub.logging.set_verbosity_error()
    file = match["file"] or FILE
    get = partial(_get, repo_id=match["repo"], revision=match["revision"])
    try:
        # The card first: if the connection drops, no cached file is left whose normalisation is unknown.
        card, reached = get(filename=str(Path(file).with_name(CARD)))
        path, _ = get(filename=file, reachable=reached)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = (str(error).splitlines() or [""])[-1]
        raise UserError(
            f"{uri} cannot be downloaded ({type(error).__name__}: {reason}): check the name on huggingface.co"
        ) from error
    if path is None and reached:
        raise UserError(
            f"{uri}: {match['repo']} has no file {file} on the hub: name one that it has, hf://{match['repo']}/FILE"
        )
    if path is None:
        url = huggingface_hub.hf_hub_url(match["repo"], file, revision=match["revision"])
        raise UserError(
            f"{uri} is not in the cache and the hub cannot be reached: download {url} on another machine, copy it here "
            "and name the copy"
        )
    return path, card


def _get(*, reachable: bool = True, **what: Any) -> tuple[Path | None, bool]:
    """Returns a file's path (None if it was not found) and whether the hub could be reached, if it was asked."""
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
