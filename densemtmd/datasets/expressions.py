"""Regular expressions that people give, searched in the names of files in bounded time.

Python's ``re`` goes back and tries again: an expression of a few characters may take longer than anybody lives, and nothing within the
process can stop it. One that can go back in one place only is searched here; every other in a process of its own, which has an end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

SECONDS, EACH = 5.0, 5e-5
"""That it may take, and further ones for each name: a million of them take three on an idle core."""

AGAIN = re.compile(r"[*+?{|]")
"""What of an expression may match in more than one way."""

CHILD = """
import json, re, sys
expression, texts = json.load(sys.stdin)
search = re.compile(expression).search
groups = [None if (match := search(text)) is None else match.groups() or match[0] for text in texts]
json.dump(groups, sys.stdout)
"""


class TooSlow(Exception):
    """An expression that takes longer than it may."""


def search_all(expression: str, texts: Sequence[str], quick: bool | None = None) -> list[str | None]:
    """Of each text what an expression finds in it: the groups of the first match, joined by ``/``, or the match itself where it has none.

    Args:
        expression: to search.
        texts: to search in.
        quick: it is known to end soon, whatever the texts are; None: so it is where it has one place at most from which it can go back.

    Raises:
        TooSlow: it takes longer than it may.

    >>> search_all(r"^(.*)_([0-9]+)", ["street_07", "7"])
    ['street/07', None]
    >>> search_all("[0-9]", ["street_07", "street"])
    ['0', None]
    """
    if len(AGAIN.findall(expression)) <= 1 if quick is None else quick:
        search = re.compile(expression).search
        matches = [None if (match := search(text)) is None else match.groups() or match[0] for text in texts]
    else:
        try:
            answer = subprocess.run(
                [sys.executable, "-I", "-S", "-c", CHILD],
                input=json.dumps([expression, texts]),
                capture_output=True,
                text=True,
                timeout=SECONDS + EACH * len(texts),
                check=True,
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise TooSlow from error
        matches = json.loads(answer.stdout)
    return [match if match is None or isinstance(match, str) else "/".join(group for group in match if group) for match in matches]
