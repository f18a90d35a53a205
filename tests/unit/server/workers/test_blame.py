# SPDX-License-Identifier: GPL-3.0-or-later
"""Which job ends its workers, or the whole server, and which was only there: the one is given up, the other made."""

import queue
import signal
import subprocess
import sys
import threading
import time

import pytest
import zmq

from das_server.store.blobs import BlobStore
from das_server.store.endings import Ending, oom_kills
from das_server.store.jobs import JobState, JobStore
from das_server.workers import local, wire
from das_server.workers.base import WorkDone, WorkerStatus, WorkLost, WorkOrder, WorkProgressed
from das_server.workers.dispatch import MOST_STARTS, Dispatcher
from das_server.workers.local import LocalWorkers
from tests.support.jobs import job_id, job_spec
from tests.unit.server.workers.test_dispatch import ScriptedWorkers, frame, house, kinds, submitted  # noqa: F401
from tests.unit.server.workers.test_worker_memory import House, open_house  # noqa: F401


def step(job: str, attempt: int, step: int, stage: str = "denoising") -> WorkProgressed:
    return WorkProgressed(job, attempt, {"stage": stage, "step": step, "of": 50, "elapsed_s": 1.0})


# ── Lost workers ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_that_gets_further_each_time_is_not_given_up(house):  # noqa: F811
    """As one does whose workers are ended by something else."""
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    for attempt in range(1, 7):
        dispatcher.tick()
        workers.waiting = [step(job, attempt, 5 * attempt), WorkLost(job, attempt, "It was killed.")]
        dispatcher.tick()
        assert store.get(job).losses == 1
    workers.waiting = [WorkDone(job, 7, (frame(blobs),), {})]
    dispatcher.tick()
    assert store.get(job).state is JobState.DONE


@pytest.mark.parametrize("steps", [(9, 9, 9), (9, 3, 9), (9, 8, 7)])
def test_job_that_ends_its_workers_at_one_place_or_before_is_given_up(house, steps):  # noqa: F811
    store, _, workers, dispatcher = house
    job = submitted(store)
    for attempt, reached in enumerate(steps, 1):
        dispatcher.tick()
        workers.waiting = [step(job, attempt, 50, "encoding"), step(job, attempt, reached)]
        workers.waiting.append(WorkLost(job, attempt, "It died."))
        dispatcher.tick()
    assert store.get(job).state is JobState.FAILED
    assert "lost its worker 3 times" in store.last_event(job).fields["message"]


def test_job_that_is_always_lost_is_given_up_however_far_it_comes(house):  # noqa: F811
    store, _, workers, dispatcher = house
    job = submitted(store)
    attempt = 0
    while not store.get(job).state.is_final:
        attempt += 1
        dispatcher.tick()
        workers.waiting = [step(job, attempt, attempt), WorkLost(job, attempt, "It died.")]
        dispatcher.tick()
    assert attempt == 3 * MOST_STARTS and store.get(job).state is JobState.FAILED


def test_job_that_its_worker_had_not_taken_up_loses_nothing(house):  # noqa: F811
    store, _, workers, dispatcher = house
    job = submitted(store)
    for attempt in range(1, 6):
        dispatcher.tick()
        workers.waiting = [WorkLost(job, attempt, "It died while it loaded.", begun=False)]
        dispatcher.tick()
    assert store.get(job).losses == 0 and store.get(job).state is JobState.RUNNING


def test_job_whose_workers_others_end_is_given_up_only_when_it_never_gets_further(house):  # noqa: F811
    store, blobs, workers, dispatcher = house
    victim = submitted(store)
    for attempt in range(1, 10):
        dispatcher.tick()
        workers.waiting = [step(victim, attempt, 5), WorkLost(victim, attempt, "It was killed.", by_others=True)]
        dispatcher.tick()
    assert store.get(victim).losses == 0 and store.get(victim).attempt == 10
    for attempt in range(10, 3 * MOST_STARTS + 5):
        workers.waiting = [step(victim, attempt, attempt), WorkLost(victim, attempt, "It was killed.", by_others=True)]
        dispatcher.tick()
    assert store.get(victim).state is JobState.RUNNING
    workers.waiting = [WorkLost(victim, 3 * MOST_STARTS + 5, "It was killed.", by_others=True)]
    dispatcher.tick()
    assert store.get(victim).state is JobState.FAILED


# ── Lost servers ────────────────────────────────────────────────────────────────────────────────────────────────────


class TwoWorkers(ScriptedWorkers):
    """Two workers that take jobs and never end them."""

    def __init__(self):
        super().__init__()
        self.orders: dict[str, WorkOrder] = {}

    def free(self):
        return [one for one in self.status() if one.name not in self.orders]

    def run(self, worker, order):
        self.orders[worker] = order

    def status(self):
        return [WorkerStatus(name, "ready", "cpu") for name in ("worker-0", "worker-1")]

    def jobs(self):
        return [order.job for order in self.orders.values()]


def next_server(store, blobs, ending=Ending.DIED):
    """(workers, dispatcher) of a server that has just started."""
    workers = TwoWorkers()
    dispatcher = Dispatcher(store, blobs, workers, max_attempts=3)
    dispatcher.recover(ending)
    dispatcher.tick()
    return workers, dispatcher


@pytest.fixture
def on_disk(tmp_path):
    store = JobStore(tmp_path)
    yield store, BlobStore(tmp_path)
    store.close()


def test_job_that_takes_the_server_down_is_given_up_and_those_beside_it_are_made(on_disk):
    store, blobs = on_disk
    victim, poison, waiting = submitted(store), submitted(store, seed=8), submitted(store, seed=9)
    starts = 0
    while not store.get(poison).state.is_final:
        starts += 1
        assert starts < 20, "the server is taken down for ever"
        workers, dispatcher = next_server(store, blobs)
        if poison in workers.jobs():
            continue  # it takes the server down
        for name, order in list(workers.orders.items()):
            workers.waiting = [WorkDone(order.job, order.attempt, (frame(blobs),), {})]
            del workers.orders[name]
        dispatcher.tick()
        if poison not in workers.jobs():
            dispatcher.tick()
    assert "server died while it made this job" in store.last_event(poison).fields["message"]
    for _ in range(3):
        workers, dispatcher = next_server(store, blobs, Ending.CLEAN)
        workers.waiting = [WorkDone(one.job, one.attempt, (frame(blobs),), {}) for one in workers.orders.values()]
        dispatcher.tick()
    assert [store.get(job).state for job in (victim, waiting)] == [JobState.DONE] * 2


def test_suspect_of_two_deaths_runs_alone(on_disk):
    store, blobs = on_disk
    one, two, three = submitted(store), submitted(store, seed=8), submitted(store, seed=9)
    assert next_server(store, blobs)[0].jobs() == [one, two]
    assert next_server(store, blobs)[0].jobs() == [one, two]
    workers, dispatcher = next_server(store, blobs)
    assert workers.jobs() == [one]
    dispatcher.tick()
    assert workers.jobs() == [one]
    workers.orders.clear()
    workers.waiting = [WorkDone(one, 3, (frame(blobs),), {})]
    dispatcher.tick()
    assert workers.jobs() == [two] and store.get(three).state is JobState.QUEUED


def test_server_that_was_asked_to_end_counts_against_no_job(on_disk):
    store, blobs = on_disk
    job = submitted(store)
    for _ in range(5):
        workers, _ = next_server(store, blobs, Ending.CLEAN)
        assert workers.jobs() == [job]
    assert store.get(job).losses == 0 and "was restarted" in store.last_event(job, "RETRY").fields["message"]


def test_server_that_was_killed_from_outside_counts_against_no_job(on_disk):
    store, blobs = on_disk
    one, two = submitted(store), submitted(store, seed=8)
    for _ in range(5):
        assert next_server(store, blobs, Ending.KILLED)[0].jobs() == [one, two]
    assert store.get(one).losses == 0 and not store.get(one).suspect
    assert "was killed" in store.last_event(one, "RETRY").fields["message"]


# ── Workers that die of themselves ──────────────────────────────────────────────────────────────────────────────────


class Pool:
    """Real `LocalWorkers` with one worker; its process only sleeps, and the test says its words."""

    def __init__(self, folder):
        self._context = zmq.Context()
        self.workers = LocalWorkers(self._context, folder, devices=("cpu",), model="das-preview")
        self.one = self.workers._processes[0]
        self._dealer = None
        self.begin()

    def begin(self):
        """A process starts; what `_spawn` does but for the command."""
        one = self.one
        one.generation += 1
        one.state = "starting" if one.failed_starts < local.BROKEN_AFTER_STARTS else "broken"
        one.about, one.heartbeat, one.doom, one.settled = {}, {}, "", False
        one.heard_s = time.monotonic()
        code = "import sys; sys.exit(int(sys.stdin.readline()))"
        one.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
        if self._dealer is not None:
            self._dealer.close(linger=0)
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.ROUTING_ID, one.routing_id)
        self._dealer.connect(self.workers._spawner.address)

    def say(self, kind, **fields):
        """A word of the worker, and its effect."""
        self._dealer.send_multipart(wire.pack(self.workers._token, {"kind": kind, **fields}))
        assert self.workers.socket.poll(60_000)
        return self.workers.news()

    def beat(self, state, job=""):
        return self.say("heartbeat", state=state, job=job, attempt=0)

    def end(self, status=1):
        """The process ends → the news of it."""
        self.one.process.stdin.write(f"{status}\n")
        self.one.process.stdin.close()
        self.one.process.wait(60)
        return self.workers.news()

    def close(self):
        self._dealer.close(linger=0)
        self.workers.stop()
        self._context.term()


@pytest.fixture
def pool(tmp_path):
    pool = Pool(tmp_path)
    yield pool
    pool.close()


def order() -> WorkOrder:
    return WorkOrder(job_id(), 1, job_spec(), ())


READY = {"device": "cpu", "device_label": "CPU", "versions": {}, "state": "ready"}


def test_worker_that_dies_while_it_loads_is_broken_with_the_reason_and_costs_no_job(pool):
    asked = order()
    pauses, loading = [], {"stage": "loading", "step": 0, "of": 1, "elapsed_s": 0.0}
    for _ in range(local.BROKEN_AFTER_STARTS):
        pool.say("ready", **READY)
        pool.beat("loading")
        pool.workers.run("worker-0", asked)
        pool.say("progress", job=asked.job, attempt=1, fields=loading)
        before_s = time.monotonic()
        (lost,) = pool.end()
        assert isinstance(lost, WorkLost) and not lost.begun and "while it loaded das-preview" in lost.reason
        pauses.append((pool.one.start_at_s - time.monotonic(), pool.one.start_at_s - before_s))
        pool.begin()
    assert all(least < pause_s < most for (least, most), pause_s in zip(pauses, (0.5, 1.0, 2.0), strict=True))
    (status,) = pool.workers.status()
    assert status.state == "broken" and "exit status 1 while it loaded das-preview" in status.problem
    pool.say("ready", **READY)
    assert pool.workers.status()[0].state == "broken" and pool.workers.free() == []
    pool.beat("loading")
    assert pool.workers.status()[0].state == "broken"
    pool.beat("ready")  # it got there after all
    (status,) = pool.workers.status()
    assert (status.state, status.problem) == ("ready", "") and pool.workers.free()


def test_worker_that_dies_of_its_job_is_replaced_at_once(pool):
    for _ in range(local.BROKEN_AFTER_STARTS + 1):
        asked = order()
        pool.say("ready", **READY)
        pool.beat("ready")
        pool.workers.run("worker-0", asked)
        pool.beat("busy", asked.job)
        (lost,) = pool.end()
        assert lost.begun and pool.one.start_at_s <= time.monotonic() and pool.one.state == "starting"
        pool.begin()


@pytest.mark.skipif(oom_kills() is None, reason="this system does not count what it kills")
@pytest.mark.parametrize(
    ("number", "by_others"), [(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGSEGV, False)]
)
def test_worker_says_whether_others_ended_it(pool, number, by_others):
    pool.say("ready", **READY)
    pool.workers.run("worker-0", order())
    pool.beat("busy", pool.one.order.job)
    pool.one.process.send_signal(number)
    pool.one.process.wait(60)
    (lost,) = pool.workers.news()
    assert lost.begun and lost.by_others is by_others and number.name in lost.reason


def test_worker_that_the_server_kills_was_not_ended_by_others(pool):
    pool.say("ready", **READY)
    pool.workers.run("worker-0", order())
    pool.workers._doom(pool.one, "was silent")
    pool.one.process.wait(60)
    (lost,) = pool.workers.news()
    assert not lost.by_others and "was silent" in lost.reason


def test_worker_that_ends_after_an_error_says_which(pool):
    asked = order()
    pool.say("ready", **READY)
    pool.beat("ready")
    pool.workers.run("worker-0", asked)
    pool.beat("busy", asked.job)
    pool.say("problem", message="The job failed with ValueError: odd; the server's log has the details.")
    (lost,) = pool.end(wire.UNEXPECTED_STATUS)
    assert lost.begun and "an error that it did not expect: The job failed with ValueError: odd" in lost.reason
    assert pool.workers.status()[0].problem == ""


def test_error_that_nobody_foresaw_ends_the_worker(open_house):  # noqa: F811
    house = open_house("resident")  # noqa: F811
    threading.Thread(target=house.run, args=(["resident"],), kwargs={"words": "a sick device"}, daemon=True).start()
    said = []
    while not said or said[-1]["kind"] != "end":
        said.append(house.link._words.get(timeout=60))
    assert said[-1]["status"] == wire.UNEXPECTED_STATUS and said[-2]["kind"] == "problem"
    assert "RuntimeError: a sick device" in said[-2]["message"]
    assert not any(one["kind"] in ("failed", "done") for one in said)
    with pytest.raises(queue.Empty):
        house.link._words.get_nowait()
