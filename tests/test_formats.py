"""Files of objects, as the tools write them that people label with: drawn as pycocotools draws them, and refused with a sentence."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO
from scipy.ndimage import gaussian_filter
from toy import refused

from densemtmd import Labelset
from densemtmd.datasets.config import load_dataset_config, parse_dataset_config
from densemtmd.datasets.folder import Dataset, open_dataset
from densemtmd.datasets.formats.outlines import coco_of, gathered, labelme_of, pieces, straightened
from densemtmd.datasets.formats.regions import by_area, from_mask, from_runs, outline, painted
from densemtmd.datasets.starter import draft

HEIGHT, WIDTH = 40, 60
REST = {"label": "other", "codes": "rest"}


def photo(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name) + ord(path.stem[-1])).integers(0, 256, (*size, 3))
    Image.fromarray(values.astype(np.uint8)).save(path, **how)


def opened(folder: Path, encoding: str, labels: str, labelset: list[Any], **more: Any) -> Dataset:
    content = {"name": "mine", "folder": str(folder), "images": "images/*.jpg", "labels": labels, "encoding": encoding}
    content |= {"labelset": labelset, "split": {"fractions": {"train": 1}}} | more
    return open_dataset(parse_dataset_config(content, folder / "mine.yaml"), folder)


def targets(dataset: Dataset) -> dict[str, np.ndarray]:
    return {item.key: dataset.load(item).target for items in dataset.splits.values() for item in items}


def drafted(folder: Path) -> tuple[dict[str, Any], Dataset]:
    """The draft for a folder, and the dataset that it is as it stands."""
    path = folder.parent / "draft.yaml"
    path.write_text(draft(folder), encoding="utf-8")
    return yaml.safe_load(path.read_text("utf-8")), open_dataset(load_dataset_config(path), folder.parent)


def blob(random: np.random.Generator, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Corners of some object, some of it outside of the picture."""
    centre, count = random.uniform(-5, [size[1] + 5, size[0] + 5]), random.integers(3, 30)
    points = centre + random.normal(0, random.uniform(1, 15), (count, 2))
    return np.asarray(np.round(points * 2) / 2 if random.random() < 0.3 else np.round(points, 2))


# ------------------------------------------------------------------------------------------------------------------------------------
# Regions


def test_outlines_cover_the_pixels_of_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(1500):
        size = tuple(random.integers(5, 120, 2).tolist())
        points = blob(random, size)
        (expected,) = reference.frPyObjects([points.ravel().tolist()], *size)
        region = outline(points, size, 3, "it")
        found = painted([] if region is None else [region], size, "it")
        np.testing.assert_array_equal(found, np.where(reference.decode(expected), 3, -1))
        assert region is None or region.area == reference.area(expected)


def test_run_lengths_are_those_of_pycocotools():
    random = np.random.default_rng(1)
    for n in range(300):
        size = tuple(random.integers(1, 90, 2).tolist())
        mask = random.random(size) < random.choice([0.0, 0.02, 0.5, 1.0])
        if n % 3 == 0:
            mask[: random.integers(size[0] + 1)] = n % 2
        packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        flat = mask.T.ravel()
        turns = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *([0] if flat[0] else []), *turns, flat.size]).tolist()
        for runs in (packed, counts):
            region = from_runs(runs, size, 0, "it")
            np.testing.assert_array_equal(painted([region] if region else [], size, "it") == 0, mask)


@pytest.mark.parametrize("counts", [
    "", "~", "é", "1" * 40, "oooooooooooo0", [3, 4], [-1, 2401], [2400.0], [2**40], ["2400"], [True], None, 7, [2399], [2401], "P" * 9,
])  # fmt: skip
def test_run_lengths_that_are_none(counts):
    with refused("it has run lengths"):
        from_runs(counts, (HEIGHT, WIDTH), 0, "it")


def test_outlines_without_measure():
    square = np.array([[0, 0], [10, 0], [10, 10.0]])
    for points in (square * 1e9, square + np.nan, square + np.inf, -square * 1e300):
        with refused("it has a point far outside of its picture of 60×40"):
            outline(points, (HEIGHT, WIDTH), 0, "it")
    with refused("it has an outline of more than 2,000,000 pixels"):
        outline(np.tile([[0.0, 0], [60, 40]], (40_000, 1)), (HEIGHT, WIDTH), 0, "it")
    assert outline(square[:2], (HEIGHT, WIDTH), 0, "it") is None and outline(square - 50, (HEIGHT, WIDTH), 0, "it") is None
    region = outline(square, (HEIGHT, WIDTH), 0, "it")
    with refused("it has 60000 objects that cover its picture"):
        painted([region] * 60_000, (HEIGHT, WIDTH), "it")


def test_later_regions_lie_over_earlier_ones_and_areas_put_the_small_on_top():
    large, small = (from_mask(np.ones(size, bool), code, 2, 3) for code, size in enumerate([(9, 9), (4, 5)]))
    assert (painted([large, small], (20, 20), "it")[2:6, 3:8] == 1).all()
    assert (painted([small, large], (20, 20), "it")[2:11, 3:12] == 0).all()
    assert by_area([[small], [large]]) == [large, small]
    assert by_area([[small] * 5, [large], [small] * 4]) == [small] * 5 + [large] + [small] * 4


# ------------------------------------------------------------------------------------------------------------------------------------
# COCO


def coco_folder(folder: Path, pictures: int = 6, split: bool = False) -> list[Path]:
    """Pictures with outlines, several to an object, run lengths of both kinds, and crowds; names of two alphabets."""
    random, files = np.random.default_rng(2), []
    for part in ("train", "val") if split else ("all",):
        content: dict[str, Any] = {
            "info": {"year": 2026}, "images": [], "annotations": [],
            "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "straße"}, {"id": 7, "name": "person"}],
        }  # fmt: skip
        for n in range(pictures):
            photo(folder / "images" / f"{part}{n}.jpg")
            content["images"].append({"id": 1000 + n, "file_name": f"{part}{n}.jpg", "height": HEIGHT, "width": WIDTH})
            for number in range(6):
                outlines = [blob(random).ravel().tolist() for _ in range(1 + number % 2)]
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                mask[random.integers(HEIGHT) :, : random.integers(WIDTH)] = 1
                packed = reference.encode(np.asfortranarray(mask))["counts"].decode()
                counts = [int(mask.size - mask.sum()), int(mask.sum())] if mask[0].sum() == 0 and mask.all(axis=0).all() else [mask.size]
                segmentation = [outlines, {"size": [HEIGHT, WIDTH], "counts": packed if n % 2 else counts}][number == 5]
                content["annotations"].append({
                    "id": len(content["annotations"]), "image_id": 1000 + n, "category_id": [3, 90, 7][number % 3],
                    "segmentation": segmentation, "iscrowd": int(number == 5), "bbox": [0, 0, 1, 1], "area": 1,
                })  # fmt: skip
        path = folder / "annotations" / f"instances_{part}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=[None, 1][split]), encoding="utf-8")
        files.append(path)
    return files


def expected_of_coco(path: Path, name: str, labels: list[str]) -> np.ndarray:
    """Class ids by pycocotools itself: crowds first, then the largest first; all else is the class after the last."""
    coco = COCO(str(path))
    (image,) = [one for one in coco.imgs.values() if one["file_name"] == name]
    found = np.full((HEIGHT, WIDTH), len(labels), np.uint8)
    parts = []
    for one in coco.imgToAnns[image["id"]]:
        mask, label = coco.annToMask(one).astype(bool), coco.cats[one["category_id"]]["name"]
        outlines = one["segmentation"]
        each = reference.frPyObjects(outlines, HEIGHT, WIDTH) if isinstance(outlines, list) else [coco.annToRLE(one)]
        area = int(sum(reference.area(runs) for runs in each))
        parts.append((not one["iscrowd"], -area, mask, labels.index(label) if label in labels else len(labels)))
    for _, _, mask, class_id in sorted(parts, key=lambda part: part[:2]):
        found[mask] = class_id
    return found


def test_coco_is_read_as_pycocotools_reads_it(tmp_path, capsys):
    (path,) = coco_folder(tmp_path)
    for labels in (["car", "straße", "person"], ["person", "car"]):
        dataset = opened(tmp_path, "coco", "annotations/*.json", [*labels, REST])
        found = targets(dataset)
        assert len(found) == 6 and not dataset.without_labels
        for key, target in found.items():
            np.testing.assert_array_equal(target, expected_of_coco(path, f"{key}.jpg", labels))
    voided = opened(tmp_path, "coco", "annotations/*.json", ["person", "car"], void="rest")
    assert all((np.where(found[key] == 2, 255, found[key]) == target).all() for key, target in targets(voided).items())
    capsys.readouterr()


def test_codes_of_objects_are_names_that_labels_take_together(tmp_path):
    coco_folder(tmp_path)
    ground = {"label": "ground", "codes": ["straße"]}
    whole = targets(opened(tmp_path, "coco", "annotations/*.json", ["car", "straße", "person", REST]))
    dataset = opened(tmp_path, "coco", "annotations/*.json", [ground, {"label": "thing", "codes": ["car"]}, REST], void=["person"])
    table = np.array([1, 0, 255, 2], np.uint8)
    assert all((table[whole[key]] == target).all() for key, target in targets(dataset).items())


def test_a_picture_is_found_by_the_end_of_its_path_and_nothing_else_is_opened(tmp_path):
    (path,) = coco_folder(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    names = ["all0.jpg", "images/all1.jpg", "/home/one/photos/all2.jpg", "..\\images\\all3.jpg", "../../../etc/all9.jpg", "/etc/passwd"]
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    path.write_text(json.dumps(content))
    dataset = opened(tmp_path, "coco", "annotations/*.json", ["car", "person", REST])
    assert [item.key for item in dataset.splits["train"]] == ["all0", "all1", "all2", "all3"]
    assert [bare.name for bare in dataset.without_labels] == ["all4.jpg", "all5.jpg"]
    assert dataset.notes == ("mine: 2 of 6 pictures that instances_all2017.json lists are not there",)


def test_a_draft_of_coco_is_a_dataset(tmp_path):
    coco_folder(tmp_path / "street", split=True)
    keypoints = json.loads((tmp_path / "street" / "annotations" / "instances_train2017.json").read_text("utf-8"))
    (tmp_path / "street" / "annotations" / "a_keypoints_train2017.json").write_text(json.dumps(keypoints))
    content, dataset = drafted(tmp_path / "street")
    assert content["encoding"] == "coco" and [entry["label"] for entry in content["labelset"]] == ["car", "straße", "person", "other"]
    assert content["split"]["patterns"] == {
        "train": "annotations/instances_train2017.json", "val": None, "test": "annotations/instances_val2017.json",
    } | {"val": 0.15}  # fmt: skip
    assert sum(map(len, dataset.splits.values())) == 12 and len(dataset.splits["test"]) == 6
    assert all(target.shape == (HEIGHT, WIDTH) for target in targets(dataset).values())
    assert "Did the annotator look at all of it?" in draft(tmp_path / "street").replace("\n# ", " ")


def test_coco_as_it_is_handed_out(tmp_path):
    """Captions, keypoints, panoptic pictures and pictures without annotations lie beside the outlines; ways of Windows; what is missing."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split, first in (("train2017", 0), ("val2017", 8)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 44, "name": "car"}, {"id": 3, "name": "person"}]}
        for n in range(first, first + 4):
            if n % 4 != 3:
                photo(folder / "images" / split / "night" / f"{n:03}.jpg")
            content["images"].append({"id": 500 - n, "file_name": f"{split}\\night\\{n:03}.jpg", "height": HEIGHT, "width": WIDTH})
            for category, left in ((44, 5), (3, 30)):
                corners = [left, 2, left + 10, 2, left + 10, 20, left, 20]
                own = {"image_id": 500 - n, "category_id": category, "segmentation": [corners], "iscrowd": 0}
                content["annotations"].append({"id": n, **own})
        for name, own in {
            "instances": {}, "person_keypoints": {"categories": [{"id": 44, "name": "cap"}, {"id": 3, "name": "man"}]},
            "captions": {"annotations": [{"id": 1, "image_id": 500 - first, "caption": "a car"}], "categories": []},
            "panoptic": {"annotations": [{"image_id": 500 - first, "segments_info": [{"id": 1, "category_id": 3}]}]},
            "image_info": {"annotations": []},
        }.items():  # fmt: skip
            text = json.dumps(content | own, indent=1).replace("\n", "\r\n")
            (folder / "annotations" / f"{name}_{split}.json").write_text(text, newline="")
    drawn, dataset = drafted(folder)
    assert drawn["labels"] == ["annotations/instances_train2017.json", "annotations/instances_val2017.json"]
    assert [entry["label"] for entry in drawn["labelset"]] == ["car", "person", "other"]
    found = targets(dataset)
    assert len(found) == 6 and all([np.sum(target == n) for n in (0, 1)] == [180, 180] for target in found.values())
    assert sum("are not there" in note for note in dataset.notes) == 2
    for path in (folder / "annotations").iterdir():
        if not path.name.startswith("image_info"):
            path.unlink()
    with refused("annotations of COCO, but no object in it: label some pictures first"):
        draft(folder)


def change(content: Any, *places: Any) -> None:
    """``change(content, "images", 0, "width", 7)``: puts a value in its place, or takes one away where it is ``...``."""
    *above, last, value = places
    for key in above:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(("places", "words"), [
    (("images", ...), ["has no list 'images'", "annotations of COCO"]),
    (("images", 0, "width", 61), ["61×40 pixels of all0.jpg, which has 60×40"]),
    (("images", 0, "width", 10**12), ["1000000000000×40 pixels of all0.jpg"]),
    (("images", 0, "height", -1), ["expected a name and whole numbers"]),
    (("images", 0, "file_name", 3), ["the file_name 3"]),
    (("images", 0, "file_name", "all1.jpg"), ["lists the picture 'all1.jpg' twice"]),
    (("images", 0, "file_name", "x/all1.jpg"), ["whose labels are 'x/all1.jpg' of", "already"]),
    (("images", 1, "id", 1000), ["has the id 1000 of another picture"]),
    (("images", 0, "id", None), ["has the id None"]),
    (("images", 0, []), ["is list, expected keys with values"]),
    (("categories", 0, ...), ["a category with the id 3"]),
    (("annotations", 0, "image_id", 5), ["a picture with the id 5"]),
    (("annotations", 0, "segmentation", ...), ["the annotation 0 of all0.jpg", "a box but no outline"]),
    (("annotations", 0, "segmentation", 7), ["neither outlines nor run lengths"]),
    (("annotations", 0, "segmentation", [[1, 2, 3]]), ["no list of x, y"]),
    (("annotations", 0, "segmentation", [[1, 2, 3, "4", 5, 6]]), ["no list of x, y"]),
    (("annotations", 0, "segmentation", [[1, 2, 10**400, 4, 5, 6]]), ["a number beyond all measure"]),
    (("annotations", 0, "segmentation", [[1, 2, 10**30, 4, 5, 6]]), ["a point far outside"]),
    (("annotations", 0, "segmentation", [[1, 2, float("nan"), 4, 5, 6]]), ["a point far outside"]),
    (("annotations", 5, "segmentation", "size", [10**9, 10**9]), ["expected rows and columns [40, 60]"]),
    (("annotations", 5, "segmentation", "counts", [10**9, 10**9]), ["that do not make up its picture"]),
    (("annotations", 0, "segments_info", []), ["panoptic"]),
])  # fmt: skip
def test_mistakes_in_coco(tmp_path, places, words):
    (path,) = coco_folder(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    change(content, *places)
    path.write_text(json.dumps(content))
    with refused(path, *words):
        targets(opened(tmp_path, "coco", "annotations/*.json", ["car", "straße", "person", REST]))


@pytest.mark.parametrize("text", [
    "", "[", "{", '{"images": [', "[" * 100_000, '{"images": [{]}', '{"images"', '{"images": [] []}', "{}x", "\xff",
])  # fmt: skip
def test_what_is_no_json(tmp_path, text):
    (path,) = coco_folder(tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with refused(path, "annotations of COCO"):
        opened(tmp_path, "coco", "annotations/*.json", ["car", REST])


def test_a_file_that_changes_is_read_anew(tmp_path):
    (path,) = coco_folder(tmp_path)
    dataset = opened(tmp_path, "coco", "annotations/*.json", ["car", "straße", "person", REST])
    content = json.loads(path.read_text("utf-8")) | {"annotations": []}
    path.write_text(json.dumps(content))
    assert all((target == 3).all() for target in targets(dataset).values())
    path.write_text(json.dumps(content | {"images": []}))
    with refused(path, "no longer lists the picture 'all0.jpg'"):
        targets(dataset)


def test_what_no_object_covers_must_be_said(tmp_path):
    coco_folder(tmp_path)
    for void in (None, "negative", ["person"]):
        with refused("does not say what a pixel is that no object covers"):
            opened(tmp_path, "coco", "annotations/*.json", ["car", "straße"], void=void)
    with refused("expected names of labels"):
        opened(tmp_path, "coco", "annotations/*.json", [{"label": "car", "codes": [3]}, REST])
    rest = opened(tmp_path, "coco", "annotations/*.json", ["rest", "car"], void="rest")  # a label of that name is one
    assert rest.config.codes.labels == (("rest",), ("car",))


# ------------------------------------------------------------------------------------------------------------------------------------
# labelme

BOX = np.array([[10.0, 5], [30, 25]])


def labelme_file(path: Path, shapes: list[dict[str, Any]], **more: Any) -> None:
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH} | more
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def shape(label: str, points: np.ndarray, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points.tolist(), "group_id": None, "shape_type": kind, "flags": {}} | more


def as_png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def labelme_folder(folder: Path, pictures: int = 6) -> None:
    random = np.random.default_rng(3)
    for n in range(pictures):
        photo(folder / "images" / f"{n}.jpg")
        labelme_file(folder / "images" / f"{n}.json", [shape(label, blob(random)) for label in ("tree", "car", "_background_", "car")])


def test_labelme_draws_one_shape_over_the_other(tmp_path):
    labelme_folder(tmp_path)
    for key, target in targets(opened(tmp_path, "labelme", "images/*.json", ["car", "tree"], void="rest")).items():
        expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for one in json.loads((tmp_path / "images" / f"{key}.json").read_text())["shapes"]:
            (runs,) = reference.frPyObjects([np.ravel(one["points"]).tolist()], HEIGHT, WIDTH)
            expected[reference.decode(runs) > 0] = {"car": 0, "tree": 1}.get(one["label"], 255)
        np.testing.assert_array_equal(target, expected)


def test_every_shape_of_labelme_that_has_pixels(tmp_path):
    photo(tmp_path / "images" / "0.jpg")
    mask = np.random.default_rng(4).random((8, 9)) < 0.5
    labelme_file(tmp_path / "images" / "0.json", [
        shape("rectangle", BOX, "rectangle"), shape("circle", np.array([[45.0, 20], [45, 30]]), "circle"),
        shape("mask", np.array([[1.0, 30], [9, 37]]), "mask", mask=as_png(mask)),
        shape("unknown", BOX[:1], "point"), shape("unknown", BOX, "line"),
    ])  # fmt: skip
    (target,) = targets(opened(tmp_path, "labelme", "images/*.json", ["rectangle", "circle", "mask", REST])).values()
    assert (target[5:25, 10:30] == 0).all() and (target == 0).sum() == 400
    disc = np.hypot(np.arange(WIDTH) + 0.5 - 45, (np.arange(HEIGHT) + 0.5 - 20)[:, None])
    assert (target[disc < 9.5] == 1).all() and (target[disc > 10.5] != 1).all()
    assert ((target[30:38, 1:10] == 2) == mask).all() and (target == 2).sum() == mask.sum()


def test_a_draft_of_labelme_is_a_dataset(tmp_path):
    labelme_folder(tmp_path / "yard")
    shapes = [shape("tree", BOX + 2), shape("Nr. 1: a", BOX + 9), shape("__ignore__", BOX, "rectangle")]
    labelme_file(tmp_path / "yard" / "images" / "0.json", shapes)
    content, dataset = drafted(tmp_path / "yard")
    assert (content["encoding"], content["images"], content["labels"]) == ("labelme", "images/*.jpg", "images/*.json")
    assert content["labelset"][-1] == REST and content["void"] == ["__ignore__"]
    assert {entry["label"] for entry in content["labelset"]} == {"car", "tree", "_background_", "Nr. 1: a", "other"}
    target = targets(dataset)["0"]
    assert (target[5:7, 10:30] == 255).all() and len(targets(dataset)) == 6


def test_shapes_of_labelme_that_have_no_pixels_are_no_labels(tmp_path):
    labelme_folder(tmp_path / "street")
    points = np.array([[1.0, 1], [9, 9]])
    path = min((tmp_path / "street").rglob("*.json"))
    content = json.loads(path.read_text("utf-8"))
    more = [shape("lane", points, "line"), shape("lane", points, "linestrip"), shape("corner", points[:1], "point")]
    path.write_text(json.dumps(content | {"shapes": content["shapes"] + more}), encoding="utf-8")
    text = draft(tmp_path / "street")
    assert "# Only lines and points, which cover no pixel, are called corner, lane.\n" in text
    assert not {"lane", "corner"} & {entry["label"] for entry in yaml.safe_load(text)["labelset"]}
    assert targets(drafted(tmp_path / "street")[1])


def test_shapes_of_labelme_that_have_no_pixels_are_all_there_is(tmp_path):
    photo(tmp_path / "0.jpg")
    labelme_file(tmp_path / "0.json", [shape("crack", np.array([[1.0, 1], [9, 9]]), "line")])
    with refused("but only lines and points (crack), which cover no pixel: draw polygons"):
        draft(tmp_path)


def test_pictures_that_labelme_keeps_within_its_files(tmp_path):
    labelme_folder(tmp_path / "street")
    for path in [*(tmp_path / "street").rglob("*.json"), *(tmp_path / "street").rglob("*.jpg")]:
        if path.suffix == ".jpg":
            path.unlink()
        else:
            content = json.loads(path.read_text("utf-8")) | {"imageData": "/9j/" + "A" * 100_000}
            path.write_text(json.dumps(content), encoding="utf-8")
    advice = "write those that are within them out, and put them beside, called as they are: 0.png"
    with refused(f"none of the pictures that they are about: {advice}"):
        draft(tmp_path / "street")
    for path in (tmp_path / "street").rglob("*.json"):
        photo(path.with_suffix(".png"))
    assert len(targets(drafted(tmp_path / "street")[1])) == 6


@pytest.mark.parametrize(("places", "words"), [
    (("shapes", ...), ["has no list 'shapes'", "labelme's JSON"]),
    (("shapes", 0, "label", 3), ["shape 1 has no label"]),
    (("shapes", 0, 3), ["shape 1 has no label"]),
    (("shapes", 1, "points", [[1, 2], [3]]), ["shape 2 (car) has points that are no list"]),
    (("shapes", 1, "points", "x"), ["shape 2 (car) has points that are no list"]),
    (("shapes", 1, "points", 0, [1e308, 4]), ["a point far outside"]),
    (("shapes", 1, "shape_type", "line"), ["shape 2 (car) is a line, which covers no pixel"]),
    (("shapes", 1, "shape_type", "circle"), ["is a circle of", "expected 2"]),
    (("shapes", 1, "shape_type", "cloud"), ["is of the type 'cloud'"]),
    (("shapes", 1, "shape_type", "mask"), ["has a mask that cannot be decoded"]),
    (("imageHeight", 10**15), ["imageHeight 1000000000000000, but its picture has 60×40"]),
    (("imageWidth", "60"), ["imageWidth '60', but its picture has 60×40"]),
])  # fmt: skip
def test_mistakes_in_labelme(tmp_path, places, words):
    labelme_folder(tmp_path, 2)
    path = tmp_path / "images" / "0.json"
    content = json.loads(path.read_text())
    change(content, *places)
    path.write_text(json.dumps(content))
    with refused(path, *words):
        targets(opened(tmp_path, "labelme", "images/*.json", ["car", "tree", REST]))


def test_a_mask_that_leaves_its_picture(tmp_path):
    photo(tmp_path / "images" / "0.jpg")
    for corners in ([[55.0, 0], [63, 7]], [[-1.0, 0], [7, 7]], [[1e300, 0], [7, 7]]):
        mask = shape("car", np.array(corners), "mask", mask=as_png(np.ones((8, 9), bool)))
        labelme_file(tmp_path / "images" / "0.json", [mask])
        with refused("leaves its picture"):
            targets(opened(tmp_path, "labelme", "images/*.json", ["car", REST]))


def test_pictures_that_their_exif_turns_are_labelled_as_people_see_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "images" / "0.jpg", (WIDTH, HEIGHT), exif=exif)
    labelme_file(tmp_path / "images" / "0.json", [shape("car", BOX, "rectangle")])
    (target,) = targets(opened(tmp_path, "labelme", "images/*.json", ["car", REST])).values()
    assert target.shape == (HEIGHT, WIDTH) and (target[5:25, 10:30] == 0).all()


# ------------------------------------------------------------------------------------------------------------------------------------
# YOLO


def yolo_line(label: int, points: np.ndarray) -> str:
    return " ".join([str(label), *(f"{value:.6f}" for value in (points / [WIDTH, HEIGHT]).ravel())])


def yolo_folder(folder: Path) -> None:
    """The layout of its trainers: a split for each folder, with the same names in both; one picture without an object."""
    random = np.random.default_rng(6)
    for split, count in (("train", 5), ("val", 3)):
        for n in range(count):
            photo(folder / "images" / split / f"{n}.jpg")
            lines = [yolo_line(label, blob(random)) for label in (2, 0, 2) if n]
            (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
            (folder / "labels" / split / f"{n}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: car, 1: tram, 2: 'no'}\n")


def test_yolo_draws_the_smaller_over_the_larger(tmp_path):
    yolo_folder(tmp_path)
    where = {"images": "images/*/*.jpg", "split": {"fractions": {"train": 1}}}
    for item_key, target in targets(opened(tmp_path, "yolo", "labels/*/*.txt", ["car", "tram", "stop", REST], **where)).items():
        drawn = []
        for line in (tmp_path / "labels" / f"{item_key}.txt").read_text().splitlines():
            label, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2) * [WIDTH, HEIGHT]
            (runs,) = reference.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)
            drawn.append((-int(reference.area(runs)), int(label), reference.decode(runs) > 0))
        expected = np.full((HEIGHT, WIDTH), 3, np.uint8)
        for _, label, mask in sorted(drawn, key=lambda one: one[0]):
            expected[mask] = label
        np.testing.assert_array_equal(target, expected)


def test_a_draft_of_yolo_is_a_dataset(tmp_path):
    yolo_folder(tmp_path / "trams")
    content, dataset = drafted(tmp_path / "trams")
    assert content["labelset"] == [{"label": "car", "codes": [0]}, {"label": "no", "codes": [2]}, REST]
    assert (content["encoding"], content["images"], content["labels"]) == ("yolo", "images/*/*.jpg", "labels/*/*.txt")
    assert content["split"]["patterns"] == {"train": "images/train/*", "val": 0.15, "test": "images/val/*"}
    assert (targets(dataset)["train/0"] == 2).all() and len(targets(dataset)) == 8


@pytest.mark.parametrize(("text", "words"), [
    ("0 0.5 0.5 0.2 0.2", ["line 1 is a box, which says nothing of pixels"]),
    ("\n0 0.1 0.1 0.2 0.2 0.3", ["line 2 is a class and 5 numbers"]),
    ("car 0.1 0.1 0.2 0.2 0.3 0.3", ["line 1 is 'car 0.1", "expected a class and x, y"]),
    ("0 0.1 0.1 0.2 0.2 nan 0.3", ["expected a class and x, y"]),
    ("0 0.1 0.1 0.2 0.2 . 0.3", ["a number that is none"]),
    ("0 0.1 0.1 0.2 0.2 1e30 0.3", ["a point far outside"]),
    ("\x00\xff", ["expected a class and x, y"]),
])  # fmt: skip
def test_mistakes_in_yolo(tmp_path, text, words):
    photo(tmp_path / "images" / "0.jpg")
    path = tmp_path / "0.txt"
    path.write_bytes(text.encode("latin-1"))
    with refused(path, *words):
        targets(opened(tmp_path, "yolo", "*.txt", ["car", REST]))


# ------------------------------------------------------------------------------------------------------------------------------------
# Label Studio

BRUSHES = [
    ([0, 0, 0, 216, 57, 27, 252, 127, 249, 28, 3, 9, 255, 223, 0, 194, 127, 247, 192, 48, 159, 254, 47, 0, 0],
     ["#........", ".........", ".#####...", ".#####...", ".#####...", "........."]),
    ([0, 0, 1, 80, 57, 27, 253, 176, 12, 47, 255, 56, 4, 255, 246, 192, 39, 255, 140, 2, 63, 248, 192, 35, 255, 140, 2, 63, 249, 192, 35,
      255, 156, 2, 63, 248, 192, 35, 255, 140, 2, 223, 252, 96, 19, 255, 198, 1, 31, 252, 96, 19, 255, 219, 0, 159, 254, 48, 8, 255, 227, 0,
      143, 254, 48, 8, 255, 231, 0, 143, 254, 216, 4, 255, 241, 128, 71, 255, 56, 4, 127, 241, 128, 79, 255, 24, 4, 127, 248, 92, 2, 63,
      249, 192, 35, 255, 140, 0],
     ["...####", "##..##.", "..##.#.", "#.#..#.", ".#.#.##", "#.##.#.", "##...##", ".#.#.#.", ".#...##", ".#..#.#", "#.#....", "..#..#."]),
]  # fmt: skip
"""What mask2rle of label-studio-converter 0.0.59 makes of some masks."""


def region(kind: str, label: str, size: tuple[int, int] = (HEIGHT, WIDTH), **value: Any) -> dict[str, Any]:
    value |= {kind: [label]}
    return {"type": kind, "original_width": size[1], "original_height": size[0], "image_rotation": 0, "value": value, "id": "x"}


def studio_file(path: Path, tasks: dict[str, list[dict[str, Any]]]) -> None:
    content = [
        {"id": n, "data": {"image": name, "note": "by night"}, "predictions": [], "annotations": [
            {"id": 5 * n, "was_cancelled": False, "ground_truth": False, "result": result},
            {"id": 5 * n + 1, "was_cancelled": True, "result": [region("polygonlabels", "wrong", points=[[0, 0], [100, 0], [0, 100]])]},
        ]}
        for n, (name, result) in enumerate(tasks.items())
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_names_that_label_studio_changes_when_pictures_are_uploaded(tmp_path):
    """Beside the pictures as they were called before, and as it stores them."""
    square = region("polygonlabels", "car", points=[[0, 0], [50, 0], [50, 50], [0, 50]])
    names = [f"Screenshot ({n}) of a cär.jpg" for n in range(4)]
    tasks = {f"/data/upload/7/1a2b3c4{n}-Screenshot_{n}_of_a_c%C3%A4r.jpg": [square] for n in range(4)}
    for name in names:
        photo(tmp_path / "before" / "pictures" / name)
    for task in tasks:
        photo(tmp_path / "after" / "media" / "upload" / "7" / unquote(task).rpartition("/")[2])
    for folder in (tmp_path / "before", tmp_path / "after"):
        studio_file(folder / "project-7-at-2026.json", tasks)
        _, dataset = drafted(folder)
        assert len(targets(dataset)) == 4 and all((target == 0).sum() == target.size / 4 for target in targets(dataset).values())
    photo(tmp_path / "before" / "pictures" / "Screenshot (0) of_a cär.jpg")  # which of them is meant?
    assert len(targets(drafted(tmp_path / "before")[1])) == 3


@pytest.mark.parametrize("number", [0, 1])
def test_brushes_of_label_studio(tmp_path, number):
    packed, rows = BRUSHES[number]
    mask = np.array([[letter == "#" for letter in row] for row in rows])
    photo(tmp_path / "images" / "a b.jpg", mask.shape)
    studio_file(tmp_path / "project.json", {
        "/data/upload/3/0a1b2c3d-a%20b.jpg": [region("brushlabels", "car", mask.shape, format="rle", rle=packed)],
    })  # fmt: skip
    (target,) = targets(opened(tmp_path, "label_studio", "*.json", ["car", REST])).values()
    np.testing.assert_array_equal(target == 0, mask)
    for damaged in (packed[:-4], packed[:9], [], [0] * 9, [300], None, [0, 255, *packed[2:]], [*packed[:8], *([255] * 30)]):
        studio_file(tmp_path / "project.json", {"a b.jpg": [region("brushlabels", "car", mask.shape, format="rle", rle=damaged)]})
        with refused("project.json: region 1 (car) of a b.jpg has a brush that does not make up its picture"):
            targets(opened(tmp_path, "label_studio", "*.json", ["car", REST]))


def test_shapes_of_label_studio_one_over_the_other(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "images" / f"{name}.jpg")
    points = np.array([[10.0, 5], [50, 9], [30, 35]])
    studio_file(tmp_path / "project.json", {
        "s3://bucket/photos/a.jpg": [
            region("polygonlabels", "car", points=(points / [WIDTH, HEIGHT] * 100).tolist()),
            region("rectanglelabels", "sign", x=50, y=25, width=25, height=50, rotation=0),
            region("labels", "tree", x=75, y=50, radiusX=10, radiusY=25, rotation=90),
            {"type": "choices", "value": {"choices": ["night"]}},
        ],
        "http://localhost:8080/data/local-files/?d=images/b.jpg": [
            region("rectanglelabels", "sign", x=50, y=0, width=50, height=25, rotation=90),  # turned about its corner: 10 high, 30 wide
        ],
    })  # fmt: skip
    found = targets(opened(tmp_path, "label_studio", "*.json", ["car", "sign", "tree"], void="rest"))
    (runs,) = reference.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)
    expected = np.where(reference.decode(runs), 0, 255)
    expected[10:30, 30:45] = 1
    away = np.hypot((np.arange(WIDTH) + 0.5 - 45) / 10, (np.arange(HEIGHT) + 0.5 - 20)[:, None] / 6)
    sure = np.abs(away - 1) > 0.12
    expected[away < 1] = 2
    np.testing.assert_array_equal(found["a"][sure], expected[sure])
    assert (found["b"][:30, 20:30] == 1).all() and (found["b"] == 1).sum() == 300


def test_the_annotation_that_counts(tmp_path):
    for name in ("a", "b", "c"):
        photo(tmp_path / "images" / f"{name}.jpg")
    box = {"x": 0, "y": 0, "width": 50, "height": 50}
    studio_file(tmp_path / "project.json", {"a.jpg": [region("rectanglelabels", "car", **box)]} | dict.fromkeys(("b.jpg", "c.jpg"), ()))
    content = json.loads((tmp_path / "project.json").read_text())
    content[1]["annotations"] = [{"ground_truth": True, "result": []}, content[0]["annotations"][0]]
    content[2]["annotations"] = content[2]["annotations"][1:]
    (tmp_path / "project.json").write_text(json.dumps(content))
    dataset = opened(tmp_path, "label_studio", "*.json", ["car", REST])
    found = targets(dataset)
    assert {key: int((target == 0).sum()) for key, target in found.items()} == {"a": 600, "b": 0}
    assert [bare.name for bare in dataset.without_labels] == ["c.jpg"]


def test_a_draft_of_label_studio_is_a_dataset(tmp_path):
    for n in range(6):
        photo(tmp_path / "yard" / "images" / f"{n}.jpg")
    box = {"x": 0, "y": 0, "width": 50, "height": 50}
    tasks = {f"/data/upload/1/0123abc{n}-{n}.jpg": [region("rectanglelabels", "car" if n % 2 else "a tree", **box)] for n in range(6)}
    studio_file(tmp_path / "yard" / "project-1.json", tasks)
    content, dataset = drafted(tmp_path / "yard")
    assert content["encoding"] == "label_studio" and content["labelset"] == [{"label": "a tree"}, {"label": "car"}, REST]
    assert len(targets(dataset)) == 6 and all(len(items) for items in dataset.splits.values())


@pytest.mark.parametrize(("places", "words"), [
    ((0, "annotations", ...), ["export as JSON, not as JSON-MIN"]),
    ((0, []), ["export as JSON, not as JSON-MIN"]),
    ((0, "data", {"image": "a.jpg", "other": "b.jpg"}), ["is about 2 pictures"]),
    ((0, "data", {"text": "a"}), ["is about 0 pictures"]),
    ((0, "annotations", 0, "result", 0, "original_width", 10**12), ["on a picture of 1000000000000×40 pixels, but that has 60×40"]),
    ((0, "annotations", 0, "result", 0, "image_rotation", 90), ["turned in Label Studio"]),
    ((0, "annotations", 0, "result", 0, "value", "points", ...), ["is no polygon, brush, rectangle or ellipse"]),
    ((0, "annotations", 0, "result", 0, "value", "points", [[1, 2, 3], [4, 5]]), ["is no polygon, brush, rectangle or ellipse"]),
    ((0, "annotations", 0, "result", 0, "value", "points", [["1", "x"]]), ["is no polygon, brush, rectangle or ellipse"]),
    ((0, "annotations", 0, "result", 0, "value", "points", 0, [1e9, 2]), ["a point far outside"]),
    ((1, {"data": {"image": "a.jpg"}, "annotations": [{"result": []}]}), ["has two tasks about a.jpg"]),
])  # fmt: skip
def test_mistakes_in_label_studio(tmp_path, places, words):
    for name in ("a", "b"):
        photo(tmp_path / "images" / f"{name}.jpg")
    path = tmp_path / "project.json"
    studio_file(path, {name: [region("polygonlabels", "car", points=[[0, 0], [50, 0], [0, 50]])] for name in ("a.jpg", "b.jpg")})
    content = json.loads(path.read_text())
    change(content, *places)
    path.write_text(json.dumps(content))
    with refused(path, *words):
        targets(opened(tmp_path, "label_studio", "*.json", ["car", REST]))


# ------------------------------------------------------------------------------------------------------------------------------------
# Masks whose names are known


def mask_of(path: Path, codes: list[int], palette: list[int] | None = None, colours: bool = False) -> None:
    """A mask of all these codes: grey, with a palette, or painted in the colours of the palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.resize(codes, (HEIGHT, WIDTH)).astype(np.uint8)
    picture = Image.fromarray(ids)
    if palette is not None:
        picture.putpalette(palette)
    (picture.convert("RGB") if colours else picture).save(path)


def voc_palette() -> list[int]:
    """Its code bit by bit, from the high bits of R, G, B downwards in turn."""
    return [sum(((code >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for code in range(256) for channel in range(3)]


@pytest.mark.parametrize("colours", [True, False])
def test_masks_of_cvat(tmp_path, colours):
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "car:128,0,0::", "a 'tree':0,128,0::", "unused:9,9,9::"]
    for n in range(6):
        photo(tmp_path / "task" / "JPEGImages" / f"{n}.jpg")
        mask_of(tmp_path / "task" / "SegmentationClass" / f"{n}.png", [0, 1, 2], voc_palette(), colours)
        mask_of(tmp_path / "task" / "SegmentationObject" / f"{n}.png", [0, 1, 1], voc_palette(), colours)
    (tmp_path / "task" / "labelmap.txt").write_text("\n".join(lines))
    content, dataset = drafted(tmp_path / "task")
    assert content["labels"] == "SegmentationClass/*.png" and content["encoding"] == ("colour" if colours else "index")
    assert {entry["label"]: entry["colour"] for entry in content["labelset"]} == {
        "background": [0, 0, 0], "car": [128, 0, 0], "a 'tree'": [0, 128, 0]
    }  # fmt: skip
    order = [entry["label"] for entry in content["labelset"]]
    expected = np.array([order.index(name) for name in ("background", "car", "a 'tree'")])[np.resize([0, 1, 2], (HEIGHT, WIDTH))]
    assert all((target == expected).all() for target in targets(dataset).values()) and "void" not in content
    assert re.sub(r"\n *# ", " ", draft(tmp_path / "task")).count("Did the annotator look at all of it?") == 1


def test_masks_of_voc(tmp_path):
    for n in range(6):
        photo(tmp_path / "VOC" / "JPEGImages" / f"2007_{n}.jpg")
        mask_of(tmp_path / "VOC" / "SegmentationClass" / f"2007_{n}.png", [0, 15, 20, 255], voc_palette())
    content, dataset = drafted(tmp_path / "VOC")
    assert content["labelset"][1] == {"label": "person", "codes": [15], "colour": [192, 128, 128]} and content["void"] == [255]
    assert [entry["label"] for entry in content["labelset"]] == ["background", "person", "tvmonitor"]
    assert set(np.unique(targets(dataset)["2007_0"])) == {0, 1, 2, 255}


def test_masks_of_cityscapes(tmp_path):
    for trained, codes in ((False, [0, 7, 26, 33]), (True, [0, 13, 18, 255])):
        root = tmp_path / str(trained)
        for n in range(4):
            name = f"ulm_{n:06}_000019"
            photo(root / "leftImg8bit" / ["train", "val"][n % 2] / "ulm" / f"{name}_leftImg8bit.png")
            mask_of(root / "gtFine" / ["train", "val"][n % 2] / "ulm" / f"{name}_gtFine_label{'Train' * trained}Ids.png", codes)
        content, dataset = drafted(root)
        assert [entry["label"] for entry in content["labelset"]] == ["road", "car", "bicycle"]
        assert content["labelset"][1]["colour"] == [0, 0, 142] and (0 in content["void"]) != trained
        assert set(np.unique(next(iter(targets(dataset).values())))) == {0, 1, 2, 255}
        for n in range(2):  # what is kept back for a benchmark says nothing, and tests nothing
            name = f"test/bonn/bonn_{n:06}_000019"
            photo(root / "leftImg8bit" / f"{name}_leftImg8bit.png")
            mask_of(root / "gtFine" / f"{name}_gtFine_label{'Train' * trained}Ids.png", [255 if trained else 3])
        content, dataset = drafted(root)
        assert content["split"]["patterns"]["test"] == "leftImg8bit/val/*" and len(targets(dataset)) == 4


def test_masks_of_mapillary(tmp_path):
    labels = [
        {"name": "animal--bird", "readable": "Bird", "color": [165, 42, 42], "evaluate": True},
        {"name": "object--car", "readable": "Car", "color": [0, 0, 142], "evaluate": True},
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": [0, 0, 0], "evaluate": False},
    ]
    for split in ("training", "validation"):
        for n in range(3):
            photo(tmp_path / "vistas" / split / "images" / f"{split}{n}.jpg")
            mask_of(tmp_path / "vistas" / split / "labels" / f"{split}{n}.png", [0, 1, 2], [1, 2, 3] * 9)
    (tmp_path / "vistas" / "config.json").write_text(json.dumps({"labels": labels, "version": "1.1"}))
    content, dataset = drafted(tmp_path / "vistas")
    assert content["labelset"] == [
        {"label": "Bird", "codes": [0], "colour": [165, 42, 42]}, {"label": "Car", "codes": [1], "colour": [0, 0, 142]}
    ]  # fmt: skip
    assert content["void"] == [2] and content["split"]["patterns"]["test"] == "validation/*" and len(targets(dataset)) == 6


def test_mapillary_with_the_labels_of_both_versions_and_pictures_to_test(tmp_path):
    """Labels are called as in their version; pictures whose names end alike, or without labels and called alike, mislead nobody."""
    folder = tmp_path / "vistas"
    names = {"v1.2": ["Bird", "Car", "Road"], "v2.0": ["Bird", "Kerb", "Car", "Road"]}
    for split, count in (("training", 5), ("validation", 3), ("testing", 2)):
        for n in range(count):
            called = f"{'tv'[split == 'validation']}{n}KbjW-_x{n}Qz"
            photo(folder / split / "images" / f"{called}.jpg")
            for version in names if split != "testing" else ():
                own = [names[version].index(name) for name in ("Bird", "Car", "Road")]
                mask_of(folder / split / version / "labels" / f"{called}.png", own)
                mask_of(folder / split / version / "instances" / f"{called}.png", [0, 1, 9])
    for version, labels in names.items():
        listed = [{"name": f"object--{name}", "readable": name, "evaluate": True} for name in labels]
        (folder / f"config_{version}.json").write_text(json.dumps({"labels": listed}))
    text = draft(folder).replace("\n# ", " ")
    assert "labels: '*/v1.2/labels/*.png'" in text and "training/v2.0/labels/*.png (and in 1 more folders)" in text
    for split in ("training", "validation"):
        shutil.rmtree(folder / split / "v1.2")
    content, dataset = drafted(folder)
    assert content["images"] == "*/images/*.jpg" and content["split"]["patterns"] == {
        "train": "training/*", "val": 0.15, "test": "validation/*"
    }  # fmt: skip
    assert [entry["label"] for entry in content["labelset"]] == ["Bird", "Car", "Road"] and len(targets(dataset)) == 8
    assert all((target == np.resize([0, 1, 2], (HEIGHT, WIDTH))).all() for target in targets(dataset).values())


def test_masks_of_labelme_and_names_that_do_not_fit(tmp_path):
    for n in range(6):
        photo(tmp_path / "yard" / "JPEGImages" / f"{n}.jpg")
        mask_of(tmp_path / "yard" / "SegmentationClass" / f"{n}.png", [0, 1, 255], voc_palette())
    (tmp_path / "yard" / "class_names.txt").write_text("__ignore__\n_background_\ncar\n")
    content, _ = drafted(tmp_path / "yard")
    assert [entry["label"] for entry in content["labelset"]] == ["_background_", "car"] and content["void"] == [255]
    for text in ("a\n", "", "\xff"):
        (tmp_path / "yard" / "class_names.txt").write_bytes(text.encode("latin-1"))
        content, _ = drafted(tmp_path / "yard")
        assert content["labelset"][0]["label"] in ("code_0", "background")


# ------------------------------------------------------------------------------------------------------------------------------------
# Back again

MAPS = Labelset("maps", ["sky", "straße", "car", "tree"])


def label_map(seed: int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """Blobs of all labels, some within others, some of a pixel or two."""
    random = np.random.default_rng(seed)
    smooth = [gaussian_filter(random.normal(size=size), width) * width for width in (7, 5, 3, 1.2)]
    return np.argmax(smooth, axis=0).astype(np.uint8)


def near_an_outline(ids: np.ndarray) -> np.ndarray:
    """Pixels beside one of another label: those whose outline is within a pixel."""
    same = np.ones(ids.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            same &= np.roll(ids, step, axis) == ids
    return ~same


@pytest.mark.parametrize("seed", range(3))
def test_coco_back_again(tmp_path, seed):
    ids = label_map(seed)
    content = coco_of(ids, MAPS, "photo.jpg")
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content))
    coco = COCO(str(path))
    found = np.full(ids.shape, 255, np.uint8)
    kinds = set()
    for one in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(one).astype(bool)
        kinds.add(type(one["segmentation"]))
        column, row, width, height = one["bbox"]
        assert mask[row : row + height, column : column + width].sum() > 0.4 * one["area"]
        found[mask] = one["category_id"] - 1
    wrong = found != ids
    assert kinds == {list, dict} and not (wrong & ~near_an_outline(ids)).any() and wrong.mean() < 0.01
    photo(tmp_path / "images" / "photo.jpg", ids.shape)
    (target,) = targets(opened(tmp_path, "coco", "found.json", [*MAPS.labels], void="rest")).values()
    assert not ((target != ids) & ~near_an_outline(ids)).any()


@pytest.mark.parametrize("seed", range(3))
def test_labelme_back_again(tmp_path, seed):
    ids = label_map(seed)
    ids[40:60, 50:80] = 255
    photo(tmp_path / "images" / "photo.jpg", ids.shape)
    (tmp_path / "photo.json").write_text(json.dumps(labelme_of(ids, MAPS, "images/photo.jpg")))
    (target,) = targets(opened(tmp_path, "labelme", "*.json", [*MAPS.labels], void="rest")).values()
    wrong = target != ids
    assert not (wrong & ~near_an_outline(ids)).any() and wrong.mean() < 0.01


def test_pieces_with_holes_come_before_what_is_in_them():
    ids = np.zeros((20, 30), np.uint8)
    ids[2:18, 2:28], ids[5:15, 5:25], ids[8:12, 10:20], ids[9, 12] = 1, 2, 1, 3
    found = pieces(ids)
    assert [(piece.class_id, piece.holes, piece.within > piece.mask.sum()) for piece in found] == [
        (0, 1, True), (1, 1, True), (2, 1, True), (1, 1, True), (3, 0, False)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[-1].outline.mean(axis=0), [12.5, 9.5])


def test_straight_lines_have_two_corners():
    box = np.array([[0, 0.5], [0, 9.5], [0.5, 10], [4.5, 10], [9.5, 10], [10, 9.5], [10, 0.5], [9.5, 0], [5, 0], [0.5, 0]])
    assert len(straightened(box)) == 8 and len(straightened(box, 0.6)) == 4
    disc = np.hypot(np.arange(200) - 99, np.arange(200)[:, None] - 99) < 90
    (around,) = (piece.outline for piece in pieces(disc.astype(np.uint8)) if piece.class_id)
    assert len(around) < 2 * np.pi * 90 / 2.5 and np.abs(np.hypot(*(around - 99.5).T) - 90).max() < 1
    for points in (box[:1], box[:2], np.zeros((5, 2))):
        assert 1 <= len(straightened(points)) <= 2


def test_a_file_for_all_pictures_is_that_of_each_one_after_the_other(tmp_path):
    maps = [label_map(seed, (30, 40)) for seed in (5, 6, 7)]
    parts = [tmp_path / f"{n}.json" for n in range(3)]
    for part, ids in zip(parts, maps, strict=True):
        part.write_text(json.dumps(coco_of(ids, MAPS, f"{part.stem}.jpg", "a note")))
    gathered(parts, tmp_path / "all.json")
    coco = COCO(str(tmp_path / "all.json"))
    assert [one["file_name"] for one in coco.imgs.values()] == ["0.jpg", "1.jpg", "2.jpg"] and len(coco.cats) == 4
    for number, ids in enumerate(maps, 1):
        found = np.full(ids.shape, 255, np.uint8)
        for one in coco.imgToAnns[number]:
            found[coco.annToMask(one) > 0] = one["category_id"] - 1
        assert (found == ids).mean() > 0.97
    parts[1].write_text("{}")
    with refused(parts[1], "it is damaged"):
        gathered(parts, tmp_path / "all.json")
