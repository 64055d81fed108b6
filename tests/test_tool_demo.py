"""The demo, from nothing to a labelled picture, on a small world."""

import json

from PIL import Image
from toy import undraw

from densemtmd import composing


def test_from_nothing_to_a_labelled_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from densemtmd.commands import demo

    compose = composing.compose

    def small(overrides):
        settings = compose(overrides)
        settings.data.world |= {"width": 160, "height": 64}
        return settings

    monkeypatch.setattr(composing, "compose", small)
    undraw(monkeypatch, "confusion_figure")
    assert demo.main(["--minutes", "0.03", "--images", "9", "--tracking", "none"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    scored = json.loads((run / "scores.json").read_text())
    assert len(scored["datasets"]) == 7 and sum(len(d["labels"]) for d in scored["datasets"].values()) == 68
    printed = capsys.readouterr().out
    (sheet,) = (tmp_path / "out").glob("*.sheet.png")
    assert Image.open(sheet).width > 600 and len(list((tmp_path / "out").glob("*.overlay.png"))) == 7
    for file in (sheet, run / "figures" / "curves.png", run / "scores.json"):
        assert str(file.relative_to(tmp_path)) in printed and file.is_file()
