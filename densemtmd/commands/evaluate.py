"""Score a trained network on labelled pictures, or a file of answers about hands.

    python tools/evaluate.py runs/my-run                       the run's own test pictures, every labelled pixel
    python tools/evaluate.py runs/my-run --strided             a 16th of the pixels, at a 16th of the cost
    python tools/evaluate.py runs/my-run --split val --interior
    python tools/evaluate.py best.safetensors --data camvid --data-root ~/data
    python tools/evaluate.py --predictions FILE --keypoints nyu           answers in the field's format, on the official test frames
    python tools/evaluate.py runs/my-run --mirror --scales 1,1.5   the mean over copies of each picture
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

A file of predictions has a line per official test frame of NYU or ICVL: u, v and depth of each keypoint or, with --units xyz,
x, y and z in mm, y upwards. The true keypoints are looked for in the data root (nyu or icvl, or these in hands) and in the folders
above the file. With --out the scores are written too, with each frame's errors in per_image.npz and the share of good frames as a
figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import beside, make_parser, network, numbers, say, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from densemtmd.datasets.folder import Dataset
    from densemtmd.datasets.hands.camera import Camera
    from densemtmd.datasets.hands.frames import Frames
    from densemtmd.datasets.sample import Item
    from densemtmd.inference import Predictor
    from densemtmd.tasks import Task


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("checkpoint", type=network, nargs="?", metavar="CHECKPOINT", help="a run's folder, a .safetensors file, or released")
    add("--predictions", type=Path, metavar="FILE", help="score this file instead: a line per test frame, u v depth of each keypoint")
    add("--keypoints", metavar="nyu|icvl", help="which keypoints --predictions holds")
    add("--units", default="uvd", choices=["uvd", "xyz"], help="what --predictions holds of each: u v depth, or x y z in mm (default: uvd)")
    add("--data", metavar="NAME|A,B", help="a choice of conf/data/, or datasets (default: those of the run)")
    add("--data-root", type=Path, metavar="DIR", help="the folder of the datasets' folders (default: where they were, or data)")
    add("--split", default="test", choices=["train", "val", "test"], help="which pictures (default: test)")
    add("--strided", action="store_true", help="score every 4th pixel of every 4th row")
    add("--interior", action="store_true", help="score only pixels whose patch lies inside the picture, as the paper samples")
    add("--mirror", action="store_true", help="label each picture mirrored too, and take the mean of the probabilities")
    add("--scales", type=numbers, default=[1.0], metavar="A,B", help="enlarge each picture by these, and take the mean (default: 1)")
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
    words = list(sys.argv[1:] if argv is None else argv)
    return score_network(arguments, words) if arguments.predictions is None else score_predictions(arguments)


def score_network(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The scores of a trained network."""
    from densemtmd.files import check_writable, write_json, write_text
    from densemtmd.inference import Predictor
    from densemtmd.kind import kind_of
    from densemtmd.origin import clocks, origin, told
    from densemtmd.runs.folder import EVALUATIONS
    from densemtmd.runs.run import keep_scores
    from densemtmd.runs.scoring import answered, check_labelsets, chosen, run_of
    from densemtmd.settings import ScoreSettings

    since, command = clocks(), ["densemtmd", "evaluate", *words]
    if arguments.cross and arguments.labelset:
        raise UserError("--cross and --labelset were both given, expected one of them: call twice")
    predictor = Predictor.load(arguments.checkpoint, arguments.device, arguments.precision)
    run, split = run_of(arguments.checkpoint), arguments.split
    kind, how = kind_of(predictor.space.kind), ScoreSettings(
        "strided" if arguments.strided else "dense", interior=arguments.interior, mirror=arguments.mirror, scales=arguments.scales
    )  # fmt: skip
    kind.check_way(how)
    truths = predictor.space if arguments.cross or arguments.labelset is not None else None
    datasets, cache = chosen(arguments.checkpoint, arguments.data, arguments.data_root, truths=truths)
    check_labelsets(datasets, predictor.space)
    for dataset in datasets:
        if not dataset.splits[split]:
            raise UserError(f"{dataset.name} has no {split} pictures; choose another --split")
    if arguments.labelset and not kind.merges:
        answers = f"{predictor.space.tasks[0].words}s"
        raise UserError(f"--labelset is {arguments.labelset}, but this network answers {answers}, which nothing merges: leave it out")
    out = arguments.out or beside(arguments.checkpoint, run) / EVALUATIONS / called(arguments, kind.way(how), predictor.precision)
    check_writable(out, "--out")
    where: dict[str, Any] = {"device": predictor.device, "precision": predictor.precision}
    about = {"split": split} | ({} if predictor.precision == "float32" else {"precision": predictor.precision})
    if arguments.cross:
        found = kind.across(predictor.networks, datasets, split, how, **where)
        scored = {"kind": kind.name, **found.scored, **about}
        write_json(out / "cross.json", scored)
        write_text(out / "cross.md", f"{found.markdown.rstrip()}\n\n{told([origin(command, since)])}\n")
        say(f"{found.table}\n\n{found.pictures} {split} pictures{kind.manner(scored)}; written to {out}")
        return 0
    tasks = {dataset.name: dataset.task for dataset in datasets}
    matrices: dict[str, np.ndarray] = {}
    pictures: dict[str, Sequence[Item]] = {dataset.name: dataset.splits[split] for dataset in datasets}
    if arguments.labelset:
        matrices, pictures, tasks = merged(predictor, datasets, split, arguments.labelset, {**kind.way(how), **where})
    else:
        matrices, pictures = answered(predictor, datasets, split, how, cache)
    scored = {"kind": kind.name, **kind.report(matrices, tasks), **kind.way(how), **about}
    keep_scores(out, matrices, pictures, scored, tasks, [origin(command, since)])
    say(f"{kind.details(scored)}\n\n{kind.table(scored)}\n")
    say(f"{sum(map(len, pictures.values()))} {split} pictures{kind.manner(scored)}; written to {out}")
    return 0


def called(arguments: argparse.Namespace, way: Mapping[str, Any], precision: str) -> str:
    """The name of the folder of an evaluation, ``camvid-test-dense``: whatever it depends on."""
    what = ["cross"] if arguments.cross else [arguments.labelset.stem] if arguments.labelset else []
    data = arguments.data.replace("/", "_").replace(",", "+") if arguments.data else "own"
    manner = [_words(key, value) for key, value in way.items() if value and value != [1.0]]
    return "-".join([*what, data, arguments.split, *manner, *([] if precision == "float32" else [precision])])


def _words(key: str, value: Any) -> str:
    """``mirror``, ``dense``, ``scales1+1.5``."""
    return key if value is True else key + "+".join(f"{one:g}" for one in value) if isinstance(value, list) else str(value)


def score_predictions(arguments: argparse.Namespace) -> int:
    """The scores of a file of answers about hands."""
    import numpy as np

    from densemtmd import keypoints
    from densemtmd.datasets.hands.predictions import read_predictions
    from densemtmd.datasets.hands.sets import hand_set
    from densemtmd.draw import tables
    from densemtmd.draw.attempt import drawing
    from densemtmd.draw.figures import within_figure
    from densemtmd.files import atomic_write, check_writable, write_json, write_text

    hands = hand_set(arguments.keypoints)
    if arguments.out:
        check_writable(arguments.out, "--out")
    frames = official_test(hands.name, arguments)
    answers = read_predictions(arguments.predictions, hands, len(frames), arguments.units)
    camera, name = hands.published, arguments.predictions.stem
    uvd, true = camera.to_uvd(answers) if arguments.units == "xyz" else answers, camera.to_xyz(frames.uvd)
    mm = keypoints.distances(camera.to_xyz(uvd), true)
    refuse_other_units(arguments, answers, mm.mean(), camera, true)
    errors = {name: keypoints.Errors(mm, keypoints.distances(uvd[..., :2], frames.uvd[..., :2]))}
    scored = keypoints.report(errors, {name: hands.keypoints.keypoints})
    say(f"{tables.keypoints_table(scored)}\n\n{tables.errors_table(scored)}\n")
    say(f"{len(frames)} test frames of {hands.name}" + (f"; written to {arguments.out}" if arguments.out else ""))
    if arguments.out:
        with atomic_write(arguments.out / "per_image.npz") as temporary:
            kept: dict[str, Any] = {"mm": mm, "px": errors[name].px, "pictures": np.array(frames.keys)}
            np.savez_compressed(temporary, **{f"{name}/{key}": array for key, array in kept.items()})
        write_text(arguments.out / "scores.md", tables.errors_markdown(scored))
        write_json(arguments.out / "scores.json", scored)
        with drawing(file := arguments.out / "figures" / "within.png"):
            within_figure({name: mm}, file)
    return 0


def refuse_other_units(arguments: argparse.Namespace, answers: np.ndarray, mm: float, camera: Camera, true: np.ndarray) -> None:
    """Raises UserError where the answers (N, J, 3), read in other units, are much nearer to the true keypoints (N, J, 3) mm than ``mm``."""
    from densemtmd.keypoints import distances

    readings = {
        "u v depth": ("uvd", camera.to_xyz(answers)),
        "x y z in mm": ("xyz", answers),
        "x y z in mm, y downwards": ("xyz with y turned", answers * (1, -1, 1)),
    }
    found = {what: (float(distances(xyz, true).mean()), units) for what, (units, xyz) in readings.items()}
    what, (least, units) = min(found.items(), key=lambda one: one[1][0])
    if least < MUCH_NEARER * mm:
        raise UserError(
            f"{arguments.predictions} is {mm:.0f} mm from the true keypoints as --units {arguments.units} has it, but {least:.0f} as "
            f"{what}: use --units {units}"
        )


MUCH_NEARER = 0.25
"""Answers in other units than they are read in are meaningless: several times as far from the truth, however bad they are."""


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


def merged(
    predictor: Predictor, datasets: Sequence[Dataset], split: str, file: Path, how: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Sequence[Item]], dict[str, Task]]:
    """Scores a merged labelset on the pictures whose truth is known: its confusion matrices, its pictures, and itself."""
    import numpy as np

    from densemtmd import evaluation
    from densemtmd.merging import load_merged
    from densemtmd.progress import Progress
    from densemtmd.truth import truths_of

    fusion = load_merged(file, predictor.space)
    truths = truths_of(datasets)
    for truth in truths:
        if missing := [name for name in fusion.groups if name not in truth.tables and fusion.truth is None]:
            raise UserError(
                f"{file} names labels of {missing[0]}, of which the pictures of {truth.datasets[0].name} tell no truth: add its dataset to "
                "--data, or say in the YAML, under truth, which classes each merged label has"
            )
    known = [(truth, dataset) for truth in truths for dataset in truth.datasets]
    with Progress(f"scoring ({how['scoring']})", sum(len(d.splits[split]) for _, d in known)) as progress:
        counts = [
            evaluation.score_merged(predictor.networks, fusion, truth, d, split, **how, tick=progress.tick) for truth, d in known
        ]
    name = fusion.labelset.name
    items = [item for _, d in known for item in d.splits[split]]
    return {name: np.concatenate(counts)}, {name: items}, {name: fusion.labelset}


if __name__ == "__main__":
    sys.exit(main())
