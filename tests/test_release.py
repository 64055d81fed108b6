"""What is handed on answers as the run did, says what it is, and goes to the Hub and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy import write_toy

from densemtmd import Predictor, checkpoint
from densemtmd.commands import bench, correlate, evaluate, export, infer, train
from densemtmd.commands import release as command
from densemtmd.commands.cli import beside
from densemtmd.data import open_data
from densemtmd.datasets.sample import VOID
from densemtmd.errors import UserError
from densemtmd.inference import checkpoints_of
from densemtmd.release import halved, release
from densemtmd.released import FOLDER
from densemtmd.settings import DataSettings

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = [
    "data=own", "model=patchnet", "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=600", "train.crop=24",
    "train.batch=4", "tracking=none", "cache=none", "score.scoring=strided",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    files = [str(write_toy(root, "squares", "square")), str(write_toy(root, "discs", "disc"))]
    for strategy in ("jt", "nf"):
        data = [f"data.datasets=[{','.join(files)}]", f"data_root={root}", f"runs={root / strategy}", f"strategy={strategy}", "name=toy"]
        assert train.main([*SMALL, *data]) == 0
    return {strategy: next((root / strategy).iterdir()) for strategy in ("jt", "nf")}


def size(file):
    """The bytes of a checkpoint's weights."""
    return sum(t.numel() * t.element_size() for name, t in checkpoint.load(file)[0].items() if name.startswith("network.") and t.ndim)


@pytest.mark.parametrize("strategy", ["jt", "nf"])
def test_half_the_size_and_the_same_answers(runs, strategy, tmp_path, capsys):
    (tmp_path / "words.md").write_text("For squares. It knows no triangles.")
    assert command.main([str(runs[strategy]), "--out", str(tmp_path / "out"), "--about", str(tmp_path / "words.md")]) == 0
    assert capsys.readouterr().out.count(" MB\n") == len(checkpoints_of(runs[strategy])) == len(checkpoints_of(tmp_path / "out"))
    for before, after in zip(checkpoints_of(runs[strategy]), checkpoints_of(tmp_path / "out"), strict=True):
        assert size(after) < 0.51 * size(before)
    whole, half = Predictor.load(runs[strategy], "cpu"), Predictor.load(tmp_path / "out", "cpu")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    for name in ("squares", "discs"):
        np.testing.assert_allclose(half.probabilities(image, name), whole.probabilities(image, name), atol=0.01)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "For squares. It knows no triangles." in card and "Made by `densemtmd train data=own" in card
    for name in ("squares", "discs"):
        assert f"| {name} | {', '.join(whole.space[name].labels)} |" in card


def test_no_number_loses_more_than_rounding_costs():
    kept = torch.tensor([1.0, 1e-9, -70.0, 0.0])
    assert halved("a.weight", kept).dtype == torch.float16
    assert halved("a.running_var", kept.abs()).dtype == torch.float32  # 1e-9 would be 0, and is divided by
    assert halved("a.running_var", torch.tensor([1.0, 0.01])).dtype == torch.float16
    assert halved("a.weight", torch.tensor([1.0, 1e6])).dtype == torch.float32
    assert halved("a.count", torch.tensor([3])).dtype == torch.int64


def test_mistakes(runs, tmp_path):
    with pytest.raises(UserError, match="is the folder of the run itself"):
        release(runs["jt"], runs["jt"])
    with pytest.raises(UserError, match="is no finished run"):
        release(tmp_path, tmp_path / "out")


def test_a_hub_that_cannot_be_reached_costs_nothing(runs, tmp_path, monkeypatch, capsys):
    pytest.importorskip("huggingface_hub")

    def refuse(*_, **__):
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.create_repo", refuse)
    assert command.main([str(runs["jt"]), "--out", str(tmp_path / "out"), "--push", "me/toys"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "me/toys could not be put on the Hugging Face Hub (no network" in error
    assert Predictor.load(tmp_path / "out", "cpu").space.names


def test_hub_and_back(runs, tmp_path, monkeypatch):
    """By the library's own calls, with a folder in the place of a repository."""
    hub = pytest.importorskip("densemtmd.hub")
    release(runs["nf"], tmp_path / "a")
    predictor = hub.HubPredictor.from_pretrained(tmp_path / "a", device="cpu")
    predictor.save_pretrained(tmp_path / "b")
    assert {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*.*")} >= {
        "README.md", "squares/best.safetensors", "discs/best.safetensors"
    }  # fmt: skip
    again = hub.HubPredictor.from_pretrained(tmp_path / "b", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    assert (again(image, "discs") == predictor(image, "discs")).all()
    sent = {}
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.create_repo", lambda self, **how: type("Repo", (), {"repo_id": how["repo_id"]})())
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.HfApi.upload_folder",
        lambda self, folder_path, **how: sent.update({p.name: p.read_bytes() for p in Path(folder_path).rglob("*.*")}) or "sent",
    )
    assert again.push_to_hub("me/toys") == "sent"
    assert sent["README.md"].decode() == (tmp_path / "a" / "README.md").read_text("utf-8")
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda filename, **_: str(tmp_path / "a" / filename))
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: str(tmp_path / "a"))
    fetched = hub.HubPredictor.from_pretrained("me/toys", device="cpu")
    assert (fetched(image, "squares") == predictor(image, "squares")).all()


def test_the_network_that_comes_along(tmp_path):
    """It is small, its licence is told, and it labels streets that it has not seen."""
    files = checkpoints_of(FOLDER)
    assert sum(file.stat().st_size for file in files) < 20e6
    assert "Apache licence 2.0" in (FOLDER / "README.md").read_text("utf-8")
    assert checkpoint.load(files[0])[1]["pretrained"]["licence"] == "Apache-2.0"
    predictor = Predictor.load(FOLDER, "cpu")
    assert {"stanford", "kundu"} <= {*predictor.space.names}
    world = {"images": 3, "frames": 1, "width": 320, "height": 128, "seed": 1}  # it learned from seed 0
    (dataset,) = open_data(DataSettings("streets", datasets=["kundu"], world=world), tmp_path)
    right = []
    for item in (item for items in dataset.splits.values() for item in items):
        sample = dataset.load(item)
        labels, target = predictor(np.asarray(Image.open(item.image).convert("RGB")), "kundu"), sample.target
        right += (labels == target)[target != VOID].tolist()
    assert len(right) > 50_000 and np.mean(right) > 0.75


def test_every_verb_that_takes_a_network_knows_the_one_that_comes_along(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    calls = {
        infer: ["a.jpg", "--checkpoint", "released"], evaluate: ["released"], correlate: ["released"], export: ["released"],
        bench: ["label", "--checkpoint", "released"],
    }  # fmt: skip
    for module, words in calls.items():
        assert module.make_arguments().parse_args(words).checkpoint == FOLDER
    for module in (evaluate, correlate):
        assert module.main(["released"]) == 1 and "name some with --data" in capsys.readouterr().err
    assert command.main(["released", "--out", "x"]) == 1 and "is no finished run" in capsys.readouterr().err
    assert beside(FOLDER) == Path() and beside(tmp_path / "run", tmp_path) == tmp_path == beside(tmp_path / "a.safetensors")
    (tmp_path / "released").mkdir()  # one's own goes first
    for module, words in calls.items():
        assert module.make_arguments().parse_args(words).checkpoint == Path("released")
    assert beside(Path("released")) == Path("released")
