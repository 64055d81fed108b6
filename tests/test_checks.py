"""Planted faults are found and named, the same photo is recognised however it was saved, and whole data raise no alarm."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFilter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from densemtmd.datasets import checks, duplicates
from densemtmd.datasets.cache import load_all
from densemtmd.datasets.checks import Finding, Survey, check, copies, leave_out, refuse, survey, survey_decoded
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.duplicates import ALIKE, BITS, FLAT, NEAR, Picture, find_copies, fingerprint, thumbnail
from densemtmd.datasets.folder import Dataset, open_dataset
from densemtmd.errors import UserError

CONTENT: dict[str, Any] = {
    "images": "images/*.png",
    "labels": "labels/*.png",
    "encoding": "index",
    "labelset": ["other", "car", "person"],
    "void": [255],
    "split": {"patterns": {"train": "images/a*", "val": "images/b*", "test": "images/c*"}},
}


def photo(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Something with the statistics of a photo: coarse blobs of colour under finer and finer ones."""
    random = np.random.default_rng(seed)
    mixed = np.zeros((size[1], size[0], 3))
    for n in (1, 2, 4, 8, 24):
        blobs = Image.fromarray(random.integers(0, 256, (n * 3, n * 4, 3), dtype=np.uint8))
        mixed += np.asarray(blobs.resize(size, Image.Resampling.BICUBIC), float) / n
    return Image.fromarray(((mixed - mixed.min()) / np.ptp(mixed) * 255).astype(np.uint8))


def write_dataset(root: Path, name: str = "mine", seed: int = 0, **changes: Any) -> Path:
    """Nine photos a0..c2 with all labels each, and their YAML; returns the YAML."""
    for folder in ("images", "labels"):
        (root / name / folder).mkdir(parents=True, exist_ok=True)
    for n, key in enumerate(f"{split}{i}" for split in "abc" for i in range(3)):
        photo(100 * seed + n).save(root / name / "images" / f"{key}.png")
        labels = np.zeros((72, 96), np.uint8)
        labels[:20], labels[20:30], labels[30:35] = 1, 2, 255
        Image.fromarray(labels).save(root / name / "labels" / f"{key}.png")
    path = root / f"{name}.yaml"
    content = {"name": name, **CONTENT, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def opened(root: Path, name: str = "mine", **options: Any) -> Dataset:
    return open_dataset(load_dataset_config(root / f"{name}.yaml"), root, **({"strict": False} | options))


def found(root: Path, *names: str) -> list[Finding]:
    return check([survey(opened(root, name)) for name in names or ("mine",)])


def tags(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.tag) for finding in findings]


# Faults


def test_whole_data_raise_no_alarm(tmp_path):
    write_dataset(tmp_path)
    write_dataset(tmp_path, "yours", seed=1)
    assert found(tmp_path, "mine", "yours") == []


def test_what_is_counted(tmp_path):
    write_dataset(tmp_path)
    one = survey(opened(tmp_path))
    for split in ("train", "val", "test"):
        assert one.pixels[split][[0, 1, 2, 255]].tolist() == [3 * 96 * rows for rows in (37, 20, 10, 5)]
        assert one.pixels[split].sum() == 3 * 72 * 96 and one.pictures[split][[0, 1, 2, 3, 255]].tolist() == [3, 3, 3, 0, 3]
    assert len(one.prints) == 9 and all(len(print) * 8 == BITS for print in one.prints.values())


def test_a_training_counts_the_same(tmp_path):
    write_dataset(tmp_path)
    whole, decoded = survey(opened(tmp_path)), survey_decoded(opened(tmp_path), load_all(opened(tmp_path), tmp_path / "cache"))
    assert whole.prints == decoded.prints and whole.blank == decoded.blank == ()
    for split in ("train", "val", "test"):
        assert (whole.pixels[split] == decoded.pixels[split]).all() and (whole.pictures[split] == decoded.pictures[split]).all()


def without_labels(folder: Path) -> None:
    (folder / "labels" / "b1.png").unlink()


def without_picture(folder: Path) -> None:
    (folder / "images" / "b1.png").unlink()


def cut_off_picture(folder: Path) -> None:
    path = folder / "images" / "b1.png"
    path.write_bytes(path.read_bytes()[:1000])


def no_labels_at_all(folder: Path) -> None:
    (folder / "labels" / "b1.png").write_text("not a picture")


def other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((71, 96), np.uint8)).save(folder / "labels" / "b1.png")


def unknown_codes(folder: Path) -> None:
    for key, pixels in (("b1", 7), ("a0", 9)):
        labels = np.array(Image.open(folder / "labels" / f"{key}.png"))
        labels[-1, :pixels] = 9
        Image.fromarray(labels).save(folder / "labels" / f"{key}.png")


def no_car(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        labels = np.array(Image.open(path))
        labels[labels == 1] = 0
        Image.fromarray(labels).save(path)


def no_car_to_train(folder: Path) -> None:
    for path in (folder / "labels").glob("a*"):
        labels = np.array(Image.open(path))
        labels[labels == 1] = 0
        Image.fromarray(labels).save(path)


def nothing_labelled(folder: Path) -> None:
    Image.fromarray(np.full((72, 96), 255, np.uint8)).save(folder / "labels" / "b1.png")


def hardly_labelled(folder: Path) -> None:
    for key in ("b0", "b1", "b2"):
        labels = np.full((72, 96), 255, np.uint8)
        labels[0, :3] = [0, 1, 2]
        Image.fromarray(labels).save(folder / "labels" / f"{key}.png")


def copied_into_the_test(folder: Path) -> None:
    Image.open(folder / "images" / "a1.png").resize((48, 36)).convert("RGB").save(folder / "images" / "c2.png")
    Image.open(folder / "labels" / "a1.png").resize((48, 36), Image.Resampling.NEAREST).save(folder / "labels" / "c2.png")


def copied_within_train(folder: Path) -> None:
    (folder / "images" / "a2.png").write_bytes((folder / "images" / "a0.png").read_bytes())


def compressed_with_loss(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        Image.open(path).save(path, format="JPEG")


def no_val(folder: Path) -> None:
    yaml_of(folder, split={"patterns": {"train": "images/a*", "val": 0, "test": "images/[bc]*"}})


def frames_far_apart(folder: Path) -> None:
    """Two frames of a video that its dataset does not call one."""
    for path in sorted(folder.glob("*/a1.png")) + sorted(folder.glob("*/c2.png")):
        path.rename(path.with_name("cam_0031.png" if path.stem == "a1" else "cam_0071.png"))
    (folder / "images" / "cam_0071.png").write_bytes((folder / "images" / "cam_0031.png").read_bytes())
    patterns = {"train": ["images/a*", "images/cam_0031.png"], "val": "images/b*", "test": ["images/c[0-2]*", "images/cam_0071.png"]}
    yaml_of(folder, split={"patterns": patterns})


def yaml_of(folder: Path, **changes: Any) -> None:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


FAULTS = [
    (compressed_with_loss, [("error", "lossy")], ["9 files of labels are JPEG", "labels/a0.png", "save them as PNG", "mine.yaml"]),
    (no_val, [("error", "empty:val")], ["mine: val has no picture", "'split' in", "mine.yaml"]),
    (frames_far_apart, [("error", "leak:cam_0031=cam_0071")], ["if they are frames of one video, say by 'sequence' in", "mine.yaml"]),
    (without_labels, [("warning", "without-labels")], ["1 pictures have no labels", "images/b1.png"]),
    (without_picture, [("error", "without-picture")], ["1 files of labels have no picture", "labels/b1.png", "'images'"]),
    (cut_off_picture, [("error", "unreadable:b1")], ["images/b1.png", "cut off"]),
    (no_labels_at_all, [("error", "unreadable:b1")], ["labels/b1.png", "not a picture"]),
    (other_size, [("error", "size:b1")], ["labels/b1.png has 96×71", "images/b1.png 96×72"]),
    (unknown_codes, [("error", "code:9")], ["code 9", "16 pixels in 2 files", "9 of them in", "labels/a0.png"]),
    (no_car, [("warning", "unused:car")], ["'car'", "mine.yaml"]),
    (no_car_to_train, [("warning", "untrained:car")], ["'car' is in val and test but never in train"]),
    (nothing_labelled, [("warning", "void:pictures")], ["1 pictures have no labelled pixel", "'b1'", "'exclude'"]),
    (hardly_labelled, [("warning", "void:val")], ["100 % of the pixels in val"]),
    (copied_into_the_test, [("error", "leak:a1=c2")], ["'a1' (train)", "'c2' (test)"]),
    (copied_within_train, [("warning", "duplicate:a0=a2")], ["'a0' (train)", "'a2' (train)"]),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "expected", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_planted_faults(tmp_path, plant, expected, words):
    write_dataset(tmp_path)
    plant(tmp_path / "mine")
    findings = found(tmp_path)
    assert tags(findings) == expected
    for word in words:
        assert word in findings[0].message
    assert "\n" not in findings[0].message and findings[0].datasets == ("mine",)


def test_all_faults_at_once(tmp_path):
    """One does not hide another."""
    write_dataset(tmp_path)
    (tmp_path / "mine" / "labels" / "b0.png").unlink()
    (tmp_path / "mine" / "images" / "a1.png").write_bytes(b"")
    (tmp_path / "mine" / "labels" / "a1.png").write_bytes(b"")
    other_size(tmp_path / "mine")
    unknown_codes(tmp_path / "mine")  # paints b1 anew: its size is still wrong, its codes too
    assert sorted(tags(found(tmp_path))) == [
        ("error", "code:9"), ("error", "size:b1"), ("error", "unreadable:a1"), ("error", "unreadable:a1"), ("warning", "without-labels"),
    ]  # fmt: skip


def test_nothing_to_test_on_is_said(tmp_path):
    """Two pictures cannot be three splits; and a share of 0 is a choice, which the check names."""
    write_dataset(tmp_path, split={"fractions": {"train": 0.7, "val": 0.3, "test": 0}})
    assert tags(found(tmp_path)) == [("warning", "empty:test")]
    for path in sorted((tmp_path / "mine").glob("*/[bc]*")) + sorted((tmp_path / "mine").glob("*/a0.png")):
        path.unlink()
    yaml_of(tmp_path / "mine", split={"fractions": {"train": 0.6, "val": 0.1, "test": 0.3}})
    findings = found(tmp_path)
    assert tags(findings)[0] == ("error", "empty:val") and "2 pictures are too few for three splits" in findings[0].message
    yaml_of(tmp_path / "mine", split={"fractions": {"train": 0.6, "val": 0.4, "test": 0}}, known=["empty:test"])
    assert ("known", "empty:test") in tags(found(tmp_path))


def test_what_a_training_sees_of_labels_with_loss(tmp_path):
    """Decoding refuses them; a cache that knows nothing of formats does not hide them; and who knows of them may train."""
    write_dataset(tmp_path)
    for path in (tmp_path / "mine" / "labels").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"), quality=100)
        path.unlink()
    labelset = [{"label": "other", "codes": "rest"}, {"label": "car", "codes": [1]}]
    yaml_of(tmp_path / "mine", labels="labels/*.jpg", labelset=labelset)
    assert tags(found(tmp_path))[0] == ("error", "lossy")
    with pytest.raises(UserError, match=r"a0\.jpg is JPEG: this compression changes values"):
        load_all(opened(tmp_path), tmp_path / "cache")
    yaml_of(tmp_path / "mine", known=["lossy"])
    decoded = load_all(opened(tmp_path), tmp_path / "cache")
    assert tags(check([survey_decoded(opened(tmp_path), decoded)]))[0] == ("known", "lossy")
    yaml_of(tmp_path / "mine", known=None)
    with pytest.raises(UserError, match="mine: 1 files of labels are JPEG"):
        refuse(check([survey_decoded(opened(tmp_path), load_all(opened(tmp_path), tmp_path / "cache"))]))


def test_many_entries_of_together_and_known_take_no_time(tmp_path):
    """Each finding was looked up in each entry."""
    import time

    from densemtmd.datasets.checks import _acknowledged, _stay_together, _together

    count = 50_000
    write_dataset(tmp_path, together=[[f"k{n}", f"k{n + 1}"] for n in range(0, count, 2)])
    surveys = [survey(opened(tmp_path))]
    entries = _together(surveys)
    pictures = [Picture("mine", "train", f"k{n}", "", b"", lambda: np.zeros(1)) for n in range(count)]
    known = [frozenset(f"size:k{n}" for n in range(count))]
    before = time.process_time()
    assert all(_stay_together(pictures[n : n + 2], entries) for n in range(0, count, 2))
    assert not any(_stay_together(pictures[n : n + 2], entries) for n in range(1, count - 1, 2))
    assert all(_acknowledged(Finding("error", "size", f"k{n}", ("mine",), ""), known).severity == "known" for n in range(count))
    assert time.process_time() - before < 5


def test_unknown_colours_are_named_as_colours(tmp_path):
    labelset = [{"label": "a", "colour": [0, 0, 0]}, {"label": "b", "colour": [9, 9, 9]}]
    path = write_dataset(tmp_path, encoding="colour", labelset=labelset, void=None)
    for file in (tmp_path / "mine" / "labels").iterdir():
        colours = np.zeros((72, 96, 3), np.uint8)
        colours[:9], colours[9, :5] = 9, (1, 2, 3)
        Image.fromarray(colours).save(file)
    findings = found(tmp_path)
    assert tags(findings) == [("error", "code:(1, 2, 3)")]
    assert "the colour (1, 2, 3), which 45 pixels in 9 files" in findings[0].message and str(path) in findings[0].message


def test_a_video_in_two_splits(tmp_path):
    write_dataset(tmp_path, sequence="(.)$")
    findings = found(tmp_path)
    assert tags(findings) == [("error", f"sequence:{n}") for n in "012"]
    assert "'0' are split into 1 train, 1 val, 1 test" in findings[0].message and "'split'" in findings[0].message


def test_too_few_videos_are_only_a_warning(tmp_path):
    write_dataset(tmp_path, sequence="one", split={"fractions": {"train": 0.6, "val": 0.2, "test": 0.2}})
    findings = found(tmp_path)
    assert tags(findings) == [("warning", "sequence")] and "too few videos" in findings[0].message


def test_what_the_yaml_acknowledges(tmp_path):
    for plant, expected, _ in FAULTS:
        if expected[0][1].split(":")[0] in ("unreadable", "size", "code", "empty"):
            continue
        changes = {"labelset": ["other", {"label": "car", "codes": "rest"}, "person"]} if plant is compressed_with_loss else {}
        for known in (expected[0][1], expected[0][1].split(":")[0]):
            folder = tmp_path / plant.__name__ / known.replace(":", "-")
            write_dataset(folder, known=["void:nothing", known], **changes)
            plant(folder / "mine")
            assert tags(found(folder)) == [("known", expected[0][1])]
            refuse(found(folder))
    write_dataset(tmp_path, known=["unused:person", "void:test"])
    no_car(tmp_path / "mine")
    assert tags(found(tmp_path)) == [("warning", "unused:car")]


def test_errors_stop_a_training(tmp_path):
    write_dataset(tmp_path)
    copied_within_train(tmp_path / "mine")
    refuse(found(tmp_path))  # a warning
    copied_into_the_test(tmp_path / "mine")
    other_size(tmp_path / "mine")
    with pytest.raises(UserError, match=r"labels/b1\.png has 96×71.*\[size:b1\]; this and 1 more errors are shown by tools/check_data\.py"):
        refuse(found(tmp_path))


def test_a_derived_dataset_is_checked_as_what_it_is(tmp_path):
    """Its own labels and splits, the source's acknowledgements, and its pictures are the source's."""
    write_dataset(tmp_path, known=["unused:car"], sequence="^(.)")
    no_car(tmp_path / "mine")
    (tmp_path / "half.yaml").write_text(yaml.safe_dump({"name": "half", "derive": {"from": "mine.yaml", "take": {"part": 1, "of": 2}}}))
    assert tags(found(tmp_path, "half")) == [("known", "unused:car")]
    both = [finding for finding in found(tmp_path, "mine", "half") if finding.kind == "duplicate"]
    assert {finding.severity for finding in both} == {"warning"} and len(both) == sum(map(len, opened(tmp_path, "half").splits.values()))
    assert both[0].what == "mine/a0=half/a0"


# The same photo


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(picture: Image.Image, factor: float, how: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), how)


COPIES = {
    "quality 50": lambda picture: jpeg(picture, 50),
    "quality 10": lambda picture: jpeg(picture, 10),
    "half": lambda picture: scaled(picture, 0.5),
    "larger": lambda picture: scaled(picture, 1.7, Image.Resampling.BICUBIC),
    "square": lambda picture: picture.resize((256, 256)),
    "small and compressed": lambda picture: jpeg(scaled(picture, 0.4), 40),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "brighter": lambda picture: picture.point(lambda value: round(255 * (value / 255) ** 0.8)),
}


def pictures_of(photos: Sequence[Image.Image], dataset: str = "mine", split: str = "train", footage: str | None = None) -> list[Picture]:
    pictures = []
    for n, one in enumerate(photos):
        array = np.asarray(one.convert("RGB"))
        pictures.append(Picture(dataset, split, str(n), footage or f"{dataset} {n}", fingerprint(array), lambda array=array: array))
    return pictures


@pytest.mark.parametrize("saved", COPIES.values(), ids=COPIES)
def test_copies_are_found_whatever_became_of_them(saved):
    photos = [photo(seed, (240, 180)) for seed in range(40)]
    groups = find_copies([*pictures_of(photos), *pictures_of([saved(one) for one in photos], "yours")])
    assert [[(p.dataset, p.key) for p in group] for group in groups] == [[("mine", str(n)), ("yours", str(n))] for n in range(40)]


def test_pictures_that_their_exif_turns(tmp_path):
    """Used as people see them, with the labels as the file has them: right where whoever drew them saw it so too."""
    write_dataset(tmp_path, images=["images/*.png", "images/*.jpg"])
    path = tmp_path / "mine" / "images" / "a1.png"
    shown = Image.open(path).convert("RGB")
    exif = Image.Exif()
    for orientation, stored in ((1, shown), (3, shown.transpose(Image.Transpose.ROTATE_180))):
        exif[0x0112] = orientation
        path.unlink(missing_ok=True)
        stored.save(path.with_suffix(".jpg"), exif=exif, quality=95, subsampling=0)
        dataset = opened(tmp_path)
        (item,) = (item for item in dataset.splits["train"] if item.key == "a1")
        sample = dataset.load(item)
        assert np.abs(sample.image.astype(int) - np.asarray(shown)).mean() < 5  # upright in both cases
        assert (sample.target[:20] == 1).all()  # and the labels as they are
        found = [finding for finding in check([survey(dataset)]) if finding.kind == "turned"]
        assert [finding.severity for finding in found] == ["warning"] * (orientation != 1)
    assert f"1 pictures are turned or mirrored by their EXIF, the first is {path.with_suffix('.jpg')}" in found[0].message
    write_dataset(tmp_path, images=["images/*.png", "images/*.jpg"], known=["turned"])
    (tmp_path / "mine" / "images" / "a1.png").unlink()
    assert [f.severity for f in check([survey(opened(tmp_path))]) if f.kind == "turned"] == ["known"]


def test_copies_of_real_photos(data_root):
    photos = [Image.open(file).convert("RGB") for file in sorted((data_root / "iccv09Data" / "images").glob("*.jpg"))[::36]]
    for what, saved in COPIES.items():
        groups = find_copies([*pictures_of(photos), *pictures_of([saved(one) for one in photos], "yours")])
        assert [[p.key for p in group] for group in groups] == [[str(n)] * 2 for n in range(len(photos))], what


def test_different_photos_are_not(data_root):
    """Real photos of streets, squeezed to squares: thousands of pairs that look much alike."""
    files = sorted((data_root / "iccv09Data" / "images").glob("*.jpg"))[::6]
    assert find_copies(pictures_of([Image.open(file).resize((64, 64)) for file in files])) == []


def test_prints_of_different_photos_differ_in_half_of_their_bits():
    bits = np.array([np.unpackbits(np.frombuffer(fingerprint(np.asarray(photo(seed))), np.uint8)) for seed in range(60)])
    distances = (bits[:, None] != bits).sum(-1)[np.triu_indices(60, 1)]
    assert abs(distances.mean() - BITS / 2) < 3 and distances.min() > NEAR


def test_several_copies_are_one_group():
    one = photo(1)
    group = find_copies(pictures_of([one, photo(2), jpeg(one, 30), scaled(one, 0.5), photo(3)]))
    assert [[picture.key for picture in copies] for copies in group] == [["0", "2", "3"]]


def test_more_pictures_than_are_compared_at_once(monkeypatch):
    monkeypatch.setattr("densemtmd.datasets.duplicates.BLOCK", (3, 7))
    photos = [photo(seed) for seed in range(20)]
    groups = find_copies(pictures_of([*photos, *(jpeg(one, 50) for one in photos[::3])]))
    assert [[int(p.key) for p in group] for group in groups] == [[3 * n, 20 + n] for n in range(7)]


def plainly(pictures: Sequence[Picture]) -> list[list[int]]:
    """The groups of copies, each pair looked at by itself."""
    shown = [thumbnail(picture.load()) for picture in pictures]

    def same(a: int, b: int) -> bool:
        one, other = pictures[a], pictures[b]
        bits = sum(byte.bit_count() for byte in bytes(x ^ y for x, y in zip(one.print, other.print, strict=True)))
        if (one.split, one.footage) == (other.split, other.footage):
            return bits == 0 and np.array_equal(one.load(), other.load())
        if bits > NEAR:
            return False
        if min(shown[a].std(), shown[b].std()) < FLAT:
            return np.array_equal(shown[a], shown[b])
        return bool(np.corrcoef(shown[a].ravel(), shown[b].ravel())[0, 1] >= ALIKE)

    pairs = [(a, b) for b in range(len(pictures)) for a in range(b) if same(a, b)]
    labels = connected_components(coo_matrix((np.ones(len(pairs)), np.array(pairs, int).reshape(-1, 2).T), [len(pictures)] * 2))[1]
    groups: dict[int, list[int]] = {}
    for n, label in enumerate(labels):
        groups.setdefault(label, []).append(n)
    return [group for group in groups.values() if len(group) > 1]


@pytest.mark.parametrize("block", [(64, 8192), (5, 11)])
def test_the_same_copies_as_pair_by_pair(monkeypatch, block):
    """Cameras that do not move, several videos of each, the same frame twice, copies that were saved otherwise, and nothing at all."""
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "PAIRS", 16)
    monkeypatch.setattr(duplicates, "THUMBNAILS", 20)
    random, pictures = np.random.default_rng(0), []
    scenes = [np.asarray(photo(seed)) for seed in range(5)] + [np.zeros((72, 96, 3), np.uint8)]
    for n in range(150):
        scene = n % 11 if n % 11 < 6 else int(random.integers(6))
        noise = random.integers(0, (1, 2, 12, 200)[n % 4], (72, 96, 3))
        image = np.clip(scenes[scene].astype(int) + noise, 0, 255).astype(np.uint8)
        footage, split = f"video {scene} {random.integers(2)}", ("train", "test")[int(random.integers(2))]
        pictures.append(Picture("mine", split, str(n), footage, fingerprint(image), lambda image=image: image))
    found = [[int(p.key) for p in group] for group in find_copies(pictures)]
    assert found == plainly(pictures) and len(found) > 5 and max(map(len, found)) > 10


def test_bits_are_counted_without_numpy_2_too(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, (3, 100), np.uint64)
    words[0, :2] = 0, 2**64 - 1
    expected = [[int(word).bit_count() for word in row] for row in words]
    assert duplicates.ones(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert duplicates.ones(words).tolist() == expected


def test_copies_are_looked_for_once(tmp_path, monkeypatch):
    """While no file changes; with the split, which decides what are frames of one video, they are looked for anew."""
    write_dataset(tmp_path)
    images, cache = tmp_path / "mine" / "images", tmp_path / "cache"
    (images / "a2.png").write_bytes((images / "a0.png").read_bytes())

    def keys(folder: Path | None = cache) -> list[list[str]]:
        dataset = opened(tmp_path)
        return [[p.key for p in group] for group in copies([survey_decoded(dataset, load_all(dataset, cache))], folder)]

    assert keys() == keys() == keys(None) == [["a0", "a2"]]
    (file,) = cache.glob("*.copies")
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "find_copies", lambda pictures: pytest.fail("looked for again"))
        assert keys() == [["a0", "a2"]]
        file.write_text("[[0, 99]]")
        with pytest.raises(pytest.fail.Exception):
            keys()
    (images / "b0.png").write_bytes((images / "a0.png").read_bytes())
    assert keys() == [["a0", "a2", "b0"]]
    for n in range(duplicates.KEPT + 3):
        (cache / f"{n}.copies").write_text("[]")
        os.utime(cache / f"{n}.copies", (n, n))
    (images / "b1.png").write_bytes((images / "a0.png").read_bytes())
    assert keys() == keys() == [["a0", "a2", "b0", "b1"]]
    assert len([*cache.glob("*.copies")]) == duplicates.KEPT


def test_frames_of_one_video_may_look_alike():
    still = photo(1)
    later = Image.blend(still, still.filter(ImageFilter.GaussianBlur(2)), 0.5)
    assert find_copies(pictures_of([still, later], footage="a video")) == []
    assert len(find_copies(pictures_of([still, later, still], footage="a video"))[0]) == 2  # but not be equal
    in_two_splits = [*pictures_of([still], footage="a video"), *pictures_of([later], split="test", footage="a video")]
    assert len(find_copies(in_two_splits)) == 1


def test_black_pictures_are_not_one_photo():
    random = np.random.default_rng(0)
    dark = [Image.fromarray(random.integers(0, 3, (72, 96, 3), dtype=np.uint8)) for _ in range(6)]
    assert find_copies(pictures_of(dark)) == []
    assert len(find_copies(pictures_of([dark[0], dark[1], dark[0]]))) == 1
    assert find_copies([]) == []


def test_photos_in_two_datasets(tmp_path):
    write_dataset(tmp_path)
    write_dataset(tmp_path, "yours", seed=1)
    for mine, yours in (("a0", "a0"), ("c1", "a1"), ("b1", "b1")):
        copy = jpeg(Image.open(tmp_path / "mine" / "images" / f"{mine}.png"), 60)
        copy.save(tmp_path / "yours" / "images" / f"{yours}.png")
    assert tags(found(tmp_path, "mine", "yours")) == [
        ("warning", "duplicate:mine/a0=yours/a0"), ("warning", "duplicate:mine/b1=yours/b1"), ("error", "leak:mine/c1=yours/a1"),
    ]  # fmt: skip
    assert found(tmp_path, "mine") == found(tmp_path, "yours") == []
    write_dataset(tmp_path / "x", known=["leak:mine/c1=yours/a1"])
    (tmp_path / "mine.yaml").write_text((tmp_path / "x" / "mine.yaml").read_text())
    assert ("known", "leak:mine/c1=yours/a1") in tags(found(tmp_path, "mine", "yours"))


def test_what_is_left_out(tmp_path):
    """The copy to test on stays, then the one to validate on, then that of the first dataset; what belongs together stays."""
    write_dataset(tmp_path, together=[["b0", "b2"]])
    write_dataset(tmp_path, "yours", seed=1)
    images = tmp_path / "mine" / "images"
    for source, copy in (("a0", "a2"), ("b0", "b2")):
        (images / f"{copy}.png").write_bytes((images / f"{source}.png").read_bytes())
    for mine, yours in (("a1", "c1"), ("b1", "b1"), ("c1", "a1")):
        (tmp_path / "yours" / "images" / f"{yours}.png").write_bytes((images / f"{mine}.png").read_bytes())
    surveys: list[Survey] = [survey(opened(tmp_path, name)) for name in ("mine", "yours")]
    out = leave_out(surveys, copies(surveys))
    assert {name: {key: f"{copy.dataset}/{copy.key}" for key, copy in keys} for name, keys in out.items()} == {
        "mine": {"a2": "mine/a0", "a1": "yours/c1"}, "yours": {"b1": "mine/b1", "a1": "mine/c1"},
    }  # fmt: skip
    severities = {finding.tag: finding.severity for finding in check(surveys)}
    assert severities["duplicate:b0=b2"] == "known" and severities["duplicate:a0=a2"] == "warning"


# Real data


def test_the_six_photos_that_stanford_has_twice(data_root):
    dataset = open_dataset(load_dataset_config("stanford"), data_root)
    twice = {tuple(keys) for keys in dataset.config.together}
    some = {key for pair in twice for key in pair} | {item.key for split in dataset.splits.values() for item in split[::9]}
    splits = {split: tuple(item for item in items if item.key in some) for split, items in dataset.splits.items()}
    findings = check([survey(replace(dataset, splits=splits))])
    assert {finding.what for finding in findings} == {"=".join(sorted(pair)) for pair in twice}
    assert {finding.severity for finding in findings} == {"known"}


def test_camvid_and_its_published_split(data_root):
    """Videos are whole in the split of our own; the published one, whose mixing the YAML acknowledges, has frames of two on both sides."""
    config = load_dataset_config("camvid")
    assert tags(checks.check_files(open_dataset(config, data_root))) == []
    official = checks.check_files(open_dataset(config, data_root, split="official"))
    assert tags(official) == [("error", "sequence:0001TP"), ("error", "sequence:0016E5")]
    assert {finding.tag for finding in official} == set(config.known)


def test_many_warnings_of_one_kind_are_one_line():
    few = [checks.Finding("warning", "code", f"a{n}", ("a",), f"code {n}") for n in range(3)]
    many = [checks.Finding("warning", "duplicate", f"p{n}", ("a", "b"), f"photo {n}") for n in range(200)]
    other = [checks.Finding("known", "void", "a", ("a",), "acknowledged")]
    lines = checks.warnings([*few, *many, *other])
    assert lines[:3] == [f"warning: code {n} [code:a{n}]" for n in range(3)]
    assert lines[3:] == ["warning: photo 0 [duplicate:p0] and 199 more of this kind, shown by densemtmd check-data"]
