"""What is not a folder: in the hub's cache, on the hub, or refused at once. A small server stands for the hub."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from spinal_callback.auditing.checkpoints import Checkpoint, find


class Hub(BaseHTTPRequestHandler):
    """Has one model, `someone/model`, and one that it fails on; what it does not have it answers as the hub does."""

    asked: ClassVar = []

    def do_GET(self):
        Hub.asked.append(self.path)
        if self.path == "/api/models/someone/model":
            self.answer(200, {"id": "someone/model", "siblings": [{"rfilename": "config.json"}]})
        elif self.path == "/api/models/someone/failing":
            self.answer(500, {"error": "Internal error"})
        else:
            self.answer(404, {"error": "Not found"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The libraries talk to an address of this machine, and have an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    reset = getattr(_http, "reset_sessions", lambda: None)  # huggingface_hub before 1.0 keeps sessions that are offline
    reset()
    yield lambda port: monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    reset()


@pytest.fixture
def hub(online):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    online(server.server_port)
    yield server
    server.shutdown()
    server.server_close()


def test_what_the_hub_has_is_left_to_transformers(hub):
    assert find("someone/model") == Checkpoint("someone/model", "someone/model")
    assert find("someone/model/part/q4.gguf").model == "someone/model/part/q4.gguf"


@pytest.mark.parametrize("name", ["nothere", "someone/nothere", "someone/nothere/q4.gguf"])
def test_what_the_hub_does_not_have_is_refused_after_one_question(hub, name):
    words = f"^{name}: no such folder, and not found on the hub \\(log in if it is private\\)$"
    with pytest.raises(ValueError, match=words):
        find(name)
    assert len(Hub.asked) == 1


def test_a_hub_that_fails_is_one_line(hub):
    words = r"^someone/failing: no such folder, and the hub cannot be asked for it \(.*500.*\)$"
    with pytest.raises(ValueError, match=words) as caught:
        find("someone/failing")
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_not_there_is_one_line(hub, online):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ValueError, match=r"^nothere: no such folder, and the hub cannot be asked for it \(.+\)$"):
        find("nothere")


def test_what_is_no_hub_id_is_not_asked_for(hub):
    with pytest.raises(ValueError, match=r"^there is no what\?: give a model's folder, a hub id or a GGUF file$"):
        find("what?")
    assert Hub.asked == []


def cached(folder, name, file):
    """Puts a file of a hub's repository into the cache, as huggingface_hub keeps it."""
    repository = folder / f"models--{name.replace('/', '--')}"
    for path, text in (("refs/main", "abc"), (f"snapshots/abc/{file}", "{}")):
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(text)


def test_offline_only_the_cache_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, "someone/model", "config.json")
    cached(tmp_path, "someone/packed", "q4.gguf")
    assert find("someone/model") == Checkpoint("someone/model", "someone/model")
    assert find("someone/packed/q4.gguf").name == "someone/packed/q4.gguf"
    for name in ("someone/nothere", "someone/packed/q8.gguf"):
        words = f"^{name}: no such folder, and not found on the hub \\(offline: HF_HUB_OFFLINE is set\\)$"
        with pytest.raises(ValueError, match=words):
            find(name)
