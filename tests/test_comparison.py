"""Intervals against a slow loop and against the truth of simulated runs; the paper's tables against what their columns add up to."""

import csv

import numpy as np
import pytest
from toy import write_run

from densemtmd import evaluation
from densemtmd.compare import paper, reading
from densemtmd.compare.paper import PAPER
from densemtmd.compare.reading import Run, resampling_units
from densemtmd.compare.statistics import confusions, differences, draws
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


def a_run(row, seed, matrices, units=None):
    """A run that lies in no folder."""
    about = {name: {"labels": {f"l{i}": {} for i in range(m.shape[1])}} for name, m in matrices.items()}
    scores = {"kind": "pixels", "datasets": about}
    return Run(None, row, {"seed": seed}, scores, matrices, units or {name: np.arange(len(m)) for name, m in matrices.items()})


@pytest.fixture
def two_rows():
    """Two rows of three seeds on two datasets, one of them of ten videos; the last label of the other is in no picture but the first."""
    random = np.random.default_rng(4)
    truth = {"he": counts(random, 7, 3).sum(2), "xu": counts(random, 30, 5).sum(2)}
    truth["he"][1:, 2] = 0
    units = {"he": np.arange(7), "xu": np.arange(30) // 3}
    return [
        [a_run(row, seed, {d: answered(random, t, np.full(len(t), right)) for d, t in truth.items()}, units) for seed in range(3)]
        for row, right in (("nf", 0.5), ("jt", 0.6))
    ]


COLUMNS = {"he": ("he",), "xu": ("xu",), "all together": ("he", "xu")}


def plain_score(run, datasets, times):
    """As anyone would: take the drawn pictures one by one, sum them, score."""
    summed = []
    for name in datasets:
        total = np.zeros(run.found[name].shape[1:], int)
        for picture, count in enumerate(times[name]):
            for _ in range(count):
                total += run.found[name][picture]
        summed.append(total)
    return evaluation.scores(summed).to_json()


def test_scores_are_those_of_evaluation():
    random = np.random.default_rng(0)
    a, b = counts(random, 9, 4), counts(random, 9, 6)
    a[:, 2] = 0  # a label that is answered and never there
    found = PIXELS.pooled([PIXELS.tally(a), PIXELS.tally(b)])
    for n in range(9):
        expected = evaluation.scores([a[n], b[n]]).to_json()
        assert found[n].tolist() == pytest.approx([expected[key] for key in SCORES])
    assert np.isnan(PIXELS.pooled([PIXELS.tally(np.zeros((2, 3, 3)))])).all()


def test_intervals_equal_those_of_a_plain_loop(two_rows):
    nf, jt = two_rows
    found = differences(nf, jt, COLUMNS, resamples=60, seed=5)
    seeds, pictures = draws(nf[0].units, 3, 60, 5)
    assert (seeds.sum(1) == 3).all() and (pictures["he"].sum(1) == 7).all()
    for column, datasets in COLUMNS.items():
        for key in SCORES:
            resampled = []
            for r in range(60):
                times = {name: pictures[name][r] for name in datasets}
                scores = [[plain_score(run, datasets, times)[key] for run in row] for row in (nf, jt)]
                drawn = [k for k in range(3) for _ in range(seeds[r, k])]
                resampled.append(np.mean([scores[1][k] - scores[0][k] for k in drawn]))
            once = {name: np.ones(len(units), int) for name, units in nf[0].units.items()}
            gains = [plain_score(b, datasets, once)[key] - plain_score(a, datasets, once)[key] for a, b in zip(nf, jt, strict=True)]
            expected = [np.mean(gains), *np.percentile(resampled, [2.5, 97.5])]
            one = found[column, key]
            assert [one.value, one.low, one.high] == pytest.approx(expected), (column, key)


def test_videos_are_drawn_whole(two_rows):
    assert resampling_units(30, np.arange(30) // 3).tolist() == (np.arange(30) // 3).tolist()
    assert resampling_units(27, np.arange(27) // 3).tolist() == list(range(27))  # nine videos are too few
    assert resampling_units(5, None).tolist() == list(range(5))
    _, pictures = draws(two_rows[0][0].units, 3, 50)
    of_videos = pictures["xu"].reshape(50, 10, 3)
    assert (of_videos == of_videos[:, :, :1]).all() and (of_videos[:, :, 0].sum(1) == 10).all()
    assert not np.array_equal(of_videos[0], of_videos[1])


def test_pictures_are_drawn_alike_for_all_rows(two_rows):
    """Whatever the number of seeds: a half-finished row is compared on the same pictures."""
    units = two_rows[0][0].units
    (three, pictures), (one, again) = draws(units, 3), draws(units, 1)
    assert all(np.array_equal(pictures[name], again[name]) for name in units)
    assert (one == 1).all() and three.std() > 0


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


def test_intervals_hold_the_truth():
    """Of 95 % intervals 95 % hold it: two rows, one better by a known share of right pixels; what they share is how hard a picture is."""
    random, hits, trials, row_effect = np.random.default_rng(11), 0, 150, 0.05
    for trial in range(trials):
        truth = np.full((30, 2), 50)
        hard, liking = random.uniform(0.2, 0.7, 30), random.uniform(-0.2, 0.2, 30)
        rows = [
            [
                a_run(row, seed, {"he": answered(random, truth, hard + (row == "jt") * (row_effect + liking) + random.normal(0, 0.005))})
                for seed in range(3)
            ]
            for row in ("nf", "jt")
        ]
        one = differences(*rows, {"he": ("he",)}, resamples=300, seed=trial)["he", "global"]
        hits += one.low <= 100 * row_effect / 2 <= one.high  # a wrong pixel is right by chance every other time
    assert 0.9 <= hits / trials <= 0.98


def test_confusions_against_a_plain_loop(two_rows):
    nf, jt = two_rows
    found = confusions(nf, jt, "xu", resamples=40, seed=2)
    assert len(found) == 5 * 4 and [one.change.value for one in found] == sorted(one.change.value for one in found)
    seeds, pictures = draws(nf[0].units, 3, 40, 2)

    def share(run, times, i, j):
        summed = (run.found["xu"] * times[:, None, None]).sum(0)
        return 100 * summed[i, j] / summed[i].sum()

    once = np.ones(30, int)
    for one in found:
        i, j = int(one.true[1:]), int(one.answer[1:])
        assert one.before == pytest.approx(np.mean([share(run, once, i, j) for run in nf]))
        assert one.after == pytest.approx(np.mean([share(run, once, i, j) for run in jt]))
        assert one.change.value == pytest.approx(one.after - one.before)
        changes = [
            sum(seeds[r, k] * (share(jt[k], times, i, j) - share(nf[k], times, i, j)) for k in range(3)) / 3
            for r, times in enumerate(pictures["xu"])
        ]
        assert [one.change.low, one.change.high] == pytest.approx(list(np.percentile(changes, [2.5, 97.5])))


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
