# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job does, step by step: one recipe for each thing a user can ask for, see `drive` for who drives them.

Each reads like the stations of the house: server asked, shot planned, scene exported, tracking video drawn, first frame
made, take run.  A recipe owns its `Source` and closes it.  No Blender in here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from ..child.open_copy import PictureOrder
from ..client import known_servers
from ..client.capability_note import keep_capabilities, kept_capabilities
from ..client.client import DasClient
from ..client.files import write_whole
from ..client.leases import Requester
from ..client.take import Log, Progress
from ..errors import (
    DasError,
    JobCancelled,
    ModelError,
    ServerUnreachable,
    SettingsError,
    ShotTooLong,
    TransportError,
    TransportTimeout,
)
from ..protocol.messages import Capabilities
from ..protocol.png import encode_png
from ..scene.camera import blender_camera_values
from ..shot import plan as plans
from ..shot.first_frame import (
    FirstFrameWish,
    Unfitted,
    find_first_frame,
    fitted_first_frame,
    given_first_frame,
    keep_first_frame,
)
from ..shot.picture_size import own_picture_size
from ..shot.pictures import DIGITS, FirstFrame
from ..shot.plan import ShotPlan, ShotTracking, check_in_view, shot_from_geometry
from ..shot.resolved import ResolvedSettings
from ..tracking.video import render_tracking_video
from .cache import Take, TakeSettings, find_take, take_request
from .drive import Recipe, Status, in_thread
from .finished import FinishedTake
from .reporter import Clock, OnEvent, Reporter, counting
from .run import run_take
from .source import Report, SceneFacts, Source

LOGGER = logging.getLogger(__name__)
HELLO_TIMEOUT_S = 10.0
"""A server that does not say hello within this time is not there."""
WAIT_S = 0.2
"""Seconds between two looks for a picture that another process renders."""


# ── Whole jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def hello(settings: ResolvedSettings) -> Recipe:
    """Ask the server what it is and keep what it offers; returns its `Welcome`."""
    yield Status("connecting", f"Asking {settings.server}", 0.0)

    def ask(should_stop, _say):
        with DasClient(settings.server, timeout_s=min(settings.timeout_s, HELLO_TIMEOUT_S)) as client:
            return client.hello(should_stop=should_stop)

    welcome = yield from in_thread(ask)
    known_servers.remember_server(settings.server, welcome)
    return welcome


def take(
    facts: SceneFacts, settings: ResolvedSettings, source: Source, *, on_event: OnEvent | None = None
) -> Recipe:
    """The take of the shot.  Returns a `FinishedTake`.

    ``on_event`` gets the events of all stations, `Progress` with the fraction of the whole take, on the thread that
    drives the recipe.  While no server answers, a take that is complete is found nevertheless.
    """
    report, clock, began = Reporter(on_event), Clock(), time.time()
    try:
        # 1. What the server offers, and how the shot fits it.
        capabilities, planned, unreachable = yield from _plan(facts, settings)
        if settings.first_frame_path:  # one that cannot be used is told before anything takes time
            given_first_frame(settings.first_frame_path, planned.model_size)
        clock.lap("plan")
        # 2. The tracking video.
        geometry = yield from source.export(planned.frames, planned.render_size, report)
        planned = yield from _note_simulated(planned, source, report)
        clock.lap("export")
        shot = yield from _shot(geometry, planned, report)
        clock.lap("tracking")
        # 3. The first frame.
        wish = _wish(facts, settings, began=began)
        image = yield from first_frame(wish, shot, source, report, unreachable)
        clock.lap("first_frame")
    finally:
        source.close()
    # 4. The job and its frames.
    shot = replace(shot, timings=clock.seconds)
    chosen = TakeSettings.from_resolved(settings)

    def make(should_stop, say):
        request = take_request(shot, image, chosen, facts.folder)
        if unreachable is not None:
            return _found(find_take(request), unreachable)
        made = run_take(
            request,
            settings.server,
            on_event=say,
            should_stop=should_stop,
            anew=settings.anew,
            timeout_s=settings.timeout_s,
        )
        keep_capabilities(facts.folder, capabilities)
        return made

    result = yield from in_thread(make, report)
    if image.origin != "rendered":
        result = replace(result, report={**result.report, "first_frame_notes": list(image.notes)})
    yield Status("done", "The take comes from the cache" if result.cached else "The take is complete", 1.0)
    return FinishedTake(result, shot)


def first_frame_again(facts: SceneFacts, settings: ResolvedSettings, source: Source) -> Recipe:
    """Render the first frame anew; returns the `FirstFrame`.  One that was painted is put aside."""
    report = Reporter()
    try:
        welcome = yield from hello(settings)
        planned = plan_shot(facts, settings, welcome.capabilities, again=True)
        geometry = yield from source.export(planned.frames[:1], planned.render_size, report)
        shot = yield from _shot(geometry, planned, report)
        return (yield from first_frame(_wish(facts, settings, again=True), shot, source, report))
    finally:
        source.close()


def tracking_preview(facts: SceneFacts, settings: ResolvedSettings, source: Source) -> Recipe:
    """The tracking video of the shot as PNG files; asks no server.  Returns their paths.

    Where the server has already said what the model makes, it is the video that would be sent, at the model's size
    and framing; else the shot's own picture at the render size.
    """
    report, folder = Reporter(), facts.folder / "tracking_preview"
    planned = _known_plan(facts, settings)
    try:
        geometry = yield from source.export(settings.frames, facts.render_size, report)
        if planned is not None:
            geometry = replace(geometry, cameras=planned.framing.overscan(geometry.cameras))

        def draw(should_stop, say):
            tracking = render_tracking_video(geometry, progress=counting("tracking", say), should_stop=should_stop)
            check_in_view(tracking)
            files = [folder / f"{index + 1:04d}.png" for index in range(len(tracking.frames))]
            for stale in set(folder.glob("*.png")) - set(files):
                stale.unlink()
            for file, frame in zip(files, tracking.video, strict=True):
                write_whole(file, encode_png(frame))
            return files

        return (yield from in_thread(draw, report))
    finally:
        source.close()


def plan_shot(
    facts: SceneFacts, settings: ResolvedSettings, capabilities: Capabilities, *, again: bool = False
) -> ShotPlan:
    """What will be sent; see `shot.plan.plan` for what it raises.

    ``again``: for a new first frame, whatever is there.
    """
    frame = settings.frames[0]
    picture_size = None if again else own_picture_size(facts.folder, frame, facts.owner, settings.first_frame_path)
    return plans.plan(
        settings.frames,
        facts.render_size,
        facts.pixel_aspect,
        capabilities,
        model=settings.model,
        size=settings.size,
        picture_size=picture_size,
        large_if_fast=facts.in_window,
    )


def _known_plan(facts: SceneFacts, settings: ResolvedSettings) -> ShotPlan | None:
    """What would be sent, as far as the server was asked; None where it was not, or the shot does not fit the model."""
    capabilities = known_servers.known_capabilities(settings.server)
    try:
        return plan_shot(facts, settings, capabilities) if capabilities is not None else None
    except (ModelError, SettingsError, ShotTooLong) as error:
        LOGGER.info("the preview is drawn at the render's size: %s", error.message)
        return None


# ── Their stations ──────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(facts: SceneFacts, settings: ResolvedSettings) -> Recipe:
    """(capabilities, `ShotPlan`, None); or, while no server answers, with what was offered when this shot last got a
    take, and the error that says so.
    """
    unreachable: TransportError | None = None
    try:
        welcome = yield from hello(settings)
        capabilities = welcome.capabilities
    except (ServerUnreachable, TransportTimeout) as error:
        kept = None if settings.anew else kept_capabilities(facts.folder)
        if kept is None:
            raise
        capabilities, unreachable = kept, error
        yield Status("connecting", "No server answers; looking for a complete take", 0.0)
    try:
        return capabilities, plan_shot(facts, settings, capabilities), unreachable
    except DasError as error:
        if unreachable is None:
            raise
        raise unreachable from error  # what does not fit what was offered was never rendered


def _note_simulated(planned: ShotPlan, source: Source, report: Reporter) -> Recipe:
    """``planned`` with a note about simulations that are not baked."""
    names = source.simulated()
    if not names:
        return planned
    note = f"Not baked, and so simulated from the first frame on: {', '.join(names)}."
    yield report(Log(note))
    return replace(planned, notes=(*planned.notes, note))


def _shot(geometry, planned: ShotPlan, report: Reporter) -> Recipe:
    def draw(should_stop, say):
        return shot_from_geometry(geometry, planned, progress=counting("tracking", say), should_stop=should_stop)

    return (yield from in_thread(draw, report))


def _wish(
    facts: SceneFacts, settings: ResolvedSettings, *, began: float = 0.0, again: bool = False
) -> FirstFrameWish:
    return FirstFrameWish(
        folder=facts.folder,
        path=settings.first_frame_path,
        image=settings.first_frame_image,
        engine=settings.first_frame_engine,
        samples=settings.first_frame_samples,
        look=facts.look,
        layer_apart=facts.layer_apart,
        owner=facts.owner,
        file=facts.file,
        blender=facts.blender,
        shading=facts.shading,
        again=again,
        not_before=began if settings.new_first_frame else 0.0,
    )


def first_frame(
    wish: FirstFrameWish,
    shot: ShotTracking,
    source: Source,
    report: Report,
    unreachable: DasError | None = None,
) -> Recipe:
    """The `FirstFrame`, rendered where it is missing, stale, or wanted again; not rendered where the server is
    ``unreachable``: then that is raised.
    """
    found = yield from in_thread(lambda _should_stop, _say: find_first_frame(wish, shot))
    if isinstance(found, Unfitted):
        file, notes = yield from source.fitted(_fitting(found, shot))
        found = fitted_first_frame(found, file, notes)
    if found is None and unreachable is not None:
        raise unreachable
    if found is None:
        found = yield from _rendered(wish, shot, source, report)
    for note in found.notes:
        LOGGER.log(logging.INFO if found.origin == "rendered" else logging.WARNING, "%s", note)
        yield report(Progress("first frame", 1, 1, 1.0), note)
    return found


def _rendered(wish: FirstFrameWish, shot: ShotTracking, source: Source, report: Report) -> Recipe:
    """The first frame as `source` renders it, or as another process does that was first: it is waited for."""
    name = f"first-{shot.plan.frames[0]}-{wish.digest(shot)[:DIGITS]}"
    with Requester(wish.folder / "leases", name) as requester:
        while not wish.again and requester.lead() is None and not requester.is_led_from_here():
            yield report(Progress("first frame", 0, 0, 0.0), "Another process renders the first frame; waiting for it")
            found = yield from in_thread(lambda stop, _say: _wait_for_another(requester, wish, shot, stop))
            if found is not None:
                return found
        found = yield from in_thread(lambda _stop, _say: find_first_frame(wish, shot))
        if found is not None:
            return found
        yield report(Progress("first frame", 0, 0, 0.0), f"Rendering the first frame with {wish.engine.title()}")
        files = yield from source.pictures(_picture_order(wish, shot), report, "first frame")
        return (yield from in_thread(lambda _stop, _say: keep_first_frame(wish, shot, files[0])))


def _wait_for_another(
    requester: Requester, wish: FirstFrameWish, shot: ShotTracking, should_stop: Callable[[], bool]
) -> FirstFrame | None:
    """The picture of whoever renders it; None when they have given up."""
    while True:
        is_led = requester.is_led()  # before the look: who gives up has put its picture there
        found = find_first_frame(wish, shot)
        if found is not None or not is_led:
            return found
        if should_stop():
            raise JobCancelled("The render of the first frame was cancelled.")
        time.sleep(WAIT_S)


def _fitting(unfitted: Unfitted, shot: ShotTracking) -> dict:
    """What `child.fitting.fitted_picture` reads."""
    framing = shot.plan.framing
    return {
        "image": unfitted.image,
        "path": unfitted.path,
        "size": list(framing.model_size),
        "crop": list(framing.crop),
    }


def _picture_order(wish: FirstFrameWish, shot: ShotTracking) -> PictureOrder:
    """The first frame of ``shot``, seen by its overscanned camera.

    The sensor is given per mm of lens: the child reads the lens of that frame.
    """
    values = blender_camera_values(shot.cameras, 0, lens_mm=1.0)
    return PictureOrder(
        frames=(shot.plan.frames[0],),
        size=(values.width, values.height),
        pixel_aspect=values.pixel_aspect,
        engine=wish.engine,
        samples=wish.samples,
        look=wish.look,
        camera={
            "matrix_world": values.matrix_world,
            "sensor_width_per_lens": values.sensor_width,
            "shift": [values.shift_x, values.shift_y],
        },
    )


def _found(take: Take | None, otherwise: DasError) -> Take:
    if take is None:
        raise otherwise
    LOGGER.info("no server answers; the take %s is complete and needs none", take.key)
    return take


def only_take(finished: Recipe, keep: Callable[[FinishedTake], None] | None = None) -> Recipe:
    """`take` where there is no render that wants its tracking video, too.  Returns the `Take`.

    ``keep``: called at the end with what a later render would want.
    """
    made = yield from finished
    if keep is not None:
        keep(made)
    return made.take

