"""The networks and pictures that are measured, and the multiply-adds of a network by hand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

CONF = Path(__file__).resolve().parents[2] / "conf"


def choice(group: str, name: str) -> dict[str, Any]:
    """A file of ``conf/``, as training reads it."""
    import yaml

    from densemtmd.tasks import nearest

    path = CONF / group / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"unknown {group} {name!r}; {nearest(name, sorted(p.stem for p in path.parent.glob('*.yaml')))}")
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    settings.pop("defaults", None)  # of a model: the protocol that it chooses
    return settings


def size_of(text: str, option: str = "--sizes", what: str = "rows x columns such as 240x320") -> tuple[int, int]:
    """``240x320`` -> (240, 320)."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option} has {text!r}, expected {what}")
    return int(parts[0]), int(parts[1])


def make_network(arguments: argparse.Namespace, labels: int, space: Any = None) -> tuple[Any, Any]:
    """The network to measure, in eval mode, with batch norms that have seen a picture; and its device. It answers under labelsets of so
    many labels in all, or in the output space that is given."""
    import torch

    from densemtmd import backbones, checkpoint
    from densemtmd.datasets.sample import as_input
    from densemtmd.tasks import Labelset, OutputSpace

    device = checkpoint.device_of(arguments.device)
    if getattr(arguments, "checkpoint", None):
        from densemtmd.inference import Predictor

        networks = Predictor.load(arguments.checkpoint, arguments.device).networks
        if len(networks) > 1:
            raise UserError(f"{arguments.checkpoint} holds {len(networks)} networks, expected one: name the folder of one of them")
        return networks[0], device
    if labels < 1:
        raise UserError(f"--labels is {labels}, expected at least 1")
    torch.manual_seed(0)
    parts = [range(first, min(first + 200, labels)) for first in range(0, labels, 200)]  # a labelset has fewer than 255 labels
    space = space or OutputSpace([Labelset(f"bench{n}", [f"label{i}" for i in part]) for n, part in enumerate(parts)])
    network = backbones.build(choice("model", arguments.model), space)
    with torch.no_grad():
        x = as_input(torch.from_numpy(a_picture(96, 96).copy()).permute(2, 0, 1)[None])
        network.train()(torch.cat([x, x.flip(-1)]))  # two, since a norm over one output of one picture has no spread
    return network.eval().to(device, memory_format=torch.channels_last), device  # type: ignore[call-overload]


def a_picture(height: int, width: int, file: Path | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8 of that size, of a file or of coloured noise."""
    import numpy as np
    from PIL import Image

    if file is not None:
        from densemtmd.datasets.pictures import read_picture

        return np.asarray(Image.fromarray(read_picture(file)).resize((width, height), Image.Resampling.BILINEAR))
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def multiply_adds(network: Any) -> dict[str, float]:
    """Multiply-adds a pixel, by hand: each weight once where every layer runs once a pixel, and how often in the other ways.

    Patch by patch a layer of s pixels' stride before it answers at all its positions in a patch; stitched, it runs for each of the
    stride² shifts at a 1/s² of the pixels.
    """
    from densemtmd.dense import Dense

    dense, before = Dense(network), 1
    counts = {"dense": 0.0, "shift and stitch": 0.0}
    for step in dense.steps:
        weights = getattr(step.layer, "weight", None)
        if weights is not None and weights.ndim > 1:
            counts["dense"] += weights.numel()
            counts["shift and stitch"] += weights.numel() * (dense.stride / before / step.stride) ** 2
        before *= step.stride
    return {**counts, "patch by patch": strided_multiply_adds(network, 1)}


def strided_multiply_adds(network: Any, outputs: int) -> float:
    """Multiply-adds an output of a strided pass over a crop with so many outputs along a side."""
    from densemtmd.dense import Dense

    dense, total = Dense(network), 0.0
    size = (dense.geometry.pixels(outputs),) * 2
    for step in dense.steps:
        weights = getattr(step.layer, "weight", None)
        size = step.outputs(size)
        if weights is not None and weights.ndim > 1:
            total += weights.numel() * size[0] * size[1]
    return total / outputs**2


def first_tile(image: np.ndarray, device: Any) -> tuple[slice, slice]:
    """The rows and columns of the picture's first tile."""
    from densemtmd import inference

    most = inference.TILE.get(device.type, inference.TILE["cuda"])
    rows, columns = (inference.pieces(size, at_most)[0] for size, at_most in zip(image.shape[:2], most, strict=True))
    return rows, columns


def first_strip(image: np.ndarray, predictor: Any) -> np.ndarray:
    """The picture's first strip of rows, as the predictor's dense pass cuts them."""
    from densemtmd import inference

    height, width = image.shape[:2]
    return image[inference.strips(height, width, predictor.device, labeller_of(predictor).grain)[0]]


def labeller_of(predictor: Any) -> Any:
    """What the predictor's first network labels pictures with."""
    return predictor.labeller(predictor.networks[0])
