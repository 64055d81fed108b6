"""How sure ``tools/correlate.py`` may be of what it reads off a network: measured on made-up annotators of real pictures.

Two annotators share a dataset's pictures out among themselves. Each has labels of their own, which are the dataset's, merged at random and
some of them left out, and draws as carefully as it may be: small things forgotten, borders moved, things left void or taken for what lies
around them. So it is known what every pixel is to both of them, though a network is shown each picture by one of them alone. What
:mod:`densemtmd.correlation` weighs is then found by logistic regression, the datasets counting alike, and what it tells is scored on each
dataset by weights that were found without it.

Shapes: ``H``, ``W`` pixels, ``L`` labels, ``C`` channels of an output space, ``h``, ``w`` cells of a trunk's grid, ``P`` pairs of labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densemtmd.bench.networks import choice
from densemtmd.bench.told import Told
from densemtmd.bench.training import open_datasets
from densemtmd.errors import UserError
from densemtmd.progress import Progress
from densemtmd.tasks import VOID, Labelset, OutputSpace

if TYPE_CHECKING:
    from densemtmd.correlation import Correspondence, Evidence
    from densemtmd.datasets.maps import Maps
    from densemtmd.datasets.sample import Sample
    from densemtmd.network import JointNetwork

SMALLER = {"scales": [1.0], "grid": 8}
"""What of ``model=frozen`` is chosen for speed."""

STEPS = (100, 500)
"""Of training: a network that has hardly learned, and one that has."""

BOTH = 6
"""Of so many pictures one is nobody's to learn from: there both are asked what they see."""

LEFT = 254
"""In a drawn picture: a thing that somebody has a label for and has left void. What it is to them is not known."""

CELLS = 8000
"""Of each annotator's pictures, so many cells are kept."""

PLAUSIBLE = 0.2
"""Pairs of labels of which neither the share nor the matrix has more are no correspondence to anybody, and teach nothing."""


@dataclass(frozen=True)
class Hand:
    """How somebody draws."""

    moved: float = 0.0   # pixels that a border lies off: the standard deviation
    small: int = 0       # pixels of a thing below which it is mostly forgotten
    wrong: float = 0.0   # the share of the things that are taken for what lies around them
    left: float = 0.0    # the share of the things that are left void


EXACT, CAREFUL, CARELESS = Hand(), Hand(1.5, 60, 0.03, 0.03), Hand(3, 200, 0.08, 0.06)

PAIRS = ((EXACT, EXACT), (CAREFUL, CAREFUL), (CARELESS, CAREFUL), (CAREFUL, CARELESS))
"""Who draws what two annotators have labels for, in turns."""


@dataclass(frozen=True)
class Seen:
    """What a network shows of two annotators, and what is true of them."""

    dataset: str
    evidence: Evidence
    share: np.ndarray  # (C, C), see densemtmd.correlation.shares
    truth: np.ndarray  # (C, C), the true ones


def measure_correspondences(arguments: argparse.Namespace) -> Told:
    """How right densemtmd correlate is, and how sure, on made-up annotators of real pictures; and the weights behind its confidences.

    On each dataset by weights that were found on the others; on those of --held by those of all datasets.
    """
    from densemtmd import correlation

    names = [*arguments.datasets, *arguments.held]
    if arguments.annotators < 1 or arguments.pictures < 2 * BOTH or len(set(names)) < len(names) or len(arguments.datasets) < 2:
        raise UserError(
            f"--annotators is {arguments.annotators}, --pictures {arguments.pictures} and the datasets are {', '.join(names)}, expected at "
            f"least 1, at least {2 * BOTH}, and at least two datasets to learn from, each named once"
        )
    cases: list[Seen] = []
    with Progress("annotators", len(names) * arguments.annotators, "pairs") as progress:
        for name in names:
            progress.part = name
            for case in of_dataset(arguments, name):
                cases += case
                progress.tick()
    rows = [["", "weights of", "true", "found", "right", "precision", "recall"]]
    told: dict[str, Any] = {}
    found: list[Correspondence] = []
    true: list[Correspondence] = []
    for name in names:
        others = [other for other in arguments.datasets if other != name]
        weights, own = fitted(cases, others), [case for case in cases if case.dataset == name]
        told[name], judged, truth = scored(own, weights)
        told[name] |= {"weights": weights, "of": others}
        found, true = found + judged, true + truth
        rows.append([name, ", ".join(others), *row_of(told[name])])
    pooled = correlation.score(found, true)
    rows.append(["all", "the others", *row_of(pooled)])
    weights = fitted(cases, arguments.datasets)
    in_use, _, _ = scored(cases, correlation.WEIGHTS)
    rows.append(["all", "the code", *row_of(in_use)])
    reliability = [["stated", "found", "mean", "right"]] + [
        [f"{one['from']:.2f} to {one['to']:.2f}", str(one["found"]), f"{one['confidence']:.2f}", f"{one['right']:.2f}"]
        for one in pooled["reliability"]
    ]
    coded, fresh = (", ".join(f"{one:.2f}" for one in some) for some in (correlation.WEIGHTS, weights))
    text = [
        rows,
        "How often a stated confidence is right, each dataset by weights of the others:",
        reliability,
        f"Weights (of 1, and of the logits of the share, of the matrix and of how well the label is recognised) of "
        f"{', '.join(arguments.datasets)}: {fresh}; those in the code: {coded}. {arguments.annotators} pairs of annotators of each "
        f"dataset and up to {arguments.pictures} of its pictures, after {' and '.join(map(str, STEPS))} steps.",
    ]
    values = {"datasets": told, "all": pooled, "in_use": in_use, "weights": weights}
    return Told(f"correspondences of made-up annotators, a part being {correlation.MOSTLY:.0%} of a label", values, text)


def row_of(score: Mapping[str, Any]) -> list[str]:
    shown = ["–" if score[key] is None else f"{score[key]:.2f}" for key in ("precision", "recall")]
    return [str(score["true"]), str(score["found"]), str(score["right"]), *shown]


# ------------------------------------------------------------------------------------------------------------------------------------
# Annotators


def merged(labels: int, groups: int, left_out: int, random: np.random.Generator) -> np.ndarray:
    """What somebody calls each of L labels: (256,) uint8 ids of ``groups`` labels of their own, each of which is some of them; VOID for
    ``left_out`` of them, and where nothing is labelled."""
    table = np.full(256, VOID, np.uint8)
    kept = random.permutation(labels)[left_out:]
    groups = min(groups, len(kept))
    table[kept] = np.concatenate([np.arange(groups), random.integers(groups, size=len(kept) - groups)])
    return table


def drawn(target: np.ndarray, hand: Hand, random: np.random.Generator) -> np.ndarray:
    """A picture's labels, (H, W) uint8, as somebody draws them; :data:`LEFT` where they forgot to."""
    from scipy import ndimage

    if hand == EXACT:
        return target
    target = target.copy()
    hole = np.zeros(target.shape, bool)
    for label in np.unique(target[target != VOID]):
        things, count = ndimage.label(target == label)
        size, chance = np.bincount(things.ravel(), minlength=count + 1), random.random((3, count + 1))
        gone = (size < hand.small) & (chance[0] < 0.8) | (chance[1] < hand.wrong)
        void = chance[2] < hand.left
        gone[0] = void[0] = False  # what is no thing of this label
        hole |= gone[things]
        target[void[things]] = LEFT
    if hole.any() and not hole.all():
        nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
        target = target[tuple(nearest)]
    rows, columns = np.indices(target.shape)
    places = []
    for at, size in zip((rows, columns), target.shape, strict=True):
        off = random.normal(0, hand.moved, [side // 16 + 2 for side in target.shape])
        smooth = ndimage.zoom(off, 16, order=1)[: target.shape[0], : target.shape[1]]
        places.append(np.clip(at + np.rint(smooth).astype(int), 0, size - 1))
    return target[tuple(places)]


def overlap(pairs: Sequence[tuple[np.ndarray, np.ndarray]], space: OutputSpace) -> np.ndarray:
    """(C, C): which share of the pixels of each of two annotators' labels has each label of the other, of pictures that both have drawn.
    Those that the other has no label for lie in none, and those that either left void are not counted; NaN where a label has no pixel, and
    between labels of one annotator."""
    size, both = space.channels, np.zeros((256, 256))
    for a, b in pairs:
        known = (a != LEFT) & (b != LEFT)
        value = a[known].astype(np.int64) * 256 + b[known]
        both += np.bincount(value, minlength=256 * 256).reshape(256, 256)
    one, other = (space.slice(name) for name in space.names)
    count = [one.stop - one.start, other.stop - other.start]
    found = np.full((size, size), np.nan)
    with np.errstate(invalid="ignore"):
        found[one, other] = both[: count[0], : count[1]] / both[: count[0]].sum(1, keepdims=True)
        found[other, one] = (both[: count[0], : count[1]] / both[:, : count[1]].sum(0)).T
    return found


# ------------------------------------------------------------------------------------------------------------------------------------
# What a network shows of them


def of_dataset(arguments: argparse.Namespace, name: str) -> Iterator[list[Seen]]:
    """What networks show of each pair of annotators of a dataset's pictures."""
    from densemtmd import backbones, checkpoint, correlation
    from densemtmd.datasets.cache import cache_folder, load_all
    from densemtmd.datasets.folder import spread
    from densemtmd.datasets.maps import KeptMaps

    (dataset,) = open_datasets([name], arguments.data_root)
    labelset = dataset.task
    if not isinstance(labelset, Labelset):
        raise UserError(f"dataset {name!r} has no labels of pixels, expected one that can be segmented")
    device, model = checkpoint.device_of(arguments.device), choice("model", "frozen") | SMALLER
    cache = cache_folder(arguments.cache, Path(arguments.data_root).expanduser())
    decoded = load_all(dataset, cache)
    samples = spread([sample for split in decoded.splits.values() for sample in split], arguments.pictures)
    if len(samples) < 2 * BOTH:
        raise UserError(f"dataset {name!r} has {len(samples)} pictures, expected at least {2 * BOTH}")
    trunk = backbones.build(model, OutputSpace([labelset]), pretrained=True).to(device)
    maps = KeptMaps(dataset, cache).of(trunk, samples)
    count = labelset.channels
    for number in range(arguments.annotators):
        random = np.random.default_rng([number, *dataset.name.encode()])
        hands = PAIRS[number % len(PAIRS)]
        whole = np.full(256, VOID, np.uint8)
        whole[:count] = np.arange(count)
        # The labels as they are and coarser ones, and two who agree on little.
        finer = whole if number % 4 < 2 else merged(count, max(2, 3 * count // 4), min(1, count - 2), random)
        tables = [finer, merged(count, count // 2 + 1, min(number % 2, count - 2), random)]
        labels = [[f"label {n}" for n in range(1 + table[table != VOID].max())] for table in tables]
        space = OutputSpace([Labelset(f"{dataset.name} {number}{who}", own) for who, own in zip("ab", labels, strict=True)])
        seen = [[drawn(table[sample.target], hand, random) for sample in samples] for table, hand in zip(tables, hands, strict=True)]
        order = random.permutation(len(samples))
        of_both, rest = order[: len(order) // BOTH], order[len(order) // BOTH :]
        own = [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
        given = [[np.where(target == LEFT, VOID, target).astype(np.uint8) for target in targets] for targets in seen]
        annotated = [[(maps[n], replace(samples[n], target=given[who][n])) for n in own[who]] for who in range(2)]
        found = []
        for steps in STEPS:
            network = backbones.build(model, space, pretrained=True).to(device)
            learn(network, annotated, steps, number)
            for pictures, true in ((own, rest), ([of_both, of_both], of_both)):
                evidence = shown(network, space, [[(maps[n], given[who][n]) for n in pictures[who]] for who in range(2)])
                truth = overlap([(seen[0][n], seen[1][n]) for n in true], space)
                found.append(Seen(name, evidence, correlation.shares(evidence), truth))
        yield found


def learn(network: JointNetwork, annotated: Sequence[Sequence[tuple[Maps, Sample]]], steps: int, seed: int) -> None:
    """Trains a head on a frozen trunk's maps of pictures by two annotators, by the recipe of ``protocol=frozen``, both alike."""
    from densemtmd.datasets.cells import CellMixture
    from densemtmd.datasets.mixing import Source
    from densemtmd.settings import TrainSettings
    from densemtmd.training import learning_rate, make_optimizer, train_step
    from densemtmd.training import seed as seeded

    settings = TrainSettings(**choice("protocol", "frozen")["train"])
    device = next(network.parameters()).device
    tasks = network.space.tasks
    sources = [Source(task.name, k, 0, [sample for _, sample in own]) for k, (task, own) in enumerate(zip(tasks, annotated, strict=True))]
    assert network.trunk is not None
    mixture = CellMixture(
        sources, [[maps for maps, _ in own] for own in annotated], network.trunk.grid, labels=[task.channels for task in tasks],
        most_labels=max(task.channels for task in tasks), batch=settings.batch, rare=settings.rare, mixing="uniform", seed=seed,
    )  # fmt: skip
    network.standardise(mixture.some_maps())
    optimizer = make_optimizer(network.train(), settings)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step / steps)
        seeded(seed * 1_000_003 + step, device)
        train_step(network, optimizer, mixture.batch(step).to(device), settings.precision)
    network.eval()


def shown(network: JointNetwork, space: OutputSpace, pictures: Sequence[Sequence[tuple[Maps, np.ndarray]]]) -> Evidence:
    """What a network predicts for the cells of two annotators' pictures, and what they say is at their middles."""
    import torch

    from densemtmd import correlation
    from densemtmd.losses import dataset_softmax

    trunk, device = network.trunk, next(network.parameters()).device
    assert trunk is not None
    middle = slice(trunk.grid // 2, None, trunk.grid)

    def of(who: int) -> Iterator[tuple[Any, Any]]:
        labels = space.tasks[who].channels
        for maps, target in pictures[who]:
            there = torch.from_numpy(target[middle, middle].astype(np.int64)).to(device)
            with torch.inference_mode():
                answer = dataset_softmax(network(maps.strip(slice(0, maps.grid[0]), device)), space)[0]
            answer = answer[:, : there.shape[0], : there.shape[1]]  # a cell at the edge may have no middle
            yield answer.flatten(1).T, torch.where(there == VOID, labels, there).flatten()

    return correlation.gathered(space, {name: (of(who), len(pictures[who])) for who, name in enumerate(space.names)}, CELLS)


# ------------------------------------------------------------------------------------------------------------------------------------
# Weights


def fitted(cases: Sequence[Seen], names: Sequence[str]) -> list[float]:
    """The weights of 1 and of :func:`densemtmd.correlation.signs` that make what is true of some datasets' annotators most probable."""
    from densemtmd import correlation

    signs, true, weight = [], [], []
    for name in names:
        own = [case for case in cases if case.dataset == name]
        parts = []
        for case in own:
            there = ~np.isnan(case.truth) & ~np.isnan(case.share) & (np.fmax(case.share, case.evidence.matrix) > PLAUSIBLE)
            parts.append((correlation.signs(case.evidence, case.share)[:, there].T, case.truth[there] >= correlation.MOSTLY))
        signs += [sign for sign, _ in parts]
        true += [whether for _, whether in parts]
        number = sum(len(whether) for _, whether in parts)
        weight += [np.full(len(whether), 1 / number) for _, whether in parts]
    return logistic(np.concatenate(signs), np.concatenate(true), np.concatenate(weight))


def logistic(signs: np.ndarray, true: np.ndarray, weight: np.ndarray) -> list[float]:
    """Logistic regression by maximum likelihood: the weights of 1 and of the signs.

    Args:
        signs: (P, F).
        true: (P,) whether.
        weight: (P,) of each.
    """
    from scipy.optimize import minimize

    given = np.column_stack([np.ones(len(signs)), signs])
    sign = np.where(true, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (given @ weights)
        return float(weight @ np.logaddexp(0, -margin)), -(weight * sign / (1 + np.exp(margin))) @ given

    return [float(one) for one in minimize(loss, np.zeros(given.shape[1]), jac=True, method="BFGS").x]


def scored(cases: Sequence[Seen], weights: Sequence[float]) -> tuple[dict[str, Any], list[Correspondence], list[Correspondence]]:
    """How right what is told by some weights is; what is told; and what is true."""
    from densemtmd import correlation

    found: list[Correspondence] = []
    truth: list[Correspondence] = []
    by_truth = partial(correlation.true_relation, whole=correlation.MOSTLY)
    for number, case in enumerate(cases):
        space = case.evidence.space
        told = correlation.correspondences(correlation.likely(case.evidence, case.share, weights), space)
        for some, into in ((told, found), (correlation.correspondences(case.truth, space, by_truth), truth)):
            into += [replace(one, a=(f"{number} {one.a[0]}", one.a[1])) for one in some]  # each case for itself
    return correlation.score(found, truth), found, truth
