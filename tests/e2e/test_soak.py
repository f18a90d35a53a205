# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs through a storm: kills of server, workers and clients, and a network that is cut.

SOAK_JOBS=300 .venv/bin/python -m pytest -s tests/e2e/test_soak.py     the long form; it says what happened
"""

import os
import sys

import pytest

from das_blender_addon.client.connection import ATTEMPT_S
from tests.support.server import running_server
from tests.support.soak import Soak, problems_of

NUM_JOBS = int(os.environ.get("SOAK_JOBS", "12"))
IS_LONG = NUM_JOBS >= 100
STORM_S, LIMIT_S = (7200.0, 14400.0) if IS_LONG else (8.0, 300.0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows who killed a process")
def test_every_job_is_made_once_and_right_whatever_is_killed(tmp_path):
    with running_server(tmp_path / "state", environment={"DAS_SERVER_SPARES": "yes"}) as server:
        pace = {"patience_s": ATTEMPT_S, "longest_pause_s": 8.0} if IS_LONG else {"patience_s": 1.0}
        soak = Soak(server, tmp_path, num_jobs=NUM_JOBS, **pace)
        outcome = soak.run(storm_s=STORM_S, limit_s=LIMIT_S)
        print(outcome)
        logs = "\n".join(path.read_text() for path in tmp_path.glob("client-*/log.txt"))
        assert outcome.problems == [], f"{outcome}\n{server.log}\n{logs}"
    assert len(outcome.mishaps) > 1


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([(1, "QUEUED", {}), (3, "STARTED", {}), (4, "DONE", {})], "numbered"),
        ([(1, "QUEUED", {}), (2, "STARTED", {}), (3, "STARTED", {}), (4, "DONE", {})], "its life"),
        ([(1, "QUEUED", {}), (2, "STARTED", {}), (3, "DONE", {}), (4, "DONE", {})], "its life"),
        ([(1, "QUEUED", {}), (2, "STARTED", {}), (3, "FAILED", {})], "its life"),
    ],
)
def test_disorder_is_seen(events, problem):
    assert [one.split(" is ")[0].split(" [")[0] for one in problems_of(events)] == [problem]


def test_progress_that_goes_back_is_seen():
    steps = [{"stage": "denoising", "step": step} for step in (1, 2, 1)]
    events = [(1, "QUEUED", {}), (2, "STARTED", {}), *((n + 3, "PROGRESS", one) for n, one in enumerate(steps))]
    assert problems_of([*events, (6, "DONE", {})]) == [f"event 5 goes back to {steps[2]}"]
