"""The loop: one network, one mixture of datasets, one budget.

Trained strided: over a crop the network answers for every stride-th pixel, each step at another phase of that grid, so
that no patch is ever cut out. A crop of a single output is the paper's own way, minibatches of random patches
(``protocol=paper``): the same code.

Shapes: ``B`` batch, ``C`` channels of the output space, ``h``, ``w`` outputs of a crop.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from textwrap import shorten
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from tqdm import tqdm

from densemtmd import checkpoint
from densemtmd.datasets.mixing import Mixture, made_ahead
from densemtmd.datasets.sample import Batch, as_input
from densemtmd.errors import UserError
from densemtmd.losses import selective_cross_entropy
from densemtmd.network import JointNetwork
from densemtmd.tasks import VOID, nearest

S = TypeVar("S")

STEPS_UNREAD = 10
"""The loss is read, shown and recorded once in so many steps."""

MOST = 100_000
"""Crops in a batch, labelled pixels along a crop, batches to overfit."""

MOST_WORKERS = 256

OVERFIT = 99.0
"""Percent of the outputs of its few batches that an overfitted network must get right: then the training can learn at all."""


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass with the line that ``--help`` shows for it."""
    return field(default=default, metadata={"help": help})


def from_plain(of: type[S], data: Any, name: str = "") -> S:
    """A dataclass from plain data as a file holds them, its types checked.

    Args:
        of: the dataclass; its fields are numbers, texts, truth values, lists, mappings, other dataclasses, or None.
        data: a mapping of its fields; those that are missing keep their defaults.
        name: of the data, for messages.

    Raises:
        UserError: a field that is unknown, missing or of another type.
    """
    types = get_type_hints(of)
    if not isinstance(data, Mapping):
        raise UserError(f"{name or 'the whole'} is {data!r:.60}, expected names with values")
    values = {}
    for key, value in data.items():
        if key not in types:
            raise UserError(f"{name} has the unknown {key!r}; {nearest(str(key), types)}".lstrip())
        full = f"{name}.{key}".lstrip(".")
        values[key] = from_plain(types[key], value, full) if is_dataclass(types[key]) else value
        if not is_dataclass(types[key]) and not _fits(value, types[key]):
            raise UserError(f"{full} is {value!r:.60}, expected {getattr(types[key], '__name__', types[key])}")
    try:
        return of(**values)
    except TypeError:
        needed = ", ".join(f.name for f in fields(of) if f.default is MISSING and f.default_factory is MISSING)  # type: ignore[arg-type]
        raise UserError(f"{name or 'the whole'} lacks a value, expected {needed}") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as annotations write it."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, *inner) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, inner[0]) for key in value)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is origin


@dataclass
class TrainSettings:
    """How networks are trained: ``train.<name>=<value>`` on the command line. The optimiser is SGD (section 4.1)."""

    epochs: float | None = setting(20.0, "budget: an epoch is one strided pass over the training pictures (see epoch_outputs)")
    minutes: float | None = setting(
        None, "budget: wall-clock minutes, validation included; the first budget that is used up ends the training"
    )
    outputs: int | None = setting(None, "budget: labelled outputs of the network")
    epoch_outputs: int = setting(500_000, "an epoch has at most this many labelled outputs; after each the network is validated")
    patience: int = setting(10, "early stopping: epochs without a better validation score before the training ends; 0: never")
    crop: int = setting(16, "side of a crop in labelled pixels, of which every 4th is answered for; 0: whole pictures; 1: single patches")
    batch: int = setting(64, "crops per step; they mix the datasets")
    mixing: str = setting("pixels", "shares of the datasets: pixels (the paper), uniform, temperature:2, or weights such as kundu:2+xu:1")
    flip: bool = setting(True, "mirror half of the crops (the paper's only augmentation)")
    border: str = setting(
        "reflect", "reflect: the border of a picture is reflected, every pixel is asked for; valid: only patches that fit inside"
    )
    lr: float = setting(0.01, "learning rate after warm-up")
    momentum: float = setting(0.9, "of SGD, with Nesterov's correction")
    weight_decay: float = setting(1e-4, "on weights, not on biases and batch norms")
    warmup: float = setting(0.02, "share of the budget over which the learning rate climbs from 0")
    schedule: str = setting("cosine", "cosine: the learning rate then falls to 0 along a cosine; constant: it stays")
    precision: str = setting("auto", "float32; bfloat16 for the layers where it is safe; auto: bfloat16 where the hardware computes in it")
    device: str = setting("auto", "auto (a GPU where there is one), cpu, cuda, ...")
    workers: int = setting(0, "processes that cut the crops, for a GPU that learns faster than one core cuts; 0: a thread")
    validation_pictures: int = setting(40, "at most this many validation pictures per dataset are scored after an epoch; 0: all")
    overfit: int = setting(0, "a check that the training can learn: so many batches, over and over, until 99 % of their outputs are right")
    checkpoint_seconds: float = setting(60.0, "seconds between checkpoints; there is one after each epoch too")


def check_settings(settings: TrainSettings) -> None:
    """Refuses, before anything is loaded, what would only show itself in the middle of a training.

    Raises:
        UserError: a word that is not one of a setting's choices, or a number out of its range.
    """
    choices = {"schedule": ("cosine", "constant"), "precision": ("auto", "float32", "bfloat16"), "border": ("reflect", "valid")}
    for name, known in choices.items():
        if (value := getattr(settings, name)) not in known:
            raise UserError(f"train.{name} is {value!r}; {nearest(value, known)}")
    least = {
        "epoch_outputs": 1, "patience": 0, "crop": 0, "batch": 1, "lr": 0, "weight_decay": 0, "validation_pictures": 0, "overfit": 0,
        "checkpoint_seconds": 0, "workers": 0,
    }  # fmt: skip
    for name, minimum in least.items():
        if not (value := getattr(settings, name)) >= minimum:  # not, so that NaN is refused too
            raise UserError(f"train.{name} is {value}, expected at least {minimum}")
    for name in ("crop", "batch", "overfit"):
        if (value := getattr(settings, name)) > MOST:
            raise UserError(f"train.{name} is {value}, expected at most {MOST}: nothing larger fits into a memory")
    if settings.workers > MOST_WORKERS:
        raise UserError(f"train.workers is {settings.workers}, expected at most {MOST_WORKERS}: one per core of the machine is plenty")
    if settings.workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UserError(f"train.workers is {settings.workers}, expected 0 on {sys.platform}, whose processes cannot share the pictures")
    for name in ("momentum", "warmup"):
        if not 0 <= (value := getattr(settings, name)) < 1:
            raise UserError(f"train.{name} is {value}, expected at least 0 and below 1")


@dataclass(frozen=True)
class Budget:
    """When a training ends: after so many labelled outputs or seconds, whichever comes first."""

    outputs: float
    seconds: float
    epoch_outputs: float

    def progress(self, outputs: int, seconds: float) -> float:
        """The share of the budget that is used up, from 0; 1 or more: the end."""
        return max(outputs / self.outputs, seconds / self.seconds)


def budget(settings: TrainSettings, strided_pass: int, share: float = 1.0) -> Budget:
    """The budget of a stage.

    Args:
        settings: the run's epochs, minutes and outputs.
        strided_pass: outputs of one strided pass over all training pictures of the run.
        share: the stage's share of the run's budget.

    Raises:
        UserError: no budget, or one that is not above 0.
    """
    given = {"epochs": settings.epochs, "minutes": settings.minutes, "outputs": settings.outputs}
    limits = {name: math.inf if value is None else float(value) for name, value in given.items()}
    for name, value in limits.items():
        if not value > 0:
            raise UserError(f"train.{name} is {given[name]}, expected more than 0")
    if min(limits.values()) == math.inf:
        raise UserError("train.epochs, train.minutes and train.outputs are all empty: give the training at least one budget")
    epoch = min(strided_pass, settings.epoch_outputs)
    outputs = min(limits["outputs"], limits["epochs"] * epoch)
    return Budget(outputs * share, limits["minutes"] * 60 * share, max(1.0, epoch * share))


@dataclass
class State:
    """How far a training is: with the weights and the optimiser's momentum all that is needed to go on as if nothing
    had happened."""

    step: int = 0
    outputs: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0  # summed over the steps of the running epoch
    epoch_steps: int = 0
    best_score: float = -1.0  # the IoU of the best epoch, all labelsets pooled, percent
    best_epoch: int = 0
    done: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)  # per epoch: loss and validation scores

    @property
    def epoch(self) -> int:
        return len(self.history)


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The learning rate when a share ``progress`` of the budget is used up."""
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    rest = min(1.0, (progress - settings.warmup) / (1 - settings.warmup))
    return settings.lr * 0.5 * (1 + math.cos(math.pi * rest))


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.SGD:
    """SGD, with weight decay on the weights alone: biases and batch norms are there to shift and to scale."""
    weights = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def precision_on(device: torch.device, precision: str) -> str:
    """``"auto"`` resolved: bfloat16 where the hardware computes in it, which halves the time of a step, otherwise float32."""
    if precision != "auto":
        return precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bfloat16" if native else "float32"


def train_step(network: JointNetwork, optimizer: torch.optim.Optimizer, batch: Batch, precision: str) -> Tensor:
    """One step of SGD on the selective loss; returns the loss, on the network's device."""
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network(as_input(batch.image))
    loss = selective_cross_entropy(logits, batch.target, batch.task, network.space)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def fit(
    network: JointNetwork,
    mixture: Mixture,
    settings: TrainSettings,
    budget: Budget,
    *,
    folder: Path,
    model: Mapping[str, Any],
    validate: Callable[..., dict[str, Any]],
    report: Callable[[State], None] = lambda state: None,
    losses: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    title: str = "training",
) -> State:
    """Trains a network until its budget is used up or its validation score no longer rises; leaves the best weights in it.

    Where ``folder`` holds a ``last.safetensors`` the training goes on from there, and ends with the weights of one that
    was never interrupted. The first Ctrl-C ends it after the running step, with everything saved.

    Args:
        network: with its initial weights, on the device to train on.
        mixture: of the training data.
        settings: of the optimiser and of early stopping.
        budget: when to end, and how long an epoch is.
        folder: gets ``last.safetensors`` (to resume from) and ``best.safetensors`` (to use).
        model: the settings that the network was built from.
        validate: scores a network; ``["pooled"]["iou"]`` decides which epoch is best. With ``quick=True`` on as little as will
            show whether it works: before the first step, so that a broken validation does not cost an hour.
        report: called after each epoch.
        losses: called every few steps with the step and numbers worth a curve.
        title: in front of the progress bar.

    Raises:
        UserError: the loss is no longer a number, or a checkpoint cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    device = next(network.parameters()).device
    precision = precision_on(device, settings.precision)
    optimizer = make_optimizer(network, settings)
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    state = State()
    if last.exists():
        state = load_state(last, network, optimizer)
    else:
        validate(network, quick=True)
        save_state(last, network, optimizer, state, model)
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    unread: list[Tensor] = []  # losses stay on the device for a while: reading one makes a GPU wait
    with Interruption() as interruption, Bar(budget, state, title) as bar:
        for batch in made_ahead(
            lambda step: mixture.batch(step % settings.overfit if settings.overfit else step), state.step, workers=settings.workers
        ):
            if state.done:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, budget.progress(state.outputs, state.seconds))
            torch.manual_seed(mixture.seed * 1_000_003 + state.step)  # of dropout: the step's own, so that a resumed run draws the same
            network.train()
            unread.append(train_step(network, optimizer, batch.to(device), precision))
            state.step += 1
            state.outputs += int((batch.target != VOID).sum())
            state.seconds = time.monotonic() - began
            ended = budget.progress(state.outputs, state.seconds) >= 1
            epoch_over = ended or state.outputs >= (state.epoch + 1) * budget.epoch_outputs
            save = epoch_over or interruption.asked or time.monotonic() - saved >= settings.checkpoint_seconds
            if len(unread) < STEPS_UNREAD and not save:
                continue
            loss = read_losses(unread, state, settings)
            if save:
                check_weights(network, state, settings)
            losses(state.step, {"loss": loss, "lr": optimizer.param_groups[0]["lr"], "outputs": state.outputs})
            bar.show(state, loss)
            if epoch_over:
                scored = validate(network)
                end_epoch(state, scored, ended, settings)
                if state.best_epoch == state.epoch:
                    checkpoint.save_network(best, network, model, {"scores": scored, "epoch": state.epoch})
                with tqdm.external_write_mode():
                    report(state)
            if save:
                state.seconds = time.monotonic() - began
                save_state(last, network, optimizer, state, model)
                saved = time.monotonic()
                if interruption.asked:
                    break
    if not state.done:
        raise KeyboardInterrupt
    checkpoint.load_weights(network, checkpoint.load(best)[0])
    return state


def read_losses(unread: list[Tensor], state: State, settings: TrainSettings) -> float:
    """Reads the losses of the last steps, adds them to the epoch's, and returns their mean.

    Raises:
        UserError: one of them is no number. Every step after that would only spoil the weights further.
    """
    values = torch.stack(unread).tolist()
    for back, loss in enumerate(reversed(values)):
        if not math.isfinite(loss):
            raise diverged(f"the loss became {loss} at step {state.step - back}", settings)
    for loss in values:  # one by one, so that the sum does not depend on how often they were read
        state.epoch_loss += loss
    state.epoch_steps += len(values)
    unread.clear()
    return sum(values) / len(values)


def check_weights(network: nn.Module, state: State, settings: TrainSettings) -> None:
    """Refuses to save weights that are no numbers: the loss tells of them only in the step that follows.

    Raises:
        UserError: one of them is none.
    """
    if not bool(torch.stack([tensor.isfinite().all() for tensor in network.state_dict().values()]).all()):
        raise diverged(f"some weights are no longer numbers at step {state.step}", settings)


def diverged(what: str, settings: TrainSettings) -> UserError:
    """The sentence about a training that has left the numbers."""
    return UserError(
        f"{what}: the training diverged and stops, the last checkpoint is still good; "
        f"lower train.lr (now {settings.lr}), or raise train.warmup (now {settings.warmup})"
    )


def end_epoch(state: State, scored: dict[str, Any], ended: bool, settings: TrainSettings) -> None:
    """Writes the epoch that is over into the history, notes whether it is the best so far, and whether it is the last."""
    loss = state.epoch_loss / state.epoch_steps
    state.history.append({"epoch": state.epoch + 1, "step": state.step, "outputs": state.outputs, "loss": loss, "scores": scored})
    state.epoch_loss, state.epoch_steps = 0.0, 0
    score = scored["pooled"]["iou"] or 0.0
    if score > state.best_score:
        state.best_score, state.best_epoch = score, state.epoch
    learned = settings.overfit > 0 and (scored["pooled"]["global"] or 0.0) >= OVERFIT
    stale = settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience
    state.done = ended or stale or learned


class Interruption:
    """Ctrl-C, or a polite kill, asks the loop to end after the step it is at; a second one ends it at once."""

    asked = False

    def __enter__(self) -> Interruption:
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step, and saving; once more stops at once", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------------------------------------
# Keeping and showing how far it is

MOMENTUM = "momentum."


def save_state(path: Path, network: JointNetwork, optimizer: torch.optim.Optimizer, state: State, model: Mapping[str, Any]) -> None:
    """Writes all that a training needs to go on: weights, momentum and :class:`State`. Random states are the steps' own."""
    tensors = {checkpoint.WEIGHTS + name: tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        if (buffer := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
            tensors[MOMENTUM + name] = buffer
    checkpoint.save(path, tensors, {"space": network.space.to_json(), "model": dict(model), "state": asdict(state)})


def load_state(path: Path, network: JointNetwork, optimizer: torch.optim.Optimizer) -> State:
    """The inverse of :func:`save_state`: puts weights and momentum back and returns the state.

    Raises:
        UserError: the file cannot be read, or is not of such a training.
    """
    tensors, about = checkpoint.load(path)
    try:
        checkpoint.load_weights(network, tensors)
        for name, parameter in network.named_parameters():
            if (momentum := tensors.get(MOMENTUM + name)) is not None:
                if momentum.shape != parameter.shape:
                    raise ValueError(f"the momentum of {name} is {tuple(momentum.shape)}, not {tuple(parameter.shape)}")
                optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter).clone(memory_format=torch.preserve_format)
        state = from_plain(State, about.get("state"), "state")
        for epoch in state.history:
            if not all(isinstance(scores, dict) for scores in (epoch["scores"]["pooled"], *epoch["scores"]["datasets"].values())):
                raise ValueError("an epoch has no scores")
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:  # a UserError is a ValueError
        reason = shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{path} does not hold the state of this training ({reason}): copy it again, or remove it to train anew") from None
    return state


class Bar:
    """The progress bar of one training: percent and time left of the budget, loss, labelled outputs per second."""

    def __init__(self, budget: Budget, state: State, title: str) -> None:
        self.budget = budget
        self.first_outputs, self.first_seconds = state.outputs, state.seconds
        self.bar = tqdm(
            total=100.0,
            desc=title,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}",
            leave=False,
            disable=None,
        )
        self.bar.n = 100 * budget.progress(state.outputs, state.seconds)
        self.bar.initial = self.bar.n

    def show(self, state: State, loss: float) -> None:
        """Moves the bar to where the training is."""
        rate = (state.outputs - self.first_outputs) / max(1e-9, state.seconds - self.first_seconds)
        self.bar.n = min(100.0, 100 * self.budget.progress(state.outputs, state.seconds))
        self.bar.set_postfix_str(f"loss {loss:.3f}, {rate / 1000:.1f}k outputs/s")

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
