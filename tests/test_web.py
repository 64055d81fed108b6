"""The page to try: its server, over HTTP, and the page itself in a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import MODEL, small_network, write_toy

from densemtmd import Labelset, OutputSpace, Predictor
from densemtmd.backbones import build
from densemtmd.checkpoint import save_network
from densemtmd.commands import demo
from densemtmd.composing import compose
from densemtmd.data import open_data
from densemtmd.datasets.hands.sets import HAND_SETS
from densemtmd.merging import load_merged
from densemtmd.runs.folder import record
from densemtmd.web import server as module
from densemtmd.web.server import MAX_BYTES, Server

CHROMIUM = shutil.which("chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
A, B = Labelset("a", ["car", "sky", "road"]), Labelset("b", ["vehicle", "sky"])
HANDNET = {"name": "handnet", "size": 24, "width": 4, "hidden": 8, "dropout": 0.1}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Server]:
    """A page with a run of two labelsets, whose data are still there, one run of others and one that finds hands."""
    home = tmp_path_factory.mktemp("web")
    runs = home / "runs"
    for name, network, model in (
        ("streets", small_network(A, B), MODEL),
        ("other", small_network(Labelset("c", ["x", "y"])), MODEL),
        ("hands", build(HANDNET, OutputSpace([HAND_SETS["icvl"].keypoints])).eval(), HANDNET),
    ):
        (runs / name).mkdir(parents=True)
        save_network(runs / name / "best.safetensors", network, model)
        (runs / name / "scores.json").write_text("{}")
    settings = compose(["data=own", f"data.datasets=[{write_toy(home, 'squares', 'square')}]", f"data_root={home}"])
    record(runs / "streets", settings, open_data(settings.data, settings.data_root))
    with Server(runs / "streets", device="cpu", max_pixels=100_000) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked(served: Server, path: str, body: bytes | None = None, run: str = "streets", **query: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{served.address}/{path}?{urlencode({'run': run, **query})}", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def told(served: Server, path: str, body: bytes | None = None, **query: str) -> dict:
    status, data = asked(served, path, body, **query)
    assert status == 200, data
    return json.loads(data)


def sentence(served: Server, path: str, body: bytes | None = None, **query: str) -> str:
    status, data = asked(served, path, body, **query)
    assert status in (400, 403, 404), data[:200]
    return json.loads(data)["error"]


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def photo(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)


def unpacked(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_what_the_page_shows_is_what_the_predictor_says(served, tmp_path, monkeypatch):
    """Labels, probabilities to a 255th, files; merged labelsets too, whose YAML `infer` takes; large pictures are thinned out."""
    image = photo()
    predictor = Predictor.load(served.run, "cpu")
    answer = told(served, "label", png(image), name="p.png")
    assert (answer["width"], answer["height"], answer["step"]) == (90, 60, 1)
    ids, sure = predictor.all(image), predictor.all_probabilities(image, ["a", "b"])
    for one in answer["answers"]:
        shown = unpacked(one["map"])
        assert np.array_equal(shown[..., 0], ids[one["key"]])
        assert abs(shown[..., 1] / 255 - sure[one["key"]].max(0)).max() < 0.0021
        file = Image.open(io.BytesIO(asked(served, "png", key=answer["key"], labelset=one["key"])[1]))
        assert file.mode == "P" and np.array_equal(np.asarray(file), ids[one["key"]])
    wanted = {"name": "merged", "labels": {"car": ["a.car", "b.vehicle"], "sky": ["a.sky", "b.sky"], "else": "rest"}}
    merged = told(served, "merge", json.dumps(wanted).encode(), key=answer["key"])
    (tmp_path / "merged.yaml").write_text(merged["yaml"])
    assert yaml.safe_load(merged["yaml"]) == wanted
    expected = predictor.merged(image, load_merged(tmp_path / "merged.yaml", predictor.space))
    assert np.array_equal(unpacked(merged["answer"]["map"])[..., 0], expected)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(asked(served, "png", key=answer["key"], labelset="merged")[1]))), expected)
    monkeypatch.setattr("densemtmd.web.answers.SHOWN", 1000)
    small = told(served, "label", png(image))
    thin = unpacked(small["answers"][0]["map"])
    assert small["step"] == 3 and np.array_equal(thin[..., 0], ids["a"][::3, ::3]) and unpacked(small["picture"]).shape == thin.shape


def test_runs_and_examples(served):
    assert list(told(served, "runs")["runs"]) == ["streets", "other", "hands"]
    about = told(served, "about")
    assert [one["labels"] for one in about["answers"]] == [["car", "sky", "road"], ["vehicle", "sky"]] and len(about["examples"]) == 1
    example = asked(served, "example", n="0")[1]
    assert np.asarray(Image.open(io.BytesIO(example))).shape == (40, 52, 3)
    assert told(served, "about", run="other")["examples"] == []


def test_what_goes_wrong_is_a_sentence_that_names_no_folder(served):
    key = told(served, "label", png(photo(8, 8)))["key"]
    merged = json.dumps({"name": "merged", "labels": {"car": ["a.car"], "sky": ["b.skies"]}}).encode()
    for words, path, body, query in (
        ("notes.txt is not a picture", "label", b"no picture", {"name": "../../notes.txt"}),
        ("p.png claims 400×300 pixels, expected at most 0.1 million", "label", png(photo(300, 400)), {"name": "p.png"}),
        ("did you mean 'sky'", "merge", merged, {"key": key}),
        ("no longer kept", "merge", merged.replace(b"skies", b"sky"), {"key": "nothing"}),
        ("no JSON", "merge", b"{", {"key": key}),
        ("no JSON", "merge", b"[" * 100_000, {"key": key}),
        ("expected keys and values", "merge", b"[1]", {"key": key}),
        ("there is no run '../streets'", "about", None, {"run": "../streets"}),
        ("there is no example", "example", None, {"n": "7"}),
        ("not labelled under", "png", None, {"key": key, "labelset": "../a"}),
        ("nothing at /../page.html", "../page.html", None, {}),
        ("no depth picture", "label", Image.new("L", (9, 9)) and png(np.zeros((9, 9), np.uint8)), {"run": "hands"}),
    ):
        said = sentence(served, path, body, **query)
        assert words in said and "/tmp" not in said and str(served.run.parent) not in said and "\n" not in said, said


def test_only_the_page_itself_is_answered(served):
    """Neither other machines, nor pages from elsewhere, nor a name that was made to point here; what is too large is not read."""
    assert served.server_address[0] == "127.0.0.1"
    for headers, status in (({"Host": "evil.example"}, 403), ({"Origin": "http://evil.example"}, 403), ({}, 200)):
        connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=20)
        connection.request("GET", "/runs", headers=headers)
        assert connection.getresponse().status == status
        connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=20)
    connection.putrequest("POST", "/label?run=streets")
    connection.putheader("Content-Length", str(MAX_BYTES + 1))
    connection.endheaders()
    assert b"too large" in connection.getresponse().read()


def depth_picture() -> bytes:
    """As ICVL's camera sees a hand, more or less."""
    depth = np.zeros((240, 320), np.uint16)
    depth[90:150, 130:190] = 400
    return png(depth)


def test_hands(served):
    answer = told(served, "label", depth_picture(), run="hands", name="depth.png")["answers"][0]
    names = list(HAND_SETS["icvl"].keypoints.keypoints)
    assert list(answer["keypoints"]) == names and unpacked(answer["picture"]).ndim == 3


def test_the_tool_shows_a_run_until_it_is_interrupted(served, monkeypatch, capsys):
    monkeypatch.setattr(module.Server, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert demo.main(["--web", str(served.run), "--port", "0"]) == 0
    assert "open http://127.0.0.1:" in capsys.readouterr().out
    for arguments in (["--web", "nowhere"], ["--web", str(served.run), "--port", str(served.server_port)], ["--web", "--port", "70000"]):
        assert demo.main([*arguments, "--runs", str(served.run.parent)]) == 1
    errors = capsys.readouterr().err
    assert "--web is nowhere" in errors and f"--port is {served.server_port}, which cannot be had" in errors and "0 to 65535" in errors


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_clicked_through(served, tmp_path):
    """A picture dropped, its answers, pixels pointed at, labels switched off, a merged labelset, downloads, another run, errors."""
    browsing = pytest.importorskip("playwright.sync_api")
    shots = Path(os.environ.get("DENSEMTMD_SCREENSHOTS", tmp_path))
    (tmp_path / "street.png").write_bytes(png(photo()))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    ids, sure = (Predictor.load(served.run, "cpu").all_probabilities(photo(), ["a", "b"])["a"][:, 30, 45] for _ in range(2))
    with browsing.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page.set_default_timeout(20_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((served.address, "data:", "blob:")) or wrong.append(request.url))
        page.goto(served.address)
        page.click("#examples button")
        page.wait_for_selector("[data-labelset=b] canvas")
        page.set_input_files("#file", tmp_path / "street.png")
        page.wait_for_selector("text=street.png, 90 × 60 pixels")
        canvas = page.locator("[data-labelset=a] canvas")
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 45.5 / 90, box["y"] + box["height"] * 30.5 / 60)
        said = page.inner_text("[data-labelset=a] .said")
        assert said.strip() == f"{A.labels[int(ids.argmax())]} {100 * sure.max():.0f} %" and page.inner_text("[data-labelset=b] .said")

        def drawn() -> list[int]:
            return canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")

        before = drawn()
        page.click("[data-labelset=a] .legend button >> nth=0")
        assert drawn() != before
        page.click("[data-labelset=a] .legend button >> nth=0")
        assert drawn() == before
        page.fill("#label", "car")
        page.click("text=Add label")
        page.click("#sources button[title='a.car']")
        page.click("#sources button[title='b.vehicle']")
        page.click("#rest")
        page.wait_for_selector("[data-labelset=merged] canvas")
        page.screenshot(path=shots / "page.png", full_page=True)
        with page.expect_download() as download:
            page.click("#saveyaml")
        made = yaml.safe_load(Path(download.value.path()).read_text())
        assert made["labels"] == {"car": ["a.car", "b.vehicle"], "rest": "rest"}
        with page.expect_download() as download:
            page.click("[data-labelset=merged] h3 a")
        assert np.asarray(Image.open(download.value.path())).shape == (60, 90)
        page.set_viewport_size({"width": 1280, "height": 500})
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.set_input_files("#file", tmp_path / "bad.jpg")
        page.wait_for_selector("#error >> text=bad.jpg is not a picture")
        box = page.locator("#error").bounding_box()
        assert -1 < box["y"] <= 500 - box["height"] and page.is_visible("[data-labelset=merged] canvas")
        page.set_viewport_size({"width": 375, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        page.screenshot(path=shots / "phone.png", full_page=True)
        page.set_viewport_size({"width": 800, "height": 700})
        page.select_option("#run", "hands")
        page.wait_for_selector("text=This run finds a hand's keypoints")
        page.set_input_files("#file", {"name": "depth.png", "mimeType": "image/png", "buffer": depth_picture()})
        page.wait_for_selector("[data-labelset] >> nth=0", state="detached")
        page.wait_for_selector("text=16 keypoints")
        assert not page.is_visible("#tools") and not page.is_visible("#merging")
        page.screenshot(path=shots / "hands.png", full_page=True)
        page.select_option("#run", "other")
        page.wait_for_selector("[data-labelset=a]", state="detached")
        page.set_input_files("#file", tmp_path / "street.png")
        page.wait_for_selector("[data-labelset=c] canvas")
        browser.close()
    assert not wrong
