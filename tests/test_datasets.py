"""Datasets on disk: every format comes back, splits keep their promises, and every mistake gets a sentence."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat
from toy import keys, refused

from densemtmd.datasets.config import built_in_datasets, load_dataset_config
from densemtmd.datasets.expressions import search_all
from densemtmd.datasets.folder import Dataset, load_split, open_dataset
from densemtmd.datasets.labels import code_table, read_labels
from densemtmd.datasets.splits import blocks, divide, joined, partition
from densemtmd.errors import UserError
from densemtmd.tasks import VOID

KITTI = {"he": 8, "kundu": 11, "ladicky": 12, "ros": 11, "sengupta": 11, "xu": 5, "zhang": 10}

PLAIN: dict[str, Any] = {
    "name": "mine",
    "images": "images/*.png",
    "labels": "labels/*.png",
    "encoding": "index",
    "labelset": ["sky", "road", "car"],
    "void": [255],
}


def write_yaml(root: Path, **changes: Any) -> Path:
    """``PLAIN`` with changes (None: without the key), as a YAML."""
    content = {key: value for key, value in (PLAIN | changes).items() if value is not None}
    path = root / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_picture(path: Path, height: int = 2, width: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def write_index(path: Path, codes: Any = 0, height: int = 2, width: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.asarray(codes, dtype=np.uint8), (height, width)).copy()).save(path)


def write_pairs(root: Path, *names: str) -> None:
    """Pictures and labels of these names in the folder of ``PLAIN``."""
    for name in names:
        write_picture(root / "mine" / "images" / f"{name}.png")
        write_index(root / "mine" / "labels" / f"{name}.png")


def opened(root: Path, options: dict[str, Any] | None = None, **changes: Any) -> Dataset:
    return open_dataset(load_dataset_config(write_yaml(root, **changes)), root, **(options or {}))


# The YAML


def test_the_datasets_that_come_with_the_project():
    others = {"stanford": 8, "camvid": 11, "labelmefacade": 8, "siftflow": 33, "kitti_semantics": 19, "otherworld": 8, "cmp": 12}
    derived = {name for name in built_in_datasets() if name.startswith(("camvid_", "cmp_"))}  # see test_derived.py
    assert set(built_in_datasets()) - derived == KITTI.keys() | others.keys() | {"nyu", "icvl"}  # see test_hands.py
    for name, labels in (KITTI | others).items():
        config = load_dataset_config(name)
        assert config.name == config.labelset.name == name
        assert config.labelset.channels == labels == len(set(config.labelset.palette))
        assert config.domain == ("kitti" if name in KITTI or name == "kitti_semantics" else name)
        assert config.where


def test_the_seven_have_the_68_labels_of_the_paper():
    assert sum(load_dataset_config(name).labelset.channels for name in KITTI) == 68


def test_the_29_codes_of_xu():
    config = load_dataset_config("xu")
    assert sorted(itertools.chain(*config.codes.labels)) == list(range(1, 30)) and config.codes.void == (0,)
    assert [len(codes) for codes in config.codes.labels] == [1, 5, 3, 8, 12]


def test_cityscapes_codes_of_the_benchmark_are_all_known():
    config = load_dataset_config("kitti_semantics")
    assert sorted([*itertools.chain(*config.codes.labels), *config.codes.void]) == [*range(34), 255]


def test_defaults(tmp_path):
    config = load_dataset_config(write_yaml(tmp_path))
    assert (config.domain, config.folder) == ("mine", "mine")
    assert config.codes.labels == ((0,), (1,), (2,))
    assert len(set(config.labelset.palette)) == 3


def test_chosen_colours_avoid_the_given_ones(tmp_path):
    first = load_dataset_config(write_yaml(tmp_path)).labelset.palette
    labelset = ["sky", {"label": "road", "colour": list(first[0])}, "car"]
    palette = load_dataset_config(write_yaml(tmp_path, labelset=labelset)).labelset.palette
    assert palette[1] == first[0] and len(set(palette)) == 3


def test_a_labelset_can_be_shared(tmp_path):
    shared = load_dataset_config(write_yaml(tmp_path, labelset="xu", void=None))
    xu = load_dataset_config("xu")
    assert shared.name == "mine" and shared.labelset == xu.labelset and shared.codes == xu.codes
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(PLAIN | {"name": "other", "labelset": "mine.yaml"}))
    assert load_dataset_config(tmp_path / "other.yaml").labelset == shared.labelset
    own_void = load_dataset_config(write_yaml(tmp_path, labelset="xu", void=[0, 255]))
    assert own_void.labelset == xu.labelset and own_void.codes.void == (0, 255)
    with refused("mine.yaml", "lists its labels"):
        load_dataset_config(write_yaml(tmp_path, labelset="other.yaml"))


def label(**changes: Any) -> list[Any]:
    return [{"label": "sky", **changes}, "road"]


FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lables": "x"}, ["unknown key 'lables'", "did you mean 'labels'"]),
        ({"images": None}, ["no key 'images'"]),
        ({"name": 7}, ["name is 7"]),
        ({"images": []}, ["images is []"]),
        ({"images": "/abs/*.png"}, ["'/abs/*.png'", "'folder'"]),
        ({"labels": "../*.png"}, ["'../*.png'", "'folder'"]),
        ({"key": "("}, ["key is '('", "regular expression"]),
        ({"sequence": "["}, ["sequence is '['", "regular expression"]),
        ({"encoding": "color"}, ["unknown encoding 'color'", "did you mean 'colour'"]),
        ({"encoding": "mat"}, ["mat_key None"]),
        ({"mat_key": "S"}, ["encoding 'index'", "'S'"]),
        ({"labelset": {"sky": 0}}, ["labelset is", "list of labels"]),
        ({"labelset": ["sky"]}, ["mine.yaml", "1 label", "at least 2"]),
        ({"labelset": ["sky", "sky"]}, ["mine.yaml", "more than once"]),
        ({"labelset": ["sky", False]}, ["False", "expected keys"]),
        ({"labelset": label(color=[0, 0, 0])}, ["unknown key 'color'", "did you mean 'colour'"]),
        ({"labelset": label(colour=[0, 0])}, ["'sky' has [[0, 0]]", "[R, G, B]"]),
        ({"labelset": label(colour=[0, 0, 256])}, ["256", "0..255"]),
        ({"labelset": label(codes="zero")}, ["'sky' has 'zero'", "whole numbers"]),
        ({"labelset": label(codes=[True])}, ["'sky' has [True]", "whole numbers"]),
        ({"labelset": label(codes=[1])}, ["code 1", "'sky'", "'road'"]),
        ({"void": [1]}, ["code 1", "'road'", "'void'"]),
        ({"void": "rest", "labelset": label(codes="rest")}, ["void", "'sky'", "'rest'"]),
        ({"labelset": "kundo"}, ["unknown dataset 'kundo'", "did you mean 'kundu'"]),
        ({"encoding": "colour", "void": None}, ["'sky'", "neither colour nor codes"]),
        ({"encoding": "colour", "labelset": label(codes=[3])}, ["'sky' has [3]", "colours"]),
        ({"together": "a"}, ["together is 'a'"]),
        ({"split": "official"}, ["no split 'official'", "known: none"]),
        ({"splits": {"official": {"fractions": FRACTIONS}}, "split": "oficial"}, ["did you mean 'official'"]),
        ({"split": {}}, ["no key", "fractions, patterns, lists, folds"]),
        ({"split": {"fractions": {"train": 0.5}}}, ["sum of 1"]),
        ({"split": {"fractions": {"training": 1}}}, ["unknown key 'training'", "did you mean 'train'"]),
        ({"split": {"fractions": FRACTIONS, "sed": 1}}, ["unknown key 'sed'", "did you mean 'seed'"]),
        ({"split": {"fractions": FRACTIONS, "seed": "a"}}, ["seed of the split is 'a'"]),
        ({"split": {"patterns": {"train": "a"}}}, ["name train", "expected train and test"]),
        ({"split": {"lists": {"train": "a", "test": "b", "val": 7}}}, ["val of the split is 7"]),
        ({"split": {"folds": "fold.txt"}}, ["'fold.txt'", "{}"]),
        ({"split": {"folds": None, "count": 5, "test": 6}}, ["fold 6 of 5"]),
        ({"where": ["x"]}, ["where is ['x']"]),
    ],
)  # fmt: skip
def test_mistakes_in_the_yaml(tmp_path, changes, words):
    with refused(*words):
        load_dataset_config(write_yaml(tmp_path, **changes))


def test_unknown_dataset_and_unreadable_yaml(tmp_path):
    with refused("unknown dataset 'stanfrod'", "did you mean 'stanford'", "YAML"):
        load_dataset_config("stanfrod")
    with refused(tmp_path / "missing.yaml", "No such file"):
        load_dataset_config(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with refused("bad.yaml is not YAML", "line 2"):  # where it ends
        load_dataset_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- name")
    with refused("list.yaml", "expected keys"):
        load_dataset_config(tmp_path / "list.yaml")


# Labels: random class ids, written with random codes of their labels, come back

CODES = [[3], [1, 200], [7, 0], [9]]  # of four labels; 5 and 100 are void
COLOURS = [[[0, 0, 1], [1, 0, 0]], [[128, 64, 128]], [[255, 255, 255]], [[0, 1, 0]]]  # (0, 0, 0) is void


def labelset_with(codes: list[Any]) -> list[Any]:
    return [{"label": f"label{i}", "codes": own} for i, own in enumerate(codes)]


def random_ids(height: int = 23, width: int = 31) -> np.ndarray:
    ids = np.random.default_rng(1).integers(0, len(CODES) + 1, (height, width))
    return np.where(ids == len(CODES), VOID, ids).astype(np.uint8)


def written(ids: np.ndarray, codes: list[list[Any]], void: list[Any]) -> np.ndarray:
    """A random code of every pixel's label: (H, W), or (H, W, 3) for colours."""
    random = np.random.default_rng(2)
    chosen = [void if i == VOID else codes[i] for i in ids.flat]
    flat = np.array([own[random.integers(len(own))] for own in chosen])
    return flat.reshape(*ids.shape, *flat.shape[1:])


def read_back(tmp_path: Path, path: Path, **changes: Any) -> np.ndarray:
    four_labels = {"labelset": labelset_with(CODES), "void": [5, 100]}
    config = load_dataset_config(write_yaml(tmp_path, **(four_labels | changes)))
    ids = read_labels(path, config, code_table(config))
    assert ids.dtype == np.uint8
    return ids


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bit", "32 bit"])
def test_index_pictures(tmp_path, kind):
    ids = random_ids()
    codes = written(ids, CODES, [5, 100]).astype({"16 bit": np.uint16, "32 bit": np.int32}.get(kind, np.uint8))
    picture = Image.fromarray(codes)
    if kind == "palette":  # two indices have the same colour: only the index may count
        picture.putpalette([10, 20, 30] * 256)
    path = tmp_path / ("a.tiff" if kind == "32 bit" else "a.png")
    picture.save(path)
    np.testing.assert_array_equal(read_back(tmp_path, path), ids)


def test_16_bit_codes_above_255(tmp_path):
    Image.fromarray(np.array([[1000, 65535, 3]], dtype=np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_back(tmp_path, tmp_path / "a.png", labelset=labelset_with([[1000], [65535]]), void=[3]), [[0, 1, VOID]]
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_pictures(tmp_path, mode):
    ids = random_ids()
    rgb = written(ids, COLOURS, [[0, 0, 0]]).astype(np.uint8)
    picture = Image.fromarray(rgb)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, ids.shape, dtype=np.uint8)))
    picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else picture
    picture.save(tmp_path / "a.png")
    changes = {"encoding": "colour", "labelset": labelset_with(COLOURS), "void": [[0, 0, 0]]}
    np.testing.assert_array_equal(read_back(tmp_path, tmp_path / "a.png", **changes), ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float64])
@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files(tmp_path, dtype, compressed):
    ids = random_ids()
    matrices = {"names": ["a"], "S": written(ids, CODES, [5, 100]).astype(dtype)}
    savemat(tmp_path / "a.mat", matrices, do_compression=compressed)
    np.testing.assert_array_equal(read_back(tmp_path, tmp_path / "a.mat", encoding="mat", mat_key="S"), ids)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["", "\n\n"])
def test_text_files(tmp_path, newline, ending):
    ids = random_ids()
    codes = written(ids, CODES, [-1, -7])
    (tmp_path / "a.txt").write_bytes((newline.join(" ".join(map(str, row)) for row in codes) + ending).encode())
    np.testing.assert_array_equal(read_back(tmp_path, tmp_path / "a.txt", encoding="text", void="negative"), ids)
    np.testing.assert_array_equal(read_back(tmp_path, tmp_path / "a.txt", encoding="text", void=[-7, -1]), ids)


@pytest.mark.parametrize(
    ("labelset", "void", "expected"),
    [
        (labelset_with([[26], "rest"]), [255], [[0, 1, 1, VOID]]),   # the rest was looked at: it is other
        (labelset_with([[26], [7]]), "rest", [[0, 1, VOID, VOID]]),  # nobody looked at the rest
        (labelset_with([[26], [7, 24, 255]]), None, [[0, 1, 1, 1]]),
    ],
)
def test_rest_is_other_or_void(tmp_path, labelset, void, expected):
    write_index(tmp_path / "a.png", [[26, 7, 24, 255]], 1, 4)
    np.testing.assert_array_equal(read_back(tmp_path, tmp_path / "a.png", labelset=labelset, void=void), expected)


def test_rest_takes_codes_beyond_any_table(tmp_path):
    savemat(tmp_path / "a.mat", {"S": np.array([[0, 2**31 - 1, -(2**31), -1]], dtype=np.int64)})
    changes = {"encoding": "mat", "mat_key": "S", "labelset": labelset_with([[0], "rest"])}
    np.testing.assert_array_equal(read_back(tmp_path, tmp_path / "a.mat", **changes, void=None), [[0, 1, 1, 1]])
    np.testing.assert_array_equal(
        read_back(tmp_path, tmp_path / "a.mat", **changes, void="negative"), [[0, 1, VOID, VOID]]
    )


def test_unknown_codes(tmp_path):
    codes = np.zeros((4, 5), dtype=np.uint8)
    codes[0, :3], codes[1, 0] = 77, 50
    write_index(tmp_path / "a.png", codes, 4, 5)
    with refused("a.png has 4 pixels of the codes 77, 50", "mine.yaml", "or to void"):
        read_back(tmp_path, tmp_path / "a.png")
    write_index(tmp_path / "b.png", np.arange(10, 18), 1, 8)
    with refused("b.png has 8 pixels of the codes 10, 11, 12 and 5 more"):
        read_back(tmp_path, tmp_path / "b.png")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "c.png")
    with refused("c.png has 1 pixel of the colour (1, 2, 3),", "mine.yaml"):
        read_back(tmp_path, tmp_path / "c.png", encoding="colour", labelset=labelset_with(COLOURS), void=None)
    (tmp_path / "d.txt").write_text("1 -2")
    with refused("d.txt has 1 pixel of the code -2"):
        read_back(tmp_path, tmp_path / "d.txt", encoding="text")
    write_index(tmp_path / "e.jpg", 50)
    with refused("e.jpg", "JPEG changes values"):
        read_back(tmp_path, tmp_path / "e.jpg", known=["lossy"])


LOSSY = {
    "a.jpg": {}, "a jpeg.png": {"format": "JPEG"}, "a.webp": {}, "a.jp2": {"irreversible": True}, "a.tif": {"compression": "jpeg"},
}  # fmt: skip
LOSSLESS = {
    "b.png": {}, "b.webp": {"lossless": True}, "long.webp": {"lossless": True, "exif": b"Exif" + bytes(9000), "icc_profile": bytes(9000)},
    "b.jp2": {}, "b.tif": {}, "b lzw.tif": {"compression": "tiff_lzw"}, "b.bmp": {},
}  # fmt: skip


@pytest.mark.parametrize("name", [*LOSSY, *LOSSLESS])
@pytest.mark.parametrize("codes", ["rest", "listed"])
def test_labels_that_were_compressed_with_loss(tmp_path, name, codes):
    """Whatever the codes: with the rest, what the compression made of the square would silently be taken for the rest."""
    square = np.zeros((40, 40, 3), np.uint8)
    square[7:23, 9:21] = (200, 90, 30)
    Image.fromarray(square).save(tmp_path / name, **(LOSSY | LOSSLESS)[name])
    labelset = [{"label": "square", "colour": [200, 90, 30]}, {"label": "other", "codes": "rest" if codes == "rest" else [[0, 0, 0]]}]
    changes = {"encoding": "colour", "labelset": labelset, "void": None}
    if name in LOSSLESS:
        assert np.array_equal(read_back(tmp_path, tmp_path / name, **changes), np.where(square[..., 0] == 200, 0, 1))
        return
    with refused(name, "JPEG" if "jp" in name or "tif" in name else "WebP with loss", "save them as PNG", "mine.yaml"):
        read_back(tmp_path, tmp_path / name, **changes)
    if codes == "rest":  # what the sentence says to do about it where it is known
        assert 0.5 < (read_back(tmp_path, tmp_path / name, **changes, known=["lossy"]) == 1).mean() <= 1


@pytest.mark.parametrize("name", ["grey and alpha", "palette and alpha", "float", "bits"])
def test_masks_of_other_modes(tmp_path, name):
    """They were told to use the other encoding, which told them to use the first."""
    codes = np.array([[0, 1, 2], [2, 1, 0]], np.uint8) if name != "bits" else np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
    path = tmp_path / ("mask.tif" if name == "float" else "mask.png")
    if name == "float":
        Image.fromarray(codes.astype(np.float32)).save(path)
    elif name == "bits":
        Image.fromarray(codes.astype(bool)).save(path)
    else:
        grey = Image.fromarray(codes)
        mask = Image.merge("LA", (grey, Image.fromarray(np.array([[255, 0, 7], [1, 2, 3]], np.uint8))))
        mask.save(path)
        with Image.open(path) as saved:
            assert saved.mode == "LA"
    assert np.array_equal(read_back(tmp_path, path, labelset=["a", "b", "c"]), codes)
    labelset = [{"label": str(n), "colour": [n, n, n]} for n in ((0, 1, 2) if name != "bits" else (0, 255))]
    changes = {"encoding": "colour", "labelset": labelset, "void": None}
    if name == "float":
        with refused("mask.tif", "mode F", "write encoding: index, and which they are", "mine.yaml"):
            read_back(tmp_path, path, **changes)
    else:
        assert np.array_equal(read_back(tmp_path, path, **changes), codes)


def test_floats_that_are_no_codes(tmp_path):
    Image.fromarray(np.array([[0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    with refused("a.tif has the value 0.5, expected whole numbers"):
        read_back(tmp_path, tmp_path / "a.tif")
    Image.fromarray(np.array([[np.nan, 1]], np.float32)).save(tmp_path / "b.tif")
    with refused("b.tif has the value nan, expected whole numbers"):
        read_back(tmp_path, tmp_path / "b.tif")
    Image.new("CMYK", (2, 2)).save(tmp_path / "c.tif")
    with refused("c.tif", "mode CMYK", "save it as a grey PNG"):
        read_back(tmp_path, tmp_path / "c.tif")
    with refused("c.tif", "mode CMYK", "save it as a PNG in RGB"):
        read_back(tmp_path, tmp_path / "c.tif", encoding="colour", labelset=labelset_with(COLOURS), void=None)


def test_labels_of_another_format(tmp_path):
    write_picture(tmp_path / "rgb.png")
    with refused("rgb.png", "mode RGB", "encoding: colour", "mine.yaml"):
        read_back(tmp_path, tmp_path / "rgb.png")
    Image.fromarray(np.zeros((2, 3), dtype=np.uint16)).save(tmp_path / "deep.png")
    with refused("deep.png", "mode I;16", "encoding: index", "mine.yaml"):
        read_back(tmp_path, tmp_path / "deep.png", encoding="colour", labelset=labelset_with(COLOURS), void=None)
    (tmp_path / "text.mat").write_text("1 2 3\n4 5 6\n" * 20)
    with refused("text.mat", "cannot be read as .mat"):
        read_back(tmp_path, tmp_path / "text.mat", encoding="mat", mat_key="S")
    (tmp_path / "float.txt").write_text("0.5 1")
    with refused("float.txt", "'.'", "whole numbers"):
        read_back(tmp_path, tmp_path / "float.txt", encoding="text")


@pytest.mark.parametrize(
    ("matrices", "words"),
    [
        ({"truth": np.zeros((2, 3))}, ["no matrix 'S' but truth", "mat_key", "mine.yaml"]),
        ({"S": np.zeros((2, 3, 4))}, ["'S'", "(2, 3, 4)", "(H, W)"]),
        ({"S": "text"}, ["'S'", "whole numbers"]),
        ({"S": np.array([[0.5]])}, ["'S' has the value 0.5"]),
        ({"S": np.array([[np.nan]])}, ["'S' has the value nan"]),
        ({"S": np.array([[2**32]])}, ["'S' has the value 4294967296"]),
    ],
)
def test_mat_files_with_something_else(tmp_path, matrices, words):
    savemat(tmp_path / "a.mat", matrices)
    with refused("a.mat", *words):
        read_back(tmp_path, tmp_path / "a.mat", encoding="mat", mat_key="S")


def test_matlab_7_3(tmp_path):
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" * 50)
    with refused("a.mat", "MATLAB 7.3", "-v7"):
        read_back(tmp_path, tmp_path / "a.mat", encoding="mat", mat_key="S")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("a.png", {}),
        ("a.mat", {"encoding": "mat", "mat_key": "S"}),
        ("a.txt", {"encoding": "text"}),
    ],
)
@pytest.mark.parametrize("share", [0, 0.45, 0.9])  # a text that ends after a whole row is only betrayed by its size
def test_labels_that_are_cut_off_or_missing(tmp_path, name, changes, share):
    codes = written(random_ids(90, 70), CODES, [5])
    path = tmp_path / name
    if name == "a.png":
        Image.fromarray(codes.astype(np.uint8)).save(path)
    elif name == "a.mat":
        savemat(path, {"S": codes}, do_compression=True)
    else:
        np.savetxt(path, codes, fmt="%d")
    read_back(tmp_path, path, **changes)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refused(path):
        read_back(tmp_path, path, **changes)
    path.unlink()
    with refused(path, "cannot be read", "o such file"):
        read_back(tmp_path, path, **changes)


def test_ragged_text(tmp_path):
    (tmp_path / "a.txt").write_text("1 1 1\n1 1\n")
    with refused("a.txt has 5 numbers in 2 lines of up to 3"):
        read_back(tmp_path, tmp_path / "a.txt", encoding="text")
    (tmp_path / "b.txt").write_text("1 1 1\n1 1\n1 1 1 1\n")  # as many numbers as three lines of three
    with refused("b.txt has 9 numbers in 3 lines of up to 4"):
        read_back(tmp_path, tmp_path / "b.txt", encoding="text")


# Pictures find their labels


def test_open_and_load(tmp_path):
    write_pairs(tmp_path, "b", "a", "c", "d", "e", "f", "g", "h", "i", "j")
    write_index(tmp_path / "mine" / "labels" / "a.png", [[0, 1, 2], [255, 1, 0]])
    dataset = opened(tmp_path)
    assert sorted(itertools.chain(*keys(dataset).values())) == list("abcdefghij")
    assert all(names == sorted(names) for names in keys(dataset).values())
    assert Counter({split: len(items) for split, items in dataset.splits.items()}) == {"train": 6, "val": 1, "test": 3}
    item = next(item for items in dataset.splits.values() for item in items if item.key == "a")
    sample = dataset.load(item)
    assert sample.name == "a" and sample.image.shape == (2, 3, 3)
    np.testing.assert_array_equal(sample.target, [[0, 1, 2], [255, 1, 0]])
    assert [sample.name for sample in load_split(dataset, "train")] == keys(dataset)["train"]
    assert dataset.notes == () and (dataset.domain, dataset.name) == ("mine", "mine")


def test_the_data_root_may_be_the_folder_itself(tmp_path):
    write_pairs(tmp_path, "a", "b")
    everywhere = [
        open_dataset(load_dataset_config(write_yaml(tmp_path, folder=folder)), root).splits
        for root, folder in [
            (tmp_path, "mine"),
            (tmp_path / "mine", "mine"),
            (tmp_path / "mine", "."),
            (tmp_path, str(tmp_path / "mine")),
            (tmp_path / "elsewhere", str(tmp_path / "mine")),
        ]
    ]
    assert all(splits == everywhere[0] for splits in everywhere)


@pytest.mark.parametrize(
    ("images", "labels", "files", "expected"),
    [
        ("images/*.jpg", "labels/*.regions.txt", ["images/7.jpg", "labels/7.regions.txt"], "7"),
        ("*/rgb/*.png", "*/gt/*.png", ["d1/rgb/7.png", "d1/gt/7.png"], "d1/7"),
        ("left/**/*_left.png", "gt/**/*_gt.png", ["left/a/b/7_left.png", "gt/a/b/7_gt.png"], "a/b/7"),
        ("left/**/*_left.png", "gt/**/*_gt.png", ["left/7_left.png", "gt/7_gt.png"], "7"),
        ("images/*", "labels/*", ["images/7.5.jpg", "labels/7.5.png"], "7.5"),
        ("images/*", "labels/*", ["images/7", "labels/7.png"], "7"),
        (["a/*", "b/*"], ["aa/*.png", "bb/*.png"], ["b/7.jpg", "bb/7.png"], "7"),
        ("*.png", "*_gt.png", ["7.png", "7_gt.png"], "7"),
        ("i[0-9]/*.png", "l?/*.png", ["i1/7.png", "l1/7.png"], "1/7"),
        ("photo (*).jpg", "labels+*.png", ["photo (7).jpg", "labels+7.png"], "7"),
        ("one.jpg", "one.png", ["one.jpg", "one.png"], "one"),
    ],
)
def test_keys_from_globs(tmp_path, images, labels, files, expected):
    for file in files:
        (tmp_path / "mine" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / file).write_text("found, not read")
    (tmp_path / "mine" / Path(files[0]).parent / ".hidden.png").write_text("")
    dataset = opened(tmp_path, images=images, labels=labels, split={"fractions": {"train": 1}})
    (item,) = dataset.splits["train"]
    assert item.key == expected
    assert [item.image, item.labels] == [tmp_path / "mine" / file for file in files]


def test_keys_from_an_expression(tmp_path):
    write_picture(tmp_path / "mine" / "2011_drive5" / "img_000010.png")
    write_index(tmp_path / "mine" / "gt" / "5-10.png")
    changes = {"images": "*/img_*.png", "labels": "gt/*.png", "key": r"(\d+)(?:/img_0*|-)(\d+)\.png$"}
    dataset = opened(tmp_path, **changes, split={"fractions": {"train": 1}})
    assert keys(dataset)["train"] == ["5/10"]
    write_index(tmp_path / "mine" / "gt" / "odd.png")
    with refused("gt/odd.png does not match", "mine.yaml"):
        opened(tmp_path, **changes)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (r"^(.*?)[_-]?[a-z]*[0-9]+$", ["v1/street", "v2/street", None]),
        ("street|(v.)", ["v1", "v2", None]),
        ("[0-9]", ["1", "2", None]),
        ("(z*)", ["", "", ""]),
    ],
)
def test_expressions_find_the_same_in_a_process_of_their_own(expression, expected):
    texts = ["v1/street_07", "v2/street-img8", "é"]
    assert search_all(expression, texts, quick=False) == search_all(expression, texts, quick=True) == expected


@pytest.mark.parametrize(
    "changes",
    [{"key": "(a+)+$|[b-z]+$"}, {"sequence": "(a|aa)+$"}, {"images": "images/" + "*a" * 8 + "b*.png"}],
    ids=lambda changes: next(iter(changes)),
)
def test_expressions_that_find_no_end(tmp_path, monkeypatch, changes):
    """Before, each of them hung for ever."""
    monkeypatch.setattr("densemtmd.datasets.expressions.SECONDS", 0.7)
    write_pairs(tmp_path, "a" * 60 + "b" + "a" * 100)
    with refused("mine.yaml: ", f"{next(iter(changes))} is '", "takes too long to find in 1 names"):
        opened(tmp_path, **changes, split={"fractions": {"train": 1}})


def test_two_pictures_with_one_key(tmp_path):
    write_pairs(tmp_path, "a")
    write_picture(tmp_path / "mine" / "images" / "a.jpg")
    with refused("images/a.jpg", "images/a.png", "same key 'a'", "mine.yaml"):
        opened(tmp_path, images="images/*")


def test_labels_without_a_picture(tmp_path):
    write_pairs(tmp_path, "a", "b")
    for name in ("x", "y"):
        write_index(tmp_path / "mine" / "labels" / f"{name}.png")
    with refused("labels/x.png has no picture", "2 of 4", "'x'", "keys are like 'a'", "mine.yaml"):
        opened(tmp_path)


def test_pictures_without_labels_are_left_out(tmp_path):
    write_pairs(tmp_path, "a", "b", "c")
    write_picture(tmp_path / "mine" / "images" / "x.png")
    dataset = opened(tmp_path)
    assert dataset.notes == ()  # a check tells of them, once: see test_checks.py
    assert dataset.without_labels == (tmp_path / "mine" / "images" / "x.png",)
    assert "x" not in itertools.chain(*keys(dataset).values())


def test_a_dataset_that_is_not_there(tmp_path):
    with refused("mine was not found", tmp_path / "mine", "get the dataset from the shop"):
        opened(tmp_path, where="the shop")
    (tmp_path / "mine" / "Images").mkdir(parents=True)
    with refused("no file in", "labels/*.png", "Images", "get the dataset from the shop"):
        opened(tmp_path, where="the shop")
    write_index(tmp_path / "mine" / "labels" / "a.png")
    with refused("no file in", "images/*.png", "there are Images, labels"):
        opened(tmp_path)


def test_labels_of_another_size(tmp_path):
    write_pairs(tmp_path, "a", "b")
    write_index(tmp_path / "mine" / "labels" / "a.png", 0, 4, 5)
    with refused("labels/a.png has 5×4", "images/a.png has 3×2"):
        load_split(opened(tmp_path, split={"fractions": {"train": 1}}), "train")


def test_unknown_split(tmp_path):
    write_pairs(tmp_path, "a", "b")
    with refused("no split 'valid'", "did you mean 'val'"):
        load_split(opened(tmp_path), "valid")


# Splits


@st.composite
def sequences(draw: Any) -> dict[str, str]:
    """Keys with the sequences that they are frames of."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=14))
    return {f"{s:02}_{frame}": f"{s:02}" for s, size in enumerate(sizes) for frame in range(size)}


shares_of_three = st.sampled_from([(0.6, 0.1, 0.3), (0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.85, 0.15, 0), (1, 0, 0)])


@settings(max_examples=200)
@given(groups=sequences(), shares=shares_of_three, seed=st.integers(0, 3))
def test_divide(groups, shares, seed):
    parts = divide(groups, shares, seed)
    assert sorted(itertools.chain(*parts)) == sorted(groups)  # every key once
    assert parts == divide(dict(reversed(groups.items())), shares, seed)  # whatever the order in which files are found
    wanted = sum(share > 0 for share in shares)
    sizes = Counter(groups.values())
    if len(sizes) < wanted:
        assert list(itertools.chain(*parts)) == sorted(groups)  # contiguous blocks
        return
    assert not any(set(map(groups.get, a)) & set(map(groups.get, b)) for a, b in itertools.combinations(parts, 2))
    assert all(bool(part) == (share > 0) for part, share in zip(parts, shares, strict=True))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=7), seed=st.integers(0, 2))
def test_partition_is_near_the_best_one(sizes, seed):
    """Against all ways of dealing the groups: at most one largest group worse."""
    shares = np.array([0.6, 0.1, 0.3])
    targets = shares * sum(sizes)

    def error(part_of: Any) -> float:
        return np.abs(np.bincount(part_of, sizes, 3) - targets).max()

    ways = (way for way in itertools.product(range(3), repeat=len(sizes)) if len(set(way)) == 3)
    best = min(map(error, ways))
    names = {str(i): size for i, size in enumerate(sizes)}
    part_of = np.empty(len(sizes), dtype=int)
    for part, groups in enumerate(partition(names, tuple(shares), seed)):
        part_of[[int(group) for group in groups]] = part
    assert error(part_of) <= best + max(sizes) / 2 + 1e-9


def test_equal_sequences_are_divided_exactly():
    groups = {f"{s:04}_{frame:06}": f"{s:04}" for s in range(10) for frame in range(4)}
    assert [len(part) for part in divide(groups, (0.6, 0.1, 0.3), 0)] == [24, 4, 12]


def test_seeds_differ_and_stay():
    groups = {f"{i:02}": f"{i:02}" for i in range(20)}
    parts = {seed: divide(groups, (0.6, 0.1, 0.3), seed) for seed in range(5)}
    assert len({tuple(part[2]) for part in parts.values()}) == 5
    assert parts[0][1] == ["03", "11"]  # for ever: results depend on it


def test_blocks():
    assert blocks(list("abcdefghij"), (0.6, 0.1, 0.3)) == [list("abcdef"), ["g"], list("hij")]
    assert blocks(["a"], (0.85, 0.15)) == [["a"], []]


def test_joined_follows_chains():
    groups = joined({key: key for key in "abcde"}, [["b", "c"], ["d", "c"], ["e", "nobody"]])
    assert groups == {"a": "a", "b": "b", "c": "b", "d": "b", "e": "e"}


def test_fractions_by_sequence(tmp_path):
    write_pairs(tmp_path, *(f"{drive:04}_{frame:06}" for drive in range(10) for frame in range(3)))
    split = keys(opened(tmp_path, sequence=r"^(\d{4})_"))
    assert {part: len(names) for part, names in split.items()} == {"train": 18, "val": 3, "test": 9}
    drives = [{name[:4] for name in names} for names in split.values()]
    assert sum(map(len, drives)) == 10


def test_frames_of_one_drive_are_cut_into_blocks(tmp_path):
    names = [f"{frame:06}" for frame in range(10)]
    write_pairs(tmp_path, *names)
    for sequence in ("one", r"^(\d{4})_"):
        dataset = opened(tmp_path, sequence=sequence)
        assert list(keys(dataset).values()) == [names[:6], names[6:7], names[7:]]
        assert any("cut into 3 blocks" in note for note in dataset.notes)
        assert any("name no sequence" in note for note in dataset.notes) == (sequence != "one")


def test_pairs_stay_together(tmp_path):
    names = [f"{i:02}" for i in range(30)]
    write_pairs(tmp_path, *names)
    together = [[names[i], names[29 - i]] for i in range(10)]
    for seed in range(5):
        split = keys(opened(tmp_path, together=together, split={"fractions": FRACTIONS, "seed": seed}))
        assert {part: len(names) for part, names in split.items()} == {"train": 15, "val": 6, "test": 9}
        assert all(len({part for part, own in split.items() if set(pair) & set(own)}) == 1 for pair in together)


def test_patterns(tmp_path):
    write_pairs(tmp_path, "a1", "a2", "b1", "c1", "odd")
    split = {"patterns": {"train": "images/a*", "val": ["labels/b*"], "test": "*/c1.png"}}
    dataset = opened(tmp_path, split=split)
    assert keys(dataset) == {"train": ["a1", "a2"], "val": ["b1"], "test": ["c1"]}
    (note,) = dataset.notes
    assert "1 of 5 pictures are in no split" in note and "'odd'" in note
    with refused("'d*'", "test", "images/a1.png", "mine.yaml"):
        opened(tmp_path, split={"patterns": {"train": "images/a*", "test": "d*"}})
    with refused("'a2' is in train and in test"):
        opened(tmp_path, split={"patterns": {"train": "images/a*", "test": "*2.png"}})


def test_validation_by_share_takes_whole_sequences_of_the_training_side(tmp_path):
    frames = itertools.product(["trn", "tst"], range(7), range(4))
    write_pairs(tmp_path, *(f"{part}_{drive:04}_{frame}" for part, drive, frame in frames))
    split = {"patterns": {"train": "*trn*", "test": "*tst*", "val": 0.15}}
    parts = keys(opened(tmp_path, sequence=r"_(\d{4})_", split=split))
    assert {part: len(names) for part, names in parts.items()} == {"train": 24, "val": 4, "test": 28}
    assert all(name.startswith("trn") for name in parts["val"])
    assert len({name[:8] for name in parts["val"]}) == 1
    assert keys(opened(tmp_path, split={"patterns": {"train": "*trn*", "test": "*tst*"}}))["val"] == []


def test_lists(tmp_path):
    write_pairs(tmp_path, "a", "b.c", "d", "e")
    (tmp_path / "mine" / "train.txt").write_text("a\n\nb.c\r\n")
    (tmp_path / "val.txt").write_text("d.jpg\n")  # beside the YAML
    (tmp_path / "mine" / "test.txt").write_text("\ufeffe", encoding="utf-8")
    split = {"lists": {"train": "train.txt", "val": "val.txt", "test": "test.txt"}}
    assert keys(opened(tmp_path, split=split)) == {"train": ["a", "b.c"], "val": ["d"], "test": ["e"]}
    (tmp_path / "mine" / "train.txt").write_text("a\nb\ne")
    with refused("train.txt", "3 keys", "lacks 1", "'b'", "keys like 'a'"):
        opened(tmp_path, split=split)
    (tmp_path / "mine" / "train.txt").write_text("a\ne")
    with refused("'e' is in train and in test"):
        opened(tmp_path, split=split)
    (tmp_path / "mine" / "train.txt").write_text("")
    with refused("train.txt lists 0 keys"):
        opened(tmp_path, split=split)
    (tmp_path / "mine" / "train.txt").unlink()
    with refused("the list train.txt", tmp_path / "mine", "nor in"):
        opened(tmp_path, split=split)


LISTED_AS = {
    "keys": "{key}",
    "names": "{key}.png",
    "paths": "images/{key}.png",
    "paths of labels": "./labels/{key}.png",
    "backslashes": "images\\{key}.png",
    "paths without suffixes": "images/{key}",
    "paths with another suffix": "images/{key}.jpg",
    "the folder too": "mine/images/{key}.png",
    "where they once lay": "/home/somebody/data/images/{key}.png",
    "two columns": "images/{key}.png labels/{key}.png",
    "two columns that once lay elsewhere": "/SegNet/mine/images/{key}.png /SegNet/mine/labels/{key}.png",
    "two columns with a tab": "images/{key}.png\tlabels/{key}.png",
    "a table": '"images/{key}.png","labels/{key}.png"',
    "a table with a heading": "image,label\nimages/{key}.png,labels/{key}.png",
    "a table with numbers": "7;images/{key}.png;labels/{key}.png",
    "keys with flags": "{key} -1",
    "lines of Windows": "images\\{key}.png\r",
}


@pytest.mark.parametrize("line", LISTED_AS.values(), ids=LISTED_AS)
def test_lists_as_datasets_ship_them(tmp_path, line):
    """With the same letters in another folder, and a key that is the number in the lists' first column."""
    write_pairs(tmp_path, "a", "b", "c 1", "d", "7")
    write_picture(tmp_path / "mine" / "more" / "a.png")
    heading, _, line = line.rpartition("\n")
    for split, names in (("train", ["a", "c 1"]), ("val", ["b"]), ("test", ["d"])):
        (tmp_path / f"{split}.txt").write_text(f"{heading}\n" + "".join(line.replace("{key}", name) + "\n" for name in names))
    found = keys(opened(tmp_path, split={"lists": {split: f"{split}.txt" for split in ("train", "val", "test")}}))
    assert found["train"] == ["a", "c 1"]
    assert (found["val"], found["test"]) == (["b"], ["d"])


def test_a_list_of_paths_in_folders_of_one_layout(tmp_path):
    """Keys that have the folder in them, and one file name in both folders."""
    for video in ("x", "y"):
        for name in ("0", "1"):
            write_picture(tmp_path / "mine" / video / "rgb" / f"{name}.png")
            write_index(tmp_path / "mine" / video / "gt" / f"{name}.png")
    (tmp_path / "train.txt").write_text("x/rgb/0.png x/gt/0.png\nx/rgb/1.png x/gt/1.png\n")
    (tmp_path / "test.txt").write_text("y/0\ny/rgb/1.png\n")
    split = {"lists": {"train": "train.txt", "test": "test.txt", "val": 0.5}}
    found = keys(opened(tmp_path, images="*/rgb/*.png", labels="*/gt/*.png", split=split))
    assert sorted(found["train"] + found["val"]) == ["x/0", "x/1"] and found["test"] == ["y/0", "y/1"]
    (tmp_path / "test.txt").write_text("rgb/0.png\n1.png\n")  # of x or of y?
    with refused("test.txt lists 2 keys, of which mine lacks 2, the first is 'rgb/0.png'"):
        opened(tmp_path, images="*/rgb/*.png", labels="*/gt/*.png", split=split)


@pytest.mark.parametrize("key", ["exclude", "split", "folds"])
def test_what_a_file_elsewhere_holds_is_not_told(tmp_path, key):
    """A YAML of a stranger may name any file; the message about it quotes none of its lines."""
    write_pairs(tmp_path / "data", *"abcdef")
    secret = tmp_path / "elsewhere" / "secret.txt"
    secret.parent.mkdir()
    secret.write_text("s3cret:0\ns3cret\n[s3cret]\ns3cret\n")
    (tmp_path / "data" / "link.txt").symlink_to(secret)
    (tmp_path / "data" / ".hidden").write_text("s3cret\n")
    (tmp_path / "data" / "open.txt").write_text("shown\n")
    for name in (str(secret), "../elsewhere/secret.txt", "link.txt", ".hidden", "open.txt"):
        lists = {"lists": {"train": name, "test": name, "val": 0.5}}
        change = {"exclude": {"exclude": name}, "split": {"split": lists}, "folds": {"split": {"folds": f"{name}{{}}"}}}[key]
        if key == "folds":
            for fold in range(1, 6):
                Path(f"{tmp_path / 'data' / name}{fold}").unlink(missing_ok=True)
                Path(f"{tmp_path / 'data' / name}{fold}").symlink_to((tmp_path / "data" / name).resolve())
        with pytest.raises(UserError) as caught:
            opened(tmp_path / "data", **change)
        assert "is it the right list?" in str(caught.value)
        assert "s3cret" not in str(caught.value) and ("'shown'" in str(caught.value)) == (name == "open.txt")


def test_globs_that_are_none(tmp_path):
    write_pairs(tmp_path, "a")
    for key in ("images", "labels"):
        for glob in (".", "./", "./."):
            with refused("mine.yaml", repr(glob), f"expected a pattern of files such as '{key}/*.png'"):
                opened(tmp_path, **{key: glob})
        for glob in ("a**", "[z-a].png", "***", "images/.", "~", "*" * 300, "x" * 5000, "[" * 50, "\0"):
            with pytest.raises(UserError, match="mine"):
                opened(tmp_path, **{key: glob})


def test_what_systems_leave_in_folders(tmp_path):
    """Beside pictures that a glob without suffix finds."""
    write_pairs(tmp_path, "a", "b", "c", "d")
    mine = tmp_path / "mine"
    for folder in ("images", "labels"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX/a.png", "__MACOSX/._b.png", "@eaDir/a.png/x.jpg", "Icon\r"):
            path = mine / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0\1")
    for globs in (("images/*", "labels/*"), ("images/**/*", "labels/**/*")):
        dataset = opened(tmp_path, images=globs[0], labels=globs[1])
        assert sorted(itertools.chain(*keys(dataset).values())) == ["a", "b", "c", "d"]
        assert dataset.without_labels == dataset.without_picture == ()


def test_accents_in_two_forms(tmp_path):
    """Names of pictures, labels, folders and in lists, each in either of Unicode's forms: they look the same on screen."""
    nfc, nfd = "é", "e\u0301"
    changes: dict[str, Any]
    for form, other in ((nfc, nfd), (nfd, nfc)):
        root = tmp_path / f"{len(form)}"
        for n in range(4):
            write_picture(root / f"donn{form}es" / f"im{form}" / f"caf{form}{n}.png")
            write_index(root / f"donn{form}es" / "labels" / f"caf{other}{n}.png")
        (root / "train.txt").write_text(f"caf{other}0\nim{other}/caf{other}1.png\n")
        (root / "test.txt").write_text(f"caf{form}2\n")
        (root / "out.txt").write_text(f"caf{other}1\n")
        changes = {"folder": f"donn{other}es", "images": f"im{other}/*.png", "sequence": f"(caf{other}.)"}
        changes["together"] = [[f"caf{other}0", f"caf{form}3"]]
        lists = {"lists": {"train": "train.txt", "test": "test.txt", "val": 0.5}}
        found = keys(opened(root, split=lists, **changes))
        assert {*found["train"], *found["val"]} == {f"caf{nfc}0", f"caf{nfc}1"} and found["test"] == [f"caf{nfc}2"]
        patterns = {"patterns": {"train": f"im{other}/caf{form}[01]*", "val": f"*/caf{other}2*", "test": f"*caf{form}3*"}}
        found = keys(opened(root, split=patterns, **changes, exclude="out.txt"))
        assert found == {"train": [f"caf{nfc}0"], "val": [f"caf{nfc}2"], "test": [f"caf{nfc}3"]}
        for split, names in found.items():  # as a run keeps them; an older one in the form of the disk
            (root / f"{split}.txt").write_text("".join(f"{name.replace(nfc, other)}\n" for name in names))
        assert keys(opened(root, {"listed": root}, **changes)) == found
    write_picture(tmp_path / "2" / f"donn{nfd}es" / f"im{nfd}" / f"caf{nfc}0.png")
    with refused("one name twice", r"caf\xe90", r"cafe\u03010"):
        opened(tmp_path / "2", folder=f"donn{nfd}es", images=f"im{nfc}/*.png")


def test_many_entries_of_together_take_no_time():
    """They took the square of their number: 200,000 of them 24 s."""
    count = 200_000
    sequences = {f"k{n}": f"k{n}" for n in range(count)}
    before = time.process_time()
    groups = joined(sequences, ([f"k{n}", f"k{n + 1}"] for n in range(0, count, 2)))
    assert len(set(groups.values())) == count // 2 and groups["k1"] == groups["k0"] == "k0"
    chain = joined(sequences, ([f"k{n}", f"k{n + 1}"] for n in range(count - 1)))
    assert set(chain.values()) == {"k0"}
    backwards = joined(sequences, ([f"k{n}", f"k{n + 1}"] for n in reversed(range(count - 1))))
    assert set(backwards.values()) == {"k0"}
    assert time.process_time() - before < 15


@given(st.lists(st.lists(st.integers(0, 12), max_size=4), max_size=12))
def test_joined_is_what_merging_one_by_one_gives(together):
    sequences = {f"{n:02}": f"{n // 2:02}" for n in range(10)}
    entries = [[f"{n:02}" for n in entry] for entry in together]
    groups = {sequence: {sequence} for sequence in sequences.values()}
    for entry in entries:
        merged = set().union(*(groups[sequences[key]] for key in entry if key in sequences))
        groups |= dict.fromkeys(merged, merged)
    assert joined(sequences, entries) == {key: min(groups[sequence]) for key, sequence in sequences.items()}


@given(st.integers(0, 30), st.lists(st.sampled_from([0, 0.01, 0.1, 0.3, 0.6, 1.0]), min_size=1, max_size=5).filter(any))
def test_blocks_leave_no_part_empty_that_has_a_share(count, shares):
    parts = blocks(list(range(count)), shares)
    assert [key for part in parts for key in part] == list(range(count)) and len(parts) == len(shares)
    for part, share in zip(parts, shares, strict=True):
        assert part == [] if share == 0 else (part or count < sum(share > 0 for share in shares))


def test_lists_may_name_a_few_pictures_that_are_gone(tmp_path):
    write_pairs(tmp_path, *"abcdefghi")
    (tmp_path / "train.txt").write_text("a\nb\nc\nd\ngone\n")
    (tmp_path / "test.txt").write_text("e\nf\n")
    dataset = opened(tmp_path, split={"lists": {"train": "train.txt", "test": "test.txt", "val": 0.5}})
    assert [len(names) for names in keys(dataset).values()] == [2, 2, 2]
    assert any("1 of 5 pictures in the list train.txt do not exist" in note for note in dataset.notes)
    assert any("3 of 9 pictures are in no split" in note for note in dataset.notes)


@pytest.mark.parametrize("place", [".", "mine"])
def test_folds_from_lists(tmp_path, place):
    write_pairs(tmp_path, *"abcdef")
    (tmp_path / place / "folds").mkdir()
    for number, names in enumerate(["ab", "cd", "ef"], 1):
        (tmp_path / place / "folds" / f"f{number}.txt").write_text("\n".join(names))
    changes = {"split": {"folds": "folds/f{}.txt", "count": 3, "test": 2, "val": 0.25}}
    dataset = opened(tmp_path, **changes)
    assert keys(dataset)["test"] == ["c", "d"] and len(keys(dataset)["val"]) == 1
    assert any("fold 2 of 3 tests, as folds/f{}.txt lists them" in note for note in dataset.notes)
    assert keys(opened(tmp_path, {"fold": 3}, **changes))["test"] == ["e", "f"]
    with refused("fold 4", "folds 1 to 3"):
        opened(tmp_path, {"fold": 4}, **changes)
    (tmp_path / place / "folds" / "f1.txt").write_text("a\nc")
    with refused("'c' is in folds/f1.txt and in folds/f2.txt"):
        opened(tmp_path, **changes)
    (tmp_path / place / "folds" / "f1.txt").unlink()
    with refused("the list folds/f1.txt"):
        opened(tmp_path, **changes)


def test_folds_that_are_drawn(tmp_path):
    names = [f"{i:02}" for i in range(15)]
    write_pairs(tmp_path, *names)
    changes = {"split": {"folds": "nowhere{}.txt", "count": 5, "val": 0.25}, "together": [["00", "14"], ["03", "07"]]}
    folds = []
    for fold in range(1, 6):
        dataset = opened(tmp_path, {"fold": fold}, **changes)
        assert [len(own) for own in keys(dataset).values()] == [9, 3, 3]
        assert any("drawn with seed 0, since there is no nowhere{}.txt" in note for note in dataset.notes)
        folds.append(keys(dataset)["test"])
    assert sorted(itertools.chain(*folds)) == names
    assert all(sum(bool(set(pair) & set(fold)) for fold in folds) == 1 for pair in changes["together"])


def test_choices_at_open_time(tmp_path):
    write_pairs(tmp_path, "a", "b", "c")
    splits = {"one": {"patterns": {"train": "*a.png", "test": "*b.png"}}}
    assert opened(tmp_path, {"domain": "elsewhere"}).domain == "elsewhere"
    assert keys(opened(tmp_path, {"split": "one"}, splits=splits))["train"] == ["a"]
    written_out = {"patterns": {"train": "*c.png", "test": "*b.png"}}
    assert keys(opened(tmp_path, {"split": written_out}, splits=splits, split="one"))["train"] == ["c"]
    with refused("no split 'two'", "known: one"):
        opened(tmp_path, {"split": "two"}, splits=splits)
    with refused("fold 1 of mine", "no folds"):
        opened(tmp_path, {"fold": 1})


# The layouts of the seven KITTI datasets, as their authors ship them


def kitti_layout(root: Path, name: str) -> int:
    """Write a small dataset where its YAML looks for it; the number of pictures."""
    config = load_dataset_config(name)
    folder, count = root / name, 0
    for drive, frame in itertools.product(range(10), range(4)):
        own, side = f"{drive:04}_{frame:06}", drive < 7
        image, labels = f"images/{own}.png", f"labels/{own}.{'mat' if config.encoding == 'mat' else 'png'}"
        if name == "ros":
            part = "KITTI_SEMANTIC/" + ("Training_00" if side else "Validation_07")
            image, labels = f"{part}/RGB/{own}.png", f"{part}/GT_ind/{own}.png"
        elif name == "zhang":
            image = f"training/image_02/{drive:04}/{frame:06}.png"
            labels = f"image_02/{'trn' if side else 'test'}/{drive:04}/{frame:06}.mat"
        write_picture(folder / image)
        code = config.codes.labels[count % config.labelset.channels][-1]
        (folder / labels).parent.mkdir(parents=True, exist_ok=True)
        if config.encoding == "mat":
            savemat(folder / labels, {"truth": np.full((2, 3), code, dtype=np.uint8)})
        elif config.encoding == "colour":
            Image.new("RGB", (3, 2), code).save(folder / labels)
        else:
            write_index(folder / labels, code)
        count += 1
    return count


@pytest.mark.parametrize("name", KITTI)
def test_kitti_layouts(tmp_path, name):
    count = kitti_layout(tmp_path, name)
    dataset = open_dataset(load_dataset_config(name), tmp_path)
    sizes = [len(items) for items in dataset.splits.values()]
    assert sizes == [24, 4, 12] and sum(sizes) == count
    drives = [{item.sequence for item in items} for items in dataset.splits.values()]
    assert [len(own) for own in drives] == [6, 1, 3] and len(set.union(*drives)) == 10
    samples = [sample for split in dataset.splits for sample in load_split(dataset, split)]
    seen = {int(sample.target[0, 0]) for sample in samples}
    assert seen == set(range(dataset.labelset.channels))
    assert dataset.domain == "kitti" and dataset.notes == ()
    if name in ("ros", "zhang"):
        test = "Validation_07" if name == "ros" else "/test/"
        for split, items in dataset.splits.items():
            assert all((test in str(item.labels)) == (split == "test") for item in items)


def test_siftflow_layout(tmp_path):
    folder, scene = tmp_path / "SiftFlowDataset", "spatial_envelope_256x256_static_8outdoorcategories"
    names = [f"coast_natu{i}" for i in range(20)]
    for i, name in enumerate(names):
        write_picture(folder / "Images" / scene / f"{name}.jpg")
        (folder / "SemanticLabels" / scene).mkdir(parents=True, exist_ok=True)
        savemat(folder / "SemanticLabels" / scene / f"{name}.mat", {"S": np.full((2, 3), i), "names": ["a"]})
    (folder / "trainval.txt").write_text("\n".join(names[:16]))
    (folder / "test.txt").write_text("\n".join(names[16:]))
    dataset = open_dataset(load_dataset_config("siftflow"), tmp_path)
    assert [len(items) for items in dataset.splits.values()] == [14, 2, 4]
    assert [sample.target[0, 0] for sample in load_split(dataset, "test")] == [15, 16, 17, 18]
    assert dataset.labelset.labels[16] == "mountain"
    items = {item.key: item for split in dataset.splits.values() for item in split}
    assert (dataset.load(items[names[0]]).target == VOID).all()


def test_labelmefacade_layout(tmp_path):
    """As its authors give it away: lists of paths, pictures and labels of one name."""
    folder, names = tmp_path / "labelmefacade", [f"05june05_static_street_boston__p10.1{n:04d}" for n in range(40)]
    for n, name in enumerate(names):
        write_picture(folder / "images" / f"{name}.jpg")
        (folder / "labels").mkdir(exist_ok=True)
        Image.new("RGB", (3, 2), [(128, 64, 0), (0, 0, 0)][n % 2]).save(folder / "labels" / f"{name}.png")
    for split, own in (("train", names[:20]), ("test", names[20:])):
        (folder / f"{split}.txt").write_text("\n".join(f"images/{name}.jpg" for name in own))
    (folder / "images" / "filelist.txt").write_text("\n".join(f"{name}.jpg" for name in names))
    dataset = open_dataset(load_dataset_config("labelmefacade"), tmp_path)
    assert keys(dataset)["test"] == names[20:] and [len(items) for items in dataset.splits.values()] == [17, 3, 20]
    assert {int(sample.target[0, 0]) for sample in load_split(dataset, "test")} == {dataset.labelset.labels.index("road"), VOID}
    assert dataset.notes == ()


def test_cmp_layout(tmp_path):
    """Whichever half of the training pictures a view takes, it is tested on all of them."""
    for n in range(40):
        write_picture(tmp_path / "cmp_half" / "base" / f"cmp_b{n:04d}.jpg")
        write_index(tmp_path / "cmp_half" / "base" / f"cmp_b{n:04d}.png", n % 12 + 1)
    whole, fine, coarse = (open_dataset(load_dataset_config(name), tmp_path) for name in ("cmp", "cmp_fine", "cmp_coarse"))
    assert {int(s.target[0, 0]) for split in whole.splits for s in load_split(whole, split)} == set(range(12))
    assert keys(whole)["test"] == keys(fine)["test"] == keys(coarse)["test"]
    assert sorted(keys(fine)["train"] + keys(coarse)["train"]) == keys(whole)["train"]


# The real data, where it is


def real(data_root: Path, name: str, **options: Any) -> Dataset:
    config = load_dataset_config(name)
    if not (data_root / config.folder).is_dir():
        pytest.skip(f"{config.folder} is not in {data_root}")
    return open_dataset(config, data_root, **options)


def test_stanford(data_root):
    folds = [real(data_root, "stanford", fold=fold) for fold in range(1, 6)]
    pairs = folds[0].config.together
    for dataset in folds:
        split = keys(dataset)
        assert [len(split[part]) for part in ("train", "val", "test")] == [515, 57, 143]
        assert all(len({part for part, own in split.items() if set(pair) & set(own)}) == 1 for pair in pairs)
    assert len(set(itertools.chain(*(keys(dataset)["test"] for dataset in folds)))) == 715
    item = folds[0].splits["train"][0]
    expected = np.loadtxt(item.labels, dtype=int)
    np.testing.assert_array_equal(folds[0].load(item).target, np.where(expected < 0, VOID, expected))


def test_camvid(data_root):
    dataset = real(data_root, "camvid")
    assert [len(items) for items in dataset.splits.values()] == [406, 124, 171]
    videos = [{item.sequence for item in items} for items in dataset.splits.values()]
    assert videos == [{"0016E5", "0006R0"}, {"0001TP"}, {"Seq05VD"}]
    assert [len(items) for items in real(data_root, "camvid", split="official").splits.values()] == [367, 101, 233]
    item = dataset.splits["val"][5]
    expected = np.asarray(Image.open(item.labels))
    np.testing.assert_array_equal(dataset.load(item).target, np.where(expected == 11, VOID, expected))


def test_labelmefacade(data_root):
    dataset = real(data_root, "labelmefacade")
    sizes = [len(items) for items in dataset.splits.values()]
    assert sizes[0] + sizes[1] in (91, 100) and sizes[1] == 14 + (sizes[2] > 800) and sizes[2] in (787, 845)
    item = dataset.splits["train"][3]
    rgb = np.asarray(Image.open(item.labels).convert("RGB"))
    target = dataset.load(item).target
    for class_id, colour in enumerate(dataset.labelset.palette):
        np.testing.assert_array_equal(target == class_id, (rgb == colour).all(axis=2))
    np.testing.assert_array_equal(target == VOID, (rgb == 0).all(axis=2))


def test_kitti_odometry_colours_and_matrices_agree(data_root, tmp_path):
    """The same frames as .mat (0 other, then names) and as colour PNG: decoded alike by two formats' readers."""
    files = sorted((data_root / "kitti_samples").glob("odometry*/gt/*.mat"))
    if not files:
        pytest.skip(f"kitti_samples is not in {data_root}")
    kundu = load_dataset_config("kundu")
    order = ["building", "sky", "road", "vegetation", "sidewalk", "car"]
    order += ["pedestrian", "cyclist", "sign", "fence", "pole"]
    labelset = [{"label": name, "codes": [order.index(name) + 1]} for name in kundu.labelset.labels]
    changes = {"encoding": "mat", "mat_key": "truth", "labelset": labelset, "void": [0]}
    matrix = load_dataset_config(write_yaml(tmp_path, **changes))
    for file in files:
        from_colours = read_labels(file.with_suffix(".png"), kundu, code_table(kundu))
        np.testing.assert_array_equal(from_colours, read_labels(file, matrix, code_table(matrix)))
        np.testing.assert_array_equal(from_colours == VOID, loadmat(file)["truth"] == 0)
        assert len(np.unique(from_colours)) > 5


def test_kitti_semantics(data_root):
    folder = data_root / "kitti_samples" / "data_semantics"
    if not folder.is_dir():
        pytest.skip(f"kitti_samples/data_semantics is not in {data_root}")
    dataset = open_dataset(load_dataset_config("kitti_semantics"), folder.parent)
    items = [item for split in dataset.splits.values() for item in split]
    assert len(items) == 5
    for item in items:
        target = read_labels(item.labels, dataset.config, dataset.codes)
        rgb = np.asarray(Image.open(folder / "training" / "semantic_rgb" / item.labels.name))
        labelled = target != VOID
        np.testing.assert_array_equal(np.array(dataset.labelset.palette)[target[labelled]], rgb[labelled])
        assert labelled.mean() > 0.8
