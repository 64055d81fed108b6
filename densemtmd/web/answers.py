"""What the page asks of a run's networks: labels and how sure they are, merged labelsets, hands in depth pictures.

Answers are kept for a while (:class:`Kept`), so that their files can be downloaded and merged labelsets tried on the same picture.
"""

from __future__ import annotations

import base64
import io
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densemtmd import keypoints, poses
from densemtmd.checkpoint import device_of, load_network
from densemtmd.datasets.hands.sets import hand_set
from densemtmd.datasets.pictures import MAX_PIXELS, read_picture
from densemtmd.draw.labels import class_shares, save_indexed
from densemtmd.draw.skeletons import skeleton
from densemtmd.errors import UserError
from densemtmd.files import yaml_text
from densemtmd.inference import Predictor, checkpoints_of, likeliest
from densemtmd.losses import dataset_softmax
from densemtmd.merging import Merged, load_merged
from densemtmd.tasks import Labelset, OutputSpace, harmonised

SHOWN = 1_500_000
"""Pixels of a map that a browser gets: of a larger picture every second one, every third, ...; files have them all."""

KEPT_BYTES = 1 << 30
"""Of the pictures and label maps that are kept."""


@dataclass
class Picture:
    """A picture that was asked about, and what was answered."""

    image: np.ndarray                                                # (H, W, 3) uint8
    ids: dict[str, np.ndarray] = field(default_factory=dict)         # (H, W) uint8, by the labelset, or "merged"
    labelsets: dict[str, Labelset] = field(default_factory=dict)

    def bytes(self) -> int:
        return self.image.nbytes + sum(ids.nbytes for ids in self.ids.values())


class Kept:
    """The last pictures, as many of them as fit into :data:`KEPT_BYTES`, the newest in any case."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def add(self, picture: Picture) -> str:
        """Keeps it, and lets go of old ones; returns its key, which nobody guesses."""
        key = secrets.token_hex(8)
        self._pictures[key] = picture
        while len(self._pictures) > 1 and sum(one.bytes() for one in self._pictures.values()) > KEPT_BYTES:
            self._pictures.popitem(last=False)
        return key

    def get(self, key: str) -> Picture:
        """
        Raises:
            UserError: it is not kept any longer.
        """
        if key not in self._pictures:
            raise UserError("this picture is no longer kept: drop it on the page again")
        return self._pictures[key]


@contextmanager
def on_disk(data: bytes, name: str) -> Iterator[Path]:
    """The bytes as a file of its own, for what reads files; what is said of it names the file alone."""
    with TemporaryDirectory() as folder:
        safe = "".join(c if c.isalnum() or c in " ._-" else "_" for c in Path(name).name)[-80:].lstrip(".") or "picture"
        file = Path(folder) / safe
        file.write_bytes(data)
        try:
            yield file
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "").replace(folder, "")) from None


class Pixels:
    """The networks of a run that label pictures."""

    kind = "labelset"

    def __init__(self, run: Path, device: str = "auto", max_pixels: int = MAX_PIXELS) -> None:
        self.predictor, self.max_pixels = Predictor.load(run, device), max_pixels
        self.kept = Kept()

    def about(self) -> list[dict[str, Any]]:
        """Its labelsets, of which labels of one name have one colour."""
        return [_about(task) for task in harmonised([t for t in self.predictor.space.tasks if isinstance(t, Labelset)], all_of_them=True)]

    def label(self, data: bytes, name: str) -> dict[str, Any]:
        """What a picture's file shows, under every labelset."""
        with on_disk(data, name) as file:
            picture = Picture(read_picture(file, self.max_pixels))
        maps = {task.name: _Map(task, picture.image.shape[:2]) for task in self.predictor.space.tasks if isinstance(task, Labelset)}
        for network, rows, columns, logits in self.predictor.logits(picture.image, list(maps)):
            probabilities = dataset_softmax(logits[None].float(), network.space)[0]
            for own in network.space.names:
                maps[own].put(rows, columns, probabilities[network.space.slice(own)])
        for own, one in maps.items():
            picture.ids[own], picture.labelsets[own] = one.ids, one.labelset
        height, width = picture.image.shape[:2]
        return {
            "key": self.kept.add(picture), "width": width, "height": height, "step": _step(height, width),
            "picture": _jpeg(picture.image), "answers": [one.told() for one in maps.values()],
        }  # fmt: skip

    def merge(self, key: str, wanted: Any) -> dict[str, Any]:
        """The same picture under a merged labelset.

        Args:
            key: of the picture.
            wanted: ``{"name": ..., "labels": {"car": ["a.car", "b.vehicle"], "background": "rest"}}``, as its YAML says.

        Raises:
            UserError: it is none; the picture is no longer kept.
        """
        text, merged = merged_of(wanted, self.predictor.space)
        picture = self.kept.get(key)
        one = _Map(merged.labelset, picture.image.shape[:2])
        for rows, columns, fused in self.predictor.fused(picture.image, merged):
            one.put(rows, columns, fused)
        picture.ids["merged"], picture.labelsets["merged"] = one.ids, merged.labelset
        return {"answer": {**one.told(), "key": "merged"}, "about": {**_about(merged.labelset), "key": "merged"}, "yaml": text}

    def png(self, key: str, labelset: str) -> bytes:
        """Class ids in the labelset's palette, as ``densemtmd infer`` writes them."""
        picture = self.kept.get(key)
        if labelset not in picture.ids:
            raise UserError(f"the picture was not labelled under {labelset!r}")
        with TemporaryDirectory() as folder:
            file = Path(folder) / "answer.png"
            save_indexed(file, picture.ids[labelset], picture.labelsets[labelset].palette)
            return file.read_bytes()


class Hands:
    """The networks of a run that find a hand's keypoints."""

    kind = "keypoints"

    def __init__(self, run: Path, device: str = "auto") -> None:
        self.device = device_of(device)
        self.networks = [load_network(file).to(self.device) for file in checkpoints_of(run)]

    def about(self) -> list[dict[str, Any]]:
        return [{"key": name, "name": name, "labels": list(n.space[name].channel_names)} for n in self.networks for name in n.space.names]

    def label(self, data: bytes, name: str) -> dict[str, Any]:
        """The hand in a depth picture's file, as each dataset annotates one."""
        with on_disk(data, name) as file:
            depth, seen_by = poses.read_any_depth(file)
            cube = poses.cube_in(depth, seen_by, None, file.name)
        answers = []
        for task, xyz in poses.hand_in(self.networks, [one["name"] for one in self.about()], depth, seen_by, cube, self.device).items():
            hands, uvd = hand_set(task), seen_by.camera.to_uvd(xyz)
            drawn = skeleton(depth, uvd, hands, title=task, box=cube.box(seen_by.camera))
            told = keypoints.coordinates(hands.keypoints.keypoints, uvd, xyz)
            answers.append({"key": task, "picture": _png(drawn), "keypoints": told})
        height, width = depth.shape
        return {"key": "", "width": width, "height": height, "answers": answers}


def open_run(run: Path, device: str = "auto", max_pixels: int = MAX_PIXELS) -> Pixels | Hands:
    """The networks of a run's folder.

    Raises:
        UserError: no checkpoint there, or a damaged one.
    """
    if load_network(checkpoints_of(run)[0]).space.kind == Hands.kind:
        return Hands(run, device)
    return Pixels(run, device, max_pixels)


def merged_of(wanted: Any, space: OutputSpace) -> tuple[str, Merged]:
    """A merged labelset as text, its YAML, and read from there.

    Raises:
        UserError: what is wrong with it, in the words of :func:`densemtmd.merging.load_merged`.
    """
    text = yaml_text(wanted, lists_in_lines=True)
    with on_disk(text.encode(), "merged.yaml") as file:
        return text, load_merged(file, space)


class _Map:
    """A label map, made part by part: class ids, and the probability of each pixel's label in 255ths."""

    def __init__(self, labelset: Labelset, size: tuple[int, ...]) -> None:
        self.labelset = labelset
        self.ids, self.sure = np.empty(size, np.uint8), np.empty(size, np.uint8)

    def put(self, rows: slice, columns: slice, probabilities: Tensor) -> None:
        """Those of a part, (L, rows, columns)."""
        self.ids[rows, columns] = likeliest(probabilities).cpu().numpy()
        self.sure[rows, columns] = (probabilities.amax(0) * 255).round().to(torch.uint8).cpu().numpy()

    def told(self) -> dict[str, Any]:
        """For the page: a picture of ids in red and probabilities in green, and the share of each label in percent."""
        step = _step(*self.ids.shape)
        small = np.stack([self.ids[::step, ::step], self.sure[::step, ::step], np.zeros_like(self.ids[::step, ::step])], axis=-1)
        return {"key": self.labelset.name, "map": _png(Image.fromarray(small)), "shares": class_shares(self.ids, self.labelset)}


def _about(task: Labelset) -> dict[str, Any]:
    return {"key": task.name, "name": task.name, "labels": list(task.labels), "colours": [list(colour) for colour in task.palette]}


def _step(height: int, width: int) -> int:
    """Of a picture every so many-th pixel is shown."""
    return max(1, int(np.ceil((height * width / SHOWN) ** 0.5)))


def _png(picture: Image.Image) -> str:
    return _url(picture, "PNG", "image/png", compress_level=2)


def _jpeg(image: np.ndarray) -> str:
    step = _step(*image.shape[:2])
    return _url(Image.fromarray(image).reduce(step), "JPEG", "image/jpeg", quality=90)


def _url(picture: Image.Image, format: str, mime: str, **how: Any) -> str:
    data = io.BytesIO()
    picture.save(data, format, **how)
    return f"data:{mime};base64,{base64.b64encode(data.getvalue()).decode()}"
