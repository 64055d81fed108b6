"""Crops at another size, in another light, blurred: labels go with their pixels, and nothing is made up."""

import numpy as np
import pytest
import torch

from densemtmd.datasets.augment import Augment, check_scale
from densemtmd.datasets.sample import Batch
from densemtmd.errors import UserError


def batch_of(image, target):
    """A batch of (B, H, W, 3) uint8 pictures."""
    number = torch.zeros(len(image), dtype=torch.int64)
    return Batch(torch.from_numpy(image).permute(0, 3, 1, 2), torch.from_numpy(target), number, number, torch.ones(len(image)))


def blocks(number=32, side=64):
    """Pictures of blocks of 8 pixels, red where their label is 1, green where it is 2, black where it is void."""
    ids = np.random.default_rng(0).choice([1, 2, 255], (number, side // 8, side // 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    return np.stack([ids == 1, ids == 2, np.zeros_like(ids, bool)], -1).astype(np.uint8) * 255, ids


def drawn(augment, batch, seed=0):
    torch.manual_seed(seed)
    return augment(batch)


def test_labels_go_with_their_pixels():
    image, target = blocks()
    found = drawn(Augment((32, 32), (0.5, 2.0), 0.0, 0.0), batch_of(image, target))
    assert found.image.shape == (32, 3, 32, 32) and found.target.shape == (32, 32, 32) and found.target.dtype == torch.uint8
    assert set(found.target.unique().tolist()) == {1, 2, 255}  # void stays void, and no label comes of two
    shown = torch.tensor([255, 1, 2])[torch.cat([1 - found.image[:, :2].sum(1, keepdim=True), found.image[:, :2]], 1).argmax(1)]
    clear = (found.image > 0.75).any(1) | (found.image < 0.25).all(1)  # not on the border of two blocks
    assert clear.float().mean() > 0.6 and (shown == found.target)[clear].float().mean() > 0.995


def test_sizes_are_those_asked_for():
    """Ramps along both sides: their slope says how much larger a picture has become, the same along both."""
    side = 96
    ramp = np.arange(side, dtype=np.uint8) * 2
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(0)), -1)[None].repeat(200, 0)
    found = drawn(Augment((48, 48), (0.5, 2.0), 0.0, 0.0), batch_of(image, np.zeros((200, side, side), np.uint8))).image * 255 / 2
    rows = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) / 47  # pixels of the picture from one to the next
    columns = (found[:, 1, 0, -1] - found[:, 1, 0, 0]) / 47
    assert (rows - columns).abs().max() < 0.05
    assert 0.45 < rows.min() < 0.8 and 1.8 < rows.max() < 2.05
    assert found[:, 0, 0, 0].std() > 5 and found[:, 1, 0, 0].std() > 5  # from anywhere


def test_another_light_is_a_light():
    grey = np.full((40, 8, 8, 3), 120, np.uint8)
    found = drawn(Augment((8, 8), (1.0, 1.0), 0.4, 0.0), batch_of(grey, np.zeros((40, 8, 8), np.uint8)))
    factor = found.image / (120 / 255)
    assert (factor.amax((1, 2, 3)) - factor.amin((1, 2, 3))).max() < 1e-4  # grey stays grey, and flat
    assert 0.59 < factor.min() < 0.75 and 1.25 < factor.max() < 1.41
    bright = drawn(Augment((8, 8), (1.0, 1.0), 0.9, 0.0), batch_of(np.full((40, 8, 8, 3), 250, np.uint8), np.zeros((40, 8, 8), np.uint8)))
    assert bright.image.max() == 1


def test_blur_takes_what_is_fine_and_leaves_the_mean():
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    batch = batch_of(noise, np.zeros((60, 32, 32), np.uint8))
    found = drawn(Augment((32, 32), (1.0, 1.0), 0.0, 0.5), batch)
    plain, blurred = batch.image.float() / 255, found.image
    same = (plain - blurred).abs().amax((1, 2, 3)) < 1e-6
    assert 0.25 < same.float().mean() < 0.75 and found.target is batch.target
    assert (blurred[~same].std((2, 3)) <= plain[~same].std((2, 3)) + 1e-4).all()
    assert (plain.mean((1, 2, 3)) - blurred.mean((1, 2, 3))).abs().max() < 0.02


def test_a_step_draws_the_same_again():
    image, target = blocks(4)
    augment = Augment((32, 32), (0.5, 1.5), 0.3, 0.5)
    one, again, other = (drawn(augment, batch_of(image, target), seed) for seed in (3, 3, 4))
    assert torch.equal(one.image, again.image) and torch.equal(one.target, again.target) and not torch.equal(one.image, other.image)


@pytest.mark.parametrize("scale", [[2.0, 0.5], [1.2, 2.0], [0.5], [0.0, 1.0], ["a", 1], 1.0, [1.0, float("nan")], None])
def test_mistakes_are_sentences(scale):
    with pytest.raises(UserError, match=r"train\.scale is"):
        check_scale(scale)
