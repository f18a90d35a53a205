# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine and the disk do to a real server: processes that cannot start, damaged and newer files."""

import json
import os
import sqlite3
import time

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import StorageError
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.server import IMPATIENT, ServerProcess, run_das_server, running_server
from tests.support.wire import follow, kill, submit, whole_story

resource = pytest.importorskip("resource")

DAMAGES = {
    "no JSON": {"spec": "{half"},
    "a number for a map": {"spec": "7"},
    "no task": {"spec": json.dumps({"model": "das-preview"})},
    "a text for a number": {"spec": json.dumps({**job_spec().__dict__, "seed": "seven"})},
    "inputs that are no list": {"inputs": "null"},
    "bytes for a text": {"spec": b"{}"},
    "a text that is no Unicode": {"spec": "CAST(X'7BFF7D' AS TEXT)"},
    "a state of another release": {"state": "PAUSED"},
}


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_worker_that_cannot_be_started_for_now_is_started_later(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        follow(client, submit(client))
        before = resource.prlimit(own_server.pid, resource.RLIMIT_NOFILE)
        worker = own_server.status()["workers"][0]["pid"]
        in_use = len(os.listdir(f"/proc/{own_server.pid}/fd"))
        resource.prlimit(own_server.pid, resource.RLIMIT_NOFILE, (in_use - 1, before[1]))
        try:
            kill(worker)
            deadline = time.monotonic() + 120
            while "cannot be started" not in client.status().workers[0]["problem"]:
                assert time.monotonic() < deadline, own_server.log
                time.sleep(0.1)
        finally:
            resource.prlimit(own_server.pid, resource.RLIMIT_NOFILE, before)
        job = submit(client, seed=31)
        assert follow(client, job).kinds == ["QUEUED", "STARTED", "DONE"]
        assert client.status().workers[0]["problem"] == ""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A server that was stopped with a waiting job for each damage, and one that is sound, in this order."""
    server = ServerProcess(tmp_path_factory.mktemp("damaged") / "state", environment=IMPATIENT).start()
    with DasClient(server.address, timeout_s=60) as client:
        submit(client, num_inference_steps=100)  # keeps the others waiting
        jobs = {name: submit(client, seed=number) for number, name in enumerate(DAMAGES)}
        newer, sound = submit(client, seed=98), submit(client, seed=99)
    server.kill()
    with sqlite3.connect(server.state / "jobs.sqlite3") as db:
        for name, columns in DAMAGES.items():
            for column, value in columns.items():
                if str(value).startswith("CAST"):
                    db.execute(f"UPDATE jobs SET {column} = {value} WHERE job = ?", (jobs[name],))
                else:
                    db.execute(f"UPDATE jobs SET {column} = ? WHERE job = ?", (value, jobs[name]))
        (spec,) = db.execute("SELECT spec FROM jobs WHERE job = ?", (newer,)).fetchone()
        db.execute("UPDATE jobs SET spec = ? WHERE job = ?", (json.dumps(json.loads(spec) | {"lens": [1, 2]}), newer))
    yield server, jobs, newer, sound
    if server.is_running():
        server.kill()


def test_stored_jobs_that_cannot_be_read_are_set_aside_and_the_others_run(stopped):
    server, jobs, newer, sound = stopped
    server.start()
    assert whole_story(server.address, sound).last.kind == "DONE"
    for name, job in jobs.items():
        last = whole_story(server.address, job).last
        assert (last.kind, last.fields["code"]) == ("FAILED", "job.storage"), name
        assert job in last.fields["message"] and "cannot be read" in last.fields["message"]
    assert whole_story(server.address, newer).last.kind == "DONE"
    listed = {one["job"]: one for one in server.status()["jobs"]}
    assert all("cannot be read" in listed[job]["message"] for job in jobs.values())
    assert "Traceback" not in server.log


def test_fields_of_a_newer_release_survive(stopped):
    server, jobs, newer, _ = stopped
    with sqlite3.connect(server.state / "jobs.sqlite3") as db:
        db.text_factory = bytes
        rows = db.execute("SELECT CAST(job AS BLOB), CAST(spec AS BLOB) FROM jobs").fetchall()
    stored = {job.decode(): spec for job, spec in rows}
    assert json.loads(stored[newer])["lens"] == [1, 2]
    assert stored[jobs["no JSON"]] == b"{half"
    assert stored[jobs["a text that is no Unicode"]] == b"{\xff}"


def test_damaged_event_is_no_reason_to_wait_for_ever(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, seed=32)
        story = follow(client, job)
        own_server.kill()
        with sqlite3.connect(own_server.state / "jobs.sqlite3") as db:
            db.execute("UPDATE events SET fields = '{half' WHERE job = ? AND seq IN (2, ?)", (job, story.last.seq))
        own_server.start()
        again = follow(client, job)
    assert [event.seq for event in again.events] == [event.seq for event in story.events]
    assert again.kinds == ["QUEUED", "UNREADABLE", "FAILED"]
    assert again.last.fields["code"] == "job.storage" and "DONE" in again.last.fields["message"]


def test_blob_that_the_disk_does_not_give_harms_nobody(own_server):
    spec = job_spec(seed=33)
    inputs, _ = job_inputs(spec)
    sha = inputs[0].sha
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, spec)
        follow(client, job)
        path = own_server.state / "blobs" / sha[:2] / sha
        content = path.read_bytes()
        path.unlink()
        path.symlink_to(path)  # any look at it is an OSError
        try:
            with pytest.raises(StorageError, match="cannot use the blob"):
                client.submit(job_id(), spec, inputs)
            with pytest.raises(StorageError, match="cannot read the blob"):
                client.fetch(sha, inputs[0].size_bytes)
            with pytest.raises(StorageError, match="cannot use the blob"):
                client.upload(content)
        finally:
            path.unlink()
        assert follow(client, submit(client, seed=34)).last.kind == "DONE"


def test_state_of_a_newer_release_is_refused_in_a_sentence_and_not_touched(tmp_path):
    with running_server(tmp_path / "state", environment=IMPATIENT) as server:
        with DasClient(server.address, timeout_s=60) as client:
            submit(client)
        server.stop()
    path = tmp_path / "state" / "jobs.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    answer = run_das_server("serve", "--bind", "tcp://127.0.0.1:*", "--state", str(path.parent))
    assert answer.returncode == StorageError.exit_code
    assert "newer release" in answer.stderr and answer.stderr.count("\n") == 1
    assert path.read_bytes() == before
