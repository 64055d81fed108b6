"""The networks that can be trained, and :func:`build`, which makes one from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densemtmd.errors import UserError
from densemtmd.network import JointNetwork
from densemtmd.tasks import OutputSpace, nearest


def build(model: Mapping[str, Any], space: OutputSpace) -> JointNetwork:
    """The network that ``model`` describes (a choice of ``conf/model/``, or what a checkpoint carries), with fresh
    weights.

    Args:
        model: ``name`` and the settings that the network's constructor takes.
        space: the tasks it answers.

    Raises:
        UserError: an unknown name or setting.
    """
    from densemtmd.backbones.handnet import HandNet
    from densemtmd.backbones.patchnet import PatchNet

    networks = {"patchnet": PatchNet, "handnet": HandNet}
    settings = dict(model)
    if "name" not in settings:
        raise UserError("the model cannot be built, it has no 'name': expected model.name and the settings of that network")
    name = settings.pop("name")
    if name not in networks:
        raise UserError(f"unknown model.name {name!r}; {nearest(name, networks)}")
    try:
        return networks[name](space, **settings)
    except TypeError as error:
        raise UserError(f"model {name!r} does not take these settings: {error}") from None
