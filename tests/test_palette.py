"""Colours of labels: how they are seen, that those which are chosen are apart for all eyes, and one colour per name."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from densemtmd.palette import VISION, apart, common, distance, meaning, seen
from densemtmd.tasks import Labelset, OutputSpace, harmonised, task_from_json


@pytest.mark.parametrize(
    ("colour", "lab"),
    [((255, 0, 0), (53.24, 80.09, 67.20)), ((0, 255, 0), (87.73, -86.18, 83.18)), ((0, 0, 255), (32.30, 79.19, -107.86)),
     ((0, 0, 0), (0, 0, 0)), ((128, 128, 128), (53.59, 0, 0))],
)  # fmt: skip
def test_cielab_of_the_primaries_is_what_is_published(colour, lab):
    assert seen(np.array(colour), "all cones") == pytest.approx(lab, abs=0.02)


@pytest.mark.parametrize("vision", VISION)
def test_grey_is_grey_for_everybody_and_red_and_green_are_not_for_all(vision):
    assert seen(np.array([[90, 90, 90]]), vision) == pytest.approx(seen(np.array([[90, 90, 90]]), "all cones"), abs=0.02)
    olive, brown = seen(np.array([[110, 140, 40], [170, 110, 40]]), vision)
    assert (np.linalg.norm(olive - brown) > 30) == (vision == "all cones")


def test_who_has_no_cones_for_long_waves_sees_red_darker():
    light = {vision: seen(np.array([255, 0, 0]), vision)[0] for vision in VISION}
    assert light["protanopia"] < light["all cones"] - 10 and light["protanopia"] < light["deuteranopia"]


@pytest.mark.parametrize(("count", "least"), [(8, 32.0), (16, 20.0), (33, 12.0), (64, 7.5), (255, 3.0)])
def test_chosen_colours_are_apart_for_all_eyes(count, least):
    """CIELAB distances under each vision; of neighbours in print 2.3 is just seen. Before, they were 13.0, 4.4, 0.3 and 0.1."""
    colours = Labelset("some", [f"label {i}" for i in range(count)]).palette
    for vision in VISION:
        views = seen(np.array([*colours, (0, 0, 0), (255, 255, 255)]), vision)
        apart_by = np.linalg.norm(views[:, None] - views[None], axis=-1)[~np.eye(count + 2, dtype=bool)]
        assert apart_by.min() > least, vision
    assert colours[:5] == apart(5)


def test_colours_are_chosen_beside_those_that_are_given():
    given = Labelset("some", ["a", "b", "c", "d"], [None, (0, 0, 255), None, (250, 220, 0)])
    assert given.palette[1] == (0, 0, 255) and given.palette[3] == (250, 220, 0)
    assert min(distance(*two) for two in combinations(given.palette, 2)) > 40
    assert given == Labelset("some", ["a", "b", "c", "d"]) and hash(given) == hash(Labelset("some", ["a", "b", "c", "d"]))
    assert task_from_json(given.to_json()).palette == given.palette


def test_a_name_has_the_colour_that_it_is_given_first():
    purple, grey, orange = (64, 0, 128), (128, 128, 128), (220, 150, 40)
    a = Labelset("a", ["car", "sky"], [purple, grey])
    b = Labelset("b", ["person", "Car", "sky"], [None, orange, None])
    c = Labelset("c", ["traffic_sign", "car"])
    alone, together = harmonised([a, b, c]), harmonised([a, b, c], all_of_them=True)
    assert alone[0].palette == a.palette and alone[1].palette[1:] == (orange, grey) and alone[2].palette[1] == purple
    assert together[1].palette[1:] == (purple, grey) and together[2].palette[1] == purple
    assert together[1].palette[0] == alone[1].palette[0] and min(distance(together[1].palette[0], one) for one in (purple, grey)) > 20
    assert meaning("Traffic_Sign ") == meaning("traffic-sign")


def test_two_names_that_stand_side_by_side_do_not_get_one_colour():
    """The one calls a car purple, the other a person: in a picture of both they must differ."""
    purple, orange = (64, 0, 128), (220, 150, 40)
    cars, people = common([(["car", "road"], [purple, (90, 90, 90)]), (["person", "car"], [purple, orange])])
    assert cars[0] == purple and people[1] == purple and distance(people[0], purple) > 20
    near = [((0, 0, 0), (0, 0, 9)), ((5, 5, 5), (0, 0, 9))]  # as its authors want it
    assert common([(["a", "b"], near[0]), (["c", "d"], near[1])]) == [*near]


def test_the_space_of_datasets_has_one_colour_per_name(tmp_path):
    from toy import write_toy

    from densemtmd.data import output_space
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.folder import open_dataset

    files = [write_toy(tmp_path, "squares", "square"), write_toy(tmp_path, "discs", "disc")]
    files[0].write_text(files[0].read_text().replace("- other\n", "- {label: other, colour: [1, 2, 3]}\n"))
    space = output_space([open_dataset(load_dataset_config(file), tmp_path) for file in files])
    assert [task.palette[0] for task in space.tasks] == [(1, 2, 3), (1, 2, 3)]
    assert distance(space["discs"].palette[1], (1, 2, 3)) > 20 and isinstance(space, OutputSpace)


def test_the_page_in_the_browser_and_merged_labelsets_have_the_same_colours(tmp_path):
    from types import SimpleNamespace

    from densemtmd.merging import load_merged
    from densemtmd.web.answers import Pixels

    purple = (64, 0, 128)
    a = Labelset("a", ["car", "sky"], [purple, (9, 99, 199)])
    space = OutputSpace([a, Labelset("b", ["car", "road"], [(250, 150, 0), (80, 80, 80)])])
    page = Pixels.__new__(Pixels)
    page.predictor = SimpleNamespace(space=space)
    assert [about["colours"][0] for about in page.about()] == [list(purple), list(purple)]
    (tmp_path / "merged.yaml").write_text("name: merged\nlabels: {Car: [a.car, b.car], street: b.road, rest: rest}\n")
    merged = load_merged(tmp_path / "merged.yaml", space).labelset
    assert merged.palette[0] == purple and len(set(merged.palette)) == 3
