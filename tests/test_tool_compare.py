"""``tools/compare.py`` on run folders whose matrices are made up, so that every mean, difference and confusion is known."""

import csv
import io
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toy import write_run

from densemtmd import checkpoint
from densemtmd.compare.reading import read_table
from densemtmd.origin import MADE, Origin

KITTI = ("he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang")


@pytest.fixture
def compare(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    from densemtmd.commands import compare

    return compare


def pictures(*right):
    """(N, 2, 2): pictures with 100 pixels of each of two labels, of which so many are right: Global and Average are their mean."""
    return np.array([[[r, 100 - r], [100 - r, r]] for r in right])


def write_table(folder, rows, datasets=("he", "xu"), seeds=(0, 1, 2), videos=12, **about):
    """A table whose rows are right in so many of 100 pixels, one more with each seed, in twelve pictures of each dataset."""
    of = {name: [f"video{n % videos}" for n in range(12)] for name in datasets}
    for row, right in rows.items():
        for seed in seeds:
            spread = np.arange(12) % 5 - 2  # pictures differ
            matrices = {name: pictures(*(right[i % len(right)] + seed + spread)) for i, name in enumerate(datasets)}
            write_run(folder / f"{row}-seed{seed}", row, seed, matrices, sequences=of)
    about = {"rows": {row: [f"strategy={row}"] for row in rows}, "seeds": list(seeds), **about}
    (folder / "table.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    return folder


def lines_of(text):
    return {(line["row"], line["dataset"], line["score"]): line for line in csv.DictReader(io.StringIO(text))}


def test_means_deviations_and_differences(compare, tmp_path, capsys):
    write_table(tmp_path / "runs" / "street", {"nf": (60, 70), "jt": (70, 69), "jt_de": (60, 50)}, name="street")
    assert compare.main(["street", "--out", "out"]) == 0
    lines = lines_of(Path("out/table.csv").read_text())
    mean = 61 + np.mean(np.arange(12) % 5 - 2)
    one = lines["nf", "he", "global"]
    assert (float(one["mean"]), float(one["sd"]), one["seeds"]) == (pytest.approx(mean, abs=1e-4), 1, "0 1 2")
    assert [one[key] for key in ("difference", "low", "high", "paper")] == [""] * 4
    assert list(dict.fromkeys(row for row, _, _ in lines)) == ["nf", "jt", "jt_de"]  # as in table.yaml
    assert [lines["jt", name, "global"]["difference"] for name in ("he", "xu", "all together")] == ["10.0000", "-1.0000", "4.5000"]
    assert float(lines["jt", "xu", "iou"]["high"]) < 0 < float(lines["jt", "he", "iou"]["low"])
    page = Path("out/table.md").read_text()
    assert f"| jt, Global | **{mean + 10:.1f} ± 1.0** | {mean + 9:.1f} ± 1.0 |" in page
    assert "| all together, Global | +4.5 [+4.5, +4.5] | −10.0 [−10.0, −10.0] |" in page
    assert "By IoU, jt against nf: helped he; hurt xu; all together +" in page
    assert "By IoU, jt_de against nf: helped no dataset; hurt xu; no clear difference on he; all together −" in page
    assert "over seeds (0, 1, 2), the best in bold." in page
    assert "Budget of a row's networks together: 2,000,000 labelled outputs; training: strided." in page
    assert "the variances over seeds and over test pictures, taken apart, with Student's quantiles. With 3 seeds an interval" in page
    assert "at least 4.3 standard errors over seeds to either side" in page and "video" not in page and "steps" not in page
    shown = capsys.readouterr().out
    assert f"{mean + 10:.1f} ± 1.0* " in shown and "By IoU, jt against nf: helped he; hurt xu" in shown and "**" not in shown
    assert Image.open("out/figure.png").size[0] > 800


def test_a_budget_counts_what_was_not_scored(compare, tmp_path):
    """Training on datasets that the row's last network does not answer for costs as much."""
    counts = pictures(60)
    plans = {
        "alone": [{"name": "last", "datasets": ["last"]}],
        "tuned": [{"name": "pretrain", "datasets": "others", "budget": 2, "answers": False},
                  {"name": "finetune", "datasets": "last", "start": "pretrain", "take": "features"}],
    }  # fmt: skip
    for row, plan in plans.items():
        for seed in range(2):
            found = {name: {"yaml": {}} for name in ("first", "second", "last")}
            write_run(tmp_path / "runs" / "few" / f"{row}-seed{seed}", row, seed, {"last": counts}, stages=plan, found=found)
    folders = [str(folder) for folder in sorted((tmp_path / "runs" / "few").iterdir())]
    assert compare.main([*folders, "--baseline", "alone", "--out", "out"]) == 0
    page = Path("out/table.md").read_text()
    assert "networks together: alone: 2,000,000 labelled outputs; tuned: 6,000,000 labelled outputs; training" in page


def test_how_the_trainings_went(compare, tmp_path, capsys):
    """The best score so far over the outputs of all stages that know a dataset; nothing where a run does not tell."""
    folder = write_table(tmp_path / "runs" / "street", {"nf": (60, 70), "jtsc": (70, 69)}, ("he", "xu"), name="street")

    def went(at, *points):
        history = [{"outputs": n, "scores": {"datasets": {name: {"iou": v} for name, v in scores.items()}}} for n, scores in points]
        checkpoint.save(at / "last.safetensors", {"x": torch.zeros(1)}, {"state": {"history": history}})

    for run in folder.glob("*-seed*"):
        stages = ["he", "xu"] if run.name.startswith("nf") else ["jt", "jtsc"]
        scores = json.loads((run / "scores.json").read_text())
        told = {stage: {"steps": 1, "passes": 1.0, "stopped_early": False} for stage in stages}
        (run / "scores.json").write_text(json.dumps({**scores, "training": told}))
        for n, stage in enumerate(stages):
            (run / stage).mkdir()
            known = [stage] if stage in ("he", "xu") else ["he", "xu"]
            went(run / stage, *((10 * k, dict.fromkeys(known, 20.0 + n + (-1) ** k * k)) for k in range(4)))
    table = read_table([folder])
    nf, jtsc = (table.rows[row][0] for row in ("nf", "jtsc"))
    assert nf.course("xu") == [(10, 20), (20, 23), (30, 23)]
    assert jtsc.course("he") == [(10, 19), (20, 22), (30, 22), (40, 22), (50, 23), (60, 23)]
    assert compare.main([str(folder), "--out", "out"]) == 0
    assert Image.open("out/budget.png").size[0] > 1000
    assert Path("out/compare.html").read_text().count("data:image/png;base64,") == 2
    (folder / "jtsc-seed0" / "jt" / "last.safetensors").rename(tmp_path / "away")  # what comes behind it would begin too early
    assert jtsc.course("he") == []
    (folder / "jtsc-seed0" / "jt" / "last.safetensors").write_bytes(b"damaged")
    assert compare.main([str(folder), "--out", "damaged"]) == 0
    assert not Path("damaged/budget.png").exists() and Path("damaged/table.md").exists()
    assert "last.safetensors" in capsys.readouterr().err
    (tmp_path / "away").replace(folder / "jtsc-seed0" / "jt" / "last.safetensors")
    (folder / "nf-seed1" / "he" / "last.safetensors").unlink()
    shutil.copytree("out", "other")
    assert compare.main([str(folder), "--out", "other"]) == 0
    assert not Path("other/budget.png").exists() and Path("other/figure.png").exists()  # none of other runs is left either


def test_a_half_finished_table_already_tells_something(compare, tmp_path, capsys):
    folder = write_table(tmp_path / "runs" / "street", {"nf": (60,), "jt": (70,), "jtsc": (80,)}, ("he",), videos=10)
    for unfinished in ("nf-seed2", "jt-seed1", "jt-seed2", "jtsc-seed0", "jtsc-seed1", "jtsc-seed2"):
        (folder / unfinished / "scores.json").unlink()
    assert compare.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "jtsc, Global" not in shown and "Not finished: nf-seed2, jt-seed1, jt-seed2, jtsc-seed0, jtsc-seed1, jtsc-seed2." in shown
    assert "over seeds (nf: 0, 1; jt: 0)" in shown and "all together" not in shown  # there is one dataset
    assert "with Student's quantiles; over videos alone, with one seed: other seeds may differ by more. Test videos: he 10." in shown
    for run in folder.glob("*/scores.json"):
        run.unlink()
    assert compare.main(["street"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {Path('runs/street')} has no finished run yet, expected folders such as nf-seed0")


def test_run_folders_by_their_strategies(compare, tmp_path, capsys):
    folder = write_table(tmp_path / "mine", {"nf": (60,), "jt": (70,)})
    for config in folder.glob("jt*/config.yaml"):
        config.write_text(config.read_text().replace("2000000", "1000000").replace("seed: ", "data: {name: street}\nseed: "))
    assert compare.main([str(run) for run in sorted(folder.glob("*-seed*"), reverse=True)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("nf, Global") < shown.index("jt, Global")  # as they were named
    assert "nf: 2,000,000 labelled outputs; jt: 1,000,000 labelled outputs" in shown and "With 3 seeds an interval reaches" in shown


def test_all_that_lies_in_runs(compare, tmp_path, capsys):
    """As ``runs/*`` names it: what is not finished, and what is no run, is passed over with a note."""
    folder = write_table(tmp_path / "runs" / "street", {"nf": (60,), "jt": (70,)}, ("he",), videos=10)
    (folder / "jt-seed2" / "scores.json").unlink()
    (folder / "logs").mkdir()
    everything = sorted(map(str, folder.iterdir()))
    assert compare.main(everything) == 0
    shown = capsys.readouterr().out
    assert "Not finished: jt-seed2." in shown and "Passed over, no runs: logs, table.yaml (a table is compared by itself)." in shown
    assert compare.main([str(folder / "jt-seed2"), str(folder / "logs")]) == 1
    assert "logs is a finished run: expected folders with a scores.json" in capsys.readouterr().err


def test_one_video_says_nothing_of_others(compare, tmp_path, capsys):
    write_table(tmp_path / "runs" / "street", {"nf": (60, 70), "jt": (70, 69)}, videos=1)
    assert compare.main(["street", "--out", "out"]) == 0
    shown = capsys.readouterr().out
    assert "Test videos: 1 of each dataset. Of he, xu there is 1 video: nothing can be said of other videos." in shown
    assert "over test videos, taken apart" in shown
    write_table(tmp_path / "runs" / "one", {"nf": (60, 70), "jt": (70, 69)}, seeds=(0,), videos=1)
    assert compare.main(["one", "--out", "out"]) == 0
    assert "+10.0 [–, –]" not in capsys.readouterr().out  # IoU is shown of each dataset, and Global of all together
    page = Path("out/table.md").read_text()
    assert "| all together, Global | +4.5 [–, –] |" in page and "no clear difference on he, xu" in page
    assert lines_of(Path("out/table.csv").read_text())["jt", "he", "global"]["low"] == ""
    assert Image.open("out/figure.png").size[0] > 800


def test_what_the_trainings_came_to(compare, tmp_path, capsys):
    """Steps, passes and early stopping of each row's networks; of a run that does not say so nothing is said."""
    folder = tmp_path / "runs" / "street"
    nets = {"nf": {"he": (138, 1.94, False), "xu": (1152, 2.04, True)}, "jt": {"jt": (2080, 2.06, False)}, "old": None}
    for row, training in nets.items():
        for seed in (0, 1):
            domains = {"jt": (80 + 2 * seed, 50.0), "old": (60, 50.0) if seed else None}.get(row)
            found = {"he": pictures(60, 61 + seed, 62)}
            write_run(folder / f"{row}-seed{seed}", row, seed, found, training=training, domains=domains)
    (folder / "table.yaml").write_text("{rows: {nf: [], jt: [], old: []}, seeds: [0, 1]}")
    assert compare.main(["street"]) == 0
    printed = capsys.readouterr().out
    rows = [re.split(r"  +", line) for line in printed.splitlines()]
    assert ["nf", "2", "138 to 1,152", "1.9 to 2.0", "2 of 4", "–"] in rows and ["jt", "1", "2,080", "2.1", "none", "–"] in rows
    assert "Made by" not in printed and "made by" not in printed
    for seed, core_seconds in enumerate((100, 140)):
        own = Origin("densemtmd train experiment=street", "2026-01-01 10:00:00", "0123456789", False, "2 cores, some", 60, core_seconds)
        (folder / f"jt-seed{seed}" / MADE).write_text(json.dumps([asdict(own)]))
    assert compare.main(["street"]) == 0
    printed = capsys.readouterr().out
    rows = [re.split(r"  +", line) for line in printed.splitlines()]
    assert ["jt", "1", "2,080", "2.1", "none", "2 min 0 s"] in rows
    assert printed.splitlines()[-1] == (
        "6 runs, made by `densemtmd train experiment=street`, in 4 min 0 s of processor time (2 min 0 s by the clock), on 2 cores, some; "
        "commit 0123456789."
    )
    assert compare.main(["street", "--confusions", "nf", "jt", "--out", "out"]) == 0
    assert Path("out/confusions-nf-jt.md").read_text().splitlines()[-1].startswith("4 runs, made by `densemtmd train experiment=street`, ")
    (folder / "jt-seed0" / MADE).write_text("[1]")
    assert compare.main(["street"]) == 1 and "made.json" in capsys.readouterr().err
    (folder / "jt-seed0" / MADE).unlink()
    assert "names right by the features, percent (chance: 50.0): jt 81.0 ± 1.4, old 60.0." in printed
    damaged = json.loads((folder / "jt-seed0" / "scores.json").read_text())
    for training in ([], {"jt": {}}, {"jt": 1}, {"jt": {"steps": "a", "passes": 1, "stopped_early": False}}):
        (folder / "jt-seed0" / "scores.json").write_text(json.dumps({**damaged, "training": training}))
        assert compare.main(["street"]) == 1
        assert "jt-seed0 cannot be read as a run" in capsys.readouterr().err


def test_another_baseline_or_none(compare, tmp_path, capsys):
    write_table(tmp_path / "runs" / "street", {"jt": (60,), "jtsc": (70,)})
    assert compare.main(["street", "--out", "none"]) == 0
    assert "There is no row nf to compare the others to: name one with --baseline." in capsys.readouterr().out
    assert {path.name for path in Path("none").iterdir()} == {"table.md", "table.csv", "compare.html"}
    assert compare.main(["street", "--baseline", "jt"]) == 0
    assert "By IoU, jtsc against jt: helped he, xu; hurt no dataset" in capsys.readouterr().out
    assert compare.main(["street", "--baseline", "js"]) == 1
    assert "--baseline is 'js', which is no finished row; known: jt, jtsc" in capsys.readouterr().err


def test_the_numbers_of_the_paper(compare, tmp_path, capsys):
    write_table(tmp_path / "runs" / "kitti", {"nf": (60,), "jt": (70,), "mine": (50,)}, KITTI, (0,), paper="table2")
    assert compare.main(["kitti", "--out", "out"]) == 0
    lines = lines_of(Path("out/table.csv").read_text())
    assert lines["nf", "he", "global"]["paper"] == "76.11" and lines["jt", "all together", "iou"]["paper"] == "46.21"
    assert lines["jt", "zhang", "iou"]["paper"] == "41.92" and lines["mine", "he", "iou"]["paper"] == ""
    page = Path("out/table.md").read_text()
    assert " (41.92†) |" in page and " (76.11) |" in page
    assert "† jt, zhang, Global; jt, zhang, Average; jt, zhang, IoU: derived from the total." in page
    capsys.readouterr()
    (tmp_path / "runs" / "kitti" / "table.yaml").write_text("{rows: {nf: []}, seeds: [0], paper: table22}")
    assert compare.main(["kitti"]) == 1
    assert "no table 'table22'" in capsys.readouterr().err


def test_datasets_of_one_domain_have_a_column(compare, tmp_path):
    """The paper's "7 KITTI", where there is another domain beside it."""
    folder = write_table(tmp_path / "runs" / "two", {"nf": (60,), "jt": (70,)}, (*KITTI, "stanford"), (0,), paper="table3")
    for config in folder.glob("*/config.yaml"):
        found = {name: {"yaml": {"domain": "kitti"} if name in KITTI else {}} for name in (*KITTI, "stanford")}
        config.write_text(config.read_text() + yaml.safe_dump({"found": found}))
    assert compare.main(["two", "--out", "out"]) == 0
    lines = lines_of(Path("out/table.csv").read_text())
    assert list(dict.fromkeys(column for _, column, _ in lines)) == [*KITTI, "stanford", "kitti together", "all together"]
    assert lines["jt", "kitti together", "iou"]["paper"] == "45.93" and lines["jt", "all together", "iou"]["paper"] == "46.43"


def test_confusions_that_were_repaired(compare, tmp_path, capsys):
    """Label 0 is taken for label 1 less often, and for label 2 more often."""
    folder = tmp_path / "runs" / "street"
    for row, wrong in (("nf", (30, 2)), ("jt", (10, 7))):
        for seed in (0, 1):
            own = [[100 - sum(wrong) - seed, wrong[0] + seed, wrong[1]], [20, 80, 0], [0, 0, 0]]
            write_run(folder / f"{row}-seed{seed}", row, seed, {"he": np.array([own] * 5), "xu": pictures(*range(60, 72))})
    (folder / "table.yaml").write_text("{rows: {nf: [], jt: []}, seeds: [0, 1]}")
    assert compare.main(["street", "--confusions", "nf", "jt", "--out", "out"]) == 0
    page = Path("out/confusions-nf-jt.md").read_text()
    assert "| he | nf | jt | change |" in page and "xu: no confusion changed clearly." in page
    assert "| repaired: label0 taken for label1 | 30.5 % | 10.5 % | −20.0 [−20.0, −20.0] |" in page
    assert "| new: label0 taken for label2 | 2.0 % | 7.0 % | +5.0 [+5.0, +5.0] |" in page and "label1 taken" not in page
    assert [path.name for path in Path("out").iterdir()] == ["confusions-nf-jt.md"]
    assert "repaired: label0 taken for label1" in capsys.readouterr().out
    assert compare.main(["street", "--confusions", "jt", "nf", "--dataset", "he"]) == 0
    shown = capsys.readouterr().out
    assert "new: label0 taken for label1" in shown and "xu" not in shown
    for arguments, words in [
        (["--confusions", "nf", "gr"], "'gr', which is no finished row; known: nf, jt"),
        (["--confusions", "nf", "jt", "--dataset", "zu"], "did you mean 'xu'?"),
        (["--dataset", "xu"], "without --confusions"),
    ]:
        assert compare.main(["street", *arguments]) == 1
        assert words in capsys.readouterr().err


def test_runs_of_mlflow(compare, tmp_path, capsys):
    """The same table from the store as from the folders, networks of a run passed over; and loose runs where there is no table."""
    from densemtmd.tracking import open_tracker

    folder = write_table(tmp_path / "runs" / "street", {"nf": (60,), "jt": (70,)}, seeds=(0, 1), name="street")
    assert compare.main(["street", "--out", "from folders"]) == 0

    def keep(run, tracker):
        tracker.tags({"folder": str(run)})
        tracker.text((run / "config.yaml").read_text(), "config.yaml")
        for name in ("scores.json", "per_image.npz"):
            tracker.artifact(run / name)

    options = {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    with open_tracker("mlflow", "loose", "one", **options) as one:
        keep(folder / "nf-seed0", one)
    with open_tracker("mlflow", "streets", "an older table", **options) as older, older.child("jt") as child:
        keep(folder / "jt-seed0", child)
    with open_tracker("mlflow", "streets", "street", **options) as parent:
        parent.artifact(folder / "table.yaml")
        for run in sorted(folder.glob("*-seed*")):
            with parent.child(run.name) as child:
                keep(run, child)
                with child.child("he") as network:
                    network.text("nothing: else", "config.yaml")
    capsys.readouterr()
    assert compare.main(["streets", "--mlflow", "--out", "from mlflow"]) == 0
    assert "MLflow: street, 4 runs" in capsys.readouterr().out
    for name in ("table.md", "table.csv"):
        assert Path("from mlflow", name).read_text() == Path("from folders", name).read_text()
    assert compare.main(["loose", "--mlflow", "--tracking-uri", options["uri"]]) == 0
    assert "MLflow: loose, 1 runs" in capsys.readouterr().out
    for arguments, words in [
        (["street", "--mlflow"], "no experiment 'street'; known: Default, loose, streets; did you mean 'streets'?"),
        (["Default", "--mlflow"], "has no finished run, expected one that keeps config.yaml, scores.json"),
        (["streets", "loose", "--mlflow"], "--mlflow reads one experiment, found 2"),
        (["streets", "--mlflow", "--tracking-uri", "sqlite:///nowhere.db"], "nowhere.db"),
    ]:
        assert compare.main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not Path("nowhere.db").exists()


def test_what_cannot_be_compared_is_a_sentence(compare, tmp_path, capsys):
    right = {"he": pictures(60, 61, 62), "xu": pictures(70, 71)}
    first = write_run(tmp_path / "a", "jt", 0, right)
    many = {**right, "he": pictures(60, 61)}
    others = {**right, "he": right["he"] + [[[0, 0], [0, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]]}
    moved = {**right, "he": right["he"] + [[[0, 0], [0, 1]], [[0, 0], [0, -1]], [[0, 0], [0, 0]]]}  # as many pixels, in other pictures
    for other, word in [
        (write_run(tmp_path / "b", "nf", 0, right, scoring="dense"), "dense"),
        (write_run(tmp_path / "h", "nf", 0, right, split="val"), "('val', 'strided', False, "),
        (write_run(tmp_path / "c", "nf", 0, many), "other pictures or labels of he"),
        (write_run(tmp_path / "d", "jt", 0, right), "both jt with seed 0"),
        (write_run(tmp_path / "e", "nf", 0, others), "other pictures or labels of he"),
        (write_run(tmp_path / "g", "nf", 0, {"kundu": right["he"]}), "no dataset in common, kundu and he, xu"),
        (write_run(tmp_path / "f", "nf", 0, moved), "other pictures or labels of he"),
        (tmp_path / "nowhere", "it has no scores.json"),
    ]:
        assert compare.main([str(first), str(other)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and word in error


def test_damaged_runs_and_tables_are_a_sentence(compare, tmp_path, capsys):
    right = {"he": pictures(60, 61, 62)}
    for n, (damage, word) in enumerate([
        (lambda run: (run / "per_image.npz").unlink(), "it has no per_image.npz"),
        (lambda run: (run / "per_image.npz").write_bytes(b"PK"), "per_image.npz"),
        (lambda run: np.savez(run / "per_image.npz", xu=right["he"]), "it has no 'he"),
        (lambda run: np.savez(run / "per_image.npz", he=right["he"][0]), "shape (2, 2)"),
        (lambda run: np.savez(run / "per_image.npz", he=-right["he"]), "counts below 0"),
        (lambda run: np.savez(run / "per_image.npz", he=right["he"] / 2), "float64"),
        (lambda run: np.savez(run / "per_image.npz", he=pictures(60, 61, 63)), "scores.json says global"),
        (lambda run: np.savez(run / "per_image.npz", **{**right, "he/sequences": ["a"]}), "names 1 sequences for 3 pictures"),
        (lambda run: (run / "scores.json").write_text(json.dumps({"datasets": {}})), "it has no 'pooled'"),
        (lambda run: (run / "config.yaml").write_text("strategy: {name: jt}"), "it has no 'train'"),
        *(
            (lambda run, line=line: (run / "config.yaml").write_text((run / "config.yaml").read_text() + line + "\n"), word)
            for line, word in (
                ("model: [patchnet]", "its model is damaged"), ("model: {name: [a]}", "its model is damaged"),
                ("data: street7", "its data is damaged"),
                ("data: {share: 3}", "its data.share is damaged"), ("data: {share: {he: x}}", "its data.share is damaged"),
            )
        ),
    ]):  # fmt: skip
        run = write_run(tmp_path / str(n), "jt", 0, right)
        damage(run)
        assert compare.main([str(run)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {run} ") and error.count("\n") == 1 and word in error, (n, error)
    folder = write_table(tmp_path / "runs" / "street", {"nf": (60,)})
    for text in ("", "[", "rows: {nf: []}", "{rows: [nf], seeds: [0]}", "{rows: {1: []}, seeds: []}", "{rows: {}, seeds: [], name: 1}"):
        (folder / "table.yaml").write_text(text)
        assert compare.main(["street"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: runs/street/table.yaml ") and error.count("\n") == 1, text
