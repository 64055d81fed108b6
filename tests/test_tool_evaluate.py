"""``tools/evaluate.py`` as a user runs it: the same numbers as at the end of the training, and the other ways to score."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy import write_toy

import densemtmd
from densemtmd.commands import evaluate, train

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each strategy on two small datasets: (data root, {strategy: run folder})."""
    root = tmp_path_factory.mktemp("evaluate")
    files = [str(write_toy(root, name, shape, size=(60, 70))) for name, shape in (("squares", "square"), ("discs", "disc"))]
    runs = {}
    for strategy in ("jt", "nf"):
        arguments = [
            "data=own", "model=patchnet", f"data.datasets=[{','.join(files)}]", f"data_root={root}", "tracking=none",
            f"runs={root / 'runs' / strategy}", f"strategy={strategy}", "model.widths=[4,6,8]", "model.hidden=8",
            "train.epochs=null", "train.outputs=2000", "train.crop=24", "train.batch=4",
        ]  # fmt: skip
        assert train.main(arguments) == 0
        (runs[strategy],) = (root / "runs" / strategy).iterdir()
    return root, runs


def scores_of(run):
    """What a training has written of its scores, without what it says of the domains and of itself, which are no scores of pictures."""
    scored = json.loads((run / "scores.json").read_text())
    for key in ("domains", "training"):
        scored.pop(key, None)
    return scored


@pytest.mark.parametrize("strategy", ["jt", "nf"])
def test_gives_the_numbers_of_the_training(trained, strategy, capsys):
    run = trained[1][strategy]
    assert evaluate.main([str(run)]) == 0
    out = run / "evaluations" / "own-test-dense"
    assert json.loads((out / "scores.json").read_text()) == scores_of(run) == densemtmd.evaluate(str(run))
    before, after = np.load(run / "per_image.npz"), np.load(out / "per_image.npz")
    assert set(before) == set(after) and all((before[name] == after[name]).all() for name in before)
    assert set(before) == {name + part for name in ("squares", "discs") for part in ("", "/pictures", "/sequences")}
    listed = (run / "splits" / "discs" / "test.txt").read_text().splitlines()
    assert list(before["discs/pictures"]) == listed and len(before["discs/sequences"]) == len(before["discs"]) == len(listed)
    printed = capsys.readouterr().out
    scored = json.loads((out / "scores.json").read_text())
    assert "Made by `densemtmd evaluate " in (out / "scores.md").read_text()
    row = next(line for line in printed.splitlines() if line.startswith("all together"))
    assert row.split()[2:] == [f"{scored['pooled'][key]:.1f}" for key in ("global", "average", "iou")] + ["4"]
    assert f"| discs | {scored['datasets']['discs']['global']:.1f} |" in (out / "scores.md").read_text()
    assert (out / "figures" / "confusion_discs.png").stat().st_size > 1000


def test_other_pictures_and_other_ways_to_score(trained, tmp_path, capsys):
    root, runs = trained
    counts = {}
    for name, options in {"dense": [], "strided": ["--strided"], "interior": ["--interior"], "val": ["--split", "val"]}.items():
        assert evaluate.main([str(runs["jt"] / "best.safetensors"), *options, "--out", str(tmp_path / name)]) == 0
        counts[name] = {k: v["pixels"] for k, v in json.loads((tmp_path / name / "scores.json").read_text())["datasets"].items()}
    # 3 pictures of 60×70, of which 2 rows are void; windows of 46×46 that fit stand on 15×25 pixels
    assert counts["dense"] == counts["val"] == {"squares": 3 * 58 * 70, "discs": 3 * 58 * 70}
    assert counts["strided"]["discs"] == 3 * 14 * 18 and counts["interior"]["discs"] == 3 * 15 * 25
    one = [str(runs["jt"]), "--data", str(root / "discs.yaml"), "--data-root", str(root), "--out", str(tmp_path / "one")]
    assert evaluate.main(one) == 0
    assert json.loads((tmp_path / "one" / "scores.json").read_text())["datasets"].keys() == {"discs"}


def test_in_bfloat16(trained):
    """Beside the evaluation in float32, and it says so."""
    _, runs = trained
    assert evaluate.main([str(runs["jt"]), "--precision", "bfloat16"]) == 0
    scored = json.loads((runs["jt"] / "evaluations" / "own-test-dense-bfloat16" / "scores.json").read_text())
    assert scored["precision"] == "bfloat16"
    assert scored["pooled"]["global"] == pytest.approx(scores_of(runs["jt"])["pooled"]["global"], abs=2)


def test_a_run_that_moved_with_its_data(trained, tmp_path):
    root, runs = trained
    shutil.copytree(runs["jt"], tmp_path / "elsewhere")
    for name in ("squares", "discs"):
        shutil.copytree(root / name, tmp_path / "data" / name)
    assert evaluate.main([str(tmp_path / "elsewhere"), "--data-root", str(tmp_path / "data")]) == 0
    scored = json.loads((tmp_path / "elsewhere" / "evaluations" / "own-test-dense" / "scores.json").read_text())
    assert scored == scores_of(runs["jt"])


def test_pictures_come_from_the_cache_of_the_training(trained, tmp_path, monkeypatch):
    """Also from elsewhere: nothing is decoded, and no second cache appears."""
    from densemtmd.datasets.folder import Dataset

    root, runs = trained
    before = {path: path.stat().st_mtime_ns for path in (root / ".cache").iterdir()}
    assert sorted(path.suffix for path in before) == [".copies", ".decoded", ".decoded"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Dataset, "load", lambda *_: pytest.fail("decoded again"))
    assert evaluate.main([str(runs["jt"]), "--strided", "--out", str(tmp_path / "out")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (root / ".cache").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_mistakes_are_sentences(trained, tmp_path, capsys):
    root, runs = trained
    loose = shutil.copy(runs["jt"] / "best.safetensors", tmp_path / "loose.safetensors")
    stranger = write_toy(tmp_path, "strangers", "disc")
    (root / "other.yaml").write_text((root / "discs.yaml").read_text().replace("- disc", "- ball"))
    for arguments, words in [
        ([str(tmp_path / "none")], ["none", "no checkpoint"]),
        ([str(loose)], ["--data"]),
        ([str(loose), "--data", str(stranger), "--data-root", str(tmp_path)], ["unknown labelset 'strangers'", "squares, discs"]),
        ([str(loose), "--data", "camvit"], ["camvit", "camvid"]),
        ([str(loose), "--data", str(root / "other.yaml"), "--data-root", str(root)], ["other.yaml", "labels differ"]),
        ([str(runs["jt"]), "--out", "/proc/nowhere"], ["/proc/nowhere"]),
    ]:
        capsys.readouterr()
        assert evaluate.main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        for word in words:
            assert word in error, error


def test_as_a_command(trained):
    done = subprocess.run([sys.executable, TOOLS / "evaluate.py", trained[1]["jt"], "--strided"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all together" in done.stdout
