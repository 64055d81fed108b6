"""Checkpoints: what is written is read again to the last bit, what is broken is refused with a sentence that names the file."""

import ast
import json
import os
import stat
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import densemtmd
from densemtmd import Labelset, OutputSpace, checkpoint
from densemtmd.backbones import build
from densemtmd.errors import UserError

MODEL = {"name": "patchnet", "widths": [4, 6, 8], "hidden": 10, "dropout": 0.3}


def make_network(seed=0):
    torch.manual_seed(seed)
    space = OutputSpace([Labelset("kundu", ["sky", "road", "car"], [(1, 2, 3), (0, 0, 0), (255, 0, 9)]), Labelset("xu", ["sky", "ground"])])
    network = build(MODEL, space)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            module.num_batches_tracked += 17
    return network


@pytest.fixture
def saved(tmp_path):
    """A network's checkpoint."""
    path = tmp_path / "best.safetensors"
    checkpoint.save_network(path, make_network(), MODEL, {"epoch": 3})
    return path


def sentence(path, load=checkpoint.load_network):
    """What is said of a file that cannot be used; it names the file and has no line breaks."""
    with pytest.raises(UserError) as error:
        load(path)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and len(text) < len(str(path)) + 450
    return text


def split_file(path):
    """A safetensors file as its header and its data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path, change):
    """Writes the checkpoint again with its own description (the JSON within the file's header) changed."""
    header, data = split_file(path)
    about = json.loads(header["__metadata__"]["densemtmd"])
    header["__metadata__"]["densemtmd"] = json.dumps(change(about))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# ------------------------------------------------------------------------------------------------------------------------------------
# Round trip


def test_a_network_comes_back_to_the_last_bit(tmp_path):
    network = make_network()
    with torch.no_grad():
        network.classifier[-1].bias[:] = torch.tensor([-1e17, 0.1, -0.0, 1e-42, 1e18])
    path = tmp_path / "new" / "folder" / "best.safetensors"
    checkpoint.save_network(path, network, MODEL, {"scores": {"pooled": {"iou": 46.25, "global": None}}, "epoch": 3})
    again = checkpoint.load_network(path)
    assert not again.training and type(again) is type(network) and again.space == network.space
    state = again.state_dict()
    assert list(state) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert state[name].dtype == tensor.dtype and state[name].numpy().tobytes() == tensor.numpy().tobytes()
    tensors, about = checkpoint.load(path)
    assert set(tensors) == {"network." + name for name in state}
    assert about == {
        "format": 1, "space": network.space.to_json(), "model": MODEL, "parts": {},
        "scores": {"pooled": {"iou": 46.25, "global": None}}, "epoch": 3,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_any_type_and_layout_come_back(tmp_path, dtype):
    torch.manual_seed(0)
    whole = (100 * torch.randn(4, 3, 5, 6)).to(dtype)
    tensors = {
        "whole": whole,
        "channels last": whole.contiguous(memory_format=torch.channels_last),
        "every other": whole[::2, :, 1:, ::3],
        "scalar": whole[0, 0, 0, 0].clone(),
        "none": whole[:0].clone(),
    }
    tensors["needs grad"] = whole.clone().requires_grad_() if dtype.is_floating_point else whole.clone()
    checkpoint.save(tmp_path / "t.safetensors", tensors, {"a": [1, 2.5, "three", None], "ü": {"b": True}})
    again, about = checkpoint.load(tmp_path / "t.safetensors")
    assert about == {"format": 1, "a": [1, 2.5, "three", None], "ü": {"b": True}}
    assert set(again) == set(tensors) and all(again[n].dtype == dtype and again[n].equal(t) for n, t in tensors.items())


def test_the_file_is_plain_safetensors_with_json_in_its_header(saved):
    """Any other program can read it."""
    network = make_network()
    assert all(load_file(saved)["network." + n].equal(t) for n, t in network.state_dict().items())
    with safe_open(saved, "pt") as file:
        about = json.loads(file.metadata()["densemtmd"])
    assert OutputSpace.from_json(about["space"]) == network.space and about["model"] == MODEL and about["format"] == 1


def test_other_tensors_beside_the_network_do_not_matter(tmp_path):
    """The checkpoint to resume from holds momentum too, and is as good to label pictures with."""
    network = make_network()
    tensors = {"network." + n: t for n, t in network.state_dict().items()} | {"momentum.features.1.weight": torch.ones(3)}
    checkpoint.save(tmp_path / "last.safetensors", tensors, {"space": network.space.to_json(), "model": MODEL, "state": {"step": 3}})
    again = checkpoint.load_network(tmp_path / "last.safetensors")
    assert all(t.equal(again.state_dict()[n]) for n, t in network.state_dict().items())
    other = make_network(seed=1)
    checkpoint.load_weights(other, checkpoint.load(tmp_path / "last.safetensors")[0])
    assert all(t.equal(other.state_dict()[n]) for n, t in network.state_dict().items())


# ------------------------------------------------------------------------------------------------------------------------------------
# Whole or not at all


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_checkpoint_is_never_half_written(saved, monkeypatch, failure):
    before = saved.read_bytes()

    def write_half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        assert saved.read_bytes() == before  # not yet replaced
        raise failure

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(UserError if isinstance(failure, OSError) else type(failure)) as error:
        checkpoint.save_network(saved, make_network(seed=1), MODEL)
    if isinstance(error.value, UserError):
        assert str(saved) in str(error.value) and "could not be written" in str(error.value)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]
    with pytest.raises(type(error.value)):
        checkpoint.save_network(saved.parent / "first.safetensors", make_network(), MODEL)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.skipif(os.name == "nt", reason="files have no such modes there")
@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_others_may_read_what_the_umask_lets_them(tmp_path, mask):
    before = os.umask(mask)
    try:
        checkpoint.save_network(tmp_path / "best.safetensors", make_network(), MODEL)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "best.safetensors").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    ("value", "words"),
    [(float("nan"), "a number that is none"), (-float("inf"), "an infinite number"), (1e39, "an infinite number"), (-3e30, "as 3e+30")],
)
def test_weights_that_no_training_leaves_are_refused(tmp_path, value, words):
    """One number among thousands, in float64: what is too large for float32 would become infinite."""
    network = make_network()
    tensors = {f"network.{name}": t.double() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name].view(-1)[7] = value
    checkpoint.save(tmp_path / "bad.safetensors", tensors, {"space": network.space.to_json(), "model": MODEL})
    said = sentence(tmp_path / "bad.safetensors")
    assert str(tmp_path / "bad.safetensors") in said and f"{words} in {name}" in said


def test_a_variance_below_0_is_refused(tmp_path):
    network = make_network()
    variance = next(name for name in network.state_dict() if name.endswith("running_var"))
    network.state_dict()[variance].fill_(-1)
    checkpoint.save_network(tmp_path / "bad.safetensors", network, MODEL)
    assert f"a variance below 0 in network.{variance}" in sentence(tmp_path / "bad.safetensors")


def test_a_new_checkpoint_replaces_the_old_one(saved):
    checkpoint.save_network(saved, make_network(seed=1), MODEL, {"epoch": 4})
    assert checkpoint.load(saved)[1]["epoch"] == 4 and [p.name for p in saved.parent.iterdir()] == [saved.name]


# ------------------------------------------------------------------------------------------------------------------------------------
# What cannot be used


def test_no_such_file(tmp_path):
    assert "there is no checkpoint" in sentence(tmp_path / "best.safetensors")
    assert "there is no checkpoint" in sentence(tmp_path)


def test_truncated(saved):
    content = saved.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for length in (0, 3, 8, 9, header // 2, header - 1, header, header + 1, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        assert "is not a checkpoint, or a damaged one" in sentence(saved)


@given(st.binary(max_size=400))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes(tmp_path, content):
    path = tmp_path / "noise.safetensors"
    for prefix in (b"", struct.pack("<Q", len(content)), struct.pack("<Q", 2) + b"{}"):
        path.write_bytes(prefix + content)
        sentence(path)


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_is_a_sentence_or_harmless(saved, data):
    """A byte of the header changed: the file is refused with a sentence, or it still describes a network."""
    content = bytearray(saved.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    place = data.draw(st.integers(0, 7 + length))
    content[place] = data.draw(st.integers(0, 255))
    path = saved.parent / "damaged.safetensors"
    path.write_bytes(content)
    try:
        checkpoint.load_network(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip, as torch.save writes", b"\x80\x04\x95 a pickle", b"version https://git-lfs.github.com/spec/v1\n"])
def test_files_of_other_programs(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "is not a checkpoint" in sentence(path)


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    torch.save(Trap(), tmp_path / "trap.pt")
    sentence(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_safetensors_of_other_programs(tmp_path):
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, *({"densemtmd": text} for text in ("[]", "{}", '{"format": "one"}', "null", "1"))):
        save_file({"weight": torch.ones(3)}, path, metadata=metadata)
        assert "is a safetensors file, but not one of densemtmd" in sentence(path)
    save_file({"weight": torch.ones(3)}, path, metadata={"densemtmd": "{not json"})
    assert "damaged" in sentence(path)


def test_a_newer_format(saved):
    with_header(saved, lambda about: about | {"format": checkpoint.FORMAT + 1})
    text = sentence(saved)
    assert "newer densemtmd (format 2, this one reads up to 1)" in text and "update" in text


SPACE = make_network().space.to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": MODEL | {"hidden": 11}}, "size mismatch for classifier.1.weight"),
        ({"model": MODEL | {"widths": [4, 6, 9]}}, "size mismatch for features.9.weight"),
        ({"model": MODEL | {"widths": [4, 6]}}, "expected three widths"),
        ({"model": MODEL | {"depth": 3}}, "depth"),
        ({"model": MODEL | {"name": "patchnett"}}, "did you mean 'patchnet'"),
        ({"model": MODEL | {"hidden": "ten"}}, "does not hold the network"),
        ({"model": MODEL | {"hidden": 10.5}}, "does not hold the network"),
        ({"model": {}}, "it has no 'name'"),
        ({"model": None}, "does not hold the network"),
        ({"model": [1, 2]}, "does not hold the network"),
        ({"space": {"tasks": SPACE["tasks"][:1]}}, "size mismatch for classifier.3.weight"),
        ({"space": {"tasks": []}}, "at least one labelset"),
        ({"space": {}}, "it has no 'tasks'"),
        ({"space": None}, "does not hold the network"),
        ({"space": {"tasks": [{"kind": "labelset", "name": "kundu"}]}}, "it has no 'labels'"),
        ({"space": {"tasks": [{"kind": "labels", "name": "kundu"}]}}, "unknown kind of task 'labels'"),
    ],
)
def test_a_description_that_does_not_fit_the_tensors(saved, change, words):
    with_header(saved, lambda about: about | change)
    text = sentence(saved)
    assert "does not hold the network that it describes" in text and words in text


def test_a_description_without_its_parts(saved):
    with_header(saved, lambda about: {k: v for k, v in about.items() if k != "model"})
    assert "it has no 'model'" in sentence(saved)


@pytest.mark.parametrize("left_out", [["network.classifier.3.bias"], None])
def test_missing_tensors(saved, left_out):
    tensors, about = checkpoint.load(saved)
    checkpoint.save(saved, {n: t for n, t in tensors.items() if left_out and n not in left_out}, about)
    assert "Missing key(s)" in sentence(saved)
    checkpoint.save(saved, tensors | {"network.extra": torch.ones(1)}, about)
    assert "extra" in sentence(saved)


def test_devices():
    assert checkpoint.device_of("cpu") == torch.device("cpu")
    assert checkpoint.device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for unknown in ("gpu", "cuda:99", ""):
        with pytest.raises(UserError, match=r"cannot be used here .*use auto, cpu or cuda"):
            checkpoint.device_of(unknown)


def test_nothing_is_ever_unpickled():
    """Nowhere in the package is pickle named, or what unpickles in its place; but where pretrained weights are read torch.load is, which
    takes nothing but tensors there."""
    for file in sorted(Path(densemtmd.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), file
            elif isinstance(node, ast.Attribute):
                names = {ast.unparse(node)} - ({"torch.load"} if file.name == "weights.py" else set())
            elif isinstance(node, ast.keyword):
                names = {f"{node.arg}={ast.unparse(node.value)}"}
            assert not names & {"pickle", "cloudpickle", "dill", "joblib", "torch.load", "torch.save", "allow_pickle=True"}, file
