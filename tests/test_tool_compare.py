"""``tools/compare.py`` on run folders written by hand, whose means and deviations are known."""

import json
from pathlib import Path

import pytest
import yaml

TRAIN = {"epochs": None, "minutes": None, "outputs": 2_000_000}
TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import compare

    return compare


def write_run(folder, strategy, seed, iou, scoring="dense", pixels=100):
    folder.mkdir()
    score = {"global": iou + 30, "average": iou + 10, "iou": iou, "classes": 3, "pixels": pixels}
    datasets = {"he": {"labelset": "he", **score, "labels": {}}, "xu": {"labelset": "xu", **score, "iou": None, "labels": {}}}
    (folder / "scores.json").write_text(json.dumps({"pooled": score, "datasets": datasets, "scoring": scoring, "interior": False}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"strategy": {"name": strategy}, "seed": seed, "train": TRAIN}))
    return str(folder)


def test_means_and_deviations_over_seeds(compare, tmp_path, capsys):
    runs = [write_run(tmp_path / f"jt{seed}", "jt", seed, iou) for seed, iou in enumerate((44.0, 46.0, 48.0))]
    runs.insert(1, write_run(tmp_path / "nf", "nf", 0, 40.0))
    assert compare.main([*runs, "--out", str(tmp_path / "table")]) == 0
    rows = (tmp_path / "table" / "table.csv").read_text().splitlines()
    assert rows[0] == ",he,xu,all together"
    assert "jt, IoU" in rows[3] and rows[3].endswith("46.0 ± 2.0,–,46.0 ± 2.0") and rows[6].endswith("40.0,–,40.0")
    markdown = (tmp_path / "table" / "table.md").read_text()
    assert "| jt, Global | 76.0 ± 2.0 | 76.0 ± 2.0 | 76.0 ± 2.0 |" in markdown
    assert "seeds (jt: 0, 1, 2; nf: 0)" in markdown and "dense scoring" in markdown and "2,000,000 outputs" in markdown
    assert "46.0 ± 2.0" in capsys.readouterr().out


def test_what_cannot_be_compared_is_a_sentence(compare, tmp_path, capsys):
    first = write_run(tmp_path / "a", "jt", 0, 40.0)
    for other, word in [
        (write_run(tmp_path / "b", "nf", 0, 40.0, scoring="strided"), "strided"),
        (write_run(tmp_path / "c", "nf", 0, 40.0, pixels=99), "99"),
        (write_run(tmp_path / "d", "jt", 0, 50.0), "both jt with seed 0"),
        (str(tmp_path), "scores.json"),
    ]:
        assert compare.main([first, other]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and word in error
