# SPDX-License-Identifier: GPL-3.0-or-later
"""Places and times of waiting jobs, as their clients hear of them, with a real job list."""

import pytest

from das_blender_addon.protocol.messages import BATCH, INTERACTIVE
from das_server.store.jobs import JobStore
from das_server.workers.base import WorkerStatus
from das_server.workers.devices import model_to_load
from das_server.workers.health import Health
from das_server.workers.scheduling import TELL_EVERY_S, Scheduling
from tests.support.jobs import job_id, job_inputs, job_spec

INPUTS = job_inputs(job_spec())[0]
REPORT = {"device": "A CPU", "timings_s": {"total": 60.0, "denoising": 50.0}}
CPU = WorkerStatus("w0", "ready", "cpu", "A CPU", model="das-preview")


class House:
    def __init__(self, folder):
        self.now_s = 1000.0
        self.store = JobStore(folder)
        self.scheduling = Scheduling(self.store, clock=lambda: self.now_s)

    def ask(self, **about):
        job = job_id()
        self.store.submit(job, job_spec(model=about.pop("model", "das-preview")), INPUTS, **about)
        return job

    def start(self, statuses=(CPU,), free=("w0",)):
        found = self.scheduling.next_start(statuses, free, Health())
        if found is None:
            return None
        self.store.start(found[0].job, worker=found[1], device="A CPU")
        return found[0].job

    def tell(self, statuses=(CPU,)):
        self.now_s += 2 * TELL_EVERY_S
        self.scheduling.tell(statuses)

    def places(self, job):
        fields = [event.fields for event in self.store.events(job) if event.kind == "QUEUED"]
        return [(one["position"], one.get("eta_s")) for one in fields]


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.store.close()


BUSY = WorkerStatus("w0", "busy", "cpu", "A CPU", model="das-preview", job="x")


def test_place_and_time_are_told_when_they_change_and_only_then(house):
    first, second = house.ask(owner="ada"), house.ask(owner="ada")
    done = house.start()
    house.scheduling.finished(house.store.get(done), REPORT)  # so long it takes
    house.store.finish(done, [], {})
    assert (done, house.start()) == (first, second)
    third, fourth = house.ask(owner="ada"), house.ask(owner="ada")
    house.tell([BUSY])
    assert house.places(third) == [(0, None), (0, 56.0)] and house.places(fourth)[-1] == (1, 116.0)
    for _ in range(3):
        house.tell([BUSY])
    assert len(house.places(third)) == len(house.places(fourth)) == 2  # as expected
    window = house.ask(owner="ben", priority=INTERACTIVE)
    house.tell([BUSY])
    assert house.places(third)[-1][0] == 1 and house.places(fourth)[-1][0] == 2
    assert house.scheduling.outlook(house.store.get(window)) == (0, 40.0)
    house.store.finish(second, [], {})
    assert house.start() == window and house.scheduling.outlook(house.store.get(window)) == (0, 60.0)


def test_a_running_job_says_how_long_it_takes_yet(house):
    job = house.store.get(house.ask())
    house.start()
    job = house.store.get(job.job)
    fields = {"stage": "denoising", "step": 5, "of": 10, "elapsed_s": 17.0}
    house.now_s += 17.0
    assert house.scheduling.progressed(job, fields) == fields | {"eta_s": 23.0}  # nobody has made one before
    assert house.scheduling.progressed(job, {"stage": "loading"})["eta_s"] == 23.0


def test_times_are_known_after_a_restart(house, tmp_path):
    job = house.ask()
    house.start()
    house.store.finish(job, [], REPORT)
    again = house.ask()
    house.scheduling = Scheduling(house.store, clock=lambda: house.now_s)
    house.start()
    assert house.scheduling.outlook(house.store.get(again)) == (0, 60.0)


def test_full_job_says_that_its_gpu_cannot_work_while_the_cpu_beside_it_does(house):
    gpu = WorkerStatus("w1", "broken", "cuda:0", "A GPU", problem="It fell off the bus.")
    full, preview = house.ask(model="das-cogvideox-5b"), house.ask()
    assert house.start([CPU, gpu]) == preview and house.start([CPU, gpu], []) is None
    house.tell([CPU, gpu])
    house.tell([CPU, gpu])
    said = [event.fields["message"] for event in house.store.events(full) if event.kind == "WAITING"]
    assert len(said) == 1 and said[0].endswith("It fell off the bus.") and "das-cogvideox-5b" in said[0]


def test_job_whose_request_cannot_be_read_is_set_aside_and_the_next_one_starts(house):
    bad, good = house.ask(), house.ask()
    house.store._db.execute("UPDATE jobs SET spec = '{half' WHERE job = ?", (bad,))
    assert house.start() == good
    assert house.store.last_event(bad).kind == "FAILED"


def test_cpu_beside_a_gpu_loads_what_it_gets_jobs_of():
    assert model_to_load("das-cogvideox-5b", "cpu", ["cuda:0", "cpu"]) == "das-preview"
    assert model_to_load("das-cogvideox-5b", "cuda:0", ["cuda:0", "cpu"]) == "das-cogvideox-5b"
    assert model_to_load("das-cogvideox-5b", "cpu", ["cpu"]) == "das-cogvideox-5b"
    assert model_to_load("", "cpu", ["cuda:0", "cpu"]) == ""


def test_a_job_that_somebody_waits_for_now_is_one_of_a_window(house):
    first, second = house.ask(owner="ada"), house.ask(owner="ada")
    for priority in (INTERACTIVE, BATCH):
        assert house.store.submit(second, job_spec(), INPUTS, owner="ada", requester="ab" * 16, priority=priority)[1]
    assert house.store.get(second).priority == INTERACTIVE
    assert (house.start(), house.start()) == (second, first)
