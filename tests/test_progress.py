"""What is said of long work: in a file a line now and then, in a terminal a bar; when, of how many, with the time left."""

import io
import re
import sys
import threading
import time

import pytest
from toy import MODEL, write_toy

from densemtmd import progress
from densemtmd.progress import FIRST, Progress, followed, note, say, told_once
from densemtmd.runs.run import run
from densemtmd.settings import DataSettings, RunSettings, ScoreSettings, TrainSettings


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def said_again(unsaid, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", FIRST)


@pytest.fixture
def hurried(said_again, monkeypatch):
    """Bars and lines come after some hundredths of a second."""
    monkeypatch.setattr(progress, "BAR", 0.01)
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "NEXT", 0.02)


@pytest.fixture(autouse=True)
def nothing_left():
    before = set(threading.enumerate())
    yield
    assert not Progress.going_on and before.issuperset(threading.enumerate())


def lines(of, seconds):
    return [line for second in range(seconds) if (line := of.said(second))]


def test_a_first_line_after_eight_seconds_and_then_one_a_minute():
    with Progress("scoring (dense)", 40) as scoring:
        said = []
        for second in range(200):
            scoring.done = second // 10
            said.append((second, scoring.said(second)))
    said = [(second, line) for second, line in said if line]
    assert said == [
        (8, "scoring (dense): 0 of 40 pictures"),
        (16, "scoring (dense): 1 of 40 pictures, about 10 min left"),
        (76, "scoring (dense): 7 of 40 pictures, about 6 min left"),
        (136, "scoring (dense): 13 of 40 pictures, about 5 min left"),
        (196, "scoring (dense): 19 of 40 pictures, about 4 min left"),
    ]


def test_nothing_is_said_of_what_is_short_or_not_asked():
    with Progress("decoding", 40) as decoding:
        decoding.tick(39)
        assert not lines(decoding, 8)


def test_what_goes_on_from_before_is_not_counted_for_the_time_that_is_left():
    with Progress("training jt", 100, "%", done=50) as training:
        training.done, training.more = 60, "loss 1.234, 5.0k outputs/s"
        assert training.said(30) == "training jt: 60 %, about 2 min left, loss 1.234, 5.0k outputs/s"


def test_of_work_within_work_the_innermost_speaks():
    with Progress("training", 100, "%") as training:
        with Progress("validating", 12) as validating:
            validating.part = "kundu"
            validating.tick(3)
            assert training.said(9) is None and validating.said(9) == "validating, kundu: 3 of 12 pictures, about 27 s left"
        assert training.said(10) == "training: 0 %"


def test_lines_where_output_is_a_file(hurried, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for _ in followed((n for n in range(3)), "rendering streets", 3):
        time.sleep(0.05)
    said = sys.stderr.getvalue().splitlines()
    assert len(said) >= 2 and all(re.fullmatch(r"rendering streets: [012] of 3 pictures(, about \d+ s left)?", line) for line in said)


@pytest.mark.parametrize("ends", [None, KeyboardInterrupt, ValueError])
def test_a_bar_in_a_terminal_that_is_gone_at_the_end_however_it_comes(hurried, monkeypatch, ends):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    try:
        with Progress("training jt", 100, "%") as training:
            training.done, training.more = 30, "loss 1.2"
            with Progress("validating", 4) as validating:
                validating.tick()
                time.sleep(0.1)
                say("epoch 1")
                if ends:
                    raise ends
    except (KeyboardInterrupt, ValueError) as error:
        assert type(error) is ends
    shown = sys.stderr.getvalue()
    assert "training jt  30%" in shown and "loss 1.2" in shown and "validating:  25%" in shown
    assert re.fullmatch(r"\s*", shown.rpartition("\r")[0].rpartition("\r")[2])  # the last that was drawn is blank
    assert sys.stdout.getvalue().endswith("epoch 1\n")


def test_nothing_is_left_of_a_loop_that_ends_early():
    for one in followed(range(9), "labelling"):
        if one == 3:
            break
    with pytest.raises(ZeroDivisionError):
        for one in followed(range(9), "labelling"):
            1 / one


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("scoring", "words"), [("dense", r"; with score.scoring=strided about \d+ s"), ("strided", "")])
def test_what_scoring_will_take_is_said_before_minutes_of_training(tmp_path, capsys, monkeypatch, scoring, words):
    """Here a picture takes twelve seconds by a clock that each look at moves on."""
    datasets = [str(write_toy(tmp_path, name, shape)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    seconds = iter([0.0, 12.0, 12.0, 22.0, 22.0, 23.0])
    monkeypatch.setattr("densemtmd.runs.run.perf_counter", lambda: next(seconds))
    run(RunSettings(
        data=DataSettings(name="toy", datasets=datasets), data_root=str(tmp_path), model=MODEL,
        strategy={"name": "nf", "stages": [{"name": "{dataset}", "datasets": "each"}]}, cache="none", tracking="none",
        runs=str(tmp_path / "runs"),
        train=TrainSettings(epochs=None, minutes=0.002, outputs=400, crop=4, batch=4), score=ScoreSettings(scoring, probe=False),
    ))  # fmt: skip
    said = [line for line in capsys.readouterr().out.splitlines() if "will take" in line]
    assert re.fullmatch(r"after the training, scoring 6 test pictures will take about 60 s" + words, *said)


def test_of_how_many_nobody_knows():
    with Progress("looking in a for **/*.png", None, "files") as looking:
        looking.done = 7000
        assert looking.said(9) == "looking in a for **/*.png: 7000 files"


def test_what_several_runs_have_to_say_is_said_once(capsys):
    for _ in range(2):
        with told_once():
            for line in ("a", "b", "a"):
                note(line)
    note("a")
    assert capsys.readouterr().out.split() == ["a", "b", "a", "b", "a"]


def test_where_no_thread_can_be_started_the_work_goes_on_unseen(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    assert list(followed("abc", "counting")) == ["a", "b", "c"]
