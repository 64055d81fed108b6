"""The networks that can be trained, and :func:`build`, which makes one from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densemtmd.errors import UserError
from densemtmd.network import JointNetwork
from densemtmd.tasks import OutputSpace, nearest

ENCODER_DECODERS = ("encoder_decoder", "unet", "fpn", "deeplabv3plus", "segformer", "upernet")
"""Names of one class of network, whose ``decoder`` says which it is."""

NAMES = ("patchnet", "handnet", "frozen", "tuned", *ENCODER_DECODERS)


def build(model: Mapping[str, Any], space: OutputSpace, pretrained: bool = True) -> JointNetwork:
    """The network that ``model`` describes (a choice of ``conf/model/``, or what a checkpoint carries), as it is before it learns.

    Args:
        model: ``name`` and the settings that the network's constructor takes.
        space: the tasks it answers.
        pretrained: give the encoder that it may have the weights that ``model.weights`` names. Not for a checkpoint, which has its own
            and must not need that file, and not on the device ``meta``, where there are none.

    Raises:
        UserError: an unknown name or setting, or pretrained weights that are not there.
    """
    network = fresh(model, space)
    if pretrained and not any(p.is_meta for p in network.parameters()):
        network.load_pretrained()
    return network


def fresh(model: Mapping[str, Any], space: OutputSpace) -> JointNetwork:
    """The network that ``model`` describes with random weights, pretrained ones left out."""
    settings = dict(model)
    if "name" not in settings:
        raise UserError("the model cannot be built, it has no 'name': expected model.name and the settings of that network")
    name = settings.pop("name")
    if name not in NAMES:
        raise UserError(f"unknown model.name {name!r}; {nearest(str(name), NAMES)}")
    try:
        network: JointNetwork = network_of(name)(space, **settings)
        return network
    except TypeError as error:
        raise UserError(f"model {name!r} does not take these settings: {error}") from None


def network_of(name: str) -> Any:
    """The class of a network, which takes the space and settings; imported when it is asked for, since some need libraries that the core
    does without."""
    if name == "handnet":
        from densemtmd.backbones.handnet import HandNet

        return HandNet
    if name in ("frozen", "tuned"):
        from densemtmd.backbones.frozen import Hypercolumn

        return Hypercolumn
    if name in ENCODER_DECODERS:
        from densemtmd.backbones.encoder_decoder import EncoderDecoder

        return EncoderDecoder
    from densemtmd.backbones.patchnet import PatchNet

    assert name == "patchnet"
    return PatchNet
