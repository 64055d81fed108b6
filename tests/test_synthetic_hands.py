"""The hand world: bones keep their lengths and joints their limits, spheres are where geometry says, the readers read what is written."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from densemtmd.datasets.hands import icvl, nyu
from densemtmd.datasets.hands.locate import locate
from densemtmd.datasets.hands.sets import HAND_SETS, ICVL, NYU
from densemtmd.errors import UserError
from densemtmd.worlds import hand
from densemtmd.worlds.depth import View, draw_spheres, sense
from densemtmd.worlds.hands import HandWorldSettings, ensure_hands, picture_path, render_crops, shoot


def some(count=40, size=1.0, seed=0):
    return hand.draw_pose(np.random.default_rng(seed), count, np.full(count, size))


def at(points, name):
    return points[:, hand.PLACE[name]]


# -------------------------------------------------------------------------------------------------------------------------- the hand


def test_bones_keep_their_lengths_in_every_pose():
    for size in hand.SIZES:
        points = hand.move(some(size=size)).points
        for f, finger in enumerate(hand.FINGERS):
            lengths = hand.THUMB_BONES if finger == "thumb" else hand.PHALANGES[f - 1]
            for (a, b), length in zip((("root", "second"), ("second", "third"), ("third", "tip")), lengths, strict=True):
                found = np.linalg.norm(at(points, f"{finger} {a}") - at(points, f"{finger} {b}"), axis=1)
                assert np.allclose(found, length * size)
        assert np.allclose(np.linalg.norm(at(points, "wrist") - at(points, "elbow"), axis=1), 230 * size)


def test_joints_stay_within_their_limits():
    pose = some(2000)
    for values, name in [
        (pose.spread, "spread"), (pose.knuckle, "knuckle"), (pose.middle, "middle"), (pose.end, "end"),
        (pose.thumb[:, 0], "aside"), (pose.thumb[:, 1], "forward"), (pose.thumb[:, 2], "thumb_middle"), (pose.thumb[:, 3], "thumb_end"),
        (pose.wrist[:, 0], "wrist_bend"), (pose.wrist[:, 1], "wrist_aside"),
    ]:  # fmt: skip
        low, high = hand.LIMITS[name]
        degrees = np.degrees(values)
        assert degrees.min() >= low - 1e-9 and degrees.max() <= high + 1e-9
        assert np.ptp(degrees) > 0.8 * (high - low), name  # and uses most of them
    assert np.allclose(pose.turn @ pose.turn.transpose(0, 2, 1), np.eye(3)) and np.allclose(np.linalg.det(pose.turn), 1)


def test_a_curled_finger_bends_towards_the_palm():
    flat = hand._flat()
    open_hand = hand.move(flat)
    curled = hand.move(replace(flat, knuckle=np.full((1, 4), np.radians(60))))
    assert (at(open_hand.points, "index tip")[0, 1] > at(curled.points, "index tip")[0, 1]) and at(curled.points, "index tip")[0, 2] < -30
    # With the palm to the camera, as in NYU's first frame: thumb on the right, fingers up, the back of the hand behind.
    assert at(open_hand.points, "thumb tip")[0, 0] > at(open_hand.points, "index root")[0, 0] > at(open_hand.points, "pinky root")[0, 0]
    assert (open_hand.back[:, hand.PLACE["middle tip"]] @ [0, 0, 1] > 0.99).all()


def test_the_hand_is_as_large_as_nyus_first_subject():
    """Medians over the first 2,440 test frames of NYU, mm."""
    joints = hand.as_nyu(hand.move(hand._flat()))[0, list(nyu.JOINTS)]
    names = NYU.keypoints.keypoints
    for a, b, length in [
        ("pinky tip", "pinky mid", 43.4), ("ring tip", "ring mid", 50.3), ("middle tip", "middle mid", 57.0),
        ("index tip", "index mid", 51.2), ("thumb tip", "thumb mid", 24.6), ("thumb mid", "thumb root", 48.8),
        ("wrist 1", "wrist 2", 35.3), ("pinky mid", "palm", 72.4), ("middle mid", "palm", 80.7), ("index mid", "palm", 81.6),
        ("wrist 1", "palm", 81.3),
    ]:  # fmt: skip
        assert np.linalg.norm(joints[names.index(a)] - joints[names.index(b)]) == pytest.approx(length, abs=8), (a, b)


def test_icvl_annotates_inside_and_nyu_at_the_back():
    one = hand.move(some())
    flesh = hand.flesh(0.5).spheres(one).astype(float)
    inside = hand.as_icvl(one)
    deep = (np.linalg.norm(inside[:, :, None] - flesh[:, None, :, :3], axis=-1) - flesh[:, None, :, 3]).min(-1)
    assert (deep < -4).all()  # every centre of a segment is at least 4 mm under the skin
    surface = hand.as_nyu(one)[:, list(nyu.JOINTS)]
    deep = (np.linalg.norm(surface[:, :, None] - flesh[:, None, :, :3], axis=-1) - flesh[:, None, :, 3]).min(-1)
    assert np.median(abs(deep)) < 2 and (deep < 4).all()


# ------------------------------------------------------------------------------------------------------------------------- the camera


def test_spheres_are_where_rays_meet_them():
    """Against a slow solution of |t·ray − centre| = radius, ray by ray."""
    random = np.random.default_rng(1)
    spheres = np.concatenate([random.uniform((-150, -120, 400), (150, 120, 700), (2, 9, 3)), random.uniform(10, 60, (2, 9, 1))], 2)
    spheres[0, 0, 2] = -300  # behind the camera
    view = View(*(np.full(2, value) for value in (70.0, 65.0, 20.0, 14.0)), 40, 30)
    found = draw_spheres(spheres.astype(np.float32), view)
    for n in range(2):
        for row in range(30):
            for column in range(40):
                ray = np.array([(column - 20) / 70, (14 - row) / 65, 1])
                best = np.inf
                for x, y, z, r in spheres[n]:
                    centre = np.array([x, y, z])
                    a, b, c = ray @ ray, ray @ centre, centre @ centre - r * r
                    if z > 0 and b * b > a * c:
                        best = min(best, (b - np.sqrt(b * b - a * c)) / a)
                assert found[n, row, column] == pytest.approx(best, abs=0.05) or abs(best - found[n, row, column]) < 0.05


def test_nothing_in_view_is_nothing():
    view = View(*(np.full(1, value) for value in (70.0, 65.0, 20.0, 14.0)), 40, 30)
    assert np.isinf(draw_spheres(np.array([[[9000.0, 0, 500, 20]]], np.float32), view)).all()
    whole = draw_spheres(np.array([[[0.0, 0, 500, 200]]], np.float32), view)  # larger than the picture
    assert np.isfinite(whole[0, 14, 20]) and whole[0, 14, 20] == pytest.approx(300, abs=0.01)


def test_the_sensor_is_rough_and_loses_edges():
    random = np.random.default_rng(2)
    depth = np.full((1, 200, 200), np.inf, np.float32)
    depth[:, 50:150, 50:150] = 700
    seen = sense(depth, random, noise=3, edges=0.5, nothing=2001)
    inner = seen[0, 60:140, 60:140]
    assert (seen == np.rint(seen)).all() and inner.std() == pytest.approx(3, rel=0.1) and inner.mean() == pytest.approx(700, abs=0.2)
    assert (seen[0, :40] == 2001).all() and (seen[0, 50, 50:150] == 2001).mean() == pytest.approx(0.5, abs=0.15)
    ragged = sense(depth, random, noise=0, edges=0, jitter=0.5)
    assert ragged[0, 60:140, 60:140].std() == 0 and 0.05 < (ragged[0, 50, 50:150] == 0).mean() < 0.6 and (ragged[0, 49] > 0).any()


def test_frames_show_the_hand_at_its_keypoints():
    for name, hand_set in HAND_SETS.items():
        shot = shoot(name, 20, 0, np.random.default_rng(3))
        assert shot.depth.shape == (20, hand_set.camera.height, hand_set.camera.width)
        uvd = hand_set.camera.to_uvd(shot.keypoints["icvl"])
        u, v = np.rint(uvd[..., :2]).astype(int).transpose(2, 0, 1)
        in_view = (u >= 0) & (u < hand_set.camera.width) & (v >= 0) & (v < hand_set.camera.height)
        assert in_view.mean() > 0.97
        found = shot.depth[np.arange(20)[:, None], v.clip(0, hand_set.camera.height - 1), u.clip(0, hand_set.camera.width - 1)]
        before = uvd[..., 2] - found  # the skin lies before the centre of a segment, or another finger does
        assert ((found > 0) & (before > 0) & (before < 120))[in_view].mean() > 0.95
        centres = np.array([locate(depth, hand_set.camera, hand_set.cube) for depth in shot.depth])
        assert np.median(np.linalg.norm(centres - shot.keypoints["icvl"].mean(1), axis=1)) < 40


def test_crops_hold_the_hand():
    for hand_set in (NYU, ICVL):
        crops = render_crops(hand_set, 64, np.random.default_rng(4))
        assert crops.images.shape == (64, 64, 64) and crops.images.dtype == np.float32
        assert crops.images.min() >= -1 and crops.images.max() == 1 and 0.03 < (crops.images < 1).mean() < 0.5
        inside = abs(crops.cube.normalise(crops.keypoints[hand_set.name])).max((1, 2)) < 1
        assert inside.mean() > 0.6
        mass = np.array([image[image < 1].mean() for image in crops.images])
        assert abs(mass).max() < 0.5  # about the centre of mass


def test_crops_are_rendered_by_the_hundred():
    """Well over 300 a second on two cores; here a quarter of that on one, since machines that test are busy."""
    torch.set_num_threads(1)
    random = np.random.default_rng(5)
    render_crops(NYU, 8, random)
    begin = time.process_time()  # of this process alone, however busy the others are
    render_crops(NYU, 64, random)
    assert 64 / (time.process_time() - begin) > 80


# -------------------------------------------------------------------------------------------------------------------------- the files


SMALL = HandWorldSettings(frames=30, test=24)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return ensure_hands(tmp_path_factory.mktemp("hands"), SMALL, workers=1)


@pytest.mark.parametrize(("name", "reader"), [("nyu", nyu), ("icvl", icvl)])
def test_the_real_readers_read_the_world(world, name, reader):
    for split, count in (("train", 30), ("test", 24)):
        frames = reader.read_frames(world / name, split)
        assert len(frames) == count and not frames.notes and len(set(frames.keys)) == count
        truth = np.load(world / "truth" / f"{name}_{split}.npz")
        assert tuple(truth["keys"]) == frames.keys
        if name == "icvl" and split == "test":
            assert frames.sequences == ("test_seq_1",) * 20 + ("test_seq_2",) * 4
        camera = HAND_SETS[name].camera
        assert np.abs(camera.to_xyz(frames.uvd) - truth[name]).max() < (0.01 if name == "icvl" else 1e-6)
        assert truth["nyu"].shape == (count, 14, 3) and truth["icvl"].shape == (count, 16, 3)
        depth = reader.read_depth(frames.pictures[-1])
        assert depth.shape == (camera.height, camera.width)
        assert abs(np.median(frames.uvd[-1, :, 2]) - locate(depth, camera, 300)[2]) < 100
        assert frames.pictures[0] == picture_path(world, name, split, 0)


def test_the_same_world_whatever_the_workers(world, tmp_path):
    again = ensure_hands(tmp_path, SMALL, workers=2)
    assert again.name == world.name
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()) and len(files) > 100
    for file in files:
        if file.suffix != ".npz":  # these hold the time
            assert (world / file).read_bytes() == (again / file).read_bytes(), file
    assert ensure_hands(tmp_path, SMALL) == again


def test_a_larger_world_begins_like_a_smaller_one(world, tmp_path):
    larger = ensure_hands(tmp_path, replace(SMALL, test=30), workers=1)
    assert larger.name != world.name
    assert picture_path(larger, "icvl", "train", 29).read_bytes() == picture_path(world, "icvl", "train", 29).read_bytes()


def test_mistakes_are_sentences(tmp_path):
    for settings, words in [({"frames": 3}, "frames of the hand world is 3"), ({"test": 20}, "expected 21 to"), ({"seed": -1}, "seed")]:
        with pytest.raises(UserError, match=words):
            HandWorldSettings(**settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the hand world could not be written"):
        ensure_hands(tmp_path / "file", HandWorldSettings(frames=10, test=21))
