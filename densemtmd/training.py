"""The loop: one network, one mixture of datasets, one budget.

Trained strided: over a crop the network answers for every stride-th pixel, each step at another phase of that grid, so
that no patch is ever cut out. A crop of a single output is the paper's own way, minibatches of random patches
(``protocol=paper``): the same code.

Shapes: ``B`` batch, ``C`` channels of the output space, ``h``, ``w`` outputs of a crop.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from densemtmd import checkpoint, evaluation, parallel
from densemtmd.datasets.mixing import made_ahead
from densemtmd.datasets.sample import Batch, Batches, as_input
from densemtmd.errors import UserError
from densemtmd.kind import Criterion, kind_of, kind_of_scores
from densemtmd.losses import domain_loss
from densemtmd.network import JointNetwork, reverse_gradient
from densemtmd.progress import Progress, aside
from densemtmd.settings import ContextSettings, ReversalSettings, TrainSettings, from_plain
from densemtmd.stopping import REASONS, Stopped, answering

STEPS_UNREAD = 10
"""The loss is read, shown and recorded once in so many steps."""


def check_workers(workers: int) -> None:
    """Refuses ``train.workers`` where processes cannot be forked.

    Raises:
        UserError: they cannot.
    """
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UserError(f"train.workers is {workers}, expected 0 on {sys.platform}, whose processes cannot share the pictures")


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
    best_score: float | None = None  # the `quality` of the best epoch
    best_epoch: int = 0
    done: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)  # per epoch: loss and validation scores

    @property
    def epoch(self) -> int:
        """The last one that is over; 0 is the network that the training started from."""
        return self.history[-1]["epoch"] if self.history else 0


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The learning rate when a share ``progress`` of the budget is used up."""
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    rest = min(1.0, (progress - settings.warmup) / (1 - settings.warmup))
    return settings.lr * 0.5 * (1 + math.cos(math.pi * rest))


def make_optimizer(network: JointNetwork, settings: TrainSettings, discriminator_lr: float = 10.0) -> torch.optim.Optimizer:
    """SGD or Adam, with weight decay on the weights alone: biases and batch norms are there to shift and to scale.

    Each group of parameters has a ``scale``, by which the learning rate of the schedule is multiplied for it: 1, ``discriminator_lr`` for
    the domain classifier, and ``settings.encoder_lr`` for an encoder that may have learned elsewhere.
    """
    discriminator = [] if network.discriminator is None else list(network.discriminator.parameters())
    encoder = network.encoder_parameters()
    others = [p for p in network.parameters() if all(p is not d for d in (*discriminator, *encoder))]
    groups = [
        {"params": [p for p in parameters if p.requires_grad and (p.ndim > 1) == weights], "weight_decay": decay, "scale": scale}
        for parameters, scale in ((others, 1.0), (discriminator, discriminator_lr), (encoder, settings.encoder_lr))
        for weights, decay in ((True, settings.weight_decay), (False, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adam":  # its decay is not of the gradient, which Adam would scale
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def precision_on(device: torch.device, precision: str) -> str:
    """``"auto"`` resolved: bfloat16 where the hardware computes in it, which halves the time of a step, otherwise float32."""
    if precision != "auto":
        return precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bfloat16" if native else "float32"


def quality(scored: Mapping[str, Any]) -> float:
    """What decides which epoch is best, the higher the better: the kind's chief measure of all tasks pooled, or minus it."""
    chief = kind_of_scores(scored).chief
    value = scored["pooled"][chief.key] or 0.0
    return -value if chief.less_is_better else value


def train_step(
    network: JointNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    precision: str,
    *,
    criterion: Criterion | None = None,
    inner_weight: float = 0.0,
    reversal: float = 0.0,
    clip: float = 0.0,
    accumulate: int = 1,
    learner: nn.Module | None = None,
) -> dict[str, Tensor]:
    """One step: the selective loss, and where the network has a discriminator the domain loss, whose gradient is reversed.

    Args:
        network: in training mode.
        optimizer: of its parameters.
        batch: on its device.
        precision: ``"float32"`` or ``"bfloat16"``.
        criterion: the selective loss; that of the kind where none is given.
        inner_weight: share of the selective loss that is taken of the outputs below the shared context.
        reversal: λ of gradient reversal at this step.
        clip: the most that the gradient's norm may be; 0: whatever it is.
        accumulate: parts of the batch that go through the network one after the other. What is learned is the same but for batch norms,
            which see one part at a time, and for losses that are no means over labelled outputs, as Dice and that of partly void cells are.
        learner: of several processes what computes the losses and the mean of all processes' gradients, :class:`Learner` in PyTorch's
            DistributedDataParallel. The batch is then this process's share of each of the parts.

    Returns:
        What to record, on the network's device: ``loss`` and, with a discriminator, ``domain_loss`` and ``domains``, the confusion matrix
        (D, D) of the domains that it names.
    """
    optimizer.zero_grad(set_to_none=True)
    whole = int(parallel.sums([len(batch.task)])[0])
    sizes = [len(one) for one in torch.arange(whole).chunk(accumulate)]
    own = parallel.positions(whole, accumulate)
    parts, records = batch.split(sizes if own is None else [len(one) for one in own]), []
    learner = learner or Learner(network, precision, criterion or kind_criterion(network), inner_weight)
    # Both losses are means over the outputs of a part, which may have more or fewer of them than another. A whole batch is not counted:
    # a GPU would have to be waited for.
    labelled = parallel.sums([part.labelled for part in parts]) if len(parts) > 1 else [1]
    for n, (part, count, size) in enumerate(zip(parts, labelled, sizes, strict=True)):
        shares = {"loss": count / max(1, sum(labelled)), "domain_loss": size / whole}
        with parallel.part_of(size), nullcontext() if n + 1 == len(parts) else parallel.unshared(learner):
            loss, of_domains, record = learner(part, reversal)
            loss = shares["loss"] * loss
            (loss if of_domains is None else loss + shares["domain_loss"] * of_domains).backward()
        records.append({name: value * shares.get(name, 1) for name, value in record.items()})
    if clip:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
    return {name: torch.stack([record[name] for record in records]).sum(0) for name in records[0]}


def seed(number: int, device: torch.device) -> None:
    """What is drawn at random on a device from now on is that number's."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)  # torch.manual_seed also writes down the stack, for GPUs of which none may be used
    else:
        torch.manual_seed(number)


def kind_criterion(network: JointNetwork) -> Criterion:
    """What training makes small where nothing else is said."""
    kind = kind_of(network.space.kind)
    return lambda outputs, batch: kind.loss(outputs, batch, network.space)


class Learner(nn.Module):
    """What :func:`losses_of` a network's answers to a batch are, as a module: PyTorch's DistributedDataParallel sees what its forward
    computes, and nothing that is computed around it."""

    def __init__(self, network: JointNetwork, precision: str, criterion: Criterion, inner_weight: float) -> None:
        super().__init__()
        self.network, self.precision, self.criterion, self.inner_weight = network, precision, criterion, inner_weight

    def forward(self, batch: Batch, reversal: float) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        return losses_of(self.network, batch, self.precision, self.criterion, self.inner_weight, reversal)


def losses_of(
    network: JointNetwork, batch: Batch, precision: str, criterion: Criterion, inner_weight: float, reversal: float
) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """The selective loss of a batch, the domain loss where there is one, and what :func:`train_step` records of both."""
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = network.outputs(as_input(batch.image))
        seen = outputs.features if outputs.discriminated is None else outputs.discriminated
        domains = None if network.discriminator is None else network.discriminator(reverse_gradient(seen, reversal))
    loss = criterion(outputs.answer, batch)
    if inner_weight:
        joint, size = outputs.joint, outputs.answer.shape[-2:]
        inner = criterion(joint if joint.shape[-2:] == size else network.brought(joint, size), batch)
        loss = (1 - inner_weight) * loss + inner_weight * inner
    record = {"loss": loss.detach()}
    if domains is None:
        return loss, None, record
    of_domains = domain_loss(domains, batch.domain, batch.weight)
    truth = batch.domain[:, None, None].expand(domains[:, 0].shape)
    named = parallel.total(evaluation.confusion(domains.argmax(1), truth, domains.shape[1]))
    record |= {"domain_loss": of_domains.detach(), "domains": named}
    return loss, of_domains, record


class Average:
    """The running mean of a network's weights: later steps move it less than the weights themselves, and what is validated and saved is
    steadier (Polyak and Juditsky, 1992; with the warm-up of TensorFlow's ExponentialMovingAverage).

    Args:
        network: whose weights, as they are now, it begins with.
        keep: share that it keeps at each step; less during the first ones. 0: there is no mean, and the weights stand for it.
    """

    def __init__(self, network: JointNetwork, keep: float) -> None:
        self.network, self.keep = network, keep
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()} if keep else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the step of that number, from 1."""
        keep = min(self.keep, (1 + step) / (10 + step))
        own = self.network.state_dict() if self.keep else {}
        for name, mean in self.tensors.items():
            if mean.is_floating_point():
                mean.lerp_(own[name], 1 - keep)
            else:  # a count
                mean.copy_(own[name])

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The network has the mean for its weights within the block."""
        if not self.keep:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.network.load_state_dict(own)


def fit(
    network: JointNetwork,
    mixture: Batches,
    settings: TrainSettings,
    budget: Budget,
    *,
    folder: Path,
    model: Mapping[str, Any],
    context: ContextSettings = ContextSettings(),  # noqa: B008 (never changed)
    reversal: ReversalSettings = ReversalSettings(),  # noqa: B008
    criterion: Criterion | None = None,
    started: bool = False,
    validate: Callable[..., dict[str, Any]],
    after_epoch: Callable[[State], None] = lambda state: None,
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
        context: of the shared context, where the network has one.
        reversal: of gradient reversal, where the network has a discriminator.
        criterion: what is made small; the kind's loss where none is given.
        started: the network starts with weights that have learned already: it is a candidate for the best, as epoch 0.
        validate: scores a network; the :func:`quality` decides which epoch is best. With ``quick=True`` on as little as will
            show whether it works: before the first step, so that a broken validation does not cost an hour.
        after_epoch: called after each epoch.
        losses: called every few steps with the step and numbers worth a curve.
        title: of what is shown of its progress.

    Raises:
        UserError: the loss is no longer a number, or a checkpoint cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    device = next(network.parameters()).device
    precision = precision_on(device, settings.precision)
    optimizer = make_optimizer(network, settings, reversal.lr)
    last, best = folder / "last.safetensors", folder / "best.safetensors"
    state, average = State(), Average(network, settings.average)
    if parallel.of_first(last.exists):
        state = load_state(last, network, optimizer, average)
        state.done = state.done and is_over(state, budget.progress(state.outputs, state.seconds) >= 1, settings)  # it may have more now
    else:
        scored = validate(network, quick=not started)
        if started:
            state.best_score = quality(scored)
            state.history.append({"epoch": 0, "step": 0, "outputs": 0, "loss": None, "scores": scored})
            parallel.of_first(checkpoint.save_network, best, network, model, {"scores": scored, "epoch": 0})
            with parallel.alone() as first:
                if first:
                    after_epoch(state)
        parallel.of_first(save_state, last, network, optimizer, state, model, average)
    own = parallel.positions(mixture.batch_size, settings.accumulate)
    mine = None if own is None else torch.cat(own)
    learner = Learner(network, precision, criterion or kind_criterion(network), context.inner_weight)
    shared: nn.Module | None = None
    saved, asked = agreed(0, time.monotonic(), 0)[1:]
    began = saved - state.seconds
    outputs, seconds = state.outputs, state.seconds
    unread: list[dict[str, Tensor]] = []  # losses stay on the device for a while: reading one makes a GPU wait
    done = 100 * budget.progress(state.outputs, state.seconds)
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        shown = stack.enter_context(Progress(title, 100, "%", done=done))
        stack.enter_context(parallel.as_one(network, settings.sync_norms))
        made = made_ahead(
            lambda step: mixture.batch(step % settings.overfit if settings.overfit else step, mine), state.step, workers=settings.workers
        )
        for batch in stack.enter_context(closing(made)):  # and not closed when it is collected, where a second Ctrl-C would be lost
            if state.done:
                break
            progress = budget.progress(state.outputs, state.seconds)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, progress) * group["scale"]
            seed(mixture.seed * 1_000_003 + state.step, device)  # of dropout: the step's own, so that a resumed run draws the same
            if not network.training:  # to tell each of its modules so is half as dear as a step of a small head
                network.train()
            network.hold_encoder(progress < settings.freeze)
            strength = reversal.strength_at(progress)
            seen = mixture.augmented(batch.to(device), mine)
            shared = parallel.shared(learner, shared)
            record = train_step(
                network, optimizer, seen, precision, reversal=strength, clip=settings.clip, accumulate=settings.accumulate,
                learner=shared or learner,
            )  # fmt: skip
            unread.append(record)
            state.step += 1
            average.update(state.step)
            labelled = (batch if batch.target.shape == seen.target.shape else seen).labelled  # not to wait for a GPU where it can be
            now = time.monotonic()
            labelled, now, asked = agreed(labelled, now, interruption.asked)
            state.outputs += labelled
            state.seconds = now - began
            used = budget.progress(state.outputs, state.seconds)
            ended, shown.done = used >= 1, min(100.0, 100 * used)
            epoch_over = ended or state.outputs >= (state.epoch + 1) * budget.epoch_outputs
            save = epoch_over or asked or now - saved >= settings.checkpoint_seconds
            if len(unread) < STEPS_UNREAD and not save:
                continue
            values = read_records(unread, state, settings)
            if save:
                parallel.of_first(check_weights, network, state, settings)
            if network.discriminator is not None:
                values["reversal"] = strength
            losses(state.step, {**values, "lr": optimizer.param_groups[0]["lr"], "outputs": state.outputs})
            rate = (state.outputs - outputs) / max(1e-9, state.seconds - seconds)
            shown.more = f"loss {values['loss']:.3f}, {rate / 1000:.1f}k outputs/s"
            if epoch_over:
                with average.inside():
                    parallel.same(network, buffers_only=True)  # batch norms may have counted each their own
                    scored = validate(network)
                    end_epoch(state, scored, ended, settings)
                    if state.best_epoch == state.epoch:
                        about = {"scores": scored, "epoch": state.epoch}
                        parallel.of_first(checkpoint.save_network, best, network, model, about)
                    with aside(), parallel.alone() as first:
                        if first:
                            after_epoch(state)
            if save:
                _, now, asked = agreed(0, time.monotonic(), interruption.asked)
                state.seconds = now - began
                parallel.of_first(save_state, last, network, optimizer, state, model, average)
                saved = agreed(0, time.monotonic(), 0)[1]
                if asked:
                    break
    if not state.done:
        raise Stopped(asked)
    checkpoint.load_weights(network, parallel.of_first(checkpoint.load, best)[0])
    return state


def agreed(labelled: int, now: float, asked: int) -> tuple[int, float, int]:
    """What all processes that train together go by: the labelled outputs of all of them, the first one's time, and the signal that one of
    them was sent, or 0."""
    if parallel.size() == 1:
        return labelled, now, asked
    signals = [float(number == asked) for number in REASONS]
    outputs, seconds, *sent = parallel.sums([labelled, now if parallel.rank() == 0 else 0.0, *signals])
    return round(outputs), seconds, next((number for number, count in zip(REASONS, sent, strict=True) if count), 0)


def read_records(unread: list[dict[str, Tensor]], state: State, settings: TrainSettings) -> dict[str, float]:
    """Reads what the last steps recorded, and adds their losses to the epoch's.

    Returns:
        The means of the losses, and ``domain_accuracy``: the discriminator's balanced accuracy over these steps in percent, which chance
        alone makes 100 / D.

    Raises:
        UserError: a loss is no number. Every step after that would only spoil the weights further.
    """
    values = {name: torch.stack([record[name] for record in unread]) for name in unread[0]}
    domains = values.pop("domains", None)
    read = {name: losses.tolist() for name, losses in values.items()}
    for name, losses in read.items():
        for back, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                raise diverged(f"the {name.replace('_', ' ')} became {loss} at step {state.step - back}", settings)
    for loss in read["loss"]:  # one by one, so that the sum does not depend on how often they were read
        state.epoch_loss += loss
    state.epoch_steps += len(unread)
    unread.clear()
    means = {name: sum(losses) / len(losses) for name, losses in read.items()}
    return means if domains is None else {**means, "domain_accuracy": evaluation.scores([domains.sum(0).cpu().numpy()]).average}


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
    score = quality(scored)
    if state.best_score is None or score > state.best_score:
        state.best_score, state.best_epoch = score, state.epoch
    state.done = is_over(state, ended, settings)


def is_over(state: State, ended: bool, settings: TrainSettings) -> bool:
    """Whether a training is over after its last epoch: its budget ``ended``, or it would not get better."""
    scored = state.history[-1]["scores"]
    learned = settings.overfit > 0 and kind_of_scores(scored).learned(scored) is None
    stale = settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience
    return ended or stale or learned


class Interruption:
    """Ctrl-C, a polite kill, or a terminal that is closed asks the loop to end after the step it is at; a second one ends it at once."""

    asked: int = 0
    """The signal."""

    def __enter__(self) -> Interruption:
        self.stack = ExitStack()
        self.stack.enter_context(answering(self.ask, *REASONS))
        return self

    def ask(self, number: int) -> None:
        if self.asked:
            raise Stopped(number)
        self.asked = number
        print("\nstopping after this step, and saving; once more stops at once", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self.stack.close()


# ------------------------------------------------------------------------------------------------------------------------------------
# Keeping and showing how far it is

MOMENTA = {"momentum_buffer": "momentum.", "exp_avg": "mean.", "exp_avg_sq": "square.", "step": "step."}
"""What optimisers keep of each parameter, and in front of its name in the file."""


AVERAGE = "average."
"""In front of the names of the weights' running means in the file."""


def save_state(
    path: Path, network: JointNetwork, optimizer: torch.optim.Optimizer, state: State, model: Mapping[str, Any], average: Average
) -> None:
    """Writes all that a training needs to go on: weights, momentum, :class:`State`, and the weights' running means where there are any.
    Random states are the steps' own."""
    tensors = {checkpoint.WEIGHTS + name: tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        kept = optimizer.state.get(parameter, {})
        tensors |= {prefix + name: kept[key] for key, prefix in MOMENTA.items() if kept.get(key) is not None}
    tensors |= {AVERAGE + name: tensor for name, tensor in average.tensors.items()}
    checkpoint.save(path, tensors, {**checkpoint.description(network, model), "state": asdict(state)})


def load_state(path: Path, network: JointNetwork, optimizer: torch.optim.Optimizer, average: Average) -> State:
    """The inverse of :func:`save_state`: puts weights, momentum and running means back and returns the state.

    Raises:
        UserError: the file cannot be read, or is not of such a training.
    """
    tensors, about = parallel.of_first(checkpoint.load, path)
    kept = {"exp_avg", "exp_avg_sq", "step"} if isinstance(optimizer, torch.optim.AdamW) else {"momentum_buffer"}
    try:
        checkpoint.load_weights(network, tensors)
        for name, parameter in network.named_parameters():
            found = {key: tensors[prefix + name] for key, prefix in MOMENTA.items() if prefix + name in tensors}
            if found and found.keys() != kept:
                raise ValueError(f"of {name} there is {', '.join(found)}, expected {', '.join(sorted(kept))}")
            for key, momentum in found.items():
                if key == "step":  # a number of its own, on the CPU
                    optimizer.state[parameter][key] = momentum.reshape(()).clone()
                    continue
                if momentum.shape != parameter.shape:
                    raise ValueError(f"the momentum of {name} is {tuple(momentum.shape)}, not {tuple(parameter.shape)}")
                optimizer.state[parameter][key] = momentum.to(parameter).clone(memory_format=torch.preserve_format)
        for name, mean in average.tensors.items():
            mean.copy_(tensors[AVERAGE + name])
        state = from_plain(State, about.get("state"), "state")
        for epoch in state.history:
            if not all(isinstance(scores, dict) for scores in (epoch["scores"]["pooled"], *epoch["scores"]["datasets"].values())):
                raise ValueError("an epoch has no scores")
            if not isinstance(epoch["epoch"], int):
                raise ValueError("an epoch has no number")
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:  # a UserError is a ValueError
        reason = shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{path} does not hold the state of this training ({reason}): copy it again, or remove it to train anew") from None
    return state
