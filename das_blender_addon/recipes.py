# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job does, step by step: recipes for `jobs`, one for each thing a user can ask for.

Each reads like the stations of the house: server asked, shot planned, scene exported, tracking video drawn, first frame
made, take run.  What touches Blender happens between two yields on the thread that drives the recipe; the rest goes
through `jobs.in_thread`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import api, jobs
from .camera import render_size
from .client.client import DasClient
from .client.files import write_whole
from .client.take import Log, Preview, Progress
from .errors import ModelError, SettingsError, ShotTooLong
from .export import GeometryExport
from .first_frame import start_first_frame
from .jobs import Recipe, Status, in_thread
from .preferences import check_online_access
from .properties import ResolvedSettings
from .protocol.messages import Capabilities
from .protocol.png import encode_png
from .shot import ShotPlan, ShotTracking, check_in_view, shot_from_geometry
from .stepping import stepping
from .takes import Take, TakeSettings, run_take, take_request
from .tracking.video import render_tracking_video

LOGGER = logging.getLogger(__name__)
HELLO_TIMEOUT_S = 10.0
"""A server that does not say hello within this time is not there."""

_EXPORT = (0.02, 0.10)
_TRACKING = (0.10, 0.18)
_FIRST_FRAME = (0.18, 0.30)
_JOB = (0.30, 1.00)
"""Station → its part of a take's progress."""

Step = Callable[[int], object]


@dataclass(frozen=True)
class FinishedTake:
    """A take and the tracking video behind it, for as long as one render needs them."""

    take: Take
    shot: ShotTracking

    @property
    def frames(self) -> tuple[int, ...]:
        """The Blender frames that it holds."""
        return self.take.frame_numbers

    def path(self, frame: int) -> Path:
        """The picture of the Blender frame ``frame``, a PNG at the render size."""
        return self.take.frames[self.take.frame_numbers.index(frame)]

    def passes(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Tracking video u8 [H,W,3] and coverage bool [H,W] of ``frame`` at the render size, nearest neighbours."""
        plan, tracking = self.shot.plan, self.shot.tracking
        index = plan.frames.index(frame)
        left, top, right, bottom = plan.framing.crop
        columns = _nearest(left, right, plan.render_size[0])[None, :]
        rows = _nearest(top, bottom, plan.render_size[1])[:, None]
        return tracking.video[index][rows, columns], tracking.coverage[index][rows, columns]


def _nearest(low: float, high: float, count: int) -> np.ndarray:
    """The model pixels under the centres of ``count`` render pixels between ``low`` and ``high``."""
    return (low + (np.arange(count) + 0.5) * (high - low) / count).astype(np.intp)


# ── Whole jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def hello(settings: ResolvedSettings) -> Recipe:
    """Ask the server what it is and keep what it offers; returns its `Welcome`."""
    check_online_access(settings.server, chosen_by_environment=bool(os.environ.get("DAS_SERVER")))
    yield Status("connecting", f"Asking {settings.server}", 0.0)

    def ask(should_stop, _say):
        with DasClient(settings.server, timeout_s=min(settings.timeout_s, HELLO_TIMEOUT_S)) as client:
            return client.hello(should_stop=should_stop)

    welcome = yield from in_thread(ask)
    jobs.remember_server(settings.server, welcome)
    return welcome


def take(scene, settings: ResolvedSettings, step: Step | None = None) -> Recipe:
    """The take of the shot.  Returns a `FinishedTake`.

    ``step(frame)`` sets the scene to a frame and gives its evaluated depsgraph, inside a render; outside of one (None)
    the scene is stepped for as long as the export takes.
    """
    welcome = yield from hello(settings)
    planned = plan_shot(scene, settings, welcome.capabilities)
    geometry = yield from _export(scene, planned.frames, planned.render_size, step)
    shot = yield from _shot(geometry, planned)
    image = yield from _first_frame(scene, settings, shot, again=False)
    request = take_request(
        shot, image, TakeSettings.from_resolved(settings), api.shot_folder(scene, settings.cache_folder)
    )

    def make(should_stop, say):
        return run_take(request, settings.server, on_event=say, should_stop=should_stop, timeout_s=settings.timeout_s)

    result = yield from in_thread(make, _Translator())
    yield Status("done", "The take comes from the cache" if result.cached else "The take is complete", 1.0)
    return FinishedTake(result, shot)


def take_outside_render(scene, settings: ResolvedSettings) -> Recipe:
    """`take` where there is no render call.  Returns the `Take`."""
    finished = yield from take(scene, settings)
    return finished.take


def first_frame_again(scene, settings: ResolvedSettings) -> Recipe:
    """Render the first frame anew; returns its path."""
    welcome = yield from hello(settings)
    planned = plan_shot(scene, settings, welcome.capabilities)
    geometry = yield from _export(scene, planned.frames[:1], planned.render_size)
    shot = yield from _shot(geometry, planned)
    return (yield from _first_frame(scene, settings, shot, again=True))


def tracking_preview(scene, settings: ResolvedSettings) -> Recipe:
    """The tracking video of the shot as PNG files; asks no server.  Returns their paths.

    Where the server has already said what the model makes, it is the video that would be sent, at the model's size
    and framing; else the shot's own picture at the render size.
    """
    folder = api.shot_folder(scene, settings.cache_folder) / "tracking_preview"
    planned = _known_plan(scene, settings)
    geometry = yield from _export(scene, settings.frames, render_size(scene))
    if planned is not None:
        geometry = replace(geometry, cameras=planned.framing.overscan(geometry.cameras))

    def draw(should_stop, say):
        def progress(done, of):
            say(Status("tracking", f"Tracking video {done}/{of}", _part(_TRACKING, done, of)))

        tracking = render_tracking_video(geometry, progress=progress, should_stop=should_stop)
        check_in_view(tracking)
        files = [folder / f"{index + 1:04d}.png" for index in range(len(tracking.frames))]
        for stale in set(folder.glob("*.png")) - set(files):
            stale.unlink()
        for file, frame in zip(files, tracking.video, strict=True):
            write_whole(file, encode_png(frame))
        return files

    return (yield from in_thread(draw))


def _known_plan(scene, settings: ResolvedSettings) -> ShotPlan | None:
    """What would be sent, as far as the server was asked; None where it was not, or the shot does not fit the model."""
    capabilities = jobs.known_capabilities(settings.server)
    try:
        return plan_shot(scene, settings, capabilities) if capabilities is not None else None
    except (ModelError, SettingsError, ShotTooLong) as error:
        LOGGER.info("the preview is drawn at the render's size: %s", error.message)
        return None


def plan_shot(scene, settings: ResolvedSettings, capabilities: Capabilities) -> ShotPlan:
    """What will be sent; see `api.plan_shot` for what it raises."""
    return api.plan_shot(scene, capabilities, frames=settings.frames, model=settings.model, size=settings.size)


# ── Their stations ──────────────────────────────────────────────────────────────────────────────────────────────────


def _export(scene, frames, size: tuple[int, int], step: Step | None = None) -> Recipe:
    """The scene's geometry, one frame between two yields; without ``step`` the scene is stepped and left as it was."""
    if step is None:
        with stepping(scene) as step:
            return (yield from _export(scene, frames, size, step))
    builder = GeometryExport(*size)
    for done, frame in enumerate(frames):
        words = f"Exporting frame {frame} ({done + 1}/{len(frames)})"
        yield Status("exporting", words, _part(_EXPORT, done, len(frames)))
        builder.add(frame, step(frame))
    return builder.finish()


def _shot(geometry, planned: ShotPlan) -> Recipe:
    def draw(should_stop, say):
        def progress(done, of):
            say(Status("tracking", f"Tracking video {done}/{of}", _part(_TRACKING, done, of)))

        return shot_from_geometry(geometry, planned, progress=progress, should_stop=should_stop)

    return (yield from in_thread(draw))


def _first_frame(scene, settings: ResolvedSettings, shot: ShotTracking, *, again: bool) -> Recipe:
    """The first frame's file, rendered by a child Blender where it is missing, stale, or wanted ``again``."""
    rendering = start_first_frame(
        scene,
        shot,
        folder=api.shot_folder(scene, settings.cache_folder),
        path=settings.first_frame_path,
        engine=settings.first_frame_engine,
        samples=settings.first_frame_samples,
        force=again,
    )
    engine = settings.first_frame_engine.title()

    def wait(should_stop, say):
        def progress(done, of):
            say(Status("first frame", f"First frame with {engine}: {done}/{of}", _part(_FIRST_FRAME, done, of)))

        return rendering.wait(progress=progress, should_stop=should_stop)

    waited_for = False
    try:
        if rendering.is_rendering:
            yield Status("first frame", f"Rendering the first frame with {engine}", _FIRST_FRAME[0])
        waited_for = True
        return (yield from in_thread(wait))
    finally:
        if not waited_for:  # cancelled before anybody waited, who would have ended the child
            rendering.close()


class _Translator:
    """Events of a running job (`client.take`) → `Status`; log lines go to the log."""

    WORDS = {
        "uploading": "Sending",
        "queued": "Waiting in the queue",
        "loading": "Loading the model",
        "encoding": "Encoding",
        "denoising": "Denoising",
        "decoding": "Decoding",
        "composing": "Composing",
        "saving": "Saving",
        "downloading": "Receiving frames",
    }

    def __init__(self):
        self._last = Status("queued", "Sending the job", _JOB[0])

    def __call__(self, event) -> Status | None:
        if isinstance(event, Progress):
            words = self.WORDS.get(event.stage, event.stage.capitalize())
            if event.of > 1:
                unit = f"{100 * event.step // event.of} %" if event.stage == "uploading" else f"{event.step}/{event.of}"
                words = f"{words} {unit}"
            self._last = Status(event.stage, words, _JOB[0] + (_JOB[1] - _JOB[0]) * event.fraction)
            return self._last
        if isinstance(event, Preview):
            return replace(self._last, preview=event.image)
        if isinstance(event, Log):
            LOGGER.info("%s", event.text)
        return None


def _part(span: tuple[float, float], done: int, of: int) -> float:
    return span[0] + (span[1] - span[0]) * (done / of if of else 1.0)
