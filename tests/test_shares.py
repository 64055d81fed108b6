"""How crops are shared among datasets, and that more than one process may make the batches."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from densemtmd.datasets.mixing import Mixture, Source, made_ahead, shares
from densemtmd.datasets.sample import Sample
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry


def make_mixture(mixing, sizes=(10, 30), batch=4000):
    """Datasets a, b, ... of one picture each, as wide as ``sizes`` say."""
    samples = [Sample(np.full((10, width, 3), width, np.uint8), np.full((10, width), k, np.uint8), "x") for k, width in enumerate(sizes)]
    sources = [Source("abc"[k], k, k, [sample]) for k, sample in enumerate(samples)]
    return Mixture(sources, Geometry(4, 2), crop=4, batch=batch, flip=False, border="reflect", mixing=mixing, seed=0)


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [
        ("pixels", [0.1, 0.9]),
        ("uniform", [0.5, 0.5]),
        ("temperature:1", [0.1, 0.9]),
        ("temperature:2", [0.25, 0.75]),  # 1 : √9
        ("temperature:1e9", [0.5, 0.5]),
        ("a:1+b:3", [0.25, 0.75]),
        ("b:.5+a:0.5", [0.5, 0.5]),
        ({"b": 4, "a": 1}, [0.2, 0.8]),
        ("a:1+b:3+another:9", [0.25, 0.75]),
    ],
)
def test_shares(mixing, expected):
    assert shares([1000, 9000], mixing, ["a", "b"]) == pytest.approx(expected, abs=1e-6)


def test_many_pixels_and_a_low_temperature_do_not_overflow():
    assert shares([10**12, 2 * 10**12], "temperature:0.01", ["a", "b"]) == pytest.approx([0, 1])


def test_names_may_hold_a_colon():
    assert shares([1, 1], "a:b:1+c:3", ["a:b", "c"]).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("mixing", "words"),
    [
        ("temperature", ["'temperature'", "did you mean 'temperature:2'"]),
        ("pixles", ["'pixles'", "did you mean 'pixels'"]),
        ("temperature:", ["''", "no number above 0"]),
        ("temperature:0", ["'0'", "above 0"]),
        ("temperature:hot", ["'hot'"]),
        ("a:1", ["gives 'b' no weight", "each of a, b"]),
        ("a:1+b:-1", ["'-1'", "above 0"]),
        ("a:1+b:inf", ["'inf'"]),
        ("a:1+b:2+a:3", ["'a' two weights"]),
        ({"a": 1, "b": None}, ["None", "above 0"]),
        (3, ["train.mixing is 3", "kundu:2+xu:1"]),
    ],
)
def test_mistakes(mixing, words):
    with pytest.raises(UserError) as error:
        shares([10, 30], mixing, ["a", "b"])
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize("mixing", ["pixels", "uniform", "temperature:2", "a:1+b:4"])
def test_crops_are_drawn_in_these_shares(mixing):
    mixture = make_mixture(mixing)
    task = mixture.batch(0).task
    expected = shares([100, 300], mixing, ["a", "b"])
    assert np.bincount(task) / 4000 == pytest.approx(expected, abs=0.03)
    about = mixture.about()
    assert list(about) == ["a", "b"] and about["b"] == {
        "pictures": 1, "labelled_pixels": 300, "share": pytest.approx(expected[1]), "weight": 1,
    }  # fmt: skip


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_in_order(workers):
    mixture, before = make_mixture("pixels", batch=3), {*multiprocessing.active_children()}
    batches = made_ahead(mixture.batch, 7, workers=workers)
    for step in range(7, 20):
        batch, expected = next(batches), mixture.batch(step)
        for name in ("image", "target", "task", "domain"):
            assert (getattr(batch, name) == getattr(expected, name)).all()
        assert batch.image.stride() == expected.image.stride()  # still channels-last
    batches.close()
    assert {*multiprocessing.active_children()} <= before
