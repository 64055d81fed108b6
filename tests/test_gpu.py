"""What runs on a GPU: ``pytest -m gpu`` where there is one. ``DENSEMTMD_GPU=cpu`` tries the tests themselves on a CPU."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_parallel import SMALL
from toy import small_network, undraw, write_toy

from densemtmd import Labelset, Predictor, checkpoint, densify
from densemtmd.commands import train
from densemtmd.files import conf_folder

DEVICE = os.environ.get("DENSEMTMD_GPU", "cuda")
STRATEGIES = sorted(file.stem for file in (conf_folder() / "strategy").glob("*.yaml"))
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU")]
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="only a GPU has this")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two datasets, of two labelsets, in the working directory."""
    for name in ("squares", "discs"):
        write_toy(tmp_path / "data", name, name.rstrip("s"))
    monkeypatch.chdir(tmp_path)
    undraw(monkeypatch)


@pytest.fixture
def network():
    return small_network(Labelset("coarse", ["other", "red"]), Labelset("fine", ["other", "red", "blue"]))


def newest():
    return max(Path("runs").iterdir())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_and_scores(home, strategy):
    assert train.main([*SMALL, f"strategy={strategy}", f"train.device={DEVICE}"]) == 0
    assert json.loads((newest() / "scores.json").read_text())["pooled"]["pixels"] > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_hands(home, precision):
    world = ["data=hands", "data.world.frames=60", "data.world.test=24", "data_root=data", "tracking=none", "train.batch=20"]
    model = ["model.size=24", "model.hidden=24", "model.width=8", "train.epochs=1"]
    assert train.main([*world, *model, f"train.precision={precision}", f"train.device={DEVICE}"]) == 0
    assert (newest() / "scores.json").is_file()


@pytest.mark.parametrize(("first", "second"), [("cpu", DEVICE), (DEVICE, "cpu")])
def test_a_run_goes_on_on_the_other_device(home, first, second):
    assert train.main([*SMALL, "train.schedule=constant", f"train.device={first}"]) == 0
    done = checkpoint.load(newest() / "last.safetensors")[1]
    assert train.main([f"resume={newest()}", "train.outputs=2400", f"train.device={second}"]) == 0
    tensors, about = checkpoint.load(newest() / "last.safetensors")
    assert about != done and all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999), ("bfloat16", 0.97)])
def test_labels_are_those_of_the_cpu(network, precision, least):
    picture = np.random.default_rng(0).integers(0, 256, (150, 300, 3)).astype(np.uint8)
    expected = Predictor([network], "cpu").all(picture)
    found = Predictor([network], DEVICE, precision).all(picture)
    assert all((found[name] == ids).mean() >= least for name, ids in expected.items())


@needs_cuda
def test_compiled(network):
    """By torch.compile, the dense network answers as it does without."""
    dense, x = densify(network.eval()).to(DEVICE), torch.rand(1, 3, 70, 90, device=DEVICE)
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(dense)(x), dense(x), rtol=1e-3, atol=1e-4)


@needs_cuda
def test_float16(network):
    dense, x = densify(network.eval()).to(DEVICE), torch.rand(1, 3, 70, 90, device=DEVICE)
    with torch.inference_mode():
        expected = dense(x)
        with torch.autocast("cuda", torch.float16):
            torch.testing.assert_close(dense(x).float(), expected, rtol=5e-2, atol=5e-2)


@needs_cuda
def test_a_cuda_graph(network):
    """A captured pass gives what a plain one gives, also of another picture."""
    dense, x = densify(network.eval()).to(DEVICE), torch.rand(1, 3, 70, 90, device=DEVICE)
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                dense(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = dense(x)
        x.copy_(torch.rand_like(x))
        graph.replay()
        torch.testing.assert_close(answer, dense(x))
