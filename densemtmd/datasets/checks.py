"""What may be wrong with data before anything is trained on it.

A *finding* is an error, which stops a training, a warning, or known: acknowledged in the dataset's YAML (``known``).

``without-labels``   warning: pictures that no file of labels belongs to
``without-picture``  error: files of labels that no picture belongs to
``unreadable``       error: a file that is damaged or of another format
``size``             error: labels of another size than their picture
``turned``           warning: pictures that their EXIF turns or mirrors: they are used as people see them, their labels as the file has
                     them; only found where files are read anew
``lossy``            error: labels that were compressed with loss (JPEG), whatever their codes: their values are no longer those drawn
``code``             error: a code or colour that no label has
``unused``           warning: a label that occurs nowhere
``untrained``        warning: a label that is validated or tested, but never trained
``void``             warning: a split of which more than half is unlabelled, or pictures without a labelled pixel
``empty``            error: no picture to validate on, without which nothing can be trained; a warning where there is none to test on
``sequence``         error: a video in two splits; a warning where there are too few videos for the splits
``leak``             error: the same photo in two splits, of one dataset or of two that are trained together
``duplicate``        warning: the same photo twice in one split

:func:`survey` reads all files of a dataset, :func:`survey_decoded` uses what a training has decoded anyway;
:func:`check` says what they found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densemtmd.datasets.cache import Decoded
from densemtmd.datasets.config import DatasetConfig
from densemtmd.datasets.duplicates import Picture, find_copies, find_copies_once, fingerprint
from densemtmd.datasets.folder import Dataset
from densemtmd.datasets.labels import LOSSY, LOSSY_ADVICE, class_ids, code_name, loss_of_labels, read_codes, unknown_advice
from densemtmd.datasets.pictures import is_turned, read_picture
from densemtmd.datasets.sample import Item
from densemtmd.datasets.splits import SPLITS
from densemtmd.errors import UserError
from densemtmd.machine import ahead
from densemtmd.progress import followed
from densemtmd.tasks import VOID

Severity = Literal["error", "warning", "known"]

EMPTY: tuple[tuple[str, Severity, str], ...] = (
    ("val", "error", "so that no epoch could be chosen as the best one"),
    ("test", "warning", "so that nothing is scored"),
)
"""Splits that may be empty, and what follows from it."""

MOSTLY_VOID = 0.5
"""Share of unlabelled pixels in a split from which on it is worth a warning."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be."""

    severity: Severity
    kind: str
    what: str                  # which label, file, code, ...; "" where a kind has one finding alone
    datasets: tuple[str, ...]
    message: str               # one sentence

    @property
    def tag(self) -> str:
        """What ``known`` in a YAML says to acknowledge it."""
        return f"{self.kind}:{self.what}" if self.what else self.kind

    def to_json(self) -> dict[str, Any]:
        return {"severity": self.severity, "tag": self.tag, "datasets": list(self.datasets), "message": self.message}


@dataclass(frozen=True)
class Survey:
    """What the files of a dataset hold, counted per class id: 0, 1, ... and 255 for void."""

    dataset: Dataset
    pixels: Mapping[str, np.ndarray]    # of each split, (256,) int64
    pictures: Mapping[str, np.ndarray]  # of each split, (256,) int64: pictures that have some of it
    prints: Mapping[str, bytes]         # of each picture that could be read, by key: see `duplicates`
    blank: tuple[str, ...]              # keys of the pictures without a labelled pixel
    turned: tuple[Path, ...] = ()       # pictures that their EXIF turns
    lossy: tuple[Path, ...] = ()        # files of labels that were compressed with loss
    broken: tuple[Finding, ...] = ()    # files that cannot be used
    images: Mapping[str, np.ndarray] = field(default_factory=dict)  # by key, (H, W, 3) uint8: those that need not be read from their files
    identity: str | None = None         # changes when any of the files does; None: unknown


@dataclass
class _Looked:
    """One picture and its labels, read."""

    print: bytes | None = None
    turned: bool = False
    lossy: bool = False
    counts: np.ndarray | None = None                                # (256,) pixels of each class id
    unknown: dict[int, int] = field(default_factory=dict)           # pixels of each code that no label has
    broken: list[tuple[str, str]] = field(default_factory=list)     # kind and message


def survey(dataset: Dataset) -> Survey:
    """Read all files of a dataset; what cannot be read is a finding, not an error.

    Args:
        dataset: an open dataset.
    """
    config = dataset.config

    def look(item: Item) -> _Looked:
        looked = _Looked()
        image = codes = None
        try:
            image = read_picture(item.image)
            looked.print, looked.turned = fingerprint(image), is_turned(item.image)
        except UserError as error:
            looked.broken.append(("unreadable", str(error)))
        try:
            codes = read_codes(item.labels, config, item)
        except UserError as error:
            looked.broken.append(("unreadable", str(error)))
        if codes is not None:
            ids, unknown = class_ids(codes, config, dataset.codes)
            looked.counts = np.bincount(ids.ravel(), minlength=256)
            looked.lossy = loss_of_labels(item.labels, config) is not None
            if not looked.lossy or LOSSY in config.known:  # else all the values that compression makes would be codes
                values, counts = np.unique(codes[unknown], return_counts=True)
                looked.unknown = dict(zip(values.tolist(), counts.tolist(), strict=True))
            if image is not None and image.shape[:2] != codes.shape:
                sizes = f"{codes.shape[1]}×{codes.shape[0]} pixels, its picture {item.image} {image.shape[1]}×{image.shape[0]}"
                looked.broken.append(("size", f"{item.labels} has {sizes}, expected the same size: pair other files or make them anew"))
        return looked

    items = [(split, item) for split in SPLITS for item in dataset.splits[split]]
    read = followed(ahead(look, [item for _, item in items]), f"reading {dataset.name}", len(items))
    pixels, pictures, prints = _nothing(), _nothing(), {}
    blank: list[str] = []
    turned: list[Path] = []
    lossy: list[Path] = []
    broken: list[Finding] = []
    unknown: dict[int, list[tuple[int, Item]]] = {}
    for (split, item), looked in zip(items, read, strict=True):
        if looked.print is not None:
            prints[item.key] = looked.print
        if looked.turned:
            turned.append(item.image)
        if looked.lossy:
            lossy.append(item.labels)
        if looked.counts is not None:
            _count(looked.counts, pixels[split], pictures[split], item.key, blank)
        broken += [Finding("error", kind, item.key, (dataset.name,), message) for kind, message in looked.broken]
        for code, count in looked.unknown.items():
            unknown.setdefault(code, []).append((count, item))
    for code, found in sorted(unknown.items(), key=lambda one: -sum(count for count, _ in one[1])):
        broken.append(_unknown_code(dataset.name, config, code, found))
    return Survey(dataset, pixels, pictures, prints, tuple(blank), tuple(turned), tuple(lossy), tuple(broken))


def survey_decoded(dataset: Dataset, decoded: Decoded) -> Survey:
    """The survey of a dataset that was decoded, all of whose files are therefore whole."""
    pixels, pictures = _nothing(), _nothing()
    blank: list[str] = []
    for split, samples in decoded.splits.items():
        for sample in samples:
            _count(np.bincount(sample.target.ravel(), minlength=256), pixels[split], pictures[split], sample.name, blank)
    examples = {item.labels.suffix: item.labels for split in SPLITS for item in dataset.splits[split]}  # a cache tells nothing of formats
    lossy = tuple(path for path in examples.values() if loss_of_labels(path, dataset.config) is not None)
    images = {sample.name: sample.image for samples in decoded.splits.values() for sample in samples}
    return Survey(dataset, pixels, pictures, decoded.prints, tuple(blank), lossy=lossy, images=images, identity=decoded.identity)


def _nothing() -> dict[str, np.ndarray]:
    return {split: np.zeros(256, np.int64) for split in SPLITS}


def _count(counts: np.ndarray, pixels: np.ndarray, pictures: np.ndarray, key: str, blank: list[str]) -> None:
    pixels += counts
    pictures += counts > 0
    if not counts[:VOID].any():
        blank.append(key)


def _unknown_code(name: str, config: DatasetConfig, code: int, found: Sequence[tuple[int, Item]]) -> Finding:
    pixels = sum(count for count, _ in found)
    count, item = max(found, key=lambda one: one[0])
    files = f"{item.labels}" if len(found) == 1 else f"{len(found)} files, {count} of them in {item.labels}"
    what = "colour" if config.encoding == "colour" else "code"
    shown = code_name(code, config)
    advice = unknown_advice(item.labels, config)
    message = f"{name}: no label has the {what} {shown}, which {pixels} pixels in {files} have; {advice} of {config.path}"
    return Finding("error", "code", shown, (name,), message)


# ----------------------------------------------------------------------------------------------------------------------
# What is wrong


def check(surveys: Sequence[Survey], groups: Sequence[Sequence[Picture]] | None = None) -> list[Finding]:
    """All findings about datasets that are trained together: of each by itself, then of photos that occur twice, ``groups`` as
    :func:`copies` gives them."""
    findings: list[Finding] = []
    for one in surveys:
        findings += [*check_files(one.dataset), *one.broken, *check_labels(one)]
    findings += check_copies(surveys, copies(surveys) if groups is None else groups)
    known = {one.dataset.name: frozenset(one.dataset.config.known) for one in surveys}
    return [_acknowledged(finding, [known[name] for name in finding.datasets]) for finding in findings]


def refuse(findings: Iterable[Finding]) -> None:
    """Stop where there is an error.

    Raises:
        UserError: the first error, and how many there are.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f"; this and {len(errors) - 1} more errors are shown by tools/check_data.py" if len(errors) > 1 else ""
        raise UserError(f"{errors[0].message} [{errors[0].tag}]{more}")


def warnings(findings: Iterable[Finding], most: int = 5) -> list[str]:
    """A line for each warning; where there are many of one kind, for the first of them and for how many more there are.

    Two datasets that share their test pictures share each of them.
    """
    lines, counts = [], Counter(finding.kind for finding in findings if finding.severity == "warning")
    told: Counter[str] = Counter()
    for finding in findings:
        if finding.severity != "warning" or (counts[finding.kind] > most and told[finding.kind]):
            continue
        told[finding.kind] += 1
        more = f" and {counts[finding.kind] - 1} more of this kind, shown by densemtmd check-data" * (counts[finding.kind] > most)
        lines.append(f"warning: {finding.message} [{finding.tag}]{more}")
    return lines


def _acknowledged(finding: Finding, known: Iterable[frozenset[str]]) -> Finding:
    if any(finding.kind in tags or finding.tag in tags for tags in known):
        return Finding("known", finding.kind, finding.what, finding.datasets, finding.message)
    return finding


def check_files(dataset: Dataset) -> list[Finding]:
    """What can be seen without reading a file: what has no partner, splits without a picture, and videos in two splits."""
    name, config = dataset.name, dataset.config
    findings = []
    if bare := dataset.without_labels:
        message = f"{name}: {len(bare)} pictures have no labels and are left out, the first is {bare[0]}"
        findings.append(Finding("warning", "without-labels", "", (name,), message))
    if lonely := dataset.without_picture:
        message = (
            f"{name}: {len(lonely)} files of labels have no picture, the first is {lonely[0]}: add the pictures, or see 'images' and "
            f"'key' in {config.path}"
        )
        findings.append(Finding("error", "without-picture", "", (name,), message))
    total = sum(len(items) for items in dataset.splits.values())
    for split, severity, then in EMPTY:
        if not dataset.splits[split]:
            few = f"{total} pictures are too few for three splits" if total < len(SPLITS) else f"see 'split' in {config.path}"
            findings.append(Finding(severity, "empty", split, (name,), f"{name}: {split} has no picture, {then}: {few}"))
    if config.sequence is None:
        return findings
    where: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        for item in dataset.splits[split]:
            counts = where.setdefault(item.sequence, {})
            counts[split] = counts.get(split, 0) + 1
    for sequence, counts in where.items():
        if len(counts) > 1:
            parts = ", ".join(f"{count} {split}" for split, count in counts.items())
            cut = sequence in dataset.cut
            why = "there are too few videos to keep each in one split" if cut else f"expected one split: see 'split' in {config.path}"
            video = f"the video {sequence!r}" if sequence else "a video without a name"
            message = f"{name}: the frames of {video} are split into {parts}, and neighbouring ones look alike; {why}"
            findings.append(Finding("warning" if cut else "error", "sequence", sequence, (name,), message))
    return findings


def check_labels(found: Survey) -> list[Finding]:
    """Labels that do not occur where they should, too much void, and labels that may lie otherwise than their picture."""
    dataset = found.dataset
    name, path = dataset.name, dataset.config.path
    findings = []
    for class_id, label in enumerate(dataset.labelset.labels):
        splits = [split for split in SPLITS if found.pixels[split][class_id]]
        if not splits:
            message = f"{name}: no pixel has the label {label!r}; is its code right, or can it go from {path}?"
            findings.append(Finding("warning", "unused", label, (name,), message))
        elif "train" not in splits:
            message = f"{name}: {label!r} is in {' and '.join(splits)} but never in train: it will not be learned; see 'split' in {path}"
            findings.append(Finding("warning", "untrained", label, (name,), message))
    for split in SPLITS:
        total = found.pixels[split].sum()
        if total and found.pixels[split][VOID] > MOSTLY_VOID * total:
            share = f"{100 * found.pixels[split][VOID] / total:.0f} %"
            message = f"{name}: {share} of the pixels in {split} are void, so little is learned or scored; are all codes in {path}?"
            findings.append(Finding("warning", "void", split, (name,), message))
    if blank := found.blank:
        message = f"{name}: {len(blank)} pictures have no labelled pixel, the first is {blank[0]!r}: 'exclude' in {path} leaves them out"
        findings.append(Finding("warning", "void", "pictures", (name,), message))
    if lossy := found.lossy:
        loss = loss_of_labels(lossy[0], dataset.config)
        message = f"{name}: {len(lossy)} files of labels are {loss}, the first is {lossy[0]}: {LOSSY_ADVICE} of {path}"
        findings.append(Finding("error", LOSSY, "", (name,), message))
    if turned := found.turned:
        message = (
            f"{name}: {len(turned)} pictures are turned or mirrored by their EXIF, the first is {turned[0]}: they are used as people see "
            "them, and their labels as the file has them; look at the preview (--out) whether both lie alike, or save them upright"
        )
        findings.append(Finding("warning", "turned", "", (name,), message))
    return findings


# ----------------------------------------------------------------------------------------------------------------------
# The same photo twice


def copies(surveys: Sequence[Survey], folder: Path | None = None) -> list[list[Picture]]:
    """The groups of pictures of all datasets that show the same photo.

    Args:
        surveys: of the datasets.
        folder: where the result is kept, so that it is not looked for again while no file changes; None: nowhere.
    """
    pictures = []
    for one in surveys:
        dataset = one.dataset
        place = f"{dataset.folder.resolve()} {dataset.truth_config.name}"
        for split in SPLITS:
            for item in dataset.splits[split]:
                if item.key in one.prints:
                    load = _Reader(item.image) if (image := one.images.get(item.key)) is None else partial(np.asarray, image)
                    pictures.append(Picture(dataset.name, split, item.key, f"{place} {item.sequence}", one.prints[item.key], load))
    if folder is None or any(one.identity is None for one in surveys):
        return find_copies(pictures)
    return find_copies_once(pictures, folder, [one.identity for one in surveys])


@dataclass(frozen=True)
class _Reader:
    """Reads a picture when it is asked for."""

    path: Path

    def __call__(self) -> np.ndarray:
        return read_picture(self.path)


def check_copies(surveys: Sequence[Survey], groups: Sequence[Sequence[Picture]]) -> list[Finding]:
    """A finding for each photo that occurs more than once."""
    together = _together(surveys)
    tasks = {one.dataset.name: one.dataset.task.name for one in surveys}
    findings = []
    for group in groups:
        names = tuple(dict.fromkeys(picture.dataset for picture in group))
        splits = dict.fromkeys(picture.split for picture in group)
        shown = [f"{p.key!r} ({p.split} of {p.dataset})" if len(names) > 1 else f"{p.key!r} ({p.split})" for p in group]
        more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
        what = "=".join(p.key if len(names) == 1 else f"{p.dataset}/{p.key}" for p in group[:2])
        message = f"{' and '.join(names)}: one photo is {', '.join(shown[:6])}{more}"
        if len(splits) > 1:
            message += "; what is learned from one copy is known of the other: leave one out (--exclude-duplicates), or split anew"
            if len(names) == 1 and (path := _frames_of(group, surveys)):
                message += f"; if they are frames of one video, say by 'sequence' in {path} which are, and each video has one split"
            findings.append(Finding("error", "leak", what, names, message))
        else:
            known = _stay_together(group, together)
            if len({tasks[name] for name in names}) > 1:
                message += "; labelled in two ways, it is truth that correlate is scored by"
            findings.append(Finding("known" if known else "warning", "duplicate", what, names, message))
    return findings


def leave_out(surveys: Sequence[Survey], groups: Sequence[Sequence[Picture]]) -> dict[str, list[tuple[str, Picture]]]:
    """What to leave out so that no photo occurs twice: by dataset, keys, each with the copy that stays.

    The copy that stays is one to test on, else one to validate on; of these that of the first dataset. Copies that the
    YAML keeps in one split (``together``) all stay.
    """
    together = _together(surveys)
    rank = {"test": 0, "val": 1, "train": 2}
    out: dict[str, list[tuple[str, Picture]]] = {}
    for group in groups:
        if not _stay_together(group, together):
            stays = min(group, key=lambda picture: rank[picture.split])  # the first of these
            for picture in group:
                if picture is not stays:
                    out.setdefault(picture.dataset, []).append((picture.key, stays))
    return out


def _frames_of(group: Sequence[Picture], surveys: Sequence[Survey]) -> Path | None:
    """The YAML of a dataset that names no videos, where pictures of it that look the same are called like frames: alike but for numbers."""
    config = next(one.dataset.config for one in surveys if one.dataset.name == group[0].dataset)
    alike = {re.sub(r"[0-9]+", "0", picture.key) for picture in group}
    numbered = all(re.search(r"[0-9]", picture.key) for picture in group)
    return config.path if config.sequence is None and numbered and len(alike) < len(group) else None


def _together(surveys: Sequence[Survey]) -> dict[str, dict[str, set[int]]]:
    """Of each dataset, the entries of ``together`` that each key is in."""
    entries: dict[str, dict[str, set[int]]] = {one.dataset.name: {} for one in surveys}
    for one in surveys:
        for number, keys in enumerate(one.dataset.config.together):
            for key in keys:
                entries[one.dataset.name].setdefault(key, set()).add(number)
    return entries


def _stay_together(group: Sequence[Picture], together: Mapping[str, Mapping[str, set[int]]]) -> bool:
    """Whether a dataset's YAML says of all of them that they belong together."""
    entries = [together[group[0].dataset].get(picture.key, set()) for picture in group]
    return len({picture.dataset for picture in group}) == 1 and bool(set.intersection(*entries))
