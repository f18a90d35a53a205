# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers for Prometheus: what they say, what they must not say, and that the dashboard asks for what there is."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.messages import INTERACTIVE
from das_server.door.loopback import MOST_CONNECTIONS, Handler, LoopbackServer
from das_server.door.metrics import Metrics
from das_server.store.jobs import JobStore
from das_server.workers.base import WorkerStatus
from tests.support.jobs import job_id, job_inputs, job_spec

DASHBOARD = Path(__file__).resolve().parents[4] / "docs" / "grafana_dashboard.json"
TOTALS = {"running": 1, "waiting": 2, "done": 3, "failed": 4, "cancelled": 5, "unfetched": 6, "draining": True}
WORKER = WorkerStatus("worker-0", "busy", "cpu", "CPU", restarts=2, memory_bytes=5, step_s=0.5, problem="A sentence.")


@pytest.fixture
def metrics(tmp_path):
    store = JobStore(tmp_path)
    made = Metrics(0, store, lambda: [WORKER], lambda: TOTALS, lambda: 7)
    with made.server:
        yield made, store
    store.close()


def ask(metrics, path="/metrics", host=""):
    where = metrics.server.address.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=60)
    connection.request("GET", path, headers={"Host": host or where})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_numbers_are_those_of_the_server(metrics):
    made, store = metrics
    for owner, model, priority in (("user:ada", "das-preview", INTERACTIVE), ("user:ben", "paper-boats", 0)):
        job = job_id()
        store.submit(
            job, job_spec(model=model, prompt="a secret"), job_inputs(job_spec())[0], owner=owner, priority=priority
        )
        store.start(job, worker="worker-0", device="cpu")
        store.requeue(job, code="job", message="Again.", lost=True)
        store.start(job, worker="worker-0", device="cpu")
        store.finish(job, [], {})
    made.step()
    status, text = ask(made)
    families = text_string_to_metric_families(text)
    found = {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}
    assert status == 200
    assert found["das_jobs_ended_total", "das-preview", "done"] == found["das_jobs_ended_total", "done", "own"] == 1
    assert found["das_jobs_retried_total", "own"] == 1 and found["das_job_seconds_count", "das-preview"] == 1
    assert found["das_job_wait_seconds_count", "interactive"] == found["das_job_wait_seconds_count", "batch"] == 1
    assert found["das_jobs", "waiting"] == 2 and found[("das_kept_bytes",)] == 7 and found[("das_draining",)] == 1
    assert found["das_worker_state", "busy", "worker-0"] == 1 and found["das_worker_state", "broken", "worker-0"] == 0
    assert not re.search("secret|ada|ben|paper|sentence", text)


def test_workers_that_are_gone_are_not_shown_and_machines_not_named(tmp_path):
    store = JobStore(tmp_path)
    workers = [replace(WORKER, name=f"render-{number}.example.1a2b", memory_bytes=number) for number in (7, 8)]
    made = Metrics(0, store, lambda: workers, lambda: TOTALS, lambda: 7)
    with made.server:
        made.step()
        text = ask(made)[1]
        assert 'das_worker_memory_bytes{worker="worker-2"} 8.0' in text and "render" not in text
        del workers[0]
        made._next_s = 0.0
        made.step()
        text = ask(made)[1]
        assert 'das_worker_memory_bytes{worker="worker-2"} 8.0' in text and "worker-1" not in text
    store.close()


def test_pages_that_come_by_another_name_and_other_paths_get_nothing(metrics):
    made, _ = metrics
    assert ask(made, host="evil.example:80")[0] == 421
    assert ask(made, "/")[0] == 404
    with pytest.raises(SettingsError, match="Nothing can listen on 127.0.0.1"):
        Metrics(int(made.server.address.rpartition(":")[2]), None, None, None, None)


def test_connections_that_say_nothing_take_neither_threads_nor_files_of_the_server_without_end(metrics, monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 600.0)  # none ends by itself
    made, _ = metrics
    host, port = made.server.address.removeprefix("http://").split(":")
    before = threading.active_count()
    idle = [socket.create_connection((host, int(port)), 60) for _ in range(3 * MOST_CONNECTIONS)]
    try:
        assert ask(made)[0] == 200
        deadline = time.monotonic() + 60
        while threading.active_count() - before > MOST_CONNECTIONS and time.monotonic() < deadline:
            time.sleep(0.01)  # the thread of a connection that was ended has yet to notice
        assert threading.active_count() - before <= MOST_CONNECTIONS
        assert idle[0].recv(1) == b""
        idle[-1].sendall(b"GET http://[ HTTP/1.1\r\nHost: " + f"{host}:{port}".encode() + b"\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 404")
    finally:
        for one in idle:
            one.close()


def test_as_many_may_knock_at_once_as_are_taken_in():
    """Else the system drops some, which come again after 1, 3, 7 … s."""
    busy = LoopbackServer(Handler, 0, field="port")  # it listens, and takes nobody in
    host, port = busy.address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        stack.callback(busy._server.server_close)
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)), 20))


def test_dashboard_asks_for_numbers_that_there_are(metrics):
    made, _ = metrics
    made.step()
    text = ask(made)[1]
    known = set(re.findall(r"^# TYPE (\w+) ", text, re.M))
    known |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", text, re.M)}
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = {name for panel in panels for one in panel["targets"] for name in re.findall(r"\bdas_\w+", one["expr"])}
    assert len(panels) >= 8 and asked <= known
