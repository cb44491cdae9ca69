"""Pairs a user's images with their masks, and assigns them to splits."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from cpnet_jax.data.builders.base import Pair
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog.folder import FolderLayout
from cpnet_jax.errors import UserError

FIELD = "config.data.folder"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")  # JPEGs are rejected later, with a reason
# Accepted names of splits, in folders and in the CSV file -> split.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# See `SegmentationBuilder.refuse_unpaired`.
RefuseUnpaired = Callable[[dict[str, str], str], None]
Splits = dict[str, list[Pair]]


def read_text(source: Source, name: str, field: str) -> str:
    """Reads the text file that a field names, in the source or elsewhere; raises UserError if it does not exist."""
    if name not in source.names and not Path(name).expanduser().is_file():
        raise UserError(f"{field} is {name!r}, which is neither a file in {source.path} nor elsewhere: correct it")
    data = source.read(name) if name in source.names else Path(name).expanduser().read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def find_pairs(source: Source, layout: FolderLayout, refuse: RefuseUnpaired | None = None) -> tuple[Splits, str]:
    """Finds the pairs of every split; also returns a summary of what was found and assumed.

    Args:
      source: the raw files.
      layout: how the source is organised.
      refuse: called with the files without a partner; by default it raises UserError.

    Raises:
      UserError: if a file lacks its partner, or there is nothing to train or evaluate on.
    """
    if layout.pairs:
        splits, found = _pairs_of_csv(source, layout.pairs), f"pairs from {layout.pairs}"
    else:
        pairs, mask_name = _pairs_of_trees(source, layout, refuse or partial(refuse_unpaired, source))
        splits = _by_folder(pairs, layout.images)
        found = "masks named as images" if mask_name == layout.image_name else f"masks named {mask_name}"
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if "train" not in splits:
        raise UserError(f"{source.path} has only {' and '.join(splits)} images: add images to train on")
    if "val" not in splits:
        train, val = _draw(splits["train"], layout.val_fraction, source)
        splits = {**splits, "train": train, "val": val}
        found += ", val drawn by name"
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in splits.items())
    return splits, f"{counts} ({found})"


# --- two trees --------------------------------------------------------------------------------------------------------


def refuse_unpaired(source: Source, unpaired: dict[str, str], lacks: str) -> None:
    """Raises UserError that names the first file without a partner, see `SegmentationBuilder.refuse_unpaired`."""
    partner = "mask" if lacks == "label" else lacks
    raise UserError(
        f"{source.where(next(iter(unpaired)))} has no {partner} of the same name ({len(unpaired)} such files in all): "
        f"add the {partner}, remove the file, or set {FIELD}.mask_name to how masks are named"
    )


def _pairs_of_trees(source: Source, layout: FolderLayout, refuse: RefuseUnpaired) -> tuple[list[Pair], str]:
    """Pairs the files of the image and the mask folder; also returns the pattern of the masks' names."""
    images = _below(source, layout.images, IMAGE_ENDINGS, "images")
    masks = _below(source, layout.masks, MASK_ENDINGS, "masks")
    if _clean(layout.images) == _clean(layout.masks) and not layout.mask_name:
        raise UserError(
            f"{FIELD}.images and {FIELD}.masks are the same folder: set {FIELD}.mask_name, for instance to '*_mask'"
        )
    # The image folder may also contain the masks.
    taken = {name for stem, name in masks.items() if _core(stem, layout.mask_name or "*") is not None}
    images = {stem: name for stem, name in images.items() if name not in taken}
    images = _by_core(images, layout.image_name, "image", source)
    mask_name = layout.mask_name or "*" + _common_suffix(images, masks)
    masks = _by_core(masks, mask_name, "mask", source)
    sides = ((images, masks, "label", layout.masks), (masks, images, "image", layout.images))
    for here, there, lacks, folder in sides:
        unpaired = {here[key]: folder for key in sorted(here.keys() - there.keys())}
        if unpaired:
            refuse(unpaired, lacks)
    return [Pair(key, images[key], masks[key]) for key in sorted(images.keys() & masks.keys())], mask_name


def _below(source: Source, folder: str, endings: tuple[str, ...], what: str) -> dict[str, str]:
    """Finds the files in all folders of a name: stem (name without "/folder/" and ending) -> name.

    Both images/train/a.jpg and train/images/a.jpg have the stem train/a.
    """
    marker = f"/{_clean(folder)}/" if _clean(folder) else "/"
    inside, found = False, {}
    for name in source.names:
        before, here, after = f"/{name}".partition(marker)
        inside = inside or bool(here)
        if not here or not name.lower().endswith(endings):
            continue
        stem = str(PurePosixPath(before.lstrip("/"), after).with_suffix(""))
        if stem in found:
            raise UserError(
                f"{source.where(name)} and {source.where(found[stem])} differ only in folder or ending: rename one"
            )
        found[stem] = name
    if not inside:
        there = sorted({name.partition("/")[0] for name in source.names}) or ["nothing"]
        raise UserError(
            f"{source.path} has no folder {folder!r} (it has {', '.join(there[:8])}): set config.data.source to the "
            f"folder around it, or {FIELD}.{what} to its name"
        )
    if not found:
        raise UserError(f"{source.path} has no {what} in {folder!r}: add files that end in {', '.join(endings)}")
    return found


def _clean(folder: str) -> str:
    return folder.strip("/").removeprefix(".").strip("/")


def _by_core(files: dict[str, str], pattern: str, what: str, source: Source) -> dict[str, str]:
    """Selects the files that match a pattern: what its `*` stands for, with the folder -> name."""
    found = {core: name for stem, name in files.items() if (core := _core(stem, pattern)) is not None}
    if not found:
        example = source.where(next(iter(files.values()))) if files else source.path
        raise UserError(
            f"{FIELD}.{what}_name is {pattern!r}, which matches no {what} (for instance not {example}): correct it"
        )
    return found


def _core(stem: str, pattern: str) -> str | None:
    path, (prefix, _, suffix) = PurePosixPath(stem), pattern.partition("*")
    name = path.name
    if len(name) <= len(prefix + suffix) or not name.startswith(prefix) or not name.endswith(suffix):
        return None
    return str(path.with_name(name[len(prefix) : len(name) - len(suffix)]))


def _common_suffix(images: Iterable[str], masks: Iterable[str]) -> str:
    """Returns the suffix ("_mask") that turns every image's stem into a mask's, or "" if no suffix does.

    If it exists, its length is the difference of the total lengths, divided by the number of images.
    """
    images, masks = set(images), set(masks)
    length, rest = divmod(sum(map(len, masks)) - sum(map(len, images)), len(images))
    if len(images) != len(masks) or rest or length <= 0:
        return ""
    suffix = next(iter(masks))[-length:]
    return suffix if "/" not in suffix and {image + suffix for image in images} == masks else ""


def _by_folder(pairs: list[Pair], images: str) -> Splits:
    """Splits pairs by folders named as splits; if an image is in none of them, all pairs are for training."""
    splits = [_split_of(pair.name) for pair in pairs]
    if {"train", "val"} <= set(splits) and None in splits:
        outside = pairs[splits.index(None)].image
        raise UserError(
            f"{outside} is in neither train nor val, unlike other images in {images}: move it there or remove it"
        )
    if None in splits:
        return {"train": pairs}
    return {
        split: [pair for pair, its in zip(pairs, splits, strict=True) if its == split]
        for split in ("train", "val", "test")
    }


def _split_of(name: str) -> str | None:
    return next((SPLITS[part] for part in PurePosixPath(name).parent.parts if part in SPLITS), None)


def _draw(pairs: list[Pair], fraction: float, source: Source) -> tuple[list[Pair], list[Pair]]:
    """Splits pairs into (train, val) by a hash of the name, so that a pair stays in its split when others are added."""
    if len(pairs) < 2:
        raise UserError(
            f"{source.path} has one image: add at least one more, since training and evaluation need one each"
        )
    places = {pair.name: _place(pair.name) for pair in pairs}
    # The first is always for val and the last for train, so that neither split is empty.
    ordered = sorted(places, key=places.__getitem__)
    val = {name for name in ordered[1:-1] if places[name] < fraction} | {ordered[0]}
    return [pair for pair in pairs if pair.name not in val], [pair for pair in pairs if pair.name in val]


def _place(name: str) -> float:
    """Hashes a name to a number, uniform in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


# --- a table of pairs -------------------------------------------------------------------------------------------------


def _pairs_of_csv(source: Source, name: str) -> Splits:
    text = read_text(source, name, f"{FIELD}.pairs")
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    missing = [column for column in ("image", "mask") if column not in (rows.fieldnames or ())]
    if missing:
        raise UserError(f"{name} has no column {missing[0]!r}: make its first line image,mask or image,mask,split")
    known, splits, first_line = set(source.names), {"train": [], "val": [], "test": []}, {}
    for row in rows:
        line = f"{name}, line {rows.line_num}"
        for column in ("image", "mask"):
            file = row[column]
            if not file or (file not in known and not (source.path / file).is_file()):
                raise UserError(f"{line}: {column} is {file!r}, which is not a file in {source.path}: correct it")
        split = (row.get("split") or "").strip() if "split" in (rows.fieldnames or ()) else "train"
        if split not in SPLITS:
            raise UserError(f"{line}: split is {split!r}: write train, val or test, or remove the column")
        stem = str(PurePosixPath(row["image"]).with_suffix(""))
        if stem in first_line:
            raise UserError(
                f"{line}: image {row['image']!r} has the same name as line {first_line[stem]}'s: remove one"
            )
        first_line[stem] = rows.line_num
        splits[SPLITS[split]].append(Pair(stem, row["image"], row["mask"]))
    if not first_line:
        raise UserError(f"{name} lists no pairs: add a line IMAGE,MASK for each, with paths relative to {source.path}")
    return splits
