# SPDX-License-Identifier: GPL-3.0-or-later
"""The line that the panel shows of a job."""

import pytest

from das_blender_addon.client.take import Progress
from das_blender_addon.protocol.messages import BATCH, INTERACTIVE
from das_blender_addon.shot.resolved import PRIORITIES
from das_blender_addon.take.reporter import Reporter, about


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Progress("queued", 0, 0, 0.0), "Waiting in the queue"),
        (Progress("queued", 3, 0, 0.0), "Waiting in the queue, 3 before this one"),
        (Progress("queued", 3, 0, 0.0, 130.0), "Waiting in the queue, 3 before this one, starts in about 2 min"),
        (Progress("denoising", 3, 50, 0.3), "Denoising 3/50"),
        (Progress("denoising", 3, 50, 0.3, 239.0), "Denoising 3/50, about 4 min left"),
        (Progress("loading", 0, 1, 0.0, 12.0), "Loading the model, about 10 s left"),
    ],
)
def test_place_and_time_are_in_the_line(event, words):
    assert Reporter()(event).text == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "5 s"), (47, "45 s"), (52, "1 min"), (5000, "83 min"), (7000, "1.9 h")]
)
def test_times_are_said_as_roughly_as_they_are_known(seconds, words):
    assert about(seconds) == f"about {words}"


def test_jobs_of_a_window_are_interactive_unless_something_else_is_chosen():
    assert PRIORITIES == {"batch": BATCH, "interactive": INTERACTIVE} and INTERACTIVE > BATCH
