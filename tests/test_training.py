"""The loop: it learns, ends when it should, resumes to the bit, and stops before it spoils a network."""

import math
import multiprocessing
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from densemtmd import Labelset, OutputSpace, checkpoint, evaluation, training
from densemtmd.backbones import build
from densemtmd.datasets.mixing import Mixture, Source
from densemtmd.datasets.sample import Sample, as_input
from densemtmd.dense import densify
from densemtmd.errors import UserError
from densemtmd.settings import RunSettings, TrainSettings, validate
from densemtmd.stack import geometry_of, split_phases
from densemtmd.stopping import Stopped
from densemtmd.training import Budget, State, budget, check_workers, fit, learning_rate, make_optimizer

SPACE = OutputSpace([Labelset("left", ["other", "red"]), Labelset("right", ["blue", "other", "grey"])])
MODEL = {"name": "patchnet", "widths": [4, 6, 8], "hidden": 12, "dropout": 0.2}


def make_samples(task, count=3, size=(34, 41), seed=0):
    """Red and blue blobs on grey noise; the left annotator names the red, the right one the blue and the grey."""
    random = np.random.default_rng([seed, task])
    samples = []
    for n in range(count):
        image = random.integers(90, 110, (*size, 3)).astype(np.uint8)
        where = random.random((2, *size)) < 0
        for k, colour in enumerate([(220, 30, 30), (30, 30, 220)]):
            y, x = random.integers(0, size[0] - 12), random.integers(0, size[1] - 12)
            where[k, y : y + 12, x : x + 12] = True
            image[where[k]] = colour
        red, blue = where[0] & ~where[1], where[1]
        target = red.astype(np.uint8) if task == 0 else np.where(blue, 0, np.where(red, 1, 2)).astype(np.uint8)
        target[:, :2] = 255
        samples.append(Sample(image, target, f"{task}-{n}"))
    return samples


def make_training(seed=0, **changes):
    settings = TrainSettings(**{"crop": 24, "batch": 4, "lr": 0.02, "minutes": None, "checkpoint_seconds": 0.0, **changes})
    torch.manual_seed(seed)
    network = build(MODEL, SPACE).to(memory_format=torch.channels_last)
    sources = [Source(name, k, k, make_samples(k)) for k, name in enumerate(SPACE.names)]
    mixture = Mixture(
        sources, geometry_of(network), crop=settings.crop, batch=settings.batch, flip=True, border="reflect", mixing="pixels", seed=seed
    )
    validation = {name: make_samples(k, 2, seed=1) for k, name in enumerate(SPACE.names)}

    def validate(network, quick=False):
        device = torch.device("cpu")
        matrices = {n: evaluation.score_pictures(network, n, s, scoring="strided", device=device) for n, s in validation.items()}
        return evaluation.report(matrices, {task.name: task for task in SPACE.tasks})

    return network, mixture, settings, validate


def train(folder: Path, outputs: float, losses=lambda step, values: None, seed=0, epoch_outputs=1500.0, **changes):
    network, mixture, settings, validate = make_training(seed, **changes)
    state = fit(
        network, mixture, settings, Budget(outputs, math.inf, epoch_outputs), folder=folder, model=MODEL, validate=validate,
        losses=losses,
    )  # fmt: skip
    return network, state


def test_learns_both_labelsets_in_one_network(tmp_path):
    losses = []
    network, state = train(tmp_path, 20_000, losses=lambda step, values: losses.append(values["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    scored = state.history[state.best_epoch - 1]["scores"]
    assert scored["pooled"]["iou"] > 60 and all(d["global"] > 85 for d in scored["datasets"].values())
    assert checkpoint.load(tmp_path / "best.safetensors")[1]["epoch"] == state.best_epoch
    saved = checkpoint.load_network(tmp_path / "best.safetensors").state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.state_dict().items())


class Stop(Exception):
    pass


@pytest.mark.parametrize(("steps", "optimizer", "kept"), [(10, "adam", "square."), (20, "sgd", "momentum.")])
def test_a_resumed_training_ends_with_the_weights_of_the_undisturbed_one(tmp_path, steps, optimizer, kept):
    undisturbed, expected = train(tmp_path / "a", 4_000, optimizer=optimizer)

    def stop(step, values):
        if step > steps:  # after the checkpoint of this many steps
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path / "b", 4_000, losses=stop, optimizer=optimizer)
    halfway = checkpoint.load(tmp_path / "b" / "last.safetensors")[1]["state"]
    assert 10 <= halfway["step"] < expected.step
    resumed, state = train(tmp_path / "b", 4_000, optimizer=optimizer)
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    ends = [checkpoint.load(tmp_path / run / "last.safetensors")[0] for run in "ab"]
    assert ends[0].keys() == ends[1].keys() and any(name.startswith(kept) for name in ends[0])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    forget = {"seconds": 0.0}
    assert {**state.__dict__, **forget} == {**expected.__dict__, **forget}


def test_a_finished_training_is_not_trained_further(tmp_path):
    _, first = train(tmp_path, 1_500)
    _, again = train(tmp_path, 1_500, losses=lambda step, values: pytest.fail("trained on"))
    assert again == first


def test_stops_early_and_keeps_the_best_weights(tmp_path):
    _, state = train(tmp_path, 60_000, patience=1, epoch_outputs=400.0)
    assert state.outputs < 60_000 and state.epoch == state.best_epoch + 1
    assert state.best_score == max(h["scores"]["pooled"]["iou"] for h in state.history)


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence(tmp_path):
    network, mixture, settings, validate = make_training()
    settings.lr, settings.warmup = 1e30, 1e-9
    with pytest.raises(UserError, match=r"loss became (nan|inf).*lower train.lr"):
        fit(
            network, mixture, settings, Budget(50_000, math.inf, 50_000), folder=tmp_path, model=MODEL, validate=validate,
        )  # fmt: skip


def test_bfloat16_learns_too(tmp_path):
    _, state = train(tmp_path, 5_000, precision="float32")
    _, low = train(tmp_path / "low", 5_000, precision="bfloat16")
    assert abs(low.history[-1]["loss"] - state.history[-1]["loss"]) < 0.15


def test_running_statistics_fit_the_dense_pass(tmp_path):
    """Batch norm sees strided crops in training; in the dense pass its inputs must be spread as its statistics say."""
    network, _ = train(tmp_path, 20_000)
    pictures = torch.from_numpy(np.stack([s.image for k in (0, 1) for s in make_samples(k, 8, seed=2)])).permute(0, 3, 1, 2)
    x, worst = torch.nn.functional.pad(as_input(pictures), geometry_of(network).border * 2, "reflect"), 0.0
    with torch.no_grad():
        for step in densify(network.eval()).steps:
            if isinstance(step.layer, torch.nn.BatchNorm2d):
                mean, spread = x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp(min=1e-3)
                worst = max(worst, float(((mean - step.layer.running_mean) / spread).abs().mean()))
            x = step.dense(x)
            x = split_phases(x, step.stride) if step.stride > 1 else x
    assert worst < 0.5


def test_schedule():
    settings = TrainSettings(lr=0.4, warmup=0.1)
    assert learning_rate(settings, 0) == 0 and learning_rate(settings, 0.05) == pytest.approx(0.2)
    assert learning_rate(settings, 0.1) == pytest.approx(0.4) and learning_rate(settings, 0.55) == pytest.approx(0.2)
    assert learning_rate(settings, 1.0) == pytest.approx(0, abs=1e-12) and learning_rate(settings, 1.3) == pytest.approx(0, abs=1e-12)
    assert learning_rate(TrainSettings(lr=0.4, schedule="constant"), 0.9) == 0.4


def test_budgets():
    settings = TrainSettings(epochs=2, minutes=3, outputs=None, epoch_outputs=500)
    whole, third = budget(settings, 800), budget(settings, 800, 1 / 3)
    assert whole == Budget(1000, 180, 500)
    assert (third.outputs, third.seconds, third.epoch_outputs) == pytest.approx((1000 / 3, 60, 500 / 3))
    assert whole.progress(500, 0) == 0.5 and whole.progress(0, 135) == 0.75
    assert budget(TrainSettings(epochs=2, epoch_outputs=500), 300).outputs == 600
    assert budget(TrainSettings(epochs=None, outputs=70, minutes=None), 300) == Budget(70, math.inf, 300)
    with pytest.raises(UserError, match="at least one budget"):
        budget(TrainSettings(epochs=None), 300)
    with pytest.raises(UserError, match=r"train.minutes is -1"):
        budget(TrainSettings(minutes=-1), 300)


def test_only_weights_decay():
    network = build(MODEL, SPACE)
    decayed, kept = make_optimizer(network, TrainSettings(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0
    assert all(p.ndim == 4 for p in decayed["params"]) and all(p.ndim == 1 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(network.parameters()))


def test_state_counts_epochs_by_its_history():
    assert State(history=[{"epoch": 1}, {"epoch": 2}]).epoch == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("precision", "float64", "float32, bfloat16"),
        ("batch", 0, "at least 1"),
        ("lr", -1, "at least 0"),
        ("momentum", 1, "below 1"),
        ("warmup", -0.1, "below 1"),
        ("workers", -1, "at least 0"),
        ("workers", 1000, "at most 256"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(name, value, words):
    with pytest.raises(UserError, match=f"train.{name} is .*{words}"):
        validate(RunSettings(train=TrainSettings(**{name: value})))
    validate(RunSettings())


needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")


def test_workers_need_fork(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    check_workers(0)
    with pytest.raises(UserError, match=r"train\.workers is 2, expected 0 on "):
        check_workers(2)


@needs_fork
def test_workers_change_nothing_and_end_with_the_training(tmp_path):
    alone, _ = train(tmp_path / "a", 2_500)
    seen = set()
    helped, _ = train(tmp_path / "b", 2_500, workers=2, losses=lambda step, values: seen.add(len(multiprocessing.active_children())))
    assert seen == {2} and not multiprocessing.active_children()
    assert all(torch.equal(tensor, helped.state_dict()[name]) for name, tensor in alone.state_dict().items())


@needs_fork
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_the_workers_too(tmp_path, presses):
    """A terminal sends it to every process of its group: here to the training, in a process of its own, and its workers.

    Once: it saves and ends, after a word said once. Twice: it ends at once.
    """
    said, ready = tmp_path / "said", tmp_path / "ready"

    def work():
        os.setsid()
        sys.stderr = said.open("w")
        torch.set_num_threads(1)

        def press(step, values):
            if not ready.exists():
                ready.write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
                for _ in range(presses):
                    os.killpg(0, signal.SIGINT)
                    time.sleep(0.2)

        try:
            train(tmp_path / "run", 1e9, losses=press, workers=2, checkpoint_seconds=1e9)
        except KeyboardInterrupt:
            os._exit(130 if not multiprocessing.active_children() or presses == 2 else 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 130
    workers = list(map(int, ready.read_text().split()))
    assert len(workers) == 2
    until = time.monotonic() + 20  # after a hard end they notice by themselves that nobody is there
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert said.read_text().count("stopping after this step") == 1
    step = checkpoint.load(tmp_path / "run" / "last.safetensors")[1]["state"]["step"]
    assert step == 11 if presses == 1 else step == 0


def test_an_interrupted_training_saves_after_the_step_and_goes_on(tmp_path):
    """As Ctrl-C does: the signal comes in the middle of a step."""
    undisturbed, _ = train(tmp_path / "a", 2_500)
    before = signal.getsignal(signal.SIGINT)

    def interrupt(step, values):
        if step == 10:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 2_500, losses=interrupt, checkpoint_seconds=1e9)
    assert signal.getsignal(signal.SIGINT) is before
    step = checkpoint.load(tmp_path / "b" / "last.safetensors")[1]["state"]["step"]
    assert step == 11  # one step more than where it was asked
    resumed, state = train(tmp_path / "b", 2_500)
    assert state.done and all(torch.equal(t, resumed.state_dict()[name]) for name, t in undisturbed.state_dict().items())


def test_a_second_signal_while_it_ends_is_heard(tmp_path, monkeypatch):
    """Here it comes while the thread that makes batches is waited for."""
    ahead, lost = training.made_ahead, []

    def batches(*given, **rest):
        with closing(ahead(*given, **rest)) as made:
            try:
                yield from made
            finally:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "made_ahead", batches)
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    with pytest.raises(Stopped) as stopped:
        train(tmp_path, 2_500, losses=lambda step, values: step == 10 and signal.raise_signal(signal.SIGINT))
    assert stopped.value.number == signal.SIGTERM and not lost
    assert checkpoint.load(tmp_path / "last.safetensors")[1]["state"]["step"] >= 10


def test_validation_and_saving_are_tried_before_the_first_step(tmp_path):
    network, mixture, settings, _ = make_training()

    def broken(network, quick=False):
        assert quick
        raise RuntimeError("no such metric")

    with pytest.raises(RuntimeError, match="no such metric"):
        fit(
            network, mixture, settings, Budget(1e9, math.inf, 1e9), folder=tmp_path, model=MODEL, validate=broken,
            losses=lambda step, values: pytest.fail("a step was taken"),
        )  # fmt: skip
