"""What a mixture draws: pictures whose pixels say where they stand tell exactly which pixels were asked for."""

import threading

import numpy as np
import pytest
import torch

from densemtmd.datasets.mixing import Mixture, Source, made_ahead, shares
from densemtmd.datasets.sample import Sample
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry

PATCHNET = Geometry(46, 4)
SMALL = Geometry(6, 4)


def position_sample(height, width, number=0, labels=5):
    """A picture whose pixel at (row, column) is (row, column, number); its label follows from all three."""
    image = np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width), number), -1).astype(np.uint8)
    return Sample(image, label_of(image, labels), f"picture{number}")


def label_of(pixel, labels=5):
    return (pixel.astype(int) @ [3, 1, 2] % labels).astype(np.uint8)


def make_mixture(sources, where=SMALL, **settings):
    defaults = {"crop": 12, "batch": 16, "flip": False, "border": "reflect", "mixing": "pixels", "seed": 0}
    return Mixture(sources, where, **{**defaults, **settings})


def batches_are_parts(whole, other, own=(1, 4, 5)):
    """Of a batch the samples at some positions are those of the whole batch."""
    positions = torch.tensor(own)
    batch, part = whole.batch(3), other.batch(3, positions)
    assert batches_equal(batch.some(positions), part) and len(part.task) == len(own) < len(batch.task)


@pytest.mark.parametrize("settings", [{"flip": True}, {"crop": 1}, {"rare": 0.5, "flip": True}])
def test_part_of_a_batch_is_drawn_as_in_the_whole_one(settings):
    batches_are_parts(*(make_mixture(two_sources(), **settings) for _ in range(2)))


def one_source(*samples):
    return [Source("one", 0, 0, samples)]


def asked_for(mixture, steps):
    """What the pictures say of every labelled output of some batches: (row, column, picture) each, and the labels."""
    where = mixture.geometry
    pixels, labels = [], []
    for step in steps:
        batch = mixture.batch(step)
        grid = batch.image[:, :, where.centre :: where.stride, where.centre :: where.stride].permute(0, 2, 3, 1).int().numpy()
        target = batch.target.numpy()
        grid = grid[:, : target.shape[1], : target.shape[2]]
        pixels.append(grid[target != 255])
        labels.append(target[target != 255])
    return np.concatenate(pixels), np.concatenate(labels)


def counts_of(pixels, height, width):
    return np.bincount(pixels[:, 0] * width + pixels[:, 1], minlength=height * width).reshape(height, width)


def assert_shares(counts, expected):
    """Counts of independent draws lie within 5 standard deviations of the expected ones."""
    total, expected = counts.sum(), np.asarray(expected, float)
    assert (np.abs(counts - total * expected) <= 5 * np.sqrt(total * expected * (1 - expected)) + 1e-9).all(), (counts, total * expected)


# ------------------------------------------------------------------------------------------------------------------------------------
# A step's own random numbers


def two_sources():
    return [
        Source("a", 0, 1, [position_sample(40, 30, 0), position_sample(20, 50, 1)]),
        Source("b", 2, 0, [position_sample(33, 61, 2)]),
    ]


def batches_equal(one, other):
    return all(getattr(one, name).equal(getattr(other, name)) for name in ("image", "target", "task", "domain"))


@pytest.mark.parametrize("crop", [1, 12])
def test_a_step_is_the_same_whatever_was_drawn_before(crop):
    fresh, used = (make_mixture(two_sources(), crop=crop, flip=True, seed=7) for _ in range(2))
    for step in (9, 0, 3, 1):
        used.batch(step)
    for step in (0, 9, 1000):
        assert batches_equal(fresh.batch(step), used.batch(step))
    assert not batches_equal(fresh.batch(0), fresh.batch(1))
    assert not batches_equal(fresh.batch(0), make_mixture(two_sources(), crop=crop, flip=True, seed=8).batch(0))


def test_a_batch_says_whose_each_crop_is():
    mixture = make_mixture(two_sources(), batch=64, flip=True)
    batch = mixture.batch(0)
    assert batch.image.shape == (64, 3, 14, 14) and batch.target.shape == (64, 3, 3)
    picture = batch.image[:, 2, 0, 0]
    owners = set(zip(picture.tolist(), batch.task.tolist(), batch.domain.tolist(), strict=True))
    assert owners == {(0, 0, 1), (1, 0, 1), (2, 2, 0)}
    assert batch.image.dtype == batch.target.dtype == torch.uint8 and batch.task.dtype == batch.domain.dtype == torch.int64


# ------------------------------------------------------------------------------------------------------------------------------------
# Shares


@pytest.mark.parametrize("crop", [1, 12, 0])
def test_datasets_are_mixed_by_their_pixels_or_evenly(crop):
    """What is shared out are labelled outputs: of a dataset that is partly void more crops are cut."""
    sources = two_sources()
    sources[1].samples[0].target[::3] = 255
    labelled = np.array([40 * 30 + 20 * 50, 22 * 61])
    for mixing, expected in (("pixels", labelled / labelled.sum()), ("uniform", [0.5, 0.5])):
        mixture = make_mixture(sources, mixing=mixing, crop=crop, batch=100)
        counts = np.zeros(3)
        for step in range(20):
            batch = mixture.batch(step)
            np.add.at(counts, batch.task.numpy(), (batch.target != 255).flatten(1).sum(1).numpy())
        assert counts[[0, 2]] / counts.sum() == pytest.approx(expected, abs=0.05), mixing
    assert shares([1, 3], "pixels").tolist() == [0.25, 0.75] and shares([1, 3, 9], "uniform").tolist() == [1 / 3] * 3


def test_pictures_of_a_dataset_are_drawn_by_their_area():
    pixels, _ = asked_for(make_mixture(one_source(position_sample(60, 60, 0), position_sample(30, 40, 1)), crop=8, batch=100), range(40))
    assert_shares(np.bincount(pixels[::4, 2]), [0.75, 0.25])  # 4 outputs a crop


def test_half_of_the_crops_are_mirrored():
    mixture = make_mixture(one_source(position_sample(40, 40)), flip=True, batch=100)
    columns = np.concatenate([mixture.batch(step).image[:, 1, 6, 5:7].numpy().astype(int) for step in range(20)])
    ahead = columns[:, 1] - columns[:, 0]
    assert_shares(np.array([(ahead > 0).sum(), (ahead < 0).sum()]), [0.5, 0.5])
    assert (make_mixture(one_source(position_sample(40, 40))).batch(0).image[:, 1, 6, 5:7].diff() == 1).all()


# ------------------------------------------------------------------------------------------------------------------------------------
# Which pixels are asked for


@pytest.mark.parametrize("border", ["reflect", "valid"])
@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (1, False), (1, True), (8, False), (12, True), (20, False)])
@pytest.mark.parametrize("size", [(12, 7), (10, 18)])
def test_every_pixel_that_may_be_asked_for_is_asked_for_with_its_own_label(size, crop, flip, border):
    """All phases of the grid, the first and the last row and column; with border=valid those, and only those, whose patch fits."""
    pixels, labels = asked_for(make_mixture(one_source(position_sample(*size)), crop=crop, flip=flip, border=border, batch=600), range(2))
    assert (labels == label_of(pixels)).all()
    seen = counts_of(pixels, *size) > 0
    may = np.ones(size, bool)
    if border == "valid":
        before, after = SMALL.border
        may[:before], may[size[0] - after :] = False, False
        may[:, : min(before, after) if flip else before] = False  # an even patch fits at another column when it is mirrored
        may[:, size[1] - (min(before, after) if flip else after) :] = False
    assert (seen == may).all(), f"missing {np.argwhere(may & ~seen).tolist()}, unasked-for {np.argwhere(seen & ~may).tolist()}"


@pytest.mark.parametrize("border", ["reflect", "valid"])
@pytest.mark.parametrize(("size", "crop"), [((60, 64), 48), ((60, 64), 0), ((49, 46), 0), ((90, 52), 16)])
def test_all_phases_of_the_grid_occur(size, crop, border):
    """No start of PatchNet's grid is rare, however well the crop fits into the picture."""
    mixture = make_mixture(one_source(position_sample(*size)), PATCHNET, crop=crop, border=border, batch=50)
    first, spare = (23, 45) if border == "valid" else (0, 0)
    pixels, _ = asked_for(mixture, range(12))
    phases = np.zeros((4, 4), int)
    np.add.at(phases, ((pixels[:, 0] - first) % 4, (pixels[:, 1] - first) % 4), 1)
    possible = phases[: size[0] - spare, : size[1] - spare]  # (49, 46) leaves four rows and one column of pixels whose patch fits
    assert possible.sum() == phases.sum() and (possible > 0.3 * possible.mean()).all(), phases


def test_the_last_pixel_is_as_likely_as_the_first():
    for crop in (1, 12, 0):
        counts = counts_of(asked_for(make_mixture(one_source(position_sample(29, 31)), crop=crop, batch=500), range(3))[0], 29, 31)
        for ends in (counts[[0, -1]].sum(1), counts[:, [0, -1]].sum(0)):
            assert_shares(ends, [0.5, 0.5])


def test_the_patch_lies_inside_the_picture_with_border_valid():
    """Where a patch fits, nothing is reflected: along both sides its pixels' positions rise, or fall where it is mirrored, by one."""
    mixture = make_mixture(one_source(position_sample(50, 70)), PATCHNET, crop=1, flip=True, border="valid", batch=200)
    batch = mixture.batch(0)
    assert batch.image.shape == (200, 3, 46, 46) and (batch.target != 255).all()
    rows, columns = batch.image[:, 0].int(), batch.image[:, 1].int()
    assert (rows.diff(dim=1) == 1).all() and (columns.diff(dim=2).abs() == 1).all()
    assert set(rows[:, 0, 0].tolist()) == set(range(5)) and set(columns.amin((1, 2)).tolist()) == set(range(25))


def test_pictures_of_differing_sizes_are_taken_whole():
    """crop=0: the batch is as large as the largest picture; what lies beyond a smaller one is void."""
    samples = [position_sample(17, 41, 0), position_sample(29, 9, 1), position_sample(1, 1, 2), position_sample(3, 22, 3)]
    mixture = make_mixture(one_source(*samples), crop=0, flip=True, batch=600)
    batch = mixture.batch(0)
    assert batch.target.shape == (600, 8, 11) and batch.image.shape == (600, 3, SMALL.pixels(8), SMALL.pixels(11))
    numbers = batch.image[:, 2, 0, 0]
    for number, sample in enumerate(samples):
        height, width = sample.target.shape
        labelled = (batch.target[numbers == number] != 255).sum((1, 2))
        assert (labelled <= -(-height // 4) * -(-width // 4)).all() and (labelled >= (height // 4) * (width // 4)).all()
    pixels, labels = asked_for(mixture, range(6))
    assert (labels == label_of(pixels)).all()
    for number in (0, 1, 3):
        assert (counts_of(pixels[pixels[:, 2] == number], *samples[number].target.shape) > 0).all()


@pytest.mark.parametrize("border", ["reflect", "valid"])
def test_single_patches_are_always_labelled_and_every_label_is_as_likely(border):
    """crop=1 samples the labelled pixels alone, each as likely as any other, be they ever so few (section 4.1)."""
    random = np.random.default_rng(0)
    samples = [position_sample(50, 60, n) for n in range(4)]
    for n, sample in enumerate(samples):
        sample.target[random.random((50, 60)) < [0.98, 0.999, 1.0, 0.9][n]] = 255
    samples[1].target[25, 30] = 3
    may = np.array([sample.target != 255 for sample in samples])
    if border == "valid":
        may[:, :3], may[:, 48:], may[:, :, :3], may[:, :, 58:] = False, False, False, False
    mixture = make_mixture(one_source(*samples), crop=1, border=border, batch=500)
    assert all((mixture.batch(step).target != 255).all() for step in range(3))
    pixels, labels = asked_for(mixture, range(10))
    assert len(labels) == 10 * 500
    counts = np.zeros((4, 50, 60), int)
    np.add.at(counts, (pixels[:, 2], pixels[:, 0], pixels[:, 1]), 1)
    assert (counts[~may] == 0).all()
    assert_shares(counts[may], np.full(may.sum(), 1 / may.sum()))


def test_one_labelled_pixel_among_many_is_found():
    sparse = Sample(np.zeros((300, 400, 3), np.uint8), np.full((300, 400), 255, np.uint8), "sparse")
    sparse.target[299, 0] = 1
    empty = Sample(sparse.image, np.full((300, 400), 255, np.uint8), "empty")
    mixture = make_mixture(one_source(empty, sparse, empty), PATCHNET, crop=1, flip=True, batch=64)
    assert (mixture.batch(0).target == 1).all()


def test_a_dot_is_a_picture():
    """Pictures smaller than a stride: a single patch is on them, a crop shows them wherever its grid meets them."""
    dots = one_source(position_sample(1, 1, 0), position_sample(2, 3, 1))
    assert (make_mixture(dots, crop=1, batch=300).batch(0).target != 255).all()
    for crop in (0, 1, 12):
        pixels, labels = asked_for(make_mixture(dots, crop=crop, flip=True, batch=300), range(3))
        assert len({tuple(p) for p in pixels.tolist()}) == 7 and (labels == label_of(pixels)).all()


# ------------------------------------------------------------------------------------------------------------------------------------
# Rare labels


@pytest.mark.parametrize(
    ("where", "crop", "border"), [(SMALL, 1, "reflect"), (SMALL, 1, "valid"), (SMALL, 12, "valid"), (Geometry(1, 1), 9, "reflect")]
)
def test_a_rare_label_is_drawn_as_often_as_any(where, crop, border):
    """Of 20 pictures one has a few pixels of a second label; of all crops that are laid around a label half show it, mirrored or not."""
    samples = [Sample(np.zeros((30, 40, 3), np.uint8), np.full((30, 40), 2 * (n < 19), np.uint8), str(n)) for n in range(20)]
    samples[7].target[11:14, 5:9] = 1
    samples[7].target[0, 0] = 255
    for rare, least, most in ((1.0, 0.28, 0.38), (0.0, 0.0, 0.02)):
        mixture = make_mixture([Source("one", 0, 0, samples)], where, crop=crop, border=border, flip=True, batch=600, rare=rare)
        shown = (mixture.batch(0).target == 1).any(-1).any(-1).float().mean()
        assert least <= shown <= most


# ------------------------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mixing": "pixel"}, ["train.mixing is 'pixel'", "did you mean 'pixels'"]),
        ({"border": "vaild"}, ["train.border is 'vaild'", "did you mean 'valid'"]),
        ({"border": "valid", "where": PATCHNET}, ["'picture1'", "'a'", "20 pixels", "patch of 46", "train.border=reflect"]),
        ({"crop": -1}, ["train.crop is -1", "at least 0"]),
        ({"batch": 0}, ["train.batch is 0", "at least 1"]),
        ({"scale": [2.0, 0.5]}, ["train.scale is [2.0, 0.5]", "[0.5,2]"]),
        ({"scale": [0.5, 2.0]}, ["train.scale is [0.5,2]", "every 4th pixel", "model=fpn"]),
        ({"seed": -3}, ["seed is -3", "at least 0"]),
    ],
)
def test_mistakes_are_sentences(settings, words):
    with pytest.raises(UserError) as error:
        make_mixture(two_sources(), **settings)
    for word in words:
        assert word in str(error.value)


def test_a_dataset_without_labels_is_refused():
    void = Sample(np.zeros((46, 46, 3), np.uint8), np.full((46, 46), 255, np.uint8), "void")
    for samples in ([void], []):
        with pytest.raises(UserError, match=r"dataset 'empty' has no .*: nothing can be learned"):
            make_mixture([*two_sources(), Source("empty", 1, 1, samples)])
    rim, middle = (Sample(void.image, void.target.copy(), name) for name in ("rim", "middle"))
    rim.target[22, 23], middle.target[23, 23] = 0, 0
    make_mixture(one_source(rim), PATCHNET)
    with pytest.raises(UserError, match="no labelled pixel whose patch lies inside the picture"):
        make_mixture(one_source(rim), PATCHNET, border="valid")
    assert (make_mixture(one_source(middle), PATCHNET, border="valid").batch(0).target == 0).all()
    with pytest.raises(UserError, match="inside the mirrored picture"):  # mirrored, an even patch is about the pixel beside it
        make_mixture(one_source(middle), PATCHNET, border="valid", flip=True)


# ------------------------------------------------------------------------------------------------------------------------------------
# Batches made ahead


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_made_ahead_is_in_order_and_no_thread_is_left():
    made = []

    def make(step):
        made.append((step, threading.current_thread() is threading.main_thread()))
        return step

    got = []
    for batch in made_ahead(make, 5):  # type: ignore[arg-type]
        got.append(batch)
        assert len(batch_threads()) == 1
        if batch == 30:
            break
    assert got == list(range(5, 31)) and not batch_threads()
    assert [step for step, _ in made] == list(range(5, 5 + len(made))) and len(made) <= 26 + 3
    assert not any(main for _, main in made)


def test_made_ahead_makes_the_next_one_meanwhile():
    started = threading.Event()

    def make(step):
        if step == 1:
            started.set()
        return step

    ahead = made_ahead(make, 0)  # type: ignore[arg-type]
    assert next(ahead) == 0 and started.wait(10)
    ahead.close()
    assert not batch_threads()


def test_made_ahead_raises_where_the_batch_was_due():
    def make(step):
        if step == 3:
            raise UserError("picture broken.png could not be read")
        return step

    got = []
    with pytest.raises(UserError, match=r"broken\.png"):
        for batch in made_ahead(make, 0):  # type: ignore[arg-type]
            got.append(batch)
    assert got == [0, 1, 2] and not batch_threads()


def test_made_ahead_ends_when_the_consumer_fails():
    with pytest.raises(ZeroDivisionError):
        for _ in made_ahead(lambda step: step, 0):  # type: ignore[arg-type,return-value]
            raise ZeroDivisionError
    assert not batch_threads()
