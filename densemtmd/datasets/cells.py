"""Batches of cells: what a frozen trunk gave of random places of all pictures, for a network that takes these maps in a picture's place.

Every step has its own seed, as in :mod:`densemtmd.datasets.mixing`. A cell is the trunk's M numbers for ``grid``×``grid`` pixels, and is
asked for the shares of its labels among these: what is void, or beyond the picture, is missing from them.

Shapes: ``B`` batch, ``K`` datasets, ``L`` labels of the largest labelset, ``M`` channels of the maps, ``h``, ``w`` cells of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from densemtmd.datasets.maps import Maps, cells_of
from densemtmd.datasets.mixing import Source, shares
from densemtmd.datasets.sample import Batch
from densemtmd.errors import UserError
from densemtmd.losses import equilibrium_weights
from densemtmd.tasks import VOID

FIT_CELLS, FIT_PART = 20_000, 2_000
"""From so many cells a network takes what it must know of its trunk's maps, so many at a time."""


@dataclass(frozen=True)
class Cells:
    """Where one dataset's labelled cells are. Cells are numbered through all of its pictures, row by row."""

    first: np.ndarray                      # (pictures + 1,) the number of each picture's first cell
    labelled: np.ndarray                   # the numbers of the cells in which a pixel is labelled
    with_label: tuple[np.ndarray, ...]     # of each label that occurs, the numbers of the cells in which it does
    pixels: int                            # labelled ones

    @classmethod
    def of(cls, targets: Sequence[np.ndarray], grid: int, labels: int) -> Cells:
        """Finds them.

        Args:
            targets: (H, W) uint8 class ids of each picture.
            grid: pixels along a cell.
            labels: of the labelset.
        """
        first, labelled, pixels = [0], [], 0
        with_label: list[list[np.ndarray]] = [[] for _ in range(labels)]
        for target in targets:
            height, width = (-(-size // grid) for size in target.shape)
            cell = (np.arange(target.shape[0]) // grid * width)[:, None] + np.arange(target.shape[1]) // grid
            counts = np.zeros((height * width, 256), bool)
            counts[cell.ravel(), target.ravel()] = True
            own = counts[:, :labels]
            labelled.append(np.flatnonzero(own.any(1)) + first[-1])
            for label in np.flatnonzero(own.any(0)):
                with_label[label].append(np.flatnonzero(own[:, label]) + first[-1])
            pixels += int((target != VOID).sum())
            first.append(first[-1] + height * width)
        kind = np.uint32 if first[-1] < 2**32 else np.int64

        def together(parts: Sequence[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts).astype(kind) if parts else np.zeros(0, kind)

        return cls(np.array(first), together(labelled), tuple(together(parts) for parts in with_label if parts), pixels)

    def draw(self, place: np.ndarray, rare: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Numbers of cells.

        Args:
            place: (N,) random numbers in [0, 1), which decide.
            rare: (N,) whether to choose a label first, each as likely, and then one of its cells; else all labelled cells are as likely.
            label: (N,) random numbers in [0, 1), which decide the label.
        """
        found = self.labelled[(place * len(self.labelled)).astype(np.int64)].astype(np.int64)
        for n in np.flatnonzero(rare):
            own = self.with_label[int(label[n] * len(self.with_label))]
            found[n] = own[int(place[n] * len(own))]
        return found


class CellMixture:
    """Draws batches of cells from several datasets.

    Args:
        sources: the datasets.
        maps: of each dataset those of its samples, in their order.
        grid: pixels along a cell.
        labels: of each dataset the number of labels of its labelset.
        most_labels: L.
        batch: B, cells per batch.
        rare: share of the cells that are drawn label by label, so that a rare label is seen as often as any.
        mixing: see :func:`densemtmd.datasets.mixing.shares`.
        equilibrium: weight the samples so that every dataset has the same part in the gradient.
        seed: of all batches.

    Raises:
        UserError: no labelled pixel in a dataset.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        maps: Sequence[Sequence[Maps]],
        grid: int,
        *,
        labels: Sequence[int],
        most_labels: int,
        batch: int,
        rare: float = 0.0,
        mixing: str | Mapping[str, float],
        equilibrium: bool = False,
        seed: int,
    ) -> None:
        self.sources, self.maps, self.grid, self.most_labels = sources, maps, grid, most_labels
        self.batch_size, self.rare, self.seed = batch, rare, seed
        self.cells = [
            Cells.of([sample.target for sample in source.samples], grid, count) for source, count in zip(sources, labels, strict=True)
        ]
        for source, cells in zip(sources, self.cells, strict=True):
            if not len(cells.labelled):
                raise UserError(f"dataset {source.name!r} has no labelled pixel to train on: nothing can be learned from it")
        wanted = shares([cells.pixels for cells in self.cells], mixing, [source.name for source in sources])
        self.weights = equilibrium_weights(wanted.tolist()) if equilibrium else torch.ones(len(sources))
        # What is shared out are labelled pixels: a dataset whose cells are partly void needs more of them for the same share.
        per_cell = np.array([cells.pixels / len(cells.labelled) for cells in self.cells])
        self.shares = wanted / per_cell / (wanted / per_cell).sum()

    def about(self) -> dict[str, dict[str, float]]:
        """Of each dataset its training pictures, labelled pixels and cells, its share of the cells drawn, and its weight in the losses."""
        return {
            source.name: {
                "pictures": len(source.samples), "labelled_pixels": cells.pixels, "labelled_cells": len(cells.labelled),
                "share": float(share), "weight": float(weight),
            }
            for source, cells, share, weight in zip(self.sources, self.cells, self.shares, self.weights, strict=True)
        }  # fmt: skip

    def batch(self, step: int, own: Tensor | None = None) -> Batch:
        """The batch of a step: the same for the same settings, whatever was drawn before; or of it the samples at the positions ``own``."""
        image, target, chosen = self._drawn(np.random.default_rng([self.seed, step]), self.batch_size, self.rare, own)
        return Batch(
            image=image[..., None, None],
            target=torch.from_numpy(target)[..., None, None],
            task=torch.tensor([source.task for source in self.sources])[chosen],
            domain=torch.tensor([source.domain for source in self.sources])[chosen],
            weight=self.weights[chosen],
        )

    def augmented(self, batch: Batch, own: Tensor | None = None) -> Batch:
        """As it is: a trunk's maps are of pictures as they are."""
        return batch

    def some_maps(self) -> Iterator[Tensor]:
        """(N, M, 1, 1) of some of the cells, drawn as those of the batches are, rare labels no more than others; always the same."""
        random = np.random.default_rng(self.seed)
        for _ in range(FIT_CELLS // FIT_PART):
            yield self._drawn(random, FIT_PART, 0.0)[0][..., None, None]

    def _drawn(
        self, random: np.random.Generator, number: int, rare: float, wanted: Tensor | None = None
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Some cells: (N, M) float32, the shares of their labels (N, L) float32, and which dataset each is of, (N,); or of them those at
        some positions."""
        chosen = random.choice(len(self.sources), number, p=self.shares)
        place, first, label = random.random((3, number))
        if wanted is not None:
            chosen, place, first, label = (drawn[wanted.numpy()] for drawn in (chosen, place, first, label))
            number = len(chosen)
        maps: list[Maps] = number * [self.maps[0][0]]
        rows, columns = np.empty((2, number), np.int64)
        pixels = np.full((number, self.grid, self.grid), VOID, np.uint8)
        for k, cells in enumerate(self.cells):
            own = np.flatnonzero(chosen == k)
            drawn = cells.draw(place[own], first[own] < rare, label[own])
            pictures = np.searchsorted(cells.first, drawn, side="right") - 1
            for n, picture, cell in zip(own, pictures, drawn - cells.first[pictures], strict=True):
                maps[n], labels = self.maps[k][picture], self.sources[k].samples[picture].target
                rows[n], columns[n] = row, column = divmod(int(cell), maps[n].grid[1])
                there = labels[row * self.grid : (row + 1) * self.grid, column * self.grid : (column + 1) * self.grid]
                pixels[n, : there.shape[0], : there.shape[1]] = there
        value = np.arange(number)[:, None] * 256 + pixels.reshape(number, -1)
        counts = np.bincount(value.ravel(), minlength=number * 256).reshape(number, 256)[:, : self.most_labels]
        return cells_of(maps, rows, columns), (counts / self.grid**2).astype(np.float32), chosen
