"""Checkpoints: one safetensors file with the weights, and in its header the JSON that says what they are. Nothing is ever unpickled.

A checkpoint carries its output space and its network's settings, so that it can be used anywhere by itself. It is written whole or not at
all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from densemtmd import backbones
from densemtmd.errors import UserError
from densemtmd.files import atomic_write
from densemtmd.kind import kinds
from densemtmd.network import JointNetwork
from densemtmd.tasks import OutputSpace

FORMAT = 1
"""Raised when older programs could no longer read what is written."""

HEADER = "densemtmd"
WEIGHTS = "network."

LARGEST = 1e18
"""The product of two larger numbers is none that float32 holds; what is learned stays far below."""


def save(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes named tensors and a JSON-serialisable description, whole or not at all.

    Raises:
        UserError: the file cannot be written (a full disk, no permission).
    """
    header = json.dumps({"format": FORMAT, **about}, allow_nan=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # As bytes: what safetensors writes itself can be read by its owner alone, and a kill leaves a file of a name of its own.
    content = to_bytes(plain, metadata={HEADER: header})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that :func:`save` wrote.

    Raises:
        UserError: no such file, not a checkpoint, damaged, from a newer version, or with numbers that no training leaves.
    """
    tensors, about = _read(Path(path), with_tensors=True)
    for name, tensor in tensors.items():
        if wrong := nonsense(name, tensor):
            raise UserError(f"{path} holds no weights that can be used, {wrong} in {name}: copy it again, or train anew")
    return tensors, about


def load_description(path: str | Path) -> dict[str, Any]:
    """The description alone, however large the tensors are.

    Raises:
        UserError: as :func:`load`, but for what is wrong with the tensors.
    """
    return _read(Path(path), with_tensors=False)[1]


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}: give a .safetensors file or a run's folder")
    if not os.access(path, os.R_OK):  # of which safetensors says that it is not there
        raise UserError(f"{path} cannot be read: Permission denied; ask whoever trained it")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about = json.loads(metadata[HEADER]) if HEADER in metadata else None
            tensors = {name: file.get_tensor(name) for name in file.keys()} if about and with_tensors else {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = shorten(str(error), 200, placeholder=" …")
        raise UserError(
            f"{path} is not a checkpoint, or a damaged one ({reason}): expected a .safetensors file written by tools/train.py"
        ) from None
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise UserError(f"{path} is a safetensors file, but not one of densemtmd: expected a checkpoint written by tools/train.py")
    if about["format"] > FORMAT:
        raise UserError(
            f"{path} was written by a newer densemtmd (format {about['format']}, this one reads up to {FORMAT}): update densemtmd"
        )
    return tensors, about


def nonsense(name: str, tensor: Tensor) -> str:
    """What makes a tensor's numbers useless, a network with which would answer anything; or nothing."""
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    plain = tensor.abs().float() if tensor.is_complex() else tensor.float()
    largest = float(plain.abs().amax())  # NaN where one of them is
    if not math.isfinite(largest):
        return "a number that is none" if math.isnan(largest) else "an infinite number"
    if largest > LARGEST:
        return f"numbers as large as {largest:.0e}"
    return "a variance below 0" if name.endswith("running_var") and float(plain.amin()) < 0 else ""


def save_network(path: str | Path, network: JointNetwork, model: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> None:
    """Writes a network that :func:`load_network` can rebuild by itself.

    Args:
        path: of the file.
        network: its weights and its output space.
        model: the settings it was built from (``densemtmd.backbones.build``).
        more: what else to tell of it, such as its scores; JSON-serialisable.
    """
    path = Path(path)
    tensors = {WEIGHTS + name: tensor for name, tensor in network.state_dict().items()}
    save(path, tensors, {**description(network, model), **(more or {})})


def description(network: JointNetwork, model: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its network, which was built from ``model``."""
    began = {} if network.pretrained is None else {"pretrained": network.pretrained}
    return {"space": network.space.to_json(), "model": dict(model), "parts": network.parts, **began}


def load_network(path: str | Path) -> JointNetwork:
    """The network of a checkpoint, in eval mode on the CPU.

    Raises:
        UserError: what :func:`load` raises, or a checkpoint whose tensors do not fit its own description.
    """
    path = Path(path)
    tensors, about = load(path)
    try:
        with torch.device("meta"):  # without memory, so that none is wasted on a description that does not fit
            space = OutputSpace.from_json(about["space"], [kind.task for kind in kinds().values()])
            network = backbones.build(about["model"], space, pretrained=False)
            add_parts(network, about.get("parts", {}))
            network.pretrained = about.get("pretrained")
        load_weights(network, tensors, assign=True)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:  # a UserError is a ValueError
        reason = f"it has no {error}" if isinstance(error, KeyError) else shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise UserError(
            f"{path} does not hold the network that it describes ({reason}): it is damaged, train again or copy it again"
        ) from None
    return network.eval()


def add_parts(network: JointNetwork, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds to a network what :attr:`JointNetwork.parts` tells of another, with fresh weights."""
    if "context" in parts:
        network.add_context(**parts["context"])
    if "discriminator" in parts:
        network.add_discriminator(**parts["discriminator"])


def load_weights(network: JointNetwork, tensors: Mapping[str, Tensor], assign: bool = False) -> None:
    """Puts the weights of a checkpoint's tensors into a network of the same form.

    Args:
        network: of whatever type; the weights are converted to it.
        tensors: of a checkpoint.
        assign: make the tensors the network's own, as one on the device ``meta`` needs it; else they are copied.

    Raises:
        RuntimeError: of another form.
    """
    weights = {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}
    for name, own in network.state_dict().items():
        if (weight := weights.get(name)) is not None:
            if weight.is_floating_point() != own.is_floating_point() or weight.is_complex():
                raise RuntimeError(f"{name} is {weight.dtype}, not {own.dtype}")
            weights[name] = weight.to(own.dtype)
    network.load_state_dict(weights, assign=assign)


def restore(path: str | Path, network: JointNetwork) -> None:
    """Gives a network the weights of its own earlier training, and what it says of those that it began with.

    What does not fit is left to :func:`densemtmd.training.load_state`, which says so.

    Raises:
        UserError: what :func:`load` raises.
    """
    tensors, about = load(path)
    with suppress(RuntimeError):
        load_weights(network, tensors)
    network.pretrained = about.get("pretrained")


def start_from(path: str | Path, network: JointNetwork, *, features_only: bool = False) -> None:
    """Puts what another network has learned into a new one; what the other does not have, such as a new part, keeps its fresh weights.

    Args:
        path: the other's checkpoint.
        network: the new one.
        features_only: take θ_f alone, and not θ_t, which is of the other's labels.

    Raises:
        UserError: what :func:`load` raises, or a network of another form.
    """
    path = Path(path)
    tensors, about = load(path)
    own = network.state_dict()
    if not features_only and about.get("space") != network.space.to_json():
        raise UserError(f"{path} answers other labels than the network that is to start from it: let it take the features alone")
    taken = {
        name.removeprefix(WEIGHTS): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{WEIGHTS}features.") or (not features_only and name.removeprefix(WEIGHTS) in own)
    }
    network.pretrained = about.get("pretrained")
    try:
        load_weights(network, {WEIGHTS + name: tensor for name, tensor in {**own, **taken}.items()})
    except RuntimeError as error:
        reason = shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{path} is of another form than the network that is to start from it ({reason}): give both one model") from None


def device_of(choice: str) -> torch.device:
    """``"auto"`` (a GPU where there is one), or the name of a device.

    Raises:
        UserError: no such device here.
    """
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(choice)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = shorten(str(error), 120, placeholder=" …")
        raise UserError(f"the device {choice!r} cannot be used here ({reason}): use auto, cpu or cuda") from None
    return device
