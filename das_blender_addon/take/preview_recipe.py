# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracking video of a shot as pictures, and what is to be known of the shot, as a recipe.  No Blender in here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..client import known_servers
from ..client.files import write_whole
from ..client.take import Log
from ..errors import DasError, JobCancelled, ModelError, SettingsError
from ..protocol.png import encode_png
from ..shot.findings import Finding, ShotReport, refusal, sorted_findings
from ..shot.plan import ShotPlan, has_sky
from ..shot.resolved import ResolvedSettings
from ..shot.tracked import check_in_view
from ..tracking.geometry import OFF_SCREEN
from ..tracking.video import render_tracking_video
from .check_recipe import report_of
from .drive import Recipe, Status, in_thread
from .recipes import plan_shot
from .reporter import Reporter, counting
from .source import SceneFacts, Source

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """``files``: the tracking video's pictures; ``report``: what *Check Shot* says of the shot."""

    files: list[Path]
    report: ShotReport


def tracking_preview(
    facts: SceneFacts,
    settings: ResolvedSettings,
    source: Source,
    *,
    known: Sequence[Finding] = (),
    on_files: Callable[[list[Path]], None] | None = None,
) -> Recipe:
    """The tracking video of the shot as PNG files, then the report of the shot; asks no server.  Returns a `Preview`.

    Where the server has already said what the model makes, it is the video that would be sent, at the model's size
    and framing; else the shot's own picture at the render size.  ``known``: findings of the scene.  ``on_files`` gets
    the files as soon as they are there, on the thread that drives the recipe: the report takes longer than the video.
    """
    report, folder = Reporter(), facts.folder / "tracking_preview"
    findings = list(known)
    planned = _known_plan(facts, settings, findings)
    try:
        geometry = yield from source.export(settings.frames, facts.render_size, report)
        for note in geometry.notes:
            if note.code != OFF_SCREEN:
                yield report(Log(note.sentence))
        seen, sky = geometry, has_sky(settings.background)
        if planned is not None:
            seen, sky = replace(geometry, cameras=planned.framing.overscan(geometry.cameras)), planned.sky

        def draw(should_stop, say):
            said = counting("tracking", say)
            tracking = render_tracking_video(
                seen, sky=sky, colours_only=True, progress=said, should_stop=should_stop
            )
            check_in_view(tracking)
            files = [folder / f"{index + 1:04d}.png" for index in range(len(tracking.frames))]
            for stale in set(folder.glob("*.png")) - set(files):
                stale.unlink()
            for file, frame in zip(files, tracking.video, strict=True):
                write_whole(file, encode_png(frame))
            return files

        files = yield from in_thread(draw, report)
        if on_files is not None:
            on_files(files)
        yield Status("checking", "Looking for what speaks against the shot", 1.0)
        try:
            found = yield from report_of(geometry, planned, settings, findings, report)
        except JobCancelled:
            raise
        except DasError as error:
            found = ShotReport(sorted_findings([*findings, refusal(error)]))
        return Preview(files, found)
    finally:
        source.close()


def _known_plan(facts: SceneFacts, settings: ResolvedSettings, findings: list[Finding]) -> ShotPlan | None:
    """What would be sent, as far as the server was asked; None where it was not, or the shot does not fit the model:
    then ``findings`` get the reason.
    """
    capabilities = known_servers.known_capabilities(settings.server)
    try:
        return plan_shot(facts, settings, capabilities) if capabilities is not None else None
    except (ModelError, SettingsError) as error:
        findings.append(refusal(error))
        LOGGER.info("the preview is drawn at the render's size: %s", error.message)
        return None
