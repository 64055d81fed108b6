"""Networks on pretrained encoders, trained and used as a user does: every strategy, all that labels, and a run that was interrupted."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy import needs_backbones, refused, write_toy

from densemtmd import Predictor, checkpoint, training
from densemtmd.backbones.torchvision_cpu import import_timm
from densemtmd.commands import correlate, evaluate, infer, train
from densemtmd.datasets.sample import as_input
from densemtmd.runs.run import resume

needs_backbones()
pytestmark = pytest.mark.usefixtures("undrawn")

TINY = ["model.encoder=mobilenetv3_small_050", "model.weights=none", "train.epochs=null", "tracking=none"]
MODELS = {
    "frozen": [*TINY, "model=frozen", "model.hidden=16", "train.outputs=1500", "train.epoch_outputs=800", "train.batch=64"],
    "fpn": [
        *TINY, "model=fpn", "model.decoder_pyramid_channels=8", "model.decoder_segmentation_channels=32", "train.outputs=30000",
        "train.epoch_outputs=20000", "train.batch=4", "train.crop=32", "context.hidden=8",
    ],
    "tuned": [
        *TINY, "model=tuned", "model.scales=[1,1.5]", "model.hidden=16", "train.outputs=50000", "train.batch=4", "train.crop=32",
        "train.average=0.9", "train.freeze=0.4", "train.accumulate=2", "loss.mix=cross_entropy+dice", "loss.balance=0.5",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two datasets of two domains, and one that derives from the first, so that its truth is known."""
    root = tmp_path_factory.mktemp("data")
    files = [write_toy(root, name, shape) for name, shape in (("squares", "square"), ("discs", "disc"))]
    text = yaml.safe_load(files[1].read_text())
    files[1].write_text(yaml.safe_dump({**text, "domain": "elsewhere"}))
    names = {"one": ["rest", "box"], "two": ["box", "rest"]}
    for name, labels in names.items():
        mapping = {label: "other" if label == "rest" else "square" for label in labels}
        (root / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "derive": {"from": str(files[0]), "map": mapping}}))
    return root


def run(data, runs, model, *arguments, datasets=("squares", "discs"), ends=0):
    chosen = ",".join(str(data / f"{name}.yaml") for name in datasets)
    assert train.main(["data=own", f"data.datasets=[{chosen}]", f"data_root={data}", f"runs={runs}", *MODELS[model], *arguments]) == ends
    return max(runs.iterdir())


@pytest.mark.parametrize(
    "model, strategy", [*(("frozen", name) for name in ("nf", "jt_gr_de", "jtsc", "finetune")), ("fpn", "jt_gr_de"), ("fpn", "jtsc")]
)
def test_every_strategy(data, tmp_path, model, strategy, capsys):
    folder = run(data, tmp_path / "runs", model, f"strategy={strategy}", "context.inner_weight=0.3")
    scored = json.loads((folder / "scores.json").read_text())
    names = {"discs"} if strategy == "finetune" else {"squares", "discs"}
    assert set(scored["datasets"]) == names and all(one["pixels"] == 3 * 38 * 52 for one in scored["datasets"].values())
    printed = capsys.readouterr().out
    assert "    1   " in printed and "epoch    loss" in printed and (model != "frozen" or "frozen mobilenetv3_small_050" in printed)
    if strategy != "finetune":
        assert evaluate.main([str(folder)]) == 0
        again = json.loads((folder / "evaluations" / "own-test-dense" / "scores.json").read_text())
        assert again["datasets"] == scored["datasets"]
    if strategy == "jt_gr_de":
        assert 0 <= scored["domains"]["jt"]["accuracy"] <= 100
        about = checkpoint.load(folder / "best.safetensors")[1]
        assert about["parts"]["discriminator"]["domains"] == 2


@pytest.fixture(scope="module", params=["frozen", "fpn"])
def trained(request, data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp(request.param), request.param, datasets=("one", "two"))


def test_it_labels(trained, data, tmp_path):
    picture = next((data / "squares" / "images").glob("*.png"))
    assert infer.main([str(picture), "--checkpoint", str(trained), "--labelset", "all", "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out").rglob("*.png"))
    predictor = Predictor.load(trained)
    image = np.random.default_rng(0).integers(0, 256, (37, 70, 3)).astype(np.uint8)
    answers = predictor.all(image)
    assert set(answers) == {"one", "two"} and all(ids.shape == (37, 70) and ids.max() <= 1 for ids in answers.values())
    (network,) = predictor.networks
    with torch.no_grad():
        logits = network(as_input(torch.from_numpy(image).permute(2, 0, 1)[None]))[0]
    own = logits[network.space.slice("two")]
    assert (own.argmax(0).numpy() == answers["two"])[(own[0] - own[1]).abs().numpy() > 1e-4].all()


def test_correspondences_and_answers_across_and_merged(trained, tmp_path, capsys):
    assert correlate.main([str(trained), "--split", "test", "--out", str(tmp_path / "correlations")]) == 0
    assert len(json.loads((tmp_path / "correlations" / "correspondences.json").read_text())) == 4
    assert evaluate.main([str(trained), "--cross", "--out", str(tmp_path / "cross")]) == 0
    across = json.loads((tmp_path / "cross" / "cross.json").read_text())["answers"]
    assert across["one"]["two"]["pixels"] > 0
    merged = tmp_path / "merged.yaml"
    merged.write_text("{name: merged, labels: {box: [one.box, two.box], background: rest}}")
    assert evaluate.main([str(trained), "--labelset", str(merged), "--out", str(tmp_path / "merged")]) == 0
    assert json.loads((tmp_path / "merged" / "scores.json").read_text())["datasets"]["merged"]["pixels"] > 0


@pytest.mark.parametrize(("model", "epoch"), [("frozen", 400), ("tuned", 30000)])
def test_an_interrupted_run_goes_on_to_the_bit(data, tmp_path, model, epoch, monkeypatch):
    """The file of the weights that it began with is gone by then: the checkpoint has them."""
    torch.manual_seed(3)
    weights = tmp_path / "weights.safetensors"
    save_file(import_timm().create_model("mobilenetv3_small_050").state_dict(), weights)
    own = [f"model.weights={weights}", f"train.epoch_outputs={epoch}", "strategy=jt_gr"]
    whole = run(data, tmp_path / "whole", model, *own)
    steps, stopped = training.train_step, []

    def stops(*arguments, **more):
        if len(stopped) == 10:
            raise KeyboardInterrupt
        stopped.append(1)
        return steps(*arguments, **more)

    monkeypatch.setattr(training, "train_step", stops)
    run(data, tmp_path / "cut", model, *own, ends=130)
    monkeypatch.setattr(training, "train_step", steps)
    (folder,) = (tmp_path / "cut").iterdir()
    weights.unlink()
    resume(folder)
    expected, found = load_file(whole / "last.safetensors"), load_file(folder / "last.safetensors")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    began = [checkpoint.load(one / "best.safetensors")[1]["pretrained"] for one in (whole, folder)]
    assert began[0] == began[1] and began[0]["name"] == "mobilenetv3_small_050 of weights.safetensors"


def test_cells_are_learned(data, tmp_path):
    """The trunk is random, and yet its maps tell a red square from grey noise."""
    fine = ["model.grid=4", "model.strides=[2,4]"]
    folder = run(data, tmp_path / "runs", "frozen", *fine, "train.outputs=8000", "train.lr=0.01", datasets=["squares"])
    assert json.loads((folder / "scores.json").read_text())["pooled"]["iou"] > 75
    network = checkpoint.load_network(folder / "best.safetensors")
    assert (network.features.standardise.spread != 1).any()


def test_a_mirror_cannot_be_asked_of_kept_features(data, tmp_path):
    with refused("train.flip"):
        from densemtmd.composing import compose
        from densemtmd.runs.run import check

        check(compose([*MODELS["frozen"], "train.flip=true"]))
