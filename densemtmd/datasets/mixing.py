"""Batches that mix datasets: which dataset, which picture, which crop, all drawn from the step's own random numbers.

Every step has its own seed, so the batches of a run depend on nothing but the settings and the step: a resumed run needs no random
state, and batches may be made ahead by another thread.

Shapes: ``B`` batch, ``K`` datasets, ``H``, ``W`` pixels, ``h``, ``w`` outputs of the strided network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from densemtmd.datasets.crops import cut
from densemtmd.datasets.sample import Batch, Sample
from densemtmd.dense import Geometry
from densemtmd.errors import UserError
from densemtmd.tasks import VOID, nearest


@dataclass(frozen=True)
class Source:
    """The training pictures of one dataset, and who annotates them."""

    name: str                  # the dataset, which is also the name of its task in the output space
    task: int                  # position of its labelset in the output space
    domain: int                # position of its domain among the domains trained on
    samples: Sequence[Sample]

    @property
    def labelled_pixels(self) -> int:
        return sum(int((sample.target != VOID).sum()) for sample in self.samples)


def shares(labelled_pixels: Sequence[int], mixing: str) -> np.ndarray:
    """The share of each dataset among the sampled crops, (K,), summing to 1.

    Args:
        labelled_pixels: of each dataset.
        mixing: ``"pixels"`` in proportion to them, as the paper samples; ``"uniform"`` the same for each dataset.

    Raises:
        UserError: another word.
    """
    pixels = np.asarray(labelled_pixels, float)
    if mixing == "pixels":
        return pixels / pixels.sum()
    if mixing == "uniform":
        return np.full(len(pixels), 1 / len(pixels))
    raise UserError(f"train.mixing is {mixing!r}; {nearest(mixing, ['pixels', 'uniform'])}")


class Mixture:
    """Draws batches of crops from several datasets.

    Args:
        sources: the datasets, none of them empty.
        geometry: of the network that will see the crops.
        crop: side of a crop in labelled pixels, of which a strided network answers every stride-th; 0 for whole pictures. Larger pictures
            than the crop give a crop that lies inside; smaller ones are void beyond their border.
        batch: B, crops per batch.
        flip: mirror half of the crops.
        border: ``"reflect"``: any pixel may be asked for; ``"valid"``: only those whose patch lies inside the picture, as the paper samples.
        mixing: see :func:`shares`.
        seed: of all batches.

    Raises:
        UserError: no labelled pixel in a dataset, or a picture smaller than a patch where ``border`` is valid.
    """

    def __init__(
        self, sources: Sequence[Source], geometry: Geometry, *, crop: int, batch: int, flip: bool, border: str, mixing: str, seed: int
    ) -> None:
        for source in sources:
            if not source.samples or source.labelled_pixels == 0:
                raise UserError(f"dataset {source.name!r} has no labelled pixel in its training pictures: nothing can be learned from it")
        if border not in ("reflect", "valid"):
            raise UserError(f"train.border is {border!r}; {nearest(border, ['reflect', 'valid'])}")
        smallest = min((min(s.target.shape), s.name, source.name) for source in sources for s in source.samples)
        if border == "valid" and smallest[0] < geometry.patch:
            raise UserError(
                f"picture {smallest[1]!r} of {smallest[2]!r} is {smallest[0]} pixels high or wide, smaller than the network's patch of "
                f"{geometry.patch}: use train.border=reflect"
            )
        self.sources, self.geometry = sources, geometry
        self.batch_size, self.flip, self.border, self.seed = batch, flip, border, seed
        self.shares = shares([source.labelled_pixels for source in sources], mixing)
        # Within a dataset every pixel is equally likely: pictures in proportion to their area.
        areas = [np.array([s.target.size for s in source.samples], float) for source in sources]
        self.picture_shares = [area / area.sum() for area in areas]
        largest = np.array([sample.target.shape for source in sources for sample in source.samples]).max(0)
        side = largest if crop == 0 else np.array([crop, crop])
        if border == "valid":
            side = np.minimum(side, largest - geometry.patch + 1)
        self.rows, self.columns = (max(1, math.ceil(int(pixels) / geometry.stride)) for pixels in side)

    def _start(self, random: np.random.Generator, size: int, outputs: int) -> int:
        """The pixel along one side where the grid of a crop starts: any phase, the last pixel as likely to be asked for as the first."""
        before, after = self.geometry.border if self.border == "valid" else (0, 0)
        room = size - before - after - ((outputs - 1) * self.geometry.stride + 1)
        # A crop about as large as the picture has little room: it may then hang over by less than a stride, so that every phase occurs.
        slack = min(0, room - (self.geometry.stride - 1)) if self.border == "reflect" else min(0, room)
        return before + int(random.integers(slack, max(room, 0) + 1))

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same for the same settings, whatever was drawn before."""
        random = np.random.default_rng([self.seed, step])
        chosen = random.choice(len(self.sources), self.batch_size, p=self.shares)
        images, targets = [], []
        for k in chosen:
            for _ in range(100):  # a single patch is drawn again until it is labelled, as the paper's are; a larger crop may be partly void
                sample = self.sources[k].samples[random.choice(len(self.sources[k].samples), p=self.picture_shares[k])]
                row, column = (
                    self._start(random, size, outputs) for size, outputs in zip(sample.target.shape, (self.rows, self.columns), strict=True)
                )
                flip = self.flip and random.random() < 0.5
                image, target = cut(
                    sample, row, column, self.rows, self.columns, self.geometry, flip=flip, valid=self.border == "valid"
                )
                if self.rows * self.columns > 1 or (target != VOID).any():
                    break
            images.append(image)
            targets.append(target)
        return Batch(
            image=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            target=torch.from_numpy(np.stack(targets)),
            task=torch.tensor([self.sources[k].task for k in chosen]),
            domain=torch.tensor([self.sources[k].domain for k in chosen]),
        )


def made_ahead(make: Callable[[int], Batch], first: int, ahead: int = 2) -> Iterator[Batch]:
    """``make(first)``, ``make(first + 1)``, ... without end; a thread makes the next ones while the network learns from this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting = [pool.submit(make, first + i) for i in range(ahead)]
        step = first + ahead
        try:
            while True:
                batch = waiting.pop(0).result()
                waiting.append(pool.submit(make, step))
                step += 1
                yield batch
        finally:
            for future in waiting:
                future.cancel()
