"""What all tests share."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from toy import undraw

from densemtmd import progress

# The networks of the tests are so small that a second thread costs more than it brings: here, and in the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


LONGEST = (
    "test_mlflow_pages", "test_wheel", "test_tool_demo", "test_launchers", "test_kill", "test_tool_bench", "test_experiments", "test_docs",
)  # fmt: skip
"""Files that take longest by far: they come first, so that no process waits at the end for the one that has them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real datasets: ``$DENSEMTMD_DATA``, else ``data/real`` in the checkout; skips without it."""
    given = os.environ.get("DENSEMTMD_DATA")
    root = Path(given) if given else Path(__file__).parents[1] / "data" / "real"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is not a folder (set DENSEMTMD_DATA)")
    return root


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of how far work is, which a busy machine would have said among what tests look at."""
    monkeypatch.setattr(progress, "FIRST", math.inf)
    monkeypatch.delenv("COLUMNS", raising=False)  # which xdist sets: nothing is folded where there is no terminal


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no figures, which take most of the time of a small one."""
    undraw(monkeypatch)
