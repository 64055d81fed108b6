"""Label pictures with a trained network.

    python tools/infer.py photo.jpg                         of the last run, or of what comes along
    python tools/infer.py photos/ --labelset kundu --out labelled
    python tools/infer.py "photos/*.jpg" --labelset kundu,xu --checkpoint runs/my-run
    python tools/infer.py photo.jpg --mirror --scales 1,1.5          the mean over copies of each
    python tools/infer.py depth_1_0000001.png --keypoints all            a hand in a depth picture
    python tools/infer.py photo.jpg --labelset merged.yaml           one answer out of several labelsets
    python tools/infer.py clip.mp4 --labelset kundu                  a video (needs PyAV, the extra [video])
    python tools/infer.py map.tif --labelset kundu                   a GeoTIFF (needs rasterio, the extra [geo])
    python tools/infer.py photos/ --outputs ids --shard 3/16         the third of 16 calls that share a folder
    python tools/infer.py photos/ --outputs ids --engine ray         by a Ray cluster (needs Ray, the extra [ray])

For each picture and labelset two files are written, and with several labelsets a third:

    OUT/photo.jpg.kundu.png           class ids, in the labelset's palette
    OUT/photo.jpg.kundu.overlay.png   the picture under those colours, with a legend
    OUT/photo.jpg.sheet.png           the picture and every labelset's answer, side by side

and a line is printed: the share of each class, largest first (those below 0.1 % are left out). A picture that cannot be
read is reported at the end, the others are labelled; the exit code is then 1. What was labelled before, by the same
network in the same way, is left as it is: a call that was interrupted goes on when it is made again. With --outputs
probabilities a file of NumPy's is written for each labelset: those of all its labels, (labels, H, W) in half precision:

    OUT/photo.jpg.kundu.probabilities.npz

With --outputs coco,labelme there are outlines, for the tools that people label with, who then only correct them: a
file for all pictures, and one for each, which `labelme PICTURES --output OUT/kundu.labelme` opens with its picture:

    OUT/kundu.coco.json
    OUT/kundu.labelme/photo.json

Of a video, frame by frame, the class ids without loss (FFV1), and a video to look at:

    OUT/clip.mp4.kundu.mkv
    OUT/clip.mp4.kundu.overlay.mp4

Of a TIFF that lies somewhere on Earth (GeoTIFF, or with a world file) the class ids are a GeoTIFF that lies there too, in
the labelset's colours, void as nodata, instead of a PNG; without rasterio they are a PNG, and a line says what is lost:

    OUT/map.tif.kundu.tif

With --recursive the folders below OUT are those below the folder given. Two pictures that would get one name below OUT are
refused before anything is done. What a merged labelset's YAML says is described in densemtmd/merging.py;
docs/camvid7_merged.yaml is one.

With --keypoints the pictures are depth pictures, as NYU packs them in colours or ICVL in 16 bits, taken for one of that
dataset's camera, with a hand nearer than all else; or about the centres in a file (--centres), as they are handed round
for the test frames: a line per picture, in the order of the pictures, x y z in mm, y upwards, or "invalid" three times:

    OUT/depth.png.nyu.skeleton.png    the keypoints that NYU annotates, over the depth picture, enlarged about the hand
    OUT/depth.png.keypoints.json      of every keypoint its pixel (column, row) and x, y, z in mm, y upwards
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from densemtmd.commands.cli import complain, make_parser, network, newest_network, numbers, say, tool
from densemtmd.errors import UserError, one_line


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="picture files, folders of pictures, videos, or quoted patterns")
    add("--labelset", default="all", metavar="NAME|all|A,B|YAML", help="which labelsets answer, or a merged one (default: all)")
    add("--keypoints", metavar="NAME|all|A,B", help="find these keypoints of the hand in depth pictures instead")
    add("--centres", type=Path, metavar="FILE", help="with --keypoints: a line per picture, the centre of its hand, x y z in mm")
    add("--checkpoint", type=network, metavar="FILE|RUN", help="a .safetensors file, a run, or released (default: the last run in runs/)")
    add("--out", type=Path, default="out", metavar="DIR", help="where to write, over what is there (default: out)")
    add("--outputs", default="ids,overlay,sheet", metavar="A,B", help="of ids, overlay, sheet, probabilities, coco, labelme (default: 3)")
    add("--again", action="store_true", help="also what was labelled before")
    add("--jobs", type=int, metavar="N", help="threads that read, and as many that write (default: one for each core)")
    add("--engine", choices=("here", "ray"), default="here", help="ray: --jobs actors of a Ray cluster label (needs the extra [ray])")
    add("--shard", metavar="I/N", help="label the Ith of N parts of the pictures alone: N such calls, one for each I, share the work")
    add("--recursive", action="store_true", help="also the pictures in the folders below a folder")
    add("--mirror", action="store_true", help="label each picture mirrored too, and take the mean of the probabilities")
    add("--scales", type=numbers, default=[1.0], metavar="A,B", help="enlarge each picture by these, and take the mean (default: 1)")
    add("--max-pixels", type=int, default=200_000_000, metavar="N", help="refuse larger pictures (default: 200000000)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add("--precision", default="float32", help="float32, or bfloat16: faster, a few pixels in a thousand change (default: float32)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.max_pixels < 1:
        raise UserError(f"--max-pixels is {arguments.max_pixels}, expected 1 or more")
    if arguments.centres and arguments.keypoints is None:
        raise UserError(f"--centres is {arguments.centres} without --keypoints, whose hands it places: add --keypoints all")

    if arguments.keypoints is not None and (arguments.mirror or arguments.scales != [1.0]):
        raise UserError("--mirror and --scales average the labels of pixels, but --keypoints finds hands: leave them out")

    if arguments.keypoints is not None and arguments.engine == "ray":
        raise UserError("--engine ray labels the pixels of pictures, but --keypoints finds hands: leave out one of both")

    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}, expected 1 or more")

    from densemtmd.labelling import check_outputs, choose_labelsets, choose_merged, find_pictures, label_pictures, shard_of

    outputs = list(dict.fromkeys(arguments.outputs.split(",")))
    check_outputs(outputs)

    missing: list[str] = []
    pictures = find_pictures(arguments.images, arguments.recursive, arguments.out, missing)
    if not pictures:
        raise UserError(missing[0])
    if arguments.shard is not None:
        pictures = shard_of(pictures, arguments.shard)
    checkpoint, why = (arguments.checkpoint, "") if arguments.checkpoint else newest_network()
    say(f"network: {checkpoint}" + f", {why}" * bool(why))
    if arguments.keypoints is None:
        from densemtmd.cluster import labelled_by_ray
        from densemtmd.inference import Predictor

        by_ray = arguments.engine == "ray"
        device = "cpu" if by_ray else arguments.device  # there the actors have the GPUs
        predictor = Predictor.load(checkpoint, device, arguments.precision, arguments.mirror, arguments.scales)
        merged = choose_merged(arguments.labelset, predictor.space)
        labelsets = [merged.labelset.name] if merged else choose_labelsets(arguments.labelset, predictor.space)
        failures = label_pictures(
            predictor, pictures, labelsets, arguments.out, arguments.max_pixels, merged, outputs, arguments.jobs, arguments.again,
            part=f".{arguments.shard.replace('/', '-')}" if arguments.shard else "",
            engine=partial(labelled_by_ray, checkpoint=checkpoint, device=arguments.device, actors=arguments.jobs) if by_ray else None,
        )  # fmt: skip
    else:
        failures = find_hands(checkpoint, arguments.keypoints, pictures, arguments.out, arguments.device, arguments.centres)

    labelled, total = len(pictures) - len(failures), len(pictures) + len(missing)
    say(f"{labelled} of {total} picture{'s' * (total != 1)} labelled, in {arguments.out}")
    failures = [*missing, *failures]
    for failure in failures:
        complain(f"error: {one_line(failure)}")
    return 1 if failures else 0


def find_hands(
    checkpoint: Path, choice: str, pictures: Mapping[Path, Path], out: Path, device: str, centres: Path | None = None
) -> list[str]:
    """Finds the hand in every depth picture and writes its keypoints; returns what could not be read or has none.

    Args:
        checkpoint: of the network, or a run's folder.
        choice: ``NAME``, ``all`` or ``A,B``: which keypoints.
        pictures: name below ``out`` -> the file, as :func:`find_pictures` gives them.
        out: the folder to write to.
        device: where to compute.
        centres: a file with a line per picture; None: hands are looked for.

    Raises:
        UserError: keypoints that the networks did not learn, networks that label pictures, a place that cannot be written, or another
            number of centres than of pictures.
    """
    import json

    from densemtmd import draw, keypoints, poses
    from densemtmd.checkpoint import device_of, load_network
    from densemtmd.datasets.hands.predictions import read_centres
    from densemtmd.datasets.hands.sets import hand_set
    from densemtmd.files import atomic_write, check_writable
    from densemtmd.inference import checkpoints_of
    from densemtmd.tasks import nearest

    check_writable(out, "--out")
    place = device_of(device)
    networks = [load_network(file).to(place) for file in checkpoints_of(checkpoint)]
    if networks[0].space.kind != "keypoints":
        raise UserError("this network labels pictures, expected one that finds keypoints: leave out --keypoints")
    known = [name for network in networks for name in network.space.names]
    wanted = known if choice == "all" else choice.split(",")
    for one in wanted:
        if one not in known:
            raise UserError(f"unknown keypoint set {one!r}; {nearest(one, known)}")
    starts = [None] * len(pictures) if centres is None else list(read_centres(centres, len(pictures)))
    failures = []
    for (name, path), start in zip(pictures.items(), starts, strict=True):
        try:
            depth, seen_by = poses.read_any_depth(path)
            cube = poses.cube_in(depth, seen_by, start, str(path))
        except UserError as error:
            failures.append(str(error))
            continue
        told = {}
        for task, xyz in poses.hand_in(networks, wanted, depth, seen_by, cube, place).items():
            hands, uvd = hand_set(task), seen_by.camera.to_uvd(xyz)
            told[task] = keypoints.coordinates(hands.keypoints.keypoints, uvd, xyz)
            with atomic_write(out / f"{name}.{task}.skeleton.png") as temporary:
                draw.skeleton(depth, uvd, hands, title=task, box=cube.box(seen_by.camera)).save(temporary)
        with atomic_write(out / f"{name}.keypoints.json") as temporary:
            temporary.write_text(json.dumps(told, indent=1), encoding="utf-8")
        say(f"{one_line(str(name))}: {', '.join(f'{task} {len(points)} keypoints' for task, points in told.items())}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
