"""A kind of task is one file: a third one, dropped in beside the other two, trains, scores and is drawn like them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from densemtmd import Predictor, backbones, checkpoint, kind, kinds
from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.datasets.sample import Sample
from densemtmd.errors import UserError
from densemtmd.kind import kind_of, kind_of_scores
from densemtmd.kinds import pixels
from densemtmd.runs.folder import reopen
from densemtmd.runs.run import run
from densemtmd.settings import DataSettings, RunSettings, ScoreSettings, TrainSettings

GAUGES = Path(__file__).with_name("toy_gauges.py")


class Meter(PatchClassifier):
    """Pictures of 8×8 pixels to a number for each gauge."""

    takes = "gauge"

    def __init__(self, space, name=None):
        features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 4, 1), nn.LeakyReLU())
        super().__init__(features, nn.Sequential(nn.Conv2d(4, space.channels, 1)), space, 4)


@pytest.fixture
def gauges(tmp_path, monkeypatch):
    """The folder of the kinds with a third file in it; the three hold for this test alone."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    shutil.copy(GAUGES, folder / "gauges.py")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder)])
    monkeypatch.setattr(backbones, "fresh", lambda model, space: Meter(space))
    random = np.random.default_rng(0)
    for name, brightest in (("left", 200), ("right", 100)):
        pictures = (random.integers(0, brightest, (40, 8, 8, 3)) * random.uniform(0.2, 1, (40, 1, 1, 1))).astype(np.uint8)
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "all.npz", pictures=pictures, value=pictures.mean((1, 2, 3)) / 255)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "encoding": "gauge", "gauges": ["light"]}))
    yield [str(tmp_path / f"{name}.yaml") for name in ("left", "right")]
    kind._found.cache_clear()


@pytest.mark.parametrize("stages", [
    [{"name": "jt", "datasets": "all"}],
    [{"name": "jt", "datasets": "all", "answers": False},
     {"name": "jtsc", "datasets": "all", "start": "jt", "context": True, "budget": 0.5}],
])  # fmt: skip
def test_a_third_kind_is_one_file(gauges, tmp_path, stages):
    settings = RunSettings(
        data=DataSettings(name="gauges", datasets=gauges), model={"name": "meter"}, strategy={"name": "s", "stages": stages},
        train=TrainSettings(epochs=None, outputs=24000, epoch_outputs=12000, batch=120, lr=0.03, patience=0),
        score=ScoreSettings(probe=False),
        data_root=str(tmp_path), cache="none", runs=str(tmp_path / "runs"), tracking="none",
    )  # fmt: skip
    folder = run(settings)
    scored = json.loads((folder / "scores.json").read_text())
    assert scored["kind"] == "gauges" and list(scored["datasets"]) == ["left", "right"]
    for name, each in scored["datasets"].items():
        value = np.load(tmp_path / name / "all.npz")["value"][32:]
        assert each["off"] < np.abs(value - value.mean()).mean() / 2, "no better than always the mean"
    network = checkpoint.load_network(folder / "best.safetensors")
    assert network.space.kind == "gauge" and kind_of(network.space.kind) is kind_of_scores(scored)
    assert "off" in (folder / "scores.md").read_text()
    _, datasets = reopen(folder)
    assert [len(dataset.splits["train"]) for dataset in datasets] == [24, 24]
    with pytest.raises(UserError, match="this network answers gauges"):
        Predictor([network])(np.zeros((8, 8, 3), np.uint8), "left")


def test_without_its_file_it_is_unknown():
    with pytest.raises(UserError, match="unknown kind of task 'gauge'; known: "):
        kind_of("gauge")


def test_scores_of_before_say_their_kind_by_their_measures():
    assert kind_of_scores({"pooled": {"mm": 3.0}}).name == "hands" and kind_of_scores({"pooled": {"iou": None}}).name == "pixels"
    with pytest.raises(UserError, match="unknown kind 'depth'"):
        kind_of_scores({"kind": "depth", "pooled": {}})


@pytest.mark.parametrize("one", ["pixels", "hands"])
def test_what_a_kind_keeps_it_reads_back(one):
    which, random = kind.kinds()[one], np.random.default_rng(1)
    found = random.integers(0, 50, (6, 3, 3)) if one == "pixels" else random.random((6, 3, 2))
    about = {"labels": dict.fromkeys("abc"), "keypoints": dict.fromkeys("abc")}
    assert (which.stored(which.arrays("d", found), "d", about) == found).all()
    with pytest.raises(ValueError, match="for d"):
        which.stored(which.arrays("d", found[:, :2, :2]), "d", about)
    assert which.parts(about) == ["a", "b", "c"] and len(which.asked(found)) == 6


def test_pooled_measures_are_those_of_the_report():
    """Two ways to the same numbers: from summed tallies, and from the report's own code."""
    from densemtmd.tasks import KeypointSet, Labelset

    random = np.random.default_rng(2)
    tasks = {"pixels": lambda name: Labelset(name, ["a", "b", "c"]), "hands": lambda name: KeypointSet(name, ["a", "b", "c"])}
    for one, task in tasks.items():
        which = kind.kinds()[one]
        found = {name: random.integers(0, 9, (5, 3, 3)) if one == "pixels" else random.random((5, 3, 2)) for name in ("x", "y")}
        scored = which.report(found, {name: task(name) for name in found})
        pooled = which.pooled([which.tally(each).sum(0) for each in found.values()])
        for value, measure in zip(pooled, which.measures, strict=True):
            said = scored["pooled"][measure.key]
            assert (said is None and np.isnan(value)) or said == pytest.approx(value)


def test_nobody_else_asks_which_kind_it_is():
    """Rooms that know no kind name none: neither its tasks' classes, nor its datasets', nor its measures."""
    package = Path(kind.__file__).parent
    own = (
        "kinds/", "datasets/hands/", "worlds/", "backbones/", "draw/skeletons.py", "draw/tables.py", "poses.py", "keypoints.py", "tasks.py",
        "truth.py", "web/answers.py", "bench/render.py", "commands/synthesize.py", "commands/infer.py", "commands/evaluate.py",
        "__init__.py", "labelling.py", "settings.py",
    )  # fmt: skip
    words = ("KeypointSet", "HandDataset", "HandMixture", "of_hands", "of_keypoints", '"mm" in', '"keypoints"', '"nyu"', "handnet")
    asked = [
        f"{file.relative_to(package)}: {line.strip()}"
        for file in sorted(package.rglob("*.py")) if not str(file.relative_to(package)).startswith(own)
        for line in file.read_text(encoding="utf-8").splitlines() if any(word in line for word in words)
    ]  # fmt: skip
    assert asked == [], "\n".join(asked)


def test_a_meter_learns_nothing_of_labels(gauges, tmp_path):
    settings = RunSettings(
        data=DataSettings(name="gauges", datasets=gauges), model={"name": "patchnet"}, data_root=str(tmp_path), tracking="none",
        strategy={"name": "jt", "stages": [{"name": "jt", "datasets": "all"}]}, runs=str(tmp_path / "runs"), cache="none",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Meter, "takes", "labelset")
        with pytest.raises(UserError, match="model=patchnet does not take what left shows, dials: choose model=meter"):
            run(settings)
    assert torch.is_tensor(next(Meter(kind_of("gauge").space(["light"])).parameters()))


@pytest.mark.parametrize(
    "size, most, kept", [((30, 40), 0, (30, 40)), ((30, 40), 1200, (30, 40)), ((30, 40), 300, (15, 20)), ((3, 900), 27, (1, 90))]
)
def test_the_middle_of_a_large_picture(size, most, kept):
    random = np.random.default_rng(0)
    sample = Sample(random.integers(0, 256, (*size, 3), np.uint8), random.integers(0, 5, size, np.uint8), "name")
    part = pixels.middle(sample, most)
    top, left = ((whole - own) // 2 for whole, own in zip(size, kept, strict=True))
    assert part.target.shape == kept and part.name == "name"
    assert (part.image == sample.image[top : top + kept[0], left : left + kept[1]]).all()
    assert (part.target == sample.target[top : top + kept[0], left : left + kept[1]]).all()
