"""Answers from several copies of a picture: the mean of their probabilities, each pixel's where it belongs."""

import json

import numpy as np
import pytest
import torch
from test_tool_infer import save_network
from toy import refused, small_network, write_run, write_toy

from densemtmd import Labelset, OutputSpace, Predictor, inference
from densemtmd.backbones.padded import check_scales
from densemtmd.commands import evaluate, infer, train
from densemtmd.compare.reading import read_table
from densemtmd.copies import Averaged
from densemtmd.geometry import Geometry
from densemtmd.kind import kind_of
from densemtmd.settings import ScoreSettings

KUNDU, XU = Labelset("kundu", ["sky", "road", "car", "tree"]), Labelset("xu", ["sky", "ground", "movable"])


def picture(height, width, seed=0):
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    return small_network(KUNDU, XU)


@pytest.mark.parametrize("size", [(17, 23), (1, 1), (60, 2)])
def test_mirrored_it_is_the_mean_of_two_answers(network, size):
    image = picture(*size)
    plain, mirrored = Predictor([network], "cpu"), Predictor([network], "cpu", mirror=True)
    for name in ("kundu", "xu"):
        turned = plain.probabilities(np.ascontiguousarray(image[:, ::-1]), name)[..., ::-1]
        expected = (plain.probabilities(image, name) + turned) / 2
        np.testing.assert_allclose(mirrored.probabilities(image, name), expected, atol=1e-5)
        assert ((mirrored(image, name) == expected.argmax(0)) | (np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] < 1e-4)).all()
        np.testing.assert_allclose(
            mirrored.probabilities(np.ascontiguousarray(image[:, ::-1]), name)[..., ::-1], expected, atol=1e-5
        )


class Colours:
    """A labeller whose logits are the colours of the pixels that it answers for, of patches of so many pixels."""

    grain = 1

    def __init__(self, patch=1, context=0, multiple=1):
        self.geometry = Geometry(patch, 1, multiple=multiple, context=context)

    def __call__(self, x):
        before, after = self.geometry.border
        return x[..., before : x.shape[2] - after, before : x.shape[3] - after]


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 1.5, 2.0, 3.7])
@pytest.mark.parametrize("patch", [1, 6, 7])
def test_copies_of_other_sizes_lie_over_the_same_pixels(scale, patch):
    """A planted ramp comes back as it is, also mirrored."""
    rows, columns = torch.meshgrid(torch.arange(61.0), torch.arange(83.0), indexing="ij")
    x = torch.stack([rows, columns, torch.full_like(rows, 40)])[None] / 40
    space = OutputSpace([Labelset("a", ["x", "y", "z"])])
    for mirror in (False, True):
        answer = Averaged(Colours(patch), space, mirror, [scale])(x)
        inner = (..., slice(6, -6), slice(6, -6))
        assert answer.shape == x.shape
        torch.testing.assert_close(answer[inner].exp(), x.softmax(1)[inner], atol=2e-3, rtol=0)


def test_it_asks_for_the_context_of_the_smallest_copy_and_begins_on_the_grid():
    space = OutputSpace([Labelset("a", ["x", "y"])])
    assert Averaged(Colours(46), space, True, [1.0]).geometry == Geometry(1, 1, multiple=1, context=26)
    assert Averaged(Colours(1, 192, 64), space, False, [1.0, 1.5]).geometry == Geometry(1, 1, multiple=128, context=195)
    assert Averaged(Colours(1, 192, 32), space, False, [0.5]).geometry == Geometry(1, 1, multiple=64, context=388)
    assert Averaged(Colours(1, 192, 32), space, False, [1.0101]).geometry.multiple == 32


@pytest.mark.parametrize("how", [{"mirror": True}, {"scales": [1, 1.5]}, {"scales": [0.5], "mirror": True}])
def test_in_tiles_it_is_the_answer_for_the_whole(network, how, monkeypatch):
    predictor, image = Predictor([network], "cpu", **how), picture(130, 170)
    whole = predictor.probabilities(image, "xu")
    monkeypatch.setitem(inference.WIDE, "cpu", 64)
    assert len(inference.tiling([predictor.labeller(predictor.networks[0])], 130, 170, torch.device("cpu"))) > 3
    np.testing.assert_allclose(predictor.probabilities(image, "xu"), whole, atol=1e-4)


def test_what_is_refused(tmp_path, monkeypatch, capsys):
    for scales in ([], [1, 1], [0.1], [5], ["1"], [float("nan")], [True]):
        with refused("score.scales is", "expected numbers from 0.25 to 4, each once"):
            check_scales("score.scales", scales)
    with refused("average the labels of pixels, but these are hands in depth"):
        kind_of("keypoints").check_way(ScoreSettings(mirror=True))
    with refused("score.scales [1, 2]", "use score.scoring=dense"):
        kind_of("labelset").check_way(ScoreSettings("strided", scales=[1, 2]))
    kind_of("keypoints").check_way(ScoreSettings())
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "net.safetensors")
    (tmp_path / "a.png").touch()
    assert infer.main(["a.png", "--keypoints", "all", "--mirror", "--checkpoint", "net.safetensors"]) == 1
    assert "--keypoints finds hands: leave them out" in capsys.readouterr().err
    assert infer.main(["a.png", "--scales", "1;2"])
    assert "'1;2' is no list of numbers such as 1,1.5" in capsys.readouterr().err


def test_an_evaluation_says_so_and_is_compared_with_its_like(tmp_path, capsys):
    file = write_toy(tmp_path, "squares", "square", size=(60, 70))
    arguments = [
        "data=own", "model=patchnet", f"data.datasets=[{file}]", f"data_root={tmp_path}", "tracking=none", f"runs={tmp_path / 'runs'}",
        "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=500", "train.crop=24", "train.batch=4",
    ]  # fmt: skip
    assert train.main(arguments) == 0
    (run,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    assert evaluate.main([str(run), "--mirror", "--scales", "1,1.5"]) == 0
    assert "dense scoring, mirrored too, at 1 and 1.5 times the size" in capsys.readouterr().out
    out = run / "evaluations" / "own-test-dense-mirror-scales1+1.5"
    scored = json.loads((out / "scores.json").read_text())
    assert (scored["mirror"], scored["scales"]) == (True, [1.0, 1.5]) and "mirrored too" in (out / "scores.md").read_text()
    assert json.loads((run / "scores.json").read_text())["mirror"] is False
    assert evaluate.main([str(run), "--mirror", "--strided"]) == 1
    assert "copies of a picture are scored at every pixel" in capsys.readouterr().err

    matrices = {"he": np.full((4, 2, 2), 10)}
    runs = [write_run(tmp_path / f"run{n}", "nf", n, matrices) for n in range(2)]
    assert len(read_table(runs).runs) == 2  # of before, which say nothing of copies
    told = json.loads((runs[1] / "scores.json").read_text())
    (runs[1] / "scores.json").write_text(json.dumps({**told, "mirror": False, "scales": [1.0]}))
    assert len(read_table(runs).runs) == 2
    (runs[1] / "scores.json").write_text(json.dumps({**told, "mirror": True, "scales": [1.0]}))
    with refused("their ways to score differ"):
        read_table(runs)
