"""The full truth of pictures, where it is known: what every pixel is, and what each dataset calls it.

It is known in three cases: of datasets that derive from one source (``camvid7``), whose files say more than each of them tells; in a
rendered world, which keeps the truth beside its files; and of pictures that two datasets both labelled, each in its own labelset, where
what a pixel is, is what the two say of it. There the answer of any of the labelsets can be scored on any picture, and which labels of two
labelsets correspond is no opinion. Of rendered hands it is where all the keypoints are of every dataset: :func:`hand_truth`.

Shapes: ``H``, ``W`` pixels, ``N`` hands, ``J`` keypoints, ``T`` classes of a truth, its own; the number T itself stands
for what is not known. T is 255, however few of the classes there are, but where it is pairs of labels: of these there may be more.
"""

from __future__ import annotations

import filecmp
import itertools
import zipfile
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from densemtmd.datasets.duplicates import Picture, find_copies, fingerprint
from densemtmd.datasets.folder import Dataset, open_dataset
from densemtmd.datasets.hands.sets import HAND_SETS
from densemtmd.datasets.pictures import read_picture
from densemtmd.datasets.sample import Item
from densemtmd.errors import UserError
from densemtmd.machine import ahead
from densemtmd.progress import followed, say
from densemtmd.tasks import VOID


@dataclass(frozen=True)
class Truth:
    """What is known of some datasets' pictures, in classes that they share.

    Args:
        classes: names of the classes, in the order of their ids.
        datasets: whose pictures these are.
        tables: labelset -> (T + 1,) uint8, what it calls each class; 255 where it says nothing, and of what is not known, the last.
        read: the classes of a picture of one of the datasets, (H, W) unsigned integers, T = unknown.
    """

    classes: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    tables: dict[str, np.ndarray]
    read: Callable[[Dataset, Item], np.ndarray]

    def target(self, labelset: str, dataset: Dataset, item: Item) -> np.ndarray:
        """The right answer of one of the labelsets on a picture of any of the datasets: (H, W) uint8 class ids, 255 = nothing said."""
        return self.tables[labelset][self.read(dataset, item)]

    def counts(self, splits: Sequence[str], tick: Callable[[], object] = lambda: None) -> np.ndarray:
        """(T + 1,) int64: how many pixels of each class the pictures of some splits have, of all datasets together."""
        size = len(next(iter(self.tables.values())))
        total = np.zeros(size, np.int64)
        for dataset in self.datasets:
            items = [item for split in splits for item in dataset.splits[split]]
            for classes in ahead(lambda item, dataset=dataset: self.read(dataset, item), items):  # type: ignore[misc]
                total += np.bincount(classes.ravel(), minlength=size)
                tick()
        return total

    def shares(self, a: str, b: str, counts: np.ndarray) -> np.ndarray:
        """(labels of a, labels of b): which share of each label's true pixels lies in each label of the other labelset.

        Pixels on which the other says nothing lie in none of its labels. NaN for labels without a pixel.
        """
        first, second = (self._members(name) for name in (a, b))
        both = (first * counts[:-1]) @ second.T
        with np.errstate(invalid="ignore"):
            return both / (first * counts[:-1]).sum(1, keepdims=True)

    def _members(self, labelset: str) -> np.ndarray:
        """(labels, T): 1 where a class has the label."""
        labels = next(d.labelset.channels for d in self.datasets if d.labelset.name == labelset)
        return (self.tables[labelset][None, :-1] == np.arange(labels)[:, None]).astype(float)


def known_truths(datasets: Iterable[Dataset]) -> list[Truth]:
    """The truths of some datasets, each of those that share one; datasets of which no more is known than they say are in none.

    A truth that only one labelset speaks of tells nothing about others, and is left out.
    """
    groups: dict[tuple[str, ...], list[Dataset]] = {}
    for dataset in datasets:
        groups.setdefault(_home(dataset), []).append(dataset)
    truths = []
    for home, group in groups.items():
        if len({dataset.labelset.name for dataset in group}) < 2:
            continue
        truths.append(_of_a_street_world(group) if home[0] == "streets" else _of_one_source(group))
    for first, second in itertools.combinations(groups.values(), 2):
        pairs = [(a, b) for a in first for b in second if a.labelset.name != b.labelset.name]
        truths += [_of_both(a, b, shared) for a, b in pairs if (shared := _shared(a, b))]
    return truths


def _shared(a: Dataset, b: Dataset) -> list[tuple[Item, Item]]:
    """The pictures that two datasets have in common: the same file, one of the same name and content elsewhere, or the same photo whatever
    its name and size (:mod:`densemtmd.datasets.duplicates`). Of videos this last is not looked for: neighbouring frames look alike."""
    by_path: dict[Path, Item] = {}
    by_name: dict[str, list[Item]] = {}
    for item in _items(b):
        by_path[item.image.resolve()] = item
        by_name.setdefault(item.image.name, []).append(item)
    found = {}
    for item in _items(a):
        path = item.image.resolve()
        candidates = [by_path[path]] if path in by_path else by_name.get(path.name, [])
        if (other := next((one for one in candidates if one.image.resolve() == path or _alike(path, one.image)), None)) is not None:
            found[item.key] = (item, other)
    names = {(dataset.name, item.key): item for dataset in (a, b) for item in _items(dataset)}
    photos = _photos(a, set(found)), _photos(b, {other.key for _, other in found.values()})
    if all(photos):
        for group in find_copies([*_printed(a, photos[0]), *_printed(b, photos[1])]):
            first, second = (next((names[p.dataset, p.key] for p in group if p.dataset == dataset.name), None) for dataset in (a, b))
            if first is not None and second is not None:
                found[first.key] = (first, second)
    return list(found.values())


def named_truths(datasets: Sequence[Dataset], data_root: str | Path, known: Container[str] | None = None) -> list[Dataset]:
    """The datasets that the YAMLs of others name in ``truth: {with: ...}``, each with the pictures that the two share, in the splits that
    these have in the one that names it, of several the first; none of those that are among the others already.

    Args:
        datasets: open ones.
        data_root: where the others' folders lie.
        known: names of labelsets; one that names another labelset is left out, with a line that says so. None: all are wanted.

    Raises:
        UserError: the other cannot be opened, is another one than a dataset of its name, or has no picture in common with the one that
            names it.
    """
    found: dict[str, Dataset] = {}
    for dataset in datasets:
        if (config := dataset.config.truth) is None:
            continue
        if known is not None and config.labelset.name not in known:
            say(f"{dataset.config.path}: its truth, {config.path}, is left out: the network knows no labelset {config.labelset.name!r}")
            continue
        present = next((one for one in datasets if one.name == config.name), None)
        same = present or found.get(config.name)
        parts = ("folder", "labels", "labelset")
        if same is not None and any(getattr(same.config, part) != getattr(config, part) for part in parts):
            raise UserError(
                f"{dataset.config.path} has its truth with {config.path}, but {same.config.path} is called {config.name!r} too: give one "
                "of them another name"
            )
        other = present or open_dataset(config, data_root, split={"fractions": {"test": 1}})
        pairs = {item.key: twin for item, twin in _shared(dataset, other)}
        if not pairs:
            raise UserError(
                f"{dataset.config.path} has its truth with {config.path}, but of its {len(_items(dataset))} pictures none is among the "
                f"{len(_items(other))} of {other.name}, under any name or size: name a dataset that labels some of the same pictures"
            )
        if present is None:
            before = found[config.name].splits if config.name in found else {}
            taken = {item.key for items in before.values() for item in items}
            splits = {
                split: (*before.get(split, ()), *(pairs[i.key] for i in items if i.key in pairs and pairs[i.key].key not in taken))
                for split, items in dataset.splits.items()
            }
            found[config.name] = replace(other, splits={**before, **splits})
    return list(found.values())


def _items(dataset: Dataset) -> list[Item]:
    return [item for items in dataset.splits.values() for item in items]


def _photos(dataset: Dataset, without: Container[str]) -> list[Item]:
    """The pictures of a dataset that are of no video, but for some keys."""
    frames = Counter(item.sequence for item in _items(dataset))
    return [item for item in _items(dataset) if frames[item.sequence] == 1 and item.key not in without]


def _printed(dataset: Dataset, photos: Sequence[Item]) -> list[Picture]:
    """Pictures as copies of them are looked for; those that cannot be read are left out."""
    prints = followed(ahead(lambda item: _print_of(item.image), photos), f"prints of {dataset.name}", len(photos))
    return [
        Picture(dataset.name, "", item.key, f"{dataset.name} {item.key}", one, partial(read_picture, item.image))
        for item, one in zip(photos, prints, strict=True)
        if one is not None
    ]


@lru_cache(2**16)
def _print_of(image: Path) -> bytes | None:
    try:
        return fingerprint(read_picture(image))
    except UserError:  # who labels it will say so
        return None


def _alike(a: Path, b: Path) -> bool:
    """Whether two files hold the same."""
    try:
        return filecmp.cmp(a, b, shallow=False)
    except OSError:  # who reads it will say so
        return False


def _of_both(a: Dataset, b: Dataset, shared: Sequence[tuple[Item, Item]]) -> Truth:
    """What a pixel is that two datasets labelled: a pair of their labels; unknown where one of them says nothing. Where a photo has two
    sizes, the other's labels are read where they lie in it."""
    mine, theirs = ({pair[n].key: pair[1 - n] for pair in shared} for n in (0, 1))
    labels = b.labelset.channels
    unknown = a.labelset.channels * labels
    names = tuple(f"{one} and {other}" for one in a.labelset.labels for other in b.labelset.labels)
    ids = np.arange(unknown)
    tables = {a.labelset.name: np.append(ids // labels, VOID), b.labelset.name: np.append(ids % labels, VOID)}

    def read(dataset: Dataset, item: Item) -> np.ndarray:
        own = dataset.load(item).target
        other = (mine if dataset is a else theirs).get(item.key)
        if other is None:
            return np.full(own.shape, unknown, np.uint32)
        said = resized((b if dataset is a else a).load(other).target, own.shape)
        first, second = (own, said) if dataset is a else (said, own)
        return np.where((first == VOID) | (second == VOID), unknown, first.astype(np.uint32) * labels + second).astype(np.uint32)

    return Truth(names, (a, b), {name: table.astype(np.uint8) for name, table in tables.items()}, read)


def resized(target: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels (H, W) at another size: of each of its pixels the label at its middle.

    >>> resized(np.array([[1, 2], [3, 4]]), (4, 2)).tolist()
    [[1, 2], [1, 2], [3, 4], [3, 4]]
    """
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(target.shape, shape, strict=True))
    return target[rows[:, None], columns]


def truths_of(datasets: Sequence[Dataset]) -> list[Truth]:
    """:func:`known_truths`, of which there is at least one.

    Raises:
        UserError: there is none.
    """
    if truths := known_truths(datasets):
        return truths
    raise UserError(
        f"of the pictures of {', '.join(d.name for d in datasets)} no more is known than each annotator drew, expected those of a street "
        "world, of two or more datasets that derive from one, such as --data camvid7, or of two that labelled the same pictures"
    )


def _home(dataset: Dataset) -> tuple[str, ...]:
    """Datasets of one home have their truth in common."""
    from densemtmd.worlds.annotators import ANNOTATORS

    if dataset.labelset.name in ANNOTATORS and (dataset.folder.parent / "truth" / dataset.name).is_dir():
        return ("streets", str(dataset.folder.parent.absolute()))
    return ("source", dataset.truth_config.name, str(dataset.folder.absolute()), *dataset.truth_config.labelset.labels)


def _of_one_source(datasets: Sequence[Dataset]) -> Truth:
    tables = {dataset.labelset.name: dataset.from_truth for dataset in datasets}
    classes = tuple(datasets[0].truth_config.labelset.labels)
    return Truth(classes, tuple(datasets), tables, lambda dataset, item: dataset.truth(item).target)


def _of_a_street_world(datasets: Sequence[Dataset]) -> Truth:
    from densemtmd.worlds.annotators import words
    from densemtmd.worlds.textures import Fine
    from densemtmd.worlds.world import fine_truth

    tables = {}
    for dataset in datasets:
        tables[dataset.labelset.name] = np.full(256, VOID, np.uint8)
        tables[dataset.labelset.name][: len(Fine)] = words(dataset.labelset.name).ids
    return Truth(
        tuple(fine.name.lower() for fine in Fine),
        tuple(datasets),
        tables,
        lambda dataset, item: fine_truth(dataset.folder.parent, dataset.name, item.key),
    )


def hand_truth(dataset: Dataset, split: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """What each annotator of a rendered hand world would have said of some of its hands, be it of another annotator's pictures.

    Args:
        dataset: whose pictures they are.
        split: which they are in.
        keys: the N pictures.

    Returns:
        Keypoint set -> (N, J, 3) float64 mm, y up; none where no more is known than the dataset says itself.

    Raises:
        UserError: a truth that is damaged, or of other pictures.
    """
    file = dataset.folder.parent / "truth" / f"{dataset.config.encoding}_{'test' if split == 'test' else 'train'}.npz"
    if not file.is_file():
        return {}
    try:
        with np.load(file) as stored:
            place = {key: n for n, key in enumerate(stored["keys"].tolist())}
            rows = [place[key] for key in keys]
            return {name: stored[name][rows] for name in HAND_SETS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not the truth of the hands beside it ({error}): remove the world, and it is rendered again") from None
