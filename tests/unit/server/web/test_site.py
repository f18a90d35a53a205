# SPDX-License-Identifier: GPL-3.0-or-later
"""The page over real HTTP: who gets in, what is shown, and that only its own page may change anything."""

import http.client
import json
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest

from das_blender_addon.protocol.messages import Artefact
from das_blender_addon.protocol.png import encode_png
from das_server import media
from das_server.listening import client_config
from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobStore
from das_server.web.site import Site
from tests.support.chromium import PROGRAM, Chromium
from tests.support.front_door import FrontDoor, wait_long
from tests.support.jobs import job_id, job_inputs, job_spec

FRAMES = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None, None], (1, 64, 96, 3))
DONE, FAILED, WAITING, BENS = (job_id() for _ in range(4))


def fill(folder):
    """A job that is done, with previews and frames, one that failed, one that waits, and one of somebody else."""
    folder.mkdir()
    store, blobs = JobStore(folder), BlobStore(folder)
    inputs, contents = job_inputs(job_spec())
    for content in contents.values():
        blobs.add(content)
    for job in (DONE, FAILED, WAITING, BENS):
        store.submit(job, job_spec(prompt="<b>a boat</b>"), inputs, owner="user:ben" if job == BENS else "")
    for job in (DONE, FAILED):
        store.start(job, worker="worker-0", device="cpu")
    store.preview(DONE, 1, Artefact("preview", *blobs.add(media.preview_jpeg(FRAMES)), "image/jpeg"))
    frames = [Artefact("frame", *blobs.add(encode_png(one)), "image/png", i) for i, one in enumerate(FRAMES[:3])]
    store.finish(DONE, frames, {})
    store.fail(FAILED, code="job", message="It <script>failed</script>.")
    store.close()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("DAS_TOKEN", str(tmp_path / "ada"))
    wait_long(monkeypatch)
    fill(tmp_path / "state")
    with FrontDoor(tmp_path / "state") as door:
        monkeypatch.setenv("DAS_TOKEN", str(tmp_path / "cleo"))  # not the user who runs the server
        with Site(client_config(door.address)) as site:
            yield site


class Browser:
    def __init__(self, site):
        self.site, self.cookie = site, ""

    def ask(self, path, method="GET", *, root=None, **headers):
        """(status, headers, content)."""
        where = urlsplit(self.site.address)
        connection = http.client.HTTPConnection(where.netloc, timeout=60)
        about = {"Cookie": self.cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, (where.path if root is None else root) + path, headers=about)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def log_in(self):
        url = urlsplit(self.site.url)
        status, headers, _ = self.ask(f"/login?{url.query}")
        assert status == 200
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        return headers

    def json(self, path, **options):
        status, _, content = self.ask(path, **options)
        assert status == 200, content
        return json.loads(content)

    @property
    def origin(self):
        return f"http://{urlsplit(self.site.address).netloc}"


@pytest.fixture
def browser(site):
    made = Browser(site)
    made.log_in()
    return made


def test_nobody_gets_in_without_the_line_that_was_printed(site):
    browser = Browser(site)
    for path in ("/", "/page.js", "/api/status", f"/api/job/{DONE}"):
        assert browser.ask(path)[0] == 401
    assert browser.ask("/login?token=guessed")[0] == 403 and browser.ask("/login")[0] == 403
    browser.cookie = "das_web=guessed"
    assert browser.ask("/api/status")[0] == 401
    cookie = browser.log_in()["Set-Cookie"]
    root = urlsplit(site.address).path
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and cookie.endswith(f"Path={root}/") and len(root) > 12
    assert browser.ask("/api/status", root="")[0] == 404  # and nobody guesses where
    for path, words in (("/", b"<title>das-server"), ("/page.js", b"api/status"), ("/page.css", b"body")):
        status, headers, content = browser.ask(path)
        assert status == 200 and words in content
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert not any(name.startswith("Access-Control") for name in headers)


def test_pages_of_others_get_nothing_and_change_nothing(browser):
    assert browser.ask("/api/status", Host="evil.example")[0] == 421
    assert browser.ask("/api/status", Sec_Fetch_Site="cross-site")[0] == 403
    for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}):
        assert browser.ask(f"/api/job/{WAITING}/cancel", "POST", **headers)[0] == 403
    assert browser.ask(f"/api/job/{WAITING}/cancel", "GET", Origin=browser.origin)[0] == 404
    assert browser.ask("/api/status", "DELETE")[0] == 501
    where = urlsplit(browser.site.address)
    with socket.create_connection((where.hostname, where.port), 60) as raw:
        raw.sendall(f"GET http://[ HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert browser.json(f"/api/job/{WAITING}")["job"]["state"] == "QUEUED"


def test_jobs_workers_and_pictures_are_those_of_the_server_and_of_its_user(browser):
    report = browser.json("/api/status")
    assert [job["job"] for job in report["jobs"]] == [WAITING, FAILED, DONE] and len(report["workers"]) == 1
    one = browser.json(f"/api/job/{DONE}")
    assert [event["kind"] for event in one["history"]] == ["QUEUED", "STARTED", "PREVIEW", "DONE"]
    assert [picture["role"] for picture in one["pictures"]] == ["preview", "frame", "frame", "frame"]
    for picture, kind in zip(one["pictures"][:2], ("image/jpeg", "image/png"), strict=True):
        status, headers, content = browser.ask(f"/api/picture/{DONE}/{picture['sha']}")
        assert status == 200 and headers["Content-Type"] == kind and len(content) == picture["size_bytes"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    inputs = job_inputs(job_spec())[0]
    for path in (f"/api/job/{BENS}", f"/api/picture/{DONE}/{inputs[0].sha}", f"/api/job/{'0' * 32}"):
        assert browser.ask(path)[0] == 409
    assert browser.ask("/api/job/../../etc")[0] == 404 and browser.ask("/../page/page.js")[0] == 404
    assert BENS not in json.dumps(report)


def test_owner_cancels_and_has_made_once_more(browser):
    ask = {"method": "POST", "Origin": browser.origin}
    assert browser.json(f"/api/job/{WAITING}/cancel", **ask)["others"] == 0
    assert browser.json(f"/api/job/{WAITING}")["job"]["state"] == "CANCELLED"
    run = browser.json(f"/api/job/{FAILED}/requeue", **ask)["run"]
    assert browser.json(f"/api/job/{run}")["job"]["state"] == "QUEUED"
    assert browser.ask(f"/api/job/{BENS}/cancel", **ask)[0] == browser.ask(f"/api/job/{DONE}/requeue", **ask)[0] == 409


def test_server_that_is_gone_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DAS_TOKEN", str(tmp_path / "ada"))
    with Site(client_config("tcp://127.0.0.1:1")) as site:
        browser = Browser(site)
        browser.log_in()
        status, _, words = browser.ask("/api/status")
    assert status == 502 and b"No server answers" in words


@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")
def test_page_works_in_a_browser(site, tmp_path):
    with Chromium(tmp_path / "profile") as page:
        page.go(site.url)
        page.wait_for("document.querySelectorAll('#jobs tbody tr').length === 3")
        states = "[...document.querySelectorAll('#jobs td.state')].map((cell) => cell.textContent).join()"
        assert page.value(states) == "QUEUED,FAILED,DONE"
        assert "<script>failed</script>" in page.value("document.querySelector('#jobs').textContent")  # as text
        page.wait_for("[...document.querySelectorAll('#previews img')].some((image) => image.naturalWidth > 0)")

        page.value("[...document.querySelectorAll('button.name')].at(-1).click()")
        page.wait_for("document.querySelectorAll('#pictures img').length === 3")
        page.wait_for("[...document.querySelectorAll('#pictures img')].every((image) => image.naturalWidth === 96)")
        kinds = "[...document.querySelectorAll('#history tr td:nth-child(2)')].map((one) => one.textContent).join()"
        assert page.value(kinds) == "DONE,PREVIEW,STARTED,QUEUED"

        press = "[...document.querySelectorAll('#jobs button')].find((one) => one.textContent === '{}').click()"
        page.value(press.format("Cancel"))
        page.wait_for(f"({states}) === 'CANCELLED,FAILED,DONE'")
        page.value("document.querySelectorAll('#jobs tr')[2].querySelector('button:not(.name)').click()")
        page.wait_for(f"({states}) === 'QUEUED,CANCELLED,FAILED,DONE'")
        assert page.value("document.querySelector('#problem').textContent") == ""
        assert page.value("document.cookie") == ""  # no script reads it
