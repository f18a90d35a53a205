# SPDX-License-Identifier: GPL-3.0-or-later
"""A small HTTP server for this machine only: bound to 127.0.0.1, and deaf to pages that reach it by another name."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from das_blender_addon.errors import SettingsError

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
IDLE_S = 30.0
"""A connection that says nothing for so long is ended."""


MOST_CONNECTIONS = 32
"""At once; one more ends the oldest, so that nobody takes the process's threads and files, nor keeps others out."""


class Refused(Exception):
    """An answer other than 200: ``status`` and one sentence."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status, self.words = status, words


class Handler(BaseHTTPRequestHandler):
    """One request; a subclass has `get` and perhaps `post`, which call `answer` or raise `Refused`."""

    server_version, sys_version = "das-server", ""
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def get(self) -> None:
        raise Refused(404, "There is nothing here.")

    def post(self) -> None:
        raise Refused(405, "Nothing can be sent here.")

    def do_GET(self) -> None:
        self._do(self.get)

    def do_POST(self) -> None:
        self._do(self.post)

    def answer(self, content: bytes, kind: str, status: int = 200, **headers: str) -> None:
        """Send ``content`` of the media type ``kind``; underscores in names of headers stand for hyphens."""
        self.send_response(status)
        about = {"Content-Type": kind, "Content-Length": str(len(content))} | HEADERS
        for name, value in (about | {name.replace("_", "-"): value for name, value in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    @property
    def origins(self) -> tuple[str, ...]:
        """Where pages of this server come from."""
        port = self.server.server_address[1]
        return tuple(f"http://{host}:{port}" for host in (HOST, "localhost"))

    def _do(self, work) -> None:
        try:
            # A page elsewhere whose name has been made to lead to this machine sends that name.
            if f"http://{self.headers.get('Host', '')}" not in self.origins:
                raise Refused(421, "This server goes by 127.0.0.1 and localhost only.")
            work()
        except Refused as refused:
            self.close_connection = True  # what it has sent is not read
            self.answer(refused.words.encode(), "text/plain; charset=utf-8", refused.status, Connection="close")
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except ValueError:  # of what is no address
            self.close_connection = True
            self.answer(b"This cannot be read.", "text/plain; charset=utf-8", 400, Connection="close")

    def log_message(self, form: str, *values: object) -> None:
        _log.debug("%s", self.command)  # a path may hold a token


class _Server(ThreadingHTTPServer):
    """With at most `MOST_CONNECTIONS`."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS  # of more that come at once some are dropped, and try again after 1 s

    def __init__(self, *arguments):
        self._open: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request, client_address) -> None:
        with self._changing:
            self._open[request] = None
            oldest = next(iter(self._open))
            if len(self._open) > MOST_CONNECTIONS:
                del self._open[oldest]
                with contextlib.suppress(OSError):  # it has gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        with self._changing:
            self._open.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        _log.debug("a request failed", exc_info=True)


class LoopbackServer:
    """Serves ``handler`` at ``port`` (0: a free one) of 127.0.0.1 in threads, from entering to leaving.  Raises
    `SettingsError` where that cannot be, with ``field``."""

    def __init__(self, handler: type[Handler], port: int, *, field: str):
        try:
            self._server = _Server((HOST, port), handler)
        except (OSError, OverflowError) as error:
            raise SettingsError(f"Nothing can listen on {HOST}:{port}: {error}.", field=field) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def address(self) -> str:
        """Its URL, without a slash at the end."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
