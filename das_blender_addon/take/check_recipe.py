# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a shot before it costs time on a GPU, as a recipe.  No Blender in here."""

from __future__ import annotations

from collections.abc import Sequence

from ..client import known_servers
from ..errors import DasError, JobCancelled
from ..shot.findings import Finding, ShotReport, findings_of_curves, findings_of_notes, refusal, sorted_findings
from ..shot.plan import ShotPlan, has_sky
from ..shot.resolved import ResolvedSettings
from ..tracking.geometry import GeometrySequence
from ..tracking.shot_curves import shot_curves
from .cache import TakeSettings, job_spec
from .drive import Recipe, in_thread
from .recipes import plan_shot, with_key_frames
from .reporter import Reporter
from .source import Report, SceneFacts, Source

SPANS = {"exporting": (0.0, 0.7), "key pictures": (0.7, 0.8)}


def checked(
    facts: SceneFacts, settings: ResolvedSettings, source: Source, known: Sequence[Finding] = ()
) -> Recipe:
    """Everything that is to be known of the shot, in one list; asks no server.  Returns a `ShotReport`.

    ``known``: what the scene told already.  What refuses the shot is in the list; nothing but a cancel is raised.
    """
    findings, report = list(known), Reporter(spans=SPANS)
    planned: ShotPlan | None = None
    try:
        planned = _planned(facts, settings)
    except DasError as error:
        findings.append(refusal(error))
    try:
        geometry = yield from source.export(settings.frames, facts.render_size, report)
        return (yield from report_of(geometry, planned, settings, findings, report))
    except JobCancelled:
        raise
    except DasError as error:
        return ShotReport(sorted_findings([*findings, refusal(error)]))
    finally:
        source.close()


def report_of(
    geometry: GeometrySequence,
    planned: ShotPlan | None,
    settings: ResolvedSettings,
    known: Sequence[Finding],
    report: Report,
) -> Recipe:
    """What ``geometry``, the shot's, tells beside what is ``known``; returns a `ShotReport`.

    ``planned``: what would be sent, None where that is not known.  Raises `SceneError`, `JobCancelled`.
    """
    findings = [*known, *findings_of_notes(geometry.notes)]
    keys = [settings.frames.index(choice.frame) for choice in settings.key_pictures or ()]
    if planned is not None:
        planned = yield from with_key_frames(planned, geometry, settings, report)
        keys = list(planned.keys)
    curves = yield from in_thread(lambda stop, _say: shot_curves(geometry, keys, should_stop=stop))
    frames = tuple(settings.frames[index] for index in curves.frame_indices)
    height, every = (None, 1) if planned is None else (planned.model_size[1], planned.every)
    sky = has_sky(settings.background) if planned is None else planned.sky
    found = findings_of_curves(curves, frames, height, every, sky=sky)
    if planned is None and settings.key_pictures is None:
        # Which model it will be, and so how many key pictures, nobody knows yet.
        found = (finding for finding in found if finding.code != "shot.new")
    findings += found
    return ShotReport(sorted_findings(findings), frames, curves, () if planned is None else planned.notes)


def _planned(facts: SceneFacts, settings: ResolvedSettings) -> ShotPlan | None:
    """What would be sent, None where nobody has asked the server yet.  Raises what a render would."""
    capabilities = known_servers.known_capabilities(settings.server)
    if capabilities is None:
        return None
    planned = plan_shot(facts, settings, capabilities)
    job_spec(planned, TakeSettings.from_resolved(settings))
    return planned
