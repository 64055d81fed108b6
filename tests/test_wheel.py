"""The package as a wheel: built, installed into an environment of its own over what is installed here, and used from a folder that knows
nothing of the clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("build")
pytest.importorskip("setuptools")

SMALL = [
    "data.world={images: 9, width: 96, height: 64}", "model=patchnet",
    "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=400",
    "train.crop=4", "train.batch=8", "tracking=none", "cache=none", "score.scoring=strided",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what belongs to the package: setuptools would leave a folder build/ in the clone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in ("densemtmd", "conf", "tools"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]  # the wheel is built from the sdist
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    assert len(list(out.glob("*.tar.gz"))) == 1
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """``densemtmd``, installed without its dependencies, which it finds where the tests find them."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    site = Path(paths["purelib"])
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--no-deps", "--no-index", "--quiet", wheel]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A line of a .pth adds a folder, but does not read the .pth files in that: an editable install there stays unseen.
    (site / "over.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))))
    return home / "bin" / "densemtmd"


@pytest.fixture(scope="module")
def call(command, tmp_path_factory):
    """Calls the command from an empty folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments, code=0):
        done = subprocess.run([command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.folder = folder
    return run


def test_what_a_wheel_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"densemtmd/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    kinds = ("*.py", "*.csv", "py.typed", "*.safetensors", "*.md")
    expected |= {path.relative_to(ROOT).as_posix() for kind in kinds for path in (ROOT / "densemtmd").rglob(kind)}
    assert expected <= names, sorted(expected - names)
    assert all(name.startswith("densemtmd") for name in names), "nothing is installed beside the package"


def test_what_an_index_says_of_it(wheel):
    with zipfile.ZipFile(wheel) as whole:
        about = whole.read(next(name for name in whole.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    assert "\nAuthor: The densemtmd authors\n" in about and "\nDescription-Content-Type: text/markdown\n" in about
    assert about.count("\nClassifier: ") > 9 and "Dataset A labels only cars" in about and "](docs/" not in about


def test_the_command_elsewhere(call):
    assert "check-data" in call("--help")
    assert "did you mean 'train'" in call("trian", code=1)
    assert "strategy:\n  name: jt" in call("train", "--cfg", "job", "data=stanford")
    printed = call("train", "data=street7", "data.datasets=[he,kundu]", *SMALL)  # two of the seven: fewer figures
    assert "label pictures with it:\n  densemtmd infer" in printed
    (picture, *_) = sorted((call.folder / "data").rglob("*.png"))
    assert "1 of 1 picture labelled" in call("infer", picture)
    assert sorted(path.name for path in call.folder.iterdir()) == ["data", "out", "runs"]
