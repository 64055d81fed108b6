"""Tables of runs: their order, what is run again and what is not, what rows share, and curves over the number of labels."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from toy import write_toy

from densemtmd import checkpoint, composing
from densemtmd.commands import train
from densemtmd.data import open_data
from densemtmd.errors import UserError
from densemtmd.runs.table import Planned, command_of, curve, finished, read_experiment
from densemtmd.settings import DataSettings, RunSettings
from densemtmd.strategies import stages

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
SMALL = [
    "model=patchnet",
    "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=600", "train.epoch_outputs=300", "train.crop=24",
    "train.batch=4", "tracking=none", "cache=none", "score.scoring=strided", "score.probe=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, [str(write_toy(root, "squares", "square")), str(write_toy(root, "discs", "disc"))]


@pytest.fixture
def arguments(data, tmp_path, monkeypatch):
    """A table of three rows on small datasets, in a conf of its own."""
    root, files = data
    monkeypatch.setattr(composing, "CONF", tmp_path / "conf")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / "experiment.yaml"
    rows = {"jt": ["strategy=jt"], "sc": ["strategy=jtsc"], "nf": ["strategy=nf"]}
    experiment.write_text(yaml.safe_dump({"rows": rows, "settings": SMALL, "seeds": [0, 1]}, sort_keys=False))
    table = read_experiment(experiment)
    monkeypatch.setattr("densemtmd.runs.table.read_experiment", lambda path: table)
    return ["experiment=street7", "name=toys", "data=own", "model=patchnet", f"data.datasets=[{','.join(files)}]", f"data_root={root}"]


def weights(path):
    return checkpoint.load(path)[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_table_runs_once_and_goes_on_where_it_stopped(arguments, capsys):
    assert train.main(arguments) == 0
    printed = capsys.readouterr().out
    order = [line.split()[-1] for line in printed.splitlines() if line.startswith("[")]
    assert order == ["jt-seed0", "sc-seed0", "nf-seed0", "jt-seed1", "sc-seed1", "nf-seed1"]  # seeds outside, rows inside
    table = Path("runs/toys")
    assert yaml.safe_load((table / "table.yaml").read_text())["seeds"] == [0, 1]
    for name in order:
        assert (table / name / "scores.json").is_file() and (table / name / "per_image.npz").is_file()
    # the joint network below the context is trained once, in the row before
    assert "jt: the same as jt-seed0, which is trained already" in printed
    assert same(weights(table / "jt-seed1/best.safetensors"), weights(table / "sc-seed1/jt/best.safetensors"))
    assert not same(weights(table / "jt-seed0/best.safetensors"), weights(table / "jt-seed1/best.safetensors"))

    before = {file: file.stat().st_mtime_ns for file in table.rglob("*.safetensors")}
    expected = weights(table / "sc-seed1/best.safetensors")
    for lost in ("scores.json", "best.safetensors", "last.safetensors", "recipe.json"):
        (table / "sc-seed1" / lost).unlink()
    assert train.main(arguments) == 0
    assert "6 runs, 5 of which are finished" in capsys.readouterr().out
    assert {file for file in before if file.stat().st_mtime_ns != before[file]} == {
        table / "sc-seed1/best.safetensors", table / "sc-seed1/last.safetensors",
    }  # fmt: skip
    assert same(weights(table / "sc-seed1/best.safetensors"), expected)

    assert train.main([*arguments, "train.lr=0.02"]) == 1
    assert "was begun with train.lr=0.001, and not 0.02" in capsys.readouterr().err
    assert train.main([*arguments, "data_root=" + arguments[-1].partition("=")[2] + "/", "train.checkpoint_seconds=3"]) == 0


def test_a_row_that_fails_does_not_stop_the_others_and_several_run_at_once(arguments, capsys):
    few = [*arguments, "rows=[nf,jt]", "seeds=[0]"]
    assert train.main([*few, "name=one"]) == 0
    assert train.main([*few, "name=two", "jobs=2"]) == 0
    assert list(yaml.safe_load(Path("runs/two/table.yaml").read_text())["rows"]) == ["jt", "nf"]  # as the experiment has them
    for row in ("jt-seed0/best", "nf-seed0/discs/best"):
        assert same(weights(Path(f"runs/one/{row}.safetensors")), weights(Path(f"runs/two/{row}.safetensors")))
    assert "epoch    loss" in Path("runs/two/logs/jt-seed0.txt").read_text()
    capsys.readouterr()

    (Path("runs/one/jt-seed0") / "scores.json").unlink()
    (Path("runs/one/jt-seed0") / "last.safetensors").write_bytes(b"no checkpoint")
    assert train.main([*few, "name=one", "seeds=[0,1]"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: jt-seed0: ") and "last.safetensors" in error
    assert Path("runs/one/nf-seed1/scores.json").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["experiment=street8"], "unknown choice experiment=street8"),
        (["rows=[jt,jtcs]"], "no row 'jtcs'"),
        (["seeds=[a]"], "seeds is ['a'], expected seeds=[0,1,2]"),
        (["jobs=0"], "jobs is 0, expected at least 1"),
        (["strategy=jt,nf"], "names several values"),
        (["curve=discs"], "two tables"),
        (["train.lr=-1"], "train.lr is -1"),
    ],
)
def test_refused(arguments, more, words, capsys):
    assert train.main([*arguments, *more]) == 1
    assert words in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*-seed*"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_composes(path):
    experiment = read_experiment(path)
    search = "score.split=val" in experiment.settings  # for settings, not a comparison of strategies
    assert experiment.name == path.stem and (search or len(experiment.seeds) >= 3)
    for row, overrides in experiment.rows.items():
        settings = composing.compose([*experiment.settings, *overrides])
        assert experiment.paper is None or settings.model["name"] in ("patchnet", "handnet"), "the paper's tables are of its networks"
        plan = stages(settings.strategy, settings.data.datasets)
        assert sum(stage.answers for stage in plan) >= 1
        others = ["best", "alone", "joint", "jt_temperature", "linear_nf", "linear_jt", "alone_long", "linear_alone"]
        others += ["linear_joint", *(f"gr_{strength}" for strength in ("0.1", "0.5", "2"))]
        others += ["jt_3x", *(f"fresh_{name}" for name in ("nf_full", "jt", "jt_3x"))]
        others += [*(f"finetune_{name}" for name in ("stanford", "siftflow", "kitti7"))]
        assert search or row in (settings.strategy["name"], *others)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: {jt: [strategy=jt]}\nseed: 3", "unknown key 'seed'"),
        ("rows: {}", "rows is {}"),
        ("rows: {a/b: [x=1]}", "rows is"),
        ("rows: {a: [x=1]}\nseeds: [one]", "seeds is ['one']"),
        ("rows: {a: [x=1]}\nsettings: {a: 1}", "settings is"),
    ],
)
def test_damaged_experiments_are_a_sentence(tmp_path, text, words):
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"e\.yaml") as error:
        read_experiment(tmp_path / "e.yaml")
    assert words in str(error.value)


# ------------------------------------------------------------------------------------------------------------------------------------
# The number of labels


def test_fewer_labelled_pictures(data):
    root, files = data

    def split(share):
        (squares, discs) = open_data(DataSettings("own", files, share=share), root)
        return [{s: [item.key for item in d.splits[s]] for s in ("train", "val", "test")} for d in (squares, discs)]

    whole, half, third = split(None), split({"squares": 0.5}), split({"squares": 0.2})
    assert [len(half[0][s]) for s in ("train", "val", "test")] == [3, 2, 3] and half[1] == whole[1]
    assert half[0]["test"] == whole[0]["test"]
    for s in ("train", "val"):
        assert set(third[0][s]) <= set(half[0][s]) <= set(whole[0][s]) and len(third[0][s]) >= 1
    assert split({"squares": 1.0}) == whole
    for share, words in [({"sqares": 0.5}, "did you mean 'squares'"), ({"squares": 0}, "of squares is 0"), ({"squares": "x"}, "is 'x'")]:
        with pytest.raises(ValueError, match=words):
            split(share)


def test_a_curve_has_each_share_alone_and_with_the_others(data, tmp_path, monkeypatch, capsys):
    root, files = data
    monkeypatch.chdir(tmp_path)
    experiment = curve("squares", ["squares", "discs"], "own")
    assert list(experiment.rows) == [f"{who}-{share}%" for share in (5, 10, 25, 50, 100) for who in ("alone", "joint")]
    base = [*SMALL, "data=own", "model=patchnet", f"data.datasets=[{','.join(files)}]", f"data_root={root}"]
    assert train.main([*base, "curve=squares", "rows=[alone-50%,joint-50%]"]) == 0
    alone, joint = (json.loads(Path(f"runs/own-curve-squares/{row}-seed0/scores.json").read_text()) for row in ("alone-50%", "joint-50%"))
    assert list(alone["datasets"]) == ["squares"] and list(joint["datasets"]) == ["squares", "discs"]
    assert alone["datasets"]["squares"]["pixels"] == joint["datasets"]["squares"]["pixels"]
    seen = [sum(stage["outputs"] for stage in scores["training"].values()) for scores in (alone, joint)]
    assert seen[1] == pytest.approx(2 * seen[0], rel=0.2) and experiment.rows["joint-5%"][-1] == "train.mixing=uniform"
    listed = Path("runs/own-curve-squares/alone-50%-seed0/splits/squares/train.txt").read_text().splitlines()
    assert len(listed) == 3

    from densemtmd.commands import compare

    assert compare.main(["own-curve-squares", "--out", "out"]) == 0
    table = Path("out/table.md").read_text()
    gain = joint["datasets"]["squares"]["iou"] - alone["datasets"]["squares"]["iou"]
    low, high = (float(n.replace("−", "-")) for n in re.findall(r"\[([^,]+), ([^]]+)\]", table)[0])
    verdict = "helped at" if low > 0 else "hurt at" if high < 0 else "no clear difference at"
    assert f"to squares: {verdict} 50%." in table
    assert "| 50% of its pictures: 3 | " in table and f"{gain:+.1f} [".replace("-", "−") in table
    assert Path("out/figure.png").stat().st_size > 1000 and Path("out/table.csv").read_text().startswith("share,alone,")
    for name, words in [("squars", "did you mean 'squares'"), ("squares", "has no other")]:
        capsys.readouterr()
        assert train.main([*base, f"data.datasets=[{files[0]}]", f"curve={name}"]) == 1
        assert words in capsys.readouterr().err


def test_the_command_of_a_table_has_what_was_said_of_all_its_rows(tmp_path):
    experiment = curve("squares", ["squares", "discs"], "own")
    rows = experiment.rows["joint-5%"]
    said = ("data=own", "data_root=/somewhere", "model=frozen")
    plan = [Planned("joint-5%", RunSettings(seed=seed), (*rows, *said, f"seed={seed}")) for seed in (0, 3)]
    words = ["densemtmd", "train", "curve=squares", "data=own", "model=frozen", "seeds=[0,3]"]
    assert command_of(tmp_path / "mine", experiment, plan) == [*words, "name=mine"]
    assert command_of(tmp_path / "own-curve-squares", experiment, plan[:1]) == words[:-1]


def test_a_setting_that_came_later_had_its_default_then(tmp_path):
    """A table that was begun before it goes on; one that was begun with another value does not."""
    settings = RunSettings(strategy={"name": "jt"}, model={"name": "patchnet"})
    plain = asdict(settings)
    del plain["train"]["clip"], plain["score"]["probe"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    assert not finished(tmp_path, Planned("jt", settings, ()))
    (tmp_path / "scores.json").write_text("{}")
    assert finished(tmp_path, Planned("jt", settings, ()))
    plain["train"]["lr"] = 0.5
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(UserError, match=r"was begun with train\.lr=0\.5, and not 0\.001"):
        finished(tmp_path, Planned("jt", settings, ()))
