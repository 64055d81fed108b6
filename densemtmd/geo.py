"""TIFFs that lie somewhere on Earth: their labels as GeoTIFFs, and where overlays lie; and large TIFFs and PNGs, which are read by windows.
By rasterio (the extra ``[geo]``), which has GDAL in it.

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image

from densemtmd.datasets.pictures import MAX_PIXELS, Room, is_turned, memory, picture_format, picture_size
from densemtmd.errors import UserError, one_line
from densemtmd.files import WriteError, atomic_write, write_text
from densemtmd.inference import pieces
from densemtmd.machine import let_go
from densemtmd.tasks import VOID, Labelset

SUFFIXES = (".tif", ".tiff")

TAGS = (33550, 33922, 34264, 34735)
"""Of GeoTIFF: the size of a pixel, points that are tied, a transform, and the keys of a coordinate reference system (OGC 19-008r4)."""

WORLD_FILES = (".tfw", ".tifw", ".wld")
"""What a transform may lie in beside a TIFF."""

BLOCK = 256
"""Pixels on a side of a tile that is written."""

PART = 2**23
"""Pixels that are read or written at a time."""

CACHE = 2**27
"""Bytes that GDAL may keep; of itself it takes a twentieth of the machine's memory, and nothing here is read twice."""

LARGE = 2**24
"""Pixels from which on a picture is read by windows. Pillow takes as much memory again as the picture, and a third more."""

DRIVERS = {"TIFF": "GTiff", "PNG": "PNG"}
"""What reads by windows, by what is in a file. Not JPEG: where colours are stored coarser than brightness, GDAL repeats them, Pillow
interpolates, and pixels differ by up to fourteen of 255."""

READING = {"GDAL_CACHEMAX": CACHE, "GDAL_PAM_ENABLED": False, "GDAL_PNG_WHOLE_IMAGE_OPTIM": False}
"""Of GDAL: no file beside a picture changes it, and a PNG is not decoded at once, in which GDAL does not see that a file is cut off."""

LOSSLESS = ("none", "lzw", "deflate", "packbits", "zstd", "lzma")
"""Compressions that every reader undoes alike."""

NOTE = "DENSEMTMD"


def is_installed() -> bool:
    return find_spec("rasterio") is not None


def is_georeferenced(path: str | Path) -> bool:
    """Whether a file is a TIFF that tells where it lies, by its tags or a world file beside it. Its pixels are not looked at, nor is
    rasterio needed.

    One that is turned by its orientation tag, which software for maps passes over, is none: its labels are upright, as people see it.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        return False
    with suppress(Exception):  # whoever reads it says what is wrong with it
        if path.is_file():
            with Image.open(path, formats=["TIFF"]) as picture:
                tags = picture.tag_v2  # type: ignore[attr-defined]
                if tags.get(ExifTags.Base.Orientation, 1) == 1:
                    return any(tag in tags for tag in TAGS) or any(path.with_suffix(suffix).exists() for suffix in WORLD_FILES)
    return False


def gets_geotiff(path: str | Path) -> bool:
    """Whether the class ids of a picture are written as a GeoTIFF: it is georeferenced, and rasterio is there."""
    return is_georeferenced(path) and is_installed()


def save_geotiff(path: str | Path, ids: np.ndarray, labelset: Labelset, like: str | Path, note: str | None = None) -> None:
    """Write class ids as a GeoTIFF that lies where a picture does: its coordinate reference system and transform, or its control points.

    One band of 8 bits in the labelset's colours, void is nodata; in tiles, deflated, written some rows at a time; whole or not at all.
    The band's description is the labelset's name, its metadata say the labels (``0=sky``, ...).

    Args:
        path: where.
        ids: (H, W) uint8.
        labelset: theirs.
        like: the picture, of as many pixels.
        note: kept in the file, for :func:`note_of`.

    Raises:
        UserError: rasterio cannot read where the picture lies.
        WriteError: a place that cannot be written.
    """
    rasterio, place = rasterio_of(), place_of(like)
    height, width = ids.shape
    about: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "nodata": VOID, "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "bigtiff": "if_safer", **place,
    }  # fmt: skip
    with atomic_write(path) as temporary, rasterio.Env(GDAL_PAM_ENABLED=False, GDAL_CACHEMAX=CACHE):  # nothing in a file beside it
        try:
            with rasterio.open(temporary.absolute(), "w", **about) as file:
                file.write_colormap(1, {n: (*colour, 255) for n, colour in enumerate(labelset.palette)})
                file.set_band_description(1, labelset.name)
                file.update_tags(1, **{str(n): label for n, label in enumerate(labelset.labels)})
                if note is not None:
                    file.update_tags(**{NOTE: note})
                for rows in _rows(height, width, BLOCK):
                    file.write(ids[rows], 1, window=((rows.start, rows.stop), (0, width)))
                    let_go(ids)
            with rasterio.open(temporary.absolute(), driver="GTiff") as file:  # a disk that fills up at the end is not told otherwise
                for rows in _rows(height, width, BLOCK):
                    if not np.array_equal(file.read(1, window=((rows.start, rows.stop), (0, width))), ids[rows]):
                        raise WriteError(f"{path} could not be written: the disk does not hold what was written; is it full?")
                    let_go(ids)
        except rasterio.errors.RasterioError as error:
            raise WriteError(f"{path} could not be written ({_reason(error)}): is the disk full?") from error


def save_place(path: str | Path, like: str | Path, size: tuple[int, int], part: tuple[int, int, int, int]) -> None:
    """Write where a PNG that shows a georeferenced picture lies: a world file beside it (``.pgw``), which all software for maps knows, and
    for the coordinate reference system, or control points, a file as GDAL and so QGIS keeps them (``.png.aux.xml``).

    Args:
        path: of the PNG.
        like: the picture.
        size: its width and height in pixels.
        part: of the PNG that shows it: left, top, right and bottom.

    Raises:
        UserError: rasterio cannot read where the picture lies.
        WriteError: a place that cannot be written.
    """
    path, place = Path(path), place_of(like)
    left, top, right, bottom = part
    across, down = size[0] / (right - left), size[1] / (bottom - top)  # pixels of the picture for one of the PNG
    described = ElementTree.Element("PAMDataset")
    wkt = place["crs"].to_wkt() if place["crs"] else ""
    if points := place.get("gcps"):
        found = ElementTree.SubElement(described, "GCPList", {"Projection": wkt})
        for n, point in enumerate(points, 1):
            x, y = point.col / across + left, point.row / down + top
            at = {"Pixel": x, "Line": y, "X": point.x, "Y": point.y, "Z": point.z or 0.0}
            told = {"Id": str(n), "Info": ""} | {name: repr(float(value)) for name, value in at.items()}
            ElementTree.SubElement(found, "GCP", told)
    else:
        a, b, x, d, e, y = place["transform"][:6]
        a, d, b, e = a * across, d * across, b * down, e * down
        column, row = 0.5 - left, 0.5 - top  # a world file tells where the middle of the first pixel lies
        lines = (a, d, b, e, a * column + b * row + x, d * column + e * row + y)
        write_text(path.with_suffix(".pgw"), "".join(f"{number!r}\n" for number in map(float, lines)))
        ElementTree.SubElement(described, "SRS").text = wkt
    if wkt or points:
        write_text(path.with_name(f"{path.name}.aux.xml"), ElementTree.tostring(described, "unicode") + "\n")


def forget_place(path: Path) -> None:
    """Removes what :func:`save_place` wrote beside a PNG of an earlier picture, which may have lain elsewhere, or nowhere."""
    for beside in path.with_suffix(".pgw"), path.with_name(f"{path.name}.aux.xml"):
        beside.unlink(missing_ok=True)


def place_of(path: str | Path) -> dict[str, Any]:
    """Where a georeferenced picture lies, as rasterio takes it: ``crs`` with ``transform`` or ``gcps``.

    Raises:
        UserError: rasterio cannot read it.
    """
    rasterio = rasterio_of()
    try:
        with rasterio.open(Path(path).absolute(), driver="GTiff") as picture:
            points, of_points = picture.gcps
            if points and picture.transform.is_identity:
                return {"crs": of_points, "gcps": points}
            return {"crs": picture.crs, "transform": picture.transform}
    except (rasterio.errors.RasterioError, ValueError) as error:
        raise UserError(f"where {path} lies on Earth cannot be read ({_reason(error)}): it is damaged, copy it again") from error


def note_of(path: str | Path) -> str | None:
    """The note that a GeoTIFF was written with; None where it has none, or there is no such file."""
    with suppress(ImportError):
        rasterio = rasterio_of()
        with suppress(rasterio.errors.RasterioError), rasterio.open(Path(path).absolute(), driver="GTiff") as file:
            note = file.tags().get(NOTE)
            return note if isinstance(note, str) else None
    return None


def read_by_windows(path: str | Path, max_pixels: int = MAX_PIXELS, room: Room = memory) -> np.ndarray | None:
    """A large TIFF or PNG of three bands of 8 bits, red, green and blue, some rows at a time: nothing beside the picture fills the memory.

    Args:
        path: of a picture.
        max_pixels: refuse a picture whose header claims more.
        room: gives the array of that shape which is filled.

    Returns:
        (H, W, 3) uint8, the same as :func:`densemtmd.datasets.pictures.read_picture` gives; None where that has to read it: what is
        small, of another kind, turned, in part transparent, or compressed with loss; or rasterio is not there.

    Raises:
        UserError: not a picture, cut off, or too large.
    """
    path = Path(path)
    if not is_installed() or np.prod(picture_size(path, max_pixels)) < LARGE or is_turned(path):
        return None
    driver = DRIVERS.get(picture_format(path, max_pixels) or "")
    if driver is None:
        return None
    rasterio = rasterio_of()
    try:
        with rasterio.Env(**READING), rasterio.open(path.absolute(), driver=driver) as file:
            structure = file.tags(ns="IMAGE_STRUCTURE")
            lossless = structure.get("COMPRESSION", "none").lower() in LOSSLESS
            opaque = driver != "PNG" or file.nodatavals == (None,) * 3
            in_colour = file.dtypes == ("uint8",) * 3 and [one.name for one in file.colorinterp] == ["red", "green", "blue"]
            if not (in_colour and opaque and lossless):
                return None
            image = room((file.height, file.width, 3))
            for rows in _rows(file.height, file.width, file.block_shapes[0][0]):
                image[rows] = file.read(window=((rows.start, rows.stop), (0, file.width))).transpose(1, 2, 0)
                let_go(image)
            return image
    except UserError:  # there is no room
        raise
    except (rasterio.errors.RasterioError, ValueError) as error:
        raise UserError(f"{path} cannot be decoded ({_reason(error)}): it is damaged or cut off, copy it again") from error


def _rows(height: int, width: int, block: int) -> list[slice]:
    """The rows that are read or written at a time: whole blocks."""
    return pieces(height, max(block, PART // width), min(block, height))


def rasterio_of() -> Any:
    """rasterio, silent: what it and GDAL have to say is in the errors.

    Raises:
        ImportError: it is not installed.
    """
    import rasterio
    import rasterio.errors

    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def _reason(error: BaseException) -> str:
    """What GDAL said first, of which rasterio only says that it is above."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(str(error)) or type(error).__name__
