"""Strategies as lists of stages, and what defines each part of them: equilibrium, gradient reversal, shared context."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from toy import write_toy

from densemtmd import Labelset, OutputSpace, checkpoint, densify
from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.datasets import crops
from densemtmd.datasets import mixing as mixing_module
from densemtmd.datasets.mixing import Mixture, Source
from densemtmd.datasets.sample import Batch, Sample, as_input
from densemtmd.errors import UserError
from densemtmd.evaluation import domain_probe
from densemtmd.geometry import Geometry
from densemtmd.losses import dataset_softmax, domain_loss, equilibrium_weights, selective_cross_entropy
from densemtmd.network import SharedContext, reverse_gradient
from densemtmd.runs.run import run
from densemtmd.settings import ContextSettings, DataSettings, ReversalSettings, RunSettings, ScoreSettings, TrainSettings, validate
from densemtmd.strategies import Stage, stages
from densemtmd.tasks import VOID
from densemtmd.training import make_optimizer, train_step

pytestmark = pytest.mark.usefixtures("undrawn")

CONF = Path(__file__).parents[1] / "conf"
A, B = Labelset("a", ["no", "yes"]), Labelset("b", ["low", "high", "none"])
SPACE = OutputSpace([A, B])
MODEL = {"name": "patchnet", "widths": [4, 6, 8], "hidden": 12, "dropout": 0.2}


def strategy(name):
    return yaml.safe_load((CONF / "strategy" / f"{name}.yaml").read_text())


def small_network(space=SPACE, inputs=3, width=8, seed=0):
    """One pixel in, one answer out: a feature layer and a linear classifier."""
    torch.manual_seed(seed)
    return PatchClassifier(
        nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(width, space.channels, 1)), space, width
    )


def made_batch(image, target, task, domain=None, weight=None):
    size = len(image)
    return Batch(
        torch.as_tensor(image, dtype=torch.uint8), torch.as_tensor(target, dtype=torch.uint8), torch.as_tensor(task),
        torch.zeros(size, dtype=torch.long) if domain is None else torch.as_tensor(domain),
        torch.ones(size) if weight is None else torch.as_tensor(weight, dtype=torch.float32),
    )  # fmt: skip


def random_batch(seed=0, size=6, domains=2):
    random = np.random.default_rng(seed)
    task = random.integers(0, 2, size)
    target = random.integers(0, 2, (size, 4, 5))
    target[:, 0] = VOID
    weight = random.random(size) + 0.5
    return made_batch(random.integers(0, 256, (size, 3, 4, 5)), target, task, random.integers(0, domains, size), weight)


# ------------------------------------------------------------------------------------------------------------------------------------
# Stages


def test_the_strategies_of_the_paper():
    made = {path.stem: stages(yaml.safe_load(path.read_text()), ["x", "y", "z"]) for path in (CONF / "strategy").glob("*.yaml")}
    assert set(made) == {"nf", "nf_full", "jt", "jt_de", "jt_gr", "jt_gr_de", "jtsc", "jtsc_gr_de", "jt_long", "finetune"}
    everything = ("x", "y", "z")
    assert made["nf"] == tuple(Stage(name, (name,), 1 / 3) for name in everything)
    assert made["nf_full"] == tuple(Stage(name, (name,)) for name in everything)
    assert made["jt"] == (Stage("jt", everything),)
    assert made["jt_gr_de"] == (Stage("jt", everything, equilibrium=True, reversal=True),)
    assert made["jtsc"] == (Stage("jt", everything, answers=False), Stage("jtsc", everything, 0.5, start="jt", context=True, depth=1))
    assert made["finetune"] == (
        Stage("pretrain", ("x", "y"), 0.5, answers=False),
        Stage("finetune", ("z",), 0.5, start="pretrain", take="features", depth=1),
    )
    budget = {name: sum(stage.budget for stage in plan) for name, plan in made.items()}
    assert budget["jtsc"] == budget["jtsc_gr_de"] == budget["jt_long"] == 1.5
    assert budget["nf"] == budget["jt"] == budget["finetune"] == 1
    for name, plan in made.items():
        assert strategy(name)["name"] == name
        assert sorted(d for stage in plan if stage.answers for d in stage.datasets) == (["z"] if name == "finetune" else [*everything])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "s", "start": "first"}, ["stage 's' starts from 'first'", "no earlier stage", "did you mean 'firsts'?"]),
        ({"name": "s", "start": 3}, ["start is 3", "the name of an earlier stage"]),
        ({"name": "s", "take": "everything"}, ["take is 'everything'", "known: all, features"]),
        ({"name": "s", "reversal": "yes"}, ["reversal is 'yes'", "true or false"]),
        ({"name": "s", "revarsal": True}, ["unknown key 'revarsal'", "did you mean 'reversal'?"]),
        ({"name": "firsts"}, ["two stages called 'firsts'"]),
        ({"name": "s", "budget": 0}, ["budget is 0", "a number above 0"]),
        ({"name": "s", "datasets": ["kitty"]}, ["wants the dataset 'kitty'", "did you mean 'kitti'?"]),
    ],
)
def test_refused(entry, words):
    with pytest.raises(UserError) as error:
        stages({"name": "mine", "stages": [{"name": "firsts"}, entry]}, ["kitti", "camvid"])
    assert all(word in str(error.value) for word in ["strategy 'mine'", *words])


def test_finetuning_wants_two_datasets():
    with pytest.raises(UserError, match="learns from one dataset for another, but there is only kitti"):
        stages(strategy("finetune"), ["kitti"])


@pytest.mark.parametrize(
    ("context", "reversal", "words"),
    [
        ({"form": "papier"}, {}, "did you mean 'paper'"),
        ({"trunk": "fixed"}, {}, "context.trunk is 'fixed'"),
        ({"inner_weight": 1.0}, {}, "context.inner_weight is 1.0"),
        ({"hidden": 0}, {}, "context.hidden is 0"),
        ({}, {"strength": -1.0}, "reversal.strength is -1.0"),
        ({}, {"strength": math.nan}, "reversal.strength is nan"),
        ({}, {"schedule": "linear"}, "reversal.schedule is 'linear'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(context, reversal, words):
    with pytest.raises(UserError, match=words):
        validate(RunSettings(context=ContextSettings(**context), reversal=ReversalSettings(**reversal)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, [str(write_toy(root, "squares", "square")), str(write_toy(root, "discs", "disc"))]


def settings(data, folder, name, **changes):
    root, files = data
    train = TrainSettings(epochs=None, outputs=800, epoch_outputs=400, crop=24, batch=4)
    chosen = {"strategy": strategy(name), "score": ScoreSettings("strided"), "tracking": "none", "cache": "none", **changes}
    return RunSettings(DataSettings("own", files), MODEL, train=train, data_root=str(root), runs=str(folder), name=name, **chosen)


@pytest.mark.parametrize("name", ["jtsc_gr_de", "finetune"])
def test_a_list_of_stages_replays_to_the_same_weights(data, tmp_path, name, monkeypatch):
    few = {"train": 2, "val": 1}
    monkeypatch.setattr("densemtmd.runs.run.PROBE_BATCHES", few)
    first, again = (run(settings(data, tmp_path / part, name)) for part in ("first", "again"))
    files = sorted(path.relative_to(first) for path in first.rglob("*.safetensors"))
    assert len(files) == 4  # best and last of both stages
    for file in files:
        one, other = (checkpoint.load(folder / file)[0] for folder in (first, again))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    # the second stage starts from the first one's best network, and that is its epoch 0
    state = checkpoint.load(first / "last.safetensors")[1]["state"]
    assert [epoch["epoch"] for epoch in state["history"]][:2] == [0, 1] and state["history"][0]["loss"] is None


def test_the_second_stage_of_jtsc_starts_as_the_joint_network(data, tmp_path):
    """With a residual context and no learning, the best network is the one that it started as."""
    chosen = settings(data, tmp_path, "jtsc", context=ContextSettings("residual"))
    folder = run(chosen)
    joint, whole = (checkpoint.load_network(path / "best.safetensors") for path in (folder / "jt", folder))
    history = checkpoint.load(folder / "last.safetensors")[1]["state"]["history"]
    best = checkpoint.load(folder / "jt" / "best.safetensors")[1]["scores"]["pooled"]["iou"]
    assert history[0]["scores"]["pooled"]["iou"] == pytest.approx(best, abs=1e-9)
    assert joint.context is None and whole.context is not None and whole.parts == {"context": {"form": "residual", "hidden": 300}}


def test_gradient_reversal_within_one_domain_says_that_it_does_nothing(data, tmp_path, capsys):
    chosen = settings(data, tmp_path, "jt_gr")
    chosen.data.domain = "toys"
    folder = run(chosen)
    assert "all pictures are of one domain, toys: gradient reversal would do nothing and is left out" in capsys.readouterr().out
    assert checkpoint.load_network(folder / "best.safetensors").discriminator is None


# ------------------------------------------------------------------------------------------------------------------------------------
# Dataset equilibrium


def test_equilibrium_weights():
    weights = equilibrium_weights([0.7, 0.2, 0.1])
    assert torch.allclose(weights * torch.tensor([0.7, 0.2, 0.1]), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("mixing", ["pixels", "uniform", "temperature:2", "large:5+small:1+void:2"])
@pytest.mark.parametrize("crop", [1, 16])
def test_every_dataset_has_the_same_part_in_the_gradient(mixing, crop, monkeypatch):
    """However unequal the datasets are, and however they are mixed, the weights of their pixels add up to the same."""
    random = np.random.default_rng(0)

    def source(name, count, size, void):
        targets = [random.integers(0, 2, size).astype(np.uint8) for _ in range(count)]
        for target in targets:
            target[random.random(size) < void] = VOID
        return Source(name, 0, 0, [Sample(np.zeros((*size, 3), np.uint8), target, name) for target in targets])

    sources = [source("large", 8, (64, 80), 0.0), source("small", 2, (40, 32), 0.1), source("void", 5, (48, 64), 0.7)]
    mixture = Mixture(
        sources, Geometry(6, 4), crop=crop, batch=32, flip=True, border="reflect", mixing=mixing, equilibrium=True, seed=1
    )
    drawn, total = [], np.zeros(3)
    monkeypatch.setattr(mixing_module, "cut", lambda sample, *rest, **more: drawn.append(sample.name) or crops.cut(sample, *rest, **more))
    for step in range(400):
        batch = mixture.batch(step)
        for name, weight, target in zip(drawn, batch.weight.tolist(), batch.target, strict=True):
            total[["large", "small", "void"].index(name)] += weight * int((target != VOID).sum())
        drawn.clear()
    assert total / total.sum() == pytest.approx([1 / 3] * 3, rel=0.06)


def test_without_equilibrium_all_weigh_the_same():
    sources = [Source("a", 0, 0, [Sample(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8), "x")])]
    mixture = Mixture(sources, Geometry(3, 1), crop=4, batch=5, flip=False, border="reflect", mixing="pixels", seed=0)
    assert mixture.batch(0).weight.tolist() == [1] * 5


def test_the_weights_are_those_of_both_losses():
    """What a step descends along is the weighted selective loss and the weighted domain loss, by a slow plain sum."""
    batch, network = random_batch(), small_network()
    network.add_discriminator(2, 5)
    network.double()
    image = as_input(batch.image).double()
    logits, domains = network(image), network.discriminator(network.features(image))
    logits, domains = logits.detach(), domains.detach()
    labelled, task_loss, of_domain = 0, 0.0, 0.0
    for n in range(len(image)):
        own = SPACE.slice("ab"[batch.task[n]])
        for y, x in np.ndindex(4, 5):
            of_domain -= batch.weight[n].double() * domains[n, :, y, x].log_softmax(0)[batch.domain[n]]
            if batch.target[n, y, x] != VOID:
                labelled += 1
                task_loss -= batch.weight[n].double() * logits[n, own, y, x].log_softmax(0)[batch.target[n, y, x].long()]
    loss = selective_cross_entropy(logits, batch.target, batch.task, SPACE, batch.weight)
    assert float(loss) == pytest.approx(float(task_loss) / labelled)
    assert float(domain_loss(domains, batch.domain, batch.weight)) == pytest.approx(float(of_domain) / (len(image) * 20))


# ------------------------------------------------------------------------------------------------------------------------------------
# Gradient reversal


def test_the_features_receive_minus_lambda_times_the_gradient():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    (plain,) = torch.autograd.grad((x.sin() * weight).sum(), x)
    seen = reverse_gradient(x, 0.3)
    assert torch.equal(seen, x)
    (reversed_,) = torch.autograd.grad((seen.sin() * weight).sum(), x)
    assert torch.equal(reversed_, plain * -0.3)


@pytest.mark.parametrize("strength", [0.0, 0.25, 2.0])
def test_a_step_adds_the_reversed_gradient_to_the_features_alone(strength):
    batch = random_batch()
    network = small_network()
    network.add_discriminator(2, 5)
    parts = {name: list(getattr(network, name).parameters()) for name in ("features", "classifier", "discriminator")}
    image = as_input(batch.image)
    task = selective_cross_entropy(network(image), batch.target, batch.task, SPACE, batch.weight)
    domains = domain_loss(network.discriminator(network.features(image)), batch.domain, batch.weight)
    of_task = torch.autograd.grad(task, parts["features"] + parts["classifier"], retain_graph=True)
    of_domains = torch.autograd.grad(domains, parts["features"] + parts["discriminator"])
    split = len(parts["features"])
    expected = {
        "features": [t - strength * d for t, d in zip(of_task[:split], of_domains[:split], strict=True)],
        "classifier": of_task[split:],
        "discriminator": of_domains[split:],
    }
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    record = train_step(network, still, batch, "float32", reversal=strength)
    for name, gradients in expected.items():
        for parameter, gradient in zip(parts[name], gradients, strict=True):
            assert torch.allclose(parameter.grad, gradient, atol=1e-7), name
    assert float(record["loss"]) == pytest.approx(float(task)) and float(record["domain_loss"]) == pytest.approx(float(domains))
    assert record["domains"].sum() == batch.target.numel()  # void pixels included


def test_the_ramp_is_that_of_ganin_and_lempitsky():
    ramp = ReversalSettings(strength=0.5, schedule="ramp")
    assert ramp.strength_at(0) == 0 and ramp.strength_at(0.1) == pytest.approx(0.5 * math.tanh(0.5))
    assert ramp.strength_at(1) == pytest.approx(0.49995, abs=1e-4)
    assert ReversalSettings(strength=0.5, schedule="constant").strength_at(0) == 0.5


def domains_toy(step, size=32):
    """Labels are told by the red channel alone; the domain by the green one, which is of no use for the labels; blue is noise."""
    random = np.random.default_rng([7, step])
    domain, target = random.integers(0, 2, size), random.integers(0, 2, (size, 3, 3))
    image = random.integers(0, 60, (size, 3, 3, 3))
    image[:, 0] += 150 * target
    image[:, 1] += 60 * domain[:, None, None]
    return made_batch(image, target, domain * 0, domain)


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_a_fresh_probe_separates_the_domains_only_without_reversal(strength):
    """One feature is red, the other starts as green plus blue: it is free to forget the green, and does so where it pays."""
    torch.manual_seed(0)
    network = PatchClassifier(nn.Sequential(nn.Conv2d(3, 2, 1)), nn.Sequential(nn.Conv2d(2, SPACE.channels, 1)), SPACE, 2)
    weight = network.features[0].weight
    with torch.no_grad():
        weight[:] = torch.tensor([[4.0, 0, 0], [0, 1, 1]])[:, :, None, None]
    weight.register_hook(lambda gradient: gradient * torch.tensor([0.0, 1]).view(2, 1, 1, 1))
    network.add_discriminator(2, 16)
    reversal = ReversalSettings(strength)
    optimizer = make_optimizer(network, TrainSettings(optimizer="sgd", lr=0.01), reversal.lr)
    network.train()
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 600) * group["scale"]
        train_step(network, optimizer, domains_toy(step), "float32", reversal=reversal.strength_at(step / 600))
    accuracy = domain_probe(network, map(domains_toy, range(1000, 1040)), map(domains_toy, range(2000, 2020)), 2, 16)
    batch = domains_toy(3000)
    right = (network(as_input(batch.image))[:, :2].argmax(1) == batch.target).float().mean()
    assert right > 0.99
    assert accuracy < 53 if strength else accuracy > 80, accuracy


# ------------------------------------------------------------------------------------------------------------------------------------
# Shared context


def test_the_context_is_that_of_the_paper():
    """Softmax of each labelset, hidden layer, ReLU, BN, output layer: by plain matrix products at one pixel."""
    torch.manual_seed(0)
    context = SharedContext(SPACE, "paper", 7).double().eval()
    for parameter in context.parameters():
        nn.init.normal_(parameter)
    joint = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    first, _, norm, last = context.layers
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    for y, x in np.ndindex(3, 4):
        given = joint[1, :, y, x]
        shown = torch.cat([given[:2].softmax(0), given[2:].softmax(0)])
        hidden = (first.weight[:, :, 0, 0] @ shown + first.bias).relu()
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        answer = last.weight[:, :, 0, 0] @ hidden + last.bias
        assert torch.allclose(context(joint)[1, :, y, x], answer)
    with torch.no_grad():
        residual = SharedContext(SPACE, "residual", 7).double()
        assert torch.equal(residual(joint), joint)  # it starts as the joint network
        residual.load_state_dict(context.state_dict())
        residual.eval()
        assert torch.allclose(residual(joint), joint + context(joint))


@pytest.mark.parametrize("form", ["paper", "residual"])
def test_the_dense_form_has_the_context_in_it(form):
    from densemtmd.backbones import build

    torch.manual_seed(0)
    network = build(MODEL, SPACE).double().eval()
    network.add_context(form, 9)
    network.double()
    for parameter in network.context.parameters():
        nn.init.normal_(parameter)
    with pytest.raises(UserError, match="training mode"):
        densify(network.train())
    dense = densify(network.eval())
    picture = torch.rand(1, 3, 50, 49, dtype=torch.float64)
    with torch.no_grad():
        network.train()  # which the dense form does not mind
        answers = dense(picture)
        network.eval()
        for y, x in [(0, 0), (4, 3), (2, 1), (1, 2)]:
            assert torch.allclose(answers[0, :, y, x], network(picture[..., y : y + 46, x : x + 46])[0, :, 0, 0], atol=1e-10)
    assert dense.patch == 46 and dense.stride == 4


def test_the_inner_weight_keeps_a_share_of_the_loss_below_the_context():
    batch, network = random_batch(), small_network()
    network.add_context("paper", 6)
    network.eval()
    outputs = network.outputs(as_input(batch.image))
    inner, outer = (
        float(selective_cross_entropy(x, batch.target, batch.task, SPACE, batch.weight)) for x in (outputs.joint, outputs.answer)
    )
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    for share in (0.0, 0.3):
        record = train_step(network, still, batch, "float32", inner_weight=share)
        assert float(record["loss"]) == pytest.approx((1 - share) * outer + share * inner)
    assert inner != pytest.approx(outer)


def context_toy(step, size=24):
    """b: how bright the pixel is, with noise, so that its posterior is soft. a: whether that can be told for sure, at either end."""
    random = np.random.default_rng([5, step])
    bright = random.random((size, 4, 4))
    task = random.integers(0, 2, size)
    sure = abs(bright - 0.5) > 0.3
    drawn = random.random(bright.shape) < 1 / (1 + np.exp(-12 * (bright - 0.5)))
    target = np.where(task[:, None, None] == 0, sure, drawn)
    return made_batch((255 * bright[:, None]).round(), target, task)


def test_what_a_linear_classifier_cannot_tell_the_context_can():
    """On frozen features, a is no linear function of them, but one of b's posterior: JTSC solves it, JT does not."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 1, 1))
    network = PatchClassifier(features, nn.Sequential(nn.Conv2d(1, SPACE.channels, 1)), SPACE, 1)
    nn.init.constant_(features[0].weight, 2.0)
    nn.init.constant_(features[0].bias, -1.0)
    features.requires_grad_(False)

    def learn(steps):
        optimizer = make_optimizer(network, TrainSettings(optimizer="sgd", lr=0.3, weight_decay=0.0))
        network.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 0.3 * (1 - step / steps)
            train_step(network, optimizer, context_toy(step), "float32")
        network.eval()
        test = context_toy(10_000, 200)
        own = test.task == 0
        return float((network(as_input(test.image))[own][:, :2].argmax(1) == test.target[own]).float().mean())

    joint = learn(600)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.add_context("paper", 16)
    network.freeze()
    shared = learn(600)
    assert joint < 0.7 and shared > 0.95, (joint, shared)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())


def test_a_frozen_trunk_answers_as_at_inference_and_does_not_learn():
    from densemtmd.backbones import build

    torch.manual_seed(0)
    network = build({**MODEL, "dropout": 0.5}, SPACE)
    network.add_context("residual", 5)
    network.freeze()
    network.train()
    picture = torch.rand(2, 3, 50, 50)
    assert torch.equal(network.outputs(picture).joint, network.outputs(picture).joint)  # no dropout
    assert network.context.training and not network.features.training
    assert {id(p) for group in make_optimizer(network, TrainSettings()).param_groups for p in group["params"]} == {
        id(p) for p in network.context.parameters()
    }


# ------------------------------------------------------------------------------------------------------------------------------------
# Starting from another network


def test_a_network_starts_from_another(tmp_path):
    from densemtmd.backbones import build

    torch.manual_seed(1)
    first = build(MODEL, SPACE)
    first.add_discriminator(2)
    checkpoint.save_network(tmp_path / "first.safetensors", first, MODEL)
    again = checkpoint.load_network(tmp_path / "first.safetensors")
    assert again.parts == first.parts and all(torch.equal(t, again.state_dict()[n]) for n, t in first.state_dict().items())

    torch.manual_seed(2)
    whole = build(MODEL, SPACE)
    whole.add_context()
    fresh = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    checkpoint.start_from(tmp_path / "first.safetensors", whole)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("context.") else first.state_dict()[name])

    other = build(MODEL, OutputSpace([B, Labelset("c", ["x", "y"])]))
    fresh = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=r"first\.safetensors answers other labels"):
        checkpoint.start_from(tmp_path / "first.safetensors", other)
    checkpoint.start_from(tmp_path / "first.safetensors", other, features_only=True)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name] if name.startswith("features.") else fresh[name])

    wide = build({**MODEL, "widths": [4, 6, 9]}, SPACE)
    with pytest.raises(UserError, match="of another form"):
        checkpoint.start_from(tmp_path / "first.safetensors", wide, features_only=True)


def test_dataset_softmax_is_the_activation():
    joint = torch.randn(1, 5, 2, 2)
    assert torch.allclose(dataset_softmax(joint, SPACE).sum(1), torch.full((1, 2, 2), 2.0))
