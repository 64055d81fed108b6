"""Label pictures with a trained network.

    python tools/infer.py photo.jpg                                  all labelsets of the last finished run
    python tools/infer.py photos/ --labelset kundu --out labelled
    python tools/infer.py "photos/*.jpg" --labelset kundu,xu --checkpoint runs/my-run
    python tools/infer.py depth_1_0000001.png --keypoints all            a hand in a depth picture
    python tools/infer.py photo.jpg --labelset merged.yaml           one answer out of several labelsets

For each picture and labelset two files are written, and with several labelsets a third:

    OUT/photo.jpg.kundu.png           class ids, in the labelset's palette
    OUT/photo.jpg.kundu.overlay.png   the picture under those colours, with a legend
    OUT/photo.jpg.sheet.png           the picture and every labelset's answer, side by side

and a line is printed: the share of each class, largest first (those below 0.1 % are left out). A picture that cannot be
read is reported at the end, the others are labelled; the exit code is then 1. With --recursive the folders below OUT
are those below the folder given. Two pictures that would get one name below OUT are refused before anything is done.
What a merged labelset's YAML says is described in densemtmd/merging.py; docs/camvid7_merged.yaml is one.

With --keypoints the pictures are depth pictures, as NYU packs them in colours or ICVL in 16 bits, taken for one of that
dataset's camera, with a hand nearer than all else; or about the centres in a file (--centres), as they are handed round
for the test frames: a line per picture, in the order of the pictures, x y z in mm, y upwards, or "invalid" three times:

    OUT/depth.png.nyu.skeleton.png    the keypoints that NYU annotates, over the depth picture, enlarged about the hand
    OUT/depth.png.keypoints.json      of every keypoint its pixel (column, row) and x, y, z in mm, y upwards
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densemtmd.commands.cli import about_memory, make_parser, newest_run, tool
from densemtmd.errors import UserError, one_line

if TYPE_CHECKING:  # torch and the rest are imported where they are used, so that --help answers at once
    import numpy as np
    from PIL.Image import Image

    from densemtmd.inference import Predictor
    from densemtmd.merging import Merged
    from densemtmd.tasks import OutputSpace

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
"""What counts as a picture in a folder; a file that is named is opened whatever its suffix."""

NAME_BYTES = 255
"""What file systems allow."""


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="picture files, folders of pictures, or quoted patterns")
    add("--labelset", default="all", metavar="NAME|all|A,B|YAML", help="which labelsets answer, or a merged one (default: all)")
    add("--keypoints", metavar="NAME|all|A,B", help="find these keypoints of the hand in depth pictures instead")
    add("--centres", type=Path, metavar="FILE", help="with --keypoints: a line per picture, the centre of its hand, x y z in mm")
    add("--checkpoint", metavar="FILE|RUN", help="a .safetensors file or a run (default: the last finished in runs/)")
    add("--out", type=Path, default="out", metavar="DIR", help="where to write, over what is there (default: out)")
    add("--recursive", action="store_true", help="also the pictures in the folders below a folder")
    add("--max-pixels", type=int, default=200_000_000, metavar="N", help="refuse larger pictures (default: 200000000)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add("--precision", default="float32", help="float32, or bfloat16: faster, a few pixels in a thousand change (default: float32)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.max_pixels < 1:
        raise UserError(f"--max-pixels is {arguments.max_pixels}, expected 1 or more")
    if arguments.centres and arguments.keypoints is None:
        raise UserError(f"--centres is {arguments.centres} without --keypoints, whose hands it places: add --keypoints all")
    pictures, missing = find_pictures(arguments.images, arguments.recursive, arguments.out)
    if not pictures:
        raise UserError(missing[0])
    checkpoint = arguments.checkpoint or newest_run()
    print(f"network: {checkpoint}" + ("" if arguments.checkpoint else ", the last finished run"))
    if arguments.keypoints is None:
        from densemtmd.inference import Predictor

        predictor = Predictor.load(checkpoint, arguments.device, arguments.precision)
        merged = choose_merged(arguments.labelset, predictor.space)
        labelsets = [merged.labelset.name] if merged else choose_labelsets(arguments.labelset, predictor.space)
        failures = label_pictures(predictor, pictures, labelsets, arguments.out, arguments.max_pixels, merged)
    else:
        failures = find_hands(Path(checkpoint), arguments.keypoints, pictures, arguments.out, arguments.device, arguments.centres)

    labelled, total = len(pictures) - len(failures), len(pictures) + len(missing)
    print(f"{labelled} of {total} picture{'s' * (total != 1)} labelled, in {arguments.out}")
    failures = [*missing, *failures]
    for failure in failures:
        print(f"error: {one_line(failure)}", file=sys.stderr)
    return 1 if failures else 0


def find_pictures(images: Iterable[str], recursive: bool, out: Path) -> tuple[dict[Path, Path], list[str]]:
    """The pictures that the command line names, in order, each once: its name below ``out`` -> the file.

    Returns:
        The pictures; and a sentence for each file, folder or pattern that has none, which keeps nobody from labelling the others.

    Raises:
        UserError: two pictures of one name.
    """
    found: dict[Path, Path] = {}
    missing: list[str] = []
    for image in images:
        try:
            named = [(path, _below(path, recursive, out) if _is_folder(path) else [path]) for path in _expanded(image)]
        except UserError as error:
            missing.append(str(error))
            continue
        for path, files in named:
            folder = path if _is_folder(path) else path.parent
            for file in files:
                name = file.relative_to(folder)
                other = found.setdefault(name, file)
                if os.path.realpath(other) != os.path.realpath(file):
                    both = f"{other} and {file} would both be written to {out / name}.*"
                    raise UserError(f"{both}: label them in two calls, with a different --out each")
    return found, missing


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (where one may not look, Path.is_dir raises)


def _expanded(image: str) -> list[Path]:
    """A path that exists as it stands, or what a pattern stands for."""
    if os.path.exists(image):  # noqa: PTH110 (of a name that is too long, Path.exists raises)
        return [Path(image)]
    if not glob.has_magic(image):
        raise UserError(f"there is no picture {image}: check the name, or quote a pattern such as 'photos/*.jpg'")
    if matches := [Path(match) for match in sorted(glob.glob(image, recursive=True))]:  # noqa: PTH207 (Path.glob refuses absolute patterns)
        return [match for match in matches if not _is_folder(match)] or matches
    raise UserError(f"no file matches the pattern {image}: check it, ** stands for any folders")


def _below(folder: Path, recursive: bool, out: Path) -> list[Path]:
    """The pictures in a folder, sorted; without hidden ones and those that earlier calls wrote to ``out`` below it.

    What is called like a picture and is none, such as a link to nothing, is among them: it is reported when it is read.
    """
    from densemtmd.datasets.names import is_left_by_a_system

    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"the folder {folder} cannot be read: you may not look into it")
    files = sorted(p for p in folder.glob("**/*" if recursive else "*") if p.suffix.lower() in SUFFIXES and not _is_folder(p))
    files = [p for p in files if not is_left_by_a_system(p.relative_to(folder))]
    written = Path(os.path.realpath(out))
    if written != Path(os.path.realpath(folder)):
        files = [p for p in files if not Path(os.path.realpath(p)).is_relative_to(written)]
    if not files:
        deeper = "" if recursive else "; add --recursive for the folders below it"
        raise UserError(f"the folder {folder} holds no picture ({', '.join(SUFFIXES)}){deeper}")
    return files


def find_hands(
    checkpoint: Path, choice: str, pictures: Mapping[Path, Path], out: Path, device: str, centres: Path | None = None
) -> list[str]:
    """Finds the hand in every depth picture and writes its keypoints; returns what could not be read or has none.

    Args:
        checkpoint: of the network, or a run's folder.
        choice: ``NAME``, ``all`` or ``A,B``: which keypoints.
        pictures: name below ``out`` -> the file, as :func:`find_pictures` gives them.
        out: the folder to write to.
        device: where to compute.
        centres: a file with a line per picture; None: hands are looked for.

    Raises:
        UserError: keypoints that the networks did not learn, networks that label pictures, a place that cannot be written, or another
            number of centres than of pictures.
    """
    import json

    from densemtmd import draw, keypoints, poses
    from densemtmd.checkpoint import device_of, load_network
    from densemtmd.datasets.hands.predictions import read_centres
    from densemtmd.datasets.hands.sets import hand_set
    from densemtmd.files import atomic_write, check_writable
    from densemtmd.inference import checkpoints_of
    from densemtmd.tasks import nearest

    check_writable(out, "--out")
    place = device_of(device)
    networks = [load_network(file).to(place) for file in checkpoints_of(checkpoint)]
    if networks[0].space.kind != "keypoints":
        raise UserError("this network labels pictures, expected one that finds keypoints: leave out --keypoints")
    known = [name for network in networks for name in network.space.names]
    wanted = known if choice == "all" else choice.split(",")
    for name in wanted:
        if name not in known:
            raise UserError(f"unknown keypoint set {name!r}; {nearest(name, known)}")
    starts = [None] * len(pictures) if centres is None else list(read_centres(centres, len(pictures)))
    failures = []
    for (name, path), start in zip(pictures.items(), starts, strict=True):
        try:
            depth, seen_by = poses.read_any_depth(path)
            cube = poses.cube_in(depth, seen_by, start, str(path))
        except UserError as error:
            failures.append(str(error))
            continue
        told = {}
        for task, xyz in poses.hand_in(networks, wanted, depth, seen_by, cube, place).items():
            hands, uvd = hand_set(task), seen_by.camera.to_uvd(xyz)
            told[task] = keypoints.coordinates(hands.keypoints.keypoints, uvd, xyz)
            with atomic_write(out / f"{name}.{task}.skeleton.png") as temporary:
                draw.skeleton(depth, uvd, hands, title=task, box=cube.box(seen_by.camera)).save(temporary)
        with atomic_write(out / f"{name}.keypoints.json") as temporary:
            temporary.write_text(json.dumps(told, indent=1), encoding="utf-8")
        print(f"{one_line(str(name))}: {', '.join(f'{task} {len(points)} keypoints' for task, points in told.items())}")
    return failures


def choose_labelsets(choice: str, space: OutputSpace) -> list[str]:
    """The labelsets that ``NAME``, ``all`` or ``A,B`` stands for.

    Raises:
        UserError: an unknown one (the message lists the known), or a network that labels no pictures.
    """
    if space.kind != "labelset":
        raise UserError(f"this network finds keypoints ({', '.join(space.names)}), expected one that labels pictures: use --keypoints all")
    if choice in space.names:
        return [choice]
    names = list(space.names) if choice == "all" else list(dict.fromkeys(name.strip() for name in choice.split(",")))
    for name in names:
        space.index(name)
    return names


def choose_merged(choice: str, space: OutputSpace) -> Merged | None:
    """The merged labelset whose YAML ``choice`` names; None where it names labelsets.

    Raises:
        UserError: a file that is missing or wrong.
    """
    if not choice.endswith((".yaml", ".yml")) or choice in space.names:
        return None
    from densemtmd.merging import load_merged

    return load_merged(choice, space)


def label_pictures(
    predictor: Predictor,
    pictures: Mapping[Path, Path],
    labelsets: Sequence[str],
    out: Path,
    max_pixels: int = 200_000_000,
    merged: Merged | None = None,
) -> list[str]:
    """Label pictures, write the answers below ``out`` and print the shares; what cannot be read is left out.

    Args:
        predictor: which labels.
        pictures: name below ``out`` -> the file, as :func:`find_pictures` gives them.
        labelsets: which of the predictor's labelsets answer, or the merged one.
        out: the folder, made where it does not exist.
        max_pixels: of the largest picture that is read.
        merged: the merged labelset that answers, where it is one.

    Returns:
        One sentence for each picture that could not be read or labelled.

    Raises:
        UserError: a picture would be overwritten, or ``out`` cannot be written.
    """
    from tqdm import tqdm

    from densemtmd.datasets.pictures import read_picture

    inputs = {os.path.realpath(file) for file in pictures.values()}
    for name, file in pictures.items():
        for target in _targets(out / name, labelsets):
            if os.path.realpath(target) in inputs:
                raise UserError(f"the labels of {file} would overwrite the picture {target}: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be made ({error.strerror}): choose another with --out") from error

    failures = []
    # disable=None: no bar where nobody watches
    with tqdm(pictures.items(), unit=" pictures", leave=False, disable=None if len(pictures) > 1 else True) as bar:
        for name, file in bar:
            try:
                for target in _targets(out / name, labelsets):
                    if len(os.fsencode(target.name)) > NAME_BYTES:
                        raise UserError(f"{file} would be labelled in {target}, too long a name for a file: give it a shorter one")
                image = read_picture(file, max_pixels)
            except UserError as error:
                failures.append(str(error))
                continue
            try:
                for line in label_picture(predictor, image, out / name, labelsets, merged):
                    bar.write(f"{one_line(str(name))}  {line}", file=sys.stdout)
            except Exception as error:
                if (reason := about_memory(error)) is None:
                    raise
                failures.append(f"{file} cannot be labelled: {reason}")
    return failures


def label_picture(
    predictor: Predictor, image: np.ndarray, stem: Path, labelsets: Sequence[str], merged: Merged | None = None
) -> Iterator[str]:
    """Label one picture (H, W, 3) and write the answers beside ``stem``; for each labelset a line with the shares of its classes."""
    from densemtmd.draw import class_shares, overlay, save_indexed, sheet
    from densemtmd.tasks import Labelset

    wide = max(map(len, labelsets))
    answers = {merged.labelset.name: predictor.merged(image, merged)} if merged else predictor.all(image, labelsets)
    for labelset, ids in answers.items():
        task = merged.labelset if merged else predictor.space[labelset]
        assert isinstance(task, Labelset)
        save_indexed(_target(stem, labelset), ids, task.palette)
        _save(overlay(image, ids, task), _target(stem, labelset, "overlay"))
        shares = ", ".join(f"{label} {100 * share:.1f} %" for label, share in class_shares(ids, task).items())
        yield f"{labelset:{wide}}  {shares}"
    if len(answers) > 1:
        _save(sheet(image, answers, predictor.space), _target(stem, "sheet"))


def _target(stem: Path, *parts: str) -> Path:
    """``photo.jpg``, "kundu", "overlay" -> ``photo.jpg.kundu.overlay.png``."""
    return stem.with_name(".".join((stem.name, *parts, "png")))


def _targets(stem: Path, labelsets: Sequence[str]) -> list[Path]:
    """All files that are written for one picture."""
    each = [_target(stem, labelset, *kind) for labelset in labelsets for kind in ((), ("overlay",))]
    return each + [_target(stem, "sheet")] * (len(labelsets) > 1)


def _save(picture: Image, path: Path) -> None:
    from densemtmd.files import atomic_write

    with atomic_write(path) as temporary:
        picture.save(temporary)


if __name__ == "__main__":
    sys.exit(main())
