"""The street world: its geometry, its truth, its annotators, and the files that they leave."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.ndimage import distance_transform_edt

from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import Dataset, open_dataset
from densemtmd.datasets.labels import code_table, read_labels
from densemtmd.errors import UserError
from densemtmd.worlds import annotators, textures
from densemtmd.worlds.annotators import (
    ANNOTATORS,
    HABITS,
    WORDS,
    XU_FINE,
    StreetSettings,
    annotate,
    ensure_streets,
    files_of,
    translate,
    words,
)
from densemtmd.worlds.scene import Scene, Site, Viewpoint, build
from densemtmd.worlds.streets import Picture, _majority, lens, project, render
from densemtmd.worlds.textures import Fine, Material
from densemtmd.worlds.world import fine_truth

MODEST = StreetSettings(images=8, frames=2, width=192, height=80, seed=3)
TINY = StreetSettings(images=3, frames=1, width=64, height=48, annotators=("he", "ros"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_streets(tmp_path_factory.mktemp("data"), MODEST)


@pytest.fixture(scope="module")
def datasets(world: Path) -> dict[str, Dataset]:
    return {name: open_dataset(load_dataset_config(name), world) for name in ANNOTATORS}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------------------------- geometry


def level(s: float = 0.0) -> Viewpoint:
    return Viewpoint(np.array([0.0, 1.6, s]), yaw=0.0, pitch=0.0, roll=0.0)


def height_of_post(distance: float, camera: Viewpoint) -> float:
    view = lens(320, 128)
    top, foot = project(np.array([[2.0, 3.0, distance], [2.0, 0.0, distance]]), camera, view)
    return float(foot[1] - top[1])


def test_twice_as_far_is_half_as_tall() -> None:
    assert height_of_post(20, level()) == pytest.approx(height_of_post(10, level()) / 2)


def test_pinhole_by_hand() -> None:
    view = lens(320, 128)
    column, row, depth = project(np.array([3.0, 0.6, 10.0]), level(), view)
    assert (column, row, depth) == pytest.approx((160 + 0.58 * 320 * 0.3, 0.46 * 128 + 0.58 * 320 * 0.1, 10))


def test_turning_right_moves_things_left_and_looking_up_moves_them_down() -> None:
    view, point = lens(320, 128), np.array([0.0, 1.6, 10.0])
    right, up = replace(level(), yaw=0.1), replace(level(), pitch=0.1)
    assert project(point, right, view)[0] == pytest.approx(160 - view.focal * np.tan(0.1))
    assert project(point, up, view)[1] == pytest.approx(view.centre_y + view.focal * np.tan(0.1))


def lone(distances: tuple[float, ...], fines: tuple[Fine, ...] = (Fine.BIN, Fine.BIN)) -> Scene:
    """A street with nothing in it but upright boards, 1 m wide and 1 m tall, straight ahead."""
    scene = build(np.random.default_rng(1), frames=2)
    site = Site(bend=0.0, sun=(0.0, 0.0, 0.0))
    for distance, fine in zip(distances, fines, strict=False):
        board = textures.sheet(Material(fine, (0.5, 0.4, 0.3)))
        site.wall(scene.offset - 0.5, distance, scene.offset + 0.5, distance, board, height=1.0)
    return replace(scene, bend=0.0, still=site, movers=(), wobble=np.zeros((2, 3)), advance=4.0)


def board_size(scene: Scene, frame: int, fine: Fine = Fine.BIN) -> tuple[int, int]:
    """Height and width in pixels."""
    truth = render(scene, frame, 320, 128, np.random.default_rng(0)).truth
    rows, columns = np.nonzero(truth == fine)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_rendered_sizes_follow_the_pinhole() -> None:
    for distance in (5.0, 10.0, 20.0):
        expected = 0.58 * 320 / distance
        assert board_size(lone((distance,)), 0) == pytest.approx((expected, expected), abs=1.5)


def test_camera_drives_on() -> None:
    scene = lone((12.0,))
    assert board_size(scene, 0) == pytest.approx((0.58 * 320 / 12,) * 2, abs=1.5)
    assert board_size(scene, 1) == pytest.approx((0.58 * 320 / 8,) * 2, abs=1.5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_near_things_hide_far_ones_whatever_their_order(order: tuple[int, int]) -> None:
    boards = [(6.0, Fine.BIN), (9.0, Fine.SIGN)]
    scene = lone(*zip(*(boards[k] for k in order), strict=True))
    picture = render(scene, 0, 320, 128, np.random.default_rng(0))
    assert (picture.truth == Fine.BIN).sum() > 500
    far = picture.truth == Fine.SIGN  # only what stands out above: the near board's upper edge is seen lower
    assert far.sum() > 0
    assert np.nonzero(far)[0].max() <= np.nonzero(picture.truth == Fine.BIN)[0].min()
    assert picture.depth[picture.truth == Fine.BIN].max() == pytest.approx(6.0, abs=0.01)


def test_ground_depth_follows_from_the_cameras_height() -> None:
    picture = render(lone(()), 0, 320, 128, np.random.default_rng(0))
    row = 120
    sample = row + 0.75  # the lower of the pixel's two samples, which is the nearer
    assert picture.depth[row, 100] == pytest.approx(1.6 * 0.58 * 320 / (sample - 0.46 * 128), rel=1e-3)
    assert (picture.truth[:30] == Fine.SKY).all()


def test_majority_against_counting() -> None:
    samples = np.random.default_rng(0).integers(0, 4, (40, 60)).astype(np.uint8)
    truth = _majority(samples)
    for i in range(20):
        for j in range(30):
            counts = np.bincount(samples[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel(), minlength=4)
            assert truth[i, j] == max(range(4), key=lambda fine: (counts[fine], fine))


def test_a_street_has_sky_above_and_road_below() -> None:
    for seed in range(4):
        truth = render(build(np.random.default_rng(seed), 1), 0, 160, 64, np.random.default_rng(seed)).truth
        assert truth.dtype == np.uint8 and truth.shape == (64, 160)
        assert not (truth[48:] == Fine.SKY).any()
        assert (truth[40:] == Fine.ROAD).mean() > 0.2
        assert not np.isin(truth[:10], [Fine.ROAD, Fine.GRASS, Fine.SIDEWALK, Fine.CAR]).any()


# ------------------------------------------------------------------------------------------------------------- what they call it


@pytest.mark.parametrize("name", ANNOTATORS)
def test_every_label_has_a_word(name: str) -> None:
    labels = load_dataset_config(name).labelset.labels
    assert set(labels) == {label for label in words(name).labels if label is not None}


def test_sixty_eight_labels() -> None:
    assert sum(len(load_dataset_config(name).labelset.labels) for name in ANNOTATORS) == 68


def test_words_are_complete_and_a_row_has_one_word_per_annotator() -> None:
    assert set(WORDS) == set(Fine)
    assert {len(row) for row in WORDS.values()} == {len(ANNOTATORS)}
    assert len(XU_FINE) == 29 and len(set(XU_FINE)) == 29


@pytest.mark.parametrize(
    ("name", "fine", "label"),
    [
        ("he", Fine.POLE, "building"),
        ("he", Fine.FENCE, "building"),
        ("he", Fine.SIGN, "building"),
        ("ladicky", Fine.GRASS, "grass"),
        ("kundu", Fine.GRASS, "vegetation"),
        ("ros", Fine.RIDER, "cyclist"),
        ("sengupta", Fine.RIDER, "pedestrian"),
        ("sengupta", Fine.BIKE_RIDDEN, "bike"),
        ("xu", Fine.LANE_MARKING, "ground"),
        ("xu", Fine.TRAFFIC_LIGHT, "infrastructure"),
        ("xu", Fine.RIDER, "movable"),
        ("zhang", Fine.POLE, "signage"),
        ("zhang", Fine.BIN, None),
    ],
)
def test_translate(name: str, fine: Fine, label: str | None) -> None:
    labels = list(load_dataset_config(name).labelset.labels)
    expected = 255 if label is None else labels.index(label)
    assert translate(np.full((2, 3), fine, np.uint8), name).tolist() == [[expected] * 3] * 2


def test_unknown_annotator() -> None:
    with pytest.raises(UserError, match=r"called 'kund'.*did you mean 'kundu'"):
        translate(np.zeros((1, 1), np.uint8), "kund")


def flat_picture(fine: Fine, depth: float) -> Picture:
    shape = (60, 80)
    return Picture(np.zeros((*shape, 3), np.uint8), np.full(shape, fine, np.uint8), np.full(shape, depth, np.float32))


def test_zhang_leaves_far_things_out() -> None:
    near, far = (annotate(flat_picture(Fine.BUILDING, depth), "zhang", np.random.default_rng(0)) for depth in (20, 200))
    assert (near[10:] != 0).mean() > 0.95
    assert (far == 0).all()
    assert (near[: round(HABITS["zhang"].zenith * 60)] == 0).all()


def test_ros_leaves_borders_out() -> None:
    picture = flat_picture(Fine.ROAD, 10)
    picture.truth[:, 40:] = Fine.CAR
    codes = annotate(picture, "ros", np.random.default_rng(0))
    void = load_dataset_config("ros").codes.void[0]
    assert all((row[35:46] == void).any() for row in codes)


# -------------------------------------------------------------------------------------------------------------------- the files


def test_readers_find_all_pictures(datasets: dict[str, Dataset]) -> None:
    for name, dataset in datasets.items():
        items = [item for part in dataset.splits.values() for item in part]
        assert len(items) == MODEST.images, name
        assert dataset.splits["train"] and dataset.splits["test"], name
        sample = dataset.load(items[0])
        assert sample.image.shape == (80, 192, 3) and sample.target.shape == (80, 192)


def test_sequences_stay_on_one_side(datasets: dict[str, Dataset]) -> None:
    for name, dataset in datasets.items():
        parts = [{item.sequence for item in part} for part in dataset.splits.values()]
        assert sum(len(part) for part in parts) == len(set.union(*parts)) == MODEST.sequences, name


def test_every_label_of_every_labelset_occurs(datasets: dict[str, Dataset]) -> None:
    for name, dataset in datasets.items():
        items = [item for part in dataset.splits.values() for item in part]
        seen = {int(i) for item in items for i in np.unique(dataset.load(item).target)} - {255}
        assert seen == set(range(len(dataset.labelset.labels))), name


def test_annotations_agree_with_the_truth_away_from_borders(world: Path, datasets: dict[str, Dataset]) -> None:
    for name, dataset in datasets.items():
        right = wrong_near = labelled = unlabelled = total = 0
        for item in (item for part in dataset.splits.values() for item in part):
            target = dataset.load(item).target
            answer = translate(fine_truth(world, name, item.key), name)
            border = np.zeros(answer.shape, bool)
            for axis in (0, 1):
                change = np.diff(answer.astype(int), axis=axis) != 0
                border |= np.insert(change, 0, False, axis) | np.insert(change, change.shape[axis], False, axis)
            inner = (distance_transform_edt(~border) > 3) & (target != 255)
            right += int((target == answer)[inner].sum())
            labelled += int(inner.sum())
            wrong_near += int(((target != answer) & (target != 255) & (answer != 255)).sum())
            unlabelled += int((target == 255).sum())
            total += target.size
        assert labelled > 0.2 * total, name
        assert right >= 0.97 * labelled, name
        assert wrong_near > 0, f"{name} draws as no one does"
        assert 0.005 < unlabelled / total < 0.2, name


def test_frames_of_a_sequence_differ_but_show_the_same_street(world: Path) -> None:
    for name in ("kundu", "xu"):
        first, second = (fine_truth(world, name, f"0001_{frame:06d}") for frame in range(2))
        other = fine_truth(world, name, "0002_000000")
        assert 0.01 < (first != second).mean() < (first != other).mean()


def test_truth_is_of_the_same_pixels_as_the_picture(world: Path) -> None:
    from PIL import Image

    sky, road = [], []
    for sequence in range(MODEST.sequences):
        image, _ = files_of(world, MODEST, "kundu", sequence, 0)
        pixels = np.asarray(Image.open(image)).mean(2)
        truth = fine_truth(world, "kundu", f"{sequence:04d}_000000")
        sky.append(pixels[truth == Fine.SKY].mean())
        road.append(pixels[truth == Fine.ROAD].mean())
    assert min(sky) > 120 and max(sky) > 1.4 * min(road)


def test_classes_json(world: Path) -> None:
    classes = json.loads((world / "truth" / "classes.json").read_text())
    assert classes["fine"] == [fine.name.lower() for fine in Fine]
    for name in ANNOTATORS:
        labels = list(load_dataset_config(name).labelset.labels)
        for fine in Fine:
            label = classes["labelsets"][name][fine.name.lower()]
            expected = 255 if label is None else labels.index(label)
            assert translate(np.array([[fine]], np.uint8), name)[0, 0] == expected


def test_fine_truth_knows_the_readers_keys(datasets: dict[str, Dataset], world: Path) -> None:
    for name in ("ros", "zhang"):
        item = datasets[name].splits["test"][0]
        assert fine_truth(world, name, item.key).shape == (80, 192)
    with pytest.raises(UserError, match=r"0099_000000\.png cannot be read"):
        fine_truth(world, "ros", "0099_000000")


def test_same_bytes_whatever_the_workers_and_other_bytes_for_another_seed(tmp_path: Path) -> None:
    one = ensure_streets(tmp_path / "one", TINY, workers=1)
    two = ensure_streets(tmp_path / "two", TINY, workers=2)
    assert one.name == two.name
    assert contents(one) == contents(two)
    other = ensure_streets(tmp_path / "one", replace(TINY, seed=1), workers=1)
    assert other != one
    a, b = contents(one), contents(other)
    # Which sequences test is drawn too, so the folders of ros may differ; no file that both have is the same.
    assert all(a[path] != b[path] for path in a.keys() & b.keys() if path != "truth/classes.json")
    assert contents(one / "he").keys() == contents(other / "he").keys()


def test_pictures_do_not_depend_on_the_other_annotators(tmp_path: Path) -> None:
    both = ensure_streets(tmp_path, TINY, workers=1)
    alone = ensure_streets(tmp_path, replace(TINY, annotators=("ros",)), workers=1)
    assert contents(both / "ros") == contents(alone / "ros")


def test_mat_files_hold_no_time(tmp_path: Path) -> None:
    root = ensure_streets(tmp_path, replace(TINY, annotators=("he",)), workers=1)
    path = root / "he" / "labels" / "0000_000000.mat"
    assert path.read_bytes()[:116].strip() == b"MATLAB 5.0 MAT-file, written by densemtmd"
    codes = loadmat(path)["truth"]
    assert codes.dtype == np.uint8 and codes.max() <= 8
    config = load_dataset_config("he")
    assert read_labels(path, config, code_table(config)).shape == (48, 64)


def test_a_world_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ensure_streets(tmp_path, TINY, workers=1)
    monkeypatch.setattr(annotators, "_write_world", lambda *_: pytest.fail("rendered again"))
    assert ensure_streets(tmp_path, TINY) == root


def test_an_interrupted_world_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = annotators._write_street, []

    def interrupted(street: tuple[Path, StreetSettings, str, int]) -> int:
        calls.append(street)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(street)

    monkeypatch.setattr(annotators, "_write_street", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_streets(tmp_path, TINY, workers=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert ensure_streets(tmp_path, TINY, workers=1).is_dir()


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    root = ensure_streets(tmp_path, TINY, workers=1)
    new, old = (root.parent / f".{root.name}.{age}.partial" for age in ("new", "old"))
    for folder in (new, old):
        (folder / "he").mkdir(parents=True)
    os.utime(old, (time.time() - 90_000,) * 2)
    root.rename(tmp_path / "elsewhere")
    ensure_streets(tmp_path, TINY, workers=1)
    assert new.is_dir() and not old.exists()


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(street: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(annotators, "_write_street", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        ensure_streets(tmp_path, TINY, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_streets(tmp_path / "first", TINY, workers=1)
    write = annotators._write_world

    def slow(folder: Path, *rest: object) -> None:
        write(folder, *rest)  # type: ignore[arg-type]
        first.rename(tmp_path / first.name)  # meanwhile

    monkeypatch.setattr(annotators, "_write_world", slow)
    root = ensure_streets(tmp_path, TINY, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["first", root.name])
    assert root.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 10}, "width of the street world is 10, expected 64 to 4096"),
        ({"images": 2}, "make 2, expected at least 3"),
        ({"seed": -1}, "seed of the street world is -1"),
        ({"annotators": ()}, "no annotator"),
        ({"annotators": ("he", "rose")}, "did you mean 'ros'"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]
