"""Scores, all from one confusion matrix per labelset: Global, Average, IoU, each labelset by itself and pooled as the paper pools.

Shapes: ``H``, ``W`` pixels, ``L`` labels of a labelset, ``N`` pictures. A confusion matrix (L, L) counts pixels: rows are the true labels,
columns the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densemtmd.copies import labeller_of
from densemtmd.datasets.folder import Dataset
from densemtmd.datasets.maps import Maps
from densemtmd.datasets.pictures import read_picture
from densemtmd.datasets.sample import Batch, Item, Sample, as_input
from densemtmd.errors import UserError
from densemtmd.inference import asked_alone, dense_logits, fused_probabilities, kept_logits, likeliest, strided_logits
from densemtmd.machine import ahead
from densemtmd.merging import Merged
from densemtmd.network import Discriminator, JointNetwork
from densemtmd.tasks import VOID, Labelset, nearest
from densemtmd.truth import Truth

SCORINGS = ("dense", "strided")
"""How pictures are scored: at every pixel, or at every stride-th pixel of every stride-th row."""


def confusion(answer: Tensor, target: Tensor, labels: int) -> Tensor:
    """The confusion matrix of some pixels, on their device; void pixels do not count.

    Args:
        answer: integers of any shape, 0..labels−1.
        target: the same shape, 0..labels−1, or 255 = unlabelled.
        labels: L.

    Returns:
        (L, L) int64.
    """
    labelled = target != VOID
    # Void pixels are counted in one cell more and cut off: a mask would make the device wait for the number of pixels that it keeps.
    cell = torch.where(labelled, target.long() * labels + answer.long(), labels * labels)
    return torch.bincount(cell.flatten(), minlength=labels * labels + 1)[:-1].view(labels, labels)


@dataclass(frozen=True)
class Scores:
    """Scores in percent. Labels that never occur in the target are left out of the means (as in the paper's tables).

    ``classes`` and ``pixels`` say how much was scored; with none all scores are NaN.
    """

    global_accuracy: float   # Global: share of the labelled pixels that are right
    average: float           # Average: mean over labels of the share of the label's pixels that are right
    iou: float               # IoU: mean over labels of intersection over union
    classes: int
    pixels: int

    def line(self) -> str:
        """``Global 72.0  Average 62.1  IoU 48.7``"""
        return f"Global {self.global_accuracy:5.1f}  Average {self.average:5.1f}  IoU {self.iou:5.1f}"

    def to_json(self) -> dict[str, Any]:
        values = {name: _number(value) for name, value in asdict(self).items()}
        return {"global": values.pop("global_accuracy"), **values}


def per_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and IoU of each label in percent, (L,) each; NaN where the label never occurs in the target."""
    counts = np.asarray(matrix, float)
    right, true, answered = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, iou = 100 * right / true, 100 * right / (true + answered - right)
    absent = true == 0
    return np.where(absent, np.nan, accuracy), np.where(absent, np.nan, iou)


def scores(matrices: Iterable[np.ndarray]) -> Scores:
    """Scores of one dataset, or of several together: Global pools their pixels, Average and IoU are means over all their labels.

    So "a column that covers several datasets is the mean over all their classes together", as the totals of the paper's tables are.
    """
    counts = [np.asarray(m, float) for m in matrices]
    pixels = sum(c.sum() for c in counts)
    if not pixels:
        return Scores(np.nan, np.nan, np.nan, 0, 0)
    accuracy, iou = (np.concatenate(parts) for parts in zip(*map(per_class, counts), strict=True))
    present = ~np.isnan(accuracy)
    right = sum(np.trace(c) for c in counts)
    return Scores(float(100 * right / pixels), float(accuracy[present].mean()), float(iou[present].mean()), int(present.sum()), int(pixels))


def score_pictures(
    network: JointNetwork,
    labelset: str,
    samples: Sequence[Sample],
    *,
    scoring: str,
    interior: bool = False,
    precision: str = "float32",
    mirror: bool = False,
    scales: Sequence[float] = (1.0,),
    device: torch.device,
    tick: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """The confusion matrix of each picture under one labelset, (N, L, L) int64. Every labelled pixel counts, unless said otherwise.

    Args:
        network: which answers; it is put in eval mode for the time and back.
        labelset: one of its labelsets, which annotates the samples.
        samples: the N pictures.
        scoring: ``"dense"``: every pixel; ``"strided"``: every stride-th pixel of every stride-th row, at a stride²-th of the cost.
        interior: only pixels whose patch lies wholly inside the picture, as the paper samples.
        precision: of dense scoring, ``"float32"`` or ``"bfloat16"``.
        mirror, scales: of dense scoring, the copies of a picture over which probabilities are averaged (:mod:`densemtmd.copies`).
        device: where the network is.
        tick: called after each picture.
    """
    pictures = ((sample.image, {labelset: sample.target}) for sample in samples)
    (matrices,) = score_answers(
        [network], pictures, len(samples), {labelset: network.space[labelset].channels}, _under_labelsets, asked=[labelset],
        scoring=scoring, interior=interior, precision=precision, mirror=mirror, scales=scales, device=device, tick=tick,
    ).values()  # fmt: skip
    return matrices


def score_kept(
    network: JointNetwork,
    labelset: str,
    samples: Sequence[Sample],
    maps: Sequence[Maps],
    *,
    interior: bool = False,
    device: torch.device,
    tick: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """As :func:`score_pictures` of a network whose trunk's maps of the pictures are kept: every labelled pixel, at the cost of the head.

    Args:
        maps: of each sample; the others as there.
    """
    labels, training = network.space[labelset].channels, network.training
    alone = network.eval().only([labelset])
    own = alone.space.slice(labelset)
    matrices = torch.zeros(len(samples), labels, labels, dtype=torch.int64, device=device)
    with torch.inference_mode():
        for sample, kept, counts in zip(samples, maps, matrices, strict=True):
            labelled = inside_only(sample.target, network.geometry.border) if interior else sample.target
            target = torch.from_numpy(labelled).to(device)
            for rows, logits in kept_logits(alone, kept, sample.target.shape[0], sample.target.shape[1], device, own):
                counts += confusion(likeliest(logits), target[rows], labels)
            tick()
    network.train(training)
    return matrices.cpu().numpy()


Answers = Callable[[Sequence[JointNetwork], Sequence[Tensor], Iterable[str]], Mapping[str, Tensor]]
"""From the logits (C, h, w) of each network to the class ids (h, w) under each of the names."""


def score_answers(
    networks: Sequence[JointNetwork],
    pictures: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    number: int,
    labels: Mapping[str, int],
    answers: Answers,
    *,
    asked: Iterable[str],
    scoring: str,
    interior: bool = False,
    precision: str = "float32",
    mirror: bool = False,
    scales: Sequence[float] = (1.0,),
    device: torch.device,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, np.ndarray]:
    """The confusion matrices of pictures that are answered in several ways in one pass: name -> (N, L, L) int64.

    Args:
        networks: which answer, all of one stride and patch; they are put in eval mode for the time and back.
        pictures: each an image (H, W, 3) and by the name of the answer its target (H, W); read one by one.
        number: N. All matrices are made at once: small ones between the large maps of each picture would keep the memory of all of them.
        labels: name of the answer -> L.
        answers: what makes the answers of the logits.
        asked: the labelsets that the answers are made of.
        scoring, interior, precision, mirror, scales, device, tick: as :func:`score_pictures` has them.
    """
    if scoring not in SCORINGS:
        raise UserError(f"scoring is {scoring!r}; {nearest(scoring, SCORINGS)}")
    training = [network.training for network in networks]
    for network in networks:
        network.eval()
    geometry = networks[0].geometry
    if any((other.geometry.patch, other.geometry.stride) != (geometry.patch, geometry.stride) for other in networks):
        raise UserError("the networks see patches of different sizes or strides, expected one for all: score them one by one")
    asked = set(asked)
    alone, labellers = [network.only(asked) for network in networks], None
    if scoring == "dense":
        whole = [labeller_of(network, precision, False, mirror, scales) for network in networks]
        labellers = [asked_alone(network, labeller, asked)[1] for network, labeller in zip(networks, whole, strict=True)]
    step = 1 if labellers else geometry.stride
    matrices = {name: torch.zeros(number, size, size, dtype=torch.int64, device=device) for name, size in labels.items()}
    with torch.inference_mode():
        for n, (image, targets) in enumerate(pictures):
            target = {
                name: torch.from_numpy(inside_only(own, geometry.border) if interior else own).to(device)[::step, ::step]
                for name, own in targets.items()
            }
            everything = slice(None)
            parts: Iterable[tuple[slice, slice, list[Tensor]]] = (
                dense_logits(labellers, image, device)
                if labellers
                else [(everything, everything, [strided_logits(network, image, device) for network in alone])]
            )
            for rows, columns, logits in parts:
                for name, ids in answers(alone, logits, target).items():
                    matrices[name][n] += confusion(ids, target[name][rows, columns], labels[name])
            tick()
    for network, mode in zip(networks, training, strict=True):
        network.train(mode)
    return {name: counts.cpu().numpy() for name, counts in matrices.items()}


def _under_labelsets(networks: Sequence[JointNetwork], logits: Sequence[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The answers under some labelsets of the networks."""
    return {
        name: likeliest(own[network.space.slice(name)])
        for name in names
        for network, own in zip(networks, logits, strict=True)
        if name in network.space.names
    }


def score_across(
    networks: Sequence[JointNetwork],
    truth: Truth,
    dataset: Dataset,
    split: str,
    **how: Any,
) -> dict[str, np.ndarray]:
    """The confusion matrices of a dataset's pictures under every labelset of which the truth is known: labelset -> (N, L, L) int64.

    Args:
        networks: which answer.
        truth: of the dataset and of others.
        dataset: one of those of the truth.
        split: which of its pictures.
        how: ``scoring``, ``interior``, ``precision``, ``mirror``, ``scales``, ``device`` and ``tick`` of :func:`score_answers`.
    """
    known = {name for network in networks for name in network.space.names}
    labels = {d.labelset.name: d.labelset.channels for d in truth.datasets if d.labelset.name in known}

    def read(item: Item) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        classes = truth.read(dataset, item)
        return read_picture(item.image), {name: truth.tables[name][classes] for name in labels}

    items = dataset.splits[split]
    return score_answers(networks, ahead(read, items), len(items), labels, _under_labelsets, asked=labels, **how)


def score_merged(
    networks: Sequence[JointNetwork], merged: Merged, truth: Truth, dataset: Dataset, split: str, **how: Any
) -> np.ndarray:
    """The confusion matrix of each of a dataset's pictures under a merged labelset: (N, M, M) int64; arguments as :func:`score_across`."""
    table = merged.from_truth(truth.classes, truth.tables)
    name = merged.labelset.name

    def read(item: Item) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return read_picture(item.image), {name: table[truth.read(dataset, item)]}

    def answer(networks: Sequence[JointNetwork], logits: Sequence[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
        return {name: likeliest(fused_probabilities(networks, logits, merged))}

    named = [network for network in networks if set(network.space.names) & set(merged.groups)]
    items = dataset.splits[split]
    return score_answers(named, ahead(read, items), len(items), {name: merged.labelset.channels}, answer, asked=merged.groups, **how)[name]


PROBE_STEPS, PROBE_VECTORS = 300, 512
"""Of the training of a domain probe: steps, and feature vectors in each."""


def domain_probe(network: JointNetwork, seen: Iterable[Batch], unseen: Iterable[Batch], domains: int, hidden: int = 128) -> float:
    """How well a fresh domain classifier tells the domains apart by the network's features: how much of the shift is left in them.

    The discriminator that gradient reversal trained against the features may be fooled where a fresh one is not, so it cannot be the
    judge. This one has the same layers, and learns on frozen features until it no longer improves.

    Args:
        network: whose features θ_f(x) are judged; it is not changed.
        seen: batches to learn on.
        unseen: batches of other pictures, to judge by.
        domains: D.
        hidden: channels of its hidden layer.

    Returns:
        Its balanced accuracy on ``unseen``, percent: the mean over domains of the share of their outputs that it names right. Chance
        is 100 / D.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()

    def vectors(batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """(N, F) features of all outputs, and (N,) where they come from."""
        found = []
        with torch.inference_mode():
            for batch in batches:
                features = network.outputs(as_input(batch.image.to(device))).features
                found.append((features.permute(0, 2, 3, 1).flatten(1, 2), batch.domain.to(device)))
            return (
                torch.cat([f.flatten(0, 1) for f, _ in found]).float(),
                torch.cat([d.repeat_interleave(f.shape[1]) for f, d in found]),
            )

    (learned, truth), (judged, judged_truth) = vectors(seen), vectors(unseen)
    mean, spread = learned.mean(0), learned.std(0) + 1e-6
    learned, judged = ((x.clone() - mean) / spread for x in (learned, judged))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = Discriminator(learned.shape[1], domains, hidden).to(device)
        optimizer = torch.optim.Adam(probe.parameters(), lr=1e-3)
        for _ in range(PROBE_STEPS):
            some = torch.randint(len(learned), (PROBE_VECTORS,)).to(device)
            loss = F.cross_entropy(probe(learned[some][..., None, None]).flatten(1), truth[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.inference_mode():
        answers = torch.cat([probe(part[..., None, None]).flatten(1).argmax(1) for part in judged.split(8192)])
    network.train(training)
    return scores([confusion(answers, judged_truth, domains).cpu().numpy()]).average


def inside_only(target: np.ndarray, border: tuple[int, int]) -> np.ndarray:
    """The target with every pixel void whose patch does not fit in the picture."""
    before, after = border
    kept = np.full_like(target, VOID)
    inside = (slice(before, max(before, target.shape[0] - after)), slice(before, max(before, target.shape[1] - after)))
    kept[inside] = target[inside]
    return kept


def report(matrices: Mapping[str, np.ndarray], labelsets: Mapping[str, Labelset]) -> dict[str, Any]:
    """What ``scores.json`` holds: for each dataset its scores and those of each label, and ``pooled`` over all of them.

    Args:
        matrices: dataset -> (N, L, L) or (L, L) counts.
        labelsets: dataset -> the labelset that annotates it.
    """
    summed = {name: m.sum(0) if m.ndim == 3 else m for name, m in matrices.items()}
    datasets = {}
    for name, matrix in summed.items():
        accuracy, iou = per_class(matrix)
        labels = {
            label: {"accuracy": _number(float(a)), "iou": _number(float(i)), "pixels": int(p)}
            for label, a, i, p in zip(labelsets[name].labels, accuracy, iou, matrix.sum(1), strict=True)
        }
        datasets[name] = {"labelset": labelsets[name].name, **scores([matrix]).to_json(), "labels": labels}
    return {"pooled": scores(summed.values()).to_json(), "datasets": datasets}


def cross_report(matrices: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """What ``cross.json`` holds: the scores of each labelset's answers on each annotator's pictures, and pooled over several.

    Args:
        matrices: labelset -> dataset whose pictures are labelled -> (L, L) counts.

    Returns:
        ``answers`` (labelset -> dataset -> scores); ``all`` (labelset -> scores over all pictures); ``pooled``: over all labelsets and
        pictures, as the paper pools, labelsets counted by themselves.
    """
    together = {name: sum(on.values()) for name, on in matrices.items()}
    return {
        "answers": {name: {d: scores([m]).to_json() for d, m in on.items()} for name, on in matrices.items()},
        "all": {name: scores([np.asarray(m)]).to_json() for name, m in together.items()},
        "pooled": scores(np.asarray(m) for m in together.values()).to_json(),
    }


def _number(value: float) -> float | None:
    """NaN is no JSON: a score that does not exist is null."""
    return None if np.isnan(value) else value
