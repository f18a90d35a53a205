# SPDX-License-Identifier: GPL-3.0-or-later
"""What a shot's export tells of it, for *Check Shot*, previews, and every take before its jobs.  No Blender in here."""

from __future__ import annotations

from collections.abc import Sequence

from ..shot.findings import Finding, ShotReport, findings_of_curves, findings_of_notes, sorted_findings
from ..shot.plan import ShotPlan, has_sky
from ..shot.resolved import ResolvedSettings
from ..tracking.geometry import GeometrySequence
from ..tracking.shot_curves import shot_curves
from ..tracking.suggest import MOST_FRAMES
from .drive import Recipe, in_thread

FRAMES_BEFORE_TAKE = 9
"""Frames that are looked at before a take, at most, besides its key pictures: it must not wait for the report."""


def shot_report(
    geometry: GeometrySequence,
    planned: ShotPlan | None,
    settings: ResolvedSettings,
    known: Sequence[Finding],
    most_frames: int = MOST_FRAMES,
) -> Recipe:
    """What ``geometry``, the shot's, tells beside what is ``known``; returns a `ShotReport`.

    ``planned``: what would be sent, with its key pictures; None where that is not known.  ``most_frames``: see
    `shot_curves`.  Raises `SceneError`, `JobCancelled`.
    """
    findings = [*known, *findings_of_notes(geometry.notes)]
    if planned is None:
        height, every, patch_px, sky = None, 1, 0, has_sky(settings.background)
        keys = [settings.frames.index(choice.frame) for choice in settings.key_pictures or ()]
    else:
        keys, height, every, sky = list(planned.keys), planned.model_size[1], planned.every, planned.sky
        patch_px = planned.model.size_range.multiple if planned.reads_carried else 0
    curves = yield from in_thread(
        lambda stop, _say: shot_curves(geometry, keys, most_frames=most_frames, should_stop=stop)
    )
    frames = tuple(settings.frames[index] for index in curves.frame_indices)
    found = findings_of_curves(curves, frames, height, every, patch_px=patch_px, sky=sky)
    if planned is None and settings.key_pictures is None:
        # Which model it will be, and so how many key pictures, nobody knows yet.
        found = (finding for finding in found if finding.code != "shot.new")
    findings += found
    return ShotReport(sorted_findings(findings), frames, curves, () if planned is None else planned.notes)
