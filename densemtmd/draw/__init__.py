"""What densemtmd shows: label maps (``labels.py``), figures (``figures.py``) and hands (``skeletons.py``)."""

from densemtmd.draw.figures import (
    confusion_figure,
    correlation_figure,
    curves_figure,
    differences_figure,
    label_curve_figure,
    labels_figure,
    labelsets_figure,
    within_figure,
)
from densemtmd.draw.labels import class_shares, colourise, note_of, overlay, painted, preview, save_indexed, save_png, sheet
from densemtmd.draw.skeletons import crop_skeleton, skeleton

__all__ = [
    "class_shares",
    "colourise",
    "confusion_figure",
    "correlation_figure",
    "crop_skeleton",
    "curves_figure",
    "differences_figure",
    "label_curve_figure",
    "labels_figure",
    "labelsets_figure",
    "note_of",
    "overlay",
    "painted",
    "preview",
    "save_indexed",
    "save_png",
    "sheet",
    "skeleton",
    "within_figure",
]
