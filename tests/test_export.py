"""Exported networks: files that other programs run, and that answer as the network does."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy import MODEL, needs_backbones, refused, small_network, write_toy

from densemtmd import checkpoint, evaluation, poses
from densemtmd.backbones import build, frozen, padded
from densemtmd.commands import bench
from densemtmd.commands.export import main
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import load_split, open_labelled
from densemtmd.dense import Holes, densify
from densemtmd.export import writing
from densemtmd.export.graph import Graph
from densemtmd.export.quantised import cost_on_data, quantise
from densemtmd.inference import Predictor
from densemtmd.losses import dataset_softmax
from densemtmd.merging import load_merged
from densemtmd.tasks import KeypointSet, Labelset, OutputSpace

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
needs_backbones()

LABELSETS = (Labelset("picture", ["sky", "road", "car"]), Labelset("Straße.2 a", ["x", "y"], [(0, 0, 250), (9, 8, 7)]))
"""Names that a careless file would trip over: that of its input, and one that is no identifier."""

SIZES = ((1, 47, 33), (2, 31, 44), (1, 1, 9), (1, 78, 57))
"""N, H, W; none of those with which a file is tried when it is written, one higher than the picture it is recorded with."""

SMALL = {"encoder": "test_efficientnet", "weights": "none"}
FROZEN = {"name": "frozen", **SMALL, "hidden": 8, "strides": [2, 4, 8]}
UNET = {"name": "unet", **SMALL, "encoder_depth": 3, "decoder_channels": [16, 8, 8]}
DECODERS = {
    "fpn": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 64},
    "deeplabv3plus": {"encoder_output_stride": 16, "decoder_channels": 16, "decoder_atrous_rates": [1, 2, 3]},
    "segformer": {"decoder_segmentation_channels": 16},
    "upernet": {"decoder_channels": 16},
}


def random_network(model, context=False, labelsets=LABELSETS, seed=0):
    """Whose answers differ from pixel to pixel and are certain of what they say here and there."""
    torch.manual_seed(seed)
    network = build(model, OutputSpace(labelsets))
    if context:
        network.add_context(hidden=6)
        nn.init.normal_(network.context.layers[-1].weight, std=3.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    nn.init.normal_(network.classifier[-1].weight)
    return network.eval()


def predictor_of(*networks):
    return Predictor(networks, "cpu")


def pictures(number, height, width):
    return np.stack([writing.picture(height, width, seed=100 + n) for n in range(number)])


def written(tmp_path, predictor, form="onnx", names=None, **how):
    """A file."""
    graph = Graph(predictor.networks, names or predictor.space.names, mirror=predictor.mirror, scales=predictor.scales, **how)
    file = writing.write(graph, predictor, tmp_path / f"net{writing.SUFFIXES[form]}", form)
    assert len(file.differences) == 3 and all(one.labels > 1000 and one.others <= one.labels / 1000 for one in file.differences)
    return file.path


def same(run, predictor, floats=False, sizes=SIZES):
    """Asserts that a file answers as the network does: probabilities as one counts, labels but where two are about as likely."""
    for number, height, width in sizes:
        images = pictures(number, height, width)
        given = (images / np.float32(255)).transpose(0, 3, 1, 2) if floats else images
        answers = run(np.ascontiguousarray(given))
        for n, image in enumerate(images):
            for name, shares in predictor.all_probabilities(image, predictor.space.names).items():
                labels = answers[f"labels.{name}"][n]
                assert labels.shape == (height, width) and labels.dtype == np.uint8
                own = np.take_along_axis(shares, labels[None].astype(int), 0)[0]
                assert (shares.max(0) - own).max() < 1e-3 and (labels != shares.argmax(0)).mean() < 2e-3
                if f"probabilities.{name}" in answers:
                    assert np.abs(answers[f"probabilities.{name}"][n] - shares).max() < 1e-3


def run_of(path):
    return writing.opened(Path(path), "onnx")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The programs compute with one thread: pictures are so small that others would only wait, which takes as much of a core."""
    monkeypatch.setattr(writing, "opened", lambda path, form, threads=1, opened=writing.opened: opened(path, form, threads))


# ------------------------------------------------------------------------------------------------------------------------------------
# Every network


@pytest.mark.parametrize(
    "model, context",
    [
        (MODEL, True),
        ({**FROZEN, "grid": 4, "scales": [1.0, 2.0]}, True),
        ({**FROZEN, "encoder": ["test_efficientnet", "test_resnet"], "strides": [4], "scales": [1.5]}, False),
        ({**FROZEN, "encoder": "tf_mobilenetv3_small_minimal_100", "strides": [4, 8]}, False),
        (UNET, False),
    ],
    ids=["patchnet", "frozen", "ensemble", "padded-as-tensorflow", "unet"],
)
def test_onnx_answers_as_the_network(tmp_path, model, context):
    predictor = predictor_of(random_network(model, context))
    same(run_of(written(tmp_path, predictor, probabilities=True)), predictor)


@pytest.mark.parametrize(
    "model",
    [
        {**FROZEN, "scales": [0.5, 1.0], "grid": 4},
        {**FROZEN, "layers": 0, "learns_beyond": 4, "grid": 4},
        {**FROZEN, "grid": 4, "mirror": True, "scales": [1.3, 0.7]},
        *({"name": name, "decoder": name, **SMALL, **settings} for name, settings in DECODERS.items()),
    ],
    ids=["smaller", "learns-linear", "copies", *DECODERS],
)
def test_what_is_recorded_answers_as_the_network(model):
    """The recording is what goes into every file; that of the others above is tried with a program of its own."""
    copies = {"mirror": True, "scales": model["scales"]} if "mirror" in model else {}
    predictor = Predictor([random_network({key: value for key, value in model.items() if key not in copies})], "cpu", **copies)
    graph = Graph(predictor.networks, predictor.space.names, probabilities=True, **copies)
    with writing.recording("TorchScript"):
        traced = torch.jit.trace(graph, (writing.example(graph),), check_trace=False)
    names = [one.name for one in graph.outputs]
    with torch.no_grad(), torch.jit.optimized_execution(False):
        same(lambda x: {n: y.numpy() for n, y in zip(names, traced(torch.from_numpy(x)), strict=True)}, predictor)


def test_one_of_several_networks_and_labelsets(tmp_path):
    """As the strategy nf leaves them: a network for each labelset."""
    third = Labelset("third", ["a", "b", "c"])
    predictor = predictor_of(small_network(*LABELSETS, seed=1), small_network(third, seed=2))
    run = run_of(written(tmp_path, predictor, names=["third", "picture"]))
    assert list(run(pictures(1, 20, 20))) == ["labels.third", "labels.picture"]
    same(run, Predictor([*(predictor.networks[0].only(["picture"]), predictor.networks[1])], "cpu"))


@pytest.mark.parametrize("form", ["torch", "openvino"])
def test_other_formats(tmp_path, tmp_path_factory, monkeypatch, form):
    openvino = pytest.importorskip("openvino") if form == "openvino" else None
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    predictor = predictor_of(small_network(*LABELSETS))
    path = written(tmp_path, predictor, form, probabilities=True, floats=True)
    assert not list(home.iterdir())  # where OpenVINO's converter counts what it sends to its makers
    same(writing.opened(path, form), predictor, floats=True)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == ([".pt"] if form == "torch" else [".bin", ".xml"])
    if form == "torch":
        files = {"densemtmd.json": ""}
        torch.jit.load(str(path), _extra_files=files)
        told = json.loads(files["densemtmd.json"])
    else:
        model = openvino.Core().read_model(str(path))
        told = {name: model.get_rt_info(["densemtmd", name]).astype(str) for name in ("tasks", "input")}
    assert list(json.loads(told["tasks"])) == ["picture", "Straße.2 a"] and told["input"] != ""


MERGED = """
name: both
labels:
  way: [picture.road, "Straße.2 a.y"]
  car: {labels: [picture.car], colour: [1, 2, 3]}
  background: rest
"""


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_merged_labelsets(tmp_path, form):
    """Of two networks, each with a labelset that the merged one is made of."""
    if form == "openvino":
        pytest.importorskip("openvino")
    (tmp_path / "both.yaml").write_text(MERGED, "utf-8")
    predictor = predictor_of(*(small_network(one, seed=n) for n, one in enumerate(LABELSETS)))
    merged = load_merged(tmp_path / "both.yaml", predictor.space)
    names = list(merged.groups)
    run = writing.opened(written(tmp_path, predictor, form, names, probabilities=True, merged=merged), form)
    for number, height, width in SIZES:
        images = pictures(number, height, width)
        answers = run(images)
        assert sorted(answers) == ["labels.both", "probabilities.both"]
        for n, image in enumerate(images):
            apart = [torch.from_numpy(predictor.probabilities(image, name)) for name in names]
            shares = merged.fuse(dict(zip(names, apart, strict=True))).numpy()
            assert np.abs(answers["probabilities.both"][n] - shares).max() < 1e-3
            assert ((answers["labels.both"][n] == predictor.merged(image, merged)) | (np.ptp(np.sort(shares, 0)[1:], 0) < 1e-3)).all()
    told = writing.about(Graph(predictor.networks, names, merged=merged))
    assert json.loads(told["merged"]) == {"way": ["picture.road", "Straße.2 a.y"], "car": ["picture.car"], "background": ["rest"]}
    assert json.loads(told["tasks"])["both"]["colours"][1] == [1, 2, 3]


@pytest.mark.parametrize("mirror, scales", [(False, [0.6]), (True, [1.0, 1.3])])
def test_copies_of_pictures(tmp_path, mirror, scales):
    network = small_network(*LABELSETS)
    predictor = Predictor([network], "cpu", mirror=mirror, scales=scales)
    path = written(tmp_path, predictor, probabilities=True)
    same(run_of(path), predictor)
    meta = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    geometry = predictor.labeller(network).geometry
    assert json.loads(meta["copies"]) == {"mirror": mirror, "scales": scales}
    assert (int(meta["context"]), int(meta["multiple"])) == (geometry.context, geometry.multiple)


def test_hands(tmp_path):
    torch.manual_seed(0)
    sets = (KeypointSet("nyu", ["tip", "palm"]), KeypointSet("icvl", ["wrist"]))
    model = {"name": "handnet", "size": 24, "width": 4, "hidden": 16}
    network = build(model, OutputSpace(sets)).eval()
    nn.init.normal_(network.classifier[-1].weight)
    checkpoint.save_network(tmp_path / "hand.safetensors", network, model)
    assert main([str(tmp_path / "hand.safetensors")]) == 0
    run, crops = run_of(tmp_path / "hand.onnx"), np.random.default_rng(5).uniform(-1, 1, (3, 24, 24)).astype(np.float32)
    answers = run(crops[:, None])
    for one in sets:
        expected = poses.answers(network, one.name, crops, torch.device("cpu"))
        assert np.abs(expected).max() > 0.1
        assert np.allclose(answers[f"values.{one.name}"].reshape(expected.shape), expected, atol=1e-4)
    for arguments in (["--probabilities"], ["--mirror"], ["--scales", "1,2"], ["--int8", "a.png"]):
        with refused("label pictures", "leave"):
            main.__wrapped__([str(tmp_path / "hand.safetensors"), *arguments])


# ------------------------------------------------------------------------------------------------------------------------------------
# What a file tells, and wrong ones


def test_a_file_tells_what_one_must_know(tmp_path):
    network = random_network(UNET)
    network.pretrained = {"name": "somebody's weights", "digest": "00", "licence": "Apache-2.0"}
    told = writing.about(Graph([network], network.space.names, probabilities=True))
    mean, spread = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, which timm's own weights are used to
    (normalisation,) = json.loads(told["normalisation"])
    assert normalisation["colours"] == "RGB" and normalisation["mean"] == pytest.approx(network.features.normalise.mean.flatten().tolist())
    assert len(mean) == len(spread) == len(normalisation["spread"])
    assert "somebody's weights: Apache-2.0" in told["licence"] and json.loads(told["weights"]) == [network.pretrained]

    predictor = predictor_of(small_network(*LABELSETS))
    meta = onnxruntime.InferenceSession(str(written(tmp_path, predictor))).get_modelmeta().custom_metadata_map
    assert meta["densemtmd"] == sys.modules["densemtmd"].__version__ and meta["opset"] == str(writing.OPSET)
    tasks = json.loads(meta["tasks"])
    assert tasks["Straße.2 a"]["labels"] == ["x", "y"] and tasks["Straße.2 a"]["colours"] == [[0, 0, 250], [9, 8, 7]]
    assert json.loads(meta["normalisation"]) == [{"colours": "YUV", "mean": [0.45, 0.0, 0.0], "spread": [0.27, 0.06, 0.08]}]
    assert json.loads(meta["outputs"])["labels.picture"] == "(N, H, W) uint8" and "uint8" in json.loads(meta["input"])["picture"]
    assert "at random" in meta["licence"]


def test_a_wrong_file_is_not_left_behind(tmp_path, monkeypatch):
    """The division that ONNX does otherwise: files that know no odd sizes."""
    for room in (padded, frozen):
        monkeypatch.setattr(room, "up", lambda side, multiple: -(-side // multiple) * multiple)
    predictor = predictor_of(random_network({**FROZEN, "strides": [4]}))
    graph = Graph(predictor.networks, predictor.space.names)
    (tmp_path / "net.onnx").write_text("what was there")
    with refused(tmp_path / "net.onnx", "was not written", "onnxruntime"):
        writing.write(graph, predictor, tmp_path / "net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"] and (tmp_path / "net.onnx").read_text() == "what was there"


def test_differences_that_are_none_of_rounding():
    predictor = predictor_of(small_network(*LABELSETS))
    graph = Graph(predictor.networks, ["picture"], probabilities=True)
    image = pictures(1, 20, 30)
    expected = [writing.expected_of(graph, predictor, image[0])]
    right = {name: value[None] for name, value in expected[0].items()}

    def wrong(**changed):
        return writing.difference(graph, image.shape, right | {f"{name}.picture": value for name, value in changed.items()}, expected).wrong

    shares = right["probabilities.picture"]
    order = shares.argsort(1)
    second = right["labels.picture"].copy()
    second[0, 4, 5] = order[0, 1, 4, 5]
    assert not wrong() and not wrong(probabilities=shares + 1e-4)
    assert wrong(labels=second) and wrong(labels=order[:, 1].astype(np.uint8))
    assert wrong(labels=right["labels.picture"][:, 1:]) and wrong(labels=right["labels.picture"].astype(np.int64))
    assert wrong(labels=np.full_like(second, 200)) and wrong(probabilities=shares + 0.01) and wrong(probabilities=shares * np.nan)


# ------------------------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_network("net.safetensors", small_network(*LABELSETS), MODEL)
    return tmp_path


def test_the_command(net, capsys):
    assert main(["net.safetensors", "--labelset", "picture", "--out", "deep/street.onnx"]) == 0
    shown = capsys.readouterr().out
    assert "out: labels.picture (N, H, W) uint8" in shown and "Straße" not in shown
    assert re.search(r"1×33×47×3: \d+ of 1,551 labels differ", shown) and "written: deep/street.onnx, 0.0 MB" in shown
    same(run_of("deep/street.onnx"), Predictor([Predictor.load("net.safetensors", "cpu").networks[0].only(["picture"])], "cpu"))


def test_the_command_with_a_merged_labelset_and_copies(net, capsys):
    Path("both.yaml").write_text(MERGED, "utf-8")
    assert main(["net.safetensors", "--labelset", "both.yaml", "--scales", "0.5", "--out", "both.onnx"]) == 0
    assert "out: labels.both (N, H, W) uint8" in capsys.readouterr().out
    predictor = Predictor.load("net.safetensors", "cpu", scales=[0.5])
    image = pictures(1, 50, 61)
    expected = predictor.merged(image[0], load_merged("both.yaml", predictor.space))
    assert (run_of("both.onnx")(image)["labels.both"][0] != expected).mean() < 2e-3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--labelset", "pictures"], ["unknown labelset", "did you mean 'picture'?"]),
        (["--out", "net.png"], ["--out is net.png", ".onnx"]),
        (["--format", "torch", "--int8", "a.png"], ["--int8 is for --format onnx"]),
        (["--int8", "nowhere.png"], ["there is no picture nowhere.png"]),
        (["--scales", "1,9"], ["scales is [1.0, 9.0]", "expected numbers from 0.25 to 4"]),
        (["--labelset", "no.yaml"], ["no.yaml", "merged labelset"]),
    ],
)
def test_what_is_refused(net, arguments, words):
    with refused(*words):
        main.__wrapped__(["net.safetensors", *arguments])


def test_without_the_extra_it_says_which(net, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if "onnx" in name else find(name, *more))
    with refused("needs onnx and onnxruntime", "pip install 'densemtmd[export]'"):
        main.__wrapped__(["net.safetensors"])
    with refused("densemtmd[openvino]"):
        main.__wrapped__(["net.safetensors", "--format", "openvino"])
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert not Path("net.onnx").exists()


def test_in_8_bits(net, capsys):
    for n in range(2):
        Image.fromarray(pictures(1, 60, 50 + n)[0]).save(f"{n}.png")
    assert main(["net.safetensors", "--int8", "0.png", "1.png"]) == 0
    shown = capsys.readouterr().out
    assert "lies in no run's folder" in shown
    told = dict(re.findall(r"(picture|Straße\.2 a): ([\d.]+) % of the pixels get another label, on 2 pictures", shown))
    full, eight = run_of("net.onnx"), run_of("net.int8.onnx")
    images = [np.asarray(Image.open(f"{n}.png"))[None] for n in range(2)]
    for name, percent in told.items():
        changed = np.concatenate([(full(i)[f"labels.{name}"] != eight(i)[f"labels.{name}"]).ravel() for i in images])
        assert float(percent) == pytest.approx(100 * changed.mean(), abs=0.006) and changed.mean() < 0.3
    meta = onnxruntime.InferenceSession("net.int8.onnx").get_modelmeta().custom_metadata_map
    assert "2 pictures" in meta["int8"] and json.loads(meta["tasks"])


def test_in_8_bits_calibrated_on_validation_pictures(net, capsys):
    yaml = write_toy(net, "cars", "square")
    dataset = open_labelled(load_dataset_config(yaml), net)
    checkpoint.save_network("cars.safetensors", small_network(dataset.labelset, LABELSETS[0]), MODEL)
    assert main(["cars.safetensors", "--int8", "--data", str(yaml), "--data-root", str(net), "--out", "cars.onnx"]) == 0
    shown = capsys.readouterr().out
    assert f"calibrated on {len(dataset.splits['val'])} pictures" in shown and re.search(r"cars: IoU [\d.]+ -> [\d.]+ \(", shown)
    with refused("no run's folder", "--data"):
        main.__wrapped__(["cars.safetensors", "--int8"])


def test_8_bits_are_spent_on_what_an_activation_leaves(tmp_path):
    """Answers from −300 to 300, of which an activation leaves 0 to 6, are not rounded before it."""
    torch.manual_seed(0)
    graph = Graph([small_network(LABELSETS[0])], ["picture"], probabilities=True)
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    nn.init.uniform_(layers[0].weight, -300, 300)
    graph.parts = nn.ModuleList([layers])
    writing.write_onnx(graph, tmp_path / "full.onnx")
    image = pictures(1, 60, 70)
    Image.fromarray(image[0]).save(tmp_path / "picture.png")
    quantise(graph, tmp_path / "full.onnx", tmp_path / "eight.onnx", [tmp_path / "picture.png"])
    nodes = onnx.load(tmp_path / "eight.onnx").graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    assert [node.op_type for node in nodes].count("Conv") == 3
    assert "DequantizeLinear" not in [made_by.get(node.input[0]) for node in nodes if node.op_type in ("Clip", "Relu")]
    full, eight = (run_of(tmp_path / f"{name}.onnx")(image)["probabilities.picture"] for name in ("full", "eight"))
    assert np.abs(full - eight).mean() < 0.01 and np.ptp(full) > 0.3


def signal_stack():
    """Of this thread: where it lies, whether it is in use, and its size."""

    class Stack(ctypes.Structure):
        _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.place, stack.flags, stack.size


def test_openvino_reads_a_file_in_8_bits(net):
    pytest.importorskip("openvino")
    image = pictures(1, 60, 51)
    Image.fromarray(image[0]).save("0.png")
    assert main(["net.safetensors", "--int8", "0.png", "--probabilities"]) == 0
    stack = signal_stack()
    run, other = run_of("net.int8.onnx"), writing.opened(Path("net.int8.onnx"), "openvino")
    assert signal_stack() == stack  # with OpenVINO's own, which is too small beside torch's registers, Ctrl-C would end the process
    answers = other(image)
    for name, value in run(image).items():
        changed = np.abs(answers[name] - value).max() if name.startswith("probabilities") else (answers[name] != value).mean()
        assert changed < 0.05, name


def test_what_8_bits_cost_in_iou_is_that_of_the_scores(tmp_path):
    dataset = open_labelled(load_dataset_config(write_toy(tmp_path, "cars", "square")), tmp_path)
    network = small_network(dataset.labelset)
    predictor = predictor_of(network)
    graph = Graph([network], ["cars"])
    run = run_of(written(tmp_path, predictor))

    def other(given):
        return {"labels.cars": 1 - run(given)["labels.cars"]}

    (cost,) = cost_on_data(graph, run, other, [dataset])
    matrices = evaluation.score_pictures(network, "cars", load_split(dataset, "test"), scoring="dense", device=torch.device("cpu"))
    assert cost.changed == 100 and cost.pictures == len(dataset.splits["test"])
    assert cost.iou[0] == pytest.approx(evaluation.scores([matrices.sum(0)]).iou)
    assert cost.iou[1] == pytest.approx(evaluation.scores([matrices.sum(0)[:, ::-1]]).iou)


def test_the_program_of_the_page_needs_neither_torch_nor_densemtmd(net):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text("utf-8")
    program, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    Path("program.py").write_text(program.replace("runs/<run>/network.onnx", "net.onnx"))
    image = pictures(1, 61, 75)[0]
    Image.fromarray(image).save("photo.jpg", quality=95)
    assert main(["net.safetensors"]) == 0
    alone = "import sys, runpy; sys.modules.update(torch=None, densemtmd=None, onnx=None); runpy.run_path('program.py')"
    subprocess.run([sys.executable, "-c", alone], check=True, timeout=120)
    predictor = Predictor.load("net.safetensors", "cpu")
    seen = np.asarray(Image.open("photo.jpg"))
    for task in LABELSETS:
        with Image.open(f"photo.{task.name}.png") as answer:
            assert answer.mode == "P" and answer.getpalette()[:6] == [v for colour in task.palette[:2] for v in colour]
            assert (np.asarray(answer) != predictor(seen, task.name)).mean() < 2e-3


@pytest.mark.parametrize("model", [MODEL, {**FROZEN, "strides": [2, 4]}], ids=["patchnet", "frozen"])
def test_the_tiles_of_the_page_give_the_answer_of_the_whole_picture(tmp_path, model):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text("utf-8")
    _, program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    predictor = Predictor([random_network(model)], "cpu")
    path = written(tmp_path, predictor)
    session = onnxruntime.InferenceSession(str(path))
    (image,) = pictures(1, 97, 530)
    sizes = []

    class Network:
        """Counts what it is given, and looks no further than the tiles that it is asked for."""

        get_modelmeta = session.get_modelmeta

        def run(self, names, given):
            sizes.append(given["picture"].shape[1:3])
            return session.run(names, given)

    seen = {"np": np, "network": Network(), "picture": image}
    exec(program.replace("labels.kundu", "labels.picture").replace("side=1024", "side=64"), seen)
    context, multiple = (int(session.get_modelmeta().custom_metadata_map[name]) for name in ("context", "multiple"))
    assert len(sizes) == 2 * 9 and max(sizes)[1] <= 64 + 2 * (context + multiple)
    shares = predictor.probabilities(image, "picture")
    own = np.take_along_axis(shares, seen["ids"][None].astype(int), 0)[0]
    assert (shares.max(0) - own).max() < 1e-3 and (seen["ids"] != predictor(image, "picture")).mean() < 2e-3


# ------------------------------------------------------------------------------------------------------------------------------------
# What it is made of


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2), nn.AvgPool2d(2, divisor_override=3), nn.MaxPool2d(3, 2, dilation=2)])
def test_holes_answer_as_the_dense_form(pool):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), pool, nn.BatchNorm2d(4), pool, nn.Conv2d(4, 6, 2), nn.Flatten(), nn.Linear(6, 2)
    net = nn.Sequential(*layers).eval()
    dense, holes = densify(net), Holes(net)
    with torch.no_grad():
        for height, width in ((dense.patch, dense.patch), (dense.patch + 1, dense.patch + 12), (64, 47)):
            x = torch.randn(2, 3, height, width)
            assert torch.allclose(holes(x), dense(x), atol=1e-5)


def test_a_recorded_dataset_softmax_is_the_same():
    space = OutputSpace(LABELSETS)
    x = torch.randn(2, space.channels, 3, 4)
    with writing.recording("TorchScript"):
        traced = torch.jit.trace(lambda y: dataset_softmax(y, space), (torch.zeros(1, space.channels, 2, 2),), check_trace=False)
    assert torch.allclose(traced(x), dataset_softmax(x, space), atol=1e-6)


def test_the_bench_puts_files_beside_the_network(net, capsys):
    pytest.importorskip("openvino")
    yaml = write_toy(net, "cars", "square")
    checkpoint.save_network("cars.safetensors", small_network(open_labelled(load_dataset_config(yaml), net).labelset), MODEL)
    given = ["exported", str(yaml), "--checkpoint", "cars.safetensors", "--data-root", str(net), "--size", "40x50", "--turns", "1"]
    assert bench.main([*given, "--out", "out"]) == 0
    told = json.loads(Path("out/exported.json").read_text())
    ways = {"full, onnx", "full, openvino", "eight, onnx", "eight, openvino"}
    assert set(told["seconds"]) == {"network", *ways} and set(told["iou"]) == ways - {"full, openvino"} and told["calibrated"] == 3
    text = Path("out/exported.md").read_text()
    assert f"{told['iou']['eight, onnx']:.2f}" in text and "`python tools/bench.py exported" in text and "of 3 of its test pictures" in text
    assert "ONNX in 8 bits, OpenVINO" in capsys.readouterr().out
    Path("untested.yaml").write_text(yaml.read_text() + "exclude: untested.txt\n")
    tests = open_labelled(load_dataset_config(yaml), net).splits["test"]
    Path("untested.txt").write_text("\n".join(item.key for item in tests))
    assert bench.main([given[0], "untested.yaml", *given[2:]]) == 1
    assert "cars has no test pictures: name a dataset" in capsys.readouterr().err
