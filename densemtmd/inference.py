"""Answers of trained networks: for a grid of pixels by a strided pass, for every pixel by the dense form, for any picture and labelset.

Shapes: ``H``, ``W`` pixels, ``C`` channels of the output space, ``L`` labels of one labelset, ``P`` patch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from densemtmd import checkpoint
from densemtmd.backbones.padded import check_scales
from densemtmd.copies import labeller_of
from densemtmd.datasets.maps import Maps
from densemtmd.datasets.pictures import Room, memory
from densemtmd.datasets.sample import as_input
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry, reflect
from densemtmd.losses import dataset_softmax
from densemtmd.machine import let_go, pool
from densemtmd.merging import Merged
from densemtmd.network import JointNetwork, Labeller
from densemtmd.tasks import Labelset, OutputSpace

if TYPE_CHECKING:
    from typing import Self

TILE = {"cpu": (240, 512), "cuda": (256, 1024)}
"""Rows and columns of pixels answered in one piece, by the kind of device. Memory is bounded by this, and not by the picture. Each piece
needs a border of patch − 1 pixels from its neighbours, so larger ones repeat less; what must fit a CPU's caches is cut smaller in
:mod:`densemtmd.fast`."""

WIDE = {"cpu": 1024, "cuda": 2048}
"""Side of the pieces of a network whose answers depend on a context: most pictures are one."""


KEPT = 2**18
"""Pixels whose logits are interpolated at a time from those of cells."""


def seen_for(
    image: np.ndarray, rows: slice, columns: slice, geometry: Geometry, device: torch.device
) -> tuple[Tensor, tuple[slice, slice]]:
    """What a network must see to answer for a part of a picture, and where in its answers that part lies.

    Args:
        image: (H, W, 3) uint8.
        rows, columns: the part; their starts are multiples of the stride.
        geometry: of the network.
        device: where the network is.

    Returns:
        (1, 3, h, w) in [0, 1]. Of a patch classifier the part and a border of P − 1, reflected beyond the picture, so that every pixel is
        the centre of a patch. Of a network with context the part and so much of the picture around it: beyond it the network pads.
    """
    height, width = image.shape[:2]
    if geometry.context:
        seen = [_with_context(part, size, geometry) for part, size in ((rows, height), (columns, width))]
        cut = torch.from_numpy(image[seen[0], seen[1]].copy()).to(device)  # of a view that may be turned, or not for writing
        inside = [slice(part.start - around.start, part.stop - around.start) for part, around in zip((rows, columns), seen, strict=True)]
        return as_input(cut.permute(2, 0, 1)[None]), (inside[0], inside[1])
    before, after = geometry.border
    seen_rows = reflect(np.arange(rows.start - before, rows.stop + after), height)
    seen_columns = reflect(np.arange(columns.start - before, columns.stop + after), width)
    cut = torch.from_numpy(image[seen_rows[:, None], seen_columns]).to(device)
    return as_input(cut.permute(2, 0, 1)[None]), (slice(None), slice(None))


def _with_context(part: slice, size: int, geometry: Geometry) -> slice:
    """A part of a side with the context around it, as far as there is any, from a multiple of the network's grid on."""
    return slice(max(0, part.start - geometry.context) // geometry.multiple * geometry.multiple, min(size, part.stop + geometry.context))


def strided_logits(network: JointNetwork, image: np.ndarray, device: torch.device) -> Tensor:
    """The logits for every stride-th pixel of every stride-th row of a picture: (H, W, 3) uint8 -> (C, ⌈H/stride⌉, ⌈W/stride⌉).

    Worked through in tiles, as the dense pass is: beyond its answers a large picture takes no more memory than a small one.
    """
    height, width = image.shape[:2]
    geometry = network.geometry
    stride = geometry.stride
    wide = WIDE.get(device.type, WIDE["cuda"])
    most = (wide, wide) if geometry.context else TILE.get(device.type, TILE["cuda"])
    answer: Tensor | None = None
    for rows in pieces(height, most[0], max(stride, geometry.multiple)):
        for columns in pieces(width, most[1], max(stride, geometry.multiple)):
            seen, inside = seen_for(image, rows, columns, geometry, device)
            tile = network(seen)[0][:, inside[0], inside[1]]
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
    strides = {network.geometry.stride for network in networks}
    if len(strides) > 1:
        raise UserError(f"the networks answer for every {' and every '.join(map(str, sorted(strides)))} pixels, expected one grid for all")
    answers = [dataset_softmax(strided_logits(network, image, device)[None], network.space)[0] for network in networks]
    return torch.cat(answers), strides.pop()


def dense_logits(
    labellers: Sequence[Labeller], image: np.ndarray, device: torch.device
) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """The logits of networks for every pixel of a picture, a part of it at a time: (rows, columns, of each network (C, rows, columns)).

    Of patch classifiers a strip of rows at a time, from the top down; its parts are answered side by side.
    """
    height, width = image.shape[:2]
    for rows, columns in tiling(labellers, height, width, device):
        answers = [
            side_by_side([partial(_tile, labeller, image, rows, part, device) for part in columns], device) for labeller in labellers
        ]
        for n, part in enumerate(columns):
            yield rows, part, [tiles[n] for tiles in answers]
        if columns[-1].stop == width:
            let_go(image)


def kept_logits(
    network: JointNetwork, maps: Maps, height: int, width: int, device: torch.device, channels: slice
) -> Iterator[tuple[slice, Tensor]]:
    """Some of the logits for every pixel of a picture of which the maps of the network's trunk are kept, a strip of rows at a time.

    Args:
        network: in eval mode.
        maps: the trunk's of the picture.
        height, width: H and W of the picture.
        device: where the network is.
        channels: which.

    Returns:
        The rows, and their logits (channels, rows, W).
    """
    trunk = network.trunk
    assert trunk is not None
    grid = trunk.grid
    for rows in pieces(height, max(grid, KEPT // width), grid):
        first, last = max(0, rows.start // grid - 1), min(maps.grid[0], -(-rows.stop // grid) + 1)  # a cell more, to interpolate with
        seen = network(maps.strip(slice(first, last), device))[:, channels]
        strip = network.brought(seen, (seen.shape[2] * grid, width))[0]
        yield rows, strip[:, rows.start - first * grid :][:, : rows.stop - rows.start]


def tiling(labellers: Sequence[Labeller], height: int, width: int, device: torch.device) -> list[tuple[slice, list[slice]]]:
    """The strips of a picture that are answered at a time, and the columns of each part of them, the same for all networks."""
    if any(labeller.geometry.context for labeller in labellers):
        wide, grid = WIDE.get(device.type, WIDE["cuda"]), max(labeller.geometry.multiple for labeller in labellers)
        return [(rows, [columns]) for rows in pieces(height, wide, grid) for columns in pieces(width, wide, grid)]
    wide, grain = TILE.get(device.type, TILE["cuda"])[1], max(labeller.grain for labeller in labellers)
    if device.type == "cpu":  # a tile for each thread at least, however small the picture, but none so narrow that it is mostly border
        patch = max(labeller.geometry.patch for labeller in labellers)
        wide = min(wide, max(patch, -(-width // torch.get_num_threads() // grain) * grain))
    columns = pieces(width, wide, grain if wide >= grain else 1)
    return [(rows, columns) for rows in strips(height, width, device, grain)]


def strips(height: int, width: int, device: torch.device, grain: int = 1) -> list[slice]:
    """The rows of a picture that are answered at a time, multiples of ``grain`` where that is possible: of a wide picture lower strips,
    whose logits take no more memory."""
    most = TILE.get(device.type, TILE["cuda"])
    high = min(most[0], max(16, 2 * most[0] * most[1] // width))
    return pieces(height, high, grain if high >= grain else 1)


def _tile(labeller: Labeller, image: np.ndarray, rows: slice, columns: slice, device: torch.device) -> Tensor:
    seen, inside = seen_for(image, rows, columns, labeller.geometry, device)
    return labeller(seen)[0][:, inside[0], inside[1]].contiguous()  # each label's map in one piece, and nothing of what lies around it


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
        with pool(min(threads, len(works)), initializer=torch.set_num_threads, initargs=(1,)) as workers:
            return list(workers.map(run, works))
    finally:
        torch.set_num_threads(threads)


def pieces(size: int, at_most: int, stride: int = 1) -> list[slice]:
    """A side of a picture in pieces of about one length, at most so long or one stride, that begin at multiples of ``stride``."""
    steps = -(-size // stride)
    edges = np.linspace(0, steps, -(-steps // max(1, at_most // stride)) + 1).round().astype(int) * stride
    return [slice(int(first), min(int(last), size)) for first, last in itertools.pairwise(edges)]


def asked_alone(network: JointNetwork, labeller: Labeller, labelsets: Iterable[str]) -> tuple[JointNetwork, Labeller]:
    """A network and what labels with it for these of its labelsets alone, where that is less work; nothing else of them is made anew."""
    labelsets = set(labelsets)
    alone = network.only(labelsets)
    return alone, labeller if alone is network else labeller.only(alone, network.space.positions(labelsets))


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
        mirror: label each picture mirrored too, left and right, and answer with the mean of the probabilities.
        scales: by which copies of a picture are enlarged; of several the probabilities are averaged too.
    """

    def __init__(
        self,
        networks: Sequence[JointNetwork],
        device: str = "auto",
        precision: str = "float32",
        mirror: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        check_scales("scales", scales)
        self.device, self.precision = checkpoint.device_of(device), precision
        self.mirror, self.scales = mirror, list(scales)
        self.networks = [n.eval().to(self.device, memory_format=torch.channels_last) for n in networks]  # type: ignore[call-overload]
        self._labellers = [  # from the weights as they are now
            labeller_of(network, precision, True, mirror, scales) if network.takes == Labelset.kind else None for network in self.networks
        ]
        self._alone: dict[tuple[int, frozenset[str]], tuple[JointNetwork, Labeller]] = {}
        self.space = OutputSpace([task for network in networks for task in network.space.tasks])

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        precision: str = "float32",
        mirror: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> Self:
        """From a checkpoint, or from a run's folder (which holds one checkpoint, or with the strategy ``nf`` one per dataset).

        Raises:
            UserError: no checkpoint there, or a damaged one.
        """
        return cls([checkpoint.load_network(file) for file in checkpoints_of(Path(path))], device, precision, mirror, scales)

    def logits(self, image: np.ndarray, labelsets: Sequence[str]) -> Iterator[tuple[JointNetwork, slice, slice, Tensor]]:
        """Part by part, the logits of each network that learned one of the labelsets: (network, rows, columns, (C, rows, columns)). Of a
        network that can answer for these labelsets alone it is that one (:meth:`densemtmd.network.JointNetwork.only`).

        Raises:
            UserError: something that is not a picture, or a network that labels none.
        """
        check_picture(image)
        for network in self.networks:
            if not set(labelsets) & set(network.space.names):
                continue
            asked, labeller = self._asked(network, labelsets)
            with torch.inference_mode():
                for rows, columns, (logits,) in dense_logits([labeller], image, self.device):
                    yield asked, rows, columns, logits

    def _asked(self, network: JointNetwork, labelsets: Iterable[str]) -> tuple[JointNetwork, Labeller]:
        """A network for some labelsets, and what labels with it, kept for the next picture.

        Raises:
            UserError: it labels none.
        """
        key = self.networks.index(network), frozenset(labelsets) & set(network.space.names)
        if key not in self._alone:
            self._alone[key] = asked_alone(network, self.labeller(network), labelsets)
        return self._alone[key]

    def labeller(self, network: JointNetwork) -> Labeller:
        """What labels pictures with one of its networks.

        Raises:
            UserError: it labels none.
        """
        labeller = self._labellers[self.networks.index(network)]
        if labeller is None:
            names = ", ".join(network.space.names)
            raise UserError(f"this network answers {network.space.tasks[0].words}s ({names}), not labels: `densemtmd infer --keypoints`")
        return labeller

    def __call__(self, image: np.ndarray, labelset: str) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) uint8 class ids of ``labelset``.

        Raises:
            UserError: an unknown labelset (the message lists the known), or something that is not a picture.
        """
        return self._answers(image, [labelset])[labelset]

    def all(self, image: np.ndarray, labelsets: Sequence[str] | None = None, room: Room = memory) -> dict[str, np.ndarray]:
        """The answers under every labelset, or under those named, from one pass: (H, W, 3) uint8 -> name -> (H, W) uint8, in arrays that
        ``room`` gives."""
        return self._answers(image, self.space.names if labelsets is None else labelsets, room)

    def _answers(self, image: np.ndarray, labelsets: Sequence[str], room: Room = memory) -> dict[str, np.ndarray]:
        for name in labelsets:
            self.space.index(name)
        check_picture(image)
        answers = {name: room(image.shape[:2]) for name in labelsets}
        for network, rows, columns, logits in self.logits(image, labelsets):
            for name in labelsets:
                if name in network.space.names:
                    answers[name][rows, columns] = likeliest(logits[network.space.slice(name)]).cpu().numpy()
                    let_go(answers[name])
        return answers

    def probabilities(self, image: np.ndarray, labelset: str) -> np.ndarray:
        """(H, W, 3) uint8 -> (L, H, W) float32, the dataset-wise softmax (Eq. 1): sums to 1 over the labels."""
        return self.all_probabilities(image, [labelset])[labelset]

    def all_probabilities(self, image: np.ndarray, labelsets: Sequence[str]) -> dict[str, np.ndarray]:
        """Those under several labelsets, from one pass: (H, W, 3) uint8 -> name -> (L, H, W) float32."""
        check_picture(image)
        answers = {name: np.empty((self.space[name].channels, *image.shape[:2]), np.float32) for name in labelsets}
        for network, rows, columns, logits in self.logits(image, labelsets):
            probabilities = dataset_softmax(logits[None], network.space)[0].float().cpu().numpy()
            for name in set(labelsets) & set(network.space.names):
                answers[name][:, rows, columns] = probabilities[network.space.slice(name)]
        return answers

    def identity(self) -> str:
        """A digest of all that the answers depend on beside the picture."""
        about = [self.space.to_json(), self.precision, self.mirror, self.scales]
        digest = hashlib.sha256(json.dumps(about).encode())
        for network in self.networks:
            digest.update(json.dumps([str(network), network.parts]).encode())
            for name, tensor in network.state_dict().items():
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def merged(self, image: np.ndarray, merged: Merged, room: Room = memory) -> np.ndarray:
        """The one answer of several labelsets, fused as :mod:`densemtmd.merging` says: (H, W, 3) uint8 -> (H, W) uint8 merged class ids, in
        the array that ``room`` gives.

        >>> merged = load_merged("merged.yaml", predictor.space)                             # doctest: +SKIP
        >>> ids = predictor.merged(image, merged)                                            # doctest: +SKIP
        """
        check_picture(image)
        answer = room(image.shape[:2])
        for rows, columns, fused in self.fused(image, merged):
            answer[rows, columns] = likeliest(fused).cpu().numpy()
            let_go(answer)
        return answer

    def fused(self, image: np.ndarray, merged: Merged) -> Iterator[tuple[slice, slice, Tensor]]:
        """Part by part, the probabilities of the merged labels: (rows, columns, (M, rows, columns))."""
        check_picture(image)
        named = [self._asked(n, merged.groups) for n in self.networks if set(n.space.names) & set(merged.groups)]
        with torch.inference_mode():
            for rows, columns, logits in dense_logits([labeller for _, labeller in named], image, self.device):
                yield rows, columns, fused_probabilities([network for network, _ in named], logits, merged)


def fused_probabilities(networks: Sequence[JointNetwork], logits: Sequence[Tensor], merged: Merged) -> Tensor:
    """What several networks say of the same pixels, fused: their logits (C, h, w), one of each -> (M, h, w) for the M merged labels."""
    own: dict[str, Tensor] = {}
    for network, part in zip(networks, logits, strict=True):
        probabilities = dataset_softmax(part[None].float(), network.space)[0]
        own |= {name: probabilities[network.space.slice(name)] for name in network.space.names if name in merged.groups}
    return merged.fuse(own)


def likeliest(logits: Tensor) -> Tensor:
    """Of each pixel the label of the largest logit or probability, the first of equal ones: (L, ...) -> (...) uint8.

    On a CPU label by label: ``argmax`` over what is not the last dimension takes ten times as long.
    """
    if logits.device.type != "cpu":
        return logits.max(0).indices.to(torch.uint8)
    largest, ids = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.uint8)
    for label in range(1, len(logits)):
        larger = (logits[label] > largest).view(torch.uint8)
        torch.maximum(ids, larger * label, out=ids)  # of labels that were ever the largest so far, the last one
        torch.maximum(largest, logits[label], out=largest)
    return ids


def check_picture(image: object) -> None:
    """Refuses what is not a picture (H, W, 3) uint8 of at least one pixel.

    Raises:
        UserError: says what it is instead.
    """
    if not isinstance(image, np.ndarray):
        raise UserError(f"expected a picture of shape (H, W, 3) and type uint8, got a {type(image).__name__}: see np.asarray")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(f"expected a picture of shape (H, W, 3) and type uint8, got {image.shape} {image.dtype}")


def checkpoints_of(path: str | Path) -> list[Path]:
    """The checkpoints that ``path`` stands for: itself, a run's ``best.safetensors``, or one per dataset in a run's subfolders.

    Raises:
        UserError: nothing of the kind there.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    if (path / "best.safetensors").is_file():
        return [path / "best.safetensors"]
    if per_dataset := sorted(path.glob("*/best.safetensors")):
        return per_dataset
    raise UserError(
        f"the folder {path} holds no best.safetensors: expected a run's folder, such as runs/<time>-<name>, of a training that got so far"
    )
