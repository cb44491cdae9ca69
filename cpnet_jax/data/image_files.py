"""Opens image files: the one place that hands other people's data to Pillow.

Metadata never decide whether a file can be read, since the pixels do not depend on them.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import ExifTags, Image

# Restricted, because some of Pillow's other readers start external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"

UPRIGHT = 1  # EXIF orientation of pixels stored upright
# EXIF orientation -> the operation that turns stored pixels upright.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: np.rot90,
}
# EXIF orientation -> Pillow's operation that undoes it.
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

# First bytes of files that are no images, or no usual ones -> what they are.
FOREIGN = {
    b"version https://git-lfs": "it is a Git LFS pointer, which 'git lfs pull' replaces by the image",
    b"<": "it is a web page or an SVG drawing",
    b"%PDF": "it is a PDF",
    b"8BPS": "it is a Photoshop file",
    b"\0\0\0\x0cjP": "it is JPEG 2000",
    **dict.fromkeys(
        (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "it is damaged, or a TIFF of a kind that Pillow cannot read: save it with 1 or 3 channels of 8 or 16 bits",
    ),
}
JPEG_IN_TIFF = ("jpeg", "tiff_jpeg")  # Pillow's names of a TIFF's compressions that are JPEG
GREY_STEPS = {2: 85, 4: 17}  # bits of a grey value -> factor by which Pillow stretches it to 0 .. 255


class TooManyPixels(ValueError):
    """An image above Pillow's limit against decompression bombs."""


def open_image(data: bytes) -> Image.Image:
    """Decodes the first frame, as it is stored; `orientation_of` returns how to turn it.

    Raises:
      ValueError: if the data are damaged, truncated or no JPEG, PNG, WebP, BMP, TIFF or GIF; the message is the reason.
      TooManyPixels: if the image has more pixels than Pillow accepts.
    """
    try:
        try:
            return _load(data)
        except Image.DecompressionBombError:
            raise
        except Exception:
            bare = without_metadata(data)
            if bare == data:
                raise
            return _load(bare)
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"it has more than {_most_pixels() // 10**6} million pixels") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(_what_it_is(data)) from error
    except Exception as error:  # Pillow raises exceptions of many types on damaged files
        said = " ".join(str(error).split(" <")[0].split())  # without the name of Pillow's stream
        raise ValueError(f"it is damaged or truncated ({said or type(error).__name__})") from error


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8, or UPRIGHT if it is missing or malformed."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow raises exceptions of many types on malformed EXIF data
        return UPRIGHT
    return int(orientation) if isinstance(orientation, int) and orientation in TURNS else UPRIGHT


def turn_upright(pixels: Shaped[np.ndarray, "h w ..."], orientation: int) -> Shaped[np.ndarray, "H W ..."]:
    """Turns stored pixels as their EXIF orientation says."""
    return np.ascontiguousarray(TURNS[orientation](pixels)) if orientation in TURNS else pixels


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Returns the (width, height) that an image of this stored size has after `turn_upright`."""
    return size[::-1] if orientation >= 5 else size


def stored_size(path: Path) -> tuple[int, int]:
    """Returns an image file's (width, height) as stored, from its header; raises ValueError or OSError."""
    with path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except OSError:
            raise
        except Exception:  # of its metadata
            return open_image(path.read_bytes()).size
        # Some versions of Pillow announce TIFFs in the size of the turned picture.
        tags = getattr(image, "tag_v2", {})
        return (tags[256], tags[257]) if image.format == "TIFF" else image.size


def announced_pixels(data: bytes) -> int:
    """Returns the number of pixels that an image's header announces; 0 if it cannot be read, or has too many."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # reading the whole image finds out what is wrong
        return 0


def is_deep(data: bytes) -> bool:
    """Returns from the header whether an image has more than 8 bits a channel; False if it cannot be read."""
    if data.startswith(JPEG_START):
        return False
    if data.startswith(PNG_START):
        return data[24:25] == b"\x10"
    try:
        return _is_deep(Image.open(BytesIO(data), formats=FORMATS))
    except Exception:  # reading the whole image finds out what is wrong
        return False


def is_jpeg(data: bytes) -> bool:
    """Returns from the header whether an image is a JPEG, or a TIFF that holds one; False if it cannot be read."""
    if data.startswith(JPEG_START):
        return True
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Exception:  # reading the whole image finds out what is wrong
        return False
    return image.format == "TIFF" and image.info.get("compression") in JPEG_IN_TIFF


def pixel_values(image: Image.Image, data: bytes) -> Shaped[np.ndarray, "h w ..."]:
    """Returns the values of an image opened by `open_image`, without alpha.

    Args:
      image: the image.
      data: the bytes it was opened from.

    Returns:
      RGB uint8 (h, w, 3); of an image of more than 8 bits, (h, w) or RGB (h, w, 3) of a wider type.

    Raises:
      ValueError: if the image has no RGB colours.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)
    if image.mode in ("I", "F"):
        return np.asarray(image)
    if image.mode in ("RGB", "RGBA", "RGBX", "LA") and is_deep(data):
        return _deep_colours(image, data)
    # "RGBa": colours premultiplied by alpha.
    image = image.convert("RGBA") if image.mode == "RGBa" else image
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # Pillow would copy the image


def bits_of(image: Image.Image, data: bytes) -> int:
    """Returns the bits of each channel of an image opened from `data`; 8 if its format does not say."""
    if data.startswith(PNG_START):
        return data[24]
    return _tiff_bits(Image.open(BytesIO(data), formats=FORMATS)) if image.format == "TIFF" else 8


def stored_indices(image: Image.Image, bits: int) -> Shaped[np.ndarray, "h w"]:
    """Returns the numbers that a one-channel image holds; Pillow stretches greys of 2 and 4 bits to 0 .. 255.

    Args:
      image: an image of one channel; alpha is dropped.
      bits: see `bits_of`.
    """
    values = np.asarray(image.getchannel(0) if image.mode in ("LA", "PA") else image)
    return values // GREY_STEPS[bits] if image.mode == "L" and bits in GREY_STEPS else values


def without_metadata(data: bytes) -> bytes:
    """Drops the parts of a PNG or JPEG that affect neither pixels nor orientation."""
    if data.startswith(PNG_START):
        kept = (chunk for kind, chunk in _png_chunks(data) if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"))
        return PNG_START + b"".join(kept)
    if data.startswith(JPEG_START):
        return JPEG_START + b"".join(_jpeg_segments(data))
    return data


def has_more_frames(data: bytes) -> bool:
    """Returns whether an image has several frames or pages of one size.

    Smaller pages of TIFFs are previews, and further pictures in a JPEG are a camera's own.
    """
    if data.startswith(JPEG_START):
        return False
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        frames = getattr(image, "n_frames", 1)
        if image.format != "TIFF":
            return frames > 1
        size = image.size
        return any(_size_of_page(image, page) == size for page in range(1, frames))
    except Exception:  # of a damaged page, or of metadata
        return False


def _size_of_page(image: Image.Image, page: int) -> tuple[int, int]:
    image.seek(page)
    return image.size


def _what_it_is(data: bytes) -> str:
    """Says why Pillow does not recognise a file."""
    if not data:
        return "it is empty"
    if data[4:8] == b"ftyp":
        return "it is HEIC or AVIF, whatever its name"
    start = data.lstrip(b"\xef\xbb\xbf \r\n\t")
    known = next((what for first, what in FOREIGN.items() if start.startswith(first)), "")
    return known or "it is damaged, or not a JPEG, PNG, WebP, BMP, TIFF or GIF"


def _load(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data), formats=FORMATS)
    if image.format != "TIFF":
        image.load()
        return image
    # Pillow turns TIFFs while loading, then forgets their orientation, and may stumble over their other metadata.
    orientation = orientation_of(image)
    exif = _exif(image)
    for tag in [tag for tag in exif if tag != ExifTags.Base.Orientation]:
        del exif[tag]
    image.load()
    if orientation == UPRIGHT:
        return image
    stored = image.transpose(UNDO[orientation])
    stored.format = image.format
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    return stored


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # malformed; a second call returns what could be read
        return image.getexif()


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F")) or (image.format == "TIFF" and _tiff_bits(image) > 8)


def _tiff_bits(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", {})
    return max(tags.get(258, (1,)))  # BitsPerSample


def _deep_colours(image: Image.Image, data: bytes) -> Shaped[np.ndarray, "h w ..."]:
    """Reads with OpenCV, since Pillow keeps only the upper 8 bits of colours."""
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        values = cv2.imdecode(np.frombuffer(without_metadata(data), np.uint8), flags)
    except cv2.error:
        values = None
    if values is not None and image.format == "TIFF":  # OpenCV turns TIFFs in spite of the flag
        values = _turn_back(values, orientation_of(image))
    if values is None or values.shape[:2] != image.size[::-1]:
        raise ValueError("its colours have more than 8 bits in an unusual form")
    return values if values.ndim == 2 else values[..., ::-1]


def _turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes `turn_upright`."""
    return turn_upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind and the bytes of each chunk, as far as they are whole."""
    place = len(PNG_START)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place:end]
        place = end


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Yields the segments before the pixels, without most of the applications' own; then the rest as a whole."""
    place = len(JPEG_START)
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] not in (b"\xda", b"\xff", b""):
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        kind, content = data[place + 1], data[place + 4 : end]
        # APP0 (JFIF) and APP14 (Adobe) define how colours are stored.
        foreign = 0xE1 <= kind <= 0xEF and kind != 0xEE and not content.startswith(b"Exif")
        if not foreign and kind != 0xFE:  # 0xFE: a comment
            yield data[place:end]
        place = end
    yield data[place:]


def _most_pixels() -> int:
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)
