"""Damaged input of every kind: each either works or is refused with one sentence that names the file, in no time and in little memory.

Every test draws its damage from a seed, so a failure comes back. ``DENSEMTMD_FUZZ=20 pytest tests/test_fuzz.py`` looks twenty times longer.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as reference
from scipy.io import savemat
from toy import write_toy

from densemtmd import Labelset, OutputSpace, backbones, checkpoint, training
from densemtmd.datasets import labels
from densemtmd.datasets.config import load_dataset_config, parse_dataset_config
from densemtmd.datasets.folder import open_dataset
from densemtmd.datasets.hands import nyu
from densemtmd.datasets.hands.dataset import load_hands
from densemtmd.datasets.labels import code_table, read_labels
from densemtmd.datasets.pictures import open_picture, read_picture
from densemtmd.datasets.starter import draft
from densemtmd.errors import UserError
from densemtmd.inference import Predictor
from densemtmd.runs import run as runs
from densemtmd.runs.folder import reopen, tracked
from densemtmd.settings import DataSettings, RunSettings
from densemtmd.strategies import stages

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest shows what the package hides: see test_the_libraries_keep_quiet

LONGER = int(os.environ.get("DENSEMTMD_FUZZ", "1"))
SECONDS, MEGABYTES = 10, 200
"""What one damaged file may cost at most. Nothing here is larger than a few kilobytes."""


class Attempts:
    """Tries something on one damaged file after the other and counts how it ends."""

    def __init__(self) -> None:
        self.worked = self.refused = 0

    def __call__(self, file: Path, damage: object, work: Callable[[], object]) -> None:
        before = memory()
        with timeout(damage):
            try:
                work()
                self.worked += 1
            except UserError as error:
                text = str(error)
                assert text.isprintable() and len(text) < 2100 and str(file) in text, (damage, text)
                self.refused += 1
            except Exception as error:
                raise AssertionError(f"{damage}: {error!r}") from error
        assert memory() - before < MEGABYTES, f"{damage}: {memory() - before:.0f} MB more"

    def both(self) -> None:
        """Some of it must work and some be refused, else nothing was tried."""
        assert self.worked and self.refused, vars(self)


def memory() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


@contextmanager
def timeout(damage: object) -> Iterator[None]:
    """Fails what hangs."""

    def ring(*_: object) -> None:
        raise AssertionError(f"{damage}: no end after {SECONDS} s")

    alarm = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, ring) if alarm else None
    signal.alarm(SECONDS if alarm else 0)
    try:
        yield
    finally:
        signal.alarm(0)
        if alarm:
            signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------------------------------------
# Kinds of damage


def damaged_bytes(content: bytes, chance: random.Random, head: int = 64) -> tuple[str, bytes]:
    """What copying, disks and people make of a file: its name, and the bytes. The first ``head`` bytes are hit as often as all others."""
    kind = chance.choice(["cut", "bits", "head", "zeros", "ones", "drop", "noise", "bytes"])
    data, head = bytearray(content), min(head, len(content))
    place = chance.randrange(len(data))
    if kind == "cut":
        del data[place:]
    elif kind == "bits":
        for _ in range(chance.choice([1, 1, 3, 20])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "head":
        for _ in range(chance.choice([1, 2, 4])):
            data[chance.randrange(head)] = chance.randrange(256)
    elif kind == "zeros":
        data[place : place + 30] = bytes(len(data[place : place + 30]))
    elif kind == "ones":
        place = chance.randrange(head)
        data[place : place + 4] = b"\xff" * len(data[place : place + 4])
    elif kind == "drop":
        del data[place : place + chance.randrange(1, 20)]
    elif kind == "noise":
        data[chance.randrange(1, head) :] = chance.randbytes(200)
    else:
        data = bytearray(chance.randbytes(chance.choice([0, 1, 10, 300])))
    return kind, bytes(data)


STRANGE: list[Any] = [
    None, "", 0, -1, 1, 2**70, 1.5, float("nan"), float("inf"), True, [], [[]], {}, {"a": 1}, [None], ["a", "a"], "*", "**", "a**b", "/",
    "..", "[", "[z-a]", "[[]", "(", "(a+)+$", "{}", "\0", "\n", "a\nb", "é", "rest", "negative", "one", "x" * 5000, [1, 2, 3], [256, 0, 0],
    {1: 2}, {None: None}, [{"label": "a"}, {"label": "b"}],
    "squares.yaml", "damaged.yaml", "camvid", b"\xff", date(2020, 1, 1), "${x}", "a/b", "~", ".", "./", "zero.yaml", "pipe.yaml",
    "/etc/passwd", "e\u0301", "images\\*", "<<", "=",
]  # fmt: skip
"""What may stand in the place of a value."""

LINES = [
    "name: 2024-13-45", "x: 0x_", "x: !!python/object:os.system y", "<<: 3", "name: &a [*a]", ": :", "[" * 3000, "x: " + "9" * 5000,
    "x: !!binary %%%", "x: !!int abc", "x: !!timestamp abc", "x: =", "---\nx: 1", "%YAML 9.9", "\0", "x: \ud800",
    "a: &a {x: y}\n" + "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "!!int ''", "x: !!int ''", "x: !!float ''", "- !!int", "{" * 3000, "x: " + "1:" * 5000 + "1", "a: &a\n  b: *a", "[a]: b", "&a a: *a",
    "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "name: *i",
]  # fmt: skip
"""What YAML stumbles over."""


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within nested dicts and lists."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def damaged_values(data: Any, chance: random.Random) -> tuple[str, Any]:
    """Plain data with keys dropped or renamed, and values replaced, exchanged or nested deep: the kind of damage, and what is left."""
    data = copy.deepcopy(data)
    kind = chance.choice(["drop", "value", "value", "value", "key", "swap", "deep"])
    *above, last = chance.choice(list(places(data)))
    parent = data
    for key in above:
        parent = parent[key]
    if kind == "drop":
        del parent[last]
    elif kind == "value":
        parent[last] = copy.deepcopy(chance.choice(STRANGE))
    elif kind == "key" and isinstance(parent, dict):
        parent[chance.choice([f"{last}x", None, 3, "", True])] = parent.pop(last)
    elif kind == "swap":
        value: Any = data
        for key in chance.choice(list(places(data))):
            value = value[key]
        parent[last] = copy.deepcopy(value)
    else:
        for _ in range(chance.choice([2, 50, 100])):
            parent[last] = chance.choice([[parent[last]], {"a": parent[last]}])
    return f"{kind} at {'.'.join(map(str, (*above, last)))}", data


def damaged_yaml(data: Mapping[str, Any], chance: random.Random) -> tuple[str, bytes]:
    """A YAML file whose values, letters or lines are wrong."""
    if chance.random() < 0.6:
        kind, data = damaged_values(data, chance)
        return kind, yaml.safe_dump(data).encode()
    text = bytearray(yaml.safe_dump(data).encode())
    if chance.random() < 0.5:
        line = chance.choice(LINES)
        return f"line {line[:20]!r}", bytes(text) + b"\n" + line.encode("utf-8", "surrogatepass") + b"\n"
    for _ in range(chance.choice([1, 2, 5])):
        place = chance.randrange(len(text))
        text[place : place + chance.randrange(2)] = bytes([chance.choice(b"[]{}:,&*!|>'\"%@`#-?\t\n \\=~0.x\x00\xff\xc3<")])
    return "letters", bytes(text)


def jsonable(data: Any) -> str:
    return json.dumps(data, default=str)


# ------------------------------------------------------------------------------------------------------------------------------------
# Pictures


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    """A small picture in many formats."""
    array = np.random.default_rng(0).integers(0, 256, (24, 33, 3)).astype(np.uint8)
    picture, grey = Image.fromarray(array), Image.fromarray(array[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png": encoded(picture, "PNG"),
        "png, 16 bits": encoded(grey, "PNG"),
        "png, palette": encoded(picture.quantize(16), "PNG", transparency=3),
        "png, alpha": encoded(picture.convert("RGBA"), "PNG"),
        "jpeg": encoded(picture, "JPEG"),
        "jpeg, turned": encoded(picture, "JPEG", exif=exif, progressive=True),
        "jpeg, cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "gif": encoded(picture.quantize(16), "GIF", save_all=True, append_images=[picture.quantize(8)]),
        "tiff": encoded(picture, "TIFF"),
        "tiff, lzw": encoded(picture, "TIFF", compression="tiff_lzw"),
        "tiff, fax": encoded(picture.convert("1"), "TIFF", compression="group4"),
        "bmp": encoded(picture, "BMP"),
        "webp": encoded(picture, "WEBP"),
        "ppm": encoded(picture, "PPM"),
    }


PICTURES = pictures()


@pytest.mark.parametrize("format", PICTURES)
def test_pictures(tmp_path, format):
    chance, attempt, path = random.Random(format), Attempts(), tmp_path / "picture.png"
    path.write_bytes(PICTURES[format])
    assert read_picture(path).shape in ((24, 33, 3), (33, 24, 3))
    for n in range(20 * LONGER):
        kind, content = damaged_bytes(PICTURES[format], chance)
        path.write_bytes(content)

        def work():
            picture = read_picture(path, max_pixels=4_000_000)
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size

        attempt(path, (n, format, kind), work)
    assert attempt.refused


@pytest.mark.parametrize("format", PICTURES)
def test_the_head_of_another_format(tmp_path, format):
    attempt, path = Attempts(), tmp_path / "picture.png"
    for other, content in PICTURES.items():
        path.write_bytes(content[:16] + PICTURES[format][16:])
        attempt(path, (format, other), lambda: read_picture(path))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width: int, height: int) -> dict[str, bytes]:
    """Small files whose heads claim a huge picture."""
    size = struct.pack("<HH", min(width, 65535), min(height, 65535))
    bmp, tiff = bytearray(PICTURES["bmp"]), io.BytesIO()
    bmp[18:26] = struct.pack("<ii", width, height)
    Image.new("1", (1, 1)).save(tiff, "TIFF")
    tags = bytearray(tiff.getvalue())
    first = struct.unpack("<I", tags[4:8])[0]
    for entry in range(first + 2, first + 26, 12):  # the first two tags: width and height
        tags[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, width if entry == first + 2 else height)
    jpeg = bytearray(PICTURES["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", min(height, 65500), min(width, 65500))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return {
        "png": png,
        "jpeg": bytes(jpeg),
        "gif": b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff," + bytes(4) + size + b"\0\x02\x02\x4c\x01\0;",
        "a frame larger than its gif": b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff," + bytes(4) + size + b"\0\x02\x02\x4c\x01\0;",
        "bmp": bytes(bmp),
        "tiff": bytes(tags),
        "ppm": f"P6 {width} {height} 255\n".encode() + bytes(100),
        "a png larger than its icon": struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png,
    }


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (100_000_000, 100)])
def test_claims_of_a_huge_picture(tmp_path, size):
    attempt = Attempts()
    for format, content in claiming(*size).items():
        path = tmp_path / "huge.png"
        path.write_bytes(content)
        attempt(path, (format, size), lambda path=path: read_picture(path))
        with pytest.raises(UserError):
            read_picture(path, max_pixels=1_000_000)
    assert attempt.refused >= 6


def test_programs_are_no_pictures(tmp_path):
    """An EPS would be run by Ghostscript, if it is there."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{} loop\n")
    with pytest.raises(UserError, match="is not a picture"):
        read_picture(path)


def test_the_libraries_keep_quiet(tmp_path):
    """What Pillow, libtiff and SciPy have to say of damaged files does not stand beside the sentence on stderr."""
    script = f"""
import random, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_fuzz as fuzz
chance, path = random.Random(1), Path({str(tmp_path / "picture.tif")!r})
for n in range(300):
    format = chance.choice([name for name in fuzz.PICTURES if name.startswith(("tiff", "png", "jpeg, turned"))])
    path.write_bytes(fuzz.damaged_bytes(fuzz.PICTURES[format], chance)[1])
    try:
        fuzz.read_picture(path, 1_000_000)
    except fuzz.UserError:
        pass
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


# ------------------------------------------------------------------------------------------------------------------------------------
# Labels

IDS = np.random.default_rng(1).integers(0, 4, (24, 33)).astype(np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)


def label_files() -> dict[str, tuple[str, bytes]]:
    """The same labels in every format: name -> (encoding of the dataset's YAML, content)."""
    palette = Image.fromarray(IDS).convert("P")
    palette.putpalette(COLOURS.ravel().tolist())
    mat, packed, old = io.BytesIO(), io.BytesIO(), io.BytesIO()
    savemat(mat, {"names": np.array(["a", 1], object), "S": IDS})
    savemat(packed, {"S": IDS.astype(float), "more": {"deep": [1, 2]}}, do_compression=True)
    savemat(old, {"S": IDS.astype(np.int32)}, format="4")
    return {
        "index": ("index", encoded(Image.fromarray(IDS), "PNG")),
        "index, palette": ("index", encoded(palette, "PNG")),
        "index, 16 bits": ("index", encoded(Image.fromarray(IDS.astype(np.uint16)), "PNG")),
        "colour": ("colour", encoded(Image.fromarray(COLOURS[IDS]), "PNG")),
        "colour, bmp": ("colour", encoded(Image.fromarray(COLOURS[IDS]), "BMP")),
        "mat": ("mat", mat.getvalue()),
        "mat, packed": ("mat", packed.getvalue()),
        "mat, old": ("mat", old.getvalue()),
        "text": ("text", "\n".join(" ".join(map(str, row)) for row in IDS).encode()),
    }


LABELS = label_files()


@pytest.fixture
def claims_of_4_megapixels(monkeypatch):
    """A head may claim what memory the default limit of 200 million pixels allows; what is cut off later is bounded by the claim alone."""
    monkeypatch.setattr(labels, "open_picture", partial(open_picture, max_pixels=4_000_000))


def labels_config(encoding: str, path: Path):
    colours = encoding == "colour"
    labelset = [{"label": name, "colour": colour} if colours else name for name, colour in zip("abc", COLOURS.tolist(), strict=False)]
    data = {
        "name": "mine", "images": "i/*", "labels": "l/*", "encoding": encoding, "labelset": labelset,
        "void": [COLOURS[3].tolist()] if colours else [3],
    }  # fmt: skip
    return parse_dataset_config(data | ({"mat_key": "S"} if encoding == "mat" else {}), path)


@pytest.mark.usefixtures("claims_of_4_megapixels")
@pytest.mark.parametrize("format", LABELS)
def test_labels(tmp_path, format):
    encoding, content = LABELS[format]
    config = labels_config(encoding, tmp_path / "mine.yaml")
    chance, attempt, path, table = random.Random(format), Attempts(), tmp_path / "labels.png", code_table(config)
    path.write_bytes(content)
    assert np.array_equal(read_labels(path, config, table), np.where(IDS == 3, 255, IDS))
    for n in range(25 * LONGER):
        kind, damaged = damaged_bytes(content, chance, head=200)
        path.write_bytes(damaged)

        def work():
            ids = read_labels(path, config, table)
            assert ids.dtype == np.uint8 and ids.ndim == 2 and set(np.unique(ids)) <= {0, 1, 2, 255}

        attempt(path, (n, format, kind), work)
    assert attempt.refused


@pytest.mark.usefixtures("claims_of_4_megapixels")
@pytest.mark.parametrize("format", LABELS)
def test_labels_of_another_format(tmp_path, format):
    encoding = LABELS[format][0]
    config = labels_config(encoding, tmp_path / "mine.yaml")
    attempt, path, table = Attempts(), tmp_path / "labels.png", code_table(config)
    for other, (_, content) in LABELS.items():
        path.write_bytes(content)
        attempt(path, (format, other), lambda: read_labels(path, config, table))
    assert attempt.refused >= 4


def object_files() -> dict[str, tuple[str, Any]]:
    """The same square in every format of objects: encoding -> (name of the file, what it holds)."""
    square = [[5, 4], [20, 4], [20, 18], [5, 18]]
    flat, region = np.ravel(square).tolist(), {"original_width": 33, "original_height": 24, "image_rotation": 0, "id": "x"}
    bits = f"{4 * 24 * 33:032b}" + "00111" + "1111" * 4 + "1" + "00" + f"{4 * 24 * 33 - 1:016b}" + "11111111" + "0000"  # all of it
    packed = [int(bits[at : at + 8], 2) for at in range(0, 80, 8)]
    png = base64.b64encode(encoded(Image.fromarray(np.ones((3, 3), bool)), "PNG")).decode()
    runs = reference.encode(np.asfortranarray(np.tri(24, 33, dtype=np.uint8)))["counts"].decode()
    return {
        "coco": ("all.json", {
            "images": [{"id": 1, "file_name": "0.png", "height": 24, "width": 33}], "categories": [{"id": 3, "name": "a"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [flat], "iscrowd": 0},
                {"id": 2, "image_id": 1, "category_id": 3, "segmentation": {"size": [24, 33], "counts": [700, 92]}, "iscrowd": 1},
                {"id": 3, "image_id": 1, "category_id": 3, "segmentation": {"size": [24, 33], "counts": runs}, "iscrowd": 0},
            ],
        }),
        "labelme": ("0.json", {
            "shapes": [{"label": "a", "points": square, "shape_type": "polygon"},
                       {"label": "b", "points": [[3, 3], [5, 5]], "shape_type": "circle"},
                       {"label": "b", "points": [[3, 3], [5, 5]], "shape_type": "mask", "mask": png}],
            "imagePath": "0.png", "imageData": None, "imageHeight": 24, "imageWidth": 33,
        }),
        "label_studio": ("all.json", [{"data": {"image": "0.png"}, "annotations": [{"result": [
            region | {"type": "polygonlabels", "value": {"points": square, "polygonlabels": ["a"]}},
            region | {"type": "ellipselabels", "value": {"x": 9, "y": 9, "radiusX": 3, "radiusY": 4, "ellipselabels": ["b"]}},
            region | {"type": "brushlabels", "value": {"format": "rle", "rle": packed, "brushlabels": ["c"]}},
        ]}]}]),
        "yolo": ("0.txt", "0 0.1 0.1 0.5 0.1 0.5 0.9\n1 0.2 0.2 0.3 0.2 0.3 0.4\n"),
    }  # fmt: skip


@pytest.mark.parametrize("encoding", object_files())
def test_objects(tmp_path, encoding):
    """Whatever a file of objects tells: its picture is read, or the file is refused; and a draft is made of it, or none."""
    name, content = object_files()[encoding]
    Image.fromarray(np.zeros((24, 33, 3), np.uint8)).save(tmp_path / "0.png")
    path, chance, attempt = tmp_path / name, random.Random(encoding), Attempts()
    known = {"name": "mine", "folder": str(tmp_path), "images": "*.png", "labels": f"*{path.suffix}", "encoding": encoding}
    known |= {"labelset": ["a", "b", {"label": "c", "codes": "rest"}], "split": {"fractions": {"train": 1}}}
    config = parse_dataset_config(known, tmp_path / "mine.yaml")

    def read() -> None:
        dataset = open_dataset(config, tmp_path)
        for item in dataset.splits["train"]:
            target = dataset.load(item).target
            assert target.shape == (24, 33) and set(np.unique(target)) <= {0, 1, 2}

    path.write_text(content if isinstance(content, str) else json.dumps(content))
    read()
    base = path.read_bytes()
    for n in range(50 * LONGER):
        if n % 2 or isinstance(content, str):
            kind, damaged = damaged_bytes(base, chance, head=200)
        else:
            kind, values = damaged_values({"all": content}, chance)
            damaged = jsonable(values.get("all", 3)).encode()
        path.write_bytes(damaged)
        attempt(tmp_path, (n, kind), read)
        if n % 5 == 0:
            attempt(tmp_path, (n, kind, "draft"), lambda: draft(tmp_path))
    attempt.both()


def test_files_of_objects_that_are_bombs(tmp_path):
    """Small files that stand for much: lists in lists, numbers of any length, outlines as long as memory, more objects than time."""
    Image.fromarray(np.zeros((24, 33, 3), np.uint8)).save(tmp_path / "0.png")
    many = ",".join(['{"label":"a","points":[[-100,-100],[200,0],[0,200]],"shape_type":"polygon"}'] * 1000)
    texts = ["[" * 10**6, '{"shapes": [' + "{" * 5000, '{"shapes": [' + "9" * 5000 + "]}", '{"shapes": [' + "[]," * 400_000 + "[]]}",
             '{"shapes": [{"label": "a", "points": [' + "[-200,-200],[200,200]," * 30_000 + "[0,0]]}]}",
             '{"shapes": [' + many + "]}", '{"a": "' + "x" * 10**6]  # fmt: skip
    known = {"name": "mine", "folder": str(tmp_path), "images": "*.png", "labels": "*.json", "encoding": "labelme"}
    config = parse_dataset_config(known | {"labelset": ["a", {"label": "c", "codes": "rest"}]}, tmp_path / "mine.yaml")
    attempt, path = Attempts(), tmp_path / "0.json"
    for number, text in enumerate(texts):
        path.write_text(text)

        def work() -> None:
            dataset = open_dataset(config, tmp_path)
            for items in dataset.splits.values():
                for item in items:
                    dataset.load(item)

        attempt(tmp_path, number, work)
    attempt.both()


def test_a_matrix_that_ends_the_process_in_other_readers(tmp_path):
    """All flags set: SciPy then reads the next matrix as the imaginary part of this one, and dies."""
    config = labels_config("mat", tmp_path / "mine.yaml")
    content = bytearray(LABELS["mat"][1])
    for place in range(len(content) - 8):
        if content[place : place + 8] == bytes((6, 0, 0, 0, 8, 0, 0, 0)):  # the flags of a matrix
            content[place + 8 : place + 12] = b"\x09\xff\xff\xff"
    path = tmp_path / "labels.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match="'S' is a complex matrix, expected whole numbers"):
        read_labels(path, config, code_table(config))


# ------------------------------------------------------------------------------------------------------------------------------------
# Hands


def write_hands(root: Path, encoding: str) -> list[Path]:
    """A dataset of a few hands, balls before a camera, in the files of NYU or ICVL; the files that may be damaged, the labels twice."""
    rows, columns = np.mgrid[:72, :96]
    depth = np.where(np.hypot(rows - 36, columns - 48) < 30, 600, 0)
    uvd = np.array([48.0, 36.0, 600.0]) + np.zeros((3, 6, 36, 3))
    pictures = []
    for split, home in (("train", "Training"), ("test", "Testing")):
        for n in range(6):
            name = nyu.picture_name(n + 1) if encoding == "nyu" else f"image_{n:04}.png"
            folder = root / split if encoding == "nyu" else root / home / "Depth" / ("a" if split == "train" else f"test_seq_{1 + n % 2}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(nyu.pack(depth) if encoding == "nyu" else depth.astype(np.uint16)).save(folder / name)
            pictures.append(folder / name)
        if encoding == "nyu":
            savemat(root / split / "joint_data.mat", {"joint_uvd": uvd, "joint_xyz": uvd})
            continue
        lines = [f"{path.parent.name}/{path.name} {' '.join(['48 36 600'] * 16)}\n" for path in pictures[-6:]]
        for name, some in (
            [("labels.txt", lines)] if split == "train" else [("test_seq_1.txt", lines[::2]), ("test_seq_2.txt", lines[1::2])]
        ):
            (root / home / name).write_text("".join(some))
    labels = sorted([*root.rglob("*.mat"), *root.rglob("*.txt")])
    return [*labels, *labels, pictures[0], pictures[-1]]


@pytest.mark.parametrize("encoding", ["nyu", "icvl"])
def test_files_of_hands(tmp_path, encoding):
    """Opened and cropped: what is damaged is refused, or left out with a note."""
    files = write_hands(tmp_path / "hands", encoding)
    config = parse_dataset_config({"name": "hands", "encoding": encoding}, tmp_path / "hands.yaml")
    chance, attempt = random.Random(encoding), Attempts()

    def work():
        for hands in load_hands(open_dataset(config, tmp_path), None, 16, 1.0).values():
            assert hands.depth.shape == (len(hands), 16, 16) and np.isfinite(hands.xyz).all()

    work()
    for n in range(40 * LONGER):
        file = chance.choice(files)
        content = file.read_bytes()
        kind, damaged = damaged_bytes(content, chance, head=200)
        if file.suffix == ".mat" and chance.random() < 0.5:  # what it is made of, and not its bytes
            strange = chance.choice([np.nan, np.inf, -1e300, 0.0, 1e9])
            shape = chance.choice([(3, 6, 36, 3), (3, 6, 36), (0, 0, 36, 3), (3, 0, 36, 3), (1, 1, 36, 3), (2, 6, 14, 3)])
            kind, packed = f"{strange} {shape}", io.BytesIO()
            savemat(packed, {chance.choice(["joint_uvd", "other"]): np.full(shape, strange)})
            damaged = packed.getvalue()
        file.write_bytes(damaged)
        attempt(tmp_path / "hands", (n, file.name, kind), work)
        file.write_bytes(content)
    attempt.both()
    for file in dict.fromkeys(files):
        content = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        attempt(tmp_path / "hands", (file.name, "a pipe"), work)
        file.unlink()
        file.write_bytes(content)


def test_claims_of_a_huge_matrix(tmp_path):
    config, attempt, path = labels_config("mat", tmp_path / "mine.yaml"), Attempts(), tmp_path / "labels.mat"
    plain = LABELS["mat"][1].replace(struct.pack("<ii", 24, 33), struct.pack("<ii", 100_000, 100_000))
    old = LABELS["mat, old"][1].replace(struct.pack("<ii", 24, 33), struct.pack("<ii", 100_000, 100_000))
    bomb = io.BytesIO()
    savemat(bomb, {"S": np.zeros((10_000, 1_000), np.uint8)})
    packed = zlib.compress(bomb.getvalue()[128:].replace(struct.pack("<ii", 10_000, 1_000), struct.pack("<ii", 2, 3)))
    more = bomb.getvalue()[:128] + struct.pack("<II", 15, len(packed)) + packed  # 10 MB in 10 kB, where 6 bytes should be
    for content in (plain, old, more):
        path.write_bytes(content)
        attempt(path, "huge", lambda: read_labels(path, config, code_table(config)))
    assert attempt.refused == 3
    with pytest.raises(UserError, match="S is not as long as it says"):  # so it was not unpacked to its end
        read_labels(path, config, code_table(config))


# ------------------------------------------------------------------------------------------------------------------------------------
# YAMLs of datasets

DATASET: dict[str, Any] = {
    "name": "squares", "domain": "d", "folder": "squares", "images": ["images/*.png"], "labels": "labels/*.png", "key": r"(\d+)",
    "encoding": "index", "void": [255], "sequence": r"^(\d)", "together": [["000", "001"]], "exclude": "left out.txt", "known": ["void"],
    "where": "https://example.org",
    "labelset": [{"label": "other", "codes": [0], "colour": [1, 2, 3]}, {"label": "square", "codes": 1, "colour": [4, 5, 6]}],
    "split": "by fractions",
    "splits": {
        "by fractions": {"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "seed": 0},
        "by lists": {"lists": {"train": "train.txt", "val": 0.2, "test": "test.txt"}},
        "by patterns": {"patterns": {"train": "images/00[0-5]*", "test": "images/0*[6-9].png"}},
        "by folds": {"folds": "fold{}.txt", "count": 3, "test": 1, "val": 0.1},
    },
}  # fmt: skip
DERIVED: dict[str, Any] = {
    "name": "derived", "domain": "d", "exclude": "left out.txt",
    "derive": {
        "from": "squares.yaml", "map": {"a": "other", "b": {"labels": "square", "colour": [1, 2, 3]}},
        "take": {"part": 1, "of": 2, "splits": ["train"]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A data root with a small dataset and all that the YAMLs above name."""
    root = tmp_path_factory.mktemp("datasets")
    write_toy(root, "squares", "square")
    keys = [f"{n:03}\n" for n in range(12)]
    (root / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.yaml")
    for name, listed in (("left out", keys[:1]), ("train", keys[1:8]), ("test", keys[8:])):
        (root / "squares" / f"{name}.txt").write_text("".join(listed))
    return root


@pytest.mark.parametrize("split", [*DATASET["splits"], "derived"])
def test_yamls_of_datasets(datasets, split):
    base = DERIVED if split == "derived" else DATASET | {"split": split}
    chance, attempt, path = random.Random(split), Attempts(), datasets / "damaged.yaml"
    path.write_text(yaml.safe_dump(base))
    open_dataset(load_dataset_config(path), datasets)
    for n in range(40 * LONGER):
        kind, content = damaged_yaml(base, chance)
        path.write_bytes(content)
        attempt(datasets, (n, split, kind), lambda: open_dataset(load_dataset_config(path), datasets))
    attempt.both()


@pytest.mark.parametrize("file", ["left out.txt", "train.txt"])
def test_lists_of_pictures(datasets, file):
    """Those to leave out, and those of a split, as bytes and as lines."""
    path, (split, key) = datasets / "damaged.yaml", {"left out.txt": ("by folds", "exclude"), "train.txt": ("by lists", "split")}[file]
    path.write_text(yaml.safe_dump(DATASET | {"split": split}))
    listed = datasets / "squares" / file
    content, chance, attempt = listed.read_bytes(), random.Random(file), Attempts()
    lines = ["images\\001.png", "images/001.png labels/001.png", "image,label", "a\tb", ";;", "\0", "x" * 10_000, "\u2028", "é", "[", "# x"]
    try:
        for n in range(40 * LONGER):
            kind, damaged = damaged_bytes(content, chance)
            if n % 2:
                line = chance.choice(lines)
                kind, damaged = f"line {line[:20]!r}", content + line.encode() + b"\n" * chance.choice([1, 1, 100])
            listed.write_bytes(damaged)
            attempt(datasets, (n, key, kind), lambda: open_dataset(load_dataset_config(path), datasets))
    finally:
        listed.write_bytes(content)
    attempt.both()


def test_drafts_of_damaged_folders(tmp_path):
    """Whatever lies in a folder: a draft that can be read, or one sentence."""
    chance, attempt = random.Random(0), Attempts()
    for n in range(15 * LONGER):
        root = tmp_path / f"{n}"
        write_toy(root, "squares", "square", pictures=4)
        for _ in range(chance.choice([1, 3, 8])):
            path = chance.choice(sorted(path for path in root.rglob("*") if path.is_file()))
            kind, content = damaged_bytes(path.read_bytes().ljust(2), chance)
            path.write_bytes(content)
            suffixes = [".png", ".JPG", ".txt", ".mat", ".json", ".xml", ".tif", ".db", ""]
            other = path.with_name(path.stem + chance.choice(["", "", "_x", " 2"]) + chance.choice(suffixes))
            if not other.exists():
                path.rename(other)

        def work(root=root):
            assert isinstance(yaml.safe_load(draft(root)), dict)

        attempt(root, (n, kind), work)
    attempt.both()


@pytest.mark.parametrize("line", LINES)
def test_what_yaml_stumbles_over(datasets, line):
    path = datasets / "damaged.yaml"
    path.write_bytes((yaml.safe_dump(DATASET) + line + "\n").encode("utf-8", "surrogatepass"))
    Attempts()(path, line[:20], lambda: load_dataset_config(path))


# ------------------------------------------------------------------------------------------------------------------------------------
# Folders of runs, and checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on two small datasets."""
    root = tmp_path_factory.mktemp("trained")
    files = [str(write_toy(root, name, shape)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    settings = RunSettings(
        data=DataSettings(datasets=files),
        model={"name": "patchnet", "widths": [2, 3, 4], "hidden": 5, "dropout": 0.1},
        strategy={"name": "jt", "stages": [{"name": "jt", "datasets": "all"}]},
        train=training.TrainSettings(epochs=None, outputs=600, epoch_outputs=300, crop=24, batch=4, device="cpu"),
        score=runs.ScoreSettings(scoring="strided"), tracking="none", cache="none", data_root=str(root), runs=str(root / "runs"),
    )  # fmt: skip
    return runs.run(settings)


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_settings_of_runs(run):
    """What resuming reads, up to the point where it loads the pictures."""
    chance, attempt, base = random.Random(0), Attempts(), yaml.safe_load((run / "config.yaml").read_text())
    for n in range(80 * LONGER):
        kind, content = damaged_yaml(base, chance)
        (run / "config.yaml").write_bytes(content)

        def work():
            settings, opened = reopen(run)
            try:
                runs.check(settings)
                stages(settings.strategy, [dataset.name for dataset in opened])
            except UserError as error:  # as `resume` tells it
                raise UserError(f"{run / 'config.yaml'}: {error}") from None

        attempt(run, (n, kind), work)
    attempt.both()


@pytest.mark.parametrize("name", ["tracking.json", "splits/discs/val.txt"])
def test_other_files_of_runs(run, name):
    chance, attempt, content = random.Random(name), Attempts(), (run / name).read_bytes()
    for n in range(20):
        kind, damaged = damaged_bytes(content, chance)
        (run / name).write_bytes(damaged)
        attempt(run / name, (n, kind), lambda: (reopen(run), tracked(run)))
    assert attempt.refused


@pytest.mark.parametrize("name", ["config.yaml", "scores.json", "per_image.npz"])
def test_runs_to_compare(trained, run, name, monkeypatch, capsys):
    from densemtmd.commands import compare

    config = yaml.safe_load((run / "config.yaml").read_text()) | {"seed": 1}
    scores = json.loads((run / "scores.json").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    archive = (run / "per_image.npz").read_bytes()
    chance, attempt = random.Random(name), Attempts()
    for n in range(50 * LONGER):
        if name == "config.yaml":
            kind, content = damaged_yaml(config, chance)
        elif name == "per_image.npz":
            kind, content = damaged_bytes(archive, chance)
        elif n % 2:
            kind, data = damaged_values(scores, chance)
            content = jsonable(data).encode()
        else:
            kind, content = damaged_bytes(json.dumps(scores).encode(), chance)
        (run / name).write_bytes(content)
        attempt(run, (n, kind), lambda: compare.main.__wrapped__([str(trained), str(run)]))
    attempt.both()
    assert "Percent on the test pictures" in capsys.readouterr().out


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file as its header and its data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def damaged_checkpoint(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A checkpoint whose bytes, header, description, types or shapes are wrong."""
    header, data = parts(content)
    start = len(content) - len(data)
    kinds = ["bytes", "bits of the header", "bits of the data", "description", "description", "header", "other", "type", "shape", "length"]
    kind = chance.choice(kinds)
    if kind == "bytes":
        kind, content = damaged_bytes(content, chance)
        return kind, content
    if kind.startswith("bits"):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 2, 10])):
            damaged[chance.randrange(start) if "header" in kind else chance.randrange(start, len(content))] ^= 1 << chance.randrange(8)
        return kind, bytes(damaged)
    if kind == "length":
        return kind, struct.pack("<Q", chance.choice([0, 1, start - 9, start + 1, 2**40, 2**63, 2**64 - 1])) + content[8:]
    if kind == "description":
        where, about = damaged_values(json.loads(header["__metadata__"]["densemtmd"]), chance)
        kind, header["__metadata__"]["densemtmd"] = f"description: {where}", jsonable(about)
    elif kind == "header":
        where, header = damaged_values(header, chance)
        kind = f"header: {where}"
    elif kind == "other":
        texts = ["{}", "[]", "3", "[" * 2000, '{"format": true}', '{"format": -1}', '{"format": 1}', '{"format": ' + "9" * 5000 + "}"]
        metadata = [{}, [], 3, {"__metadata__": {}}, *({"__metadata__": {"densemtmd": text}} for text in texts)]
        header, data = chance.choice(metadata), chance.choice([b"", data])
    else:
        tensor = header[chance.choice([name for name in header if name != "__metadata__"])]
        if kind == "type":
            tensor["dtype"] = chance.choice(["F16", "BF16", "F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X"])
        else:
            shape = tensor["shape"]
            tensor["shape"] = chance.choice([[], [1], [100_000, 100_000], shape[::-1], [0], [-1], [*shape, 1], None, "x"])
    text = jsonable(header).encode()
    return kind, struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_to_label_with(trained, tmp_path, name):
    content, path = (trained / f"{name}.safetensors").read_bytes(), tmp_path / "damaged.safetensors"
    chance, attempt, picture = random.Random(name), Attempts(), np.zeros((9, 11, 3), np.uint8)
    for n in range(80 * LONGER):
        kind, damaged = damaged_checkpoint(content, chance)
        path.write_bytes(damaged)

        def work():
            predictor = Predictor.load(path, "cpu")
            answers = predictor.all(picture)
            assert all((tmp_path / f"photo.jpg.{name}.png").parent == tmp_path for name in answers)  # names that files can have
            assert all(ids.max() < predictor.space[labelset].channels for labelset, ids in answers.items())

        attempt(path, (n, kind), work)
    attempt.both()


def test_checkpoints_to_resume_from(trained, tmp_path):
    content, path = (trained / "last.safetensors").read_bytes(), tmp_path / "last.safetensors"
    about = checkpoint.load(trained / "last.safetensors")[1]
    chance, attempt = random.Random(0), Attempts()
    for n in range(80 * LONGER):
        kind, damaged = damaged_checkpoint(content, chance)
        path.write_bytes(damaged)
        network = backbones.build(about["model"], OutputSpace.from_json(about["space"]))
        optimizer = training.make_optimizer(network, training.TrainSettings())

        def work(network=network, optimizer=optimizer):
            training.load_state(path, network, optimizer, training.Average(network, 0.0))
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()

        attempt(path, (n, kind), work)
    attempt.both()


def test_a_description_of_a_huge_network_takes_no_memory(trained, tmp_path):
    header, data = parts((trained / "best.safetensors").read_bytes())
    about = json.loads(header["__metadata__"]["densemtmd"])
    attempt, path = Attempts(), tmp_path / "huge.safetensors"
    for model in ({"hidden": 10**6, "widths": [16, 64, 4096]}, {"hidden": 2**70}, {"widths": [10**9] * 3}):
        header["__metadata__"]["densemtmd"] = json.dumps(about | {"model": about["model"] | model})
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        attempt(path, model, lambda: checkpoint.load_network(path))
    assert attempt.refused == 3


def test_names_that_files_cannot_have():
    for name in ("a/b", "../../a", "a\\b", "", " ", "a\nb", "a\0", "\x1b[31m", "n" * 201, 3, None):
        with pytest.raises(UserError, match="expected a name that files can have"):
            Labelset(name, ["a", "b"])  # type: ignore[arg-type]
    assert Labelset("Straße, Köln (2)", ["a", "b"]).channels == 2
