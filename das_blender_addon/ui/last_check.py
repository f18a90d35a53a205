# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the shots of the open file since somebody checked or previewed them in this session."""

from __future__ import annotations

from pathlib import Path

from bpy.app.handlers import persistent

from ..shot.findings import ERROR, WARNING, ShotReport
from .key_plot import keep_picture, plot
from .words import said

_reports: dict[str, ShotReport] = {}
"""The name of a scene of the open file → its last report in this session."""
_plot: Path | None = None


def last_report(scene) -> ShotReport | None:
    """What is known of the shot of ``scene``, None where nobody asked."""
    return _reports.get(scene.name)


def last_plot() -> Path | None:
    """The picture of the last report's curves, None where there is none."""
    return _plot


def keep_report(scene, report: ShotReport) -> None:
    """``report`` is what is known of the shot of ``scene`` now."""
    global _plot
    _reports[scene.name] = report
    if report.curves is not None:
        _plot = keep_picture("check", plot(report.frames, report.curves.covered, report.curves.unseen))


def words_of_report(report: ShotReport) -> str:
    """How much there is to know, "" where nothing speaks against the shot."""
    counts = [sum(finding.level == level for finding in report.findings) for level in (ERROR, WARNING)]
    if not any(counts):
        return ""
    return said("{errors} errors, {warnings} warnings: see Shot Check", errors=counts[0], warnings=counts[1])


@persistent
def forget_reports(*_) -> None:
    """Another file is opened."""
    global _plot
    _reports.clear()
    _plot = None
