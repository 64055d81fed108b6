"""Answers of trained networks: for a grid of pixels by a strided pass, for every pixel by the dense form, for any picture and labelset.

Shapes: ``H``, ``W`` pixels, ``C`` channels of the output space, ``L`` labels of one labelset, ``P`` patch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densemtmd import checkpoint
from densemtmd.datasets.sample import as_input
from densemtmd.dense import Dense
from densemtmd.errors import UserError
from densemtmd.fast import Fast, fast_form
from densemtmd.geometry import Geometry, reflect
from densemtmd.losses import dataset_softmax
from densemtmd.merging import Merged
from densemtmd.network import JointNetwork
from densemtmd.stack import geometry_of
from densemtmd.tasks import Labelset, OutputSpace

TILE = {"cpu": (240, 512), "cuda": (256, 1024)}
"""Rows and columns of pixels answered in one piece, by the kind of device. Memory is bounded by this, and not by the picture. Each piece
needs a border of patch − 1 pixels from its neighbours, so larger ones repeat less; what must fit a CPU's caches is cut smaller in
:mod:`densemtmd.fast`."""


def bordered(image: np.ndarray, rows: slice, columns: slice, geometry: Geometry, device: torch.device) -> Tensor:
    """What a network must see to answer for a part of a picture: (H, W, 3) uint8 -> (1, 3, rows + P − 1, columns + P − 1) in [0, 1].

    The picture's border is reflected, so that every pixel is the centre of a patch.
    """
    before, after = geometry.border
    height, width = image.shape[:2]
    seen_rows = reflect(np.arange(rows.start - before, rows.stop + after), height)
    seen_columns = reflect(np.arange(columns.start - before, columns.stop + after), width)
    cut = torch.from_numpy(image[seen_rows[:, None], seen_columns]).to(device)
    return as_input(cut.permute(2, 0, 1)[None])


def strided_logits(network: JointNetwork, image: np.ndarray, geometry: Geometry, device: torch.device) -> Tensor:
    """The logits for every stride-th pixel of every stride-th row of a picture: (H, W, 3) uint8 -> (C, ⌈H/stride⌉, ⌈W/stride⌉).

    Worked through in tiles, as the dense pass is: beyond its answers a large picture takes no more memory than a small one.
    """
    height, width = image.shape[:2]
    most, stride = TILE.get(device.type, TILE["cuda"]), geometry.stride
    answer: Tensor | None = None
    for rows in pieces(height, most[0], stride):
        for columns in pieces(width, most[1], stride):
            tile = network(bordered(image, rows, columns, geometry, device))[0]
            if answer is None:
                answer = tile.new_empty(len(tile), -(-height // stride), -(-width // stride))
            top, left = rows.start // stride, columns.start // stride
            answer[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    assert answer is not None
    return answer


def strided_probabilities(networks: Sequence[JointNetwork], image: np.ndarray, device: torch.device) -> tuple[Tensor, int]:
    """The dataset-wise softmax of several networks' labelsets, one behind the other, for every stride-th pixel of every stride-th row.

    Returns:
        (C, ⌈H/stride⌉, ⌈W/stride⌉) for the C labels of all networks, and the stride.
    """
    answers, strides = [], set()
    for network in networks:
        where = geometry_of(network)
        strides.add(where.stride)
        answers.append(dataset_softmax(strided_logits(network, image, where, device)[None], network.space)[0])
    if len(strides) > 1:
        raise UserError(f"the networks answer for every {' and every '.join(map(str, sorted(strides)))} pixels, expected one grid for all")
    return torch.cat(answers), strides.pop()


def dense_logits(
    dense: Dense | Fast, image: np.ndarray, device: torch.device, rows_grain: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The logits for every pixel of a picture, a strip of rows at a time, from the top down: (rows, (C, len(rows), W)).

    Strips are of multiples of ``rows_grain`` rows where that is possible, by default of the network's own grain.
    """
    height, width = image.shape[:2]
    wide = TILE.get(device.type, TILE["cuda"])[1]
    grain = grain_of(dense)
    if device.type == "cpu":  # a tile for each thread at least, however small the picture, but none so narrow that it is mostly border
        wide = min(wide, max(dense.geometry.patch, -(-width // torch.get_num_threads() // grain) * grain))
    for rows in strips(height, width, device, rows_grain or grain):
        columns = pieces(width, wide, grain if wide >= grain else 1)
        tiles = side_by_side([partial(_tile, dense, image, rows, part, device) for part in columns], device)
        yield rows, torch.cat(tiles, 2)


def dense_logits_of_all(denses: Sequence[Dense | Fast], image: np.ndarray, device: torch.device) -> Iterator[tuple[slice, list[Tensor]]]:
    """The logits of several networks for the same rows at a time, whatever strips each of them would cut by itself."""
    grain = max(map(grain_of, denses))
    for strip in zip(*(dense_logits(dense, image, device, grain) for dense in denses), strict=True):
        yield strip[0][0], [logits for _, logits in strip]


def grain_of(dense: Dense | Fast) -> int:
    """Pixels of which the sides of a piece of a picture best are multiples."""
    return dense.grain if isinstance(dense, Fast) else 1


def strips(height: int, width: int, device: torch.device, grain: int = 1) -> list[slice]:
    """The rows of a picture that are answered at a time, multiples of ``grain`` where that is possible: of a wide picture lower strips,
    whose logits take no more memory."""
    most = TILE.get(device.type, TILE["cuda"])
    high = min(most[0], max(16, 2 * most[0] * most[1] // width))
    return pieces(height, high, grain if high >= grain else 1)


def _tile(dense: Dense | Fast, image: np.ndarray, rows: slice, columns: slice, device: torch.device) -> Tensor:
    return dense(bordered(image, rows, columns, dense.geometry, device))[0]


def side_by_side(works: Sequence[Callable[[], Tensor]], device: torch.device) -> list[Tensor]:
    """What several pieces of work give, on a CPU each done by one thread of its own.

    All threads at one layer after another wait for each other behind each of its hundreds of steps, and where something else runs on one of
    the cores they wait long.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(works) == 1:
        return [work() for work in works]
    inference = torch.is_inference_mode_enabled()

    def run(work: Callable[[], Tensor]) -> Tensor:
        with torch.inference_mode(inference):  # a thread begins in no mode
            return work()

    try:
        with ThreadPoolExecutor(min(threads, len(works)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(run, works))
    finally:
        torch.set_num_threads(threads)


def pieces(size: int, at_most: int, stride: int = 1) -> list[slice]:
    """A side of a picture in pieces of about one length, at most so long or one stride, that begin at multiples of ``stride``."""
    steps = -(-size // stride)
    edges = np.linspace(0, steps, -(-steps // max(1, at_most // stride)) + 1).round().astype(int) * stride
    return [slice(int(first), min(int(last), size)) for first, last in itertools.pairwise(edges)]


class Predictor:
    """Labels any picture of any size under any labelset that its networks learned.

    >>> predictor = Predictor.load("runs/2026-11-22_12-00-00-street7-jt/best.safetensors")  # doctest: +SKIP
    >>> predictor(image, labelset="kundu")                                                  # doctest: +SKIP

    Args:
        networks: one network for all labelsets, or one for each (the paper's baseline); no labelset may occur twice.
            Their weights are taken as they are now.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: ``"float32"``, or ``"bfloat16"``: faster where the hardware computes in it, and a few pixels in a thousand
            get another label (docs/performance.md).
    """

    def __init__(self, networks: Sequence[JointNetwork], device: str = "auto", precision: str = "float32") -> None:
        self.device, self.precision = checkpoint.device_of(device), precision
        self.networks = [n.eval().to(self.device, memory_format=torch.channels_last) for n in networks]  # type: ignore[call-overload]
        self._dense = [fast_form(network, precision, measure=True) for network in self.networks]
        self.space = OutputSpace([task for network in networks for task in network.space.tasks])

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: str = "float32") -> Predictor:
        """From a checkpoint, or from a run's folder (which holds one checkpoint, or with the strategy ``nf`` one per dataset).

        Raises:
            UserError: no checkpoint there, or a damaged one.
        """
        return cls([checkpoint.load_network(file) for file in checkpoints_of(Path(path))], device, precision)

    def logits(self, image: np.ndarray, labelsets: Sequence[str]) -> Iterator[tuple[JointNetwork, slice, Tensor]]:
        """Strip by strip, the logits of each network that learned one of the labelsets: (network, rows, (C, len(rows), W))."""
        for network, dense in zip(self.networks, self._dense, strict=True):
            if not set(labelsets) & set(network.space.names):
                continue
            with torch.inference_mode():
                for rows, logits in dense_logits(dense, image, self.device):
                    yield network, rows, logits

    def __call__(self, image: np.ndarray, labelset: str) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) uint8 class ids of ``labelset``.

        Raises:
            UserError: an unknown labelset (the message lists the known), or something that is not a picture.
        """
        return self._answers(image, [labelset])[labelset]

    def all(self, image: np.ndarray, labelsets: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The answers under every labelset, or under those named, from one pass: (H, W, 3) uint8 -> name -> (H, W) uint8."""
        return self._answers(image, self.space.names if labelsets is None else labelsets)

    def _answers(self, image: np.ndarray, labelsets: Sequence[str]) -> dict[str, np.ndarray]:
        for name in labelsets:
            self.space.index(name)
        check_picture(image)
        answers = {name: np.empty(image.shape[:2], np.uint8) for name in labelsets}
        for network, rows, logits in self.logits(image, labelsets):
            for name in labelsets:
                if name in network.space.names:
                    answers[name][rows] = logits[network.space.slice(name)].argmax(0).to(torch.uint8).cpu().numpy()
        return answers

    def probabilities(self, image: np.ndarray, labelset: str) -> np.ndarray:
        """(H, W, 3) uint8 -> (L, H, W) float32, the dataset-wise softmax (Eq. 1): sums to 1 over the labels."""
        task = self.space[labelset]
        assert isinstance(task, Labelset)
        check_picture(image)
        answer = np.empty((task.channels, *image.shape[:2]), np.float32)
        for network, rows, logits in self.logits(image, [labelset]):
            own = dataset_softmax(logits[None], network.space)[0, network.space.slice(labelset)]
            answer[:, rows] = own.float().cpu().numpy()
        return answer

    def merged(self, image: np.ndarray, merged: Merged) -> np.ndarray:
        """The one answer of several labelsets, fused as :mod:`densemtmd.merging` says: (H, W, 3) uint8 -> (H, W) uint8 merged class ids.

        >>> merged = load_merged("merged.yaml", predictor.space)                             # doctest: +SKIP
        >>> ids = predictor.merged(image, merged)                                            # doctest: +SKIP
        """
        check_picture(image)
        answer = np.empty(image.shape[:2], np.uint8)
        named = [n for n, network in enumerate(self.networks) if set(network.space.names) & set(merged.groups)]
        with torch.inference_mode():
            for rows, logits in dense_logits_of_all([self._dense[n] for n in named], image, self.device):
                fused = fused_probabilities([self.networks[n] for n in named], logits, merged)
                answer[rows] = fused.argmax(0).to(torch.uint8).cpu().numpy()
        return answer


def fused_probabilities(networks: Sequence[JointNetwork], logits: Sequence[Tensor], merged: Merged) -> Tensor:
    """What several networks say of the same pixels, fused: their logits (C, h, w), one of each -> (M, h, w) for the M merged labels."""
    own: dict[str, Tensor] = {}
    for network, part in zip(networks, logits, strict=True):
        probabilities = dataset_softmax(part[None].float(), network.space)[0]
        own |= {name: probabilities[network.space.slice(name)] for name in network.space.names if name in merged.groups}
    return merged.fuse(own)


def check_picture(image: object) -> None:
    """Refuses what is not a picture (H, W, 3) uint8 of at least one pixel.

    Raises:
        UserError: says what it is instead.
    """
    if not isinstance(image, np.ndarray):
        raise UserError(f"expected a picture of shape (H, W, 3) and type uint8, got a {type(image).__name__}: see np.asarray")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(f"expected a picture of shape (H, W, 3) and type uint8, got {image.shape} {image.dtype}")


def checkpoints_of(path: Path) -> list[Path]:
    """The checkpoints that ``path`` stands for: itself, a run's ``best.safetensors``, or one per dataset in a run's subfolders.

    Raises:
        UserError: nothing of the kind there.
    """
    if not path.is_dir():
        return [path]
    if (path / "best.safetensors").is_file():
        return [path / "best.safetensors"]
    if per_dataset := sorted(path.glob("*/best.safetensors")):
        return per_dataset
    raise UserError(
        f"the folder {path} holds no best.safetensors: expected a run's folder, such as runs/<time>-<name>, of a training that got so far"
    )
