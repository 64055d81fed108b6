"""Errors of keypoints: against plain loops, against what publications report, and through ``tools/evaluate.py --predictions``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densemtmd.datasets.hands.crop import Cube
from densemtmd.datasets.hands.predictions import write_predictions
from densemtmd.datasets.hands.sets import ICVL, NYU
from densemtmd.draw import skeletons
from densemtmd.keypoints import Errors, coordinates, distances, report, scores, within

TOOLS = Path(__file__).parents[1] / "tools"

PUBLISHED = {
    "nyu/predictions/ICCVW17_NYU_DeepPrior++.txt": 12.238,
    "nyu/predictions/CVPR18_NYU_V2V_PoseNet.txt": 8.419,
    "nyu/predictions/JVCI18_NYU_REN_9x6x6.txt": 12.694,
    "nyu/predictions/ICCV15_NYU_Feedback.txt": 15.973,
    "icvl/predictions/CVPR14_LRF_Results.txt": 12.578,
    "icvl/predictions/CVPR18_ICVL_V2V_PoseNet.txt": 6.284,
    "icvl/predictions/JVCI18_ICVL_REN_9x6x6.txt": 7.305,
}
"""Mean 3D errors, mm."""


@pytest.fixture
def evaluate(monkeypatch):
    from densemtmd.commands import evaluate

    return evaluate.main


def test_distances_and_shares_by_hand():
    answers = np.array([[[3.0, 4, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 12]]])
    errors = distances(answers, np.zeros((2, 2, 3)))
    assert errors.tolist() == [[5, 1], [0, 12]]
    assert within(errors, [4.9, 5, 11, 12]).tolist() == [0, 50, 50, 100]
    assert np.isnan(within(np.zeros((0, 2)), [1])).all()


def test_both_is_pooled_over_frames_as_in_table_6():
    nyu = Errors(np.full((8252, 14), 17.75), np.full((8252, 14), 8.49))
    icvl = Errors(np.full((1596, 16), 9.53), np.full((1596, 16), 4.76))
    both = scores([nyu, icvl])
    assert round(both.mm, 2) == 16.42 and np.isnan(both.px) and both.frames == 9848
    assert scores([icvl]).px == pytest.approx(4.76)
    assert scores([]).frames == 0


def test_unknown_keypoints_do_not_count():
    errors = np.array([[1.0, np.nan], [3, 5], [np.nan, np.nan]])
    found = scores([Errors(errors, errors)])
    assert found.mm == pytest.approx((1 + 4) / 2) and found.frames == 2
    assert within(errors, [2, 5]).tolist() == [50, 100]
    told = report({"a": Errors(errors, errors)}, {"a": ["x", "y"]})["datasets"]["a"]
    assert told["keypoints"] == {"x": {"mm": 2, "px": 2}, "y": {"mm": 5, "px": 5}}
    json.dumps(told, allow_nan=False)


def test_coordinates_are_plain_json():
    xyz = np.random.default_rng(0).uniform((-50, -50, 350), (50, 50, 450), (16, 3))
    uvd = ICVL.camera.to_uvd(xyz)
    told = json.loads(json.dumps(coordinates(ICVL.keypoints.keypoints, uvd, xyz)))
    assert list(told) == list(ICVL.keypoints.keypoints)
    assert np.allclose([p["mm"] for p in told.values()], xyz, atol=0.006)
    assert np.allclose([p["px"] for p in told.values()], uvd[:, :2], atol=0.006)


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_errors_are_reproduced(evaluate, data_root, file, capsys):
    path = data_root / "hands" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert evaluate(["--predictions", str(path), "--keypoints", file.split("/")[0]]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(path.stem) and "frames" not in line and "." in line)
    assert float(row.removeprefix(path.stem).split()[0]) == pytest.approx(PUBLISHED[file], abs=0.01)


@pytest.fixture
def labels(tmp_path):
    """ICVL's test labels of 3 frames, in a folder of their own."""
    uvd = np.random.default_rng(1).uniform((100, 80, 300), (200, 160, 400), (3, 16, 3)).round(3)
    home = tmp_path / "data" / "icvl"
    home.mkdir(parents=True)
    lines = [" ".join(map(str, [f"test_seq_1/image_{n:04d}.png", *frame.ravel()])) for n, frame in enumerate(uvd)]
    (home / "test_seq_1.txt").write_text("\n".join(lines[:2]) + "\n\n")
    (home / "test_seq_2.txt").write_text(lines[2] + "\n\n")
    return tmp_path, uvd


def test_a_file_of_predictions(evaluate, labels, capsys):
    folder, uvd = labels
    wrong = uvd.copy()
    wrong[2, 5, 2] += 60
    wrong[0, 0, 0] += 3
    write_predictions(folder / "mine.txt", wrong)
    out = folder / "out"
    options = ["--keypoints", "icvl", "--data-root", str(folder / "data"), "--out", str(out)]
    assert evaluate(["--predictions", str(folder / "mine.txt"), *options]) == 0
    pairs = zip(wrong.reshape(-1, 3), uvd.reshape(-1, 3), strict=True)
    expected = [np.linalg.norm(ICVL.published.to_xyz(a) - ICVL.published.to_xyz(b)) for a, b in pairs]
    told = json.loads((out / "scores.json").read_text())["datasets"]["mine"]
    assert told["mm"] == pytest.approx(np.mean(expected)) and told["px"] == pytest.approx(3 / 48) and told["frames"] == 3
    assert told["within"]["10 mm"] == pytest.approx(200 / 3) and told["keypoints"]["palm"]["px"] == pytest.approx(1)
    kept = np.load(out / "per_image.npz")
    assert kept["mine/mm"].shape == (3, 16) and kept["mine/mm"].mean() == pytest.approx(told["mm"])
    assert kept["mine/pictures"][0] == "test_seq_1/image_0000"
    assert f"| mine | {told['mm']:.2f} | {told['px']:.2f} |" in (out / "scores.md").read_text()
    assert Image.open(out / "figures" / "within.png").width > 500


def test_a_file_in_mm(evaluate, labels, capsys):
    """The same answers as x y z score the same, and are not taken for u v depth, nor the other way round, nor upside down."""
    folder, uvd = labels
    xyz = ICVL.published.to_xyz(uvd) + 2
    for name, answers in (("uvd", ICVL.published.to_uvd(xyz)), ("xyz", xyz), ("down", xyz * (1, -1, 1))):
        write_predictions(folder / f"{name}.txt", answers)
    options = ["--keypoints", "icvl", "--data-root", str(folder / "data")]
    for units in ("uvd", "xyz"):
        assert evaluate(["--predictions", str(folder / f"{units}.txt"), "--units", units, *options]) == 0
        assert f"{np.sqrt(12):.2f}" in capsys.readouterr().out  # 2 mm in each direction
    for name, units, other in (("xyz", "uvd", "xyz"), ("uvd", "xyz", "uvd"), ("down", "xyz", "xyz with y turned")):
        assert evaluate(["--predictions", str(folder / f"{name}.txt"), "--units", units, *options]) == 1
        assert f"use --units {other}\n" in capsys.readouterr().err


def test_mistakes_are_sentences(evaluate, labels, capsys):
    folder, uvd = labels
    write_predictions(folder / "two.txt", uvd[:2])
    write_predictions(folder / "three.txt", uvd)
    (folder / "short.txt").write_text("1 2 3\n")
    root = ["--data-root", str(folder / "data")]
    for arguments, words in [
        ([], ["CHECKPOINT", "--predictions"]),
        (["runs/a", "--predictions", "b.txt", "--keypoints", "nyu"], ["give one of"]),
        (["--predictions", str(folder / "two.txt")], ["--keypoints belong together"]),
        (["runs/a", "--keypoints", "nyu"], ["--keypoints belong together"]),
        (["--predictions", str(folder / "two.txt"), "--keypoints", "icvl", *root], ["two.txt has 2 lines, expected 3"]),
        (["--predictions", str(folder / "short.txt"), "--keypoints", "icvl", *root], ["short.txt, line 1", "3 numbers, expected 48"]),
        (["--predictions", str(folder / "none.txt"), "--keypoints", "icvl", *root], ["none.txt", "cannot be read"]),
        (["--predictions", str(folder / "three.txt"), "--keypoints", "icvk", *root], ["'icvk'", "did you mean 'icvl'"]),
        (["--predictions", str(folder / "three.txt"), "--keypoints", "nyu", *root], ["true keypoints of nyu", "--data-root"]),
        (["--predictions", str(folder / "three.txt"), "--keypoints", "icvl", *root, "--out", "/proc/nowhere"], ["/proc/nowhere"]),
    ]:
        capsys.readouterr()
        assert evaluate(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        for word in words:
            assert word in error, error


def test_as_a_command(labels):
    folder, uvd = labels
    write_predictions(folder / "data" / "icvl" / "same.txt", uvd)
    command = [sys.executable, TOOLS / "evaluate.py", "--predictions", folder / "data" / "icvl" / "same.txt", "--keypoints", "icvl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "0.00" in done.stdout, done.stderr


def test_a_skeleton_is_drawn_where_the_keypoints_are():
    """Each keypoint's disc has its finger's colour, in the middle of the window that the picture shows."""
    xyz = np.random.default_rng(2).uniform((-60, -80, 680), (60, 80, 720), (14, 3))
    uvd = NYU.camera.to_uvd(xyz)
    depth = np.full((480, 640), 1200.0)
    picture = np.asarray(skeletons.skeleton(depth, uvd, NYU, title="nyu"))
    middle, reach = (uvd[:, :2].min(0) + uvd[:, :2].max(0)) / 2, 0.65 * np.ptp(uvd[:, :2], axis=0).max() + 10
    nearest = int(uvd[:, 2].argmin())  # drawn last, so over all others
    column, row = ((uvd[nearest, :2] - middle + reach) * skeletons.WINDOW / (2 * reach)).astype(int)
    assert picture.shape == (480, 480, 3) and tuple(picture[row, column]) == skeletons.FINGER_COLOURS[NYU.fingers[nearest]]
    with_truth = np.asarray(skeletons.skeleton(depth, uvd, NYU, truth=uvd))
    assert (with_truth != np.asarray(skeletons.skeleton(depth, uvd, NYU))).any()
    assert skeletons.skeleton(np.zeros((40, 50)), uvd - [300, 200, 0], NYU).size == (480, 480)  # partly outside the picture


def test_a_skeleton_in_a_box_shows_that_part_of_the_picture():
    """Both annotations of a hand are then drawn at the same place; the box is where the cube's middle is seen."""
    cube = Cube(np.array([30.0, -20.0, 700.0]), np.array(300.0))
    box = cube.box(NYU.camera)
    corners = NYU.camera.to_uvd(cube.centre + np.array([[-150, 150, 0], [150, -150, 0]]))  # y up, rows down
    assert np.abs(box[:, :2] - corners[:, :2]).max() < 1e-9 and box[:, 2].tolist() == [550, 850]
    depth = np.where(np.add.outer(np.arange(480) // 8, np.arange(640) // 8) % 2, 640.0, 720.0)
    xyz = cube.centre + np.random.default_rng(3).uniform(-60, 60, (16, 3))
    drawn = [np.asarray(skeletons.skeleton(depth, NYU.camera.to_uvd(xyz[:n]), hands, box=box)) for n, hands in ((14, NYU), (16, ICVL))]
    same = (drawn[0] == drawn[1]).all(2)
    assert same.mean() > 0.9 and not same.all()
    column, row = (300, 400)  # of the window, away from the keypoints and the legend
    zoom = skeletons.WINDOW / np.ptp(box[:, :2], axis=0).max()
    u, v = (box[:, :2].mean(0) + (np.array([column, row]) + 0.5 - skeletons.WINDOW / 2) / zoom + 0.5).astype(int)
    assert drawn[0][row, column, 0] == (210 if depth[v, u] == 640 else 60)
