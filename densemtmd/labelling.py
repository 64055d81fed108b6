"""Labelling folders of pictures: which pictures are meant, what answers, and the files that are written.

What ``tools/infer.py`` does, for who has a :class:`~densemtmd.inference.Predictor` and pictures in files:

>>> pictures = find_pictures(["photos"])  # doctest: +SKIP
>>> failures = label_pictures(Predictor.load("runs/my-run"), pictures, ["kundu"], "out")  # doctest: +SKIP
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from densemtmd import geo, video
from densemtmd.datasets.formats.outlines import coco_of, gathered, labelme_of, place_of
from densemtmd.datasets.names import is_left_by_a_system
from densemtmd.datasets.pictures import Room, memory, picture_size, read_picture
from densemtmd.draw import class_shares, note_of, overlay, painted, save_indexed, save_png, sheet
from densemtmd.draw.labels import NOTE, SMALLEST_SHARE
from densemtmd.errors import UserError, about_memory, one_line
from densemtmd.files import WriteError, array_in, atomic_write, write_text
from densemtmd.inference import Predictor, likeliest
from densemtmd.machine import AHEAD_BYTES, ahead, array_bytes, cores, pool
from densemtmd.merging import Merged, load_merged
from densemtmd.progress import Progress, say
from densemtmd.tasks import Labelset, OutputSpace, nearest
from densemtmd.video import Video, is_video, written

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
    return choose_tasks(choice, space)


def choose_tasks(choice: str, space: OutputSpace) -> list[str]:
    """The tasks that ``NAME``, ``all`` or ``A,B`` stands for, of whatever kind.

    Raises:
        UserError: an unknown one (the message lists the known).
    """
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


OUTPUTS = ("ids", "overlay", "sheet", "probabilities", "coco", "labelme")
"""What can be written: the class ids, the picture under their colours, all labelsets side by side (where there are several), the
probabilities of all labels, and outlines, for the tools that people label with."""


class File(NamedTuple):
    """A picture that is asked for."""

    name: Path                 # below the folder of the answers
    path: Path
    targets: tuple[Path, ...]  # what is written


@dataclass(frozen=True)
class Order:
    """What is asked for of every picture, as :func:`label_pictures` is told."""

    labelsets: Sequence[str]
    merged: Merged | None
    out: Path
    outputs: Sequence[str]
    max_pixels: int
    again: bool
    way: Sequence[object]  # all that the answers depend on beside the picture


class Done(NamedTuple):
    """What came of a picture."""

    file: File
    lines: Sequence[str] = ()  # the shares under each labelset
    failure: str = ""          # why it could not be read or labelled
    before: bool = False       # it was labelled by an earlier call


Engine = Callable[[Predictor, Sequence[File], Order], Iterator[Done]]
"""What labels files, in any order."""


def label_pictures(
    predictor: Predictor,
    pictures: Mapping[Path, Path],
    labelsets: Sequence[str],
    out: str | Path,
    max_pixels: int = 200_000_000,
    merged: Merged | None = None,
    outputs: Sequence[str] = OUTPUTS[:3],
    jobs: int | None = None,
    again: bool = False,
    part: str = "",
    engine: Engine | None = None,
) -> list[str]:
    """Label pictures, write the answers below ``out`` and print the shares; what cannot be read is left out.

    Pictures are read ahead, and answers drawn and written behind the network, side by side with it. What was labelled before, by the same
    network and in the same way, from a file that has not changed since, is left as it is: so a call that was interrupted goes on.

    Args:
        predictor: which labels.
        pictures: name below ``out`` -> the file, as :func:`find_pictures` gives them.
        labelsets: which of the predictor's labelsets answer, or the merged one.
        out: the folder, made where it does not exist.
        max_pixels: of the largest picture that is read.
        merged: the merged labelset that answers, where it is one.
        outputs: what is written, some of :data:`OUTPUTS`.
        jobs: threads that read, and as many that write; None: one for each core.
        again: label also what was labelled before.
        part: of all pictures these are, in the name of COCO's file of them: ``.3-16``.
        engine: what labels them; None: :func:`labelled`, in this process.

    Returns:
        One sentence for each picture that could not be read or labelled.

    Raises:
        UserError: an unknown output, a picture would be overwritten, or ``out`` cannot be written.
    """
    out = Path(out)
    check_outputs(outputs, merged)
    files = [
        File(name, file, tuple(_targets(out / name, labelsets, outputs, "ids" in outputs and geo.gets_geotiff(file))))
        for name, file in pictures.items()
    ]
    _keep_pictures(files)
    _keep_apart(files)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be made ({error.strerror}): choose another with --out") from error
    order = Order(labelsets, merged, out, outputs, max_pixels, again, [predictor.identity(), list(labelsets), repr(merged)])
    failures: list[str] = []
    finished = 0
    with Progress("labelling", len(files)) as progress:
        for done in (engine or partial(labelled, jobs=jobs))(predictor, files, order):
            for line in done.lines:
                say(f"{one_line(str(done.file.name))}  {line}")
            failures += [done.failure] * bool(done.failure)
            finished += done.before
            progress.tick()
    if "coco" in outputs:
        for labelset in labelsets:
            parts = [target for file in files for target in file.targets if target.parent.name == f"{labelset}.coco" and target.exists()]
            if parts:
                gathered(parts, out / f"{labelset}.coco{part}.json")
    if "ids" in outputs and not geo.is_installed() and (lost := sum(map(geo.is_georeferenced, pictures.values()))):
        lie = "1 picture lies" if lost == 1 else f"{lost} pictures lie"
        say(f"{lie} somewhere on Earth, which PNGs do not say; for class ids as GeoTIFF: python -m pip install 'densemtmd[geo]'")
    if finished:
        say(f"{finished} of {len(files)} were labelled before, by this network and in this way: they are left as they are")
    return failures


def labelled(predictor: Predictor, files: Sequence[File], order: Order, jobs: int | None = None) -> Iterator[Done]:
    """Labels files in this process, on ``jobs`` threads that read, as many that write, and the network's between them.

    Raises:
        WriteError: an answer cannot be written.
    """
    jobs = jobs or cores()
    waiting: deque[tuple[File, Future[list[str]]]] = deque()

    def next_done() -> Done:
        file, future = waiting.popleft()
        try:
            return Done(file, future.result())
        except WriteError:
            raise
        except UserError as error:
            return Done(file, failure=str(error))
        except Exception as error:
            return Done(file, failure=_reason(file, error))

    with pool(jobs) as workers:
        for file, (image, note) in zip(files, ahead(lambda file: _read(file, order), files, jobs), strict=True):
            if image is None:
                yield Done(file, before=True)
            elif isinstance(image, UserError):
                yield Done(file, failure=str(image))
            elif isinstance(image, Path):
                stem = order.out / file.name
                try:
                    if is_video(image):
                        lines = label_video(predictor, image, stem, order.labelsets, order.merged, order.outputs, note)
                    else:
                        lines = label_giant(predictor, file, order, note)
                except WriteError:
                    raise
                except UserError as error:
                    yield Done(file, failure=str(error))
                except Exception as error:
                    yield Done(file, failure=_reason(file, error))
                else:
                    yield Done(file, lines)
            else:
                try:
                    answers = answer(predictor, image, order.labelsets, order.merged, "probabilities" in order.outputs)
                    stem = order.out / file.name
                    work = workers.submit(write_answers, image, answers, stem, order.outputs, note, file.path, file.name)
                    waiting.append((file, work))
                except Exception as error:
                    yield Done(file, failure=_reason(file, error))
                while len(waiting) * array_bytes(image) > AHEAD_BYTES or len(waiting) > 2 * jobs:
                    yield next_done()
        while waiting:
            yield next_done()


def check_outputs(outputs: Sequence[str], merged: Merged | None = None) -> None:
    """Refuses what cannot be written.

    Raises:
        UserError: an unknown output, none, or probabilities of a merged labelset.
    """
    for one in outputs:
        if one not in OUTPUTS:
            raise UserError(f"--outputs has {one!r}; {nearest(one, OUTPUTS)}")
    if not {*outputs} - {"sheet"}:
        raise UserError(f"--outputs is {','.join(outputs)!r}, expected some of ids, overlay, probabilities, coco and labelme")
    if merged is not None and "probabilities" in outputs:
        raise UserError("--outputs has probabilities, but a merged labelset answers: those of the labelsets that it is made of can be had")


def shard_of(pictures: Mapping[Path, Path], shard: str) -> dict[Path, Path]:
    """The pictures of one of several calls that share the work: ``3/16`` has every 16th, from the third on.

    Raises:
        UserError: not such a pair of numbers.
    """
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard is {shard!r}, expected the number of this call and of all, such as 3/16")
    return dict(list(pictures.items())[int(number) - 1 :: int(count)])


def _keep_pictures(files: Sequence[File]) -> None:
    """Refuses to write over one of the pictures."""
    called: dict[str, list[File]] = {}
    for file in files:
        called.setdefault(file.path.name, []).append(file)
    for file in files:
        for target in file.targets:
            for other in called.get(target.name, ()):
                if os.path.realpath(target) == os.path.realpath(other.path):
                    raise UserError(f"the labels of {file.path} would overwrite the picture {target}: choose another --out")


def _keep_apart(files: Sequence[File]) -> None:
    """Refuses to write one file for two pictures: labelme knows ``a.jpg`` and ``a.png`` by one name."""
    owner: dict[Path, File] = {}
    for file in files:
        for target in file.targets:
            if (other := owner.setdefault(target, file)) is not file:
                raise UserError(f"{other.path} and {file.path} would both be written to {target}: label them in two calls, with two --out")


def _read(file: File, order: Order) -> tuple[np.ndarray | Path | UserError | None, str]:
    """A picture, or the path of a giant one or of a video, or why there is none: it cannot be read, or it was labelled before (None); and
    the note that its answers are kept with."""
    try:
        for target in file.targets:
            if len(os.fsencode(target.name)) > NAME_BYTES:
                raise UserError(f"{file.path} would be labelled in {target}, too long a name for a file: give it a shorter one")
        note = ""
        with suppress(OSError):  # the reader says why
            found = file.path.stat()
            note = hashlib.sha256(json.dumps([NOTE, *order.way, found.st_size, found.st_mtime_ns]).encode()).hexdigest()
            if file.targets and not order.again and all(_note_of(target) == note for target in file.targets):
                return None, note
        if not file.targets:
            raise UserError(f"{file.path} is a video, of which ids and overlay can be written: add one of them to --outputs")
        if is_video(file.path) or 3 * math.prod(picture_size(file.path, order.max_pixels)) > AHEAD_BYTES:
            return file.path, note
        image = geo.read_by_windows(file.path, order.max_pixels)
        return read_picture(file.path, order.max_pixels) if image is None else image, note
    except UserError as error:
        return error, ""


def _note_of(target: Path) -> str | None:
    """The note that an answer was written with; None where there is none."""
    if target.suffix == ".png":
        return note_of(target)
    if is_video(target):
        return video.note_of(target)
    if target.suffix == ".tif":
        return geo.note_of(target)
    if target.suffix == ".json":  # labelme writes it at the end, where somebody has corrected what was found
        with suppress(OSError), target.open("rb") as file:
            head = file.read(1000)
            file.seek(max(0, target.stat().st_size - 1000))
            match = re.search(rb'"note": "([0-9a-f]{64})"', head + b"\n" + file.read())
            return match[1].decode() if match else None
        return None
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(target, allow_pickle=False) as arrays:
        return str(arrays["note"])
    return None


def _reason(file: File, error: Exception) -> str:
    """Why a picture could not be labelled, where that is for want of memory; what else goes wrong stops the others too."""
    if (reason := about_memory(error)) is None:
        raise error
    return f"{file.path} cannot be labelled: {reason}"


@dataclass(frozen=True)
class Answer:
    """What a network says of a picture under one labelset."""

    labelset: Labelset
    ids: np.ndarray                   # (H, W) uint8
    probabilities: np.ndarray | None  # (L, H, W) float32, where they were asked for


def answer(
    predictor: Predictor, image: np.ndarray, labelsets: Sequence[str], merged: Merged | None = None, probabilities: bool = False,
    room: Room = memory,
) -> list[Answer]:  # fmt: skip
    """The answers of a predictor for a picture (H, W, 3) under some of its labelsets, or under a merged one; ids in arrays that ``room``
    gives."""
    if merged is not None:
        return [Answer(merged.labelset, predictor.merged(image, merged, room), None)]
    tasks = {name: task for name in labelsets if isinstance(task := predictor.space[name], Labelset)}
    if not probabilities:
        return [Answer(tasks[name], ids, None) for name, ids in predictor.all(image, labelsets, room).items()]
    found = predictor.all_probabilities(image, labelsets)
    return [Answer(tasks[name], likeliest(torch.from_numpy(own)).numpy(), own) for name, own in found.items()]


def write_answers(
    image: np.ndarray, answers: Sequence[Answer], stem: Path, outputs: Sequence[str] = OUTPUTS[:3], note: str | None = None,
    picture: Path | None = None, name_below: Path | None = None,
) -> list[str]:  # fmt: skip
    """Write the answers for a picture (H, W, 3) beside ``stem``, each file with a note; of each labelset a line with the shares of its
    classes. Outlines tell where the ``picture`` is, and what it is called below the folder of all pictures; class ids of one that lies
    somewhere on Earth are a GeoTIFF, and files beside its overlays say where they lie."""
    on_earth = picture is not None and not {"ids", "overlay"}.isdisjoint(outputs) and geo.gets_geotiff(picture)
    wide = max(len(one.labelset.name) for one in answers)
    lines = []
    for one in answers:
        name, task = one.labelset.name, one.labelset
        if "ids" in outputs:
            if picture is not None and on_earth:
                geo.save_geotiff(_target(stem, name, on_earth=True), one.ids, task, picture, note)
            else:
                save_indexed(_target(stem, name), one.ids, task.palette, note)
        if "overlay" in outputs:
            drawn, target = overlay(image, one.ids, task), _target(stem, name, "overlay")
            geo.forget_place(target)
            if picture is not None and on_earth:  # first: the PNG's note says that all is there
                geo.save_place(target, picture, (image.shape[1], image.shape[0]), drawn.info["photo"])
            save_png(target, drawn, note)
        if one.probabilities is not None:
            kept = {"probabilities": one.probabilities.astype(np.float16), "labels": np.array(task.labels), "note": np.array(note or "")}
            with atomic_write(_target(stem, name, "probabilities")) as temporary:
                np.savez(temporary, **kept)  # type: ignore[arg-type]
        if "coco" in outputs:
            write_text(_target(stem, name, "coco"), json.dumps(coco_of(one.ids, task, (name_below or Path(stem.name)).as_posix(), note)))
        if "labelme" in outputs:
            target = _target(stem, name, "labelme")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, json.dumps(labelme_of(one.ids, task, place_of(picture or stem, target.parent), note), indent=1))
        lines.append(f"{name:{wide}}  {_told(class_shares(one.ids, task))}")
    if len(answers) > 1 and "sheet" in outputs:
        space = OutputSpace([one.labelset for one in answers])
        save_png(_target(stem, "sheet"), sheet(image, {one.labelset.name: one.ids for one in answers}, space), note)
    return lines


def label_giant(predictor: Predictor, file: File, order: Order, note: str = "") -> list[str]:
    """Label a picture that is too large to wait in memory and write the answers: meanwhile it lies, and the class ids do, in files without
    a name below ``order.out``, three bytes a pixel and one for each labelset, of which no more is in memory than is worked on.

    Returns:
        For each labelset a line with the shares of its classes.

    Raises:
        UserError: the picture cannot be read.
        WriteError: an answer cannot be written, or the disk has no room.
    """
    room = partial(array_in, order.out)
    image = geo.read_by_windows(file.path, order.max_pixels, room)
    image = read_picture(file.path, order.max_pixels, room) if image is None else image
    answers = answer(predictor, image, order.labelsets, order.merged, "probabilities" in order.outputs, room)
    return write_answers(image, answers, order.out / file.name, order.outputs, note, file.path, file.name)


def label_video(
    predictor: Predictor,
    path: Path,
    stem: Path,
    labelsets: Sequence[str],
    merged: Merged | None = None,
    outputs: Sequence[str] = OUTPUTS[:2],
    note: str = "",
) -> list[str]:
    """Label a video frame by frame and write the answers beside ``stem``: class ids without loss, overlays as a video for people.

    Returns:
        For each labelset a line with the mean shares of its classes.

    Raises:
        UserError: the video cannot be read, or holds no frame.
    """
    tasks = [merged.labelset] if merged else [task for name in labelsets if isinstance(task := predictor.space[name], Labelset)]
    counts = {task.name: np.zeros(256, np.int64) for task in tasks}
    size: tuple[int, ...] | None = None
    with Video(path) as film, ExitStack() as opened:
        writers = {
            (task.name, kind): opened.enter_context(written(_target(stem, task.name, *parts), film.rate, note, lossless=kind == "ids"))
            for task in tasks
            for kind, parts in (("ids", ()), ("overlay", ("overlay",)))
            if kind in outputs
        }
        for frame in film:
            if frame.shape != (size := size or frame.shape):
                raise UserError(f"{path} changes its size from {size[1]}×{size[0]} to {frame.shape[1]}×{frame.shape[0]}: cut it there")
            for one in answer(predictor, frame, labelsets, merged):
                name = one.labelset.name
                counts[name] += np.bincount(one.ids.ravel(), minlength=256)
                if "ids" in outputs:
                    writers[name, "ids"].add(one.ids)
                if "overlay" in outputs:
                    writers[name, "overlay"].add(painted(frame, one.ids, one.labelset))
        if size is None:
            raise UserError(f"{path} holds no frame, expected a video")
    wide = max(len(task.name) for task in tasks)
    lines = []
    for task in tasks:
        shares = zip(task.labels, (counts[task.name] / counts[task.name].sum()).tolist(), strict=False)
        most = dict(sorted(((label, share) for label, share in shares if share >= SMALLEST_SHARE), key=lambda one: -one[1]))
        lines.append(f"{task.name:{wide}}  {_told(most)}")
    return lines


def _told(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {100 * share:.1f} %" for label, share in shares.items())


def _target(stem: Path, *parts: str, on_earth: bool = False) -> Path:
    """``photo.jpg``, "kundu", "overlay" -> ``photo.jpg.kundu.overlay.png``; of a video ``clip.mp4.kundu.mkv`` and ``….overlay.mp4``; the
    class ids of a picture that lies on Earth are ``map.tif.kundu.tif``.

    Outlines are in a folder of their own, ``kundu.labelme/photo.json`` as labelme looks for it, and ``kundu.coco/photo.jpg.json``.
    """
    if parts[-1] in ("coco", "labelme"):
        return stem.parent / ".".join(parts) / f"{stem.name if parts[-1] == 'coco' else stem.stem}.json"
    suffix = "npz" if parts[-1] == "probabilities" else "tif" if on_earth else "png"
    if is_video(stem):
        suffix = "mp4" if parts[-1] == "overlay" else "mkv"
    return stem.with_name(".".join((stem.name, *parts, suffix)))


def _targets(stem: Path, labelsets: Sequence[str], outputs: Sequence[str], on_earth: bool = False) -> list[Path]:
    """All files that are written for one picture."""
    if is_video(stem):
        outputs = [kind for kind in outputs if kind in OUTPUTS[:2]]
    kinds = [() if kind == "ids" else (kind,) for kind in outputs if kind != "sheet"]
    each = [_target(stem, labelset, *kind, on_earth=on_earth and not kind) for labelset in labelsets for kind in kinds]
    return each + [_target(stem, "sheet")] * (len(labelsets) > 1 and "sheet" in outputs)
