"""What training may do beside plain steps: mixed losses, running means, encoders that are held, batches in parts, trunks that learn."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from toy import needs_backbones, refused, small_network

from densemtmd import Labelset, OutputSpace
from densemtmd.backbones import build
from densemtmd.criterion import label_weights, loss_weights
from densemtmd.datasets.sample import Batch
from densemtmd.kinds.pixels import KIND
from densemtmd.losses import selective_cross_entropy, selective_dice, selective_focal
from densemtmd.settings import LossSettings, RunSettings, TrainSettings
from densemtmd.training import Average, make_optimizer, train_step

SPACE = OutputSpace([Labelset("a", ["x", "y", "z"]), Labelset("b", ["p", "q"])])
TINY = {"encoder": "mobilenetv3_small_050", "weights": "none"}


def batch_of(size=32, samples=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    task = torch.arange(samples) % 2
    target = torch.randint(0, 2, (samples, size, size), generator=generator, dtype=torch.uint8)
    target[0, : size // 2] = 255
    image = torch.randint(0, 256, (samples, 3, size, size), generator=generator, dtype=torch.uint8)
    return Batch(image, target, task, torch.zeros(samples, dtype=torch.int64), torch.ones(samples))


class Loaded:
    def __init__(self, name, targets):
        self.dataset = type("Dataset", (), {"task": SPACE[name]})
        self.pictures = {"train": [type("Sample", (), {"target": np.asarray(target, np.uint8)}) for target in targets]}


DATA = [Loaded("a", [[[0, 0, 0, 1]], [[0, 255, 1, 1]]]), Loaded("b", [[[0, 1]]])]
TARGETS = [(d.dataset.task.name, sample.target) for d in DATA for sample in d.pictures["train"]]


def test_losses_are_mixed():
    logits, batch = torch.randn(4, 5, 32, 32, generator=torch.Generator().manual_seed(1)), batch_of()
    asked = (logits, batch.target, batch.task, SPACE, batch.weight)
    settings = RunSettings(loss=LossSettings(mix="cross_entropy:2+dice:0.5+focal", gamma=3.0, smoothing=0.1))
    expected = 2 * selective_cross_entropy(*asked, smoothing=0.1) + 0.5 * selective_dice(*asked) + selective_focal(*asked, gamma=3.0)
    assert KIND.criterion(DATA, SPACE, settings)(logits, batch) == pytest.approx(float(expected), rel=1e-6)
    plain = KIND.criterion(DATA, SPACE, RunSettings())(logits, batch)
    assert torch.equal(plain, selective_cross_entropy(*asked))
    balanced = KIND.criterion(DATA, SPACE, RunSettings(loss=LossSettings(balance=0.5)))(logits, batch)
    assert torch.equal(balanced, selective_cross_entropy(*asked, class_weight=label_weights(TARGETS, SPACE, 0.5)))


def test_labels_are_balanced_within_their_labelset():
    weights = label_weights(TARGETS, SPACE, 1.0)
    assert weights.tolist() == pytest.approx([7 / 8, 7 / 6, 1, 1, 1])  # 4 and 3 pixels of 7, and none of z
    assert label_weights(TARGETS, SPACE, 0.0).tolist() == [1] * 5


@pytest.mark.parametrize("mix", ["dise", "dice:0", "dice:-1", "dice:x", "dice+dice", "", "dice:nan"])
def test_what_cannot_be_mixed(mix):
    with refused("loss.mix is"):
        loss_weights(mix)


def test_a_batch_in_parts_teaches_the_same():
    """Of a network without batch norms, in float64: the parts have 1,024 to 512 labelled pixels."""
    torch.manual_seed(0)
    whole = build({"name": "fpn", "decoder": "fpn", "decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32, **TINY}, SPACE)
    whole.add_discriminator(2)
    whole = whole.double().train()
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d):
            module.train = lambda mode=True, module=module: module  # as they are at inference
            module.training = False
    parts, batch = copy.deepcopy(whole), batch_of(64)
    batch = Batch(batch.image, batch.target, batch.task, batch.task, batch.weight)
    records = []
    for network, number in ((whole, 1), (parts, 3)):
        batch_64 = Batch(batch.image.double() / 255, *(getattr(batch, name) for name in ("target", "task", "domain", "weight")))
        still = torch.optim.SGD(network.parameters(), lr=0.0)
        records.append(train_step(network, still, batch_64, "float32", reversal=0.5, accumulate=number))
    assert records[0].keys() == records[1].keys()
    for name, value in records[0].items():
        assert torch.allclose(value, records[1][name], rtol=1e-5), name
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-5, atol=1e-8), name


def test_the_running_mean_is_what_its_formula_says():
    network = small_network(*SPACE.tasks)
    average, expected = Average(network, 0.9), {name: tensor.clone().double() for name, tensor in network.state_dict().items()}
    for step in range(1, 40):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        average.update(step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = {name: keep * expected[name] + (1 - keep) * tensor.double() for name, tensor in network.state_dict().items()}
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with average.inside():
        for name, tensor in network.state_dict().items():
            assert not tensor.is_floating_point() or torch.allclose(tensor.double(), expected[name], atol=1e-5), name
    assert all(torch.equal(tensor, own[name]) for name, tensor in network.state_dict().items())


def test_only_layers_beyond_the_stride_learn():
    needs_backbones()
    torch.manual_seed(0)
    network = build({"name": "tuned", "hidden": 8, "learns_beyond": 8, **TINY}, SPACE)
    assert network.trunk is None and "learning beyond stride 8" in str(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.standardise([torch.rand(2, 3, 64, 64)])
    assert not torch.equal(network.features.standardise.mean, before["features.standardise.mean"])
    train_step(network.train(), make_optimizer(network, TrainSettings(lr=0.1)), batch_of(64), "float32")
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    of_trunk = {name for name in moved if name.startswith("features.trunk")}
    learning = {name for name, p in network.named_parameters() if p.requires_grad and name.startswith("features.trunk")}
    assert of_trunk and of_trunk <= learning  # neither what lies before, nor the statistics of any batch norm
    model = network.features.trunk.encoders[0].model
    x, reached = torch.rand(1, 3, 64, 64), []
    for module in model.modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            module.register_forward_hook(lambda module, given, made: reached.append(min(64 // made.shape[-1], 64)))
    model.eval()(x)
    assert reached and min(reached) >= 8
    with refused("model.learns_beyond is 5", "4, 8, 16"):
        build({"name": "tuned", "learns_beyond": 5, **TINY}, SPACE)


def test_a_trunk_that_learns_reaches_its_batch():
    needs_backbones()
    torch.manual_seed(0)
    network = build({"name": "tuned", "hidden": 32, "learns_beyond": 4, "dropout": 0.0, **TINY}, SPACE).train()
    batch = batch_of(64)
    batch.target.copy_((batch.image.float().mean(1) > 128).byte()[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2))
    optimizer = make_optimizer(network, TrainSettings(lr=0.003))
    losses = [float(train_step(network, optimizer, batch, "float32")["loss"]) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0] and math.isfinite(losses[-1])
