"""Keypoints in the common loop: batches of hands, strategies, resuming, scoring, and the tools as a user runs them."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import loadmat, savemat

from densemtmd import backbones, checkpoint, composing, poses
from densemtmd.commands import infer, train
from densemtmd.data import open_data
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import open_dataset
from densemtmd.datasets.hands.augment import Augmentation
from densemtmd.datasets.hands.crop import Cube, crop
from densemtmd.datasets.hands.dataset import load_hands
from densemtmd.datasets.hands.mixing import HandMixture, HandSource
from densemtmd.datasets.hands.sets import HAND_SETS, ICVL, NYU
from densemtmd.errors import UserError
from densemtmd.kinds.hands import augmentation
from densemtmd.runs.folder import record, reopen
from densemtmd.settings import DataSettings, RunSettings
from densemtmd.tasks import OutputSpace
from densemtmd.worlds.hands import HandWorldSettings, ensure_hands

TOOLS = Path(__file__).parents[1] / "tools"
WORLD = ["data=hands", "data.world.frames=60", "data.world.test=24", "tracking=none"]
SMALL = ["model.size=24", "model.hidden=24", "model.width=8", "train.batch=20", "train.epochs=6", "train.lr=0.003"]
SPACE = OutputSpace([NYU.keypoints, ICVL.keypoints])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with a small hand world."""
    root = tmp_path_factory.mktemp("hands")
    ensure_hands(root, HandWorldSettings(frames=60, test=24), workers=1)
    return root


@pytest.fixture(scope="module")
def datasets(root):
    (world,) = root.glob("hands-60-*")
    return [open_dataset(load_dataset_config(name), world) for name in HAND_SETS]


def test_a_run_goes_on_with_the_frames_that_it_recorded(root, tmp_path):
    """Those of a share of the labels, and not all that are there."""
    (world,) = root.glob("hands-60-*")
    settings = RunSettings(data=DataSettings(datasets=["nyu", "icvl"], share={"nyu": 0.1}), data_root=str(world), cache="none")
    opened = open_data(settings.data, world)
    record(tmp_path, settings, opened)
    _, again = reopen(tmp_path)
    assert len(opened[0].splits["train"]) == 6 and len(opened[1].splits["train"]) > 50
    assert [dataset.splits for dataset in again] == [dataset.splits for dataset in opened]
    (tmp_path / "splits" / "nyu" / "train.txt").write_text("none.png\n")
    with pytest.raises(UserError, match=r"1 of 1 pictures in .* are no longer in .*, the first is 'none\.png'"):
        reopen(tmp_path)


@pytest.fixture(scope="module")
def runs(root):
    """A run of each strategy."""
    found = {}
    for strategy in ("nf", "jt", "jtsc", "jt_gr"):
        arguments = [*WORLD, *SMALL, f"data_root={root}", f"runs={root / 'runs' / strategy}", f"strategy={strategy}"]
        assert train.main(arguments) == 0
        (found[strategy],) = (root / "runs" / strategy).iterdir()
    return found


def mixture(datasets, **changes):
    loaded = [load_hands(dataset, None, 24, 1.0)["train"] for dataset in datasets]
    sources = [HandSource(d.name, SPACE.index(d.task.name), k, hands) for k, (d, hands) in enumerate(zip(datasets, loaded, strict=True))]
    settings = {"size": 24, "batch": 10, "mixing": "uniform", "augmentation": Augmentation(), "seed": 0}
    return HandMixture(sources, SPACE, **{**settings, **changes})


def test_the_second_subject_of_nyu_is_cropped_in_a_smaller_cube(root, tmp_path):
    """From test frame 2440 on, of which small worlds have none: the same pictures before and after."""
    (world,) = root.glob("hands-60-*")
    shutil.copytree(world / "nyu" / "train", tmp_path / "nyu" / "train")
    (tmp_path / "nyu" / "test").mkdir()
    for frame, like in ((1, 1), (2439, 3), (2440, 4), (2441, 3), (2442, 4)):  # counted from 1
        shutil.copy(world / "nyu" / "test" / f"depth_1_{like:07d}.png", tmp_path / "nyu" / "test" / f"depth_1_{frame:07d}.png")
    uvd = loadmat(world / "nyu" / "test" / "joint_data.mat")["joint_uvd"]
    long = np.concatenate([np.tile(uvd[:, :1], (1, 2438, 1, 1)), uvd[:, [2, 3, 2, 3]]], 1)
    savemat(tmp_path / "nyu" / "test" / "joint_data.mat", {"joint_uvd": long})
    dataset = open_dataset(load_dataset_config("nyu"), tmp_path)
    hands = load_hands(replace(dataset, splits={"test": dataset.splits["test"][2438:]}), None, 24, 1.0)["test"]
    assert hands.cube.side.tolist() == [300, 300, 250, 250] and {item.sequence for item in dataset.splits["test"]} == {"test 1", "test 2"}
    coordinates = hands.cube.normalise(hands.xyz)
    assert np.abs(hands.cube.denormalise(coordinates) - hands.xyz).max() < 1e-9
    spans = np.ptp(coordinates, axis=1)
    assert np.abs(spans[2:] / spans[:2] - 300 / 250).max() < 1e-9  # the same hand fills more of the smaller cube
    assert (hands.depth[2:] != hands.depth[:2]).any((1, 2)).all()


# --------------------------------------------------------------------------------------------------------------------------- batches


def test_datasets_are_split_as_they_were_published(datasets):
    for dataset in datasets:
        assert [len(items) for items in dataset.splits.values()] == [54, 6, 24]
        keys = [item.key for items in dataset.splits.values() for item in items]
        assert len(set(keys)) == 84 and dataset.task == HAND_SETS[dataset.name].keypoints and dataset.domain == dataset.name
        with pytest.raises(UserError, match="keypoints of hands, expected a dataset with labels"):
            dataset.labelset  # noqa: B018


def test_crops_are_kept(datasets, tmp_path, monkeypatch):
    first = load_hands(datasets[1], tmp_path, 24, 1.0)
    assert len([*tmp_path.glob("*.hands.npz")]) == 3
    monkeypatch.setattr("densemtmd.datasets.hands.dataset._read", lambda *_: pytest.fail("read again"))
    second = load_hands(datasets[1], tmp_path, 24, 1.0)
    for split, hands in first.items():
        assert (hands.depth == second[split].depth).all() and (hands.cube.centre == second[split].cube.centre).all()
        assert (hands.xyz == second[split].xyz).all() and hands.keys == second[split].keys
    monkeypatch.undo()
    next(tmp_path.glob("*.npz")).write_bytes(b"damaged")
    assert (load_hands(datasets[1], tmp_path, 24, 1.0)["val"].depth == first["val"].depth).all()


@pytest.mark.parametrize("augmentation", [Augmentation(0, 0, 0), Augmentation(rotate=90, scale=0.2, shift=10)])
def test_part_of_a_batch_is_drawn_as_in_the_whole_one(datasets, augmentation):
    batch = mixture(datasets, batch=6, augmentation=augmentation).batch(3)
    for own in ([1, 3, 5], [0, 1]):  # the second of one dataset alone
        part = mixture(datasets, batch=6, augmentation=augmentation).batch(3, torch.tensor(own))
        assert torch.equal(part.target.nan_to_num(), batch.target[own].nan_to_num())
        assert all(torch.equal(getattr(batch, name)[own], getattr(part, name)) for name in ("image", "task", "domain", "weight"))


def test_batches_have_exact_halves_and_every_coordinate_in_its_place(datasets):
    drawn = mixture(datasets, batch=10)
    batch = drawn.batch(3)
    assert batch.task.tolist() == [0] * 5 + [1] * 5 and batch.domain.tolist() == batch.task.tolist() and batch.labelled == 10
    assert batch.image.shape == (10, 1, 24, 24) and batch.image.dtype == torch.float32
    assert batch.image.min() >= -1 and batch.image.max() == 1 and (batch.weight == 1).all()
    assert batch.target.shape == (10, 48) and batch.target[:5, 42:].isnan().all() and batch.target[5:].isfinite().all()
    hands = drawn.sources[0].hands
    truth = ((hands.xyz - hands.cube.centre[:, None]) / 150).reshape(len(hands), -1)
    for row in batch.target[:5, :42].numpy():
        assert np.abs(truth - row).max(1).min() < 1e-6
    again = mixture(datasets, batch=10).batch(3)
    assert torch.equal(again.image, batch.image) and not torch.equal(drawn.batch(4).image, batch.image)


def test_shares_that_are_no_whole_numbers_are_right_on_average(datasets):
    drawn = mixture(datasets, batch=7, mixing={"nyu": 3, "icvl": 1})
    counts = np.array([drawn.counts(np.random.default_rng(n)) for n in range(400)])
    assert (counts.sum(1) == 7).all() and set(counts[:, 0]) == {5, 6} and counts[:, 0].mean() == pytest.approx(5.25, abs=0.1)


def test_weights_of_equilibrium_and_of_millimetres(datasets):
    even = mixture(datasets, mixing={"nyu": 3, "icvl": 1}, batch=8, equilibrium=True).batch(0)
    assert even.weight[even.task == 0].sum() == pytest.approx(even.weight[even.task == 1].sum().item())
    mm = mixture(datasets, unit="mm").batch(0)
    assert mm.weight.tolist() == pytest.approx([1.0] * 5 + [(250 / 300) ** 2] * 5)


def test_augmented_batches_show_other_hands_with_their_keypoints(datasets):
    plain, moved = mixture(datasets).batch(0), mixture(datasets, augmentation=Augmentation(rotate=90, scale=0.2, shift=10)).batch(0)
    assert not torch.equal(plain.image, moved.image) and not torch.equal(plain.target.nan_to_num(), moved.target.nan_to_num())


# ------------------------------------------------------------------------------------------------------------------------------- runs


def test_every_strategy_trains_and_scores(runs):
    for strategy, run in runs.items():
        scored = json.loads((run / "scores.json").read_text())
        kept = np.load(run / "per_image.npz")
        for name, joints in (("nyu", 14), ("icvl", 16)):
            row = scored["datasets"][name]
            assert kept[f"{name}/mm"].shape == kept[f"{name}/px"].shape == (24, joints) and row["frames"] == 24
            assert row["mm"] == pytest.approx(kept[f"{name}/mm"].mean()) and row["px"] == pytest.approx(kept[f"{name}/px"].mean())
            assert list(kept[f"{name}/pictures"]) == (run / "splits" / name / "test.txt").read_text().splitlines()
        pooled = np.concatenate([kept[f"{name}/mm"].mean(1) for name in HAND_SETS]).mean()
        assert scored["pooled"] == {"mm": pytest.approx(pooled), "px": None, "frames": 48}
        assert scored["pooled"]["mm"] < 120, strategy
        assert (run / "figures" / "within.png").is_file() and "| icvl |" in (run / "scores.md").read_text()
    assert (runs["nf"] / "icvl" / "best.safetensors").is_file() and (runs["jtsc"] / "jt" / "best.safetensors").is_file()


def test_the_best_epoch_has_the_smallest_error(runs):
    _, about = checkpoint.load(runs["jt"] / "last.safetensors")
    errors = [epoch["scores"]["pooled"]["mm"] for epoch in about["state"]["history"]]
    assert about["state"]["best_epoch"] == 1 + int(np.argmin(errors)) and errors[-1] < errors[0]
    assert any(name.startswith("square.") for name in checkpoint.load(runs["jt"] / "last.safetensors")[0])  # Adam's


def test_the_context_sees_coordinates_without_activation(runs):
    network = checkpoint.load_network(runs["jtsc"] / "best.safetensors").eval()
    assert network.context is not None and network.context.settings["hidden"] == 300
    x = torch.rand(2, 1, 24, 24) * 2 - 1
    outputs = network.outputs(x)
    assert torch.allclose(outputs.answer, network.context.layers(outputs.joint)) and outputs.answer.shape == (2, 90, 1, 1)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_training_ends_like_one_without_a_break(root, tmp_path, optimizer, monkeypatch):
    from densemtmd import training

    arguments = [*WORLD, *SMALL, f"data_root={root}", f"train.optimizer={optimizer}", "train.lr=0.002"]
    assert train.main([*arguments, f"runs={tmp_path / 'whole'}"]) == 0
    step = training.train_step
    calls = []

    def interrupted(*given, **named):
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return step(*given, **named)

    monkeypatch.setattr(training, "train_step", interrupted)
    assert train.main([*arguments, f"runs={tmp_path / 'broken'}", "train.checkpoint_seconds=0"]) == 130
    monkeypatch.undo()
    (broken,), (whole,) = (tmp_path / "broken").iterdir(), (tmp_path / "whole").iterdir()
    assert train.main([f"resume={broken}"]) == 0
    ends = [checkpoint.load(run / "last.safetensors")[0] for run in (whole, broken)]
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_overfitting_scores_the_hands_of_its_batches(datasets, root, tmp_path, capsys):
    drawn = mixture(datasets, augmentation=Augmentation(rotate=60, scale=0.2, shift=10), batch=8)
    network = backbones.build({"name": "handnet", "size": 24, "width": 4, "hidden": 8, "dropout": 0.1}, SPACE)
    found = poses.fitted(network, drawn, 2, HAND_SETS, torch.device("cpu"))
    network.eval()
    for k, (name, hands) in enumerate(HAND_SETS.items()):
        mm = []
        for step in range(2):
            batch, (seen, cube) = drawn.batch(step), drawn.drawn(step)[k]
            own = batch.task == k
            with torch.inference_mode():
                answer = network(batch.image[own])[:, SPACE.slice(name)].double().numpy().reshape(len(seen), -1, 3)
            truth = batch.target[own].numpy()[:, : hands.keypoints.channels].reshape(len(seen), -1, 3)
            assert np.abs(cube.denormalise(truth) - seen.xyz).max() < 1e-3
            mm.append(np.linalg.norm(cube.denormalise(answer) - seen.xyz, axis=2))
        assert np.abs(found[name].mm - np.concatenate(mm)).max() < 1e-3 and found[name].px.shape == found[name].mm.shape

    few = [*WORLD, *SMALL, f"data_root={root}", "strategy=jt", "train.overfit=1", "train.epochs=null", "model.hidden=200", "train.batch=10"]
    few += ["train.patience=0", "score.probe=false"]
    assert train.main([*few, "train.outputs=10000", f"runs={tmp_path}"]) == 0
    (run,) = tmp_path.iterdir()
    errors = [epoch["scores"]["pooled"]["mm"] for epoch in checkpoint.load(run / "last.safetensors")[1]["state"]["history"]]
    assert errors[-1] <= 10 < min(errors[:-1]) and errors[0] > 30
    capsys.readouterr()
    assert train.main([*few, "train.outputs=20", f"runs={tmp_path / 'short'}"]) == 1
    error = capsys.readouterr().err
    assert "the keypoints of train.overfit=1 batches are" in error and "mm off after 2 steps, expected at most 10 mm: give it" in error


@pytest.mark.parametrize("table, more, world", [("table6", [], True), ("table6", ["data=nyu_icvl"], False), ("table7", [], False)])
def test_tables_of_hands_compose(table, more, world):
    from densemtmd.runs.table import read_experiment

    experiment = read_experiment(composing.CONF / "experiment" / f"{table}.yaml")
    assert list(experiment.rows) == ["nf", "jt", "jtsc"] and len(experiment.seeds) == 3 and experiment.paper == table
    for row in experiment.rows.values():
        settings = composing.compose([*experiment.settings, *row, *more])
        assert settings.data.datasets == ["nyu", "icvl"] and (settings.data.world is not None) == world
        assert settings.model["name"] == "handnet" and settings.train.batch == 100 and settings.train.mixing == "uniform"
        assert settings.train.optimizer == "adam" and settings.context.hidden == 300 and not augmentation(settings.hands)


def test_own_folders_and_a_file_of_centres(root, tmp_path):
    (world,) = root.glob("hands-60-*")
    text = {"name": "mine", "encoding": "icvl", "folder": str(world / "icvl"), "centres": {"test": "../centres.txt"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(text))
    truth = np.load(world / "truth" / "icvl_test.npz")["icvl"].mean(1)
    np.savetxt(world / "centres.txt", truth, fmt="%.6f")
    dataset = open_dataset(load_dataset_config(tmp_path / "mine.yaml"), tmp_path)
    hands = load_hands(dataset, None, 24, 1.0)
    assert np.abs(hands["test"].cube.centre - truth).max() < 1e-5 and np.abs(hands["val"].cube.centre - hands["val"].xyz.mean(1)).max() > 1


def blank(path):
    """The picture without a reading."""
    with Image.open(path) as picture:
        empty = Image.new(picture.mode, picture.size)
    empty.save(path)


def test_frames_without_a_hand_are_left_out_of_the_training_and_not_of_the_test(root, tmp_path, capsys, runs):
    from densemtmd.commands import evaluate

    (world,) = root.glob("hands-60-*")
    shutil.copytree(world / "nyu", tmp_path / "nyu")
    for split, frames in (("train", (3, 8, 57)), ("test", (1, 7, 8))):
        for frame in frames:
            blank(tmp_path / "nyu" / split / f"depth_1_{frame:07d}.png")
    whole, dataset = (open_dataset(load_dataset_config("nyu"), place) for place in (world, tmp_path))
    before = load_hands(whole, None, 24, 1.0)
    for again in range(2):  # read, and from what was kept
        found = load_hands(dataset, tmp_path / "cache", 24, 1.0)
        assert [len(hands) for hands in found.values()] == [52, 5, 24], again
        kept = [n for n, key in enumerate(before["train"].keys) if key[-2:] not in ("03", "08")]
        expected = before["train"].take(kept)
        assert found["train"].keys == expected.keys and (found["train"].depth == expected.depth).all()
        assert (found["train"].xyz == expected.xyz).all() and (found["train"].cube.centre == expected.cube.centre).all()
        test = found["test"]
        centres = test.cube.centre
        assert (centres[0] == centres[1]).all() and (centres[6] == centres[5]).all() and (centres[7] == centres[5]).all()
        assert not test.depth[[0, 6, 7]].any() and (test.depth[8] == before["test"].depth[8]).all()
        assert (test.xyz == before["test"].xyz).all()
        assert "nyu: 2 of 54 train frames show no hand and are left out" in found["train"].note
        assert "depth_1_0000003.png has no hand" in found["train"].note and "1 of 6 val frames" in found["val"].note
        assert "3 of 24 test frames show no hand; it is taken to be where it was in the frame before" in test.note

    data = ["data=own", "data.datasets=[nyu]", "model=handnet", "protocol=hands", "strategy=jt", f"data_root={tmp_path}", "tracking=none"]
    assert train.main([*data, *SMALL, "train.epochs=1", f"runs={tmp_path / 'runs'}"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 54 train frames" in printed and "3 of 24 test frames" in printed and "nyu 52/5/24 (pictures" in printed
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "scores.json").read_text())["pooled"]["frames"] == 24
    assert train.main([*data, *SMALL, "train.epochs=1", f"runs={tmp_path / 'val'}", "score.split=val"]) == 0
    assert len(np.load(next((tmp_path / "val").glob("*/per_image.npz")))["nyu/pictures"]) == 5
    capsys.readouterr()
    assert evaluate.main([str(run), "--split", "val"]) == 0
    assert "1 of 6 val frames" in (printed := capsys.readouterr().out) and "\n5 val pictures" in printed
    kept = np.load(run / "evaluations" / "own-val" / "per_image.npz")
    assert len(kept["nyu/pictures"]) == len(kept["nyu/mm"]) == 5 and "train/depth_1_0000057" not in kept["nyu/pictures"]

    for frame in range(1, 31):
        blank(tmp_path / "nyu" / "train" / f"depth_1_{frame:07d}.png")
    assert train.main([*data, f"runs={tmp_path / 'runs'}", "cache=none"]) == 1
    error = capsys.readouterr().err
    assert "nyu: 30 of 54 train frames show no hand, the first: " in error and "depth_1_0000001.png has no hand" in error


# --------------------------------------------------------------------------------------------------------------------------- pictures


def test_infer_draws_and_tells(runs, root, tmp_path):
    (world,) = root.glob("hands-60-*")
    pictures = [world / "nyu" / "test" / "depth_1_0000001.png", world / "icvl" / "Testing" / "Depth" / "test_seq_1" / "image_0003.png"]
    for strategy in ("jtsc", "nf"):
        out = tmp_path / strategy
        arguments = [*map(str, pictures), "--keypoints", "all", "--checkpoint", str(runs[strategy]), "--out", str(out)]
        assert infer.main(arguments) == 0
        for picture, hands in zip(pictures, (NYU, ICVL), strict=True):
            told = json.loads((out / f"{picture.name}.keypoints.json").read_text())
            assert {name: len(points) for name, points in told.items()} == {"nyu": 14, "icvl": 16}
            for points in told.values():
                mm, px = (np.array([point[unit] for point in points.values()]) for unit in ("mm", "px"))
                assert np.abs(hands.camera.to_uvd(mm)[:, :2] - px).max() < 0.05
            assert Image.open(out / f"{picture.name}.icvl.skeleton.png").size == (480, 480)


def test_infer_takes_centres_from_a_file(runs, root, tmp_path, capsys):
    (world,) = root.glob("hands-60-*")
    home = world / "icvl" / "Testing" / "Depth" / "test_seq_1"
    pictures = [str(home / f"image_{n:04d}.png") for n in (3, 1, 2)]
    truth = np.load(world / "truth" / "icvl_test.npz")
    where = dict(zip(truth["keys"].tolist(), truth["icvl"].mean(1), strict=True))
    lines = [" ".join(f"{value:.4f}" for value in where[f"test_seq_1/image_{n:04d}"]) for n in (3, 1)] + ["invalid invalid invalid"]
    (tmp_path / "centres.txt").write_text("\n".join(lines) + "\n")
    arguments = [*pictures, "--keypoints", "icvl", "--checkpoint", str(runs["jt"])]
    assert infer.main([*arguments, "--out", str(tmp_path / "looked")]) == 0
    assert infer.main([*arguments, "--out", str(tmp_path / "told"), "--centres", str(tmp_path / "centres.txt")]) == 0
    network = checkpoint.load_network(runs["jt"] / "best.safetensors")
    for picture, n in zip(pictures, (3, 1, 2), strict=True):
        looked, told = (
            np.array([p["mm"] for p in json.loads((tmp_path / out / f"{Path(picture).name}.keypoints.json").read_text())["icvl"].values()])
            for out in ("looked", "told")
        )
        if n == 2:
            assert (looked == told).all()
            continue
        cube = Cube(where[f"test_seq_1/image_{n:04d}"], np.array(250.0))
        depth = np.asarray(Image.open(picture)).astype(np.float32)
        answer = poses.answers(network, "icvl", crop(depth, ICVL.camera, cube, 24)[None], torch.device("cpu"))[0]
        assert np.abs(cube.denormalise(answer) - told).max() < 0.01 and np.abs(looked - told).max() > 0.1

    for text, words in [
        ("1 2 300\n", ["centres.txt has 1 line, expected 3", "x y z of the hand's centre in mm"]),
        ("1 2\n" * 3, ["centres.txt, line 1: it has 2 numbers, expected 3"]),
        ("1 2 x\n" * 3, ["centres.txt, line 1: 'x' is no number"]),
    ]:
        (tmp_path / "centres.txt").write_text(text)
        capsys.readouterr()
        assert infer.main([*arguments, "--centres", str(tmp_path / "centres.txt")]) == 1
        error = capsys.readouterr().err
        assert all(word in error for word in words) and error.count("\n") == 1, error
    (tmp_path / "centres.txt").write_text("\n".join([lines[0], "900 0 300", lines[1]]))  # nothing is there: the others are done
    assert infer.main([*arguments, "--centres", str(tmp_path / "centres.txt"), "--out", str(tmp_path / "some")]) == 1
    error = capsys.readouterr().err
    assert "image_0001.png has no hand in the cube of 250 mm about (900, 0, 300) mm" in error
    assert len([*(tmp_path / "some").glob("*.json")]) == 2
    assert infer.main([*pictures, "--centres", "x"]) == 1 and "--centres is x without --keypoints" in capsys.readouterr().err
    assert infer.main([*arguments, "--centres", str(tmp_path / "none")]) == 1 and "none cannot be read" in capsys.readouterr().err


def test_mistakes_are_sentences(runs, root, tmp_path, capsys):
    from densemtmd.commands import evaluate

    Image.fromarray(np.zeros((240, 320), np.uint16)).save(tmp_path / "empty.png")
    Image.fromarray(np.full((240, 320), 700, np.uint16)).save(tmp_path / "wall.png")
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "bad.yaml").write_text("name: bad\nencoding: nyu\nlabelset: [a, b]\n")
    (tmp_path / "gone.yaml").write_text("name: gone\nencoding: icvl\n")
    world = [*WORLD, f"data_root={root}", f"runs={tmp_path}"]
    of_jt = ["--checkpoint", str(runs["jt"]), "--out", str(tmp_path / "out")]
    for tool, arguments, words in [
        (infer, [str(tmp_path / "empty.png"), "--keypoints", "nyu", *of_jt], ["empty.png has no hand", "no reading at all"]),
        (infer, [str(tmp_path / "wall.png"), "--keypoints", "nyu", *of_jt], ["wall.png has no hand", "700 mm, fills the whole cube"]),
        (infer, [str(tmp_path / "small.png"), "--keypoints", "nyu", *of_jt], ["small.png is of 64×48 pixels, expected 320×240 as ICVL's"]),
        (infer, [str(tmp_path / "grey.png"), "--keypoints", "nyu", *of_jt], ["grey.png is no depth picture"]),
        (evaluate, [str(runs["jt"]), "--labelset", "merged.yaml"], ["--labelset is merged.yaml, but this network answers keypoint sets"]),
        (infer, [str(tmp_path / "empty.png"), "--keypoints", "nyo", *of_jt], ["'nyo'", "nyu"]),
        (infer, [str(tmp_path / "empty.png"), *of_jt], ["finds keypoints (nyu, icvl)", "--keypoints all"]),
        (train, [*world, "model=patchnet"], ["model=patchnet", "choose model=handnet"]),
        (train, [*world, "hands.scale=3"], ["scale is 3"]),
        (train, [*world, "hands.loss=cm"], ["hands.loss is 'cm'", "cube"]),
        (train, [*world, "train.optimizer=adams"], ["train.optimizer", "did you mean 'adam'"]),
        (train, [*world, "data.world.images=3"], ["data.world.images"]),
        (train, [*WORLD, f"data.datasets=[{tmp_path / 'bad.yaml'}]", "data.world=null"], ["bad.yaml", "labelset"]),
        (train, [*WORLD[:1], f"data.datasets=[{tmp_path / 'gone.yaml'}]", "data.world=null", f"data_root={tmp_path}"], ["gone"]),
    ]:
        capsys.readouterr()
        assert tool.main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        for word in words:
            assert word in error, error


def test_as_a_command(runs, root, tmp_path):
    (world,) = root.glob("hands-60-*")
    picture = world / "nyu" / "test" / "depth_1_0000002.png"
    command = [sys.executable, TOOLS / "infer.py", picture, "--keypoints", "nyu", "--checkpoint", runs["jt"], "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "nyu 14 keypoints" in done.stdout, done.stderr


def test_compare_says_which_strategy_helps_by_smaller_errors(runs, tmp_path, monkeypatch, capsys):
    from densemtmd.commands import compare

    assert compare.main([str(runs["nf"]), str(runs["jt"]), str(runs["jtsc"]), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    scored = {row: json.loads((runs[row] / "scores.json").read_text()) for row in ("nf", "jt")}
    for row, told in scored.items():
        line = next(line for line in printed.splitlines() if line.startswith(f"{row}, mm"))
        assert [float(word.rstrip("*")) for word in line.split()[2:] if word != "*"] == [
            round(told["datasets"][name]["mm"], 2) for name in HAND_SETS
        ] + [round(told["pooled"]["mm"], 2)]
    difference = scored["jt"]["pooled"]["mm"] - scored["nf"]["pooled"]["mm"]
    assert f"all together {difference:+.2f}".replace("-", "−") in printed and "By mean error in mm, jt against nf" in printed
    word = "hurt" if difference > 0 else "helped"
    assert f"{word} nyu" in printed or f"{word} icvl" in printed or "no clear difference on" in printed
    assert (tmp_path / "figure.png").is_file() and "jtsc,icvl,mm," in (tmp_path / "table.csv").read_text()
    assert compare.main([str(runs["nf"]), str(runs["jt"]), "--confusions", "nf", "jt"]) == 1
    assert "these runs are of hands" in capsys.readouterr().err


def test_evaluate_gives_the_numbers_of_the_training(runs, tmp_path, monkeypatch, capsys):
    from densemtmd.commands import evaluate

    for strategy in ("jtsc", "nf"):
        assert evaluate.main([str(runs[strategy]), "--out", str(tmp_path / strategy)]) == 0
        told, before = (json.loads((folder / "scores.json").read_text()) for folder in (tmp_path / strategy, runs[strategy]))
        for name in HAND_SETS:
            assert told["datasets"][name]["mm"] == pytest.approx(before["datasets"][name]["mm"], abs=1e-4)
        assert "pinky tip" in capsys.readouterr().out
    assert evaluate.main([str(runs["jt"]), "--split", "val"]) == 0
    assert (runs["jt"] / "evaluations" / "own-val" / "scores.json").is_file()


def test_answers_across_annotators_are_scored_against_the_truth(runs, root, tmp_path, capsys):
    """Of a joint network and of two that know nothing of each other; each answer by hand."""
    from densemtmd.commands import evaluate

    (world,) = root.glob("hands-60-*")
    folders = {"nyu": "nyu/test/depth_1_{:07d}.png", "icvl": "icvl/Testing/Depth/{}.png"}
    for strategy in ("jtsc", "nf"):
        assert evaluate.main([str(runs[strategy]), "--cross", "--out", str(tmp_path / strategy)]) == 0
        printed = capsys.readouterr().out
        cross = json.loads((tmp_path / strategy / "cross.json").read_text())
        own = json.loads((runs[strategy] / "scores.json").read_text())["datasets"]
        for name, hands in HAND_SETS.items():
            # The truth is of NYU the annotation itself; ICVL's was written with three digits.
            assert cross["answers"][name][name]["mm"] == pytest.approx(own[name]["mm"], abs=2e-3)
            truth = np.load(world / "truth" / f"{name}_test.npz")
            for other in HAND_SETS:
                networks = [checkpoint.load_network(runs[strategy] / where) for where in (
                    [f"{other}/best.safetensors"] if strategy == "nf" else ["best.safetensors"]
                )]  # fmt: skip
                numbers = [2, 9]
                mm = []
                for n in numbers:
                    key = truth["keys"][n]
                    path = world / folders[name].format(n + 1 if name == "nyu" else key)
                    depth, seen_by = poses.read_any_depth(path)
                    cube = poses.cube_in(depth, seen_by)
                    found = poses.hand_in(networks, [other], depth, seen_by, cube, torch.device("cpu"))[other]
                    mm.append(np.linalg.norm(found - truth[other][n], axis=1))
                errors = poses.errors_across(
                    networks, hands_at(world, name, numbers), {other: truth[other][numbers]}, hands, torch.device("cpu")
                )
                assert np.abs(errors[other].mm - mm).max() < 1e-3
            assert f"{name}, mm" in printed
        row = cross["answers"]["icvl"]["nyu"]
        assert row["frames"] == 24 and row["worst"] > max(joint["mm"] for joint in row["keypoints"].values()) > row["mm"]
        assert cross["all"]["icvl"]["frames"] == 48 and cross["pooled"]["frames"] == 96
        assert "| icvl |" in (tmp_path / strategy / "cross.md").read_text()
    moved = tmp_path / "icvl"
    shutil.copytree(world / "icvl", moved)
    assert evaluate.main([str(runs["jt"]), "--cross", "--data", "icvl", "--data-root", str(tmp_path)]) == 1
    assert "of the hands of icvl no more is known than the dataset annotates" in capsys.readouterr().err


def hands_at(world, name, numbers):
    """Some test hands of a dataset of the world."""
    dataset = open_dataset(load_dataset_config(name), world)
    return load_hands(dataset, None, 24, 1.0)["test"].take(numbers)


def test_the_papers_numbers_stand_beside(runs):
    from densemtmd.compare.paper import beside
    from densemtmd.compare.reading import read_table

    table = replace(read_table([runs["nf"], runs["jt"], runs["jtsc"]]), paper="table6")
    found = {key: value for key, (value, _) in beside(table).items()}
    assert found["nf", "nyu", "mm"] == 17.75 and found["jtsc", "icvl", "px"] == 4.56 and found["jt", "all together", "mm"] == 15.85


def test_published_errors_stand_beside_with_their_sources(runs, tmp_path, capsys):
    from densemtmd.commands import compare

    rows = [str(runs[row]) for row in ("nf", "jt", "jtsc")]
    assert compare.main([*rows, "--paper", "table7", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    head, *lines = printed[printed.index("beside what was published") :].split("\n\n")[1].splitlines()
    assert head.split() == ["nyu", "icvl", "source"]
    own = json.loads((runs["jt"] / "scores.json").read_text())["datasets"]
    words = next(line.split() for line in lines if line.startswith("jt "))
    assert words == ["jt", *(f"{own[name]['mm']:.2f}" for name in HAND_SETS), "these", "runs,", "on", "rendered", "frames"]
    assert "the paper, JTSC " in printed and "Ours" not in printed and "V2V-PoseNet" in printed and "must not be compared" in printed
    line = next(line for line in lines if line.startswith("Tang et al."))
    assert line.split()[3:5] == ["–", "12.60"] and "Table 7, ICCV 2013, estimated from a plot, as reported in DeepPrior" in line
    assert any(line.startswith("TriHorn-Net") and line.split()[1:3] == ["7.68", "5.74"] and line.endswith("2022") for line in lines)
    assert "\nV2V-PoseNet,icvl,mm,,,,,,,6.28\n" in (tmp_path / "table.csv").read_text()
    assert "| A2J | 8.61 | 6.46 | Xiong et al., ICCV 2019 |" in (tmp_path / "table.md").read_text()
    assert "(17.76" in printed and "In brackets: the paper's numbers, of real pictures." in printed
    assert compare.main([*rows, "--paper", "table6"]) == 0
    printed = capsys.readouterr().out
    assert "V2V-PoseNet" not in printed and "must not be compared" in printed
    assert compare.main([*rows, "--paper", "table9"]) == 1
    error = capsys.readouterr().err
    assert "no table 'table9'" in error and "table7_later" not in error
    assert compare.main([*rows, "--paper", "table2"]) == 1
    assert "--paper table2 has no numbers for the rows nf, jt, jtsc on nyu, icvl" in capsys.readouterr().err


def test_tables_of_real_hands_say_where_to_get_them(tmp_path, capsys):
    for arguments in (["experiment=table7"], ["experiment=table6", "data=nyu_icvl"]):
        assert train.main([*arguments, f"data_root={tmp_path}", f"runs={tmp_path / 'runs'}", "tracking=none"]) == 1
        error = capsys.readouterr().err
        assert "dataset nyu was not found" in error and "https://jonathantompson.github.io" in error and error.count("\n") == 1


def test_less_error_helps():
    from densemtmd.compare.statistics import Difference

    assert Difference(-2, -3, -1, less_is_better=True).verdict == "helped" and Difference(2, 1, 3, less_is_better=True).verdict == "hurt"
    assert Difference(2, 1, 3).verdict == "helped" and Difference(-2, -3, -1).verdict == "hurt"
    assert Difference(0, -1, 1, less_is_better=True).verdict == Difference(0, -1, 1).verdict == "no clear difference"
