"""Look at data before anything is trained on it.

    python tools/check_data.py stanford camvid --data-root ~/data        two datasets that are to be trained together
    python tools/check_data.py mine.yaml --out checked                   also figures: how often each label is, and a preview
    python tools/check_data.py --new ~/photos                            a first YAML for a folder that has none yet
    python tools/check_data.py --figure3 --out figures                   the seven KITTI labelsets side by side

Every file is read. What is wrong is an error, a warning, or known (the dataset's YAML acknowledges it under `known`, by
the text between brackets). With an error the exit code is 1. Give datasets that you train together in one call: the same
photo in two of them is found only then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import complain, make_parser, say, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:  # numpy and the rest are imported where they are used, so that --help answers at once
    from densemtmd.datasets.checks import Finding, Survey
    from densemtmd.datasets.folder import Dataset

KITTI = ("he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang")
"""The seven annotators of Figure 3."""

SHOWN = 5
"""Findings of one kind that are printed; --json has them all."""


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("datasets", nargs="*", metavar="DATASET", help="names of built-in datasets, or paths of YAMLs")
    add("--data-root", default="data", metavar="DIR", help="the folder that holds the datasets' folders (default: data)")
    add("--split", metavar="NAME", help="another of the splits that a dataset's YAML names, such as official")
    add("--fold", type=int, metavar="N", help="which fold tests, where a split is by folds")
    add("--json", action="store_true", help="print everything as JSON instead")
    add("--out", type=Path, metavar="DIR", help="write figures there")
    add("--exclude-duplicates", type=Path, metavar="FILE", help="list there what to leave out so that no photo occurs twice")
    add("--new", type=Path, metavar="FOLDER", help="write a first YAML for a folder of pictures and labels")
    add("--figure3", action="store_true", help="show labelsets side by side (default: the seven of KITTI)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.new is not None:
        return write_draft(arguments.new, arguments.out or Path())
    if arguments.figure3:
        return show_labelsets(arguments)
    if not arguments.datasets:
        raise UserError("no dataset is named: give names such as stanford, paths of YAMLs, or --new FOLDER")
    return check_datasets(arguments)


# ------------------------------------------------------------------------------------------------------------------------------------
# Checking


def check_datasets(arguments: argparse.Namespace) -> int:
    """Survey all datasets, say what was found, and write what was asked for."""
    from densemtmd.datasets.checks import check, copies, leave_out, survey

    datasets = open_datasets(arguments)
    surveys = [survey(dataset) for dataset in datasets]
    groups = copies(surveys)
    findings = check(surveys, groups)
    if arguments.json:
        print(json.dumps(as_json(surveys, findings), indent=1))
    else:
        for one in surveys:
            say("\n".join(table(one)) + "\n")
        say("\n".join(shown(findings)))
    if arguments.out:
        write_figures(surveys, arguments.out)
        tell(arguments, f"figures in {arguments.out}")
    if arguments.exclude_duplicates:
        out = leave_out(surveys, groups)
        write_text(arguments.exclude_duplicates, exclusions(out, [dataset.name for dataset in datasets]))
        count = sum(map(len, out.values()))
        tell(arguments, f"{arguments.exclude_duplicates} lists {count} pictures to leave out: name it as 'exclude' in the YAMLs")
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def open_datasets(arguments: argparse.Namespace) -> list[Dataset]:
    """The datasets, with what has no partner left out, so that it can be told."""
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.folder import open_dataset
    from densemtmd.datasets.splits import Folds

    configs = [load_dataset_config(name) for name in arguments.datasets]
    names = [config.name for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two datasets are called {twice[0]!r}: give one of them another name in its YAML")
    if arguments.split is not None and not any(arguments.split in config.splits for config in configs):
        raise UserError(f"--split is {arguments.split!r}, which none of {', '.join(names)} names in its YAML")
    root = Path(arguments.data_root).expanduser()
    return [
        open_dataset(
            config,
            root,
            split=arguments.split if arguments.split in config.splits else None,
            fold=arguments.fold if isinstance(config.split, Folds) else None,
            strict=False,
        )
        for config in configs
    ]


def tell(arguments: argparse.Namespace, text: str) -> None:
    """Say what was written, where it does not disturb the JSON."""
    (complain if arguments.json else say)(text)


def table(one: Survey) -> list[str]:
    """The lines of a table: of each label its share of the labelled pixels and its pictures, in each split."""
    from densemtmd.datasets.splits import SPLITS
    from densemtmd.draw.lettering import short
    from densemtmd.draw.tables import aligned
    from densemtmd.tasks import VOID
    from densemtmd.terminal import columns, folded

    dataset = one.dataset
    counts = {split: len(dataset.splits[split]) for split in SPLITS}
    lines = [f"{dataset.name}: {dataset.labelset.channels} labels, domain {dataset.domain}, pictures in {dataset.folder}"]
    lines += [f"  {line}" for note in dataset.notes for line in folded(f"note: {note}", columns() - 2).split("\n")]
    rows = [["", *(f"{split} ({counts[split]})" for split in SPLITS)]]
    for name, class_id in [*zip(dataset.labelset.labels, range(VOID), strict=False), ("void", VOID)]:
        cells = []
        for split in SPLITS:
            pixels = one.pixels[split]
            total = pixels.sum() if class_id == VOID else pixels[:VOID].sum()
            share = f"{100 * pixels[class_id] / total:.2f} %" if total and pixels[class_id] else "–"
            cells.append(f"{share:>10}{one.pictures[split][class_id] or '–':>8}")
        rows.append([short(name), *cells])
    return [*lines, *(f"  {line}".rstrip() for line in aligned(rows, columns() - 2).split("\n"))]


def shown(findings: Sequence[Finding]) -> list[str]:
    """The lines on what was found: errors first, a few of each kind; of what is known, only how much."""
    from collections import Counter

    lines = []
    for severity in ("error", "warning"):
        for kind in dict.fromkeys(finding.kind for finding in findings if finding.severity == severity):
            of_it = [finding for finding in findings if (finding.severity, finding.kind) == (severity, kind)]
            lines += [f"{severity}: {finding.message} [{finding.tag}]" for finding in of_it[:SHOWN]]
            if len(of_it) > SHOWN:
                lines.append(f"{severity}: and {len(of_it) - SHOWN} more [{kind}]; --json shows them all")
    counts = Counter(finding.severity for finding in findings)
    known = Counter(finding.kind for finding in findings if finding.severity == "known")
    kinds = f" ({', '.join(f'{count} {kind}' for kind, count in known.items())})" if known else ""
    return [*lines, f"{counts['error']} errors, {counts['warning']} warnings, {counts['known']} known{kinds}"]


def as_json(surveys: Sequence[Survey], findings: Sequence[Finding]) -> dict[str, Any]:
    """All that was counted and found."""
    from densemtmd.datasets.splits import SPLITS
    from densemtmd.tasks import VOID

    def counted(one: Survey, class_id: int) -> dict[str, dict[str, int]]:
        return {split: {"pixels": int(one.pixels[split][class_id]), "pictures": int(one.pictures[split][class_id])} for split in SPLITS}

    return {
        "datasets": {
            one.dataset.name: {
                "folder": str(one.dataset.folder),
                "domain": one.dataset.domain,
                "pictures": {split: len(one.dataset.splits[split]) for split in SPLITS},
                "labels": {label: counted(one, class_id) for class_id, label in enumerate(one.dataset.labelset.labels)},
                "void": counted(one, VOID),
                "notes": list(one.dataset.notes),
            }
            for one in surveys
        },
        "findings": [finding.to_json() for finding in findings],
        "errors": sum(finding.severity == "error" for finding in findings),
        "warnings": sum(finding.severity == "warning" for finding in findings),
    }


def exclusions(out: Mapping[str, Sequence[tuple[str, Any]]], names: Sequence[str]) -> str:
    """The text of a list that ``exclude`` in a dataset's YAML may name."""
    lines = [f"# Pictures of {', '.join(names)} to leave out, so that no photo occurs twice; written by tools/check_data.py."]
    for name, keys in out.items():
        lines.append(f"[{name}]")
        lines += [f"{key}  # stays as {copy.key} in {copy.split} of {copy.dataset}" for key, copy in keys]
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    from densemtmd.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------------------------------
# Figures


def write_figures(surveys: Sequence[Survey], out: Path) -> None:
    """How often each label occurs, and a preview of each split."""
    from densemtmd.datasets.splits import SPLITS
    from densemtmd.draw import labels_figure, preview
    from densemtmd.draw.attempt import drawing
    from densemtmd.files import atomic_write

    for one in surveys:
        dataset = one.dataset
        counts = {split: len(dataset.splits[split]) for split in SPLITS}
        with drawing(file := out / f"{dataset.name}.labels.png"):
            labels_figure(dataset.labelset, one.pixels, one.pictures, counts, file)
        rows = []
        for split in SPLITS:
            items = dataset.splits[split]
            for n in (len(items) // 3, 2 * len(items) // 3)[: len(items)]:
                try:
                    sample = dataset.load(items[n])
                except UserError:  # one of the findings
                    continue
                rows.append((split, sample.name, sample.image, sample.target))
        if rows:
            with drawing(file := out / f"{dataset.name}.preview.png"), atomic_write(file) as temporary:
                preview(rows, dataset.labelset).save(temporary)


def show_labelsets(arguments: argparse.Namespace) -> int:
    """Labelsets side by side, as in Figure 3: names and colours, and where the data are there, pictures and splits."""
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.folder import open_dataset
    from densemtmd.draw import labelsets_figure
    from densemtmd.draw.lettering import short
    from densemtmd.terminal import columns

    configs = [load_dataset_config(name) for name in arguments.datasets or KITTI]
    notes = []
    for config in configs:
        try:
            splits = open_dataset(config, Path(arguments.data_root).expanduser()).splits
            total = sum(map(len, splits.values()))
            parts = " / ".join(str(len(splits[split])) for split in ("train", "val", "test"))
            note = f"{total} pictures\n{parts}"
        except UserError:  # not there, or not whole: a check of it says why
            note = "pictures not there\n"
        notes.append(f"{config.labelset.channels} labels, {config.domain}\n{note}")
    lists = [[config.name, *note.split("\n"), "", *config.labelset.labels] for config, note in zip(configs, notes, strict=True)]
    beside = max(1, (columns() + 2) // 20)
    for first in range(0, len(lists), beside):
        for line in zip_longest(*lists[first : first + beside], fillvalue=""):
            say("  ".join(f"{short(cell, 18):18}" for cell in line).rstrip())
        say("")
    say(f"{sum(config.labelset.channels for config in configs)} labels in all; pictures are counted as train / val / test")
    if arguments.out:
        path = arguments.out / "labelsets.png"
        labelsets_figure([config.labelset for config in configs], notes, path, "labelsets; pictures to train / validate / test")
        say(f"figure in {path}")
    return 0


# ------------------------------------------------------------------------------------------------------------------------------------
# A first YAML


def write_draft(folder: Path, out: Path) -> int:
    """Write ``<folder's name>.yaml`` and say what to do with it."""
    from densemtmd.datasets.starter import draft

    folder = folder.expanduser()
    text = draft(folder)
    path = out / f"{folder.resolve().name}.yaml"
    if path.exists():
        raise UserError(f"{path} is there already: rename it, or choose another folder with --out")
    write_text(path, text)
    say(text)
    say(f"written to {path}; name its labels, then check it:\n  python tools/check_data.py {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
