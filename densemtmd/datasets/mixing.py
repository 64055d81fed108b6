"""Batches that mix datasets: which dataset, which picture, which crop, all drawn from the step's own random numbers.

Every step has its own seed, so the batches of a run depend on nothing but the settings and the step: a resumed run needs no random
state, and batches may be made ahead by another thread.

Shapes: ``B`` batch, ``K`` datasets, ``H``, ``W`` pixels, ``h``, ``w`` outputs of the strided network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from densemtmd.datasets.augment import Augment, check_scale
from densemtmd.datasets.crops import cut
from densemtmd.datasets.sample import Batch, Sample
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry, Pair
from densemtmd.losses import equilibrium_weights
from densemtmd.machine import pool
from densemtmd.stopping import left_to_the_parent
from densemtmd.tasks import VOID, nearest


@dataclass(frozen=True)
class Source:
    """The training pictures of one dataset, and who annotates them."""

    name: str                  # the dataset
    task: int                  # position of its labelset in the output space
    domain: int                # position of its domain among the domains trained on
    samples: Sequence[Sample]


class LabelledPixels:
    """The labelled pixels of one dataset, to count and to draw from: each as likely as any other, be they many or few.

    Only their number in each row is kept: a list of them all would be larger than the pictures.

    Args:
        samples: of the dataset.
        border: pixels that a patch needs before and after the one that it is about; others do not count. (0, 0) where they are reflected.
        mirror: of the mirrored pictures.
    """

    def __init__(self, samples: Sequence[Sample], border: Pair, mirror: bool) -> None:
        self.samples, self.border, self.mirror = samples, border, mirror
        counts = [(self._inside(sample) != VOID).sum(1) for sample in samples]
        self.first_row = np.cumsum([0, *map(len, counts)])  # of each picture, among the rows of all
        self.counted = np.cumsum(np.concatenate(counts))    # labelled pixels up to the end of each of these rows

    def __len__(self) -> int:
        return int(self.counted[-1])

    def _inside(self, sample: Sample) -> np.ndarray:
        target = sample.target[:, ::-1] if self.mirror else sample.target
        before, after = self.border
        return target[before : target.shape[0] - after, before : target.shape[1] - after]

    def draw(self, random: np.random.Generator) -> tuple[Sample, int, int]:
        """A picture, and the row and the column of one of its labelled pixels."""
        row = np.searchsorted(self.counted, random.integers(len(self)), side="right")
        n = int(np.searchsorted(self.first_row, row, side="right")) - 1
        row -= self.first_row[n]
        columns = np.flatnonzero(self._inside(self.samples[n])[row] != VOID)
        return self.samples[n], self.border[0] + int(row), self.border[0] + int(columns[random.integers(len(columns))])


class PixelsOfLabels:
    """The pixels of each label of one dataset, to draw from: each label as likely as any other, and then each of its pixels.

    Args:
        samples: of the dataset.
        border: pixels before and after the one that is drawn that must be there, as :class:`LabelledPixels` has it.
    """

    def __init__(self, samples: Sequence[Sample], border: Pair) -> None:
        self.samples, self.border = samples, border
        counts = np.stack([np.bincount(self._inside(sample).ravel(), minlength=VOID + 1)[:VOID] for sample in samples])
        self.labels = np.flatnonzero(counts.any(0))
        self.counted = np.cumsum(counts[:, self.labels], 0)  # of each label, pixels in the pictures up to each

    def _inside(self, sample: Sample) -> np.ndarray:
        before, after = self.border
        return sample.target[before : sample.target.shape[0] - after, before : sample.target.shape[1] - after]

    def draw(self, random: np.random.Generator) -> tuple[Sample, int, int]:
        """A picture, and the row and the column of a pixel of the label that was drawn."""
        n = int(random.integers(len(self.labels)))
        counted = self.counted[:, n]
        sample = self.samples[int(np.searchsorted(counted, random.integers(counted[-1]), side="right"))]
        inside = self._inside(sample)
        there = np.flatnonzero(inside == self.labels[n])
        row, column = divmod(int(there[random.integers(len(there))]), inside.shape[1])
        return sample, self.border[0] + row, self.border[0] + column


def check_samples(name: str, samples: Sequence[Sample], geometry: Geometry, *, flip: bool, border: str) -> None:
    """Refuses training pictures of a dataset from which no crop could be drawn. It is quick: most often it looks at one picture.

    Raises:
        UserError: there are none, one is smaller than a patch where ``border`` is valid, or no pixel is labelled that may be asked for.
    """
    if not samples:
        raise UserError(f"dataset {name!r} has no training picture: nothing can be learned from it")
    smallest = min((min(sample.target.shape), sample.name) for sample in samples)
    if border == "valid" and smallest[0] < geometry.patch:
        raise UserError(
            f"picture {smallest[1]!r} of {name!r} is {smallest[0]} pixels high or wide, smaller than the network's patch of "
            f"{geometry.patch}: use train.border=reflect"
        )
    margin = geometry.border if border == "valid" else (0, 0)
    for mirror in {False, flip}:
        if not any(len(LabelledPixels([sample], margin, mirror)) for sample in samples):
            where = f" whose patch lies inside the {'mirrored ' * mirror}picture" if border == "valid" else ""
            raise UserError(f"dataset {name!r} has no labelled pixel{where} to train on: nothing can be learned from it")


def shares(labelled_pixels: Sequence[int], mixing: str | Mapping[str, float], names: Sequence[str] = ()) -> np.ndarray:
    """The share of each dataset among the sampled crops, (K,), summing to 1.

    Args:
        labelled_pixels: of each dataset.
        mixing: ``"pixels"`` in proportion to them, as the paper samples; ``"uniform"`` the same for each dataset; ``"temperature:T"`` in
            proportion to the T-th root of them, between the two: 1 is pixels, 2 the square root, and a large T is nearly uniform; or
            weights, ``"kundu:2+xu:1"`` or ``{"kundu": 2, "xu": 1}``. These may name other datasets too: a strategy with a network per
            dataset mixes one at a time.
        names: of the datasets.

    Raises:
        UserError: another word, a number that is not above 0, or no weight for a dataset.
    """
    pixels = np.asarray(labelled_pixels, float)
    if mixing == "pixels":
        given = pixels
    elif mixing == "uniform":
        given = np.ones(len(pixels))
    elif isinstance(mixing, str) and mixing.startswith("temperature:"):
        given = (pixels / pixels.sum()) ** (1 / _above_0(mixing, mixing.removeprefix("temperature:")))
    else:
        weights = _weights(mixing)
        if missing := [name for name in names if name not in weights]:
            raise UserError(f"train.mixing gives {missing[0]!r} no weight, expected one for each of {', '.join(names)}")
        given = np.array([weights[name] for name in names])
    return given / given.sum()


def _weights(mixing: str | Mapping[str, float]) -> dict[str, float]:
    """``"kundu:2+xu:1"`` as a mapping."""
    pairs: list[tuple[str, Any]]
    if isinstance(mixing, str):
        pairs = [part.rpartition(":")[::2] for part in mixing.split("+")]
        if not all(name for name, _ in pairs):
            forms = ["pixels", "uniform", "temperature:2", "weights such as kundu:2+xu:1"]
            raise UserError(f"train.mixing is {mixing!r}; {nearest(mixing, forms)}")
        if twice := sorted({name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1}):
            raise UserError(f"train.mixing is {mixing!r}, which gives {twice[0]!r} two weights, expected one")
    elif isinstance(mixing, Mapping):
        pairs = [(str(name), weight) for name, weight in mixing.items()]
    else:
        raise UserError(f"train.mixing is {mixing!r}, expected a word or weights such as kundu:2+xu:1")
    return {name: _above_0(mixing, weight) for name, weight in pairs}


def _above_0(mixing: object, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"train.mixing is {mixing!r}, in which {value!r} is no number above 0: write it as temperature:2 or kundu:2+xu:1")
    return number


class Mixture:
    """Draws batches of crops from several datasets.

    Args:
        sources: the datasets, none of them empty.
        geometry: of the network that will see the crops.
        crop: side of a crop in labelled pixels, of which a strided network answers every stride-th; 0 for whole pictures. Larger pictures
            than the crop give a crop that lies inside; smaller ones are void beyond their border. Of a crop with a single output, as the
            paper's are, the pixel is a labelled one, and all of them are equally likely; a larger crop may be partly void.
        batch: B, crops per batch.
        flip: mirror half of the crops.
        scale, colour, blur: see :class:`densemtmd.datasets.augment.Augment`. Where pictures are scaled, a batch as it is drawn holds more
            of them than the network sees of it as :meth:`augmented`.
        rare: share of the crops that are laid around a pixel that is drawn label by label, so that a rare label is seen as often as any.
        border: ``"reflect"``: any pixel may be asked for; ``"valid"``: only those whose patch lies inside the picture, as the paper's do.
        mixing: see :func:`shares`.
        equilibrium: weight the samples so that every dataset has the same part in the gradient, however much of it is sampled.
        seed: of all batches.

    Raises:
        UserError: a setting out of its range, no labelled pixel in a dataset, or a picture smaller than a patch where ``border`` is valid.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: Geometry,
        *,
        crop: int,
        batch: int,
        flip: bool,
        border: str,
        mixing: str | Mapping[str, float],
        equilibrium: bool = False,
        scale: Sequence[float] = (1.0, 1.0),
        colour: float = 0.0,
        blur: float = 0.0,
        rare: float = 0.0,
        seed: int,
    ) -> None:
        for name, value, lowest in (("train.crop", crop, 0), ("train.batch", batch, 1), ("seed", seed, 0)):
            if value < lowest:
                raise UserError(f"{name} is {value}, expected at least {lowest}")
        least, most = check_scale(scale)
        if (least, most) != (1.0, 1.0) and geometry.stride != 1:
            raise UserError(
                f"train.scale is [{least:g},{most:g}], but this network answers for every {geometry.stride}th pixel of a crop: use "
                "train.scale=[1,1], or a network that answers for all of them (model=fpn, unet, ...)"
            )
        if border not in ("reflect", "valid"):
            raise UserError(f"train.border is {border!r}; {nearest(border, ['reflect', 'valid'])}")
        for source in sources:
            check_samples(source.name, source.samples, geometry, flip=flip, border=border)
        self.sources, self.geometry = sources, geometry
        self.batch_size, self.flip, self.border, self.rare, self.seed = batch, flip, border, rare, seed
        self.margin = geometry.border if border == "valid" else (0, 0)
        self.labelled = {mirror: [LabelledPixels(s.samples, self.margin, mirror) for s in sources] for mirror in {False, flip}}
        wanted = shares([len(pixels) for pixels in self.labelled[False]], mixing, [source.name for source in sources])
        # Datasets are sampled by these shares of the labelled outputs, so these are what equilibrium has to even out.
        self.weights = equilibrium_weights(wanted.tolist()) if equilibrium else torch.ones(len(sources))
        # Within a dataset every pixel is equally likely: pictures in proportion to their area.
        self.counted = [np.cumsum([sample.target.size for sample in source.samples]) for source in sources]
        largest = np.array([sample.target.shape for source in sources for sample in source.samples]).max(0)
        side = largest if crop == 0 else np.minimum(crop, largest)
        if border == "valid":
            side = np.minimum(side, largest - geometry.patch + 1)
        rows, columns = (max(1, math.ceil(int(pixels) / geometry.stride)) for pixels in side)
        self.rows, self.columns = math.ceil(rows / least), math.ceil(columns / least)
        self.augment = Augment((rows, columns), (least, most), colour, blur) if (least, most, colour, blur) != (1, 1, 0, 0) else None
        self.with_label = [PixelsOfLabels(source.samples, self.margin) for source in sources] if rare else []
        # What is shared out are labelled outputs: a dataset that is partly void, or whose pictures are smaller than a crop, needs more
        # crops for the same share.
        per_crop = np.array([self._labelled_outputs(source.samples) for source in sources])
        self.shares = wanted / per_crop / (wanted / per_crop).sum()

    def _labelled_outputs(self, samples: Sequence[Sample]) -> float:
        """How many labelled outputs a crop of a dataset has on average; single patches are always labelled."""
        if self.rows * self.columns == 1:
            return 1.0
        areas = np.array([sample.target.size for sample in samples], float)
        grids = [-(-np.array(sample.target.shape) // self.geometry.stride) for sample in samples]
        inside = np.array([np.minimum([self.rows, self.columns], grid).prod() for grid in grids])
        labelled = np.array([(sample.target != VOID).mean() for sample in samples])
        return float((areas * inside * labelled).sum() / areas.sum())

    def about(self) -> dict[str, dict[str, float]]:
        """Of each dataset its training pictures, its labelled pixels that may be asked for, its share of the crops, and the weight of its
        pixels in the losses, for the record."""
        return {
            source.name: {"pictures": len(source.samples), "labelled_pixels": len(pixels), "share": float(share), "weight": float(weight)}
            for source, pixels, share, weight in zip(self.sources, self.labelled[False], self.shares, self.weights, strict=True)
        }

    def _start(self, random: np.random.Generator, size: int, outputs: int) -> int:
        """The pixel along one side where the grid of a crop starts: at any phase, the border asked for about as often as the middle.

        Starts drawn evenly from those that fit would ask for the outermost pixels hardly ever: few crops reach them. So starts are drawn
        from a range that hangs over by half a crop at both ends, and those that hang over are moved to the end, at any phase.
        """
        before, after = self.margin
        stride = self.geometry.stride
        span = (outputs - 1) * stride + 1
        room = size - before - after - span
        if room < stride - 1:  # a crop about as large as the picture: it may hang over by less than a stride, so that every phase occurs
            return before + int(random.integers(min(0, room - (stride - 1)), max(room, 0) + 1))
        start, phase = int(random.integers(-(span // 2), room + span // 2 + 1)), int(random.integers(stride))
        return before + (phase if start < 0 else room - phase if start > room else start)

    def _crop(self, random: np.random.Generator, source: int) -> tuple[Sample, int, int]:
        """A picture, and the row and the column where the grid of a crop starts."""
        counted = self.counted[source]
        sample = self.sources[source].samples[int(np.searchsorted(counted, random.integers(counted[-1]), side="right"))]
        height, width = sample.target.shape
        return sample, self._start(random, height, self.rows), self._start(random, width, self.columns)

    def _around(self, random: np.random.Generator, source: int, flip: bool) -> tuple[Sample, int, int]:
        """As :meth:`_crop`, around a pixel of a label, each label as likely."""
        sample, row, column = self.with_label[source].draw(random)
        if flip:
            column = sample.target.shape[1] - 1 - column
        starts, stride = [], self.geometry.stride
        for pixel, size, outputs in zip((row, column), sample.target.shape, (self.rows, self.columns), strict=True):
            start, last = pixel - stride * int(random.integers(outputs)), size - self.margin[1] - (outputs - 1) * stride - 1
            starts.append(max(self.margin[0], min(start, last)))
        return sample, starts[0], starts[1]

    def augmented(self, batch: Batch, own: Tensor | None = None) -> Batch:
        """A batch as the network sees it: its pictures at another size, in another light, blurred. Chance changes a whole batch, of which
        the samples at the positions ``own`` are taken afterwards."""
        return batch if self.augment is None else self.augment(batch).some(own)

    def batch(self, step: int, own: Tensor | None = None) -> Batch:
        """The batch of a step: the same for the same settings, whatever was drawn before.

        Args:
            step: of the training.
            own: positions of the samples that are wanted, and cut; None: all. All are cut, too, where :meth:`augmented` changes them.
        """
        random = np.random.default_rng([self.seed, step])
        chosen = random.choice(len(self.sources), self.batch_size, p=self.shares)
        wanted = range(self.batch_size) if own is None or self.augment is not None else own.tolist()
        places = []
        for k in chosen:
            flip = self.flip and random.random() < 0.5
            if self.rare and random.random() < self.rare:
                sample, row, column = self._around(random, k, flip)
            elif self.rows * self.columns == 1:
                sample, row, column = self.labelled[flip][k].draw(random)
            else:
                sample, row, column = self._crop(random, k)
            places.append((sample, row, column, flip))
        images, targets = [], []
        for n in wanted:
            sample, row, column, flip = places[n]
            image, target = cut(sample, row, column, self.rows, self.columns, self.geometry, flip=flip, valid=self.border == "valid")
            images.append(image)
            targets.append(target)
        chosen = chosen[wanted]
        return Batch(
            image=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            target=torch.from_numpy(np.stack(targets)),
            task=torch.tensor([self.sources[k].task for k in chosen]),
            domain=torch.tensor([self.sources[k].domain for k in chosen]),
            weight=self.weights[torch.from_numpy(chosen)],
        )


def made_ahead(make: Callable[[int], Batch], first: int, ahead: int = 2, workers: int = 0) -> Generator[Batch, None, None]:
    """``make(first)``, ``make(first + 1)``, ... without end, in order; the next ones are made while the network learns from this one.

    Args:
        make: makes the batch of a step.
        first: the first step.
        ahead: batches that are made ahead, by each worker.
        workers: processes that make them, for a device that learns faster than one core can cut; 0: a thread of this process. Processes
            are forked (not on Windows) and share a mapped cache. The batches are the same, however many make them.
    """
    if workers:
        batches, steps = _Batches(make), count(first)
        yield from DataLoader(
            batches, None, sampler=steps, num_workers=workers, prefetch_factor=ahead, multiprocessing_context="fork",
            worker_init_fn=_begin_worker,
        )  # fmt: skip
    with pool(1, thread_name_prefix="batches") as worker:
        waiting = [worker.submit(make, first + i) for i in range(ahead)]
        step = first + ahead
        try:
            while True:
                batch = waiting.pop(0).result()
                waiting.append(worker.submit(make, step))
                step += 1
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def _begin_worker(worker: int) -> None:
    """It ends when the training ends it."""
    left_to_the_parent()


class _Batches(Dataset[Batch]):
    """The batches of all steps, as torch's workers ask for them."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)
