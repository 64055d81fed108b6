"""Find which labels of different labelsets mean the same, as a trained network sees them.

    python tools/correlate.py runs/my-run                      all of the run's own pictures
    python tools/correlate.py runs/my-run --split test --out correspondences
    python tools/correlate.py best.safetensors --data stanford_camvid --data-root ~/data

CHECKPOINT is a run's folder or a .safetensors file. Without --data the pictures are those of the run that the checkpoint
lies in; with it, those of datasets whose labelsets the network knows: a choice of conf/data/, or names or YAMLs of
datasets, separated by commas. The pictures that it was trained on are good evidence too: what one annotator's labels are
under another labelset is nothing that the network was ever told.

For each pair of labelsets it is said which labels are the same, which is part of which (part ⊂ whole) and which have no
partner, each with a confidence from 0 to 1: how often it is right. What is told is more probable than not; where
nothing is, but something may be, the pictures do not tell, and the pair is undecided. Where the truth is known, in the
street world, among datasets that derive from one source, and where two datasets labelled the same pictures (which may
be for tests alone), the answers are scored against it: a is part of b when at least 90 % of a's pixels lie in b, and
again with 85 %; and how often what was said with some confidence is right.

OUT holds correspondences.json (every pair of labels) and .txt (what is shown), the label correlation matrix of the paper's
Figure 6 as correlation.csv and correlation.png, shares.csv: how much of each label lies in each other, with the network's own
confusion taken out, likely.csv: how probable it is from both that a label (row) lies in another (column), from which the
correspondences are read; scores.json and .md where the truth is known; and made.json: how, when and on what it was made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from densemtmd.commands.cli import beside, make_parser, network, say, tool
from densemtmd.errors import UserError

SPLITS = ("train", "val", "test")


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("checkpoint", type=network, metavar="CHECKPOINT", help="a run's folder, a .safetensors file, or released")
    add("--data", metavar="NAME|A,B", help="a choice of conf/data/, or datasets (default: those of the run)")
    add("--data-root", type=Path, metavar="DIR", help="the folder of the datasets' folders (default: where they were, or data)")
    add("--split", default="train,val,test", metavar="A,B", help="which pictures: train, val, test, or several (default: all)")
    add("--out", type=Path, metavar="DIR", help="where to write (default: <run>/correlations/<data>-<split>)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    splits = splits_of(arguments.split)

    from dataclasses import asdict

    from densemtmd import correlation
    from densemtmd.draw import tables
    from densemtmd.draw.attempt import drawing
    from densemtmd.draw.figures import correlation_figure
    from densemtmd.files import check_writable, write_json, write_text
    from densemtmd.inference import Predictor
    from densemtmd.origin import MADE, clocks, origin, told
    from densemtmd.progress import Progress
    from densemtmd.runs.scoring import check_labelsets, chosen, run_of
    from densemtmd.truth import known_truths

    since, words = clocks(), ["densemtmd", "correlate", *(sys.argv[1:] if argv is None else argv)]

    predictor = Predictor.load(arguments.checkpoint, arguments.device)
    run = run_of(arguments.checkpoint)
    datasets, _ = chosen(arguments.checkpoint, arguments.data, arguments.data_root, truths=predictor.space)
    check_labelsets(datasets, predictor.space)
    space = predictor.space
    pictures = {
        name: [
            partial(dataset.load, item)
            for dataset in datasets
            for split in splits
            for item in dataset.splits[split]
            if dataset.labelset.name == name
        ]
        for name in dict.fromkeys(dataset.labelset.name for dataset in datasets)
    }
    for name, readers in pictures.items():
        if not readers:
            raise UserError(f"no {' or '.join(splits)} picture is labelled in {name}; choose another --split")
    if len(pictures) < 2:
        raise UserError(f"all pictures are labelled in {next(iter(pictures))}, expected two labelsets or more: name more with --data")
    data = arguments.data.replace("/", "_").replace(",", "+") if arguments.data else "own"
    out = arguments.out or beside(arguments.checkpoint, run) / "correlations" / f"{data}-{'+'.join(splits)}"
    check_writable(out, "--out")

    truths = known_truths(datasets)
    read = sum(len(d.splits[split]) for truth in truths for d in truth.datasets for split in splits)
    with Progress("labelling", sum(map(len, pictures.values()))) as progress:
        evidence = correlation.observe(predictor.networks, pictures, predictor.device, progress.tick)
    with Progress("reading the truth", read) as progress:
        true = correlation.true_shares(truths, splits, space, progress.tick)
    share = correlation.shares(evidence)
    likely, absent = correlation.likely(evidence, share), correlation.absent_labels(evidence)
    found = correlation.correspondences(likely, space)
    shown = tables.correspondences_text(found, absent, space)
    if truths:
        scored, mostly = (
            correlation.score(found, correlation.correspondences(true, space, partial(correlation.true_relation, whole=whole)))
            for whole in (correlation.WHOLE, correlation.MOSTLY)
        )
        shown += "\n\n" + tables.correspondence_scores(scored, mostly)
        write_json(out / "scores.json", {"splits": splits, **scored, f"at {correlation.MOSTLY:.0%}": mostly})
        made = told([origin(words, since)])
        write_text(out / "scores.md", tables.correspondence_markdown(scored, mostly) + f"\n{made}\n")
    write_json(out / "correspondences.json", [one.to_json() for one in found])
    write_text(out / "correspondences.txt", shown + "\n")
    write_text(out / "correlation.csv", tables.matrix_csv(evidence.matrix, space, evidence.counts))
    write_text(out / "shares.csv", tables.matrix_csv(share, space, evidence.counts))
    write_text(out / "likely.csv", tables.matrix_csv(likely, space, evidence.counts))
    write_json(out / MADE, [asdict(origin(words, since))])
    with drawing(out / "correlation.png"):
        correlation_figure(evidence.matrix, space, out / "correlation.png")
    say(f"{shown}\n\n{sum(map(len, pictures.values()))} {' and '.join(splits)} pictures; written to {out}")
    return 0


def splits_of(choice: str) -> list[str]:
    """``"test,val"`` -> ``["val", "test"]``.

    Raises:
        UserError: a split that there is not.
    """
    from densemtmd.tasks import nearest

    named = [name.strip() for name in choice.split(",")]
    for name in named:
        if name not in SPLITS:
            raise UserError(f"--split names {name!r}; {nearest(name, SPLITS)}")
    return [split for split in SPLITS if split in named]


if __name__ == "__main__":
    sys.exit(main())
