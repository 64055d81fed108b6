"""``tools/check_data.py`` as a user runs it: what it prints, how it ends, what it writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat
from test_checks import copied_into_the_test, copied_within_train, other_size, unknown_codes, write_dataset

from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import open_dataset
from densemtmd.datasets.starter import draft
from densemtmd.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    from densemtmd.commands import check_data

    return check_data


@pytest.fixture
def run(tool, capsys, tmp_path):
    def call(*arguments: object) -> tuple[int, str, str]:
        code = tool.main([str(argument) for argument in arguments] + ["--data-root", str(tmp_path)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_whole_data(run, tmp_path):
    code, out, err = run(write_dataset(tmp_path))
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].startswith("mine: 3 labels, domain mine, pictures in ") and lines[-1] == "0 errors, 0 warnings, 0 known"
    assert lines[1].split() == ["train", "(3)", "val", "(3)", "test", "(3)"]
    table = {line.split()[0]: line.split()[1:] for line in lines[2:6]}
    assert table["other"] == ["55.22", "%", "3"] * 3  # 37 of 67 labelled rows
    assert table["void"] == ["6.94", "%", "3"] * 3    # 5 of 72 rows


def test_faults_end_with_1_and_are_named(run, tmp_path):
    path = write_dataset(tmp_path)
    other_size(tmp_path / "mine")
    copied_within_train(tmp_path / "mine")
    code, out, _ = run(path)
    assert code == 1
    assert "error: " in out and "[size:b1]" in out and "warning: " in out and "[duplicate:a0=a2]" in out
    assert out.splitlines()[-1] == "1 errors, 1 warnings, 0 known"
    assert out.index("error: ") < out.index("warning: ")


def test_warnings_and_what_is_known_end_with_0(run, tmp_path):
    path = write_dataset(tmp_path, known=["leak:a1=c2"])
    copied_within_train(tmp_path / "mine")
    copied_into_the_test(tmp_path / "mine")
    code, out, _ = run(path)
    assert code == 0 and out.splitlines()[-1] == "0 errors, 1 warnings, 1 known (1 leak)"


def test_many_findings_are_told_in_few_lines(run, tmp_path):
    path = write_dataset(tmp_path)
    for file in (tmp_path / "mine" / "labels").iterdir():
        file.write_bytes(b"")
    code, out, _ = run(path)
    assert code == 1 and out.count("[unreadable:") == 5 and "and 4 more [unreadable]; --json" in out


def test_json_has_everything(run, tmp_path):
    path = write_dataset(tmp_path)
    unknown_codes(tmp_path / "mine")
    code, out, _ = run(path, "--json", "--out", tmp_path / "figures")
    told = json.loads(out)
    assert code == 1 and told["errors"] == 1 and told["warnings"] == 0
    mine = told["datasets"]["mine"]
    assert mine["pictures"] == {"train": 3, "val": 3, "test": 3} and mine["domain"] == "mine"
    assert mine["labels"]["car"]["val"] == {"pixels": 3 * 20 * 96, "pictures": 3}
    assert mine["void"]["train"] == {"pixels": 3 * 5 * 96 + 9, "pictures": 3}  # a code without a meaning says nothing
    (finding,) = told["findings"]
    assert finding["tag"] == "code:9" and finding["severity"] == "error" and finding["datasets"] == ["mine"]


def test_figures(run, tmp_path):
    path = write_dataset(tmp_path)
    other_size(tmp_path / "mine")  # b1 cannot be shown
    run(path, "--out", tmp_path / "figures")
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["mine.labels.png", "mine.preview.png"]
    preview = np.asarray(Image.open(tmp_path / "figures" / "mine.preview.png").convert("RGB"))
    photo = np.asarray(Image.open(tmp_path / "mine" / "images" / "a1.png").convert("RGB"), float)
    assert preview.shape[1] > preview.shape[0] / 3 and np.unique(preview.reshape(-1, 3), axis=0).shape[0] > 1000
    colours = load_dataset_config(path).labelset.palette
    for colour in colours:  # the labels are there in their own colours
        assert (preview == colour).all(-1).sum() > 1000
    assert abs(preview.reshape(-1, 3).mean() - photo.mean()) < 150
    width, height = Image.open(tmp_path / "figures" / "mine.labels.png").size
    assert width > height > 200


def test_duplicates_are_listed_and_left_out(run, tmp_path):
    """The list that is written makes the data clean once the YAMLs name it."""
    paths = [write_dataset(tmp_path), write_dataset(tmp_path, "yours", seed=1)]
    copied_into_the_test(tmp_path / "mine")
    copied_within_train(tmp_path / "yours")
    image = tmp_path / "yours" / "images" / "c1.png"
    image.write_bytes((tmp_path / "mine" / "images" / "a0.png").read_bytes())
    code, out, _ = run(*paths, "--exclude-duplicates", tmp_path / "twice.txt")
    assert code == 1 and "twice.txt lists 3 pictures to leave out" in out
    text = (tmp_path / "twice.txt").read_text()
    assert "[mine]\n" in text and "a0  # stays as c1 in test of yours" in text and "[yours]\n" in text
    for path in paths:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"exclude": "twice.txt"}))
    code, out, _ = run(*paths)
    assert code == 0 and out.splitlines()[-1] == "0 errors, 0 warnings, 0 known"
    keys = {item.key for items in open_dataset(load_dataset_config(paths[0]), tmp_path).splits.values() for item in items}
    assert keys == {"a2", "b0", "b1", "b2", "c0", "c1", "c2"}


def test_nothing_to_leave_out(run, tmp_path):
    path = write_dataset(tmp_path, exclude="twice.txt")
    (tmp_path / "twice.txt").write_text("")
    code, _, _ = run(path, "--exclude-duplicates", tmp_path / "twice.txt")
    assert code == 0 and run(path)[0] == 0  # an empty list is a list


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no dataset is named", "--new"]),
        (["stanfrod"], ["unknown dataset 'stanfrod'", "did you mean 'stanford'"]),
        (["stanford"], ["stanford was not found", "get the dataset from"]),
        (["he", "he"], ["two datasets are called 'he'"]),
        (["he", "--split", "official"], ["--split is 'official'", "he"]),
        (["--new", "no/such/folder"], ["no/such/folder is not a folder"]),
    ],
)
def test_mistakes(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 1 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err


def test_splits_and_folds_can_be_chosen(run, tmp_path):
    splits = {"other": {"patterns": {"train": "images/c*", "val": "images/b*", "test": "images/a*"}}}
    path = write_dataset(tmp_path, splits=splits)
    told = json.loads(run(path, "--split", "other", "--json")[1])
    assert told["errors"] == 0
    labels = tmp_path / "mine" / "labels"
    Image.fromarray(np.where(np.asarray(Image.open(labels / "c1.png")) == 1, 0, 0).astype(np.uint8)).save(labels / "c1.png")
    assert json.loads(run(path, "--split", "other", "--json")[1])["datasets"]["mine"]["labels"]["car"]["train"]["pictures"] == 2
    folds = write_dataset(tmp_path, "folded", seed=1, split={"folds": None, "count": 3, "test": 1, "val": 0.2})
    assert json.loads(run(folds, "--fold", 2, "--json")[1])["datasets"]["folded"]["pictures"]["test"] == 3


def test_figure_3(run, tmp_path):
    code, out, _ = run("--figure3", "--out", tmp_path / "figures")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang"]
    assert lines[1].startswith("8 labels, kitti") and lines[2].count("pictures not there") == 7
    assert "68 labels in all" in out and (tmp_path / "figures" / "labelsets.png").stat().st_size > 20_000
    code, out, _ = run("--figure3", write_dataset(tmp_path))
    assert code == 0 and "9 pictures" in out and "3 / 3 / 3" in out and "3 labels in all" in out


def test_help_is_quick_and_says_it_all():
    command = [sys.executable, str(ROOT / "tools" / "check_data.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in ("--exclude-duplicates FILE", "--new FOLDER", "--figure3", "--json", "exit code is 1", "--data-root"):
        assert word in shown


# A first YAML


def write(path: Path, array: np.ndarray, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array.astype(np.uint8))
    if palette:
        picture.putpalette(palette)
    picture.save(path)
    return path


def codes_of(n: int, codes: list[int], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(n).permutation(np.resize(codes, size[0] * size[1])).reshape(size)


def photo_of(n: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(100 + n).integers(0, 256, (*size, 3))


def index_layout(root: Path) -> None:
    for n in range(6):
        write(root / "images" / f"{n}.jpg", photo_of(n))
        write(root / "labels" / f"{n}.png", codes_of(n, [0, 3, 3, 255]))


def palette_layout(root: Path) -> None:
    for n in range(6):
        write(root / "img" / f"{n}.png", photo_of(n))
        write(root / "mask" / f"{n}.png", codes_of(n, [0, 1, 2]), [0, 0, 0, 200, 0, 0, 0, 0, 200])


def colour_layout(root: Path) -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]])
    for n in range(6):
        write(root / f"{n}.png", photo_of(n))
        write(root / f"{n}_L.png", colours[codes_of(n, [0, 1, 2, 2])])


def mat_layout(root: Path) -> None:
    for n in range(6):
        write(root / "Images" / f"{n}.jpg", photo_of(n))
        (root / "Labels").mkdir(exist_ok=True)
        savemat(root / "Labels" / f"{n}.mat", {"S": codes_of(n, [1, 2, 3]).astype(np.uint8), "names": np.array(["a", "b", "c"])})


def text_layout(root: Path) -> None:
    for n in range(6):
        write(root / "images" / f"{n}.jpg", photo_of(n))
        (root / "labels").mkdir(exist_ok=True)
        np.savetxt(root / "labels" / f"{n}.regions.txt", codes_of(n, [-1, 0, 1]), fmt="%d")
    (root / "README.txt").write_text("read me")


def split_layout(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for n in range(count):
            write(root / split / f"{split}{n}.jpg", photo_of(n))
            write(root / f"{split}annot" / f"{split}{n}.png", codes_of(n, [0, 1]))


def videos_layout(root: Path) -> None:
    for video in ("street", "park"):
        for n in range(3):
            write(root / video / "rgb" / f"{n:04}.png", photo_of(n))
            write(root / video / "gt" / f"{n:04}.png", codes_of(n, [0, 1]))


def several_layout(root: Path) -> None:
    """Beside the labels: instances of 16 bits, and the labels painted."""
    for n in range(6):
        write(root / "image_2" / f"{n}.png", photo_of(n))
        write(root / "semantic" / f"{n}.png", codes_of(n, [7, 8, 26]))
        write(root / "semantic_rgb" / f"{n}.png", np.array([[0, 0, 142], [9, 9, 9]])[codes_of(n, [0, 1])])
        (root / "instance").mkdir(exist_ok=True)
        Image.fromarray((codes_of(n, [7, 8, 26]) * 256).astype(np.uint16)).save(root / "instance" / f"{n}.png")


def mixed_suffixes_layout(root: Path) -> None:
    for n, suffix in enumerate(["jpg", "JPG", "jpeg", "png", "jpg", "JPG"]):
        write(root / "images" / f"{n}.{suffix}", photo_of(n))
        write(root / "labels" / f"{n}.{'PNG' if n % 2 else 'png'}", codes_of(n, [0, 1]))
    for name in ("Thumbs.db", "desktop.ini", "__MACOSX/0.png"):
        (root / "images" / name).parent.mkdir(exist_ok=True)
        (root / "images" / name).write_bytes(b"no picture")


def cityscapes_layout(root: Path) -> None:
    """Split, city, frame; four files of labels for each picture; suffixes with digits in them."""
    for split, cities in (("train", ("aachen", "bochum", "ulm")), ("val", ("lindau",)), ("test", ("bonn", "mainz"))):
        for city in cities:
            for n in range(2):
                name = f"{city}_{n:06}_000019"
                write(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", photo_of(n))
                codes = codes_of(n, [7, 8, 26])
                place = root / "gtFine" / split / city
                write(place / f"{name}_gtFine_labelIds.png", codes)
                write(place / f"{name}_gtFine_color.png", np.array([[0, 0, 0], [9, 9, 9]])[codes_of(n, [0, 1])])
                instances = codes.astype(np.uint16) * (256 if n else 1)  # a frame may show no thing that is counted
                Image.fromarray(instances).save(place / f"{name}_gtFine_instanceIds.png")
                (place / f"{name}_gtFine_polygons.json").write_text('{"objects": [{"polygon": []}]}')


def sequences_layout(root: Path) -> None:
    """Split, sequence, frame, with the same names of frames in each; one frame without labels."""
    for split, videos in (("train", "abcd"), ("test", "ef")):
        for video in videos:
            for n in range(3):
                write(root / split / video / "rgb" / f"{n:04}.jpg", photo_of(n))
                write(root / split / video / "gt" / f"{n:04}.png", codes_of(n, [0, 1, 255, 255]))
    write(root / "train" / "a" / "rgb" / "0009.jpg", photo_of(9))


def accents_layout(root: Path) -> None:
    """The names of pictures in one form of Unicode, those of their labels in the other."""
    for n in range(6):
        write(root / "images" / f"é{n}.jpg", photo_of(n))
        write(root / "labels" / f"e\u0301{n}.png", codes_of(n, [0, 1]))


def one_object_layout(root: Path) -> None:
    for n in range(6):
        write(root / "images" / f"{n}.jpg", photo_of(n))
        write(root / "masks" / f"{n}.png", codes_of(n, [0, 0, 0, 255]))


def one_colour_layout(root: Path) -> None:
    for n in range(6):
        write(root / "images" / f"{n}.jpg", photo_of(n))
        write(root / "masks" / f"{n}.png", np.array([[0, 0, 0], [200, 30, 0]])[codes_of(n, [0, 0, 1])])


def heads_layout(root: Path) -> None:
    for n in range(6):
        write(root / f"image_{n}.png", photo_of(n))
        write(root / f"mask_{n}.png", codes_of(n, [0, 1]))


def voc_layout(root: Path) -> None:
    """Lists of keys, with one that holds two of the others; and lists of a class each."""
    for n in range(6):
        write(root / "JPEGImages" / f"2007_{n:06}.jpg", photo_of(n))
        write(root / "SegmentationClass" / f"2007_{n:06}.png", codes_of(n, [0, 1]))
    for task, few in (("Segmentation", 6), ("Main", 2)):
        (root / "ImageSets" / task).mkdir(parents=True)
        for name, part in (("train", range(4)), ("val", range(4, 6)), ("trainval", range(6)), ("cat_train", range(1))):
            lines = [f"2007_{n:06}\n" for n in part if n < few or n == 5]
            (root / "ImageSets" / task / f"{name}.txt").write_text("".join(lines))


def columns_layout(root: Path) -> None:
    """Lists of paths in two columns, as most collections have them."""
    for n in range(6):
        write(root / "images" / f"p{n}.jpg", photo_of(n))
        write(root / "labels" / f"p{n}.png", codes_of(n, [0, 1]))
    for name, part in (("train", range(3)), ("val", [3]), ("test", [4, 5])):
        (root / f"street_{name}.lst").write_text("".join(f"images/p{n}.jpg\tlabels/p{n}.png\n" for n in part))


CITYSCAPES_VOID = [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255]
LAYOUTS: list[tuple[Any, str, list[Any], Any, dict[str, int]]] = [
    (index_layout, "index", [[0], [3]], [255], {"train": 3, "val": 1, "test": 2}),
    (palette_layout, "index", [[0], [1], [2]], None, {"train": 3, "val": 1, "test": 2}),
    (colour_layout, "colour", [[0, 128, 0], [128, 0, 0]], [[0, 0, 0]], {"train": 3, "val": 1, "test": 2}),
    (mat_layout, "mat", [[1], [2], [3]], None, {"train": 3, "val": 1, "test": 2}),
    (text_layout, "text", [[0], [1]], "negative", {"train": 3, "val": 1, "test": 2}),
    (split_layout, "index", [[0], [1]], None, {"train": 4, "val": 2, "test": 3}),
    (videos_layout, "index", [[0], [1]], None, {"train": 3, "val": 1, "test": 2}),
    (several_layout, "index", [[7], [8], [26]], None, {"train": 3, "val": 1, "test": 2}),
    (mixed_suffixes_layout, "index", [[0], [1]], None, {"train": 3, "val": 1, "test": 2}),
    (cityscapes_layout, "index", [[7], [8], [26]], CITYSCAPES_VOID, {"train": 6, "val": 2, "test": 4}),
    (sequences_layout, "index", [[0], [1]], [255], {"train": 9, "val": 3, "test": 6}),
    (accents_layout, "index", [[0], [1]], None, {"train": 3, "val": 1, "test": 2}),
    (one_object_layout, "index", [[0], [255]], None, {"train": 3, "val": 1, "test": 2}),
    (one_colour_layout, "colour", [[0, 0, 0], [200, 30, 0]], None, {"train": 3, "val": 1, "test": 2}),
    (heads_layout, "index", [[0], [1]], None, {"train": 3, "val": 1, "test": 2}),
    (voc_layout, "index", [[0], [1]], None, {"train": 3, "val": 1, "test": 2}),
    (columns_layout, "index", [[0], [1]], None, {"train": 3, "val": 1, "test": 2}),
]


@pytest.mark.parametrize(("layout", "encoding", "codes", "void", "counts"), LAYOUTS, ids=[layout[0].__name__ for layout in LAYOUTS])
def test_a_draft_is_a_dataset(tmp_path, layout, encoding, codes, void, counts):
    """What is drafted can be opened and read as it stands."""
    (tmp_path / "My Photos").mkdir()
    layout(tmp_path / "My Photos")
    path = tmp_path / "draft.yaml"
    path.write_text(draft(tmp_path / "My Photos"))
    content = yaml.safe_load(path.read_text())
    assert content["name"] == "my_photos" and content["encoding"] == encoding and content.get("void") == void
    assert [entry.get("codes", entry.get("colour")) for entry in content["labelset"]] == codes
    dataset = open_dataset(load_dataset_config(path), tmp_path / "elsewhere")
    assert {split: len(items) for split, items in dataset.splits.items()} == counts
    for items in dataset.splits.values():
        for item in items:
            assert dataset.load(item).target.shape == (20, 30)


@pytest.mark.parametrize("layout", [one_object_layout, one_colour_layout, index_layout, colour_layout, text_layout])
def test_a_draft_asks_what_void_is(tmp_path, layout):
    layout(tmp_path)
    text = re.sub(r"\n *# ", " ", draft(tmp_path))
    assert text.count("Did the annotator look at all of it?") == 1 and "the rest is a label of its own (other)" in text


def test_a_tree_of_videos(tmp_path):
    """Validation takes whole videos, which are the folders; what is counted is what the globs find, and offered is what they do not."""
    sequences_layout(tmp_path)
    text = draft(tmp_path)
    assert "looking at 18 of 18 files" in text and "could be labels" not in text
    assert "# 1 pictures have no labels, the first is train/a/rgb/0009.jpg" in text
    assert yaml.safe_load(text)["sequence"] == "^(.*)/" and "each of 6 folders is a video (test/e, test/f, train/a, ...)" in text
    (tmp_path / "draft.yaml").write_text(text)
    dataset = open_dataset(load_dataset_config(tmp_path / "draft.yaml"), tmp_path)
    assert len({item.sequence for item in dataset.splits["val"]}) == 1


def test_a_tree_like_that_of_cityscapes(tmp_path):
    cityscapes_layout(tmp_path)
    content = yaml.safe_load(text := draft(tmp_path))
    assert content["images"] == "leftImg8bit/*/*/*_leftImg8bit.png" and content["labels"] == "gtFine/*/*/*_gtFine_labelIds.png"
    assert content["split"]["patterns"] == {"train": "leftImg8bit/train/*", "val": "leftImg8bit/val/*", "test": "leftImg8bit/test/*"}
    assert "looking at 12 of 12 files" in text
    (offered,) = [line for line in text.splitlines() if "could be labels" in line]
    assert "_gtFine_color.png" in offered and "labelIds" not in offered


def test_lists_that_a_folder_ships_are_the_split(tmp_path):
    voc_layout(tmp_path / "a")
    text = draft(tmp_path / "a")
    lists = {"train": "ImageSets/Segmentation/train.txt", "val": 0.15, "test": "ImageSets/Segmentation/val.txt"}
    assert yaml.safe_load(text)["split"]["lists"] == lists and "tested on what the lists call validation" in text
    columns_layout(tmp_path / "b")
    (tmp_path / "b" / "more").mkdir()
    for name in ("train", "test"):  # of another dataset
        (tmp_path / "b" / "more" / f"{name}.txt").write_text("q1\nq2\n")
    split = yaml.safe_load(draft(tmp_path / "b"))["split"]
    assert split["lists"] == {"train": "street_train.lst", "val": "street_val.lst", "test": "street_test.lst"}


@pytest.mark.parametrize(("folder", "name"), [("2007", "2007"), ("On", "on"), ("1e3", "1e3"), ("été 3", "t_3")])
def test_a_draft_is_called_as_its_folder_is(tmp_path, folder, name):
    index_layout(tmp_path / folder)
    assert yaml.safe_load(draft(tmp_path / folder))["name"] == name


INSTEAD = {
    "labels/0.txt": ("0 0.5 0.5 0.25 0.25\n3 0.1 0.2 0.3 0.4\n", "boxes of YOLO (0.txt)", "boxes say nothing"),
    "Annotations/0.xml": ("<annotation><object><bndbox/></object></annotation>", "boxes of Pascal VOC (0.xml)", "boxes say nothing"),
}


@pytest.mark.parametrize("name", INSTEAD)
def test_annotations_that_are_no_labels_of_pixels(tmp_path, name):
    content, what, how = INSTEAD[name]
    for n in range(4):
        write(tmp_path / "images" / f"{n}.jpg", photo_of(n))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        draft(tmp_path)
    for word in ("has no label for each pixel, but", what, "draw them into PNGs first", how):
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["1\n" * 1900 + "x\n1", "1 " * 1900 + "x", "1 2 3 4 5.\n" * 350 + "x\n1", "1 " + "1" * 3900])
def test_texts_that_are_nothing_are_told_at_once(tmp_path, text):
    for n in range(4):
        write(tmp_path / "images" / f"{n}.jpg", photo_of(n))
    (tmp_path / "notes.txt").write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match="holds no pictures with labels"):
        draft(tmp_path)
    assert time.process_time() - start < 2


def test_labels_that_are_jpeg(tmp_path):
    for n in range(4):
        write(tmp_path / "images" / f"{n}.jpg", photo_of(n, (270, 360)))
        mask = np.zeros((270, 360), np.uint8)
        mask[40:160, 50:200] = 255
        write(tmp_path / "masks" / f"{n}.jpg", mask)
    with pytest.raises(UserError, match=r"has labels that are JPEG, masks/\*\.jpg: this compression changes values.*save them as PNG"):
        draft(tmp_path)


def test_shares_and_colours_in_a_draft(tmp_path):
    palette_layout(tmp_path)
    text = draft(tmp_path)
    assert "{label: code_1, codes: [1], colour: [200, 0, 0]}  # 33.33 %, 6/6 files" in text
    several_layout(tmp_path / "b")
    assert "semantic_rgb/*.png" in draft(tmp_path / "b") and "instance/*.png" in draft(tmp_path / "b")


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match="no pictures with labels of the same names, but nothing"):
        draft(tmp_path)
    for n in range(3):
        write(tmp_path / "images" / f"{n}.png", photo_of(n))
        write(tmp_path / "labels" / f"{'abc'[n]}.png", codes_of(n, [0, 1]))
    with pytest.raises(UserError, match=r"but 3 picture images/\*\.png, 3 index labels/\*\.png"):
        draft(tmp_path)


def test_new_writes_the_draft_and_overwrites_nothing(run, tmp_path):
    index_layout(tmp_path / "photos")
    code, out, _ = run("--new", tmp_path / "photos", "--out", tmp_path / "out")
    assert code == 0 and "check_data.py" in out
    written = tmp_path / "out" / "photos.yaml"
    assert written.read_text() in out
    assert run(written)[0] == 0
    code, _, err = run("--new", tmp_path / "photos", "--out", tmp_path / "out")
    assert code == 1 and "photos.yaml is there already" in err


@pytest.mark.parametrize(("folder", "codes"), [("iccv09Data", 8), ("CamVid", 12), ("labelmefacade", 8)])
def test_drafts_of_real_datasets(data_root, tmp_path, folder, codes):
    path = tmp_path / "draft.yaml"
    path.write_text(draft(data_root / folder))
    config = load_dataset_config(path)
    assert config.labelset.channels == codes
    dataset = open_dataset(config, tmp_path)
    for items in dataset.splits.values():
        dataset.load(items[0])


def test_what_a_draft_reads_is_not_more_that_could_be_labels_however_its_folder_is_named(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for what, highest, shape in (("images", 256, (20, 30, 3)), ("labels", 3, (20, 30))):
        (tmp_path / "mine" / what).mkdir(parents=True)
        for n in range(4):
            Image.fromarray(random.integers(0, highest, shape).astype(np.uint8)).save(tmp_path / "mine" / what / f"{n}.png")
    monkeypatch.chdir(tmp_path)
    assert draft("mine") == draft(tmp_path / "mine")
    assert "more that could be labels" not in draft("mine")


def test_a_draft_names_further_labels_once_however_many_folders_they_are_in(tmp_path):
    random = np.random.default_rng(0)
    for place in "abc":
        for what in ("images", "labels"):
            (tmp_path / what / place).mkdir(parents=True)
        for n in range(4):
            Image.fromarray(random.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "images" / place / f"{n}_photo.png")
            for kind in ("ids", "more"):
                Image.fromarray(random.integers(0, 3, (20, 30)).astype(np.uint8)).save(tmp_path / "labels" / place / f"{n}_{kind}.png")
    text = draft(tmp_path).replace("\n# ", " ")
    assert "There is more that could be labels: labels/a/*_more.png (and in 2 more folders)\n" in text and text.count("_more.png") == 1
