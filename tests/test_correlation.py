"""The label correlation matrix against plain loops, the correspondences on posteriors that are made up and so known, and their scores."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from densemtmd import correlation
from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.correlation import Correspondence, Evidence
from densemtmd.datasets.sample import Sample
from densemtmd.draw.tables import correspondence_scores, correspondences_text, matrix_csv
from densemtmd.inference import strided_logits, strided_probabilities
from densemtmd.losses import dataset_softmax
from densemtmd.tasks import VOID, Labelset, OutputSpace

CPU = torch.device("cpu")
FINE = ("sky", "road", "kerb", "house", "pole", "sign", "car", "van", "person", "animal")
FREQUENCY = np.array([0.25, 0.2, 0.03, 0.22, 0.03, 0.04, 0.1, 0.06, 0.05, 0.02])
SETS = {
    "a": ("sky", "road", "road", "house", "pole", "sign", "car", "car", "person", "animal"),
    "b": ("sky", "ground", "ground", "built", "built", "built", "vehicle", "vehicle", "person", None),
    "c": ("sky", "way", "kerb", "house", "post", "post", "car", "van", "human", "human"),
}
"""What three annotators call ten things; the second has no word for animals."""


def small_network(space, seed):
    torch.manual_seed(seed)
    features, classifier = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2)), nn.Sequential(nn.Conv2d(6, space.channels, 2))
    return PatchClassifier(features, classifier, space, 6).eval()


def random_samples(count, labels, seed):
    random = np.random.default_rng(seed)
    for n in range(count):
        target = random.integers(0, labels, (13, 18)).astype(np.uint8)
        target[random.random(target.shape) < 0.2] = VOID
        yield Sample(random.integers(0, 256, (13, 18, 3), dtype=np.uint8), target, str(n))


def test_the_matrix_is_the_average_of_the_predictions_per_label():
    space = OutputSpace([Labelset("a", ["x", "y", "never"]), Labelset("b", ["u", "v"])])
    network = small_network(space, 0)
    samples = {"a": list(random_samples(3, 2, 1)), "b": list(random_samples(2, 2, 2))}
    evidence = correlation.observe([network], {k: [partial(lambda s: s, s) for s in v] for k, v in samples.items()}, CPU, keep=100)

    rows = [[] for _ in range(space.channels)]
    with torch.inference_mode():
        for name, pictures in samples.items():
            for sample in pictures:
                logits = strided_logits(network, sample.image, CPU)
                probabilities = dataset_softmax(logits[None], space)[0].numpy()
                target = sample.target[::2, ::2]
                for y, x in np.ndindex(target.shape):
                    if target[y, x] != VOID:
                        rows[space.slice(name).start + target[y, x]].append(probabilities[:, y, x])
    assert list(evidence.counts) == [len(row) for row in rows] and evidence.counts[2] == 0
    for row, expected in zip(evidence.matrix, rows, strict=True):
        assert np.isnan(row).all() if not expected else np.allclose(row, np.mean(expected, 0), atol=1e-6)
    assert np.allclose(evidence.matrix[[0, 1, 3, 4]][:, :3].sum(1), 1, atol=1e-5)
    assert correlation.absent_labels(evidence) == [("a", "never")]
    seen, target = evidence.pixels["a"]
    assert seen.shape == (3 * 34, 5) and int(target.max()) == 3  # 34 = ⌈100 / 3⌉ of each picture; 3: unlabelled


def test_several_networks_answer_as_one_that_holds_them():
    spaces = [OutputSpace([Labelset("a", ["x", "y"])]), OutputSpace([Labelset("b", ["u", "v", "w"])])]
    networks = [small_network(space, seed) for seed, space in enumerate(spaces)]
    image = next(random_samples(1, 2, 0)).image
    with torch.inference_mode():
        both, stride = strided_probabilities(networks, image, CPU)
        assert stride == 2 and both.shape == (5, 7, 9)
        for network, part in zip(networks, (both[:2], both[2:]), strict=True):
            assert torch.equal(part, strided_probabilities([network], image, CPU)[0])


def test_meaning_is_found_by_the_slow_way_too():
    random = np.random.default_rng(0)
    seen, target = random.dirichlet([0.5] * 3, 60), random.integers(0, 4, 60)
    table = np.zeros((3, 4))
    for p, y in zip(seen, target, strict=True):
        table[:, y] += p
    table /= table.sum(1, keepdims=True)
    for _ in range(30):
        counts = np.zeros((3, 4))
        for p, y in zip(seen, target, strict=True):
            posterior = [p[a] * table[a, y] for a in range(3)]
            for a in range(3):
                counts[a, y] += posterior[a] / sum(posterior)
        table = counts / counts.sum(1, keepdims=True)
    found = correlation.meaning(torch.from_numpy(seen), torch.from_numpy(target), 4, 30)
    assert np.allclose(found.numpy(), table, atol=1e-9)


def made_up(blur, number=12_000, seed=0):
    """Evidence in a world whose truth is known, of a network that is as good as it says: (evidence, true shares).

    A pixel of a thing looks like that thing plus noise; the network knows how often each thing looks so, for all labelsets alike.

    Args:
        blur: of what is seen; with 0.45 about 85 % of the pixels are recognised, with 0.8 about 55 %.
    """
    random = np.random.default_rng(seed)
    space = OutputSpace([Labelset(name, list(dict.fromkeys(word for word in words if word))) for name, words in SETS.items()])
    fine = {name: np.array([space[name].labels.index(word) if word else -1 for word in words]) for name, words in SETS.items()}
    sums, counts, pixels = np.zeros((space.channels, space.channels)), np.zeros(space.channels, int), {}
    for name in SETS:
        things = random.choice(len(FINE), number, p=FREQUENCY)
        look = np.eye(len(FINE))[things] + random.normal(0, blur, (number, len(FINE)))
        posterior = np.exp(look / blur**2) * FREQUENCY
        posterior /= posterior.sum(1, keepdims=True)
        seen = np.zeros((number, space.channels))
        for other, ids in fine.items():
            for thing, label in enumerate(ids):
                if label >= 0:
                    seen[:, space.slice(other).start + label] += posterior[:, thing]
                else:  # it was never taught what to say
                    seen[:, space.slice(other)] += posterior[:, [thing]] / space[other].channels
        target = fine[name][things]
        for row, label in zip(seen, target, strict=True):
            if label >= 0:
                sums[space.slice(name).start + label] += row
                counts[space.slice(name).start + label] += 1
        target = np.where(target < 0, space[name].channels, target)
        pixels[name] = (torch.from_numpy(seen).float(), torch.from_numpy(target))
    true = np.full((space.channels, space.channels), np.nan)
    for a in SETS:
        for b in SETS:
            for i in range(space[a].channels):
                for j in range(space[b].channels):
                    if a != b:
                        inside = FREQUENCY[(fine[a] == i) & (fine[b] == j)].sum()
                        true[space.slice(a).start + i, space.slice(b).start + j] = inside / FREQUENCY[fine[a] == i].sum()
    return Evidence(space, sums, counts, pixels), true


@pytest.mark.parametrize("blur", [0.2, 0.45, 0.6])
def test_correspondences_of_a_known_world(blur):
    evidence, true = made_up(blur)
    share = correlation.shares(evidence)
    found = correlation.correspondences(correlation.likely(evidence, share), evidence.space)
    rule = partial(correlation.true_relation, whole=correlation.MOSTLY)
    scored = correlation.score(found, correlation.correspondences(true, evidence.space, rule))
    assert scored["precision"] >= 0.9 and scored["recall"] >= 0.8, scored
    by_pair = {(c.a, c.b): c.relation for c in found}
    assert by_pair[("a", "sky"), ("b", "sky")] == "same"
    assert by_pair[("a", "house"), ("b", "built")] == "part_of" and by_pair[("b", "vehicle"), ("c", "car")] == "contains"
    assert by_pair[("b", "ground"), ("c", "way")] in ("same", "none")  # 87 % of it, where the rule is 85: the same, or nobody knows
    assert {relation for (a, b), relation in by_pair.items() if a == ("a", "animal") and b[0] == "b"} == {"none"}
    if blur == 0.6:  # the matrix alone would not do: a label lies elsewhere on average than where it belongs
        matrix = evidence.matrix
        place = {f"{t.name}.{label}": n for n, (t, label) in enumerate((t, label) for t in evidence.space.tasks for label in t.labels)}
        assert matrix[place["a.pole"], place["b.built"]] < 0.6 < share[place["a.pole"], place["b.built"]]


def test_a_label_that_never_occurs_is_unknown_and_not_judged():
    evidence, true = made_up(0.3, number=3000)
    person = evidence.space.slice("b").start + evidence.space["b"].labels.index("person")
    seen, target = evidence.pixels["b"]
    kept = target != person - evidence.space.slice("b").start
    counts = evidence.counts.copy()
    counts[person] = 0
    without = Evidence(evidence.space, evidence.sums, counts, {**evidence.pixels, "b": (seen[kept], target[kept])})
    found = correlation.correspondences(correlation.likely(without, correlation.shares(without)), without.space)
    assert not [c for c in found if ("b", "person") in (c.a, c.b)]
    assert correlation.absent_labels(without) == [("b", "person")]
    text = correspondences_text(found, correlation.absent_labels(without), without.space)
    assert text.endswith("unknown, since no pixel of these pictures has them: b.person")
    pairs = correlation.score(found, correlation.correspondences(true, without.space, correlation.true_relation))["pairs"]
    assert pairs == 8 * 4 + 8 * 8 + 4 * 8  # b has 4 labels left of 5


def test_labelsets_without_pictures_are_left_out():
    evidence, _ = made_up(0.3, number=2000)
    two = Evidence(evidence.space, evidence.sums, np.where(np.arange(21) >= 13, 0, evidence.counts), {k: evidence.pixels[k] for k in "ab"})
    found = correlation.correspondences(correlation.likely(two, correlation.shares(two)), two.space)
    assert {(c.a[0], c.b[0]) for c in found} == {("a", "b")} and correlation.absent_labels(two) == []


def test_relations_and_confidences():
    assert correlation.relate(0.9, 0.8) == ("same", pytest.approx(0.72))
    assert correlation.relate(0.9, 0.2) == ("part_of", pytest.approx(0.72)) and correlation.relate(0.1, 0.8)[0] == "contains"
    assert correlation.relate(0.7, 0.4) == ("none", pytest.approx(0.18))  # a part of it, or the same, or nothing: none is told
    chances = [correlation.relate(x, y)[1] for x in (0.05, 0.6, 0.95) for y in (0.05, 0.6, 0.95)]
    assert all(0 <= chance <= 1 for chance in chances)
    for relation, chance, doubtful in (("none", 0.7, True), ("none", 0.8, False), ("same", 0.6, False)):
        assert Correspondence(("p", "a"), ("q", "b"), relation, chance).doubtful == doubtful
    assert correlation.true_relation(0.9, 1.0)[0] == "same" and correlation.true_relation(0.89, 1.0)[0] == "contains"
    assert correlation.true_relation(0.89, 0.89)[0] == "none"


def test_how_likely_a_label_lies_in_another_is_a_weighted_sum_of_three_logits():
    space = OutputSpace([Labelset("p", ["x", "y"]), Labelset("q", ["u", "v"])])
    plain = np.array([[0.8, 0.2, 0.9, 0.1], [0.4, 0.6, 0.5, 0.5], [0.7, 0.3, 0.995, 0.005], [0.1, 0.9, 0.2, 0.8]])
    counts = np.array([100, 50, 200, 0])
    plain[3] = 0
    share = np.array([[np.nan, np.nan, 0.97, 0.03], [np.nan, np.nan, 0.6, 0.4], [0.9, 0.1, np.nan, np.nan], 4 * [np.nan]])
    found = correlation.likely(Evidence(space, plain * counts[:, None], counts, {}), share)

    def logit(value):
        value = min(max(value, 0.02), 0.98)
        return np.log(value / (1 - value))

    for row in range(4):
        for column in range(4):
            if np.isnan(share[row, column]):
                assert np.isnan(found[row, column])
            else:
                numbers = 1, logit(share[row, column]), logit(plain[row, column]), logit(plain[row, row])
                expected = 1 / (1 + np.exp(-np.dot(correlation.WEIGHTS, numbers)))
                assert found[row, column] == pytest.approx(expected) and 0 < expected < 1
    assert found[0, 2] > 0.85 > 0.15 > found[0, 3]


def test_scores_are_counted_by_hand():
    def c(a, b, relation):
        return Correspondence(("p", a), ("q", b), relation, 0.8)

    found = [c("1", "1", "same"), c("1", "2", "none"), c("2", "2", "part_of"), c("3", "3", "part_of"), c("4", "4", "none")]
    found.append(c("9", "9", "same"))  # of which the truth is not known
    truth = [c("1", "1", "same"), c("1", "2", "none"), c("2", "2", "same"), c("3", "3", "part_of"), c("4", "4", "contains")]
    scored = correlation.score(found, truth)
    assert scored["pairs"] == 5 and scored["precision"] == 2 / 3 and scored["recall"] == 2 / 4
    assert scored["relations"]["same"] == {"true": 2, "found": 1, "right": 1, "precision": 1.0, "recall": 0.5}
    assert scored["relations"]["contains"]["precision"] is None
    assert [(m["a"][1], m["relation"], m["truth"]) for m in scored["mistakes"]] == [("2", "part_of", "same"), ("4", "none", "contains")]
    assert scored["reliability"] == [{"from": 0.75, "to": 0.85, "found": 3, "confidence": pytest.approx(0.8), "right": 2 / 3}]
    text = correspondence_scores(scored, scored)
    assert "0.75 to 0.85      3  0.80   0.67" in text and "precision 0.67, recall 0.50" in text
    assert "mistake: p.2, q.2: part of (0.80), in truth same" in text and "0.67" in text


def test_what_people_read():
    space = OutputSpace([Labelset("p", ["sky", "pole", "cow"]), Labelset("q", ["sky", "things"])])
    share = np.full((5, 5), np.nan)
    share[:3, 3:] = [[0.98, 0.0], [0.02, 0.93], [0.1, 0.2]]
    share[3:, :3] = [[0.97, 0.0, 0.0], [0.0, 0.1, 0.0]]
    found = correlation.correspondences(share, space)
    assert correspondences_text(found, [], space).splitlines() == [
        "p and q", "  same:       p.sky = q.sky 0.95", "  part of:    p.pole ⊂ q.things 0.84", "  no partner: p.cow",
    ]  # fmt: skip
    assert json.loads(json.dumps(found[0].to_json())) == {"a": ["p", "sky"], "b": ["q", "sky"], "relation": "same", "confidence": 0.9506}
    share[2, 4] = 0.45  # more than one in four, less than one in two
    text = correspondences_text(correlation.correspondences(share, space), [], space)
    assert text.splitlines()[-1] == "  undecided:  p.cow and q.things" and "no partner" not in text
    share[2, 4] = 0.2
    rows = [line.split(",") for line in matrix_csv(share, space, np.arange(5)).splitlines()]
    assert rows[0] == ["", "pixels", "p.sky", "p.pole", "p.cow", "q.sky", "q.things"]
    assert rows[2] == ["p.pole", "1", "", "", "", "0.02000", "0.93000"]
