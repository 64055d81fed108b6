"""The predictor against a loop over pixels: each pixel's patch cut from a picture that NumPy has padded, one answer each."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from toy import MODEL, small_network

from densemtmd import Labelset, OutputSpace, Predictor, checkpoint, densify, fast, inference
from densemtmd.backbones.patchnet import PatchNet
from densemtmd.datasets.sample import as_input
from densemtmd.errors import UserError
from densemtmd.fast import fast_form
from densemtmd.geometry import Geometry
from densemtmd.inference import checkpoints_of, dense_logits, pieces, seen_for, strided_logits
from densemtmd.merging import Merged

KUNDU = Labelset("kundu", ["sky", "road", "car", "tree"])
XU = Labelset("xu", ["sky", "ground", "movable"])
HE = Labelset("he", ["sky", "road"])
SIZES = [(17, 23), (1, 1), (3, 200), (60, 2)]


def picture(height, width, seed=0):
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), np.uint8)


def plain_logits(network, image):
    """(H, W, 3) -> (C, H, W), one patch of 46×46 pixels after the other, each about its pixel (23, 23)."""
    padded = np.pad(image, ((23, 22), (23, 22), (0, 0)), mode="reflect")
    patches = np.stack([padded[y : y + 46, x : x + 46] for y, x in np.ndindex(image.shape[:2])])
    with torch.inference_mode():
        logits = network(torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255)
    return logits[..., 0, 0].T.reshape(-1, *image.shape[:2])


def assert_same_labels(labels, logits):
    """The labels are the largest logits, but where two are equal up to rounding."""
    largest, expected = logits.max(0)
    chosen = logits.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    assert labels.dtype == np.uint8 and labels.shape == tuple(expected.shape)
    assert (largest - chosen).max() < 1e-4 and (labels != expected.numpy()).mean() < 0.01


@pytest.fixture(scope="module")
def network():
    return small_network(KUNDU, XU)


@pytest.fixture(scope="module")
def expected(network):
    """Size -> the logits of a picture of that size, pixel by pixel."""
    logits = {size: plain_logits(network, picture(*size)) for size in SIZES}
    assert len(torch.cat([v[:4].argmax(0).flatten() for v in logits.values()]).unique()) > 1
    return logits


# ------------------------------------------------------------------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize("tile", [None, (1, 7), (5, 8), (1000, 1000)])
@pytest.mark.parametrize("size", SIZES)
def test_labels_are_those_of_each_pixels_own_patch(network, expected, size, tile, monkeypatch):
    """Of any picture, however small, and in however many tiles."""
    if tile:
        monkeypatch.setitem(inference.TILE, "cpu", tile)
    predictor, image, logits = Predictor([network]), picture(*size), expected[size]
    strips = list(dict.fromkeys((rows.start, rows.stop) for _, rows, _, _ in predictor.logits(image, ["xu"])))
    assert strips[0][0] == 0 and strips[-1][1] == size[0] and all(a[1] == b[0] for a, b in itertools.pairwise(strips))
    assert max(last - first for first, last in strips) <= (tile or inference.TILE["cpu"])[0]
    assert_same_labels(predictor(image, labelset="kundu"), logits[:4])
    assert_same_labels(predictor(image, labelset="xu"), logits[4:])
    probabilities = predictor.probabilities(image, labelset="kundu")
    assert probabilities.dtype == np.float32 and probabilities.shape == (4, *size)
    np.testing.assert_allclose(probabilities, logits[:4].softmax(0).numpy(), atol=1e-5)


def test_probabilities_sum_to_1_and_agree_with_the_labels(network):
    predictor, image = Predictor([network]), picture(40, 33)
    for labelset, task in (("kundu", KUNDU), ("xu", XU)):
        labels, probabilities = predictor(image, labelset=labelset), predictor.probabilities(image, labelset=labelset)
        assert probabilities.shape == (task.channels, 40, 33) and (probabilities >= 0).all()
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
        chosen = np.take_along_axis(probabilities, labels[None].astype(int), 0)[0]
        assert (chosen >= probabilities.max(0) - 1e-6).all()
        assert (predictor.all(image)[labelset] == labels).all()
    assert list(predictor.all(image)) == ["kundu", "xu"] and list(predictor.all(image, ["xu"])) == ["xu"]


def test_a_view_of_a_picture_is_a_picture(network):
    predictor, image = Predictor([network]), picture(30, 50)
    view = image[::2, ::-1]
    assert not view.flags.c_contiguous
    assert (predictor(view, "xu") == predictor(view.copy(), "xu")).all()
    image.flags.writeable = False
    before = image.copy()
    predictor(image, "xu")
    assert (image == before).all()


def test_the_strided_pass_answers_every_fourth_pixel(network, expected):
    cpu = torch.device("cpu")
    for size in SIZES:
        with torch.inference_mode():
            logits = strided_logits(network, picture(*size), cpu)
        torch.testing.assert_close(logits, expected[size][:, ::4, ::4], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tile", [(1, 7), (8, 20), (13, 1000)])
def test_the_strided_pass_in_tiles_is_that_in_one(network, tile, monkeypatch):
    image, cpu = picture(50, 71), torch.device("cpu")
    with torch.inference_mode():
        whole = strided_logits(network, image, cpu)
        monkeypatch.setitem(inference.TILE, "cpu", tile)
        torch.testing.assert_close(strided_logits(network, image, cpu), whole, atol=1e-5, rtol=1e-5)


def test_a_wide_picture_is_answered_in_lower_strips(network, monkeypatch):
    """So that the logits of a strip take no more memory."""
    monkeypatch.setitem(inference.TILE, "cpu", (32, 16))
    heights = {}
    for width in (8, 32, 90):
        heights[width] = max(rows.stop - rows.start for _, rows, _, _ in Predictor([network]).logits(picture(64, width), ["xu"]))
    assert heights == {8: 32, 32: 32, 90: 16}


def whole(parts, image):
    """The logits of a picture from those of its parts, of one network."""
    answer = None
    for rows, columns, (logits,) in parts:
        answer = logits.new_full((len(logits), *image.shape[:2]), torch.nan) if answer is None else answer
        answer[:, rows, columns] = logits
    return answer


def test_pieces_are_whole_tiles_of_the_transformed_convolution(monkeypatch):
    """Of which all but the last row and column are then full, whatever the picture's size."""
    torch.manual_seed(0)
    net, cpu = PatchNet(OutputSpace([KUNDU, XU]), widths=(8, 16, 16), hidden=4).eval(), torch.device("cpu")
    monkeypatch.setitem(inference.TILE, "cpu", (170, 100))
    asked = []
    monkeypatch.setattr(inference, "seen_for", lambda image, *where: asked.append(where[:2]) or seen_for(image, *where))
    with torch.inference_mode():
        image = picture(250, 130)
        fast, plain = (whole(dense_logits([form(net)], image, cpu), image) for form in (fast_form, densify))
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    assert [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in asked[:4]] == [
        (0, 160, 0, 80), (0, 160, 80, 130), (160, 250, 0, 80), (160, 250, 80, 130)
    ]  # fmt: skip


def test_threads_label_tiles_side_by_side(network):
    """With two threads the answers are the same, and so is the number of threads behind it."""
    image = picture(30, 120)
    predictor = Predictor([network])

    def logits():
        return whole(((rows, columns, [part]) for _, rows, columns, part in predictor.logits(image, ["xu"])), image)

    with torch.inference_mode():
        expected = logits()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            found = logits()
        (_, first, *_), *_ = parts = list(predictor.logits(image, ["xu"]))
        assert torch.get_num_threads() == 2 and len(parts) > 1 and {rows.start for _, rows, *_ in parts} == {first.start}
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert parts[0][-1].is_inference()


def test_bordered_is_the_reflected_picture():
    where, image = Geometry(46, 4), picture(11, 7)
    whole = np.pad(image, ((23, 22), (23, 22), (0, 0)), mode="reflect")
    for rows, columns in itertools.product((slice(0, 11), slice(0, 1), slice(3, 8), slice(10, 11)), (slice(0, 7), slice(2, 3))):
        seen, inside = seen_for(image, rows, columns, where, torch.device("cpu"))
        assert inside == (slice(None), slice(None))
        expected = whole[rows.start : rows.stop + 45, columns.start : columns.stop + 45]
        assert seen.shape == (1, 3, *expected.shape[:2]) and seen.dtype == torch.float32
        assert (255 * seen[0].permute(1, 2, 0)).round().numpy().astype(np.uint8).tolist() == expected.tolist()


@pytest.mark.parametrize(("size", "at_most"), [(1, 64), (64, 64), (65, 64), (1000, 128)])
def test_pieces_cover_a_side_and_are_about_equal(size, at_most):
    parts = pieces(size, at_most)
    lengths = [part.stop - part.start for part in parts]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(size))
    assert max(lengths) <= at_most and max(lengths) - min(lengths) <= 1
    parts = pieces(size, at_most, 4)  # that begin where the strided grid has points
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(size)) and all(p.start % 4 == 0 for p in parts)


def test_a_mirrored_network_gives_a_mirrored_answer(network):
    """All kernels mirrored, and the centre too: in mirrored patches the answer is about column 46 - 1 - 23 = 22."""
    mirrored = copy.deepcopy(network)
    for module in mirrored.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.flip(3)
    image = picture(21, 34)
    padded = np.pad(image[:, ::-1], ((23, 22), (22, 23), (0, 0)), mode="reflect")
    with torch.inference_mode():
        logits = densify(mirrored)(as_input(torch.from_numpy(padded.copy()).permute(2, 0, 1)[None]))[0]
    assert logits.shape[1:] == (21, 34)
    predictor = Predictor([network])
    assert_same_labels(predictor(image, "kundu")[:, ::-1].copy(), logits[:4])
    assert_same_labels(predictor(image, "xu")[:, ::-1].copy(), logits[4:])
    np.testing.assert_allclose(predictor.probabilities(image, "xu")[:, :, ::-1], logits[4:].softmax(0).numpy(), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------------------------------
# Where networks come from


def save(path, network):
    checkpoint.save_network(path, network, MODEL)


def test_from_a_file_and_from_a_runs_folder(tmp_path, network):
    save(tmp_path / "run" / "best.safetensors", network)
    save(tmp_path / "run" / "last.safetensors", small_network(KUNDU, XU, seed=5))
    image = picture(19, 26)
    answer = Predictor([network]).all(image)
    for path in (tmp_path / "run" / "best.safetensors", tmp_path / "run", str(tmp_path / "run")):
        predictor = Predictor.load(path, device="cpu")
        assert predictor.space.names == ("kundu", "xu") and predictor.device == torch.device("cpu")
        assert all((predictor(image, labelset=name) == answer[name]).all() for name in answer)


def test_from_the_folder_of_a_run_with_a_network_per_dataset(tmp_path, monkeypatch):
    """Each labelset is answered by its own network, and no other network runs for it."""
    networks = {"he": small_network(HE, seed=1), "kundu": small_network(KUNDU, seed=2), "xu": small_network(XU, seed=3)}
    for name, network in networks.items():
        save(tmp_path / name / "best.safetensors", network)
        save(tmp_path / name / "last.safetensors", small_network(HE, seed=9))
    (tmp_path / "figures").mkdir()
    assert checkpoints_of(tmp_path) == [tmp_path / name / "best.safetensors" for name in networks]
    predictor, image = Predictor.load(tmp_path), picture(20, 31)
    assert predictor.space == OutputSpace([HE, KUNDU, XU])
    together = predictor.all(image)
    ran = []
    original = inference.dense_logits
    names = {id(one): network.space.names for network in predictor.networks if (one := predictor.labeller(network))}
    monkeypatch.setattr(inference, "dense_logits", lambda them, *rest: ran.append(names.get(id(them[0]))) or original(them, *rest))
    for name, network in networks.items():
        del ran[:]
        assert (predictor(image, labelset=name) == together[name]).all()
        probabilities = predictor.probabilities(image, labelset=name)
        assert ran == [(name,), (name,)]
        alone = Predictor([network])
        assert (together[name] == alone(image, labelset=name)).all()
        assert (probabilities == alone.probabilities(image, labelset=name)).all()
    del ran[:]
    predictor.all(image)
    assert len(ran) == 3
    assert (predictor.all(image, ["xu", "he"])["he"] == together["he"]).all() and ran[3:] == [("he",), ("xu",)]


def test_networks_that_would_cut_other_strips_are_merged_on_the_same_rows(monkeypatch):
    """The large convolution of one of them is transformed, in tiles that reach over 80 pixels."""
    monkeypatch.setattr(fast, "_wins", lambda *_: True)
    predictor = Predictor([small_network(HE), PatchNet(OutputSpace([XU]), widths=(4, 16, 16), hidden=8).eval()], "cpu")
    image, merged = picture(300, 12), Merged(Labelset("m", ["sky", "ground", "rest"]), {"he": (0, -1), "xu": (0, 1, -1)}, 2)
    rows = [list({rows.start: rows for _, rows, _, _ in predictor.logits(image, [name])}.values()) for name in ("he", "xu")]
    assert rows[0] == [slice(0, 150), slice(150, 300)] and rows[1] == [slice(0, 160), slice(160, 300)]
    expected = merged.fuse({name: torch.from_numpy(predictor.probabilities(image, name)) for name in ("he", "xu")}).argmax(0).numpy()
    assert (predictor.merged(image, merged) != expected).mean() < 0.001 and len(np.unique(expected)) > 1


def test_nothing_to_load(tmp_path, network):
    (tmp_path / "run" / "figures").mkdir(parents=True)
    with pytest.raises(UserError, match=r"folder .*run holds no best\.safetensors"):
        Predictor.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"no checkpoint .*gone\.safetensors"):
        Predictor.load(tmp_path / "gone.safetensors")
    (tmp_path / "run" / "best.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"run/best\.safetensors is not a checkpoint"):
        Predictor.load(tmp_path / "run")
    with pytest.raises(UserError, match="called kundu"):
        Predictor([network, small_network(KUNDU)])
    save(tmp_path / "good.safetensors", network)
    with pytest.raises(UserError, match="'gpu' cannot be used here"):
        Predictor.load(tmp_path / "good.safetensors", device="gpu")


def test_a_network_in_training_mode_is_put_in_eval_mode(network):
    image = picture(9, 12)
    trained = copy.deepcopy(network).train()
    assert (Predictor([trained])(image, "xu") == Predictor([network])(image, "xu")).all()


# ------------------------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize("method", ["__call__", "probabilities"])
def test_an_unknown_labelset(network, method):
    with pytest.raises(UserError, match=r"unknown labelset 'kudnu'; known: kundu, xu; did you mean 'kundu'\?"):
        getattr(Predictor([network]), method)(picture(5, 6), labelset="kudnu")


@pytest.mark.parametrize(
    "image",
    [
        picture(5, 6).astype(np.float32) / 255,
        picture(5, 6).astype(np.int64),
        picture(5, 6)[..., 0],
        picture(5, 6)[..., [0, 1, 2, 0]],
        picture(5, 6).transpose(2, 0, 1),
        picture(5, 6)[None],
        np.zeros((0, 6, 3), np.uint8),
        np.zeros(6, np.uint8),
    ],
)
def test_what_is_not_a_picture(network, image):
    predictor = Predictor([network])
    for answer in (predictor.all, lambda x: predictor(x, labelset="xu"), lambda x: predictor.probabilities(x, labelset="xu")):
        with pytest.raises(UserError, match=r"expected a picture of shape \(H, W, 3\) and type uint8, got \("):
            answer(image)


def test_what_is_not_even_an_array(network):
    predictor = Predictor([network])
    image = picture(5, 6)
    for thing, kind in ((image.tolist(), "list"), (torch.from_numpy(image), "Tensor"), ("picture.png", "str"), (None, "NoneType")):
        for answer in (predictor.all, lambda x: predictor.probabilities(x, labelset="xu")):
            with pytest.raises(UserError, match=rf"expected a picture .* got a {kind}"):
                answer(thing)


def test_the_likeliest_label_is_that_of_argmax():
    """And of equal ones the first, whatever the layout in memory."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (7, 30, 41), generator=random).float()  # many are equal
    truth = np.argmax(logits.numpy(), 0)
    for one in (logits, logits.permute(1, 2, 0).contiguous().permute(2, 0, 1), logits.double(), logits - 100):
        ids = inference.likeliest(one)
        assert ids.dtype == torch.uint8 and (ids.numpy() == truth).all()
    assert inference.likeliest(logits[:1]).sum() == 0
