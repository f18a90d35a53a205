# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs over a real socket, for the tests of the server."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from das_blender_addon.client.client import DasClient
from das_blender_addon.protocol.messages import FINAL_EVENT_KINDS, Accepted, Event, JobSpec
from tests.support.jobs import array_input, job_id, job_inputs, job_spec

JOB_S = 120.0
"""Longest time that a small job of a test may take, on a busy machine."""


@dataclass(frozen=True)
class Finished:
    """A job and all its events; the last one is final."""

    job: str
    events: list[Event]

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def kinds(self) -> list[str]:
        """Kinds of the events, PROGRESS, PREVIEW and places in the queue that were told again left out."""
        told = [event for event in self.events if event.kind != "QUEUED" or event.seq == 1]
        return [event.kind for event in told if event.kind not in ("PROGRESS", "PREVIEW")]

    @property
    def frame_shas(self) -> list[str]:
        """SHA-256 of each frame, in order."""
        frames = [one for one in self.last.fields["artefacts"] if one["role"] == "frame"]
        return [one["sha"] for one in sorted(frames, key=lambda one: one["index"])]


def submit(
    client: DasClient,
    spec: JobSpec | None = None,
    job: str | None = None,
    *,
    carried: np.ndarray | bool = True,
    arrays: Mapping[str, np.ndarray] | None = None,
    **changes,
) -> str:
    """Upload what the server lacks and submit; returns the id.  ``carried``: another carried video, or False for none.
    ``arrays``: further inputs by role.
    """
    spec = spec or job_spec(**changes)
    inputs, blobs = job_inputs(spec)
    if carried is not True:
        inputs = [one for one in inputs if one.role != "carried_video"]
    if isinstance(carried, np.ndarray):
        one, blob = array_input("carried_video", carried)
        inputs, blobs = [*inputs, one], blobs | {one.sha: blob}
    for role, array in (arrays or {}).items():
        one, blob = array_input(role, array)
        inputs, blobs = [*inputs, one], blobs | {one.sha: blob}
    job = job or job_id()
    reply = client.submit(job, spec, inputs)
    if not isinstance(reply, Accepted):
        for sha in reply.shas:
            client.upload(blobs[sha])
        reply = client.submit(job, spec, inputs)
    assert isinstance(reply, Accepted)
    return job


def follow(client: DasClient, job: str, *, after: int = 0, until: Callable[[Event], bool] | None = None) -> Finished:
    """The job's events up to one for which ``until`` is true; by default the final one."""
    until = until or (lambda event: event.kind in FINAL_EVENT_KINDS)
    client.attach(job, after)
    events: list[Event] = []
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline:
        event = client.next_event(1.0)
        if event is None or event.job != job:
            continue
        events.append(event)
        if until(event) or event.kind in FINAL_EVENT_KINDS:
            return Finished(job, events)
    raise AssertionError(f"job {job} did not get there within {JOB_S:.0f} s; its events: {events}")


def whole_story(address: str, job: str) -> Finished:
    """All events of a job from the first to the final one, as a client gets them that was not there before."""
    with DasClient(address, timeout_s=60) as client:
        return follow(client, job)


def is_step(event: Event) -> bool:
    """Whether a denoising step has just ended."""
    return event.kind == "PROGRESS" and event.fields["stage"] == "denoising" and event.fields["step"] > 0


def sha_of(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_death(pid: int, timeout_s: float = 60.0) -> bool:
    """Whether the process is gone in time."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """End a process without warning, or send it another signal."""
    assert pid > 0, "0 would be this process and all its relatives"
    os.kill(pid, number)
