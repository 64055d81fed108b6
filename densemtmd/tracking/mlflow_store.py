"""Runs in an MLflow store: opened, written by a thread, gone on with, copied out of it.

Beside ``mlflow_model.py``, which mlflow runs, this is the only file of the project that imports mlflow, and it does so inside functions.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import posixpath
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.errors import UserError
from densemtmd.progress import Progress
from densemtmd.tracking.tracker import Status, Tracker, flatten

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from PIL.Image import Image

DEFAULT_URI = "sqlite:///mlflow.db"
"""The store of a user who names none: a file in the folder where they stand, its artifacts beside it in mlartifacts/."""

GATHER_SECONDS = 3.0
"""How long the writer lets metrics gather: every batch costs it 5 ms of the processor, and each metric in it a tenth of one."""

RETRY_PAUSES = (1.0, 4.0, 15.0, 60.0)
"""Seconds before each further attempt at a write that may yet succeed."""

FINISH_SECONDS = 60.0
"""How long :meth:`Tracker.finish` waits for what is still unwritten."""

VIEW = "scores"
"""Names the view of the runs table, in its address."""

MOST_RUNS = 20
"""So many of the best are in an experiment's description."""

NETWORK = "network"
"""The folder of a model's weights, among its artifacts."""

ANSWERS = "answers.png"
"""The picture of a run's description, among its artifacts."""

NEEDED = ("torch", "numpy", "safetensors", "pillow", "pyyaml", "scipy", "tqdm", "psutil", "kornia", "pandas")
"""What a network needs of other packages to label pictures, for MLflow models."""

# The limits of MLflow's stores, in characters and in metrics per write. A digest may have 36 characters; 12 can be read.
MAX_KEY, MAX_PARAM, MAX_TAG, MAX_DIGEST, MAX_BATCH = 250, 6000, 8000, 12, 1000

# Neighbouring runs must differ in a chart; MLflow picks a colour by the run id and often picks the same one twice.
# Okabe and Ito's, which colour-blind people can tell apart, less black and yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

# Read by mlflow when it is imported or asked for something; what the user has set stays.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",                # nothing is sent to the makers of MLflow
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # "View run at ..." at the end of each run
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",            # a missing server is told in 2 s, not 4 min; the writer retries
    "GIT_PYTHON_REFRESH": "quiet",                     # no warning where git is missing
}


def open_run(
    experiment: str,
    run_name: str,
    uri: str | None = None,
    resume: str | None = None,
    parent: str | None = None,
) -> Tracker:
    """Open a run in a store: see :func:`densemtmd.tracking.open_tracker`."""
    uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    try:
        _import_mlflow()
        client = _open_store(uri)
        if resume is not None:
            experiment_id, run_id = _resume(client, resume, uri)
        else:
            experiment_id = (
                _experiment(client, experiment, uri)
                if parent is None
                else _find(client, parent, uri).info.experiment_id
            )
            _mark_dead(client, experiment_id)
            run_id = _create_run(client, experiment_id, run_name, parent)
        monitor = _start_monitor(uri, run_id, resumed=resume is not None) if _is_watched() else None
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"tracking=mlflow needs MLflow, which does not work here ({_line(error)}): "
            "run `pip install 'mlflow>=3.1' psutil` or set tracking=none"
        ) from error
    except Exception as error:
        raise UserError(
            f"the MLflow store {uri} cannot be used ({_line(error)}): "
            "mend it, name another one with MLFLOW_TRACKING_URI or set tracking=none"
        ) from error
    return _MlflowTracker(client, _Writer(client, uri), uri, experiment_id, run_id, monitor)


def download_runs(experiment: str, folder: str | Path, files: Sequence[str], uri: str | None = None) -> tuple[str, list[Path]]:
    """Copy what runs keep in a store into folders named as theirs were.

    Where runs lie below a parent, the runs of a table, those of the newest such parent are taken, and what it keeps is copied into
    ``folder`` itself; else all runs of the experiment. Runs that lack one of the files, such as the single networks of a run or one
    that has not finished, are passed over.

    Args:
        experiment: its name in the store.
        folder: gets a folder per run.
        files: the artifacts to copy, each of them at the top of its run, e.g. ``scores.json``; of a parent all those that it has.
        uri: of the store, as for :func:`open_tracker`.

    Returns:
        the parent's name, or the experiment's, and the folders of the runs, the oldest first.

    Raises:
        UserError: mlflow is not installed, there is no such store or experiment, or none of its runs has all the files.
    """
    folder = Path(folder)
    uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    file = _sqlite_file(uri)
    if file is not None and not file.is_file():
        raise UserError(f"there is no MLflow store {uri}: stand where it lies, or name another one with --tracking-uri")
    try:
        _import_mlflow()
        return _download(_open_store(uri), experiment, folder, files, uri)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"MLflow does not work here ({_line(error)}): run `pip install 'mlflow>=3.1'` or name run folders") from error
    except Exception as error:
        raise UserError(f"the MLflow store {uri} cannot be read ({_line(error)}): name another one, or run folders instead") from error


class _MlflowTracker(Tracker):
    """Writes a run into an MLflow store; :class:`Tracker` says what each method records."""

    def __init__(
        self,
        client: MlflowClient,
        writer: _Writer,
        uri: str,
        experiment_id: str,
        run_id: str,
        monitor: Any = None,
        nested: bool = False,
    ) -> None:
        self.run_id: str = run_id
        self.uri: str = uri
        page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
        self.viewer = f"{uri}{page}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000{page}"
        self._client = client
        self._writer = writer
        self._experiment_id = experiment_id
        self._monitor = monitor
        self._nested = nested
        self._infinite: set[str] = set()
        self._finished = False

    def params(self, values: Mapping[str, Any]) -> None:
        texts = {_key(key): _text(value, MAX_PARAM) for key, value in flatten(values).items()}
        self._writer.put("the settings", partial(self._write_params, texts))

    def _write_params(self, texts: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, text) for key, text in texts.items() if key not in known]
        self._client.log_batch(self.run_id, params=new)
        changed = {key: text for key, text in texts.items() if known.get(key, text) != text}
        if changed:
            self._write_tags({_key(f"resumed.{key}"): text for key, text in changed.items()})
            _warn(
                f"run {self.run_id} began with other values of {', '.join(changed)}; "
                "the new ones are its tags resumed.*"
            )

    def tags(self, values: Mapping[str, Any]) -> None:
        texts = {_key(key): _text(value, MAX_TAG) for key, value in flatten(values).items()}
        self._writer.put("tags", partial(self._write_tags, texts))

    def _write_tags(self, texts: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, text) for key, text in texts.items()])

    def text(self, text: str, name: str) -> None:
        self._writer.put(name, partial(self._client.log_text, self.run_id, text, name))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        # as MlflowClient.log_table writes one; that would add the rows to those of a table that is there
        self.text(json.dumps({"columns": list(head), "data": [list(row) for row in rows]}, ensure_ascii=False), name)
        self._writer.put(f"table {name}", partial(self._list_table, name))

    def _list_table(self, name: str) -> None:
        listed = json.loads(self._client.get_run(self.run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        if (one := {"path": name, "type": "table"}) not in listed:
            self._client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps([*listed, one]))

    def network(self, name: str, weights: Mapping[str, Path], labelsets: Mapping[str, Sequence[str]], register: str | None = None) -> None:
        self._writer.put("the network", partial(self._write_network, name, weights, labelsets, register))

    def _write_network(
        self, name: str, weights: Mapping[str, Path], labelsets: Mapping[str, Sequence[str]], register: str | None
    ) -> None:
        from mlflow.entities import LoggedModelOutput

        size = sum(file.stat().st_size for file in weights.values())
        facts = {"labelsets": ", ".join(labelsets), "weights": f"{size / 1e6:.1f} MB"}
        kept = self._client.create_logged_model(self._experiment_id, _model_name(name), self.run_id, tags=facts, model_type="segmentation")
        with tempfile.TemporaryDirectory() as folder:
            _save_network(Path(folder) / "model", labelsets)
            self._client.log_model_artifacts(kept.model_id, str(Path(folder) / "model"))
        for below, file in weights.items():
            place = (Path("artifacts") / NETWORK / below).as_posix()
            if (home := _local(kept.artifact_location)) is None:
                self._client.log_model_artifact(kept.model_id, str(file), posixpath.dirname(place))
            else:
                _link(file, home / place)
        self._client.finalize_logged_model(kept.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(kept.model_id, 0)])
        if register is not None:
            _register(self._client, register, kept, self.run_id)

    def experiment(self, about: str, scores: Sequence[str], less_is_better: bool = False) -> None:
        names = list(map(_key, scores))
        self._writer.put("the experiment's description", partial(self._write_experiment, about, names, less_is_better))

    def _write_experiment(self, about: str, scores: Sequence[str], less_is_better: bool) -> None:
        page = f"#/experiments/{self._experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
        link = f"[The runs by their scores]({page})"
        best = _best_runs(self._client, self._experiment_id, scores, less_is_better) if scores else ""
        tags = {"mlflow.note.content": "\n\n".join(filter(None, (about, link, best))), "mlflow.experimentKind": "custom_model_development"}
        if scores:
            tags["mlflow.experiment.primaryMetric.name"] = scores[0]
            tags[f"mlflow.sharedViewState.{VIEW}"] = _view(scores, less_is_better)
        for key, value in tags.items():
            self._client.set_experiment_tag(self._experiment_id, key, value)

    def metrics(self, values: Mapping[str, Any], step: int, synchronous: bool = False) -> None:
        from mlflow.entities import Metric

        now = _milliseconds()
        batch = []
        for name, value in flatten(values, "/").items():
            key = _key(name)
            try:
                number = float(value)
            except (TypeError, ValueError) as error:
                self._writer.warn(f"metric {key}", error)
                continue
            if math.isinf(number):
                if key not in self._infinite:
                    self._infinite.add(key)
                    self.tags({f"infinite.{key}": f"{number} at step {step}"})
                number = math.nan
            batch.append(Metric(key, number, now, int(step)))
        self._writer.put_metrics(self.run_id, batch)
        if synchronous:
            self.flush()

    def image(self, image: Image | np.ndarray, key: str, step: int) -> None:
        picture = image.copy()  # the caller may go on drawing
        key = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", key)
        write = partial(self._client.log_image, self.run_id, picture, key=key, step=int(step))
        self._writer.put(f"picture {key}", partial(write, timestamp=_milliseconds(), synchronous=True))

    def describe(self, about: str, picture: Image | None = None) -> None:
        if picture is not None:
            self._writer.put(ANSWERS, partial(self._client.log_image, self.run_id, picture, ANSWERS))
            about += f"\n\n![answers](get-artifact?path={ANSWERS}&run_uuid={self.run_id})"  # beside the page, whatever its address
        self.tags({"mlflow.note.content": about})

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        path = Path(path).absolute()
        write: Callable[[], None]
        if path.is_dir():
            below = posixpath.join(folder or "", path.name)
            write = partial(self._client.log_artifacts, self.run_id, str(path), below)
        else:
            write = partial(self._client.log_artifact, self.run_id, str(path), folder)
        self._writer.put(f"artifact {path}", write)

    def dataset(
        self, name: str, folder: str | Path, digest: str, context: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": str(Path(folder).absolute())})  # as mlflow's LocalArtifactDatasetSource has it
        profile = json.dumps({"digest": digest, **(facts or {})}, default=str)
        dataset = Dataset(name, digest[:MAX_DIGEST], source_type="local", source=source, profile=profile)
        inputs = [DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])]
        self._writer.put(f"dataset {name}", partial(self._client.log_inputs, self.run_id, datasets=inputs))

    def child(self, run_name: str, resume: str | None = None) -> Tracker:
        try:
            if resume is None:
                run_id = _create_run(self._client, self._experiment_id, run_name, self.run_id)
            else:
                _, run_id = _resume(self._client, resume, self.uri)
        except UserError:
            raise
        except Exception as error:
            self._writer.warn(f"run {run_name}", error)
            return Tracker()
        return _MlflowTracker(self._client, self._writer, self.uri, self._experiment_id, run_id, nested=True)

    def flush(self) -> None:
        self._writer.flush(FINISH_SECONDS)

    def finish(self, status: Status = "FINISHED") -> None:
        if self._finished:
            return
        self._finished = True
        if self._monitor is not None:
            self._writer.put("system metrics", self._monitor.finish)
        self._writer.put(f"status {status}", partial(self._client.set_terminated, self.run_id, status))
        self.flush()
        if not self._nested:
            self._writer.close()


class _Writer:
    """The background thread of one store: gathers metrics, keeps the order of all else, tries again, never raises."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._state = threading.Condition()
        self._metrics: dict[str, list[Metric]] = {}                # by run id
        self._writes: list[tuple[str, Callable[[], object]]] = []  # what, how
        self._unwritten = 0               # metrics and other writes asked for that have not succeeded
        self._running = False
        self._hurry = threading.Event()   # somebody waits: let nothing gather
        self._closed = threading.Event()  # nobody waits any longer: drop what is left
        self._warned = False

    def put_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        with self._state:
            self._metrics.setdefault(run_id, []).extend(metrics)
            self._unwritten += len(metrics)
            self._wake()

    def put(self, what: str, write: Callable[[], object]) -> None:
        with self._state:
            self._writes.append((what, write))
            self._unwritten += 1
            self._wake()

    def flush(self, seconds: float) -> None:
        with self._state, Progress(f"writing to {self._uri}", whole := self._unwritten, "records") as progress:

            def written() -> bool:
                progress.done = whole - self._unwritten
                return not self._running

            self._hurry.set()
            self._state.wait_for(written, seconds)
            self._hurry.clear()

    def close(self) -> None:
        """Drop what could not be written in time, and say how much that is."""
        with self._state:
            self._closed.set()
            self._hurry.set()
        if self._unwritten:
            _warn(f"{self._unwritten} records of this run were not written to {self._uri}")

    def warn(self, what: str, error: BaseException) -> None:
        """Tell the first failure only: a store that is gone fails every second."""
        if not self._warned:
            self._warned = True
            _warn(
                f"{what} could not be written to {self._uri} ({_line(error)}); "
                "the training goes on, further failures are not shown"
            )

    def _wake(self) -> None:
        if not self._running:
            self._running = True
            # Not a daemon, so that the interpreter waits for it.
            threading.Thread(target=self._run, name="densemtmd-tracking").start()

    def _run(self) -> None:
        while True:
            self._hurry.wait(GATHER_SECONDS)
            with self._state:
                metrics, self._metrics = self._metrics, {}
                writes, self._writes = self._writes, []
                if not metrics and not writes:
                    self._running = False
                    self._state.notify_all()
                    return
            for run_id, numbers in metrics.items():
                for i in range(0, len(numbers), MAX_BATCH):
                    batch = numbers[i : i + MAX_BATCH]
                    self._attempt("metrics", partial(self._client.log_batch, run_id, metrics=batch), len(batch))
            for what, write in writes:
                self._attempt(what, write, 1)

    def _attempt(self, what: str, write: Callable[[], object], records: int) -> None:
        for pause in (*RETRY_PAUSES, None):
            if self._closed.is_set():
                return
            try:
                write()
            except Exception as error:
                self.warn(what, error)
                if pause is None or not _may_pass(error):
                    return
                self._closed.wait(pause)
            else:
                with self._state:
                    self._unwritten -= records
                    self._state.notify_all()
                return


def _import_mlflow() -> None:
    """Import mlflow without its telemetry and without its chatter."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:  # it logs its errors and raises them: the exception is enough
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)


def _open_store(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if "://" not in uri or uri.startswith("file:"):
        raise UserError(f"MLflow no longer keeps runs in a folder such as {uri}: use a file such as {DEFAULT_URI}")
    file = _sqlite_file(uri)
    if file is not None and not file.exists():
        _create_sqlite(file)
    if file is not None and not (file.is_file() and os.access(file, os.R_OK)):  # MLflow would try again for two minutes
        raise UserError(
            f"the MLflow store {uri} cannot be used ({'it may not be read by you' if file.is_file() else 'it is no file'}): "
            "mend it, name another one with MLFLOW_TRACKING_URI or set tracking=none"
        )
    return MlflowClient(uri)


def _create_sqlite(file: Path) -> None:
    """Create a store whole or not at all.

    MLflow builds one by taking an empty file through all versions of its schema. Two processes that do so at once in
    one file break each other, and one that is killed half-way leaves a file that nothing opens. Built aside and linked
    into place, the first one wins and the others use it.
    """
    from mlflow import MlflowClient

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent, ignore_cleanup_errors=True) as folder:
        built = Path(folder) / "built.db"
        MlflowClient(f"sqlite:///{built.as_posix()}").search_experiments(max_results=1)
        copy = Path(folder) / "copy.db"  # mlflow holds on to the one that it built
        shutil.copyfile(built, copy)
        try:
            os.link(copy, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not file.exists():
                copy.replace(file)


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The id of an experiment, created where it does not exist: with its artifacts beside a store that is a file."""
    from mlflow.exceptions import MlflowException

    file = _sqlite_file(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        folder = None if file is None else file.parent / "mlartifacts" / re.sub(r"[^\w\-. ]", "_", name)
        try:
            return client.create_experiment(name, artifact_location=None if folder is None else folder.as_uri())
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have been quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise UserError(
            f"experiment {name} in {uri} has been deleted: choose another name or run "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    if file is not None and found.artifact_location.startswith("mlflow-artifacts:"):
        raise UserError(
            f"experiment {name} in {uri} keeps its artifacts behind the server that created it: choose another name, "
            "or set MLFLOW_TRACKING_URI to the server's address"
        )
    return found.experiment_id


def _download(client: MlflowClient, experiment: str, folder: Path, files: Sequence[str], uri: str) -> tuple[str, list[Path]]:
    """:func:`download_runs`, of a store that is open."""
    from densemtmd.tasks import nearest

    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = sorted(one.name for one in client.search_experiments())
        raise UserError(f"{uri} has no experiment {experiment!r}; {nearest(experiment, known)}")

    def kept(run_id: str) -> list[str]:
        return [item.path for item in client.list_artifacts(run_id) if not item.is_dir]

    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], max_results=10_000)
    whole = [run for run in runs if set(files) <= set(kept(run.info.run_id))]
    if not whole:
        raise UserError(f"the experiment {experiment!r} of {uri} has no finished run, expected one that keeps {', '.join(files)}")
    parents = [run.data.tags.get("mlflow.parentRunId") for run in whole]
    newest = next((parent for parent in reversed(parents) if parent), None)
    name = experiment
    if newest:
        whole = [run for run, parent in zip(whole, parents, strict=True) if parent == newest]
        name = client.get_run(newest).info.run_name
        for path in kept(newest):
            client.download_artifacts(newest, path, str(folder))
    folders = []
    for run in whole:
        home = folder / Path(run.data.tags.get("folder", run.info.run_id)).name
        home = folder / run.info.run_id if home.exists() else home
        home.mkdir()
        for path in files:
            client.download_artifacts(run.info.run_id, path, str(home))
        folders.append(home)
    return name, folders


def _find(client: MlflowClient, run_id: str, uri: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(
            f"run {run_id} is not in the MLflow store {uri}, which may have been made anew: name the one that has it with "
            "MLFLOW_TRACKING_URI or set tracking=none"
        ) from error


def _create_run(client: MlflowClient, experiment_id: str, run_name: str, parent: str | None) -> str:
    tags = {**_process_tags(), "mlflow.runColor": _next_colour(client, experiment_id, parent)}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    return client.create_run(experiment_id, tags=tags, run_name=run_name).info.run_id


def _next_colour(client: MlflowClient, experiment_id: str, parent: str | None) -> str:
    """The colour after that of the latest run with the same parent."""
    latest = client.search_runs([experiment_id], order_by=["attributes.start_time DESC"], max_results=50)
    beside = (run.data.tags.get("mlflow.runColor") for run in latest if run.data.tags.get("mlflow.parentRunId") == parent)
    used = next(beside, None)
    return COLOURS[(COLOURS.index(used) + 1) % len(COLOURS)] if used in COLOURS else COLOURS[0]


def _resume(client: MlflowClient, run_id: str, uri: str) -> tuple[str, str]:
    """Set an interrupted run going again; the ids of its experiment and of itself."""
    run = _find(client, run_id, uri)
    if run.info.lifecycle_stage != "active":
        raise UserError(f"run {run_id} in {uri} has been deleted: run `mlflow runs restore --run-id {run_id}` first")
    tags = run.data.tags
    elsewhere = tags.get("densemtmd.host") == socket.gethostname() and tags.get("densemtmd.pid") != str(os.getpid())
    if run.info.status == "RUNNING" and elsewhere and _alive(tags):
        raise UserError(f"run {run_id} is still going in process {tags['densemtmd.pid']}: end it before resuming it")
    client.update_run(run_id, status="RUNNING")
    for key, value in _process_tags().items():
        client.set_tag(run_id, key, value)
    return run.info.experiment_id, run_id


def _mark_dead(client: MlflowClient, experiment_id: str) -> None:
    """Runs of this machine that are said to be running, but whose process is gone, were killed."""
    query = f"attributes.status = 'RUNNING' AND tags.`densemtmd.host` = '{socket.gethostname()}'"
    for run in client.search_runs([experiment_id], query):
        if not _alive(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")


def _process_tags() -> dict[str, str]:
    import psutil

    started = psutil.Process().create_time()
    return {
        "densemtmd.host": socket.gethostname(),
        "densemtmd.pid": str(os.getpid()),
        "densemtmd.started": f"{started:.0f}",  # the number of a process is used again later
    }


def _alive(tags: Mapping[str, str]) -> bool:
    """Whether the process of :func:`_process_tags` still lives on this machine."""
    import psutil

    try:
        process = psutil.Process(int(tags["densemtmd.pid"]))
        same = abs(process.create_time() - float(tags["densemtmd.started"])) < 60  # clocks get set
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, KeyError, ValueError):  # not known: leave the run alone
        return True


def _model_name(name: str) -> str:
    """A name that MLflow accepts for a model."""
    return re.sub(r"[/:.%\"']", "_", name) or "network"


def _save_network(folder: Path, labelsets: Mapping[str, Sequence[str]]) -> None:
    """All of a network's model but its weights: this package's code, what it needs, what goes in and what comes out, an example."""
    from importlib import metadata

    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from PIL import Image

    ramp = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
    picture = io.BytesIO()
    Image.fromarray(ramp).save(picture, "PNG")
    package = Path(__file__).parents[1]
    needed = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED]
    with tempfile.TemporaryDirectory() as about:
        home = Path(about) / NETWORK
        home.mkdir()
        (home / "labelsets.json").write_text(json.dumps(labelsets, ensure_ascii=False, indent=1), encoding="utf-8")
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(package / "tracking" / "mlflow_model.py"),
            artifacts={NETWORK: str(home)},
            code_paths=[str(package)],
            pip_requirements=needed,
            signature=ModelSignature(
                inputs=Schema([ColSpec("binary", "picture")]),
                outputs=Schema([ColSpec("binary", name) for name in labelsets]),
                params=ParamSchema([ParamSpec("labelset", "string", "all")]),
            ),
            input_example=pd.DataFrame({"picture": [picture.getvalue()]}),
            metadata={"labelsets": {name: list(labels) for name, labels in labelsets.items()}},
        )


def _local(uri: str) -> Path | None:
    """The folder that a URI names, if it is one of this machine."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    return Path(local_file_uri_to_path(uri)) if is_local_uri(uri) else None


def _link(file: Path, place: Path) -> None:
    """The same file at another place: without a copy, where both are on one disk. Checkpoints are replaced and never changed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def _register(client: MlflowClient, name: str, model: Any, run_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = client.get_run(run_id)
    first = next(iter(run.data.metrics), "").partition("/")[0]
    scores = [f"{key} {value:.1f}" for key, value in run.data.metrics.items() if key.startswith(f"{first}/")]
    about = f"{run.info.run_name}: {', '.join(scores) or 'not scored'}"  # by which its versions are told apart
    client.create_model_version(name, model.artifact_location, run_id, model_id=model.model_id, description=about)


def _is_watched() -> bool:
    """Whether mlflow is asked, in its own way, to record the load of processors, memory, disk, network and GPUs."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    return bool(MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get())


def _start_monitor(uri: str, run_id: str, resumed: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=resumed, tracking_uri=uri)
    monitor.start()
    return monitor


def _view(scores: Sequence[str], less_is_better: bool) -> str:
    """The saved view of the runs table in which the scores are columns; sorted by one of them, runs below others stand in the list too."""
    chosen = [f"params.`{name}`" for name in ("strategy", "seed", "model")]
    state = {
        "selectedColumns": [*(f"metrics.`{name}`" for name in scores), *chosen], "orderByKey": f"metrics.`{scores[0]}`",
        "orderByAsc": less_is_better,
    }  # fmt: skip
    now = _milliseconds()
    return json.dumps({"name": "Scores", "createdAt": now, "updatedAt": now, "state": json.dumps(state)})


def _best_runs(client: MlflowClient, experiment_id: str, scores: Sequence[str], less_is_better: bool) -> str:
    """A markdown table of the runs that have the chief score, the best first."""
    order = [f"metrics.`{scores[0]}` {'ASC' if less_is_better else 'DESC'}"]
    runs = client.search_runs([experiment_id], order_by=order, max_results=MOST_RUNS)
    lines = [
        f"| {run.info.run_name} | " + " | ".join(f"{found[name]:.2f}" if name in found else "" for name in scores) + " |"
        for run in runs
        if scores[0] in (found := run.data.metrics)
    ]
    return "\n".join([f"| run | {' | '.join(scores)} |", f"| --- |{' --: |' * len(scores)}", *lines]) if lines else ""


def _absolute(uri: str) -> str:
    """The same store from every folder: the process may change its own later."""
    file = _sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file.as_posix()}"


def _sqlite_file(uri: str) -> Path | None:
    """The file of a store that is one. The fourth slash, if there is one, begins an absolute path."""
    name = uri.removeprefix("sqlite:///")
    return None if name in (uri, "", ":memory:") else Path(name).absolute()


@cache
def _key(name: str) -> str:
    """A name that MLflow accepts for a parameter, tag or metric: letters, digits and ``_-. :/``, no ``..`` or ``//``."""
    allowed = r"[^\w\-. /]" if os.name == "nt" else r"[^\w\-. :/]"
    return posixpath.normpath("/" + re.sub(allowed, "_", name)).lstrip("/")[:MAX_KEY].rstrip("/") or "_"


def _text(value: Any, limit: int) -> str:
    """A value as people write it in a YAML file, cut to what a store takes."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        text = f"[{', '.join(map(str, value))}]"
    elif value is None or isinstance(value, bool):
        text = json.dumps(value)
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _may_pass(error: Exception) -> bool:
    """A locked store, a full disk or a server that starts again may recover; a value that was refused will not."""
    if hasattr(error, "error_code"):  # an MlflowException
        return error.error_code in ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _line(error: BaseException) -> str:
    """What went wrong, in one line: what the operating system or SQLite said where one of them lies at the bottom."""
    chain = [error]
    while deeper := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(deeper)
    told = next((e for e in reversed(chain) if isinstance(e, (OSError, sqlite3.Error))), error)
    text = (str(told).strip() or type(told).__name__).splitlines()[0].rstrip(".")
    return text if len(text) <= 300 else text[:299] + "…"


def _warn(sentence: str) -> None:
    print(f"warning: tracking: {sentence}", file=sys.stderr, flush=True)
