# SPDX-License-Identifier: GPL-3.0-or-later
"""A model hub on a loopback port: the few requests that huggingface_hub makes to list and fetch a repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``folder`` as ``repository`` at ``commit``, which is also the branch "main".

    ``broken``: a path that is cut in the middle for as long as it is set.  ``asked``: paths of files that were fetched.
    """

    daemon_threads = True

    def __init__(self, repository: str, folder: Path, commit: str = COMMIT):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repository = repository
        self.folder = folder
        self.commit = commit
        self.broken = ""
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def running_hub(repository: str, folder: Path, commit: str = COMMIT) -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    with Hub(repository, folder, commit) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, repository = unquote(urlsplit(self.path).path), re.escape(self.server.repository)
        if found := re.fullmatch(rf"/api/models/{repository}/(revision|tree)/([^/]+)", path):
            kind, revision = found.groups()
            if revision not in ("main", self.server.commit):
                self._refuse("RevisionNotFound")
            elif kind == "revision":
                about = {"id": self.server.repository, "sha": self.server.commit, "siblings": []}
                self._reply(json.dumps(about).encode())
            else:
                self._reply(json.dumps(self._tree()).encode())
        elif found := re.fullmatch(rf"/{repository}/resolve/{self.server.commit}/(.+)", path):
            self._send_file(found.group(1))
        else:
            self._refuse("RepoNotFound")

    def _tree(self) -> list[dict]:
        files = sorted(path for path in self.server.folder.rglob("*") if path.is_file())
        return [
            {"type": "file", "path": path.relative_to(self.server.folder).as_posix(), "size": path.stat().st_size,
             "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
            for path in files
        ]  # fmt: skip

    def _send_file(self, name: str) -> None:
        content = (self.server.folder / name).read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.server.commit}
        headers["Accept-Ranges"] = "bytes"
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.server.asked.append(name)
        cut = self.command == "GET" and name == self.server.broken
        self._reply(content[start:], 206 if start else 200, headers, cut=cut)

    def _refuse(self, code: str) -> None:
        self._reply(b"{}", 404, {"X-Error-Code": code})

    def _reply(self, body: bytes, status: int = 200, headers: dict | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *args: object) -> None:
        """Say nothing."""
