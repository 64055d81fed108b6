"""Labelling folders of pictures: which pictures are meant, what answers, and the files that are written.

What ``tools/infer.py`` does, for who has a :class:`~densemtmd.inference.Predictor` and pictures in files:

>>> pictures = find_pictures(["photos"])  # doctest: +SKIP
>>> failures = label_pictures(Predictor.load("runs/my-run"), pictures, ["kundu"], "out")  # doctest: +SKIP
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image
from tqdm import tqdm

from densemtmd.datasets.names import is_left_by_a_system
from densemtmd.datasets.pictures import read_picture
from densemtmd.draw import class_shares, overlay, save_indexed, sheet
from densemtmd.errors import UserError, about_memory, one_line
from densemtmd.files import atomic_write
from densemtmd.inference import Predictor
from densemtmd.merging import Merged, load_merged
from densemtmd.tasks import Labelset, OutputSpace

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
"""What counts as a picture in a folder; a file that is named is opened whatever its suffix."""

NAME_BYTES = 255
"""What file systems allow."""


def find_pictures(
    images: Iterable[str | Path], recursive: bool = False, out: str | Path = "out", missing: list[str] | None = None
) -> dict[Path, Path]:
    """The pictures that files, folders and patterns stand for, in order, each once: its name below ``out`` -> the file.

    Args:
        images: files, folders, or patterns such as ``photos/*.jpg``.
        recursive: also the pictures in the folders below a folder.
        out: the folder of the answers, whose pictures are not looked at.
        missing: takes a sentence for each file, folder or pattern without a picture, which keeps nobody from labelling the others; None:
            the first of these is an error.

    Raises:
        UserError: a file, folder or pattern without a picture, or two pictures of one name.
    """
    found: dict[Path, Path] = {}
    out = Path(out)
    for image in map(str, images):
        try:
            named = [(path, _below(path, recursive, out) if _is_folder(path) else [path]) for path in _expanded(image)]
        except UserError as error:
            if missing is None:
                raise
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
    return found


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
    return load_merged(choice, space)


def label_pictures(
    predictor: Predictor,
    pictures: Mapping[Path, Path],
    labelsets: Sequence[str],
    out: str | Path,
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
    out = Path(out)
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
    with atomic_write(path) as temporary:
        picture.save(temporary)
