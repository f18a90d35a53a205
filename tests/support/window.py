# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs as a window runs them: about a copy in a child Blender, ticked by hand (timers do not run in the background)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import bpy

from das_blender_addon.jobs import of_scene
from das_blender_addon.jobs.training_clip import clip_request, export_clip
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.shot.shot_folder import ensure_shot_id
from das_blender_addon.take.drive import Recipe
from das_blender_addon.ui import job_operators, session
from das_blender_addon.ui.clip_operator import DAS_OT_export_dataset

LIMIT_S = 300.0
"""Longest time that a job of a test may need on a busy machine."""

JOBS = {
    "preview": job_operators.DAS_OT_preview_tracking,
    "take": job_operators.DAS_OT_render_take,
    "first frame": job_operators.DAS_OT_render_first_frame,
    "clip": DAS_OT_export_dataset,
}


def shown():
    """What the panels show of the session."""
    return bpy.context.window_manager.das


def recipe_of(name: str, scene, folder: Path) -> Recipe:
    """The recipe of one of `JOBS`, as a window makes it, without what shows its pictures.

    ``folder``: for training clips.
    """
    settings = resolve_settings(scene)
    if name == "clip":
        request = clip_request(scene, settings, folder, caption="a cube", lossless=True)
        return export_clip(scene, request, in_child=True)
    make = {
        "preview": of_scene.tracking_preview,
        "take": of_scene.only_take,
        "first frame": of_scene.first_frame_again,
    }[name]
    return make(scene, settings, in_child=True)


def press(name: str, scene, folder: Path | None = None) -> session.SessionJob:
    """Start one of `JOBS` as a click on its button does."""
    ensure_shot_id(scene)
    if name == "preview":
        return start_as_in_window(JOBS[name], job_operators.shown_preview(scene, in_child=True))
    return start_as_in_window(JOBS[name], recipe_of(name, scene, folder or Path()))


def start_as_in_window(operator: type, recipe: Recipe) -> session.SessionJob:
    """Start ``recipe`` as the job of ``operator``; it stands before its first tick."""
    session.show_begin(shown(), operator.bl_label, operator.line)
    told = job_operators.shown_in_window(operator, bpy.context.scene)
    job = session.SessionJob(operator.bl_label, recipe, *told)
    session.start_job(job)
    return job


def tick_until(job: session.SessionJob, condition: Callable[[], bool]) -> None:
    """Tick the job until ``condition()``, or to its end."""
    deadline = time.monotonic() + LIMIT_S
    while not condition() and (wait := job.tick()) is not None:
        assert time.monotonic() < deadline, shown().job_line
        time.sleep(min(wait, 0.01))


def tick_to_line(job: session.SessionJob, words: str) -> None:
    """Tick the job until the panel's line begins with ``words``; fails where it ends before."""
    tick_until(job, lambda: shown().job_line.startswith(words))
    assert job.is_running, f"it ended before {words!r}: {shown().job_state} {shown().job_line}"


def tick_to_the_end(job: session.SessionJob) -> None:
    """Tick the job until it is over."""
    tick_until(job, lambda: False)
    assert not job.is_running and session.running_job() is None
