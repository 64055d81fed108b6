"""Files and paths: what killed writers leave behind; a path may be a text; what YAMLs may hold, and what they may cost."""

import os
import resource
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import refused

from densemtmd import Predictor, checkpoint
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.pictures import read_picture
from densemtmd.errors import UserError
from densemtmd.files import (
    atomic_write,
    read_bounded,
    read_json,
    read_yaml,
    remove_strays,
    write_json,
    write_text,
    yaml_text,
)  # fmt: skip
from densemtmd.poses import read_any_depth
from densemtmd.runs.folder import reopen
from densemtmd.runs.run import resume
from densemtmd.runs.table import read_experiment


def test_strays_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "below").mkdir()
    strays = [tmp_path / f".{uuid.uuid4().hex}.safetensors", tmp_path / "below" / f".{uuid.uuid4().hex}"]
    kept = [tmp_path / ".hidden.json", tmp_path / "below" / f"{uuid.uuid4().hex}.png", tmp_path / ".0123"]
    for file in strays + kept:
        file.write_text("x")
    remove_strays(tmp_path)
    assert not any(file.exists() for file in strays) and all(file.exists() for file in kept)


def test_the_names_of_strays_are_those_that_atomic_write_uses(tmp_path):
    with atomic_write(tmp_path / "scores.json") as temporary:
        temporary.write_text("{}")
        remove_strays(tmp_path)
        assert not temporary.exists()
        temporary.write_text("{}")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    "door",
    [checkpoint.load, checkpoint.load_network, Predictor.load, load_dataset_config, lambda path: read_yaml(path, "one"), read_json,
     read_picture, read_any_depth, reopen, resume, read_experiment],
    ids=lambda door: door.__name__,
)  # fmt: skip
def test_a_path_may_be_a_text(door, tmp_path):
    """Whatever takes a path: both are refused with the same sentence, where there is nothing."""
    sentences = []
    for path in (tmp_path / "nowhere.yaml", str(tmp_path / "nowhere.yaml")):
        with pytest.raises(UserError, match="nowhere") as caught:
            door(path)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]


def test_what_is_written_to_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("a/scores.json", {"iou": 1})
    write_text("a/table.yaml", "name: a\n")
    assert read_json("a/scores.json") == {"iou": 1} and read_yaml("a/table.yaml", "a table") == {"name": "a"}


# YAML


@pytest.fixture
def read(tmp_path):
    def call(text):
        path = tmp_path / "some.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return read_yaml(path, "a test's YAML")

    return call


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text() | st.dates()
    | st.binary(max_size=9),
    lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text() | st.integers() | st.booleans(), of, max_size=4),
    max_leaves=12,
)


@given(plain)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "some.yaml"
    path.write_text(yaml_text(data), encoding="utf-8", newline="")
    assert read_yaml(path, "a test's YAML") == data == yaml.safe_load(path.read_bytes())


TEXTS = [
    "", "# nothing", "a", "- a\n- [b, 'c', \"d\\n\"]\n- {e: f}", "a: 1\nb: 0x1F\nc: 1_000\nd: 1:30\ne: 0b11\nf: 017", 
    "a: yes\nb: ~\nc: .inf",
    "a: 2020-01-01\nb: 2020-01-01T10:00:00Z", "a: |\n  b\n  c\nd: >\n  e\n  f\n", "? a\n: b", "{a, b: c}",
    "a: ! 12\nb: !!str 12\nc: !!float 1",
    "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3, c: 4}\nz: {<<: [*x, {b: 9, d: 1}]}\nw: {b: 0, <<: *x}", "x: &x 3\ny: [*x, *x]\n&k key: *x",
    "a: '<<'\n'<<': {b: 1}", "%YAML 1.1\n---\na: 1\n...\n", "a: !!binary aGVsbG8=", "a: 1\na: 2",
    "a: 'it''s'", "é: ü", "<<: {a: 1}\n<<: {a: 2, b: 3}",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_is_read_as_the_library_reads_it(read, text):
    assert read(text) == yaml.safe_load(text)


def test_what_windows_writes_at_the_beginning_of_a_file(read):
    assert read("\ufeffa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


def test_what_looks_like_a_merge_and_is_none(read):
    assert read("a: <<\nb: [<<, =]") == {"a": "<<", "b": ["<<", "="]}


MISTAKES = [
    ("a: [", "line 2, column 1"), ("a: 1\nb: *x", "line 2, column 4: *x without an &x before it"), ("a: &a [*a]", "*a within &a"),
    ("!!int ''", "line 1, column 1: a value that is no int"), ("a: 2024-13-45", "no timestamp; put quotes around what is a text"),
    ("a: 0x_", "no int"), ("a: !!python/object:os.system b", "the tag tag:yaml.org,2002:python/object:os.system, which nothing here knows"),
    ("a: !b c", "the tag !b"), ("a: !!set {b}", "the tag tag:yaml.org,2002:set"), ("<<: 3", "<< with something else"),
    ("{[a]: b}", "a list or a mapping as a key"), ("---\na\n---\nb", "line 3, column 1: a second document"), 
    ("a: \0", "control characters"),
    (b"a: 1\nb: \xff", "line 2 is not UTF-8"), ("[" * 101, "more than 100 levels"), ("a: !!int " + "9" * 201, "a value of 201 characters"),
    ("a: " + "1" * 300 + "\nb: [", "line 3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_mistakes_are_told_by_their_place(read, text, words):
    with refused("some.yaml is not YAML", words):
        read(text)


def test_no_content_of_a_file_is_told(read):
    """Another YAML may name any file; what is said of it then holds none of its lines."""
    for text in ("- secret\n- [", "a: 'secret", "a: !!int secret", "secret\nsecret: [", "!!timestamp secret", "a: secret\nb: \0"):
        with pytest.raises(UserError) as caught:
            read(text)
        assert "secret" not in str(caught.value)


def bomb(kind: str) -> str:
    """Eight lines that stand for a billion values."""
    names = "abcdefghi"
    lines = [f"{names[0]}: &{names[0]} " + ("{k: v}" if kind == "merges" else "[v]")]
    for one, other in pairwise(names):
        many = ", ".join([f"*{one}"] * 14)
        merged = ", ".join(f"k{n}: {{<<: *{one}}}" for n in range(14))
        value = {"aliases": f"[{many}]", "merges": f"{{<<: [{many}], {other}: 1}}", "merged values": f"{{<<: *{one}, {merged}}}"}
        lines.append(f"{other}: &{other} {value[kind]}" if kind != "merged values" or one != "a" else "b: &b {v: 1}")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["aliases", "merges", "merged values"])
def test_a_bomb_is_refused_in_no_time(read, kind):
    before = time.monotonic()
    with refused("holds more than 1,000,000 values, expected a test's YAML"):
        read(bomb(kind))
    assert time.monotonic() - before < 1


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, "{" * 10**6, "- " * 10**6, "a: " + "9" * 10**6, "a: " + "1:" * 10**6 + "1", "#" * 10**6, "'" * 10**6, "&a " * 10**5,
     "? " * 10**5, "\n" * 10**6, "{a: " * 10**5, "a: " + "0." * 10**6, "a: !!float " + "1:" * 10**6],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_long_file_takes_no_time(read, text):
    before = time.monotonic()
    with suppress(UserError):
        read(text)
    assert time.monotonic() - before < 2


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, words in (("pipe", "a pipe or a device"), ("link", "a pipe or a device"), (".", "a folder"), ("gone", "No such file")):
        with refused(tmp_path / name, words, "expected a list there") as told:
            read_bounded(tmp_path / name, "a list")
        assert str(told.value).count("cannot be read") == 1
    with refused("null"):
        read_bounded(tmp_path / "a\0b", "a list")
    (tmp_path / "large").write_bytes(bytes(11))
    assert read_bounded(tmp_path / "large", "a list", most=11) == bytes(11)
    with refused("large is larger than 1e-05 MB, expected a list"):
        read_bounded(tmp_path / "large", "a list", most=10)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_file_takes_no_memory(tmp_path):
    """In a process that may not have it: before, ``labelset: zero.yaml`` took all the memory there was."""
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "mine.yaml").write_text("{name: a, images: 'i/*', labels: 'l/*', encoding: index, labelset: zero.yaml}")
    script = "import sys; from densemtmd.datasets.config import load_dataset_config as load; load(sys.argv[1])"
    limit = 4 * 2**30
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "mine.yaml")], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert "UserError" in answer.stderr and "zero.yaml cannot be read: it is a pipe or a device" in answer.stderr


def test_many_values_are_read_in_time(read):
    text = "together:\n" + "".join(f"- [k{n:06}, k{n + 1:06}]\n" for n in range(20_000))
    before = time.process_time()
    assert len(read(text)["together"]) == 20_000
    assert time.process_time() - before < 5
