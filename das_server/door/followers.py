# SPDX-License-Identifier: GPL-3.0-or-later
"""Who follows the events of which jobs, and who has to be told now: nothing is looked up for jobs without news."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from das_blender_addon.errors import JobRejected
from das_server.limits import MAX_CONNECTIONS, MAX_FOLLOWED

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.2
"""Before more is offered to a peer whose queue is full: twice as long each time, as long as it takes nothing."""


class Followers:
    """``most``: jobs that one peer may follow.  ``most_peers``: peers that are remembered; those that were not heard of
    longest, which have gone where there are no more connections, give way."""

    def __init__(self, most: int = MAX_FOLLOWED, most_peers: int = MAX_CONNECTIONS):
        self._most, self._most_peers = most, most_peers
        self._after: dict[bytes, dict[str, int]] = {}
        self._of: dict[str, set[bytes]] = {}
        self._due: dict[tuple[bytes, str], None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._after.values()))

    def follow(self, peer: bytes, job: str, after: int) -> None:
        """The peer is to be told of the job's events with a ``seq`` > ``after``; raises `JobRejected`."""
        jobs = self._after.setdefault(peer, {})
        if job not in jobs and len(jobs) >= self._most:
            raise JobRejected(f"You follow {self._most} jobs already; attach to more when some are over.", field="job")
        jobs[job] = after
        self._of.setdefault(job, set()).add(peer)
        self._due[peer, job] = None
        self.heard(peer)
        while len(self._after) > self._most_peers:
            self.drop(next(iter(self._after)))

    def heard(self, peer: bytes) -> None:
        """The peer has asked for something."""
        if peer in self._after:
            self._after[peer] = self._after.pop(peer)

    def has_news(self, jobs: Iterable[str]) -> None:
        """These jobs have events that nobody was told."""
        for job in jobs:
            self._due.update(((peer, job), None) for peer in self._of.get(job, ()))

    def take_due(self) -> list[tuple[bytes, str, int]]:
        """(peer, job, the number of the last event that it was told) of all that are to be told now, once."""
        due, self._due = self._due, {}
        return [(peer, job, self._after[peer][job]) for peer, job in due if self.follows(peer, job)]

    def follows(self, peer: bytes, job: str) -> bool:
        return job in self._after.get(peer, ())

    def was_told(self, peer: bytes, job: str, seq: int) -> None:
        """Of the events until this one."""
        if self.follows(peer, job):
            self._after[peer][job] = seq

    def put_off(self, peer: bytes, job: str) -> None:
        """It is to be told next time."""
        self._due[peer, job] = None

    def leave(self, peer: bytes, job: str) -> None:
        """The peer follows the job no more."""
        jobs = self._after.get(peer, {})
        jobs.pop(job, None)
        if not jobs:
            self._after.pop(peer, None)
        peers = self._of.get(job, set())
        peers.discard(peer)
        if not peers:
            self._of.pop(job, None)

    def drop(self, peer: bytes) -> None:
        """The peer is gone."""
        for job in list(self._after.get(peer, ())):
            self.leave(peer, job)
        self._after.pop(peer, None)


class SlowPeers:
    """Those whose queues are full, and who are left alone for a while.  ``clock``: seconds that nobody sets."""

    def __init__(self, most: int = MAX_CONNECTIONS, clock: Callable[[], float] = time.monotonic):
        self._most, self._clock = most, clock
        self._pauses: dict[bytes, tuple[float, float]] = {}

    def waits(self, peer: bytes) -> bool:
        """Whether nothing is to be offered to it now."""
        return bool(self._pauses) and self._pauses.get(peer, (0.0, 0.0))[0] > self._clock()

    def is_tried_soon(self, peer: bytes) -> bool:
        """Whether it has taken something until just now."""
        return self._pauses.get(peer, (0.0, 0.0))[1] <= FIRST_PAUSE_S

    def note_full(self, peer: bytes) -> None:
        """It takes nothing more."""
        pause_s = min(2 * self._pauses.pop(peer, (0.0, FIRST_PAUSE_S / 2))[1], LONGEST_PAUSE_S)
        self._pauses[peer] = self._clock() + pause_s, pause_s
        while len(self._pauses) > self._most:  # one that has gone, where there are no more connections
            del self._pauses[next(iter(self._pauses))]

    def note_sent(self, peer: bytes) -> None:
        """It has taken something."""
        if self._pauses:
            self._pauses.pop(peer, None)
