"""The losses of the paper, as pure functions of the network's outputs and an :class:`~densemtmd.tasks.OutputSpace`.

Every sample is annotated by one task and speaks about that task's channels alone. Which channels these are is a table
lookup, so batches mix datasets freely and no loop runs over datasets, images or pixels.

Shapes: ``B`` batch, ``C`` channels of the output space, ``H``, ``W`` pixels, ``K`` tasks, ``L`` channels of the largest
task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from densemtmd.errors import UserError
from densemtmd.tasks import VOID, OutputSpace


def _at_least_float32(x: Tensor) -> Tensor:
    """Exponentials and sums are taken in float32, or in the input's type where that is wider."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check_channels(outputs: Tensor, space: OutputSpace) -> None:
    if outputs.ndim < 2 or outputs.shape[1] != space.channels:
        raise UserError(
            f"expected outputs of shape (B, {space.channels}, ...) for the tasks {', '.join(space.names)}, got {tuple(outputs.shape)}"
        )


def dataset_softmax(logits: Tensor, space: OutputSpace) -> Tensor:
    """Dataset-wise softmax (Eq. 1): each labelset's channels become probabilities that sum to 1.

    Args:
        logits: (B, C, ...) of any floating type; exponentials are taken in at least float32.
        space: who owns which channels.

    Returns:
        (B, C, ...) probabilities in [0, 1], in the type of ``logits``.
    """
    _check_channels(logits, space)
    x = _at_least_float32(logits)
    owner = space.tables(logits.device).owner
    per_task = (x.shape[0], len(space), *x.shape[2:])
    shape = [1, -1] + [1] * (x.ndim - 2)
    # The largest logit of each labelset is subtracted so that no exponential overflows. It cancels in Eq. 1: no
    # gradient is lost.
    index = owner.view(shape).expand_as(x)
    largest = x.new_full(per_task, -torch.inf).scatter_reduce(1, index, x.detach(), "amax")
    exponentials = torch.exp(x - largest.index_select(1, owner))
    sums = x.new_zeros(per_task).index_add(1, owner, exponentials)
    return (exponentials / sums.index_select(1, owner)).to(logits.dtype)


def _own_channels(outputs: Tensor, task: Tensor, space: OutputSpace) -> tuple[Tensor, Tensor | None]:
    """Each sample's own channels, behind all else, in at least float32: (B, ..., L); and which of them are real: (B, 1, ..., L), or None
    where all are.

    L is that of the largest task. Smaller ones are padded with their last channel, for the caller to mask: what is masked gets the gradient
    0. A pixel's channels lie side by side in a network's outputs, and do here and in the gradient: nothing of full size is copied about.
    """
    outputs = outputs.movedim(1, -1)
    if len(space) == 1:
        return _at_least_float32(outputs), None
    tables = space.tables(outputs.device)
    position = torch.arange(max(t.channels for t in space.tasks), device=outputs.device)
    size = tables.size[task][:, None]
    index = tables.first[task][:, None] + torch.minimum(position[None], size - 1)
    index, real = (part.view(len(part), *[1] * (outputs.ndim - 2), -1) for part in (index, position[None] < size))
    own = outputs.gather(-1, index.expand(*outputs.shape[:-1], -1))
    return _at_least_float32(own), real if len({t.channels for t in space.tasks}) > 1 else None


def _weights(task: Tensor, sample_weight: Tensor | None, task_weight: Tensor | None, like: Tensor) -> Tensor:
    """One weight per sample, (B,): the product of the weights given."""
    weight = like.new_ones(task.shape[0])
    if sample_weight is not None:
        weight = weight * sample_weight.to(weight)
    if task_weight is not None:
        weight = weight * task_weight.to(weight)[task]
    return weight


def selective_cross_entropy(
    logits: Tensor,
    target: Tensor,
    task: Tensor,
    space: OutputSpace,
    sample_weight: Tensor | None = None,
    task_weight: Tensor | None = None,
) -> Tensor:
    """Selective cross-entropy (Eq. 2): cross-entropy over the labelset of the sample's own dataset alone.

    The gradient with respect to every channel outside a sample's labelset is exactly 0 (the remark after Eq. 2).

    Args:
        logits: (B, C, H, W), any floating type; the loss is taken in at least float32.
        target: (B, H, W) integers, class ids within the sample's own labelset, 255 = unlabelled.
        task: (B,) integers, position in the space of the labelset that annotates each sample.
        space: the labelsets.
        sample_weight: (B,) weight of each sample's pixels, 1 where it is not given.
        task_weight: (K,) weight of each labelset's pixels, 1 where it is not given (dataset equilibrium).

    Returns:
        A scalar: the sum of the weighted pixel losses over the number of labelled pixels; 0 with zero gradients where
        none is labelled.

    Raises:
        UserError: shapes that do not fit, or (checked on the CPU alone, where it is free) a class id that the labelset
            does not have.
    """
    _check_channels(logits, space)
    if target.shape != logits.shape[:1] + logits.shape[2:] or task.shape != logits.shape[:1]:
        raise UserError(
            f"expected target {tuple(logits.shape[:1] + logits.shape[2:])} and task {tuple(logits.shape[:1])} for logits "
            f"{tuple(logits.shape)}, got {tuple(target.shape)} and {tuple(task.shape)}"
        )
    task, target = task.long(), target.long()
    labelled = target != VOID
    if not target.is_cuda:
        size = space.tables(target.device).size[task].view(-1, *[1] * (target.ndim - 1))
        if bool(((target < 0) | (target >= size)).logical_and_(labelled).any()):
            raise UserError(
                f"a target holds a class id that its labelset does not have; ids run from 0 to the number of labels - 1, and {VOID} is void"
            )
    own, real = _own_channels(logits, task, space)
    if real is not None:
        own.masked_fill_(~real, -torch.inf)
    pixel_loss = F.cross_entropy(own.flatten(0, -2), target.flatten(), ignore_index=VOID, reduction="none").view_as(target)
    weight = _weights(task, sample_weight, task_weight, pixel_loss).view(-1, *[1] * (target.ndim - 1))
    return (pixel_loss * weight).sum() / labelled.sum().clamp(min=1)


def domain_loss(logits: Tensor, domain: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """The cross-entropy of the domain classifier θ_d, at every output: where a picture comes from is known of its void pixels too.

    Args:
        logits: (B, D, h, w), one channel per domain, any floating type; the loss is taken in at least float32.
        domain: (B,) integers, position of each sample's domain.
        sample_weight: (B,) weight of each sample's outputs, 1 where it is not given (dataset equilibrium).

    Returns:
        A scalar: the sum of the weighted losses over the number of outputs.
    """
    target = domain.long().view(-1, *[1] * (logits.ndim - 2)).expand(logits.shape[0], *logits.shape[2:])
    loss = F.cross_entropy(_at_least_float32(logits), target, reduction="none").flatten(1).mean(1)
    return loss.mean() if sample_weight is None else (loss * sample_weight.to(loss)).mean()


def equilibrium_weights(shares: Sequence[float]) -> Tensor:
    """Dataset equilibrium (DE, section 4.3): the weight w_k = 1 / (K·p_k) of each dataset's pixels.

    A dataset whose pixels are a share p_k of all that are sampled then weighs p_k·w_k = 1/K in the gradient, as much as every other.

    Args:
        shares: p_k of the K datasets in what is actually sampled, above 0 and summing to 1.

    Returns:
        (K,) float32.
    """
    sampled = torch.as_tensor(shares, dtype=torch.float64)
    return (1 / (len(sampled) * sampled)).float()


def selective_l2(
    outputs: Tensor,
    target: Tensor,
    mask: Tensor,
    task: Tensor,
    space: OutputSpace,
    sample_weight: Tensor | None = None,
    task_weight: Tensor | None = None,
) -> Tensor:
    """Selective L2 (section 4.4): the squared error over the coordinates of the sample's own keypoint set alone.

    Args:
        outputs: (B, C) or (B, C, 1, 1) coordinates.
        target: (B, L) coordinates of the sample's own keypoints x, y, z, x, y, z, ... in front; L is the largest set's
            3·J.
        mask: (B, L) True where a coordinate is annotated (padding is False).
        task: (B,) integers, position in the space of the keypoint set that annotates each sample.
        space: the keypoint sets.
        sample_weight: (B,) weight of each sample.
        task_weight: (K,) weight of each keypoint set.

    Returns:
        A scalar: the mean over samples of the weighted mean over a sample's own annotated coordinates, so that sets of
        42 and of 48 coordinates balance. Samples without an annotated coordinate do not count; 0 with zero gradients
        where there is none at all.
    """
    _check_channels(outputs, space)
    task = task.long()
    own, real = _own_channels(outputs.flatten(1), task, space)
    if target.shape != own.shape or mask.shape != own.shape:
        raise UserError(f"expected target and mask of shape {tuple(own.shape)}, got {tuple(target.shape)} and {tuple(mask.shape)}")
    counted = mask.bool() if real is None else mask.bool() & real
    error = torch.where(counted, own - target, 0)
    number = counted.sum(1)
    sample_loss = error.square().sum(1) / number.clamp(min=1)
    weight = _weights(task, sample_weight, task_weight, sample_loss)
    return (sample_loss * weight).sum() / (number > 0).sum().clamp(min=1)
