"""Whole calls of ``densemtmd infer`` on giant TIFFs: time, memory and disk against their pixels."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from densemtmd.bench.networks import a_picture
from densemtmd.bench.told import Told
from densemtmd.errors import UserError
from densemtmd.origin import portable


def measure_tiff(arguments: argparse.Namespace) -> Told:
    """Time, memory and disk of whole calls of ``densemtmd infer``: square TIFFs in tiles, class ids alone.

    Memory is all that the process takes, disk what it needs beside the answer, and leaves again. Without --checkpoint the network is so
    small that little but what is done besides is measured.
    """
    if min(arguments.megapixels) <= 0:
        raise UserError(f"--megapixels has {min(arguments.megapixels):g}, expected more than 0")
    from densemtmd.geo import is_installed

    if not is_installed():
        raise UserError("TIFFs are written and read by rasterio, which is not installed: python -m pip install 'densemtmd[geo]'")
    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(arguments.checkpoint or save_small(Path(place)))
        calls = [call_on(arguments, checkpoint, millions) for millions in arguments.megapixels]
    table = [["TIFF", "CPU s", "CPU s/Mpx", "memory at most", "disk meanwhile, at most", "answer"]]
    for call in calls:
        sizes = ["unknown" if call[what] is None else f"{call[what]:.2f} GB" for what in ("memory_gb", "disk_gb", "answer_gb")]
        seconds = call["seconds_cpu"]
        table.append([f"{call['side']}×{call['side']}", f"{seconds:.0f}", f"{seconds / call['side'] ** 2 * 1e6:.2f}", *sizes])
    by = portable(str(arguments.checkpoint)) if arguments.checkpoint else None
    title = f"tiff: whole calls of infer by {by or 'a very small network'}, under {arguments.labelset}, class ids alone"
    return Told(title, {"checkpoint": by, "labelset": arguments.labelset, "calls": calls}, [table])


def save_small(folder: Path) -> Path:
    """A network of few channels and random weights."""
    import torch

    from densemtmd import backbones, checkpoint
    from densemtmd.tasks import Labelset, OutputSpace

    model = {"name": "patchnet", "widths": [2, 3, 4], "hidden": 5, "dropout": 0.0}
    torch.manual_seed(0)
    network: Any = backbones.build(model, OutputSpace([Labelset("kundu", [f"label{n}" for n in range(8)])]))
    torch.nn.init.normal_(network.classifier[-1].weight)
    checkpoint.save_network(folder / "small.safetensors", network, model)
    return folder / "small.safetensors"


def call_on(arguments: argparse.Namespace, checkpoint: Path, millions: float) -> dict[str, Any]:
    """What labelling a square TIFF of so many megapixels takes, from the start of the process to its end."""
    from densemtmd.machine import cores

    side = max(8, round(millions**0.5 * 1000))
    with tempfile.TemporaryDirectory() as place:
        tiff, out = Path(place) / "giant.tif", Path(place) / "out"
        write_tiff(tiff, side)
        call = [sys.executable, "-m", "densemtmd", "infer", tiff, "--checkpoint", checkpoint, "--labelset", arguments.labelset,
                "--outputs", "ids", "--out", out, "--max-pixels", str(side**2), "--device", arguments.device]  # fmt: skip
        threads, began, memory, disk = str(arguments.threads or cores()), time.perf_counter(), 0, 0
        before = os.times()
        with (
            (Path(place) / "said").open("w+b") as said,
            subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=said, env={**os.environ, "OMP_NUM_THREADS": threads}) as process,
        ):
            while process.poll() is None:
                memory, disk = max(memory, peak_of(process.pid)), max(disk, meanwhile(process.pid, out))
                time.sleep(0.2)
        after = os.times()
        if process.returncode:
            why = (Path(place) / "said").read_text("utf-8", "replace").splitlines()[-1:] or ["it said nothing"]
            raise UserError(f"infer of a TIFF of {side}×{side} ended with {process.returncode}: {why[0]}")
        answer = sum(file.stat().st_size for file in out.iterdir())
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"side": side, "seconds": time.perf_counter() - began, "seconds_cpu": used, "memory_gb": memory / 1e9 or None,
            "disk_gb": disk / 1e9 if memory else None, "answer_gb": answer / 1e9}  # fmt: skip


def write_tiff(path: Path, side: int) -> None:
    """A TIFF of coloured noise that lies somewhere on Earth, in tiles, deflated, made some rows at a time."""
    from densemtmd.geo import rasterio_of

    rasterio = rasterio_of()
    about = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "photometric": "rgb", "tiled": True,
             "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1, "crs": "EPSG:32631", "bigtiff": "if_safer",
             "transform": rasterio.Affine(0.5, 0, 450_000, 0, -0.5, 5_411_000)}  # fmt: skip
    noise = a_picture(256, min(side, 4096)).transpose(2, 0, 1)
    noise = np.tile(noise, (1, 1, -(-side // noise.shape[2])))[..., :side]
    with rasterio.open(path, "w", **about) as file:
        for n, top in enumerate(range(0, side, 256)):
            high = min(256, side - top)
            file.write(np.roll(noise, 97 * n, 2)[:, :high], window=((top, top + high), (0, side)))


def peak_of(process: int) -> int:
    """Bytes of memory that a process has had at most so far, with what it has mapped of files; 0 where the system does not tell."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return 0


def meanwhile(process: int, folder: Path) -> int:
    """Bytes on disk that a process has in a folder and will leave: files without a name, which it has mapped, and those not yet named."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            if str(folder) in line and line.endswith("(deleted)"):
                first, _, last = line.split()[0].partition("-")
                total += int(last, 16) - int(first, 16)
        total += sum(file.stat().st_size for file in folder.glob(".*"))
    return total
