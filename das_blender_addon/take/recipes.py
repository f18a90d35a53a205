# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job does, step by step: recipes for `jobs`, one for each thing a user can ask for.

Each reads like the stations of the house: server asked, shot planned, scene exported, tracking video drawn, first frame
made, take run.  What touches Blender happens between two yields on the thread that drives the recipe; the rest goes
through `drive.in_thread`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..client import known_servers
from ..client.capability_note import keep_capabilities, kept_capabilities
from ..client.client import DasClient
from ..client.files import write_whole
from ..client.take import JobEvent, Log, Preview, Progress, Silence
from ..errors import (
    DasError,
    ModelError,
    ServerUnreachable,
    SettingsError,
    ShotTooLong,
    TransportError,
    TransportTimeout,
)
from ..protocol.messages import Capabilities
from ..protocol.png import encode_png
from ..scene.camera import render_size
from ..scene.colours import kept_look
from ..scene.stepping import render_layer
from ..scene.walking import Step, export, finder
from ..shot.first_frame import layer_to_tell_apart, owner_of, render_digest, start_first_frame
from ..shot.machine import check_online_access
from ..shot.pictures import first_frame_state
from ..shot.plan import ShotPlan, ShotTracking, check_in_view, shot_from_geometry
from ..shot.scene_shot import plan_shot as plan_of_scene
from ..shot.settings import ResolvedSettings
from ..shot.shot_folder import take_over_folder
from ..tracking.video import render_tracking_video
from .cache import Take, TakeSettings, find_take, run_take, take_request
from .drive import Recipe, Status, in_thread

LOGGER = logging.getLogger(__name__)
HELLO_TIMEOUT_S = 10.0
"""A server that does not say hello within this time is not there."""

_SPANS = {"exporting": (0.02, 0.10), "tracking": (0.10, 0.18), "first frame": (0.18, 0.30)}
"""Station → its part of a take's progress."""
_JOB_SPAN = (0.30, 1.00)
"""The part of all that the server's stages make up."""

OnEvent = Callable[[JobEvent], None]


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


def hello(settings: ResolvedSettings, *, server_named: bool = False) -> Recipe:
    """Ask the server what it is and keep what it offers; returns its `Welcome`.

    ``server_named``: a script has named this server, which is permission to go online.
    """
    permitted = server_named or bool(os.environ.get("DAS_SERVER"))
    check_online_access(settings.server, chosen_by_environment=permitted)
    yield Status("connecting", f"Asking {settings.server}", 0.0)

    def ask(should_stop, _say):
        with DasClient(settings.server, timeout_s=min(settings.timeout_s, HELLO_TIMEOUT_S)) as client:
            return client.hello(should_stop=should_stop)

    welcome = yield from in_thread(ask)
    known_servers.remember_server(settings.server, welcome)
    return welcome


def take(
    scene,
    settings: ResolvedSettings,
    step: Step | None = None,
    *,
    view_layer: str = "",
    on_event: OnEvent | None = None,
    server_named: bool = False,
) -> Recipe:
    """The take of the shot.  Returns a `FinishedTake`.

    ``step(frame)`` sets the scene to a frame and gives its evaluated depsgraph, inside a render; outside of one (None)
    the scene is stepped for as long as the export takes.  ``view_layer``: the layer that this depsgraph is of; "" for
    the first one that renders.  ``on_event`` gets the events of all stations, `Progress` with
    the fraction of the whole take, on the thread that drives the recipe.  While no server answers, a take that is
    complete is found nevertheless.
    """
    report, clock = _Reporter(on_event), _Clock()
    view_layer = view_layer or render_layer(scene).name
    folder = take_over_folder(scene, settings.cache_folder, view_layer)
    find = finder(scene) if step is None else lambda: scene
    # 1. What the server offers, and how the shot fits it.
    capabilities, planned, unreachable = yield from _plan(find, settings, folder, server_named)
    clock.lap("plan")
    # 2. The tracking video.
    geometry = yield from export(find, planned.frames, planned.render_size, step, report)
    clock.lap("export")
    shot = yield from _shot(geometry, planned, report)
    clock.lap("tracking")
    # 3. The first frame.
    if unreachable is not None and not _has_first_frame(find(), settings, shot, folder, view_layer):
        raise unreachable
    image = yield from _first_frame(find(), settings, shot, folder, view_layer, report, again=False)
    clock.lap("first_frame")
    # 4. The job and its frames.
    shot = replace(shot, timings=clock.seconds)
    chosen = TakeSettings.from_resolved(settings)

    def make(should_stop, say):
        request = take_request(shot, image, chosen, folder)
        if unreachable is not None:
            return _found(find_take(request), unreachable)
        made = run_take(request, settings.server, on_event=say, should_stop=should_stop, timeout_s=settings.timeout_s)
        keep_capabilities(folder, capabilities)
        return made

    result = yield from in_thread(make, report)
    yield Status("done", "The take comes from the cache" if result.cached else "The take is complete", 1.0)
    return FinishedTake(result, shot)


def take_outside_render(scene, settings: ResolvedSettings) -> Recipe:
    """`take` where there is no render call.  Returns the `Take`."""
    finished = yield from take(scene, settings)
    return finished.take


def first_frame_again(scene, settings: ResolvedSettings) -> Recipe:
    """Render the first frame anew; returns the `FirstFrame`.  One that was painted is put aside."""
    report, find = _Reporter(), finder(scene)
    folder = take_over_folder(scene, settings.cache_folder)
    welcome = yield from hello(settings)
    planned = plan_shot(find(), settings, welcome.capabilities)
    geometry = yield from export(find, planned.frames[:1], planned.render_size, None, report)
    shot = yield from _shot(geometry, planned, report)
    layer = render_layer(find()).name
    return (yield from _first_frame(find(), settings, shot, folder, layer, report, again=True))


def tracking_preview(scene, settings: ResolvedSettings) -> Recipe:
    """The tracking video of the shot as PNG files; asks no server.  Returns their paths.

    Where the server has already said what the model makes, it is the video that would be sent, at the model's size
    and framing; else the shot's own picture at the render size.
    """
    folder = take_over_folder(scene, settings.cache_folder) / "tracking_preview"
    planned = _known_plan(scene, settings)
    report = _Reporter()
    geometry = yield from export(finder(scene), settings.frames, render_size(scene), None, report)
    if planned is not None:
        geometry = replace(geometry, cameras=planned.framing.overscan(geometry.cameras))

    def draw(should_stop, say):
        tracking = render_tracking_video(geometry, progress=_counting("tracking", say), should_stop=should_stop)
        check_in_view(tracking)
        files = [folder / f"{index + 1:04d}.png" for index in range(len(tracking.frames))]
        for stale in set(folder.glob("*.png")) - set(files):
            stale.unlink()
        for file, frame in zip(files, tracking.video, strict=True):
            write_whole(file, encode_png(frame))
        return files

    return (yield from in_thread(draw, report))


def _known_plan(scene, settings: ResolvedSettings) -> ShotPlan | None:
    """What would be sent, as far as the server was asked; None where it was not, or the shot does not fit the model."""
    capabilities = known_servers.known_capabilities(settings.server)
    try:
        return plan_shot(scene, settings, capabilities) if capabilities is not None else None
    except (ModelError, SettingsError, ShotTooLong) as error:
        LOGGER.info("the preview is drawn at the render's size: %s", error.message)
        return None


def plan_shot(scene, settings: ResolvedSettings, capabilities: Capabilities) -> ShotPlan:
    """What will be sent; see `plan_of_scene` for what it raises."""
    return plan_of_scene(scene, capabilities, frames=settings.frames, model=settings.model, size=settings.size)


# ── Their stations ──────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(find: Callable[[], object], settings: ResolvedSettings, folder: Path, server_named: bool) -> Recipe:
    """(capabilities, `ShotPlan`, None); or, while no server answers, with what was offered when this shot last got a
    take, and the error that says so.
    """
    unreachable: TransportError | None = None
    try:
        welcome = yield from hello(settings, server_named=server_named)
        capabilities = welcome.capabilities
    except (ServerUnreachable, TransportTimeout) as error:
        kept = kept_capabilities(folder)
        if kept is None:
            raise
        capabilities, unreachable = kept, error
        yield Status("connecting", "No server answers; looking for a complete take", 0.0)
    try:
        return capabilities, plan_shot(find(), settings, capabilities), unreachable
    except DasError as error:
        if unreachable is None:
            raise
        raise unreachable from error  # what does not fit what was offered was never rendered


def _has_first_frame(
    scene, settings: ResolvedSettings, shot: ShotTracking, folder: Path, view_layer: str
) -> bool:
    """Whether the first frame is there and fits the shot, so that nothing has to be rendered for it."""
    digest = render_digest(
        shot,
        settings.first_frame_engine,
        settings.first_frame_samples,
        kept_look(scene),
        layer_to_tell_apart(scene, view_layer),
    )
    if settings.first_frame_path:
        return True
    owner = owner_of(scene, folder)
    state = first_frame_state(folder, shot.plan.frames[0], digest, geometry=shot.digest, owner=owner)
    return state in ("user", "fresh")


def _found(take: Take | None, otherwise: DasError) -> Take:
    if take is None:
        raise otherwise
    LOGGER.info("no server answers; the take %s is complete and needs none", take.key)
    return take


def _shot(geometry, planned: ShotPlan, report: _Reporter) -> Recipe:
    def draw(should_stop, say):
        return shot_from_geometry(geometry, planned, progress=_counting("tracking", say), should_stop=should_stop)

    return (yield from in_thread(draw, report))


def _counting(stage: str, say: OnEvent) -> Callable[[int, int], None]:
    """A ``progress(done, of)`` that says `Progress` of ``stage``."""
    return lambda done, of: say(Progress(stage, done, of, done / of if of else 1.0))


def _first_frame(
    scene,
    settings: ResolvedSettings,
    shot: ShotTracking,
    folder: Path,
    view_layer: str,
    report: _Reporter,
    *,
    again: bool,
) -> Recipe:
    """The `FirstFrame`, rendered by a child Blender where it is missing, stale, or wanted ``again``."""
    rendering = start_first_frame(
        scene,
        shot,
        folder=folder,
        path=settings.first_frame_path,
        engine=settings.first_frame_engine,
        samples=settings.first_frame_samples,
        force=again,
        view_layer=view_layer,
    )

    def wait(should_stop, say):
        return rendering.wait(progress=_counting("first frame", say), should_stop=should_stop)

    waited_for = False
    try:
        if rendering.is_rendering:
            engine = settings.first_frame_engine.title()
            yield report(Progress("first frame", 0, 0, 0.0), f"Rendering the first frame with {engine}")
        waited_for = True
        picture = yield from in_thread(wait, report)
        for note in picture.notes:
            LOGGER.info("%s", note)
            yield report(Progress("first frame", 1, 1, 1.0), note)
        return picture
    finally:
        if not waited_for:  # cancelled before anybody waited, who would have ended the child
            rendering.close()


class _Clock:
    """Seconds per station."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, station: str) -> None:
        """``station`` is over and the next one begins."""
        now = time.perf_counter()
        self.seconds[station], self._since = now - self._since, now


class _Reporter:
    """Events of the stations and of the running job (`client.take`) → `Status` for who drives the recipe, and the same
    events, with the fraction of the whole take, for ``on_event``.  Log lines also go to the log.
    """

    WORDS = {
        "tracking": "Tracking video",
        "first frame": "First frame",
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

    def __init__(self, on_event: OnEvent | None = None):
        self._on_event = on_event
        self._last = Status("queued", "Sending the job", _JOB_SPAN[0])

    def __call__(self, event: JobEvent, words: str = "") -> Status | None:
        """The status of ``event``, None for one that has none.  ``words``: its line, where there is a better one."""
        if isinstance(event, Progress):
            low, high = _SPANS.get(event.stage, _JOB_SPAN)
            event = replace(event, fraction=low + (high - low) * event.fraction)
            self._last = Status(event.stage, words or self._words(event), event.fraction)
        if isinstance(event, Log):
            LOGGER.info("%s", event.text)
        if self._on_event is not None:
            self._on_event(event)
        if isinstance(event, Silence):
            said = f"No answer from the server for {event.seconds} s"
            return replace(self._last, text=said) if event.seconds else self._last
        if isinstance(event, Preview):
            return replace(self._last, preview=event.image)
        return self._last if isinstance(event, Progress) else None

    def _words(self, event: Progress) -> str:
        words = self.WORDS.get(event.stage, event.stage.capitalize())
        if event.of <= 1:
            return words
        if event.stage == "uploading":
            return f"{words} {100 * event.step // event.of} %"
        return f"{words} {event.step}/{event.of}"
