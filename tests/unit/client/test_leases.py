# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases: one leads, the others wait, and nobody waits for the dead."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from das_blender_addon.client import leases
from das_blender_addon.client.leases import LEASE_S, Requester
from tests.support.server import ROOT

LIMIT_S = 30.0


def wait_for(condition) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holder(folder, work: str = "work") -> subprocess.Popen:
    """A process that holds the lease on ``work`` and waits."""
    script = f"""
from das_blender_addon.client.leases import Requester
import sys
with Requester({str(folder)!r}, {work!r}) as requester, requester.lead() as lease:
    print("leads", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "leads\n"
    return process


def test_one_leads_until_it_gives_up(tmp_path):
    with Requester(tmp_path, "work") as first, Requester(tmp_path, "work") as second:
        lease = first.lead()
        assert lease is not None and second.lead() is None and second.is_led()
        assert Requester(tmp_path, "other").__enter__().lead() is not None
        lease.release()
        assert not second.is_led()
        assert second.lead() is not None and first.lead() is None
        assert first.others_wait() and second.others_wait()
    assert not list(tmp_path.glob("work.*.waits"))


def test_lease_of_a_killed_process_lapses_at_once(tmp_path):
    process = holder(tmp_path)
    try:
        with Requester(tmp_path, "work") as requester:
            assert requester.lead() is None and requester.others_wait()
            process.send_signal(signal.SIGKILL)
            wait_for(lambda: not requester.others_wait())
            assert requester.lead() is not None
            assert len(list(tmp_path.glob("work.*.lease"))) == 1, "what the dead left is gone"
    finally:
        process.kill()
        process.wait()


def test_lease_of_a_process_that_ended_is_free(tmp_path):
    process = holder(tmp_path)
    process.communicate("", timeout=LIMIT_S)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("age", "is_led"), [(LEASE_S / 2, True), (LEASE_S * 2, False)])
@pytest.mark.parametrize("content", [json.dumps({"host": "another machine", "pid": 1}), "", "{"])
def test_lease_of_another_machine_lapses_when_it_is_silent(tmp_path, age, is_led, content):
    lease = tmp_path / "work.3.lease"
    lease.write_text(content)
    os.utime(lease, (time.time() - age,) * 2)
    with Requester(tmp_path, "work") as requester:
        assert requester.is_led() is is_led
        assert (requester.lead() is None) is is_led


def test_lease_stays_fresh_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    with Requester(tmp_path, "work") as requester, requester.lead() as lease:
        os.utime(lease.path, (0, 0))
        wait_for(lambda: lease.path.stat().st_mtime > 1e9)


def test_stale_lease_gets_one_successor(tmp_path):
    stale = tmp_path / "work.1.lease"
    stale.write_text("{}")
    os.utime(stale, (0, 0))
    start, leading = threading.Barrier(8), []

    def compete():
        with Requester(tmp_path, "work") as requester:
            start.wait(LIMIT_S)
            if requester.lead() is not None:
                leading.append(requester)
            start.wait(LIMIT_S)

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leading) == 1


def test_everybody_leads_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with Requester(tmp_path / "file", "work") as first, Requester(tmp_path / "file", "work") as second:
        assert first.lead() is not None and second.lead() is not None and not first.others_wait()
