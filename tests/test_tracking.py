"""The tracker, read back with MLflow's own client."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import densemtmd
from densemtmd import origin
from densemtmd.errors import UserError
from densemtmd.tracking import Tracker, environment, environment_tags, flatten, mlflow_store, open_tracker

mlflow = pytest.importorskip("mlflow")
psutil = pytest.importorskip("psutil")

PACKAGE = Path(densemtmd.__file__).parent

# Two of these start at the same moment in a folder without a store; the second one dies without a word.
TRAINING = f"""
import os, signal, sys, types
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
sys.modules["densemtmd"] = package = types.ModuleType("densemtmd")  # without torch, which takes a second to import
package.__path__ = [{str(PACKAGE)!r}]
from densemtmd.tracking import open_tracker
tracker = open_tracker("mlflow", "shared", sys.argv[1])
for step in range(50):
    tracker.metrics({{"loss": step}}, step)
if sys.argv[1] == "killed":
    tracker.flush()
    os.kill(os.getpid(), signal.SIGKILL)
tracker.child("below").finish()
tracker.finish()
sys.exit(f"reached for the network: {{asked}}" if asked else 0)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """A store that two processes created and used at the same moment, and how the two ended."""
    folder = tmp_path_factory.mktemp("shared")
    # mlflow switches its telemetry off by itself where it finds a test or a CI machine.
    quiet = {"PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "MLFLOW_TRACKING_URI", *mlflow_store.QUIET}
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    command = [sys.executable, "-c", TRAINING]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, n], cwd=folder, env=environment, **pipes) for n in ("whole", "killed")]
    ended = []
    for process in running:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return folder, ended


Open = Callable[..., Tracker]


@pytest.fixture
def opened(shared: tuple[Path, list[subprocess.CompletedProcess[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens trackers on a store of this test, in the folder where it stands; a copy, as making one takes a second."""
    shutil.copy(shared[0] / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def one(run_name: str = "run", **options) -> Tracker:
        return open_tracker("mlflow", options.pop("experiment", "experiment"), run_name, **options)

    return one


def client(folder: Path | None = None) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{(folder or Path.cwd()) / 'mlflow.db'}")


def history(run_id: str | None, key: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client().get_metric_history(run_id, key))


# --- nothing is written


def use_everything(tracker: Tracker) -> None:
    with tracker:
        tracker.params({"a": {"b": 1}})
        tracker.tags({"a": 1})
        tracker.text("a: 1\n", "config.yaml")
        tracker.table(["a"], [[1]], "table.json")
        tracker.experiment("what it is", ["IoU/all"])
        tracker.network("network", {}, {})
        tracker.metrics({"loss": 1.0}, 0, synchronous=True)
        tracker.image(np.zeros((4, 4, 3), np.uint8), "key", 0)
        tracker.describe("**IoU** 50", Image.new("RGB", (8, 4)))
        tracker.artifact(__file__)
        tracker.dataset("kundu", ".", "abc", "training")
        with tracker.child("below") as child:
            child.metrics({"loss": 1.0}, 0)
        tracker.flush()


def test_without_mlflow_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker("none", "experiment", "run")
    use_everything(tracker)
    assert tracker.run_id is None
    assert not list(tmp_path.iterdir())


def test_without_mlflow_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"pip install 'mlflow.*tracking=none"):
        open_tracker("mlflow", "experiment", "run")


def test_only_this_file_imports_mlflow_and_only_within_functions():
    def imports(tree: ast.AST) -> bool:
        names = [
            name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        ]
        return any(name.split(".")[0] == "mlflow" for name in names)

    for file in [*PACKAGE.rglob("*.py"), *PACKAGE.parent.glob("tools/*.py")]:
        if file.name == "mlflow_model.py":  # which mlflow runs
            continue
        tree = ast.parse(file.read_text())
        if file.name != "mlflow_store.py":
            assert not imports(tree), file
        else:  # importing it with mlflow missing is what the two tests above do; the type checker's imports do not count
            top = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If))]
            assert not any(imports(node) for node in top)


# --- what is written


def test_what_is_recorded_can_be_read_back(opened, tmp_path):
    with opened("first") as tracker:
        tracker.params({"model": {"name": "patchnet"}, "seeds": [0, 1], "out": None, "long": "x" * 9000})
        tracker.params({f"many.{i}": i for i in range(150)})
        tracker.tags({"version.torch": "2"})
        tracker.text("model: patchnet\n", "config.yaml")
        for step in range(1100):  # more than one write may hold
            tracker.metrics({"loss": {"total": step / 2}}, step)
        tracker.metrics({"val": {"kundu": {"global": np.float32(0.5)}}, "tree & bush//": 1}, 7)
        (tmp_path / "table.csv").write_text("a,b\n")
        tracker.artifact(tmp_path / "table.csv", "tables")
        (tmp_path / "samples").mkdir()
        (tmp_path / "samples" / "one.txt").write_text("1")
        tracker.artifact(tmp_path / "samples")
        for step in range(3):
            tracker.image(np.full((4, 5, 3), step, np.uint8), "val/kundu", step)
        tracker.dataset("kundu", tmp_path, "0123456789abcdef", "training", {"images": 715})
        for rows in ([["nf", 1.5]], [["nf", 1.5], ["jt", 2.0]]):
            tracker.table(["row", "IoU"], rows, "tables/scores.json")
        tracker.metrics({"IoU/all": 46.2, "IoU/kundu": 50.0}, 0)
        tracker.experiment("What it is.", ["IoU/all", "IoU/kundu"])

    run = client().get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params["model.name"] == "patchnet"
    assert run.data.params["seeds"] == "[0, 1]"
    assert run.data.params["out"] == "null"
    assert run.data.params["long"] == "x" * 5999 + "…"
    assert sum(key.startswith("many.") for key in run.data.params) == 150
    assert run.data.tags["version.torch"] == "2"
    assert history(tracker.run_id, "loss/total") == [(step, step / 2) for step in range(1100)]
    assert history(tracker.run_id, "val/kundu/global") == [(7, 0.5)]
    assert history(tracker.run_id, "tree _ bush") == [(7, 1.0)]

    root = tmp_path / "mlartifacts" / "experiment" / run.info.run_id / "artifacts"
    assert (root / "config.yaml").read_text() == "model: patchnet\n"
    assert (root / "tables" / "table.csv").read_text() == "a,b\n"
    shown = client().load_table(run.info.experiment_id, "tables/scores.json", [run.info.run_id])
    assert shown.to_dict("list") == {"row": ["nf", "jt"], "IoU": [1.5, 2.0]}  # the later one took the place of the earlier
    about = client().get_experiment(run.info.experiment_id).tags
    view = json.loads(json.loads(about["mlflow.sharedViewState.scores"])["state"])
    assert view["selectedColumns"][:2] == ["metrics.`IoU/all`", "metrics.`IoU/kundu`"] and not view["orderByAsc"]
    assert about["mlflow.note.content"].startswith("What it is.") and about["mlflow.note.content"].endswith("| first | 46.20 | 50.00 |")
    assert (root / "samples" / "one.txt").read_text() == "1"
    steps = {int(file.name.split("+")[2]): Image.open(file) for file in (root / "images").glob("val~kundu+*.png")}
    assert {step: image.getpixel((0, 0)) for step, image in steps.items()} == {step: (step,) * 3 for step in range(3)}
    listed = {item.path for item in client().list_artifacts(run.info.run_id)}
    assert listed == {"config.yaml", "images", "samples", "tables"}

    (seen,) = run.inputs.dataset_inputs
    source = mlflow.data.get_source(seen)
    assert (seen.dataset.name, seen.dataset.digest) == ("kundu", "0123456789ab")
    assert json.loads(seen.dataset.profile) == {"digest": "0123456789abcdef", "images": 715}
    assert Path(source.uri) == tmp_path
    assert [(tag.key, tag.value) for tag in seen.tags] == [("mlflow.data.context", "training")]


def test_what_is_not_finite_is_recorded_as_nan(opened):
    with opened() as tracker:
        for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, 2.0]):
            tracker.metrics({"loss": value}, step)
    values = [value for _, value in history(tracker.run_id, "loss")]
    assert np.array_equal(values, [1, math.nan, math.nan, math.nan, 2], equal_nan=True)
    assert client().get_run(tracker.run_id).data.tags["infinite.loss"] == "inf at step 2"


def test_flatten_keeps_every_value():
    nested = {"a": 1, "b": {"c": {"d": 2}, "e": []}, "f": [{"g": 3}, {"g": 4}], "h": [1, 2], "i": {}}
    assert flatten(nested) == {"a": 1, "b.c.d": 2, "b.e": [], "f.0.g": 3, "f.1.g": 4, "h": [1, 2], "i": {}}
    assert flatten({"val": {"kundu": 1}}, "/") == {"val/kundu": 1}


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_mlflow_accepts_every_name(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(mlflow_store._key(name))
    _validate_param_name(mlflow_store._key(name))
    assert 0 < len(mlflow_store._key(name)) <= 250


def test_recording_costs_the_loop_less_than_a_millisecond(opened):
    with opened() as tracker:
        numbers = {f"train/{i}": float(i) for i in range(10)}
        taken = []
        for step in range(300):
            began = time.perf_counter()
            tracker.metrics(numbers, step)
            taken.append(time.perf_counter() - began)
    assert np.median(taken) < 1e-3
    assert len(history(tracker.run_id, "train/9")) == 300


def test_synchronous_metrics_are_there_at_once(opened):
    tracker = opened()
    tracker.metrics({"loss": 1.0}, 3, synchronous=True)
    assert history(tracker.run_id, "loss") == [(3, 1.0)]
    tracker.finish()


def test_environment_tags_name_code_versions_and_hardware():
    import torch

    tags = environment_tags(["data=stanford", "seed=1"])
    assert tags["overrides"] == "data=stanford seed=1"
    assert tags["version.torch"] == torch.__version__
    assert tags["version.python"] == ".".join(map(str, sys.version_info[:3]))
    assert tags["hardware.cpu"] and int(tags["hardware.cores"]) >= 1
    assert (tags["hardware.gpu"] == "none") == (not torch.cuda.is_available())
    assert "overrides" not in environment_tags()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_recorded_and_whether_the_code_was_changed(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    file = tmp_path / "environment.py"
    file.write_text("1")
    monkeypatch.setattr(origin, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert origin.code() == ("", False)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    tags = environment.environment_tags()
    assert origin.code() == (commit, False) and (tags["mlflow.source.git.commit"], tags["mlflow.source.git.dirty"]) == (commit, "false")
    file.write_text("2")
    assert environment.environment_tags()["mlflow.source.git.dirty"] == "true"


# --- how runs begin and end


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (ValueError("bad"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(128 + signal.SIGTERM), "KILLED"),
    ],
    ids=repr,
)
def test_the_status_says_how_the_run_ended(opened, error, status):
    with pytest.raises(type(error)) if error else opened("other"), opened() as tracker:
        tracker.metrics({"loss": 1.0}, 0)
        if error:
            raise error
    run = client().get_run(tracker.run_id)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}
    assert run.data.tags.get("error") == (f"{type(error).__name__}: {error}" if status == "FAILED" else None)


def test_the_first_end_counts(opened):
    with opened() as tracker:
        tracker.finish("KILLED")
        tracker.metrics({"late": 1.0}, 0)
    run = client().get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("KILLED", {})


def test_a_resumed_run_goes_on(opened, capsys):
    first = opened("first")
    first.params({"seed": 0, "epochs": 10})
    first.metrics({"loss": 1.0}, 1)
    first.finish("KILLED")

    again = opened("another name", experiment="another experiment", resume=first.run_id)
    assert again.run_id == first.run_id
    assert client().get_run(first.run_id).info.status == "RUNNING"
    again.params({"seed": 0, "epochs": 20, "new": 1})
    again.metrics({"loss": 0.5}, 2)
    again.finish()

    run = client().get_run(first.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params == {"seed": "0", "epochs": "10", "new": "1"}
    assert run.data.tags["resumed.epochs"] == "20"
    assert history(first.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert capsys.readouterr().err.count("epochs") == 1


def test_parent_and_children_do_not_confuse_each_other(opened):
    parent = opened("parent")
    children = [parent.child(f"child {i}") for i in range(3)]
    elsewhere = opened("elsewhere", experiment="not the parent's", parent=parent.run_id)
    unrelated = opened("unrelated")
    everyone = [parent, *children, elsewhere, unrelated]
    for step in range(5):
        for number, tracker in enumerate(everyone):
            tracker.metrics({"number": number}, step)
    for tracker in reversed(everyone):
        tracker.finish()

    for number, tracker in enumerate(everyone):
        run = client().get_run(tracker.run_id)
        assert run.info.status == "FINISHED"
        assert history(tracker.run_id, "number") == [(step, number) for step in range(5)]
        below = None if tracker in (parent, unrelated) else parent.run_id
        assert run.data.tags.get("mlflow.parentRunId") == below
        assert run.info.experiment_id == client().get_experiment_by_name("experiment").experiment_id
    assert mlflow.active_run() is None


def test_neighbours_have_different_colours(opened):
    def colour(tracker: Tracker) -> str:
        return client().get_run(tracker.run_id).data.tags["mlflow.runColor"]

    runs, children = [], []
    for _ in range(3):
        with opened() as tracker:
            runs.append(tracker)
            for name in "ab":
                children.append(tracker.child(name))
                time.sleep(0.002)  # runs are told apart by the millisecond they began
                children[-1].finish()
    assert tuple(map(colour, runs)) == mlflow_store.COLOURS[:3]
    assert tuple(map(colour, children)) == mlflow_store.COLOURS[:2] * 3


def test_system_metrics_are_recorded_until_the_end(opened, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    with opened() as tracker:
        time.sleep(0.5)
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    metrics = client().get_run(tracker.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100 * os.cpu_count()


# --- two processes


def test_two_processes_may_create_one_store(shared):
    folder, (whole, killed) = shared
    assert (whole.returncode, killed.returncode) == (0, -signal.SIGKILL), whole.stderr + killed.stderr
    assert {file.name for file in folder.iterdir()} == {"mlflow.db"}
    found = client(folder).search_runs([client(folder).get_experiment_by_name("shared").experiment_id])
    assert sorted(run.info.run_name for run in found) == ["below", "killed", "whole"]
    for run in found:
        if run.info.run_name != "below":
            steps = {m.step for m in client(folder).get_metric_history(run.info.run_id, "loss")}
            assert steps == set(range(50))


def test_the_console_belongs_to_the_training(shared):
    _, ended = shared
    assert [process.stdout + process.stderr for process in ended] == ["", ""]


def test_a_run_that_died_without_a_word_is_marked(shared, monkeypatch):
    folder, _ = shared
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    open_tracker("mlflow", "shared", "next").finish()
    found = client().search_runs([client().get_experiment_by_name("shared").experiment_id])
    assert {run.info.run_name: run.info.status for run in found} == {
        "whole": "FINISHED",
        "below": "FINISHED",
        "killed": "KILLED",
        "next": "FINISHED",
    }


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ({}, "RUNNING"),  # this process, which lives
        ({"densemtmd.started": "1"}, "KILLED"),  # an older process that had the number of this one
        ({"densemtmd.pid": str(2**22 + 1)}, "KILLED"),  # above every number that Linux gives
        ({"densemtmd.host": "another"}, "RUNNING"),  # nobody here can know
        ({"densemtmd.pid": "?"}, "RUNNING"),
    ],
    ids=str,
)
def test_only_dead_runs_of_this_machine_are_marked(opened, tags, status):
    tracker = opened()
    for key, value in tags.items():
        client().set_tag(tracker.run_id, key, value)
    opened().finish()
    assert client().get_run(tracker.run_id).info.status == status


# --- what goes wrong


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"uri": "runs"}, r"folder such as runs: use a file such as sqlite:///mlflow.db"),
        ({"uri": "sqlite:///a_file/below/mlflow.db"}, r"a_file/below/mlflow.db cannot be used \(.*a_file.*tracking=none"),
        ({"uri": "sqlite:///a_file"}, r"a_file cannot be used \(file is not a database\)"),
        ({"uri": "sqlite:///a_folder"}, r"a_folder cannot be used \(it is no file\): .*tracking=none"),
        ({"uri": "http://127.0.0.1:1"}, r"127.0.0.1:1 cannot be used \(.*refused"),
        ({"resume": "0" * 32}, r"run 0{32} is not in the MLflow store .*tracking=none"),
        ({"parent": "0" * 32}, r"run 0{32} is not in the MLflow store"),
        ({"experiment": "deleted"}, r"experiment deleted in .* has been deleted: .* `mlflow experiments restore"),
        ({"experiment": "served"}, r"experiment served in .* behind the server"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_store_that_cannot_be_opened_is_the_users_to_mend(opened, monkeypatch, options, sentence):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    Path("a_file").write_text("no database")
    Path("a_folder").mkdir()
    client().delete_experiment(client().create_experiment("deleted"))
    client().create_experiment("served", artifact_location="mlflow-artifacts:/9")
    with pytest.raises(UserError, match=sentence) as raised:
        opened(**options)
    assert "\n" not in str(raised.value)


def test_an_unknown_kind_is_refused():
    for kind, words in (("mlfow", "tracking is 'mlfow'; .*did you mean 'mlflow'"), ("no_module:run", "no_module:run.*cannot be imported")):
        with pytest.raises(UserError, match=words):
            open_tracker(kind, "experiment", "run")


def test_tensorboard_shows_what_is_recorded(tmp_path):
    """Read back with TensorBoard's own reader; children and a second run of the name lie beside."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    uri = str(tmp_path / "board")
    use_everything(open_tracker("tensorboard", "experiment", "run", uri))
    again = open_tracker("tensorboard", "experiment", "run", uri)
    again.finish()
    resumed = open_tracker("tensorboard", "experiment", "run", uri, resume="experiment/run")
    resumed.metrics({"loss": math.nan, "val": {"IoU": np.float32(0.5)}}, 7)
    resumed.finish()
    assert (again.run_id, resumed.run_id) == ("experiment/run-2", "experiment/run")
    found = reader.EventAccumulator(str(tmp_path / "board" / "experiment" / "run")).Reload()
    assert [(one.step, one.value) for one in found.Scalars("val/IoU")] == [(7, 0.5)]
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(0, 1.0)]
    assert found.Images("key")[0].width == 4
    assert "parameters/text_summary" in found.Tags()["tensors"]
    assert (tmp_path / "board" / "experiment" / "run" / "below").is_dir()


def test_a_run_that_is_still_going_is_not_resumed(opened):
    tracker = opened()
    alive = psutil.Process(os.getppid())
    client().set_tag(tracker.run_id, "densemtmd.pid", alive.pid)
    client().set_tag(tracker.run_id, "densemtmd.started", alive.create_time())
    with pytest.raises(UserError, match=f"still going in process {alive.pid}"):
        opened(resume=tracker.run_id)
    tracker.finish()


def test_the_environment_names_the_store_and_an_argument_overrules_it(opened, tmp_path, monkeypatch):
    shutil.copy("mlflow.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    with opened() as tracker:
        assert tracker.uri == f"sqlite:///{tmp_path / 'other.db'}"
        assert tracker.viewer.startswith(f"mlflow ui --backend-store-uri {tracker.uri}, then http://127.0.0.1:5000/#/experiments/")
        monkeypatch.chdir("/")  # the store stays where it is
        tracker.metrics({"loss": 1.0}, 0)
    monkeypatch.chdir(tmp_path)
    assert mlflow.MlflowClient(tracker.uri).get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    with opened(uri="sqlite:///mlflow.db") as tracker:
        assert tracker.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_locked_store_does_not_hold_up_the_loop(opened, capsys):
    tracker = opened()
    lock = sqlite3.connect("mlflow.db", isolation_level=None)
    lock.execute("begin exclusive")
    began = time.perf_counter()
    tracker.metrics({"loss": 1.0}, 0)
    tracker.tags({"a": 1})
    assert time.perf_counter() - began < 0.1
    threading.Timer(0.3, tracker._writer._hurry.set).start()  # let the writer run into the lock
    time.sleep(0.6)
    lock.execute("rollback")
    lock.close()
    tracker.finish()
    run = client().get_run(tracker.run_id)
    assert (run.data.metrics, run.data.tags["a"], run.info.status) == ({"loss": 1.0}, "1", "FINISHED")
    assert capsys.readouterr().err == ""


def test_a_failure_that_passes_loses_nothing(opened, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    monkeypatch.setattr(mlflow_store, "RETRY_PAUSES", (0.01, 0.01))
    tracker = opened()
    log_batch, calls = tracker._client.log_batch, []

    def fails_twice(*arguments, **options):
        calls.append(arguments)
        if len(calls) <= 2:
            raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
        return log_batch(*arguments, **options)

    monkeypatch.setattr(tracker._client, "log_batch", fails_twice)
    tracker.metrics({"loss": 1.0}, 0)
    tracker.finish()
    assert history(tracker.run_id, "loss") == [(0, 1.0)]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "database is locked" in lines[0] and "the training goes on" in lines[0]


def test_what_the_store_refuses_is_dropped_and_counted(opened, capsys, tmp_path):
    tracker = opened()
    tracker.artifact(tmp_path / "missing.txt")
    tracker.artifact(tmp_path / "missing.png")
    tracker.metrics({"loss": "high", "other": 1.0}, 0)
    tracker.finish()
    run = client().get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"other": 1.0})
    first, last = capsys.readouterr().err.splitlines()
    assert "metric loss could not be written" in first
    assert "2 records of this run were not written" in last


def test_a_store_that_is_gone_does_not_hold_up_the_end(opened, monkeypatch, capsys):
    def gone(*arguments, **options):
        raise ConnectionRefusedError("gone")

    monkeypatch.setattr(mlflow_store, "FINISH_SECONDS", 0.2)
    tracker = opened()
    for name in ("log_batch", "set_terminated", "create_run"):
        monkeypatch.setattr(tracker._client, name, gone)
    tracker.metrics({"loss": 1.0, "other": 2.0}, 0)
    child = tracker.child("below")
    child.metrics({"loss": 1.0}, 0)  # goes nowhere
    began = time.perf_counter()
    tracker.finish()
    assert time.perf_counter() - began < 2
    first, last = capsys.readouterr().err.splitlines()
    assert "could not be written" in first and "(gone)" in first
    assert "3 records of this run were not written" in last
