"""What a bench measured, to read and as JSON keeps it, with what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from densemtmd.machine import cores, processor

Text = Sequence["str | Sequence[Sequence[str]]"]
"""Sentences, and tables as rows below their head."""


@dataclass(frozen=True)
class Told:
    """What a bench measured."""

    title: str
    values: dict[str, Any]  # as JSON keeps it
    text: Text              # to read

    def on_screen(self) -> str:
        from densemtmd.draw.tables import aligned

        return "\n\n".join([self.title, *(part if isinstance(part, str) else aligned(part) for part in self.text)])

    def as_markdown(self) -> str:
        from densemtmd.draw.tables import markdown

        return "\n\n".join([self.title, *(part if isinstance(part, str) else markdown(part[0], part[1:]) for part in self.text)])


def conditions() -> dict[str, Any]:
    """What the times depend on."""
    import datetime
    import platform

    import numpy
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"date": datetime.date.today().isoformat(), "cores": cores(), "threads": torch.get_num_threads(), "gpu": gpu,
            "processor": processor(), "system": platform.system(), "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__}  # fmt: skip


def megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MB"
