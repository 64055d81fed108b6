"""Intervals against a slow loop, against textbooks and against the truth of made-up runs; the paper's tables against what their columns
add up to."""

import csv

import numpy as np
import pytest
from scipy import stats
from toy import write_run

from densemtmd import evaluation
from densemtmd.bench.coverage import WORLDS, World, comparison, covered
from densemtmd.compare import paper, reading
from densemtmd.compare.paper import PAPER
from densemtmd.compare.reading import Run
from densemtmd.compare.statistics import confusions, degrees, differences, half_width, together
from densemtmd.errors import UserError
from densemtmd.kind import kinds

PIXELS = kinds()["pixels"]
SCORES = tuple(measure.key for measure in PIXELS.measures)


def counts(random, pictures, labels, right=0.6, pixels=60):
    """(N, L, L): pictures of the same kind, each with labels of its own."""
    matrices = np.zeros((pictures, labels, labels), int)
    for matrix in matrices:
        target = random.choice(labels, pixels, p=random.dirichlet(np.ones(labels)))
        answer = np.where(random.random(pixels) < right, target, random.integers(0, labels, pixels))
        np.add.at(matrix, (target, answer), 1)
    return matrices


def answered(random, truth, right):
    """Other answers to the same pixels: (N, L) how many each label has -> (N, L, L)."""
    labels = truth.shape[1]
    matrices = np.zeros((*truth.shape, labels), int)
    for n, row in enumerate(truth):
        for label, pixels in enumerate(row):
            hits = random.binomial(pixels, right[n])
            matrices[n, label] = random.multinomial(pixels - hits, np.full(labels, 1 / labels))
            matrices[n, label, label] += hits
    return matrices


def a_run(row, seed, matrices, units=None, **config):
    """A run that lies in no folder."""
    about = {name: {"labels": {f"l{i}": {} for i in range(m.shape[1])}} for name, m in matrices.items()}
    scores = {"kind": "pixels", "datasets": about}
    units = units or {name: [f"picture {n}" for n in range(len(m))] for name, m in matrices.items()}
    return Run(None, row, {"seed": seed, **config}, scores, matrices, {name: np.array(names) for name, names in units.items()})


@pytest.fixture
def two_rows():
    """Two rows of three seeds on two datasets, one of them of ten videos; one label of the other is in two of its pictures alone."""
    random = np.random.default_rng(4)
    truth = {"he": counts(random, 7, 3).sum(2), "xu": counts(random, 30, 5).sum(2)}
    truth["he"][2:, 2] = 0
    truth["he"][:2, 2] = 9
    units = {"he": [f"p{n}" for n in range(7)], "xu": [f"v{n // 3}" for n in range(30)]}
    return [
        [a_run(row, seed, {d: answered(random, t, np.full(len(t), right)) for d, t in truth.items()}, units) for seed in range(3)]
        for row, right in (("nf", 0.5), ("jt", 0.6))
    ]


COLUMNS = {"he": ("he",), "xu": ("xu",), "all together": ("he", "xu")}


def test_scores_are_those_of_evaluation():
    random = np.random.default_rng(0)
    a, b = counts(random, 9, 4), counts(random, 9, 6)
    a[:, 2] = 0  # a label that is answered and never there
    found = PIXELS.pooled([PIXELS.tally(a), PIXELS.tally(b)])
    for n in range(9):
        expected = evaluation.scores([a[n], b[n]]).to_json()
        assert found[n].tolist() == pytest.approx([expected[key] for key in SCORES])
    assert np.isnan(PIXELS.pooled([PIXELS.tally(np.zeros((2, 3, 3)))])).all()


def plain_half(values, replicates, sizes):
    """As the texts have it, number by number: (S,) differences of seeds, and of each group [video][seed] those without the video."""
    seeds = len(values)
    parts = [(np.var(values, ddof=1) / seeds, seeds - 1)] if seeds > 1 else []
    for left, size in zip(replicates, sizes, strict=True):
        count = len(left)
        table = np.cov(np.array(left).T, ddof=0).reshape(seeds, seeds) * (count - 1)  # the jackknife's covariances of seeds
        pairs = [table[i, j] for i in range(seeds) for j in range(seeds) if i != j] or [table[0, 0]]
        squares = np.array(size) ** 2
        parts.append((max(0, np.mean(pairs)), max(1, sum(squares) ** 2 / sum(squares**2) - 1)))
    whole = sum(variance for variance, _ in parts)
    freedom = whole**2 / sum(variance**2 / df for variance, df in parts)
    return max(stats.t.ppf(0.975, df) * np.sqrt(variance) for variance, df in [(whole, freedom), *parts])


def test_intervals_equal_those_of_a_plain_loop(two_rows):
    """Every video left out in turn, and the others of its dataset counted for it."""
    for count in (3, 2, 1):
        nf, jt = (row[:count] for row in two_rows)
        found, units = differences(nf, jt, COLUMNS), nf[0].units
        for column, datasets in COLUMNS.items():
            for key in SCORES:

                def gains(times, key=key, datasets=datasets, rows=(nf, jt)):
                    scores = [[evaluation.scores(weighted(run, datasets, times)).to_json()[key] for run in row] for row in rows]
                    return np.subtract(scores[1], scores[0])

                once = {name: np.ones(len(units[name])) for name in datasets}
                replicates, sizes = [], []
                for name in datasets:
                    videos = sorted(set(units[name].tolist()))
                    left = [(units[name] != video) * len(videos) / (len(videos) - 1) for video in videos]
                    replicates.append([gains({**once, name: times}) for times in left])
                    sizes.append([(units[name] == video).sum() for video in videos])
                half, value = plain_half(gains(once), replicates, sizes), gains(once).mean()
                one = found[column, key]
                assert [one.value, one.low, one.high] == pytest.approx([value, value - half, value + half]), (count, column, key)


def weighted(run, datasets, times):
    return [(run.found[name] * times[name][:, None, None]).sum(0) for name in datasets]


def test_of_seeds_alone_it_is_students_interval():
    """One video says nothing of others; what remains is the textbook's interval of a few numbers."""
    random = np.random.default_rng(2)
    truth, gains = np.full((4, 2), 5000), []
    rows = [[], []]
    for seed in range(5):
        share = 0.6 + random.normal(0.05, 0.02)
        nf, jt = (answered(random, truth, np.full(4, right)) for right in (0.5, share))
        for row, name, matrices in zip(rows, ("nf", "jt"), (nf, jt), strict=True):
            row.append(a_run(name, seed, {"he": matrices}, {"he": ["v"] * 4}))
        gains.append(100 * (np.trace(jt.sum(0)) - np.trace(nf.sum(0))) / truth.sum())
    one = differences(*rows, {"he": ("he",)})["he", "global"]
    low, high = stats.t.interval(0.95, 4, np.mean(gains), stats.sem(gains))
    assert [one.value, one.low, one.high] == pytest.approx([np.mean(gains), low, high])
    one = differences(rows[0][:1], rows[1][:1], {"he": ("he",)})["he", "global"]
    assert one.value == pytest.approx(gains[0]) and np.isnan([one.low, one.high]).all() and one.verdict == "no clear difference"
    assert np.isnan(half_width(np.ones((1, 3)), [], [])).all()


def test_of_one_seed_it_is_students_interval_over_pictures():
    """Where all pictures have as many pixels, Global is a mean over pictures."""
    random = np.random.default_rng(3)
    truth, hard = np.full((20, 2), 500), random.uniform(0.4, 0.6, 20)
    nf, jt = (answered(random, truth, right) for right in (hard, hard + random.normal(0.1, 0.05, 20)))
    one = differences([a_run("nf", 0, {"he": nf})], [a_run("jt", 0, {"he": jt})], {"he": ("he",)})["he", "global"]
    gains = 100 * (np.trace(jt, axis1=1, axis2=2) - np.trace(nf, axis1=1, axis2=2)) / 1000
    low, high = stats.t.interval(0.95, 19, gains.mean(), stats.sem(gains))
    assert [one.value, one.low, one.high] == pytest.approx([gains.mean(), low, high])


def test_videos_that_datasets_share_are_left_out_of_all_of_them():
    matrices = {name: np.ones((4, 2, 2), int) for name in ("a", "b", "c", "d")}
    units = {"a": ["v", "v", "w", "w"], "b": ["w", "x", "x", "x"], "c": list("stuv"), "d": list("vvyz")}
    domains = {name: {"yaml": {"domain": "elsewhere" if name == "c" else "here"}} for name in matrices}
    run = a_run("nf", 0, matrices, units, found=domains)
    groups = {tuple(sorted(group.videos)): group for group in together(run, list(matrices))}
    assert set(groups) == {("a", "b", "d"), ("c",)}  # c's v is of another place
    group = groups["a", "b", "d"]
    assert group.pictures.tolist() == [4, 3, 3, 1, 1]  # v, w, x, y, z
    assert group.videos["a"].tolist() == [0, 0, 1, 1] and group.videos["b"].tolist() == [1, 2, 2, 2]
    assert [tuple(one.videos) for one in together(run, ["b", "d"])] == [("b",), ("d",)]
    assert run.videos == {"a": 2, "b": 2, "d": 3}


def test_degrees_of_freedom():
    assert degrees(np.full(9, 3)) == 8 and degrees(np.array([40, 1, 1])) == 1
    assert 1 < degrees(np.arange(1, 13)) < 11


def test_no_difference_is_no_difference(two_rows):
    nf, _ = two_rows
    same = [a_run("jt", run.seed, run.found, run.units) for run in nf]
    for one in differences(nf, same, COLUMNS).values():
        assert (one.value, one.low, one.high, one.verdict) == (0, 0, 0, "no clear difference")
    shuffled = [a_run("jt", run.seed, nf[(run.seed + 1) % 3].found, run.units) for run in nf]  # the same runs, seeds exchanged
    for one in differences(nf, shuffled, COLUMNS).values():
        assert one.value == pytest.approx(0, abs=1e-9) and one.low < 0 < one.high and one.verdict == "no clear difference"


def test_only_seeds_that_both_have(two_rows):
    nf, jt = two_rows
    assert differences(nf, jt[1:], COLUMNS) == differences(nf[1:], jt[1:], COLUMNS) == differences(nf[1:][::-1], jt[1:], COLUMNS)
    assert differences(nf[:1], jt[1:], COLUMNS) == {} and confusions(nf[:1], jt[1:], "he") == []


def test_a_dataset_without_labelled_pixels_has_no_difference(two_rows):
    rows = [[a_run(run.row, run.seed, {**run.found, "he": 0 * run.found["he"]}, run.units) for run in row] for row in two_rows]
    assert {column for column, _ in differences(*rows, COLUMNS)} == {"xu", "all together"}


@pytest.mark.parametrize("name", ["30 pictures, which dominate", "30 pictures, seeds dominate", "12 videos of 4, and seeds"])
def test_intervals_hold_the_truth(name):
    """Of 95 % intervals 95 % do, be it pictures, seeds or videos that make the spread: ``tools/bench.py coverage`` counts more of them."""
    (world,) = [world for world in WORLDS if world.name == name]
    for seeds in (2, 5):
        for cell in covered(world, seeds, 150):
            assert cell["coverage"] >= 90, cell


def test_made_up_runs_are_as_they_are_said_to_be():
    """Their mean difference is the true one, and its spread over comparisons what seeds, videos and pictures give together."""
    world, random = World("", (4,) * 12, seeds=2, videos=4, pictures=3, each=1), np.random.default_rng(0)
    off, seen = [], set()
    for _ in range(300):
        before, after, truth = comparison(world, 3, random)
        off.append(differences(before, after, {"d": ("d0",)})["d", "global"].value - truth["global"])
        seen.add(round(truth["global"], 9))
    assert seen == {4.0} and abs(np.mean(off)) < 3 * np.std(off) / 300**0.5
    assert np.std(off) == pytest.approx((2**2 / 3 + 4**2 / 12 + 3**2 / 48 + 1 / 144) ** 0.5, rel=0.15)


def test_confusions_against_a_plain_loop(two_rows):
    nf, jt = two_rows
    found = confusions(nf, jt, "xu")
    assert len(found) == 5 * 4 and [one.change.value for one in found] == sorted(one.change.value for one in found)

    def share(run, times, i, j):
        summed = (run.found["xu"] * times[:, None, None]).sum(0)
        return 100 * summed[i, j] / summed[i].sum()

    once, videos = np.ones(30), np.arange(30) // 3
    for one in found:
        i, j = int(one.true[1:]), int(one.answer[1:])
        assert one.before == pytest.approx(np.mean([share(run, once, i, j) for run in nf]))
        assert one.after == pytest.approx(np.mean([share(run, once, i, j) for run in jt]))
        assert one.change.value == pytest.approx(one.after - one.before)
        changes = [
            [share(jt[k], times, i, j) - share(nf[k], times, i, j) for k in range(3)]
            for times in [once, *(1.0 * (videos != video) for video in range(10))]
        ]
        half = plain_half(changes[0], [changes[1:]], [[3] * 10])
        assert [one.change.low, one.change.high] == pytest.approx([one.change.value - half, one.change.value + half])


def test_what_is_in_one_picture_alone_is_not_known(two_rows):
    """Without that picture there is nothing to score: no interval, and no claim."""
    rows = [[a_run(run.row, run.seed, {"he": run.found["he"].copy()}) for run in row] for row in two_rows]
    for run in (run for row in rows for run in row):
        run.found["he"][1, 2] = 0
    of_label = [one for one in confusions(*rows, "he") if one.true == "l2"]
    assert of_label and all(np.isnan(one.change.low) and one.change.verdict == "no clear difference" for one in of_label)


# ------------------------------------------------------------------------------------------------------------------------------------
# Budgets


def test_a_budget_is_that_of_all_networks_together(tmp_path):
    matrices = {name: np.ones((2, 3, 3), int) for name in ("he", "xu", "ros")}
    each = {"name": "{dataset}", "datasets": "each"}
    for name, stages, outputs in (
        ("split", [{**each, "budget": "split"}], 2e6),
        ("much", [each], 6e6),
        ("twice", [{"name": "one", "answers": False}, {"name": "two", "budget": 0.5}], 3e6),
    ):
        run = reading.read_run(write_run(tmp_path / name, name, 0, matrices, stages=stages))
        assert reading.budget(run) == {"outputs": pytest.approx(outputs)}
    run = reading.read_run(write_run(tmp_path / "m", "nf", 0, matrices, train={"outputs": None, "minutes": 3.0}, stages=[each]))
    assert reading.budget(run) == {"minutes": 9.0}


# ------------------------------------------------------------------------------------------------------------------------------------
# The paper

CLASSES = {"he": 8, "kundu": 10, "ladicky": 12, "ros": 11, "sengupta": 9, "xu": 5, "zhang": 10}  # that its test pictures have
OTHERS = {"kitti7": 65, "stanford": 8, "siftflow": 30}
SHARES = {"he": 4.3, "kundu": 5.7, "ladicky": 12.4, "ros": 18.7, "sengupta": 8.5, "xu": 15.5, "zhang": 34.9}  # of the test pixels, %
ROWS = {
    "table1_kitti7": 4, "table1_stanford_siftflow": 6, "table1_kitti7_stanford": 6, "table1_kitti7_siftflow": 6, "table2": 4, "table3": 6,
    "table4": 6, "table5_siftflow": 4, "table5_stanford": 4, "table6": 3, "table7": 10,
    "table7_later": 5,
}  # fmt: skip


def numbers(table):
    return {key: value for key, (value, _) in paper.paper_numbers(table).items()}


def mean(values, row, score, weights):
    return sum(values[row, name, score] * weight for name, weight in weights.items()) / sum(weights.values())


def test_the_csv_has_all_tables_and_each_number_once():
    with PAPER.open(newline="") as file:
        lines = list(csv.DictReader(file))
    keys = [(line["table"], line["row"], line["dataset"], line["score"]) for line in lines]
    assert len(set(keys)) == len(keys)
    assert {table: len({row for t, row, _, _ in keys if t == table}) for table in ROWS} == ROWS and {key[0] for key in keys} == {*ROWS}
    for line in lines:
        assert line["value"] or line["note"], line
        assert not line["value"] or 0 < float(line["value"]) < 100, line


@pytest.mark.parametrize("table", ["table2", "table3", "table4"])
def test_seven_kitti_is_the_mean_of_its_columns(table):
    """Average and IoU over all classes together, Global over pixels."""
    values = numbers(table)
    together = "total" if table == "table2" else "kitti7"
    for row in {row for row, _, _ in values}:
        for score in ("average", "iou"):
            assert mean(values, row, score, CLASSES) == pytest.approx(values[row, together, score], abs=0.011), (row, score)
        assert mean(values, row, "global", SHARES) == pytest.approx(values[row, together, "global"], abs=0.05), row


@pytest.mark.parametrize("table", ["table1_stanford_siftflow", "table1_kitti7_stanford", "table1_kitti7_siftflow", "table3", "table4"])
def test_totals_are_means_over_all_classes(table):
    found = paper.paper_numbers(table)
    values = numbers(table)
    parts = {name: count for name, count in OTHERS.items() if ("nf", name, "iou") in values}
    shares = set()
    for row in {row for row, _, _ in values}:
        for score in ("average", "iou"):
            total, note = found[row, "total", score]
            expected = float(note.split()[-1]) if note.startswith("as printed, the columns give") else total
            assert mean(values, row, score, parts) == pytest.approx(expected, abs=0.011), (row, score)
        first, second, total = (values[row, name, "global"] for name in (*parts, "total"))
        shares.add((total - second) / (first - second))  # of the first dataset's pixels
    assert max(shares) - min(shares) < 0.012


def test_what_two_tables_print_is_the_same():
    for table, detailed in (("table1_kitti7_stanford", "table3"), ("table1_kitti7_siftflow", "table4")):
        once, again = numbers(table), numbers(detailed)
        assert {key: again[key] for key in once} == once
    best = numbers("table1_stanford_siftflow")
    five = numbers("table5_siftflow")
    assert [five["best", "siftflow", s] for s in SCORES] == [best["jt_de", "siftflow", s] for s in SCORES]
    assert [five["nf", "siftflow", s] for s in SCORES] == [best["nf", "siftflow", s] for s in SCORES]
    six, seven = numbers("table6"), numbers("table7")
    for row in ("nf", "jt", "jtsc"):
        for name in ("nyu", "icvl"):
            assert six[row, name, "3d_mm"] == pytest.approx(seven[row, name, "3d_mm"], abs=0.011)
        both = (six[row, "nyu", "3d_mm"] * 8252 + six[row, "icvl", "3d_mm"] * 1596) / 9848  # over test frames
        assert both == pytest.approx(six[row, "both", "3d_mm"], abs=0.011)


def test_corrections_are_marked():
    own = [table for table in ROWS if table != paper.LATER]
    notes = {(table, *key): (value, note) for table in own for key, (value, note) in paper.paper_numbers(table).items()}
    for key, value, words in [
        (("table2", "jtsc", "total", "iou"), 47.46, "printed 47.10, the columns give 47.46"),
        (("table1_kitti7_stanford", "jtsc_gr_de", "kitti7", "global"), 81.86, "printed 81.26"),
        (("table3", "jtsc_gr_de", "kitti7", "global"), 81.86, "printed 81.26"),
        (("table4", "jt_de", "ros", "average"), 44.85, "printed 41.88, which repeats Ladicky"),
        (("table4", "jt_de", "ros", "iou"), 35.07, "printed 31.05"),
        (("table2", "jt", "zhang", "iou"), 41.92, "derived from the total"),
        (("table2", "nf", "zhang", "iou"), 37.53, "from Table 3"),
    ]:
        assert notes[key][0] == value and words in notes[key][1]
    assert notes["table2", "jt", "he", "iou"] == (54.35, "")
    assert ("neverova", "icvl", "3d_mm") not in numbers("table7")
    with pytest.raises(UserError, match=r"no table 'table8'; known: table1_kitti7, .*did you mean"):
        paper.paper_numbers("table8")
