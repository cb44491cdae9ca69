"""The type of descriptors of published files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
      name: its name in the folder of downloads.
      size: its size in bytes, often rounded by its publisher. It is shown only.
      addresses: where it can be downloaded, in order of preference. Empty if an account is needed.
      digest: its published checksum, "sha256:HEX" or "md5:HEX". Empty if none is published: then that of the first
        download counts.
    """

    name: str
    size: int
    addresses: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Downloads:
    """The published files of a dataset. A folder that holds them is a source of the dataset's builder.

    Attributes:
      folder: name of their folder in DIR/downloads, where DIR is config.data.dir.
      terms: the terms of use in one sentence, with their address.
      files: the files.
    """

    folder: str
    terms: str
    files: tuple[RemoteFile, ...]
