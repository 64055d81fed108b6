"""Where a run is written down: in an MLflow store, or nowhere.

:func:`open_tracker` gives a :class:`Tracker`; the plain ``Tracker`` writes nothing, and its methods say what the tracker of MLflow
writes. Only ``mlflow_store.py`` imports mlflow, and it does so inside functions: with ``tracking=none`` everything runs where mlflow is
not installed.

Three rules keep it out of the training's way:

- **A run is named, never active.** Every write carries its run id, so a parent and its children, or two trainings in
  one process, cannot confuse each other.
- **The training never waits.** A background thread writes what has gathered in the last seconds, as one batch. It lives
  only while there is something to write, and the interpreter does not exit before it is done.
- **A failure is a sentence, not an end.** A store that cannot be opened is the user's to mend (:class:`UserError`).
  Once a run is open, a locked store, a full disk or a server that has gone costs one line on stderr: the write is tried
  again for a while, then dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from densemtmd.errors import UserError
from densemtmd.tasks import nearest
from densemtmd.tracking import mlflow_store, tensorboard_files
from densemtmd.tracking.environment import environment_tags
from densemtmd.tracking.mlflow_store import DEFAULT_URI, download_runs
from densemtmd.tracking.tracker import Status, Tracker, flatten

__all__ = ["DEFAULT_URI", "Status", "Tracker", "download_runs", "environment_tags", "flatten", "open_tracker", "opener"]


def open_tracker(
    kind: str,
    experiment: str,
    run_name: str,
    uri: str | None = None,
    resume: str | None = None,
    parent: str | None = None,
) -> Tracker:
    """Open a run.

    On the way, runs of this machine in the same experiment whose process has died without a word (SIGKILL, a power cut)
    are marked ``KILLED``. Opening takes about 2 s, most of it the import of mlflow, and 1 s more where the store must
    be created. The load of processors, memory, disk, network and, where ``nvidia-ml-py`` is installed, GPUs is recorded every 10 s
    where ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING`` is true.

    Args:
        kind: ``"mlflow"``, ``"tensorboard"``, ``"none"``, or a function of the user's own, ``"module:function"``, that returns a
            :class:`Tracker` and takes the other arguments as they stand here.
        experiment: the group of runs that MLflow shows as one table; created where it does not exist.
        run_name: what the table calls the run; need not be unique.
        uri: of the store; by default ``$MLFLOW_TRACKING_URI``, else :data:`DEFAULT_URI`.
        resume: the run id of an interrupted run, which goes on under its own name in its own experiment.
        parent: the run id of the run that this one is part of, and in whose experiment it lies.

    Raises:
        UserError: an unknown kind, mlflow is not installed, the store cannot be opened, a run is not in it, or the run
            to be resumed is still going.
    """
    return opener(kind)(experiment, run_name, uri, resume, parent)


def opener(kind: str) -> Callable[..., Tracker]:
    """What opens a run: called with the arguments of :func:`open_tracker` behind its first.

    Raises:
        UserError: an unknown kind, or a function of the user's that is not there.
    """
    if kind in OPENERS:
        return OPENERS[kind]
    module, _, name = kind.partition(":")
    if not name:
        raise UserError(f"tracking is {kind!r}; {nearest(kind, OPENERS)}, or a function of your own as in my_module:open_run")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"tracking is {kind!r}, which cannot be imported ({error}): put its folder on PYTHONPATH") from None
    return cast(Callable[..., Tracker], found)


OPENERS: dict[str, Callable[..., Tracker]] = {
    "mlflow": mlflow_store.open_run,
    "tensorboard": tensorboard_files.open_run,
    "none": lambda *arguments: Tracker(),
}
