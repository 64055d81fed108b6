"""Hand a trained network on: its weights in half precision, with a card that says what it is.

    python tools/release.py runs/my-run --out streets                       weights, and README.md, to be read by people
    python tools/release.py runs/my-run --out streets --about words.md      the card says these words too
    python tools/release.py runs/my-run --out streets --push me/streets     and puts both on the Hugging Face Hub

What is written has the form of a run's folder: `python tools/infer.py PICTURE --checkpoint streets` labels with it. The card tells
labelsets, scores with their intervals, data, licence of the pretrained weights, and how the network was made. What it is for, and what
it cannot do, is for you to say.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from densemtmd.commands.cli import make_parser, network, say, tool
from densemtmd.errors import UserError


@tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run", type=network, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--about", type=Path, metavar="FILE", help="a text: what the network is for, and what it cannot do")
    parser.add_argument("--push", metavar="NAME", help="of a repository on the Hugging Face Hub, such as me/streets, to put it into")
    arguments = parser.parse_args(argv)

    from densemtmd.files import check_writable
    from densemtmd.release import release

    check_writable(arguments.out, "--out")
    try:
        about = arguments.about.read_text("utf-8") if arguments.about else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{arguments.about} cannot be read ({error}): --about is a file of text") from None
    for file in release(arguments.run, arguments.out, about):
        say(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    say(f"{arguments.out / 'README.md'}: the card")
    if arguments.push:
        push(arguments.out, arguments.push)
    return 0


def push(folder: Path, name: str) -> None:
    """Puts what was written into a repository of the Hub.

    Raises:
        UserError: the library is missing, there is no network, nobody is logged in, or the Hub refuses.
    """
    try:
        from densemtmd.hub import HubPredictor
    except ImportError as error:
        raise UserError(f"--push needs huggingface_hub ({error}): pip install -c constraints.txt 'densemtmd[backbones]'") from None
    try:
        say(HubPredictor.from_pretrained(folder, device="cpu").push_to_hub(name))
    except UserError:
        raise
    except Exception as error:  # of the Hub's client and of what it talks through, which have no kind of error in common
        why = shorten(str(error), 200) or type(error).__name__
        raise UserError(
            f"{name} could not be put on the Hugging Face Hub ({why}): what was to go there lies in {folder}; log in with "
            "`hf auth login`, and call again"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
