"""MLflow's own pages of a small table, as a person sees them in a browser, and its networks, loaded and served."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import undraw, write_toy

from densemtmd import Predictor
from densemtmd.commands import train

mlflow = pytest.importorskip("mlflow")

CHROMIUM = shutil.which("chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
SMALL = [
    "data=own", "model=patchnet", "model.widths=[4,6,8]", "model.hidden=8", "train.epochs=null", "train.outputs=600", "train.crop=24",
    "train.batch=4", "cache=none", "score.scoring=strided", "score.probe=false", "runs=runs", "register=toys",
]  # fmt: skip


LEAN = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no processes beside the server


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The folder of a table of two strategies, with its record in MLflow."""
    home = tmp_path_factory.mktemp("pages")
    files = [str(write_toy(home, "squares", "square")), str(write_toy(home, "discs", "disc"))]
    (home / "experiment").mkdir()
    rows = {"nf": ["strategy=nf"], "jt": ["strategy=jt"]}
    settings = [*SMALL, f"data.datasets=[{','.join(files)}]", f"data_root={home}"]
    (home / "experiment" / "toys.yaml").write_text(yaml.safe_dump({"rows": rows, "settings": settings, "seeds": [0]}, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        undraw(patch)
        patch.chdir(home)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert train.main(["experiment=toys", "--config-dir", str(home)]) == 0
    return home


@pytest.fixture(autouse=True)
def named(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")


def client(store: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs_of(store: Path) -> tuple[str, dict[str, mlflow.entities.Run]]:
    """The experiment's id and its runs by their names."""
    experiment = client(store).get_experiment_by_name("toys")
    return experiment.experiment_id, {run.info.run_name: run for run in client(store).search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def servers(store) -> Iterator[dict[str, str]]:
    """MLflow's pages, and a server of a registered network, on free ports of this machine: their addresses. Both start while tests run."""
    uri = f"sqlite:///{store / 'mlflow.db'}"
    run = runs_of(store)[1]["nf-seed0"]
    version = client(store).search_model_versions(f"name = 'toys' and run_id = '{run.info.run_id}'")[0].version
    commands = {"model": ["models", "serve", "--model-uri", f"models:/toys/{version}", "--env-manager", "local"]}
    if CHROMIUM is not None:
        commands["ui"] = ["ui", "--backend-store-uri", uri]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where mlflow looks for uvicorn
    environment = {**os.environ, **LEAN, "MLFLOW_TRACKING_URI": uri, "PATH": path}
    with ExitStack() as ends:
        addresses = {}
        for name, command in commands.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            arguments = [*command, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
            process = multiprocessing.get_context("fork").Process(target=serve, args=(arguments, environment, store / f"{name}.log"))
            process.start()
            ends.callback(end, process)
            addresses[name] = f"http://127.0.0.1:{port}"
        yield addresses


def serve(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """MLflow's own command, in a forked process, which has mlflow imported already."""
    from mlflow.cli import cli

    os.setsid()
    with log.open("w") as out:
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    os.chdir(log.parent)
    os.environ.update(environment)
    os._exit(cli.main(arguments, standalone_mode=False) or 0)


def end(process: BaseProcess) -> None:
    """Ends a server and the processes that it has started."""
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, 15)
    process.join(20)


def wait_for(url: str, log: Path) -> None:
    """Until a server answers."""
    patience = time.monotonic() + 120
    while True:
        assert time.monotonic() < patience, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)


def test_what_is_recorded_of_a_table(store):
    _, runs = runs_of(store)
    table, nf, jt, below = (runs[name] for name in ("toys", "nf-seed0", "jt-seed0", "squares"))
    assert {"data", "model", "strategy", "seed"} <= {*jt.data.params} and not any("mixture" in key or "lr" in key for key in jt.data.params)
    assert {*nf.data.metrics} <= {*jt.data.metrics} and "epoch" not in jt.data.metrics
    assert {"IoU/squares", "test/Global/squares"} <= {*below.data.metrics} and "IoU/all" not in below.data.metrics
    assert list(jt.data.metrics)[:3] == ["IoU/all", "IoU/squares", "IoU/discs"]  # the pages begin with what was recorded first
    assert below.data.metrics["IoU/squares"] == nf.data.metrics["IoU/squares"]
    kept = {item.path for item in client(store).list_artifacts(table.info.run_id)}
    assert {"compare.html", "table.md", "table.csv", "figure.png", "tables"} <= kept
    page = Path(client(store).download_artifacts(table.info.run_id, "compare.html", str(store))).read_text()
    assert "<td>jt, IoU</td>" in page and "data:image/png;base64," in page and "Difference to nf, with its 95 % interval" in page
    shown = client(store).load_table(table.info.experiment_id, "tables/comparison.json", [table.info.run_id])
    assert {*shown["row"]} == {"nf", "jt"} and {"mean", "low", "high"} <= {*shown.columns}
    about = client(store).get_experiment(table.info.experiment_id).tags["mlflow.note.content"]
    assert "| jt, IoU |" in about and "densemtmd train experiment=toys" in about and "| jt-seed0 | " in about


def labels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_network_is_loaded_and_served(store, servers):
    """The same labels from MLflow's model, from its server over HTTP, and from the run's folder; the weights are there once."""
    import pandas as pd

    run = runs_of(store)[1]["nf-seed0"]
    file = store / "squares" / "images" / "003.png"
    expected = Predictor.load(store / run.data.tags["folder"]).all(np.asarray(Image.open(file)))
    assert set(expected) == {"squares", "discs"}
    weights = [*store.glob("mlartifacts/**/network/*/best.safetensors")]
    assert len(weights) == 2 and all(one.stat().st_nlink == 2 for one in weights)
    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    assert model.metadata.metadata["labelsets"] == {"squares": ["other", "square"], "discs": ["other", "disc"]}
    asked = pd.DataFrame({"picture": [file.read_bytes()]})
    answers = model.predict(asked)
    one = model.predict(asked, params={"labelset": "discs"})
    assert list(one.columns) == ["discs"]
    wait_for(f"{servers['model']}/ping", store / "model.log")
    data = json.dumps({"dataframe_records": [{"picture": base64.b64encode(file.read_bytes()).decode()}]}).encode()
    request = urllib.request.Request(f"{servers['model']}/invocations", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        served = json.load(response)["predictions"][0]
    bad = json.dumps({"dataframe_records": [{"picture": base64.b64encode(b"none").decode()}]}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(request.full_url, bad, {"Content-Type": "application/json"}), timeout=60)
    assert refused.value.code == 400 and "Error: picture 1 is not a picture that Pillow can read" in refused.value.read().decode()
    version = client(store).search_model_versions(f"name = 'toys' and run_id = '{run.info.run_id}'")[0]
    assert version.description.startswith(f"nf-seed0: IoU/all {run.data.metrics['IoU/all']:.1f}, IoU/squares ")
    for name, ids in expected.items():
        assert np.array_equal(labels_of(answers[name][0]), ids)
        assert np.array_equal(labels_of(base64.b64decode(served[name])), ids)


FIRST_SCREEN = """() => {
    const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(walker.currentNode);
        const box = range.getBoundingClientRect();
        const inside = box.top >= 0 && box.bottom <= innerHeight && box.left >= 0 && box.right <= innerWidth;
        if (box.width && inside) seen.push(walker.currentNode.data);
    }
    return seen.join("\\n");
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_scores_are_on_the_first_screen(store, servers):
    """The runs table opens on the scores, and so does the comparison; pictures are seen without a slider."""
    browsing = pytest.importorskip("playwright.sync_api")
    experiment, runs = runs_of(store)
    shots = Path(os.environ.get("DENSEMTMD_SCREENSHOTS", store / "screenshots"))
    jt, nf = runs["jt-seed0"], runs["nf-seed0"]
    wait_for(f"{servers['ui']}/health", store / "ui.log")
    with browsing.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1440, "height": 900})

        def look(name: str, below: str, until: str) -> str:
            page.goto("about:blank")
            page.goto(f"{servers['ui']}/#/{below}", wait_until="domcontentloaded")
            page.wait_for_selector(until, timeout=20_000)
            page.wait_for_timeout(500)
            page.screenshot(path=shots / f"{name}.png")
            return page.evaluate(FIRST_SCREEN)

        view = f"experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=scores"
        table = look("runs", view, "text=jt-seed0")  # whose row comes after the heads of the columns
        first = f"{jt.data.metrics['IoU/all']:g}"
        assert "Scores" in table and "IoU/all" in table and first in table and "jt-seed0" in table and "nf-seed0" in table, table
        ids = json.dumps([jt.info.run_id, nf.info.run_id], separators=(",", ":")).replace('"', "%22")
        compared = look("compare", f"compare-runs?runs={ids}&experiments=[%22{experiment}%22]", "svg >> text=IoU/all")
        assert "strategy" in compared and "IoU/all" in compared and "mixture" not in compared and "system/" not in compared, compared
        assert f"{jt.data.metrics['IoU/all']:.2f}" in compared, compared
        home = f"experiments/{experiment}/runs/{jt.info.run_id}"
        about = look("run", f"{home}?workflowType=machine_learning", "img[src*=answers]")
        found = re.search(r"IoU on the test pictures:\s+all ([\d.]+)", about)
        assert found and abs(float(found[1]) - jt.data.metrics["IoU/all"]) < 0.06, about
        box = page.locator("img[src*=answers]").bounding_box()
        assert box and box["y"] < 880 and box["width"] > 100, box
        charts = look("charts", f"{home}/model-metrics", "text=pictures/discs/003")
        assert "IoU" in charts and first in charts, charts
        page.locator("text=pictures/discs/003").last.scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].some(one => one.naturalWidth > 100)", timeout=20_000)
        browser.close()
