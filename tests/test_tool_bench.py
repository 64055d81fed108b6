"""``tools/bench.py`` as a user runs it: what it measures adds up."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_parallel import in_processes
from toy import refused, write_toy

from densemtmd.bench import clock, correspondences, label, networks, processes, scale, tiff, train
from densemtmd.bench import told as about
from densemtmd.bench.coverage import MEASURES, WORLDS
from densemtmd.bench.training import Kind
from densemtmd.tasks import VOID, Labelset, OutputSpace

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The tool, with a network and crops so small that a step takes a millisecond."""
    from densemtmd.commands import bench

    for group, name, text in (
        ("model", "small", "{name: patchnet, widths: [4, 6, 8], hidden: 8, dropout: 0.3}"),
        ("protocol", "small", "train: {crop: 16, batch: 4}"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(networks, "CONF", tmp_path / "conf")
    gc.freeze()  # what is measured collects garbage first: then not among all that is imported, again and again
    yield bench
    gc.unfreeze()


@pytest.mark.parametrize("workers", [0, 1])
def test_loading(bench, tmp_path, capsys, workers):
    yamls = [str(write_toy(tmp_path, name, shape)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    choices = ["--model", "small", "--protocol", "small", "--device", "cpu", "--workers", workers, "--seconds", 0.1, "--turns", 3]
    places = ["--data-root", tmp_path, "--out", tmp_path / "out"]
    assert bench.main(["loading", *yamls, *map(str, (*choices, *places))]) == 0
    told = json.loads((tmp_path / "out" / "loading.json").read_text())
    assert told["bench"] == "loading" and told["datasets"] == ["squares", "discs"] and told["machine"]["cores"] >= 1
    assert len(told["turns"]) == 3
    for key in ("step_loading_s", "step_ready_s", "step_cpu_s", "load_cpu_s", "opening_s"):
        assert 0 < told[key] < 10
    for key in ("longer", "waiting", "work"):
        assert sorted(turn[key] for turn in told["turns"])[1] == told[key]
    for turn in told["turns"]:
        assert turn["longer"] == pytest.approx(turn["step_loading_s"] / turn["step_ready_s"] - 1)
        assert turn["work"] == pytest.approx(turn["load_cpu_s"] / (turn["load_cpu_s"] + turn["step_cpu_s"]))
        assert 0 <= turn["waiting"] < 1
    assert 0 < told["outputs_per_step"] <= 4 * 16  # 4 crops of 4×4 outputs
    assert told["outputs_per_second_of_16_cores"] == 16 * told["outputs_per_second_per_core"] > 0
    printed = capsys.readouterr().out
    assert "loading squares, discs: small on cpu, small, median of 3 turns" in printed
    assert f"{100 * told['work']:.1f} %" in printed and "million labelled outputs a second" in printed


def test_tracking(bench, tmp_path, capsys, monkeypatch):
    """What the record takes is found: here 30 ms of the loop's processor time each time it is told something, once in ten steps."""
    from densemtmd.tracking import mlflow_store

    metrics = mlflow_store._MlflowTracker.metrics

    def slow(self, *arguments, **rest):
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
        metrics(self, *arguments, **rest)

    monkeypatch.setattr(mlflow_store._MlflowTracker, "metrics", slow)
    choices = ["--model", "small", "--protocol", "small", "--device", "cpu", "--seconds", 0.7, "--turns", 1]
    places = ["--data-root", tmp_path, "--out", tmp_path / "out"]
    assert bench.main(["tracking", str(write_toy(tmp_path, "squares", "square")), *map(str, (*choices, *places))]) == 0
    told = json.loads((tmp_path / "out" / "tracking.json").read_text())
    assert told["bench"] == "tracking" and told["datasets"] == ["squares"] and len(told["turns"]) == 1
    assert told["none_record_cpu_s"] < 1e-4 < told["none_step_cpu_s"]
    assert 0.0029 < told["mlflow_record_cpu_s"] < told["mlflow_step_cpu_s"]
    assert told["longer"] == pytest.approx(told["mlflow_step_s"] / told["none_step_s"] - 1)
    assert told["work"] > 0.1
    printed = capsys.readouterr().out
    assert f"{100 * told['work']:.2f} % of the rest" in printed and "steps without a record" in printed


def run(bench, tmp_path, *arguments):
    """Runs the tool on the small network; what it wrote, as JSON and to read."""
    assert bench.main([*map(str, arguments), "--model", "small", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    told, text = ((tmp_path / "out" / f"{arguments[0]}.{kind}").read_text() for kind in ("json", "md"))
    return json.loads(told), text


@pytest.fixture
def small_tiles(monkeypatch):
    """So that a small picture has several."""
    from densemtmd import inference

    monkeypatch.setitem(inference.TILE, "cpu", (12, 20))
    return 12, 20


def test_many(bench, tmp_path):
    """Both sizes are measured step by step, and the copies that were planted are found."""
    told, text = run(bench, tmp_path, "many", "--pictures", 50, 100, "--size", "16x24")
    assert [row["pictures"] for row in told["rows"]] == [50, 100]
    for row in told["rows"]:
        assert len(row["steps"]) == 8 and all(step["seconds"] > 0 for step in row["steps"].values())
    few, many = (row["steps"]["decoded"]["seconds_cpu"] / row["pictures"] for row in told["rows"])
    assert f"| decoded | {50 * few:.2f} | {100 * many:.2f} | {1e3 * many:.3f} | {many / few:.2f} |" in text


def test_copies(bench, tmp_path):
    """Every turn measures each way; how many times a picture alone each takes is the median of what the turns say."""
    told, text = run(bench, tmp_path, "copies", "--model", "small", "--labels", 5, "--size", "24x32", "--turns", 3)
    ways = told["ways"]
    assert [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ")][2:] == [*ways] and len(ways) == 4
    assert len(told["turns"]) == 3 and ways["the picture alone"]["times"] == ways["the picture alone"]["times_cpu"] == 1
    for which, key in enumerate(("times", "times_cpu")):
        assert ways["`--mirror`"][key] == sorted(turn["`--mirror`"][which] / turn["the picture alone"][which] for turn in told["turns"])[1]


def test_giant(bench, tmp_path):
    told, text = run(bench, tmp_path, "giant", "--megapixels", 0.01, 0.02, "--labelsets", 2)
    assert [round(row["pixels"], -3) for row in told["rows"]] == [10_000, 20_000] and told["labelsets"] == 2
    for name in ("read", "network", "overlay", "sheet", "ids, overlays and sheet written"):
        each = [row["steps"][name]["seconds_cpu"] / row["pixels"] * 1e6 for row in told["rows"]]
        assert f"| {name} | {each[0]:.3f} | {each[1]:.3f} |" in text


def test_tiff(bench, tmp_path):
    """Whole calls of infer: what they take, and what they leave."""
    pytest.importorskip("rasterio")
    told, text = run(bench, tmp_path, "tiff", "--megapixels", 0.04)
    (call,) = told["calls"]
    assert call["side"] == 200 and 0.1 < call["memory_gb"] < 10 and 0 < call["answer_gb"] < 1e-3 and call["seconds_cpu"] > 0.1
    assert f"| 200×200 | {call['seconds_cpu']:.0f} | {call['seconds_cpu'] / 0.04:.2f} | {call['memory_gb']:.2f} GB |" in text


def test_tiff_by_a_network_of_ones_own(bench, tmp_path):
    pytest.importorskip("rasterio")
    told, text = run(bench, tmp_path, "tiff", "--megapixels", 0.04, "--checkpoint", tiff.save_small(tmp_path))
    assert told["checkpoint"] == ".../small.safetensors" and "whole calls of infer by .../small.safetensors" in text


def test_what_lies_on_disk_meanwhile_is_seen(tmp_path):
    script = f"from densemtmd.files import array_in; kept = array_in({str(tmp_path / 'out')!r}, (3, 2**20)); input('there')"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"there"
        found = tiff.meanwhile(process.pid, tmp_path / "out"), tiff.peak_of(process.pid)
        process.communicate(b"\n")
    assert found[0] == 3 * 2**20 and found[1] > 2**20
    assert tiff.meanwhile(process.pid, tmp_path / "out") == 0


@pytest.mark.parametrize("given", [["--processes", "0"], ["--processes", "-2"], ["--seeds", "0"], ["--every", "0"], ["--limit", "nan"]])
def test_numbers_that_mean_nothing_are_sentences(bench, capsys, given):
    assert bench.main(["train", *given]) == 1
    assert f"error: {given[0]} is {given[1]}, expected at least " in capsys.readouterr().err


def test_labels(bench, tmp_path):
    told, text = run(bench, tmp_path, "labels", "--labels", "6x2", "30x3", "--size", "20x30", "--protocol", "small", "--turns", 3)
    assert [(one["labels"], one["labelsets"]) for one in told["sizes"].values()] == [(6, 2), (30, 3)]
    for size, one in told["sizes"].items():
        steps = sorted(turn[f"{size}: a step"][1] / turn["6x2: a step"][1] for turn in told["turns"])
        assert one["step_ratio"] == pytest.approx(steps[1])
        assert f"| {one['labels']} | {one['labelsets']} | {one['step_cpu_s']:.3f} | {one['step_ratio']:.2f} |" in text
    assert bench.main(["labels", "--labels", "300x1"]) == 1


def test_label(bench, tmp_path, capsys, small_tiles, monkeypatch):
    for module in (label, about):
        monkeypatch.setattr(module, "cores", lambda: 3)
    monkeypatch.setitem(label.SIDES, "cpu", 128)
    sizes = {(9, 20): "the whole picture", (23, 31): "a tile of 12×16"}
    told, text = run(bench, tmp_path, "label", "--sizes", "9x20", "23x31", "--labels", 5, "--turns", 3, "--bfloat16", "--threads", 1)
    # by hand: 7×7 weights of 3 to 4, 4 to 6 and 6 to 8 channels, then 8 to 8 and 8 to 5; 40², 14² and 1 positions in a patch
    first, second, third, rest = 49 * 12, 49 * 24, 49 * 48, 64 + 40
    work = {"dense": first + second + third + rest, "patch by patch": 1600 * first + 196 * second + third + rest}
    work["shift and stitch"] = 16 * first + 4 * second + third + rest
    assert told["multiply_adds"] == work
    assert [(one["height"], one["width"]) for one in told["sizes"]] == list(sizes)
    for one in told["sizes"]:
        size = one["height"], one["width"]
        names = {"dense", "patch by patch", "patches, last", "shift and stitch", "dilated", "bfloat16"}
        names |= {"dense, with labels", "bfloat16, with labels", "dense, 3 threads", "dilated, 3 threads"}
        assert set(one["ways"]) == names
        assert len(one["turns"]) == 3 and 0 <= one["bfloat16_changes"] < 0.5
        pixels, small = size[0] * size[1], size == (9, 20)
        tile = 1 if small else pixels / (12 * 16)
        times = {"patch by patch": pixels / 512, "patches, last": pixels / 512, "shift and stitch": 4 * tile, "dilated": tile}
        strip = 1 if small else 23 / 12  # 23 rows in strips of at most 16: of 12 and 11
        for name, row in one["ways"].items():
            assert row["times"] == pytest.approx(times.get(name.partition(",")[0], strip if "patches" not in name else pixels / 512))
            seconds = sorted(turn[name][0] * row["times"] for turn in one["turns"])
            ratios = sorted(turn[name][0] * row["times"] / (turn["dense"][0] * strip) for turn in one["turns"])
            assert row["seconds"] == pytest.approx(seconds[1]) and row["ratio"] == pytest.approx(ratios[1])
            counted = work["patch by patch"] if name == "patches, last" else work.get(name, work["dense"])
            assert row["of_best_rate"] > 0 and row["counted"] == counted / work["dense"]
            if row["error"] is not None:
                assert 0 <= row["error"] < (0.1 if "bfloat16" in name else 1e-4)
        assert {name for name, row in one["ways"].items() if row["error"] is None} == names - {
            "dense", "patch by patch", "patches, last", "shift and stitch", "bfloat16"
        }  # fmt: skip
        assert sizes[size] in one["ways"]["dilated"]["part"] and f"4 of 16 shifts, {sizes[size]}" == one["ways"]["shift and stitch"]["part"]
        assert one["whole"] is None if small else one["whole"]["seconds"] > 0
        for precision in ("float32", "bfloat16"):  # the small network has no large convolution: only the product tells
            best = [128.0**3 / turn[f"rate of a product of matrices in {precision}"][0] for turn in one["turns"]]
            assert one["gflops_best"][precision] == pytest.approx(2e-9 * sorted(best)[1])
    assert "**23×31.** The best rate of a core: " in text and "bfloat16 changes the label of" in text
    assert text.count("The whole picture once, with its labels") == 1
    assert " 1 thread, PyTorch " in text and "`python tools/bench.py label --sizes 9x20 23x31 " in text
    assert "label: PatchNet" in capsys.readouterr().out


def test_label_puts_networks_beside_the_patch_network(bench, tmp_path):
    from densemtmd.backbones.torchvision_cpu import import_smp
    from densemtmd.errors import UserError

    try:
        import_smp()
    except UserError as error:
        pytest.skip(str(error))
    models = tmp_path / "conf" / "model"
    (models / "patchnet.yaml").write_text((models / "small.yaml").read_text())
    (models / "tiny.yaml").write_text("{name: frozen, encoder: mobilenetv3_small_050, weights: none, hidden: 8}")
    given = ["label", "--model", "tiny", "--sizes", "33x40", "--turns", "3", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert bench.main(given) == 0
    told, text = (json.loads((tmp_path / "out" / "label.json").read_text()), (tmp_path / "out" / "label.md").read_text())
    (size,) = told["sizes"]
    assert told["labels"] == 68 and list(size["networks"]) == ["patchnet", "tiny"]
    for name, row in size["networks"].items():
        times = sorted(turn["patchnet all"][1] / turn[f"{name} all"][1] for turn in size["turns"])
        assert row["times_cpu"] == pytest.approx(times[1]) and row["one_labelset_seconds_cpu"] > 0
    assert "| tiny | " in text and "68 labels of 7 labelsets" in text


def test_the_answers_of_a_strip_are_those_of_the_picture(small_tiles):
    """A strip that is measured by itself is cut as it is in the whole picture."""
    import torch

    from densemtmd import inference

    image = networks.a_picture(23, 31)
    predictor = SimpleNamespace(device=torch.device("cpu"), networks=[None], labeller=lambda network: SimpleNamespace(grain=1))
    strip = networks.first_strip(image, predictor)
    assert strip.shape == (12, 31, 3)
    assert inference.strips(12, 31, torch.device("cpu")) == [slice(0, 12)]
    assert inference.strips(23, 31, torch.device("cpu"))[0] == slice(0, 12)


def test_a_way_that_answers_otherwise_is_found(bench, tmp_path, monkeypatch):
    from densemtmd.fast import Fast

    monkeypatch.setattr(Fast, "__call__", lambda self, x, original=Fast.__call__: original(self, x) + 0.01)
    with pytest.raises(RuntimeError, match="dense answers otherwise than the dilated network"):
        bench.main(["label", "--sizes", "9x10", "--labels", "3", "--turns", "1", "--model", "small", "--device", "cpu"])


def test_the_dilated_rewrite_answers_each_pixel():
    """Also with a stride in a convolution, overlapping maxima and a layer behind them."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2)).eval()
    x = torch.randn(1, 2, 24, 31)
    with torch.no_grad():
        answer = label.dilated(net)(x)
        side = 24 - answer.shape[2] + 1
        for row, column in ((0, 0), (3, 5), (answer.shape[2] - 1, answer.shape[3] - 1)):
            patch = x[:, :, row : row + side, column : column + side]
            torch.testing.assert_close(answer[0, :, row, column], net(patch)[0, :, 0, 0])


def test_scale(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "LOSS_BYTES", 1e6)
    given = ["--megapixels", 0.002, 0.004, "--labels", 3, 230, 70, "--turns", 2, "--dense-to", 0.003]
    told, text = run(bench, tmp_path, "scale", *given)
    sizes = [(3, 39 * 51), (230, 39 * 51), (70, 39 * 51), (70, 55 * 73)]
    assert [(row["labels"], row["pixels"]) for row in told["rows"]] == sizes
    for row in told["rows"]:
        assert row["strided"]["seconds_cpu"] > 0 and ("dense" in row) == (row["pixels"] < 3000)
    assert [(one["labels"], one["largest"]) for one in told["losses"]] == [(3, 3), (230, 33), (70, 10)]
    assert "strided, s" in text and "Bytes an output at the peak of the selective loss" in text


def test_the_loss_copies_only_what_a_sample_is_annotated_with():
    """Beyond the logits and their gradient: the channels of one labelset at a time, a few times over, however many labelsets there are."""
    import torch

    one = scale.memory_of_loss(210, torch.device("cpu"))
    if one["loss"] is None:
        pytest.skip("the system does not tell the memory of a process")
    assert one["loss_beyond_gradient"] < 5 * 4 * one["largest"] + 60 < 4 * 210
    assert one["metrics"] < 60


def test_peak_memory():
    """The peak is found although it is given back, and what was there before does not count."""
    import torch

    def work():
        torch.zeros(25_000_000).add_(1)  # 100 MB

    before = torch.ones(20_000_000)
    peak = clock.peak_memory(work, torch.device("cpu"))
    assert peak is None or 95 < peak < 140
    assert before.sum() > 0


@pytest.fixture
def training(bench, tmp_path):
    """What ``bench train`` is given: a toy dataset, small networks and the paper's protocol at toy size."""
    (tmp_path / "conf" / "protocol" / "paper.yaml").write_text("train: {crop: 1, batch: 16, border: valid, optimizer: sgd, lr: 0.01}")
    yaml = write_toy(tmp_path, "squares", "square", size=(60, 64))
    return ["train", yaml, "--data-root", tmp_path, "--protocol", "small", "--seconds", 0.2]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_train(bench, tmp_path, capsys, training, monkeypatch, optimizer):
    from densemtmd import training as room

    original = room.precision_on
    monkeypatch.setattr(room, "precision_on", lambda device, precision: original(device, precision.replace("auto", "bfloat16")))
    (tmp_path / "conf" / "protocol" / "small.yaml").write_text(f"train: {{crop: 16, batch: 4, optimizer: {optimizer}}}")
    told, text = run(bench, tmp_path, *training, "--turns", 3, "--also", "2x24")
    kinds = told["kinds"]
    assert list(kinds) == ["paper, float32", "small, float32", "paper, bfloat16", "small, bfloat16", "2 crops of 24×24"]
    # a crop of 4×4 outputs is one of 58 pixels: 52² positions of the first convolution, 20² of the second, 4² behind the third
    weights = (49 * 12, 49 * 24, 49 * 48 + 64 + 8 * 2)
    work = {
        "paper": 40**2 * weights[0] + 14**2 * weights[1] + weights[2],
        "small": (52**2 * weights[0] + 20**2 * weights[1] + 4**2 * weights[2]) / 4**2,
        "2 crops of 24×24": (60**2 * weights[0] + 24**2 * weights[1] + 6**2 * weights[2]) / 6**2,
    }
    for name, one in kinds.items():
        shares = one["shares"]
        assert list(shares) == list(train.PARTS) and sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
        for turn in one["turns"]:
            assert turn["forward"] + turn["backward"] + turn["optimizer"] == pytest.approx(turn["step_cpu_s"])
            assert turn["rate"] == pytest.approx(one["outputs_per_step"] / turn["step_s"])
        assert one["multiply_adds"] == work[name.partition(", ")[0]]
        assert one["counted"] == pytest.approx(work["paper"] / one["multiply_adds"])
        for base in ("paper, float32", "paper, bfloat16"):
            ratios = sorted(own["rate"] / other["rate"] for own, other in zip(one["turns"], kinds[base]["turns"], strict=True))
            assert one["times"][base] == ratios[1]
    assert kinds["paper, float32"]["outputs_per_step"] == 16 and kinds["paper, float32"]["times"]["paper, float32"] == 1
    assert 0 < kinds["small, float32"]["outputs_per_step"] <= 4 * 16 and 0 < kinds["2 crops of 24×24"]["outputs_per_step"] <= 2 * 36
    assert "times paper, bfloat16" in text and "Where the time of a step goes" in text and told["device"] == "cpu"


def test_train_by_two_processes(bench, tmp_path, training, monkeypatch):
    def forked(call, **options):  # as torchrun starts them, but sooner
        number = int(call[call.index("--nproc-per-node") + 1])
        codes, said = in_processes(processes.main, [call[-1]], number=number)
        return subprocess.CompletedProcess(call, max(codes), said[0], "".join(said))

    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(run=forked))
    (tmp_path / "conf" / "protocol" / "small.yaml").write_text("train: {crop: 16, batch: 4}")
    told, text = run(bench, tmp_path, *training, "--turns", 1, "--also", "2x24", "--processes", 2)
    assert [name.partition(",")[0] for name in told["processes"]] == ["small", "2 crops of 24×24"]
    for measured in told["processes"].values():
        assert list(measured) == ["1 process, 1 thread", "1 process, 2 threads", "2 processes"]
        for one in measured.values():
            assert one["step_s"] > 0 and one["cpu_s"] > 0 and one["times"] == measured["1 process, 1 thread"]["step_s"] / one["step_s"]
    assert "times as fast as 1 process, 1 thread" in text


@pytest.mark.parametrize(("stderr", "told"), [("x\nerror: no data\nmore\n", "no data"), ("a\nKilled\n\n", "Killed"), ("", "nothing")])
def test_why_processes_ended(monkeypatch, stderr, told):
    ended = SimpleNamespace(run=lambda call, **options: subprocess.CompletedProcess(call, 7, "", stderr))
    monkeypatch.setattr(processes, "subprocess", ended)
    with refused("torchrun ended with 7", told):
        processes.measure_processes(SimpleNamespace(processes=2, turns=1), {"strided": Kind("strided", "float32")})


def test_how_busy_a_gpu_is(monkeypatch):
    """Its kernels count, and not what launched them: here 3 steps of 20 ms, of which kernels take 15."""
    from contextlib import nullcontext
    from types import SimpleNamespace

    import torch

    kinds = torch.autograd.DeviceType
    events = [
        SimpleNamespace(device_type=kinds.CUDA, self_device_time_total=40e3),
        SimpleNamespace(device_type=kinds.CUDA, self_device_time_total=5e3),
        SimpleNamespace(device_type=kinds.CPU, self_device_time_total=45e3),
    ]
    profile = SimpleNamespace(key_averages=lambda: events)
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: nullcontext(profile))
    seconds = iter((10.0, 10.06))
    monkeypatch.setattr(train, "clocks", lambda device: (next(seconds), 0.0))
    seen = []
    one = train.Learner(lambda n: None, seen.append, lambda n: torch.tensor(n), 1.0, 1.0)
    assert train.busy_share(one, torch.device("cpu"), steps=3) == pytest.approx(0.75)
    assert [int(batch) for batch in seen] == [0, 1, 2, 3]


def test_time_to_a_score(bench, tmp_path, training, capsys):
    """The target is what training really reaches, the time is that of training alone, and the limit ends what never does."""
    from densemtmd import evaluation

    score = evaluation.score_pictures

    def slow(*given, **rest):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return score(*given, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "score_pictures", slow)
        given = ["--turns", 1, "--also", "--every", 0.02, "--seeds", 2]
        told, text = run(bench, tmp_path, *training, *given, "--target", 1, "--pictures", 3, "--lr", "small=0.02")
    target = told["target"]
    for name in told["kinds"]:
        runs = target["runs"][name]
        assert len(runs) == 2 and target[name]["missed"] == 0
        for one in runs:
            assert one["lr"] == (0.02 if name.startswith("small") else 0.001) and one["optimizer"] == "adam"  # of --protocol, for all
            assert one["reached"] and one["iou"] >= 1 and all(before["iou"] < 1 for before in one["history"][:-1])
            assert one["outputs"] == one["history"][-1]["outputs"] > 0
            assert 0 < one["seconds_cpu"] < 0.2 * (1 + len(one["history"]))
        ratios = [
            other["seconds_cpu"] / one["seconds_cpu"] for one, other in zip(runs, target["runs"]["paper, float32"], strict=True)
        ]
        assert target[name]["times"]["paper, float32"] == pytest.approx(sum(ratios) / 2)
    assert "IoU of 3 validation pictures" in text and "times as fast as paper, float32" in text
    assert "small, float32, seed 1: IoU" in capsys.readouterr().err
    told, text = run(bench, tmp_path, *training, "--turns", 1, "--also", "--every", 0.02, "--target", 100.5, "--limit", 0.1)
    assert all(told["target"][name]["missed"] == 1 and told["target"][name]["seconds_cpu"] > 0.1 for name in told["kinds"])
    assert text.count("not reached in 1 of 1") == len(told["kinds"]) and "| > " in text


def test_train_needs_another_protocol(bench, tmp_path, capsys, training):
    given = [*map(str, training), "--model", "small", "--protocol", "paper"]
    assert bench.main(given) == 1 and "--protocol is paper" in capsys.readouterr().err
    given = [*map(str, training), "--model", "small", "--lr", "small=fast"]
    assert bench.main(given) == 1 and "--lr gives small 'fast', expected a number" in capsys.readouterr().err
    given = [*map(str, training), "--model", "small", "--also", "48"]
    assert bench.main(given) == 1 and "--also has '48', expected crops x pixels" in capsys.readouterr().err


def test_render(bench, tmp_path):
    told, text = run(bench, tmp_path, "render", "--crops", 3, "--turns", 1)
    for one in told["hands"].values():
        assert 0 < one["pictures_per_second_cpu"] < one["pngs_per_second_cpu"] and one["crops_per_second_at_once_cpu"] > 0
        parts = one["pictures_per_second"] / one["pngs_per_second"]
        assert one["share_of_pngs"] == pytest.approx(parts)
    assert "| nyu |" in text and "| icvl |" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["label", "--sizes", "240"], "--sizes has '240', expected rows x columns"),
        (["label", "--labels", "0"], "--labels is 0"),
        (["label", "--threads", "0"], "--threads is 0"),
        (["render", "--crops", "0"], "--crops is 0"),
        (["scale", "--megapixels", "0"], "must be above 0"),
        (["scale", "--model", "smal"], "unknown model 'smal'"),
    ],
)
def test_mistakes_without_data(bench, capsys, arguments, words):
    assert bench.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--turns", "0"], "--turns is 0"),
        (["--seconds", "0"], "--seconds 0.0"),
        (["--protocol", "smal"], "unknown protocol 'smal'; known: small; did you mean 'small'?"),
        (["--model", "large"], "unknown model 'large'"),
        (["--data-root", "nowhere"], "stanford was not found"),
    ],
)
def test_mistakes(bench, tmp_path, capsys, arguments, words):
    given = ["loading", "--data-root", str(tmp_path), "--model", "small", "--protocol", "small", "--device", "cpu", *arguments]
    assert bench.main(given) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_help():
    command = [sys.executable, str(ROOT / "tools" / "bench.py")]
    shown = [subprocess.run([*command, *words, "--help"], capture_output=True, text=True, check=True).stdout for words in ([], ["loading"])]
    assert "loading" in shown[0] and "tracking" in shown[0] and "--protocol NAME" in shown[1] and "--out DIR" in shown[1]


def test_coverage(bench, tmp_path, capsys):
    """Every kind of made-up run has its row, and every number of seeds its column."""
    told, text = run(bench, tmp_path, "coverage", "--seeds", 1, 3, "--trials", 6)
    assert [(cell["seeds"], cell["measure"]) for cell in told["cells"]] == [(s, m) for _ in WORLDS for s in (1, 3) for m in MEASURES]
    assert all(cell["half"] > 0 and 0 <= cell["coverage"] <= 100 for cell in told["cells"] if cell["seeds"] > 1)
    assert all(f"| {world.name} | " in text for world in WORLDS) and "| 1 seed | 3 seeds |" in text
    assert "Of 6 made-up comparisons each" in text and "`python tools/bench.py coverage " in text
    assert bench.main(["coverage", "--trials", "0"]) == 1 and "--trials is 0" in capsys.readouterr().err


def test_correspondences(bench, tmp_path, capsys, monkeypatch):
    """Each dataset is scored by weights that were found without it, and all that is found and true is counted."""
    monkeypatch.setattr(correspondences, "STEPS", (2, 20))
    monkeypatch.setattr(correspondences, "SMALLER", {})
    model = "{name: frozen, encoder: test_efficientnet, weights: none, strides: [4, 8], grid: 4, hidden: 8}"
    (tmp_path / "conf" / "model" / "frozen.yaml").write_text(model)
    (tmp_path / "conf" / "protocol" / "frozen.yaml").write_text("train: {batch: 64, lr: 0.01, precision: float32}")
    yamls = [str(write_toy(tmp_path, name, "square", pictures=14, seed=n)) for n, name in enumerate(("one", "other", "held"))]
    given = ["correspondences", *yamls[:2], "--held", yamls[2], "--data-root", tmp_path, "--annotators", 2, "--pictures", 12]
    told, text = run(bench, tmp_path, *given)
    assert {name: told["datasets"][name]["of"] for name in yamls} == {
        yamls[0]: [yamls[1]], yamls[1]: [yamls[0]], yamls[2]: yamls[:2]
    }  # fmt: skip
    assert told["all"]["true"] == sum(told["datasets"][name]["true"] for name in yamls) > 0
    assert all(len(weights) == 4 for weights in (told["weights"], told["datasets"][yamls[2]]["weights"]))
    assert told["datasets"][yamls[2]]["weights"] == told["weights"]
    assert "| all | the code | " in text and "`python tools/bench.py correspondences " in text
    assert bench.main(["correspondences", "cmp", "cmp"]) == 1 and "each named once" in capsys.readouterr().err


def test_how_somebody_draws():
    random = np.random.default_rng(0)
    target = np.zeros((48, 64), np.uint8)
    target[:, 40:], target[10:13, 10:13], target[20:40, 5:25], target[0] = 1, 2, 3, VOID
    assert (correspondences.drawn(target, correspondences.EXACT, random) == target).all()
    small = correspondences.drawn(target, correspondences.Hand(small=10), np.random.default_rng(1))
    assert (small[10:13, 10:13] == 0).all() and (small == np.where(target == 2, 0, target)).all()  # forgotten, for what lies around it
    left = correspondences.drawn(target, correspondences.Hand(left=1.0), random)
    assert (left == np.where(target == VOID, VOID, correspondences.LEFT)).all()
    moved = correspondences.drawn(target, correspondences.Hand(moved=2.0), random)
    assert 0.8 < (moved == target).mean() < 1 and set(np.unique(moved)) <= {0, 1, 2, 3, VOID}


def test_labels_that_somebody_merges():
    table = correspondences.merged(9, 4, 2, np.random.default_rng(0))
    assert set(table[:9]) == {0, 1, 2, 3, VOID} and (table[:9] == VOID).sum() == 2 and (table[9:] == VOID).all()


def test_what_two_annotators_share():
    """Pixel by pixel, in the plainest way."""
    random = np.random.default_rng(0)
    space = OutputSpace([Labelset("a", ["p", "q", "r"]), Labelset("b", ["s", "t"])])
    left = correspondences.LEFT
    pairs = [tuple(random.choice([*range(size), VOID, left], (6, 7)).astype(np.uint8) for size in (3, 2)) for _ in range(3)]
    found = correspondences.overlap(pairs, space)
    labels = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    for i, (one, mine) in enumerate(labels):
        for j, (other, its) in enumerate(labels):
            own = [pair[other][(pair[one] == mine) & (pair[other] != left)] for pair in pairs]
            share = np.mean(np.concatenate(own) == its) if one != other else np.nan
            np.testing.assert_allclose(found[i, j], share)


def test_logistic_regression():
    """At the most probable weights no change of any of them makes what is true more probable."""
    random = np.random.default_rng(0)
    signs, weight = random.normal(size=(4000, 2)), random.random(4000)
    weight /= weight.sum()
    true = random.random(4000) < 1 / (1 + np.exp(-(0.5 + signs @ [2.0, -1.0])))
    found = correspondences.logistic(signs, true, weight)
    np.testing.assert_allclose(found, [0.5, 2, -1], atol=0.2)
    probable = 1 / (1 + np.exp(-(found[0] + signs @ found[1:])))
    np.testing.assert_allclose((weight * (probable - true)) @ np.column_stack([np.ones(4000), signs]), 0, atol=1e-5)
