"""Several processes in one folder: who was first is not disturbed, and who comes second is told by whom; a killed one leaves nothing in
the way."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from toy import write_toy

from densemtmd import checkpoint
from densemtmd.commands import train
from densemtmd.runs.launch import end_with
from densemtmd.runs.lock import LOCK, Held, held, holder_of
from densemtmd.runs.run import Table
from densemtmd.runs.table import Experiment, carry_out, plan_table

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such locks"),
]

SMALL = [
    "data=own", "model=patchnet", "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=300", "train.crop=24",
    "train.batch=4", "tracking=none", "cache=none", "score.scoring=strided", "score.probe=false",
]  # fmt: skip


@contextlib.contextmanager
def another(work):
    """A process that does the work and then waits; killed at the end."""
    ready, say = multiprocessing.Pipe(False)

    def run():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 (ends with the process)
        work(say.send)
        say.send("done")
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    try:
        yield process, ready
    finally:
        process.kill()
        process.join()


def holding(file):
    """Work that takes the lock of a file and never gives it back."""

    def work(say):
        with held(file, file):
            say("done")
            time.sleep(60)

    return another(work)


def test_a_second_process_is_told_who_was_first(tmp_path):
    with holding(tmp_path / LOCK) as (process, ready):
        assert ready.recv() == "done"
        with pytest.raises(Held) as caught, held(tmp_path / LOCK, "the table"):
            pass
        assert str(caught.value).startswith(f"the table is being worked on by process {process.pid} on {socket.gethostname()} since 20")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as on its way from a worker
        assert holder_of(tmp_path / LOCK).startswith(f"process {process.pid} on ")
        threading.Timer(0.3, process.kill).start()
        with held(tmp_path / LOCK, "the table", wait=10):  # ends with its process, although the file is left
            assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert holder_of(tmp_path / LOCK) is None and not list(tmp_path.iterdir())


def test_nor_may_the_same_process_twice(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with held(tmp_path / "run" / LOCK, "it"):
        for folder in ("run", "link"):
            with pytest.raises(Held, match=f"process {os.getpid()} "), held(tmp_path / folder / LOCK, "it"):
                pass
        with holding(tmp_path / "run" / LOCK) as (_, ready), pytest.raises(EOFError):
            time.sleep(0.3)  # it has failed, and still holds nothing
            assert not ready.poll() or ready.recv()
            raise EOFError
    with held(tmp_path / "run" / LOCK, "it"):
        pass


def test_a_hundred_turns_of_two_processes(tmp_path):
    """Each adds to a number that it reads and writes: none is lost, although the file of the lock is made and removed each time."""
    (tmp_path / "number").write_text("0")

    def count(say=None):
        for _ in range(50):
            with held(tmp_path / LOCK, "it", wait=30):
                (tmp_path / "number").write_text(str(int((tmp_path / "number").read_text()) + 1))

    import densemtmd.runs.lock as module

    before, module.PAUSE = module.PAUSE, 0.0005
    try:
        with another(count) as (_, ready):
            count()
            assert ready.recv() == "done"
    finally:
        module.PAUSE = before
    assert (tmp_path / "number").read_text() == "100" and [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_file_system_that_cannot_lock_is_said_so_of(tmp_path, monkeypatch, capsys):
    import fcntl

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with held(tmp_path / LOCK, "it"):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().out


def test_a_full_disk_does_not_keep_a_lock_from_being_held(tmp_path, monkeypatch):
    """Only who holds it cannot be noted then."""

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with held(tmp_path / LOCK, "it"):
        assert (tmp_path / LOCK).stat().st_size == 0
    assert not (tmp_path / LOCK).exists()


def test_workers_end_with_the_process_that_launched_them():
    """It is killed, and can tell them nothing."""
    said, say = multiprocessing.Pipe(False)

    def launcher():
        own, context = os.getpid(), multiprocessing.get_context("fork")

        def worker():
            end_with(own)
            say.send(os.getpid())
            time.sleep(60)

        context.Process(target=worker).start()
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=launcher)
    process.start()
    worker = said.recv()
    process.kill()
    process.join()
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}/stat").exists() and " Z " not in Path(f"/proc/{worker}/stat").read_text() and time.monotonic() < end:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        ended = " Z " in Path(f"/proc/{worker}/stat").read_text()
        os.kill(worker, signal.SIGKILL)
        assert ended


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The arguments of a table of two rows, and its folder."""
    root = tmp_path_factory.mktemp("table")
    files = [str(write_toy(root / "data", name, name.rstrip("s"))) for name in ("squares", "discs")]
    (root / "mine" / "experiment").mkdir(parents=True)
    rows = {"a": ["strategy=jt"], "b": ["strategy=jt", "train.lr=0.002"]}
    (root / "mine" / "experiment" / "toys.yaml").write_text(yaml.safe_dump({"rows": rows, "settings": SMALL, "seeds": [0]}))
    places = [f"data.datasets=[{','.join(files)}]", f"data_root={root / 'data'}", f"runs={root / 'runs'}"]
    return ["experiment=toys", "--config-dir", str(root / "mine"), *places], root / "runs" / "toys"


def test_a_table_that_two_work_on(table, capsys):
    """The other has a row, and is not disturbed; what it has begun to write is no stray."""
    arguments, folder = table
    (folder / "b-seed0").mkdir(parents=True)
    with holding(folder / "b-seed0" / LOCK) as (process, ready):
        assert ready.recv() == "done"
        live = folder / "b-seed0" / f".{'0' * 32}.safetensors"
        live.write_bytes(b"half")
        assert train.main(arguments) == 0
        told = capsys.readouterr()
        assert f"b-seed0 is left out: {folder / 'b-seed0'} is being worked on by process {process.pid} " in told.err
        assert "1 of 2 runs are still trained by others: b-seed0" in told.out
        assert (folder / "a-seed0" / "scores.json").exists() and {*(folder / "b-seed0").iterdir()} == {live, folder / "b-seed0" / LOCK}
    assert train.main(arguments) == 0  # it was killed
    assert (folder / "b-seed0" / "scores.json").exists() and not live.exists()
    assert not [path for path in folder.rglob("*") if path.name == LOCK or path.name.startswith(".")]


def test_a_run_that_is_being_trained_is_not_resumed(table, capsys):
    arguments, folder = table
    assert train.main(arguments) == 0
    run = folder / "a-seed0"
    with holding(run / LOCK) as (process, ready):
        assert ready.recv() == "done"
        live = run / f".{'0' * 32}.safetensors"
        live.write_bytes(b"half")
        assert train.main([f"resume={run}"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{run} is being worked on by process {process.pid} on " in error and live.exists()
    assert train.main([f"resume={run}"]) == 0 and not live.exists()


def test_killed_at_each_file_of_its_beginning_a_row_still_ends_the_same(table, tmp_path):
    """It is killed when its first file is about to get its name, begun again and killed at the second, and so on: among them are all
    that a run is recorded in."""
    arguments, folder = table
    assert train.main(arguments) == 0
    expected, _ = checkpoint.load(folder / "a-seed0" / "best.safetensors")
    (planned,) = plan_table(Experiment("toys", {"a": ["strategy=jt"]}, SMALL, [0]), [one for one in arguments if one.startswith("data")])
    row, killed_at = Table(tmp_path, None, ["densemtmd", "train"]), []
    rename = Path.replace
    for kill in (*range(10), *range(6)):  # before it has begun, and after

        def killed(say, kill=kill):
            left = [kill]

            def replace(path, target):
                if left[0] == 0:
                    say(str(target))
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return rename(path, target)

            Path.replace = replace
            carry_out(planned, row)

        with another(killed) as (process, ready):
            if (file := ready.recv()) == "done":  # less is left to do by now than it was killed after
                break
            killed_at.append(str(Path(file).relative_to(tmp_path)))
            process.join()
            assert process.exitcode == -signal.SIGKILL
    assert {"a-seed0/splits/discs/test.txt", "a-seed0/config.yaml", "a-seed0/last.safetensors"} <= {*killed_at}, killed_at
    assert carry_out(planned, row) == tmp_path / "a-seed0"
    found, _ = checkpoint.load(tmp_path / "a-seed0" / "best.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    strays = [path for path in tmp_path.rglob("*") if path.name == LOCK or path.name.startswith(".")]
    assert not strays, (strays, killed_at)
