"""What a kind of task is: a value that knows how datasets of it are opened, mixed, learned, scored, drawn and compared.

The loop, the runs, the comparison and the tools know no kind; they ask the one that a network's output space names. Each kind is a
module of :mod:`densemtmd.kinds` with a :class:`Kind` called ``KIND``: adding a third kind is adding a third file.

Shapes: ``N`` pictures, ``K`` tasks, ``M`` rows of a tally, ``X`` labels of a labelset, or 1.
"""

from __future__ import annotations

import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from densemtmd.errors import UserError
from densemtmd.tasks import nearest

if TYPE_CHECKING:  # what a kind does is done with what stands above it; what a kind is needs none of that
    import numpy as np
    import torch
    from PIL.Image import Image

    from densemtmd.datasets.config import DatasetConfig
    from densemtmd.datasets.folder import Dataset, Loaded
    from densemtmd.datasets.sample import Batch, Batches
    from densemtmd.network import JointNetwork
    from densemtmd.settings import RunSettings, ScoreSettings
    from densemtmd.tasks import OutputSpace, Task


Criterion = Callable[["torch.Tensor", "Batch"], "torch.Tensor"]
"""What training makes small: of outputs and what is asked for them, a number."""


@dataclass(frozen=True)
class Measure:
    """One of the numbers by which answers are judged."""

    key: str                      # in scores.json: iou
    name: str                     # for people: IoU
    unit: str                     # of a difference: points of IoU
    axis: str                     # of its curve while a network trains: IoU, validation, %
    digits: int = 1               # behind the point, in tables
    less_is_better: bool = False
    paper: str = ""               # what paper_tables.csv calls it, where that is not the key
    full: str = ""                # in a sentence, where that is not the name: mean error in mm
    pooled_only: bool = False     # of single datasets, tables of differences leave it out


@dataclass(frozen=True)
class Across:
    """The scores of every task's answers on every dataset's pictures, against the full truth."""

    scored: dict[str, Any]  # what cross.json holds
    table: str              # for the screen
    markdown: str
    pictures: int


class Kind(ABC):
    """A kind of task. Its name stands in ``scores.json``; that of its tasks, ``task.kind``, in checkpoints."""

    name: ClassVar[str]
    task: ClassVar[type[Task]]              # such as Labelset
    encodings: ClassVar[tuple[str, ...]]    # of dataset YAMLs that are of this kind; none: all that are of no other
    model: ClassVar[str]                    # the paper's network for it, a file of conf/model/
    shows: ClassVar[str]                    # what its pictures are, for messages
    measures: ClassVar[tuple[Measure, ...]]
    settings: ClassVar[tuple[str, ...]] = ()   # groups of RunSettings that only this kind has
    merges: ClassVar[bool] = False          # whether answers can be merged (densemtmd.merging), and their confusions listed
    chief: ClassVar[Measure]                # decides which epoch is best, and which dataset is said to be helped

    # Data -----------------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def config(self, data: dict[str, Any], path: Path) -> DatasetConfig:
        """What a dataset's YAML says, where its encoding is one of this kind's."""

    @abstractmethod
    def open(self, config: DatasetConfig, data_root: Path, **how: Any) -> Dataset:
        """Finds a dataset's files, paired and split; ``how`` as :func:`densemtmd.datasets.folder.open_dataset` has it."""

    @abstractmethod
    def load(
        self, datasets: Sequence[Dataset], network: JointNetwork, settings: RunSettings, cache: Path | None, at_most: int = 0
    ) -> dict[str, Loaded]:
        """All pictures of open datasets, decoded and checked.

        Args:
            datasets: of this kind.
            network: that will see them; it may be without memory (on torch's meta device).
            settings: of the run.
            cache: the folder in which what was decoded is kept; None: nowhere.
            at_most: so many pictures of each split; 0: all.

        Raises:
            UserError: an error in the data, or pictures that the network cannot be trained on.
        """

    @abstractmethod
    def outputs_of(self, data: Loaded, network: JointNetwork) -> int:
        """The labelled outputs of one pass over a dataset's training pictures, by which epochs are counted."""

    def asked_of(self, data: Loaded, split: str, at_most: int = 0) -> int:
        """How much :meth:`score` is asked, which is what its time goes by: pictures, or what there is in each."""
        return min(len(data.dataset.splits[split]), at_most or sys.maxsize)

    @abstractmethod
    def mixture(
        self,
        data: Sequence[Loaded],
        split: str,
        network: JointNetwork,
        settings: RunSettings,
        seed: int,
        *,
        domains: Sequence[str],
        mixing: str | Mapping[str, float],
        equilibrium: bool = False,
    ) -> Batches:
        """Batches of some datasets' pictures of a split; ``domains``: the names of those that are told apart, or none."""

    @abstractmethod
    def shown(self, network: JointNetwork, crop: int) -> tuple[int, int, int]:
        """(channels, rows, columns) of what a network is shown at a time in training, where crops are of ``crop`` labelled pixels."""

    def prepare(self, network: JointNetwork, mixture: Batches) -> None:  # noqa: B027 (most have nothing to do)
        """Gives a network that has not learned yet what it must know of its training pictures before."""

    # Learning -------------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, outputs: torch.Tensor, batch: Batch, space: OutputSpace) -> torch.Tensor:
        """The selective loss of a batch, over what each sample's own annotator says."""

    def criterion(self, data: Sequence[Loaded], space: OutputSpace, settings: RunSettings) -> Criterion:
        """What training on some datasets makes small: :meth:`loss`, where the kind's settings name no other."""
        return lambda outputs, batch: self.loss(outputs, batch, space)

    @abstractmethod
    def fitted(self, network: JointNetwork, mixture: Batches, batches: int, data: Sequence[Loaded], device: torch.device) -> dict[str, Any]:
        """What :meth:`report` gives of a mixture's first batches: ``train.overfit``."""

    @abstractmethod
    def learned(self, scored: Mapping[str, Any]) -> str | None:
        """None where the scores on ``train.overfit`` batches show that the training can learn; else what is wrong.

        ``{of}`` stands where those batches belong, ``{after}`` where the steps do: ``only 40.0 % of the outputs of {of} are
        right{after}, expected 99 %``.
        """

    # Scores ---------------------------------------------------------------------------------------------------------------------------

    def way(self, how: ScoreSettings) -> dict[str, Any]:
        """What ``scores.json`` says of how was scored."""
        return {}

    def check_way(self, how: ScoreSettings) -> None:
        """Refuses a way to score that this kind does not know.

        Raises:
            UserError: copies of a picture, where they have no common answer.
        """
        if how.copies:
            raise UserError(f"score.mirror and score.scales average the labels of pixels, but these are {self.shows}: leave them out")

    def before_scoring(self, network: JointNetwork, data: Loaded, split: str, at_most: int = 0) -> None:  # noqa: B027 (most need nothing)
        """Makes what :meth:`score` needs of the same pictures and what is kept afterwards, so that a second time takes less."""

    @abstractmethod
    def score(
        self,
        network: JointNetwork,
        data: Loaded,
        split: str,
        at_most: int,
        how: ScoreSettings,
        device: torch.device,
        tick: Callable[[int], object] = lambda count: None,
        precision: str = "float32",
        most_pixels: int = 0,
    ) -> np.ndarray:
        """How a network answers a split's pictures, (N, ...): see :meth:`tally`.

        Args:
            network: which answers.
            data: whose pictures.
            split: ``train``, ``val`` or ``test``.
            at_most: so many of them; 0: all.
            how: which pixels.
            device: where the network is.
            tick: called with the number of pictures that are done.
            precision: to compute in.
            most_pixels: of larger pictures a part of so many pixels, in the middle; 0: the whole ones.
        """

    @abstractmethod
    def for_scoring(self, dataset: Dataset, split: str, network: JointNetwork, cache: Path | None) -> Loaded:
        """The pictures of one split, decoded; the others are not looked at."""

    @abstractmethod
    def across(self, networks: Sequence[JointNetwork], datasets: Sequence[Dataset], split: str, how: ScoreSettings, **where: Any) -> Across:
        """Scores every task's answers on the pictures of every dataset whose full truth is known.

        Args:
            networks: which answer.
            datasets: of this kind.
            split: which of their pictures.
            how: which pixels.
            where: ``device`` and ``precision``.

        Raises:
            UserError: of none of them more is known than its annotator says.
        """

    @abstractmethod
    def report(self, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task]) -> dict[str, Any]:
        """What ``scores.json`` holds of what :meth:`score` found on each dataset: ``pooled`` and ``datasets``, with every measure."""

    @abstractmethod
    def arrays(self, name: str, found: np.ndarray) -> dict[str, np.ndarray]:
        """What ``per_image.npz`` holds of a dataset."""

    @abstractmethod
    def stored(self, arrays: Mapping[str, np.ndarray], name: str, about: Mapping[str, Any]) -> np.ndarray:
        """The inverse of :meth:`arrays`.

        Args:
            arrays: of the file.
            name: of the dataset.
            about: what ``scores.json`` says of it.

        Raises:
            ValueError: they are damaged. KeyError: they are not there.
        """

    @abstractmethod
    def tally(self, found: np.ndarray) -> np.ndarray:
        """(N, ...) -> (N, M, X): what measures need of each picture; tallies may be added."""

    @abstractmethod
    def pooled(self, tallies: Sequence[np.ndarray]) -> np.ndarray:
        """Summed tallies (..., M, X), one of each dataset -> (..., measures): the measures of all together; NaN where one does not
        exist."""

    @abstractmethod
    def asked(self, found: np.ndarray) -> np.ndarray:
        """(N, ...): what was asked of each picture, whatever was answered: runs of the same pictures agree on it."""

    @abstractmethod
    def parts(self, about: Mapping[str, Any]) -> list[str]:
        """What a dataset is scored by one by one, such as its labels, from what ``scores.json`` says of it."""

    # For people -----------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def table(self, scored: Mapping[str, Any]) -> str:
        """A row per dataset and, where there are several, one for all together."""

    @abstractmethod
    def details(self, scored: Mapping[str, Any]) -> str:
        """A row for each of a dataset's :meth:`parts`."""

    @abstractmethod
    def markdown(self, scored: Mapping[str, Any]) -> str:
        """Both, with a line that says how was scored."""

    @abstractmethod
    def figures(self, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task], folder: Path) -> None:
        """Draws what was found."""

    @abstractmethod
    def drawn(self, network: JointNetwork, data: Loaded, at_most: int, device: torch.device) -> list[tuple[str, Image]]:
        """Some validation pictures with the network's answers drawn into them, and their names."""

    @abstractmethod
    def measured(self, scored: Mapping[str, Any], split: str) -> str:
        """How the numbers of a ``scores.json`` were measured: ``Percent on the test pictures, strided scoring``."""

    def manner(self, scored: Mapping[str, Any]) -> str:
        """The same in a few words behind a comma, or nothing: ``, strided scoring``."""
        return ""

    @abstractmethod
    def protocol(self, train: Mapping[str, Any], model: str) -> str:
        """How was trained, in a few words, from ``train`` of a run's settings and the name of its model."""

    @abstractmethod
    def next_step(self, folder: Path) -> str:
        """What to do with a finished run: a sentence with a command."""


@cache
def _found(places: tuple[str, ...]) -> dict[str, Kind]:
    modules = [import_module(f"densemtmd.kinds.{one.name}") for one in pkgutil.iter_modules(places)]
    return {module.KIND.name: module.KIND for module in modules}


def kinds() -> dict[str, Kind]:
    """All kinds by their names: the modules of :mod:`densemtmd.kinds`."""
    return _found(tuple(import_module("densemtmd.kinds").__path__))


def kind_of(task: str) -> Kind:
    """The kind whose tasks say so of themselves, as output spaces and checkpoints do: ``kind_of(network.space.kind)``.

    Raises:
        UserError: there is none.
    """
    known = {kind.task.kind: kind for kind in kinds().values()}
    if task not in known:
        raise UserError(f"unknown kind of task {task!r}; {nearest(str(task), known)}")
    return known[task]


def kind_of_encoding(encoding: object) -> Kind:
    """The kind of the datasets whose labels are kept so."""
    ordinary = next(kind for kind in kinds().values() if not kind.encodings)
    return next((kind for kind in kinds().values() if encoding in kind.encodings), ordinary)


def kind_of_scores(scored: Mapping[str, Any]) -> Kind:
    """The kind that a ``scores.json`` is of; those of before say it by their measures."""
    if (name := scored.get("kind")) is not None:
        if name not in kinds():
            raise UserError(f"unknown kind {name!r}; {nearest(str(name), kinds())}")
        return kinds()[name]
    found = [kind for kind in kinds().values() if kind.chief.key in scored["pooled"]]
    if not found:
        raise ValueError("its scores are of no known kind")
    return found[0]
