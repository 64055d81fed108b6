"""What a dataset hands out: one :class:`Item` read as a :class:`Sample` at a time, mixed into a :class:`Batch` for the network.

Shapes: ``B`` batch, ``H``, ``W`` pixels, ``h``, ``w`` outputs of the strided network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from densemtmd.tasks import VOID


@dataclass(frozen=True)
class Item:
    """One picture with its labels, not yet read."""

    key: str       # unique within its dataset
    image: Path
    labels: Path
    sequence: str  # pictures of one sequence share a split
    within: str = ""  # what a file of labels that speaks of several pictures calls this one


@dataclass(frozen=True)
class Sample:
    """One picture and what one annotator said of it."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    target: np.ndarray  # (H, W) uint8, class ids within the dataset's own labelset, 255 = unlabelled
    name: str  # unique within its dataset, e.g. the path below the dataset's folder without its suffix


@dataclass(frozen=True)
class Batch:
    """Samples of several datasets, side by side."""

    image: Tensor  # (B, 3, H, W) uint8, RGB; or (B, 1, S, S) float32, depth in a cube from −1 to 1; or (B, M, h, w) float16, kept maps
    target: Tensor  # (B, h, w) uint8, one class id per output of the network, 255 = unlabelled; or (B, L) float32, see `selective_l2`;
    # or (B, L, h, w) float32, see `selective_shares`
    task: Tensor  # (B,) int64, position of the sample's labelset in the output space
    domain: Tensor  # (B,) int64, position of the sample's domain among the domains trained on
    weight: Tensor  # (B,) float32, of the sample's pixels in the losses: 1, or that of its dataset (dataset equilibrium)

    @property
    def labelled(self) -> int:
        """How many labelled outputs it asks for: pixels, cells of kept maps, or hands."""
        if self.target.ndim == 4:
            return int(self.target.any(1).sum())
        return len(self.target) if self.target.is_floating_point() else int((self.target != VOID).sum())

    def parts(self, number: int) -> list[Batch]:
        """The batch in so many parts, or in as many as it has samples."""
        return [Batch(*some) for some in zip(*(getattr(self, f.name).chunk(number) for f in fields(self)), strict=True)]

    def split(self, sizes: Sequence[int]) -> list[Batch]:
        """The batch in parts of so many samples each."""
        return [Batch(*some) for some in zip(*(getattr(self, f.name).split(list(sizes)) for f in fields(self)), strict=True)]

    def some(self, samples: Tensor | None) -> Batch:
        """Some of its samples, by their positions; None: all."""
        return self if samples is None else Batch(*(getattr(self, f.name)[samples] for f in fields(self)))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


class Batches(Protocol):
    """What training draws from: the batch of each step, the same for the same seed."""

    seed: int
    batch_size: int

    def about(self) -> dict[str, dict[str, float]]:
        """Of each dataset its pictures, its share of the batches and its weight in the losses, for the record."""
        ...

    def batch(self, step: int, own: Tensor | None = None) -> Batch:
        """The batch of a step; of it only the samples at the positions ``own``, which are the same as in the whole one."""
        ...

    def augmented(self, batch: Batch, own: Tensor | None = None) -> Batch:
        """A batch as the network is to see it, changed at random where the network is. Of several processes that see one batch ``own`` is
        as it was for :meth:`batch`."""
        ...


def as_input(image: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) uint8 as networks take them: float32 in [0, 1], channels-last in memory; depth in a cube as it is."""
    if image.is_floating_point():
        return image
    return image.contiguous(memory_format=torch.channels_last).float().div_(255)
