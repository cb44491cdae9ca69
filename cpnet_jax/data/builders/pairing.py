"""Which of a user's files belong together, and which split they are in."""

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
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")  # JPEGs to be refused with a reason
# What folders and the CSV's column may call the splits.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# ({file: where its partner should be}, what it lacks: "image" or "label")
RefuseLonely = Callable[[dict[str, str], str], None]
Splits = dict[str, list[Pair]]


def read_text(source: Source, name: str, field: str) -> str:
    """A text file of the source, or of anywhere else, that a field names; UserError where it is neither."""
    if name not in source.names and not Path(name).expanduser().is_file():
        raise UserError(f"{field} is {name!r}, which is neither in {source.path} nor a file elsewhere: correct it")
    data = source.read(name) if name in source.names else Path(name).expanduser().read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text ({error.reason}): save it as UTF-8") from error


def find_pairs(source: Source, layout: FolderLayout, refuse: RefuseLonely | None = None) -> tuple[Splits, str]:
    """The pairs of every split, and in words what was found and assumed.

    Args:
      refuse: told of files without a partner; by default that is an error.

    Raises:
      UserError: where a file lacks its partner, or the splits make no sense.
    """
    if layout.pairs:
        splits, found = _pairs_of_csv(source, layout.pairs), f"pairs from {layout.pairs}"
    else:
        pairs, mask_name = _pairs_of_trees(source, layout, refuse or partial(refuse_lonely, source))
        splits = _by_folder(pairs, layout.images)
        found = "masks named as images" if mask_name == layout.image_name else f"masks named {mask_name}"
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if "train" not in splits:
        raise UserError(f"{source.path} has only {' and '.join(splits)} images: it needs some to train on")
    if "val" not in splits:
        train, val = _draw(splits["train"], layout.val_fraction, source)
        splits = {**splits, "train": train, "val": val}
        found += ", val drawn by name"
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in splits.items())
    return splits, f"{counts} ({found})"


# --- two trees --------------------------------------------------------------------------------------------------------


def refuse_lonely(source: Source, lonely: dict[str, str], lacks: str) -> None:
    """See `SegmentationBuilder.refuse_lonely`."""
    raise UserError(
        f"{source.where(next(iter(lonely)))} has no {'mask' if lacks == 'label' else lacks} of its name ({len(lonely)} "
        f"such in all): add it or take the file out, or say by {FIELD}.mask_name how masks are named"
    )


def _pairs_of_trees(source: Source, layout: FolderLayout, refuse: RefuseLonely) -> tuple[list[Pair], str]:
    """The pairs, and the pattern of the masks' names."""
    images = _below(source, layout.images, IMAGE_ENDINGS, "images")
    masks = _below(source, layout.masks, MASK_ENDINGS, "masks")
    if _clean(layout.images) == _clean(layout.masks) and not layout.mask_name:
        raise UserError(f"{FIELD}.images and .masks are one folder: set {FIELD}.mask_name, for instance '*_mask'")
    # One folder may hold both kinds, or be around the other.
    taken = {name for stem, name in masks.items() if _core(stem, layout.mask_name or "*") is not None}
    images = {stem: name for stem, name in images.items() if name not in taken}
    images = _by_core(images, layout.image_name, "image", source)
    mask_name = layout.mask_name or "*" + _common_suffix(images, masks)
    masks = _by_core(masks, mask_name, "mask", source)
    sides = ((images, masks, "label", layout.masks), (masks, images, "image", layout.images))
    for here, there, lacks, folder in sides:
        lonely = {here[key]: folder for key in sorted(here.keys() - there.keys())}
        if lonely:
            refuse(lonely, lacks)
    return [Pair(key, images[key], masks[key]) for key in sorted(images.keys() & masks.keys())], mask_name


def _below(source: Source, folder: str, endings: tuple[str, ...], what: str) -> dict[str, str]:
    """Name without "/folder/" and ending -> name, of the files below any folder of that name.

    So images/train/a.jpg and train/images/a.jpg are both train/a.
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
                f"{source.where(name)} and {source.where(found[stem])} have the same name but for their endings: "
                "rename one"
            )
        found[stem] = name
    if not inside:
        there = sorted({name.partition("/")[0] for name in source.names}) or ["nothing"]
        raise UserError(
            f"{source.path} has no folder {folder!r} (it has {', '.join(there[:8])}): set config.data.source to the "
            f"folder around it, or {FIELD}.{what} to its name"
        )
    if not found:
        raise UserError(f"{source.path} has no {what} in {folder!r}: put files there that end in {', '.join(endings)}")
    return found


def _clean(folder: str) -> str:
    return folder.strip("/").removeprefix(".").strip("/")


def _by_core(files: dict[str, str], pattern: str, what: str, source: Source) -> dict[str, str]:
    """Of the files that match the pattern: what its `*` stands for, folders included -> name."""
    found = {core: name for stem, name in files.items() if (core := _core(stem, pattern)) is not None}
    if not found:
        example = source.where(next(iter(files.values()))) if files else source.path
        raise UserError(f"{FIELD}.{what}_name is {pattern!r}, which no {what} is named like, {example} for one")
    return found


def _core(stem: str, pattern: str) -> str | None:
    path, (prefix, _, suffix) = PurePosixPath(stem), pattern.partition("*")
    name = path.name
    if len(name) <= len(prefix + suffix) or not name.startswith(prefix) or not name.endswith(suffix):
        return None
    return str(path.with_name(name[len(prefix) : len(name) - len(suffix)]))


def _common_suffix(images: Iterable[str], masks: Iterable[str]) -> str:
    """What all masks' names have behind their images' ("_mask"); "" unless that explains every name.

    There is no guessing in it: were each mask an image's name and a suffix, their lengths would tell the suffix's.
    """
    images, masks = set(images), set(masks)
    length, rest = divmod(sum(map(len, masks)) - sum(map(len, images)), len(images))
    if len(images) != len(masks) or rest or length <= 0:
        return ""
    suffix = next(iter(masks))[-length:]
    return suffix if "/" not in suffix and {image + suffix for image in images} == masks else ""


def _by_folder(pairs: list[Pair], images: str) -> Splits:
    """By folders named as splits, where every image lies in one; otherwise all are for training."""
    splits = [_split_of(pair.name) for pair in pairs]
    if {"train", "val"} <= set(splits) and None in splits:
        outside = pairs[splits.index(None)].image
        raise UserError(
            f"{outside} lies in neither train nor val, as other images in {images} do: move it or take it out"
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
    """(train, val): a pair's side is decided by its own name, so that it stays there when others are added."""
    if len(pairs) < 2:
        raise UserError(f"{source.path} has one image: it needs at least two, to train and to evaluate on")
    places = {pair.name: _place(pair.name) for pair in pairs}
    # The first is for val and the last for train in any case: among a few images, chance may leave a side empty.
    ordered = sorted(places, key=places.get)
    val = {name for name in ordered[1:-1] if places[name] < fraction} | {ordered[0]}
    return [pair for pair in pairs if pair.name not in val], [pair for pair in pairs if pair.name in val]


def _place(name: str) -> float:
    """A number in [0, 1) that only the name decides, uniform over names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


# --- a table of pairs -------------------------------------------------------------------------------------------------


def _pairs_of_csv(source: Source, name: str) -> Splits:
    text = read_text(source, name, f"{FIELD}.pairs")
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    missing = [column for column in ("image", "mask") if column not in (rows.fieldnames or ())]
    if missing:
        raise UserError(f"{name} has no column {missing[0]!r}: its first line must be image,mask or image,mask,split")
    known, splits, first_line = set(source.names), {"train": [], "val": [], "test": []}, {}
    for row in rows:
        line = f"{name}, line {rows.line_num}"
        for column in ("image", "mask"):
            file = row[column]
            if not file or (file not in known and not (source.path / file).is_file()):
                raise UserError(f"{line}: {column} is {file!r}, which is no file in {source.path}: correct it")
        split = (row.get("split") or "").strip() if "split" in rows.fieldnames else "train"
        if split not in SPLITS:
            raise UserError(f"{line}: split is {split!r}: it must be train, val or test, in every line or in none")
        stem = str(PurePosixPath(row["image"]).with_suffix(""))
        if stem in first_line:
            raise UserError(f"{line}: image {row['image']!r} has the name of line {first_line[stem]}'s: keep one")
        first_line[stem] = rows.line_num
        splits[SPLITS[split]].append(Pair(stem, row["image"], row["mask"]))
    if not first_line:
        raise UserError(f"{name} lists no pairs: add a line IMAGE,MASK for each, paths as below {source.path}")
    return splits
