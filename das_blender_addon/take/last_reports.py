# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the shots of the open file since somebody checked, previewed or rendered them in this session.  No
Blender in here: any thread.
"""

from __future__ import annotations

from collections.abc import Callable

from ..shot.findings import ShotReport

_reports: dict[str, ShotReport] = {}
"""The name of a scene of the open file → its last report in this session."""
_files = 0
"""How many files were opened in this session."""


def last_report(scene) -> ShotReport | None:
    """What is known of the shot of ``scene``, None where nobody asked."""
    return _reports.get(scene.name)


def keep_report(scene, report: ShotReport) -> None:
    """``report`` is what is known of the shot of ``scene`` now."""
    _reports[scene.name] = report


def keeping(scene) -> Callable[[ShotReport], None]:
    """What keeps the report of a job about ``scene`` that begins now, unless another file is open by then."""
    name, file = scene.name, _files

    def keep(report: ShotReport) -> None:
        if _files == file:
            _reports[name] = report

    return keep


def forget_reports() -> None:
    """Another file is opened."""
    global _files
    _reports.clear()
    _files += 1
