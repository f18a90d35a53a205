# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs and blobs are their owner's: nobody else sees, follows, fetches, cancels or acknowledges them."""

import secrets

import pytest

from das_blender_addon.client.client import DasClient, pair_with
from das_blender_addon.client.keys import keys_for
from das_blender_addon.errors import JobRejected, StorageError
from das_blender_addon.protocol.identity import TOKEN_BYTES, routing_id, token_in, user_token
from das_blender_addon.protocol.messages import (
    CHUNK_BYTES,
    Accepted,
    Cancel,
    Cancelling,
    JobList,
    ListJobs,
    Put,
    Requeue,
    Requeued,
)
from das_blender_addon.protocol.pairing import Pairing
from das_server.door.ask import Asker
from das_server.door.requests import MOST_LISTED
from tests.support.front_door import FrontDoor
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.wire import sha_of, submit

ADA, EVE = secrets.token_bytes(TOKEN_BYTES), secrets.token_bytes(TOKEN_BYTES)


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    with FrontDoor(tmp_path_factory.mktemp("shared")) as door:
        yield door


def client(door, token):
    return DasClient(door.address, timeout_s=60, token=token)


def listed(door_client):
    return {one["job"] for one in door_client.status().jobs}


def test_another_users_job_is_as_unknown_as_one_that_is_not_there(door):
    with client(door, ADA) as ada, client(door, EVE) as eve:
        job = submit(ada)
        for ask in (eve.attach, eve.cancel, eve.ack):
            with pytest.raises(JobRejected, match="has no job") as caught:
                ask(job)
            assert caught.value.field == "job"
        with pytest.raises(JobRejected, match="has no job"):
            eve._request(Requeue(0, job), Requeued)
        assert job in listed(ada) and job not in listed(eve)
        assert eve._request(ListJobs(0, prefix=job), JobList).jobs == []
        assert ada.cancel(job).others == 0


def test_same_request_of_another_user_is_a_job_of_its_own(door):
    spec = job_spec(seed=3)
    inputs, blobs = job_inputs(spec)
    asked = job_id()
    with client(door, ADA) as ada, client(door, EVE) as eve:
        submit(ada, spec, asked)
        need = eve.submit(asked, spec, inputs)
        assert set(need.shas) == set(blobs), "what another one has sent is not there for her"
        for sha in need.shas:
            eve.upload(blobs[sha])
        answer = eve.submit(asked, spec, inputs)
        assert isinstance(answer, Accepted) and answer.job != asked and not answer.duplicate
        assert eve.submit(asked, spec, inputs).job == answer.job
        eve.cancel(answer.job)
        assert {one["job"]: one["state"] for one in ada.status().jobs}[asked] == "QUEUED"
        ada.cancel(asked)


def test_knowing_a_hash_is_not_having_the_blob(door):
    content = secrets.token_bytes(CHUNK_BYTES + 1000)
    sha = sha_of(content)
    with client(door, ADA) as ada, client(door, EVE) as eve:
        ada.upload(content)
        assert ada.fetch(sha, len(content)) == content
        with pytest.raises(StorageError, match="does not have the blob"):
            eve.fetch(sha, len(content))
        assert eve._ask_upload(sha, len(content), None) == 0
        pieces = []
        eve.upload(content, on_progress=lambda safe, size: pieces.append(safe))
        assert pieces[0] < len(content), "she had to send all of it"
        assert eve.fetch(sha, len(content)) == content
        assert ada.fetch(sha, len(content)) == content


def test_upload_that_another_one_began_is_neither_seen_nor_spoiled(door):
    content = secrets.token_bytes(CHUNK_BYTES + 1000)
    sha = sha_of(content)
    with client(door, ADA) as ada, client(door, EVE) as eve:
        eve._send(Put(0, sha, len(content), 0), memoryview(bytes(1000)))
        assert eve._ask_upload(sha, len(content), None) == 1000 and ada._ask_upload(sha, len(content), None) == 0
        ada.upload(content)
        assert ada.fetch(sha, len(content)) == content


def test_clients_of_older_releases_share_what_they_have_with_everybody(door):
    with client(door, b"") as old, client(door, ADA) as ada:
        job = submit(old, seed=4)
        assert job in listed(ada)
        assert ada.cancel(job).state == "CANCELLED"


def test_user_who_runs_the_server_sees_and_ends_everybodys_jobs(door):
    with client(door, EVE) as eve:
        job = submit(eve, seed=5)
        with Asker(door.address, timeout_s=60.0) as asker:
            assert job in {one["job"] for one in asker.jobs()}
        with client(door, user_token()) as host:
            host._request(Cancel(0, job, everybody=True), Cancelling)
        assert {one["job"]: one["state"] for one in eve.status().jobs}[job] == "CANCELLED"


def test_list_comes_in_short_pages_and_whole(door):
    spec = job_spec(seed=6)
    with client(door, EVE) as eve, Asker(door.address, timeout_s=60.0) as asker:
        submit(eve, spec)
        jobs = [job_id() for _ in range(MOST_LISTED + 2)]
        for job in jobs:
            eve.submit(job, spec, job_inputs(spec)[0])
        page = eve._request(ListJobs(0, limit=4096), JobList).jobs
        assert [one["job"] for one in page] == jobs[: -MOST_LISTED - 1 : -1]  # newest first
        whole = [one["job"] for one in asker.jobs(most=len(jobs))]
        assert whole == jobs[::-1]
        assert len(list(asker.jobs(prefix=jobs[0][:9]))) == 1
        assert list(asker.jobs(["NONE", "RUNNING"])) == []
        for job in jobs:
            eve.cancel(job)


def test_machines_of_one_user_share_jobs_and_others_do_not(tmp_path, monkeypatch):
    with FrontDoor(tmp_path / "state", locked=True) as locked:
        keys = []
        for user in ("ada", "ada", "eve"):
            monkeypatch.setenv("DAS_KEYS", str(tmp_path / f"{len(keys)}.json"))
            pairing = Pairing(locked.address, locked.keys.server_keys()[0], locked.keys.pair(user))
            pair_with(pairing.line, timeout_s=60.0)
            keys.append(keys_for(locked.address))
        one, two, eve = (DasClient(locked.address, timeout_s=60, keys=own) for own in keys)
        with one, two, eve:
            job = submit(one)
            assert two.attach(job).last_seq >= 1
            with pytest.raises(JobRejected, match="has no job"):
                eve.attach(job)


def test_secret_of_a_user_is_found_in_the_routing_id_and_kept_from_others():
    token = user_token()
    assert token_in(routing_id(token)) == token == user_token() and routing_id(token) != routing_id(token)
    assert token_in(b"\0\1\2\3\4") == b"" and routing_id(b"") is None
