"""The first draft of a dataset's YAML, from a folder of pictures and labels that nobody has described yet.

What is found is written down with what it was found by, as comments: people correct a draft sooner than they write one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from densemtmd.datasets.matlab import find_matrix
from densemtmd.datasets.pictures import open_picture
from densemtmd.errors import UserError
from densemtmd.tasks import VOID

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MATRICES = (".mat", ".txt")

LOOKED_AT = 100
"""Files of labels whose codes are counted, evenly from all."""

MANY = 64
"""Colours in a file from which on it is a picture; labels have few."""

SPLIT_WORDS = {
    "train": ("train", "training", "trn", "trainannot"),
    "val": ("val", "valid", "validation", "valannot"),
    "test": ("test", "testing", "tst", "testannot"),
}


@dataclass
class _Kind:
    """Files of one folder that are named alike: ``labels/*.regions.txt``."""

    folder: str   # below the dataset's
    tag: str      # what all their names end in before the suffix, such as "_L"
    suffix: str
    files: list[Path] = field(default_factory=list)
    encoding: str = ""   # "picture", or as a dataset's YAML names it
    mat_key: str = ""

    @property
    def glob(self) -> str:
        return f"{self.folder}/*{self.tag}{self.suffix}" if self.folder else f"*{self.tag}{self.suffix}"

    def stems(self) -> dict[str, Path]:
        """The files by what tells them apart in their names."""
        return {path.name.removesuffix(self.tag + self.suffix): path for path in self.files}


def draft(folder: str | Path) -> str:
    """The text of a dataset's YAML for the pictures and labels in a folder.

    Raises:
        UserError: no such folder, or no pictures with labels in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one that holds pictures and their labels")
    kinds = _kinds(folder)
    for kind in kinds:
        kind.encoding, kind.mat_key = _encoding(kind.files)
    pairs = _pairs(kinds)
    if not pairs:
        found = ", ".join(f"{len(kind.files)} {kind.encoding or 'other'} {kind.glob}" for kind in kinds[:6]) or "nothing"
        raise UserError(f"{folder} holds no pictures with labels of the same names, but {found}: write the YAML by hand")
    images, labels = _globs([image for image, _ in pairs]), _globs([label for _, label in pairs])
    if len(pairs) > 1 and _collide([image for image, _ in pairs]):
        images, labels = _joined(pairs) or (images, labels)
    files = [path for _, label in pairs for path in sorted(label.files)]
    encoding, mat_key = pairs[0][1].encoding, pairs[0][1].mat_key
    others = [kind for kind in kinds if kind.encoding not in ("", "picture") and all(kind is not label for _, label in pairs)]
    text = [
        f"# A draft for {folder}, made by looking at {min(len(files), LOOKED_AT)} of {len(files)} files of labels.",
        "# Name the labels, see which codes are void, and check it: python tools/check_data.py THIS_FILE",
        f"name: {_plain(folder.resolve().name)}",
        f"folder: {_quoted(str(folder.resolve()))}",
        f"images: {_listed(images)}",
        f"labels: {_listed(labels)}",
    ]
    if len(images) > 1 and _collide([image for image, _ in pairs]):
        text.append("# key: '...'  # some names occur in several folders: see 'key' in densemtmd/datasets/config.py")
    if others:
        text.append("# There is more that could be labels: " + ", ".join(kind.glob for kind in others[:6]))
    text.append(f"encoding: {encoding}")
    if mat_key:
        text.append(f"mat_key: {mat_key}")
    text += _labels(files, encoding, mat_key)
    text += _sequence([stem for image, _ in pairs for stem in image.stems()])
    text += _split([image for image, _ in pairs], [label for _, label in pairs])
    return "\n".join(text) + "\n"


# ----------------------------------------------------------------------------------------------------------------------
# Which files


def _kinds(folder: Path) -> list[_Kind]:
    """The files below a folder, sorted by where they lie and how they are named."""
    found: dict[tuple[str, str, str], _Kind] = {}
    by_folder: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() in (*PICTURES, *MATRICES) and path.is_file() and not any(part.startswith(".") for part in relative.parts):
            by_folder.setdefault(relative.parent.as_posix().removeprefix("."), []).append(path)
    for place, paths in by_folder.items():
        tails = Counter(_tail(path) for path in paths)
        for path in paths:
            tag, suffix = _tail(path)
            if tag and tails[tag, suffix] < max(3, len(paths) / 5):  # the end of one name, not of all
                tag = ""
            found.setdefault((place, tag, suffix), _Kind(place, tag, suffix)).files.append(path)
    return list(found.values())


def _tail(path: Path) -> tuple[str, str]:
    """What the names of all files of a kind may end in: ``("_L", ".png")``, ``("", ".regions.txt")``."""
    match = re.search(r"([_-][A-Za-z]+)?((?:\.[A-Za-z]+)+)$", path.name)
    return (match[1] or "", match[2]) if match else ("", path.suffix)


def _encoding(files: Sequence[Path]) -> tuple[str, str]:
    """What files of one kind seem to be, by three of them, and the key of the matrix if they are MATLAB's."""
    looked = {_encoding_of(path) for path in (files[0], files[len(files) // 2], files[-1])}
    looked.discard(("", ""))
    return looked.pop() if len(looked) == 1 else ("", "")


def _encoding_of(path: Path) -> tuple[str, str]:
    if path.suffix.lower() == ".txt":
        head = path.read_bytes()[:4000]
        matrix = len(head.split()) > 8 and not head.translate(None, b"0123456789+- \t\r\n") and len(head.split(b"\n")[0].split()) > 4
        return ("text", "") if matrix else ("", "")
    if path.suffix.lower() == ".mat":
        return ("mat", key) if (key := _matrix_key(path)) else ("", "")
    try:
        with open_picture(path) as picture:
            if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):  # compressed with loss: no labels
                return "picture", ""
            if picture.mode in ("1", "L", "P") or picture.mode.startswith("I"):
                few = len(np.unique(np.asarray(picture))) <= MANY
                return ("index", "") if few else ("picture", "")
            colours = picture.convert("RGB").getcolors(MANY)
            return ("colour", "") if colours else ("picture", "")
    except UserError:
        return "", ""


def _matrix_key(path: Path) -> str | None:
    """The name of the first matrix in a MATLAB file that is as large as a picture."""
    try:
        _, names = find_matrix(path, "")
        for name in names:
            with suppress(TypeError):  # a text, a structure, ...
                matrix, _ = find_matrix(path, name)
                if matrix is not None and matrix.ndim == 2 and min(matrix.shape) > 8:
                    return name
    except (OSError, ValueError, NotImplementedError):  # what cannot be read is nothing
        pass
    return None


def _pairs(kinds: Sequence[_Kind]) -> list[tuple[_Kind, _Kind]]:
    """Pictures and the labels that have their names: one kind of labels for each kind of pictures, all of one encoding."""
    order = {"index": 0, "mat": 1, "text": 2, "colour": 3}
    found: list[tuple[_Kind, _Kind]] = []
    for image in kinds:
        if image.encoding != "picture":
            continue
        stems = image.stems()
        ranked = []
        for kind in kinds:
            both = sorted(stems.keys() & kind.stems().keys())
            if kind.encoding in order and 2 * len(both) > len(kind.files):
                codes, _ = _codes(kind.stems()[both[0]], kind.encoding, kind.mat_key)
                with open_picture(stems[both[0]]) as picture:
                    misfit = (codes.shape[1], codes.shape[0]) != picture.size
                other_split = _split_of(kind.folder) != _split_of(image.folder)
                shared = len(set(Path(kind.folder).parts) & set(Path(image.folder).parts))
                instances = kind.encoding != "colour" and int(codes.max()) > VOID  # numbers of objects rather than of labels
                ranked.append((other_split, misfit, instances, -shared, -len(both), order[kind.encoding], kind.glob, kind))
        if ranked:
            found.append((image, min(ranked, key=lambda one: one[:-1])[-1]))
    if found:
        encoding = Counter(label.encoding for _, label in found).most_common(1)[0][0]
        found = [(image, label) for image, label in found if label.encoding == encoding]
    return found


def _globs(kinds: Iterable[_Kind]) -> list[str]:
    return list(dict.fromkeys(kind.glob for kind in kinds))


def _collide(images: Sequence[_Kind]) -> bool:
    """Whether names occur in several folders, so that the folder must be part of the key."""
    stems = [stem for image in images for stem in image.stems()]
    return len(set(stems)) < len(stems)


def _joined(pairs: Sequence[tuple[_Kind, _Kind]]) -> tuple[list[str], list[str]] | None:
    """One glob with a wildcard for the part of the path that differs, if pictures and labels differ in the same."""
    globs = []
    wild: list[list[str]] = []
    for kinds in zip(*pairs, strict=True):
        paths = [Path(kind.glob).parts for kind in kinds]
        if len({len(parts) for parts in paths}) > 1:
            return None
        columns = list(zip(*paths, strict=True))
        differing = [i for i, column in enumerate(columns) if len(set(column)) > 1]
        wild += [list(columns[i]) for i in differing]
        globs.append("/".join("*" if i in differing else column[0] for i, column in enumerate(columns)))
    half = len(wild) // 2
    return ([globs[0]], [globs[1]]) if len(wild) == 2 * half and wild[:half] == wild[half:] else None


# ----------------------------------------------------------------------------------------------------------------------
# What is in them


def _labels(files: Sequence[Path], encoding: str, mat_key: str) -> list[str]:
    """The lines on labels and void: each code with its share of the pixels, the most frequent ones first of all by code."""
    looked = [files[int(i)] for i in np.unique(np.linspace(0, len(files) - 1, min(len(files), LOOKED_AT)).round())]
    pixels: Counter[int] = Counter()
    pictures: Counter[int] = Counter()
    palette: list[int] = []
    for path in looked:
        codes, palette_of_it = _codes(path, encoding, mat_key)
        palette = palette or palette_of_it
        values, counts = np.unique(codes, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        pictures.update(values.tolist())
    total = sum(pixels.values())

    def share(code: int) -> str:
        return f"# {100 * pixels[code] / total:5.2f} % of the pixels, in {pictures[code]} of {len(looked)} files"

    void = [code for code in sorted(pixels) if (encoding == "colour" and code == 0) or (encoding != "colour" and code in (VOID, 65535))]
    negative = [code for code in pixels if encoding != "colour" and code < 0]
    named = [code for code in sorted(pixels) if code not in void and code not in negative]
    if len(named) > VOID:
        raise UserError(f"{looked[0]} and others hold {len(named)} codes, more than a labelset can have: are these labels, or instances?")
    lines = ["labelset:"]
    for code in named:
        if encoding == "colour":
            rgb = [code >> 16, code >> 8 & 255, code & 255]
            lines.append(f"  - {{label: {'colour_{:02x}{:02x}{:02x}'.format(*rgb)}, colour: {rgb}}}  {share(code)}")
        else:
            colour = f", colour: {palette[3 * code : 3 * code + 3]}" if palette[3 * code : 3 * code + 3] else ""
            lines.append(f"  - {{label: code_{code}, codes: [{code}]{colour}}}  {share(code)}")
    if negative:
        lines.append(f"void: negative  # codes {', '.join(map(str, sorted(negative)))}: assumed")
    elif void:
        shown = [0, 0, 0] if encoding == "colour" else void[0]
        lines.append(f"void: [{shown if encoding == 'colour' else ', '.join(map(str, void))}]  {share(void[0])}: assumed")
    else:
        lines.append("# void: [0]  # codes of pixels that nobody labelled, if there are any")
    return lines


def _codes(path: Path, encoding: str, mat_key: str) -> tuple[np.ndarray, list[int]]:
    """The codes of one file, colours as numbers of 24 bits, and its palette if it has one."""
    if encoding == "mat":
        matrix, _ = find_matrix(path, mat_key)
        return np.asarray(matrix).astype(np.int64), []
    if encoding == "text":
        return np.loadtxt(path, dtype=np.int64), []
    with open_picture(path) as picture:
        if encoding == "index":
            return np.asarray(picture).astype(np.int64), list(picture.getpalette() or []) if picture.mode == "P" else []
        rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
        return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], []


def _sequence(stems: Sequence[str]) -> list[str]:
    """A line on videos, where names begin alike and end in a number."""
    matches = [re.match(r"(.*?[^0-9])[_-]?[a-z]*\d+$", stem) or re.match(r"(\d+)[_-][a-z]*\d+$", stem) for stem in stems]
    videos = Counter(match[1].rstrip("_-") for match in matches if match)
    if sum(videos.values()) < len(stems) or len(videos) < 2 or len(stems) < 20 * len(videos):
        return ["# sequence: '^(.*)_'  # if they are frames of videos: what the names of one video's frames begin with"]
    some = ", ".join(sorted(videos)[:3])
    return [f"sequence: '^(.*?)[_-]?[a-z]*[0-9]+$'  # {len(videos)} videos by their names ({some}, ...), each in one split: assumed"]


def _split_of(place: str) -> str | None:
    """The split that a folder's name tells."""
    for part in reversed(Path(place).parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, known in SPLIT_WORDS.items():
            if any(word in known for word in words):
                return split
    return None


def _split(images: Sequence[_Kind], labels: Sequence[_Kind]) -> list[str]:
    """The lines on the split: by folders where their names tell, else fractions."""
    patterns: dict[str, list[str]] = {}
    for image, label in zip(images, labels, strict=True):
        kind = image if _split_of(image.folder) else label
        if split := _split_of(kind.folder):
            parts = Path(kind.folder).parts
            last = max(i for i, part in enumerate(parts) if _split_of(part))
            patterns.setdefault(split, []).append("/".join(parts[: last + 1]) + "/*")
    patterns = {split: sorted(set(of_it)) for split, of_it in patterns.items()}
    if "train" not in patterns or len(patterns) < 2:
        return ["split: {fractions: {train: 0.6, val: 0.1, test: 0.3}, seed: 0}"]
    note = ""
    if "test" not in patterns:
        patterns = {"train": patterns["train"], "test": patterns["val"]}
        note = "  # tested on what the folders call validation"
    val = _listed(patterns["val"]) if "val" in patterns else "0.15"
    return [f"split: {{patterns: {{train: {_listed(patterns['train'])}, val: {val}, test: {_listed(patterns['test'])}}}, seed: 0}}{note}"]


# ----------------------------------------------------------------------------------------------------------------------
# As YAML


def _plain(name: str) -> str:
    """A name that needs no quotes."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "mine"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(globs: Sequence[str]) -> str:
    return _quoted(globs[0]) if len(globs) == 1 else "[" + ", ".join(_quoted(glob) for glob in globs) + "]"
