"""From nothing to a labelled picture, in three minutes.

Renders the street world, trains one network on its seven labelsets, and labels a picture under all of them. The network is a head on a
frozen pretrained trunk (model=frozen), which labels better after the same time than the paper's.

    python tools/demo.py             # about three minutes on two CPU cores
    python tools/demo.py --minutes 5 # train longer, for better answers
    python tools/demo.py --web       # a page in the browser, to try the last finished run on pictures of one's own
    python tools/demo.py --web runs/my-run
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from densemtmd.commands.cli import make_parser, network, newest_network, say, tool
from densemtmd.errors import UserError


@tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=0.75, help="how long to train (%(default)s)")
    parser.add_argument("--images", type=int, default=40, help="pictures that each of the seven annotators labels (%(default)s)")
    parser.add_argument("--data-root", default="data", help="where the street world is rendered (%(default)s)")
    parser.add_argument("--runs", default="runs", help="where the run's folder is made (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the labelled pictures go (%(default)s)")
    parser.add_argument("--tracking", default="mlflow", choices=["mlflow", "none"], help="whether MLflow records the run (%(default)s)")
    about_web = "train nothing, show a page to try a run on, and those beside it"
    parser.add_argument("--web", nargs="?", type=network, const=True, metavar="RUN", help=about_web)
    parser.add_argument("--port", type=int, default=7860, help="of the page, which this machine alone can reach; 0: any (%(default)s)")
    parser.add_argument("--device", default="auto", help="of the page's networks: auto, cpu, cuda, ... (%(default)s)")
    parser.add_argument("--max-pixels", type=int, default=200_000_000, metavar="N", help="the page refuses larger pictures (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.web is not None:
        return show(newest_network(arguments.runs)[0] if arguments.web is True else arguments.web, arguments)

    from densemtmd.commands import infer
    from densemtmd.composing import compose
    from densemtmd.data import open_data
    from densemtmd.files import check_writable
    from densemtmd.runs.run import run

    check_writable(arguments.out, "--out")
    settings = compose(["data=street7", "model=frozen", "name=demo", "train.epochs=null", "train.outputs=null"])
    settings.data.world = {**(settings.data.world or {}), "images": arguments.images}
    settings.data_root, settings.runs, settings.tracking = arguments.data_root, arguments.runs, arguments.tracking
    settings.train.minutes = arguments.minutes
    settings.score.scoring = "strided"  # a 16th of the pixels, at a 16th of the cost
    folder = run(settings)
    kundu = next(d for d in open_data(settings.data, settings.data_root) if d.name == "kundu")
    picture = kundu.splits["test"][0].image
    if code := infer.main([str(picture), "--labelset", "all", "--checkpoint", str(folder), "--out", str(arguments.out)]):
        return code

    opener = "open" if sys.platform == "darwin" else (shutil.which("xdg-open") and "xdg-open") or "python -m webbrowser"
    python = os.path.relpath(sys.executable)
    say("\nDone. What there is to look at, and the command that opens it:")
    say(f"  the picture under all labelsets   {opener} {next(arguments.out.glob(f'{picture.name}.sheet.*'))}")
    say(f"  the loss and scores by epoch      {opener} {folder / 'figures' / 'curves.png'}")
    say(f"  the scores of the test pictures   {opener} {folder / 'scores.json'}")
    if arguments.tracking == "mlflow":
        say(f"  the run in MLflow                 {python} -m mlflow ui --backend-store-uri sqlite:///mlflow.db")
        say("                                    then http://127.0.0.1:5000/#/experiments?workflowType=machine_learning")
    say(f"  your own pictures                 python tools/infer.py PICTURE... --labelset all --checkpoint {folder}")
    return 0


def show(run: Path, arguments: argparse.Namespace) -> int:
    """The page, until Ctrl-C."""
    from densemtmd.web.server import serve

    if not 0 <= arguments.port < 2**16:
        raise UserError(f"--port is {arguments.port}, expected 0 to 65535")
    if arguments.max_pixels < 1:
        raise UserError(f"--max-pixels is {arguments.max_pixels}, expected 1 or more")
    if not run.is_dir():
        raise UserError(f"--web is {run}, expected the folder of a run, such as runs/<time>-<name>")

    def told(address: str) -> None:
        say(f"{run}: open {address} in a browser of this machine; Ctrl-C ends it")

    serve(run, arguments.port, arguments.device, arguments.max_pixels, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
