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

from densemtmd.datasets.sample import Batch, Sample, as_input
from densemtmd.dense import densify, geometry
from densemtmd.errors import UserError
from densemtmd.inference import dense_logits, strided_logits
from densemtmd.network import Discriminator, JointNetwork
from densemtmd.tasks import VOID, Labelset, nearest

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
        device: where the network is.
        tick: called after each picture.
    """
    if scoring not in SCORINGS:
        raise UserError(f"scoring is {scoring!r}; {nearest(scoring, SCORINGS)}")
    task = network.space[labelset]
    own = network.space.slice(labelset)
    training = network.training
    network.eval()
    where = geometry(network)
    dense = densify(network) if scoring == "dense" else None
    step = 1 if dense else where.stride
    matrices = torch.zeros(len(samples), task.channels, task.channels, dtype=torch.int64, device=device)
    with torch.inference_mode():
        for n, sample in enumerate(samples):
            target = torch.from_numpy(inside_only(sample.target, where.border) if interior else sample.target).to(device)[::step, ::step]
            strips = (
                dense_logits(dense, sample.image, device)
                if dense
                else [(slice(0, len(target)), strided_logits(network, sample.image, where, device))]
            )
            for rows, logits in strips:
                matrices[n] += confusion(logits[own].argmax(0), target[rows], task.channels)
            tick()
    network.train(training)
    return matrices.cpu().numpy()


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
                features = network.features(as_input(batch.image.to(device)))
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


def _number(value: float) -> float | None:
    """NaN is no JSON: a score that does not exist is null."""
    return None if np.isnan(value) else value
