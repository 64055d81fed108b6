"""Train networks on several datasets, each in its own labelset, and score them.

python tools/train.py
    the street world, rendered first: seven labelsets, one network
python tools/train.py strategy=nf
    the baseline: a network per labelset
python tools/train.py data=stanford data_root=~/data train.minutes=10
python tools/train.py protocol=paper train.outputs=2000000
    minibatches of 128 patches, as the paper trains
python tools/train.py seed=0,1,2 strategy=nf,jt
    six runs, one after the other
python tools/train.py experiment=street7
    a table: all its strategies and seeds; the same again goes on
python tools/train.py data=stanford_camvid curve=stanford
    a table: 5 to 100 % of Stanford's labels, alone and with CamVid
python tools/train.py resume=runs/my-run
    goes on with an interrupted run, also with the data elsewhere
    (data_root=...), for longer (train.epochs=40), or scored in another way

A table takes also rows=[nf,jt] seeds=[3,4] (others than its own), jobs=2 (runs
at once on this machine), name=... (of its folder), or a launcher of Hydra's.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import as_called, fitted, make_parser, say, tool
from densemtmd.errors import UserError
from densemtmd.machine import processes

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    from densemtmd.composing import Source

OPTIONS = {
    "--cfg job|hydra|all": "show the settings that would be used, and end",
    "--package NAME": "of these only a part, such as train",
    "--config-dir DIR": "a folder of your own with further choices: DIR/data/ours.yaml is data=ours",
    "--config-name NAME": "begin with NAME.yaml, there or in conf/, and not with train.yaml",
    "--multirun, -m": "hand the runs to a sweeper and a launcher of Hydra's, as in -m seed=0,1,2 hydra/launcher=joblib; with the package "
    "hydra-submitit-launcher submitit_local and submitit_slurm are launchers too",
    "--debug": "show the traceback of every error",
}
"""What there is beside choices and settings, as in other programs with Hydra."""

TABLES = ("experiment", "curve", "rows", "seeds", "jobs", "name")
"""What is said of a table itself."""


def help_page(width: int | None = None) -> str:
    """What there is to choose and to set, from where it is declared, no wider than the terminal."""
    from densemtmd.composing import GROUPS, Source
    from densemtmd.settings import RunSettings

    width = width or shutil.get_terminal_size().columns
    lines = fitted(as_called(__doc__ or "").rstrip(), width).splitlines()

    def show(name: str, text: str, column: int) -> None:
        name = f"  {name}"
        if len(name) >= column:
            lines.append(name)
            name = ""
        lines.extend(textwrap.wrap(f"{name:{column}}{text}", width, subsequent_indent=" " * column, break_on_hyphens=False))

    lines += ["", "Options:"]
    for name, text in OPTIONS.items():
        show(name, text, 28)
    lines += ["", "Choices (files in conf/):"]
    for group in (*GROUPS, "experiment"):
        show(f"{group}=", " | ".join(Source().choices(group)), 14)
    lines += ["", "Settings:"]

    def settings(of: type, prefix: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for f in dataclasses.fields(of):
            if isinstance(f.default_factory, type) and dataclasses.is_dataclass(f.default_factory):
                found += settings(f.default_factory, f"{prefix}{f.name}.")
            elif f.metadata:
                value = (
                    "" if f.default in (None, dataclasses.MISSING) else str(f.default).lower() if isinstance(f.default, bool) else f.default
                )
                found.append((f"{prefix}{f.name}={value}", f.metadata["help"]))
        return found

    for name, text in settings(RunSettings, ""):
        show(name, text, 28)
    return "\n".join(lines)


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser("", add_help=False)
    add = parser.add_argument
    add("overrides", nargs="*")
    add("-h", "--help", action="store_true")
    add("-c", "--cfg", choices=["job", "hydra", "all"])
    add("-p", "--package")
    add("-cd", "--config-dir", type=Path)
    add("-cn", "--config-name", default="train")
    add("-m", "--multirun", action="store_true")
    return parser


def show_settings(overrides: Sequence[str], source: Source, which: str, package: str | None) -> int:
    """What ``--cfg`` asks for, as YAML."""
    from omegaconf import OmegaConf, open_dict

    from densemtmd.composing import sweep
    from densemtmd.tasks import nearest

    for run in sweep(overrides):
        config = source.config(run, hydra=which != "job")
        if which == "hydra":
            with open_dict(config):
                config = OmegaConf.create({"hydra": config.hydra})
        if package:
            if (part := OmegaConf.select(config, package)) is None:
                raise UserError(f"--package is {package}, but the settings have no such part; {nearest(package, map(str, config))}")
            config = part
        print(OmegaConf.to_yaml(config) if OmegaConf.is_config(config) else config)
    return 0


def table(arguments: Sequence[str], source: Source) -> int:
    """Runs a table: ``experiment=`` or ``curve=``, with what else is said of it."""
    from densemtmd.composing import at_home, is_hydras, parse
    from densemtmd.runs.table import curve, plan_table, read_experiment, run_table

    own: dict[str, Any] = {}
    overrides, launcher = [], []
    for argument in map(at_home, arguments):
        override = parse(argument)
        if (key := override.get_key_element()) in TABLES:
            own[key] = override.value()
        elif is_hydras(argument):
            launcher.append(argument)
        elif override.is_sweep_override():
            raise UserError(f"{argument} names several values: a table has its rows, and its seeds are given as seeds=[0,1,2]")
        else:
            overrides.append(argument)
    if "experiment" in own and "curve" in own:
        raise UserError("experiment= and curve= are two tables: give one of them")
    if "experiment" in own:
        experiment = read_experiment(source.file("experiment", str(own["experiment"])))
    else:
        data = source.compose(overrides).data
        names = [Path(name).stem for name in data.datasets] + [Path(name).stem for name in ([data.add] if data.add else [])]
        experiment = curve(str(own["curve"]), names, data.name)
    rows, seeds = whole_list(own, "rows", str, "rows=[nf,jt]"), whole_list(own, "seeds", int, "seeds=[0,1,2]")
    launcher = at_once(own.get("jobs", 1), launcher)
    plan = plan_table(experiment, overrides, rows, seeds, source)
    folder = run_table(experiment, plan, Path(plan[0].settings.runs), str(own.get("name", experiment.name)), launcher, source)
    say(f"\ncompare:\n  python tools/compare.py {folder}")
    return 0


def at_once(jobs: Any, launcher: Sequence[str]) -> list[str]:
    """What ``jobs=`` stands for: joblib's processes on this machine."""
    if type(jobs) is not int:
        raise UserError(f"jobs is {jobs!r}, expected a whole number")
    if jobs < 1:
        raise UserError(f"jobs is {jobs}, expected at least 1")
    if jobs == 1:
        return list(launcher)
    if named := [argument for argument in launcher if argument.startswith("hydra/launcher=")]:
        raise UserError(f"jobs={jobs} and {named[0]} both say how runs are launched: give one of them")
    return ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}", *launcher]


def whole_list(own: dict[str, Any], key: str, kind: type, example: str) -> list[Any]:
    """What was given as a list, or as a single one; nothing where it was not given."""
    if key not in own:
        return []
    values = own[key] if isinstance(own[key], list) else [own[key]]
    if not values or not all(type(value) is kind for value in values):
        raise UserError(f"{key} is {own[key]!r}, expected {example}")
    return values


@tool
def main(argv: Sequence[str] | None = None) -> int:
    if processes() == 1:
        return train(argv)
    from densemtmd import parallel

    with parallel.joined() as first:
        return train(argv) if first else parallel.serve()


def train(argv: Sequence[str] | None) -> int:
    """What the command does, in one process or in the first of several."""
    arguments = make_arguments().parse_intermixed_args(argv)
    if arguments.help:
        print(help_page())
        return 0
    overrides = arguments.overrides
    from densemtmd.composing import Source, is_hydras, parse, sweep

    source = Source(arguments.config_dir, arguments.config_name.removesuffix(".yaml"))
    if arguments.cfg:
        return show_settings(overrides, source, arguments.cfg, arguments.package)
    from densemtmd.files import read_json
    from densemtmd.kind import kind_of_scores
    from densemtmd.runs.run import check, resume, run

    if any(argument.partition("=")[0] in ("experiment", "curve") for argument in overrides):
        return table(overrides, source)
    if folders := [argument.removeprefix("resume=") for argument in overrides if argument.startswith("resume=")]:
        if len(folders) > 1:
            raise UserError(f"resume={folders[0]} and resume={folders[1]} are two runs: go on with one at a time")
        others = [one for one in overrides if not one.startswith("resume=")]
        folder = resume(Path(os.path.expanduser(folders[0])), others)  # noqa: PTH111 (see at_home)
    elif (jobs := [one for one in overrides if one.startswith("jobs=")]) or arguments.multirun:
        from densemtmd.runs.launch import multirun

        others = [one for one in overrides if one not in jobs]
        launcher = at_once(parse(jobs[-1]).value() if jobs else 1, [one for one in others if is_hydras(one)])
        multirun([*launcher, *(one for one in others if not is_hydras(one))], source)
        return 0
    else:
        if of_hydra := [one for one in overrides if is_hydras(one)]:
            raise UserError(f"{of_hydra[0]} says how Hydra launches several runs: add -m, or leave it out")
        plans = [(source.compose(one), one) for one in sweep(overrides)]  # all of them, before the first is trained
        for settings, _ in plans:
            check(settings)
        for settings, one in plans:
            folder = run(settings, one)
    say(f"\n{kind_of_scores(read_json(folder / 'scores.json')).next_step(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
