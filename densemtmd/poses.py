"""Hands through the networks: answers about hands, their errors, and one hand in any depth picture.

Shapes: ``N`` hands, ``J`` keypoints, ``S`` pixels along a side of a crop, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from densemtmd.datasets.hands import icvl, nyu
from densemtmd.datasets.hands.crop import Cube, crop
from densemtmd.datasets.hands.dataset import Hands
from densemtmd.datasets.hands.locate import locate
from densemtmd.datasets.hands.mixing import HandMixture, as_seen
from densemtmd.datasets.hands.sets import HAND_SETS, HandSet
from densemtmd.datasets.pictures import open_picture
from densemtmd.errors import UserError
from densemtmd.keypoints import Errors, distances
from densemtmd.network import JointNetwork

AT_ONCE = 250
"""Hands that are answered in one piece."""


def size_of(network: JointNetwork) -> int:
    """S, the side of the crops that a network takes.

    Raises:
        UserError: it is no network for hands.
    """
    size = getattr(network, "size", None)
    if not isinstance(size, int):
        raise UserError(f"{type(network).__name__} takes no crops of hands: choose model=handnet for keypoints")
    return size


def answers(network: JointNetwork, keypoints: str, images: np.ndarray, device: torch.device) -> np.ndarray:
    """The coordinates of one keypoint set in crops: (N, S, S) float32 -> (N, J, 3) float64, in halves of the cube's side.

    The network is put in eval mode for the time and back.
    """
    training = network.training
    network.eval()
    own = network.space.slice(keypoints)
    with torch.inference_mode():
        parts = [network(part[:, None].to(device))[:, own] for part in torch.from_numpy(images).split(AT_ONCE)]
    network.train(training)
    return torch.cat(parts).flatten(1).double().cpu().numpy().reshape(len(images), -1, 3)


def errors_of(
    network: JointNetwork,
    keypoints: str,
    hands: Hands,
    annotator: HandSet,
    device: torch.device,
    tick: Callable[[int], object] = lambda count: None,
) -> Errors:
    """How far a network's answers are from the keypoints of hands.

    Args:
        network: which answers.
        keypoints: one of its keypoint sets, which annotates the hands.
        hands: the N of them.
        annotator: for the camera, in whose native pixels errors are measured too.
        device: where the network is.
        tick: called with the number of hands that are done.
    """
    xyz = np.empty_like(hands.xyz)
    for first in range(0, len(hands), AT_ONCE):
        part = hands.take(range(first, min(first + AT_ONCE, len(hands))))
        xyz[first : first + AT_ONCE] = found_in(network, keypoints, part, part.cube, device)
        tick(len(part))
    return _errors(xyz, hands, annotator)


def fitted(
    network: JointNetwork, mixture: HandMixture, batches: int, annotators: Mapping[str, HandSet], device: torch.device
) -> dict[str, Errors]:
    """How far the answers to the first batches of a mixture are off: dataset -> errors of its hands, as often as they were drawn.

    Args:
        network: which answers.
        mixture: what it learns from.
        batches: so many of them.
        annotators: of each dataset.
        device: where the network is.
    """
    errors: dict[str, list[Errors]] = {source.name: [] for source in mixture.sources}
    for step in range(batches):
        for source, (hands, cube) in zip(mixture.sources, mixture.drawn(step), strict=True):
            annotator = annotators[source.name]
            errors[source.name].append(_errors(found_in(network, annotator.name, hands, cube, device), hands, annotator))
    return {name: Errors(np.concatenate([e.mm for e in of]), np.concatenate([e.px for e in of])) for name, of in errors.items()}


def found_in(network: JointNetwork, keypoints: str, hands: Hands, cube: Cube, device: torch.device) -> np.ndarray:
    """The keypoints (N, J, 3) in mm of hands that are seen in some cubes."""
    return cube.denormalise(answers(network, keypoints, as_seen(hands, size_of(network), cube), device))


def _errors(xyz: np.ndarray, hands: Hands, annotator: HandSet) -> Errors:
    camera = annotator.camera
    return Errors(distances(xyz, hands.xyz), distances(camera.to_uvd(xyz)[..., :2], camera.to_uvd(hands.xyz)[..., :2]))


def errors_across(
    networks: Sequence[JointNetwork],
    hands: Hands,
    truth: Mapping[str, np.ndarray],
    annotator: HandSet,
    device: torch.device,
    tick: Callable[[int], object] = lambda count: None,
) -> dict[str, Errors]:
    """How far networks' answers under each keypoint set are from the truth, on hands that one dataset shows: who annotated them matters
    for the cube and the camera alone.

    Args:
        networks: which answer, each about its keypoint sets.
        hands: the N of them.
        truth: of each keypoint set (N, J, 3) mm.
        annotator: who showed them.
        device: where the networks are.
        tick: called with the number of answers that are scored.
    """
    return {
        task: errors_of(network, task, replace(hands, xyz=truth[task]), annotator, device, tick)
        for network in networks
        for task in network.space.names
        if task in truth
    }


def read_any_depth(path: str | Path) -> tuple[np.ndarray, HandSet]:
    """A depth picture as NYU or as ICVL stores them, told apart by its bits, and the dataset whose camera is then assumed.

    Raises:
        UserError: neither of both, or of another size than that camera's.
    """
    path = Path(path)
    with open_picture(path) as picture:
        mode = picture.mode
    if mode != "RGB" and not mode.startswith("I"):
        raise UserError(f"{path} is no depth picture (it is of Pillow's mode {mode}), expected 16 bits of grey or NYU's colours")
    hands = HAND_SETS["nyu" if mode == "RGB" else "icvl"]
    depth = nyu.read_depth(path) if mode == "RGB" else icvl.read_depth(path)
    (height, width), camera = depth.shape, hands.camera
    if (width, height) != (camera.width, camera.height):
        whose = f"{camera.width}×{camera.height} as {hands.name.upper()}'s camera gives"
        raise UserError(f"{path} is of {width}×{height} pixels, expected {whose}: of another camera no millimetres are known")
    return depth, hands


def cube_in(depth: np.ndarray, camera: HandSet, start: np.ndarray | None = None, name: str = "the depth picture") -> Cube:
    """The cube about the hand in a depth picture (H, W) in mm.

    Args:
        depth: 0 where there is no reading.
        camera: the dataset whose camera saw it, and whose cube it is.
        start: (3,) the centre of the hand, x, y, z in mm; None or NaN: it is looked for.
        name: of the picture, for the message.

    Raises:
        UserError: there is no hand in the picture, or not about the centre.
    """
    return Cube(locate(depth, camera.camera, camera.cube, start, name), np.array(camera.cube))


def hand_in(
    networks: Sequence[JointNetwork],
    keypoints: Sequence[str],
    depth: np.ndarray,
    camera: HandSet,
    cube: Cube,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """The keypoints of the hand in a depth picture.

    Args:
        networks: which answer, each about its keypoint sets.
        keypoints: the sets to answer.
        depth: (H, W) mm, 0 where there is no reading.
        camera: the dataset whose camera saw it.
        cube: the one about the hand: see :func:`cube_in`.
        device: where the networks are.

    Returns:
        Of each set (J, 3) x, y, z in mm.
    """
    found = {}
    for network in networks:
        for task in keypoints:
            if task in network.space.names:
                image = crop(depth, camera.camera, cube, size_of(network))
                found[task] = cube.denormalise(answers(network, task, image[None], device)[0])
    return found
