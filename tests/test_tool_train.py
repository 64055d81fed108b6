"""``tools/train.py`` as a user runs it: from settings to a run's folder, on small datasets described by YAMLs of the user's own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toy import write_toy

from densemtmd import Predictor, checkpoint, composing, evaluation
from densemtmd.commands import train
from densemtmd.data import open_data, output_space
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import load_split, open_dataset
from densemtmd.errors import UserError
from densemtmd.kinds import pixels
from densemtmd.runs import run as runs
from densemtmd.runs.folder import reopen
from densemtmd.settings import RunSettings

pytestmark = pytest.mark.usefixtures("undrawn")  # but by the process of test_as_a_command

ROOT = Path(__file__).parents[1]
SMALL = ["data=own", "model=patchnet"]
SMALL += ["model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=3000", "train.crop=24", "train.batch=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, [str(write_toy(root, "squares", "square")), str(write_toy(root, "discs", "disc"))]


@pytest.fixture
def arguments(data, tmp_path):
    root, files = data
    return [*SMALL, f"data.datasets=[{','.join(files)}]", f"data_root={root}", f"runs={tmp_path / 'runs'}", "tracking=none"]


def only_run(folder):
    (run,) = (folder / "runs").iterdir()
    return run


def test_one_network_for_all_datasets(arguments, data, tmp_path, capsys):
    assert train.main([*arguments, "strategy=jt", "name=try"]) == 0
    run = only_run(tmp_path)
    assert run.name.endswith("-try")
    assert {"config.yaml", "best.safetensors", "last.safetensors", "scores.json", "per_image.npz"} <= {f.name for f in run.iterdir()}
    printed = capsys.readouterr().out
    assert "    1   " in printed and "epoch    loss" in printed and "all together" in printed and str(run) in printed

    scored = json.loads((run / "scores.json").read_text())
    assert "Made by `densemtmd train data=own model=patchnet " in (run / "scores.md").read_text()
    kept = np.load(run / "per_image.npz")
    matrices = {name: kept[name] for name in kept.files if "/" not in name}
    datasets = {d.name: d for d in (open_dataset(load_dataset_config(file), data[0]) for file in data[1])}
    again = evaluation.report(matrices, {name: d.labelset for name, d in datasets.items()})
    assert again == {k: scored[k] for k in ("pooled", "datasets")} and scored["scoring"] == "dense"

    predictor = Predictor.load(run)
    assert predictor.space == output_space(list(datasets.values()))
    for name, dataset in datasets.items():  # the stored matrices are those of the labels that the predictor gives
        for sample, matrix in zip(load_split(dataset, "test"), matrices[name], strict=True):
            answer = torch.from_numpy(predictor(sample.image, name))
            assert torch.equal(evaluation.confusion(answer, torch.from_numpy(sample.target), 2), torch.from_numpy(matrix))

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["train"]["crop"] == 24 and config["found"]["discs"]["yaml"]["labelset"] == ["other", "disc"]
    listed = (run / "splits" / "discs" / "train.txt").read_text().split()
    assert listed == [item.key for item in datasets["discs"].splits["train"]] and len(listed) == 6


def test_one_network_per_dataset(arguments, tmp_path):
    assert train.main([*arguments, "strategy=nf"]) == 0
    run = only_run(tmp_path)
    assert {d.name for d in run.iterdir() if (d / "best.safetensors").exists()} == {"squares", "discs"}
    assert not (run / "best.safetensors").exists()
    assert set(json.loads((run / "scores.json").read_text())["datasets"]) == {"squares", "discs"}
    predictor = Predictor.load(run)
    picture = np.zeros((20, 30, 3), np.uint8)
    assert set(predictor.all(picture)) == {"squares", "discs"} and predictor(picture, "discs").shape == (20, 30)


def test_the_papers_protocol(arguments, tmp_path):
    assert train.main([*[a for a in arguments if not a.startswith(("train.crop", "train.batch"))], "protocol=paper"]) == 1  # 40 rows
    assert composing.compose(["protocol=paper"]).train.batch == 128


def test_too_small_pictures_for_the_papers_protocol_are_a_sentence(arguments, capsys):
    assert train.main([*arguments, "protocol=paper"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: picture") and "46" in error and "train.border=reflect" in error


def test_a_seed_gives_the_same_network_twice(arguments, tmp_path):
    for name in ("a", "b"):
        assert train.main([*arguments, f"name={name}", "train.outputs=1000"]) == 0
    assert train.main([*arguments, "name=c", "train.outputs=1000", "seed=1"]) == 0
    biases = {}
    for run in (tmp_path / "runs").iterdir():
        biases[run.name[-1]] = Predictor.load(run).networks[0].classifier[-1].bias
    assert torch.equal(biases["a"], biases["b"]) and not torch.equal(biases["a"], biases["c"])


def test_a_killed_run_is_finished_in_its_folder_with_the_same_weights(arguments, tmp_path, monkeypatch, capsys):
    """Both networks of a run, the second of which is stopped on its way."""
    from densemtmd import training

    assert train.main([*arguments, "strategy=nf", "name=whole"]) == 0
    save_state, saves = training.save_state, []

    def die(path, *rest):
        save_state(path, *rest)
        saves.append(path)
        if len(saves) > 4 and path.parent.name == "discs":
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", die)
    assert train.main([*arguments, "strategy=nf", "name=killed", "train.checkpoint_seconds=0"]) == 130
    whole, killed = sorted((tmp_path / "runs").iterdir(), key=lambda run: run.name.endswith("killed"))
    assert not (killed / "scores.json").exists()
    monkeypatch.setattr(training, "save_state", save_state)
    capsys.readouterr()
    assert train.main([f"resume={killed}"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    for dataset in ("squares", "discs"):
        networks = [Predictor.load(run / dataset).networks[0].state_dict() for run in (whole, killed)]
        assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())
    assert json.loads((whole / "scores.json").read_text()) == json.loads((killed / "scores.json").read_text())


def test_resuming_what_is_no_run_or_has_other_data_is_a_sentence(arguments, data, tmp_path, capsys):
    assert train.main([f"resume={tmp_path}"]) == 1
    assert "no run's folder" in capsys.readouterr().err
    assert train.main([*arguments, "train.outputs=300"]) == 0
    run = only_run(tmp_path)
    for change, begun in (("seed=3", "seed=0"), ("train.lr=0.1", "train.lr=0.001"), ("model.hidden=9", "model.hidden=8")):
        assert train.main([f"resume={run}", change]) == 1
        error = capsys.readouterr().err
        assert f"{change} would change the network of {run}, which was begun with {begun}: start a new run" in error
    assert train.main([f"resume={run}", "strategy=nf"]) == 1 and train.main([f"resume={run}", "seed=0,1"]) == 1
    assert train.main([f"resume={run}", "train.epoch=3"]) == 1 and "did you mean" in capsys.readouterr().err
    listed = run / "splits" / "discs" / "val.txt"
    listed.write_text(listed.read_text() + "009\n")
    assert train.main([f"resume={run}"]) == 1
    error = capsys.readouterr().err
    assert f"'009' is in {run / 'splits' / 'discs' / 'test.txt'} and in another split too" in error
    (run / "config.yaml").write_text("seed: [")
    assert train.main([f"resume={run}"]) == 1
    assert "config.yaml cannot be read" in capsys.readouterr().err


def test_a_finished_run_learns_on_by_a_larger_budget_and_is_scored_in_another_way(arguments, data, tmp_path, capsys):
    """And its data have moved in the meantime."""
    root, _ = data
    (tmp_path / "there").mkdir()
    for name in ("squares", "discs"):
        shutil.copytree(root / name, tmp_path / "there" / name)
    more = [*[a for a in arguments if not a.startswith("data_root")], f"data_root={tmp_path / 'there'}", "train.outputs=600"]
    assert train.main(more) == 0
    run = only_run(tmp_path)
    first = checkpoint.load(run / "last.safetensors")[1]["state"]
    (tmp_path / "there").rename(tmp_path / "moved")
    capsys.readouterr()
    assert train.main([f"resume={run}"]) == 1
    error = capsys.readouterr().err
    assert f"not found: {tmp_path / 'there' / 'squares'} is not a folder; set data_root to the folder that holds it" in error
    given = [f"data_root={tmp_path / 'moved'}", "train.outputs=1500", "score.scoring=strided", "train.checkpoint_seconds=3"]
    assert train.main([f"resume={run}", *given]) == 0
    state = checkpoint.load(run / "last.safetensors")[1]["state"]
    assert first["done"] and state["done"] and first["outputs"] < 1000 < 1500 <= state["outputs"]
    assert json.loads((run / "scores.json").read_text())["scoring"] == "strided"
    settings, datasets = reopen(run)  # it is kept: where the data lie now, and how long it learned
    assert settings.train.outputs == 1500 and settings.data_root == str(tmp_path / "moved")
    assert [dataset.folder for dataset in datasets] == [tmp_path / "moved" / name for name in ("squares", "discs")]
    assert train.main([f"resume={run}"]) == 0 and checkpoint.load(run / "last.safetensors")[1]["state"] == state


def test_a_single_crop_of_a_single_output_is_refused_before_training(arguments, tmp_path, capsys):
    """A batch norm cannot learn of one number. A part of a batch may be as small."""
    for more in (["train.crop=4", "train.batch=1"], ["train.crop=1", "train.batch=3", "train.accumulate=2"]):
        assert train.main([*arguments, *more]) == 1
        assert "its batch norms see one number and can learn nothing: use train.batch=" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    for more in (["train.crop=4", "train.batch=2"], ["train.crop=8", "train.batch=1"]):
        runs.check(composing.compose([*arguments, *more]))


def test_debug_shows_within_seconds_whether_everything_works(arguments, tmp_path):
    assert train.main([*[a for a in arguments if not a.startswith("train.")], "debug=true"]) == 0
    scored = json.loads((only_run(tmp_path) / "scores.json").read_text())
    assert scored["scoring"] == "strided" and scored["datasets"]["discs"]["pixels"] <= 2 * 10 * 13


def test_what_cannot_be_drawn_costs_nothing_else(arguments, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise MemoryError("Unable to allocate 9.3 GiB")

    monkeypatch.setattr(runs, "curves_figure", fails)
    monkeypatch.setattr(pixels, "confusion_figure", fails)
    monkeypatch.setattr(pixels, "overlay", fails)
    assert train.main([*arguments, "debug=true"]) == 0
    run, told = only_run(tmp_path), capsys.readouterr()
    assert json.loads((run / "scores.json").read_text())["datasets"].keys() == {"squares", "discs"}
    assert "all together" in told.out and "label pictures with it" in told.out
    lines = told.err.splitlines()
    assert [line for line in lines if "could not be drawn" in line] == [
        f"note: {run / 'figures' / name} could not be drawn, all else goes on: MemoryError: Unable to allocate 9.3 GiB"
        for name in ("curves.png", "confusion_squares.png", "confusion_discs.png")
    ]
    with np.load(run / "per_image.npz") as kept:
        counted = kept["discs"].sum(0)
    table = [line.split(",") for line in (run / "figures" / "confusion_discs.csv").read_text().splitlines()]
    assert table[0] == ["", "other", "disc"] and [[int(n) for n in row[1:]] for row in table[1:]] == counted.tolist()


def test_settings_can_be_chosen_without_a_look_at_the_test_pictures(arguments, tmp_path, capsys):
    assert train.main([*arguments, "score.split=val", "train.validation_pictures=0", "score.scoring=strided"]) == 0
    run = only_run(tmp_path)
    scored, kept = json.loads((run / "scores.json").read_text()), np.load(run / "per_image.npz")
    assert scored["split"] == "val" and "val pictures, strided scoring" in capsys.readouterr().out
    for name in ("squares", "discs"):
        assert kept[f"{name}/pictures"].tolist() == (run / "splits" / name / "val.txt").read_text().split()
    best = max(checkpoint.load(run / "last.safetensors")[1]["state"]["history"], key=lambda epoch: epoch["scores"]["pooled"]["iou"])
    assert scored["pooled"] == best["scores"]["pooled"]  # the best epoch's own validation, once more


@pytest.mark.parametrize("strategy", ["jt", "nf"])
@pytest.mark.parametrize(
    ("size", "label", "border", "words"),
    [((40, 60), 0, "valid", "is 40 pixels high or wide, smaller than the network's patch of 46"),
     ((60, 60), 255, "reflect", "has no labelled pixel to train on")],
)  # fmt: skip
def test_what_cannot_be_trained_on_leaves_no_folder(arguments, tmp_path, capsys, strategy, size, label, border, words):
    """It is seen before the first network is trained, also of the datasets that would come later."""
    bad = write_toy(tmp_path, "bad", "square", size=size)
    if label == 255:
        for path in (tmp_path / "bad" / "labels").iterdir():
            Image.fromarray(np.full(size, label, np.uint8)).save(path)
    good = write_toy(tmp_path, "good", "disc", size=(60, 60))
    changes = [f"data.datasets=[{good},{bad}]", f"data_root={tmp_path}", f"train.border={border}", f"strategy={strategy}"]
    assert train.main([*arguments, *changes]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_test_picture_nothing_is_scored(arguments, data, tmp_path, capsys):
    file = Path(data[1][0])
    content = yaml.safe_load(file.read_text()) | {"folder": str(data[0] / "squares")}
    untested = tmp_path / "untested.yaml"
    untested.write_text(yaml.safe_dump(content | {"split": {"fractions": {"train": 0.7, "val": 0.3, "test": 0}}}))
    assert train.main([*arguments, f"data.datasets=[{untested}]", "train.outputs=300"]) == 0
    assert "test has no picture, so that nothing is scored" in capsys.readouterr().out
    assert json.loads((only_run(tmp_path) / "scores.json").read_text())["pooled"]["iou"] is None


def test_a_folder_that_cannot_be_locked_is_not_left_behind(arguments, tmp_path, monkeypatch):
    """As on a disk that has room for a folder, and for no file."""

    def refuse(*_):
        raise UserError("lock.json could not be written")

    monkeypatch.setattr(runs, "held", refuse)
    assert train.main(arguments) == 1 and not list((tmp_path / "runs").iterdir())


def test_overfitting_counts_a_labelset_once(arguments, tmp_path):
    """Two datasets that share a labelset: each output of the batch is counted once, not once for each."""
    first, second = (write_toy(tmp_path, name, "square", seed=seed) for seed, name in enumerate(("first", "second")))
    second.write_text(yaml.safe_dump(yaml.safe_load(second.read_text()) | {"labelset": "first.yaml"}))
    changes = [f"data.datasets=[{first},{second}]", f"data_root={tmp_path}", "train.overfit=1", "train.outputs=100", "train.lr=0"]
    assert train.main([*arguments, *changes]) == 1  # it has learned nothing, and says so
    (epoch, *_) = checkpoint.load(only_run(tmp_path) / "last.safetensors")[1]["state"]["history"]
    assert epoch["scores"]["datasets"].keys() == {"first"}
    assert epoch["scores"]["pooled"]["pixels"] == epoch["scores"]["datasets"]["first"]["pixels"] <= 4 * 6 * 6


def test_overfitting_that_fails_says_so(arguments, capsys):
    assert train.main([*arguments, "train.overfit=1", "train.outputs=100", "train.lr=0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: only ") and "expected 99 %" in error


def test_two_networks_under_one_labelset_are_refused(arguments, data, tmp_path, capsys):
    root, files = data
    write_toy(tmp_path, "more", "square", seed=1)
    text = (tmp_path / "more.yaml").read_text()
    (tmp_path / "more.yaml").write_text(text.replace("labelset:\n- other\n- square\n", f"labelset: {files[0]}\n"))
    (root / "more").symlink_to(tmp_path / "more")
    both = [*[a for a in arguments if not a.startswith("data.datasets")], f"data.datasets=[{files[0]},{tmp_path / 'more.yaml'}]"]
    assert train.main([*both, "strategy=nf"]) == 1
    assert "two networks, squares and more, would answer under 'squares'" in capsys.readouterr().err
    assert train.main([*both, "train.outputs=300"]) == 0  # one network for both is what sharing a labelset is for
    run = only_run(tmp_path)
    assert Predictor.load(run).space.channels == 2
    assert train.main([f"resume={run}"]) == 0  # although one of the folders is a link


def test_overfitting_one_batch_reaches_99_percent(arguments, tmp_path):
    assert train.main([*arguments, "train.overfit=1", "train.outputs=60000", "model.widths=[8,16,32]", "model.hidden=32"]) == 0
    state = checkpoint.load(only_run(tmp_path) / "last.safetensors")[1]["state"]
    assert state["history"][-1]["scores"]["pooled"]["global"] >= 99 and state["outputs"] < 60000


def test_a_sweep_runs_every_combination_the_first_setting_outermost():
    assert composing.sweep(["seed=0,1", "strategy=nf,jt", "train.lr=0.1"]) == [
        [f"seed={seed}", f"strategy={strategy}", "train.lr=0.1"] for seed in "01" for strategy in ("nf", "jt")
    ]
    assert composing.sweep(["model.widths=[1,2,3]"]) == [["model.widths=[1,2,3]"]]
    assert composing.sweep(["data_root=~/data"]) == [[f"data_root={Path.home()}/data"]]  # as some shells leave it


@pytest.mark.parametrize("group", ["data", "model", "strategy", "protocol"])
def test_every_choice_composes(group):
    choices = [file.stem for file in (ROOT / "conf" / group).glob("*.yaml")]
    assert choices
    for choice in choices:
        settings = composing.compose([f"{group}={choice}"])
        assert isinstance(settings, RunSettings)
        for name in settings.data.datasets:
            assert load_dataset_config(name).task.channels >= 2


def test_a_dataset_can_be_added_to_any_choice(arguments, data):
    others = [a for a in arguments if "datasets" not in a]
    settings = composing.compose([*others, f"data.datasets=[{data[1][0]}]", f"data.add={data[1][1]}"])
    assert [d.name for d in open_data(settings.data, settings.data_root)] == ["squares", "discs"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.datasets=[]", ["data.datasets is empty"]),
        ("data.fold=2", ["data.fold is 2", "squares, discs"]),
        ("data.split=official", ["official"]),
        ("train.mixing=pixel", ["train.mixing", "did you mean 'pixels'"]),
        ("train.border=none", ["train.border", "reflect, valid"]),
        ("train.outputs=0", ["train.outputs is 0"]),
        ("train.device=tpu", ["tpu", "auto, cpu or cuda"]),
        ("score.scoring=dens", ["did you mean 'dense'"]),
        ("score.split=vall", ["did you mean 'val'"]),
        ("model.widths=[1,2]", ["three widths"]),
        ("model.dropout=1", ["dropout"]),
        ("tracking=mlflo", ["mlflo"]),
        ("runs=/proc/nowhere", ["/proc/nowhere", "runs="]),
    ],
)
def test_mistakes_are_sentences(arguments, override, words, capsys):
    assert train.main([*arguments, "train.outputs=300", override]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for word in words:
        assert word in error


def test_as_a_command(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "train.py", *arguments, "train.outputs=300"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert (run / "scores.json").is_file() and "infer.py" in done.stdout
    assert {file.name for file in (run / "figures").iterdir()} == {
        "curves.png", *(f"confusion_{name}.{suffix}" for name in ("squares", "discs") for suffix in ("png", "csv")),
    }  # fmt: skip
    assert sorted(f.name for f in tmp_path.iterdir()) == ["runs"]  # nothing else is left behind
    shown = subprocess.run([sys.executable, ROOT / "tools" / "train.py", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "train.minutes=" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
