"""GeoTIFFs: labels lie where the picture lies, and large TIFFs are read by windows as Pillow reads them whole."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import refused, small_network

from densemtmd import Labelset, Predictor, geo, inference, labelling, machine
from densemtmd.datasets.pictures import read_picture
from densemtmd.draw import labels
from densemtmd.files import WriteError, array_in
from densemtmd.labelling import find_pictures, label_pictures
from densemtmd.merging import load_merged

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
        "map.tif.he.overlay.pgw", "map.tif.he.overlay.png", "map.tif.he.overlay.png.aux.xml", "map.tif.he.tif", "map.tif.sheet.png",
        "map.tif.xu.overlay.pgw", "map.tif.xu.overlay.png", "map.tif.xu.overlay.png.aux.xml", "map.tif.xu.tif",
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


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED], ids=["north up", "rotated"])
@pytest.mark.parametrize(("size", "largest"), [((70, 90), None), ((10, 500), None), ((600, 700), 300_000)])
def test_overlays_lie_where_the_picture_lies(transform, size, largest, predictor, monkeypatch):
    """Enlarged, with a legend that is wider than the photo, or made smaller: the corners of the photo lie where the picture's do."""
    if largest:
        monkeypatch.setattr(labels, "LARGEST", largest)
    save("map.tif", pixels(*size), transform=transform)
    assert label(predictor, "map.tif", outputs=("overlay",)) == []
    drawn = labels.overlay(pixels(*size), predictor(pixels(*size), "he"), HE)
    left, top, right, bottom = drawn.info["photo"]
    with rasterio.open("out/map.tif.he.overlay.png") as file:
        assert (file.width, file.height) == drawn.size and file.crs.to_epsg() == 32631
        for at, of in ((left, top), (0, 0)), ((right, bottom), size[::-1]), ((right, top), (size[1], 0)):
            np.testing.assert_allclose(file.transform @ at, transform @ of, atol=1e-6)
    assert len(Path("out/map.tif.he.overlay.pgw").read_text().split()) == 6
    Path("out/map.tif.he.overlay.png.aux.xml").unlink()
    with rasterio.open("out/map.tif.he.overlay.png") as file:  # as software that does not know it
        assert file.crs is None and file.transform.almost_equals(transform @ Affine.scale(size[1] / (right - left), size[0] / bottom)
                                                                @ Affine.translation(-left, 0))  # fmt: skip


def test_control_points_and_world_files(predictor):
    points = [GroundControlPoint(row, column, 2 + column / 9000, 48 - row / 9000) for row in (0, 70) for column in (0, 90)]
    save("points.tif", transform=None, crs="EPSG:4326", gcps=points)
    Image.fromarray(pixels()).save("world.tif")
    Path("world.tfw").write_text("0.5\n0\n0\n-0.5\n450000.25\n5410999.75\n")
    assert label(predictor, "points.tif", "world.tif", outputs=("ids", "overlay")) == []
    with rasterio.open("out/points.tif.he.overlay.png") as file:
        found, crs = file.gcps
        factor = file.width / 90
        assert crs.to_epsg() == 4326 and [(p.row, p.col) for p in found] == [(factor * p.row, factor * p.col) for p in points]
        assert [(p.x, p.y) for p in found] == [(p.x, p.y) for p in points]
    with rasterio.open("out/world.tif.he.overlay.png") as file:
        assert file.transform.almost_equals(NORTH_UP @ Affine.scale(90 / file.width)) and file.crs is None
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
    Image.fromarray(pixels()).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:9000])
    Path("text.tif").write_text("no picture")
    for large in geo.LARGE, 1:
        monkeypatch.setattr(geo, "LARGE", large)
        failures = label(predictor, "cut.tif", "cut.png", "text.tif", "whole.tif", again=True)
        assert [failure.split()[0] for failure in failures] == ["cut.tif", "cut.png", "text.tif"] and Path("out/whole.tif.he.tif").exists()
        assert all("damaged or cut off" in failure for failure in failures[:2]) and "\n" not in "".join(failures)


KINDS = {
    "plain": {},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"},
    "lzw": {"compress": "lzw"},
    "band by band": {"interleave": "band", "compress": "deflate"},
    "png": {},
}


@pytest.mark.parametrize("about", KINDS.values(), ids=KINDS)
def test_a_large_one_is_read_by_windows(about, monkeypatch, request):
    path = Path("photo.png")
    if request.node.callspec.id == "png":
        Image.fromarray(pixels()).save(path)
    else:
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
    Image.fromarray(pixels()).save("photo.jpg")
    Image.fromarray(pixels()).quantize().save("palette.png")
    Image.fromarray(pixels()).convert("RGBA").save("alpha.png")
    Image.fromarray(pixels()).save("glass.png", transparency=tuple(pixels()[0, 0].tolist()))
    for name in "lossy.tif", "sixteen.tif", "grey.tif", "turned.tif", "photo.jpg", "palette.png", "alpha.png", "glass.png":
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


def giants(monkeypatch, size=1000):
    """From so many bytes on a picture is a giant one."""
    for module in labelling, machine:
        monkeypatch.setattr(module, "AHEAD_BYTES", size)


@pytest.fixture
def folder():
    """A picture of each kind."""
    save("map.tif", compress="deflate")
    image = Image.fromarray(pixels())
    image.save("photo.png")
    image.save("other.jpg")
    image.convert("RGBA").save("alpha.png")
    image.convert("L").save("grey.tif")
    return ["map.tif", "photo.png", "other.jpg", "alpha.png", "grey.tif"]


@pytest.mark.parametrize("by_windows", [True, False], ids=["rasterio", "Pillow"])
def test_giant_pictures_lie_in_files_while_they_are_labelled(by_windows, folder, predictor, monkeypatch, capsys):
    """The same answers, and nothing is left beside them."""
    outputs = ("ids", "overlay", "sheet", "labelme")
    assert label_pictures(predictor, find_pictures(folder), ["he", "xu"], "plain", outputs=outputs) == []
    giants(monkeypatch)
    monkeypatch.setattr(geo, "LARGE", 1 if by_windows else 1 << 40)
    seen, whole = [], inference.dense_logits
    monkeypatch.setattr(inference, "dense_logits", lambda labellers, image, device: seen.append(image) or whole(labellers, image, device))
    assert label(predictor, *folder, outputs=outputs) == []
    assert len(seen) == 5 and [isinstance(image, np.memmap) for image in seen] == [True] * 5
    files = sorted(path.relative_to("plain") for path in Path("plain").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to("out") for path in Path("out").rglob("*") if path.is_file())
    for file in files:
        one, other = Path("plain") / file, Path("out") / file
        assert note_free(one) == note_free(other), file
    capsys.readouterr()
    assert label(predictor, *folder, outputs=outputs) == []
    assert "5 of 5 were labelled before" in capsys.readouterr().out


def note_free(path):
    if path.suffix not in (".png", ".tif"):
        return path.read_text()
    picture = np.asarray(Image.open(path))
    return picture.shape, picture.tobytes()


def test_a_large_picture_is_read_by_what_is_in_it_whatever_it_is_called(monkeypatch):
    monkeypatch.setattr(geo, "LARGE", 1)
    Image.fromarray(pixels()).save("photo.jpg")
    for name in ("photo.png", "photo.tif"):
        Path("photo.jpg").rename(name)
        assert geo.read_by_windows(name) is None
        Path(name).rename("photo.jpg")


def test_an_earlier_place_does_not_stay_beside_a_new_overlay(predictor):
    save("map.tif")
    assert label(predictor, "map.tif", outputs=("overlay",)) == []
    overlay = next(Path("out").glob("*.overlay.png"))
    beside = overlay.with_suffix(".pgw"), overlay.with_name(f"{overlay.name}.aux.xml")
    assert all(path.exists() for path in beside)
    Image.fromarray(pixels()).save("map.tif")
    assert label(predictor, "map.tif", outputs=("overlay",)) == []
    assert overlay.exists() and not any(path.exists() for path in beside)


def test_a_merged_labelset_of_a_giant_picture(folder, predictor, monkeypatch):
    Path("merged.yaml").write_text("name: both\nlabels:\n  way: [he.road, xu.ground]\n  rest: rest\n")
    merged = load_merged("merged.yaml", predictor.space)
    plain = predictor.merged(pixels(), merged)
    giants(monkeypatch)
    assert label_pictures(predictor, find_pictures(["photo.png"]), ["both"], "out", merged=merged) == []
    assert (np.asarray(Image.open("out/photo.png.both.png")) == plain).all()


def test_a_disk_without_room_for_a_giant_picture_is_a_sentence(folder, predictor, monkeypatch):
    def full(descriptor, first, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    giants(monkeypatch)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with refused("out has no room for 1.9e-05 GB meanwhile: No space left on device"):
        label(predictor, "photo.png")
    assert list(Path("out").iterdir()) == []


def test_an_array_in_a_file_keeps_what_was_let_go_of(monkeypatch):
    giants(monkeypatch)
    array = array_in("disk", (700, 3000))
    array[:] = np.arange(3000) % 251
    resident = lambda: sum(int(line.split()[1]) for line in Path("/proc/self/smaps").read_text().split("disk/")[1].splitlines()[1:6] if line.startswith("Rss"))  # noqa: E501, E731
    assert resident() > 2000
    machine.let_go(array)
    assert resident() < 100
    assert (array == np.arange(3000) % 251).all() and list(Path("disk").iterdir()) == []
    array.tofile("copy")
    own = np.memmap("copy", np.uint8, "c", shape=array.shape)
    own[:] = 7
    machine.let_go(own)
    assert (own == 7).all()
