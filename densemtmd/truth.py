"""The full truth of pictures, where it is known: what every pixel is, and what each dataset calls it.

It is known in two cases: of datasets that derive from one source (``camvid7``), whose files say more than each of them tells; and
in a rendered world, which keeps the truth beside its files. There the answer of any labelset can be scored on any picture, and which
labels of two labelsets correspond is no opinion. Of rendered hands it is where all the keypoints are of every dataset: :func:`hand_truth`.

Shapes: ``H``, ``W`` pixels, ``N`` hands, ``J`` keypoints. A *class* is one of the truth's own: at most 255 of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from densemtmd.datasets.folder import Dataset, ahead
from densemtmd.datasets.hands.sets import HAND_SETS
from densemtmd.datasets.sample import Item
from densemtmd.errors import UserError
from densemtmd.tasks import VOID


@dataclass(frozen=True)
class Truth:
    """What is known of some datasets' pictures, in classes that they share.

    Args:
        classes: names of the classes, in the order of their ids.
        datasets: whose pictures these are.
        tables: labelset -> (256,) uint8, what it calls each class; 255 where it says nothing.
        read: the classes of a picture of one of the datasets, (H, W) uint8, 255 = unknown.
    """

    classes: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    tables: dict[str, np.ndarray]
    read: Callable[[Dataset, Item], np.ndarray]

    def target(self, labelset: str, dataset: Dataset, item: Item) -> np.ndarray:
        """The right answer of one of the labelsets on a picture of any of the datasets: (H, W) uint8 class ids, 255 = nothing said."""
        return self.tables[labelset][self.read(dataset, item)]

    def counts(self, splits: Sequence[str], tick: Callable[[], object] = lambda: None) -> np.ndarray:
        """(256,) int64: how many pixels of each class the pictures of some splits have, of all datasets together."""
        total = np.zeros(256, np.int64)
        for dataset in self.datasets:
            items = [item for split in splits for item in dataset.splits[split]]
            for classes in ahead(lambda item, dataset=dataset: self.read(dataset, item), items):  # type: ignore[misc]
                total += np.bincount(classes.ravel(), minlength=256)
                tick()
        return total

    def shares(self, a: str, b: str, counts: np.ndarray) -> np.ndarray:
        """(labels of a, labels of b): which share of each label's true pixels lies in each label of the other labelset.

        Pixels on which the other says nothing lie in none of its labels. NaN for labels without a pixel.
        """
        first, second = (self._members(name) for name in (a, b))
        both = (first * counts[:VOID]) @ second.T
        with np.errstate(invalid="ignore"):
            return both / (first * counts[:VOID]).sum(1, keepdims=True)

    def _members(self, labelset: str) -> np.ndarray:
        """(labels, 255): 1 where a class has the label."""
        labels = next(d.labelset.channels for d in self.datasets if d.labelset.name == labelset)
        return (self.tables[labelset][None, :VOID] == np.arange(labels)[:, None]).astype(float)


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
    return truths


def truths_of(datasets: Sequence[Dataset]) -> list[Truth]:
    """:func:`known_truths`, of which there is at least one.

    Raises:
        UserError: there is none.
    """
    if truths := known_truths(datasets):
        return truths
    raise UserError(
        f"of the pictures of {', '.join(d.name for d in datasets)} no more is known than each annotator drew, expected those of a street "
        "world or of two or more datasets that derive from one, such as --data camvid7"
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
