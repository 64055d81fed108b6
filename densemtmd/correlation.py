"""Which labels of different labelsets mean the same: the label correlation matrix (section 4.5, Figure 6) and what can be read off it.

**The matrix** (C, C): a row per target label, over the pixels that its own annotator labelled so; in it the average of the network's
predictions (the dataset-wise softmax) over all labels of all labelsets.

**The correspondences.** A row of the matrix mixes two things: what the label means to another annotator, and what the network confuses it
with. A pole that the network takes for a pole in one pixel of ten has its largest average at *building* and *sky*, whatever it means. Two
corrections take the confusion out:

1. From what the network sees to what it means. In the pictures that B annotated, let p(a|x) be the network's prediction for A's label a at
   pixel x, and y(x) what B says there. If a pixel of a is called b with probability T[a, b], then y is called P(y|x) = Σ_a p(a|x) T[a, y]
   there. The T that makes B's labels the most probable is found by expectation maximisation (the likelihood has one maximum).
   Each label is explained by the pixels in which it is *seen*, so that what the network is not sure of weighs little. What B leaves
   unlabelled counts as one more label: a label of A that lies there is one on which B says nothing.
2. Both ways. T[a, b]·f(a), with f the share of pixels that the network gives to a, estimates how many pixels are a and b; so does
   T[b, a]·f(b), from other pictures and another annotator's labels. A true correspondence must be seen in both: their geometric mean,
   normalised over b, is the *share* of a that lies in b.

How sure is it? The share is what is left when all that the network is not sure of is taken for its confusion. But two people do not
draw alike either, and from the pictures the two cannot be told apart: of vegetation that the share puts wholly into another's, a fifth
may lie elsewhere. The plain average of the matrix counts all of it as disagreement. The truth is mostly between the two, and nearer to
the share where the network does not recognise a among its own annotator's labels either. So from these three numbers comes the
probability that at least 85 % of a's pixels lie in b (:data:`WEIGHTS`, :func:`likely`); both ways, the probability of each relation;
and the most probable one is told if it is more probable than not. Where none is, the pictures do not tell.

Shapes: ``C`` channels of the output space, ``K`` labelsets, ``L`` labels of one labelset, ``N`` pixels, ``h``, ``w`` outputs of the strided
network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densemtmd.datasets.sample import Sample
from densemtmd.inference import strided_probabilities
from densemtmd.network import JointNetwork
from densemtmd.tasks import VOID, OutputSpace
from densemtmd.truth import Truth

RELATIONS = ("same", "part_of", "contains", "none")

WHOLE, MOSTLY = 0.9, 0.85
"""The share of a label's pixels that must lie in another for it to be part of it; and another such rule, less strict: people draw borders
as they like, and what is in truth a part may have less of its pixels there."""

STATED = (0.0, 0.5, 0.75, 0.85, 0.95, 1.0)
"""Between these a reliability table groups confidences."""

WEIGHTS = (-1.81, 0.96, 0.25, -0.1)
"""Of 1, and of the logits of the share, of the matrix and of how well the network recognises the label among its own annotator's: the logit
of the probability that at least :data:`MOSTLY` of its pixels lie in the other.

A logistic regression over made-up annotators of real pictures, of whom each sees others: of CMP, LabelMeFacade and Stanford Background, all
three counting alike. ``tools/bench.py correspondences`` finds it (results/bench/correspondences.md). CamVid took no part in it."""

SPREAD = 0.02
"""Logits are of shares from this to 1 less this: more is nothing that so few pixels tell."""

SURE, DOUBTFUL = 0.5, 0.75
"""A relation is told that is more probable than this; that there is none is doubtful where it is less probable than that."""

SILENT = 0.5
"""An annotator who leaves more than this share of a label's pixels unlabelled has no label for it. Below it, it is how they draw: borders
left out, corners forgotten."""

DOUBT = 0.003
"""No estimate is so sure that it could rule a correspondence out alone: to each this share of the rarer label's pixels is added."""

ITERATIONS = 100
"""Of the expectation maximisation."""

PIXELS = 30_000
"""Of each labelset's pictures, so many pixels are kept for it, spread over all pictures."""


@dataclass(frozen=True)
class Evidence:
    """What the network predicts for pixels of which an annotator has said what they are.

    Args:
        space: who owns which channels.
        sums: (C, C) float64, row: over the pixels labelled so, the sum of the predictions.
        counts: (C,) int64, how many pixels are labelled so.
        pixels: labelset -> some of its pictures' pixels: their predictions (N, C) float32 and labels (N,), L where unlabelled.
    """

    space: OutputSpace
    sums: np.ndarray
    counts: np.ndarray
    pixels: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def matrix(self) -> np.ndarray:
        """The label correlation matrix of Figure 6, (C, C) in [0, 1]; NaN in the rows of labels that never occur.

        Each row sums to 1 over the labels of each labelset.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums / self.counts[:, None]


def observe(
    networks: Sequence[JointNetwork],
    pictures: Mapping[str, Sequence[Callable[[], Sample]]],
    device: torch.device,
    tick: Callable[[], object] = lambda: None,
    keep: int = PIXELS,
) -> Evidence:
    """Runs the networks over labelled pictures, at every stride-th pixel of every stride-th row.

    Args:
        networks: one for all labelsets, or one for each, on ``device`` and in eval mode.
        pictures: labelset -> the pictures that it annotates, each read when its turn comes.
        device: where the networks are.
        tick: called after each picture.
        keep: of the pixels of each labelset's pictures, keep about so many.

    Returns:
        The sums and a sample of the pixels; the same for the same pictures.
    """
    space = OutputSpace([task for network in networks for task in network.space.tasks])

    def seen(name: str) -> Iterator[tuple[Tensor, Tensor]]:
        labels = space[name].channels
        for read in pictures[name]:
            sample = read()
            with torch.inference_mode():
                grid, stride = strided_probabilities(networks, sample.image, device)
            target = torch.from_numpy(sample.target[::stride, ::stride].copy()).to(device).flatten().long()
            yield grid.flatten(1).T, torch.where(target == VOID, labels, target)
            tick()

    return gathered(space, {name: (seen(name), len(readers)) for name, readers in pictures.items()}, keep)


def gathered(space: OutputSpace, seen: Mapping[str, tuple[Iterable[tuple[Tensor, Tensor]], int]], keep: int = PIXELS) -> Evidence:
    """The evidence of pictures whose pixels a network has answered.

    Args:
        space: of the network.
        seen: labelset -> of each picture that it annotates the predictions (N, C), and the labels (N,), L where unlabelled; and how many
            pictures there are.
        keep: see :func:`observe`.
    """
    sums, counts = torch.zeros(space.channels, space.channels, dtype=torch.float64), torch.zeros(space.channels, dtype=torch.int64)
    pixels = {}
    for name, (pictures, number) in seen.items():
        own, labels = space.slice(name), space[name].channels
        kept = []
        for n, (predicted, target) in enumerate(pictures):
            one_hot = F.one_hot(target, labels + 1)[:, :labels]
            sums[own] += (one_hot.to(predicted.dtype).T @ predicted).double().cpu()
            counts[own] += one_hot.sum(0).cpu()
            # Pixels drawn at random, not every n-th, which would be always the same columns.
            drawn = torch.randperm(len(target), generator=torch.Generator().manual_seed(n))[: -(-keep // number)].to(target.device)
            kept.append((predicted[drawn].float(), target[drawn]))
        if kept:
            pixels[name] = (torch.cat([one for one, _ in kept]).clone(), torch.cat([target for _, target in kept]).clone())
    return Evidence(space, sums.numpy(), counts.numpy(), pixels)


def meaning(seen: Tensor, target: Tensor, labels: int, iterations: int = ITERATIONS) -> Tensor:
    """What one annotator calls what the network sees as another's labels: the T of this module's first step.

    Args:
        seen: (N, A) predictions for the A labels of one labelset, each pixel's sum to 1.
        target: (N,) what the other annotator says of these pixels, 0..labels−1.
        labels: how many labels the other annotator has.
        iterations: steps of the expectation maximisation.

    Returns:
        (A, labels): each row sums to 1.
    """
    said = F.one_hot(target, labels).to(seen.dtype)
    table = seen.T @ said
    table /= table.sum(1, keepdim=True).clamp(min=1e-12)
    for _ in range(iterations):
        likelihood = (seen @ table).gather(1, target[:, None]).clamp(min=1e-9)
        table *= seen.T @ (said / likelihood)
        table /= table.sum(1, keepdim=True).clamp(min=1e-12)
    return table


def shares(evidence: Evidence) -> np.ndarray:
    """How much of each label lies in each label of the other labelsets, as the evidence has it, without any truth.

    Returns:
        (C, C) in [0, 1]; the rows of a labelset sum to at most 1 over the labels of another. NaN between labels of one labelset, and with
        labels that never occur.
    """
    space = evidence.space
    names = [name for name in space.names if name in evidence.pixels]
    count = space.channels
    one_way, silent = np.zeros((count, count)), np.zeros((count, count))
    frequency = _frequency(evidence)
    for b in names:
        seen, target = evidence.pixels[b]
        labels = space[b].channels
        for a in names:
            if a == b:
                continue
            with torch.inference_mode():
                table = meaning(seen[:, space.slice(a)], target, labels + 1).double().cpu().numpy()
            told = table[:, :labels].sum(1, keepdims=True)
            one_way[space.slice(a), space.slice(b)] = table[:, :labels] / np.maximum(told, 1e-12)
            silent[space.slice(a), space.slice(b)] = 1 - told
    pixels = one_way * frequency[:, None]
    doubt = DOUBT * np.minimum(frequency[:, None], frequency[None])
    both = np.sqrt((pixels + doubt) * (pixels.T + doubt))
    absent = evidence.counts == 0
    both[absent] = both[:, absent] = 0
    found = np.full((count, count), np.nan)
    for b in names:
        own = both[:, space.slice(b)]
        found[:, space.slice(b)] = own / np.maximum(own.sum(1, keepdims=True), 1e-12)
    found = np.where(silent > SILENT, found * (1 - silent), found)
    owner = space.tables(torch.device("cpu")).owner.numpy()
    found[owner[:, None] == owner[None]] = np.nan
    found[absent] = found[:, absent] = np.nan
    return found


def likely(evidence: Evidence, share: np.ndarray, weights: Sequence[float] = WEIGHTS) -> np.ndarray:
    """How probable it is that at least :data:`MOSTLY` of a label's pixels lie in another: (C, C) in (0, 1), NaN where the share is.

    Args:
        evidence: what the network predicts.
        share: of :func:`shares`.
        weights: of 1 and of the :func:`signs`.
    """
    found: np.ndarray = weights[0] + np.tensordot(weights[1:], signs(evidence, share), 1)
    return 1 / (1 + np.exp(-found))


def signs(evidence: Evidence, share: np.ndarray) -> np.ndarray:
    """What :func:`likely` weighs, (3, C, C): the logits of the share, of the matrix, and of how well the network recognises the label
    among its own annotator's."""
    plain = evidence.matrix
    return np.stack([_logit(value) for value in (share, plain, np.broadcast_to(np.diag(plain)[:, None], plain.shape))])


def _logit(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, SPREAD, 1 - SPREAD)
    return np.log(share / (1 - share))


def _frequency(evidence: Evidence) -> np.ndarray:
    """(C,) the share of the pixels that the network gives to each label, over the pictures of all labelsets alike."""
    each = [seen.double().mean(0).cpu().numpy() for seen, _ in evidence.pixels.values()]
    return np.mean(each, 0) if each else np.zeros(evidence.space.channels)


# ------------------------------------------------------------------------------------------------------------------------------------
# Relations


@dataclass(frozen=True)
class Correspondence:
    """How a label of one labelset relates to a label of another; each is (labelset, label)."""

    a: tuple[str, str]
    b: tuple[str, str]
    relation: str      # same, part_of (a is part of b), contains (b is part of a), or none
    confidence: float  # in [0, 1]: the probability that it is so, by the rule of 85 %; of a truth the share that it rests on

    @property
    def doubtful(self) -> bool:
        """Whether the pictures do not tell: no relation is more probable than not, and that there is none is not probable either."""
        return self.relation == "none" and self.confidence < DOUBTFUL

    def to_json(self) -> dict[str, Any]:
        return {"a": list(self.a), "b": list(self.b), "relation": self.relation, "confidence": round(self.confidence, 4)}

    def __str__(self) -> str:
        """``kundu.pole ⊂ xu.infrastructure 0.93``: the part first, whichever of the two it is."""
        a, b = ".".join(self.a), ".".join(self.b)
        first, sign, second = (b, "⊂", a) if self.relation == "contains" else (a, {"same": "=", "none": "≠"}.get(self.relation, "⊂"), b)
        return f"{first} {sign} {second} {self.confidence:.2f}"


def relate(there: float, back: float) -> tuple[str, float]:
    """The most probable relation of two labels, a and b, and how probable it is.

    Args:
        there: the probability that a lies in b.
        back: the probability that b lies in a.

    Returns:
        One of :data:`RELATIONS` and its probability. It is ``none`` also where that is not probable, but no other more than :data:`SURE`.

    >>> relate(0.99, 0.95), relate(0.99, 0.05), relate(0.25, 0.125), relate(0.75, 0.5)
    (('same', 0.9405), ('part_of', 0.9405), ('none', 0.65625), ('none', 0.125))
    """
    each = {"same": there * back, "part_of": there * (1 - back), "contains": back * (1 - there)}
    best = max(each, key=lambda relation: each[relation])
    return (best, each[best]) if each[best] > SURE else ("none", (1 - there) * (1 - back))


def true_relation(there: float, back: float, whole: float = WHOLE) -> tuple[str, float]:
    """The relation of two labels by their true shares: a label is part of another when at least ``whole`` of its pixels lie in it; and the
    share that it rests on."""
    if max(there, back) < whole:
        return "none", 1 - max(there, back)
    if min(there, back) >= whole:
        return "same", min(there, back)
    return ("part_of", there) if there > back else ("contains", back)


def correspondences(
    likely: np.ndarray, space: OutputSpace, relation: Callable[[float, float], tuple[str, float]] = relate
) -> list[Correspondence]:
    """The relation of every label of each labelset to every label of those behind it.

    Args:
        likely: (C, C) probabilities as :func:`likely` gives them, or :func:`true_shares`.
        space: the labelsets.
        relation: :func:`relate`, or of true shares :func:`true_relation`.

    Returns:
        In the order of the space; pairs with a label that never occurs are left out: nothing can be said of them.
    """
    labels = [(task.name, label) for task in space.tasks for label in task.channel_names]
    owner = space.tables(torch.device("cpu")).owner.numpy()
    judged = (owner[:, None] < owner[None]) & ~np.isnan(likely) & ~np.isnan(likely.T)
    return [
        Correspondence(labels[i], labels[j], *relation(float(likely[i, j]), float(likely[j, i])))
        for i, j in zip(*np.nonzero(judged), strict=True)
    ]


def true_shares(
    truths: Iterable[Truth], splits: Sequence[str], space: OutputSpace, tick: Callable[[], object] = lambda: None
) -> np.ndarray:
    """(C, C) like :func:`shares`, from every pixel of the pictures whose truth is known; NaN where it is not."""
    share = np.full((space.channels, space.channels), np.nan)
    for truth in truths:
        counts = truth.counts(splits, tick)
        for a in truth.tables:
            for b in truth.tables:
                if a != b:
                    share[space.slice(a), space.slice(b)] = truth.shares(a, b, counts)
    return share


def absent_labels(evidence: Evidence) -> list[tuple[str, str]]:
    """The labels of the labelsets that annotate some picture, but that occur in none of them."""
    labels = [(task.name, label) for task in evidence.space.tasks for label in task.channel_names]
    return [label for label, count in zip(labels, evidence.counts, strict=True) if not count and label[0] in evidence.pixels]


def score(found: Iterable[Correspondence], truth: Iterable[Correspondence]) -> dict[str, Any]:
    """How right the correspondences are, over the pairs of labels of which both speak.

    A pair counts as found or as true where its relation is not ``none``; it is right where the relation is the true one. Precision is the
    share of the found that are right, recall that of the true that are right; None where there is none.

    Returns:
        ``pairs``, ``precision``, ``recall``, ``relations`` (for each relation the numbers of the true, the found and the right, precision
        and recall), ``reliability`` (of what was found with a confidence between two of :data:`STATED`: how many, the mean confidence,
        and the share that is right) and ``mistakes``, each with the true relation.
    """
    true = {(c.a, c.b): c.relation for c in truth}
    judged = [(c, true[c.a, c.b]) for c in found if (c.a, c.b) in true]

    def counted(names: Iterable[str]) -> dict[str, Any]:
        names = set(names)
        right = sum(c.relation == t and t in names for c, t in judged)
        guessed, real = sum(c.relation in names for c, _ in judged), sum(t in names for _, t in judged)
        return {
            "true": real, "found": guessed, "right": right,
            "precision": right / guessed if guessed else None, "recall": right / real if real else None,
        }  # fmt: skip

    return {
        "pairs": len(judged),
        **counted(RELATIONS[:3]),
        "relations": {name: counted([name]) for name in RELATIONS[:3]},
        "reliability": _reliability([(c.confidence, c.relation == t) for c, t in judged if c.relation in RELATIONS[:3]]),
        "mistakes": [{**c.to_json(), "truth": t} for c, t in judged if c.relation != t],
    }


def _reliability(found: Sequence[tuple[float, bool]]) -> list[dict[str, Any]]:
    """How often what is said with some confidence is right."""
    rows = []
    for low, high in itertools.pairwise(STATED):
        some = [(stated, right) for stated, right in found if low <= stated < high or stated == high == 1]
        if some:
            stated, right = (float(np.mean(values)) for values in zip(*some, strict=True))
            rows.append({"from": low, "to": high, "found": len(some), "confidence": stated, "right": right})
    return rows
