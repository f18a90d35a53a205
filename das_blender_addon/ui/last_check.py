# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel shows of the last report of a shot (`take.last_reports`)."""

from __future__ import annotations

from pathlib import Path

from bpy.app.handlers import persistent

from ..shot.findings import ERROR, WARNING, ShotReport
from ..take import last_reports
from .key_plot import keep_picture, plot
from .words import said

_drawn: tuple[ShotReport, Path | None] | None = None
"""The report whose curves were drawn last, and their picture."""


def last_plot(scene) -> Path | None:
    """The picture of the curves of the last report of ``scene``, drawn when it is asked for; None where there is none.
    """
    global _drawn
    report = last_reports.last_report(scene)
    if report is None or report.curves is None:
        return None
    if _drawn is None or _drawn[0] is not report:
        curves = report.curves
        _drawn = report, keep_picture("check", plot(report.frames, curves.covered, curves.unseen))
    return _drawn[1]


def words_of_report(report: ShotReport) -> str:
    """How much there is to know, "" where nothing speaks against the shot."""
    counts = [sum(finding.level == level for finding in report.findings) for level in (ERROR, WARNING)]
    if not any(counts):
        return ""
    return said("{errors} errors, {warnings} warnings: see Shot Check", errors=counts[0], warnings=counts[1])


@persistent
def forget_reports(*_) -> None:
    """Another file is opened."""
    global _drawn
    last_reports.forget_reports()
    _drawn = None
