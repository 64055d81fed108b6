"""Two processes that train one network together learn what one process learns, and end together."""

import contextlib
import copy
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from toy import MODEL, undraw, write_toy

from densemtmd import KeypointSet, Labelset, OutputSpace, checkpoint, losses, parallel, training
from densemtmd.backbones import build
from densemtmd.commands import train
from densemtmd.datasets.maps import KeptMaps
from densemtmd.datasets.mixing import Mixture, Source
from densemtmd.datasets.sample import Item, Sample, as_input
from densemtmd.errors import UserError
from densemtmd.evaluation import report, score_pictures
from densemtmd.settings import TrainSettings
from densemtmd.training import Budget, fit

SPACE = OutputSpace([Labelset("coarse", ["other", "red"]), Labelset("fine", ["other", "red", "blue"])])


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def in_processes(work, *arguments, number=2, seconds=100, meanwhile=lambda processes: None):
    """``work(*arguments)`` as torchrun starts it, in forked processes, which is quicker: their exit codes, and what each said."""
    fork, port, folder = multiprocessing.get_context("fork"), free_port(), Path(tempfile.mkdtemp())

    def begin(rank):
        os.environ.update(
            RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE=f"{number}", LOCAL_WORLD_SIZE=f"{number}", MASTER_ADDR="localhost",
            MASTER_PORT=f"{port}", TORCHELASTIC_RUN_ID="test",
        )  # fmt: skip
        try:
            with (folder / f"{rank}").open("w", buffering=1) as said:
                os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
                sys.stdout = sys.stderr = said
                os._exit(work(*arguments) or 0)
        except BaseException:
            traceback.print_exc()
        os._exit(99)

    started = [fork.Process(target=begin, args=(rank,)) for rank in range(number)]
    for process in started:
        process.start()
    try:
        meanwhile(started)
        for process in started:
            process.join(seconds)
    finally:
        for process in started:
            process.kill()
            process.join()
    return [process.exitcode for process in started], [(folder / f"{rank}").read_text() for rank in range(number)]


def all_together(work, *arguments):
    """The first process calls the others to ``work``, and does it too."""
    with parallel.joined() as first:
        if not first:
            return parallel.serve()
        with parallel.together(work, *arguments):
            work(*arguments)
    return 0


def made_samples(task, count=4, side=40, seed=0):
    random, samples = np.random.default_rng([seed, task]), []
    for n in range(count):
        where = random.random((2, 5, 5)).repeat(side // 5, 1).repeat(side // 5, 2) < 0.3
        image = random.integers(60, 120, (side, side, 3)).astype(np.uint8)
        image[where[0]], image[where[1]] = (230, 40, 40), (40, 40, 230)
        red = where[0] & ~where[1]
        target = red.astype(np.uint8) if task == 0 else np.where(where[1], 2, red).astype(np.uint8)
        target[:, :2] = 255
        samples.append(Sample(image, target, f"{task}-{n}"))
    return samples


def trained(folder: Path, steps: int, changes):
    """Losses of a small training, which every process writes into a file of its own, with the weights that it ends with."""
    settings = TrainSettings(**{"crop": 24, "batch": 6, "minutes": None, "patience": 0, **changes})
    torch.manual_seed(0)
    network = build({**MODEL, "dropout": 0.3}, SPACE).to(torch.get_default_dtype(), memory_format=torch.channels_last)
    sources = [Source(name, k, k, made_samples(k)) for k, name in enumerate(SPACE.names)]
    mixture = Mixture(sources, network.geometry, crop=24, batch=settings.batch, flip=True, border="reflect", mixing="pixels", seed=0)
    validation = {name: made_samples(k, 3, seed=1) for k, name in enumerate(SPACE.names)}

    def validate(network, quick=False):
        single, device = copy.deepcopy(network).float(), torch.device("cpu")
        found = {
            name: parallel.shared_out(lambda own, name=name: score_pictures(single, name, own, scoring="strided", device=device), samples)
            for name, samples in validation.items()
        }
        return report(found, {task.name: task for task in SPACE.tasks})

    losses = []
    state = fit(
        network, mixture, settings, Budget(steps * 240.0, math.inf, 2000.0), folder=folder, model=MODEL, validate=validate,
        losses=lambda step, values: losses.append((step, values["loss"])),
    )  # fmt: skip
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save((losses, weights, state), folder / f"{parallel.rank()}.pt")


def read(folder, rank=0):
    return torch.load(folder / f"{rank}.pt", weights_only=False)


@pytest.fixture
def in_float64(monkeypatch):
    """Pictures in the precision in which another order of summation is next to nothing; and every loss is told."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(training, "as_input", lambda image: as_input(image).double())
    monkeypatch.setattr(training, "STEPS_UNREAD", 1)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "batch": 7, "optimizer": "sgd", "lr": 0.02, "average": 0.9}])
def test_two_processes_learn_what_one_does(tmp_path, in_float64, changes):
    """With batch norms, dropout and a running mean of the weights, loss by loss."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    trained(one, 20, changes)
    assert in_processes(all_together, trained, two, 20, changes)[0] == [0, 0]
    (losses, weights, state), first, second = read(one), read(two), read(two, 1)
    assert len(losses) >= 20
    assert [step for step, _ in first[0]] == [step for step, _ in losses]
    torch.testing.assert_close([loss for _, loss in first[0]], [loss for _, loss in losses], rtol=1e-9, atol=0)
    torch.testing.assert_close(first[1], weights, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(second[1][name], tensor) for name, tensor in first[1].items())
    assert first[2].outputs == second[2].outputs == state.outputs
    assert [epoch["scores"] for epoch in second[2].history] == [epoch["scores"] for epoch in first[2].history]


# ------------------------------------------------------------------------------------------------------------------------------------
# Losses and norms


def loss_named(name, outputs, target, task, weight):
    """A loss of (B, 5, 2, 2) outputs of which some samples are asked for."""
    if name == "domain":
        return losses.domain_loss(outputs[:, :2], task, weight)
    if name == "l2":
        keypoints = OutputSpace([KeypointSet("a", ["x"]), KeypointSet("b", ["x"])])
        mask = (target[:, 0, 0] != 255)[:, None].expand(-1, 3)
        return losses.selective_l2(outputs.flatten(1)[:, :6], outputs.detach().flatten(1)[:, 6:9], mask, task, keypoints, weight)
    if name == "shares":
        shares = torch.stack([(target == label) * 0.75 for label in range(3)], 1)
        return losses.selective_shares(outputs, shares, task, SPACE, weight)
    return getattr(losses, f"selective_{name}")(outputs, target, task, SPACE, weight)


LOSSES = ("cross_entropy", "focal", "dice", "shares", "l2", "domain")


def whole_batch(void):
    """Six samples; those at odd positions, which the second process has, may be void."""
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 5, 2, 2, generator=random, dtype=torch.float64)
    task = torch.tensor([0, 1, 1, 0, 1, 0])
    target = torch.randint(2, (6, 2, 2), generator=random)
    target[0] = 255
    if void:
        target[1::2] = 255
    return outputs, target, task, torch.rand(6, generator=random) + 0.5


def check_losses():
    """In every process: its loss is that of the whole batch, its gradient times the number of processes its part of the whole gradient,
    of which DistributedDataParallel takes the mean."""
    own = slice(parallel.rank(), None, 2)
    for void in (False, True):
        for name in LOSSES:
            outputs, *rest = whole_batch(void)
            with parallel.alone():
                expected = loss_named(name, outputs.requires_grad_(), *rest)
                expected.backward()
            mine = outputs.detach()[own].clone().requires_grad_()
            found = loss_named(name, mine, *(one[own] for one in rest))
            found.backward()
            assert expected > 0 and math.isclose(found.item(), expected.item(), rel_tol=1e-12), (name, found, expected)
            torch.testing.assert_close(mine.grad / 2, outputs.grad[own], rtol=1e-12, atol=1e-15)


def check_norms():
    """Batch norm and dropout of two processes, whose parts differ in size, against PyTorch's of the whole batch."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.Conv2d(4, 3, 1), nn.Dropout2d(0.5)).double()
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    mine, own = copy.deepcopy(whole), x[parallel.rank() :: 2].clone().requires_grad_()
    weights = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    torch.manual_seed(1)
    (whole(x.requires_grad_()) * weights).sum().backward()
    torch.manual_seed(1)
    with parallel.as_one(mine), parallel.part_of(5):
        parallel.total((mine(own) * weights[parallel.rank() :: 2]).sum()).backward()
    assert [type(module) for module in mine] == [type(module) for module in whole]
    torch.testing.assert_close(own.grad / 2, x.grad[parallel.rank() :: 2])
    torch.testing.assert_close(mine[0].state_dict(), whole[0].state_dict())
    torch.testing.assert_close(parallel.total(mine[0].weight.grad) / 2, whole[0].weight.grad)
    with parallel.as_one(mine, norms=False):
        assert type(mine[0]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="to be on GPU"):  # there PyTorch's own
        parallel._whole_norm(nn.BatchNorm2d, True)(4)(x)


def check_errors():
    """What the first process raises by itself is raised in all."""

    def nothing():
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        parallel.of_first(nothing)
    assert parallel.of_first(parallel.size) == 1 and parallel.size() == 2
    assert parallel.shared_out(lambda some: np.array([[one, np.nan] for one in some]), range(5))[:, 0].tolist() == [0, 1, 2, 3, 4]
    with parallel.alone() as first:
        assert first == (parallel._group.rank == 0) and parallel.size() == 1


def check_gradients():
    """They are the means of both processes', also after another part of the network learns, and not yet of parts that are added up."""
    layer, x = nn.Linear(2, 1), torch.tensor([[1.0, 2.0]]) * (1 + parallel.rank())
    shared = parallel.shared(layer)
    assert parallel.shared(layer, shared) is shared
    with parallel.unshared(shared):
        shared(x).sum().backward()
    assert layer.weight.grad.tolist() == x.tolist()
    shared(x).sum().backward()
    assert layer.weight.grad.tolist() == [[3.0, 6.0]] and layer.bias.grad.tolist() == [2.0]
    layer.bias.requires_grad_(False)
    other = parallel.shared(layer, shared)
    assert other is not shared
    del shared
    layer.weight.grad = None
    other(x).sum().backward()
    assert layer.weight.grad.tolist() == [[1.5, 3.0]]


class Blocks(nn.Module):
    """A frozen trunk, as far as keeping its maps goes: the means of blocks of 8×8 pixels."""

    grid, finer, pretrained = 8, (1.0,), {"weights": "none to speak of"}

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def quick_trunk(self):
        return self

    def identity(self):
        return "blocks"

    def shapes(self, height, width):
        return [(height // 8, width // 8, 3)]

    def maps(self, x):
        return [nn.functional.avg_pool2d(x, 8)]


class Counted(KeptMaps):
    made = 0

    def _make(self, samples, *rest):
        self.made += len(samples)
        super()._make(samples, *rest)


def check_features(folder):
    """Each process makes half of what is kept, and all of what is not; all have all."""
    samples = made_samples(0, count=5)
    items = tuple(Item(sample.name, Path(sample.name), Path(sample.name), "") for sample in samples)
    object.__setattr__(network := Blocks(), "trunk", network)
    for place, mine in ((folder, 3 - parallel.rank()), (None, 5)):
        kept = Counted(types.SimpleNamespace(name="some", splits={"train": items}), place)
        found = kept.of(network, samples)
        assert kept.made == mine
        for sample, maps in zip(samples, found, strict=True):
            blocks = sample.image.reshape(5, 8, 5, 8, 3).mean((1, 3)) / 255
            assert np.abs(maps.parts[0] - blocks).max() < 1e-3


def check_all(folder):
    check_losses()
    check_norms()
    check_errors()
    check_gradients()
    check_features(folder)


def test_losses_norms_gradients_and_features_of_two_processes(tmp_path):
    codes, said = in_processes(all_together, check_all, tmp_path)
    assert codes == [0, 0], said


def test_norms_of_their_own(tmp_path):
    """Each process counts its own crops, and yet both end with the same network, that of the first."""
    codes, said = in_processes(all_together, trained, tmp_path, 8, {"sync_norms": False})
    assert codes == [0, 0], said
    first, second = read(tmp_path), read(tmp_path, 1)
    assert all(torch.equal(second[1][name], tensor) for name, tensor in first[1].items())
    assert first[0] == second[0] and len(first[0]) >= 1


# ------------------------------------------------------------------------------------------------------------------------------------
# The command

SMALL = [
    "data=own", "data.datasets=[data/squares.yaml,data/discs.yaml]", "data_root=data", "model=patchnet", "model.widths=[4,6,8]",
    "model.hidden=8", "train.epochs=null", "train.outputs=1200", "train.epoch_outputs=600", "train.crop=24", "train.batch=6",
    "train.precision=float32", "tracking=none", "score.scoring=strided", "score.probe=false",
]  # fmt: skip


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Two datasets in the working directory."""
    for name in ("squares", "discs"):
        write_toy(tmp_path / "data", name, name.rstrip("s"))
    monkeypatch.chdir(tmp_path)
    undraw(monkeypatch)


def close(one, other):
    """Two checkpoints' weights are the same up to rounding."""
    one, other = (checkpoint.load(file)[0] for file in (one, other))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_a_table_of_several_stages(toys, tmp_path):
    """Gradient reversal, and a shared context on top of a joint network; half of the processes print and write nothing."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    rows = {"gr": ["strategy=jt_gr"], "jt": ["strategy=jt"], "sc": ["strategy=jtsc"]}
    settings = [*SMALL, "train.optimizer=sgd", "train.lr=0.01"]
    (tmp_path / "mine" / "experiment" / "toys.yaml").write_text(yaml.safe_dump({"rows": rows, "settings": settings}))
    table = ["--config-dir", "mine", "experiment=toys"]
    assert train.main([*table, "name=one"]) == 0
    codes, said = in_processes(train.main, [*table, "name=two"])
    assert codes == [0, 0] and said[1] == "", said
    assert "the same as jt-seed0, which is trained already" in said[0]
    assert sorted(p.relative_to("runs/one") for p in Path("runs/one").rglob("*")) == sorted(
        p.relative_to("runs/two") for p in Path("runs/two").rglob("*")
    )
    for file in Path("runs/one").rglob("best.safetensors"):
        close(file, Path("runs/two") / file.relative_to("runs/one"))
    for file in Path("runs/one").rglob("scores.json"):
        scored, other = (json.loads((Path(root) / file.relative_to("runs/one")).read_text()) for root in ("runs/one", "runs/two"))
        assert scored["pooled"]["pixels"] == other["pooled"]["pixels"] and abs(scored["pooled"]["global"] - other["pooled"]["global"]) < 3


def signalled(rank, number):
    """What sends one of two processes a signal once a training has been saved and goes on."""

    def meanwhile(processes):
        while not any(Path("runs").glob("*/last.safetensors")):
            assert all(process.is_alive() for process in processes)
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(processes[rank].pid, number)

    return meanwhile


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_the_other_with_a_sentence(toys, rank):
    codes, said = in_processes(train.main, [*SMALL, "train.outputs=100000000"], meanwhile=signalled(rank, signal.SIGKILL))
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 1, said
    sentences = [line for line in said[1 - rank].splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and "one of the 2 processes that train together has ended" in sentences[0]
    assert "Traceback" not in said[1 - rank]


def test_who_has_lost_another_ends_at_once(lost="why"):
    """All that was said is there, and Python puts nothing away: ``torchrun`` waits."""
    script = f"""
import atexit
from densemtmd import parallel
atexit.register(print, "put away")
atexit.register(parallel._leave, parallel._Group(0, 2, None, None, lost={lost!r}))
print("said")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n"), done.stderr) == ((1, ["said", ""], "") if lost else (0, ["said", "put away", ""], ""))


def test_who_has_lost_none_ends_as_any_process():
    test_who_has_lost_another_ends_at_once("")


def test_ctrl_c_is_agreed_upon_and_another_number_goes_on(toys):
    """One of two hears the signal, both save and end; a single process goes on to where it would have come undisturbed."""
    settings = [*SMALL, "train.outputs=20000", "train.epoch_outputs=10000", "train.optimizer=sgd", "train.lr=0.01"]
    assert train.main([*settings, "runs=whole"]) == 0
    codes, said = in_processes(train.main, [*settings, "train.checkpoint_seconds=0"], meanwhile=signalled(1, signal.SIGINT))
    assert codes == [130, 130], said
    assert "stopped: you pressed Ctrl-C" in said[0] and said[1] == ""
    (run,) = Path("runs").iterdir()
    assert train.main([f"resume={run}"]) == 0
    (whole,) = Path("whole").iterdir()
    close(whole / "best.safetensors", run / "best.safetensors")


def test_divergence_is_one_sentence(toys):
    codes, said = in_processes(train.main, [*SMALL, "train.optimizer=sgd", "train.lr=1e30", "train.warmup=0"])
    assert codes == [1, 0] and said[0].count("the training diverged") == 1 and said[1] == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["train.batch=1"], "too few for each of the 2 processes of torchrun"),
        (["train.batch=6", "train.accumulate=6"], "in train.accumulate=6 parts shows the network 1 crops"),
        (["-m", "seed=0,1", "hydra/launcher=joblib"], "leave out one of both"),
        (["train.bach=1"], "did you mean"),
    ],
)
def test_mistakes_are_sentences(toys, monkeypatch, capsys, more, words):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel, "joined", lambda: contextlib.nullcontext(True))
    assert train.main([*SMALL, *more]) == 1
    assert words in capsys.readouterr().err


def test_torchrun(toys):
    """The real one, with the script: one page of output, and a run that can be compared."""
    script = [Path(__file__).parents[1] / "tools" / "train.py", *SMALL, "train.outputs=300"]
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script]
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("jt: PatchNet") == 1 and done.stdout.count("label pictures with it") == 1
    (run,) = Path("runs").iterdir()
    assert json.loads((run / "scores.json").read_text())["pooled"]["pixels"] > 0
