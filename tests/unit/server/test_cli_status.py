# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``das-server status`` shows, and which server the commands ask."""

import contextlib
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.messages import StatusReport
from das_server import cli
from das_server.cli_status import duration, shown_report, table, words_of_report
from das_server.listening import client_config
from das_server.store.jobs import JobStore
from tests.support.front_door import FrontDoor, wait_long
from tests.support.jobs import job_id, job_inputs, job_spec

JOB = {"job": "ab" * 16, "state": "RUNNING", "model": "das-preview", "priority": "batch", "created_s": 1000.0}
JOB |= {"queue_position": 0, "eta_s": 95.0, "stage": "denoising", "step": 3, "of": 50}
WORKER = {
    "name": "worker-0",
    "state": "busy",
    "device": "cpu",
    "device_label": "CPU, 2 threads",
    "model": "das-preview",
}
WORKER |= {"model": "das-preview", "job": "ab" * 16, "memory_bytes": 3 << 20, "step_s": 0.25, "problem": ""}


def test_status_is_a_table_that_fits_what_is_in_it():
    waits = JOB | {"job": "cd" * 16, "state": "QUEUED", "queue_position": 3, "eta_s": None, "message": "It\nwaits."}
    totals = {"running": 1, "waiting": 1, "unfetched": 0, "draining": True}
    report = StatusReport(1, "f" * 32, 3725.0, [JOB, waits], [WORKER], totals)
    assert words_of_report(report, "tcp://127.0.0.1:5599", 1060.0) == [
        "server ffffffff at tcp://127.0.0.1:5599 · up 1:02:05 · 1 running, 1 waiting · it is being drained",
        "",
        "WORKER    STATE  DEVICE          MODEL        JOB       MEMORY  STEP",
        "worker-0  busy   CPU, 2 threads  das-preview  abababab  3 MiB   0.25 s",
        "",
        "JOB       STATE    PLACE  ETA   DONE            KIND   MODEL        AGE   SAYS",
        "abababab  RUNNING         1:35  denoising 3/50  batch  das-preview  1:00",
        "cdcdcdcd  QUEUED   3                            batch  das-preview  1:00  It waits.",
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_in_a_terminal_the_table_is_as_wide_as_that(width):
    said = "\x1b[2J[red]It[/red] waits for a worker that starts again in 12 s."
    waits = JOB | {"job": "cd" * 16, "state": "QUEUED", "queue_position": 3, "eta_s": None, "message": said}
    report = StatusReport(1, "f" * 32, 3725.0, [JOB, waits], [WORKER], {"running": 1})
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system="standard")
    console.print(shown_report(report, "tcp://127.0.0.1:5599", 1060.0, width))
    shown = console.file.getvalue()
    assert "abababab" in shown and "\x1b[32mRUNNING" in shown and "\x1b[2J" not in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= width
    assert "[red]It[/red]" in plain or width < 200


@pytest.mark.skipif(os.name == "nt", reason="terminals are asked differently there")
def test_watch_shows_what_changes_until_it_is_stopped(tmp_path):
    import pty

    with FrontDoor(tmp_path) as door:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "das_server", "status", "--watch", "0.1", "--server", door.address]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
        os.close(theirs)
        shown, is_stopped, until = b"", False, time.monotonic() + 120
        with contextlib.suppress(OSError):  # the terminal's end, with the process's
            while time.monotonic() < until:
                if select.select([ours], [], [], 1.0)[0]:
                    shown += os.read(ours, 65536)
                if shown.count(b"server ") >= 3 and not is_stopped:
                    process.send_signal(signal.SIGINT)
                    is_stopped = True
        process.send_signal(signal.SIGKILL)  # nothing, to one that has ended
        assert process.wait(30) == 130 and b"Traceback" not in shown and shown.count(b"server ") >= 3
        os.close(ours)


def test_page_about_a_server_that_is_not_there_is_refused(capsys):
    assert cli.main(["web", "--server", "tcp://127.0.0.1:9"]) == 31
    assert "No server answers" in capsys.readouterr().err


def test_long_words_are_cut_and_times_are_short():
    assert table(("A", "B"), [("x" * 100, None)]) == ["A", "x" * 59 + "…"]
    assert table(("A",), [("\x1b[2Jé\x07",)]) == ["A", "·[2Jé·"]
    assert [duration(seconds) for seconds in (None, 0, 59.6, 3600)] == ["", "0:00", "1:00", "1:00:00"]


@pytest.mark.parametrize(
    ("named", "address"),
    [
        ("", "tcp://127.0.0.1:7000"),
        ("tcp://127.0.0.1:6001", "tcp://127.0.0.1:6001"),
        ("gpu:6001", "tcp://gpu:6001"),
        ("gpu", "tcp://gpu:5599"),
        ("http://[::1]/", "tcp://[::1]:5599"),
        ("[::1]:6001", "tcp://[::1]:6001"),
    ],
)
def test_commands_ask_the_server_that_blender_asks(named, address, tmp_path):
    environment = {"DAS_SERVER": named, "DAS_SERVER_BIND": "tcp://127.0.0.1:7000", "HOME": str(tmp_path)}
    assert client_config(None, environment).bind == address
    assert client_config("tcp://127.0.0.1:6002", environment).bind == "tcp://127.0.0.1:6002"


def test_variable_that_names_no_server_is_refused():
    with pytest.raises(SettingsError, match="tcp://HOST:PORT"):
        client_config(None, {"DAS_SERVER": "gpu:0"})


def test_status_and_jobs_go_by_the_environment_and_running_jobs_come_first(tmp_path, monkeypatch, capsys):
    store = JobStore(tmp_path)
    done, running, waiting, newest = (job_id() for _ in range(4))
    for job in (done, running, waiting, newest):
        store.submit(job, job_spec(), job_inputs(job_spec())[0])
    for job in (done, running, newest):
        store.start(job, worker="worker-0", device="cpu")
    store.finish(done, [], {})
    store.fail(newest, code="job", message="No.")
    store.close()
    wait_long(monkeypatch)
    with FrontDoor(tmp_path) as door:
        monkeypatch.setenv("DAS_SERVER", door.address)
        assert cli.main(["jobs", "list"]) == 0 and len(capsys.readouterr().out.splitlines()) == 4
        assert cli.main(["status", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [job["job"] for job in report["jobs"]] == [running, waiting, newest, done]
        assert [report["totals"][name] for name in ("running", "waiting", "done", "failed", "unfetched")] == [1] * 5
        assert cli.main(["status"]) == 0 and running[:8] in capsys.readouterr().out
