# SPDX-License-Identifier: GPL-3.0-or-later
"""The job list: durable, idempotent, one state machine, numbered events."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from das_blender_addon.errors import JobRejected, SettingsError, StorageError
from das_blender_addon.protocol.messages import Artefact, JobSpec
from das_server.store import state_lock
from das_server.store.job import request_digest
from das_server.store.jobs import JobState, JobStore
from das_server.store.state_lock import lock_state
from das_server.store.waiting import WaitingJobs
from tests.support.jobs import job_id, job_inputs, job_spec

ROOT = Path(__file__).resolve().parents[4]
INPUTS, _ = job_inputs(job_spec())
FRAME = Artefact(role="frame", sha="f" * 64, size_bytes=10, media="image/png", index=0)
PREVIEW = Artefact(role="preview", sha="e" * 64, size_bytes=5, media="image/jpeg")


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path)
    yield store
    store.close()


def submit(store: JobStore, job: str | None = None, **changes) -> str:
    job = job or job_id()
    store.submit(job, job_spec(**changes), INPUTS)
    return job


def start(store: JobStore, job: str):
    return store.start(job, worker="worker-0", device="cpu")


def test_job_that_cannot_be_read_when_it_starts_does_not_start(tmp_path):
    class Failing(JobStore):
        """On a disk that fails as soon as the job runs."""

        def get(self, job):
            found = super().get(job)
            if found.state is JobState.RUNNING:
                raise StorageError("The job list cannot be read.")
            return found

    store = Failing(tmp_path)
    job = submit(store)
    with pytest.raises(StorageError):
        start(store, job)
    assert store.find(job).state is JobState.QUEUED and kinds(store, job) == ["QUEUED"]
    store.close()


def test_job_is_made_once_more_only_within_its_owners_number_of_jobs(tmp_path):
    store = JobStore(tmp_path, max_jobs=1)
    old = submit(store)
    store.cancel(old)
    waiting = submit(store)
    with pytest.raises(JobRejected, match="1 jobs of yours"):
        store.run_again(old)
    store.cancel(waiting)
    assert store.run_again(old).state is JobState.QUEUED
    store.close()


def kinds(store: JobStore, job: str) -> list[str]:
    return [event.kind for event in store.events(job)]


def test_submit_stores_whole_request(store):
    job = submit(store, prompt="ein Füchslein \N{FOX FACE}", options={"compose": False})
    found = store.get(job)
    assert found.spec == job_spec(prompt="ein Füchslein \N{FOX FACE}", options={"compose": False})
    assert list(found.inputs) == INPUTS
    assert found.state is JobState.QUEUED
    assert kinds(store, job) == ["QUEUED"]


def test_submit_again_is_duplicate_when_request_is_equal(store):
    job = submit(store)
    again, duplicate = store.submit(job, job_spec(), list(reversed(INPUTS)))
    assert duplicate and again.job == job
    assert kinds(store, job) == ["QUEUED"]


def test_submit_again_is_refused_when_request_differs(store):
    job = submit(store)
    with pytest.raises(JobRejected, match="another request") as caught:
        store.submit(job, job_spec(seed=8), INPUTS)
    assert caught.value.field == "job"
    assert store.get(job).spec.seed == 7


@pytest.mark.parametrize("name", ["", "x" * 32, "ABCDEF" * 6, "a" * 31, "../" + "a" * 29])
def test_submit_refuses_odd_id(store, name):
    with pytest.raises(JobRejected, match="32 lower-case hex digits"):
        store.submit(name, job_spec(), INPUTS)


def test_digest_depends_on_every_field():
    digests = {
        request_digest(job_spec(**change), INPUTS)
        for change in ({}, {"seed": 8}, {"prompt": "b"}, {"options": {"compose": False}})
    }
    assert len(digests) == 4
    assert request_digest(job_spec(), INPUTS[:2]) not in digests


def test_digest_of_a_request_stays_when_a_later_release_has_one_setting_more():
    later = dataclasses.make_dataclass("Later", [("lens", int, 35)], bases=(JobSpec,), frozen=True)
    spec = job_spec()
    assert request_digest(later(**vars(spec)), INPUTS) == request_digest(spec, INPUTS)
    assert request_digest(later(**vars(spec), lens=50), INPUTS) != request_digest(spec, INPUTS)


def test_job_survives_kill_of_its_process(tmp_path):
    job = job_id()
    program = (
        "import sys, os, signal; from pathlib import Path; from das_server.store.jobs import JobStore\n"
        "from tests.support.jobs import job_spec, job_inputs\n"
        "store = JobStore(Path(sys.argv[1])); store.submit(sys.argv[2], job_spec(), job_inputs(job_spec())[0])\n"
        "store.start(sys.argv[2], worker='w', device='cpu'); store.progress(sys.argv[2], {'step': 1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, str(tmp_path), job], cwd=ROOT, timeout=300, check=False)
    assert process.returncode == -signal.SIGKILL
    store = JobStore(tmp_path)
    assert store.get(job).state is JobState.RUNNING
    assert kinds(store, job) == ["QUEUED", "STARTED", "PROGRESS"]
    store.close()


def test_events_are_numbered_per_job_and_replayed_after_any(store):
    one, two = submit(store), submit(store)
    start(store, one)
    for step in range(3):
        store.progress(one, {"stage": "denoising", "step": step, "of": 3, "elapsed_s": 0.5})
    assert [event.seq for event in store.events(one)] == [1, 2, 3, 4, 5]
    assert [event.fields.get("step") for event in store.events(one, after=3)] == [1, 2]
    assert store.last_seq(one) == 5 and store.last_seq(two) == 1
    assert store.last_event(one, "STARTED").fields == {"worker": "worker-0", "device": "cpu", "attempt": 1}


def test_jobs_come_out_in_order_and_retried_one_keeps_its_place(store):
    one, two, three = submit(store), submit(store), submit(store)
    waiting = WaitingJobs(store)
    assert places(waiting, store, one, two, three) == [0, 1, 2]
    start(store, one)
    assert store.next_queued().job == two
    assert places(waiting, store, one, two, three) == [0, 0, 1]
    store.requeue(one, code="job.worker_lost", message="It died.", lost=True)
    assert store.next_queued().job == one
    assert places(waiting, store, one, two, three) == [0, 1, 2]


def places(waiting, store, *jobs):
    """How many waiting jobs are before each."""
    waiting.look()
    return [waiting.num_before(store.get(job).number) for job in jobs]


def test_lists_cost_no_more_where_there_are_many_jobs_of_others(store):
    """In steps of SQLite's machine, which are the same on every computer."""
    own = job_id()
    store.submit(own, job_spec(), INPUTS, owner="ada")
    questions = {
        "by id": lambda: store.listed(prefix=own[:8]),
        "no such id": lambda: store.listed(prefix="f" * 32),
        "newest of one": lambda: store.listed(["QUEUED"], owner="ada", limit=5),
        "next page": lambda: store.listed(before=2, limit=5),
        "counts of one": lambda: store.counts("ada"),
    }
    before = {name: steps(store, ask) for name, ask in questions.items()}
    for _ in range(300):
        store.submit(job_id(), job_spec(), INPUTS, owner="ben")
    after = {name: steps(store, ask) for name, ask in questions.items()}
    assert store.counts("ada") == {"QUEUED": 1} and [job.job for job in store.listed(prefix=own[:8])] == [own]
    assert not {name: (before[name], after[name]) for name in questions if after[name] > before[name] + 100}


def steps(store, ask) -> int:
    counted = []
    store._db.set_progress_handler(lambda: counted.append(1), 1)
    ask()
    store._db.set_progress_handler(None, 0)
    return len(counted)


def test_retry_counts_attempts_and_losses(store):
    job = submit(store)
    start(store, job)
    event = store.requeue(job, code="job.worker_lost", message="It died.", lost=True)
    assert event.fields == {"attempt": 2, "code": "job.worker_lost", "message": "It died."}
    assert start(store, job).attempt == 2
    store.requeue(job, code="job.worker_lost", message="Restarted.", lost=False)
    found = start(store, job)
    assert (found.attempt, found.losses) == (3, 1)


def test_done_failed_and_cancelled_are_final(store):
    for finish in (
        lambda job: store.finish(job, [FRAME], {"seed": 7}),
        lambda job: store.fail(job, code="job", message="No."),
        lambda job: store.cancel(job),
    ):
        job = submit(store)
        start(store, job)
        finish(job)
        count = store.last_seq(job)
        assert store.get(job).state.is_final
        for forbidden in (
            lambda job=job: start(store, job),
            lambda job=job: store.cancel(job),
            lambda job=job: store.finish(job, [], {}),
        ):
            with pytest.raises(ValueError, match="state machine"):
                forbidden()
        assert store.last_seq(job) == count


def test_cancel_ends_waiting_job_at_once_and_marks_running_one(store):
    waiting, running, done = submit(store), submit(store), submit(store)
    start(store, running)
    start(store, done)
    store.finish(done, [], {})
    assert store.request_cancel(waiting).state is JobState.CANCELLED
    assert kinds(store, waiting) == ["QUEUED", "CANCELLED"]
    assert store.request_cancel(running).state is JobState.RUNNING
    assert store.get(running).cancel_requested
    assert store.request_cancel(done).state is JobState.DONE
    assert kinds(store, done) == ["QUEUED", "STARTED", "DONE"]


def test_unknown_job_is_refused_by_name(store):
    with pytest.raises(JobRejected, match="no job"):
        store.get("0" * 32)
    with pytest.raises(JobRejected, match="no job"):
        store.request_cancel("0" * 32)


def test_acknowledge_lets_go_of_results_that_no_other_job_needs(store):
    one, two = submit(store), submit(store)
    for job in (one, two):
        start(store, job)
        store.preview(job, 1, PREVIEW)
        store.finish(job, [FRAME], {})
    assert {FRAME.sha, PREVIEW.sha, INPUTS[0].sha} <= store.referenced_blobs()
    assert store.acknowledge(one) == []
    assert sorted(store.acknowledge(two)) == [PREVIEW.sha, FRAME.sha]
    assert store.referenced_blobs() == set()
    assert kinds(store, two)[-1] == "DONE"


def test_acknowledge_is_refused_before_job_is_over(store):
    job = submit(store)
    with pytest.raises(JobRejected, match="QUEUED"):
        store.acknowledge(job)
    assert INPUTS[0].sha in store.referenced_blobs()


def test_old_finished_jobs_are_forgotten_and_others_stay(store):
    old, waiting = submit(store), submit(store)
    start(store, old)
    store.finish(old, [FRAME], {})
    store.request_cancel(old, lapsed=True)  # nobody waits for it any more
    assert store.forget_old(keep_s=3600) == []
    assert store.forget_old(keep_s=3600, later_s=3601) == [old]
    assert store.find(old) is None and store.events(old) == []
    assert FRAME.sha not in store.referenced_blobs()
    assert store.get(waiting).state is JobState.QUEUED


def test_results_that_somebody_wants_stay_until_they_are_fetched(store):
    failed, wanted = submit(store), submit(store)
    for job in (failed, wanted):
        start(store, job)
    store.fail(failed, code="job", message="No.")
    store.finish(wanted, [FRAME], {})
    assert store.forget_old(keep_s=3600, later_s=1e7) == [failed]
    assert store.forget_old(keep_s=3600, keep_unfetched_s=2e7, later_s=1e7) == []
    assert FRAME.sha in store.referenced_blobs()
    store.acknowledge(wanted)
    assert store.forget_old(keep_s=3600, later_s=3000) == []  # not before its time
    assert store.forget_old(keep_s=3600, later_s=3601) == [wanted]


def test_results_that_nobody_fetches_go_when_their_own_time_is_over(store):
    job = submit(store)
    start(store, job)
    store.finish(job, [FRAME], {})
    assert store.forget_old(keep_s=3600, keep_unfetched_s=9000, later_s=8900) == []
    assert store.forget_old(keep_s=3600, keep_unfetched_s=9000, later_s=9001) == [job]


def test_store_says_disk_is_full_and_keeps_nothing_half(store):
    submit(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    job = job_id()
    with pytest.raises(StorageError, match="disk is full"):
        store.submit(job, job_spec(prompt="x" * 100_000), INPUTS)
    assert store.find(job) is None and store.events(job) == []
    submit(store)


def test_clock_that_is_set_forgets_nothing_and_time_without_a_server_does_not_count(tmp_path, monkeypatch):
    store = JobStore(tmp_path)
    job = job_id()
    store.submit(job, job_spec(), INPUTS)
    store.request_cancel(job)
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall + 10 * 86_400)
    assert store.forget_old(keep_s=3600) == []
    store.close()
    store = JobStore(tmp_path)
    assert store.forget_old(keep_s=3600) == [] and store.forget_old(keep_s=3600, later_s=3500) == []
    store.close()
    (tmp_path / "lived.json").write_text('{"lived_s": 3601}')  # servers have run for so long since
    store = JobStore(tmp_path)
    assert store.forget_old(keep_s=3600) == [job]
    store.close()


def test_state_folder_on_a_disk_of_the_network_is_refused(tmp_path, monkeypatch):
    share = tmp_path / "a share"
    mounts = tmp_path / "mounts"
    escaped = str(share).replace(" ", "\\040")
    lines = ["/dev/sda1 / ext4 rw 0 0", f"server:/export {escaped} nfs4 rw 0 0", f"tmpfs {escaped}/fast tmpfs rw 0 0"]
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(state_lock, "MOUNTS", mounts)
    kinds = [
        state_lock.kind_of_disk(folder) for folder in (share / "das" / "state", share / "fast" / "state", tmp_path)
    ]
    assert kinds == ["nfs4", "tmpfs", "ext4"]
    with pytest.raises(SettingsError, match="network's disk \\(nfs4\\).*--state"):
        state_lock.lock_state(share / "state")
    assert not share.exists()


def test_state_folder_takes_one_server_and_is_free_after_its_death(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from das_server.store.state_lock import lock_state\n"
        "lock = lock_state(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(SettingsError, match=f"process {other.pid}") as caught:
        lock_state(tmp_path)
    assert caught.value.field == "state"
    other.kill()
    other.wait()
    other.stdout.close()
    lock_state(tmp_path).close()


@pytest.mark.parametrize("blocker", ["file"])
def test_state_folder_that_cannot_be_made_is_named(tmp_path, blocker):
    (tmp_path / blocker).write_text("")
    with pytest.raises(StorageError, match=str(os.fspath(tmp_path / blocker))):
        lock_state(tmp_path / blocker / "state")


def test_waiting_jobs_are_counted_by_model(store):
    running = submit(store, seed=1)
    for seed in (2, 3):
        submit(store, seed=seed)
    submit(store, model="another")
    start(store, running)
    assert store.num_waiting() == {"das-preview": 2, "another": 1}
    assert sum(store.num_waiting(limit=2).values()) == 2
