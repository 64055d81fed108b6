"""Networks that pad, over pictures larger than a tile, and asked for few of their labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_encoder_decoder import SMALL
from torch import nn
from toy import needs_backbones, small_network

from densemtmd import Labelset, OutputSpace, Predictor, inference
from densemtmd.backbones import build, frozen
from densemtmd.inference import dense_logits, strided_logits

needs_backbones()
SPACE = OutputSpace([Labelset("a", ["x", "y", "z"]), Labelset("b", ["x", "y"]), Labelset("c", [f"label{n}" for n in range(20)])])
MODELS = {
    "frozen": {"name": "frozen", "scales": [1.0, 1.5], "hidden": 16, **SMALL},
    "segformer": {"name": "segformer", "decoder": "segformer", **SMALL},
    "unet": {"name": "unet", "decoder": "unet", **SMALL},
}
CPU = torch.device("cpu")


def made(model, seed=0):
    """Without squeeze and excitation, which asks for the mean of the whole picture; its answers differ from pixel to pixel."""
    torch.manual_seed(seed)
    network = build(MODELS[model], SPACE)
    for module in network.modules():
        for name, child in list(module.named_children()):
            if type(child).__name__ == "SqueezeExcite":
                setattr(module, name, nn.Identity())
    nn.init.normal_(network.classifier[-1].weight, std=1)
    return network.eval()


@pytest.fixture(scope="module", params=MODELS)
def network(request):
    return made(request.param)


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def in_tiles(labeller, image):
    answer, parts = None, list(dense_logits([labeller], image, CPU))
    for rows, columns, (logits,) in parts:
        answer = logits.new_full((len(logits), *image.shape[:2]), torch.nan) if answer is None else answer
        answer[:, rows, columns] = logits
    return answer, len(parts)


@pytest.mark.parametrize("size", [(700, 300), (257, 641)])
def test_tiles_give_the_answers_of_the_whole(network, size, monkeypatch):
    """To rounding where each sees the whole; with the stated context up to the little that lies beyond it, of networks that never learned
    more than of those that did (docs/labelling.md). With too little context it would be noticed."""
    image, labeller = picture(*size), network.labeller()
    whole, one = in_tiles(labeller, image)
    monkeypatch.setitem(inference.WIDE, "cpu", 192)
    geometry, found = labeller.geometry, {}
    for context in (768, geometry.context, 32):
        labeller.geometry = replace(geometry, context=context)
        answer, several = in_tiles(labeller, image)
        assert one == 1 and several >= 6 and answer.shape == whole.shape
        found[context] = (answer - whole).abs() / whole.std()
        if context == 768:
            for name in SPACE.names:
                best, second = whole[SPACE.slice(name)].topk(2, 0).values
                same = answer[SPACE.slice(name)].argmax(0) == whole[SPACE.slice(name)].argmax(0)
                assert same[best - second > 1e-3 * whole.std()].all()
    assert found[768].max() < 1e-3
    assert found[geometry.context].mean() < 0.03
    assert found[32].mean() > 2.5 * found[geometry.context].mean()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (33, 2), (7, 65)])
def test_odd_sizes(network, size, monkeypatch):
    predictor, image = Predictor([network], "cpu"), picture(*size)
    answers = predictor.all(image)
    assert all(answers[name].shape == size and answers[name].max() < SPACE[name].channels for name in SPACE.names)
    monkeypatch.setitem(inference.WIDE, "cpu", 64)
    assert predictor(image, "b").shape == size
    mirrored = Predictor([network], "cpu", mirror=True, scales=[1, 0.5])
    probabilities = mirrored.probabilities(image, "c")
    assert probabilities.shape == (20, *size)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


def test_no_part_is_larger_than_a_tile_and_its_context(network, monkeypatch):
    """So memory is bounded by the tile: also of the strided pass."""
    seen = []
    monkeypatch.setitem(inference.WIDE, "cpu", 128)
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[-2:]))
    try:
        with torch.inference_mode():
            strided_logits(network, picture(300, 900), CPU)
    finally:
        network._forward_pre_hooks.clear()
    context, multiple = network.geometry.context, network.geometry.multiple
    assert len(seen) > 8 and max(max(size) for size in seen) <= 128 + 2 * context + multiple
    asked = [inference.seen_for(picture(300, 900), *part, network.geometry, CPU)[0].shape for part in ((slice(0, 128), slice(384, 512)),)]
    assert asked[0][-2:] == (300, 128 + 2 * context)


def test_a_network_for_one_labelset_alone(network):
    """The same answers, and the last layer makes no others."""
    image, asked = picture(70, 90), []
    whole, alone = Predictor([network], "cpu"), network.only(["c"])
    assert alone.space.names == ("c",) and alone.classifier[-1].out_channels == 20 and alone.features is network.features
    assert network.space is SPACE and network.classifier[-1].out_channels == 25
    hook = nn.Conv2d.forward
    with torch.inference_mode():
        x = torch.rand(1, 3, 40, 50)
        torch.testing.assert_close(alone(x), network(x)[:, SPACE.slice("c")], rtol=1e-5, atol=1e-5)
        both = network.only(["c", "a"])
        torch.testing.assert_close(both(x)[:, :3], network(x)[:, :3], rtol=1e-5, atol=1e-5)
    answers = whole.all(image)
    for name in SPACE.names:
        assert (whole(image, name) == answers[name]).mean() > 0.999
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", lambda self, x: asked.append(self.out_channels) or hook(self, x))
        whole(image, "c")
    assert asked[-1] == 20
    assert network.only(SPACE.names) is network and network.only([]) is network


def test_what_needs_all_answers_keeps_them():
    network = made("segformer")
    network.add_context()
    assert network.only(["b"]) is network
    patches = small_network(*SPACE.tasks)
    alone = patches.only(["b"])
    x = torch.rand(1, 3, 50, 54)
    with torch.inference_mode():
        torch.testing.assert_close(alone(x), patches(x)[:, SPACE.slice("b")])
    whole, only = patches.labeller(), inference.asked_alone(patches, patches.labeller(), ["b"])[1]
    with torch.inference_mode():
        torch.testing.assert_close(only(x), whole(x)[:, SPACE.slice("b")])
    assert only._front is whole._front and only._window is whole._window  # nothing but the last layer is made anew
    assert [len(one._tail) for one in (only, whole)] == [2, 2] and only(x).shape[1] == 2


def test_a_trunk_is_made_quick_once(monkeypatch):
    """And not again for every choice of labelsets."""
    made_quick = []
    monkeypatch.setattr(frozen, "folded", lambda trunk, fold=frozen.folded: made_quick.append(trunk) or fold(trunk))
    predictor, image = Predictor([made("frozen")], "cpu", mirror=True), picture(40, 50)
    for asked in (["a"], ["b"], ["c", "a"], ["a"]):
        assert {*predictor.all(image, asked)} == {*asked}
    assert len(made_quick) == 1
