"""What training makes small, of pixels: losses that are mixed, and labels that weigh by how rare they are. The settings are ``loss.*``.

Shapes: ``B`` batch, ``C`` channels of the output space, ``L`` labels of the largest labelset, ``H``, ``W`` pixels, ``h``, ``w`` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densemtmd.datasets.sample import Batch
from densemtmd.errors import UserError
from densemtmd.kind import Criterion
from densemtmd.losses import selective_cross_entropy, selective_dice, selective_focal, selective_shares
from densemtmd.settings import LossSettings
from densemtmd.tasks import VOID, OutputSpace, nearest

LOSSES = ("cross_entropy", "dice", "focal")
"""What ``loss.mix`` mixes."""


def mixed(how: LossSettings, space: OutputSpace, of_labels: Tensor | None = None) -> Criterion:
    """The losses that ``loss.mix`` names, summed by their weights.

    Args:
        how: the settings.
        space: the labelsets.
        of_labels: (C,) weights of labels, as :func:`label_weights` gives them; None: all weigh the same.

    Returns:
        Of outputs (B, C, h, w) and what is asked for them, (B, h, w) class ids or (B, L, h, w) shares of labels, a number. Dice and focal
        take of shares the most frequent label.

    Raises:
        UserError: what :func:`loss_weights` raises.
    """
    weights = loss_weights(how.mix)

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        asked: tuple[Any, ...] = (batch.task, space, batch.weight)
        same: dict[str, Any] = {"class_weight": None if of_labels is None else of_labels.to(outputs.device)}
        total = outputs.new_zeros((), dtype=torch.float32)
        for name, weight in weights.items():
            if name == "cross_entropy":
                entropy = selective_shares if batch.target.is_floating_point() else selective_cross_entropy
                loss = entropy(outputs, batch.target, *asked, smoothing=how.smoothing, **same)
            elif name == "dice":
                loss = selective_dice(outputs, most_frequent(batch.target), *asked, **same)
            else:
                loss = selective_focal(outputs, most_frequent(batch.target), *asked, gamma=how.gamma, **same)
            total = total + weight * loss
        return total

    return criterion


def most_frequent(target: Tensor) -> Tensor:
    """(B, h, w) class ids of the most frequent label of each cell, 255 where none is, of shares (B, L, h, w); ids as they are."""
    if not target.is_floating_point():
        return target
    return torch.where(target.any(1), target.argmax(1), VOID)


def loss_weights(mix: str) -> dict[str, float]:
    """``"cross_entropy:1+dice:0.5"`` as a mapping; a name without a weight has 1.

    Raises:
        UserError: another name, a name twice, or a weight that is not above 0.
    """
    found: dict[str, float] = {}
    for part in mix.split("+"):
        name, _, weight = part.strip().partition(":")
        if name not in LOSSES:
            raise UserError(f"loss.mix is {mix!r}, in which {name!r} is no loss; {nearest(name, LOSSES)}")
        try:
            found[name] = float(weight or 1) if name not in found else math.nan
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise UserError(f"loss.mix is {mix!r}, expected each loss once, with a weight above 0: write it as cross_entropy:1+dice:0.5")
    return found


def label_weights(targets: Iterable[tuple[str, np.ndarray]], space: OutputSpace, balance: float) -> Tensor:
    """(C,) weights of labels: their frequency among the labelled pixels of their labelset to the power −``balance``, such that the mean
    over these pixels is 1. A label that does not occur has 1.

    Args:
        targets: of each training picture the name of its labelset and its (H, W) uint8 class ids.
        space: the labelsets.
        balance: 0: all pixels weigh the same; 1: all labels do.
    """
    counts = torch.zeros(space.channels, dtype=torch.float64)
    for name, target in targets:
        counts[space.slice(name)] += torch.from_numpy(np.bincount(target.ravel(), minlength=256)[: space[name].channels])
    weights = torch.ones_like(counts)
    for own in map(space.slice, space.names):
        there = counts[own] > 0
        frequency = counts[own][there] / counts[own].sum()
        found = frequency.pow(-balance)
        weights[own] = weights[own].masked_scatter(there, found / (frequency * found).sum())
    return weights.float()
