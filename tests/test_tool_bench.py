"""``tools/bench.py`` as a user runs it: what it measures adds up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy import write_toy

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The tool, with a network and crops so small that a step takes a millisecond."""
    import bench

    for group, name, text in (
        ("model", "small", "{name: patchnet, widths: [4, 6, 8], hidden: 8, dropout: 0.3}"),
        ("protocol", "small", "train: {crop: 16, batch: 4}"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(bench, "CONF", tmp_path / "conf")
    return bench


@pytest.mark.parametrize("workers", [0, 1])
def test_loading(bench, tmp_path, capsys, workers):
    yamls = [str(write_toy(tmp_path, name, shape)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    choices = ["--model", "small", "--protocol", "small", "--device", "cpu", "--workers", workers, "--seconds", 0.1, "--turns", 3]
    places = ["--data-root", tmp_path, "--json", tmp_path / "loading.json"]
    assert bench.main(["loading", *yamls, *map(str, (*choices, *places))]) == 0
    told = json.loads((tmp_path / "loading.json").read_text())
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
    from densemtmd import tracking

    metrics = tracking._MlflowTracker.metrics

    def slow(self, *arguments, **rest):
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
        metrics(self, *arguments, **rest)

    monkeypatch.setattr(tracking._MlflowTracker, "metrics", slow)
    choices = ["--model", "small", "--protocol", "small", "--device", "cpu", "--seconds", 0.7, "--turns", 1]
    places = ["--data-root", tmp_path, "--json", tmp_path / "tracking.json"]
    assert bench.main(["tracking", str(write_toy(tmp_path, "squares", "square")), *map(str, (*choices, *places))]) == 0
    told = json.loads((tmp_path / "tracking.json").read_text())
    assert told["bench"] == "tracking" and told["datasets"] == ["squares"] and len(told["turns"]) == 1
    assert told["none_record_cpu_s"] < 1e-4 < told["none_step_cpu_s"]
    assert 0.0029 < told["mlflow_record_cpu_s"] < told["mlflow_step_cpu_s"]
    assert told["longer"] == pytest.approx(told["mlflow_step_s"] / told["none_step_s"] - 1)
    assert told["work"] > 0.1
    printed = capsys.readouterr().out
    assert f"{100 * told['work']:.2f} % of the rest" in printed and "steps without a record" in printed


def run(bench, tmp_path, *arguments):
    """Runs the tool on the small network; what it wrote."""
    file = tmp_path / "told.json"
    assert bench.main([*map(str, arguments), "--model", "small", "--device", "cpu", "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_label(bench, tmp_path, capsys):
    told = run(bench, tmp_path, "label", "--sizes", "23x31", "--labels", 5, "--turns", 3, "--bfloat16")
    # by hand: 7×7 weights of 3 to 4, 4 to 6 and 6 to 8 channels, then 8 to 8 and 8 to 5; 40², 14² and 1 positions in a patch
    first, second, third, rest = 49 * 12, 49 * 24, 49 * 48, 64 + 40
    work = told["multiply_adds"]
    assert work["dense"] == first + second + third + rest
    assert work["patch by patch"] == work["patches, last"] == 1600 * first + 196 * second + third + rest
    assert work["shift and stitch"] == 16 * first + 4 * second + third + rest
    assert [(one["height"], one["width"]) for one in told["sizes"]] == [(23, 31)]
    for one in told["sizes"]:
        assert set(one["ways"]) == {"dense", "patch by patch", "patches, last", "shift and stitch", "dilated", "dense, bfloat16"}
        assert len(one["turns"]) == 3 and 0 <= one["bfloat16_changes"] < 0.5
        for name, row in one["ways"].items():
            extrapolated = one["height"] * one["width"] / 512 if name in bench.SAMPLED else 1
            seconds = sorted(turn[name][0] * extrapolated for turn in one["turns"])
            ratios = sorted(turn[name][0] * extrapolated / turn["dense"][0] for turn in one["turns"])
            assert row["seconds"] == pytest.approx(seconds[1]) and row["ratio"] == pytest.approx(ratios[1])
            assert row["of_best_rate"] > 0 and row["counted"] == work.get(name, work["dense"]) / work["dense"]
            assert row["error"] is None if name == "dilated" else 0 <= row["error"] < (0.1 if "bfloat16" in name else 1e-4)
        best = [max(c / t[f"rate of {n}"][0] for n, c in costs(bench).items()) for t in one["turns"]]
        assert one["gflops_best"] == pytest.approx(2e-9 * sorted(best)[1])
    printed = capsys.readouterr().out
    assert "23x31: the machine's best rate" in printed and "bfloat16 changes the label of" in printed


def costs(bench):
    """The multiply-adds of what tells the machine's rate: the small network has no large convolution."""
    return {"sgemm": 1024.0**3}


def test_a_way_that_answers_otherwise_is_found(bench, tmp_path, monkeypatch):
    from densemtmd.fast import Frozen

    monkeypatch.setattr(Frozen, "__call__", lambda self, x, original=Frozen.__call__: original(self, x) + 0.01)
    with pytest.raises(RuntimeError, match="dense answers otherwise than the dilated network"):
        bench.main(["label", "--sizes", "9x10", "--labels", "3", "--turns", "1", "--model", "small", "--device", "cpu"])


def test_the_dilated_rewrite_answers_each_pixel(bench):
    """Also with a stride in a convolution, overlapping maxima and a layer behind them."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2)).eval()
    x = torch.randn(1, 2, 24, 31)
    with torch.no_grad():
        answer = bench.dilated(net)(x)
        side = 24 - answer.shape[2] + 1
        for row, column in ((0, 0), (3, 5), (answer.shape[2] - 1, answer.shape[3] - 1)):
            patch = x[:, :, row : row + side, column : column + side]
            torch.testing.assert_close(answer[0, :, row, column], net(patch)[0, :, 0, 0])


def test_scale(bench, tmp_path, capsys):
    told = run(bench, tmp_path, "scale", "--megapixels", 0.002, 0.004, "--labels", 3, 230, 4, "--turns", 1)
    assert [(row["labels"], row["pixels"]) for row in told["rows"]] == [(3, 39 * 51), (230, 39 * 51), (4, 39 * 51), (4, 55 * 73)]
    for row in told["rows"]:
        assert row["dense"]["seconds"] > 0 and row["strided"]["seconds_cpu"] > 0
    assert "strided s" in capsys.readouterr().out


def test_peak_memory(bench):
    """The peak is found although it is given back, and what was there before does not count."""
    import torch

    def work():
        torch.zeros(25_000_000).add_(1)  # 100 MB

    before = torch.ones(20_000_000)
    peak = bench.peak_memory(work, torch.device("cpu"))
    assert peak is None or 95 < peak < 140
    assert before.sum() > 0


def test_train(bench, tmp_path, capsys):
    (tmp_path / "conf" / "protocol" / "paper.yaml").write_text("train: {crop: 1, batch: 16, border: valid}")
    yaml = write_toy(tmp_path, "squares", "square", size=(60, 64))
    told = run(bench, tmp_path, "train", yaml, "--data-root", tmp_path, "--protocol", "small", "--seconds", 0.2, "--turns", 3)
    assert told["paper"]["outputs_per_step"] == 16 and 0 < told["small"]["outputs_per_step"] <= 4 * 16
    for name in ("paper", "small"):
        shares = told[name]["shares"]
        assert list(shares) == list(bench.PARTS) and sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
        for turn in told["turns"]:
            parts = turn[name]
            assert parts["forward"] + parts["backward"] + parts["optimizer"] == pytest.approx(parts["step_cpu_s"])
    ratios = [turn["small"]["outputs_per_second"] / turn["paper"]["outputs_per_second"] for turn in told["turns"]]
    assert told["ratio"] == pytest.approx(sorted(ratios)[1])
    # a crop of 4×4 outputs is one of 58 pixels: 52² positions of the first convolution, 20² of the second, 4² behind the third
    weights = (49 * 12, 49 * 24, 49 * 48 + 64 + 8 * 2)
    assert told["small"]["multiply_adds"] == (52**2 * weights[0] + 20**2 * weights[1] + 4**2 * weights[2]) / 4**2
    assert told["paper"]["multiply_adds"] == 40**2 * weights[0] + 14**2 * weights[1] + weights[2]
    assert told["counted"] == told["paper"]["multiply_adds"] / told["small"]["multiply_adds"]
    assert "times those of paper" in capsys.readouterr().out
    given = ["train", str(yaml), "--data-root", str(tmp_path), "--model", "small", "--protocol", "paper"]
    assert bench.main(given) == 1 and "--protocol is paper" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["label", "--sizes", "240"], "--sizes has '240', expected rows x columns"),
        (["label", "--labels", "0"], "--labels is 0"),
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
    assert "loading" in shown[0] and "tracking" in shown[0] and "--protocol NAME" in shown[1] and "--json FILE" in shown[1]
