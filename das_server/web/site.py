# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page asks for, and its answers: a client of the server like any other, with its user's rights.

Everything is below a path that nobody can guess, and so is the cookie: other servers on this machine have the same
host, for which a browser has one set of cookies.

    GET  /login?token=…          the line that was printed: sets a cookie and goes to the page
    GET  /                       the page; /page.js, /page.css
    GET  /api/status             jobs, workers, totals
    GET  /api/job/ID             a job, its history and its pictures
    GET  /api/picture/ID/SHA     one of them
    POST /api/job/ID/cancel      and /requeue
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from das_blender_addon.errors import AuthenticationFailed, DasError, JobRejected, ServerUnreachable, StorageError
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.messages import CHUNK_BYTES
from das_server.config import ServerConfig
from das_server.door.ask import Asker, asker_for
from das_server.door.loopback import Handler, LoopbackServer, Refused

COOKIE = "das_web"
PAGE = Path(__file__).resolve().parent / "page"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
MOST_EVENTS = 500
"""Events of a job's history that are shown, the newest ones."""

MAX_PICTURE_BYTES = 64 << 20
PICTURES = ("image/png", "image/jpeg")
STATUS_OF = {ServerUnreachable: 502, AuthenticationFailed: 502, JobRejected: 409, StorageError: 410}


class Site:
    """The page of the server that ``config`` names, at ``port`` (0: a free one) of this machine; a context manager.

    ``url``: where its user enters; whoever has it has that user's rights, as long as the site is up.
    """

    def __init__(self, config: ServerConfig, port: int = 0):
        self._config = config
        self._token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self.root = f"/{secrets.token_urlsafe(12)}"
        self._asking = threading.Lock()
        self._server = LoopbackServer(_handler_of(self), port, field="port")
        self.address = f"{self._server.address}{self.root}"
        self.url = f"{self.address}/login?token={self._token}"

    def __enter__(self) -> Site:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def session_for(self, token: str) -> str | None:
        """What a browser that knows the login token is known by, None for one that does not."""
        return self._session if hmac.compare_digest(token.encode(), self._token.encode()) else None

    def knows(self, session: str) -> bool:
        """Whether a browser has logged in."""
        return hmac.compare_digest(session.encode(), self._session.encode())

    def ask(self, work: Callable[[Asker], Any]) -> Any:
        """What ``work`` gets of the server; a refusal of the server is one of ours."""
        try:
            with self._asking, asker_for(self._config) as asker:
                return work(asker)
        except DasError as error:
            status = next((code for kind, code in STATUS_OF.items() if isinstance(error, kind)), 500)
            raise Refused(status, error.message) from error


def status(asker: Asker) -> dict[str, Any]:
    """All that the page shows at first."""
    report = asker.ask(messages.Status(0))
    return {name: value for name, value in asdict(report).items() if name != "request"}


def job(asker: Asker, name: str) -> dict[str, Any]:
    """A job, its history, and the pictures that it has made: {role, sha, index or step, media} each."""
    found = [one for one in asker.jobs(prefix=name, most=1) if one["job"] == name]
    if not found:
        raise JobRejected(f"The server has no job {name}.", field="job")
    events = asker.events(name)
    pictures = []
    for event in events:
        if event.kind == "PREVIEW":
            pictures.append({**event.fields["artefact"], "step": event.fields["step"]})
        elif event.kind == "DONE":
            pictures += [one for one in event.fields["artefacts"] if one["role"] == "frame"]
    history = [
        {"seq": event.seq, "kind": event.kind, "time_s": event.time_s, "fields": _shown(event.fields)}
        for event in events[-MOST_EVENTS:]
    ]
    return {"job": found[0], "history": history, "pictures": pictures}


def picture(asker: Asker, name: str, sha: str) -> tuple[bytes, str]:
    """(bytes, media type) of a picture of a job."""
    found = next((one for one in job(asker, name)["pictures"] if one["sha"] == sha), None)
    if found is None or found["media"] not in PICTURES or found["size_bytes"] > MAX_PICTURE_BYTES:
        raise JobRejected(f"The job {name} has no picture {sha[:12]}…", field="sha")
    pieces = [
        asker.ask_blob(messages.Fetch(0, sha, offset, min(CHUNK_BYTES, found["size_bytes"] - offset)))
        for offset in range(0, found["size_bytes"], CHUNK_BYTES)
    ]
    return b"".join(pieces), found["media"]


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("report", "artefacts", "artefact")}


ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", r"/api/status", status),
    ("GET", r"/api/job/([0-9a-f]{32})", job),
    ("GET", r"/api/picture/([0-9a-f]{32})/([0-9a-f]{64})", picture),
    ("POST", r"/api/job/([0-9a-f]{32})/cancel", lambda asker, name: _done(asker, messages.Cancel(0, name, "", True))),
    ("POST", r"/api/job/([0-9a-f]{32})/requeue", lambda asker, name: _done(asker, messages.Requeue(0, name))),
)


def _done(asker: Asker, request: Any) -> dict[str, Any]:
    return asdict(asker.ask(request))


def _handler_of(site: Site) -> type[Handler]:
    class Page(Handler):
        def get(self) -> None:
            path = self._below_root()
            if path == "/login":
                self._log_in(parse_qs(urlsplit(self.path).query).get("token", [""])[0])
                return
            self._check_session()
            if path in FILES:
                name, kind = FILES[path]
                self.answer((PAGE / name).read_bytes(), f"{kind}; charset=utf-8")
            else:
                self._route("GET", path)

        def post(self) -> None:
            self._check_session()
            if self.headers.get("Origin") not in self.origins:
                raise Refused(403, "Only this page may ask for that.")
            self._route("POST", self._below_root())
            self.close_connection = True  # what may follow is not read

        def _below_root(self) -> str:
            path = urlsplit(self.path).path
            if not path.startswith(f"{site.root}/"):
                raise Refused(404, "There is nothing here; enter by the line that das-server web has printed.")
            return path.removeprefix(site.root)

        def _log_in(self, token: str) -> None:
            session = site.session_for(token)
            if session is None:
                raise Refused(403, "This is not the line that das-server web has printed.")
            cookie = f"{COOKIE}={session}; HttpOnly; SameSite=Strict; Path={site.root}/"
            # Not a redirect: a browser keeps a strict cookie to itself on the way from another site.
            page = b'<!doctype html><meta http-equiv="refresh" content="0; url=./"><a href="./">On to the page</a>'
            self.answer(page, "text/html; charset=utf-8", Set_Cookie=cookie)

        def _check_session(self) -> None:
            try:
                cookies = SimpleCookie(self.headers.get("Cookie", ""))
            except CookieError:
                cookies = SimpleCookie()
            if COOKIE not in cookies or not site.knows(cookies[COOKIE].value):
                raise Refused(401, "Enter by the line that das-server web has printed.")
            if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
                raise Refused(403, "Only this page may ask for that.")

        def _route(self, method: str, path: str) -> None:
            for wanted, pattern, work in ROUTES:
                match = re.fullmatch(pattern, path)
                if match is None or wanted != method:
                    continue
                found = site.ask(lambda asker, work=work, match=match: work(asker, *match.groups()))
                if isinstance(found, tuple):
                    self.answer(*found)
                else:
                    self.answer(json.dumps(found).encode(), "application/json")
                return
            raise Refused(404, "There is nothing here.")

    return Page
