# SPDX-License-Identifier: GPL-3.0-or-later
"""What several panels draw alike: sentences that wrap, alerts, the server's line, and thumbnails of files."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import bpy
import bpy.utils.previews

from ..client.known_servers import known_server, words_of_server
from ..errors import DasError
from ..shot.settings import resolve_settings
from .session import server_failure
from .words import said, translated

MIN_LINE, CHARACTER_PX, MARGIN_PX = 30, 7, 70
"""A label does not wrap by itself: fewest characters of a line, width of one and of what is beside them, unscaled
pixels.
"""

_thumbnails: bpy.utils.previews.ImagePreviewCollection | None = None
_thumbnail_names: dict[str, str] = {}


def say(layout, words: str, icon: str = "NONE") -> None:
    """A sentence, wrapped to the region's width."""
    for index, line in enumerate(_wrapped(translated(words))):
        layout.label(text=line, translate=False, icon=icon if index == 0 else "BLANK1" if icon != "NONE" else "NONE")


def alert(layout, words: str) -> None:
    """A sentence in red."""
    column = layout.column(align=True)
    column.alert = True
    say(column, words, "ERROR")


def _wrapped(words: str) -> list[str]:
    """The lines that ``words`` take in the region that is drawn now."""
    region = bpy.context.region
    scale = bpy.context.preferences.system.ui_scale
    width = max(MIN_LINE, int(region.width / scale - MARGIN_PX) // CHARACTER_PX) if region is not None else MIN_LINE
    return textwrap.wrap(words, width) or [""]


def draw_server_line(layout, context) -> None:
    """What is known of the server, and the button that asks it."""
    session = context.window_manager.das
    icon, words = "QUESTION", ""
    if session.server_state == "RUNNING":
        icon, words = "SORTTIME", session.server_line
    else:
        try:
            server = resolve_settings(context.scene).server
        except DasError as error:
            alert(layout, error.message)
            return
        welcome = known_server(server)
        failure = server_failure(session, server)
        if failure:
            alert(layout, failure)
        icon = "CHECKMARK" if welcome is not None else "QUESTION"
        unknown = server if failure else said("{server}, not asked yet", server=server)
        words = words_of_server(welcome) if welcome is not None else unknown
    row = layout.split(factor=0.6)
    row.label(text=words, icon=icon)
    row.operator("das.test_connection", icon="LINKED")


def thumbnail(path: Path | None) -> int | None:
    """Icon number of the image at ``path`` (0 without a window), None when there is none.

    A file that changed is read again.
    """
    if path is None or _thumbnails is None:
        return None
    try:
        stat = os.stat(path)
    except OSError:
        return None
    slot, name = os.fspath(path), f"{path}@{stat.st_mtime_ns}"
    if _thumbnail_names.get(slot) != name:
        _thumbnails.pop(_thumbnail_names.get(slot, ""), None)
        _thumbnails.load(name, slot, "IMAGE")
        _thumbnail_names[slot] = name
    return _thumbnails[name].icon_id


def register():
    """Make room for thumbnails."""
    global _thumbnails
    _thumbnails = bpy.utils.previews.new()


def unregister():
    """Forget them."""
    global _thumbnails
    _thumbnail_names.clear()
    if _thumbnails is not None:
        bpy.utils.previews.remove(_thumbnails)
        _thumbnails = None
