"""The hand world: hands before two depth cameras, annotated as NYU and as ICVL do, each on pictures of their own.

:func:`ensure_hands` writes, beneath one folder, a folder per dataset as its real reader expects it, and ``truth/``::

    nyu/train/depth_1_0000001.png, ...   nyu/train/joint_data.mat        and so test; the files' second and third view repeat the first
    icvl/Training/Depth/000/image_0000.png, ...   icvl/Training/labels.txt
    icvl/Testing/Depth/test_seq_1/image_0000.png, ...   icvl/Testing/test_seq_1.txt, test_seq_2.txt
    truth/nyu_train.npz, ...   of every frame, in the order of the readers, its ``keys``, and both annotations, in mm, y up: ``nyu``
                               (frames, 14, 3) and ``icvl`` (frames, 16, 3)

So what one annotator would have said of the other's pictures is known, which no real dataset can say. :func:`render_crops` gives crops
as a network sees them, in memory.

Shapes: ``N`` frames, ``S`` pixels along a side of a crop, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from densemtmd.datasets.hands import icvl, nyu
from densemtmd.datasets.hands.camera import Camera
from densemtmd.datasets.hands.crop import Cube, crop_again
from densemtmd.datasets.hands.locate import INNER, ROUNDS
from densemtmd.datasets.hands.sets import HAND_SETS, ICVL, NYU, HandSet
from densemtmd.worlds.depth import View, draw_spheres, sense
from densemtmd.worlds.hand import SIZES, as_icvl, as_nyu, draw_pose, flesh, move
from densemtmd.worlds.world import check_ranges, ensure_world, render_all, write_mat

VERSION = 1
"""Of the world: raise it whenever the same settings give other pictures or labels, so that no cached world is taken for it."""

SEQUENCE = 20
"""Frames of one sequence: one person in one place."""


@dataclass(frozen=True)
class Recording:
    """How one of the two datasets was recorded."""

    near: float    # mm, of the hand
    far: float
    size: float    # of the first subject's hand; the second's is 5/6 of it
    noise: float   # of the sensor, mm at 700 mm
    jitter: float  # see `sense`
    wall: float    # mm; what is farther has no reading
    nothing: float  # what its files say where there is no reading, mm
    tilt: float    # degrees, see `draw_pose`


RECORDINGS = {
    "nyu": Recording(near=650, far=1000, size=1.0, noise=1.2, jitter=0.35, wall=1800, nothing=2001, tilt=35),
    "icvl": Recording(near=290, far=430, size=0.9, noise=4.0, jitter=0.0, wall=900, nothing=0, tilt=30),
}


@dataclass(frozen=True)
class HandWorldSettings:
    """Which hand world.

    Args:
        frames: to train on, per dataset.
        test: frames to test on, per dataset. Beyond 2440 of them NYU's reader takes the cube of the second subject of the real dataset.
        seed: another seed, another world.

    Raises:
        UserError: a number out of its range.
    """

    frames: int = 3000
    test: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, "the hand world", frames=(10, 1_000_000), test=(SEQUENCE + 1, 100_000), seed=(0, 2**31))


@dataclass(frozen=True)
class Shot:
    """Frames of one sequence, and the truth."""

    depth: np.ndarray                  # (N, H, W) float32, whole mm, 0 where there is no reading
    joints: np.ndarray                 # (N, 36, 3) mm: all of NYU's
    keypoints: Mapping[str, np.ndarray]  # "nyu" (N, 14, 3) and "icvl" (N, 16, 3), mm


def shoot(name: str, count: int, subject: int, random: np.random.Generator) -> Shot:
    """Frames as one of the datasets would show them.

    Args:
        name: of the dataset, for its camera and its :class:`Recording`.
        count: N.
        subject: 0 or 1, whose hand is smaller.
        random: the source of chance.
    """
    hands, recording = HAND_SETS[name], RECORDINGS[name]
    camera = hands.camera
    pose = draw_pose(random, count, np.full(count, recording.size * SIZES[subject]), tilt=recording.tilt)
    z = random.uniform(recording.near, recording.far, count)
    shown = random.uniform((0.35, 0.35), (0.65, 0.6), (count, 2)) * (camera.width, camera.height)
    hand = move(replace(pose, place=camera.to_xyz(np.concatenate([shown, z[:, None]], 1))))
    depth = np.minimum(draw_spheres(_flesh(0.5).spheres(hand), _view(camera, count)), _body(camera, hand.points[:, 0], recording, random))
    joints = as_nyu(hand)
    return Shot(
        depth=sense(depth, random, recording.noise, jitter=recording.jitter, nothing=recording.nothing),
        joints=joints,
        keypoints={"nyu": joints[:, list(nyu.JOINTS)], "icvl": as_icvl(hand)},
    )


_flesh = cache(flesh)


def _view(camera: Camera, count: int, coarse: int = 1) -> View:
    """All pixels of a camera, or every so manyth."""
    fx, fy, u0, v0 = (np.full(count, value / coarse) for value in (camera.fx, camera.fy, camera.u0, camera.v0))
    return View(fx, fy, u0, v0, camera.width // coarse, camera.height // coarse)


def _body(camera: Camera, hand: np.ndarray, recording: Recording, random: np.random.Generator) -> np.ndarray:
    """Whoever the hand belongs to, and the wall behind: (N, H, W) mm; infinite where the wall is too far. Nobody looks closely."""
    count, coarse = len(hand), 4
    head = hand + random.uniform((120, 0, 280), (320, 200, 450), (count, 3))
    parts = [(0.0, 0.0, 0.0, 85.0), (0, -30, 5, 80), (0, -110, 30, 60)]
    parts += [(x, -210 - 0.12 * abs(x), 30, 85) for x in (-160, -80, 0, 80, 160)]
    parts += [(x, y, 40, 120) for y in (-300, -400, -500, -600) for x in (-90, 0, 90)]
    spheres = np.array(parts, float)[None].repeat(count, 0)
    spheres[..., :3] += head[:, None]
    body = draw_spheres(spheres.astype(np.float32), _view(camera, count, coarse)).repeat(coarse, 1).repeat(coarse, 2)
    wall = random.uniform(0.85, 1.4, (count, 1, 1)) * recording.wall
    return np.minimum(body, np.where(wall < recording.wall, wall, np.inf).astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------- in memory


@dataclass(frozen=True)
class Crops:
    """Hands as a network sees them, and the truth."""

    images: np.ndarray                   # (N, S, S) float32 in [−1, 1]
    cube: Cube                           # (N,)
    keypoints: Mapping[str, np.ndarray]  # "nyu" (N, 14, 3) and "icvl" (N, 16, 3), mm


def render_crops(hands: HandSet, count: int, random: np.random.Generator, size: int = 64) -> Crops:
    """Crops of new hands, rendered without a picture about them: hundreds a second on one core.

    As with pictures from files, the cube is about the centre of mass of what is seen, and not about a keypoint: hands are drawn in a wider
    cube about a place near the palm, and cropped again about their centre of mass.

    Args:
        hands: for the camera's distance and noise, the size of the hands and of the cube.
        count: N.
        random: the source of chance.
        size: S.
    """
    recording = RECORDINGS[hands.name]
    subject = random.integers(0, 2, count)
    pose = draw_pose(random, count, recording.size * np.array(SIZES)[subject], tilt=recording.tilt)
    z = random.uniform(recording.near, recording.far, count)
    place = np.stack([random.uniform(-0.15, 0.15, count) * z, random.uniform(-0.15, 0.15, count) * z, z], 1)
    hand = move(replace(pose, place=place))
    wide = Cube(place + random.uniform(-20, 20, (count, 3)), np.full(count, 1.5 * hands.cube))
    pixels = round(1.5 * size)
    x, y, depth = wide.centre.T
    focal = pixels * depth / wide.side
    middle = pixels / 2 - 0.5
    view = View(focal, focal, middle - focal * x / depth, middle + focal * y / depth, pixels, pixels)
    seen = sense(draw_spheres(_flesh(0.6).spheres(hand), view), random, recording.noise, edges=0.05)
    cube = Cube(wide.centre, np.full(count, hands.cube))
    for _ in range(ROUNDS):
        cube = Cube(_mass(seen, wide, cube.centre, INNER * hands.cube), cube.side)
    images = cube.clamp(crop_again(seen, wide, cube, size))
    return Crops(images, cube, {"nyu": as_nyu(hand)[:, list(nyu.JOINTS)], "icvl": as_icvl(hand)})


def _mass(seen: np.ndarray, wide: Cube, centre: np.ndarray, side: float) -> np.ndarray:
    """The centre of mass of what lies in cubes: (N, 3) mm, of crops (N, M, M) that are wider than these."""
    rays = wide.rays(seen.shape[-1])
    across, down = rays[:, 0, :, 0], rays[:, :, 0, 1]  # (N, M) each: not turned
    half, z = side / 2, centre[:, 2:]
    columns, rows = (abs(ray * z - centre[:, axis, None]) < half for axis, ray in enumerate((across, down)))
    near, far = ((z + sign * half)[..., None].astype(np.float32) for sign in (-1, 1))
    inside = ((seen > near) & (seen < far) & columns[:, None, :] & rows[:, :, None]).astype(np.float32)
    in_column = inside.sum(1)
    number = np.maximum(in_column.sum(1), 1)
    depth = np.einsum("nij,nij->n", seen, inside) / number
    found = np.stack([(across * in_column).sum(1) / number, (down * inside.sum(2)).sum(1) / number, np.ones(len(seen))], 1) * depth[:, None]
    return np.where(in_column.any(1)[:, None], found, centre)


# ------------------------------------------------------------------------------------------------------------------------ on disk


def ensure_hands(data_root: str | Path, settings: HandWorldSettings, workers: int | None = None) -> Path:
    """The folder of a hand world, with the folders ``nyu`` and ``icvl``; rendered if it is not there, as :func:`.ensure_world` says."""
    name = f"hands-{settings.frames}"
    return ensure_world(
        data_root, settings, workers, name=name, version=VERSION, what="the hand world", write=_write_world
    )  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """One sequence to write."""

    folder: Path
    seed: int
    name: str
    split: str
    sequence: int
    first: int  # its first frame among those of its split
    count: int


def _write_world(folder: Path, settings: HandWorldSettings, workers: int) -> None:
    counts = {"train": settings.frames, "test": settings.test}
    jobs = [
        _Job(folder, settings.seed, name, split, sequence, first, min(SEQUENCE, counts[split] - first))
        for name in HAND_SETS
        for split in counts
        for sequence, first in enumerate(range(0, counts[split], SEQUENCE))
    ]
    for name in HAND_SETS:
        (folder / name).mkdir()
    (folder / "truth").mkdir()
    (folder / "sequences").mkdir()
    render_all(_write_sequence, jobs, len(HAND_SETS) * sum(counts.values()), "rendering hands", workers)
    for name in HAND_SETS:
        for split in counts:
            parts = [np.load(_part(job)) for job in jobs if (job.name, job.split) == (name, split)]
            whole = {key: np.concatenate([part[key] for part in parts]) for key in ("nyu", "icvl", "joints")}
            joints = whole.pop("joints")
            if name == "icvl":  # its two test sequences are listed one after the other
                order = sorted(range(counts[split]), key=lambda n: _icvl_name(split, n))
                whole = {key: values[order] for key, values in whole.items()}
            if name == "nyu":
                uvd = NYU.camera.to_uvd(joints)
                both = {"joint_uvd": np.stack([uvd] * nyu.VIEWS), "joint_xyz": np.stack([joints] * nyu.VIEWS)}
                write_mat(folder / "nyu" / split / "joint_data.mat", both)
                keys = nyu.read_frames(folder / "nyu", split).keys
            else:
                _write_lists(folder / "icvl", split, [_icvl_name(split, n) for n in order], ICVL.camera.to_uvd(whole["icvl"]))
                keys = icvl.read_frames(folder / "icvl", split).keys
            np.savez_compressed(folder / "truth" / f"{name}_{split}.npz", keys=np.array(keys), **whole)  # type: ignore[arg-type]
    for job in jobs:
        _part(job).unlink()
    (folder / "sequences").rmdir()


def _part(job: _Job) -> Path:
    """Where the truth of a sequence lies until all are rendered."""
    return job.folder / "sequences" / f"{job.name}_{job.split}_{job.sequence:05d}.npz"


def _write_sequence(job: _Job) -> int:
    """Render one sequence and write its pictures and, for the time, its truth; returns how many pictures."""
    # The seeds do not depend on how many there are: a larger world begins like a smaller one.
    where = (job.seed, list(HAND_SETS).index(job.name), ["train", "test"].index(job.split), job.sequence)
    random = np.random.default_rng(where)
    shots = []
    for first in range(0, job.count, 10):  # a few at a time: full pictures are large
        shot = shoot(job.name, min(10, job.count - first), job.sequence % 2, random)
        for n, depth in enumerate(shot.depth, job.first + first):
            path = picture_path(job.folder, job.name, job.split, n)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = nyu.pack(depth) if job.name == "nyu" else depth.astype(np.uint16)
            Image.fromarray(pixels).save(path, compress_level=1)
        shots.append(shot)
    truth = {key: np.concatenate([shot.keypoints[key] for shot in shots]) for key in HAND_SETS}
    truth["joints"] = np.concatenate([shot.joints for shot in shots])
    np.savez(_part(job), **truth)  # type: ignore[arg-type]
    return job.count


def picture_path(folder: Path, name: str, split: str, frame: int) -> Path:
    """Where a picture lies, as in the real dataset; frames of a split are counted from 0."""
    if name == "nyu":
        return folder / "nyu" / split / nyu.picture_name(frame + 1)
    return folder / "icvl" / icvl.HOMES[split] / "Depth" / _icvl_name(split, frame)


def _icvl_name(split: str, frame: int) -> str:
    sequence = f"{frame // SEQUENCE:03d}" if split == "train" else f"test_seq_{1 + frame // SEQUENCE % 2}"
    return f"{sequence}/image_{frame % SEQUENCE if split == 'train' else frame:04d}.png"


def _write_lists(folder: Path, split: str, names: Sequence[str], uvd: np.ndarray) -> None:
    """ICVL's text files of a split."""
    lines: dict[str, list[str]] = {name: [] for name in icvl.LISTS[split]}
    for name, keypoints in zip(names, uvd, strict=True):
        file = "labels.txt" if split == "train" else f"{name.split('/')[0]}.txt"
        lines[file].append(" ".join(chain([name], (f"{value:.3f}" for value in keypoints.ravel()))))
    for file, those in lines.items():
        (folder / icvl.HOMES[split] / file).write_text("".join(f"{line} \n" for line in those) + "\n")  # as the real ones end
