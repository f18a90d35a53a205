# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of jobs that somebody asked for earlier: one short question to their server."""

from __future__ import annotations

from collections.abc import Iterable

from .client import DasClient

TIMEOUT_S = 5.0
UNKNOWN = ""


def job_states(server: str, jobs: Iterable[str], *, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Job → its state by the server's name for it (QUEUED, RUNNING, DONE, FAILED, CANCELLED), `UNKNOWN` for one that it
    does not have; blocks.  Raises any `TransportError`.
    """
    with DasClient(server, timeout_s=timeout_s) as client:
        client.hello()
        return {job: _state(client, job) for job in dict.fromkeys(jobs)}


def _state(client: DasClient, job: str) -> str:
    return next((str(one.get("state", "")) for one in client.list_jobs(job) if one.get("job") == job), UNKNOWN)
