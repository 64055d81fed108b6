"""Giant pictures: time and memory of what is done with one, step by step, against its pixels."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from densemtmd.bench.clock import one_pass
from densemtmd.bench.networks import a_picture, make_network
from densemtmd.bench.told import Told
from densemtmd.errors import UserError


def measure_giant(arguments: argparse.Namespace) -> Told:
    """Time and memory of labelling giant pictures, of drawing and of writing the answers: linear in pixels, and few bytes for each.

    Pictures of 3 to 4. The memory is that at the peak beyond what was there before the step; the answers, a byte a pixel and labelset, are
    in that of the network. The network may be small: what is looked for is what is done besides.
    """
    from densemtmd.inference import Predictor
    from densemtmd.tasks import Labelset, OutputSpace

    if min(arguments.megapixels) <= 0 or arguments.labelsets < 1:
        raise UserError("--megapixels and --labelsets must be above 0: give other ones")
    space = OutputSpace([Labelset(f"bench{n}", [f"label{i}" for i in range(10)]) for n in range(arguments.labelsets)])
    network, device = make_network(arguments, space.channels, space)
    predictor = Predictor([network], arguments.device)
    rows = [steps_with(predictor, millions) for millions in arguments.megapixels]
    sizes = [f"{row['pixels'] / 1e6:.3g} Mpx" for row in rows]
    table = [["", *(f"{size}, CPU s/Mpx" for size in sizes), *(f"{size}, bytes/px" for size in sizes)]]
    for name in rows[0]["steps"]:
        seconds = [f"{row['steps'][name]['seconds_cpu'] / row['pixels'] * 1e6:.3f}" for row in rows]
        memory = [row["steps"][name]["memory_mb"] for row in rows]
        each = ["unknown" if mb is None else f"{1e6 * mb / row['pixels']:.1f}" for mb, row in zip(memory, rows, strict=True)]
        table.append([name, *seconds, *each])
    title = f"giant: {arguments.model} on {device}, {len(space)} labelsets"
    return Told(title, {"model": arguments.model, "device": str(device), "labelsets": len(space), "rows": rows}, [table])


def steps_with(predictor: Any, millions: float) -> dict[str, Any]:
    """What each step takes with a picture of so many megapixels."""
    from PIL import Image

    from densemtmd.datasets.pictures import read_picture
    from densemtmd.draw import overlay, sheet
    from densemtmd.labelling import answer, write_answers

    steps: dict[str, Any] = {}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        found: list[Any] = []
        steps[name] = one_pass(lambda: found.append(work(*given)), predictor.device)
        return found[0]

    height, space = max(8, round((millions * 0.75e6) ** 0.5)), predictor.space
    image = a_picture(height, max(8, round(millions * 1e6 / height)))
    predictor.all(image[:64, :64])  # warms up
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "picture.jpg"
        Image.fromarray(image).save(path)
        image = timed("read", read_picture, path, 2**40)
        answers = timed("network", answer, predictor, image, space.names)
        timed("overlay", overlay, image, answers[0].ids, space.tasks[0])
        timed("sheet", sheet, image, {one.labelset.name: one.ids for one in answers}, space)
        timed("ids, overlays and sheet written", write_answers, image, answers, path)
    return {"pixels": image.shape[0] * image.shape[1], "steps": steps}
