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
