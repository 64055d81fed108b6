"""Labelsets, keypoint sets and their union."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densemtmd import KeypointSet, Labelset, OutputSpace
from densemtmd.errors import UserError

spaces = st.lists(st.integers(2, 40), min_size=1, max_size=9).map(
    lambda sizes: OutputSpace([Labelset(f"set{k}", [f"label{j}" for j in range(n)]) for k, n in enumerate(sizes)])
)


def test_equal_names_of_two_labelsets_are_not_merged():
    space = OutputSpace([Labelset("kundu", ["sky", "building"]), Labelset("xu", ["sky", "ground", "movable"])])
    assert (space.channels, len(space), space.slice("xu"), space.index("xu")) == (5, 2, slice(2, 5), 1)
    assert space["xu"].channel_names == ("sky", "ground", "movable")


@given(spaces)
@settings(deadline=None)  # colours are chosen at the first call
def test_every_channel_has_one_owner(space):
    tables = space.tables(torch.device("cpu"))
    owners = [k for k, task in enumerate(space.tasks) for _ in range(task.channels)]
    assert tables.owner.tolist() == owners and space.channels == len(owners)
    for k, task in enumerate(space.tasks):
        assert space.slice(task.name) == slice(owners.index(k), owners.index(k) + task.channels)
        assert (int(tables.first[k]), int(tables.size[k])) == (owners.index(k), task.channels)


@given(spaces)
@settings(deadline=None)  # colours are chosen at the first call
def test_json_round_trip(space):
    assert OutputSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_keypoint_sets_are_tasks_of_the_same_space():
    space = OutputSpace([KeypointSet("nyu", [f"j{i}" for i in range(14)]), KeypointSet("icvl", [f"j{i}" for i in range(16)])])
    assert (space.channels, space.slice("icvl"), space.kind) == (90, slice(42, 90), "keypoints")
    assert space["nyu"].channel_names[:4] == ("j0.x", "j0.y", "j0.z", "j1.x")
    assert OutputSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_colours_are_chosen_where_none_are_given():
    palette = Labelset("a", [f"l{i}" for i in range(40)]).palette
    assert len(set(palette)) == 40 and all(0 <= v <= 255 for colour in palette for v in colour)
    assert Labelset("b", ["x", "y"], [(1, 2, 3), [4, 5, 6]]).palette == ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Labelset("cars", ["car"]), ["cars", "1 label,", "other"]),
        (lambda: Labelset("cars", []), ["0 labels"]),
        (lambda: Labelset("many", [str(i) for i in range(256)]), ["256", "255"]),
        (lambda: Labelset("cars", ["car", "car"]), ["car more than once"]),
        (lambda: Labelset("cars", ["car", "other"], [(0, 0, 0)]), ["2 labels but 1 colours"]),
        (lambda: Labelset("cars", ["car", "other"], [(0, 0, 0), (0, 0, 256)]), ["(0, 0, 256)"]),
        (lambda: KeypointSet("nyu", []), ["no keypoint"]),
        (lambda: KeypointSet("nyu", ["a", "a"]), ["a more than once"]),
        (lambda: OutputSpace([]), ["got none"]),
        (lambda: OutputSpace([Labelset("a", "xy"), Labelset("a", "uv")]), ["called a"]),
        (lambda: OutputSpace([Labelset("a", "xy"), KeypointSet("h", "p")]), ["not both"]),
        (
            lambda: OutputSpace([Labelset("kundu", "xy"), Labelset("xu", "xy")]).slice("Kundo"),
            ["'Kundo'", "kundu, xu", "did you mean 'kundu'"],
        ),
    ],
)
def test_mistakes_are_sentences(make, words):
    with pytest.raises(UserError) as error:
        make()
    for word in words:
        assert word in str(error.value)
