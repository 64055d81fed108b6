"""Any picture file as RGB: :func:`read_picture`, for training, for labelling and for the demo alike.

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

import ctypes
import logging
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from densemtmd.errors import UserError
from densemtmd.machine import let_go

# Pillow has one limit for the whole process (it refuses 179 million pixels); that of `open_picture` holds instead.
Image.MAX_IMAGE_PIXELS = None
# What Pillow and its libtiff have to say of damaged files they say on stderr, in three ways. Here an error is one sentence.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(AttributeError, OSError):  # a Pillow that was built without it, or otherwise
    libtiff = ctypes.CDLL(Image.core.__file__)
    libtiff.TIFFSetErrorHandler(None)
    libtiff.TIFFSetWarningHandler(None)

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "SGI", "PSD", "QOI")
"""Not all that Pillow knows: an EPS is a program that another program would run, an ICO may hold a larger picture than it claims."""

MAX_PIXELS = 200_000_000
ROWS_OF = 2**23
"""Pixels that are taken over from Pillow at a time."""
WHITE = (255, 255, 255, 255)

Room = Callable[[tuple[int, ...]], np.ndarray]
"""Gives an array of bytes of some shape, which is filled: in memory or in a file."""


def memory(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS, room: Room = memory) -> np.ndarray:
    """Read any picture that Pillow knows, as people see it.

    Rotated as its EXIF says; the first frame of an animation; transparency laid on white, as a browser shows it; grey
    repeated in the three channels; 16 bits of grey scaled to 8 by the high byte (never clipped); palettes and CMYK
    turned into RGB.

    Args:
        path: the file.
        max_pixels: refuse a picture whose header claims more, before anything is decoded: a small file can claim a
            picture that fills the memory.
        room: gives the array of that shape which is filled.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UserError: no such file, not a picture, cut off, or too large.
    """
    path = Path(path)
    with open_picture(path, max_pixels) as picture:
        if picture.mode == "F":
            raise UserError(f"{path} holds floating-point values, expected 8 or 16 bits per channel: save it as PNG")
        try:
            return _to_rgb(_upright(picture), room)
        except UserError:  # there is no room
            raise
        except Exception as error:  # Pillow raises whatever it stumbles over
            raise _damaged(path, error) from error


def open_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture, decoded whole but not converted: labels need its values as they are.

    Raises:
        UserError: no such file, not a picture, cut off, or more pixels than ``max_pixels``.
    """
    path = Path(path)
    picture = _opened(path, max_pixels)
    try:
        picture.load()
    except Exception as error:
        picture.close()
        raise _damaged(path, error) from error
    return picture


def picture_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Rows and columns of a picture as people see it, from its head alone.

    Raises:
        UserError: no such file, not a picture, or more pixels than ``max_pixels``.
    """
    with _opened(Path(path), max_pixels) as picture:
        width, height = picture.size
        lies = False
        with suppress(Exception):  # unreadable EXIF says nothing
            lies = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return (width, height) if lies else (height, width)


def picture_format(path: str | Path, max_pixels: int = MAX_PIXELS) -> str | None:
    """Pillow's name of what is in a picture file, however it is called: ``"PNG"``, ``"TIFF"``, ``"JPEG"``.

    Raises:
        UserError: no such file, not a picture, or more pixels than ``max_pixels``.
    """
    with _opened(Path(path), max_pixels) as picture:
        return picture.format


def _opened(path: Path, max_pixels: int) -> Image.Image:
    """A picture of which only the head was read."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected a picture there") from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would keep whoever opens it waiting
        what = "Is a directory" if stat.S_ISDIR(found.st_mode) else "Not a file"
        raise UserError(f"{path} cannot be read: {what}; expected a picture there")
    Image.init()  # or it would not know all formats
    try:
        picture = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected a picture there") from error
    except Exception as error:
        what = "is an empty file" if found.st_size == 0 else "is not a picture that Pillow can read"
        raise UserError(f"{path} {what}: expected PNG, JPEG or another common format") from error
    width, height = picture.size
    if width * height > max_pixels:
        picture.close()
        raise UserError(
            f"{path} claims {width}×{height} pixels, expected at most {max_pixels / 1e6:g} million: make it smaller"
        )
    return picture


def loss_of(path: Path) -> str | None:
    """The compression of a picture file that changes its values, ``"JPEG"``; None where its values are those that were saved.

    A file that cannot be read has none. Of AVIF it is taken for granted; of WebP and JPEG 2000 the file says which of two kinds it is.
    """
    with suppress(Exception), path.open("rb") as file:
        head = file.read(4096)
        if head[:3] == b"\xff\xd8\xff":
            return "JPEG"
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return None if b"VP8L" in head or _webp_frame(path) == b"VP8L" else "WebP with loss"
        if head[4:12] == b"ftypavif" or head[4:12] == b"ftypavis":
            return "AVIF"
        if head[4:8] == b"jP  " or head[:4] == b"\xff\x4f\xff\x51":
            coding = head.find(b"\xff\x52")  # the marker after which the wavelet is told: 0 is the one with real numbers
            return "JPEG 2000 with loss" if 0 < coding < len(head) - 13 and head[coding + 13] == 0 else None
        if head[:4] in (b"II*\0", b"MM\0*"):
            with Image.open(path, formats=["TIFF"]) as picture:
                return "JPEG within TIFF" if "jpeg" in str(picture.info.get("compression")) else None
    return None


def _webp_frame(path: Path) -> bytes | None:
    """The kind of the first frame of a WebP whose head is long."""
    with path.open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            if chunk[:4] in (b"VP8 ", b"VP8L"):
                return chunk[:4]
            size = int.from_bytes(chunk[4:], "little")
            file.seek(0 if chunk[:4] == b"ANIM" else size + size % 2, 1)
    return None


def is_turned(path: str | Path) -> bool:
    """Whether a picture is turned or mirrored by its EXIF: :func:`read_picture` then gives it upright, as people see it."""
    path = Path(path)
    with suppress(Exception), Image.open(path) as picture:  # of what cannot be read, nothing is known
        return picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    return False


def _upright(picture: Image.Image) -> Image.Image:
    """Rotate as the EXIF orientation says; unreadable EXIF says nothing."""
    with suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _to_rgb(picture: Image.Image, room: Room) -> np.ndarray:
    """(H, W, 3) uint8 from any of Pillow's modes but floating point."""
    if picture.mode.startswith("I"):  # I;16 in either byte order, or I: 16 bits kept in 32
        grey = (np.clip(np.asarray(picture), 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture)
    return _values(picture if picture.mode == "RGB" else picture.convert("RGB"), room)


def _values(picture: Image.Image, room: Room) -> np.ndarray:
    """(H, W, 3) uint8 of a picture in RGB, some rows at a time: Pillow hands out what it is asked for in two more copies."""
    values = room((picture.height, picture.width, 3))
    rows = max(1, ROWS_OF // picture.width)
    for top in range(0, picture.height, rows):
        values[top : top + rows] = np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))))
        let_go(values)
    return values


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path} cannot be decoded ({reason}): it is damaged or cut off, copy it again")
