"""Merged labelsets: the fusion against a slow search and cases worked out by hand, what YAMLs may say, the truth of merged labels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from densemtmd import Predictor, evaluation
from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.datasets.config import load_dataset_config
from densemtmd.errors import UserError
from densemtmd.inference import strided_probabilities
from densemtmd.merging import Merged, load_merged
from densemtmd.tasks import VOID, Labelset, OutputSpace

SPACE = OutputSpace([
    Labelset("traffic", ["car", "other"]),
    Labelset("he", ["person", "car", "ground", "sky"]),
    Labelset("ros", ["pedestrian", "cyclist", "rest of it"]),
])  # fmt: skip
CPU = torch.device("cpu")


def write(tmp_path, text):
    (tmp_path / "merged.yaml").write_text(text)
    return load_merged(tmp_path / "merged.yaml", SPACE)


def fused(merged, **probabilities):
    return merged.fuse({name: torch.tensor(values, dtype=torch.float64) for name, values in probabilities.items()}).numpy()


def test_labelsets_that_name_different_things_each_have_their_way_and_rest_remains(tmp_path):
    merged = write(tmp_path, "{name: m, labels: {car: traffic.car, person: [ros.pedestrian, ros.cyclist], background: rest}}")
    assert merged.labelset.labels == ("car", "person", "background") and merged.rest == 2
    q = fused(merged, traffic=[0.3, 0.7], ros=[0.2, 0.1, 0.7])
    assert np.allclose(q, [0.3, 0.3, 0.4], atol=1e-3)
    # a car for sure and a person for sure cannot both be: neither labelset rules
    assert np.allclose(fused(merged, traffic=[1.0, 0.0], ros=[1.0, 0.0, 0.0]), [0.5, 0.5, 0.0], atol=1e-6)


def test_labelsets_that_name_the_same_are_averaged(tmp_path):
    merged = write(tmp_path, "{name: m, labels: {car: [traffic.car, he.car], background: rest}}")
    assert np.allclose(fused(merged, traffic=[0.9, 0.1], he=[0.1, 0.5, 0.3, 0.1]), [0.7, 0.3])


def test_what_no_merged_label_is_for_does_not_count(tmp_path):
    merged = write(tmp_path, "{name: m, labels: {person: [he.person, ros.pedestrian], car: he.car}}")
    assert np.allclose(fused(merged, he=[0.1, 0.3, 0.6, 0.0], ros=[0.0, 0.5, 0.5]), [0.07, 0.93], atol=0.02)
    only = Merged(merged.labelset, {"he": merged.groups["he"]}, None)
    assert np.allclose(fused(only, he=[0.1, 0.3, 0.6, 0.0]), [0.25, 0.75])


def test_the_fusion_is_the_best_distribution_of_a_slow_search(tmp_path):
    merged = write(tmp_path, "{name: m, labels: {car: [traffic.car, he.car], person: [he.person, ros.pedestrian], background: rest}}")
    random = np.random.default_rng(0)
    for _ in range(5):
        p = {"traffic": random.dirichlet([1, 1]), "he": random.dirichlet([1] * 4), "ros": random.dirichlet([1] * 3)}

        def agreement(car, person, p=p):
            rest = 1 - car - person
            return (
                p["traffic"][0] * math.log(car) + p["traffic"][1] * math.log(person + rest)
                + p["he"][1] * math.log(car) + p["he"][0] * math.log(person) + (p["he"][2] + p["he"][3]) * math.log(rest)
                + p["ros"][0] * math.log(person) + (p["ros"][1] + p["ros"][2]) * math.log(car + rest)
            )  # fmt: skip

        grid = [(c / 200, q / 200) for c in range(1, 199) for q in range(1, 199 - c)]
        best = max(agreement(*point) for point in grid)
        car, person, _ = fused(merged, **p)
        assert agreement(car, person) > best - 1e-3


def test_mistakes_in_the_yaml_are_sentences(tmp_path):
    for text, words in [
        ("{labels: {car: he.car, b: rest}}", ["name"]),
        ("{name: he, labels: {car: he.car, b: rest}}", ["'he'", "labelset of the network"]),
        ("{name: m}", ["labels"]),
        ("{name: m, labels: {}}", ["labels"]),
        ("{name: m, labels: {car: [], b: rest}}", ["'car'", "[]"]),
        ("{name: m, labels: {car: he.car}}", ["at least 2"]),  # the rest must be said
        ("{name: m, labels: {car: hee.car, b: rest}}", ["hee.car", "did you mean 'he'"]),
        ("{name: m, labels: {car: he.cra, b: rest}}", ["he has no label 'cra'", "did you mean 'car'"]),
        ("{name: m, labels: {car: car, b: rest}}", ["'car'", "traffic.car"]),
        ("{name: m, labels: {car: he.car, auto: [traffic.car, he.car]}}", ["he.car", "twice", "'auto'"]),
        ("{name: m, labels: {car: [he.car, he.car], b: rest}}", ["twice"]),
        ("{name: m, labels: {car: he.car, a: rest, b: rest}}", ["'a' and 'b'"]),
        ("{name: m, labels: {a: rest, b: rest}}", ["rest"]),
        ("{name: m, labels: {car: {labels: he.car, color: [0, 0, 0]}, b: rest}}", ["color", "did you mean 'colour'"]),
        ("{name: m, labels: {car: {labels: he.car, colour: [0, 0]}, b: rest}}", ["colour", "[0, 0]"]),
        ("{name: m, lables: {car: he.car}}", ["lables", "did you mean 'labels'"]),
        ("{name: m, labels: {car: he.car, b: rest}, truth: {cat: [x]}}", ["cat"]),
        ("[1, 2]", ["merged.yaml"]),
        ("{", ["merged.yaml"]),
    ]:
        with pytest.raises(UserError) as error:
            write(tmp_path, text)
        for word in ["merged.yaml", *words]:
            assert word in str(error.value), (text, str(error.value))
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_merged(tmp_path / "nowhere.yaml", SPACE)


def test_colours(tmp_path):
    merged = write(tmp_path, "{name: m, labels: {car: {labels: he.car, colour: [1, 2, 3]}, b: rest}}")
    assert merged.labelset.palette[0] == (1, 2, 3) and merged.labelset.palette[1] != (1, 2, 3)


def table(*labels):
    found = np.full(256, VOID, np.uint8)
    found[: len(labels)] = labels
    return found


def test_the_truth_of_merged_labels(tmp_path):
    classes = ("auto", "walker", "rider", "grass", "air", "wire")
    tables = {"traffic": table(0, 1, 1, 1, 1, VOID), "he": table(1, 0, 0, 2, 3, VOID), "ros": table(2, 0, 1, 2, VOID, VOID)}
    merged = write(tmp_path, "{name: m, labels: {car: [he.car, traffic.car], person: [ros.pedestrian, ros.cyclist], background: rest}}")
    # nobody can tell whether air is a person, since ros leaves it out; nor what a wire is
    assert list(merged.from_truth(classes, tables)[:7]) == [0, 1, 1, 2, VOID, VOID, VOID]
    split = write(tmp_path, "{name: m, labels: {walker: [he.person, ros.pedestrian], rider: ros.cyclist}}")
    assert list(split.from_truth(classes, tables)[:4]) == [VOID, 0, VOID, VOID]  # he calls a rider what the merged calls a walker
    said = write(tmp_path, "{name: m, labels: {car: he.car, b: rest}, truth: {car: [auto, wire]}}")
    assert list(said.from_truth(classes, tables)[:7]) == [0, 1, 1, 1, 1, 0, VOID]
    with pytest.raises(UserError, match="did you mean 'auto'"):
        write(tmp_path, "{name: m, labels: {car: he.car, b: rest}, truth: {car: [autos]}}").from_truth(classes, tables)


def network(names, seed):
    torch.manual_seed(seed)
    space = OutputSpace([SPACE[name] for name in names])
    features, classifier = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2)), nn.Sequential(nn.Conv2d(5, space.channels, 2))
    with torch.no_grad():
        classifier[0].weight *= 20  # so that the answers differ from pixel to pixel
    return PatchClassifier(features, classifier, space, 5).eval()


@pytest.mark.parametrize("parts", [[["traffic", "he", "ros"]], [["ros"], ["he"], ["traffic"]]])
def test_the_predictor_answers_what_the_fusion_says(tmp_path, parts):
    merged = write(tmp_path, "{name: m, labels: {car: [traffic.car, he.car], person: ros.pedestrian, background: rest}}")
    networks = [network(names, seed) for seed, names in enumerate(parts)]
    predictor = Predictor(networks, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (150, 33, 3), dtype=np.uint8)
    answer = predictor.merged(image, merged)
    assert answer.shape == (150, 33) and answer.dtype == np.uint8
    expected = merged.fuse({name: torch.from_numpy(predictor.probabilities(image, name)) for name in merged.groups}).numpy()
    sure = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] > 1e-5
    assert (answer == expected.argmax(0))[sure].all() and len(np.unique(answer)) > 1
    with torch.inference_mode():
        grid, stride = strided_probabilities(networks, image, CPU)
    own = merged.fuse({name: grid[predictor.space.slice(name)] for name in merged.groups}).argmax(0).numpy()
    assert (own == answer[::stride, ::stride])[sure[::stride, ::stride]].all()


def test_the_example_names_what_camvid7_has():
    names = ("ros", "xu", "he", "traffic", "zhang", "static", "layout")
    configs = [load_dataset_config(f"camvid_{name}") for name in names]
    space = OutputSpace([config.labelset for config in configs])
    merged = load_merged(evaluation.__file__.replace("densemtmd/evaluation.py", "docs/camvid7_merged.yaml"), space)
    source = configs[0].derive.source.labelset
    tables = {config.name: table(*config.derive.ids) for config in configs}
    called = {label: merged.labelset.labels[m] for label, m in zip(source.labels, merged.from_truth(source.labels, tables), strict=False)}
    assert called["pole"] == called["fence"] == "street furniture" and called["bicyclist"] == "person" and called["car"] == "car"
    assert len(called) == 11 and set(called.values()) == set(merged.labelset.labels)
