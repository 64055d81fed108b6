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

from densemtmd.errors import UserError
from densemtmd.tracking.environment import environment_tags
from densemtmd.tracking.mlflow_store import DEFAULT_URI, download_runs, open_run
from densemtmd.tracking.tracker import Status, Tracker, flatten

__all__ = ["DEFAULT_URI", "Status", "Tracker", "download_runs", "environment_tags", "flatten", "open_tracker"]


def open_tracker(
    kind: str,
    experiment: str,
    run_name: str,
    uri: str | None = None,
    resume: str | None = None,
    parent: str | None = None,
    system_metrics: bool = True,
) -> Tracker:
    """Open a run.

    On the way, runs of this machine in the same experiment whose process has died without a word (SIGKILL, a power cut)
    are marked ``KILLED``. Opening takes about 2 s, most of it the import of mlflow, and 1 s more where the store must
    be created.

    Args:
        kind: ``"mlflow"`` or ``"none"``.
        experiment: the group of runs that MLflow shows as one table; created where it does not exist.
        run_name: what the table calls the run; need not be unique.
        uri: of the store; by default ``$MLFLOW_TRACKING_URI``, else :data:`DEFAULT_URI`.
        resume: the run id of an interrupted run, which goes on under its own name in its own experiment.
        parent: the run id of the run that this one is part of, and in whose experiment it lies.
        system_metrics: record the load of processors, memory, disk, network and, where ``nvidia-ml-py`` is installed,
            GPU every 10 s until the run is finished.

    Raises:
        UserError: an unknown kind, mlflow is not installed, the store cannot be opened, a run is not in it, or the run
            to be resumed is still going.
    """
    if kind == "none":
        return Tracker()
    if kind != "mlflow":
        raise UserError(f"tracking={kind} is unknown: expected tracking=mlflow or tracking=none")
    return open_run(experiment, run_name, uri, resume, parent, system_metrics)
