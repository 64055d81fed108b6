"""Answers under all labelsets, and under merged ones, against the truth that derived datasets share."""

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from toy import write_toy

from densemtmd import evaluation
from densemtmd.backbones.patch_classifier import PatchClassifier
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import open_dataset
from densemtmd.datasets.sample import Sample
from densemtmd.merging import Merged
from densemtmd.tasks import Labelset, OutputSpace
from densemtmd.truth import known_truths


def test_answers_across_annotators_are_those_of_each_by_itself(tmp_path):
    """Every labelset on every derived dataset's pictures, against one labelset at a time on targets that are translated by hand."""
    source = write_toy(tmp_path, "shapes", "square")
    names = {"one": ["rest", "box"], "two": ["box", "rest"]}
    datasets = []
    for name, labels in names.items():
        mapping = {label: "other" if label == "rest" else "square" for label in labels}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"name": name, "derive": {"from": str(source), "map": mapping}}, sort_keys=False))
        datasets.append(open_dataset(load_dataset_config(file), tmp_path))
    (truth,) = known_truths(datasets)
    space = OutputSpace([dataset.labelset for dataset in datasets])
    torch.manual_seed(0)
    network = PatchClassifier(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2)), nn.Sequential(nn.Conv2d(4, 4, 3)), space, 4)
    for scoring in ("strided", "dense"):
        how = {"scoring": scoring, "interior": True, "device": torch.device("cpu")}
        for dataset in datasets:
            across = evaluation.score_across([network], truth, dataset, "test", **how)
            samples = [dataset.load(item) for item in dataset.splits["test"]]
            other = "two" if dataset.name == "one" else "one"
            swapped = [Sample(s.image, np.array([1, 0, *[255] * 254], np.uint8)[s.target], s.name) for s in samples]
            assert (across[dataset.name] == evaluation.score_pictures(network, dataset.name, samples, **how)).all()
            assert (across[other] == evaluation.score_pictures(network, other, swapped, **how)).all() and across[other].sum()
    report = evaluation.cross_report({"one": {"one": np.eye(2), "two": np.array([[1, 1], [0, 2]])}, "two": {"one": 3 * np.eye(2)}})
    assert report["answers"]["one"]["two"]["global"] == 75 and report["answers"]["two"]["one"]["iou"] == 100
    assert report["all"]["one"]["global"] == pytest.approx(100 * 5 / 6) and report["pooled"]["global"] == pytest.approx(100 * 11 / 12)
    merged = Merged(Labelset("m", ["thing", "ground"]), {"one": (-1, 0), "two": (0, -1)}, 1)
    counts = evaluation.score_merged([network], merged, truth, datasets[0], "test", scoring="strided", device=torch.device("cpu"))
    assert counts.sum() == across["one"].shape[0] * 19 * 26  # of 20 rows of the grid the first is void
