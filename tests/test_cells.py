"""Batches of cells: what is drawn, how often, and what is asked of it, against counting by hand."""

import numpy as np
import pytest
import torch
from toy import refused

from densemtmd.datasets.cells import CellMixture, Cells
from densemtmd.datasets.maps import Maps
from densemtmd.datasets.mixing import Source
from densemtmd.datasets.sample import Sample

GRID = 4
SIZES = {"a": [(8, 12), (9, 5), (4, 4)], "b": [(10, 7), (16, 3)]}
LABELS = {"a": 3, "b": 5}


def made(rare=0.0, batch=64, mixing="pixels", seed=3, **more):
    """Two datasets whose maps tell the dataset, the picture, the row and the column of each cell."""
    random = np.random.default_rng(0)
    sources, maps = [], []
    for k, (name, sizes) in enumerate(SIZES.items()):
        samples, own = [], []
        for n, size in enumerate(sizes):
            target = random.integers(0, LABELS[name], size).astype(np.uint8)
            target[random.random(size) < 0.3] = 255
            target[:4, :4] = 255  # a cell of which nobody says anything
            if name == "a":
                target[target == 2] = 1
            samples.append(Sample(np.zeros((*size, 3), np.uint8), target, f"{name}{n}"))
            rows, columns = np.mgrid[: -(-size[0] // GRID), : -(-size[1] // GRID)]
            part = np.stack([np.full_like(rows, k), np.full_like(rows, n), rows, columns], -1).astype(np.float16)
            own.append(Maps([part], [1.0], rows.shape))
        samples[0].target[5, 6] = 2  # of dataset a the only one
        sources.append(Source(name, k, k, samples))
        maps.append(own)
    how = {"labels": [*LABELS.values()], "most_labels": 5, "batch": batch, "rare": rare, "mixing": mixing, "seed": seed, **more}
    return CellMixture(sources, maps, GRID, **how)


def blocks(mixture):
    """(dataset, picture, row, column) -> the shares of the labels of that cell, counted pixel by pixel."""
    found = {}
    for k, source in enumerate(mixture.sources):
        for n, sample in enumerate(source.samples):
            for row in range(0, sample.target.shape[0], GRID):
                for column in range(0, sample.target.shape[1], GRID):
                    block = sample.target[row : row + GRID, column : column + GRID]
                    found[k, n, row // GRID, column // GRID] = [float((block == label).sum()) / GRID**2 for label in range(5)]
    return found


def test_part_of_a_batch_is_drawn_as_in_the_whole_one():
    own = torch.tensor([0, 7, 63])
    for rare in (0.0, 0.5):
        batch, part = made(rare).batch(2), made(rare).batch(2, own)
        assert all(torch.equal(getattr(batch, name)[own], getattr(part, name)) for name in ("image", "target", "task", "domain", "weight"))


def test_a_cell_is_asked_for_the_shares_of_its_own_labels():
    mixture = made()
    truth = blocks(mixture)
    batch = mixture.batch(0)
    assert batch.image.shape == (64, 4, 1, 1) and batch.image.dtype == torch.float32 and batch.target.shape == (64, 5, 1, 1)
    seen = set()
    for image, target, task, domain in zip(batch.image, batch.target, batch.task, batch.domain, strict=True):
        cell = tuple(int(x) for x in image.flatten())
        assert target.flatten().tolist() == truth[cell] and sum(truth[cell]) > 0
        assert task == domain == cell[0]
        seen.add(cell)
    assert len(seen) > 10 and batch.labelled == 64
    assert seen <= {cell for cell, shares in truth.items() if any(shares)}


def test_every_step_has_its_own_seed():
    one, two = made(rare=0.5), made(rare=0.5)
    later = one.batch(7)
    for step in range(3):
        two.batch(step)
    again = two.batch(7)
    assert all(torch.equal(getattr(later, name), getattr(again, name)) for name in ("image", "target", "task", "domain", "weight"))
    assert not torch.equal(one.batch(8).image, later.image) and not torch.equal(made(rare=0.5, seed=4).batch(7).image, later.image)
    maps = [torch.cat(list(mixture.some_maps())) for mixture in (one, two)]
    assert torch.equal(*maps) and maps[0].shape == (20_000, 4, 1, 1)


@pytest.mark.parametrize("mixing, expected", [("pixels", None), ("uniform", 0.5), ("a:3+b:1", 0.75)])
def test_datasets_have_their_shares_of_the_labelled_pixels(mixing, expected):
    mixture = made(batch=20_000, mixing=mixing)
    pixels = [sum(int((sample.target != 255).sum()) for sample in source.samples) for source in mixture.sources]
    if expected is None:
        expected = pixels[0] / sum(pixels)
    batch = mixture.batch(0)
    of_each = [float(batch.target[batch.task == k].sum()) for k in range(2)]
    assert of_each[0] / sum(of_each) == pytest.approx(expected, abs=0.02)
    about = mixture.about()
    assert about["a"]["labelled_pixels"] == pixels[0] and about["b"]["pictures"] == 2 and about["b"]["weight"] == 1
    evened = made(batch=20_000, mixing=mixing, equilibrium=True).batch(0)
    of_each = [float((evened.target[evened.task == k].sum((1, 2, 3)) * evened.weight[evened.task == k]).sum()) for k in range(2)]
    assert of_each[0] == pytest.approx(of_each[1], rel=0.05)


def test_rare_labels_are_drawn_as_often_as_others():
    cells = Cells.of([np.array([[0] * 9 + [1]], np.uint8).repeat(2, 0), np.full((2, 4), 255, np.uint8)], 1, 3)
    assert cells.first.tolist() == [0, 20, 28] and len(cells.labelled) == 20 and cells.pixels == 20
    assert [list(own) for own in cells.with_label] == [[*range(9), *range(10, 19)], [9, 19]]
    random = np.random.default_rng(0)
    place, label = random.random((2, 10_000))
    rarely, evenly = (cells.draw(place, np.full(10_000, rare), label) for rare in (False, True))
    assert (rarely % 10 == 9).mean() == pytest.approx(0.1, abs=0.01) and (evenly % 10 == 9).mean() == pytest.approx(0.5, abs=0.02)
    of_two = [float((made(rare=rare, batch=10_000, mixing="a:1000+b:1").batch(0).target[:, 2] > 0).float().mean()) for rare in (0.0, 0.4)]
    of_label = made().cells[0].with_label  # three labels occur in a, the third in one cell, in which others are too
    labelwise = np.mean([(own == of_label[2][0]).sum() / len(own) for own in of_label])
    assert len(of_label[2]) == 1 and of_two[1] == pytest.approx(0.6 * of_two[0] + 0.4 * labelwise, abs=0.02)


def test_a_dataset_that_says_nothing_is_refused():
    sample = Sample(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8), "x")
    with refused("dataset 'mute' has no labelled pixel"):
        CellMixture(
            [Source("mute", 0, 0, [sample])], [[np.zeros((2, 2, 3), np.float16)]], GRID, labels=[2], most_labels=2, batch=4,
            mixing="pixels", seed=0,
        )  # fmt: skip
