"""timm and segmentation-models-pytorch, imported beside whatever build of torch there is.

Both import torchvision, and use next to nothing of it. Its wheels are built against the CUDA build of torch: beside a CPU build
their compiled operators do not load, and ``import torchvision`` ends with ``operator torchvision::nms does not exist``, since it registers
what the operators ``nms`` and ``qnms`` do on fake tensors before anything else (pytorch/vision issues 9077 and 9085). It is enough
that the two operators are *declared*, which is done here, and only after a plain import has failed: where torchvision works, nothing is
touched. What it computes in Python works then; ``nms`` itself, of object detection, still does not, and is not used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from densemtmd.errors import UserError

SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
"""Of torchvision's C++ sources."""

_declared: list[torch.library.Library] = []
"""A declaration lasts as long as this object of it."""


def import_torchvision() -> ModuleType:
    """torchvision, whose operators need not be there.

    Raises:
        ImportError: it is not installed, or fails to import for another reason than its operators.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise ImportError(f"torchvision cannot be imported: {error}") from error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported: the second try would find these and go on with what they lack
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """timm, the encoders.

    Raises:
        UserError: it cannot be imported; says what to install.
    """
    return _imported("timm")


def import_smp() -> ModuleType:
    """segmentation-models-pytorch, the decoders.

    Raises:
        UserError: it cannot be imported; says what to install.
    """
    return _imported("segmentation_models_pytorch")


def _imported(name: str) -> ModuleType:
    try:
        import_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"pretrained encoders need {name}, which cannot be imported here ({error}): "
            "pip install -c constraints.txt 'densemtmd[backbones]', or train the paper's network, model=patchnet, which needs none"
        ) from None
