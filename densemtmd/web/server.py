"""The server of the page: this machine alone can reach it, and of this machine's browsers only the page itself.

What it answers:

    GET  /  /page.css  /page.js       the page
    GET  /runs                        the runs that can be picked, and how large a picture may be
    GET  /about?run=RUN               what a run answers, and pictures to begin with
    GET  /example?run=RUN&n=N         one of them
    POST /label?run=RUN&name=FILE     body: a picture's file; what it shows, under every labelset
    POST /merge?run=RUN&key=KEY       body: a merged labelset as JSON; the same picture under it
    GET  /png?run=RUN&key=KEY&labelset=NAME    a label map as a file

What goes wrong is a sentence, ``{"error": ...}``, with the status 400.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from densemtmd.data import open_data
from densemtmd.datasets.pictures import MAX_PIXELS
from densemtmd.errors import UserError, about_memory
from densemtmd.inference import checkpoints_of
from densemtmd.runs.folder import settings_of
from densemtmd.web.answers import Hands, Pixels, open_run

HOST = "127.0.0.1"

MAX_BYTES = 256 << 20
"""Of a file that is sent."""

EXAMPLES = 4
"""At most so many pictures to begin with."""

FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}

SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",  # nothing from elsewhere
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Shows a page with the networks of runs.

    Args:
        run: the folder of the one that is shown first; those beside it can be picked.
        port: on which; 0: a free one.
        device: for the networks.
        max_pixels: refuse larger pictures.
    """

    daemon_threads = True

    def __init__(self, run: Path, port: int = 0, device: str = "auto", max_pixels: int = MAX_PIXELS) -> None:
        checkpoints_of(run)
        self.run, self.device, self.max_pixels = run.resolve(), device, max_pixels
        self.lock = threading.Lock()  # one picture at a time: a network takes all cores
        self._opened: dict[str, Pixels | Hands] = {}
        self._examples: dict[str, list[tuple[str, Path]]] = {}
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UserError(f"--port is {port}, which cannot be had ({error.strerror}): choose another one, or 0 for any") from None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    @cached_property
    def runs(self) -> dict[str, Path]:
        """The run and those beside it that have networks, by their names, the run first and then the newest."""
        found = {self.run.name: self.run}
        for folder in sorted(self.run.parent.iterdir(), reverse=True):
            with suppress(UserError, OSError):
                if folder.is_dir() and (folder / "scores.json").is_file() and checkpoints_of(folder):
                    found.setdefault(folder.name, folder)
        return found

    def networks(self, name: str) -> Pixels | Hands:
        """Those of a run, opened once; of other runs none are kept."""
        if name not in self.runs:
            raise UserError(f"there is no run {name!r}: reload the page")
        if name not in self._opened:
            opened = open_run(self.runs[name], self.device, self.max_pixels)
            self._opened = {name: opened}
        return self._opened[name]

    def examples(self, name: str) -> list[tuple[str, Path]]:
        """Test pictures of the data that a run learned from, one of each dataset, with its name; none where the data are gone."""
        if name not in self._examples:
            self._examples[name] = []
            with suppress(UserError, OSError, KeyError, IndexError):
                settings = settings_of(self.runs[name])
                firsts = {d.name: d.splits["test"][0].image for d in open_data(settings.data, settings.data_root) if d.splits["test"]}
                self._examples[name] = [(dataset, file) for dataset, file in firsts.items() if file.is_file()][:EXAMPLES]
        return self._examples[name]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle is no error; what else goes wrong is ours."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a word
    body = b""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the page says what is to be said."""

    def do_GET(self) -> None:
        self._answer({"/runs": self._runs, "/about": self._about, "/example": self._example, "/png": self._png})

    def do_POST(self) -> None:
        self._answer({"/label": self._label, "/merge": self._merge})

    def _answer(self, known: Mapping[str, Callable[[Mapping[str, str]], None]]) -> None:
        url = urlsplit(self.path)
        if not self._is_from_here():
            self.close_connection = True
            return self._error("this page answers only this machine's own browser", 403)
        asked = {key: values[-1] for key, values in parse_qs(url.query).items()}
        try:
            if self.command == "POST":
                self.body = self._read()
            if url.path in known:
                with self.server.lock:
                    known[url.path](asked)
            elif self.command == "GET" and url.path in FILES:
                name, mime = FILES[url.path]
                self._send((Path(__file__).parent / name).read_bytes(), f"{mime}; charset=utf-8")
            else:
                self._error(f"there is nothing at {url.path[:100]}", 404)
        except UserError as error:
            self._error(str(error))
        except OSError:  # whoever asked has gone
            raise
        except Exception as error:
            if (reason := about_memory(error)) is None:
                self._error("something went wrong that should not have: the terminal says what", 500)
                raise
            self._error(f"the picture cannot be labelled: {reason}")

    def _is_from_here(self) -> bool:
        """Whether a page of this server asks, and no page from elsewhere that the browser has open, nor one that has taken its name."""
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in hosts and (origin is None or origin.removeprefix("http://") in hosts)

    def _runs(self, asked: Mapping[str, str]) -> None:
        self._json({"runs": list(self.server.runs), "most_bytes": MAX_BYTES, "most_pixels": self.server.max_pixels})

    def _about(self, asked: Mapping[str, str]) -> None:
        run = asked.get("run", "")
        networks = self.server.networks(run)
        examples = [f"{dataset}, {file.name}" for dataset, file in self.server.examples(run)]
        self._json({"kind": networks.kind, "answers": networks.about(), "examples": examples})

    def _example(self, asked: Mapping[str, str]) -> None:
        self.server.networks(run := asked.get("run", ""))
        files, number = self.server.examples(run), asked.get("n", "")
        if not number.isdecimal() or int(number) >= len(files):
            raise UserError(f"there is no example {number!r}: reload the page")
        self._send(files[int(number)][1].read_bytes(), "application/octet-stream")

    def _label(self, asked: Mapping[str, str]) -> None:
        self._json(self.server.networks(asked.get("run", "")).label(self.body, asked.get("name", "picture")))

    def _merge(self, asked: Mapping[str, str]) -> None:
        try:
            wanted = json.loads(self.body)
        except (ValueError, RecursionError):
            raise UserError("a merged labelset was sent that is no JSON: reload the page") from None
        self._json(self._pixels(asked).merge(asked.get("key", ""), wanted))

    def _png(self, asked: Mapping[str, str]) -> None:
        name = asked.get("labelset", "")
        data = self._pixels(asked).png(asked.get("key", ""), name)
        self._send(data, "image/png", {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.png"})

    def _pixels(self, asked: Mapping[str, str]) -> Pixels:
        networks = self.server.networks(asked.get("run", ""))
        if not isinstance(networks, Pixels):
            raise UserError("this run finds keypoints, expected one that labels pictures")
        return networks

    def _read(self) -> bytes:
        """What is sent, unless it is too much: then the rest is not read."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            self.close_connection = True
            raise UserError(f"the file is too large, expected at most {MAX_BYTES >> 20} MB: make the picture smaller")
        return self.rfile.read(int(length))

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status=status)

    def _error(self, sentence: str, status: int = 400) -> None:
        self._json({"error": sentence}, status)

    def _send(self, data: bytes, mime: str, more: Mapping[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": mime, "Content-Length": str(len(data)), **SAFE, **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


def serve(run: Path, port: int, device: str, max_pixels: int, opened: Callable[[str], object]) -> None:
    """Shows the page until Ctrl-C; ``opened`` is called with its address."""
    with Server(run, port, device, max_pixels) as server:
        opened(server.address)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
