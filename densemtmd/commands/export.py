"""Write a trained network as a file that other programs run: ONNX, TorchScript or OpenVINO.

    python tools/export.py                                     the last finished run, all its labelsets, as ONNX
    python tools/export.py runs/my-run --labelset kundu,xu --probabilities
    python tools/export.py runs/my-run --format openvino --out street.xml
    python tools/export.py runs/my-run --labelset merged.yaml  one answer out of several labelsets
    python tools/export.py runs/my-run --mirror --scales 1,1.5     the mean over copies of each picture
    python tools/export.py runs/my-run --int8                  also in 8 bits, calibrated on the run's validation pictures
    python tools/export.py runs/my-run --int8 photos/          or on these

The file takes pictures of any size, (N, H, W, 3) uint8 as every library reads them, or with --float (N, 3, H, W) in [0, 1],
and answers with the class ids under each labelset, (N, H, W) uint8, by the name labels.NAME, and on request their
probabilities, (N, labels, H, W) float32, by the name probabilities.NAME. Colour conversion, what is made up beyond the
border, the copies of a picture that are asked for, the softmax of each labelset and the fusion of several are inside: nothing is
to be done before or behind. A network for hands takes crops of
depth, (N, 1, size, size) from -1 to 1, and answers with coordinates, (N, channels), by the name values.NAME.

Before it gets its name the file is run, by the program that it is for, at three odd sizes, and compared with the network:
labels may differ where two are as likely, a file that differs otherwise is not left behind. It tells of itself what labels and
colours there are, what it does with colours, and what its weights began as, under which licence.

With --int8 a second file is written, NAME.int8.onnx, whose convolutions compute in 8 bits. What that costs is measured on the test
pictures of the run where they are there, in IoU, and else on the calibration pictures, in pixels that get another label.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import beside, make_parser, network, newest_run, numbers, say, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:
    from densemtmd.export.graph import Graph

FORMATS = ("onnx", "torch", "openvino")


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("checkpoint", nargs="?", type=network, metavar="RUN", help="a run, a .safetensors file, or released (default: the last run)")
    add("--format", default="onnx", choices=FORMATS, help="of the file (default: onnx)")
    add("--labelset", default="all", metavar="NAME|all|A,B|YAML", help="which labelsets answer, or a merged one (default: all)")
    add("--probabilities", action="store_true", help="answer with the probabilities of all labels too")
    add("--float", action="store_true", help="take (N, 3, H, W) float32 in [0, 1] instead of (N, H, W, 3) uint8")
    add("--mirror", action="store_true", help="label each picture mirrored too, and take the mean of the probabilities")
    add("--scales", type=numbers, default=[1.0], metavar="A,B", help="enlarge each picture by these, and take the mean (default: 1)")
    add("--int8", nargs="*", metavar="PICTURE", help="also write it in 8 bits, calibrated on these (default: validation pictures)")
    add("--data", metavar="NAME|A,B", help="with --int8: a choice of conf/data/, or datasets (default: those of the run)")
    add("--data-root", type=Path, metavar="DIR", help="with --int8: the folder of the datasets' folders (default: that of the run)")
    add("--out", type=Path, metavar="FILE", help="the file to write (default: network.onnx, .pt or .xml in the run's folder)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.int8 is not None and arguments.format != "onnx":
        raise UserError(f"--int8 is for --format onnx, but the format is {arguments.format}: OpenVINO reads ONNX in 8 bits as it is")
    checkpoint = arguments.checkpoint if arguments.checkpoint else newest_run(option="RUN")

    from densemtmd.export.graph import Graph
    from densemtmd.export.writing import SUFFIXES, check_packages, write
    from densemtmd.inference import Predictor
    from densemtmd.labelling import choose_merged, choose_tasks

    check_packages(arguments.format)
    suffix = SUFFIXES[arguments.format]
    path = arguments.out or beside(checkpoint) / f"{'network' if checkpoint.is_dir() else checkpoint.stem}{suffix}"
    if path.suffix != suffix:
        raise UserError(f"--out is {path}, expected a name with {suffix}, which a file of the format {arguments.format} has")
    say(f"network: {checkpoint}" + ("" if arguments.checkpoint else ", the last finished run"))
    copies: dict[str, Any] = {"mirror": arguments.mirror, "scales": arguments.scales}
    predictor = Predictor.load(checkpoint, "cpu", **copies)
    merged = choose_merged(arguments.labelset, predictor.space)
    names = list(merged.groups) if merged else choose_tasks(arguments.labelset, predictor.space)
    graph = Graph(predictor.networks, names, arguments.probabilities, arguments.float, merged=merged, **copies)
    if not graph.of_pictures and arguments.int8 is not None:
        raise UserError("--int8 is for networks that label pictures, but this one answers other tasks: leave it out")
    written = write(graph, predictor, path, arguments.format)
    say(f"in:  picture {graph.shape}")
    for output in graph.outputs:
        say(f"out: {output.name} {output.shape} {output.dtype}")
    say(f"run by {written.program} beside the network:")
    for difference in written.differences:
        say(f"  {difference}")
    say(f"written: {path}, {written.bytes / 1e6:.1f} MB")
    if arguments.int8 is not None:
        in_8_bits(graph, path, arguments.int8, checkpoint, arguments.data, arguments.data_root)
    return 0


def in_8_bits(graph: Graph, path: Path, named: Sequence[str], checkpoint: Path, data: str | None, data_root: Path | None) -> None:
    """Writes the file in 8 bits too, and prints what that costs.

    Args:
        graph: which.
        path: of its file in full precision.
        named: pictures for calibration; none: those of the datasets.
        checkpoint: of the network.
        data, data_root: the datasets and where they are, as :func:`densemtmd.runs.scoring.chosen` has them.

    Raises:
        UserError: there are no such pictures, or they cannot be read.
    """
    from densemtmd.export.quantised import calibrating, cost_on_data, cost_on_pictures, quantise
    from densemtmd.export.writing import opened
    from densemtmd.labelling import find_pictures
    from densemtmd.runs.scoring import chosen

    datasets, why = [], "it has none under these labelsets"
    try:
        datasets = chosen(checkpoint, data, data_root)[0]
    except UserError as error:
        if data is not None or not named:
            raise
        why = str(error)
    pictures = list(find_pictures(named).values()) if named else calibrating(graph, datasets)
    if not pictures:
        raise UserError("--int8 names no pictures, and there are no validation pictures under these labelsets: name some dozens")
    smaller = path.with_suffix(f".int8{path.suffix}")
    quantise(graph, path, smaller, pictures)
    full, eight = opened(path, "onnx"), opened(smaller, "onnx")
    costs, where = cost_on_data(graph, full, eight, datasets), "test pictures of " + ("the run" if data is None else data)
    if not costs:
        say(f"no IoU on {where}: {why}")
        costs, where = cost_on_pictures(graph, full, eight, pictures), "the calibration pictures"
    say(f"in 8 bits, on {where}:")
    for cost in costs:
        say(f"  {cost}")
    size = smaller.stat().st_size
    say(f"written: {smaller}, {size / 1e6:.1f} MB, calibrated on {len(pictures)} picture{'s' * (len(pictures) != 1)}")


if __name__ == "__main__":
    sys.exit(main())
