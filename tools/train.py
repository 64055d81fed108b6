"""Train networks on several datasets, each in its own labelset, and score them.

python tools/train.py                                          # the street world: seven labelsets, one network
python tools/train.py strategy=nf                              # the baseline: a network per labelset
python tools/train.py data=stanford data_root=~/data train.minutes=10
python tools/train.py protocol=paper train.outputs=2000000     # minibatches of 128 patches, as the paper trains
python tools/train.py seed=0,1,2 strategy=nf,jt                # six runs, one after the other
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densemtmd.cli import tool
from densemtmd.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = ("data", "model", "strategy", "protocol")
"""Folders of conf/: one file is chosen from each."""


def help_page() -> str:
    """What there is to choose and to set, from where it is declared."""
    from densemtmd.runs import RunSettings

    lines = [(__doc__ or "").rstrip(), "", "Choices (files in conf/):"]
    lines += [f"  {group}={'|'.join(sorted(path.stem for path in (CONF / group).glob('*.yaml')))}" for group in GROUPS]
    lines += ["", "Settings:"]

    def settings(of: type, prefix: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for f in dataclasses.fields(of):
            if dataclasses.is_dataclass(f.default_factory):
                found += settings(f.default_factory, f"{prefix}{f.name}.")
            elif f.metadata:
                value = (
                    "" if f.default in (None, dataclasses.MISSING) else str(f.default).lower() if isinstance(f.default, bool) else f.default
                )
                found.append((f"{prefix}{f.name}={value}", f.metadata["help"]))
        return found

    return "\n".join([*lines, *(f"  {name:32} {text}" for name, text in settings(RunSettings, ""))])


def sweep(arguments: Sequence[str]) -> list[list[str]]:
    """The runs that the arguments ask for, each as its overrides: ``seed=0,1 strategy=nf,jt`` are four, the seeds in
    the outer loop."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(arguments))
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line or ""]
        for o in parsed
    ]
    return [list(choice) for choice in itertools.product(*choices)]


def compose(overrides: Sequence[str]) -> Any:
    """The settings that the files in ``conf/`` and the overrides make, checked against their types."""
    from hydra import compose, initialize_config_dir

    declare()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(compose("train", list(overrides)))


def declare() -> None:
    """Tells Hydra the names, types and defaults of all settings."""
    from hydra.core.config_store import ConfigStore

    from densemtmd.runs import RunSettings

    ConfigStore.instance().store("schema", RunSettings)


def typed(config: Any) -> Any:
    """Hydra's configuration as the dataclass that it was declared by."""
    from omegaconf import OmegaConf

    settings = OmegaConf.to_object(config)
    settings.data_root = str(Path(settings.data_root).expanduser())
    return settings


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(help_page())
        return 0
    from densemtmd.runs import resume, run

    arguments = [argument for argument in arguments if argument != "--debug"]
    if folders := [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]:
        if len(arguments) > 1:
            raise UserError(f"resume={folders[0]} goes on with the settings of that run: give no others beside it, or start a new run")
        folder = resume(Path(folders[0]).expanduser())
    else:
        for overrides in sweep(arguments):
            folder = run(compose(overrides), overrides)
    print(f"\nlabel pictures with it: python tools/infer.py PICTURE --labelset all --checkpoint {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
