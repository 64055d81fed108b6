"""``tools/infer.py`` as a user runs it, with a tiny untrained network; and what every tool shares (``cli.py``)."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densemtmd import checkpoint, labelling
from densemtmd.backbones import build
from densemtmd.commands.cli import make_parser, newest_run, tool
from densemtmd.datasets.pictures import read_picture
from densemtmd.errors import UserError
from densemtmd.inference import Predictor
from densemtmd.tasks import KeypointSet, Labelset, OutputSpace

TOOL = Path(__file__).parents[1] / "tools" / "infer.py"
SPACE = OutputSpace([
    Labelset("kundu", ["sky", "road", "car"], [(0, 0, 250), (128, 64, 128), (64, 0, 128)]),
    Labelset("xu", ["ground", "other"]),
])  # fmt: skip

spec = importlib.util.spec_from_file_location("infer", TOOL)
assert spec and spec.loader
infer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(infer)


def save_network(path, space=SPACE, seed=0):
    """An untrained network whose answers differ from pixel to pixel."""
    torch.manual_seed(seed)
    model = {"name": "patchnet", "widths": [2, 3, 4], "hidden": 5, "dropout": 0.0}
    network = build(model, space)
    torch.nn.init.normal_(network.classifier[-1].weight)
    checkpoint.save_network(path, network, model)
    return path


def noise(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save_picture(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if array is None else array).save(path, **options)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty working folder with a network in ``net.safetensors``."""
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "net.safetensors")
    return tmp_path


def run(*arguments, network="net.safetensors"):
    return infer.main([*map(str, arguments), "--checkpoint", network, "--device", "cpu"])


def written(folder="out"):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def ids_of(path):
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


# ----------------------------------------------------------------------------------------------------------------------
# What is written and shown


def test_one_labelset(capsys):
    save_picture(Path("a.png"))
    assert run("a.png", "--labelset", "kundu") == 0
    assert written() == ["a.png.kundu.overlay.png", "a.png.kundu.png"]

    ids = ids_of("out/a.png.kundu.png")
    truth = Predictor.load("net.safetensors", "cpu").probabilities(noise(), "kundu").argmax(0)
    assert np.array_equal(ids, truth) and len(np.unique(ids)) > 1
    with Image.open("out/a.png.kundu.png") as picture:
        assert tuple(picture.getpalette()[:9]) == (0, 0, 250, 128, 64, 128, 64, 0, 128)

    shown = capsys.readouterr()
    line = next(line for line in shown.out.splitlines() if line.startswith("a.png"))
    assert line.split()[:2] == ["a.png", "kundu"]
    shares = [part.rsplit(" ", 2) for part in line.split("  ")[-1].split(", ")]
    expected = sorted(((ids == i).mean(), label) for i, label in enumerate(["sky", "road", "car"]) if (ids == i).any())
    assert [(name, value) for name, value, _ in shares] == [(n, f"{100 * s:.1f}") for s, n in reversed(expected)]
    assert shown.err == ""


@pytest.mark.parametrize("choice", [["--labelset", "all"], [], ["--labelset", "xu, kundu"]])
def test_several_labelsets_and_a_sheet(choice, capsys):
    save_picture(Path("a.png"))
    assert run("a.png", *choice) == 0
    assert written() == [
        "a.png.kundu.overlay.png", "a.png.kundu.png", "a.png.sheet.png", "a.png.xu.overlay.png", "a.png.xu.png"
    ]  # fmt: skip
    predictor = Predictor.load("net.safetensors", "cpu")
    for name in ("kundu", "xu"):
        assert np.array_equal(ids_of(f"out/a.png.{name}.png"), predictor(noise(), name))
    lines = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("a.png")]
    assert lines == (["xu", "kundu"] if "xu, kundu" in choice else ["kundu", "xu"])


def exif_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(noise()).save(path, exif=exif)


KINDS = {
    "1x1.png": lambda p: Image.new("RGB", (1, 1), (7, 200, 90)).save(p),
    "1x60.png": lambda p: Image.fromarray(noise(60, 1)).save(p),
    "grey.png": lambda p: Image.fromarray(noise()[:, :, 0]).save(p),
    "alpha.png": lambda p: Image.fromarray(np.dstack([noise(), noise()[:, :, 0]])).save(p),
    "palette.gif": lambda p: Image.fromarray(noise()).quantize(16).save(p),
    "sixteen.png": lambda p: Image.fromarray(noise()[:, :, 0].astype(np.uint16) * 257).save(p),
    "cmyk.jpg": lambda p: Image.fromarray(noise()).convert("CMYK").save(p),
    "turned.jpg": exif_rotated,
    "Straße bei Köln, 2. Bild.PNG": lambda p: Image.fromarray(noise()).save(p),
}


def test_pictures_of_every_kind(capsys):
    Path("photos").mkdir()
    for name, make in KINDS.items():
        make(Path("photos", name))
    Path("photos", "notes.txt").write_text("not a picture")
    Path("photos", "._turned.jpg").write_text("what some systems leave beside a picture")
    assert run("photos", "--labelset", "kundu") == 0
    assert len(written()) == 2 * len(KINDS)
    predictor = Predictor.load("net.safetensors", "cpu")
    for name in KINDS:
        image = read_picture(Path("photos", name))
        assert np.array_equal(ids_of(f"out/{name}.kundu.png"), predictor(image, "kundu")), name
    assert ids_of("out/turned.jpg.kundu.png").shape == (30, 20)
    shown = capsys.readouterr()
    assert f"{len(KINDS)} of {len(KINDS)} pictures labelled, in out" in shown.out and shown.err == ""


def test_bad_pictures_are_reported_at_the_end_and_the_others_labelled(capsys):
    for name in "abc":
        save_picture(Path("photos", f"{name}.jpg"), noise(200, 200))
    whole = Path("photos/b.jpg").read_bytes()
    Path("photos/b.jpg").write_bytes(whole[: len(whole) // 2])
    Path("photos/d.png").write_text("a text")
    save_picture(Path("photos/e.png"), noise(201, 200))
    assert run("photos", "--labelset", "xu", "--max-pixels", 40_000) == 1
    assert written() == [f"{n}.jpg.xu{kind}.png" for n in "ac" for kind in (".overlay", "")]
    shown = capsys.readouterr()
    errors = shown.err.splitlines()
    assert [line.split(" ")[:2] for line in errors] == [["error:", f"photos/{n}"] for n in ("b.jpg", "d.png", "e.png")]
    assert "2 of 5 pictures labelled" in shown.out


# ----------------------------------------------------------------------------------------------------------------------
# Which pictures


def test_files_folders_and_patterns_each_picture_once():
    for name in ("p/a.png", "p/b.JPG", "p/deep/c.png", "q/d[1].png", "q/e.png"):
        save_picture(Path(name))
    found = labelling.find_pictures(["p", "p/a.png", "q/d[1].png", "q/*.png", "./p/../p/a.png"], False, Path("out"))
    assert [str(name) for name in found] == ["a.png", "b.JPG", "d[1].png", "e.png"]
    assert list(labelling.find_pictures(["**/c.p?g"], False, Path("out")).values()) == [Path("p/deep/c.png")]
    absolute = str(Path("q").resolve() / "e*")
    assert [str(name) for name in labelling.find_pictures([absolute], False, Path("out"))] == ["e.png"]


def test_what_is_missing_keeps_nobody_from_labelling_the_rest(capsys):
    """A file, a folder and a pattern without a picture, among pictures: as with damaged ones in a folder."""
    save_picture(Path("a.png"))
    save_picture(Path("p/b.png"))
    save_picture(Path("p/__MACOSX/c.png"))
    Path("p/Thumbs.db").write_bytes(b"")
    Path("empty").mkdir()
    assert run("gone.png", "a.png", "empty", "no/*.png", "p", "--recursive", "--labelset", "xu") == 1
    shown = capsys.readouterr()
    assert written("out") == ["a.png.xu.overlay.png", "a.png.xu.png", "b.png.xu.overlay.png", "b.png.xu.png"]
    assert "2 of 5 pictures labelled" in shown.out
    assert [line.split(":")[1] for line in shown.err.splitlines()] == [
        " there is no picture gone.png",
        " the folder empty holds no picture (.jpg, .jpeg, .png, .webp, .bmp, .gif, .tif, .tiff, .ppm, .pgm, .jp2, .avif)",
        " no file matches the pattern no/*.png",
    ]  # fmt: skip


def test_recursive_keeps_the_folders_below_and_leaves_out_what_was_written():
    for name in ("p/one/0.png", "p/two/0.png", "p/0.png"):
        save_picture(Path(name))
    for _ in range(2):  # the second time, p holds the first time's answers
        assert run("p", "--recursive", "--labelset", "xu", "--out", "p/out") == 0
        expected = [f"{n}0.png.xu{kind}.png" for n in ("", "one/", "two/") for kind in (".overlay", "")]
        assert written("p/out") == expected


def test_two_pictures_of_one_name_are_refused_before_anything_is_done(capsys):
    save_picture(Path("p/a.png"))
    save_picture(Path("q/a.png"))
    assert run("p", "q/a.png") == 1
    error = capsys.readouterr().err
    assert "p/a.png and q/a.png would both be written to out/a.png.*" in error
    assert not Path("out").exists()


def test_a_picture_is_never_overwritten(capsys):
    save_picture(Path("a.png"))
    before = save_picture(Path("a.png.xu.png"), noise(9, 9)).read_bytes()
    assert run("a.png", "a.png.xu.png", "--labelset", "xu", "--out", ".") == 1
    assert "the labels of a.png would overwrite the picture a.png.xu.png" in capsys.readouterr().err
    assert Path("a.png.xu.png").read_bytes() == before


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.jpg", "there is no picture missing.jpg"),
        ("photos/*.jpg", "no file matches the pattern photos/*.jpg"),
        ("empty", "the folder empty holds no picture (.jpg, .jpeg, .png, .webp"),
    ],
)
def test_nothing_to_label(image, message, capsys):
    Path("empty").mkdir()
    assert run(image) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not Path("out").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Which network, which labelset, where to


def test_an_unknown_labelset_lists_the_known_and_suggests_the_nearest(capsys):
    save_picture(Path("a.png"))
    assert run("a.png", "--labelset", "xu,kundo") == 1
    expected = "error: unknown labelset 'kundo'; known: kundu, xu; did you mean 'kundu'?\n"
    assert capsys.readouterr().err == expected
    assert not Path("out").exists()


def test_a_labelset_may_be_called_what_looks_like_a_list():
    odd = OutputSpace([Labelset("a,b", ["x", "y"]), Labelset("all", ["x", "y"])])
    assert labelling.choose_labelsets("a,b", odd) == ["a,b"]
    assert labelling.choose_labelsets("all", odd) == ["all"]
    with pytest.raises(UserError, match="finds keypoints"):
        labelling.choose_labelsets("all", OutputSpace([KeypointSet("nyu", ["palm"])]))


def test_an_unwritable_out(capsys):
    save_picture(Path("a.png"))
    Path("taken").write_text("a file")
    assert run("a.png", "--out", "taken") == 1
    assert "the folder taken cannot be made (File exists): choose another with --out" in capsys.readouterr().err
    assert run("a.png", "--out", "taken/below") == 1
    assert "the folder taken/below cannot be made" in capsys.readouterr().err
    assert Path("taken").read_text() == "a file"


def test_nothing_half_written_after_ctrl_c(home, monkeypatch, capsys):
    for name in "abc":
        save_picture(Path("p", f"{name}.png"))
    calls = []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second picture
            arguments[0].write_bytes(b"half a picture")
            raise KeyboardInterrupt
        return save(self, *arguments, **options)

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert run("p", "--labelset", "xu", "--jobs", 1) == 130
    there = written()
    assert there[:3] == ["a.png.xu.overlay.png", "a.png.xu.png", "b.png.xu.png"]  # the third may have been on its way already
    for name in there:
        Image.open(Path("out", name)).load()
    assert "stopped" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(home)
    times = {name: Path("out", name).stat().st_mtime_ns for name in there}
    assert run("p", "--labelset", "xu") == 0  # goes on
    assert written() == [f"{name}.png.xu.{kind}png" for name in "abc" for kind in ("overlay.", "")]
    kept = [name for name, time in times.items() if Path("out", name).stat().st_mtime_ns == time]
    assert kept == [name for name in there if not name.startswith("b")]
    assert f"{len(kept) // 2} of 3 were labelled before" in capsys.readouterr().out


def test_what_was_labelled_before_is_left_as_it_is(capsys):
    """By the same network, in the same way, of a file that has not changed, and whole; else it is labelled anew."""
    for name in "abc":
        save_picture(Path("p", f"{name}.png"))
    save_network("other.safetensors", seed=1)

    def labelled(*more, network="net.safetensors"):
        assert run("p", *more, network=network) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line.split()[0] for line in lines if " xu " in line]

    everything = ["a.png", "b.png", "c.png"]
    assert labelled() == everything and labelled() == [] and labelled("--again") == everything
    Path("out", "b.png.xu.png").write_bytes(Path("out", "b.png.xu.png").read_bytes()[:30])
    assert labelled() == ["b.png"] and labelled() == []
    Path("out", "c.png.sheet.png").unlink()
    assert labelled() == ["c.png"]
    os.utime("p/a.png", (1, 1))
    assert labelled() == ["a.png"]
    assert labelled("--mirror") == everything and labelled("--mirror") == []
    assert labelled("--mirror", network="other.safetensors") == everything
    assert labelled("--labelset", "xu", network="other.safetensors") == everything
    assert labelled("--labelset", "xu", "--outputs", "overlay", network="other.safetensors") == []


def test_outputs_that_are_chosen(capsys):
    save_picture(Path("p", "a.png"))
    assert run("p", "--outputs", "probabilities,ids") == 0
    assert written() == [f"a.png.{name}.{kind}" for name in ("kundu", "xu") for kind in ("png", "probabilities.npz")]
    predictor = Predictor.load("net.safetensors", "cpu")
    for name in ("kundu", "xu"):
        with np.load(f"out/a.png.{name}.probabilities.npz") as arrays:
            found = arrays["probabilities"].astype(float)
            assert arrays["labels"].tolist() == list(predictor.space[name].labels)
        np.testing.assert_allclose(found, predictor.probabilities(noise(), name), atol=1e-3)
        assert (ids_of(f"out/a.png.{name}.png") == predictor(noise(), name)).all()
    assert "before" not in capsys.readouterr().out
    assert run("p", "--outputs", "probabilities,ids") == 0 and "1 of 1 were labelled before" in capsys.readouterr().out
    for outputs, message in (
        ("id", "--outputs has 'id'; known: ids, overlay, sheet, probabilities, coco, labelme; did you mean 'ids'?"),
        ("sheet", "--outputs is 'sheet', expected some of ids, overlay, probabilities, coco and labelme"),
        ("", "--outputs has ''"),
    ):
        assert run("p", "--outputs", outputs) == 1 and message in capsys.readouterr().err


def test_outlines_for_the_tools_that_people_label_with(capsys):
    for name in ("a.jpg", "deep/b.png"):
        save_picture(Path("photos") / name)
    assert run("photos", "--recursive", "--outputs", "ids,coco,labelme", "--labelset", "kundu") == 0
    assert written() == [
        "a.jpg.kundu.png", "deep/b.png.kundu.png", "deep/kundu.coco/b.png.json", "deep/kundu.labelme/b.json", "kundu.coco.json",
        "kundu.coco/a.jpg.json", "kundu.labelme/a.json",
    ]  # fmt: skip
    told = json.loads(Path("out/kundu.coco.json").read_text())
    images = [(image["file_name"], image["width"], image["height"]) for image in told["images"]]
    assert images == [("a.jpg", 30, 20), ("deep/b.png", 30, 20)]
    for number, name in enumerate(("a.jpg", "deep/b.png"), 1):
        labels = {one["category_id"] - 1 for one in told["annotations"] if one["image_id"] == number}
        assert labels == set(np.unique(ids_of(f"out/{name}.kundu.png")).tolist())
    shapes = json.loads(Path("out/deep/kundu.labelme/b.json").read_text())
    assert (Path("out/deep/kundu.labelme") / shapes["imagePath"]).samefile("photos/deep/b.png")
    capsys.readouterr()
    corrected = dict(sorted(shapes.items(), key=lambda one: one[0] == "note")) | {"shapes": []}  # labelme keeps what it does not know
    Path("out/deep/kundu.labelme/b.json").write_text(json.dumps(corrected))
    assert run("photos", "--recursive", "--outputs", "ids,coco,labelme", "--labelset", "kundu") == 0
    assert "2 of 2 were labelled before" in capsys.readouterr().out
    assert json.loads(Path("out/deep/kundu.labelme/b.json").read_text())["shapes"] == []
    save_picture(Path("photos/a.png"))
    assert run("photos", "--outputs", "labelme", "--shard", "1/1") == 1
    assert "photos/a.jpg and photos/a.png would both be written to" in capsys.readouterr().err
    assert run("photos/a.png", "--outputs", "coco", "--shard", "1/1") == 0 and Path("out/kundu.coco.1-1.json").exists()


def test_shards_share_the_pictures(capsys):
    for n in range(5):
        save_picture(Path("p", f"{n}.png"))
    for part, own in (("1/3", "03"), ("2/3", "14"), ("3/3", "2")):
        assert run("p", "--shard", part, "--outputs", "ids", "--labelset", "xu", "--out", part.replace("/", "_")) == 0
        assert written(part.replace("/", "_")) == [f"{n}.png.xu.png" for n in own]
    for part in ("0/3", "4/3", "x", "1/", "1/0", "-1/3"):
        assert run("p", f"--shard={part}") == 1
        assert f"--shard is '{part}', expected the number of this call and of all, such as 3/16" in capsys.readouterr().err
    assert run("p", "--jobs", 0) == 1 and "--jobs is 0, expected 1 or more" in capsys.readouterr().err


def finished_run(name, when, below="."):
    folder = Path("runs", name)
    (folder / below).mkdir(parents=True)
    save_network(folder / below / "best.safetensors")
    (folder / "scores.json").write_text("{}")
    os.utime(folder / "scores.json", (when, when))
    return folder


def test_the_last_finished_run_is_the_default(capsys):
    save_picture(Path("a.png"))
    assert infer.main(["a.png", "--device", "cpu", "--out", "first"]) == 0
    assert "released, which comes with densemtmd: no run in runs/ is finished\n" in capsys.readouterr().out
    assert Path("first/a.png.stanford.png").is_file()

    finished_run("older", 1_000)
    finished_run("newer", 2_000)
    (finished_run("unfinished", 3_000) / "scores.json").unlink()
    (finished_run("without a network", 4_000) / "best.safetensors").unlink()
    for name, settings in (("toy", "debug: true\n"), ("overfitted", "train:\n  overfit: 1\n")):  # which showed that everything works
        (finished_run(name, 4_500) / "config.yaml").write_text(settings)
    assert newest_run() == Path("runs/newer")
    assert infer.main(["a.png", "--labelset", "xu", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("network: runs/newer, the last finished run\n")
    assert newest_run() != finished_run("one network per dataset", 5_000, below="kundu") == newest_run()


def test_a_run_with_one_network_per_dataset():
    for i, task in enumerate(SPACE.tasks):
        Path("runs/nf", task.name).mkdir(parents=True)
        save_network(Path("runs/nf", task.name, "best.safetensors"), OutputSpace([task]), seed=i)
    save_picture(Path("a.png"))
    assert run("a.png", network="runs/nf") == 0
    for task in SPACE.tasks:
        alone = Predictor.load(f"runs/nf/{task.name}/best.safetensors", "cpu")
        assert np.array_equal(ids_of(f"out/a.png.{task.name}.png"), alone(noise(), task.name))
    assert Path("out/a.png.sheet.png").exists()


# ----------------------------------------------------------------------------------------------------------------------
# What every tool shares


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", TOOL, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0
    assert "--labelset NAME|all|A,B" in answer.stdout and all(len(line) <= 120 for line in answer.stdout.splitlines())
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.stderr.splitlines()}
    assert "densemtmd" in imported
    assert imported.isdisjoint({"torch", "numpy", "PIL", "matplotlib", "tqdm"})


@pytest.mark.parametrize("debug", [False, True])
def test_a_mistake_is_a_sentence_and_a_traceback_only_with_debug(debug, capsys):
    @tool
    def main(argv=None):
        make_parser("Fails.").parse_args(argv)
        raise UserError("x.yaml has no labels: name some")

    assert main(["--debug"] if debug else []) == 1
    error = capsys.readouterr().err
    assert error.endswith("error: x.yaml has no labels: name some\n")
    assert ("Traceback" in error) == debug


def test_a_defect_keeps_its_traceback():
    @tool
    def main(argv=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main([])


def test_a_reader_that_went_away_ends_a_tool_quietly(monkeypatch, capsys):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    @tool
    def main(argv=None):
        print("a line")
        return 0

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main([]) == 141
    assert capsys.readouterr().err == ""


def test_a_name_that_the_terminal_cannot_show_is_escaped(monkeypatch):
    @tool
    def main(argv=None):
        print("ü \udce4")
        return 0

    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    assert main([]) == 0
    assert terminal.getvalue() == b"\\xfc \\udce4\n"
