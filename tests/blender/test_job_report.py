# SPDX-License-Identifier: GPL-3.0-or-later
"""A window's job in the status bar while it runs, and in words at its end."""

from types import SimpleNamespace

import bpy
import pytest

from das_blender_addon.errors import JobCancelled, OutOfMemory
from das_blender_addon.take import drive
from das_blender_addon.ui import job_report, session
from tests.blender.test_panels import Layout


def status_bar() -> list[str]:
    layout = Layout()
    job_report.draw_status(SimpleNamespace(layout=layout), bpy.context)
    return layout.drawn


@pytest.mark.parametrize("ending", ["end", "cancel", "failure"])
def test_status_bar_shows_the_job_while_it_runs_and_nothing_after_any_end(scene, ending):
    das = bpy.context.window_manager.das

    def recipe():
        yield drive.Status("denoising", "Denoising 2/4", 0.5)
        yield None
        if ending == "failure":
            raise OutOfMemory("It does not fit.")
        return "all"

    job = session.SessionJob(
        "Render Take",
        recipe(),
        lambda status: session.show_status(das, status),
        lambda result, error: session.show_end(das, str(result), error),
    )
    assert status_bar() == []
    session.show_begin(das, "Render Take")
    session._job = job
    assert status_bar() == ["0% Render Take", "das.cancel"]
    job.tick()
    assert status_bar() == ["50% Denoising 2/4", "das.cancel"]
    if ending == "cancel":
        job.cancel()
    assert job.tick() is None and not job.is_running
    assert status_bar() == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "Render Take: Take of 9 frames"),
        (JobCancelled("The job was cancelled."), "Render Take: The job was cancelled."),
        (OutOfMemory("It does not fit."), "Render Take: It does not fit."),
        (ValueError("odd"), "Render Take: ValueError: odd"),
    ],
)
def test_end_is_said_in_words(error, words):
    assert job_report.end_in_words("Render Take", "Take of 9 frames", error) == words


def test_status_bar_is_drawn_by_blender(addon):
    assert job_report.draw_status in bpy.types.STATUSBAR_HT_header._dyn_ui_initialize()
    job_report.redraw_status()
