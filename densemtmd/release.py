"""Networks that are handed on: the weights of a finished run in half precision, with a card that says what they are.

What is written has the form of a run's folder, so that everything that takes one takes it too, and of a repository on the Hugging Face Hub
(:mod:`densemtmd.hub`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densemtmd import checkpoint
from densemtmd.compare.reading import Run, read_run
from densemtmd.compare.statistics import estimates
from densemtmd.compare.tables import signed
from densemtmd.draw.tables import markdown
from densemtmd.errors import UserError
from densemtmd.files import read_yaml, write_json, write_text
from densemtmd.inference import checkpoints_of
from densemtmd.origin import told
from densemtmd.tasks import OutputSpace, Task
from densemtmd.worlds.choice import rendered_names

TIME = r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-"
"""With which the name of a run's folder begins."""

KEPT = ("space", "model", "parts", "pretrained")
"""What a released checkpoint says of its network; how it was trained stands in the card."""

CLOSE = 2.0**-10
"""The error that half precision may make of a tensor's numbers, relative to the largest of them; of variances, which divide, to each."""


def release(run: str | Path, out: str | Path, about: str = "") -> list[Path]:
    """Writes the networks of a finished run to be handed on.

    Args:
        run: its folder.
        out: the folder to write: ``best.safetensors`` (of a run with several networks each in a folder of its own), the card
            ``README.md``, and ``config.json``.
        about: what the card says of the network besides: what it is for, and what it cannot do.

    Returns:
        The checkpoints that were written.

    Raises:
        UserError: no finished run there, or what cannot be written.
    """
    run, out = Path(run), Path(out)
    if run.resolve() == out.resolve():
        raise UserError(f"{out} is the folder of the run itself, expected another one: its weights would be overwritten")
    read, written, described = read_run(run), [], []
    for file in checkpoints_of(run):
        tensors, header = checkpoint.load(file)
        weights = {name: halved(name, tensor) for name, tensor in tensors.items() if name.startswith(checkpoint.WEIGHTS)}
        described.append(header)
        written.append(out / file.relative_to(run))
        checkpoint.save(written[-1], weights, {key: header[key] for key in KEPT if key in header})
    spaces = [header["space"] for header in described]
    write_json(out / "config.json", {"library": "densemtmd", "model": read.config["model"], "spaces": spaces})  # by it the Hub counts
    write_text(out / "README.md", card(read, described, about))
    return written


def halved(name: str, tensor: Tensor) -> Tensor:
    """A named tensor of a state dict in half precision, or as it is where that would lose more than rounding does."""
    if tensor.dtype != torch.float32:
        return tensor
    half, size = tensor.half(), tensor.abs()
    most = CLOSE * (size if name.endswith("running_var") or not size.numel() else size.amax())
    return half if bool(((half.float() - tensor).abs() <= most).all()) else tensor


def card(run: Run, described: list[dict[str, Any]], about: str) -> str:
    """What a released network is, as markdown, with the first lines that the Hugging Face Hub reads.

    Args:
        run: that it comes from.
        described: the headers of its checkpoints.
        about: see :func:`release`.
    """
    spaces = [OutputSpace.from_json(header["space"], [run.kind.task]) for header in described]
    tasks = {task.name: task for space in spaces for task in space.tasks}
    licences = sorted({header["pretrained"]["licence"] for header in described if header.get("pretrained")})
    head = ["library_name: densemtmd", *([f"license: {licences[0].lower()}"] if len(licences) == 1 and licences[0] != "unknown" else [])]
    parts = [
        "---\n" + "\n".join([*head, "tags: [image-segmentation]" if run.kind.merges else "tags: [keypoint-detection]"]) + "\n---",
        f"# {re.sub(TIME, '', run.folder.name)}",
        f"Made with densemtmd {metadata.version('densemtmd')}. Label a picture with it: `densemtmd infer PICTURE --checkpoint FOLDER`, "
        "the folder that holds this file.",
        *([about.strip()] if about.strip() else []),
        f"## What it answers\n\n{markdown(['labelset', 'labels'], [[name, named(task)] for name, task in tasks.items()])}",
        f"## Scores\n\n{run.kind.measured(run.scores, run.split)}; in brackets the 95 % interval over other pictures (videos) of the same "
        f"kind, for these weights in full precision.\n\n{scores(run)}",
        f"## How it was made\n\n{told(run.made) or 'The run does not say.'}\n\n{data_table(run)}",
        *(f"It began with {began(header['pretrained'])}." for header in described[:1] if header.get("pretrained")),
    ]
    return "\n\n".join(parts) + "\n"


def named(task: Task) -> str:
    """The names of a task's channels in a row."""
    return ", ".join(task.channel_names)


def began(pretrained: Mapping[str, Any]) -> str:
    """What is known of the weights that a network began with."""
    return f"{pretrained['name']} (licence: {pretrained['licence']}; SHA-256 {pretrained['digest'][:16]}…)"


def scores(run: Run) -> str:
    """Each dataset's scores with their intervals, as a table."""
    columns = {name: (name,) for name in run.datasets}
    found = estimates([run], columns)
    cell = {key: signed(one, next(m.digits for m in run.measures if m.key == key[1])).lstrip("+").replace("[+", "[").replace("+", "")
            for key, one in found.items()}  # fmt: skip
    head = ["", *(measure.name for measure in run.measures), "test pictures"]
    rows = [
        [name, *(cell.get((name, measure.key), "–") for measure in run.measures), str(len(run.found[name]))] for name in columns
    ]
    return markdown(head, rows)


def data_table(run: Run) -> str:
    """What each dataset is and where it is from, as its YAML says."""
    found = read_yaml(run.folder / "config.yaml", "the settings of a run").get("found", {})
    rendered, rows = rendered_names(run.config["data"]), []
    for name in run.datasets:
        yaml = found.get(name, {}).get("yaml", {})
        lists = run.folder / "splits" / name / "train.txt"
        where = str(yaml.get("where") or "").replace("\n", " ").replace("|", "/")
        count = len(lists.read_text("utf-8").splitlines()) if lists.is_file() else 0
        rows.append([name, str(count), "rendered by densemtmd" if name in rendered else where or "–"])
    return markdown(["dataset", "pictures that it learned from", "where they are from"], rows)
