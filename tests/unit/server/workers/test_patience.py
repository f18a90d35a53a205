# SPDX-License-Identifier: GPL-3.0-or-later
"""When a worker is given up, wherever it runs."""

import pytest

from das_server.workers.patience import SHORTEST_STALL_S, STARTING_S, TAKE_UP_S, Patience

PATIENCE = Patience(cancel_grace_s=15.0, heartbeat_timeout_s=30.0, stall_timeout_s=3600.0)
DENOISING = {"state": "busy", "stage": "denoising", "step_s": 1.0}


@pytest.mark.parametrize(
    ("beat", "times", "wrong"),
    [
        ({"state": "ready"}, {"silent_s": 29.0}, ""),
        ({"state": "ready"}, {"silent_s": 31.0}, "was silent for 30 s"),
        ({}, {"silent_s": STARTING_S - 1, "is_starting": True}, ""),
        ({}, {"silent_s": STARTING_S + 1, "is_starting": True}, "was silent for 180 s"),
        ({"state": "ready"}, {"ordered_s": TAKE_UP_S - 1}, ""),
        ({"state": "ready"}, {"ordered_s": TAKE_UP_S + 1}, "did not take up its job"),
        (DENOISING, {"ordered_s": 60.0, "cancelled_s": 14.0, "grace_s": 15.0}, ""),
        (DENOISING, {"ordered_s": 60.0, "cancelled_s": 16.0, "grace_s": 15.0}, "did not stop within 15 s of being"),
        (DENOISING | {"since_progress_s": SHORTEST_STALL_S - 1}, {"ordered_s": 500.0}, ""),
        (DENOISING | {"since_progress_s": SHORTEST_STALL_S + 1}, {"ordered_s": 500.0}, "made no progress for 121 s"),
        (DENOISING | {"since_progress_s": SHORTEST_STALL_S + 1}, {}, ""),
        ({"state": "busy", "stage": "decoding", "since_progress_s": 3000.0}, {"ordered_s": 4000.0}, ""),
        ({"state": "busy", "stage": "decoding", "since_progress_s": 3601.0}, {"ordered_s": 4000.0}, "made no progress"),
    ],
)
def test_worker_is_given_up_when_it_is_silent_idle_stalled_or_disobedient(beat, times, wrong):
    found = PATIENCE.what_is_wrong(beat, **{"silent_s": 0.0} | times)
    assert found.startswith(wrong) and bool(found) == bool(wrong)


def test_worker_with_slow_steps_has_three_of_them_to_stop():
    assert PATIENCE.grace_s({}) == PATIENCE.grace_s({"step_s": 2.0}) == 15.0
    assert PATIENCE.grace_s({"step_s": 30.0}) == 90.0


def test_server_that_is_patient_with_silence_is_so_with_starts():
    patience = Patience(heartbeat_timeout_s=2 * STARTING_S)
    assert not patience.what_is_wrong({}, silent_s=STARTING_S + 1, is_starting=True)
