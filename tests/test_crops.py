"""Crops against plain ones: a patch at a time, cut from a picture that NumPy has mirrored and padded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import small_network

from densemtmd import Labelset
from densemtmd.datasets.crops import cut
from densemtmd.datasets.sample import Sample, as_input
from densemtmd.geometry import Geometry
from densemtmd.losses import selective_cross_entropy
from densemtmd.stack import geometry_of

GEOMETRIES = [Geometry(46, 4), Geometry(1, 1), Geometry(2, 1), Geometry(5, 2), Geometry(6, 4), Geometry(3, 7)]


def make_sample(height, width, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image, random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (height, width)), "picture")


def mirrored(sample):
    return Sample(sample.image[:, ::-1].copy(), sample.target[:, ::-1].copy(), sample.name)


def plain_patch(sample, row, column, where):
    """The patch around a pixel, which may lie outside, and its label; the third says whether the patch lies inside the picture."""
    margin = 200
    height, width = sample.target.shape
    padded = np.pad(sample.image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    top, left = row - where.patch // 2, column - where.patch // 2
    patch = padded[top + margin : top + margin + where.patch, left + margin : left + margin + where.patch]
    label = sample.target[row, column] if 0 <= row < height and 0 <= column < width else 255
    return patch, label, 0 <= top <= height - where.patch and 0 <= left <= width - where.patch


@given(
    where=st.sampled_from(GEOMETRIES),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    start=st.tuples(st.integers(-50, 60), st.integers(-50, 60)),
    outputs=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    flip=st.booleans(),
    valid=st.booleans(),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_equals_patches_cut_one_by_one(where, size, start, outputs, flip, valid):
    sample = make_sample(*size)
    image, target = cut(sample, *start, *outputs, where, flip=flip, valid=valid)
    assert image.dtype == target.dtype == np.uint8
    assert image.shape == (where.pixels(outputs[0]), where.pixels(outputs[1]), 3) and target.shape == outputs
    seen = mirrored(sample) if flip else sample
    for i, j in np.ndindex(*outputs):
        top, left = i * where.stride, j * where.stride
        patch, label, fits = plain_patch(seen, start[0] + top, start[1] + left, where)
        assert (image[top : top + where.patch, left : left + where.patch] == patch).all()
        assert target[i, j] == (255 if valid and not fits else label)


@pytest.mark.parametrize("where", GEOMETRIES)
@pytest.mark.parametrize("size", [(50, 61), (48, 46), (7, 9)])
@pytest.mark.parametrize("valid", [False, True])
def test_flip_cuts_from_the_mirrored_picture(where, size, valid):
    sample = make_sample(*size)
    for column in range(-5, size[1] + 2):
        flipped = cut(sample, 1, column, 3, 4, where, flip=True, valid=valid)
        expected = cut(mirrored(sample), 1, column, 3, 4, where, valid=valid)
        assert all((a == b).all() for a, b in zip(flipped, expected, strict=True))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("where", GEOMETRIES)
def test_a_planted_pixel_is_found_where_its_label_is(where, flip):
    """A white pixel, alone with its label, stands at the centre of the patch whose target is that label: 23 of 46."""
    for row, column in [(0, 0), (30, 40), (12, 41), (31, 0)]:
        sample = Sample(np.zeros((32, 42, 3), np.uint8), np.zeros((32, 42), np.uint8), "planted")
        sample.image[row, column], sample.target[row, column] = 255, 1
        across = 41 - column if flip else column
        image, target = cut(sample, row - where.stride, across - 2 * where.stride, 3, 4, where, flip=flip)
        assert np.argwhere(target == 1).tolist() == [[1, 2]]
        assert (image[where.stride + where.centre, 2 * where.stride + where.centre] == 255).all()
        alone, label = cut(sample, row, across, 1, 1, where, flip=flip)
        assert label.item() == 1 and (alone[where.centre, where.centre] == 255).all()


def test_grid_points_beyond_the_picture_are_void():
    sample = Sample(np.zeros((10, 9, 3), np.uint8), np.arange(90, dtype=np.uint8).reshape(10, 9), "numbered")
    _, target = cut(sample, -3, -6, 5, 4, Geometry(46, 4))
    assert target.tolist() == [
        [255, 255, 255, 255],
        [255, 255, 11, 15],
        [255, 255, 47, 51],
        [255, 255, 83, 87],
        [255, 255, 255, 255],
    ]


def test_valid_leaves_the_pixels_whose_patch_fits():
    """An even patch reaches a pixel further up and left of its centre than down and right."""
    sample = Sample(np.zeros((8, 7, 3), np.uint8), np.zeros((8, 7), np.uint8), "blank")
    _, target = cut(sample, 0, 0, 8, 7, Geometry(6, 1), valid=True)
    assert np.argwhere(target == 0).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4], [5, 3], [5, 4]]
    _, target = cut(sample, 0, 0, 8, 7, Geometry(9, 1), valid=True)
    assert (target == 255).all()


def test_one_pixel_is_a_picture():
    sample = Sample(np.array([[[10, 20, 30]]], np.uint8), np.array([[3]], np.uint8), "dot")
    for flip in (False, True):
        image, target = cut(sample, -4, -8, 2, 3, Geometry(46, 4), flip=flip)
        assert (image == [10, 20, 30]).all() and image.shape == (50, 54, 3)
        assert target.tolist() == [[255, 255, 255], [255, 255, 3]]


# ------------------------------------------------------------------------------------------------------------------------------------
# What a network makes of them


def batched(images):
    return as_input(torch.from_numpy(images).permute(0, 3, 1, 2)).double()


@pytest.mark.parametrize(("start", "flip", "valid"), [((-3, 48), False, False), ((-3, 48), True, False), ((20, 20), True, True)])
def test_a_strided_pass_is_training_on_single_patches(start, flip, valid):
    """A crop, and each of its labelled pixels as a patch of its own: the same answers, the same loss, the same gradients.

    So what is learned from crops is what the paper learns from minibatches of patches (section 4.1).
    """
    network = small_network(Labelset("a", ["x", "y", "z", "w"]), Labelset("b", ["u", "v", "t", "s", "r"])).double()
    where = geometry_of(network)
    assert where == Geometry(46, 4)
    sample = make_sample(61, 70)
    crop, target = cut(sample, *start, 4, 5, where, flip=flip, valid=valid)
    places = [(start[0] + 4 * i, start[1] + 4 * j) for i in range(4) for j in range(5)]
    patches, labels = map(np.stack, zip(*(cut(sample, *place, 1, 1, where, flip=flip, valid=valid) for place in places), strict=True))
    assert (labels.reshape(4, 5) == target).all()
    labelled = labels.flatten() != 255
    assert 6 <= labelled.sum() < 20

    def answers(images, targets):
        logits = network(batched(images))
        loss = selective_cross_entropy(logits, torch.from_numpy(targets), torch.ones(len(targets)), network.space)
        return logits, loss, torch.autograd.grad(loss, list(network.parameters()))

    strided, strided_loss, strided_gradients = answers(crop[None], target[None])
    alone, alone_loss, alone_gradients = answers(patches[labelled], labels[labelled])
    torch.testing.assert_close(strided[0].flatten(1).T[torch.from_numpy(labelled)], alone[..., 0, 0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(strided_loss, alone_loss, rtol=1e-11, atol=1e-11)
    for one, other in zip(strided_gradients, alone_gradients, strict=True):
        assert (other != 0).any()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
