"""The mistakes that people make, through the tools: one sentence on stderr, exit code 1, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from toy import write_toy

from densemtmd import Predictor, checkpoint, composing, training
from densemtmd.commands import cli
from densemtmd.errors import UserError
from densemtmd.files import check_writable
from densemtmd.origin import MADE

TOOLS = Path(__file__).parents[1] / "tools"
SMALL = [
    "data=own", "model=patchnet",
    "model.widths=[2,3,4]", "model.hidden=5", "train.epochs=null", "train.outputs=900", "train.epoch_outputs=300",
    "train.crop=24", "train.batch=4", "train.device=cpu", "tracking=none", "score.scoring=strided", "cache=none",
]  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty working folder, and the tools to import."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def says(capsys):
    """Calls a tool that must refuse with one sentence, which holds the words; returns the sentence."""

    def call(tool, arguments, *words):
        capsys.readouterr()
        assert tool.main([str(argument) for argument in arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
        for word in words:
            assert str(word) in error, error
        return error

    return call


def files_below(folder):
    """Every file below a folder with its content."""
    return {file.relative_to(folder): file.read_bytes() for file in sorted(Path(folder).rglob("*")) if file.is_file()}


@pytest.fixture
def arguments():
    """A training on a small dataset in the working folder, which a test may spoil."""
    file = write_toy(Path("data"), "squares", "square")
    return [*SMALL, f"data.datasets=[{file}]", "data_root=data", "runs=runs"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run on two datasets."""
    root = tmp_path_factory.mktemp("finished")
    files = [str(write_toy(root, name, shape)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    from densemtmd.commands import train

    assert train.main([*SMALL, f"data.datasets=[{','.join(files)}]", f"data_root={root}", f"runs={root / 'runs'}"]) == 0
    return next((root / "runs").iterdir())


@pytest.fixture
def run(finished):
    return Path(shutil.copytree(finished, "run"))


# ------------------------------------------------------------------------------------------------------------------------------------
# Words that nobody knows


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("train.lrr=1", ["unknown setting train.lrr; known in train: epochs, minutes", "did you mean 'lr'?"]),
        ("train={lrr: 1}", ["unknown setting train.lrr", "did you mean 'lr'?"]),
        ("lr=0.1", ["unknown setting lr; did you mean 'train.lr'?"]),
        ("dataa=own", ["unknown setting dataa; known: data, model", "did you mean 'data'?"]),
        ("train.lr.x=1", ["unknown setting train.lr.x"]),
        ("hydra.run.dir=x", ["hydra.run.dir=x says how Hydra launches several runs: add -m"]),
        ("data@x=own", ["unknown setting data@x"]),
        ("model.widthss=[1,2,3]", ["unknown setting model.widthss; known in model: ", "did you mean 'widths'?"]),
        ("data=streat7", ["unknown choice data=streat7; known: camvid, ", "did you mean 'street7'?"]),
        ("data=street7,streat7", ["unknown choice data=streat7"]),
        ("strategy=", ["unknown choice strategy=; known: finetune, jt, "]),
        ("protocol=[paper]", ["unknown choice protocol=['paper']", "paper, regions, strided"]),
        ("data.datasets=[square]", ["unknown dataset 'square'; known: camvid, ", "or give the path of a YAML"]),
        ("train.border=reflekt", ["train.border is 'reflekt'", "did you mean 'reflect'?"]),
        ("train.mixing=pixel", ["train.mixing is 'pixel'", "did you mean 'pixels'?"]),
        ("tracking=mlfow", ["tracking is 'mlfow'", "did you mean 'mlflow'?"]),
        ("model.name=patchnett", ["did you mean 'patchnet'?"]),
        ("strategy.stages=[{nam: x}]", ["unknown key 'nam'", "did you mean 'name'?"]),
        ("data.world={width: 3, imagess: 3}", ["unknown setting data.world.imagess", "did you mean 'images'?"]),
    ],
)
def test_unknown_settings_and_choices(says, arguments, argument, words):
    from densemtmd.commands import train

    says(train, [*arguments, argument], *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("train.lr=fast", ["train.lr is 'fast', expected a number"]),
        ("train.lr=", ["train.lr is '', expected a number"]),
        ("train.lr=null", ["train.lr is null, expected a number"]),
        ("train.batch=1.5", ["train.batch is 1.5, expected a whole number"]),
        ("train.outputs=many", ["train.outputs is 'many', expected a whole number or null"]),
        ("train.flip=maybe", ["train.flip is 'maybe', expected true or false"]),
        ("train=3", ["train is 3, expected settings in braces"]),
        ("data.datasets=a", ["data.datasets is 'a', expected a list in brackets, such as [a,b]"]),
        ("data.datasets='[a,b]'", ["data.datasets is '[a,b]', expected a list in brackets", "leave out the quotes around it"]),
        ("data.datasets=a,b", ["data.datasets is 'a', expected a list in brackets"]),
        ("data.add=3", ["data.add has 3, expected the name of a dataset"]),
        ("data.world.images=3", ["unknown setting data.world.images"]),
        ("seed=0,one", ["seed is 'one', expected a whole number"]),
        ("runs=${nowhere}", ["nowhere"]),
        ("data_root=${oc.env:NO_SUCH_VARIABLE}", ["NO_SUCH_VARIABLE"]),
        ("model.widths=3", ["model.widths is 3", "three widths"]),
        ("model.hidden=2.5", ["model.hidden 2.5"]),
        ("model.dropout=much", ["model.dropout is 'much', expected at least 0 and below 1"]),
        ("strategy.stages=[]", ["strategy 'jt' has the stages []"]),
        ("strategy.stages=[{datasets: all}]", ["calls a stage None"]),
        ("strategy.stages=[{name: ../jt}]", ["calls a stage '../jt', expected a name for a folder"]),
    ],
)
def test_values_of_another_type(says, arguments, argument, words):
    from densemtmd.commands import train

    says(train, [*arguments, argument], *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("lr", ["'lr' is not a name=value such as train.lr=0.1"]),
        ("=3", ["'=3' is not a name=value"]),
        ("", ["'' is not a name=value"]),
        ("--lr=3", ["unrecognized arguments: --lr=3"]),
        ("-z", ["unrecognized arguments: -z"]),
        ("+train.lr=3", ["'+train.lr=3' is not a name=value"]),
        ("~train.lr", ["'~train.lr' is not a name=value"]),
        ("train.batch=[1", ["the value in train.batch=[1 cannot be read: close its brackets"]),
        ("data_root=/a (b)", ["cannot be read", "\"data_root='/a (b)'\""]),
        ("name=${", ["the value in name=${ cannot be read"]),
        ("seed=int(x)", ["the value in seed=int(x) cannot be read"]),
        ("seed=glob(*)", ["seed=glob(*) names no values one by one", "seed=0,1,2"]),
    ],
)
def test_arguments_that_say_nothing(says, arguments, argument, words):
    from densemtmd.commands import train

    says(train, [*arguments, argument], *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("train.lr=nan", ["train.lr is nan, expected at least 0"]),
        ("train.momentum=1", ["train.momentum is 1.0, expected at least 0 and below 1"]),
        ("train.warmup=nan", ["train.warmup is nan"]),
        ("train.batch=0", ["train.batch is 0, expected at least 1"]),
        ("train.batch=1e12", ["train.batch is 1000000000000, expected at least 1 and at most 100000"]),
        ("train.outputs=null", ["train.epochs, train.minutes and train.outputs are all empty"]),
        ("train.minutes=nan", ["train.minutes is nan, expected more than 0"]),
        ("train.checkpoint_seconds=-1", ["train.checkpoint_seconds is -1.0, expected at least 0"]),
        ("seed=-1", ["seed is -1, expected at least 0 and at most 4294967295"]),
        ("seed=99999999999999999999", ["seed is 99999999999999999999, expected at least 0 and at most 4294967295"]),
        ("name=../elsewhere", ["name is '../elsewhere', expected one without"]),
        ("train.device=meta", ["the device 'meta' cannot be used here"]),
    ],
)
def test_numbers_out_of_their_range(says, arguments, argument, words):
    from densemtmd.commands import train

    says(train, [*arguments, argument], *words)
    assert not Path("runs").exists()


def test_a_mistake_in_the_last_run_of_a_sweep_is_told_before_the_first(says, arguments):
    from densemtmd.commands import train

    says(train, [*arguments, "train.lr=0.1,fast"], "train.lr is 'fast'")
    says(train, [*arguments, "train.momentum=0.5,0.9,1.5"], "train.momentum is 1.5")
    assert not Path("runs").exists()


def test_whole_numbers_may_be_written_as_people_write_them(arguments):
    assert composing.compose(["train.outputs=2e6", "train.batch=8.0"]).train.outputs == 2_000_000


@pytest.mark.parametrize(
    "text", ["name: [", "nam: x", "- a", "datasets: 3", "name: ${foo}", "defaults: [nope]", "x: &a [*a]", "name: 1\nname: 2"]
)
def test_a_broken_file_of_settings(says, monkeypatch, text):
    from densemtmd.commands import train

    conf = shutil.copytree(composing.CONF, "conf")
    (Path(conf) / "data" / "mine.yaml").write_text(text)
    monkeypatch.setattr(composing, "CONF", Path(conf).absolute())
    says(train, ["data=mine"], Path(conf).absolute())


def test_options_that_a_tool_does_not_have(says):
    from densemtmd.commands import compare, demo, evaluate, infer, synthesize

    says(infer, ["a.png", "--labelsets", "xu"], "--labelsets", "did you mean --labelset?")
    says(infer, [], "required: IMAGE", "--help")
    says(infer, ["a.png", "--max-pixels", "many"], "--max-pixels", "'many'")
    says(infer, ["a.png", "--max-pixels", "0"], "--max-pixels is 0, expected 1 or more")
    says(evaluate, ["run", "--split", "tset"], "--split", "'tset'", "train")
    says(synthesize, ["streets", "--imges", "3"], "did you mean --images?")
    says(synthesize, ["street"], "'street'", "streets")
    says(demo, ["--minute", "3"], "did you mean --minutes?")
    says(compare, [], "required: EXPERIMENT")
    says(compare, ["run", "--base-line", "jt"], "did you mean --baseline?")


def test_an_unknown_labelset(says, run):
    from densemtmd.commands import evaluate, infer

    Image.new("RGB", (9, 9)).save("a.png")
    words = "unknown labelset 'dics'; known: squares, discs; did you mean 'discs'?"
    says(infer, ["a.png", "--checkpoint", run, "--labelset", "dics"], words)
    stranger = write_toy(Path("data"), "dics", "disc")
    says(evaluate, [run, "--data", stranger, "--data-root", "data"], words)
    assert not Path("out").exists() and not (run / "evaluations").exists()


# ------------------------------------------------------------------------------------------------------------------------------------
# Checkpoints


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["there is no checkpoint"]),
        (b"", ["is not a checkpoint, or a damaged one"]),
        (b"PK\x03\x04 a zip, as torch.save writes", ["is not a checkpoint"]),
        ("half", ["is not a checkpoint, or a damaged one"]),
        ("foreign", ["is a safetensors file, but not one of densemtmd"]),
        ("newer", ["newer densemtmd (format 2, this one reads up to 1)", "update densemtmd"]),
    ],
)
def test_what_is_no_checkpoint(says, run, content, words):
    from densemtmd.commands import evaluate, infer, train

    Image.new("RGB", (9, 9)).save("a.png")
    whole, about = (run / "best.safetensors").read_bytes(), checkpoint.load(run / "best.safetensors")[1]
    (run / "scores.json").unlink()
    for name in ("best.safetensors", "last.safetensors"):
        file = run / name
        file.unlink()
        if content == "half":
            file.write_bytes(whole[: len(whole) // 2])
        elif content == "foreign":
            save_file({"weight": torch.ones(3)}, file)
        elif content == "newer":
            save_file({"weight": torch.ones(3)}, file, metadata={"densemtmd": json.dumps(about | {"format": 2})})
        elif content is not None:
            file.write_bytes(content)
    before = {path: text for path, text in files_below(run).items() if path.name != MADE}  # where each attempt is told
    says(infer, ["a.png", "--checkpoint", run / "best.safetensors"], run / "best.safetensors", *words)
    says(evaluate, [run / "best.safetensors"], run / "best.safetensors", *words)
    if content is not None:
        says(train, [f"resume={run}"], run / "last.safetensors", *words)
    after = {path: text for path, text in files_below(run).items() if path.name != MADE}
    assert after == before and not Path("out").exists()


def test_a_folder_that_is_no_run(says):
    from densemtmd.commands import compare, evaluate, infer, train

    Image.new("RGB", (9, 9)).save("a.png")
    Path("folder").mkdir()
    says(train, ["resume=folder"], "folder is no run's folder: it has no config.yaml")
    says(train, ["resume=nowhere"], "nowhere is no run's folder")
    says(train, ["resume=folder", "resume=nowhere"], "are two runs: go on with one at a time")
    says(infer, ["a.png", "--checkpoint", "folder"], "the folder folder holds no best.safetensors")
    says(evaluate, ["folder"], "the folder folder holds no best.safetensors")
    says(compare, ["folder"], "folder is no finished run: it has no scores.json")
    Path("file").write_text("hello")
    says(compare, ["file"], "file cannot be read as a run")


# ------------------------------------------------------------------------------------------------------------------------------------
# Data


def changed(path, change):
    with Image.open(path) as picture:
        array = np.array(picture)
    Image.fromarray(change(array)).save(path)


def with_code(code, pixels):
    def change(labels):
        labels.flat[:pixels] = code
        return labels

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: (data / "images/003.png").write_bytes((data / "images/003.png").read_bytes()[:900]),
         ["images/003.png cannot be decoded", "cut off"]),
        (lambda data: (data / "labels/003.png").write_bytes((data / "labels/003.png").read_bytes()[:90]), ["labels/003.png", "cut off"]),
        (lambda data: (data / "images/003.png").write_bytes(b""), ["images/003.png is an empty file"]),
        (lambda data: changed(data / "labels/003.png", lambda labels: labels[:20]),
         ["labels/003.png has 52×20 pixels but its picture", "images/003.png has 52×40", "same size"]),
        (lambda data: changed(data / "labels/003.png", with_code(7, 3)),
         ["labels/003.png has 3 pixels of the code 7", "no label of data/squares.yaml has"]),
        (lambda data: changed(data / "labels/003.png", lambda labels: np.repeat(labels[..., None], 3, 2)),
         ["labels/003.png is a picture of mode RGB", "data/squares.yaml", "encoding: colour"]),
        (lambda data: [file.unlink() for file in data.glob("*/*")],
         ["dataset squares: no file in data/squares matches", "data/squares.yaml"]),
        (lambda data: (data / "images/003.png").unlink(), ["labels/003.png has no picture"]),
        (lambda data: shutil.rmtree(data), ["dataset squares was not found: data/squares is not a folder", "data_root"]),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on(says, arguments, spoil, words):
    from densemtmd.commands import train

    spoil(Path("data/squares"))
    says(train, arguments, *words)
    assert not Path("runs").exists()


def test_a_colour_that_the_labelset_does_not_have(says, arguments):
    from densemtmd.commands import train

    data = yaml.safe_load(Path("data/squares.yaml").read_text())
    labelset = [{"label": "other", "colour": [0, 0, 0]}, {"label": "square", "colour": [255, 0, 0]}]
    Path("data/squares.yaml").write_text(yaml.safe_dump(data | {"encoding": "colour", "labelset": labelset, "void": [[255, 255, 255]]}))
    colours = np.zeros((256, 3), np.uint8)
    colours[[1, 255]] = (255, 0, 0), (255, 255, 255)
    for file in Path("data/squares/labels").iterdir():
        changed(file, lambda labels: colours[labels])
    changed(Path("data/squares/labels/005.png"), lambda labels: with_code(np.array([9, 8, 7]), 6)(labels))
    says(train, arguments, "labels/005.png has 2 pixels of the colour (9, 8, 7), which no label of data/squares.yaml has")


@pytest.mark.parametrize("name", ["stanford", "camvid", "kundu"])
def test_a_missing_dataset_says_where_to_get_it(says, name):
    from densemtmd.commands import train

    where = yaml.safe_load((TOOLS.parent / "conf" / "dataset" / f"{name}.yaml").read_text())["where"]
    arguments = ["data=own", "model=patchnet", f"data.datasets=[{name}]", "data_root=nowhere"]
    says(train, arguments, f"dataset {name} was not found: nowhere/", "data_root", where)


def test_nothing_to_label_or_to_score(says, run):
    from densemtmd.commands import evaluate, infer

    Path("empty").mkdir()
    says(infer, ["empty", "--checkpoint", run], "the folder empty holds no picture")
    says(infer, ["missing.jpg", "--checkpoint", run], "there is no picture missing.jpg")
    says(infer, ["x" * 300, "--checkpoint", run], "there is no picture xxx")
    shutil.copy(run / "best.safetensors", "loose.safetensors")
    says(evaluate, ["loose.safetensors"], "lies in no run's folder", "--data")
    says(evaluate, [run, "--data-root", "nowhere"], "was not found: nowhere/")
    says(evaluate, [run, "--data", "camvit"], "did you mean 'camvid'?")


# ------------------------------------------------------------------------------------------------------------------------------------
# Places that cannot be written to


def test_places_that_cannot_be_written_to(says, arguments, run):
    """Told before the work that would be lost."""
    from densemtmd.commands import compare, demo, evaluate, infer, synthesize, train

    Path("file").write_text("I was here first")
    Image.new("RGB", (9, 9)).save("a.png")
    before = files_below(".")
    says(train, [*arguments, "runs=file"], "file is not a folder: set runs= to another")
    says(train, [*arguments, "runs=file/below"], "file/below cannot be written to")
    says(evaluate, [run, "--out", "file"], "set --out to another")
    says(infer, ["a.png", "--checkpoint", run, "--out", "file"], "the folder file cannot be made", "--out")
    says(infer, ["a.png", "--checkpoint", run, "--out", "file/below"], "cannot be made")
    says(compare, [run, "--out", "file"], "set --out to another")
    says(synthesize, ["streets", "--images", "9", "--size", "64x48", "--out", "file"], "could not be written to file")
    says(demo, ["--out", "file/below"], "set --out to another")
    says(demo, ["--runs", "file", "--tracking", "none"], "set runs= to another")
    assert files_below(".") == before


def test_a_folder_without_the_right_to_write(monkeypatch):
    Path("locked").mkdir()
    check_writable("locked/below", "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")  # root may write everywhere
    with pytest.raises(UserError, match="may not be changed by you: set --out to another"):
        check_writable("locked/below", "--out")
    assert not Path("locked/below").exists()


@pytest.mark.parametrize("file", ["config.yaml", "splits/squares/train.txt"])
def test_a_disk_that_is_full_before_the_run_begins(says, arguments, monkeypatch, file):
    from densemtmd.commands import train

    fsync, name = os.fsync, Path(file).name

    def full(descriptor):
        if written and written[-1].endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    written = []
    from densemtmd.runs import folder as runs

    write_text = runs.write_text
    monkeypatch.setattr(runs, "write_text", lambda path, text: (written.append(str(path)), write_text(path, text)))
    monkeypatch.setattr(os, "fsync", full)
    says(train, arguments, file, "No space left on device")
    assert list(Path("runs").iterdir()) == []


def in_a_process(work):
    """Runs ``work`` in a process of its own, forked; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(work()))
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_disk_that_becomes_full_during_the_training(arguments):
    """The system itself refuses to write more: there is a sentence, the last checkpoint is whole, and with space the run goes on."""
    from densemtmd.commands import train

    assert train.main([*arguments, "runs=whole"]) == 0
    (whole,) = Path("whole").iterdir()
    first = (whole / "best.safetensors").stat().st_size  # the first state is about as large, the second has the momentum too

    def with_a_full_disk():
        sys.stderr = open("error.txt", "w", buffering=1)  # noqa: PTH123, SIM115 (ends with the process)
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        resource.setrlimit(resource.RLIMIT_FSIZE, (first + 500, first + 500))
        return train.main(arguments)

    assert in_a_process(with_a_full_disk) == 1
    (run,) = Path("runs").iterdir()
    error = Path("error.txt").read_text()
    assert error == f"error: {run}/last.safetensors could not be written: File too large; free some space or choose another place\n"
    assert checkpoint.load(run / "last.safetensors")[1]["state"]["step"] == 0  # the one before
    assert not list(run.rglob(".*")) and not (run / "scores.json").exists()
    assert train.main([f"resume={run}"]) == 0
    assert_same_network(run, whole)


def assert_same_network(run, other):
    """Both ended with the same weights, to the bit, and the same scores."""
    networks = [Predictor.load(folder).networks[0].state_dict() for folder in (run, other)]
    assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())
    assert json.loads((run / "scores.json").read_text()) == json.loads((other / "scores.json").read_text())


# ------------------------------------------------------------------------------------------------------------------------------------
# Trainings that go wrong


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_a_training_that_diverges(says, arguments, monkeypatch, what):
    """It says when, keeps the last good state, says what to lower; and goes on from there once the reason is gone."""
    from densemtmd.commands import train

    assert train.main([*arguments, "runs=whole"]) == 0
    (whole,) = Path("whole").iterdir()
    train_step, steps = training.train_step, []

    def diverging(network, *rest, **more):
        record = train_step(network, *rest, **more)
        steps.append(record)
        if len(steps) == 6 and what == "loss":
            return {"loss": record["loss"] * torch.nan}
        if len(steps) == 6:  # the loss of this step is still a number, those after it are not
            next(network.parameters()).data.fill_(torch.inf)
        return record

    monkeypatch.setattr(training, "train_step", diverging)
    monkeypatch.setattr(training, "STEPS_UNREAD", 1)
    when = "the loss became nan at step 6" if what == "loss" else "some weights are no longer numbers at step 6"
    says(train, [*arguments, "train.checkpoint_seconds=0"], when, "lower train.lr (now ", "the last checkpoint is still good")
    (run,) = Path("runs").iterdir()
    tensors, about = checkpoint.load(run / "last.safetensors")
    assert about["state"]["step"] == 5 and all(tensor.isfinite().all() for tensor in tensors.values())
    monkeypatch.setattr(training, "train_step", train_step)
    assert train.main([f"resume={run}"]) == 0
    assert_same_network(run, whole)


@pytest.mark.parametrize("text", ["can't start new thread", "could not create a primitive", "Unable to allocate memory for an array"])
def test_a_limit_of_memory_is_said_whoever_meets_it(text, capsys):
    @cli.tool
    def main(argv=None):
        raise RuntimeError(text)

    assert main([]) == 1 and capsys.readouterr().err.startswith(f"error: there is not enough memory ({text}): ")


def test_memory_that_does_not_suffice(says, arguments, monkeypatch):
    from densemtmd.commands import train

    def step(*_, **__):
        torch.empty(2**45)

    monkeypatch.setattr(training, "train_step", step)
    says(train, arguments, "there is not enough memory", "smaller train.batch")
    says(train, [*arguments, "model.hidden=100000000000"], "there is not enough memory")


def test_debug_shows_the_traceback(arguments, capsys):
    from densemtmd.commands import infer, train

    for tool, words in ((train, [*arguments, "train.lr=-1"]), (infer, ["missing.png"])):
        assert tool.main(["--debug", *words]) == 1
        error = capsys.readouterr().err
        assert error.startswith("Traceback (most recent call last)") and "UserError" in error
        assert error.splitlines()[-1].startswith("error: ")


# ------------------------------------------------------------------------------------------------------------------------------------
# A strange folder of photographs


def test_a_strange_folder(run, capsys):
    """What can be labelled is labelled, every other file has its sentence, and nothing hangs."""
    from densemtmd.commands import infer

    photos, chance = Path("photos"), np.random.default_rng(0)
    photos.mkdir()
    picture = Image.fromarray(chance.integers(0, 256, (30, 44, 3)).astype(np.uint8))
    deep = Image.fromarray(chance.integers(0, 65536, (30, 44)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = picture.quantize(16)
    good = {
        "one.png": picture.resize((1, 1)), "tall.png": picture.resize((1, 500)), "16.png": deep, "16.tif": deep, "palette.gif": palette,
        "cmyk.jpg": picture.convert("CMYK"), "grey and alpha.png": picture.convert("LA"), "bits.png": picture.convert("1"),
        "Müßig 日本 (2).png": picture, "new\nline.png": picture, "'quoted\".png": picture, "-dash.png": picture, "%s{}[1].png": picture,
        "\x1b[31mred.PNG": picture, "a.webp": picture, "a.bmp": picture,
    }  # fmt: skip
    for name, one in good.items():
        one.save(photos / name)
    picture.save(photos / "turned.jpg", exif=exif)
    palette.save(photos / "palette.png", transparency=3)
    picture.save(photos / "a jpeg.png", format="JPEG")
    names = {*good, "turned.jpg", "palette.png", "a jpeg.png"}
    if sys.platform.startswith("linux"):
        shutil.copy(photos / "a.bmp", os.fsencode(photos) + b"/caf\xe9.bmp")
        names.add(os.fsdecode(b"caf\xe9.bmp"))

    (photos / "folder.png").mkdir()
    (photos / "notes.txt").write_text("not a picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("hello")
    (photos / "cut.png").write_bytes((photos / "a.webp").read_bytes()[:300])
    picture.save(photos / f"{'l' * 240}.png")
    bad = {"empty.png": "is an empty file", "text.jpg": "is not a picture", "cut.png": "", f"{'l' * 240}.png": "too long a name"}
    os.mkfifo(photos / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(photos / "socket.png"))
    for name, target in (("broken.png", "nowhere.png"), ("loop.png", "loop.png"), ("endless.png", "/dev/zero"), ("self", ".")):
        (photos / name).symlink_to(target)
    bad |= {"pipe.png": "Not a file", "socket.png": "Not a file", "broken.png": "No such file", "loop.png": "", "endless.png": "Not a file"}

    assert infer.main(["photos", "--checkpoint", str(run), "--labelset", "discs", "--device", "cpu"]) == 1
    shown = capsys.readouterr()
    assert {file.name for file in Path("out").iterdir()} == {f"{name}.discs{kind}.png" for name in names for kind in ("", ".overlay")}
    assert f"{len(names)} of {len(names) + len(bad)} pictures labelled" in shown.out
    errors = shown.err.splitlines()
    assert len(errors) == len(bad) and "\x1b" not in shown.out and "\nline" not in shown.out
    for name, words in bad.items():
        (error,) = [line for line in errors if f"photos/{name}" in line]
        assert error.startswith("error: ") and words in error
    with Image.open("out/turned.jpg.discs.png") as labels:
        assert labels.size == (30, 44)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX rights")
def test_pictures_that_may_not_be_read(run, monkeypatch, says):
    """Also tested as root, who may read all: there the system's refusal is played."""
    from densemtmd.commands import infer
    from densemtmd.datasets import pictures

    Path("photos").mkdir()
    Image.new("RGB", (9, 9)).save("photos/mine.png")
    Image.new("RGB", (9, 9)).save("photos/theirs.png")
    Path("photos/theirs.png").chmod(0)
    if os.geteuid() == 0:
        opened = Image.open

        def refusing(path, **options):
            if Path(path).name == "theirs.png":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return opened(path, **options)

        monkeypatch.setattr(pictures.Image, "open", refusing)
    error = says(infer, ["photos", "--checkpoint", run, "--labelset", "discs"], "photos/theirs.png cannot be read: Permission denied")
    assert error.count("error") == 1 and Path("out/mine.png.discs.png").is_file()


def test_a_folder_that_one_may_not_look_into(says, monkeypatch, tmp_path):
    """Where it is a run's, of a picture's dataset, and of one that nobody has described; globs find nothing there, and say nothing."""
    from densemtmd.commands import check_data, compare
    from densemtmd.compare import reading

    def refuse(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "table.yaml"))

    monkeypatch.setattr(reading, "read_table_folder", refuse)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "table.yaml").touch()
    says(compare, [tmp_path / "table"], "table.yaml cannot be used: Permission denied; see that you may read and change it")
    path = write_toy(tmp_path, "squares", "square")
    shutil.rmtree(tmp_path / "squares" / "images")
    (tmp_path / "squares" / "images").mkdir()
    monkeypatch.setattr(os, "access", lambda file, how: Path(file).name != "images")
    says(check_data, [path, "--data-root", tmp_path], "squares/images may not be read by you")
    says(check_data, ["--new", tmp_path / "squares", "--out", tmp_path / "new"], "squares/images may not be read by you")


def test_memory_that_does_not_suffice_for_one_picture(run, monkeypatch, capsys):
    from densemtmd.commands import infer

    Path("photos").mkdir()
    for name, size in (("a", 9), ("b", 10), ("c", 9)):
        Image.new("RGB", (size, size)).save(f"photos/{name}.png")
    answer = Predictor.all

    def all(self, image, *how):
        if image.shape[0] == 10:
            torch.empty(2**45)
        return answer(self, image, *how)

    monkeypatch.setattr(Predictor, "all", all)
    assert infer.main(["photos", "--checkpoint", str(run), "--labelset", "discs"]) == 1
    shown = capsys.readouterr()
    assert "photos/b.png cannot be labelled: there is not enough memory" in shown.err and shown.err.count("\n") == 1
    assert sorted(file.name for file in Path("out").glob("?.png.discs.png")) == ["a.png.discs.png", "c.png.discs.png"]
