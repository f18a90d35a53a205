# SPDX-License-Identifier: GPL-3.0-or-later
"""The last take of each scene in this session.  No Blender in here: scenes go by the number that Blender gives each for
the session, whatever they are called meanwhile.
"""

from __future__ import annotations

from .cache import Take

_last_takes: dict[int, Take] = {}


def remember_take(scene, take: Take) -> None:
    """Keep ``take`` as the last one of ``scene``."""
    _last_takes[scene.session_uid] = take


def last_take(scene) -> Take | None:
    """The last take of ``scene`` in this session, or None."""
    return _last_takes.get(scene.session_uid)


def forget_takes() -> None:
    """Another file was opened: the scenes are other scenes."""
    _last_takes.clear()
