"""Measure how fast densemtmd is, on this machine and with your data.

    python tools/bench.py label --bfloat16 --out results/bench              labelling every pixel, against other ways to do it
    python tools/bench.py label --model frozen fpn --sizes 240x320          networks beside the patch network
    python tools/bench.py scale --megapixels 1 4 16                         its time and memory against pixels and labels
    python tools/bench.py train stanford --data-root ~/data --target 45     training, against the paper's minibatches of patches
    python tools/bench.py train stanford --data-root ~/data --processes 2   also by two processes of torchrun
    python tools/bench.py loading stanford camvid --data-root ~/data
    python tools/bench.py tracking stanford --data-root ~/data
    python tools/bench.py many --pictures 1000 100000                        opening, checking and scoring very many pictures
    python tools/bench.py giant --megapixels 4 100                          what is done with a giant picture, step by step
    python tools/bench.py tiff --megapixels 25 400                          whole calls of infer on giant TIFFs: memory and disk
    python tools/bench.py labels --labels 68x7 1000x50                      training and labelling against the number of labels
    python tools/bench.py render                                            hands in depth pictures, in memory and to disk
    python tools/bench.py copies --checkpoint released                      a picture mirrored and enlarged too, beside itself
    python tools/bench.py exported stanford --data-root ~/data --threads 1   a network's ONNX files, also in 8 bits
    python tools/bench.py coverage --out results/coverage                   how often the intervals of tools/compare.py hold the truth
    python tools/bench.py correspondences --data-root ~/data                how right and how sure tools/correlate.py is

What is compared is measured in turns, in one run, and the median of several turns is shown: a machine that is busy with
something else slows down both sides alike. "CPU s" is processor time of all threads, which waiting does not count in. --out DIR
writes what was measured to DIR/<bench>.md and DIR/<bench>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from densemtmd.bench.clock import on_threads
from densemtmd.bench.copies import measure_copies
from densemtmd.bench.correspondences import measure_correspondences
from densemtmd.bench.coverage import measure_coverage
from densemtmd.bench.exported import measure_exported
from densemtmd.bench.giant import measure_giant
from densemtmd.bench.label import measure_label
from densemtmd.bench.labels import measure_labels
from densemtmd.bench.loading import measure_loading
from densemtmd.bench.many import measure_many
from densemtmd.bench.render import measure_render
from densemtmd.bench.scale import measure_scale
from densemtmd.bench.tiff import measure_tiff
from densemtmd.bench.told import Told, conditions
from densemtmd.bench.tracking import measure_tracking
from densemtmd.bench.train import measure_train
from densemtmd.commands.cli import make_parser, network, tool
from densemtmd.errors import UserError


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")

    def bench(name: str, measure: Callable[[argparse.Namespace], Told], help: str, turns: int = 7, several: bool = False) -> Any:
        """A subcommand with the options that all have; returns its ``add_argument``."""
        one = benches.add_parser(name, help=help, description=(measure.__doc__ or "").splitlines()[0], allow_abbrev=False)
        one.add_argument("--turns", type=int, default=turns, metavar="N", help=f"of which the median counts (default: {turns})")
        one.add_argument("--out", type=Path, metavar="DIR", help="write the tables to DIR/<bench>.md, and all that was measured to .json")
        models = "files in conf/model/; others than patchnet are put beside it" if several else "a file in conf/model/"
        default: Any = ["patchnet"] if several else "patchnet"
        nargs = "+" if several else None
        one.add_argument("--model", default=default, nargs=nargs, metavar="NAME", help=f"{models} (default: patchnet)")
        one.add_argument("--device", default="auto", help="auto, cpu, cuda, ...: where the network is (default: auto)")
        one.add_argument("--threads", type=int, metavar="N", help="that compute (default: one per core)")
        one.set_defaults(measure=measure)
        return one.add_argument

    def with_data(add: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        """The options of what trains."""
        add("datasets", nargs="*", default=["stanford"], metavar="DATASET", help="names, or paths of YAMLs (default: stanford)")
        add("--data-root", default="data", metavar="DIR", help="the folder that holds them (default: data)")
        add("--cache", default="auto", metavar="DIR", help="where decoded pictures are kept, auto or none (default: auto)")
        add("--protocol", default="strided", metavar="NAME", help="a file in conf/protocol/ (default: strided)")
        add("--workers", type=int, default=0, metavar="N", help="processes that load (default: 0, a thread)")
        add("--seconds", type=float, default=seconds, metavar="S", help=f"of a turn (default: {seconds:g})")
        return add

    add = bench("label", measure_label, "labelling every pixel, against other ways to do it and the machine's best rate", 3, several=True)
    sizes = ["240x320", "375x1242", "1024x2048"]
    add("--sizes", nargs="+", default=sizes, metavar="HxW", help=f"pixels of the pictures (default: {' '.join(sizes)})")
    add("--labels", type=int, default=68, metavar="N", help="outputs of the network (default: 68)")
    add("--checkpoint", type=network, metavar="FILE|RUN", help="a trained network, or released (default: --model with random weights)")
    add("--picture", type=Path, metavar="FILE", help="a picture, which is resized (default: coloured noise)")
    add("--bfloat16", action="store_true", help="also in bfloat16, with the share of the pixels whose label changes")
    add = bench("scale", measure_scale, "time and memory of labelling against pixels and labels, memory of loss and metrics", 1)
    add("--megapixels", nargs="+", type=float, default=[0.25, 0.5, 1, 2, 4, 8, 16], metavar="MPX", help="(default: 0.25 to 16)")
    add("--dense-to", type=float, metavar="MPX", help="larger pictures are passed strided alone (default: 4, on a GPU 16)")
    add("--labels", nargs="+", type=int, default=[8, 68, 300], metavar="N", help="(default: 8 68 300)")
    add = bench("many", measure_many, "opening, checking and scoring more and more pictures", 1)
    add("--pictures", nargs="+", type=int, default=[1000, 10_000], metavar="N", help="(default: 1000 10000)")
    add("--size", default="48x64", metavar="HxW", help="of the pictures (default: 48x64)")
    add = bench("giant", measure_giant, "what is done with giant pictures, step by step: time and memory a pixel", 1)
    add("--megapixels", nargs="+", type=float, default=[1, 4, 16], metavar="MPX", help="(default: 1 4 16)")
    add("--labelsets", type=int, default=7, metavar="N", help="of ten labels each (default: 7)")
    add = bench("tiff", measure_tiff, "whole calls of infer on giant TIFFs: time, memory and disk", 1)
    add("--megapixels", nargs="+", type=float, default=[25, 100, 400], metavar="MPX", help="(default: 25 100 400)")
    add("--labelset", default="kundu", metavar="NAME|all|A,B", help="which labelsets answer (default: kundu)")
    add("--checkpoint", type=network, metavar="FILE|RUN", help="a trained network (default: a very small one)")
    add = bench("labels", measure_labels, "training and labelling against the number of labels", 3)
    add("--labels", nargs="+", default=["68x7", "300x15", "1000x50"], metavar="NxK", help="labels x labelsets (default: 68x7 to 1000x50)")
    add("--size", default="240x320", metavar="HxW", help="of the picture that is labelled (default: 240x320)")
    add("--protocol", default="strided", metavar="NAME", help="a file in conf/protocol/ (default: strided)")
    add = with_data(bench("train", measure_train, "training, against the paper's minibatches of patches", 5), 6)
    add("--also", nargs="*", default=["48x48", "16x112"], metavar="CROPSxSIDE", help="other batches of crops (default: 48x48 16x112)")
    add("--target", type=float, default=0, metavar="IOU", help="also the time until validation reaches it (default: 0, do not measure)")
    add("--processes", type=int, default=1, metavar="N", help="also N processes of torchrun against one (default: 1, do not measure)")
    add("--lr", nargs="*", default=[], metavar="PROTOCOL=LR", help="learning rates, such as strided=0.03 (default: that of --protocol)")
    add("--limit", type=float, default=600, metavar="S", help="seconds after which a training is given up (default: 600)")
    add("--seeds", type=int, default=1, metavar="N", help="trainings of each kind, of which the median counts (default: 1)")
    add("--every", type=float, default=150, metavar="N", help="billions of multiply-adds between validations (default: 150)")
    add("--pictures", type=int, default=20, metavar="N", help="validation pictures (default: 20)")
    with_data(bench("loading", measure_loading, "the share of loading in a training step, and what the loader delivers by itself"), 8)
    with_data(bench("tracking", measure_tracking, "what the record in MLflow costs the training loop"), 21)
    add = bench("render", measure_render, "the hand world: crops in memory, and full pictures to disk", 5)
    add("--crops", type=int, default=200, metavar="N", help="of a turn, of each kind of hand (default: 200)")
    add = bench("exported", measure_exported, "a trained network beside its ONNX files, in full precision and in 8 bits", 15)
    add("dataset", metavar="DATASET", help="whose labelset answers: validation pictures calibrate, test pictures are scored")
    add("--checkpoint", default="released", type=network, metavar="FILE|RUN", help="the network (default: released)")
    add("--data-root", default="data", metavar="DIR", help="the folder that holds the dataset (default: data)")
    add("--pictures", type=int, default=0, metavar="N", help="test pictures that are scored (default: 0, all)")
    add("--size", default="240x320", metavar="HxW", help="of the picture that is labelled (default: 240x320)")
    add("--picture", type=Path, metavar="FILE", help="that picture, which is resized (default: coloured noise)")
    add = bench("copies", measure_copies, "a picture mirrored and enlarged too, beside the picture alone")
    add("--labels", type=int, default=68, metavar="N", help="outputs of the network (default: 68)")
    add("--checkpoint", type=network, metavar="FILE|RUN", help="a trained network, or released (default: --model with random weights)")
    add("--size", default="240x320", metavar="HxW", help="of the picture (default: 240x320)")
    add("--picture", type=Path, metavar="FILE", help="that picture, which is resized (default: coloured noise)")
    add = bench("coverage", measure_coverage, "how often the intervals of tools/compare.py hold the truth, on made-up runs", 1)
    add("--seeds", nargs="+", type=int, default=[2, 3, 5, 10], metavar="S", help="of each row (default: 2 3 5 10)")
    add("--trials", type=int, default=2000, metavar="N", help="made-up comparisons of each kind (default: 2000)")
    add = bench("correspondences", measure_correspondences, "how right and how sure densemtmd correlate is, on made-up annotators", 1)
    given = ["cmp", "labelmefacade", "stanford"]
    add("datasets", nargs="*", default=given, metavar="DATASET", help=f"names, or paths of YAMLs (default: {' '.join(given)})")
    add("--held", nargs="*", default=["camvid"], metavar="DATASET", help="scored alone, taught nothing by (default: camvid)")
    add("--data-root", default="data", metavar="DIR", help="the folder that holds them (default: data)")
    add("--cache", default="auto", metavar="DIR", help="where decoded pictures and features are kept, auto or none (default: auto)")
    add("--annotators", type=int, default=4, metavar="N", help="pairs of them for each dataset (default: 4)")
    add("--pictures", type=int, default=300, metavar="N", help="of each dataset at most (default: 300)")
    return parser


LEAST: dict[str, dict[str, float]] = {
    "train": {"processes": 1, "target": 0, "seeds": 1, "pictures": 1, "limit": 1e-3, "every": 1e-3},
    "exported": {"pictures": 0},
    "scale": {"dense_to": 0},
}
"""What options of a bench must be at least, beside those that all have."""


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.turns < 1 or (arguments.threads is not None and arguments.threads < 1):
        name = "turns" if arguments.turns < 1 else "threads"
        raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    if "seconds" in arguments and (arguments.workers < 0 or not arguments.seconds > 0):
        raise UserError(f"--workers is {arguments.workers} and --seconds {arguments.seconds}, expected at least 0 and more than 0")
    for name, least in LEAST.get(arguments.bench, {}).items():
        value = getattr(arguments, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name.replace('_', '-')} is {value:g}, expected at least {least:g}")

    import torch

    from densemtmd.origin import clocks, origin
    from densemtmd.origin import told as made_by

    since, threads = clocks(), torch.get_num_threads()
    with on_threads(arguments.threads or threads):
        told = arguments.measure(arguments)
        about = conditions()
    print(told.on_screen())
    if arguments.out:
        from dataclasses import asdict

        from densemtmd.files import atomic_write

        made = origin(["python", "tools/bench.py", *(sys.argv[1:] if argv is None else argv)], since)
        line = f"{made_by([made])} {about['threads']} thread{'s' * (about['threads'] > 1)}, PyTorch {about['torch']}, {about['date']}."
        measured = {"bench": arguments.bench, "made": asdict(made), "machine": about, **told.values}
        written = {"json": json.dumps(measured, indent=1) + "\n", "md": f"{told.as_markdown()}\n\n{line}\n"}
        for kind, content in written.items():
            with atomic_write(arguments.out / f"{arguments.bench}.{kind}") as temporary:
                temporary.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
