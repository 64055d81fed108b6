"""What a run leaves behind: its folder, from which it can go on, be compared and label pictures.

A run folder ``runs/<time>-<name>/`` holds ``config.yaml`` (every setting, the datasets' own YAMLs included),
``best.safetensors`` and ``last.safetensors`` of the network that answers (one subfolder per stage where a strategy has
several), ``scores.json``, ``per_image.npz`` (each test picture's confusion matrix, from which every table can be
recomputed), ``splits/`` (who trained on what) and ``figures/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from densemtmd.data import open_configs
from densemtmd.datasets.config import is_standalone, parse_dataset_config, standalone
from densemtmd.datasets.folder import Dataset
from densemtmd.errors import UserError
from densemtmd.files import read_yaml, write_text, yaml_text
from densemtmd.settings import RunSettings, from_plain

FOUND = "found"
"""The key of ``config.yaml`` under which the datasets' own YAMLs and folders stand."""

EVALUATIONS = "evaluations"
"""The folder below a run's in which its network is scored once more, by whoever likes to, also while it trains."""


def new_folder(runs: str | Path, name: str) -> Path:
    """Makes ``<runs>/<time>-<name>``, with a number behind it where another run started in the same second."""
    runs = Path(runs)
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{name}"
    for number in range(1, 1000):
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        if make_folder(folder):
            return folder
    raise UserError(f"{runs} holds 999 runs called {stem}: give this one a name with name=")


def make_folder(folder: str | Path) -> bool:
    """Makes the folder of a run; False where there is one already."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"the run's folder {folder} cannot be made ({error.strerror}): set runs= to a folder that can be written") from None
    return True


def record(folder: str | Path, settings: RunSettings, datasets: Sequence[Dataset]) -> None:
    """Writes the lists of who trains on what, and last ``config.yaml``, with the datasets' own YAMLs and folders.

    A folder with a ``config.yaml`` is a run that has begun, with all that :func:`reopen` needs; one without it was left before that. What
    is relative to where the user stands is written in full: the run may be resumed from elsewhere.
    """
    folder = Path(folder)
    for dataset in datasets:
        for split, items in dataset.splits.items():
            write_text(folder / "splits" / dataset.name / f"{split}.txt", "".join(f"{item.key}\n" for item in items))
    write_text(folder / "config.yaml", config_text(settings, found_of(datasets)))


def found_of(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """The datasets' own YAMLs and folders, as a run's ``config.yaml`` holds them."""
    return {
        d.name: {"folder": str(d.folder.absolute()), "path": str(d.config.path.absolute()), "yaml": standalone(d.config.path)}
        for d in datasets
    }


def config_text(settings: RunSettings, found: Mapping[str, Any]) -> str:
    """What a run's ``config.yaml`` says."""
    cache = settings.cache if settings.cache in ("auto", "none") else str(Path(settings.cache).expanduser().absolute())
    settings = replace(settings, data_root=str(Path(settings.data_root).absolute()), cache=cache)
    return yaml_text({**asdict(settings), FOUND: found})


def amend(folder: Path, settings: RunSettings, datasets: Sequence[Dataset]) -> None:
    """Writes what has changed since a run was recorded: settings, and where its datasets lie now."""
    found = read_yaml(folder / "config.yaml", "the settings of a run")[FOUND]
    folders = {dataset.name: {"folder": str(dataset.folder.absolute())} for dataset in datasets}
    write_text(folder / "config.yaml", config_text(settings, {name: one | folders[name] for name, one in found.items()}))


def check_is_run(folder: Path) -> None:
    """Refuses a folder that holds no run that has begun.

    Raises:
        UserError: it has no ``config.yaml``.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"{folder} is no run's folder: it has no config.yaml; expected one that tools/train.py made, such as runs/<time>-<name>"
        )


def reopen(folder: str | Path, data_root: str | Path | None = None) -> tuple[RunSettings, list[Dataset]]:
    """The settings and datasets of a run, from its folder alone: what its YAMLs and the lists beside them said then holds, whatever they
    say now, and where they are gone.

    Args:
        folder: of the run.
        data_root: where the datasets lie now, if they have moved since.

    Raises:
        UserError: no run there, a damaged ``config.yaml``, or pictures of a split that are gone.
    """
    folder = Path(folder)
    data_root = None if data_root is None else Path(data_root)
    check_is_run(folder)
    file = folder / "config.yaml"
    with readable(file):
        settings, found = read_config(file)
        if data_root is not None:
            settings = replace(settings, data_root=str(data_root))
        from densemtmd.worlds.choice import rendered  # as in open_data

        worlds = {} if data_root is None else rendered(settings.data, data_root)
        roots = {name: worlds.get(name, data_root or Path(d["folder"])) for name, d in found.items()}
        if not all(is_standalone(d["yaml"]) for d in found.values()):
            raise ValueError("it names the YAML of another dataset, which it should hold itself")
        configs = [(parse_dataset_config(d["yaml"], Path(d["path"])), roots[name]) for name, d in found.items()]
    try:
        return settings, open_configs(configs, settings.data, folder / "splits")
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def settings_of(folder: Path) -> RunSettings:
    """The settings of a run alone.

    Raises:
        UserError: a damaged ``config.yaml``.
    """
    with readable(folder / "config.yaml"):
        return read_config(folder / "config.yaml")[0]


def read_config(file: Path) -> tuple[RunSettings, dict[str, Any]]:
    """What a run's ``config.yaml`` holds: its settings, and what it says of its datasets."""
    data = dict(read_yaml(file, "the settings of a run"))
    found = data.pop(FOUND)
    return from_plain(RunSettings, data), found


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """What a damaged ``config.yaml`` makes the block stumble over, as a sentence."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{file} cannot be read as the settings of a run ({reason}): it is damaged, or of another version") from None


def tracked(folder: str | Path) -> dict[str, str | None]:
    """The ids under which the tracker knows a run (``""``) and its stages."""
    folder = Path(folder)
    file = folder / "tracking.json"
    if not file.is_file():
        return {}
    try:
        known = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or not all(value is None or isinstance(value, str) for value in known.values()):
        raise UserError(f"{file} is damaged, expected ids of runs in MLflow: remove it, and the run goes on without MLflow")
    return known


