"""The first draft of a dataset's YAML, from a folder of pictures and labels that nobody has described yet.

What is found is written down with what it was found by, as comments: people correct a draft sooner than they write one. What cannot be
known from files, whether a pixel without an object was looked at, is asked there.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from densemtmd.datasets.config import LISTING, NAMED, REST, parse_dataset_config
from densemtmd.datasets.folder import Dataset, open_dataset
from densemtmd.datasets.formats.known import BACKGROUND, Known, known_codes
from densemtmd.datasets.formats.label_studio import stored
from densemtmd.datasets.formats.objects import pictures_in
from densemtmd.datasets.formats.recognise import Objects, ends, is_yolo, recognise, refuse_many
from densemtmd.datasets.globs import all_below, forbidden
from densemtmd.datasets.matlab import find_matrix
from densemtmd.datasets.names import composed
from densemtmd.datasets.pictures import loss_of, open_picture
from densemtmd.errors import UserError
from densemtmd.tasks import VOID

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif", ".jp2", ".avif")
MATRICES = (".mat", ".txt")

LOOKED_AT = 100
"""Files of labels whose codes are counted, evenly from all."""

MANY = 64
"""Colours in a file from which on it is a picture; labels have few."""

WIDTH = 80
"""Letters of the longest line of a draft, for a terminal of that many columns."""

TEXT = r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\""""
"""What stands in quotes."""

MANY_KINDS = 20
"""Kinds of files from which on one of each is looked at, not three."""

SPLIT_WORDS = {
    "train": ("train", "training", "trn", "trainannot"),
    "val": ("val", "valid", "validation", "valannot"),
    "test": ("test", "testing", "tst", "testannot"),
}

SAYS_NOTHING = ("__ignore__", "ignore", "ignored", "void", "unlabeled", "unlabelled", "unlabeled_area")
"""What people call objects of no label."""

LISTS = (".txt", ".lst", ".csv")
"""Files that may list the pictures of a split."""

FRACTIONS = "split: {fractions: {train: 0.6, val: 0.1, test: 0.3}, seed: 0}"
"""The split where nothing tells another."""

OUTLINES = (
    ("json", ('"regions"', '"shape_attributes"'), "polygons of the VGG annotator", "fill them"),
    ("json", ('"objects"', '"polygon"'), "polygons", "fill them in their order"),
    ("xml", ("<annotation", "<bndbox"), "boxes of Pascal VOC", "boxes say nothing of single pixels"),
    ("xml", ("<annotations", "<polygon"), "polygons of CVAT", "CVAT exports masks too"),
)
"""Files that describe objects and not pixels: suffix, what is in them, what they are, what to do."""


@dataclass
class _Kind:
    """Files of one folder that are named alike: ``labels/*.regions.txt``."""

    folder: str  # below the dataset's
    tag: str     # what all their names end in before the suffix, such as "_L"
    encoding: str  # "picture", or as a dataset's YAML names it
    mat_key: str
    head: str = ""  # what all their names begin with, where pictures and labels begin differently
    files: list[Path] = field(default_factory=list)

    @property
    def suffixes(self) -> list[str]:
        return list(dict.fromkeys(path.suffix for path in self.files))

    @property
    def glob(self) -> str:
        """For people."""
        return self.globs(self.folder)[0]

    def globs(self, folder: str) -> list[str]:
        """What finds them, beneath a folder."""
        return [f"{folder}/{self.head}*{self.tag}{suffix}".removeprefix("/") for suffix in self.suffixes]

    def stems(self) -> dict[str, Path]:
        """The files by what tells them apart in their names."""
        return {composed(path.stem.removesuffix(self.tag).removeprefix(self.head)): path for path in self.files}


def draft(folder: str | Path) -> str:
    """The text of a dataset's YAML for the pictures and labels in a folder.

    Raises:
        UserError: no such folder, or no pictures with labels in it; says what is there instead.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one that holds pictures and their labels")
    folder = folder.resolve()  # as a dataset's files are named
    there = all_below(folder)
    kinds = _kinds(folder, there)
    pairs = _pairs(kinds) or _pairs(_beheaded(kinds))
    if not pairs:
        if (objects := recognise(there)) is not None:
            return _draft_of_objects(folder, there, objects)
        raise UserError(f"{folder} {_why_not(folder, there, kinds)}")
    encoding, mat_key = pairs[0][1].encoding, pairs[0][1].mat_key
    dataset = _opened(folder, pairs)
    items = dataset.splits["train"]
    files = [item.labels for item in items]
    covered = {*files, *dataset.without_picture, *(item.image for item in items)}
    others = [kind for kind in kinds if kind.encoding not in ("", "picture") and not covered.issuperset(kind.files)]
    text = [
        f"# A draft for {folder}, made by looking at {min(len(files), LOOKED_AT)} of {len(files)} files of labels.",
        "# Name the labels, answer what is asked, and check it:",
        CHECK,
        *_where(folder, dataset),
    ]
    if others:
        places = Counter(Path(kind.folder).name for kind in others)
        alike: dict[tuple[str, ...], list[str]] = {}  # in folder by folder the same
        for kind in others:
            place = Path(kind.folder).name if not kind.tag and places[Path(kind.folder).name] > 1 else ""
            alike.setdefault((kind.head, kind.tag, kind.encoding, place), []).append(kind.glob)
        found = [globs[0] + f" (and in {len(globs) - 1} more folders)" * (len(globs) > 1) for globs in alike.values()]
        text.append("# There is more that could be labels: " + ", ".join(found[:6]))
    text.append(f"encoding: {encoding}")
    if mat_key:
        text.append(f"mat_key: {mat_key}")
    text += (labels := _labels(folder, files, encoding, mat_key))
    text += _sequence([item.key for item in items])
    pairs = _labelled(pairs, yaml.safe_load("\n".join(labels)).get("void"))
    text += _by_folders([image for image, _ in pairs], [label for _, label in pairs]) or _by_lists(folder, there, dataset) or [FRACTIONS]
    return _fitted(text)


def _labelled(pairs: list[tuple[_Kind, _Kind]], void: Any) -> list[tuple[_Kind, _Kind]]:
    """Without the pictures to test on where their labels are kept back, as those of a benchmark are: files that say nothing."""
    if pairs[0][1].encoding != "index" or not isinstance(void, list):
        return pairs

    def says_nothing(label: _Kind) -> bool:
        some = [label.files[int(n)] for n in np.linspace(0, len(label.files) - 1, min(len(label.files), 10))]
        return all(np.isin(_codes(path, label.encoding, label.mat_key)[0], void).all() for path in some)

    to_test = ["test" in (_split_of(image.folder), _split_of(label.folder)) for image, label in pairs]
    return [pair for pair, test in zip(pairs, to_test, strict=True) if not test or not says_nothing(pair[1])]


def _where(folder: Path, dataset: Dataset) -> list[str]:
    """The lines on where the files are, and which of them stand alone."""
    text = [
        f"name: {_plain(folder.name)}",
        f"folder: {_quoted(str(folder))}",
        f"images: {_listed(dataset.config.images)}",
        f"labels: {_listed(dataset.config.labels)}",
    ]
    for paths, what in ((dataset.without_labels, "pictures have no labels"), (dataset.without_picture, "files of labels have no picture")):
        if paths:
            text.append(f"# {len(paths)} {what}, the first is {paths[0].relative_to(folder)}")
    return text


def _draft_of_objects(folder: Path, there: Sequence[Path], objects: Objects) -> str:
    """:func:`draft` of a folder whose pictures have files of objects."""
    pairs = _pictures_of(folder, there, objects)
    if not pairs:
        within = objects.encoding == "labelme" and '"imageData": "' in ends(objects.files[0])
        named = f"{objects.files[0].stem}.png for {objects.files[0].name}"
        how = f"write those that are within them out, and put them beside, called as they are: {named}" if within else "put them into it"
        raise UserError(f"{folder} has {objects.called}, but none of the pictures that they are about: {how}")
    if not objects.objects.total():
        lines = f"only lines and points ({', '.join(sorted(objects.thin)[:5])}), which cover no pixel: draw polygons"
        raise UserError(f"{folder} has {objects.called}, but {lines if objects.thin else 'no object in it: label some pictures first'}")
    dataset = _opened(folder, pairs, listing=objects.encoding in LISTING)
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    keys = [item.key for item in dataset.splits["train"]]
    text = [
        f"# A draft for {folder}, made from {objects.called}.",
        "# Answer what is asked, and check it:",
        CHECK,
        *_where(folder, dataset),
        f"encoding: {objects.encoding}",
        *_labels_of_objects(objects),
        *_sequence(keys),
        *(_by_folders(images, labels) or _by_files(folder, objects) or _by_lists(folder, there, dataset) or [FRACTIONS]),
    ]
    return _fitted(text)


def _labels_of_objects(objects: Objects) -> list[str]:
    """The lines on labels and void: each with its objects, in the order of the files."""
    refuse_many(objects, VOID - 1)
    void = [label for label in objects.objects if str(label).lower() in SAYS_NOTHING]
    lines = ["labelset:"]
    for label, count in objects.objects.items():
        if count and label not in void:
            name, codes = objects.names.get(label, label), f", codes: [{label}]" if isinstance(label, int) else ""
            lines.append(f"  - {{label: {_name(str(name))}{codes}}}  # {count} objects in {objects.pictures[label]} pictures")
    names = {str(objects.names.get(label, label)) for label in objects.objects}
    rest = next(name for name in ("other", "background", *(f"other_{n}" for n in range(VOID))) if name not in names)
    lines.append(f"  - {{label: {rest}, codes: rest}}  # where none of these is: assumed. {ASKED}")
    if void:
        lines.append(f"void: [{', '.join(map(_name, map(str, void)))}]  # by its name")
    if none := [str(objects.names.get(label, label)) for label, count in objects.objects.items() if not count]:
        lines.append(f"# No object is called {_some(none)}.")
    if objects.thin:
        lines.append(f"# Only lines and points, which cover no pixel, are called {_some(sorted(objects.thin))}.")
    return [*lines, f"{QUESTION}delete {rest} and write void: rest."]


def _pictures_of(folder: Path, there: Sequence[Path], objects: Objects) -> list[tuple[_Kind, _Kind]]:
    """The pictures that files of objects are about, by folder, each with files of objects."""
    pictures: dict[str, list[Path]] = {}
    for path in there:
        if path.suffix.lower() in PICTURES:
            pictures.setdefault(path.relative_to(folder).parent.as_posix().removeprefix("."), []).append(path)
    if objects.encoding in LISTING:
        places = [place for path in objects.files for some in pictures_in(path, objects.encoding).values() for place in some]
        listed = {Path(place.replace("\\", "/")).name for place in places}
        images = [
            (place, [path for path in paths if not listed.isdisjoint((path.name, stored(path.name)))])
            for place, paths in pictures.items()
        ]
        return [
            (_Kind(place, "", "picture", "", files=found), _Kind("", "", objects.encoding, "", files=objects.files))
            for place, found in images if found
        ]  # fmt: skip
    labels: dict[str, list[Path]] = {}
    for path in objects.files:
        labels.setdefault(path.relative_to(folder).parent.as_posix().removeprefix("."), []).append(path)
    pairs = []
    for place, files in labels.items():
        stems = {composed(path.stem) for path in files}
        counts = {other: sum(composed(path.stem) in stems for path in paths) for other, paths in pictures.items()}
        # the folder that has most of them; of equal ones the one beside it, then the one of the same split
        best = max(counts, key=lambda other: (counts[other], other == place, _split_of(other) == _split_of(place)), default=None)
        if best is not None and counts[best]:
            image = _Kind(best, "", "picture", "", files=[path for path in pictures[best] if composed(path.stem) in stems])
            pairs.append((image, _Kind(place, "", objects.encoding, "", files=files)))
    return pairs


def _by_files(folder: Path, objects: Objects) -> list[str]:
    """The lines on the split, where each has a file of objects of its own, called after it."""
    patterns: dict[str, list[str]] = {}
    for path in objects.files if objects.encoding in LISTING else []:
        if split := _split_of(path.stem):
            patterns.setdefault(split, []).append(path.relative_to(folder).as_posix())
    return _split_line("patterns", patterns, "the files")


# ----------------------------------------------------------------------------------------------------------------------
# Which files


def _kinds(folder: Path, there: Sequence[Path]) -> list[_Kind]:
    """The files below a folder, sorted by where they lie, how they are named and what is in them."""
    by_folder: dict[str, list[Path]] = {}
    for path in there:
        if path.suffix.lower() in (*PICTURES, *MATRICES):
            by_folder.setdefault(path.relative_to(folder).parent.as_posix().removeprefix("."), []).append(path)
    stems = {path.stem: path for paths in by_folder.values() for path in paths}
    everywhere = Counter(tag for path in stems.values() for tag in _tags(path))  # a name in several folders says it once
    named: dict[tuple[str, str, str], list[Path]] = {}
    for place, paths in by_folder.items():
        here = Counter(tag for path in paths for tag in _tags(path))
        for path in paths:  # the longest end that is not that of a few names
            most = max(len(paths) / 5, 2 if len(paths) > 3 else 1)
            tag = next((tag for tag in _tags(path) if everywhere[tag] >= 3 and here[tag] >= most), "")
            named.setdefault((place, tag, path.suffix), []).append(path)
    found: dict[tuple[str, str, str, str], _Kind] = {}
    for (place, tag, _), paths in named.items():
        encoding, mat_key = _encoding(paths, 3 if len(named) <= MANY_KINDS else 1)
        if encoding == "picture" and any(other != tag and other == "" for where, other, _ in named if where == place):
            bare = [key for key in found if key[0] == place and key[1] == "" and key[2] == "picture"]
            tag = "" if bare else tag  # a few photos whose names happen to end alike
        found.setdefault((place, tag, encoding, mat_key), _Kind(place, tag, encoding, mat_key)).files += paths
    return list(found.values())


def _tags(path: Path) -> list[str]:
    """What the names of all files of a kind may end in before the suffix, the longest first: ``_gtFine_labelIds``, ``_labelIds``.

    Words, not numbers, with or without a letter or two before them: these tell frames apart.
    """
    tags, name = [], path.stem
    while match := re.search(r"[._-][A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*$", name):
        if re.fullmatch(r".[A-Za-z]{0,3}[0-9]+", match[0]):
            break
        tags.append(path.stem[match.start() :])
        name = name[: match.start()]
    return tags[::-1] if name else tags[-2::-1]


def _beheaded(kinds: Sequence[_Kind]) -> list[_Kind]:
    """The kinds by the word that names begin with, and without it: ``image_7.png`` belongs to ``mask_7.png``."""
    found: list[_Kind] = []
    for kind in kinds:
        by_head: dict[str, list[Path]] = {}
        for path in kind.files:
            match = re.match(r"[A-Za-z]+[_-]?(?=[0-9A-Za-z])", path.name)
            by_head.setdefault(match[0] if match else "", []).append(path)
        if "" in by_head or 4 * len(by_head) > len(kind.files) + 4:
            found.append(kind)
            continue
        found += [_Kind(kind.folder, kind.tag, *_encoding(paths, 3), head, paths) for head, paths in by_head.items()]
    return found


def _encoding(files: Sequence[Path], count: int) -> tuple[str, str]:
    """What files of one kind seem to be, by a few of them, and the key of the matrix if they are MATLAB's."""
    looked = {_encoding_of(files[int(n)]) for n in np.linspace(0, len(files) - 1, min(count, len(files)))}
    looked.discard(("", ""))
    if ("picture", "") in looked:  # of photos, some have few colours
        return "picture", ""
    return looked.pop() if len(looked) == 1 else ("", "")


def _encoding_of(path: Path) -> tuple[str, str]:
    if path.suffix.lower() == ".txt":
        with path.open("rb") as file:
            head = file.read(4000)
        matrix = len(head.split()) > 8 and not head.translate(None, b"0123456789+- \t\r\n") and len(head.split(b"\n")[0].split()) > 4
        return ("text", "") if matrix else ("", "")
    if path.suffix.lower() == ".mat":
        return ("mat", key) if (key := _matrix_key(path)) else ("", "")
    try:
        with open_picture(path) as picture:
            if loss_of(path) is not None:  # no labels
                return "picture", ""
            if picture.mode in ("1", "L", "P", "LA", "PA"):
                few = sum(count > 0 for count in picture.getchannel(0).histogram()) <= MANY
                return ("index", "") if few else ("picture", "")
            if picture.mode.startswith("I") or picture.mode == "F":
                values = np.unique(np.asarray(picture))
                return ("index", "") if len(values) <= MANY and (values == values.round()).all() else ("picture", "")
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
    stems = [kind.stems() for kind in kinds]
    sizes: dict[Path, tuple[tuple[int, int], int]] = {}

    def of_labels(path: Path, kind: _Kind) -> tuple[tuple[int, int], int]:
        """Width and height, and the highest code."""
        if path not in sizes:
            codes, _ = _codes(path, kind.encoding, kind.mat_key)
            sizes[path] = (codes.shape[1], codes.shape[0]), int(codes.max(initial=0))
        return sizes[path]

    claims: list[tuple[tuple[Any, ...], _Kind, _Kind, set[str]]] = []
    for image, own in zip(kinds, stems, strict=True):
        if image.encoding != "picture":
            continue
        ranked = []
        for number, (kind, theirs) in enumerate(zip(kinds, stems, strict=True)):
            both = own.keys() & theirs.keys() if kind.encoding in order else set()
            if not both or 2 * len(both) <= min(len(kind.files), len(image.files)):
                continue
            shared = len(set(Path(kind.folder).parts) & set(Path(image.folder).parts))
            other_split = _split_of(kind.folder) != _split_of(image.folder)
            ranked.append((other_split, -shared, -len(both), order[kind.encoding], kind.glob, number, min(both)))
        best: list[tuple[Any, ...]] = []
        for other_split, shared, count, rank, glob, number, stem in sorted(ranked)[:12]:
            kind = kinds[number]
            with suppress(UserError, OSError, ValueError, TypeError), open_picture(own[stem]) as picture:
                size, highest = of_labels(stems[number][stem], kind)
                # numbers of objects rather than of labels
                called = f"{kind.folder}/{kind.tag}".lower()
                instances = "instance" in called or "segmentationobject" in called or (kind.encoding != "colour" and highest > VOID)
                best.append((other_split, size != picture.size, instances, shared, count, rank, glob, number))
        if best:
            number = min(best)[-1]
            claims.append((min(best), image, kinds[number], own.keys() & stems[number].keys()))
    found: list[tuple[_Kind, _Kind]] = []
    taken: dict[int, set[str]] = {}  # of labels, by the names of those that have a picture: others may be called alike in other folders
    for _, image, label, both in sorted(claims, key=lambda claim: claim[0]):
        if taken.setdefault(id(label), set()).isdisjoint(both):
            taken[id(label)] |= both
            found.append((image, label))
    found.sort(key=lambda pair: kinds.index(pair[0]))
    if found:
        encoding = Counter((label.encoding, label.mat_key) for _, label in found).most_common(1)[0][0]
        found = [(image, label) for image, label in found if (label.encoding, label.mat_key) == encoding]
    return found


def _opened(folder: Path, pairs: Sequence[tuple[_Kind, _Kind]], listing: bool = False) -> Dataset:
    """The dataset with the globs that find most of the pairs, all of them to train on: so a draft says of files what will be read.

    With ``listing``, the files of labels speak of many pictures each.

    Raises:
        UserError: what opening it by the simplest globs raises.
    """
    encoding, mat_key = pairs[0][1].encoding, pairs[0][1].mat_key
    code = ["b"] if encoding in NAMED else [[1, 2, 3]] if encoding == "colour" else [1]
    ids = [{"label": "a", "codes": "rest"}, {"label": "b", "codes": code}]
    known = {"name": "draft", "folder": str(folder), "encoding": encoding, "mat_key": mat_key or None, "labelset": ids}
    best, failed = None, None
    for images, labels in _globs(pairs):
        if listing:
            labels = [path.relative_to(folder).as_posix() for path in pairs[0][1].files]
        content = {**known, "images": images, "labels": labels, "split": {"fractions": {"train": 1}}}
        try:
            dataset = open_dataset(parse_dataset_config(content, folder / "draft.yaml"), folder, strict=False)
        except UserError as error:
            failed = error
            continue
        if best is None or _worth(dataset) > _worth(best):
            best = dataset
    if best is None:
        raise failed or UserError(f"{folder} holds no pictures with labels of the same names: write the YAML by hand")
    return best


def _worth(dataset: Dataset) -> int:
    return len(dataset.splits["train"]) - len(dataset.without_picture)


def _globs(pairs: Sequence[tuple[_Kind, _Kind]]) -> list[tuple[list[str], list[str]]]:
    """Ways to find them: with wildcards for the parts of the path that differ, where they do so alike, and folder by folder."""
    ways = []
    templates = [_template([kind.folder for kind in kinds]) for kinds in zip(*pairs, strict=True)]
    (images, wild), (labels, other_wild) = templates
    if len(pairs) > 1 and wild == other_wild and wild is not None:
        ways.append((_unique(image.globs(images) for image, _ in pairs), _unique(label.globs(labels) for _, label in pairs)))
    ways.append((_unique(image.globs(image.folder) for image, _ in pairs), _unique(label.globs(label.folder) for _, label in pairs)))
    return ways


def _unique(globs: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(glob for some in globs for glob in some))


def _template(folders: Sequence[str]) -> tuple[str, list[tuple[str, ...]] | None]:
    """One folder with a ``*`` for each part that differs, and what stands for these; None where they are not equally deep."""
    paths = [Path(folder).parts for folder in folders]
    if len({len(parts) for parts in paths}) > 1:
        return "", None
    columns = list(zip(*paths, strict=True))
    wild = [column for column in columns if len(set(column)) > 1]
    return "/".join("*" if len(set(column)) > 1 else column[0] for column in columns), wild


def _why_not(folder: Path, there: Sequence[Path], kinds: Sequence[_Kind]) -> str:
    """Why a folder makes no dataset: what its files are instead of labels for each pixel."""
    if (closed := forbidden(folder)) is not None:
        return f"cannot be drafted: {closed} may not be read by you, ask for the right to"
    for suffix in ("json", "xml"):
        files = [path for path in there if path.suffix == f".{suffix}"]
        for path in files[:20]:
            text = ends(path)
            for of_it, words, what, how in OUTLINES:
                if of_it == suffix and all(word in text for word in words):
                    return _instead(len(files), path, what, how)
    texts = [path for path in there if path.suffix == ".txt"]
    for path in texts[:20]:
        if is_yolo(ends(path)[:4000], 5):
            return _instead(len(texts), path, "boxes of YOLO", "boxes say nothing of pixels")
    photos = [kind for kind in kinds if kind.encoding == "picture"]
    for kind in photos:
        first = kind.files[0]
        partners = [other for other in photos if other is not kind and other.stems().keys() & kind.stems().keys()]
        if partners and loss_of(first) is not None and _is_flat(first) and not all(_is_flat(other.files[0]) for other in partners):
            return (
                f"has labels that are {loss_of(first)}, {kind.glob}: this compression changes values, so that they no longer say what was "
                "drawn; save them as PNG anew from what they were made of"
            )
    found = ", ".join(f"{len(kind.files)} {kind.encoding or 'other'} {kind.glob}" for kind in kinds[:6]) or "nothing"
    return f"holds no pictures with labels of the same names, but {found}: write the YAML by hand, with a 'key' that finds what pairs them"


def _instead(count: int, path: Path, what: str, how: str) -> str:
    files = f"{count} files such as {path.name}" if count > 1 else path.name
    return f"has no label for each pixel, but {what} ({files}): draw them into PNGs first, one per picture, a code per label ({how})"


def _is_flat(path: Path) -> bool:
    """Whether a picture has few colours but for what compression made of them."""
    try:
        with open_picture(path) as picture:
            small = np.asarray(picture.convert("RGB"))
    except UserError:
        return False
    step = max(1, max(small.shape[:2]) // 256)
    coarse = (small[::step, ::step].reshape(-1, 3).astype(int) + 16) // 32
    counts = np.sort(np.unique(coarse @ [100, 10, 1], return_counts=True)[1])[::-1]
    return bool(counts[:8].sum() >= 0.93 * counts.sum())


# ----------------------------------------------------------------------------------------------------------------------
# What is in them


def _labels(folder: Path, files: Sequence[Path], encoding: str, mat_key: str) -> list[str]:
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
        return f"# {100 * pixels[code] / total:5.2f} %, {pictures[code]}/{len(looked)} files"

    if (known := known_codes(folder, looked, encoding, palette)) is not None and not pixels.keys() - {*known.names, *known.void}:
        return _named_labels(known, encoding, pixels, share, whole=len(looked) == len(files))
    negative = sorted(code for code in pixels if encoding != "colour" and code < 0)
    void = negative or [code for code in sorted(pixels) if (code == 0 if encoding == "colour" else code in (VOID, 65535))]
    named = [code for code in sorted(pixels) if code not in void]
    if len(named) < 2 and not negative:  # an object and the rest: whether that is void is not for us to say
        named, void = sorted(pixels), []
    if len(named) > VOID:
        raise UserError(f"{looked[0]} and others hold {len(named)} codes, more than a labelset can have: are these labels, or instances?")
    lines = [f"labelset:  # {SHARES}"]
    for code in named:
        if encoding == "colour":
            rgb = [code >> 16, code >> 8 & 255, code & 255]
            lines.append(f"  - {{label: {'colour_{:02x}{:02x}{:02x}'.format(*rgb)}, colour: {rgb}}}  {share(code)}")
        else:
            colour = f", colour: {palette[3 * code : 3 * code + 3]}" if palette[3 * code : 3 * code + 3] else ""
            lines.append(f"  - {{label: code_{code}, codes: [{code}]{colour}}}  {share(code)}")
    if len(named) < 2:
        lines.append("# Only one label: a network needs two to learn from. Are the others in other files?")
    if negative:
        lines.append(f"void: negative  # codes {', '.join(map(str, negative))}: assumed. {ASKED}")
    elif void:
        shown = [0, 0, 0] if encoding == "colour" else ", ".join(map(str, void))
        lines.append(f"void: [{shown}]  {share(void[0])}: assumed. {ASKED}")
    else:
        lines.append(f"# void: [{[0, 0, 0] if encoding == 'colour' else 0}]  # codes of pixels that say nothing, if there are any. {ASKED}")
    return [*lines, f"{QUESTION}{MOVED}"]


def _named_labels(known: Known, encoding: str, pixels: Mapping[int, int], share: Callable[[int], str], whole: bool) -> list[str]:
    """The lines on labels whose names are known; those that no file has are left out where all were looked at."""
    lines = [f"labelset:  # names: {known.source}; {SHARES}"]
    rest = None
    for code, name in sorted(known.names.items()):
        if whole and code not in pixels:
            continue
        written = [code >> 16, code >> 8 & 255, code & 255] if encoding == "colour" else [code]
        colour = known.colours.get(code)
        codes = f"colour: {written}" if encoding == "colour" else f"codes: {written}" + (f", colour: {colour}" if colour else "")
        asked = ""
        if name in BACKGROUND:
            rest, asked = name, f": assumed to be a label. {ASKED}"
        lines.append(f"  - {{label: {_name(name)}, {codes}}}  {share(code)}{asked}")
    if encoding == "colour":
        void: list[Any] = [[code >> 16, code >> 8 & 255, code & 255] for code in known.void]
    else:
        void = sorted(known.void)
    if void:
        lines.append(f"void: {void}  # {_some(list(dict.fromkeys(known.void.values())))}")
    return lines + [f"{QUESTION}{MOVED}"] * bool(rest)


ASKED = "Did the annotator look at all of it?"
QUESTION = (
    "# If they looked at the whole picture and marked every object, the rest is a label of its own (other), so that the network learns "
    "what an object is not. If they marked some and left the rest alone, it says nothing: "
)
"""README's "other or void?"."""

MOVED = "move its code from the labelset into void."
CHECK = "#   python tools/check_data.py THIS_FILE"
SHARES = "share of the pixels, files that have it"


def _codes(path: Path, encoding: str, mat_key: str) -> tuple[np.ndarray, list[int]]:
    """The codes of one file, colours as numbers of 24 bits, and its palette if it has one."""
    if encoding == "mat":
        matrix, _ = find_matrix(path, mat_key)
        return np.asarray(matrix).astype(np.int64), []
    if encoding == "text":
        return np.loadtxt(path, dtype=np.int64), []
    with open_picture(path) as picture:
        if encoding == "index":
            grey = picture.getchannel(0) if picture.mode in ("LA", "PA") else picture
            return np.asarray(grey).astype(np.int64), list(picture.getpalette() or []) if picture.mode == "P" else []
        rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
        return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], []


def _sequence(keys: Sequence[str]) -> list[str]:
    """A line on videos: by folders, where there are several beside those of splits; by names that begin alike and end in a number."""
    folders = Counter(key.rpartition("/")[0] for key in keys)
    own = {folder for folder in folders if any(_split_of(part) is None for part in Path(folder).parts)}
    if len(own) > 1 and len(keys) >= 2 * len(folders):
        some = ", ".join(sorted(own)[:3])
        return [f"sequence: '^(.*)/'  # each of {len(folders)} folders is a video ({some}, ...) and has one split: assumed"]
    matches = [re.match(r"(.*?[^0-9])[_-]?[a-z]*\d+$", key) or re.match(r"(\d+)[_-][a-z]*\d+$", key) for key in keys]
    videos = Counter(match[1].rstrip("_-") for match in matches if match)
    if sum(videos.values()) < len(keys) or len(videos) < 2 or len(keys) < 20 * len(videos):
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


def _by_folders(images: Sequence[_Kind], labels: Sequence[_Kind]) -> list[str]:
    """The lines on the split, where the folders' names tell it."""
    patterns: dict[str, list[str]] = {}
    for image, label in zip(images, labels, strict=True):
        kind = image if _split_of(image.folder) else label
        if split := _split_of(kind.folder):
            parts = Path(kind.folder).parts
            last = max(i for i, part in enumerate(parts) if _split_of(part))
            patterns.setdefault(split, []).append("/".join(parts[: last + 1]) + "/*")
    patterns = {split: sorted(set(of_it)) for split, of_it in patterns.items()}
    return _split_line("patterns", patterns, "the folders")


def _by_lists(folder: Path, there: Sequence[Path], dataset: Dataset) -> list[str]:
    """The lines on the split, where lists of pictures lie in the dataset's folder that are called after splits and name its pictures."""
    places: dict[Path, dict[str, list[tuple[bool, str]]]] = {}
    for path in there:
        relative = path.relative_to(folder)
        split = "train" if path.stem.lower() == "trainval" else _split_of(path.stem)
        if split and path.suffix in LISTS:
            exact = path.stem.lower() not in SPLIT_WORDS[split]  # train.txt before street_train.txt
            places.setdefault(relative.parent, {}).setdefault(split, []).append((exact, relative.as_posix()))
    found = []
    for place in places.values():
        line = _split_line("lists", {split: [min(of_it)[1]] for split, of_it in place.items()}, "the lists")
        with suppress(UserError):
            rule = dataset.config.choose_split(yaml.safe_load("\n".join(line) or "split: ''")["split"])
            taken = open_dataset(replace(dataset.config, split=rule), folder, strict=False).splits
            found.append((-sum(map(len, taken.values())), line))
    return min(found, default=(0, []))[1]


def _split_line(form: str, parts: Mapping[str, Sequence[str]], who: str) -> list[str]:
    """The line on a split of which at least two parts are known, of which one is to train on."""
    if "train" not in parts or len(parts) < 2:
        return []
    note = "" if "test" in parts else f"  # tested on what {who} call validation"
    test = parts["test"] if "test" in parts else parts["val"]
    val = _listed(parts["val"]) if "test" in parts and "val" in parts else "0.15"
    return [f"split: {{{form}: {{train: {_listed(parts['train'])}, val: {val}, test: {_listed(test)}}}, seed: 0}}{note}"]


# ----------------------------------------------------------------------------------------------------------------------
# As YAML


def _plain(name: str) -> str:
    """A name without what would need quotes, but for one that YAML takes for a number or for true and false."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "mine"
    return plain if isinstance(yaml.safe_load(plain), str) else _quoted(plain)


def _name(name: str) -> str:
    """A name within a list or mapping, with quotes where it needs them."""
    plain = re.fullmatch(r"[^\W\d][\w ./-]*", name) is not None and name == name.strip() and name != REST
    return name if plain and isinstance(yaml.safe_load(name), str) else json.dumps(name, ensure_ascii=False)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(globs: Sequence[str]) -> str:
    return _quoted(globs[0]) if len(globs) == 1 else "[" + ", ".join(_quoted(glob) for glob in globs) + "]"


def _some(names: Sequence[str]) -> str:
    """Names for a comment, not all of very many."""
    return ", ".join(names[:20]) + ", ..." * (len(names) > 20)


def _fitted(lines: Iterable[str]) -> str:
    """Lines of YAML as a text no wider than :data:`WIDTH`, unless a name is: a comment that has no place behind its value stands above it,
    long ones are wrapped, and lists go on below themselves."""
    fitted: list[str] = []
    for line in lines:
        value, comment = _parted(line)
        indent = " " * (len(line) - len(line.lstrip()))
        if len(line) <= WIDTH:
            fitted.append(line)
            continue
        if comment:
            wrapped = textwrap.wrap(comment, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
            fitted += [f"{indent}# {part}" for part in wrapped]
        if value:
            row = ""
            for part in re.findall(rf"(?:{TEXT}|[^,'\"]|,(?! ))+(?:, |$)", value):
                if row.strip() and len(row) + len(part.rstrip()) > WIDTH:
                    fitted.append(row.rstrip())
                    row = indent + "    "
                row += part
            fitted.append(row)
    return "\n".join(fitted) + "\n"


def _parted(line: str) -> tuple[str, str]:
    """The value of a line of YAML and the comment behind it; one may be empty. What is commented out is a value too."""
    if line.startswith("#"):
        value, mark, comment = line.partition("  # ")
        return (value, comment) if mark else ("", line.removeprefix("# "))
    match = re.match(rf"((?:{TEXT}|(?!  # ).)*)(?:  # (.*))?$", line)
    return (match[1], match[2] or "") if match else (line, "")
