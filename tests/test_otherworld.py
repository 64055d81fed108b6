"""The other world: real files in the layout of Stanford Background, true labels, and a real shift of the domain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densemtmd.data import open_data, output_space
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import Dataset, load_split, open_dataset
from densemtmd.errors import UserError
from densemtmd.settings import DataSettings
from densemtmd.tasks import VOID
from densemtmd.worlds.annotators import StreetSettings, ensure_streets
from densemtmd.worlds.countryside import build
from densemtmd.worlds.otherworld import FOREGROUND, WORDS, OtherSettings, ensure_otherworld, translate
from densemtmd.worlds.streets import lens, project, render
from densemtmd.worlds.textures import Fine
from densemtmd.worlds.world import fine_truth

MODEST = OtherSettings(images=60, width=160, height=120)
TINY = OtherSettings(images=4, width=64, height=48, seed=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_otherworld(tmp_path_factory.mktemp("data"), MODEST)


@pytest.fixture(scope="module")
def dataset(world: Path) -> Dataset:
    return open_dataset(load_dataset_config("otherworld"), world)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The files


def test_labels_read_back_are_the_rendered_truth(world: Path, dataset: Dataset) -> None:
    items = [item for part in dataset.splits.values() for item in part]
    assert len(items) == MODEST.images and all(dataset.splits.values())
    unknown = []
    for item in items:
        target, truth = dataset.load(item).target, translate(fine_truth(world, "otherworld", item.key))
        assert target.shape == truth.shape == (120, 160)
        assert (target == truth)[target != VOID].all()
        unknown.append((target == VOID).mean())
    assert 0.003 < np.mean(unknown) < 0.02 and max(unknown) < 0.05


def test_every_label_occurs_in_every_split_and_in_many_pictures(dataset: Dataset) -> None:
    for split in ("train", "test"):
        assert set(np.unique([sample.target for sample in load_split(dataset, split)])) == {*range(8), VOID}


def test_it_is_the_layout_of_stanford(world: Path) -> None:
    """The reader of the real dataset finds the same pictures and labels, once its own folder is where they lie."""
    stanford = load_dataset_config("stanford")
    other = load_dataset_config("otherworld")
    assert stanford.labelset.labels == other.labelset.labels and stanford.codes == other.codes
    found = open_dataset(replace(stanford, folder="otherworld", together=()), world)
    item = found.splits["test"][0]
    expected = translate(fine_truth(world, "otherworld", item.key))
    target = found.load(item).target
    assert (target == expected)[target != VOID].all()
    assert sorted(path.name for path in (world / "otherworld").iterdir()) == ["horizons.txt", "images", "labels"]


def test_horizons_are_where_far_points_are_seen(world: Path) -> None:
    for line in (world / "otherworld" / "horizons.txt").read_text().splitlines()[:8]:
        stem, width, height, row = line.split()
        assert (width, height) == ("160", "120")
        scene = build(np.random.default_rng((MODEST.seed, 7, int(stem))))
        camera, _, _ = scene.at(0)
        camera = replace(camera, roll=0.0)  # in the middle column a roll changes nothing
        ahead = camera.place + 1e7 * np.array([np.sin(camera.yaw), 0, np.cos(camera.yaw)])
        assert project(ahead, camera, lens(160, 120, scene.optics))[1] == pytest.approx(float(row), abs=0.01)


def test_classes_json(world: Path) -> None:
    classes = json.loads((world / "truth" / "classes.json").read_text())
    labels = load_dataset_config("otherworld").labelset.labels
    assert classes["fine"] == [fine.name.lower() for fine in Fine]
    for fine in Fine:
        assert labels[int(translate(np.array([[fine]], np.uint8))[0, 0])] == classes["labelsets"]["otherworld"][fine.name.lower()]
    assert {*WORDS.values(), FOREGROUND} == {*labels}


def test_same_bytes_whatever_the_workers_and_a_larger_world_begins_like_a_smaller(tmp_path: Path) -> None:
    one = ensure_otherworld(tmp_path / "one", TINY, workers=1)
    two = ensure_otherworld(tmp_path / "two", TINY, workers=2)
    assert contents(one) == contents(two) and one.name == two.name
    larger = contents(ensure_otherworld(tmp_path, replace(TINY, images=5), workers=1))
    assert all(larger[path] == content for path, content in contents(one).items() if not path.endswith("horizons.txt"))
    other = contents(ensure_otherworld(tmp_path, replace(TINY, seed=2), workers=1))
    assert all(other[path] != content for path, content in contents(one).items() if not path.endswith("classes.json"))


@pytest.mark.parametrize("change", [{"images": 2}, {"width": 10}, {"height": 10_000}, {"seed": -1}])
def test_settings_are_checked(change: dict[str, int]) -> None:
    ((key, value),) = change.items()
    with pytest.raises(UserError, match=f"{key} of the other world is {value}, expected"):
        replace(TINY, **change)


# The places


def test_what_is_in_fog_is_seen_or_not_labelled() -> None:
    """No picture calls a mountain what is as white as the fog before it."""
    for seed in range(60):
        scene = build(np.random.default_rng(seed))
        assert not scene.ridges or scene.light.haze * scene.ridges[0].distance < 20
        assert scene.light.haze < 0.003 or not scene.ridges


def test_water_mirrors_the_sky_and_mountains_stand_at_the_horizon() -> None:
    seen = {Fine.WATER: 0, Fine.MOUNTAIN: 0}
    for seed in range(20):
        scene = build(np.random.default_rng(seed))
        picture = render(scene, 0, 96, 72, np.random.default_rng(seed))
        level = lens(96, 72, scene.optics)
        row = level.centre_y + level.focal * np.tan(scene.at(0)[0].pitch)
        for fine in seen:
            rows = np.nonzero(picture.truth == fine)[0]
            seen[fine] += len(rows) > 0
            if len(rows):
                assert (rows.min() > row - 4) if fine is Fine.WATER else (rows.min() < row)
    assert min(seen.values()) >= 5


# The shift


def statistics(image: np.ndarray) -> np.ndarray:
    """Mean and deviation of Y, U and V, and of the steps of Y across and down, each as the whole picture has them."""
    yuv = np.asarray(Image.fromarray(image).convert("YCbCr"), np.float64)
    steps = [np.abs(np.diff(yuv[..., 0], axis=axis)).ravel() for axis in (0, 1)]
    parts = [*yuv.reshape(-1, 3).T, *steps]
    return np.array([value for part in parts for value in (part.mean(), part.std())])


@pytest.fixture(scope="module")
def both(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """The statistics of as many pictures of either world, at the same height."""
    root = ensure_streets(tmp_path_factory.mktemp("data"), StreetSettings(60, 1, 300, 120, annotators=("kundu",)))
    streets = open_dataset(load_dataset_config("kundu"), root)
    return tuple(
        np.array([statistics(sample.image) for part in one.splits for sample in load_split(one, part)]) for one in (streets, dataset)
    )


def test_a_linear_classifier_tells_the_worlds_apart(both: tuple[np.ndarray, np.ndarray]) -> None:
    """Least squares on ten numbers of a picture, fitted to half of the pictures, right on nine of ten of the others."""
    streets, others = both
    features, world = np.concatenate(both), np.repeat([-1.0, 1.0], [len(streets), len(others)])
    features = np.c_[(features - features.mean(0)) / features.std(0), np.ones(len(features))]
    learned = np.arange(len(features)) % 2 == 0
    weights = np.linalg.lstsq(features[learned], world[learned], rcond=None)[0]
    right = np.sign(features[~learned] @ weights) == world[~learned]
    assert right.mean() >= 0.9


def test_mean_and_deviation_of_yuv_differ(both: tuple[np.ndarray, np.ndarray]) -> None:
    """By more than the pictures of one world do by chance: four standard errors, in one or the other of each channel."""
    streets, others = both
    error = np.hypot(streets.std(0) / np.sqrt(len(streets)), others.std(0) / np.sqrt(len(others)))
    apart = np.abs(streets.mean(0) - others.mean(0)) / error
    assert (apart[:6].reshape(3, 2).max(1) > 4).all(), apart


# Training on both


def both_worlds(**changes: object) -> DataSettings:
    small = {"images": 3, "frames": 1, "width": 64, "height": 48}
    both = ["kundu", "ros", "otherworld"]
    data = DataSettings("both", both, domain={"kitti": "street"}, world=small, otherworld={"images": 3, "width": 64})
    return replace(data, **changes)  # type: ignore[arg-type]


def test_a_data_choice_of_both_worlds(tmp_path: Path) -> None:
    datasets = open_data(both_worlds(), tmp_path)
    assert [(d.name, d.domain) for d in datasets] == [("kundu", "street"), ("ros", "street"), ("otherworld", "otherworld")]
    assert output_space(datasets).channels == 11 + 11 + 8
    assert len(list(tmp_path.iterdir())) == 2
    before = contents(tmp_path)
    open_data(both_worlds(), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"otherworld": {"frames": 3}}, "unknown setting data.otherworld.frames"),
        ({"otherworld": {"images": "many"}}, "data.otherworld.images is 'many', expected a whole number"),
        ({"domain": {"kiti": "street"}}, "data.domain has 'kiti', which is the domain of none of the datasets; known: kitti, otherworld"),
        ({"domain": 3}, "data.domain is 3, expected a name"),
        ({"domain": {"kitti": ["street"]}}, "expected a name"),
        ({"otherworld": None}, "dataset otherworld was not found"),
    ],
)
def test_mistakes_in_a_data_choice(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        open_data(both_worlds(**change), tmp_path)
