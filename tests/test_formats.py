"""Files of objects, as the tools write them that people label with: drawn as pycocotools draws them, and refused with a sentence."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO
from toy import refused

from densemtmd.datasets.config import load_dataset_config, parse_dataset_config
from densemtmd.datasets.folder import Dataset, open_dataset
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
    assert "Did the annotator look at all of it?" in draft(tmp_path / "street")


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
