"""Batches of hands, mixed from several datasets.

Shapes: ``B`` batch, ``S`` pixels along a side of a crop, ``L`` coordinates of the largest keypoint set, ``K`` datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from densemtmd.datasets.hands.augment import Augmentation
from densemtmd.datasets.hands.crop import Cube, crop_again
from densemtmd.datasets.hands.dataset import Hands
from densemtmd.datasets.mixing import shares
from densemtmd.datasets.sample import Batch
from densemtmd.errors import UserError
from densemtmd.losses import equilibrium_weights
from densemtmd.tasks import OutputSpace


@dataclass(frozen=True)
class HandSource:
    """The training hands of one dataset, and who annotates them."""

    name: str    # the dataset
    task: int    # position of its keypoint set in the output space
    domain: int  # position of its domain among the domains trained on
    hands: Hands


def as_seen(hands: Hands, size: int, cube: Cube | None = None) -> np.ndarray:
    """What the network sees of hands: (N, S, S) float32 from −1 to 1, in their own cubes or in others."""
    cube = cube or hands.cube
    same = cube is hands.cube and hands.margin == 1 and hands.depth.shape[-1] == size
    return cube.clamp(hands.depth if same else crop_again(hands.depth, hands.kept, cube, size))


class HandMixture:
    """Draws batches of hands from several datasets, with shares that are kept exactly: of 100 hands of two datasets 50 each.

    Args:
        sources: the datasets, none of them empty.
        space: the keypoint sets.
        size: S.
        batch: B.
        mixing: see :func:`densemtmd.datasets.mixing.shares`, of hands; where a share is no whole number of hands, chance decides.
        augmentation: how hands are turned, scaled and moved.
        unit: ``"cube"``: errors count as parts of half the cube, so that those in a smaller cube weigh more; ``"mm"``: as millimetres, in
            units of the largest cube among the sources.
        equilibrium: every dataset weighs as much as every other.
        seed: of all batches.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        sources: Sequence[HandSource],
        space: OutputSpace,
        *,
        size: int,
        batch: int,
        mixing: str | Mapping[str, float],
        augmentation: Augmentation,
        unit: str = "cube",
        equilibrium: bool = False,
        seed: int,
    ) -> None:
        if batch < 1:
            raise UserError(f"train.batch is {batch}, expected at least 1")
        if empty := [source.name for source in sources if not len(source.hands)]:
            raise UserError(f"dataset {empty[0]!r} has no training picture: nothing can be learned from it")
        self.sources, self.size, self.batch_size, self.augmentation, self.seed = sources, size, batch, augmentation, seed
        self.shares = shares([len(source.hands) for source in sources], mixing, [source.name for source in sources])
        self.weights = equilibrium_weights(self.shares.tolist()).numpy() if equilibrium else np.ones(len(sources), np.float32)
        self.largest = max(float(source.hands.cube.side.max()) for source in sources) if unit == "mm" else None
        self.length = max(task.channels for task in space.tasks)

    def about(self) -> dict[str, dict[str, float]]:
        """Of each dataset its training hands, its share of a batch and its weight in the losses, for the record."""
        return {
            source.name: {"pictures": len(source.hands), "share": float(share), "weight": float(weight)}
            for source, share, weight in zip(self.sources, self.shares, self.weights, strict=True)
        }

    def counts(self, random: np.random.Generator) -> np.ndarray:
        """How many hands of each dataset are in a batch, (K,): their shares, rounded so that they sum to B."""
        wanted = self.shares * self.batch_size
        counts = np.floor(wanted + 1e-9).astype(int)
        if missing := self.batch_size - counts.sum():
            rest = np.maximum(wanted - counts, 0)
            counts += np.bincount(random.choice(len(counts), missing, replace=False, p=rest / rest.sum()), minlength=len(counts))
        return counts

    def drawn(self, step: int) -> list[tuple[Hands, Cube]]:
        """Of each dataset the hands in the batch of a step, and the cubes in which they are seen."""
        random = np.random.default_rng([self.seed, step])
        parts = []
        for source, count in zip(self.sources, self.counts(random), strict=True):
            hands = source.hands.take(random.integers(len(source.hands), size=count))
            parts.append((hands, self.augmentation.draw(hands.cube, random) if self.augmentation else hands.cube))
        return parts

    def augmented(self, batch: Batch, own: Tensor | None = None) -> Batch:
        """As it is: hands are turned, scaled and moved before they are cut out."""
        return batch

    def batch(self, step: int, own: Tensor | None = None) -> Batch:
        """The batch of a step: the same for the same settings, whatever was drawn before; or of it the samples at the positions ``own``, in
        ascending order."""
        images, targets, of, weights = [], [], [], []
        before = 0
        for k, (hands, cube) in enumerate(self.drawn(step)):
            if own is not None:
                mine = own[(own >= before) & (own < before + len(hands))].numpy() - before
                before += len(hands)
                if not len(mine):
                    continue
                some, as_kept = hands.take(mine), cube is hands.cube
                hands, cube = some, some.cube if as_kept else Cube(cube.centre[mine], cube.side[mine], cube.angle[mine])
            count = len(hands)
            images.append(as_seen(hands, self.size, cube))
            target = np.full((count, self.length), np.nan, np.float32)
            coordinates = cube.normalise(hands.xyz).reshape(count, -1)
            target[:, : coordinates.shape[1]] = coordinates
            targets.append(target)
            of += [k] * count
            scale = 1.0 if self.largest is None else (cube.side / self.largest) ** 2
            weights.append(np.full(count, self.weights[k]) * scale)
        return Batch(
            image=torch.from_numpy(np.concatenate(images))[:, None],
            target=torch.from_numpy(np.concatenate(targets)),
            task=torch.tensor([self.sources[k].task for k in of]),
            domain=torch.tensor([self.sources[k].domain for k in of]),
            weight=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        )
