"""The one kind of exception that is shown to people as a sentence, without a traceback."""

from __future__ import annotations

import errno
import sys
from textwrap import shorten

MOST = 2000
"""Characters of the longest sentence that is shown whole."""

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
OF_THE_MACHINE = (
    *FORBIDDEN, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
"""What a system refuses for reasons of its own: rights, room, names; the rest may be a defect."""


class UserError(ValueError):
    """A mistake that a person can mend.

    Its text is one sentence that names the file or key, says what was found and what was expected, and what to do. The
    tools print it on stderr and exit with 1; every other exception is a defect of the project and shows its traceback.

    It stays one line whatever it quotes: see :func:`one_line`. Of a very long one the middle is left out.

    >>> str(UserError("the picture 'a\\nb.png' is empty"))
    "the picture 'a\\\\nb.png' is empty"
    """

    def __init__(self, sentence: object) -> None:
        text = one_line(str(sentence))
        super().__init__(text if len(text) <= MOST else f"{text[: MOST // 2]} … {text[-MOST // 2 :]}")


def one_line(text: str) -> str:
    """A text for a terminal: line breaks and what else cannot be seen, as names of files may hold, as Python writes them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


NO_MEMORY = ("allocate memory", "out of memory", "can't start new thread", "could not create a primitive")
"""Words of errors that mean it: of the system and CUDA, of Python, and of oneDNN, which computes torch's convolutions."""


def about_memory(error: Exception) -> str | None:
    """The sentence about an allocation that failed, of the computer's memory or of a GPU's; None of any other error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not any(words in text for words in NO_MEMORY):
        return None
    reason = f" ({shorten(text, 160, placeholder=' ...')})" if text else ""
    return f"there is not enough memory{reason}: train with a smaller train.batch, train.crop or network, or label smaller pictures"


def about_files(error: Exception) -> str | None:
    """The sentence about a file or folder that the system refused to whoever runs this; None of any other error."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in OF_THE_MACHINE:
        return None
    return f"{error.filename} cannot be used: {error.strerror}; {advice(error)}"


def about_installation(error: Exception) -> str | None:
    """The sentence about a library that is not installed; None of any other error, as of a module of our own that is not there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.partition(".")[0] == "densemtmd":
        return None
    library = error.name.partition(".")[0]
    return (
        f"{library}, which densemtmd needs, is not installed for {sys.executable}: install densemtmd there with all that it needs, as make "
        "demo does in a clone, or call it by the Python that it is installed for"
    )


def advice(error: OSError) -> str:
    """What to do where the system refuses to write."""
    if error.errno in FORBIDDEN:
        return "see that you may read and change it, or choose another"
    return "free some space or choose another place"
