"""Datasets that derive from another: other labels for the same pictures, a share of the pictures, and the full truth behind them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy import keys, refused

from densemtmd.datasets.config import built_in_datasets, load_dataset_config, parse_dataset_config, standalone
from densemtmd.datasets.folder import Dataset, load_split, open_dataset
from densemtmd.datasets.splits import deal
from densemtmd.tasks import VOID

CAMVID7 = ("ros", "xu", "he", "traffic", "zhang", "static", "layout")
SPLITS = ("train", "val", "test")

SOURCE: dict[str, Any] = {
    "name": "street",
    "domain": "town",
    "images": "images/*.png",
    "labels": "labels/*.png",
    "encoding": "index",
    "labelset": [
        {"label": "sky", "codes": [7], "colour": [9, 9, 9]},
        {"label": "road", "codes": [1, 2]},
        {"label": "car", "codes": [3]},
        {"label": "bus", "codes": [4]},
        {"label": "person", "codes": [5]},
    ],
    "void": [0],
    "sequence": "^(.)",
    "split": {"patterns": {"train": ["images/a*", "images/b*"], "val": "images/c*", "test": "images/d*"}},
}
MAP = {"vehicle": ["bus", "car"], "ground": "road", "other": "rest"}


def write_source(root: Path, **changes: Any) -> Path:
    """Four videos of ten frames; every picture has all codes, in another order each."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / "street" / folder).mkdir(parents=True, exist_ok=True)
    for name in (f"{video}{frame}" for video in "abcd" for frame in range(10)):
        Image.fromarray(random.integers(0, 255, (4, 6, 3), dtype=np.uint8)).save(root / "street" / "images" / f"{name}.png")
        codes = random.permutation(np.repeat([0, 1, 2, 3, 4, 5, 7, 7], 3)).astype(np.uint8).reshape(4, 6)
        Image.fromarray(codes).save(root / "street" / "labels" / f"{name}.png")
    return write_yaml(root / "street.yaml", **{**SOURCE, **changes})


def write_yaml(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def derived(root: Path, name: str = "mine", options: dict[str, Any] | None = None, **derive: Any) -> Dataset:
    path = write_yaml(root / f"{name}.yaml", name=name, derive={"from": "street.yaml", **derive}, **(options or {}))
    return open_dataset(load_dataset_config(path), root)


# Labels


def test_labels_are_merged_dropped_and_left_over(tmp_path):
    write_source(tmp_path)
    mine = derived(tmp_path, map=MAP, void="sky", take=None)
    assert mine.name == mine.labelset.name == "mine" and mine.domain == "town"
    assert mine.labelset.labels == ("vehicle", "ground", "other")
    assert mine.from_truth[:5].tolist() == [VOID, 1, 0, 0, 2] and (mine.from_truth[5:] == VOID).all()
    for item in mine.splits["test"]:
        codes = np.asarray(Image.open(item.labels))
        expected = np.select([np.isin(codes, [3, 4]), np.isin(codes, [1, 2]), codes == 5], [0, 1, 2], VOID)
        assert (mine.load(item).target == expected).all()


@pytest.mark.parametrize(
    ("derive", "ids"),
    [
        ({"map": MAP}, [2, 1, 0, 0, 2]),
        ({"map": {"a": ["person", "sky"], "b": "road"}, "void": ["car", "bus"]}, [0, 1, VOID, VOID, 0]),
        ({"map": {"a": "person", "b": "road"}, "void": "rest"}, [VOID, 1, VOID, VOID, 0]),
        ({"map": {"a": {"labels": "rest"}, "b": {"labels": ["road"], "colour": [1, 2, 3]}}}, [0, 1, 0, 0, 0]),
        ({}, [0, 1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"void": "rest", "labelset": SOURCE["labelset"]}, {"void": "negative"}])
def test_the_truth_seen_through_the_table_is_the_derived_labels(tmp_path, derive, ids, changes):
    labelset = [{"label": "sky", "codes": "rest"}, *SOURCE["labelset"][1:]] if changes.get("void") == "negative" else SOURCE["labelset"]
    write_source(tmp_path, **(changes | {"labelset": labelset}))
    mine = derived(tmp_path, **derive)
    assert mine.from_truth[:5].tolist() == ids
    source = open_dataset(load_dataset_config(tmp_path / "street.yaml"), tmp_path)
    assert mine.truth_config.labelset == source.labelset
    for item in mine.splits["train"]:
        truth, mine_of_it = mine.truth(item), mine.load(item)
        assert (mine.from_truth[truth.target] == mine_of_it.target).all() and (truth.image == mine_of_it.image).all()
        assert (truth.target == source.load(item).target).all() and truth.name == mine_of_it.name == item.key


def test_a_dataset_that_derives_from_none_is_its_own_truth(tmp_path):
    source = open_dataset(load_dataset_config(write_source(tmp_path)), tmp_path)
    item = source.splits["test"][0]
    assert (source.truth(item).target == source.load(item).target).all() and source.truth_config is source.config
    assert source.from_truth[:6].tolist() == [0, 1, 2, 3, 4, VOID]


def test_colours_follow_the_labels(tmp_path):
    write_source(tmp_path)
    palette = load_dataset_config(tmp_path / "street.yaml").labelset.palette
    mine = derived(tmp_path, map={"a": ["bus", "car"], "b": {"labels": "sky", "colour": [1, 2, 3]}, "other": "rest"})
    assert mine.labelset.palette[:2] == (palette[3], (1, 2, 3)) and len(set(mine.labelset.palette)) == 3


def test_without_a_map_the_labelset_is_shared(tmp_path):
    write_source(tmp_path)
    parts = [derived(tmp_path, f"part{n}", take={"part": n, "of": 2}) for n in (1, 2)]
    assert parts[0].labelset == parts[1].labelset == load_dataset_config(tmp_path / "street.yaml").labelset
    assert parts[0].name == "part1"


def test_a_chain(tmp_path):
    """The truth is where the chain starts; the tables are joined, and what one takes is dealt further."""
    write_source(tmp_path)
    middle = derived(tmp_path, "middle", map={"thing": ["car", "bus", "person"], "sky": "sky", "road": "road"}, take={"part": 2, "of": 2})
    seen_as = {"map": {"ground": "road", "thing": "thing"}, "void": "sky"}
    last = derived(tmp_path, "last", **{"from": "middle.yaml"}, **seen_as, take={"part": 1, "of": 2})
    assert last.truth_config.name == "street" and last.from_truth[:5].tolist() == [VOID, 0, 1, 1, 1]
    assert last.config.derive is not None and last.config.derive.names == ("middle", "street")
    for split in SPLITS:
        assert 0 < len(last.splits[split]) < len(middle.splits[split])
        assert set(last.splits[split]) < set(middle.splits[split])
    item = last.splits["train"][0]
    assert (last.from_truth[last.truth(item).target] == last.load(item).target).all()


# Which pictures


def test_parts_are_disjoint_and_all_of_them_everything(tmp_path):
    write_source(tmp_path)
    whole = keys(open_dataset(load_dataset_config(tmp_path / "street.yaml"), tmp_path))
    parts = [keys(derived(tmp_path, take={"part": n, "of": 3})) for n in (1, 2, 3)]
    for split in SPLITS:
        assert sorted(itertools.chain(*(part[split] for part in parts))) == whole[split]
        assert all(part[split] for part in parts)
    assert parts[0]["train"] == ["a0", "a1", "a2", "b0", "b1", "b2"]  # a block of every video
    both = keys(derived(tmp_path, take={"part": [3, 1], "of": 3}))
    assert both["test"] == sorted(parts[0]["test"] + parts[2]["test"])


def test_some_splits_may_stay_whole(tmp_path):
    write_source(tmp_path)
    few = keys(derived(tmp_path, take={"part": 1, "of": 10, "splits": ["train"]}))
    assert few == {"train": ["a0", "b0"], "val": [f"c{n}" for n in range(10)], "test": [f"d{n}" for n in range(10)]}


def test_a_split_that_is_too_small_to_be_dealt(tmp_path):
    write_source(tmp_path)
    with refused("mine takes part 11 of 20 of 10 pictures in", "fewer parts"):
        derived(tmp_path, take={"part": 11, "of": 20, "splits": ["val", "test"]}, options={"domain": "x"})


def test_another_split_of_the_source(tmp_path):
    write_source(tmp_path, splits={"other": {"patterns": {"train": "images/d*", "val": "images/c*", "test": "images/a*"}}})
    assert keys(derived(tmp_path, options={"split": "other", "domain": "elsewhere"}))["train"] == [f"d{n}" for n in range(10)]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    parts=st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_deal(sizes, parts):
    sequences = {f"{s}-{n:02}": str(s) for s, size in enumerate(sizes) for n in range(size)}
    hands = deal(sequences, parts)
    assert sorted(itertools.chain(*hands)) == sorted(sequences) and len(hands) == parts
    for s, size in enumerate(sizes):
        of_it = [[key for key in hand if sequences[key] == str(s)] for hand in hands]
        if size < parts:  # whole
            assert sorted(map(len, of_it)) == [0] * (parts - 1) + [size]
        else:  # contiguous blocks of nearly one size, in turn
            assert max(map(len, of_it)) - min(map(len, of_it)) <= 1
            assert list(itertools.chain(*of_it)) == sorted(itertools.chain(*of_it))
    assert hands == deal(dict(reversed(sequences.items())), parts)


def test_excluded_pictures_leave_the_split_of_the_others_as_it_is(tmp_path):
    write_source(tmp_path, split={"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}}, sequence=None)
    path = tmp_path / "street.yaml"
    before = keys(open_dataset(load_dataset_config(path), tmp_path))
    gone = {before["train"][0], before["train"][5], before["test"][2]}
    (tmp_path / "gone.txt").write_text("# broken\n" + "\n".join(f"{key}   # see there" for key in gone))
    write_yaml(path, **(yaml.safe_load(path.read_text()) | {"exclude": "gone.txt"}))
    after = keys(open_dataset(load_dataset_config(path), tmp_path))
    assert after == {split: [key for key in of_it if key not in gone] for split, of_it in before.items()}
    (tmp_path / "gone.txt").rename(tmp_path / "street" / "gone.txt")  # beside the YAML, or in the folder
    assert keys(open_dataset(load_dataset_config(path), tmp_path)) == after


def test_a_list_for_several_datasets(tmp_path):
    """Sections speak of the dataset of their name; a derived dataset also hears those of its source."""
    write_source(tmp_path)
    exclude = {"exclude": "gone.txt"}
    (tmp_path / "gone.txt").write_text("a0\n[street]\na1\n[mine]\na2\n[others]\nno such key\n")
    assert keys(derived(tmp_path, options=exclude))["train"] == [f"a{n}" for n in range(3, 10)] + [f"b{n}" for n in range(10)]
    assert keys(derived(tmp_path, "yours", options=exclude))["train"][0] == "a2"
    source = open_dataset(load_dataset_config(write_yaml(tmp_path / "street.yaml", **SOURCE, **exclude)), tmp_path)
    assert keys(source)["train"][0] == "a2"
    assert keys(derived(tmp_path))["train"][0] == "a2"  # what the source leaves out, mine does
    (tmp_path / "gone.txt").write_text("[others]\nno such key\n")
    with refused("gone.txt", "sections for others", "is it the right list?"):
        derived(tmp_path, options=exclude)
    (tmp_path / "gone.txt").write_text("a0\nx1\nx2\n")
    with refused("gone.txt", "'x1'", "keys of mine such as 'a0'"):
        derived(tmp_path, options=exclude)
    (tmp_path / "gone.txt").write_text("\n".join([f"a{n}" for n in range(9)] + ["x1"]))
    assert any("1 of 10 pictures that gone.txt excludes do not exist" in note for note in derived(tmp_path, options=exclude).notes)
    (tmp_path / "gone.txt").unlink()
    with refused("gone.txt", tmp_path, "street"):
        derived(tmp_path, options=exclude)


def test_lists_of_the_source_are_found_beside_its_yaml(tmp_path):
    (tmp_path / "yamls").mkdir()
    write_source(tmp_path, split={"lists": {"train": "train.txt", "val": 0.5, "test": "test.txt"}})
    (tmp_path / "street.yaml").rename(tmp_path / "yamls" / "street.yaml")
    for part, videos in (("train", "ab"), ("test", "cd")):
        (tmp_path / "yamls" / f"{part}.txt").write_text("".join(f"{video}{n}\n" for video in videos for n in range(10)))
    assert len(derived(tmp_path, **{"from": "yamls/street.yaml"}).splits["test"]) == 20


def test_a_run_can_keep_all_of_it(tmp_path):
    """The content of all YAMLs in one gives the same dataset without the files."""
    write_source(tmp_path, labelset="labels.yaml")
    write_yaml(tmp_path / "labels.yaml", **(SOURCE | {"name": "labels"}))
    before = derived(tmp_path, map=MAP, take={"part": 2, "of": 3})
    kept = standalone(tmp_path / "mine.yaml")
    for name in ("street.yaml", "labels.yaml", "mine.yaml"):
        (tmp_path / name).unlink()
    after = open_dataset(parse_dataset_config(yaml.safe_load(yaml.safe_dump(kept, sort_keys=False)), tmp_path / "config.yaml"), tmp_path)
    assert keys(after) == keys(before) and after.labelset == before.labelset and after.config.codes == before.config.codes
    assert after.truth_config.labelset == before.truth_config.labelset and after.truth_config.labelset.name == "labels"


# Mistakes


@pytest.mark.parametrize(
    ("derive", "options", "words"),
    [
        ({"from": "stret.yaml"}, {}, ["stret.yaml", "cannot be read"]),
        ({"from": "camvit"}, {}, ["unknown dataset 'camvit'", "did you mean 'camvid'"]),
        ({"from": None}, {}, ["expected keys"]),
        ({"form": "street.yaml"}, {}, ["unknown key 'form'", "did you mean 'from'"]),
        ({"from": "mine.yaml"}, {}, ["mine.yaml", "in turn"]),
        ({}, {"images": "x/*"}, ["'derive' and 'images'", "its source says the rest"]),
        ({}, {"labelset": ["a", "b"]}, ["'derive' and 'labelset'"]),
        ({"map": {"a": "rod", "b": "rest"}}, {}, ["'a' is made of 'rod'", "street", "did you mean 'road'"]),
        ({"map": {"a": "road", "b": ["car", "road"], "c": "rest"}}, {}, ["'road' of street twice"]),
        ({"map": {"a": "road", "b": "rest"}, "void": "road"}, {}, ["'road' of street twice"]),
        ({"map": {"a": "road", "b": "car"}}, {}, ["what becomes of sky, bus, person"]),
        ({"map": {"a": "rest", "b": "rest"}}, {}, ["'rest' for 'a' and 'b'", "expected it once"]),
        ({"map": {"a": "rest", "b": "road"}, "void": "rest"}, {}, ["'rest' for 'a' and 'void'"]),
        ({"map": {"a": ["sky", "road", "car", "bus", "person"], "b": "rest"}}, {}, ["nothing is left"]),
        ({"map": {"a": "rest"}}, {}, ["1 label", "at least 2"]),
        ({"map": {"a": [], "b": "rest"}}, {}, ["'a' of derive is []"]),
        ({"map": {"a": {"label": "road"}, "b": "rest"}}, {}, ["unknown key 'label'", "did you mean 'labels'"]),
        ({"map": {"a": {"colour": [0, 0, 0]}, "b": "rest"}}, {}, ["'a' of derive is None"]),
        ({"map": {"a": {"labels": "road", "colour": [0, 0]}, "b": "rest"}}, {}, ["'a' of map has [[0, 0]]"]),
        ({"map": {"a": "road", 7: "rest"}}, {}, ["a label of map is 7"]),
        ({"map": ["road"]}, {}, ["map is ['road']"]),
        ({"void": "road"}, {}, ["'void' but no 'map'"]),
        ({"take": {"part": 0, "of": 7}}, {}, ["take is", "from 1 to 'of'"]),
        ({"take": {"part": 8, "of": 7}}, {}, ["take is"]),
        ({"take": {"part": [1, 1], "of": 7}}, {}, ["take is"]),
        ({"take": {"part": 1}}, {}, ["take is"]),
        ({"take": {"part": 1.5, "of": 7}}, {}, ["take is"]),
        ({"take": 0.5}, {}, ["take is 0.5", "expected keys (part, of, splits)"]),
        ({"take": {"part": 1, "of": 2, "splits": ["trian"]}}, {}, ["'trian'", "did you mean 'train'"]),
        ({}, {"split": "official"}, ["no split 'official'"]),
        ({}, {"exclude": 3}, ["exclude is 3"]),
        ({}, {"known": ["unsued:cow"]}, ["'unsued:cow'", "did you mean 'unused'"]),
        ({}, {"known": ["size:a.png"]}, ["'size:a.png'", "'exclude'"]),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, derive, options, words):
    write_source(tmp_path)
    with refused(*words):
        derived(tmp_path, options=options, **derive)


def test_no_name(tmp_path):
    write_source(tmp_path)
    with refused("no key 'name'"):
        load_dataset_config(write_yaml(tmp_path / "mine.yaml", derive={"from": "street.yaml"}))


def test_a_circle(tmp_path):
    for name, other in ("ab", "bc", "ca"):
        write_yaml(tmp_path / f"{name}.yaml", name=name, derive={"from": f"{other}.yaml"})
    with refused("in turn"):
        load_dataset_config(tmp_path / "a.yaml")
    with refused("in turn"):
        standalone(tmp_path / "a.yaml")


# CamVid, seven times


def test_camvid7_is_all_of_camvid():
    others = {"camvid_cars", "camvid_people"}  # of data=cars_people
    assert {f"camvid_{name}" for name in CAMVID7} == {name for name in built_in_datasets() if name.startswith("camvid_")} - others
    configs = [load_dataset_config(f"camvid_{name}") for name in CAMVID7]
    camvid = load_dataset_config("camvid")
    derives = [config.derive for config in configs]
    assert all(derive is not None and derive.source == camvid for derive in derives)
    assert sorted((take.parts, take.of) for derive in derives if derive for take in derive.takes) == [((n,), 7) for n in range(1, 8)]
    assert {config.domain for config in configs} == {"camvid"} and len({config.labelset.name for config in configs}) == 7
    assert len({config.labelset.labels for config in configs}) == 7 and sum(config.labelset.channels for config in configs) == 49
    for config in configs:
        assert len(set(config.labelset.palette)) == config.labelset.channels


def test_camvid7_on_disk(data_root):
    datasets = [open_dataset(load_dataset_config(f"camvid_{name}"), data_root) for name in CAMVID7]
    camvid = keys(open_dataset(load_dataset_config("camvid"), data_root))
    for split, expected in (("train", [58] * 7), ("val", [18, 17, 18, 18, 18, 17, 18]), ("test", [24, 25, 24, 25, 24, 25, 24])):
        assert [len(dataset.splits[split]) for dataset in datasets] == expected
        assert sorted(itertools.chain(*(keys(dataset)[split] for dataset in datasets))) == camvid[split]
    for dataset in datasets:
        assert {item.sequence for item in dataset.splits["train"]} == {"0006R0", "0016E5"}
        seen = {class_id for sample in load_split(dataset, "train")[::6] for class_id in np.unique(sample.target).tolist()}
        assert seen >= set(range(dataset.labelset.channels))
        item = dataset.splits["test"][3]
        assert (dataset.from_truth[dataset.truth(item).target] == dataset.load(item).target).all()
