"""Finding files by globs, beside Python's own; and what has no end, or may not be looked into."""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from toy import refused, write_toy

from densemtmd.datasets import globs
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import open_dataset
from densemtmd.datasets.globs import all_below, matching
from densemtmd.datasets.starter import draft


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Folders in folders with files, hidden ones, links to files and folders, broken ones and circles."""
    root, chance = tmp_path_factory.mktemp("tree"), random.Random(0)
    names = ["a", "b", "ab", ".a", "a b", "[a]", "é"]
    folders = [root]
    for _ in range(25):
        folder = chance.choice(folders) / chance.choice(names)
        folder.mkdir(exist_ok=True)
        folders.append(folder)
    for _ in range(80):
        (chance.choice(folders) / f"{chance.choice(names)}.{chance.choice(['png', 'txt', 'PNG'])}").touch()
    if hasattr(os, "symlink") and sys.platform != "win32":
        (root / "a").mkdir(exist_ok=True)
        (root / "link").symlink_to(root / "a", target_is_directory=True)
        (root / "a" / "circle").symlink_to(root, target_is_directory=True)
        (root / "self").symlink_to("self")
        (root / "broken.png").symlink_to(root / "nothing")
        (root / "good.png").symlink_to(min(path for path in root.rglob("*.png") if path.is_file()))
        os.mkfifo(root / "pipe.png")
    return root


GLOBS = [
    "*.png", "a/*", "**/*.png", "**/a/*.png", "*/*/*.txt", "**/*", "**", "a/**", "a/**/b.png", "?.png", "[ab]*.png", "**/[!a]*",
    "link/*", "link/**/*.png", "a.png", "./a/*.png", "a//*.png", "*/circle/*.png", "**/**/*.png", "[[]a]/*", "**/.a/*", "é/*", "nothing/*",
    "pipe.png", "**/a*/**/*.txt", "a/", "self", "self/*", "*.PNG", "a b/*.*",
]  # fmt: skip


@pytest.mark.parametrize("glob", GLOBS)
def test_a_glob_finds_what_pathlib_finds(tree, glob):
    def is_file(path):
        return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises of a link to itself)

    expected, found = sorted({path for path in tree.glob(glob) if is_file(path)}), []
    assert sorted(matching(tree, glob, lambda: found.append(1))) == expected
    if glob == "**/*":
        assert len(found) > 40
        assert all_below(tree) == [path for path in expected if not any(part.startswith(".") for part in path.relative_to(tree).parts)]


@pytest.mark.parametrize("glob", ["a**b", "***/x", "a/**b", "", "/", ".", "a\0b"])
def test_what_is_no_glob(tree, glob):
    with pytest.raises(ValueError):
        matching(tree, glob, lambda: None)


def test_a_whole_disk_is_not_walked_through(tmp_path, monkeypatch):
    path = write_toy(tmp_path, "squares", "square")
    data = yaml.safe_load(path.read_text())
    for images, labels in (("images/*.png", "**/*.png"), ("**/*", "**/*")):
        path.write_text(yaml.safe_dump(data | {"folder": "/", "images": images, "labels": labels}))
        with refused("would look through the whole disk: name the folder of the pictures"):
            open_dataset(load_dataset_config(path), tmp_path)
    with refused("would look through the whole disk"):
        draft("/")
    path.write_text(yaml.safe_dump(data | {"images": "**/images/*.png"}))
    dataset = open_dataset(load_dataset_config(path), tmp_path)
    assert sum(map(len, dataset.splits.values())) == 12
    for few, each, most in ((20, 0, 100), (1, 1, 100), (100, 0, 20)):
        monkeypatch.setattr(globs, "FEW", few)
        monkeypatch.setattr(globs, "EACH", each)
        monkeypatch.setattr(globs, "MOST", most)
        path.write_text(yaml.safe_dump(data | {"images": "**/images/*.png"}))
        with refused(f"below {tmp_path / 'squares'} finds", "files and folders, and there are more: name the folder of the pictures"):
            open_dataset(load_dataset_config(path), tmp_path)


def test_one_of_several_folders_that_is_closed(tmp_path, monkeypatch):
    """Left out in silence, a part of the pictures would be missing."""
    path = write_toy(tmp_path, "squares", "square")
    folder = tmp_path / "squares"
    data = yaml.safe_load(path.read_text())
    for what in ("images", "labels"):
        shutil.copytree(folder / what, folder / "more" / what)
        for file in list((folder / "more" / what).iterdir()):
            file.rename(file.with_name(f"m{file.name}"))
    images = ["images/*.png", "more/images/*.png"]
    path.write_text(yaml.safe_dump(data | {"images": images, "labels": ["labels/*.png", "more/labels/*.png"]}))
    assert sum(map(len, open_dataset(load_dataset_config(path), tmp_path).splits.values())) == 24

    scandir = os.scandir

    def refusing(place):
        if Path(place).name == "images" and Path(place).parent.name == "more":
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    with monkeypatch.context() as patch:  # played, as the tests may be run by who may read all
        patch.setattr(os, "scandir", refusing)
        with refused(f"{folder / 'more' / 'images'} may not be read by you", "more/images/*.png", "ask for the right to"):
            open_dataset(load_dataset_config(path), tmp_path)
        (folder / "lost+found").mkdir()
        patch.setattr(os, "scandir", lambda place: refusing("more/images") if str(place).endswith("lost+found") else scandir(place))
        assert len(matching(folder, "**/*.png", lambda: None)) == 48


def test_a_folder_that_is_given_whole_and_was_moved(tmp_path):
    """As drafts give it: by the data root it is found where it lies now."""
    path = write_toy(tmp_path / "before", "squares", "square")
    data = yaml.safe_load(path.read_text()) | {"folder": str(tmp_path / "before" / "squares")}
    path = tmp_path / "squares.yaml"
    path.write_text(yaml.safe_dump(data))
    found = open_dataset(load_dataset_config(path), tmp_path)
    (tmp_path / "before").rename(tmp_path / "after")
    with refused(f"{tmp_path / 'before' / 'squares'} is not a folder; set data_root to the folder that holds it"):
        open_dataset(load_dataset_config(path), tmp_path)
    for root in ("after", "after/squares"):
        assert open_dataset(load_dataset_config(path), tmp_path / root).splits.keys() == found.splits.keys()


def test_pictures_that_are_all_taken_for_labels_are_not_said_to_be_missing(tmp_path):
    path = write_toy(tmp_path, "squares", "square")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"labels": "**/*.png"}))
    with refused("all files in", "that match images/*.png", "are its labels already: make 'images' or 'labels' more exact"):
        open_dataset(load_dataset_config(path), tmp_path)


def test_a_draft_from_where_the_folder_lies(tmp_path, monkeypatch):
    """Lists in it are found by a relative path and by a link too."""
    write_toy(tmp_path, "squares", "square")
    (tmp_path / "link").symlink_to("squares")
    for name, keys in (("train", range(8)), ("test", range(8, 12))):
        (tmp_path / "squares" / f"{name}.txt").write_text("".join(f"{n:03}\n" for n in keys))
    monkeypatch.chdir(tmp_path)
    drafts = [yaml.safe_load(draft(folder)) for folder in (tmp_path / "squares", "squares", "link")]
    assert drafts[0] == drafts[1] == drafts[2] and drafts[0]["split"]["lists"]["train"] == "train.txt"
