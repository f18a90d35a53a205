# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender has written of a render: on a full disk it leaves empty or cut files behind and calls them saved."""

from __future__ import annotations

import os

PNG_END = b"IEND\xaeB`\x82"


def unwritten(scene) -> str:
    """Why the file of the frame that Blender has just written is none, one sentence; "" where it looks whole."""
    render = scene.render
    if render.is_movie_format:
        return ""
    path = render.frame_path(frame=scene.frame_current)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - len(PNG_END)))
            end = file.read() if size else b""
    except OSError as error:
        return f"The frame {path} cannot be read again ({error.strerror}); render it again."
    if not size:
        return f"The frame {path} was written as an empty file: the disk is full; free some space and render it again."
    if render.image_settings.file_format == "PNG" and end != PNG_END:
        return f"The frame {path} was cut off: the disk is full; free some space and render it again."
    return ""
