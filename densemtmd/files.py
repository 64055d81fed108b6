"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from densemtmd.errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path, which gets the file's name if the block ends well.

    The temporary file lies in the same folder (made where it does not exist) and has the same suffix, because many
    writers choose their format by it. Readers see the old file or the new one, never a part; after a failure the old
    one is still there and the temporary one is gone.

    Raises:
        UserError: the system refused: a full disk, an unwritable folder, a folder of that name.

    >>> with atomic_write("scores.json") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("{}")
    """
    path = Path(path)
    # Not tempfile.mkstemp: its files can be read by their owner alone, and would stay so under their final name.
    temporary = path.parent / f".{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} could not be written: {reason}; free some space or choose another place") from error
    finally:
        with suppress(OSError):  # what matters has been raised already
            temporary.unlink(missing_ok=True)


def remove_strays(folder: str | Path) -> None:
    """Removes what writers that were killed left behind in a folder and below it: temporary files that never got their name.

    Only for folders that nobody writes to at the moment.
    """
    for path in Path(folder).rglob(".*"):
        if re.fullmatch(r"\.[0-9a-f]{32}", path.stem if path.suffix else path.name):
            path.unlink(missing_ok=True)
