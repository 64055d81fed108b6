"""Scores against torchmetrics, and against what the paper's own tables say of how their totals are made."""

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import small_network

from densemtmd import Labelset, inference
from densemtmd.backbones.torchvision_cpu import import_torchvision
from densemtmd.datasets.crops import cut
from densemtmd.datasets.sample import Sample, as_input
from densemtmd.errors import UserError
from densemtmd.evaluation import confusion, inside_only, per_class, report, score_pictures, scores
from densemtmd.stack import geometry_of

with suppress(ImportError):  # where it is installed, torchmetrics imports it
    import_torchvision()
classification = pytest.importorskip("torchmetrics.functional.classification")
multiclass_accuracy, multiclass_jaccard_index = classification.multiclass_accuracy, classification.multiclass_jaccard_index


@st.composite
def answers(draw, labels=None):
    """Answers and targets for the same pixels, some of them void, some labels absent from the targets."""
    labels = draw(st.integers(2, 12)) if labels is None else labels
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([(1,), (40,), (7, 9), (3, 8, 5)]))
    target = random.choice(random.permutation(labels)[: draw(st.integers(1, labels))], shape)
    answer = np.where(random.random(shape) < 0.6, target, random.integers(0, labels, shape))
    target[random.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = 255
    return torch.from_numpy(answer), torch.from_numpy(target.astype(np.uint8)), labels


def plain_confusion(answer, target, labels):
    counts = np.zeros((labels, labels), int)
    for a, t in zip(answer.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t != 255:
            counts[t, a] += 1
    return counts


@given(answers())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equals_torchmetrics(pixels):
    answer, target, labels = pixels
    matrix = confusion(answer, target, labels)
    assert matrix.dtype == torch.int64 and (matrix.numpy() == plain_confusion(answer, target, labels)).all()
    kept = target != 255
    if not kept.any():
        return
    scored = scores([matrix.numpy()])
    known = {"num_classes": labels, "ignore_index": 255, "validate_args": False}
    accuracy = multiclass_accuracy(answer, target.long(), average="none", **known).double()
    iou = multiclass_jaccard_index(answer, target.long(), average="none", **known).double()
    present = torch.bincount(target[kept].long(), minlength=labels) > 0
    micro = multiclass_accuracy(answer, target.long(), average="micro", **known)
    expected = [100 * float(v) for v in (micro, accuracy[present].mean(), iou[present].mean())]
    assert [scored.global_accuracy, scored.average, scored.iou] == pytest.approx(expected, rel=1e-5)
    assert (scored.classes, scored.pixels) == (int(present.sum()), int(kept.sum()))
    if present.all():  # then torchmetrics' own means are these means
        macro = [100 * float(f(answer, target.long(), average="macro", **known)) for f in (multiclass_accuracy, multiclass_jaccard_index)]
        assert [scored.average, scored.iou] == pytest.approx(macro, rel=1e-5)
    own_accuracy, own_iou = per_class(matrix.numpy())
    assert (np.isnan(own_accuracy) == ~present.numpy()).all() and (np.isnan(own_iou) == ~present.numpy()).all()
    assert own_accuracy[present.numpy()] == pytest.approx(100 * accuracy[present].numpy(), rel=1e-5)
    assert own_iou[present.numpy()] == pytest.approx(100 * iou[present].numpy(), rel=1e-5)


@given(st.lists(answers(), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_several_labelsets_are_pooled_over_all_their_classes(several):
    """Global counts pixels wherever they are; Average and IoU count every class of every labelset once."""
    matrices = [plain_confusion(*pixels) for pixels in several]
    scored = scores(matrices)
    accuracies, ious, right, total = [], [], 0, 0
    for answer, target, labels in several:
        for label in range(labels):
            true, answered = target == label, (answer == label) & (target != 255)
            if true.any():
                hit = int((true & answered).sum())
                accuracies.append(hit / int(true.sum()))
                ious.append(hit / int((true | answered).sum()))
                right, total = right + hit, total + int(true.sum())
    assert (scored.classes, scored.pixels) == (len(accuracies), total)
    if total:
        expected = [100 * right / total, 100 * np.mean(accuracies), 100 * np.mean(ious)]
        assert [scored.global_accuracy, scored.average, scored.iou] == pytest.approx(expected, rel=1e-9)


def test_a_small_example_by_hand():
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 4]])  # label 2 never occurs
    scored = scores([matrix])
    assert scored.global_accuracy == pytest.approx(65)                                   # 13 of 20
    assert scored.average == pytest.approx(100 * (6 / 8 + 3 / 4 + 4 / 8) / 3)
    assert scored.iou == pytest.approx(100 * (6 / 13 + 3 / 6 + 4 / 8) / 3)
    assert (scored.classes, scored.pixels) == (3, 20) and scored.line() == "Global  65.0  Average  66.7  IoU  48.7"
    matrix[0, 2] = 5  # but is answered: a miss of label 0 and no score of its own
    assert scores([matrix]).classes == 3 and scores([matrix]).average < scored.average


# No Fusion, Tables 2 to 4: the labels that occur in the test pictures, all labels, test pixels in percent of the seven's, and
# Global, Average and IoU.
COLUMNS = {
    "he": (8, 8, 4.3, 76.11, 59.66, 49.65),
    "kundu": (10, 11, 5.7, 71.36, 53.58, 39.80),
    "ladicky": (12, 12, 12.4, 73.48, 42.81, 31.74),
    "ros": (11, 11, 18.7, 76.80, 48.46, 38.60),
    "sengupta": (9, 11, 8.5, 73.25, 64.25, 44.32),
    "xu": (5, 5, 15.5, 86.07, 81.96, 70.83),
    "zhang": (10, 10, 34.9, 77.30, 49.53, 37.53),
}
SIFT_FLOW = (30, 33, 9.1, 69.79, 24.95, 19.02)


def matrix_of(present, labels, pixels, accuracy):
    """A matrix of some labels, the first ones present and equally frequent, each with this accuracy; errors go to the next label."""
    each = pixels / present
    matrix = np.zeros((labels, labels))
    for label in range(present):
        matrix[label, label] = each * accuracy
        matrix[label, (label + 1) % present] = each * (1 - accuracy)
    return matrix


def test_totals_are_made_as_the_papers_are():
    """From the seven columns of Tables 2 and 3 follows Table 2's total: 77.35 / 54.51 / 41.99; with SIFT Flow Table 4's 45.18 / 34.73."""
    assert sum(present for present, *_ in COLUMNS.values()) == 65 and sum(labels for _, labels, *_ in COLUMNS.values()) == 68

    def pooled(columns, measure):
        matrices = []
        for present, labels, share, *measures in columns:
            value = measures[["global", "average", "iou"].index(measure)] / 100
            # In these matrices a label gets as many pixels wrongly as it loses: IoU = accuracy / (2 - accuracy).
            accuracy = 2 * value / (1 + value) if measure == "iou" else value
            matrices.append(matrix_of(present, labels, 1e6 * share, accuracy))
            assert scores(matrices[-1:]).to_json()[measure] == pytest.approx(100 * value)
        return scores(matrices)

    kitti = list(COLUMNS.values())
    assert pooled(kitti, "global").global_accuracy == pytest.approx(77.35, abs=0.02)  # the shares are known to 0.1 %
    assert pooled(kitti, "average").average == pytest.approx(54.51, abs=0.005)
    assert pooled(kitti, "iou").iou == pytest.approx(41.99, abs=0.006)
    assert pooled(kitti, "iou").classes == 65
    assert pooled([*kitti, SIFT_FLOW], "average").average == pytest.approx(45.18, abs=0.006)
    assert pooled([*kitti, SIFT_FLOW], "iou").iou == pytest.approx(34.73, abs=0.006)


@pytest.mark.parametrize("matrices", [[], [np.zeros((3, 3), int)], [np.zeros((3, 3), int), np.zeros((2, 2), int)]])
def test_where_nothing_is_labelled_there_is_no_score(matrices):
    scored = scores(matrices)
    assert np.isnan([scored.global_accuracy, scored.average, scored.iou]).all() and (scored.classes, scored.pixels) == (0, 0)
    assert scored.to_json() == {"global": None, "average": None, "iou": None, "classes": 0, "pixels": 0}
    assert confusion(torch.zeros(4, 5, dtype=torch.long), torch.full((4, 5), 255, dtype=torch.uint8), 3).sum() == 0


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_is_json_and_sums_pictures():
    random = np.random.default_rng(0)
    labelsets = {"kundu": Labelset("kundu", ["sky", "road", "car"]), "empty": Labelset("xu", ["sky", "ground"])}
    kundu = random.integers(0, 50, (4, 3, 3))
    kundu[:, 2] = 0  # no car in any target
    scored = report({"kundu": kundu, "empty": np.zeros((0, 2, 2), int)}, labelsets)
    assert strict(json.dumps(scored, allow_nan=False)) == scored
    assert scored == report({"kundu": kundu.sum(0), "empty": np.zeros((2, 2), int)}, labelsets)
    own = scored["datasets"]["kundu"]
    assert own["labelset"] == "kundu" and own["classes"] == 2 and own["pixels"] == kundu.sum()
    assert own["labels"]["car"] == {"accuracy": None, "iou": None, "pixels": 0}
    assert own["labels"]["road"]["accuracy"] == pytest.approx(100 * kundu[:, 1, 1].sum() / kundu[:, 1].sum())
    assert own["average"] == pytest.approx((own["labels"]["sky"]["accuracy"] + own["labels"]["road"]["accuracy"]) / 2)
    assert {k: own[k] for k in scored["pooled"]} == scored["pooled"]  # the empty one changes nothing
    assert scored["datasets"]["empty"]["iou"] is None and scored["datasets"]["empty"]["labelset"] == "xu"
    assert strict(json.dumps(report({}, {}), allow_nan=False))["datasets"] == {}


# ------------------------------------------------------------------------------------------------------------------------------------
# Scoring a network's answers


@pytest.fixture(scope="module")
def network():
    return small_network(Labelset("a", ["x", "y", "z"]), Labelset("b", ["u", "v", "t", "s"]))


SIZES = [(11, 31), (50, 47), (1, 1), (9, 8)]


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    return [
        Sample(random.integers(0, 256, (*size, 3), np.uint8), random.choice(np.array([0, 1, 2, 3, 255], np.uint8), size), f"picture{n}")
        for n, size in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def plain_answers(network, samples):
    """For each picture the answers under "b", each from a patch of its own."""
    where, found = geometry_of(network), []
    for sample in samples:
        patches = np.stack([cut(sample, *place, 1, 1, where)[0] for place in np.ndindex(sample.target.shape)])
        with torch.inference_mode():
            logits = network(as_input(torch.from_numpy(patches).permute(0, 3, 1, 2)))
        found.append(logits[:, network.space.slice("b"), 0, 0].argmax(1).view(sample.target.shape))
    assert len(torch.cat([f.flatten() for f in found]).unique()) > 1
    return found


CPU = torch.device("cpu")


def differences(matrices, answers, targets):
    """How many pixels the matrices count elsewhere than the answers one by one: rounding may turn the answer to a pixel on the fence."""
    expected = np.stack([plain_confusion(a, torch.from_numpy(np.ascontiguousarray(t)), 4) for a, t in zip(answers, targets, strict=True)])
    assert (matrices.sum((1, 2)) == expected.sum((1, 2))).all() and matrices.dtype == np.int64
    return np.abs(matrices - expected).sum() / 2


@pytest.mark.parametrize("interior", [False, True])
@pytest.mark.parametrize("tile", [(3, 30), (1000, 1000)])
def test_dense_scoring_counts_every_pixels_own_patch(network, samples, plain_answers, interior, tile, monkeypatch):
    """Whether a picture is answered in many tiles or in one."""
    monkeypatch.setitem(inference.TILE, "cpu", tile)
    ticks = []
    matrices = score_pictures(network, "b", samples, scoring="dense", interior=interior, device=CPU, tick=lambda: ticks.append(1))
    targets = [inside_only(s.target, (23, 22)) if interior else s.target for s in samples]
    assert matrices.shape == (4, 4, 4) and len(ticks) == 4
    assert differences(matrices, plain_answers, targets) <= 2


@pytest.mark.parametrize("interior", [False, True])
def test_strided_scoring_is_dense_scoring_of_every_fourth_pixel(network, samples, plain_answers, interior):
    strided = score_pictures(network, "b", samples, scoring="strided", interior=interior, device=CPU)
    targets = [inside_only(s.target, (23, 22)) if interior else s.target for s in samples]
    assert differences(strided, [a[::4, ::4] for a in plain_answers], [t[::4, ::4] for t in targets]) <= 1
    grids = []
    for sample, target in zip(samples, targets, strict=True):
        grid = np.full_like(target, 255)
        grid[::4, ::4] = target[::4, ::4]
        grids.append(Sample(sample.image, grid, sample.name))
    dense = score_pictures(network, "b", grids, scoring="dense", device=CPU)
    assert np.abs(dense - strided).sum() <= 2


def test_interior_is_where_the_patch_fits(samples):
    """Of 46×46 pixels, of which 23 lie before the one that it is about and 22 after it."""
    for sample in samples:
        height, width = sample.target.shape
        kept = inside_only(np.zeros((height, width), np.uint8), (23, 22))
        fits = [[min(y, x) >= 23 and y - 23 + 46 <= height and x - 23 + 46 <= width for x in range(width)] for y in range(height)]
        assert (kept == np.where(fits, 0, 255)).all()
    assert (inside_only(samples[1].target, (0, 0)) == samples[1].target).all()


def test_pictures_sum_to_the_whole(network, samples):
    matrices = score_pictures(network, "b", samples, scoring="dense", device=CPU)
    assert matrices.sum() == sum((s.target != 255).sum() for s in samples)
    for n, sample in enumerate(samples):
        assert (score_pictures(network, "b", [sample], scoring="dense", device=CPU)[0] == matrices[n]).all()
    true = [np.bincount(s.target[s.target != 255], minlength=4) for s in samples]
    assert (matrices.sum(2) == true).all()
    assert score_pictures(network, "b", [], scoring="dense", device=CPU).shape == (0, 4, 4)


@pytest.mark.parametrize("scoring", ["dense", "strided"])
def test_an_unlabelled_picture_counts_nothing(network, samples, scoring):
    void = [Sample(s.image, np.full_like(s.target, 255), s.name) for s in samples]
    assert score_pictures(network, "a", void, scoring=scoring, device=CPU).sum() == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scoring", ["dense", "strided"])
def test_the_network_is_left_as_it_was(network, samples, training, scoring):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train(training)
    try:
        first, second = (score_pictures(network, "b", samples[:1], scoring=scoring, device=CPU) for _ in range(2))
        assert all(module.training == training for module in network.modules())
    finally:
        network.eval()
    assert (first == second).all()  # no dropout meanwhile
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_mistakes_are_sentences(network, samples):
    with pytest.raises(UserError, match=r"scoring is 'dens'.*dense, strided; did you mean 'dense'"):
        score_pictures(network, "b", samples, scoring="dens", device=CPU)
    with pytest.raises(UserError, match=r"unknown labelset 'c'; known: a, b"):
        score_pictures(network, "c", samples, scoring="dense", device=CPU)
