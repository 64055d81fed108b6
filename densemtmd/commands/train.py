"""Train networks on several datasets, each in its own labelset, and score them.

python tools/train.py                                          # the street world: seven labelsets, one network
python tools/train.py strategy=nf                              # the baseline: a network per labelset
python tools/train.py data=stanford data_root=~/data train.minutes=10
python tools/train.py protocol=paper train.outputs=2000000     # minibatches of 128 patches, as the paper trains
python tools/train.py seed=0,1,2 strategy=nf,jt                # six runs, one after the other
python tools/train.py experiment=street7                       # a table: all its strategies and seeds; the same again goes on
python tools/train.py data=stanford_camvid curve=stanford      # a table: 10 to 100 % of Stanford's labels, alone and with CamVid

A table takes also: rows=[nf,jt] seeds=[3,4] (others than its own), jobs=2 (runs at once), name=... (of its folder).
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import tool
from densemtmd.errors import UserError

if TYPE_CHECKING:  # Hydra is imported where it is used, so that --help answers at once
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("data", "model", "strategy", "protocol")
"""Folders of conf/: one file is chosen from each."""


def help_page() -> str:
    """What there is to choose and to set, from where it is declared."""
    from densemtmd.settings import RunSettings

    lines = [(__doc__ or "").rstrip(), "", "Choices (files in conf/):"]
    lines += [f"  {group}={'|'.join(choices(group))}" for group in (*GROUPS, "experiment")]
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


def choices(group: str) -> list[str]:
    """The files of a group that can be chosen."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def sweep(arguments: Sequence[str]) -> list[list[str]]:
    """The runs that the arguments ask for, each as its overrides: ``seed=0,1 strategy=nf,jt`` are four, the seeds in
    the outer loop.

    Raises:
        UserError: an argument that is not ``name=value``.
    """
    return [list(choice) for choice in itertools.product(*(each_value(at_home(argument)) for argument in arguments))]


def at_home(argument: str) -> str:
    """``data_root=~/data`` with the folder in place of ``~``, which some shells leave as it is, and Hydra cannot read."""
    name, _, value = argument.partition("=")
    return f"{name}={os.path.expanduser(value)}" if value.startswith("~") else argument  # noqa: PTH111 (of ~nobody, Path.expanduser raises)


def each_value(argument: str) -> list[str]:
    """An argument for each of its values: ``seed=0,1`` is ``seed=0`` and ``seed=1``."""
    override = parse(argument)
    if not override.is_sweep_override():
        return [argument]
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except Exception:  # what Hydra can read but not list, such as glob(*)
        raise UserError(f"{argument} names no values one by one: separate them by commas, as in seed=0,1,2") from None


def parse(argument: str) -> Override:
    """What one argument sets, and to what.

    Raises:
        UserError: it is not ``name=value``, or the value wants quotes.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    name, equals, value = argument.partition("=")
    if not equals or not re.fullmatch(r"[\w./@]+", name, re.ASCII):
        raise UserError(f"{argument!r} is not a name=value such as train.lr=0.1: --help lists the names")
    try:
        return OverridesParser.create().parse_override(argument)
    except Exception:  # Hydra's own, and what its functions such as int(x) stumble over
        quoted = f"\"{name}={quoted_value(value)}\""
        raise UserError(f"the value in {argument} cannot be read: close its brackets, or write quotes of both kinds, {quoted}") from None


def quoted_value(value: str) -> str:
    """A value, or each value of a list, in the quotes that Hydra reads: ``['/a (b)', mine.yaml]``."""
    is_list = value.startswith("[") and value.endswith("]")
    parts = [part.strip().strip("'\"").replace("'", "\\'") for part in (value[1:-1].split(",") if is_list else [value])]
    texts = ",".join(f"'{part}'" for part in parts)
    return f"[{texts}]" if is_list else texts


def compose(overrides: Sequence[str]) -> Any:
    """The settings that the files in ``conf/`` and the overrides make, checked against their types.

    Raises:
        UserError: an unknown choice or setting (the message lists the known), or a value of another type.
    """
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from densemtmd.tasks import nearest

    declare()
    parsed = [(override.get_key_element(), override.value()) for override in map(parse, overrides)]
    for group, choice in parsed:
        if group in GROUPS and choice not in (known := choices(group)):
            raise UserError(f"unknown choice {group}={choice}; {nearest(str(choice), known)}")
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", [f"{group}={choice}" for group, choice in parsed if group in GROUPS])
        for name, value in parsed:
            if name not in GROUPS:
                change(config, name, value)
        settings = OmegaConf.to_object(config)
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = shorten(str(error.__cause__ or error), 200, placeholder=" ...")
        raise UserError(f"the files in {CONF} and the arguments make no settings ({reason}): mend the file or argument named") from error
    settings.data_root = os.path.expanduser(settings.data_root)  # noqa: PTH111 (see at_home)
    return settings


def declare() -> None:
    """Tells Hydra the names, types and defaults of all settings."""
    from hydra.core.config_store import ConfigStore

    from densemtmd.settings import RunSettings

    ConfigStore.instance().store("schema", RunSettings)


def change(config: DictConfig, name: str, value: Any) -> None:
    """Changes one setting.

    Raises:
        UserError: there is none of that name, or it takes no such value.
    """
    from omegaconf import IntegerNode, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from densemtmd.tasks import nearest

    parts = name.split(".")
    node: Any = config
    for depth, part in enumerate(parts):
        if part not in (known := keys(node)):
            inside = f" in {'.'.join(parts[:depth])}" if depth else ""
            elsewhere = [other for other in full_names(config) if other.endswith(f".{part}")]
            advice = f"did you mean {elsewhere[0]!r}?" if elsewhere else f"known{inside}{nearest(part, known).removeprefix('known')}"
            raise UserError(f"unknown setting {name}; {advice}")
        node = node._get_node(part)
    if isinstance(value, dict) and keys(node):
        for key, one in value.items():
            change(config, f"{name}.{key}", one)
        return
    if isinstance(node, IntegerNode) and isinstance(value, float) and value.is_integer():
        value = int(value)  # 2e6 is how people write two million
    try:
        OmegaConf.update(config, name, value, merge=False)
    except OmegaConfBaseException:
        raise UserError(f"{name} is {'null' if value is None else repr(value)}, expected {kind(node)}") from None


def keys(node: Any) -> list[str]:
    """The names of the settings in a group of them."""
    from omegaconf import DictConfig

    return [str(key) for key in node] if isinstance(node, DictConfig) and not node._is_none() else []


def full_names(node: Any, prefix: str = "") -> list[str]:
    """The names of all settings, with their groups: ``train.lr``."""
    return [name for key in keys(node) for name in (f"{prefix}{key}", *full_names(node._get_node(key), f"{prefix}{key}."))]


def kind(node: Any) -> str:
    """What a setting may be."""
    from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig

    words = {
        IntegerNode: "a whole number",
        FloatNode: "a number",
        BooleanNode: "true or false",
        ListConfig: "a list in brackets, such as [a,b]",
        DictConfig: "settings in braces, such as {a: 1}",
    }
    return words.get(type(node), "a text") + (" or null" if node._is_optional() else "")


def table(arguments: Sequence[str]) -> int:
    """Runs a table: ``experiment=`` or ``curve=``, with what else is said of it."""
    from densemtmd.runs.table import Planned, curve, read_experiment, run_table
    from densemtmd.tasks import nearest

    own: dict[str, Any] = {}
    overrides = []
    for argument in map(at_home, arguments):
        if argument == "--debug":
            continue
        override = parse(argument)
        if (key := override.get_key_element()) in ("experiment", "curve", "rows", "seeds", "jobs", "name"):
            own[key] = override.value()
        elif override.is_sweep_override():
            raise UserError(f"{argument} names several values: a table has its rows, and its seeds are given as seeds=[0,1,2]")
        else:
            overrides.append(argument)
    if "experiment" in own and "curve" in own:
        raise UserError("experiment= and curve= are two tables: give one of them")
    if "experiment" in own:
        if own["experiment"] not in (known := choices("experiment")):
            raise UserError(f"unknown choice experiment={own['experiment']}; {nearest(str(own['experiment']), known)}")
        experiment = read_experiment(CONF / "experiment" / f"{own['experiment']}.yaml")
    else:
        data = compose(overrides).data
        names = [Path(name).stem for name in data.datasets] + [Path(name).stem for name in ([data.add] if data.add else [])]
        experiment = curve(str(own["curve"]), names, data.name)
    rows = whole_list(own, "rows", str, "rows=[nf,jt]") or list(experiment.rows)
    if unknown := [row for row in rows if row not in experiment.rows]:
        raise UserError(f"the table has no row {unknown[0]!r}; {nearest(unknown[0], experiment.rows)}")
    seeds = whole_list(own, "seeds", int, "seeds=[0,1,2]") or experiment.seeds
    if type(jobs := own.get("jobs", 1)) is not int:
        raise UserError(f"jobs is {jobs!r}, expected a whole number")
    plan = []
    for seed, row in itertools.product(seeds, rows):
        all_of_row = [*experiment.settings, *experiment.rows[row], *overrides, f"seed={seed}"]
        plan.append(Planned(row, compose(all_of_row), tuple(all_of_row)))
    folder = run_table(experiment, plan, Path(plan[0].settings.runs), str(own.get("name", experiment.name)), jobs)
    print(f"\ncompare: python tools/compare.py {folder}")
    return 0


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
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(help_page())
        return 0
    from densemtmd.files import read_json
    from densemtmd.kind import kind_of_scores
    from densemtmd.runs.run import check, resume, run

    if any(argument.partition("=")[0] in ("experiment", "curve") for argument in arguments):
        return table(arguments)
    arguments = [argument for argument in arguments if argument != "--debug"]
    if folders := [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]:
        if len(arguments) > 1:
            raise UserError(f"resume={folders[0]} goes on with the settings of that run: give no others beside it, or start a new run")
        folder = resume(Path(os.path.expanduser(folders[0])))  # noqa: PTH111 (see at_home)
    else:
        plans = [(compose(overrides), overrides) for overrides in sweep(arguments)]  # all of them, before the first is trained
        for settings, _ in plans:
            check(settings)
        for settings, overrides in plans:
            folder = run(settings, overrides)
    print(f"\n{kind_of_scores(read_json(folder / 'scores.json')).next_step(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
