"""From choices and changes to the settings of a run: the files in ``conf/``, ``name=value`` upon them, and errors that say what was meant.

Hydra puts the files together. What is changed upon them is looked up here, name by name, so that a mistake is one sentence with what was
probably meant. Everything of Hydra's own, ``hydra/launcher=joblib`` and ``hydra.sweep.dir=...``, is left to Hydra.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from densemtmd.errors import UserError
from densemtmd.files import conf_folder
from densemtmd.settings import RunSettings
from densemtmd.tasks import nearest

if TYPE_CHECKING:  # Hydra is imported where it is used: who only asks for --help does not wait for it
    from hydra._internal.hydra import Hydra
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

CONF = conf_folder()
GROUPS = ("data", "model", "strategy", "protocol")
"""Folders of conf/: one file is chosen from each."""


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None, config_name: str = "train") -> RunSettings:
    """The settings that the files in ``conf/`` and the overrides make, checked against their types.

    Args:
        overrides: ``group=choice`` and ``name=value``, as ``tools/train.py`` takes them.
        config_dir: a folder of one's own with further choices: ``mine/data/ours.yaml`` is ``data=ours``.
        config_name: the file, there or in ``conf/``, that it starts from.

    Raises:
        UserError: an unknown choice or setting (the message lists the known), or a value of another type.

    >>> compose(["data=stanford", "strategy=nf", "train.minutes=10"]).train.minutes
    10.0
    """
    return Source(None if config_dir is None else Path(config_dir), config_name).compose(overrides)


@dataclass(frozen=True)
class Source:
    """Where settings come from: the files in ``conf/``, and those in a folder of the user's own."""

    folder: Path | None = None  # with further choices
    name: str = "train"         # of the file that is begun with

    def compose(self, overrides: Sequence[str]) -> RunSettings:
        """The settings, as :func:`compose` gives them."""
        return to_settings(self.config(overrides))

    def config(self, overrides: Sequence[str], hydra: bool = False) -> DictConfig:
        """The same as Hydra's tree, with what Hydra says of itself where ``hydra`` asks for it."""
        import yaml
        from hydra.errors import HydraException
        from hydra.types import RunMode
        from omegaconf import open_dict
        from omegaconf.errors import OmegaConfBaseException

        parsed = [(one.get_key_element(), one.value()) for one in map(parse, overrides) if not is_hydras(one.get_key_element())]
        for group, choice in parsed:
            if group in GROUPS and choice not in (known := self.choices(group)):
                raise UserError(f"unknown choice {group}={choice}; {nearest(str(choice), known)}")
        chosen = [f"{group}={choice}" for group, choice in parsed if group in GROUPS]
        try:
            with self.hydra() as composer:
                config = composer.compose_config(
                    self.name, [*chosen, *filter(is_hydras, overrides)], RunMode.MULTIRUN if hydra else RunMode.RUN, from_shell=False
                )
            with open_dict(config):
                of_hydra = config.pop("hydra")
            for name, value in parsed:
                if name not in GROUPS:
                    change(config, name, value)
            if hydra:
                with open_dict(config):
                    config.hydra = of_hydra
            return config
        except UserError:
            raise
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
            raise self.no_settings(error) from error

    def no_settings(self, error: Exception) -> UserError:
        """The sentence about files and arguments that Hydra can make nothing of."""
        places = f"{CONF} and {self.folder}" if self.folder else f"{CONF}"
        reason = shorten(str(error.__cause__ or error), 200, placeholder=" ...")
        return UserError(f"the files in {places} and the arguments make no settings ({reason}): mend the file or argument named")

    def choices(self, group: str) -> list[str]:
        """The files of a group that can be chosen."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def file(self, group: str, choice: str) -> Path:
        """The file behind a choice.

        Raises:
            UserError: there is none (the message lists what there is).
        """
        if choice not in (known := self.choices(group)):
            raise UserError(f"unknown choice {group}={choice}; {nearest(choice, known)}")
        return next(file for folder in self.folders if (file := folder / group / f"{choice}.yaml").is_file())

    @property
    def folders(self) -> list[Path]:
        """In the order in which they are looked at, as Hydra does: the user's own adds to what there is, and replaces nothing."""
        if self.folder is None:
            return [CONF]
        if not self.folder.is_dir():
            raise UserError(f"--config-dir is {self.folder}, which is no folder: expected one with files as in {CONF}")
        return [CONF, self.folder]

    def search_path(self) -> ConfigSearchPath:
        """The same for Hydra."""
        from hydra._internal.utils import create_config_search_path

        first, *more = self.folders
        path = create_config_search_path(str(first))
        for folder in more:
            path.prepend("command-line", f"file://{folder.absolute()}", anchor="schema")  # the types of the settings stay last
        if not any((folder / f"{self.name}.yaml").is_file() for folder in self.folders):
            known = [file.stem for folder in self.folders for file in folder.glob("*.yaml")]
            raise UserError(f"--config-name is {self.name}, but no folder of settings holds {self.name}.yaml; {nearest(self.name, known)}")
        return path

    @contextmanager
    def hydra(self) -> Iterator[Hydra]:
        """Hydra, looking there."""
        from hydra import version
        from hydra._internal.hydra import Hydra
        from hydra.core.config_store import ConfigStore
        from hydra.core.global_hydra import GlobalHydra
        from hydra.initialize import get_gh_backup, restore_gh_from_backup

        ConfigStore.instance().store("schema", RunSettings)  # the names, types and defaults of all settings
        backup = get_gh_backup()
        version.setbase("1.3")
        GlobalHydra.instance().clear()
        try:
            yield Hydra.create_main_hydra2("densemtmd", self.search_path())
        finally:
            restore_gh_from_backup(backup)


def to_settings(config: DictConfig) -> RunSettings:
    """A tree of Hydra's as settings."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        settings = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError) as error:
        raise Source().no_settings(error) from error
    assert isinstance(settings, RunSettings)
    settings.data_root = os.path.expanduser(settings.data_root)  # noqa: PTH111 (see at_home)
    return settings


def changed(settings: RunSettings, overrides: Sequence[str]) -> RunSettings:
    """Settings with some of them changed.

    Args:
        settings: all of them, as they were.
        overrides: ``name=value`` each.

    Raises:
        UserError: a setting that there is none of, a value that it does not take, or several, or a choice of many settings.
    """
    from omegaconf import OmegaConf

    config = OmegaConf.structured(settings)
    for argument in map(at_home, overrides):
        override = parse(argument)
        if (name := override.get_key_element()) in GROUPS or is_hydras(argument):
            raise UserError(f"{argument} chooses many settings, which a run that has begun keeps: start a new run with it, or leave it out")
        if override.is_sweep_override():
            raise UserError(f"{argument} names several values: a run goes on with one")
        change(config, name, override.value())
    return to_settings(config)


def is_hydras(override: str) -> bool:
    """Whether an argument speaks to Hydra, and not of a run: ``hydra/launcher=joblib``, ``hydra.sweep.dir=...``."""
    return re.match(r"\+{0,2}hydra[./]", override) is not None


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
    if not equals or not re.fullmatch(r"(\+{1,2}(?=hydra[./]))?[\w./@]+", name, re.ASCII):
        raise UserError(f"{argument!r} is not a name=value such as train.lr=0.1: --help lists the names")
    try:
        return OverridesParser.create().parse_override(argument)
    except Exception:  # Hydra's own, and what its functions such as int(x) stumble over
        quoted = f"\"{name}={quoted_value(value)}\""
        raise UserError(f"the value in {argument} cannot be read: close its brackets, or write quotes of both kinds, {quoted}") from None


def quoted_value(value: str) -> str:
    """A value, or each value of a list, in the quotes that Hydra reads: ``['/a (b)','mine.yaml']``."""
    is_list = value.startswith("[") and value.endswith("]")
    parts = [part.strip().strip("'\"").replace("'", "\\'") for part in (value[1:-1].split(",") if is_list else [value])]
    texts = ",".join(f"'{part}'" for part in parts)
    return f"[{texts}]" if is_list else texts


def change(config: DictConfig, name: str, value: Any) -> None:
    """Changes one setting.

    Raises:
        UserError: there is none of that name, or it takes no such value.
    """
    from omegaconf import IntegerNode, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

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
        quotes = ": leave out the quotes around it" if isinstance(value, str) and re.fullmatch(r"\[.*]|{.*}", value) else ""
        raise UserError(f"{name} is {'null' if value is None else repr(value)}, expected {kind(node)}{quotes}") from None


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

    words: dict[type, str] = {
        IntegerNode: "a whole number",
        FloatNode: "a number",
        BooleanNode: "true or false",
        ListConfig: "a list in brackets, such as [a,b]",
        DictConfig: "settings in braces, such as {a: 1}",
    }
    return words.get(type(node), "a text") + (" or null" if node._is_optional() else "")
