"""Runs as TensorBoard's event files: ``tensorboard/<experiment>/<run>/``, written by torch's own writer.

Only curves, pictures and texts are kept there; files stay in the run's folder. TensorBoard is imported where a run is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.errors import UserError
from densemtmd.tracking.tracker import Status, Tracker, flatten

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

DEFAULT_FOLDER = "tensorboard"


def open_run(experiment: str, run_name: str, uri: str | None = None, resume: str | None = None, parent: str | None = None) -> Tracker:
    """Open a run below the folder ``uri``: see :func:`densemtmd.tracking.open_tracker`. Its id is its path there."""
    home = Path(uri or DEFAULT_FOLDER).absolute()
    return TensorBoardTracker(home, resume or _free(home, f"{parent or experiment}/{run_name}"))


class TensorBoardTracker(Tracker):
    """Writes a run for TensorBoard; :class:`Tracker` says what each method records."""

    def __init__(self, home: Path, run_id: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"tracking=tensorboard needs TensorBoard, which does not work here ({error}): run `pip install tensorboard`"
            ) from error
        self.run_id, self.uri, self.viewer = run_id, str(home), f"tensorboard --logdir {home}"
        try:
            self._writer = SummaryWriter(str(home / run_id))
        except OSError as error:
            raise UserError(f"{home / run_id} cannot be written ({error.strerror}): set tracking_uri= to another folder") from None

    def params(self, values: Mapping[str, Any]) -> None:
        self.table(["parameter", "value"], list(flatten(values).items()), "parameters")

    def tags(self, values: Mapping[str, Any]) -> None:
        for key, value in flatten(values).items():
            self._writer.add_text(f"tags/{key}", str(value))

    def text(self, text: str, name: str) -> None:
        self._writer.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()))  # markdown's way to leave it as it is

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        lines = [head, ["---"] * len(head), *rows]
        self._writer.add_text(name, "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))

    def metrics(self, values: Mapping[str, Any], step: int, synchronous: bool = False) -> None:
        for name, value in flatten(values, "/").items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def image(self, image: Image | np.ndarray, key: str, step: int) -> None:
        import numpy as np

        pixels = np.asarray(image)
        self._writer.add_image(key, pixels, step, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def describe(self, about: str, picture: Image | None = None) -> None:
        self._writer.add_text("about", about)
        if picture is not None:
            self.image(picture, "about", 0)

    def experiment(self, about: str, scores: Sequence[str], less_is_better: bool = False) -> None:
        self._writer.add_text("experiment", about)

    def child(self, run_name: str, resume: str | None = None) -> Tracker:
        home = Path(self.uri or "")
        return TensorBoardTracker(home, resume or _free(home, f"{self.run_id}/{run_name}"))

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, status: Status = "FINISHED") -> None:
        self._writer.add_text("status", status)
        self._writer.close()


def _free(home: Path, run_id: str) -> str:
    """The id, with a number behind it where there is a run of that name."""
    ids = [run_id, *(f"{run_id}-{n}" for n in range(2, 1000))]
    return next((one for one in ids if not (home / one).exists()), run_id)
