# SPDX-License-Identifier: GPL-3.0-or-later
"""Several jobs of one take: their progress is one, their events come one at a time, and they begin in their order."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from das_blender_addon.client.take import Log, Preview, Progress
from das_blender_addon.take.shares import Shares, Turns

LIMIT_S = 30.0
THREADS, EVENTS = 4, 50


def at(fraction: float, stage: str = "denoising") -> Progress:
    return Progress(stage, 1, 2, fraction)


def test_fraction_is_that_of_all_jobs_and_of_what_they_are_of_the_take():
    told = []
    shares = Shares(told.append, 2, 0.6)
    first, second = shares.of(0), shares.of(1)
    for tell, fraction in ((first, 0.5), (second, 0.5), (first, 1.0), (second, 1.0)):
        tell(at(fraction))
    assert [event.fraction for event in told] == pytest.approx([0.15, 0.3, 0.45, 0.6])
    shares.composing(1, 4)
    shares.composing(4, 4)
    assert [event.fraction for event in told[-2:]] == pytest.approx([0.7, 1.0])
    assert (told[-1].stage, told[-1].step, told[-1].of) == ("composing", 4, 4)


def test_one_job_alone_is_the_whole_take():
    told = []
    Shares(told.append, 1, 1.0).of(0)(at(0.25))
    assert told == [at(0.25)]


def test_other_events_pass_as_they_are():
    told = []
    events = [Log("Started."), Preview(1, b"picture", "image/jpeg")]
    for event in events:
        Shares(told.append, 3, 0.6).of(2)(event)
    assert told == events


def test_nobody_needs_to_listen():
    shares = Shares(None, 2, 0.6)
    shares.of(0)(at(0.5))
    shares.composing(1, 1)


def test_events_of_several_threads_come_one_at_a_time_and_the_fraction_never_falls():
    told, inside = [], threading.Lock()

    def take(event):
        assert inside.acquire(blocking=False), "two events at a time"
        told.append(event.fraction)
        time.sleep(1e-4)  # so that others come meanwhile
        inside.release()

    shares = Shares(take, THREADS, 0.6)

    def follow(number):
        tell = shares.of(number)
        for count in range(EVENTS):
            tell(at((count + 1) / EVENTS))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(follow, range(THREADS)))
    assert len(told) == THREADS * EVENTS and told == sorted(told) and told[-1] == pytest.approx(0.6)


def test_turns_come_in_order_whoever_is_there_first():
    turns, done = Turns(), []
    there = [threading.Event() for _ in range(3)]

    def take_turn(number):
        there[number].set()
        assert turns.wait_for(range(number), lambda: False)
        done.append(number)
        turns.over(number)

    threads = [threading.Thread(target=take_turn, args=(number,), daemon=True) for number in (2, 1)]
    for thread in threads:
        thread.start()
    assert all(there[number].wait(LIMIT_S) for number in (1, 2))
    assert done == []
    take_turn(0)
    for thread in threads:
        thread.join(LIMIT_S)
    assert done == [0, 1, 2]


def test_turn_that_is_told_twice_or_never_waited_for_harms_nothing():
    turns = Turns()
    turns.over(7)
    turns.over(7)
    assert turns.wait_for([7], lambda: True) and turns.wait_for([], lambda: True)


def test_waiting_ends_when_it_is_stopped():
    turns, stop, outcome = Turns(), threading.Event(), []
    thread = threading.Thread(target=lambda: outcome.append(turns.wait_for([0], stop.is_set)), daemon=True)
    thread.start()
    stop.set()
    thread.join(LIMIT_S)
    assert outcome == [False]


def test_what_is_told_is_what_the_first_job_does_that_is_not_over():
    events = []
    shares = Shares(events.append, 2, 1.0)
    first, second = shares.of(0), shares.of(1)
    first(Progress("denoising", 1, 4, 0.5))
    second(Progress("queued", 0, 0, 0.0))
    first(Progress("saving", 1, 1, 1.0))
    second(Progress("encoding", 0, 1, 0.1))
    assert [event.stage for event in events] == ["denoising", "denoising", "queued", "encoding"]
    assert [round(event.fraction, 3) for event in events] == [0.25, 0.25, 0.5, 0.55]
