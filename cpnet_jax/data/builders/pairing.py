"""Pairs a user's images with their masks, and assigns them to splits."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath

from cpnet_jax.data.builders.base import Pair
from cpnet_jax.data.builders.sources import Source, readable
from cpnet_jax.data.catalog.folder import FolderLayout
from cpnet_jax.errors import UserError, quoted

FIELD = "config.data.folder"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")  # JPEGs are rejected later, with a reason
# Endings of pictures that are not read as images.
OTHER_PICTURES = (
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".gif", ".tga", ".ppm", ".psd", ".exr", ".hdr"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
# Accepted names of splits, in folders and in the CSV file -> split.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "tests": "test",
    "testing": "test",
    "heldout": "test",
    "holdout": "test",
}
# A split's name may be followed by what says nothing more, as in train2017, val_images and Test-Set.
# Digits are never given back, so that matching takes linear time.
_SPLIT_NAME = re.compile(rf"({'|'.join(SPLITS)})(set|split|data|images?|imgs|masks?|labels?|\d++)*")
# See `SegmentationBuilder.refuse_unpaired`.
RefuseUnpaired = Callable[[dict[str, str], str], None]
Splits = dict[str, list[Pair]]


def read_text(source: Source, name: str, field: str) -> str:
    """Reads the text file that a field names, in the source or elsewhere; raises UserError if it does not exist."""
    elsewhere = os.path.expanduser(name)
    if name not in source.names and not os.path.isfile(elsewhere):
        raise UserError(f"{field} is {name!r}, which is neither a file in {source.path} nor elsewhere: correct it")
    data = source.read(name) if name in source.names else Path(elsewhere).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def find_pairs(
    source: Source,
    layout: FolderLayout,
    refuse: RefuseUnpaired | None = None,
    note: Callable[[str], None] = lambda line: None,
    *,
    for_evaluation: bool = False,
) -> tuple[Splits, str]:
    """Finds the pairs of every split; also returns a summary of what was found and assumed.

    Args:
      source: the raw files.
      layout: how the source is organised.
      refuse: called with the files without a partner; by default it raises UserError.
      note: called with a sentence about what is left out or looks like a mistake.
      for_evaluation: whether to return the splits as they are: none is drawn, and none is needed to train on.

    Raises:
      UserError: if a file lacks its partner, or there is nothing to train or evaluate on.
    """
    if layout.pairs:
        splits, found = _pairs_of_csv(source, layout.pairs, note), f"pairs from {layout.pairs}"
    else:
        pairs, mask_name = _pairs_of_trees(source, layout, refuse or partial(refuse_unpaired, source), note)
        splits = _by_folder(pairs, layout.images, note)
        found = "masks named as images" if mask_name == layout.image_name else f"masks named {mask_name}"
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if "train" not in splits and not for_evaluation:
        raise UserError(
            f"{source.path} has only {' and '.join(splits)} images: add images to train on, or evaluate a trained "
            "network on these with --mode=eval and the --workdir of its run"
        )
    if "val" not in splits and not for_evaluation:
        train, val = _draw(splits["train"], layout.val_fraction, source)
        splits = {**splits, "train": train, "val": val}
        found += f", val drawn by name: {FIELD}.val_fraction={layout.val_fraction:g}"
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in splits.items())
    return splits, f"{counts} ({found})"


# --- two trees --------------------------------------------------------------------------------------------------------


def refuse_unpaired(source: Source, unpaired: dict[str, str], lacks: str) -> None:
    """Raises UserError that names the first file without a partner, see `SegmentationBuilder.refuse_unpaired`."""
    partner = "mask" if lacks == "label" else lacks
    file = next(iter(unpaired))
    problem = f"{source.where(file)} has no {partner} of the same name ({len(unpaired)} such files in all)"
    if near := nearest(source, file, lacks):
        raise UserError(f"{problem}, but there is {near}")
    raise UserError(f"{problem}: add the {partner}, remove the file, or set {FIELD}.mask_name to how masks are named")


def nearest(source: Source, file: str, lacks: str) -> str:
    """Describes a file that may be the missing partner and what to do about it, or returns "" without such a file."""
    endings = MASK_ENDINGS if lacks == "label" else IMAGE_ENDINGS
    # Files beside the file are its own kind, unless images and masks share their folders.
    others = [name for name in source.namesakes(file) if _folder(name) != _folder(file)]
    for other in others:
        path = PurePosixPath(other)
        if not other.lower().endswith(endings):
            return f"{other}, whose ending {path.suffix or '(none)'} is not read: convert it to PNG"
        if path.stem != PurePosixPath(file).stem:
            return f"{other}: write both names in the same case"
        return f"{other}: put both files into subfolders of the same name, below the folders of images and masks"
    return ""


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _pairs_of_trees(
    source: Source, layout: FolderLayout, refuse: RefuseUnpaired, note: Callable[[str], None]
) -> tuple[list[Pair], str]:
    """Pairs the files of the image and the mask folder; also returns the pattern of the masks' names."""
    images = _below(source, layout.images, IMAGE_ENDINGS, "images")
    masks = _below(source, layout.masks, MASK_ENDINGS, "masks")
    if _clean(layout.images) == _clean(layout.masks) and not layout.mask_name:
        raise UserError(
            f"{FIELD}.images and {FIELD}.masks are the same folder: set {FIELD}.mask_name, for instance to '*_mask'"
        )
    _note_unread(source, layout, {*images, *masks}, note)
    # The image folder may also contain the masks.
    taken = {name for stem, name in masks.items() if _core(stem, layout.mask_name or "*") is not None}
    images = {stem: name for stem, name in images.items() if name not in taken}
    images = _by_core(images, layout.image_name, "image", source)
    images = _without_unlabelled_test(images, [stem for stem, name in masks.items() if name in taken], note)
    if not layout.mask_name:
        masks = _without_image_endings(masks, images)
    mask_name = layout.mask_name or "*" + _common_suffix(images, masks)
    masks = _by_core(masks, mask_name, "mask", source)
    sides = ((images, masks, "label", layout.masks), (masks, images, "image", layout.images))
    for here, there, lacks, folder in sides:
        unpaired = {here[key]: folder for key in sorted(here.keys() - there.keys())}
        if unpaired:
            refuse(unpaired, lacks)
    return [Pair(key, images[key], masks[key]) for key in sorted(images.keys() & masks.keys())], mask_name


def _note_unread(source: Source, layout: FolderLayout, stems: set[str], note: Callable[[str], None]) -> None:
    """Notes pictures among the images that are left out because of their ending, unless they are there twice."""
    unread = [name for stem, name in _files_in(source, layout.images, OTHER_PICTURES) if stem not in stems]
    if unread:
        ending = PurePosixPath(unread[0]).suffix
        note(f"{unread[0]} is left out ({len(unread)} such files in all): its ending {ending} is not read")


def _without_unlabelled_test(
    images: dict[str, str], masks: Sequence[str], note: Callable[[str], None]
) -> dict[str, str]:
    """Leaves out the images of the test split if none of its masks exist, as in most published test sets."""
    unlabelled = {stem for stem, split in zip(images, _splits_of([*images]), strict=True) if split == "test"}
    if not unlabelled or len(unlabelled) == len(images) or "test" in _splits_of(masks):
        return images
    found = f"{len(unlabelled)} images of test have no masks (e.g. {images[min(unlabelled)]})"
    note(f"{found} and are left out: use --mode=predict on them")
    return {stem: name for stem, name in images.items() if stem not in unlabelled}


def _without_image_endings(masks: dict[str, str], images: dict[str, str]) -> dict[str, str]:
    """Drops the image's ending from the stems of masks if all have it, as in a.jpg.png for a.jpg."""
    whole = {stem + PurePosixPath(name).suffix: stem for stem, name in images.items()}
    return {whole[stem]: name for stem, name in masks.items()} if masks.keys() <= whole.keys() else masks


def _below(source: Source, folder: str, endings: tuple[str, ...], what: str) -> dict[str, str]:
    """Finds the files with one of the endings in all folders of a name: stem, see `_files_in` -> name."""
    found: dict[str, str] = {}
    for stem, name in _files_in(source, folder, endings):
        if stem in found:
            raise UserError(
                f"{source.where(name)} and {source.where(found[stem])} differ only in folder or ending: rename one"
            )
        found[stem] = name
    if found:
        return found
    others = [name for _, name in _files_in(source, folder, ("",))]
    if not others:
        there = sorted({name.partition("/")[0] for name in source.names}) or ["nothing"]
        raise UserError(
            f"{source.path} has no folder {folder!r} (it has {', '.join(there[:8])}): set config.data.source to the "
            f"folder around it, or {FIELD}.{what} to its name"
        )
    raise UserError(
        f"{source.path} has no {what} in {folder!r} ({others[0]} is not read): add files that end in "
        f"{', '.join(endings)}"
    )


def _files_in(source: Source, folder: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yields (stem, name) of the files with one of the endings in all folders of a name.

    The stem is the name without "/folder/" and ending.

    Both images/train/a.jpg and train/images/a.jpg have the stem train/a.
    """
    marker = f"/{_clean(folder)}/" if _clean(folder) else "/"
    for name in source.names:
        before, here, after = f"/{name}".partition(marker)
        if here and name.lower().endswith(endings):
            yield str(PurePosixPath(before.lstrip("/"), after).with_suffix("")), name


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


def _by_folder(pairs: list[Pair], images: str, note: Callable[[str], None]) -> Splits:
    """Splits pairs by folders named as splits; images in none of them are for training."""
    splits = _splits_of([pair.name for pair in pairs])
    outside = [pair.image for pair, split in zip(pairs, splits, strict=True) if split is None]
    # Without another split, a folder "train" may be one of trains.
    if outside and "train" in splits and {"val", "test"} & set(splits):
        named = [split for split in ("train", "val", "test") if split in splits]
        raise UserError(
            f"{outside[0]} is in no folder named {' or '.join(named)}, unlike other images in {images}: move it there "
            "or remove it"
        )
    for folder in sorted({part for name in outside for part in PurePosixPath(name).parent.parts}):
        if _split_named(folder) is None and SPLITS.keys() & set(re.split(r"[^a-z]+", folder.lower())):
            note(f"the images in {folder} are used for training: if it is a split, name it train, val or test")
    return {
        split: [pair for pair, its in zip(pairs, splits, strict=True) if (its or "train") == split]
        for split in ("train", "val", "test")
    }


def _splits_of(names: Sequence[str]) -> list[str | None]:
    """Returns the split that each name's outermost folder named as a split stands for; None if no folder is."""
    folders = [tuple(name.split("/")[:-1]) for name in names]
    # A folder around all images says nothing if there are splits in it: test/images/train, test/images/val.
    around = _common_length(folders)
    inner = [_split_in(parts[around:]) for parts in folders]
    return inner if any(inner) else [_split_in(parts) for parts in folders]


def _common_length(folders: Sequence[tuple[str, ...]]) -> int:
    """Returns how many outermost folders all paths share."""
    first, last = min(folders), max(folders)  # if these two share them, all do
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _split_in(folders: Sequence[str]) -> str | None:
    return next(filter(None, map(_split_named, folders)), None)


@cache
def _split_named(name: str) -> str | None:
    match = _SPLIT_NAME.fullmatch(re.sub(r"[\s_.-]", "", name.lower()))
    return SPLITS[match[1]] if match else None


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


def _pairs_of_csv(source: Source, name: str, note: Callable[[str], None]) -> Splits:
    known, splits, unlabelled = set(source.names), {"train": [], "val": [], "test": []}, []
    first_line: dict[str, int] = {}
    line_of_file: dict[str, int] = {}
    lines_of: dict[str, list[int]] = {}  # mask -> lines
    for number, row in _rows(source, name):
        line = f"{name}, line {number}"
        split = _split_named(row["split"]) if "split" in row else "train"
        if split is None:
            raise UserError(f"{line}: split is {row['split']!r}: write train, val or test, or remove the column")
        image = _file(source, row["image"], known, f"{line}: image")
        if split == "test" and not row["mask"]:
            unlabelled.append(image)
            continue
        mask = _file(source, row["mask"], known, f"{line}: mask")
        stem = _id_of(image)
        first = line_of_file.setdefault(_whole(source, image), number)
        if first != number:
            raise UserError(f"{line}: image {quoted(image)} is the one of line {first} again: remove one of the lines")
        if stem in first_line:
            raise UserError(
                f"{line}: image {quoted(image)} has the same name as line {first_line[stem]}'s: rename or remove one"
            )
        first_line[stem] = number
        lines_of.setdefault(_whole(source, mask), []).append(number)
        splits[split].append(Pair(stem, image, mask))
    if not first_line:
        raise UserError(f"{name} lists no pairs: add a line IMAGE,MASK for each, with paths relative to {source.path}")
    if unlabelled:
        note(f"{len(unlabelled)} images of test in {name} have no mask and are left out (e.g. {unlabelled[0]})")
    shared = [(mask, lines) for mask, lines in lines_of.items() if len(lines) > 1]
    if shared:
        (mask, lines), *_ = shared
        where = f"lines {lines[0]} and {lines[1]}"
        note(f"{name} gives {readable(mask)} to several images ({where}; {len(shared)} such masks): is that meant?")
    return splits


def _rows(source: Source, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and cells of each row; the columns are separated by commas, semicolons or tabs."""
    text = read_text(source, name, f"{FIELD}.pairs")
    # Excel writes semicolons where the comma is the decimal separator.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows.fieldnames = [column.strip().lower() for column in rows.fieldnames or ()]
        missing = [column for column in ("image", "mask") if column not in rows.fieldnames]
        if missing:
            raise UserError(f"{name} has no column {missing[0]!r}: make its first line image,mask or image,mask,split")
        columns = [column for column in ("image", "mask", "split") if column in rows.fieldnames]
        twice = [column for column in columns if rows.fieldnames.count(column) > 1]
        if twice:
            raise UserError(f"{name} has several columns {twice[0]!r}: remove or rename all but one")
        for row in rows:
            yield rows.line_num, {column: (row[column] or "").strip() for column in columns}
    except csv.Error as error:
        raise UserError(f"{name}, line {rows.line_num + 1}: {error}: close its quotes or correct it") from error


def _file(source: Source, cell: str, known: set[str], where: str) -> str:
    """Returns the name of the file that a cell names, perhaps with backslashes or from the root of the file system.

    Other spellings of a path, such as a/../b.jpg, give the same name.
    """
    for spelling in (cell, cell.replace("\\", "/")):
        whole = PurePosixPath(_whole(source, spelling))
        inside = whole.is_relative_to(source.path)
        name = str(whole.relative_to(source.path)) if inside else os.path.normpath(spelling)
        if readable(name) in known:
            return readable(name)
        if name != "." and os.path.isfile(source.path / name):
            return name
    raise UserError(f"{where} is {quoted(cell)}, which is not a file in {source.path}: correct it")


def _whole(source: Source, name: str) -> str:
    """Returns a file's path from the root, without "..": two spellings of a path give the same one."""
    path = source.path / name
    # Behind a link, ".." leads elsewhere than it seems.
    return os.path.realpath(path) if ".." in path.parts and os.path.isfile(path) else os.path.normpath(path)


def _id_of(image: str) -> str:
    """Returns an image's name without ending, root and "..", since results are written to files of that name."""
    parts = PurePosixPath(image).with_suffix("").parts
    return readable("/".join(part for part in parts if part not in ("/", "..")))
