# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server jobs`` with a real server: a TD looks, cancels what nobody needs, and has what failed made once more."""

import json

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected
from das_server import cli
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.wire import follow, sha_of, submit


def jobs(capsys, server, *arguments, status=0) -> str:
    """What ``das-server jobs …`` prints."""
    capsys.readouterr()
    assert cli.main(["jobs", *arguments, "--server", server.address]) == status
    said = capsys.readouterr()
    return said.out + said.err


def test_jobs_are_cancelled_and_made_once_more(server, capsys):
    with DasClient(server.address, timeout_s=60) as client:
        long, waiting = submit(client, num_inference_steps=100), submit(client, seed=51)
        assert "first characters" in jobs(capsys, server, "cancel", "", status=JobRejected.exit_code)
        assert f"{waiting} is " in jobs(capsys, server, "cancel", waiting[:12])
        assert follow(client, waiting).last.kind == "CANCELLED"
        assert f"{long} is " in jobs(capsys, server, "cancel", long)
        assert follow(client, long).last.kind == "CANCELLED"
        listed = json.loads(jobs(capsys, server, "list", "--state", "CANCELLED", "--json"))
        assert {long, waiting} <= {one["job"] for one in listed}
        assert all(one["state"] == "CANCELLED" for one in listed)

        run = jobs(capsys, server, "requeue", waiting).split()[-1]
        assert follow(client, run).last.kind == "DONE"
        assert "DONE" in jobs(capsys, server, "show", run) and "STARTED" in jobs(capsys, server, "show", run)
        again = jobs(capsys, server, "requeue", waiting, status=JobRejected.exit_code)
        assert f"made once more as {run}" in again
        spec = job_spec(seed=51)
        assert client.submit(waiting, spec, job_inputs(spec)[0]).job == waiting  # who cancelled it has what it wanted
    with DasClient(server.address, requester="ab" * 16) as other:
        assert other.submit(waiting, spec, job_inputs(spec)[0]).job == run


def test_all_that_failed_is_made_once_more_and_what_cannot_be_says_why(server, capsys):
    spec = job_spec(seed=52)
    inputs, _ = job_inputs(spec)
    no_picture = b"no picture"
    bad = [one for one in inputs if one.role != "first_frame"]
    bad.append(type(inputs[0])("first_frame", sha_of(no_picture), len(no_picture), "image/png"))
    with DasClient(server.address, timeout_s=60) as client:
        submit(client, spec)
        client.upload(no_picture)
        job = client.submit(job_id(), spec, bad).job
        assert follow(client, job).last.kind == "FAILED"
        said = jobs(capsys, server, "requeue", "--failed")
        run = next(line.split()[-1] for line in said.splitlines() if line.startswith(job))
        assert follow(client, run).last.kind == "FAILED"
        (server.state / "blobs" / sha_of(no_picture)[:2] / sha_of(no_picture)).unlink()
        said = jobs(capsys, server, "requeue", run, status=JobRejected.exit_code)
        assert "no longer on the server (first_frame)" in said
    assert "no job whose id begins with 'xyz'" in jobs(capsys, server, "show", "xyz", status=JobRejected.exit_code)
