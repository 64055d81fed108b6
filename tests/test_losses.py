"""The selective losses against plain ones: cross-entropy of the sliced logits, one sample at a time."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from densemtmd import KeypointSet, Labelset, OutputSpace
from densemtmd.errors import UserError
from densemtmd.losses import dataset_softmax, selective_cross_entropy, selective_dice, selective_focal, selective_l2, selective_shares


def make_space(sizes):
    return OutputSpace([Labelset(f"set{k}", [f"label{j}" for j in range(n)]) for k, n in enumerate(sizes)])


KITTI = make_space([8, 11, 12, 11, 11, 5, 10])


def make_batch(space, batch=6, height=5, width=4, void=0.3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(batch, space.channels, height, width, generator=generator, dtype=torch.float64)
    task = torch.randint(0, len(space), (batch,), generator=generator)
    sizes = torch.tensor([t.channels for t in space.tasks])[task].view(-1, 1, 1)
    target = (torch.rand(batch, height, width, generator=generator) * sizes).long()
    target[torch.rand(batch, height, width, generator=generator) < void] = 255
    return logits.to(dtype), target, task


def plain(logits, target, task, space, sample_weight=None, task_weight=None):
    """The loss as the paper writes it: a loop over samples, cross-entropy on the sliced logits."""
    total, labelled = logits.new_zeros(()), 0
    for b in range(len(logits)):
        own = space.slice(space.names[task[b]])
        weight = (1 if sample_weight is None else sample_weight[b]) * (1 if task_weight is None else task_weight[task[b]])
        total = total + weight * F.cross_entropy(logits[b : b + 1, own], target[b : b + 1], ignore_index=255, reduction="sum")
        labelled += int((target[b] != 255).sum())
    return total / max(labelled, 1)


def plain_in_parts(logits, target, task, space, of_sample, class_weight, sample_weight, task_weight):
    """The weighted sum over samples of a loss of the sliced logits and the class weights of their labels, over the labelled pixels."""
    total, labelled = logits.new_zeros(()), 0
    for b in range(len(logits)):
        own = space.slice(space.names[task[b]])
        known = target[b] != 255
        loss = of_sample(logits[b, own][:, known].T, target[b][known], class_weight[own])
        total = total + sample_weight[b] * task_weight[task[b]] * loss.sum()
        labelled += int(known.sum())
    return total / max(labelled, 1)


def focal(gamma):
    def of_sample(logits, target, weight):
        p = logits.softmax(1)[torch.arange(len(target)), target]
        return -weight[target] * (1 - p) ** gamma * p.log()

    return of_sample


def smoothed(share):
    return lambda logits, target, weight: F.cross_entropy(logits, target, weight, reduction="none", label_smoothing=share)


def plain_dice(logits, target, task, space, class_weight, sample_weight, task_weight, smooth=1.0):
    """A loop over labelsets and their labels, each a soft Dice of all the pixels that its annotator labelled."""
    losses = []
    for k, name in enumerate(space.names):
        pixels = [b for b in range(len(task)) if task[b] == k]
        if not pixels or not any((target[b] != 255).any() for b in pixels):
            continue
        known = [target[b] != 255 for b in pixels]
        weights = torch.cat([sample_weight[b].expand(int(m.sum())) for b, m in zip(pixels, known, strict=True)])
        p = torch.cat([logits[b, space.slice(name)][:, m].T.softmax(1) for b, m in zip(pixels, known, strict=True)])
        truth = torch.cat([target[b][m] for b, m in zip(pixels, known, strict=True)])
        for label in range(p.shape[1]):
            t = (truth == label).double()
            if not t.any():
                continue
            dice = (2 * (weights * p[:, label] * t).sum() + smooth) / ((weights * (p[:, label] + t)).sum() + smooth)
            losses.append((1 - dice) * weights.mean() * task_weight[k] * class_weight[space.slice(name)][label])
    return sum(losses) / len(losses) if losses else logits.sum() * 0


LOSSES = {
    "class weights": (selective_cross_entropy, smoothed(0.0)),
    "smoothing": (lambda *a, **k: selective_cross_entropy(*a, **k, smoothing=0.1), smoothed(0.1)),
    "focal": (selective_focal, focal(2.0)),
    "focal of 1.5": (lambda *a, **k: selective_focal(*a, **k, gamma=1.5), focal(1.5)),
    "focal of 0": (lambda *a, **k: selective_focal(*a, **k, gamma=0.0), smoothed(0.0)),
    "dice": (selective_dice, None),
}


@pytest.mark.parametrize("name", LOSSES)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 2**31), st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=12, deadline=None)
def test_the_other_losses_equal_plain_ones_of_the_sliced_logits(name, sizes, seed, void):
    space = make_space(sizes)
    logits, target, task = make_batch(space, seed=seed, void=void)
    drawn = torch.rand(6 + len(space) + space.channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    weights = {"sample_weight": drawn[:6], "task_weight": drawn[6 : 6 + len(space)], "class_weight": drawn[6 + len(space) :]}
    logits.requires_grad_()
    loss_of, of_sample = LOSSES[name]
    loss = loss_of(logits, target, task, space, **weights)
    expected = (
        plain_dice(logits, target, task, space, **weights)
        if of_sample is None
        else plain_in_parts(logits, target, task, space, of_sample, **weights)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (gradient,), (expected_gradient,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_other_losses_leave_other_labelsets_alone(name, dtype):
    logits, target, task = make_batch(KITTI, dtype=dtype)
    logits.requires_grad_()
    LOSSES[name][0](logits, target, task, KITTI).backward()
    outside = KITTI.tables(logits.device).owner[None] != task[:, None]
    assert logits.grad is not None and logits.grad.isfinite().all() and (logits.grad[outside] == 0).all()
    assert (logits.grad.masked_fill(outside[..., None, None], 0).abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_other_losses_of_nothing_and_of_certainty(name):
    logits, target, task = make_batch(KITTI)
    logits.requires_grad_()
    nothing = LOSSES[name][0](logits, torch.full_like(target, 255), task, KITTI)
    assert nothing == 0 and (torch.autograd.grad(nothing, logits)[0] == 0).all()
    certain = (1e4 * logits).detach().float().requires_grad_()  # right or wrong, without a doubt
    loss = LOSSES[name][0](certain, target, task, KITTI)
    assert loss.isfinite() and torch.autograd.grad(loss, certain)[0].isfinite().all()
    with pytest.raises(UserError, match="expected target"):
        LOSSES[name][0](logits, target[:, 1:], task, KITTI)
    with pytest.raises(UserError, match="class id that its labelset does not have"):
        LOSSES[name][0](logits, torch.full_like(target, 100), task, KITTI)


def test_class_weights_and_gammas_that_mean_nothing_are_refused():
    logits, target, task = make_batch(KITTI)
    with pytest.raises(UserError, match="one class weight for each of the 68 labels"):
        selective_cross_entropy(logits, target, task, KITTI, class_weight=torch.ones(5))
    with pytest.raises(UserError, match=r"a gamma of 0\.5"):
        selective_focal(logits, target, task, KITTI, gamma=0.5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 2**31), st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=12, deadline=None)
def test_shares_are_the_mean_over_the_pixels_of_a_cell(smoothing, sizes, seed, void):
    space = make_space(sizes)
    _, target, task = make_batch(space, height=8, width=12, seed=seed, void=void)
    generator = torch.Generator().manual_seed(seed)
    cells = 3 * torch.randn(6, space.channels, 2, 3, dtype=torch.float64, generator=generator)
    cells.requires_grad_()
    length = max(t.channels for t in space.tasks)
    counted = F.one_hot(target.where(target != 255, length), length + 1)[..., :length].double()
    shares = counted.view(6, 2, 4, 3, 4, length).mean((2, 4)).permute(0, 3, 1, 2)
    drawn = torch.rand(6 + len(space) + space.channels, generator=generator, dtype=torch.float64)
    weights = {"sample_weight": drawn[:6], "task_weight": drawn[6 : 6 + len(space)], "class_weight": drawn[6 + len(space) :]}
    loss = selective_shares(cells, shares, task, space, **weights, smoothing=smoothing)
    pixels = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = selective_cross_entropy(pixels, target, task, space, **weights, smoothing=smoothing)
    if void == 1:
        assert loss == 0
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (gradient,), (expected_gradient,) = torch.autograd.grad(loss, cells), torch.autograd.grad(expected, cells)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)
    owner = space.tables(cells.device).owner
    assert (gradient[owner[None] != task[:, None]] == 0).all()
    with pytest.raises(UserError, match="expected shares of shape"):
        selective_shares(cells, shares[:, :, 1:], task, space)


@given(st.lists(st.integers(2, 13), min_size=1, max_size=7), st.integers(0, 2**31), st.sampled_from([0.0, 0.4, 1.0]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_equals_cross_entropy_on_the_sliced_logits(sizes, seed, void, weighted):
    space = make_space(sizes)
    logits, target, task = make_batch(space, seed=seed, void=void)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(6 + len(space), generator=generator, dtype=torch.float64)
    weights = {"sample_weight": drawn[:6], "task_weight": drawn[6:]} if weighted else {}
    logits.requires_grad_()
    loss, expected = selective_cross_entropy(logits, target, task, space, **weights), plain(logits, target, task, space, **weights)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (gradient,), (expected_gradient,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_gradient_outside_the_labelset_is_exactly_zero(dtype):
    """The remark after Eq. 2."""
    logits, target, task = make_batch(KITTI, dtype=dtype)
    logits.requires_grad_()
    selective_cross_entropy(logits, target, task, KITTI).backward()
    owner = KITTI.tables(logits.device).owner
    outside = owner[None] != task[:, None]
    assert logits.grad is not None and (logits.grad[outside] == 0).all()
    inside = logits.grad.masked_fill(outside[..., None, None], 0)
    assert (inside.abs().sum((1, 2, 3)) > 0).all()


def test_gradcheck():
    logits, target, task = make_batch(make_space([2, 4, 3]), batch=3, height=2, width=2)
    logits.requires_grad_()
    space = make_space([2, 4, 3])
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: selective_cross_entropy(x, target, task, space, weights, weights), (logits,))
    assert torch.autograd.gradcheck(lambda x: dataset_softmax(x, space), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_low_precision_and_large_logits_stay_finite(dtype, size):
    logits, target, task = make_batch(KITTI)
    low = (size * logits).clamp(-6e4, 6e4).to(dtype).requires_grad_()
    loss = selective_cross_entropy(low, target, task, KITTI)
    expected = plain(low.detach().double(), target, task, KITTI)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert low.grad is not None and low.grad.dtype == dtype and low.grad.isfinite().all()
    soft = dataset_softmax(low, KITTI)
    assert soft.dtype == dtype and soft.isfinite().all()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    for name in KITTI.names:
        torch.testing.assert_close(soft[:, KITTI.slice(name)].double().sum(1), torch.ones(6, 5, 4).double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_labelled_gives_zero_and_zero_gradients(dtype):
    logits, target, task = make_batch(KITTI, dtype=dtype)
    logits.requires_grad_()
    loss = selective_cross_entropy(logits, torch.full_like(target, 255), task, KITTI)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and (logits.grad == 0).all()


def test_a_wholly_void_sample_changes_nothing():
    logits, target, task = make_batch(KITTI)
    target[2] = 255
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(
        selective_cross_entropy(logits, target, task, KITTI), selective_cross_entropy(logits[kept], target[kept], task[kept], KITTI)
    )


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_permuting_labels_permutes_the_answer(seed):
    generator = torch.Generator().manual_seed(seed)
    space = make_space([4, 6, 3])
    logits, target, task = make_batch(space, seed=seed)
    permutations = [torch.randperm(t.channels, generator=generator) for t in space.tasks]
    channels = torch.cat([p + space.slice(t.name).start for p, t in zip(permutations, space.tasks, strict=True)])
    renamed = target.clone()
    for b in range(len(target)):
        labelled = target[b] != 255
        renamed[b][labelled] = permutations[task[b]].argsort()[target[b][labelled]]
    torch.testing.assert_close(
        selective_cross_entropy(logits[:, channels], renamed, task, space), selective_cross_entropy(logits, target, task, space)
    )
    torch.testing.assert_close(dataset_softmax(logits[:, channels], space), dataset_softmax(logits, space)[:, channels])


@given(st.lists(st.integers(2, 13), min_size=1, max_size=7), st.integers(0, 2**31), st.sampled_from([(), (3,), (2, 3), (2, 1, 2)]))
@settings(max_examples=40, deadline=None)
def test_dataset_softmax_is_a_softmax_per_labelset(sizes, seed, shape):
    space = make_space(sizes)
    logits = 20 * torch.randn(2, space.channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.cat([logits[:, space.slice(name)].softmax(1) for name in space.names], 1)
    torch.testing.assert_close(dataset_softmax(logits, space), expected, rtol=1e-12, atol=1e-15)


def test_small_integers_will_do_as_targets():
    logits, target, task = make_batch(KITTI)
    assert selective_cross_entropy(logits, target.to(torch.uint8), task.int(), KITTI) == selective_cross_entropy(
        logits, target, task, KITTI
    )


def test_mistakes_are_sentences():
    logits, target, task = make_batch(KITTI, void=0)
    with pytest.raises(UserError, match=r"expected outputs of shape \(B, 68"):
        selective_cross_entropy(logits[:, :67], target, task, KITTI)
    with pytest.raises(UserError, match="expected target"):
        selective_cross_entropy(logits, target[:, 1:], task, KITTI)
    target[0, 0, 0] = KITTI.tasks[task[0]].channels  # the label of another labelset's channel, without the check
    with pytest.raises(UserError, match="class id that its labelset does not have"):
        selective_cross_entropy(logits, target, task, KITTI)


def test_selective_l2_is_the_mean_over_a_samples_own_coordinates():
    space = OutputSpace([KeypointSet("a", ["p", "q"]), KeypointSet("b", ["r"])])
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 9, 1, 1, dtype=torch.float64, generator=generator, requires_grad=True)
    target, task = torch.randn(4, 6, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 1, 0])
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[task == 1, 3:] = False  # padding
    mask[0, 2] = False  # one coordinate not annotated
    mask[2] = False  # a sample without any
    loss = selective_l2(outputs, target, mask, task, space, task_weight=torch.tensor([1.0, 3.0]))
    own = outputs.flatten(1)
    first = (own[0, :6] - target[0])[[0, 1, 3, 4, 5]].square().mean()
    expected = (first + 3 * (own[1, 6:] - target[1, :3]).square().mean() + (own[3, :6] - target[3]).square().mean()) / 3
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, outputs)
    owner = space.tables(outputs.device).owner
    assert (gradient.flatten(1)[owner[None] != task[:, None]] == 0).all() and (gradient[2] == 0).all()
    target[2] = torch.nan  # what is not annotated may be anything
    assert selective_l2(outputs, target, mask, task, space).isfinite()
    nothing = selective_l2(outputs, target, torch.zeros_like(mask), task, space)
    assert nothing == 0 and (torch.autograd.grad(nothing, outputs)[0] == 0).all()


def test_a_space_that_was_used_at_inference_can_be_trained_with():
    space = OutputSpace([Labelset("a", ["x", "y"]), Labelset("b", ["x", "y", "z"])])
    with torch.inference_mode():
        dataset_softmax(torch.zeros(1, 5, 1, 1), space)
    logits = torch.zeros(1, 5, 1, 1, requires_grad=True)
    dataset_softmax(logits, space).square().sum().backward()
    assert logits.grad is not None
