"""What a result depends on besides its settings."""

from __future__ import annotations

import getpass
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

from densemtmd.machine import cores, processor
from densemtmd.origin import code, gpus


def environment_tags(overrides: Sequence[str] = ()) -> dict[str, str]:
    """What a result depends on besides its settings: code, versions, hardware by its kind, and what was asked for.

    Args:
        overrides: the settings given on the command line, e.g. ``["data=stanford", "strategy=jtsc"]``.
    """
    tags = {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}
    commit, changed = code()
    if commit:
        tags |= {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": json.dumps(changed)}
    with suppress(OSError, KeyError, ImportError):  # in a container the user may have no name
        tags["mlflow.user"] = getpass.getuser()
    if overrides:
        tags["overrides"] = " ".join(overrides)
    tags["version.python"] = platform.python_version()
    for package in ("densemtmd", "torch", "kornia", "numpy", "mlflow"):
        with suppress(metadata.PackageNotFoundError):
            tags[f"version.{package}"] = metadata.version(package)
    tags["hardware.gpu"] = ", ".join(gpus()) or "none"
    tags["hardware.cpu"] = processor()
    tags["hardware.cores"] = str(cores())
    return tags
