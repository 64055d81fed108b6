"""How far answers are from the true keypoints: in millimetres, in pixels, and as the share of frames in which all are near.

Shapes: ``N`` frames, ``J`` keypoints, ``T`` thresholds. A keypoint whose error is NaN is not known, and does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLDS = (10, 20, 30, 40, 50, 80)
"""mm: of the shares of frames that tables show."""


def distances(answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of points (N, J, 2) in pixels or (N, J, 3) in mm how far they are from the true ones: (N, J)."""
    return np.linalg.norm(np.asarray(answers, float) - np.asarray(truth, float), axis=-1)


def within(errors: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """The share of the frames whose worst keypoint is at most so far away, in percent.

    Args:
        errors: (N, J), mm.
        thresholds: (T,), mm.

    Returns:
        (T,) in 0..100, rising with the thresholds; NaN where there is no frame.
    """
    known = errors[~np.isnan(errors).all(1)]
    if not len(known):
        return np.full(len(thresholds), np.nan)
    return 100 * (np.nanmax(known, 1)[:, None] <= np.asarray(thresholds, float)).mean(0)


@dataclass(frozen=True)
class Errors:
    """The errors of answers on some frames, (N, J) each."""

    mm: np.ndarray  # 3D distance
    px: np.ndarray  # 2D distance in the native picture


@dataclass(frozen=True)
class KeypointScores:
    """Mean errors over frames, of each the mean over its keypoints. NaN where there is nothing to score, or no sense in a mean."""

    mm: float
    px: float
    frames: int

    def line(self) -> str:
        """``12.24 mm  5.02 px``"""
        return f"{self.mm:6.2f} mm  {self.px:6.2f} px"

    def to_json(self) -> dict[str, Any]:
        return {"mm": _number(self.mm), "px": _number(self.px), "frames": self.frames}


def scores(errors: Iterable[Errors]) -> KeypointScores:
    """Scores of one dataset, or of several together: the mean over all their frames, as Table 6 pools them.

    Pixels of several datasets are not pooled: their pictures differ in resolution, and "combining pixel error over datasets is not
    meaningful".
    """
    parts = [e for e in errors if np.isfinite(e.mm).any()]
    if not parts:
        return KeypointScores(np.nan, np.nan, 0)
    mm = np.concatenate([_per_frame(e.mm) for e in parts])
    px = _per_frame(parts[0].px).mean() if len(parts) == 1 else np.nan
    return KeypointScores(float(mm.mean()), float(px), len(mm))


def _per_frame(errors: np.ndarray) -> np.ndarray:
    """Of each frame with a known keypoint the mean over its keypoints."""
    return np.nanmean(errors[~np.isnan(errors).all(1)], 1)


def report(errors: Mapping[str, Errors], keypoints: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What ``scores.json`` holds: for each dataset its scores, shares of good frames, each keypoint's errors; ``pooled`` over all frames.

    Args:
        errors: of each dataset.
        keypoints: of each dataset the names of its J keypoints.
    """
    datasets = {}
    for name, error in errors.items():
        good = zip(THRESHOLDS, within(error.mm, THRESHOLDS), strict=True)
        joints = zip(keypoints[name], _per_keypoint(error.mm), _per_keypoint(error.px), strict=True)
        datasets[name] = {
            **scores([error]).to_json(),
            "within": {f"{threshold} mm": _number(float(share)) for threshold, share in good},
            "keypoints": {keypoint: {"mm": _number(mm), "px": _number(px)} for keypoint, mm, px in joints},
        }
    return {"pooled": scores(errors.values()).to_json(), "datasets": datasets}


def cross_report(errors: Mapping[str, Mapping[str, Errors]], keypoints: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What ``cross.json`` holds: the scores of each keypoint set's answers on each dataset's pictures, and over all pictures.

    Args:
        errors: keypoint set -> dataset whose pictures they are -> errors.
        keypoints: of each set the names of its J keypoints.

    Returns:
        ``answers`` (set -> dataset -> scores as in :func:`report`, and ``worst``: the mean over frames of the error of their worst
        keypoint, mm); ``all`` (set -> scores over all pictures); ``pooled``: over all sets and pictures.
    """
    answers = {}
    for task, on in errors.items():
        answers[task] = report(on, dict.fromkeys(on, keypoints[task]))["datasets"]
        for dataset, error in on.items():
            answers[task][dataset]["worst"] = _number(float(error.mm.max(1).mean()))
    return {
        "answers": answers,
        "all": {task: scores(on.values()).to_json() for task, on in errors.items()},
        "pooled": scores([error for on in errors.values() for error in on.values()]).to_json(),
    }


def coordinates(names: Sequence[str], uvd: np.ndarray, xyz: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """One hand as JSON holds it: of each keypoint ``px``, column and row in the native picture, and ``mm``, x, y (upwards), z.

    Args:
        names: of the J keypoints.
        uvd: (J, 3) column, row, depth.
        xyz: (J, 3) mm.

    >>> coordinates(["palm"], np.array([[320.0, 200.5, 700]]), np.array([[0.0, 47.12, 700]]))
    {'palm': {'px': [320.0, 200.5], 'mm': [0.0, 47.12, 700.0]}}
    """
    rows = zip(names, np.round(uvd[:, :2], 2).tolist(), np.round(xyz, 2).tolist(), strict=True)
    return {name: {"px": px, "mm": mm} for name, px, mm in rows}


def _per_keypoint(errors: np.ndarray) -> list[float]:
    """Of each keypoint the mean over the frames in which it is known."""
    return [float(column[~np.isnan(column)].mean()) if not np.isnan(column).all() else np.nan for column in errors.T]


def _number(value: float) -> float | None:
    """NaN is no JSON: a score that does not exist is null."""
    return None if np.isnan(value) else value
