"""Any picture becomes RGB, whatever its format; and files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from densemtmd.datasets import pictures
from densemtmd.datasets.pictures import open_picture, read_picture
from densemtmd.errors import UserError
from densemtmd.files import atomic_write

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def write_png_header(path: Path, width: int, height: int) -> None:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


# Every kind of picture


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 20), width=st.integers(1, 20), suffix=st.sampled_from(["png", "bmp", "tiff"]))
def test_lossless_rgb_comes_back(tmp_path, height, width, suffix):
    rgb = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}")
    read = read_picture(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, rgb)


@pytest.mark.parametrize("name", ["two words.png", "Straße – 道路.png", "no_suffix", "UPPER.PNG"])
def test_any_name(tmp_path, name):
    Image.fromarray(RGB).save(tmp_path / name, format="PNG")
    np.testing.assert_array_equal(read_picture(tmp_path / name), RGB)
    np.testing.assert_array_equal(read_picture(str(tmp_path / name)), RGB)


@pytest.mark.parametrize("bits", ["1", "L"])
def test_grey_is_repeated(tmp_path, bits):
    picture = Image.fromarray(RGB[..., 0]).convert(bits)
    picture.save(tmp_path / "grey.png")
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 255, 256], [4660, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    read = read_picture(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read[..., 0], [[0, 0, 1], [0x12, 128, 255]])
    assert (read == read[..., :1]).all()


def test_16_bit_big_endian(tmp_path):
    Image.fromarray(np.array([[0x1234, 0xFF00]], dtype=">u2")).save(tmp_path / "motorola.tiff")
    np.testing.assert_array_equal(read_picture(tmp_path / "motorola.tiff")[0, :, 0], [0x12, 0xFF])


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], dtype=np.uint8)  # 51 / 255 is a fifth
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    expected = [[10, 20, 30], [255, 255, 255], [204, 224, 244]]
    np.testing.assert_allclose(read_picture(tmp_path / "alpha.png")[0].astype(int), expected, atol=1)


def test_transparent_grey(tmp_path):
    grey, alpha = Image.new("L", (2, 1), 7), Image.fromarray(np.array([[255, 0]], dtype=np.uint8))
    Image.merge("LA", (grey, alpha)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "la.png")[0], [[7, 7, 7], [255, 255, 255]])


def palette_picture() -> Image.Image:
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return picture


def test_palette(tmp_path):
    palette_picture().save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png")[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_a_transparent_colour(tmp_path, suffix):
    palette_picture().save(tmp_path / f"palette.{suffix}", transparency=1)
    read = read_picture(tmp_path / f"palette.{suffix}")[0]
    np.testing.assert_array_equal(read, [[10, 20, 30], [255, 255, 255], [70, 80, 90]])


def test_rgb_with_a_transparent_colour(tmp_path):
    picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    picture.save(tmp_path / "key.png", transparency=(4, 5, 6))
    np.testing.assert_array_equal(read_picture(tmp_path / "key.png")[0], [[1, 2, 3], [255, 255, 255]])


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red = np.full((8, 8, 3), [255, 0, 0])
    np.testing.assert_allclose(read_picture(tmp_path / "print.jpg").astype(int), red, atol=4)


# The stored rows and columns of an upright picture `a`, for the eight EXIF orientations.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],  # the camera was turned: stored lying, shown turned by 90° clockwise
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_rotation_is_undone(tmp_path, orientation, deep):
    upright = RGB[..., 0].astype(np.uint16) << 8 if deep else RGB
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(tmp_path / "photo.png", exif=exif)
    expected = np.stack([RGB[..., 0]] * 3, axis=2) if deep else RGB
    np.testing.assert_array_equal(read_picture(tmp_path / "photo.png"), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_matter(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"  # promises 65535 entries
    Image.fromarray(RGB).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "photo.png"), RGB)


@pytest.mark.parametrize("suffix", ["gif", "png", "tiff"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 3), colour) for colour in [(255, 0, 0), (0, 255, 0)]]
    frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_picture(tmp_path / f"moving.{suffix}"), np.full((3, 4, 3), [255, 0, 0]))


# What is refused, in one sentence that names the file


def refused(path: Path, *words: str, **options: int) -> None:
    with pytest.raises(UserError) as caught:
        read_picture(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message, message


def test_no_such_file(tmp_path):
    refused(tmp_path / "missing.png", "No such file", "expected a picture")


def test_a_folder(tmp_path):
    refused(tmp_path, "directory")


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "empty"), (b"hello", "not a picture"), (b"\x89PNG\r\n\x1a\n", "not a picture")]
)
def test_not_a_picture(tmp_path, content, found):
    (tmp_path / "text.png").write_bytes(content)
    refused(tmp_path / "text.png", found, "expected PNG")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "gif", "bmp", "webp"])
def test_cut_off(tmp_path, suffix):
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(RANDOM.integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(path)


def test_flipped_byte(tmp_path):
    path = tmp_path / "flipped.png"
    Image.fromarray(RANDOM.integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    refused(path, "damaged")


def test_floating_point(tmp_path):
    Image.fromarray(np.zeros((3, 4), dtype=np.float32)).save(tmp_path / "depth.tiff")
    refused(tmp_path / "depth.tiff", "floating-point")


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    write_png_header(tmp_path / "bomb.png", 60_000, 50_000)
    refused(tmp_path / "bomb.png", "60000×50000", "200 million")  # decoded, it would be damaged


def test_the_limit_is_exact_and_ours(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "small.png")
    assert read_picture(tmp_path / "small.png", max_pixels=35).shape == (5, 7, 3)
    refused(tmp_path / "small.png", "7×5", max_pixels=34)
    write_png_header(tmp_path / "large.png", 14_000, 14_000)  # 196 million: more than Pillow allows, fewer than we do
    refused(tmp_path / "large.png", "damaged")


def test_open_picture_keeps_the_indices(tmp_path):
    palette_picture().save(tmp_path / "labels.png")
    with open_picture(tmp_path / "labels.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), [[0, 1, 2]])


# Files written whole or not at all


def test_atomic_write(tmp_path):
    with atomic_write(tmp_path / "new" / "a.txt") as temporary:
        assert temporary.parent == tmp_path / "new" and temporary.suffix == ".txt"
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"


def test_atomic_write_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "usual").write_text("")
    with atomic_write(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [ZeroDivisionError(), UserError("no"), KeyboardInterrupt()])
def test_atomic_write_keeps_the_old_file_after_a_failure(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(type(error)), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("ha")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_atomic_write_on_a_full_disk(tmp_path):
    refusal = r"a\.txt could not be written: No space left"
    with pytest.raises(UserError, match=refusal), atomic_write(tmp_path / "a.txt") as path:
        path.write_text("ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(UserError, match="could not be written"), atomic_write(path) as temporary:
            temporary.write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_large_picture_is_read_some_rows_at_a_time(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    for pixels in (1, 50, 37 * 23, 10**6):
        monkeypatch.setattr(pictures, "ROWS_OF", pixels)
        found = read_picture(tmp_path / "a.png")
        assert (found == image).all() and found.flags.writeable
