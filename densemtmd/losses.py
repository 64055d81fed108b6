"""The losses of the paper, as pure functions of the network's outputs and an :class:`~densemtmd.tasks.OutputSpace`.

Every sample is annotated by one task and speaks about that task's channels alone. Which channels these are is a table
lookup, so batches mix datasets freely and no loop runs over datasets, images or pixels. Where several processes train together, each loss
is that of the samples of all of them (:mod:`densemtmd.parallel`).

Shapes: ``B`` batch, ``C`` channels of the output space, ``H``, ``W`` pixels, ``K`` tasks, ``L`` channels of the largest
task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from densemtmd.errors import UserError
from densemtmd.parallel import mean, total
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
    if torch.jit.is_tracing():  # scattering is not for every program that runs what was recorded; this does the same
        parts = x.split([task.channels for task in space.tasks], 1)
        return torch.cat([part.softmax(1) for part in parts], 1).to(logits.dtype)
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


def _checked(logits: Tensor, target: Tensor, task: Tensor, space: OutputSpace) -> tuple[Tensor, Tensor, Tensor]:
    """Targets and tasks as indices, and which targets are labelled.

    Raises:
        UserError: shapes that do not fit, or (checked on the CPU alone, where it is free) a class id that the labelset does not have.
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
    return target, task, labelled


def _own_log_probabilities(logits: Tensor, task: Tensor, space: OutputSpace) -> tuple[Tensor, Tensor | None]:
    """The log of each sample's softmax over its own labelset, (B, ..., L), and which of the L are real, as :func:`_own_channels` has them.
    Those that are not are 0 and get no gradient."""
    own, real = _own_channels(logits, task, space)
    if real is None:
        return own.log_softmax(-1), None
    return own.masked_fill(~real, -torch.inf).log_softmax(-1).masked_fill(~real, 0), real


def _mean_over_labelled(
    pixel_loss: Tensor, labelled: Tensor, task: Tensor, sample_weight: Tensor | None, task_weight: Tensor | None
) -> Tensor:
    """The sum of the weighted pixel losses over the number of labelled pixels."""
    weight = _weights(task, sample_weight, task_weight, pixel_loss).view(-1, *[1] * (pixel_loss.ndim - 1))
    return total((pixel_loss * weight).sum()) / total(labelled.sum()).clamp(min=1)


def _of_own_labels(class_weight: Tensor, task: Tensor, space: OutputSpace, like: Tensor) -> Tensor:
    """The weights of each sample's own labels, (B, ..., L): those of (C,) channels of which ``like`` has the shape."""
    if class_weight.shape != (space.channels,):
        raise UserError(f"expected one class weight for each of the {space.channels} labels, got {tuple(class_weight.shape)}")
    of_all = class_weight.to(like).view(1, -1, *[1] * (like.ndim - 2)).expand(len(task), -1, *[1] * (like.ndim - 2))
    return _own_channels(of_all, task, space)[0]


def selective_cross_entropy(
    logits: Tensor,
    target: Tensor,
    task: Tensor,
    space: OutputSpace,
    sample_weight: Tensor | None = None,
    task_weight: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    smoothing: float = 0.0,
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
        class_weight: (C,) weight of the pixels of each label, 1 where it is not given. The labels are counted as they are: weights whose
            mean over the labelled pixels is 1 leave the size of the loss as it is.
        smoothing: share of each target that is spread evenly over the sample's own labels (Szegedy et al., 2016), 0 ≤ smoothing < 1.

    Returns:
        A scalar: the sum of the weighted pixel losses over the number of labelled pixels; 0 with zero gradients where
        none is labelled.

    Raises:
        UserError: shapes that do not fit, or (checked on the CPU alone, where it is free) a class id that the labelset
            does not have.
    """
    target, task, labelled = _checked(logits, target, task, space)
    if not smoothing:
        own, real = _own_channels(logits, task, space)
        if real is not None:
            own.masked_fill_(~real, -torch.inf)
        pixel_loss = F.cross_entropy(own.flatten(0, -2), target.flatten(), ignore_index=VOID, reduction="none").view_as(target)
        if class_weight is not None:
            weights = _of_own_labels(class_weight, task, space, logits).expand(*target.shape, -1)
            pixel_loss = pixel_loss * weights.gather(-1, target.where(labelled, 0)[..., None])[..., 0]
        return _mean_over_labelled(pixel_loss, labelled, task, sample_weight, task_weight)
    log_p, real = _own_log_probabilities(logits, task, space)
    if class_weight is not None:
        log_p = log_p * _of_own_labels(class_weight, task, space, logits).to(log_p)
    size = space.tables(target.device).size[task].view(-1, *[1] * (target.ndim - 1)).to(log_p)
    true = log_p.gather(-1, target.where(labelled, 0)[..., None])[..., 0]
    pixel_loss = -((1 - smoothing) * true + smoothing / size * log_p.sum(-1)).where(labelled, 0)
    return _mean_over_labelled(pixel_loss, labelled, task, sample_weight, task_weight)


def selective_shares(
    logits: Tensor,
    shares: Tensor,
    task: Tensor,
    space: OutputSpace,
    sample_weight: Tensor | None = None,
    task_weight: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Selective cross-entropy where an output answers for several pixels: the mean of their losses.

    Args:
        logits: (B, C, h, w), any floating type.
        shares: (B, L, h, w) of the pixels that an output answers for, the share that is labelled with each of the labels of the sample's
            own labelset, in front; L is that of the largest labelset. They sum to at most 1; what is missing is unlabelled.
        task: as :func:`selective_cross_entropy` has it, and so the others.
        space: who owns which channels.
        sample_weight: (B,) of each sample's outputs.
        task_weight: (K,) of each labelset.
        class_weight: (C,) of each label.
        smoothing: share of the truth that is spread over the sample's own labels.

    Returns:
        A scalar: the sum of the weighted losses over the labelled pixels, counted in outputs; 0 with zero gradients where there is none.

    Raises:
        UserError: shapes that do not fit.
    """
    _check_channels(logits, space)
    task = task.long()
    log_p, real = _own_log_probabilities(logits, task, space)
    truth = shares.movedim(1, -1).to(log_p)
    if truth.shape != log_p.shape or task.shape != logits.shape[:1]:
        raise UserError(f"expected shares of shape {tuple(log_p.movedim(-1, 1).shape)} and one task each, got {tuple(shares.shape)}")
    if real is not None:
        truth = truth * real
    labelled = truth.sum(-1)
    if smoothing:
        size = space.tables(truth.device).size[task].view(-1, *[1] * (truth.ndim - 1)).to(truth)
        even = (labelled[..., None] / size).expand_as(truth)
        truth = (1 - smoothing) * truth + smoothing * (even if real is None else even * real)
    if class_weight is not None:
        truth = truth * _of_own_labels(class_weight, task, space, logits).to(truth)
    loss = -(truth * log_p).sum(-1)
    weight = _weights(task, sample_weight, task_weight, loss).view(-1, *[1] * (loss.ndim - 1))
    number = total(labelled.sum())
    return total((loss * weight).sum()) / number.where(number > 0, 1)


def selective_focal(
    logits: Tensor,
    target: Tensor,
    task: Tensor,
    space: OutputSpace,
    sample_weight: Tensor | None = None,
    task_weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
) -> Tensor:
    """Selective focal loss (after Lin et al., Focal Loss for Dense Object Detection, 2017): cross-entropy over the sample's own labelset,
    each pixel's multiplied by (1 − p)^γ, p being the probability of its true label: what is right already counts for little.

    Args:
        gamma: γ, at least 1; 0 is :func:`selective_cross_entropy`.
        logits: (B, C, *), as that has them, and so the others.
        target: (B, *) class ids, 255 = unlabelled.
        task: (B,) positions in the space.
        space: who owns which channels.
        sample_weight: (B,) of each sample's pixels.
        task_weight: (K,) of each labelset.
        class_weight: (C,) of each label.

    Returns:
        A scalar: the sum of the weighted pixel losses over the number of labelled pixels; 0 with zero gradients where none is labelled.

    Raises:
        UserError: what :func:`selective_cross_entropy` raises, or a γ between 0 and 1, whose gradient is infinite where p is 1.
    """
    if not (gamma == 0 or gamma >= 1):
        raise UserError(f"the focal loss has a gamma of {gamma}, expected 0, or at least 1")
    target, task, labelled = _checked(logits, target, task, space)
    log_p, _ = _own_log_probabilities(logits, task, space)
    place = target.where(labelled, 0)[..., None]
    true = log_p.gather(-1, place)[..., 0]
    pixel_loss = -true if gamma == 0 else -true * torch.expm1(true).neg().pow(gamma)
    if class_weight is not None:
        pixel_loss = pixel_loss * _of_own_labels(class_weight, task, space, logits).expand_as(log_p).gather(-1, place)[..., 0]
    return _mean_over_labelled(pixel_loss.where(labelled, 0), labelled, task, sample_weight, task_weight)


def selective_dice(
    logits: Tensor,
    target: Tensor,
    task: Tensor,
    space: OutputSpace,
    sample_weight: Tensor | None = None,
    task_weight: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    smooth: float = 1.0,
) -> Tensor:
    """Selective soft Dice loss (after Milletari et al., V-Net, 2016), every label of every labelset counting alike, be it rare or not.

    Of each label, over all pixels that its labelset annotates: 1 − (2·Σ p·t + s) / (Σ p + Σ t + s), p being the probability under the
    sample's own labelset and t 1 where the label is the true one; the mean over the labels that occur in the batch.

    Args:
        logits: (B, C, *), as :func:`selective_cross_entropy` has them, and so the others.
        target: (B, *) class ids, 255 = unlabelled.
        task: (B,) positions in the space.
        space: who owns which channels.
        sample_weight: (B,) weight of each sample's pixels. It weighs them in the sums, and a labelset's labels by the mean of it over its
            labelled pixels: so dataset equilibrium means the same here as in the other losses.
        task_weight: (K,) weight of each labelset's labels.
        class_weight: (C,) weight of each label.
        smooth: s, labelled pixels: what keeps the loss of a label with hardly any pixels from jumping about.

    Returns:
        A scalar; 0 with zero gradients where nothing is labelled.

    Raises:
        UserError: what :func:`selective_cross_entropy` raises.
    """
    target, task, labelled = _checked(logits, target, task, space)
    log_p, real = _own_log_probabilities(logits, task, space)
    tables, length = space.tables(logits.device), log_p.shape[-1]
    weight = _weights(task, sample_weight, None, log_p)
    p = (log_p.exp() * labelled[..., None]).flatten(1, -2)                              # (B, pixels, L)
    truth = F.one_hot(target.where(labelled, length).flatten(1), length + 1)[..., :length].to(p)
    own = (torch.stack([(p * truth).sum(1), p.sum(1), truth.sum(1)]) * weight[:, None])  # of each sample and label, (3, B, L)
    index = tables.first[task][:, None] + torch.arange(length, device=logits.device)
    if real is not None:  # what pads smaller labelsets is nothing, and may be added anywhere
        mask = real.flatten(1, -2)[:, 0]
        own, index = own * mask, index.where(mask, 0)
    hits, answered, true = total(p.new_zeros(3, space.channels).index_add(1, index.flatten(), own.flatten(1)))
    pixels = labelled.flatten(1).sum(1).to(weight)
    per_task = total(p.new_zeros(2, len(space)).index_add(1, task, torch.stack([pixels * weight, pixels])))
    of_label = (per_task[0] / per_task[1].clamp(min=1))[tables.owner]
    if task_weight is not None:
        of_label = of_label * task_weight.to(of_label)[tables.owner]
    if class_weight is not None:
        of_label = of_label * class_weight.to(of_label)
    occurs = true > 0
    loss = (1 - (2 * hits + smooth) / (answered + true + smooth)) * of_label
    return loss.where(occurs, 0).sum() / occurs.sum().clamp(min=1)


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
    return mean(loss if sample_weight is None else loss * sample_weight.to(loss))


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
    return total((sample_loss * weight).sum()) / total((number > 0).sum()).clamp(min=1)
