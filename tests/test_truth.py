"""The truth that datasets share: what it says is what the datasets' own files say, and the shares of labels are counted by hand."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import refused, write_toy

from densemtmd.datasets.config import is_standalone, load_dataset_config, parse_dataset_config, standalone
from densemtmd.datasets.folder import open_dataset
from densemtmd.tasks import VOID
from densemtmd.truth import known_truths, named_truths
from densemtmd.worlds.annotators import StreetSettings, ensure_streets


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("truth")
    world = ensure_streets(root, StreetSettings(images=3, frames=1, width=64, height=48, annotators=("kundu", "zhang")))
    return [open_dataset(load_dataset_config(name), world) for name in ("kundu", "zhang")]


def derived(root, source, name, mapping, void=None):
    file = root / f"{name}.yaml"
    derive = {"from": str(source), "map": mapping, **({"void": void} if void else {})}
    file.write_text(yaml.safe_dump({"name": name, "derive": derive}, sort_keys=False))
    return open_dataset(load_dataset_config(file), root)


def test_the_truth_of_a_street_world_is_what_the_annotators_drew_but_for_their_hands(streets):
    (truth,) = known_truths(streets)
    assert set(truth.tables) == {"kundu", "zhang"} and "lane_marking" in truth.classes
    agree = []
    for dataset in streets:
        for items in dataset.splits.values():
            for item in items:
                drawn, right = dataset.load(item).target, truth.target(dataset.labelset.name, dataset, item)
                both = (drawn != VOID) & (right != VOID)
                agree.append((drawn == right)[both].mean())
                # and the other annotator's answer differs from it only in its words
                other = truth.target("kundu" if dataset.name == "zhang" else "zhang", dataset, item)
                assert other.shape == right.shape
    assert np.mean(agree) > 0.9


def test_the_truth_of_derived_datasets_and_shares_by_hand(tmp_path):
    source = write_toy(tmp_path, "shapes", "square")
    content = yaml.safe_load(source.read_text())
    source.write_text(yaml.safe_dump({**content, "labelset": ["other", "square"], "void": [255]}))
    one = derived(tmp_path, source, "one", {"rest": "other", "box": "square"})
    all_of_it = derived(tmp_path, source, "two", {"box": "square", "rest": "other"})
    (truth,) = known_truths([one, all_of_it, open_dataset(load_dataset_config(source), tmp_path)])
    item = one.splits["test"][0]
    assert (truth.target("one", one, item) == one.load(item).target).all()
    assert (truth.target("two", one, item) == all_of_it.load(item).target).all()
    counts = truth.counts(["test"])
    squares = sum(int((d.truth(i).target == 1).sum()) for d in truth.datasets for i in d.splits["test"])
    assert counts[1] == squares and counts[VOID] > 0
    assert truth.shares("one", "two", counts).tolist() == [[0, 1], [1, 0]]


def test_what_an_annotator_leaves_out_lies_in_none_of_its_labels(tmp_path):
    root = tmp_path
    (root / "three").mkdir()
    content = yaml.safe_load(write_toy(root / "three", "three", "disc").read_text())
    content |= {"labelset": [{"label": "ground", "codes": [0]}, {"label": "disc", "codes": [1]}, {"label": "ghost", "codes": [7]}]}
    (root / "three" / "three.yaml").write_text(yaml.safe_dump({**content, "folder": str(root / "three" / "three")}))
    full = derived(root, root / "three" / "three.yaml", "full", {"all": ["ground", "disc"], "ghost": "ghost"})
    part = derived(root, root / "three" / "three.yaml", "part", {"disc": "disc", "ghost": "ghost"}, void="ground")
    (truth,) = known_truths([full, part])
    counts = np.zeros(256, int)
    counts[[0, 1, VOID]] = 30, 10, 99
    shares = truth.shares("full", "part", counts)
    assert shares[0].tolist() == [0.25, 0.0] and np.isnan(shares[1]).all()  # nothing is a ghost
    assert truth.shares("part", "full", counts)[0].tolist() == [1.0, 0.0]


def test_strangers_share_no_truth(tmp_path):
    files = [write_toy(tmp_path, name, shape) for name, shape in (("a", "disc"), ("b", "square"))]
    datasets = [open_dataset(load_dataset_config(file), tmp_path) for file in files]
    assert known_truths(datasets) == []
    assert known_truths(datasets[:1]) == []


def test_the_truth_of_pictures_that_two_labelled(tmp_path):
    """Pairs of labels, where both say something; whether the pictures are the same files or copies."""
    first = write_toy(tmp_path, "first", "square")
    write_toy(tmp_path, "second", "square")
    for path in sorted((tmp_path / "second" / "labels").iterdir())[:4]:
        labels = np.asarray(Image.open(path)).copy()
        Image.fromarray(np.where(labels == 255, 0, 1 - labels + (np.arange(labels.shape[1]) < 9)).astype(np.uint8)).save(path)
    for path in sorted((tmp_path / "second" / "images").iterdir())[4:]:
        Image.new("RGB", (52, 40)).save(path)  # others of the same names
    content = yaml.safe_load(first.read_text()) | {"labelset": ["square", "other", "left"], "split": {"fractions": {"test": 1}}}
    pair = []
    for name, how in (("first", {"labelset": ["other", "square"]}), ("second", {"void": [255]})):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content | {"name": name} | how))
        pair.append(open_dataset(load_dataset_config(file), tmp_path))
    (truth,) = known_truths(pair)
    a, b = pair
    assert truth.classes[4] == "square and other" and len(truth.tables["first"]) == 7
    known = 0
    for mine, other in zip(a.splits["test"], b.splits["test"], strict=True):
        drawn, others = a.load(mine).target, b.load(other).target
        both = (drawn != VOID) & (others != VOID) & (mine.key < "004")
        for dataset, item in ((a, mine), (b, other)):
            assert (truth.target("first", dataset, item) == np.where(both, drawn, VOID)).all()
            assert (truth.target("second", dataset, item) == np.where(both, others, VOID)).all()
        known += both.sum()
    counts = truth.counts(["test"])
    assert counts[:-1].sum() == 2 * known > 0
    shares = truth.shares("first", "second", counts)
    assert shares[1, 1] == 0 and shares[1, 0] + shares[1, 2] + shares[1, 1] == pytest.approx(1)


def test_a_photo_is_found_under_another_name_and_size_and_no_frame_of_a_video_is(tmp_path):
    """The second dataset has the first's photos at half the size, compressed, under other names; and frames that look alike."""
    rng = np.random.default_rng(0)
    for folder in ("large/images", "large/labels", "small/images", "small/labels", "film/images", "film/labels"):
        (tmp_path / folder).mkdir(parents=True)

    def save(folder, name, photo, labels, size):
        photo.resize(size, Image.Resampling.BOX).save(tmp_path / folder / "images" / f"{name}.jpg", quality=70)
        Image.fromarray(labels).resize(size, Image.Resampling.NEAREST).save(tmp_path / folder / "labels" / f"{name}.png")

    for n in range(5):
        octaves = [Image.fromarray(rng.integers(0, 256, (3 * k, 4 * k, 3), dtype=np.uint8)) for k in (2, 4, 8)]
        parts = [np.asarray(one.resize((192, 144), Image.Resampling.BICUBIC), float) for one in octaves]
        photo = Image.fromarray(np.average(parts, 0, (3, 2, 1)).astype(np.uint8))
        left = np.repeat([[0, 1]], [80, 112], 1).repeat(144, 0).astype(np.uint8)
        top = np.repeat([[0], [1], [255]], [60, 64, 20], 0).repeat(192, 1).astype(np.uint8)
        save("large", f"photo{n}", photo, left, (192, 144))
        if n < 3:
            save("small", f"{n:02}-copy", photo, top, (96, 72))
        save("film", f"film_{n}", photo, top, (192, 144))
    datasets = []
    for name in ("large", "small", "film"):
        about = {
            "name": name, "images": "images/*.jpg", "labels": "labels/*.png", "encoding": "index", "void": [255],
            "labelset": [f"{name}_0", f"{name}_1"], "split": {"fractions": {"test": 1}},
            **({"sequence": "^(film)"} if name == "film" else {}),
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(about))
        datasets.append(open_dataset(load_dataset_config(tmp_path / f"{name}.yaml"), tmp_path))
    large, small, film = datasets
    assert known_truths([large, film]) == []
    (truth,) = known_truths([large, small])
    for dataset, shape in ((large, (144, 192)), (small, (72, 96))):
        for item in dataset.splits["test"]:
            target = truth.target("small", dataset, item)
            assert target.shape == shape and (target != VOID).any() == (item.key[-1] != "3" and item.key[-1] != "4")
    shares = truth.shares("large", "small", truth.counts(["test"]))
    by_hand = np.array([[30, 32], [30, 32]]) / 62
    assert np.allclose(shares, by_hand, atol=0.01)
    first = large.splits["test"][0]
    assert (truth.target("large", large, first)[:120] == np.repeat([0, 1], [80, 112])).all()


def test_the_yaml_of_a_dataset_names_who_labels_its_pictures_too(tmp_path):
    first = write_toy(tmp_path, "first", "square")
    write_toy(tmp_path, "stranger", "disc")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    for n in range(6, 12):
        (tmp_path / "second" / "images" / f"{n:03}.png").unlink()
        (tmp_path / "second" / "labels" / f"{n:03}.png").unlink()
    content = yaml.safe_load(first.read_text())
    second = content | {"name": "second", "labelset": ["left", "right"], "split": {"fractions": {"train": 1}}}

    def save(name, about):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(about))

    def opened(about):
        save("first", about)
        return open_dataset(load_dataset_config(first), tmp_path)

    save("second", second | {"truth": {"with": "first.yaml"}})  # each other's: neither is looked for twice
    dataset = opened(content | {"truth": {"with": "second.yaml"}})
    (other,) = named_truths([dataset], tmp_path)
    assert {split: [item.key for item in other.splits[split]] for split in other.splits} == {
        split: [item.key for item in dataset.splits[split] if item.key < "006"] for split in dataset.splits
    }
    (truth,) = known_truths([dataset, other])
    assert truth.classes[:2] == ("other and left", "other and right")
    assert named_truths([dataset, other], tmp_path) == []
    alone = standalone(first)
    (tmp_path / "second.yaml").unlink()
    assert is_standalone(alone) and not is_standalone(alone | {"truth": {"with": "second.yaml"}})
    assert parse_dataset_config(alone, first).truth.labelset.labels == ("left", "right")
    derived = {"name": "seen", "derive": {"from": alone}, "truth": alone["truth"]}
    assert parse_dataset_config(derived, first).truth.name == "second"
    assert parse_dataset_config({"name": "seen", "derive": {"from": alone}}, first).truth is None

    for named, words in [
        ("second.yaml", ["first.yaml takes from 'second.yaml'", "second.yaml"]),
        ({"wiht": "stranger.yaml"}, ["first.yaml: truth", "wiht"]),
        ("other.yaml", ["other.yaml", "called 'first' too"]),
        (["second"], ["expected {with: other.yaml}"]),
    ]:
        save("other", content)
        with refused(*words):
            opened(content | {"truth": named if isinstance(named, dict) else {"with": named}})
    save("second", second)  # one whom two datasets name labels the pictures of both, each picture once
    halves = []
    for n, name in enumerate(("first", "half")):
        key = {"name": name, "folder": "first", "truth": {"with": "second.yaml"}, "labelset": content["labelset"]}
        save(name, content | key)
        half = open_dataset(load_dataset_config(tmp_path / f"{name}.yaml"), tmp_path)
        kept = {"train": range(3 * n, 3 * n + 4), "val": (), "test": ()}  # picture 003 is in both
        items = {item.key: item for some in half.splits.values() for item in some}
        halves.append(replace(half, splits={split: tuple(items[f"{k:03}"] for k in kept[split]) for split in kept}))
    (other,) = named_truths(halves, tmp_path)
    assert [item.key for item in other.splits["train"]] == ["000", "001", "002", "003", "004", "005"]
    stranger = opened(content | {"truth": {"with": "stranger.yaml"}})
    with refused("first.yaml has its truth with", "stranger.yaml", "of its 12 pictures none is among the 12 of stranger"):
        named_truths([stranger], tmp_path)
    with refused("first.yaml has its truth with", "second.yaml", "is called 'second' too"):
        save("twin", second | {"labelset": ["up", "down"]})
        named_truths([*halves, replace(stranger, name="second", config=load_dataset_config(tmp_path / "twin.yaml"))], tmp_path)
    assert named_truths(halves, tmp_path, known=["first"]) == []
    assert [one.name for one in named_truths(halves, tmp_path, known=["first", "second"])] == ["second"]
