# SPDX-License-Identifier: GPL-3.0-or-later
"""Several want one job: it ends when nobody does, its results go when all have them, and it may run once more."""

import pytest

from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol.messages import Artefact
from das_server.store.jobs import JobState, JobStore
from das_server.store.requesters import Leases, Requesters
from tests.support.jobs import job_id, job_inputs, job_spec

ADA, BEN, CLEO = (letter * 32 for letter in "abc")
SPEC = job_spec()
INPUTS, _ = job_inputs(SPEC)
FRAME = Artefact(role="frame", sha="f" * 64, size_bytes=10, media="image/png", index=0)


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path)
    yield store
    store.close()


def wanted_by(store: JobStore, *requesters: str, job: str | None = None) -> str:
    job = job or job_id()
    for requester in requesters:
        store.submit(job, SPEC, INPUTS, requester=requester)
    return job


def done(store: JobStore, job: str) -> None:
    store.start(job, worker="worker-0", device="cpu")
    store.finish(job, [FRAME], {})


@pytest.mark.parametrize("others", [(BEN,), ("",)], ids=["named", "unnamed"])
@pytest.mark.parametrize("running", [False, True], ids=["waiting", "running"])
def test_job_ends_when_the_last_requester_has_cancelled_it(store, running, others):
    job = wanted_by(store, ADA, *others)
    if running:
        store.start(job, worker="worker-0", device="cpu")
    for _ in range(2):  # one that has cancelled may say so again
        found = store.request_cancel(job, ADA)
        assert found.state is (JobState.RUNNING if running else JobState.QUEUED) and not found.cancel_requested
        assert store.num_wanting(job) == 1
    found = store.request_cancel(job, others[0])
    assert found.cancel_requested and found.state is (JobState.RUNNING if running else JobState.CANCELLED)


def test_stranger_cancels_nobody_elses_job(store):
    job = wanted_by(store, ADA)
    assert store.request_cancel(job, BEN).state is JobState.QUEUED
    assert store.request_cancel(job).state is JobState.QUEUED


def test_what_a_requester_said_before_it_cancelled_changes_nothing_when_it_comes_late(store):
    job = wanted_by(store, ADA, BEN)
    store.request_cancel(job, ADA)
    store.join(job, ADA, 0.0)
    assert store.submit(job, SPEC, INPUTS, requester=ADA) == (store.get(job), True)
    assert store.num_wanting(job) == 1 and store.wants_no_more(job, ADA) and not store.wants_no_more(job, BEN)


def test_results_go_when_every_requester_has_them_or_has_gone(store):
    job = wanted_by(store, ADA, BEN, CLEO)
    store.request_cancel(job, CLEO)
    done(store, job)
    assert store.acknowledge(job, ADA) == [] and store.acknowledge(job, ADA) == []
    store.join(job, ADA, 0.0)  # a heartbeat that was late
    assert FRAME.sha in store.referenced_blobs() and not store.get(job).acknowledged
    assert store.acknowledge(job, BEN) == [FRAME.sha]
    assert store.referenced_blobs() == set() and store.get(job).acknowledged


def test_requester_whose_lease_ran_out_holds_nothing_until_it_speaks_again(store):
    job = wanted_by(store, ADA, BEN)
    store.submit(job, SPEC, INPUTS, requester=BEN, lease_s=5.0)
    assert store.leases() == [(job, BEN, 5.0)]
    store.request_cancel(job, BEN, lapsed=True)
    assert store.num_wanting(job) == 1 and store.leases() == []
    store.join(job, BEN, 5.0)
    assert store.num_wanting(job) == 2 and not store.wants_no_more(job, BEN)
    done(store, job)
    assert store.acknowledge(job, ADA) == [] and store.let_go_of_unwanted(job) == []
    store.request_cancel(job, BEN, lapsed=True)
    assert store.let_go_of_unwanted(job) == [FRAME.sha]


def test_results_that_nobody_has_stay_when_the_last_lease_runs_out(store):
    job = job_id()
    store.submit(job, SPEC, INPUTS, requester=ADA, lease_s=5.0)
    done(store, job)
    store.request_cancel(job, ADA, lapsed=True)
    assert store.let_go_of_unwanted(job) == [] and FRAME.sha in store.referenced_blobs()


def test_run_once_more_has_events_of_its_own_and_is_what_everybody_gets_from_then_on(store):
    first = wanted_by(store, "", ADA)
    store.request_cancel(first)
    store.request_cancel(first, ADA)
    second, duplicate = store.submit(first, SPEC, INPUTS, requester=BEN, anew=True)
    assert not duplicate and second.job != first and second.state is JobState.QUEUED
    assert [event.kind for event in store.events(second.job)] == ["QUEUED"]
    assert store.get(first).state is JobState.CANCELLED
    assert store.submit(first, SPEC, INPUTS, requester=CLEO) == (second, True)
    assert store.latest_run(first, CLEO) == second.job
    with pytest.raises(JobRejected, match="another request"):
        store.submit(first, job_spec(seed=8), INPUTS, requester=CLEO)
    # those that do not know of runs, and those that wanted no more, stay with the first
    assert store.submit(first, SPEC, INPUTS) == (store.get(first), True)
    assert store.run_of(first, ADA).job == first == store.latest_run(first, ADA)


def test_forgotten_first_run_does_not_take_the_second_with_it(store):
    first = wanted_by(store, ADA)
    store.request_cancel(first, ADA)
    second = store.submit(first, SPEC, INPUTS, requester=BEN, anew=True)[0]
    assert store.forget_old(keep_s=-1.0) == [first]
    assert store.run_of(first, CLEO) == second and store.run_of(first) is None
    assert store.submit(first, SPEC, INPUTS)[0].job == first


def test_requesters_survive_the_end_of_their_server(tmp_path):
    store = JobStore(tmp_path)
    job = wanted_by(store, ADA, BEN)
    store.submit(job, SPEC, INPUTS, requester=BEN, lease_s=7.5)
    store.request_cancel(job, ADA)
    store.close()
    store = JobStore(tmp_path)
    assert store.num_wanting(job) == 1 and store.wants_no_more(job, ADA) and store.leases() == [(job, BEN, 7.5)]
    store.close()


def test_who_cancels_for_one_owner_cancels_nothing_of_another(store):
    """Both have chosen the same ids."""
    asked, spec = job_id(), job_spec()
    first, _ = store.submit(asked, spec, [], requester=ADA, owner="user:ada")
    second, _ = store.submit(asked, spec, [], requester=ADA, owner="user:ben")
    third, _ = store.submit(asked, spec, [], requester=BEN, owner="user:ben")
    store.request_cancel(first.job, ADA)
    assert third.job == second.job != first.job
    assert store.wants_no_more(asked, ADA, "user:ada") and not store.wants_no_more(asked, ADA, "user:ben")
    assert store.run_of(asked, ADA, "user:ben").job == second.job


def test_one_requester_more_than_the_most_is_refused_and_those_before_are_served(store):
    store._requesters = Requesters(store._db, most=2)
    job, other = wanted_by(store, ADA, BEN), wanted_by(store, ADA)
    for ask in (lambda: wanted_by(store, CLEO, job=job), lambda: store.join(job, CLEO, 5.0)):
        with pytest.raises(JobRejected, match="2 others"):
            ask()
    wanted_by(store, ADA, job=job)
    store.join(job, BEN, 5.0)
    store.join(other, CLEO, 5.0)
    done(store, job)
    with pytest.raises(JobRejected, match="2 others"):
        store.acknowledge(job, CLEO)
    store.acknowledge(job, ADA)
    assert store.num_wanting(job) == 1
    assert sorted(store.leases()) == sorted([(job, BEN, 5.0), (other, CLEO, 5.0)])


def test_requesters_of_all_jobs_of_an_owner_are_bounded_and_others_are_not_concerned(store):
    store._requesters = Requesters(store._db, most_of_owner=3)
    for owner, count in (("ada", 3), ("ben", 3)):
        for _ in range(count):
            store.submit(job_id(), SPEC, INPUTS, requester=ADA, owner=owner)
        with pytest.raises(JobRejected, match="asked for 3 times"):
            store.submit(job_id(), SPEC, INPUTS, requester=ADA, owner=owner)
    assert store.counts() == {"QUEUED": 6}  # the one more is not there either
    store._requesters = Requesters(store._db, most_of_owner=4)
    store.submit(job_id(), SPEC, INPUTS, requester=ADA, owner="ada")
    with pytest.raises(JobRejected, match="asked for 4 times"):
        store.submit(job_id(), SPEC, INPUTS, requester=ADA, owner="ada")


def test_leases_end_in_their_turn_however_often_they_are_renewed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("das_server.store.requesters.time.monotonic", lambda: now[0])
    leases = Leases([("a", ADA, 10.0), ("b", BEN, 5.0)])
    for _ in range(1000):
        leases.renew("a", ADA, 10.0)
    leases.renew("c", CLEO, 3.0)
    leases.drop("c", CLEO)
    leases.renew("d", CLEO, 3.0)
    leases.renew("d", CLEO, 0.0)
    assert leases.take_ended() == [] and len(leases._order) < 300
    now[0] = 105.0
    assert leases.take_ended() == [("b", BEN)]
    leases.renew("a", ADA, 10.0)
    now[0] = 114.0
    assert leases.take_ended() == []
    now[0] = 115.0
    assert leases.take_ended() == [("a", ADA)] and leases.take_ended() == []
