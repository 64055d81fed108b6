"""Writing a graph as a file, with all that one must know of it inside. The file is run, and what it answers compared with the network that
it is of, before it gets its name: a wrong one is never there.

Shapes: ``N`` pictures, ``H``, ``W`` pixels.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from PIL import Image

from densemtmd.errors import UserError, advice
from densemtmd.export.graph import INPUT, Graph
from densemtmd.files import WriteError, atomic_write
from densemtmd.inference import Predictor
from densemtmd.progress import Progress

OPSET = 17
"""Of ONNX: all that is needed is in it, and programs of 2022 know it."""

SUFFIXES = {"onnx": ".onnx", "torch": ".pt", "openvino": ".xml"}
"""Format -> suffix of its file. OpenVINO's weights lie beside it, in a file of the same name with ``.bin``."""

NEEDED = {"onnx": ("onnx", "onnxruntime"), "torch": (), "openvino": ("onnx", "openvino")}
"""Format -> the packages that write and run it; the extra that they are in is that of :data:`EXTRAS`."""

EXTRAS = {"onnx": "export", "torch": "export", "openvino": "openvino"}

PROGRAMS = {"onnx": "onnxruntime", "torch": "torch", "openvino": "openvino"}
"""Format -> what runs it."""

TOLD = "densemtmd.json"
"""Where a file of torch keeps what it tells of itself; ONNX keeps it among its metadata, OpenVINO in its ``rt_info``."""

TRACED = (75, 101)
"""H and W of the picture with which a graph is recorded. Pictures of all sizes go the same way through it."""

SIZES = ((33, 47), (75, 101), (129, 65))
"""H and W of the pictures with which a file is tried: one, one, and two at once."""

TIE = 1e-3
"""Two labels whose probabilities differ by no more may change places: every program rounds in its own way."""

ROUNDING = 1e-3
"""So much may probabilities, and the values of other tasks, differ."""

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""A file that is run: what its graph takes -> name of the output -> answer."""


@dataclass(frozen=True)
class Difference:
    """Between what a file answers and what the network does, that it is of, for one array of pictures."""

    shape: tuple[int, ...]  # of the array
    labels: int             # class ids that were compared
    others: int             # of these, those that differ
    gap: float              # of these, the largest difference between the probabilities of both labels
    values: float           # the largest difference between probabilities, or values of other tasks; 0 where none are given

    @property
    def wrong(self) -> bool:
        """Whether it is more than rounding."""
        return not (self.gap <= TIE and self.values <= ROUNDING)

    def __str__(self) -> str:
        """``1×33×47×3: 1 of 3,102 labels differ (by 2.1e-06 of probability), probabilities by at most 3.2e-06``."""
        labels = [f"{self.others:,} of {self.labels:,} labels differ" + (f" (by {self.gap:.1e} of probability)" if self.others else "")]
        values = [f"{'probabilities' if self.labels else 'values'} by at most {self.values:.1e}"]
        return f"{'×'.join(map(str, self.shape))}: {', '.join(labels * bool(self.labels) + values * bool(self.values or not self.labels))}"


@dataclass(frozen=True)
class Written:
    """A file that was written and found right."""

    path: Path
    bytes: int
    program: str  # what ran it
    differences: list[Difference]


def check_packages(form: str) -> None:
    """Refuses a format whose packages are not installed.

    Raises:
        UserError: says which extra to install.
    """
    missing = [name for name in NEEDED[form] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {form} needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed here: "
            f"pip install 'densemtmd[{EXTRAS[form]}]'"
        )


def write(graph: Graph, predictor: Predictor, path: str | Path, form: str = "onnx") -> Written:
    """Writes a graph and compares the file with the predictor that it was made of.

    Args:
        graph: of the predictor's networks.
        predictor: on the CPU, in float32.
        path: of the file.
        form: ``onnx``, ``torch`` or ``openvino``.

    Raises:
        UserError: the format's packages are not installed, the network has a layer that the format does not know, the file answers
            otherwise than the network, or it cannot be written. Nothing is left then, and a file that was there is as it was.
    """
    check_packages(form)
    path = Path(path)
    with placed(path) as temporary, Progress("exporting", 1 + len(SIZES), "steps") as progress:
        _WRITERS[form](graph, temporary)
        progress.tick()
        differences = compare(opened(temporary, form), graph, predictor, progress.tick)
        if wrong := [one for one in differences if one.wrong]:
            raise UserError(
                f"{path} was not written: {program_of(form)} answers otherwise with it than the network does, {wrong[0]}, expected "
                "differences of rounding alone: choose another --format, and tell us the versions of torch and of that program"
            )
        size = sum(file.stat().st_size for file in temporary.parent.iterdir())
    return Written(path, size, program_of(form), differences)


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Files of one stem that are written whole or not at all: yields a path of the same name in a folder that is gone afterwards; what lies
    there if the block ends well gets its place.

    Raises:
        WriteError: the system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir()):  # weights (.bin) before what names them (.xml)
                with atomic_write(path.with_name(file.name)) as temporary:
                    shutil.move(file, temporary)
    except OSError as error:
        raise WriteError(f"{path} could not be written: {error.strerror or error}; {advice(error)}") from error


def program_of(form: str) -> str:
    """``onnxruntime 1.20.1``."""
    return f"{PROGRAMS[form]} {metadata.version(PROGRAMS[form])}"


def about(graph: Graph) -> dict[str, str]:
    """What a file tells of itself, name -> text; where that is more than one value, in JSON."""
    began = [network.pretrained for network in graph.networks if network.pretrained is not None]
    licences = "; ".join(dict.fromkeys(f"{one['name']}: {one['licence']}" for one in began))
    told: dict[str, Any] = {
        "densemtmd": sys.modules["densemtmd"].__version__,
        "network": "; ".join(map(str, graph.networks)),
        "tasks": {one.task.name: one.task.to_json() for one in graph.outputs},
        "input": {INPUT: graph.shape},
        "outputs": {one.name: f"{one.shape} {one.dtype}" for one in graph.outputs},
        "channels": {one.task.name: list(one.task.channel_names) for one in graph.outputs},
        "normalisation": graph.normalisation,
        **({"context": graph.context, "multiple": graph.multiple} if graph.of_pictures else {}),
        **({"copies": {"mirror": graph.mirror, "scales": graph.scales}} if graph.copies else {}),
        **({"merged": graph.merged.named({task.name: task for space in graph.spaces for task in space.tasks})} if graph.merged else {}),
        "weights": began,
        "licence": f"the weights began as {licences}" if licences else "the weights began at random",
        "opset": OPSET,
    }
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in told.items()}


# ------------------------------------------------------------------------------------------------------------------------------------
# The formats


def example(graph: Graph) -> torch.Tensor:
    """What a graph is recorded with."""
    if graph.sides is not None:
        return torch.zeros(1, *graph.sides)
    return graph.taken(torch.from_numpy(picture(*TRACED, seed=0)[None]))


@contextmanager
def recording(what: str) -> Iterator[None]:
    """Without gradients and without warnings of what is meant to be.

    Raises:
        UserError: a layer that cannot be recorded.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constants, of which the networks have many, and of newer ways
            yield
    except (OSError, UserError, MemoryError):
        raise
    except Exception as error:  # of a layer that is not known there are as many kinds as layers
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise UserError(f"the network cannot be written as {what} ({reason}): choose another --format, or a plainer encoder") from error


def write_onnx(graph: Graph, path: Path) -> None:
    """By the exporter that records: the newer one, which reasons about sizes, needs minutes where this one needs seconds, and does not end
    with encoders that pad as TensorFlow's do."""
    import onnx

    sizes = {0: "N"} if graph.sides is not None else {0: "N", 2: "H", 3: "W"} if graph.floats else {0: "N", 1: "H", 2: "W"}
    axes = {INPUT: sizes}
    for one in graph.outputs:
        axes[one.name] = {"labels": {0: "N", 1: "H", 2: "W"}, "probabilities": {0: "N", 2: "H", 3: "W"}, "values": {0: "N"}}[one.what]
    with recording("ONNX"):
        torch.onnx.export(
            graph, (example(graph),), str(path), dynamo=False, opset_version=OPSET, input_names=[INPUT],
            output_names=[one.name for one in graph.outputs], dynamic_axes=axes,
        )  # fmt: skip
    model = onnx.load(path)
    model.doc_string = f"Labels pictures: {graph.shape} in. What else there is to know stands in the metadata."
    onnx.helper.set_model_props(model, about(graph))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_torch(graph: Graph, path: Path) -> None:
    """TorchScript, which torch loads without densemtmd, from C++ too."""
    with recording("TorchScript"):
        traced = torch.jit.trace(graph, (example(graph),), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={TOLD: json.dumps(about(graph))})


def write_openvino(graph: Graph, path: Path) -> None:
    import openvino

    onnx = path.with_suffix(SUFFIXES["onnx"])
    write_onnx(graph, onnx)
    as_openvino(openvino, onnx, path, about(graph))
    onnx.unlink()


def as_openvino(openvino: Any, onnx: Path, path: Path, told: dict[str, str]) -> None:
    """An ONNX file as OpenVINO's, in full precision. Its core reads one as its converter does, which tells its makers of every use."""
    with recording("OpenVINO"):
        model = openvino.Core().read_model(str(onnx))
        for name, text in told.items():
            model.set_rt_info(text, ["densemtmd", name])
        openvino.save_model(model, str(path), compress_to_fp16=False)


_WRITERS = {"onnx": write_onnx, "torch": write_torch, "openvino": write_openvino}


def opened(path: Path, form: str, threads: int = 0) -> Run:
    """A file, by the program that is to run it, on the CPU in float32, or as a file in 8 bits says; OpenVINO opens ONNX files too.

    Args:
        path: of the file.
        form: its format, or that of the program.
        threads: that onnxruntime and OpenVINO compute with; 0: as many as they like.
    """
    if form == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda array: dict(zip(names, session.run(None, {INPUT: array}), strict=True))
    if form == "openvino":
        import openvino

        core = openvino.Core()
        how = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        # In a thread of its own: where a CPU has AMX, OpenVINO gives the thread that compiles a stack for signals, which is too small for
        # the registers that torch may be using, and Ctrl-C would end the process without a word.
        with ThreadPoolExecutor(1) as apart:
            compiled = apart.submit(core.compile_model, core.read_model(str(path)), "CPU", how).result()
        return lambda array: {output.get_any_name(): value for output, value in compiled(array).items()}
    files = {TOLD: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    outputs = list(json.loads(json.loads(files[TOLD])["outputs"]))

    def run(array: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad(), torch.jit.optimized_execution(False):  # which pays from the third picture of one size on
            return {name: value.numpy() for name, value in zip(outputs, module(torch.from_numpy(array)), strict=True)}

    return run


# ------------------------------------------------------------------------------------------------------------------------------------
# Against the network


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 of areas and noise, in which a network sees different things."""
    random = np.random.default_rng(seed)
    areas = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(areas, int) + random.integers(-25, 26, (height, width, 3)), 0, 255).astype(np.uint8)


def compare(run: Run, graph: Graph, predictor: Predictor, tick: Callable[[], object] = lambda: None) -> list[Difference]:
    """What a file answers beside what the network does, for pictures of three odd sizes; ``tick`` is called after each.

    Raises:
        UserError: it cannot be run.
    """
    found = []
    for n, (height, width) in enumerate(SIZES):
        number = 2 if n == len(SIZES) - 1 else 1
        if graph.sides is None:
            pictures = np.stack([picture(height, width, seed=n + m) for m in range(number)])
            given = np.ascontiguousarray(graph.taken(torch.from_numpy(pictures)).numpy())
            expected = [expected_of(graph, predictor, one) for one in pictures]
        else:
            given = np.random.default_rng(n).uniform(-1, 1, (number, *graph.sides)).astype(np.float32)
            expected = [expected_values(predictor, one) for one in given]
        try:
            answers = run(given)
        except Exception as error:  # of every program there are others
            reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
            size = "×".join(map(str, given.shape))
            raise UserError(f"what was written cannot be run with {size} ({reason}): choose another --format") from error
        found.append(difference(graph, given.shape, answers, expected))
        tick()
    return found


def expected_of(graph: Graph, predictor: Predictor, image: np.ndarray) -> dict[str, np.ndarray]:
    """What the network says of a picture: its labels, and its probabilities in any case."""
    if graph.merged is not None:
        name, shares = graph.merged.labelset.name, np.empty((graph.merged.labelset.channels, *image.shape[:2]), np.float32)
        for rows, columns, fused in predictor.fused(image, graph.merged):
            shares[:, rows, columns] = fused.numpy()
        return {f"labels.{name}": predictor.merged(image, graph.merged), f"probabilities.{name}": shares}
    names = list(dict.fromkeys(one.task.name for one in graph.outputs))
    labels = {f"labels.{name}": ids for name, ids in predictor.all(image, names).items()}
    return labels | {f"probabilities.{name}": shares for name, shares in predictor.all_probabilities(image, names).items()}


def expected_values(predictor: Predictor, given: np.ndarray) -> dict[str, np.ndarray]:
    """What networks for other tasks say: values as they are."""
    found: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for network in predictor.networks:
            answer = network(torch.from_numpy(given[None]))[0].flatten()
            found |= {f"values.{name}": answer[network.space.slice(name)].numpy() for name in network.space.names}
    return found


def difference(graph: Graph, shape: tuple[int, ...], answers: dict[str, np.ndarray], expected: list[dict[str, np.ndarray]]) -> Difference:
    """Between the answers for an array and what is expected for each of its pictures."""
    labels, others, gap, values = 0, 0, 0.0, 0.0
    for output in graph.outputs:
        own, right = answers[output.name], np.stack([one[output.name] for one in expected])
        if own.shape != right.shape or own.dtype != np.dtype(output.dtype):
            return Difference(shape, 0, 0, np.inf, np.inf)
        if output.what != "labels":
            values = max(values, _largest(own - right))
            continue
        shares = np.stack([one[f"probabilities.{output.task.name}"] for one in expected])
        if own.max() >= shares.shape[1]:  # no label at all
            return Difference(shape, 0, 0, np.inf, np.inf)
        of_own, of_right = (np.take_along_axis(shares, ids[:, None].astype(int), 1)[:, 0] for ids in (own, right))
        labels, others = labels + own.size, others + int((own != right).sum())
        gap = max(gap, _largest(of_right - of_own))
    return Difference(shape, labels, others, gap, values)


def _largest(differences: np.ndarray) -> float:
    """Their largest absolute value, infinite where one is no number."""
    return float(np.nan_to_num(np.abs(differences), nan=np.inf).max())
