"""From nothing to a labelled picture, in three minutes.

Renders the street world, trains one network on its seven labelsets, and labels a picture under all of them.

    python tools/demo.py             # about three minutes on two CPU cores
    python tools/demo.py --minutes 5 # train longer, for better answers
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from densemtmd.commands.cli import as_called, make_parser, tool


@tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=1.5, help="how long to train (%(default)s)")
    parser.add_argument("--images", type=int, default=40, help="pictures that each of the seven annotators labels (%(default)s)")
    parser.add_argument("--data-root", default="data", help="where the street world is rendered (%(default)s)")
    parser.add_argument("--runs", default="runs", help="where the run's folder is made (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the labelled pictures go (%(default)s)")
    parser.add_argument("--tracking", default="mlflow", choices=["mlflow", "none"], help="whether MLflow records the run (%(default)s)")
    arguments = parser.parse_args(argv)

    from densemtmd.commands import infer
    from densemtmd.composing import compose
    from densemtmd.data import open_data
    from densemtmd.files import check_writable
    from densemtmd.runs.run import run

    check_writable(arguments.out, "--out")
    settings = compose(["data=street7", "name=demo", "train.epochs=null"])
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
    print("\nDone. What there is to look at, and the command that opens it:")
    print(f"  the picture under all labelsets   {opener} {next(arguments.out.glob(f'{picture.name}.sheet.*'))}")
    print(f"  the loss and scores by epoch      {opener} {folder / 'figures' / 'curves.png'}")
    print(f"  the scores of the test pictures   {opener} {folder / 'scores.json'}")
    if arguments.tracking == "mlflow":
        print(f"  the run in MLflow                 {python} -m mlflow ui --backend-store-uri sqlite:///mlflow.db")
        print("                                    then http://127.0.0.1:5000/#/experiments?workflowType=machine_learning")
    print(as_called(f"  your own pictures                 python tools/infer.py PICTURE... --labelset all --checkpoint {folder}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
