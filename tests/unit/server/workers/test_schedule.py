# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is next, and where: by examples, and in random worlds in which nobody starves nor takes more than a share."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from das_server.store.waiting import Lines, WaitingJob
from das_server.workers.schedule import (
    MOST_PASSED,
    WORTH_WAITING_S,
    Place,
    Rules,
    Turns,
    forecast,
    in_turn,
    next_start,
)

PREVIEW, FULL = "das-preview", "das-cogvideox-5b"
ONE = (Place("w0"),)
BESIDE_GPU = Rules(runs_on=lambda model, is_gpu: is_gpu or model == PREVIEW)


class World:
    """Jobs that wait, devices, and jobs that end when the test says so."""

    def __init__(self, places=ONE, rules=None):
        self.waiting, self.turns = Lines(), Turns()
        self.places = {place.name: place for place in places}
        self.rules = rules or Rules()
        self.running: dict[str, WaitingJob] = {}
        self.started: list[str] = []
        self._count = 0

    def ask(self, owner="ada", *, interactive=False, model=PREVIEW):
        self._count += 1
        job = f"{self._count:04d}"
        self.waiting.put(job, WaitingJob(job, self._count, owner, interactive, model, 1.0))
        return job

    def owners(self):
        return Counter(job.owner for job in self.running.values())

    def fill(self):
        """Start what can start → (job, worker) each."""
        pairs = []
        while True:
            busy = self.running
            places = [replace(one, free_in_s=math.inf if one.name in busy else 0.0) for one in self.places.values()]
            found = next_start(self.waiting, places, self.owners(), self.turns, self.rules)
            if found is None:
                return pairs
            job, worker = found
            self.waiting.put(job.job, None)
            self.turns.note(job, passes_others=bool(self.waiting.owners(interactive=False)))
            self.running[worker] = job
            self.started.append(job.job)
            pairs.append((job.job, worker))

    def end(self, worker):
        return self.running.pop(worker)


def one_by_one(world, count):
    """The jobs that ``world``'s one device makes."""
    order = []
    for _ in range(count):
        order += [job for job, _ in world.fill()]
        world.end("w0")
    return order


def test_interactive_jobs_go_before_others():
    house = World()
    batch = [house.ask() for _ in range(2)]
    window = [house.ask(interactive=True), house.ask("ben", interactive=True)]
    assert one_by_one(house, 4) == window + batch


def test_owners_take_turns_and_keep_their_own_order():
    house = World()
    ada, ben = [house.ask() for _ in range(4)], [house.ask("ben") for _ in range(2)]
    assert one_by_one(house, 6) == [ada[0], ben[0], ada[1], ben[1], ada[2], ada[3]]


def test_one_that_comes_late_waits_for_one_job_of_another():
    house = World()
    for _ in range(20):
        house.ask()
    one_by_one(house, 5)
    late = house.ask("ben")
    assert one_by_one(house, 1) == [late]


def test_others_go_on_while_interactive_jobs_keep_coming():
    house = World()
    batch = house.ask("ben")
    for _ in range(MOST_PASSED + 5):
        house.ask(interactive=True)
    order = one_by_one(house, MOST_PASSED + 1)
    assert order.index(batch) == MOST_PASSED


def test_owner_at_the_limit_waits_while_devices_are_free():
    house = World([Place("w0"), Place("w1"), Place("w2")], rules=Rules(limit=2))
    for _ in range(5):
        house.ask()
    assert len(house.fill()) == 2
    ben = house.ask("ben")
    assert [job for job, _ in house.fill()] == [ben]


def test_full_job_never_lands_on_the_cpu_beside_a_gpu_and_a_preview_does_not_wait_for_it():
    house = World([Place("gpu", True, FULL), Place("cpu", False, PREVIEW)], rules=BESIDE_GPU)
    full = [house.ask(model=FULL) for _ in range(3)]
    previews = [house.ask() for _ in range(2)]
    assert house.fill() == [(full[0], "gpu"), (previews[0], "cpu")]
    house.end("cpu")
    assert house.fill() == [(previews[1], "cpu")]
    house.end("cpu")
    assert house.fill() == []
    house.end("gpu")
    assert house.fill() == [(full[1], "gpu")]


def test_full_job_waits_for_a_gpu_that_cannot_work_now():
    house = World([Place("gpu", True, FULL, is_able=False), Place("cpu", False, PREVIEW)], rules=BESIDE_GPU)
    house.ask(model=FULL)
    assert house.fill() == []


def test_job_goes_where_its_model_is_loaded():
    house = World([Place("w0", True, "other"), Place("w1", True, ""), Place("w2", True, FULL)])
    jobs = [house.ask(model=FULL) for _ in range(3)]
    assert [worker for _, worker in house.fill()] == ["w2", "w1", "w0"]
    assert set(house.started) == set(jobs)


@pytest.mark.parametrize(("soon_s", "starts"), [(WORTH_WAITING_S, False), (WORTH_WAITING_S + 1, True)])
def test_no_model_goes_for_a_job_whose_device_is_free_soon(soon_s, starts):
    house = World()
    house.ask(model=FULL)
    places = [Place("w0", True, "other"), Place("w1", True, FULL, free_in_s=soon_s)]
    found = next_start(house.waiting, places, Counter(), house.turns, house.rules)
    assert (found is not None) == starts


def test_lost_job_goes_elsewhere_or_waits_for_what_else_there_is():
    house = World([Place("w0"), Place("w1")])
    lost, other = house.ask(), house.ask()
    house.rules = Rules(avoided={(lost, "w0")}, later={(lost, "w0")})
    assert house.fill() == [(lost, "w1"), (other, "w0")]
    third, last = house.ask(), house.ask()
    house.end("w0")
    house.rules = Rules(later={(third, "w0")})
    assert house.fill() == [(last, "w0")]
    house.end("w0")
    assert house.fill() == [(third, "w0")]


def test_job_that_runs_alone_lets_those_that_run_end_and_lets_none_pass():
    house = World([Place("w0"), Place("w1")])
    first = house.ask()
    house.fill()
    alone, _ = house.ask(), house.ask()
    house.rules = Rules(alone=lambda job: job.job == alone)
    assert house.fill() == []
    house.end("w0")
    assert next_start(house.waiting, house.places.values(), {}, house.turns, house.rules)[0].job == alone
    assert first != alone


def test_forecast_says_when_each_starts():
    house = World()
    jobs = [house.ask(model=model) for model in (PREVIEW, FULL, PREVIEW, FULL)]
    places = [Place("gpu", True, FULL, free_in_s=100.0), Place("cpu", False, PREVIEW, free_in_s=5.0)]
    turn = in_turn(house.waiting, Counter(), house.turns, num_places=2)
    found = forecast(turn, places, lambda job, on: 3600.0 if job.model == FULL else 10.0, BESIDE_GPU)
    assert [(job.job, at_s) for job, at_s in found] == list(zip(jobs, (5.0, 100.0, 15.0, 3700.0), strict=True))


# ── Random worlds ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(6))
def test_nobody_starves(seed):
    """However many interactive jobs come, and whoever asks: every job starts, after a bounded number of others."""
    dice = random.Random(seed)
    places = [Place("w0", True, FULL)] + [Place(f"w{i}", False, PREVIEW) for i in range(1, dice.randint(2, 4))]
    house = World(places, rules=BESIDE_GPU)
    first = [house.ask(f"user{i % 3}", model=dice.choice((PREVIEW, FULL))) for i in range(6)]
    for _ in range(12 * (MOST_PASSED + 1)):
        while len(house.waiting) < 20:
            house.ask(f"user{dice.randint(0, 3)}", interactive=True, model=dice.choice((PREVIEW, FULL)))
        house.fill()
        house.end(dice.choice(sorted(house.running)))
        if set(first) <= set(house.started):
            return
    raise AssertionError(f"{len(set(first) - set(house.started))} of {len(first)} jobs never started")


@pytest.mark.parametrize("seed", range(6))
def test_no_owner_starts_above_its_share_while_another_waits_below(seed):
    """Nor above the limit, ever; and no device is idle while a job that it can run may start."""
    dice = random.Random(100 + seed)
    num_places, limit = dice.randint(2, 6), dice.choice((0, 2, 3))
    house = World([Place(f"w{i}") for i in range(num_places)], rules=Rules(limit=limit))
    for _ in range(150):
        for _ in range(dice.choice((0, 0, 1, 4))):
            house.ask(dice.choice(("ada", "ada", "ada", "ben", "cleo")))
        before = house.owners()
        waiting = {owner: len(list(house.waiting.line(owner, interactive=False))) for owner in ("ada", "ben", "cleo")}
        share = math.ceil(num_places / max(1, len({*filter(waiting.get, waiting), *filter(before.get, before)})))
        house.fill()
        after = house.owners()
        for owner, count in after.items():
            assert not limit or count <= limit
            if count > before[owner] and count > share:  # it began a job above its share
                left = set(house.waiting.owners(interactive=False)) - {owner}
                assert all(after[other] >= share or (limit and after[other] >= limit) for other in left)
        may = [o for o in house.waiting.owners(interactive=False) if not limit or after[o] < limit]
        assert len(house.running) == num_places or not may
        for worker in dice.sample(sorted(house.running), dice.randint(0, len(house.running))):
            house.end(worker)
