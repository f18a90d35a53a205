# SPDX-License-Identifier: GPL-3.0-or-later
"""Which job is next, and where: pure decisions over what waits, what runs and which devices there are.

1. Interactive jobs go before others; after `MOST_PASSED` of them in a row that passed others over, one of those.
2. Among interactive jobs owners take turns.  Among others, too, those first who run less than their share of the
   devices.  An owner's own jobs keep the order in which they came.
3. A job goes to a free device that has its model loaded, else to one where no other model has to go for it, else to
   another one, unless one with its model is free within `WORTH_WAITING_S`.  One that nothing free can run is passed
   over, and keeps its turn.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from das_server.store.waiting import Lines, WaitingJob

MOST_PASSED = 10
"""Interactive jobs that may start in a row while others wait."""

WORTH_WAITING_S = 20.0
"""A job rather waits so long for a device with its model than have another model unloaded for it."""

LOOK = 200
"""Jobs, in the order in which they would start, that a decision looks at."""


@dataclass(frozen=True)
class Place:
    """One worker and its device.  ``model``: what it has loaded, "" for none.  ``is_able``: it can work at all.
    ``free_in_s``: 0 for one that is free, else an estimate, infinity where there is none.  ``lacks``: models that it
    cannot run.
    """

    name: str
    is_gpu: bool = False
    model: str = ""
    is_able: bool = True
    free_in_s: float = 0.0
    lacks: Collection[str] = ()


@dataclass
class Turns:
    """Whose turn it is.  ``served``: owner → number of its last turn.  ``passed``: interactive jobs that started in a
    row while others waited."""

    served: dict[str, int] = field(default_factory=dict)
    passed: int = 0
    _count: int = 0

    def note(self, job: WaitingJob, *, passes_others: bool) -> None:
        """The job has started."""
        self._count += 1
        self.served[job.owner] = self._count
        if len(self.served) > 1000:  # those who have not come for the longest time are as those who never came
            del self.served[min(self.served, key=self.served.get)]
        self.passed = self.passed + 1 if job.is_interactive and passes_others else 0


@dataclass(frozen=True)
class Rules:
    """``runs_on(model, is_gpu)``: whether a device of this kind is one for this model.  ``limit``: jobs of one owner
    that may run at once, 0 for any number.  ``avoided``, ``later``: (job, worker) that must not come together, and only
    where nothing else can.  ``alone``: whether a job runs only by itself.
    """

    runs_on: Callable[[str, bool], bool] = lambda model, is_gpu: True
    limit: int = 0
    avoided: Collection[tuple[str, str]] = ()
    later: Collection[tuple[str, str]] = ()
    alone: Callable[[WaitingJob], bool] = lambda job: False

    def takes(self, model: str, place: Place) -> bool:
        """Whether jobs of this model can run there."""
        return model not in place.lacks and self.runs_on(model, place.is_gpu)


def in_turn(
    waiting: Lines, running: Mapping[str, int], turns: Turns, *, num_places: int, limit: int = 0
) -> Iterator[WaitingJob]:
    """The waiting jobs in the order in which they would start if each could start anywhere.

    ``running``: owner → how many run.  ``num_places``: devices that can work.  An owner at its ``limit`` has no jobs.
    """
    owners = {
        *waiting.owners(interactive=True),
        *waiting.owners(interactive=False),
        *(o for o in running if running[o]),
    }
    share = math.ceil(num_places / len(owners)) if owners else 0
    counts, served = Counter(running), Counter(turns.served)
    kinds = [_line(waiting, kind, counts, served, share=0 if kind else share, limit=limit) for kind in (True, False)]
    yield from itertools.chain(*(reversed(kinds) if turns.passed >= MOST_PASSED else kinds))


def _line(
    waiting: Lines, interactive: bool, counts: Counter, served: Counter, *, share: int, limit: int
) -> Iterator[WaitingJob]:
    """``share`` 0: owners take turns, however many of theirs run."""
    lines = {owner: waiting.line(owner, interactive=interactive) for owner in waiting.owners(interactive=interactive)}
    heads: list[tuple[bool, int, int, str, WaitingJob]] = []
    latest = max(served.values(), default=0)

    def push(owner: str) -> None:
        job = next(lines[owner], None)
        if job is not None and not (limit and counts[owner] >= limit):
            above = bool(share) and counts[owner] >= share
            heapq.heappush(heads, (above, served[owner], job.number, owner, job))

    for owner in lines:
        push(owner)
    while heads:
        *_, owner, job = heapq.heappop(heads)
        yield job
        latest += 1
        counts[owner] += 1
        served[owner] = latest
        push(owner)


def next_start(
    waiting: Lines,
    places: Collection[Place],
    running: Mapping[str, int],
    turns: Turns,
    rules: Rules,
) -> tuple[WaitingJob, str] | None:
    """The (job, worker) to start now, None where nothing can; `Turns.note` it when it has started."""
    able = [place for place in places if place.is_able]
    free = [place for place in able if place.free_in_s == 0]
    if not free:
        return None
    jobs = in_turn(waiting, running, turns, num_places=len(able), limit=rules.limit)
    considered = list(itertools.islice(jobs, LOOK))
    num_running = sum(running.values())
    for pairs in (rules.later, rules.avoided):
        for job in considered:
            place = _place_for(job, [one for one in free if (job.job, one.name) not in pairs], able, rules)
            if place is None:
                continue
            if rules.alone(job) and num_running:
                return None  # those that run end first
            return job, place.name
    return None


def _place_for(job: WaitingJob, free: Iterable[Place], able: Iterable[Place], rules: Rules) -> Place | None:
    """The best of the ``free`` places, None where there is none, or a better one is soon."""
    usable = [place for place in free if rules.takes(job.model, place)]
    if not usable:
        return None
    best = min(usable, key=lambda place: (place.model != job.model, bool(place.model), not place.is_gpu))
    if best.model in ("", job.model):
        return best
    soon = [place for place in able if 0 < place.free_in_s <= WORTH_WAITING_S and place.model == job.model]
    return None if any(rules.takes(job.model, place) for place in soon) else best


def forecast(
    jobs: Iterable[WaitingJob],
    places: Collection[Place],
    seconds: Callable[[WaitingJob, str], float],
    rules: Rules,
) -> list[tuple[WaitingJob, float]]:
    """About when each of ``jobs``, in turn, starts: seconds from now, infinity where that is not known.

    ``seconds(job, worker)``: how long it takes there, infinity where that is not known.
    """
    free_in = {place.name: place.free_in_s for place in places if place.is_able}
    found = []
    for job in jobs:
        usable = [one for one in places if one.name in free_in and rules.takes(job.model, one)]
        if not usable:
            found.append((job, math.inf))
            continue
        place = min(usable, key=lambda one: (free_in[one.name], one.model != job.model))
        found.append((job, free_in[place.name]))
        free_in[place.name] += seconds(job, place.name)
    return found
