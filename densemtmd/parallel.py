"""Several processes that train one network together, started by ``torchrun``; in a single process all of this does nothing.

The first process, rank 0, is the program: it reads what was asked for, holds the locks, prints, draws and writes. The others wait
(:func:`serve`) until it calls them to what is done by all (:func:`together`): within that block each of them does the same as the first,
from the same settings, and whoever needs to know asks :func:`size`, which is 1 everywhere else. What only the first may do stands under
:func:`alone` or :func:`of_first`.

Of a batch each process takes every size-th sample. What is a mean over a batch divides sums that go over all processes (:func:`total`), so
that it is the mean of the whole batch, however its labelled pixels are spread; batch norms and dropout see the batch as one process
would (:func:`as_one`). Every process then computes the loss of the whole batch, and the mean over processes of its gradients, which is what
PyTorch's DistributedDataParallel makes, is the gradient of that loss.

Numbers of a GPU go over NCCL; those of a CPU, and whatever is told, over Gloo.

Shapes: ``B`` samples of the whole batch, ``b`` those of this process, ``C`` channels.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from densemtmd.errors import UserError, about_memory, one_line
from densemtmd.stopping import reason_of

T = TypeVar("T")

LONG = timedelta(days=7)
"""For which a process waits for another one, which may draw, decode or write meanwhile. One that has ended is seen at once."""

SOON = 10.0
"""Seconds within which all processes meet an error that all of them meet."""

PAUSE = 0.05
"""Seconds between two looks of a process that waits to be called."""


@dataclass
class _Group:
    """The processes, and where this one stands in what they do."""

    rank: int
    size: int
    store: dist.Store
    totals: dist.ProcessGroup  # of its own: what autograd sums must not come between the sums of gradients
    calls: int = 0             # to what is done together
    called: bool = False       # now
    whole: int = 0             # samples of the whole batch, of which this process sees its part
    lost: str = ""             # why there is no group any more


_group: _Group | None = None


# ------------------------------------------------------------------------------------------------------------------------------------
# Who is there


def size() -> int:
    """How many processes do together what is being done; 1 wherever a process is by itself."""
    return _group.size if _group is not None and _group.called else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return _group.rank if _group is not None and _group.called else 0


@contextmanager
def joined() -> Iterator[bool]:
    """Within, this process is one of those that ``torchrun`` has started; gives whether it is the first. The others :func:`serve` it.

    Raises:
        UserError: they do not find each other.
    """
    global _group
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        store, number, count = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        dist.init_process_group(backend, store=dist.PrefixStore("torch", store), rank=number, world_size=count, timeout=LONG)
        _group = _Group(number, count, dist.PrefixStore("densemtmd", store), dist.new_group(timeout=LONG, backend=backend))
        atexit.register(_leave, _group)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = shorten(str(error), 200, placeholder=" …")
        raise UserError(f"the processes that torchrun started do not find each other ({reason}): look at what the others say") from None
    try:
        yield number == 0
    finally:
        group, _group = _group, None
        if not group.lost and _end(group):  # else it would wait for those that are gone
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _leave(group: _Group) -> None:
    """Ends a process that has lost others when all has been said and written, without Python's putting away of modules one by one, which
    takes seconds of a processor where torch is: ``torchrun`` waits for it."""
    if group.lost:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _end(group: _Group) -> bool:
    """Lets all end at about the same time: what they talk over may live in the first of them. Whether all do."""
    with suppress(RuntimeError):
        if group.rank:
            group.store.set(f"ends {group.rank}", "")
            return True
        group.store.set(f"call {group.calls}", "end")
        return _wait(group, [f"ends {other}" for other in range(1, group.size)])
    return False


@contextmanager
def together(work: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Calls the other processes to ``work(*arguments)`` while this one, the first, does the same in the block. A process that is by
    itself does only that.

    Args:
        work: a function of a module, which the others import.
        arguments: which can be pickled.

    Raises:
        UserError: one of the others has ended, or did before.
    """
    group = _group
    if group is None or group.called:
        yield
        return
    if group.lost:
        raise UserError(group.lost)
    call = group.calls
    group.store.set(f"call {call}", "work")
    group.called = True
    try:
        _told((work, arguments))
        yield
    except BaseException as error:
        group.called = False
        if reason := _lost(error):
            group.lost = f"{_has_ended(group, reason)}: resume= with the run's folder goes on from the last checkpoint"
            _first_to_tell(group)
            raise UserError(group.lost) from error
        with suppress(RuntimeError):
            group.store.set(f"ended {call} 0", "")
        if isinstance(error, Exception) and not _wait(group, [f"ended {call} {other}" for other in range(1, group.size)]):
            group.lost = f"the other processes of torchrun do not know that this went wrong ({error}): start all of them again"
        raise
    finally:
        group.called = False
        group.calls += 1


def serve() -> int:
    """What a process does that is not the first: whatever it is called to, until the first one ends; returns its exit code.

    It is silent, but for an error that it alone meets.
    """
    group = _group
    assert group is not None
    try:
        while True:
            if (code := _serve_once(group)) is not None:
                return code
            group.calls += 1
    except KeyboardInterrupt as error:  # what was to be said of it the first says
        return 128 + reason_of(error)[0]


def _serve_once(group: _Group) -> int | None:
    """Waits for a call and does what it asks for; returns an exit code where there is nothing more to do."""
    call = f"call {group.calls}"
    error: BaseException | None = None
    try:
        while not group.store.check([call]):
            time.sleep(PAUSE)
        if group.store.get(call) == b"end":
            return 0
    except RuntimeError:  # torchrun itself has ended
        group.lost = "lost"
        return 1
    group.called = True
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            asked: tuple[Callable[..., object], tuple[Any, ...]] = _told(None)
            asked[0](*asked[1])
    except BaseException as caught:
        error = caught
    finally:
        group.called = False
    if error is None:
        return None
    if reason := _lost(error):
        group.lost = reason
        time.sleep(1)  # the first process comes first
        if _first_to_tell(group):
            print(f"error: {_has_ended(group, reason)}", file=sys.stderr)
        return 1
    if not isinstance(error, Exception):
        raise error
    group.store.set(f"ended {group.calls} {group.rank}", "")
    if _wait(group, [f"ended {group.calls} 0"]):  # the first met the same, and says so
        return None
    group.lost = "failed"
    sentence = str(error) if isinstance(error, UserError) else about_memory(error)
    if sentence is None:
        traceback.print_exception(error)
    else:
        print(f"error: process {group.rank} of {group.size}: {one_line(sentence)}", file=sys.stderr)
    return 1


def _has_ended(group: _Group, reason: str) -> str:
    return f"one of the {group.size} processes that train together has ended ({reason}), and so all do"


def _wait(group: _Group, keys: list[str]) -> bool:
    """Whether others have said something, in the next seconds."""
    end = time.monotonic() + SOON
    with suppress(RuntimeError):
        while not group.store.check(keys):
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE)
        return True
    return False


def _first_to_tell(group: _Group) -> bool:
    """Whether no other process has yet said that one is lost."""
    with suppress(RuntimeError):
        return int(group.store.add("told", 1)) == 1
    return True


def _lost(error: BaseException | None) -> str:
    """Why another process cannot be reached, where that is what an exception says, or one that it came upon; else nothing.

    ``torchrun`` asks the others to end (SIGTERM) where one has ended, which most often arrives while they put things in order for this
    very reason. From now on they end by themselves.
    """
    while error is not None:
        text = str(error)
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(w in text for w in ("gloo", "Gloo", "NCCL"))):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return shorten(text.rpartition("] ")[2].partition(". ")[0], 120, placeholder=" …") or type(error).__name__
        error = error.__context__
    return ""


def _told(value: T | None) -> T:
    """What the first process tells all; the others give nothing."""
    group = _group
    assert group is not None
    sent = [value]
    dist.broadcast_object_list(sent, src=0, device=torch.device("cpu"))
    return sent[0]  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------------------------------------------
# What the first does for all


@contextmanager
def alone() -> Iterator[bool]:
    """Within, each process is by itself; gives whether it is the first, which alone has something to do."""
    group = _group
    if group is None or not group.called:
        yield True
        return
    group.called = False
    try:
        yield group.rank == 0
    finally:
        group.called = True


def of_first(work: Callable[..., T], *arguments: Any) -> T:
    """What ``work(*arguments)`` gives, or raises, in the first process, by itself: in all of them."""
    if size() == 1:
        return work(*arguments)
    result: T | None = None
    failed: Exception | None = None
    with alone() as first:
        if first:
            try:
                result = work(*arguments)
            except Exception as error:
                failed = error
    told: tuple[T | None, Exception | None] = _told((result, _sendable(failed)))
    if failed or told[1]:
        raise failed or told[1]  # type: ignore[misc]
    return result if rank() == 0 else told[0]  # type: ignore[return-value]


def _sendable(error: Exception | None) -> Exception | None:
    """An error as it is told to the other processes: its sentence."""
    return error if error is None else UserError(str(error)) if isinstance(error, UserError) else RuntimeError(repr(error))


def same(network: nn.Module, *, buffers_only: bool = False) -> None:
    """Gives a network in every process the weights of the first one's; or only what batch norms have counted."""
    if size() == 1:
        return
    with torch.no_grad():
        for tensor in network.buffers() if buffers_only else network.state_dict().values():
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            if sent.data_ptr() != tensor.data_ptr():
                tensor.copy_(sent)


# ------------------------------------------------------------------------------------------------------------------------------------
# What all do together


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    assert _group is not None
    made = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(made, group=_group.totals)
    return made


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, through which gradients flow; itself where a process is by itself."""
    if size() == 1:
        return x
    return _Total.apply(x) if x.is_floating_point() else _summed(x)


def mean(x: Tensor) -> Tensor:
    """The mean of all numbers of a tensor, over all processes."""
    return x.mean() if size() == 1 else total(x.sum()) / total(torch.tensor(float(x.numel()), device=x.device)).to(x.dtype)


def sums(numbers: Sequence[float]) -> list[float]:
    """The sum of each of some numbers over all processes."""
    return list(numbers) if size() == 1 else _summed(torch.tensor(numbers, dtype=torch.float64)).tolist()


def shared_out(work: Callable[[Sequence[T]], np.ndarray], items: Sequence[T]) -> np.ndarray:
    """``work(items)``, an array with a row for each item, of which each process works on some and gets all."""
    if size() == 1 or len(items) < size():  # a process would have nothing to work on
        return work(items)
    own = slice(rank(), len(items), size())
    found = work(items[own])
    whole = np.zeros((len(items), *found.shape[1:]), found.dtype)
    whole[own] = found
    return _summed(torch.from_numpy(whole)).numpy()


# ------------------------------------------------------------------------------------------------------------------------------------
# A batch in parts


def positions(batch: int, parts: int) -> list[Tensor] | None:
    """Which samples of a batch this process takes of each of the parts in which it goes through the network: every size-th; None where it
    takes all of them.

    Args:
        batch: B.
        parts: of ``train.accumulate``.
    """
    return None if size() == 1 else [part[rank() :: size()] for part in torch.arange(batch).chunk(parts)]


def shared(learner: nn.Module, before: nn.Module | None = None) -> nn.Module | None:
    """A module whose gradients are the means of all processes': PyTorch's DistributedDataParallel of it; None of a single process.

    Args:
        learner: whose forward computes the loss.
        before: what this gave before, which is right as long as the same weights learn.
    """
    if size() == 1:
        return None
    learning = [p for p in learner.parameters() if p.requires_grad]
    if before is not None and [id(p) for p in learning] == before.learning:
        return before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the argument has another name in versions to come
        made = nn.parallel.DistributedDataParallel(learner, broadcast_buffers=False)
    made.learning = [id(p) for p in learning]  # type: ignore[assignment]
    return made


def unshared(learner: nn.Module) -> AbstractContextManager[None]:
    """Within, gradients are only added up; the mean of all processes' is taken of the next ones."""
    return learner.no_sync() if isinstance(learner, nn.parallel.DistributedDataParallel) else nullcontext()


@contextmanager
def part_of(whole: int) -> Iterator[None]:
    """Within, this process sees its samples of so many."""
    group = _group
    if group is None:
        yield
        return
    before, group.whole = group.whole, whole
    try:
        yield
    finally:
        group.whole = before


def drawn(draw: Callable[[int], Tensor], samples: int) -> Tensor:
    """What chance gives each of this process's samples: ``draw(B)`` for the whole batch, as one process would, and of it their rows."""
    group = _group
    if size() == 1 or group is None or not group.whole:
        return draw(samples)
    return draw(group.whole)[group.rank :: group.size]


@contextmanager
def as_one(network: nn.Module, norms: bool = True) -> Iterator[None]:
    """Within, the network's dropout draws for the whole batch, of which each process takes its samples' part, and its batch norms see the
    whole batch.

    Args:
        network: in training; as it answers nothing changes.
        norms: whether the batch norms too; else each process counts its own samples.
    """
    changed: list[tuple[nn.Module, Any]] = []
    if size() > 1:
        for module in network.modules():
            kind: Any = type(module)
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                changed.append((module, kind))
                module.__class__ = _whole_dropout(kind)
            elif norms and isinstance(module, nn.BatchNorm2d):
                changed.append((module, kind))
                module.__class__ = _whole_norm(kind, any(tensor.is_cuda for tensor in module.buffers()))
    try:
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind


@cache
def _whole_dropout(kind: Any) -> type[Any]:
    class WholeDropout(kind):
        """Drops what one process with the whole batch would."""

        def forward(self, x: Tensor) -> Tensor:
            if not self.training or not self.p or size() == 1:
                return kind.forward(self, x)
            of_channels = isinstance(self, nn.Dropout2d)
            shape = (*x.shape[1:2], *(1 for _ in x.shape[2:])) if of_channels else x.shape[1:]
            beside = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
            order = torch.channels_last if beside and not of_channels else torch.contiguous_format

            def kept(count: int) -> Tensor:
                return torch.empty((count, *shape), dtype=x.dtype, device=x.device, memory_format=order).bernoulli_(1 - self.p)

            return x * drawn(kept, len(x)).div_(1 - self.p)

    return WholeDropout


@cache
def _whole_norm(kind: Any, on_gpu: bool) -> type[Any]:
    """A batch norm that takes mean and variance over the samples of all processes. PyTorch's SyncBatchNorm does so, on GPUs alone."""

    class WholeNorm(kind, *((nn.SyncBatchNorm,) if on_gpu else ())):  # type: ignore[misc]
        process_group = None

        def forward(self, x: Tensor) -> Tensor:
            if not self.training or size() == 1:
                return kind.forward(self, x)
            normed = nn.SyncBatchNorm.forward(self, x) if on_gpu else whole_norm(self, x)
            for name in ("drop", "act"):  # of timm's, which have them inside
                if (after := getattr(self, name, None)) is not None:
                    normed = after(normed)
            return normed

    return WholeNorm


def whole_norm(module: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What a batch norm in training gives of this process's samples (b, C, h, w) by the statistics of all processes' (Ioffe and Szegedy,
    2015), which it also keeps."""
    wide, over, shape = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, (0, 2, 3), (1, -1, 1, 1)
    number = total(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    average = total(wide.sum(over)) / number
    centred = wide - average.view(shape)
    variance = total(centred.square().sum(over)) / number
    if module.track_running_stats and module.running_mean is not None and module.running_var is not None:
        with torch.no_grad():
            assert module.num_batches_tracked is not None
            module.num_batches_tracked += 1
            share = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
            module.running_mean.lerp_(average.to(module.running_mean), share)
            module.running_var.lerp_((variance * number / (number - 1).clamp(min=1)).to(module.running_var), share)
    normed = centred * (variance + module.eps).rsqrt().view(shape)
    if module.affine:
        normed = normed * module.weight.view(shape) + module.bias.view(shape)
    return normed.to(x.dtype)
