"""The order of the house: a room imports only rooms above it, and what is heavy or optional is imported where it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import densemtmd

PACKAGE = Path(densemtmd.__file__).parent
TOOLS = PACKAGE.parent / "tools"

ORDER = (
    "errors", "machine", "terminal", "progress", "stopping", "parallel", "files", "palette", "tasks", "settings", "origin", "composing",
    "geometry", "stack", "kind", "losses", "merging", "fast", "dense", "network", "backbones", "copies", "datasets", "worlds",
    "truth", "data", "checkpoint", "inference", "keypoints", "poses", "evaluation", "correlation", "draw", "video", "geo", "labelling",
    "cluster", "criterion", "kinds", "tracking", "strategies", "training", "compare", "runs", "web", "export", "release",
    "released", "hub", "bench", "commands", "__main__",
)  # fmt: skip
"""From the top down."""

CORE = (
    "tasks", "settings", "losses", "network", "dense", "fast", "kind", "backbones", "datasets", "data", "checkpoint", "inference",
    "keypoints", "poses", "evaluation", "training",
)  # fmt: skip
"""What trains and labels: these rooms can be imported, and so read and tested, without Hydra, MLflow, kornia and Matplotlib."""


def imports(source, package):
    """All modules that a source file imports, also inside functions, by their full names: ``from a import b`` gives ``a.b``.

    What stands under ``if TYPE_CHECKING`` is never imported: a signature may name what stands below, as those of a kind of task do.

    Args:
        source: its text.
        package: the package that the file is in, which relative imports start from.
    """
    found, tree = set(), ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def files(folder):
    return sorted(folder.rglob("*.py"))


def package_of(file):
    return ".".join(file.relative_to(PACKAGE.parent).parent.parts)


def imported_by(file):
    return imports(file.read_text(encoding="utf-8"), package_of(file))


def room_of(file):
    """``densemtmd/datasets/labels.py`` -> ``datasets``, ``densemtmd/losses.py`` -> ``losses``."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


ROOMS = {room_of(file) for file in files(PACKAGE)} - {"__init__"}


def test_every_room_has_its_place():
    assert {*ORDER} >= ROOMS, f"say in ORDER where {ROOMS - {*ORDER}} stands"
    assert {*CORE} <= ROOMS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_rooms_above_it(room):
    may = {*ORDER[: ORDER.index(room) + 1]}
    for file in files(PACKAGE):
        if room_of(file) != room:
            continue
        own = {name.split(".")[1] for name in imported_by(file) if name.startswith("densemtmd.")}
        assert own <= may, f"{file.relative_to(PACKAGE.parent)} imports {', '.join(sorted(own - may))}, which stands below it"
        assert "densemtmd" not in imported_by(file), f"{file} imports the whole package, not a room"


def module_of(file):
    """``densemtmd/datasets/__init__.py`` -> ``densemtmd.datasets``."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(sources):
    """Which modules each module imports, anywhere in its text.

    Args:
        sources: of each module its text and the package that it is in.
    """

    def module(name):
        """The module that an import names, or that holds the name that it asks for."""
        while name and name not in sources:
            name = name.rpartition(".")[0]
        return name

    return {name: {module(found) for found in imports(*source)} - {"", name} for name, source in sources.items()}


def circles(graph):
    """The sets of modules each of which imports, over others, all that are with it (Tarjan's strongly connected components)."""
    number, least, stack, found = {}, {}, [], []

    def visit(node):
        number[node] = least[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in stack:
                least[node] = min(least[node], least[other])
        if least[node] == number[node]:
            at = stack.index(node)
            found.append(frozenset(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return {one for one in found if len(one) > 1}


def test_no_module_imports_itself_over_others():
    sources = {module_of(file): (file.read_text(encoding="utf-8"), package_of(file)) for file in files(PACKAGE)}
    assert circles(graph_of(sources)) == set()


def test_circles_are_found():
    package = "densemtmd.room"
    sources = {
        "densemtmd": ("", "densemtmd"),
        package: ("from .a import f", package),
        f"{package}.a": ("import os", package),
        f"{package}.b": ("def f():\n    from densemtmd.room.c import g", package),
        f"{package}.c": ("from . import d", package),
        f"{package}.d": ("import densemtmd.room.b", package),
        f"{package}.e": ("from .b import f\nfrom densemtmd import room", package),
    }
    graph = graph_of(sources)
    assert graph[package] == {f"{package}.a"} and graph[f"{package}.e"] == {f"{package}.b", package}
    assert circles(graph) == {frozenset({f"{package}.b", f"{package}.c", f"{package}.d"})}
    sources[f"{package}.d"] = ("import densemtmd.room.a", package)
    assert circles(graph_of(sources)) == set()


def test_imports_are_found_wherever_they_stand():
    source = """
import os.path, torch as t
from densemtmd import draw
from . import sample
from ..tasks import VOID
def f():
    if True:
        import mlflow
        from densemtmd.runs import run as go
"""
    expected = {"os.path", "torch", "densemtmd.draw", "densemtmd.datasets.sample", "densemtmd.tasks.VOID", "mlflow", "densemtmd.runs.run"}
    assert imports(source, "densemtmd.datasets") == expected


def test_optional_libraries_are_imported_in_one_place():
    homes = {
        "mlflow": {PACKAGE / "tracking" / "mlflow_store.py", PACKAGE / "tracking" / "mlflow_model.py"},
        "hydra": {PACKAGE / "composing.py", PACKAGE / "runs" / "launch.py"},
        "omegaconf": {PACKAGE / "composing.py", PACKAGE / "runs" / "launch.py", PACKAGE / "commands" / "train.py"},
        "kornia": {PACKAGE / "backbones" / "patchnet.py", PACKAGE / "datasets" / "augment.py"},
        "pycocotools": {PACKAGE / "datasets" / "formats" / "regions.py"},
        "huggingface_hub": {PACKAGE / "backbones" / "weights.py", PACKAGE / "hub.py"},
        "timm": set(),  # and the next two: asked for by name, in backbones/torchvision_cpu.py
        "segmentation_models_pytorch": set(),
        "torchvision": set(),
        "matplotlib": {
            PACKAGE / "draw" / "lettering.py", PACKAGE / "draw" / "figures.py",
        },
    }  # fmt: skip
    used = {library: set() for library in homes}
    for file in [*files(PACKAGE), *files(TOOLS)]:
        for library in {name.split(".")[0] for name in imported_by(file)} & {*homes}:
            used[library].add(file)
    for library, home in homes.items():
        assert used[library] <= home, f"{library} is imported in {sorted(map(str, used[library] - home))}"
    assert used["mlflow"] == homes["mlflow"] and used["hydra"] == homes["hydra"]


WITHIN = (
    "datasets.mixing", "datasets.folder", "datasets.hands.crop", "backbones.patchnet", "backbones.handnet", "backbones.encoder_decoder",
    "backbones.frozen",
)  # fmt: skip


@pytest.fixture(scope="module")
def without_optional_libraries(tmp_path_factory):
    """What a Python prints that imports the rooms one by one, and in which none of the optional libraries can be imported."""
    script = f"""
import importlib, sys
BLOCKED = {{
    "hydra", "omegaconf", "mlflow", "kornia", "matplotlib", "timm", "segmentation_models_pytorch", "torchvision", "huggingface_hub"
}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for room in {(*CORE, *WITHIN, "tracking", "strategies", "runs")!r}:
    importlib.import_module("densemtmd." + room)
    print("imported", room, flush=True)
from densemtmd import Labelset, OutputSpace, Predictor, densify
print("imported the public names", flush=True)
from densemtmd.tracking import open_tracker
with open_tracker("none", "experiment", "run") as tracker:
    tracker.params({{"a": 1}})
    tracker.metrics({{"loss": 1.0}}, step=0)
print("tracked nothing", flush=True)
assert not BLOCKED & {{name.split(".")[0] for name in sys.modules}}
"""
    folder = tmp_path_factory.mktemp("empty")
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_the_core_needs_no_optional_library(without_optional_libraries):
    for room in CORE:
        assert f"imported {room}\n" in without_optional_libraries


def test_a_run_without_tracking_needs_neither_mlflow_nor_hydra(without_optional_libraries):
    assert "imported runs\n" in without_optional_libraries and without_optional_libraries.endswith("tracked nothing\n")
