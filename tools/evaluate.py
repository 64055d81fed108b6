"""Score a trained network on labelled pictures.

    python tools/evaluate.py runs/my-run                       the run's own test pictures, every labelled pixel
    python tools/evaluate.py runs/my-run --strided             a 16th of the pixels, at a 16th of the cost
    python tools/evaluate.py runs/my-run --split val --interior
    python tools/evaluate.py best.safetensors --data camvid --data-root ~/data

CHECKPOINT is a run's folder or a .safetensors file. Without --data the pictures are those of the run that the checkpoint
lies in; with it, those of datasets whose labelsets the network knows: a choice of conf/data/, or names or YAMLs of
datasets, separated by commas. The scores are shown, and written to OUT as scores.json and scores.md, with each
picture's confusion matrix in per_image.npz and the confusions of each dataset in figures/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densemtmd.cli import make_parser, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:
    from densemtmd.datasets.folder import Dataset
    from densemtmd.tasks import OutputSpace


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's folder, or a .safetensors file")
    add("--data", metavar="NAME|A,B", help="a choice of conf/data/, or datasets (default: those of the run)")
    add("--data-root", type=Path, metavar="DIR", help="the folder of the datasets' folders (default: where they were, or data)")
    add("--split", default="test", choices=["train", "val", "test"], help="which pictures (default: test)")
    add("--strided", action="store_true", help="score every 4th pixel of every 4th row")
    add("--interior", action="store_true", help="score only pixels whose patch lies inside the picture, as the paper samples")
    add("--out", type=Path, metavar="DIR", help="where to write (default: <run>/evaluations/<data>-<split>-<scoring>)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)

    from tqdm import tqdm

    from densemtmd import evaluation, report
    from densemtmd.datasets.cache import load_all
    from densemtmd.datasets.folder import load_split
    from densemtmd.files import check_writable
    from densemtmd.inference import Predictor
    from densemtmd.runs import ScoreSettings, keep_scores

    predictor = Predictor.load(arguments.checkpoint, arguments.device)
    run = run_of(arguments.checkpoint)
    how = ScoreSettings("strided" if arguments.strided else "dense", interior=arguments.interior)
    datasets, cache = chosen(arguments, run)
    check_labelsets(datasets, predictor.space)
    for dataset in datasets:
        if not dataset.splits[arguments.split]:
            raise UserError(f"{dataset.name} has no {arguments.split} pictures; choose another --split")
    data = arguments.data.replace("/", "_").replace(",", "+") if arguments.data else "own"
    out = (
        arguments.out
        or (run or arguments.checkpoint.parent) / "evaluations" / f"{data}-{arguments.split}-{how.scoring}{'-interior' * how.interior}"
    )
    check_writable(out, "--out")
    matrices = {}
    with tqdm(total=sum(len(d.splits[arguments.split]) for d in datasets), unit=" pictures", leave=False, disable=None) as bar:
        for dataset in datasets:
            name = dataset.labelset.name
            network = next(network for network in predictor.networks if name in network.space.names)
            bar.set_description(dataset.name)
            samples = load_all(dataset, cache).splits[arguments.split] if cache else load_split(dataset, arguments.split, progress=False)
            matrices[dataset.name] = evaluation.score_pictures(
                network,
                name,
                samples,
                scoring=how.scoring,
                interior=how.interior,
                device=predictor.device,
                tick=bar.update,
            )
    labelsets = {dataset.name: dataset.labelset for dataset in datasets}
    scored = {**evaluation.report(matrices, labelsets), "scoring": how.scoring, "interior": how.interior}
    keep_scores(out, matrices, {dataset.name: dataset.splits[arguments.split] for dataset in datasets}, scored, labelsets)
    print(f"{report.labels_table(scored)}\n\n{report.scores_table(scored)}\n")
    pictures = sum(map(len, matrices.values()))
    print(f"{pictures} {arguments.split} pictures, {how.scoring} scoring{', interior only' * how.interior}; written to {out}")
    return 0


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, or None."""
    folders = [checkpoint, *checkpoint.absolute().parents[:2]] if checkpoint.is_dir() else checkpoint.absolute().parents[:2]
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def chosen(arguments: argparse.Namespace, run: Path | None) -> tuple[list[Dataset], Path | None]:
    """The datasets to score on, and where their decoded pictures are kept."""
    from densemtmd.datasets.cache import cache_folder
    from densemtmd.runs import DataSettings, open_data, reopen

    if arguments.data is None:
        if run is None:
            raise UserError(f"{arguments.checkpoint} lies in no run's folder, which would tell its data: name some with --data")
        settings, datasets = reopen(run, arguments.data_root)
        return datasets, None if settings.debug else cache_folder(settings.cache, settings.data_root)
    import train

    root = arguments.data_root or Path("data")
    if (train.CONF / "data" / f"{arguments.data}.yaml").is_file():
        return open_data(train.compose([f"data={arguments.data}"]).data, root), cache_folder("auto", root)
    return open_data(DataSettings(datasets=arguments.data.split(",")), root), cache_folder("auto", root)


def check_labelsets(datasets: Sequence[Dataset], space: OutputSpace) -> None:
    """Refuses datasets whose labelsets the network does not know."""
    for dataset in datasets:
        if space[dataset.labelset.name] != dataset.labelset:
            raise UserError(
                f"the network's labelset {dataset.labelset.name!r} is not that of the dataset in {dataset.config.path}: their labels differ"
            )


if __name__ == "__main__":
    sys.exit(main())
