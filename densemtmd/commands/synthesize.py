"""Render a synthetic world, and write it to disk in the formats of the real datasets.

    python tools/synthesize.py streets                                       as training makes it when it is not there
    python tools/synthesize.py streets --images 200 --size 640x256 --seed 7
    python tools/synthesize.py streets --preview streets.png                 and a sheet to look at
    python tools/synthesize.py otherworld                                    another domain
    python tools/synthesize.py hands --frames 3000 --test 300                hands in depth pictures

streets: a street world that seven annotators have labelled, each their own pictures in their own labelset, as the seven
subsets of KITTI were (68 labels). otherworld: open country by another camera, in other seasons and light, in the layout of
Stanford Background. hands: moving hands before two depth cameras, annotated as NYU (14 joints) and as ICVL (16 centres of
segments) are. Written once: asked for the same world again, the tool finds it and says so.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import make_parser, say, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:  # imported where they are used, so that --help answers at once
    from densemtmd.worlds.annotators import StreetSettings


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    worlds = parser.add_subparsers(dest="world", required=True, metavar="WORLD")

    def world(name: str, run: Callable[[argparse.Namespace], int], help: str, images: tuple[int, str], size: str) -> Callable[..., Any]:
        """A subcommand with the options that all have; returns its ``add_argument``."""
        one = worlds.add_parser(name, help=help, allow_abbrev=False)
        one.set_defaults(run=run)
        add = one.add_argument
        add("--out", type=Path, default="data", metavar="DIR", help="where to put the world's folder (default: data)")
        add("--images", type=int, default=images[0], metavar="N", help=f"{images[1]} (default: {images[0]})")
        add("--size", default=size, metavar="WxH", help=f"of the pictures, in pixels (default: {size})")
        add("--seed", type=int, default=0, metavar="N", help="another seed, another world (default: 0)")
        add("--workers", type=int, metavar="N", help="processes that render (default: one per processor, at most 8)")
        return add

    world("otherworld", make_otherworld, "another domain, labelled as Stanford Background is", (120, "pictures"), "320x240")
    add = world("streets", make_streets, "streets labelled by seven annotators", (40, "pictures per annotator"), "320x128")
    add("--frames", type=int, default=4, metavar="N", help="pictures per sequence (default: 4)")
    add("--preview", type=Path, metavar="FILE.png", help="also draw a sheet: a picture of each annotator and its right answers")
    hands = worlds.add_parser("hands", help="hands annotated as NYU and as ICVL do", allow_abbrev=False)
    hands.set_defaults(run=make_hands)
    add = hands.add_argument
    add("--out", type=Path, default="data", metavar="DIR", help="where to put the world's folder (default: data)")
    add("--frames", type=int, default=3000, metavar="N", help="frames to train on, per dataset (default: 3000)")
    add("--test", type=int, default=300, metavar="N", help="frames to test on, per dataset (default: 300)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, another world (default: 0)")
    add("--workers", type=int, metavar="N", help="processes that render (default: one per processor, at most 8)")
    add("--preview", type=Path, metavar="FILE.png", help="also draw a sheet: hands of both, under both annotations")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    run: int = arguments.run(arguments)
    return run


def check(arguments: argparse.Namespace) -> None:
    """Refuses what no world can be made with."""
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}, expected 1 or more")
    if arguments.preview and arguments.preview.suffix.lower() != ".png":
        raise UserError(f"--preview is {str(arguments.preview)!r}, expected a file name that ends in .png")


def make_hands(arguments: argparse.Namespace) -> int:
    """The subcommand ``hands``."""
    check(arguments)

    from densemtmd.worlds.hands import HandWorldSettings, ensure_hands

    settings = HandWorldSettings(arguments.frames, arguments.test, arguments.seed)
    begin = time.monotonic()
    root = ensure_hands(arguments.out, settings, workers=arguments.workers)
    say(f"{root}: {settings.frames} + {settings.test} frames each of nyu and icvl, {time.monotonic() - begin:.1f} s")
    if arguments.preview:
        draw_hands(root, arguments.preview)
        say(f"{arguments.preview}: test frames of nyu (above) and icvl (below), each as nyu and as icvl would annotate it")
    return 0


def draw_hands(root: Path, path: Path) -> None:
    """A sheet: test frames of both datasets, each under its own annotation and under the other's.

    Raises:
        UserError: the file cannot be written.
    """
    import numpy as np
    from PIL import Image

    from densemtmd.datasets.hands import icvl, nyu
    from densemtmd.datasets.hands.sets import HAND_SETS
    from densemtmd.draw.skeletons import WINDOW, skeleton
    from densemtmd.files import atomic_write

    side = WINDOW // 2
    sheet = Image.new("RGB", (8 * side, 4 * side))
    for row, reader in enumerate((nyu, icvl)):
        name = ("nyu", "icvl")[row]
        frames = reader.read_frames(root / name, "test")
        truth = np.load(root / "truth" / f"{name}_test.npz")
        for column, n in enumerate(np.linspace(0, len(frames) - 1, 8).astype(int)):
            depth = reader.read_depth(frames.pictures[n])
            for line, (annotation, hands) in enumerate(HAND_SETS.items()):
                uvd = HAND_SETS[name].camera.to_uvd(truth[annotation][n])
                drawn = skeleton(depth, uvd, hands, title=f"{name} as {annotation}").resize((side, side))
                sheet.paste(drawn, (column * side, (2 * row + line) * side))
    with atomic_write(path) as temporary:
        sheet.save(temporary)


def make_streets(arguments: argparse.Namespace) -> int:
    """The subcommand ``streets``."""
    check(arguments)
    width, height = size_of(arguments)

    from densemtmd.worlds.annotators import StreetSettings, ensure_streets

    settings = StreetSettings(arguments.images, arguments.frames, width, height, arguments.seed)
    begin = time.monotonic()
    root = ensure_streets(arguments.out, settings, workers=arguments.workers)
    count = settings.images * len(settings.annotators)
    say(f"{root}: {count} images by {len(settings.annotators)} annotators, {time.monotonic() - begin:.1f} s")
    if arguments.preview:
        draw_preview(root, settings, arguments.preview)
        say(f"{arguments.preview}: one picture of each annotator, and what each of the seven labelsets calls what is in it")
    return 0


def make_otherworld(arguments: argparse.Namespace) -> int:
    """The subcommand ``otherworld``."""
    width, height = size_of(arguments)

    from densemtmd.worlds.otherworld import OtherSettings, ensure_otherworld

    begin = time.monotonic()
    root = ensure_otherworld(arguments.out, OtherSettings(arguments.images, width, height, arguments.seed), workers=arguments.workers)
    say(f"{root}: {arguments.images} images, {time.monotonic() - begin:.1f} s")
    say(f"look at them:\n  python tools/check_data.py otherworld --data-root {root} --out checked")
    return 0


def size_of(arguments: argparse.Namespace) -> tuple[int, int]:
    """Width and height of the pictures; refuses options that no world has."""
    size = re.fullmatch(r"(\d+)[x×](\d+)", arguments.size)
    if not size:
        raise UserError(f"--size is {arguments.size!r}, expected width x height in pixels: 320x128")
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}, expected 1 or more")
    return int(size[1]), int(size[2])


def draw_preview(root: Path, settings: StreetSettings, path: Path) -> None:
    """A sheet: a row per annotator with one of their pictures, what they drew, and the right answer of each labelset.

    Args:
        root: the world's folder.
        settings: of the world.
        path: the PNG to write.

    Raises:
        UserError: the file cannot be written.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.labels import code_table, read_labels
    from densemtmd.draw import colourise
    from densemtmd.files import atomic_write
    from densemtmd.worlds.annotators import files_of, translate
    from densemtmd.worlds.world import fine_truth

    gap, head = 6, max(20, settings.height // 6)
    names = settings.annotators
    across, down = settings.width + gap, settings.height + gap
    sheet = Image.new("RGB", (across * (len(names) + 2) + gap, down * len(names) + gap + head), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=0.6 * head)
    for column, title in enumerate(("picture", "as its annotator drew it", *(f"{name}: truth" for name in names))):
        pen.text((gap + across * column, head / 2), title, fill=(31, 35, 40), font=font, anchor="lm")
    for row, name in enumerate(names):
        sequence, frame = row % settings.sequences, 0
        image, labels = files_of(root, settings, name, sequence, frame)
        config = load_dataset_config(name)
        panels = [np.asarray(Image.open(image)), colourise(read_labels(labels, config, code_table(config)), config.labelset.palette)]
        truth = fine_truth(root, name, f"{sequence:04d}_{frame:06d}")
        panels += [colourise(translate(truth, other), load_dataset_config(other).labelset.palette) for other in names]
        for column, panel in enumerate(panels):
            place = gap + across * column, head + down * row
            sheet.paste(Image.fromarray(panel), place)
            if column == 1:
                pen.text((place[0] + 4, place[1] + 4), name, fill="white", font=font, stroke_width=2, stroke_fill="black")
    with atomic_write(path) as temporary:
        sheet.save(temporary)


if __name__ == "__main__":
    raise SystemExit(main())
