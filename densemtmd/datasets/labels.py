"""From files of labels to class ids, one small function per format on disk.

All formats hold *codes* (numbers or colours), which the dataset's YAML turns into class ids: :func:`code_table` writes
that down as one array, and :func:`read_labels` looks every pixel up in it.

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np

from densemtmd.datasets.config import OBJECTS, Code, DatasetConfig
from densemtmd.datasets.formats.objects import numbered, read_objects
from densemtmd.datasets.matlab import find_matrix
from densemtmd.datasets.pictures import MAX_PIXELS, loss_of, open_picture
from densemtmd.datasets.sample import Item
from densemtmd.errors import UserError
from densemtmd.files import read_bounded
from densemtmd.tasks import VOID

MOST_TEXT = 12 * MAX_PIXELS
"""Bytes of labels as text: a number of 32 bits and a space for each pixel of the largest picture."""

LOSSY = "lossy"
"""The finding that labels were compressed with loss."""

LOSSY_ADVICE = (
    "this compression changes values, so that labels no longer say what was drawn; save them as PNG anew from what they were made of, "
    "or, if 'codes' lists all that compression made of each code, add lossy to 'known'"
)

UNKNOWN = 0  # in the table; a class id is kept as 1 + class id


@dataclass(frozen=True)
class CodeTable:
    """What every code means: ``ids[code - lowest + 1] - 1`` is the class id; the ends stand for the codes beyond."""

    ids: np.ndarray  # int16: UNKNOWN, or 1 + class id
    lowest: int


def code_table(config: DatasetConfig) -> CodeTable:
    """The class id of every code of a dataset.

    For colours it has 2^24 entries, but takes little memory: the system gives memory to the pages that are touched.
    """
    names = numbered(config.codes) if config.encoding in OBJECTS else {}
    meanings = [(_number(names.get(code, code)), i) for i, codes in enumerate(config.codes.labels) for code in codes]
    meanings += [(_number(names.get(code, code)), VOID) for code in config.codes.void]
    lowest = min([0, *(code for code, _ in meanings)])
    highest = max([65535, *(code for code, _ in meanings)])
    ids = np.zeros(highest - lowest + 3, dtype=np.int16)
    for code, class_id in meanings:
        ids[code - lowest + 1] = class_id + 1
    return CodeTable(ids, lowest)


def read_labels(path: str | Path, config: DatasetConfig, table: CodeTable, item: Item | None = None) -> np.ndarray:
    """Read one file of labels.

    Args:
        path: the file, in the format that ``config.encoding`` says.
        config: the dataset.
        table: ``code_table(config)``, made once.
        item: the picture that it belongs to, without which objects cannot be drawn.

    Returns:
        (H, W) uint8 class ids, 255 = unlabelled.

    Raises:
        UserError: the file cannot be read, is of another format, was compressed with loss (unless the dataset's YAML knows of it), or
            holds a code that the dataset does not know.
    """
    path = Path(path)
    if (loss := loss_of_labels(path, config)) is not None and LOSSY not in config.known:
        raise UserError(f"{path} is {loss}: {LOSSY_ADVICE} of {config.path}")
    codes = read_codes(path, config, item)
    ids, unknown = class_ids(codes, config, table)
    if unknown.any():
        raise UserError(_unknown_codes(path, config, codes[unknown]))
    return ids


def read_codes(path: str | Path, config: DatasetConfig, item: Item | None = None) -> np.ndarray:
    """The codes in one file of labels: (H, W) int32, a colour as one number of 24 bits, objects as :func:`read_objects` draws them.

    Raises:
        UserError: the file cannot be read, or is of another format than ``config.encoding`` says.
    """
    path = Path(path)
    if config.encoding in OBJECTS:
        if item is None:
            raise ValueError(f"{path}: objects are drawn on a picture, expected the item")
        return read_objects(path, config, item)
    read = {"index": _read_indices, "colour": _read_colours, "mat": _read_mat, "text": _read_text}[config.encoding]
    return read(path, config)


def loss_of_labels(path: Path, config: DatasetConfig) -> str | None:
    """The compression by which a file of labels has lost its values, ``"JPEG"``; None where it has them."""
    return loss_of(path) if config.encoding in ("index", "colour") else None


def class_ids(codes: np.ndarray, config: DatasetConfig, table: CodeTable) -> tuple[np.ndarray, np.ndarray]:
    """What codes mean: (H, W) uint8 class ids, 255 = unlabelled, and (H, W) bool: codes that the dataset does not know."""
    ids = np.take(table.ids, codes - (table.lowest - 1), mode="clip")
    if config.codes.negative:
        ids[(ids == UNKNOWN) & (codes < 0)] = VOID + 1
    unknown = ids == UNKNOWN
    ids[unknown] = VOID + 1
    if config.codes.rest is not None:
        ids[unknown] = config.codes.rest + 1
        unknown = np.zeros_like(unknown)
    return (ids - 1).astype(np.uint8), unknown


def code_name(number: int, config: DatasetConfig) -> str:
    """A code as people write it: a number, or (R, G, B)."""
    return str((number >> 16, number >> 8 & 255, number & 255)) if config.encoding == "colour" else str(number)


def _number(code: Code) -> int:
    """A colour as one number of 24 bits; a number as it is."""
    assert not isinstance(code, str)
    return code if isinstance(code, int) else code[0] << 16 | code[1] << 8 | code[2]


def _read_indices(path: Path, config: DatasetConfig) -> np.ndarray:
    """(H, W) int32: grey values as they are (8 or 16 bits, not scaled), of a palette the indices, not the colours."""
    with open_picture(path) as picture:
        if picture.mode == "F":
            return _whole(np.asarray(picture), str(path))
        if picture.mode in ("LA", "PA"):  # transparency says nothing, as with colours
            return np.asarray(picture.getchannel(0)).astype(np.int32)
        if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
            colours = picture.mode in ("RGB", "RGBA", "RGBX", "RGBa")
            advice = "if its colours are the codes, write encoding: colour, and their colours" if colours else "save it as a grey PNG"
            raise UserError(
                f"{path} is a picture of mode {picture.mode}, expected one value per pixel (grey or a palette) because "
                f"of encoding: index in {config.path}; {advice}"
            )
        return np.asarray(picture).astype(np.int32)


def _read_colours(path: Path, config: DatasetConfig) -> np.ndarray:
    """(H, W) int32: colours as numbers of 24 bits; alpha says nothing."""
    with open_picture(path) as picture:
        if picture.mode not in ("RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1"):
            numbers = picture.mode == "F" or picture.mode.startswith("I")
            advice = "if its values are the codes, write encoding: index, and which they are" if numbers else "save it as a PNG in RGB"
            raise UserError(
                f"{path} is a picture of mode {picture.mode}, expected RGB because of encoding: colour in {config.path}; {advice}"
            )
        rgb = np.asarray(picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB"))
    packed = rgb[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= rgb[..., channel]
    return packed


def _read_mat(path: Path, config: DatasetConfig) -> np.ndarray:
    """(H, W) int32: the matrix ``mat_key`` of a MATLAB file."""
    assert config.mat_key is not None  # checked with the YAML
    key = config.mat_key
    try:
        codes, names = find_matrix(path, key)
    except NotImplementedError as error:
        raise UserError(f"{path} is a MATLAB 7.3 file, expected an older version: save it with -v7") from error
    except TypeError as error:
        raise UserError(f"{path}: {key!r} is {error}, expected whole numbers (H, W)") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read: no such file; expected a .mat there") from error
    except Exception as error:  # of an old file, SciPy raises whatever it stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as .mat ({reason}): it is damaged or cut off, copy it again") from error
    if codes is None:
        there = shorten(", ".join(names), 200, placeholder=" ...") or "none at all"
        raise UserError(f"{path} has no matrix {key!r} but {there}: name the right one as mat_key in {config.path}")
    if codes.ndim != 2 or codes.dtype.kind not in "buif":
        raise UserError(f"{path}: {key!r} is {codes.dtype} of shape {codes.shape}, expected whole numbers (H, W)")
    return _whole(codes, f"{path}: {key!r}")


def _whole(codes: np.ndarray, what: str) -> np.ndarray:
    """Codes of any type of numbers as int32."""
    with np.errstate(invalid="ignore"):  # what does not fit is refused by the next line
        whole = codes.astype(np.int32)
    if (strange := codes[whole != codes]).size:
        raise UserError(f"{what} has the value {strange[0]}, expected whole numbers of at most 32 bits")
    return whole


def _read_text(path: Path, config: DatasetConfig) -> np.ndarray:
    """(H, W) int32: whole numbers as text, a line per row."""
    content = read_bounded(path, "a text file", MOST_TEXT)
    if strange := content.translate(None, b"0123456789+- \t\r\n"):
        raise UserError(
            f"{path} has the character {chr(strange[0])!r}, expected whole numbers with spaces between, a line per row"
        )
    lengths = [len(numbers) for line in content.split(b"\n") if (numbers := line.split())]
    rows, columns = len(lengths), max(lengths, default=0)
    codes = np.fromstring(content, dtype=np.int32, sep=" ")
    if rows == 0 or min(lengths) != columns or codes.size != rows * columns:
        raise UserError(
            f"{path} has {codes.size} numbers in {rows} lines of up to {columns}, expected lines of one length: "
            "it is damaged or cut off, copy it again"
        )
    return codes.reshape(rows, columns)


def _unknown_codes(path: Path, config: DatasetConfig, codes: np.ndarray) -> str:
    """The sentence about codes that the dataset does not know; ``codes`` holds one per pixel."""
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [code_name(int(value), config) for value in values[order[:3]]]
    what = ("colour" if config.encoding == "colour" else "code") + "s" * (len(values) > 1)
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    pixels = f"{len(codes)} pixel{'s' * (len(codes) > 1)}"
    unknown = f"{what} {', '.join(shown)}{more}"
    return f"{path} has {pixels} of the {unknown}, which no label of {config.path} has: {unknown_advice(path, config)}"


def unknown_advice(path: str | Path, config: DatasetConfig) -> str:
    """What to do about a code that no label has, in a file."""
    path = Path(path)
    if (loss := loss_of_labels(path, config)) is not None:
        return f"{loss} changes values, so labels should be PNG; else add it to the codes of a label or to void"
    return "add it to the codes of a label or to void"
