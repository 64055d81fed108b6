"""Score a trained network on labelled pictures, or a file of answers about hands.

    python tools/evaluate.py runs/my-run                       the run's own test pictures, every labelled pixel
    python tools/evaluate.py runs/my-run --strided             a 16th of the pixels, at a 16th of the cost
    python tools/evaluate.py runs/my-run --split val --interior
    python tools/evaluate.py best.safetensors --data camvid --data-root ~/data
    python tools/evaluate.py --predictions FILE --keypoints nyu           answers in the field's format, on the official test frames
    python tools/evaluate.py runs/my-run --cross               every labelset's answers on every annotator's pictures
    python tools/evaluate.py runs/my-run --labelset merged.yaml    one answer out of several labelsets

CHECKPOINT is a run's folder or a .safetensors file. Without --data the pictures are those of the run that the checkpoint
lies in; with it, those of datasets whose labelsets the network knows: a choice of conf/data/, or names or YAMLs of
datasets, separated by commas. The scores are shown, and written to OUT as scores.json and scores.md, with each
picture's confusion matrix in per_image.npz and the confusions of each dataset in figures/.

--cross and --labelset need pictures whose full truth is known: those of a street world, or of datasets that derive from
one source, such as camvid7. They are scored against that truth, not against what the annotator of the picture drew.
--cross writes cross.json and cross.md: labelset by labelset, how right its answers are on the pictures that each
annotator labelled. With hands it needs those of the hand world, where all keypoints of all annotators are known.
What a merged labelset's YAML says is described in densemtmd/merging.py.

A file of predictions has a line per official test frame of NYU or ICVL: u, v and depth of each keypoint. The true keypoints
are looked for in the data root (nyu or icvl, or these in hands) and in the folders above the file. With --out the scores are
written too, with each frame's errors in per_image.npz and the share of good frames as a figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import make_parser, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from densemtmd.datasets.folder import Dataset
    from densemtmd.datasets.hands.dataset import HandDataset, Hands
    from densemtmd.datasets.hands.frames import Frames
    from densemtmd.inference import Predictor
    from densemtmd.network import JointNetwork
    from densemtmd.settings import ScoreSettings
    from densemtmd.tasks import OutputSpace
    from densemtmd.truth import Truth


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="a run's folder, or a .safetensors file")
    add("--predictions", type=Path, metavar="FILE", help="score this file instead: a line per test frame, u v depth of each keypoint")
    add("--keypoints", metavar="nyu|icvl", help="which keypoints --predictions holds")
    add("--data", metavar="NAME|A,B", help="a choice of conf/data/, or datasets (default: those of the run)")
    add("--data-root", type=Path, metavar="DIR", help="the folder of the datasets' folders (default: where they were, or data)")
    add("--split", default="test", choices=["train", "val", "test"], help="which pictures (default: test)")
    add("--strided", action="store_true", help="score every 4th pixel of every 4th row")
    add("--interior", action="store_true", help="score only pixels whose patch lies inside the picture, as the paper samples")
    add("--cross", action="store_true", help="score each labelset on all annotators' pictures, where the truth is known")
    add("--labelset", type=Path, metavar="YAML", help="score a merged labelset, where the truth is known")
    add("--out", type=Path, metavar="DIR", help="where to write (default: <run>/evaluations/<data>-<split>-<scoring>)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add("--precision", default="float32", help="of dense scoring: float32, or bfloat16, which is faster (default: float32)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if (arguments.checkpoint is None) == (arguments.predictions is None):
        raise UserError("give one of CHECKPOINT, a run's folder or its network, and --predictions, a file of answers about hands")
    if (arguments.predictions is None) != (arguments.keypoints is None):
        raise UserError("--predictions and --keypoints belong together: --predictions FILE --keypoints nyu")
    return score_network(arguments) if arguments.predictions is None else score_predictions(arguments)


def score_network(arguments: argparse.Namespace) -> int:
    """The scores of a trained network."""
    from tqdm import tqdm

    from densemtmd import evaluation, poses, report
    from densemtmd.datasets.cache import load_all
    from densemtmd.datasets.folder import load_split
    from densemtmd.datasets.hands.dataset import HandDataset
    from densemtmd.files import check_writable
    from densemtmd.inference import Predictor
    from densemtmd.runs.run import keep_scores, report_of
    from densemtmd.settings import ScoreSettings

    predictor = Predictor.load(arguments.checkpoint, arguments.device, arguments.precision)
    run = run_of(arguments.checkpoint)
    how = ScoreSettings("strided" if arguments.strided else "dense", interior=arguments.interior)
    datasets, cache = chosen(arguments, run)
    check_labelsets(datasets, predictor.space)
    for dataset in datasets:
        if not dataset.splits[arguments.split]:
            raise UserError(f"{dataset.name} has no {arguments.split} pictures; choose another --split")
    data = arguments.data.replace("/", "_").replace(",", "+") if arguments.data else "own"
    what = "cross-" if arguments.cross else f"{arguments.labelset.stem}-" if arguments.labelset else ""
    of_hands = isinstance(datasets[0], HandDataset)
    manner = "" if of_hands else f"-{how.scoring}{'-interior' * how.interior}"
    called = f"{what}{data}-{arguments.split}{manner}"
    called += "" if predictor.precision == "float32" else f"-{predictor.precision}"
    out = arguments.out or (run or arguments.checkpoint.parent) / "evaluations" / called
    if arguments.cross and arguments.labelset:
        raise UserError("--cross and --labelset were both given, expected one of them: call twice")
    if arguments.labelset and of_hands:
        raise UserError(f"--labelset is {arguments.labelset}, but this network finds keypoints, which nothing merges: leave it out")
    check_writable(out, "--out")
    if arguments.cross and of_hands:
        return across_hands(predictor, [dataset for dataset in datasets if isinstance(dataset, HandDataset)], arguments.split, out)
    if arguments.cross:
        return across(predictor, datasets, arguments.split, how, out)
    if arguments.labelset:
        return merged(predictor, datasets, arguments.split, arguments.labelset, how, out)
    matrices: dict[str, Any] = {}
    pictures = {dataset.name: dataset.splits[arguments.split] for dataset in datasets}
    with tqdm(total=sum(map(len, pictures.values())), unit=" pictures", leave=False, disable=None) as bar:
        for dataset in datasets:
            name = dataset.task.name
            network = next(network for network in predictor.networks if name in network.space.names)
            bar.set_description(dataset.name)
            if isinstance(dataset, HandDataset):
                hands = hands_of(dataset, arguments.split, network)
                pictures[dataset.name] = tuple(item for item in pictures[dataset.name] if item.key in set(hands.keys))
                matrices[dataset.name] = poses.errors_of(network, name, hands, dataset.hands, predictor.device, bar.update)
                continue
            samples = load_all(dataset, cache).splits[arguments.split] if cache else load_split(dataset, arguments.split, progress=False)
            matrices[dataset.name] = evaluation.score_pictures(
                network,
                name,
                samples,
                **how.way,
                **place(predictor),
                tick=bar.update,
            )
    tasks = {dataset.name: dataset.task for dataset in datasets}
    scored = {**report_of(matrices, tasks), **({} if of_hands else how.way), "split": arguments.split, **roughly(predictor)}
    keep_scores(out, matrices, pictures, scored, tasks)
    print(f"{report.labels_table(scored)}\n\n{report.scores_table(scored)}\n")
    scoring = "" if of_hands else f", {how.scoring} scoring{', interior only' * how.interior}"
    print(f"{sum(map(len, pictures.values()))} {arguments.split} pictures{scoring}; written to {out}")
    return 0


def score_predictions(arguments: argparse.Namespace) -> int:
    """The scores of a file of answers about hands."""
    import numpy as np

    from densemtmd import draw, keypoints, report
    from densemtmd.datasets.hands.predictions import read_predictions
    from densemtmd.datasets.hands.sets import hand_set
    from densemtmd.files import atomic_write, check_writable, write_json, write_text

    hands = hand_set(arguments.keypoints)
    if arguments.out:
        check_writable(arguments.out, "--out")
    frames = official_test(hands.name, arguments)
    answers = read_predictions(arguments.predictions, hands, len(frames))
    camera, name = hands.published, arguments.predictions.stem
    mm = keypoints.distances(camera.to_xyz(answers), camera.to_xyz(frames.uvd))
    errors = {name: keypoints.Errors(mm, keypoints.distances(answers[..., :2], frames.uvd[..., :2]))}
    scored = keypoints.report(errors, {name: hands.keypoints.keypoints})
    print(f"{report.keypoints_table(scored)}\n\n{report.errors_table(scored)}\n")
    print(f"{len(frames)} test frames of {hands.name}" + (f"; written to {arguments.out}" if arguments.out else ""))
    if arguments.out:
        draw.within_figure({name: mm}, arguments.out / "figures" / "within.png")
        with atomic_write(arguments.out / "per_image.npz") as temporary:
            np.savez_compressed(temporary, **{f"{name}/mm": mm, f"{name}/px": errors[name].px, f"{name}/pictures": np.array(frames.keys)})
        write_text(arguments.out / "scores.md", report.errors_markdown(scored))
        write_json(arguments.out / "scores.json", scored)
    return 0


def official_test(name: str, arguments: argparse.Namespace) -> Frames:
    """The official test frames of NYU or ICVL, wherever their labels lie."""
    from densemtmd.datasets.hands import icvl, nyu

    read = nyu.read_frames if name == "nyu" else icvl.read_frames
    roots = [arguments.data_root] if arguments.data_root else [Path("data"), *arguments.predictions.absolute().parents[:3]]
    folders = [folder for root in roots for folder in (root / name, root / "hands" / name) if folder.is_dir()]
    failures = []
    for folder in folders:
        try:
            return read(folder, "test")
        except UserError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    looked = " nor in ".join(str(root) for root in roots)
    raise UserError(f"the true keypoints of {name} are neither in {looked}: name the folder that holds the folder {name} with --data-root")


def across(predictor: Predictor, datasets: Sequence[Dataset], split: str, how: ScoreSettings, out: Path) -> int:
    """Scores every labelset on the pictures of every annotator whose truth is known; shows and writes the tables."""
    from tqdm import tqdm

    from densemtmd import evaluation, report
    from densemtmd.files import write_json, write_text

    matrices: dict[str, dict[str, np.ndarray]] = {}
    truths = truths_of(datasets)
    pictures = sum(len(d.splits[split]) for truth in truths for d in truth.datasets)
    with tqdm(total=pictures, unit=" pictures", leave=False, disable=None) as bar:
        for truth in truths:
            for dataset in truth.datasets:
                bar.set_description(dataset.name)
                for labelset, counts in evaluation.score_across(
                    predictor.networks, truth, dataset, split, **how.way, **place(predictor), tick=bar.update
                ).items():
                    matrices.setdefault(labelset, {})[dataset.name] = counts.sum(0)
    scored = {**evaluation.cross_report(matrices), **how.way, "split": split, **roughly(predictor)}
    write_json(out / "cross.json", scored)
    write_text(out / "cross.md", report.cross_markdown(scored))
    print(f"{report.cross_tables(scored)}\n\n{pictures} {split} pictures, {how.scoring} scoring; written to {out}")
    return 0


def across_hands(predictor: Predictor, datasets: Sequence[HandDataset], split: str, out: Path) -> int:
    """Scores every keypoint set on the hands of every dataset whose truth is known; shows and writes the tables."""
    from tqdm import tqdm

    from densemtmd import keypoints, poses, report
    from densemtmd.datasets.hands.sets import HAND_SETS
    from densemtmd.files import write_json, write_text
    from densemtmd.truth import hand_truth

    if unknown := [d.name for d in datasets if not hand_truth(d, split, [])]:
        raise UserError(
            f"of the hands of {', '.join(unknown)} no more is known than the dataset annotates, expected those of the hand world: give "
            "--data hands"
        )
    errors: dict[str, dict[str, keypoints.Errors]] = {}
    loaded = [hands_of(dataset, split, predictor.networks[0]) for dataset in datasets]
    pictures, tasks = sum(map(len, loaded)), sum(len(network.space.names) for network in predictor.networks)
    with tqdm(total=tasks * pictures, unit=" answers", leave=False, disable=None) as bar:
        for dataset, hands in zip(datasets, loaded, strict=True):
            truth = hand_truth(dataset, split, hands.keys)
            for task, error in poses.errors_across(
                predictor.networks, hands, truth, dataset.hands, predictor.device, bar.update
            ).items():
                errors.setdefault(task, {})[dataset.name] = error
    scored = keypoints.cross_report(errors, {name: annotator.keypoints.keypoints for name, annotator in HAND_SETS.items()})
    write_json(out / "cross.json", scored)
    write_text(out / "cross.md", report.cross_errors_markdown(scored))
    print(f"{report.cross_errors_table(scored)}\n\n{pictures} {split} pictures; written to {out}")
    return 0


def hands_of(dataset: HandDataset, split: str, network: JointNetwork) -> Hands:
    """The hands of one split, as large as the network takes them; says which frames show none."""
    from dataclasses import replace

    from tqdm import tqdm

    from densemtmd.datasets.hands.dataset import load_hands
    from densemtmd.poses import size_of

    alone = replace(dataset, splits={split: dataset.splits[split]})
    hands = load_hands(alone, None, size_of(network), 1.0, progress=False)[split]
    if hands.note:
        tqdm.write(hands.note)
    return hands


def merged(predictor: Predictor, datasets: Sequence[Dataset], split: str, file: Path, how: ScoreSettings, out: Path) -> int:
    """Scores a merged labelset on the pictures whose truth is known; shows and writes what an evaluation does."""
    import numpy as np
    from tqdm import tqdm

    from densemtmd import evaluation, report
    from densemtmd.merging import load_merged
    from densemtmd.runs.run import keep_scores

    fusion = load_merged(file, predictor.space)
    truths = truths_of(datasets)
    for truth in truths:
        if missing := [name for name in fusion.groups if name not in truth.tables and fusion.truth is None]:
            raise UserError(
                f"{file} names labels of {missing[0]}, of which the pictures of {truth.datasets[0].name} tell no truth: add its dataset to "
                "--data, or say in the YAML, under truth, which classes each merged label has"
            )
    items = [(truth, dataset) for truth in truths for dataset in truth.datasets]
    with tqdm(total=sum(len(d.splits[split]) for _, d in items), unit=" pictures", leave=False, disable=None) as bar:
        counts = [
            evaluation.score_merged(
                predictor.networks, fusion, truth, d, split, **how.way, **place(predictor), tick=bar.update
            )
            for truth, d in items
        ]
    name = fusion.labelset.name
    matrices, labelsets = {name: np.concatenate(counts)}, {name: fusion.labelset}
    scored = {**evaluation.report(matrices, labelsets), **how.way, "split": split, **roughly(predictor)}
    keep_scores(out, matrices, {name: [item for _, d in items for item in d.splits[split]]}, scored, labelsets)
    print(f"{report.labels_table(scored)}\n\n{report.scores_table(scored)}\n")
    print(f"{len(matrices[name])} {split} pictures, {how.scoring} scoring{', interior only' * how.interior}; written to {out}")
    return 0


def place(predictor: Predictor) -> dict[str, Any]:
    """Where and in which precision it computes."""
    return {"device": predictor.device, "precision": predictor.precision}


def roughly(predictor: Predictor) -> dict[str, str]:
    """What the scores tell of a precision other than the usual."""
    return {} if predictor.precision == "float32" else {"precision": predictor.precision}


def truths_of(datasets: Sequence[Dataset]) -> list[Truth]:
    """The truths of the datasets, at least one."""
    from densemtmd.truth import known_truths

    if truths := known_truths(datasets):
        return truths
    raise UserError(
        f"of the pictures of {', '.join(d.name for d in datasets)} no more is known than each annotator drew, expected those of a street "
        "world or of two or more datasets that derive from one, such as --data camvid7"
    )


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, or None."""
    folders = [checkpoint, *checkpoint.absolute().parents[:2]] if checkpoint.is_dir() else checkpoint.absolute().parents[:2]
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def chosen(arguments: argparse.Namespace, run: Path | None) -> tuple[list[Dataset], Path | None]:
    """The datasets to score on, and where their decoded pictures are kept."""
    from densemtmd.data import open_data
    from densemtmd.datasets.cache import cache_folder
    from densemtmd.runs.folder import reopen
    from densemtmd.settings import DataSettings

    if arguments.data is None:
        if run is None:
            raise UserError(f"{arguments.checkpoint} lies in no run's folder, which would tell its data: name some with --data")
        settings, datasets = reopen(run, arguments.data_root)
        return datasets, None if settings.debug else cache_folder(settings.cache, settings.data_root)
    from densemtmd.commands import train

    root = arguments.data_root or Path("data")
    if (train.CONF / "data" / f"{arguments.data}.yaml").is_file():
        return open_data(train.compose([f"data={arguments.data}"]).data, root), cache_folder("auto", root)
    return open_data(DataSettings(datasets=arguments.data.split(",")), root), cache_folder("auto", root)


def check_labelsets(datasets: Sequence[Dataset], space: OutputSpace) -> None:
    """Refuses datasets whose labelsets the network does not know."""
    for dataset in datasets:
        if space[dataset.task.name] != dataset.task:
            raise UserError(
                f"the network's labelset {dataset.task.name!r} is not that of the dataset in {dataset.config.path}: their labels differ"
            )


if __name__ == "__main__":
    sys.exit(main())
