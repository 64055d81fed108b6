"""GeoTIFFs: labels lie where the picture lies, and large TIFFs are read by windows as Pillow reads them whole."""

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import refused, small_network

from densemtmd import Labelset, Predictor, geo
from densemtmd.datasets.pictures import read_picture
from densemtmd.files import WriteError
from densemtmd.labelling import find_pictures, label_pictures

rasterio = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

HE, XU = Labelset("he", ["sky", "road"], [(0, 0, 250), (128, 64, 128)]), Labelset("xu", ["ground", "other", "car"])
NORTH_UP = Affine(0.5, 0, 450_000, 0, -0.5, 5_411_000)
TURNED = NORTH_UP @ Affine.rotation(30)


def pixels(height=70, width=90):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def save(path, image=None, **about):
    """A TIFF by GDAL, in Paris where nothing else is said."""
    image = pixels() if image is None else image
    about = {"crs": "EPSG:32631", "transform": NORTH_UP, "photometric": "rgb"} | about
    size = {"height": image.shape[0], "width": image.shape[1], "count": image.shape[2], "dtype": image.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **size, **about) as file:
        file.write(image.transpose(2, 0, 1))
    return Path(path)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def predictor():
    return Predictor([small_network(HE, XU)], "cpu")


def label(predictor, *images, outputs=("ids",), **options):
    return label_pictures(predictor, find_pictures(images), ["he", "xu"], "out", outputs=outputs, **options)


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED], ids=["north up", "rotated"])
def test_labels_lie_where_the_picture_lies(transform, predictor, capsys):
    save("map.tif", transform=transform)
    Image.fromarray(pixels()).save("plain.png")
    assert label(predictor, "map.tif", "plain.png", outputs=("ids", "overlay", "sheet")) == []
    assert sorted(p.name for p in Path("out").iterdir() if p.name.startswith("map")) == [
        "map.tif.he.overlay.png", "map.tif.he.tif", "map.tif.sheet.png", "map.tif.xu.overlay.png", "map.tif.xu.tif",
    ]  # fmt: skip
    for task in HE, XU:
        plain = np.asarray(Image.open(f"out/plain.png.{task.name}.png"))
        assert len(np.unique(plain)) > 1
        with rasterio.open(f"out/map.tif.{task.name}.tif") as file:
            assert (file.read(1) == plain).all() and file.dtypes == ("uint8",) and file.count == 1
            assert file.crs.to_epsg() == 32631 and file.transform.almost_equals(transform) and file.nodata == 255
            assert file.block_shapes == [(256, 256)] and file.compression.name == "deflate"
            colours = file.colormap(1)
            assert [colours[n] for n in range(len(task.labels))] == [(*colour, 255) for colour in task.palette]
            assert file.descriptions == (task.name,) and [file.tags(1)[str(n)] for n in range(len(task.labels))] == list(task.labels)
        with Image.open(f"out/map.tif.{task.name}.tif") as picture:  # and any other reader's
            assert (np.asarray(picture) == plain).all()
    made = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    capsys.readouterr()
    assert label(predictor, "map.tif", "plain.png", outputs=("ids", "overlay", "sheet")) == []
    assert "2 of 2 were labelled before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == made
    save("map.tif", 255 - pixels(), transform=transform)
    label(predictor, "map.tif")
    assert Path("out/map.tif.he.tif").stat().st_mtime_ns > made[Path("out/map.tif.he.tif")]


def test_control_points_and_world_files(predictor):
    points = [GroundControlPoint(row, column, 2 + column / 9000, 48 - row / 9000) for row in (0, 70) for column in (0, 90)]
    save("points.tif", transform=None, crs="EPSG:4326", gcps=points)
    Image.fromarray(pixels()).save("world.tif")
    Path("world.tfw").write_text("0.5\n0\n0\n-0.5\n450000.25\n5410999.75\n")
    assert label(predictor, "points.tif", "world.tif") == []
    with rasterio.open("out/points.tif.he.tif") as file:
        found, crs = file.gcps
        assert crs.to_epsg() == 4326 and [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]
    with rasterio.open("out/world.tif.he.tif") as file:
        assert file.transform.almost_equals(NORTH_UP) and file.crs is None


def test_what_does_not_lie_on_earth_or_is_turned_gets_a_png(predictor):
    Image.fromarray(pixels()).save("plain.tif")
    Image.fromarray(pixels()).save("turned.tif", tiffinfo={274: 6, 33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 9.0, 9.0, 0.0)})
    Image.fromarray(pixels()).save("located.tif", tiffinfo={274: 1, 33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 9.0, 9.0, 0.0)})
    assert [geo.is_georeferenced(f"{name}.tif") for name in ("plain", "turned", "located", "missing")] == [False, False, True, False]
    assert label(predictor, "plain.tif", "turned.tif") == []
    assert {p.suffix for p in Path("out").iterdir()} == {".png"}


def test_without_rasterio_labels_are_a_png_and_a_line_says_what_is_lost(predictor, monkeypatch, capsys):
    save("map.tif")
    monkeypatch.setattr(geo, "is_installed", lambda: False)
    assert label(predictor, "map.tif") == []
    assert sorted(p.name for p in Path("out").iterdir()) == ["map.tif.he.png", "map.tif.xu.png"]
    said = capsys.readouterr().out
    assert "1 picture lies somewhere on Earth" in said and "install 'densemtmd[geo]'" in said


def test_a_damaged_one_is_a_sentence_and_the_others_are_labelled(predictor, monkeypatch):
    whole = save("whole.tif", compress="deflate").read_bytes()
    Path("cut.tif").write_bytes(whole[: len(whole) // 2])
    Path("text.tif").write_text("no picture")
    for large in geo.LARGE, 1:
        monkeypatch.setattr(geo, "LARGE", large)
        failures = label(predictor, "cut.tif", "text.tif", "whole.tif", again=True)
        assert [failure.split()[0] for failure in failures] == ["cut.tif", "text.tif"] and Path("out/whole.tif.he.tif").exists()
        assert "damaged or cut off" in failures[0] and "\n" not in "".join(failures)


KINDS = {
    "plain": {},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"},
    "lzw": {"compress": "lzw"},
    "band by band": {"interleave": "band", "compress": "deflate"},
}


@pytest.mark.parametrize("about", KINDS.values(), ids=KINDS)
def test_a_large_one_is_read_by_windows(about, monkeypatch):
    path = save("map.tif", **about)
    assert geo.read_by_windows(path) is None  # a small one
    monkeypatch.setattr(geo, "LARGE", 1)
    monkeypatch.setattr(geo, "PART", 1000)
    assert (geo.read_by_windows(path) == pixels()).all() and (read_picture(path) == pixels()).all()
    with refused("claims 90×70 pixels"):
        geo.read_by_windows(path, 1000)


def test_what_only_pillow_reads_as_people_see_it_is_left_to_it(monkeypatch):
    monkeypatch.setattr(geo, "LARGE", 1)
    save("lossy.tif", compress="jpeg")
    save("sixteen.tif", pixels().astype(np.uint16), compress="deflate")
    save("grey.tif", pixels()[..., :1], photometric="minisblack")
    Image.fromarray(pixels()).save("turned.tif", tiffinfo={274: 6})
    Image.fromarray(pixels()).save("photo.png")
    for name in "lossy.tif", "sixteen.tif", "grey.tif", "turned.tif", "photo.png":
        assert geo.read_by_windows(name) is None


def test_written_by_windows_whole_or_not_at_all(monkeypatch):
    like, ids = save("map.tif", pixels(700, 600)), np.random.default_rng(1).integers(0, 3, (700, 600)).astype(np.uint8)
    ids[:9] = 255
    monkeypatch.setattr(geo, "PART", 100_000)
    geo.save_geotiff("out/ids.tif", ids, XU, like, "a note")
    with rasterio.open("out/ids.tif") as file:
        assert (file.read(1) == ids).all() and (file.dataset_mask()[:9] == 0).all() and (file.dataset_mask()[9:] == 255).all()
    assert geo.note_of("out/ids.tif") == "a note" and geo.note_of("map.tif") is None and geo.note_of("no.tif") is None
    before, size = Path("out/ids.tif").read_bytes(), Path("out/ids.tif").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (1000, size // 2, size - 500):  # bytes that a file may have: a disk that fills up
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            with pytest.raises(WriteError, match=r"out/ids\.tif could not be written"):
                geo.save_geotiff("out/ids.tif", ids, XU, like, "another note")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert Path("out/ids.tif").read_bytes() == before and [p.name for p in Path("out").iterdir()] == ["ids.tif"]
