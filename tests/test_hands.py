"""Hands from the datasets' files to what a network sees: cameras, readers, cubes, crops; on real labels where they are at hand."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from densemtmd.datasets.hands import icvl, nyu
from densemtmd.datasets.hands.augment import Augmentation
from densemtmd.datasets.hands.camera import Camera
from densemtmd.datasets.hands.crop import Cube, crop, crop_again, look
from densemtmd.datasets.hands.locate import locate, nearest_blob
from densemtmd.datasets.hands.predictions import read_centres, read_predictions, write_predictions
from densemtmd.datasets.hands.sets import HAND_SETS, ICVL, NYU, hand_set
from densemtmd.errors import UserError

SMALL = Camera(100.0, 90.0, 31.5, 20.0, 64, 48)


@pytest.fixture(scope="session")
def real(data_root):
    """The folder with real hands: ``nyu`` and ``icvl``."""
    folder = data_root / "hands"
    if not folder.is_dir():
        pytest.skip("no real hands")
    return folder


def frames_of(real, name):
    return nyu.read_frames(real / "nyu", "test") if name == "nyu" else icvl.read_frames(real / "icvl", "test")


def some_hands(random, count=5):
    """Keypoints (N, J, 3) in mm about centres (N, 3) before the camera, and cubes about these."""
    centre = random.uniform((-80, -60, 500), (80, 60, 900), (count, 3))
    return centre[:, None] + random.uniform(-90, 90, (count, 7, 3)), Cube(centre, random.uniform(200, 320, count))


# ------------------------------------------------------------------------------------------------------------------- cameras and sets


def test_a_point_upwards_is_a_smaller_row():
    column, row, depth = NYU.camera.to_uvd(np.array([0.0, 100, 700]))
    assert (column, depth) == (320, 700) and row == pytest.approx(240 - 587.07 / 7)


def test_there_and_back():
    uvd = np.random.default_rng(0).uniform((0, 0, 300), (640, 480, 1200), (4, 5, 3))
    for camera in (NYU.camera, ICVL.camera, SMALL):
        assert np.abs(camera.to_uvd(camera.to_xyz(uvd)) - uvd).max() < 1e-9


def test_sets_are_those_of_the_paper():
    assert (NYU.keypoints.channels, ICVL.keypoints.channels) == (42, 48)
    for hands in HAND_SETS.values():
        count = len(hands.keypoints.keypoints)
        assert len(hands.fingers) == count and {joint for bone in hands.bones for joint in bone} == set(range(count))
    with pytest.raises(UserError, match="did you mean 'icvl'"):
        hand_set("ivcl")


# --------------------------------------------------------------------------------------------------------------------------- cubes


def test_normalising_is_undone_exactly():
    random = np.random.default_rng(1)
    xyz, cube = some_hands(random)
    for turned in (cube, Cube(cube.centre, cube.side, random.uniform(-3, 3, len(cube.centre)))):
        assert np.abs(turned.denormalise(turned.normalise(xyz)) - xyz).max() < 1e-9
    one = Cube(cube.centre[0], cube.side[0])
    assert np.allclose(one.normalise(xyz[0]), (xyz[0] - cube.centre[0]) / (cube.side[0] / 2))
    as_the_network = cube.denormalise(cube.normalise(xyz).astype(np.float32))
    assert np.abs(as_the_network - xyz).max() < 1e-4


@pytest.mark.parametrize("name", ["nyu", "icvl"])
def test_round_trip_of_all_real_labels(real, name):
    frames, hands = frames_of(real, name), HAND_SETS[name]
    assert len(frames) == {"nyu": 8252, "icvl": 1596}[name]
    xyz = hands.camera.to_xyz(frames.uvd)
    cube = Cube(xyz.mean(1) + np.random.default_rng(0).normal(0, 10, (len(xyz), 3)), frames.cubes)
    coordinates = cube.normalise(xyz)
    assert np.abs(hands.camera.to_uvd(cube.denormalise(coordinates)) - frames.uvd).max() < 1e-9
    rounded = cube.denormalise(coordinates.astype(np.float32))  # as the network holds them
    assert np.abs(hands.camera.to_uvd(rounded) - frames.uvd).max() < 1e-4 and np.abs(rounded - xyz).max() < 1e-4
    assert np.abs(coordinates).max() < 1.2 and (np.abs(coordinates).max((1, 2)) < 1).mean() > 0.9  # the cube holds the hand


def slow_crop(depth, camera, centre, side, size):
    """Pixel by pixel, as one would do it by hand."""
    picture = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            x = centre[0] + ((j + 0.5) / size - 0.5) * side  # the middle of a square of the cube's front view
            y = centre[1] - ((i + 0.5) / size - 0.5) * side
            u, v, _ = camera.to_uvd(np.array([x, y, centre[2]]))
            column, row = round(u), round(v)
            inside = 0 <= column < depth.shape[1] and 0 <= row < depth.shape[0]
            d = depth[row, column] if inside else 0
            picture[i, j] = 1 if d == 0 else np.clip((d - centre[2]) / (side / 2), -1, 1)
    return picture


def test_a_crop_is_the_nearest_pixels_in_the_cube():
    random = np.random.default_rng(2)
    depth = random.uniform(300, 900, (48, 64)).astype(np.float32)
    depth[random.random(depth.shape) < 0.1] = 0
    for centre in ((0.0, 0, 600), (150.0, -90, 500)):
        cube = Cube(np.array(centre), np.array(250.0))
        found = crop(depth, SMALL, cube, 16)
        assert found.dtype == np.float32 and np.allclose(found, slow_crop(depth, SMALL, centre, 250.0, 16), atol=1e-6)
        assert found.min() == -1 and found.max() == 1


def test_nearer_is_the_front_farther_and_missing_are_the_back():
    depth = np.array([[350.0, 475, 600, 725, 900, 0]])
    cube = Cube(np.array([0.0, 0, 600]), np.array(250.0))
    assert cube.clamp(depth[None])[0].tolist() == [[-1, -1, 0, 1, 1, 1]]


def test_a_crop_of_a_crop():
    random = np.random.default_rng(3)
    depth = random.uniform(500, 700, (48, 64))
    cube = Cube(np.array([[10.0, 5, 600], [-20.0, 8, 580]]), np.array([200.0, 180.0]))
    wide = Cube(cube.centre, cube.side * 1.5)
    kept = np.stack([look(depth, SMALL, rays) for rays in wide.rays(96)])
    assert (crop_again(kept, wide, wide, 96) == kept).all()
    inner = crop_again(kept, wide, cube, 64)
    assert (inner == kept[:, 16:80, 16:80]).all() and (inner == np.stack([look(depth, SMALL, rays) for rays in cube.rays(64)])).all()
    assert (crop_again(kept, wide, Cube(cube.centre + 500, cube.side), 64) == 0).all()


# -------------------------------------------------------------------------------------------------------------------- augmentation


def seen_at(coordinates, cube):
    """Where points in a cube are seen in its crop, in parts of its side from the middle, x to the right, y up: (..., J, 2)."""
    xyz = np.asarray(coordinates) * cube.side[:, None, None] / 2 + cube.centre[:, None]  # without the turn: the crop shows it turned
    axis = cube.centre[:, None, :2] / cube.centre[:, None, 2:]
    return (xyz[..., :2] / xyz[..., 2:] - axis) * (cube.centre[:, 2] / cube.side)[:, None, None]


def test_augmenting_then_projecting_is_projecting_then_augmenting():
    random = np.random.default_rng(4)
    xyz, cube = some_hands(random)
    turned = Augmentation(rotate=180).draw(cube, random)
    angle = turned.angle[:, None]
    x, y = np.moveaxis(seen_at(cube.normalise(xyz), cube), -1, 0)
    expected = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1)
    assert np.abs(seen_at(turned.normalise(xyz), turned) - expected).max() < 1e-9

    scaled = Augmentation(scale=0.3).draw(cube, random)
    factor = (cube.side / scaled.side)[:, None, None]
    assert np.abs(seen_at(scaled.normalise(xyz), scaled) - factor * seen_at(cube.normalise(xyz), cube)).max() < 1e-9

    moved = Augmentation(shift=30).draw(cube, random)
    difference = cube.centre - moved.centre
    assert np.abs(moved.normalise(xyz) - cube.normalise(xyz) - (difference / (cube.side[:, None] / 2))[:, None]).max() < 1e-9
    assert (np.abs(difference) <= 30).all() and np.abs(difference).max() > 5


def test_pictures_move_with_their_keypoints():
    """A dot of depth at each keypoint is found in the augmented crop where the augmented keypoint is seen."""
    random = np.random.default_rng(5)
    camera = Camera(600, 600, 320, 240, 640, 480)
    for _ in range(10):
        cube = Cube(random.uniform((-30, -30, 600), (30, 30, 700), (1, 3)), np.array([280.0]))
        point = cube.centre[:, None] + random.uniform(-60, 60, (1, 1, 3))
        u, v, d = np.round(camera.to_uvd(point))[0, 0]
        depth = np.zeros((480, 640))
        depth[int(v) - 3 : int(v) + 4, int(u) - 3 : int(u) + 4] = d
        wide = Cube(cube.centre, cube.side * 2)
        other = Augmentation(rotate=90, scale=0.2, shift=20).draw(cube, random)
        seen = crop_again(look(depth, camera, wide.rays(256)), wide, other, 128)[0]
        rows, columns = np.nonzero(seen)
        x, y = seen_at(other.normalise(point), other)[0, 0]
        assert len(rows) and np.hypot(columns.mean() - (64 * (1 + 2 * x) - 0.5), rows.mean() - (64 * (1 - 2 * y) - 0.5)) < 1.5


def test_augmentation_is_off_by_default():
    random = np.random.default_rng(6)
    _, cube = some_hands(random)
    same = Augmentation().draw(cube, random)
    assert not Augmentation() and (same.centre == cube.centre).all() and (same.side == cube.side).all() and not same.angle.any()
    assert Augmentation().margin == 1 and Augmentation(rotate=10).margin > 1.4
    with pytest.raises(UserError, match=r"scale is 2, expected 0 to 0\.5"):
        Augmentation(scale=2)


# -------------------------------------------------------------------------------------------------------------------- where a hand is


def wall_and_ball(camera, centre, radius, wall=1400.0):
    """A disc of so many mm at a centre, before a wall."""
    u, v, d = camera.to_uvd(np.array(centre))
    rows, columns = np.mgrid[: camera.height, : camera.width]
    depth = np.full((camera.height, camera.width), wall)
    depth[np.hypot(columns - u, rows - v) < radius * camera.fx / d] = d
    return depth.astype(np.float32)


def test_the_nearest_blob_is_found_and_specks_are_not():
    depth = wall_and_ball(ICVL.camera, (40, -20, 400), 45)
    depth[5, 5] = 150  # a speck, nearer than the hand
    depth[:, 300:] = 0
    for centre in (locate(depth, ICVL.camera, 250), nearest_blob(depth, ICVL.camera)):
        assert np.abs(centre - (40, -20, 400)).max() < 1.5


def test_a_given_centre_is_taken_as_it_is():
    depth = wall_and_ball(ICVL.camera, (40, -20, 400), 45)
    assert locate(depth, ICVL.camera, 250, np.array([30.0, -10, 410])).tolist() == [30, -10, 410]
    assert np.abs(locate(depth, ICVL.camera, 250, np.full(3, np.nan)) - (40, -20, 400)).max() < 1.5
    with pytest.raises(UserError, match="no hand in the cube of 250 mm about"):
        locate(depth, ICVL.camera, 250, np.array([-300.0, 0, 900]))


def test_no_hand_is_a_sentence():
    for depth, words in ((np.zeros((240, 320)), "no reading at all"), (np.full((240, 320), 1800.0), "nearest reading is at 1800 mm")):
        with pytest.raises(UserError, match=words):
            locate(depth, ICVL.camera, 250, name="a.png")


def test_the_real_frame(real):
    depth = nyu.read_depth(real / "nyu" / "frames" / "test_depth_1_0000001.png")
    assert depth.shape == (480, 640) and depth.max() == 2001
    frames = frames_of(real, "nyu")
    xyz = NYU.camera.to_xyz(frames.uvd[0])
    centre = locate(depth, NYU.camera, NYU.cube)
    published = read_centres(real / "nyu" / "V2V_center_test_refined.txt", len(frames))
    assert np.abs(centre - published[0]).max() < 30 and np.linalg.norm(centre - xyz.mean(0)) < 40
    cube = Cube(centre, np.array(NYU.cube))
    assert np.abs(cube.normalise(xyz)).max() < 1  # the whole hand is in the cube
    seen = crop(depth, NYU.camera, cube, 64)
    # The keypoints lie on the hand: on pixels with readings in the cube, at about their depth, a little behind the skin that is seen.
    x, y = np.moveaxis(seen_at(cube.normalise(xyz)[None], Cube(centre[None], np.array([NYU.cube])))[0], -1, 0)
    found = seen[(64 * (0.5 - y)).astype(int), (64 * (0.5 + x)).astype(int)]
    behind = cube.normalise(xyz)[:, 2] - found
    assert (found < 1).all() and (behind > -0.05).all() and (behind < 0.3).all()


def test_centres_are_near_the_keypoints(real):
    """Published centres, refined by a network from the same kind of blob, agree with the sign of y and the order of the frames."""
    frames = frames_of(real, "nyu")
    centres = read_centres(real / "nyu" / "V2V_center_test_refined.txt", len(frames))
    assert np.abs(centres - NYU.camera.to_xyz(frames.uvd).mean(1)).mean() < 15


def test_real_crops_look_like_ours(real):
    """Five crops made by others (nearer is darker, white is the back plane): ours of the real frame has the same make-up."""
    depth = nyu.read_depth(real / "nyu" / "frames" / "test_depth_1_0000001.png")
    ours = crop(depth, NYU.camera, Cube(locate(depth, NYU.camera, NYU.cube), np.array(NYU.cube)), 64)
    shares = []
    for path in sorted((real / "nyu" / "crops_deepmodel").glob("*.png")):
        theirs = np.asarray(Image.open(path).convert("L")) / 127.5 - 1
        shares.append((theirs < 1).mean())
    assert len(shares) == 5 and min(shares) * 0.8 < (ours < 1).mean() < max(shares) * 1.25
    same = Image.open(real / "nyu" / "crops_deepmodel" / "0.png").convert("L").resize((64, 64), Image.Resampling.NEAREST)
    same = np.asarray(same) / 127.5 - 1
    overlap = max(
        ((ours < 1) & (np.roll(same, (dy, dx), (0, 1)) < 1)).sum() / ((ours < 1) | (np.roll(same, (dy, dx), (0, 1)) < 1)).sum()
        for dy in range(-12, 13) for dx in range(-12, 13)
    )  # fmt: skip
    assert overlap > 0.7  # the same frame, about another centre


# ----------------------------------------------------------------------------------------------------------------------------- files


def write_nyu(folder, frames=4, split="train", **changes):
    (folder / split).mkdir(parents=True)
    random = np.random.default_rng(7)
    uvd = random.uniform((0, 0, 500), (640, 480, 900), (3, frames, 36, 3))
    savemat(folder / split / "joint_data.mat", {"joint_uvd": uvd, "joint_xyz": uvd, **changes})
    for n in range(frames):
        Image.fromarray(nyu.pack(np.full((6, 8), 700 + n))).save(folder / split / nyu.picture_name(n + 1))
    return uvd


def write_icvl(folder, lines, name="labels.txt", home="Training"):
    (folder / home).mkdir(parents=True, exist_ok=True)
    (folder / home / name).write_text("".join(f"{line}\n" for line in lines) + "\n")


def icvl_line(picture, depth=350.0, count=16):
    return " ".join([picture, *(f"{100 + j}.5 {80 + j}.25 {depth + j}" for j in range(count))])


def test_nyu_files(tmp_path):
    uvd = write_nyu(tmp_path)
    frames = nyu.read_frames(tmp_path, "train")
    assert len(frames) == 4 and np.array_equal(frames.uvd, uvd[0][:, [0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32]])
    assert np.array_equal(nyu.read_frames(tmp_path, "train", view=3).uvd, uvd[2][:, nyu.JOINTS])
    assert frames.pictures[1] == tmp_path / "train" / "depth_1_0000002.png" and frames.keys[1] == "train/depth_1_0000002"
    assert (nyu.read_depth(frames.pictures[1]) == 701).all() and (frames.cubes == 300).all()


def test_packed_depth_is_read_as_it_was_written(tmp_path):
    depth = np.random.default_rng(8).integers(0, 65536, (20, 30)).astype(np.float32)
    Image.fromarray(nyu.pack(depth)).save(tmp_path / "a.png")
    assert np.array_equal(nyu.read_depth(tmp_path / "a.png"), depth)
    Image.fromarray(depth.astype(np.uint16)).save(tmp_path / "b.png")
    assert np.array_equal(icvl.read_depth(tmp_path / "b.png"), depth)


def test_the_second_subject_has_a_smaller_cube(real):
    frames = frames_of(real, "nyu")
    assert (frames.cubes[:2440] == 300).all() and (frames.cubes[2440:] == 250).all()
    assert frames.sequences[2439:2441] == ("test 1", "test 2")


def test_invalid_frames_are_left_out_and_counted(tmp_path):
    uvd = np.full((3, 5, 36, 3), 500.0)
    uvd[0, 2, 0, 2], uvd[0, 3, 3, 0] = 0, np.nan
    write_nyu(tmp_path / "nyu", 5, joint_uvd=uvd)
    frames = nyu.read_frames(tmp_path / "nyu", "train")
    assert [key[-1] for key in frames.keys] == ["1", "2", "5"] and "2 of 5 train frames" in frames.notes[0]
    write_icvl(tmp_path / "icvl", [icvl_line("s/image_0000.png"), icvl_line("s/image_0001.png", -400.0), icvl_line("s/image_0002.png")])
    frames = icvl.read_frames(tmp_path / "icvl", "train")
    assert frames.keys == ("s/image_0000", "s/image_0002") and "1 of 3 lines of labels.txt are invalid" in frames.notes[0]


def test_icvl_files(tmp_path):
    lines = [icvl_line("2014/image_0000.png"), icvl_line("22-5/2014/image_0000.png"), icvl_line("2014/image_0001.png")]
    write_icvl(tmp_path, lines)
    frames = icvl.read_frames(tmp_path, "train")
    assert frames.keys == ("2014/image_0000", "2014/image_0001") and frames.sequences == ("2014", "2014")
    assert frames.uvd[0, 3].tolist() == [103.5, 83.25, 353] and (frames.cubes == 250).all()
    assert len(icvl.read_frames(tmp_path, "train", rotated=True)) == 3
    assert frames.pictures[0] == tmp_path / "Training" / "2014" / "image_0000.png"
    (tmp_path / "Training" / "Depth").mkdir()
    assert icvl.read_frames(tmp_path, "train").pictures[0] == tmp_path / "Training" / "Depth" / "2014" / "image_0000.png"


def test_a_few_lines_may_be_cut_short_in_a_long_file(tmp_path):
    write_icvl(tmp_path, [*(icvl_line(f"s/image_{n:04d}.png") for n in range(2000)), icvl_line("s/image_2000.png", count=15)])
    frames = icvl.read_frames(tmp_path, "train")
    assert len(frames) == 2000 and "1 of 2001 lines" in frames.notes[0] and "it has 45 numbers" in frames.notes[0]


def test_real_icvl_labels(real):
    frames = frames_of(real, "icvl")
    assert frames.sequences.count("test_seq_1") == 702 and frames.sequences.count("test_seq_2") == 894
    assert np.allclose(frames.uvd, read_predictions(real / "icvl" / "icvl_test_groundtruth_label.txt", ICVL, 1596))


def test_predictions_are_read_as_they_were_written(tmp_path):
    uvd = np.random.default_rng(9).uniform(0, 500, (6, 16, 3)).round(3)
    write_predictions(tmp_path / "a.txt", uvd)
    assert np.array_equal(read_predictions(tmp_path / "a.txt", ICVL, 6), uvd)
    assert (tmp_path / "a.txt").read_text().splitlines()[0].split()[:2] == [f"{value:.3f}" for value in uvd[0, 0, :2]]


def test_mistakes_are_sentences(tmp_path):
    grey, colour, deep = (tmp_path / name for name in ("grey.png", "colour.png", "deep.png"))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(grey)
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(colour)
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(deep)
    write_icvl(tmp_path / "short", [icvl_line("a/b.png"), icvl_line("a/c.png", count=15)])
    write_icvl(tmp_path / "word", [icvl_line("a/b.png").replace("350.0", "many")])
    write_icvl(tmp_path / "none", [icvl_line("a/b.png", -400.0)])
    write_icvl(tmp_path / "empty", [])
    (tmp_path / "empty_mat" / "train").mkdir(parents=True)
    savemat(tmp_path / "empty_mat" / "train" / "joint_data.mat", {"other": np.zeros((2, 2))})
    write_nyu(tmp_path / "shape", joint_uvd=np.zeros((3, 4, 35, 3)))
    write_nyu(tmp_path / "view", joint_uvd=np.full((1, 4, 36, 3), 9.0))
    write_nyu(tmp_path / "behind", joint_uvd=np.zeros((3, 4, 36, 3)))
    (tmp_path / "damaged" / "train").mkdir(parents=True)
    (tmp_path / "damaged" / "train" / "joint_data.mat").write_bytes(b"no matrix")
    write_predictions(tmp_path / "five.txt", np.ones((5, 14, 3)))
    (tmp_path / "nan.txt").write_text(" ".join(["nan"] * 42))
    (tmp_path / "centres.txt").write_text("1 2 3\n1 2\n")
    (tmp_path / "nowhere.txt").write_text("invalid invalid invalid\n1 nan 3\n")
    cases = [
        (lambda: nyu.read_depth(grey), ["grey.png", "8 bits of grey", "three channels"]),
        (lambda: nyu.read_depth(deep), ["deep.png", "16 bits of grey"]),
        (lambda: nyu.read_depth(colour), ["colour.png", "red"]),
        (lambda: icvl.read_depth(grey), ["grey.png", "8 bits of grey", "16 bits"]),
        (lambda: icvl.read_depth(colour), ["colour.png", "colours of 8 bits", "16 bits"]),
        (lambda: icvl.read_depth(tmp_path / "no.png"), ["no.png", "cannot be read"]),
        (lambda: icvl.read_frames(tmp_path / "short", "train"), ["labels.txt, line 2", "45 numbers", "expected 48"]),
        (lambda: icvl.read_frames(tmp_path / "word", "train"), ["line 1", "'many' is no number"]),
        (lambda: icvl.read_frames(tmp_path / "none", "train"), ["no valid line of 1"]),
        (lambda: icvl.read_frames(tmp_path / "empty", "train"), ["no valid line of 0"]),
        (lambda: icvl.read_frames(tmp_path / "short", "test"), ["test_seq_1.txt does not exist"]),
        (lambda: nyu.read_frames(tmp_path / "empty_mat", "train"), ["joint_data.mat", "no joint_uvd", "only other"]),
        (lambda: nyu.read_frames(tmp_path / "shape", "train"), ["(3, 4, 35, 3)", "(3, frames, 36, 3)"]),
        (lambda: nyu.read_frames(tmp_path / "view", "train", view=2), ["(1, 4, 36, 3)", "view 2"]),
        (lambda: nyu.read_frames(tmp_path / "behind", "train"), ["none of the 4 frames"]),
        (lambda: nyu.read_frames(tmp_path / "damaged", "train"), ["joint_data.mat", "cannot be read as joint positions"]),
        (lambda: nyu.read_frames(tmp_path / "nowhere", "train"), ["joint_data.mat", "No such file"]),
        (lambda: read_predictions(tmp_path / "five.txt", NYU, 8252), ["five.txt has 5 lines, expected 8252"]),
        (lambda: read_predictions(tmp_path / "five.txt", ICVL), ["five.txt, line 1", "42 numbers, expected 48"]),
        (lambda: read_predictions(tmp_path / "nan.txt", NYU), ["nan.txt, frame 1", "not finite"]),
        (lambda: read_centres(tmp_path / "nowhere.txt", 2), ["nowhere.txt, line 2", "not finite", "three times invalid"]),
        (lambda: read_centres(tmp_path / "centres.txt", 2), ["centres.txt, line 2", "2 numbers, expected 3"]),
    ]
    for call, words in cases:
        with pytest.raises(UserError) as caught:
            call()
        for word in words:
            assert word in str(caught.value), str(caught.value)
