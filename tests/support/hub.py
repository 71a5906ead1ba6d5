"""A hub on loopback: a real HTTP server that answers what huggingface-hub asks before and while it downloads a file.

As on the public hub, a file's HEAD names the commit and the sum, and points to another host that has the bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants


class Hub:
    """repositories: owner/name → revision → path → content. What a revision holds makes its commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.downloads: list[str] = []
        """Paths of files whose bytes were sent, in order."""
        self.cut_short = False
        """Close connections half-way through a file."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.describe(self)

            def do_GET(self) -> None:
                hub.send(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def put(self, repository: str, path: str, content: bytes, revision: str = "main") -> None:
        self.repositories.setdefault(repository, {}).setdefault(revision, {})[path] = content

    def close(self) -> None:
        """From now on nobody listens."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()

    def describe(self, request: BaseHTTPRequestHandler) -> None:
        """HEAD /owner/name/resolve/revision/path"""
        repository, _, rest = unquote(request.path).lstrip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        if repository in self.gated:
            return _refuse(request, 403, "GatedRepo")
        if repository not in self.repositories:
            return _refuse(request, 401, "RepoNotFound")
        if revision not in self.repositories[repository]:
            return _refuse(request, 404, "RevisionNotFound")
        commit = hashlib.sha1(repr(self.repositories[repository][revision]).encode()).hexdigest()
        if path not in self.repositories[repository][revision]:
            return _refuse(request, 404, "EntryNotFound", commit)
        content = self.repositories[repository][revision][path]
        digest = hashlib.sha256(content).hexdigest()
        request.send_response(302)
        # The same server by another name.
        request.send_header("Location", f"http://localhost:{self.port}/bytes/{repository}/{revision}/{path}")
        request.send_header("X-Repo-Commit", commit)
        request.send_header("X-Linked-Etag", f'"{digest}"')
        request.send_header("X-Linked-Size", str(len(content)))
        request.send_header("Content-Length", "0")
        return request.end_headers()

    def send(self, request: BaseHTTPRequestHandler) -> None:
        """GET /bytes/owner/name/revision/path"""
        kind, _, rest = unquote(request.path).lstrip("/").partition("/")
        if kind != "bytes":
            return _refuse(request, 404, "NotHere")
        owner, name, revision, path = rest.split("/", 3)
        content = self.repositories[f"{owner}/{name}"][revision][path]
        self.downloads.append(path)
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2] if self.cut_short else content)
        return None


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str, commit: str | None = None) -> None:
    request.send_response(status)
    request.send_header("X-Error-Code", code)
    if commit is not None:
        request.send_header("X-Repo-Commit", commit)
    request.send_header("Content-Length", "0")
    request.end_headers()


@contextmanager
def local_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that this process uses, with this cache. huggingface-hub reads the environment when it is imported,
    so its constants are set here."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.close()
