# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a shot before it costs time on a GPU, as a recipe.  No Blender in here."""

from __future__ import annotations

from collections.abc import Sequence

from ..client import known_servers
from ..errors import DasError, JobCancelled
from ..shot.findings import Finding, ShotReport, refusal, sorted_findings
from ..shot.plan import ShotPlan
from ..shot.resolved import ResolvedSettings
from ..tracking.geometry import GeometrySequence
from .cache import TakeSettings, job_spec
from .drive import Recipe
from .recipes import plan_shot, with_key_frames
from .reporter import Reporter
from .shot_report import shot_report
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
    """`shot_report` with the key pictures that a take would have.  ``planned``: what would be sent, None where that is
    not known.
    """
    if planned is not None:
        planned = yield from with_key_frames(planned, geometry, settings, report)
    return (yield from shot_report(geometry, planned, settings, known))


def _planned(facts: SceneFacts, settings: ResolvedSettings) -> ShotPlan | None:
    """What would be sent, None where nobody has asked the server yet.  Raises what a render would."""
    capabilities = known_servers.known_capabilities(settings.server)
    if capabilities is None:
        return None
    planned = plan_shot(facts, settings, capabilities)
    job_spec(planned, TakeSettings.from_resolved(settings))
    return planned
