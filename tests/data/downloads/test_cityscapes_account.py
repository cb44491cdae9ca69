"""Cityscapes comes by its official downloader and with an account."""

import hashlib
import io
import json
import sys
import types

import pytest
import requests
from published_archives import COUNTS, assert_one_sentence, counts, small_archives

from cpnet_jax.data import builders, catalog, cityscapes_account, downloads
from cpnet_jax.errors import UserError


class Account(requests.Session):
    """The pages of cityscapes-dataset.com that the official downloader asks for."""

    def __init__(self, archives: dict[str, bytes], password: str = "secret") -> None:
        super().__init__()
        self.archives, self.password, self.posted = archives, password, []
        self.names = sorted(archives)

    def post(self, address, data, **_):
        self.posted.append(data)
        return self.answer(302 if data["password"] == self.password else 200)

    def get(self, address, headers=None, **_):
        if address.endswith("?list"):
            packages = [{"name": name, "packageID": str(i), "size": "1.0MB"} for i, name in enumerate(self.names)]
            return self.answer(200, json.dumps(packages).encode())
        if "packageID=" not in address:
            return self.answer(200)
        data = self.archives[self.names[int(address.rpartition("=")[2])]]
        if "md5-sum" in address:
            return self.answer(200, hashlib.md5(data).hexdigest().encode() + b"  name")
        start = int((headers or {}).get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        return self.answer(206 if start < len(data) else 416, data[start:])

    def answer(self, status: int, content: bytes = b"") -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw = status, io.BytesIO(content)
        return response


@pytest.fixture
def account(monkeypatch):
    """Lets Cityscapes' files come from an `Account`."""
    monkeypatch.delenv(downloads.MIRROR)
    monkeypatch.setenv(cityscapes_account.USERNAME, "someone")
    monkeypatch.setenv(cityscapes_account.PASSWORD, "secret")
    # The downloader imports it for the folder of stored passwords, which is not read here.
    monkeypatch.setitem(sys.modules, "appdirs", types.SimpleNamespace())
    session = Account(small_archives("cityscapes"))
    monkeypatch.setattr(cityscapes_account.requests, "Session", lambda: session)
    return session


@pytest.mark.parametrize("unfinished", [b"", b"half", b"all"])
def test_cityscapes_comes_by_the_official_downloader(unfinished, account, tmp_path, capfd):
    name = "gtFine_trainvaltest.zip"
    if unfinished:
        part = tmp_path / "downloads/cityscapes/.unfinished" / name
        part.parent.mkdir(parents=True)
        whole = account.archives[name]
        part.write_bytes(whole if unfinished == b"all" else whole[:50])
    builder = builders.prepare(catalog.CITYSCAPES, tmp_path, download=True)
    assert counts(builder) == COUNTS["cityscapes"] and account.posted[0]["username"] == "someone"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "secret" not in "".join(capfd.readouterr()) and b"secret" not in written


def test_a_damaged_file_of_cityscapes_is_not_kept(account, tmp_path):
    part = tmp_path / "downloads/cityscapes/.unfinished/gtFine_trainvaltest.zip"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another file")
    with pytest.raises(UserError) as caught:
        downloads.find(catalog.CITYSCAPES, tmp_path, download=True)
    assert_one_sentence(caught, "MD5", "run the same command again")
    downloads.find(catalog.CITYSCAPES, tmp_path, download=True)


@pytest.mark.parametrize("missing", [cityscapes_account.USERNAME, cityscapes_account.PASSWORD, "package", "right"])
def test_without_an_account_one_sentence_says_what_to_set(missing, account, tmp_path, monkeypatch):
    if missing == "package":
        monkeypatch.setitem(sys.modules, "cityscapesscripts.download", None)
    elif missing == "right":
        account.password = "another"
    else:
        monkeypatch.delenv(missing)
    with pytest.raises(UserError) as caught:
        downloads.find(catalog.CITYSCAPES, tmp_path, download=True)
    named = {"package": ["pip install cityscapesScripts"], "right": ["does not accept", "CITYSCAPES_PASSWORD"]}
    assert_one_sentence(caught, *named.get(missing, [missing, "https://www.cityscapes-dataset.com/register", tmp_path]))
    assert "secret" not in str(caught.value)
