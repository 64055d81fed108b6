"""``tools/correlate.py`` as a user runs it, on a street world and on datasets of which no truth is known."""

import csv
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import write_toy

from densemtmd.commands import correlate, evaluate, train

SMALL = [
    "tracking=none", "model=patchnet",
    "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=2000", "train.crop=16", "train.batch=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def street_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("correlate")
    world = ["data.world.images=6", "data.world.frames=1", "data.world.width=96", "data.world.height=64", "data.datasets=[kundu,xu,ros]"]
    assert train.main([*SMALL, *world, f"data_root={root}", f"runs={root / 'runs'}", "score.scoring=strided"]) == 0
    (run,) = (root / "runs").iterdir()
    return run


def test_a_street_world_is_scored_against_its_truth(street_run, capsys):
    capsys.readouterr()
    assert correlate.main([str(street_run)]) == 0
    printed = capsys.readouterr().out
    out = street_run / "correlations" / "own-train+val+test"
    found = json.loads((out / "correspondences.json").read_text())
    assert {tuple(sorted((c["a"][0], c["b"][0]))) for c in found} == {("kundu", "ros"), ("kundu", "xu"), ("ros", "xu")}
    assert {key for c in found for key in c} == {"a", "b", "relation", "confidence"}
    assert all(c["relation"] in ("same", "part_of", "contains", "none") and 0 <= c["confidence"] <= 1 for c in found)
    scored = json.loads((out / "scores.json").read_text())
    assert scored["pairs"] <= len(found) and scored["true"] > 5 and scored["splits"] == ["train", "val", "test"]
    assert "against the truth" in printed and "kundu and xu" in printed and (out / "correspondences.txt").read_text().strip() in printed
    with (out / "correlation.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 11 + 11 + 5 and rows[0][2:] == [row[0] for row in rows[1:]]
    for row in rows[1:]:
        values = np.array([float(v) if v else np.nan for v in row[2:]])
        if int(row[1]):
            labels = [name.split(".")[0] for name in rows[0][2:]]
            for name in ("kundu", "xu", "ros"):
                assert values[[one == name for one in labels]].sum() == pytest.approx(1, abs=1e-3)
        else:
            assert np.isnan(values).all() and f"{row[0]}" in printed.split("unknown, since")[1]
    assert (out / "correlation.png").stat().st_size > 10_000


def labelled_twice(root, files):
    """The pictures of the first toy, with squares marked in one folder of labels and discs in another: the YAMLs of both."""
    shutil.copytree(root / "squares", root / "twice")
    (root / "twice" / "discs").mkdir()
    for path in (root / "twice" / "images").iterdir():
        disc = (np.asarray(Image.open(path)) == (40, 40, 230)).all(2).astype(np.uint8)
        Image.fromarray(disc).save(root / "twice" / "discs" / path.name)
    yamls = []
    for file, labels in zip(files, ("labels", "discs"), strict=True):
        content = {
            "name": f"twice_{file.stem}", "folder": "twice", "images": "images/*.png", "labels": f"{labels}/*.png", "encoding": "index",
            "labelset": str(file), "split": {"fractions": {"test": 1}},
        }  # fmt: skip
        yamls.append(root / f"{content['name']}.yaml")
        yamls[-1].write_text(yaml.safe_dump(content))
    return yamls


def test_without_an_answer_key_nothing_is_scored(tmp_path, capsys):
    files = [write_toy(tmp_path, name, shape, size=(60, 70)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    data = ["data=own", "model=patchnet", f"data.datasets=[{','.join(map(str, files))}]"]
    data += [f"data_root={tmp_path}", f"runs={tmp_path / 'runs'}"]
    assert train.main([*SMALL, *data, "strategy=nf"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert correlate.main([str(run), "--split", "test", "--out", str(tmp_path / "out")]) == 0
    assert "against the truth" not in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "correspondences.json").read_text())) == 4
    assert not (tmp_path / "out" / "scores.json").exists()

    twice = labelled_twice(tmp_path, files)  # photos for tests alone, which two people labelled
    arguments = ["--data", ",".join(map(str, twice)), "--data-root", str(tmp_path), "--split", "test"]
    assert correlate.main([str(run), *arguments, "--out", str(tmp_path / "twice")]) == 0
    assert "against the truth, over 4 pairs" in capsys.readouterr().out
    scored = json.loads((tmp_path / "twice" / "scores.json").read_text())
    assert {m["truth"] for m in scored["mistakes"]} <= {"none", "same", "part_of", "contains"}
    assert scored["at 85%"]["pairs"] == 4 and "precision" in (tmp_path / "twice" / "scores.md").read_text()
    content = yaml.safe_load(twice[0].read_text()) | {"truth": {"with": twice[1].name}}
    (keyed := tmp_path / "keyed.yaml").write_text(yaml.safe_dump(content))  # the same, said in the YAML of one of them
    arguments = ["--data", str(keyed), "--data-root", str(tmp_path), "--split", "test"]
    assert correlate.main([str(run), *arguments, "--out", str(tmp_path / "keyed")]) == 0
    assert (tmp_path / "keyed" / "scores.json").read_text() == (tmp_path / "twice" / "scores.json").read_text()
    assert evaluate.main([str(run), *arguments, "--cross", "--strided", "--out", str(tmp_path / "keyed")]) == 0
    assert set(json.loads((tmp_path / "keyed" / "cross.json").read_text())["answers"]["discs"]) == {"twice_squares", "twice_discs"}
    assert train.main([*SMALL, *data[:2], f"data.datasets=[{twice[0]}]", *data[3:]]) == 1
    assert "twice_squares has no validation pictures" in capsys.readouterr().err

    loose = shutil.copy(run / "squares" / "best.safetensors", tmp_path / "loose.safetensors")
    for arguments, words in [
        ([str(run), "--split", "tset"], ["--split", "'tset'", "did you mean 'test'"]),
        ([str(loose)], ["--data"]),
        ([str(run), "--data", str(files[0]), "--data-root", str(tmp_path)], ["squares", "two labelsets"]),
        ([str(tmp_path / "nothing")], ["nothing"]),
    ]:
        capsys.readouterr()
        assert correlate.main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        for word in words:
            assert word in error, error


def test_cross_scores_and_a_merged_answer(street_run, tmp_path, capsys):
    from densemtmd.commands import infer

    assert evaluate.main([str(street_run), "--cross", "--strided"]) == 0
    printed = capsys.readouterr().out
    out = street_run / "evaluations" / "cross-own-test-strided"
    scored = json.loads((out / "cross.json").read_text())
    assert set(scored["answers"]) == {"kundu", "xu", "ros"} == set(scored["answers"]["xu"]) and scored["scoring"] == "strided"
    cell = f"{scored['answers']['kundu']['ros']['global']:.1f}"
    row = next(line for line in printed.splitlines() if line.startswith("kundu"))
    page = (out / "cross.md").read_text()
    assert cell in row.split() and cell in page and "\nMade by `densemtmd evaluate .../" in page and " --cross --strided`, in " in page
    assert scored["pooled"]["pixels"] == sum(one["pixels"] for on in scored["answers"].values() for one in on.values())

    merged = tmp_path / "mine.yaml"
    merged.write_text("{name: mine, labels: {car: [kundu.car, ros.car], sky: [kundu.sky, xu.sky, ros.sky], background: rest}}")
    assert evaluate.main([str(street_run), "--labelset", str(merged), "--strided"]) == 0
    out = street_run / "evaluations" / "mine-own-test-strided"
    labels = json.loads((out / "scores.json").read_text())["datasets"]["mine"]["labels"]
    assert set(labels) == {"car", "sky", "background"} and all(one["pixels"] for one in labels.values())
    assert (out / "figures" / "confusion_mine.png").exists()

    picture = next((street_run.parents[1]).glob("streets-*/kundu/images/*.png"))
    assert infer.main([str(picture), "--labelset", str(merged), "--checkpoint", str(street_run), "--out", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {f"{picture.name}.mine.png", f"{picture.name}.mine.overlay.png"}

    (tmp_path / "wrong.yaml").write_text("{name: wrong, labels: {car: kundu.cra, background: rest}}")
    for arguments, words in [
        ([str(street_run), "--labelset", str(tmp_path / "wrong.yaml")], ["wrong.yaml", "did you mean 'car'"]),
        ([str(street_run), "--labelset", str(tmp_path / "none.yaml")], ["none.yaml"]),
        ([str(street_run), "--labelset", str(merged), "--cross"], ["--cross and --labelset"]),
    ]:
        capsys.readouterr()
        assert evaluate.main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        for word in words:
            assert word in error, error
