# SPDX-License-Identifier: GPL-3.0-or-later
"""The last take of each scene in this session.  No Blender in here: scenes go by their names."""

from __future__ import annotations

from .cache import Take

_last_takes: dict[str, Take] = {}


def remember_take(scene, take: Take) -> None:
    """Keep ``take`` as the last one of ``scene``."""
    _last_takes[scene.name] = take


def last_take(scene) -> Take | None:
    """The last take of ``scene`` in this session, or None."""
    return _last_takes.get(scene.name)


def forget_takes() -> None:
    """Another file was opened: the scenes are other scenes."""
    _last_takes.clear()
