"""Videos: what is written is read again to the last bit, and a network labels each frame as a picture."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import small_network

from densemtmd import Labelset, Predictor, labelling
from densemtmd.errors import UserError
from densemtmd.labelling import find_pictures, label_pictures
from densemtmd.video import Video, note_of, written

pytest.importorskip("av")

HE, XU = Labelset("he", ["sky", "road"]), Labelset("xu", ["ground", "other", "car"])


def film(path, frames, rate=Fraction(10), lossless=False):
    with written(path, rate, "a note", lossless) as writer:
        for frame in frames:
            writer.add(frame)
    return path


def frames(number=5, height=33, width=46):
    """A bright square that wanders, which survives a codec."""
    shown = np.full((number, height, width, 3), 40, np.uint8)
    for n, frame in enumerate(shown):
        frame[4:20, 3 + 4 * n : 19 + 4 * n] = 220
    return shown


def ids_of(path):
    import av

    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)])


def test_what_is_written_is_read_again(tmp_path):
    ids = np.random.default_rng(0).integers(0, 256, (4, 31, 45), np.uint8)
    assert (ids_of(film(tmp_path / "ids.mkv", ids, lossless=True)) == ids).all()
    path = film(tmp_path / "clip.mp4", frames())
    with Video(path) as video:
        assert video.rate == 10
        seen = np.stack([*video])
    assert seen.shape == (5, 32, 46, 3)  # an even number of rows
    assert np.abs(seen.astype(int) - frames()[:, :32]).mean() < 8
    assert note_of(path) == note_of(tmp_path / "ids.mkv") == "a note" and note_of(tmp_path / "no.mp4") is None


def test_a_video_is_labelled_frame_by_frame(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clip, predictor = film(Path("clip.mp4"), frames()), Predictor([small_network(HE, XU)], "cpu")
    Image.fromarray(frames()[0]).save("photo.png")
    pictures = find_pictures(["clip.mp4", "photo.png"])
    assert label_pictures(predictor, pictures, ["he", "xu"], "out") == []
    names = [f"clip.mp4.{name}.{kind}" for name in ("he", "xu") for kind in ("mkv", "overlay.mp4")]
    assert sorted(p.name for p in Path("out").iterdir() if p.name.startswith("clip")) == names and Path("out/photo.png.sheet.png").exists()
    with Video(clip) as video:
        expected = [predictor.all(frame) for frame in video]
    for name in ("he", "xu"):
        assert (ids_of(f"out/clip.mp4.{name}.mkv") == np.stack([one[name] for one in expected])).all()
        with Video(Path(f"out/clip.mp4.{name}.overlay.mp4")) as video:
            assert video.rate == 10 and np.stack([*video]).shape == (5, 32, 46, 3)
    lines = capsys.readouterr().out.splitlines()
    road = np.mean([one["he"] == 1 for one in expected])
    assert f"road {100 * road:.1f} %" in next(line for line in lines if line.startswith("clip.mp4  he"))
    monkeypatch.setattr(labelling, "label_video", lambda *_: pytest.fail("labelled anew"))
    assert label_pictures(predictor, pictures, ["he", "xu"], "out") == []
    assert "2 of 2 were labelled before" in capsys.readouterr().out


def test_what_is_no_video_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictor = Predictor([small_network(HE)], "cpu")
    whole = film(Path("whole.mkv"), np.random.default_rng(0).integers(0, 256, (20, 40, 60), np.uint8), lossless=True).read_bytes()
    Path("text.mp4").write_text("no video")
    Path("cut.mp4").write_bytes(whole[:300])
    found = label_pictures(predictor, find_pictures(["text.mp4", "cut.mp4"]), ["he"], "out")
    assert found[0].startswith("text.mp4 cannot be read as a video (") and found[1].startswith("cut.mp4 ") and len(found) == 2
    assert not any(Path("out").iterdir())
    assert label_pictures(predictor, find_pictures(["text.mp4"]), ["he"], "out", outputs=["probabilities"]) == [
        "text.mp4 is a video, of which ids and overlay can be written: add one of them to --outputs"
    ]
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match="needs PyAV"):
        Video(Path("text.mp4"))
