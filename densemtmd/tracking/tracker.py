"""The face of every tracker: a run that is written down nowhere, whose methods say what one that is written down records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """A run that is written down nowhere: what ``tracking=none`` gives, and the face of every tracker.

    As a context manager it finishes the run: ``FINISHED``, ``KILLED`` after a keyboard interrupt, ``FAILED`` after any
    other exception, whose text becomes the tag ``error``.
    """

    run_id: str | None = None
    """Names the run in its store, for ``resume=`` and ``parent=``, also from other processes."""

    uri: str | None = None
    """The store, with an absolute path where it is a file."""

    viewer: str = ""
    """What shows the run: a shell command for a file, an address for a server."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the settings of the run; nested ones get dotted keys (:func:`flatten`), long values are cut.

        A store never changes a parameter. A resumed run may repeat equal ones; what differs from the beginning becomes
        a tag ``resumed.<key>`` and a warning.
        """

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record facts to search runs by; a tag that exists is replaced."""

    def text(self, text: str, name: str) -> None:
        """Keep a text as the artifact ``name``, in place of one that is there, e.g. ``config.yaml``."""

    def metrics(self, values: Mapping[str, Any], step: int, synchronous: bool = False) -> None:
        """Record numbers at a step. Returns at once, in about 2 µs per number, unless ``synchronous``.

        NaN is kept (the score of a label that does not occur) and leaves a gap in a chart. SQL has no infinity, and
        MLflow would store ±1.8e308, which flattens the chart: infinity is recorded as NaN, and the first one of each
        metric as a tag ``infinite.<metric>`` with its step.

        Args:
            values: numbers, or 0-d arrays and tensors (one on a GPU waits for the GPU). Nested mappings get keys with
                slashes: ``{"val": {"kundu": {"global": 0.8}}}`` is ``val/kundu/global``. MLflow draws what stands
                before the last slash as a section of charts, the sections in the order of the alphabet.
            step: of the optimiser, or of whatever the run counts. A metric that has only step 0 is drawn as bars, one
                per run: right for final scores.
            synchronous: wait until this and everything before it is written.
        """

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        """Keep a table as the artifact ``name``, in place of one that is there; MLflow shows it as one, ``mlflow.load_table`` reads it."""

    def image(self, image: Image | np.ndarray, key: str, step: int) -> None:
        """Keep a picture of this step; MLflow shows all steps of one key behind a slider, which begins at step 0: at once it shows
        only what has a picture of that step, or of no other.

        Args:
            image: a PIL image, or (H, W, 3) or (H, W), uint8 in 0..255 or float in [0, 1].
            key: the same at every step, e.g. ``"val/kundu/0003"``.
        """

    def describe(self, about: str, picture: Image | None = None) -> None:
        """Say in markdown what came of the run, with a low picture below it: what a person who opens the run sees first of it."""

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file or a folder into the run, below ``folder``; leave it in place until :meth:`flush`."""

    def dataset(
        self, name: str, folder: str | Path, digest: str, context: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Record which data the run saw, without copying them.

        Args:
            digest: tells versions of the data apart. Its first 12 characters are shown, all of it is kept.
            context: what the run did with them: ``"training"``, ``"validation"`` or ``"test"``.
            facts: what is worth keeping beside, e.g. ``{"images": 715, "labelset": "kundu"}``; plain JSON.
        """

    def network(self, name: str, weights: Mapping[str, Path], labelsets: Mapping[str, Sequence[str]], register: str | None = None) -> None:
        """Keep a network that labels pictures, so that others can load and serve it (``mlflow_model.py``).

        Where the store is of this machine, its weights are hard links to the run's own, which take no room of their own on the disk.

        Args:
            name: of the network.
            weights: where its checkpoints lie, by their paths below the run's folder.
            labelsets: the labels of each that it answers under.
            register: the name of a registered model that it becomes the next version of.
        """

    def experiment(self, about: str, scores: Sequence[str], less_is_better: bool = False) -> None:
        """Say what the group of runs is that this one belongs to.

        Args:
            about: markdown.
            scores: the metrics to compare its runs by, the chief one first. In MLflow they are the columns of the view "Scores", which
                :attr:`viewer` opens, its best run on top; without them it stays as it was.
            less_is_better: of the chief one.
        """

    def child(self, run_name: str, resume: str | None = None) -> Tracker:
        """Open a run below this one, or go on with the one of the id ``resume``; several may be open at once.

        Other processes use ``open_tracker(..., parent=tracker.run_id)``. Where the store cannot be written, the child
        writes nothing.
        """
        return Tracker()

    def flush(self) -> None:
        """Wait until everything recorded so far is written, a minute at most."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Write the rest and end the run; further calls do nothing. Finish the children first."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = _status(error)
        if error is not None and status == "FAILED":
            self.tags({"error": f"{type(error).__name__}: {error}"})
        self.finish(status)


def _status(error: BaseException | None) -> Status:
    """How a run ended that was left by ``error``; exit codes above 128 stand for signals, as shells have it."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    signalled = isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128
    return "KILLED" if signalled or isinstance(error, KeyboardInterrupt) else "FAILED"


def flatten(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested mappings as one, with joined keys; lists that hold mappings are numbered, other lists stay values.

    >>> flatten({"model": {"name": "patchnet"}, "stages": [{"epochs": 2}, {"epochs": 3}], "seeds": [0, 1]})
    {'model.name': 'patchnet', 'stages.0.epochs': 2, 'stages.1.epochs': 3, 'seeds': [0, 1]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}{separator}{inner}": v for inner, v in flatten(value, separator).items()}
        else:
            flat[str(key)] = value
    return flat
