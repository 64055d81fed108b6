"""Several runs by launchers of Hydra's: at once in processes of joblib's and of submitit's, whose local executor stands for a cluster."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from toy import write_toy

from densemtmd import checkpoint, machine
from densemtmd.commands import train

ROOT = Path(__file__).parents[1]
SMALL = [
    "data=own", "model=patchnet",
    "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=300", "train.crop=24", "train.batch=4",
    "tracking=none", "cache=none", "score.scoring=strided", "score.probe=false",
]  # fmt: skip


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Settings of a small run in a folder of its own, with a table of two rows among the choices there."""
    files = [str(write_toy(tmp_path / "data", name, name.rstrip("s"))) for name in ("squares", "discs")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    rows = {"jt": ["strategy=jt"], "nf": ["strategy=nf"]}
    (tmp_path / "mine" / "experiment" / "toys.yaml").write_text(yaml.safe_dump({"rows": rows, "settings": SMALL, "seeds": [0]}))
    return ["--config-dir", "mine", f"data.datasets=[{','.join(files)}]", "data_root=data"]


def weights(path):
    return checkpoint.load(Path(path))[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def inside(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_table_by_submitit_and_one_after_the_other(arguments, capsys):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    table = ["experiment=toys", *arguments]
    assert train.main([*table, "name=one"]) == 0
    assert train.main([*table, "name=two", "hydra/launcher=submitit_local"]) == 0
    printed = capsys.readouterr().out
    assert "[1/2] jt-seed0" in printed and "jt-seed0: finished" in printed and "nf-seed0: finished" in printed
    for row in ("jt-seed0/best", "nf-seed0/discs/best"):
        assert same(weights(f"runs/one/{row}.safetensors"), weights(f"runs/two/{row}.safetensors"))
    assert "epoch    loss" in Path("runs/two/logs/jt-seed0.txt").read_text()
    assert inside() == ["data", "mine", "runs"]
    assert inside("runs/one") == ["jt-seed0", "nf-seed0", "table.yaml", "tracking.json"]


def test_multirun_by_joblib_says_what_fails_and_finishes_the_others(arguments, capfd):
    """One of two runs fails: after 300 outputs, its network has not learned its batch."""
    more = [*SMALL, *arguments, "train.lr=0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert train.main(["-m", "train.overfit=0,1", *more]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: only ")
    (logs,) = Path("runs/logs").iterdir()
    assert "0.txt" in inside(logs) and " failed: only " in (logs / "1.txt").read_text()
    assert len(list(Path("runs").glob("*/scores.json"))) == 1
    assert inside() == ["data", "mine", "runs"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-m", "hydra/launcher=joblob"], "did you mean 'joblib'"),
        (["-m", "seed=0,one"], "seed is 'one', expected a whole number"),
        (["-m", "train.lrr=1,2"], "did you mean"),
        (["-m", "train.lr=interval(0,1)"], "does not support sweep type"),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.jobs=2"], "hydra.launcher.jobs"),
        (["experiment=toys", "jobs=2", "hydra/launcher=joblib"], "give one of them"),
        (["experiment=toyz"], "did you mean 'toys'"),
        (["--config-name", "trian"], "did you mean 'train'"),
        (["--cfg", "job", "-p", "trian"], "did you mean 'train'"),
    ],
)
def test_mistakes_are_sentences(arguments, more, words, capsys):
    assert train.main([*arguments, *more]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not list(Path().glob("runs/*/config.yaml"))


def test_settings_of_ones_own(arguments, capsys):
    (Path("mine") / "data").mkdir()
    (Path("mine") / "data" / "ours.yaml").write_text("# @package data\nname: ours\ndatasets: [stanford]\n")
    (Path("mine") / "base.yaml").write_text("defaults: [train, _self_]\nseed: 7\ntrain: {lr: 0.5}\n")
    ours = ["--config-dir", "mine", "--config-name", "base", "data=ours"]
    assert train.main([*ours, "--cfg", "job", "train.batch=3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["seed"] == 7 and shown["train"]["lr"] == 0.5 and shown["train"]["batch"] == 3 and shown["data"]["name"] == "ours"
    assert "hydra" not in shown and shown["strategy"]["name"] == "jt"


def test_the_cores_are_those_that_may_be_used():
    command = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from densemtmd.machine import cores; print(cores())"
    if hasattr(os, "sched_setaffinity"):
        assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout == "1\n"
    assert machine.cores() >= 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux has them")
def test_ctrl_c_ends_all(arguments):
    """A signal to the first process alone, as a scheduler sends it: from a terminal, all get one."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    table = ["experiment=toys", *arguments, "train.outputs=100000000", "hydra/launcher=submitit_local"]

    def work():
        # A shell that starts the tests in the background lets them ignore the signal, and so what they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.stderr = out = open("out.txt", "w", buffering=1)  # noqa: PTH123, SIM115 (ends with the process)
        for number in (1, 2):  # also of what it starts
            os.dup2(out.fileno(), number)
        os._exit(train.main(table))

    process = multiprocessing.get_context("fork").Process(target=work)  # the imports are there already
    process.start()
    first = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while len(list(Path("runs").glob("*/*/config.yaml"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.exitcode is None, Path("out.txt").read_text()
    started = first.children(recursive=True)
    assert len(started) >= 2
    try:
        first.send_signal(signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130, Path("out.txt").read_text()
        assert not psutil.wait_procs(started, timeout=10)[1]
        assert "Traceback" not in Path("out.txt").read_text()
    finally:
        for one in (first, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def test_parts_of_many_pictures_as_an_array(arguments):
    """``infer --shard`` in the jobs of submitit's local executor, which stands for a cluster's array."""
    submitit = pytest.importorskip("submitit")
    assert train.main([*arguments, *SMALL, "name=run", "train.outputs=8"]) == 0
    infer = [sys.executable, "-m", "densemtmd", "infer", "data/squares/images", "--outputs", "ids", "--labelset", "squares", "--out", "ids"]
    executor = submitit.LocalExecutor(folder="jobs")
    executor.update_parameters(timeout_min=5)
    parts = [submitit.helpers.CommandFunction([*infer, "--shard", f"{part}/2"], verbose=False) for part in (1, 2)]
    said = [job.result() for job in [executor.submit(part) for part in parts]]
    assert len(said) == 2 and inside("ids") == [f"{n:03}.png.squares.png" for n in range(12)]
