# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job does, step by step: one recipe for each thing a user can ask for, see `drive` for who drives them.

Each reads like the stations of the house: server asked, shot planned, scene exported, tracking video drawn, first frame
made, take run.  A recipe owns its `Source` and closes it.  No Blender in here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..client import known_servers
from ..client.capability_note import keep_capabilities, kept_capabilities
from ..client.client import DasClient
from ..client.estimates import chosen as chosen_estimator
from ..client.take import Log, Progress
from ..errors import (
    DasError,
    ServerUnreachable,
    SettingsError,
    TransportError,
    TransportTimeout,
)
from ..protocol.messages import Capabilities
from ..shot import plan as plans
from ..shot.findings import Finding, ShotReport
from ..shot.picture_size import own_picture_size
from ..shot.plan import ShotPlan, plan_with_keys
from ..shot.resolved import ResolvedSettings
from ..shot.tracked import (
    camera_path_digest,
    check_in_view,
    picture_cameras,
    picture_view,
    shot_from_geometry,
)
from ..shot.windows import cut_into_windows
from ..tracking.geometry import OFF_SCREEN, GeometrySequence
from ..tracking.suggest import suggest_key_frames
from ..tracking.video import render_tracking_video
from .adherence import KIND, measure, read_report
from .cache import Take, TakeRequest, TakeSettings, find_take, job_spec, read_json, take_request
from .drive import Recipe, Status, WithEnd, in_thread
from .finished import FinishedPart, FinishedTake
from .picture_recipes import key_pictures, picture_of, picture_order, wish_of
from .reporter import MEASURED_JOB_SPAN, MEASURED_SPANS, Clock, OnEvent, Reporter, counting
from .run import run_part, run_take
from .shared_pictures import shared_notes, shared_pictures, with_own_frames
from .shot_report import FRAMES_BEFORE_TAKE, shot_report
from .source import Report, SceneFacts, Source

LOGGER = logging.getLogger(__name__)
OnReport = Callable[[ShotReport], None]
HELLO_TIMEOUT_S = 10.0
"""A server that does not say hello within this time is not there."""
MOST_GAP = 24
"""Frames between two key pictures, at most, where nobody chose them."""
MOST_KEYS_IN_WINDOW = 3
"""Key pictures that are suggested for a model's window where nobody chose them, gaps not counted."""


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
    facts: SceneFacts,
    settings: ResolvedSettings,
    source: Source,
    *,
    known: Sequence[Finding] = (),
    on_report: OnReport | None = None,
    on_event: OnEvent | None = None,
    after: tuple[str, TakeSettings] | None = None,
) -> Recipe:
    """The take of the shot.  Returns a `FinishedTake`; where only a part of its windows is asked for, a `FinishedPart`.

    ``on_event`` gets the events of all stations, `Progress` with the fraction of the whole take, on the thread that
    drives the recipe; ``on_report``, there too, what is to be known of the shot before it has cost time on a GPU,
    with what the scene told, ``known``: of the take's own export, and in its report.  While no server
    answers, a take that is complete is found nevertheless; it is not measured then.
    ``after``: the key of a take of this shot, and what it was made with; where the shot makes another one now, or no
    server answers, nothing is made.  One function, though long: the stations of a take.
    """
    report, clock, began = _reporter(settings, on_event), Clock(), time.time()
    try:
        if settings.part is not None and settings.anew:
            raise SettingsError(
                "A part of the windows cannot be made anew, because the whole would still be found: leave out --anew "
                "(DAS_ANEW), or make the whole with it, without --windows (DAS_WINDOWS).",
                field="anew",
            )
        # 1. What the server offers, and how the shot fits it.
        capabilities, planned, unreachable = yield from plan_of(facts, settings)
        if after is not None and unreachable is not None:
            raise unreachable
        if settings.measure and unreachable is None:
            chosen_estimator(capabilities.estimators, KIND)  # what cannot be measured is told before any work
        clock.lap("plan")
        # 2. The scene, and which of its frames are key pictures.
        geometry = yield from source.export(planned.frames, planned.render_size, report)
        planned = yield from _note_simulated(planned, source, report)
        planned = yield from _note_untracked(planned, geometry, report)
        clock.lap("export")
        planned = yield from with_key_frames(planned, geometry, settings, report)
        planned = planned if settings.key_pictures is not None else with_own_frames(facts, planned)
        clock.lap("key_frames")
        found = yield from shot_report(geometry, planned, settings, known, FRAMES_BEFORE_TAKE)
        if on_report is not None:
            on_report(found)
        clock.lap("report")
        # 3. The tracking videos.
        shot = yield from _shot(geometry, planned, report)
        clock.lap("tracking")
        # 4. The key pictures, the first frame first.
        wish = wish_of(facts, settings, began=began)
        pictures = yield from key_pictures(wish, shot, settings.key_pictures, source, report, unreachable)
        pictures = yield from shared_pictures(facts, wish, planned, geometry, pictures, source, report)
        clock.lap("first_frame")
        if settings.measure:
            shot = replace(shot, geometry=geometry)
        if shot.geometry is None:
            source.close()
        # 5. The jobs and their frames.
        seen = camera_path_digest(geometry.cameras)
        shot = replace(
            shot, timings=clock.seconds, findings=found.findings, seen_by=facts.cameras, camera_path=seen,
            plan=replace(shot.plan, notes=(*shot.plan.notes, *shared_notes(pictures))),
        )  # fmt: skip

        def make(should_stop, say):
            request = take_request(
                shot, pictures[0], TakeSettings.from_resolved(settings), facts.folder, keys=pictures[1:]
            )
            if after is not None:
                _check_same(after[0], take_request(shot, pictures[0], after[1], facts.folder, keys=pictures[1:]))
            if unreachable is not None:
                return _found(find_take(request), unreachable)
            wait = {"on_event": say, "should_stop": should_stop, "timeout_s": settings.timeout_s}
            priority = settings.priority_for(in_window=facts.in_window)
            if settings.part is not None:
                windows = run_part(request, settings.server, settings.part, priority=priority, **wait)
                return FinishedPart(windows, len(request.plan.windows), facts.folder)
            anew = settings.anew and (settings.anew_as or True)
            resumes = dict(settings.resumes)
            made = run_take(request, settings.server, anew=anew, resumes=resumes, priority=priority, **wait)
            keep_capabilities(facts.folder, capabilities)
            if settings.measure and read_report(made.folder) is None:
                measure(request, made, settings.server, **wait)
            return made

        result = yield from in_thread(make, report)
    finally:
        source.close()
    if isinstance(result, FinishedPart):
        yield Status("done", result.words, 1.0)
        return result
    notes = [note for picture in pictures if picture.origin != "rendered" for note in picture.notes]
    if notes:
        result = replace(result, report={**result.report, "first_frame_notes": notes})
    yield Status("done", "The take comes from the cache" if result.cached else "The take is complete", 1.0)
    return FinishedTake(result, replace(shot, geometry=None))


def _reporter(settings: ResolvedSettings, on_event: OnEvent | None) -> Reporter:
    return Reporter(on_event, MEASURED_SPANS, MEASURED_JOB_SPAN) if settings.measure else Reporter(on_event)


def _check_same(key: str, request: TakeRequest) -> None:
    """Raise `SettingsError` where ``request`` is not that of the take ``key``, and say where that is its camera."""
    if request.key != key:
        words = _other_camera(read_json(request.folder.parent / key / "take.json") or {}, request)
        if words:
            raise SettingsError(f"The take {key[:8]} {words}", field="camera")
        raise SettingsError(
            f"The shot is not what it was when the take {key[:8]} was made: its geometry, key pictures or settings "
            "differ; render it once more and go on with that take.",
            field="take",
        )


def _other_camera(said: dict, request: TakeRequest) -> str:
    """That the shot of ``request`` is not seen by the cameras of the take that ``said`` is about, and what helps; ""
    where it is, or the take does not say.
    """
    shot, report = request.shot, said.get("report", {})
    is_same_size = report.get("render_size") == list(request.plan.render_size)
    if not is_same_size or report.get("camera_path_sha256", shot.camera_path) == shot.camera_path:
        return ""
    before, now = (
        " and ".join(repr(name) for name in dict.fromkeys(str(name) for _, name in seen)) or "no camera"
        for seen in (report.get("cameras", ()), shot.seen_by)
    )
    if before != now:
        return (
            f"was made by the camera {before}, and the shot is seen by {now}: make that the scene's camera again, or "
            "bind it to a marker."
        )
    return f"was made before its camera {now} was moved or changed: put it back, or render the shot once more."


def first_frame_again(facts: SceneFacts, settings: ResolvedSettings, source: Source) -> Recipe:
    """Render the first frame anew; returns the `FirstFrame`.  One that was painted is put aside."""
    report = Reporter()
    try:
        welcome = yield from hello(settings)
        planned = plan_shot(facts, settings, welcome.capabilities, again=True)
        geometry = yield from source.export(planned.frames[:1], planned.render_size, report)
        view, cameras = picture_view(geometry, planned, 0), picture_cameras(geometry, planned)

        def look(should_stop, _say):
            seen = replace(geometry, cameras=planned.framing.overscan(geometry.cameras))
            check_in_view(render_tracking_video(seen, colours_only=True, should_stop=should_stop))

        yield from in_thread(look)
        order = picture_order(view, cameras)
        wish = wish_of(facts, settings, again=True)
        return (yield from picture_of(wish, view, order, source, report))
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
        keep_detail=settings.compose,
        transparent_film=facts.transparent_film,
        model_frames_every=settings.model_frames_every,
        frames_per_second=facts.frames_per_second,
        background=settings.background,
    )


# ── Their stations ──────────────────────────────────────────────────────────────────────────────────────────────────


def plan_of(facts: SceneFacts, settings: ResolvedSettings) -> Recipe:
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
        planned = plan_shot(facts, settings, capabilities)
        if settings.camera:
            planned = replace(planned, notes=(*planned.notes, f"Seen by the camera {settings.camera}."))
        job_spec(planned, TakeSettings.from_resolved(settings))  # what the model does not take is told before any work
        return capabilities, planned, unreachable
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


def _note_untracked(planned: ShotPlan, geometry: GeometrySequence, report: Reporter) -> Recipe:
    """``planned`` with the notes about what is not tracked as it renders."""
    notes = [note.sentence for note in geometry.notes if note.code != OFF_SCREEN]
    for note in notes:
        yield report(Log(note))
    return replace(planned, notes=(*planned.notes, *notes))


def _shot(geometry, planned: ShotPlan, report: Reporter) -> Recipe:
    def draw(should_stop, say):
        said = counting("tracking", say)
        return shot_from_geometry(geometry, planned, colours_only=True, progress=said, should_stop=should_stop)

    return (yield from in_thread(draw, report))


def with_key_frames(
    planned: ShotPlan, geometry: GeometrySequence, settings: ResolvedSettings, report: Report
) -> Recipe:
    """``planned`` with the frames of its key pictures: those of the settings, or as many as the shot needs."""
    chosen = settings.key_pictures
    if chosen is not None:
        return plan_with_keys(planned, [planned.frames.index(one.frame) for one in chosen])
    if not planned.reads_carried or len(planned.frames) == 1:
        return plan_with_keys(planned, ())
    yield report(Progress("key pictures", 0, 1, 0.0), "Looking for the key pictures")

    def suggest(should_stop, _say):
        most = MOST_KEYS_IN_WINDOW * len(cut_into_windows(len(planned.frames), planned.model.num_frames))
        return suggest_key_frames(geometry, most_keys=most, should_stop=should_stop)

    found = yield from in_thread(suggest)
    return plan_with_keys(planned, without_gaps(found.key_indices, len(planned.frames)))


def without_gaps(keys: Sequence[int], count: int) -> list[int]:
    """``keys`` (0-based, increasing from 0) of a shot of ``count`` frames, and more so that none is farther than
    `MOST_GAP` frames from the next, nor the last frame from the last key: light changes where surfaces do not.
    """
    filled = [0]
    for key in (*keys[1:], *((count - 1,) if count - 1 - keys[-1] > MOST_GAP // 2 else ())):
        parts = -(-(key - filled[-1]) // MOST_GAP)
        start = filled[-1]
        filled += [start + round((key - start) * part / parts) for part in range(1, parts + 1)]
    return filled


def _found(take: Take | None, otherwise: DasError) -> Take:
    if take is None:
        raise otherwise
    LOGGER.info("no server answers; the take %s is complete and needs none", take.key)
    return take


def only_take(finished: Recipe, keep: Callable[[FinishedTake], None] | None = None) -> Recipe:
    """`take` where there is no render that wants its tracking video, too.  Returns the `Take`.

    ``keep``: called at the end with what a later render would want.
    """

    def rest() -> Recipe:
        made = yield from finished
        if keep is not None:
            keep(made)
        return made.take

    return WithEnd(rest(), lambda _error: finished.close())
