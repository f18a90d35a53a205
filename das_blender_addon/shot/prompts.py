# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts as people write them: in a text of several lines, in a file, and others from markers on."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..errors import SettingsError
from ..protocol.kinds import MAX_PROMPT

MARK, TEXT = "prompt:", "@"
"""How a marker's name begins that changes the prompt; what follows is the prompt, or `TEXT` and the name of a Text."""
COMMENT = "#"


def prompt_of_text(words: str) -> str:
    """The prompt in a text of several lines: they are one, without those that begin with `COMMENT`."""
    lines = (line.strip() for line in words.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(COMMENT))


def prompt_of_file(path: str) -> str:
    """The prompt in the UTF-8 file ``path``.  Raises `SettingsError`."""
    try:
        return prompt_of_text(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SettingsError(f"The prompt {path} cannot be read: {reason}.", field="prompt") from error


def prompts_at_markers(scene) -> tuple[tuple[int, str], ...]:
    """(frame, prompt from there on) of every marker that says one, in time; "" for the shot's own again.

    Of several at one frame the last one counts.  Raises `SettingsError` for a text that is not there.
    """
    found = {}
    for marker in scene.timeline_markers:
        name = marker.name.strip()
        if name.lower().startswith(MARK):
            found[marker.frame] = check_prompt(_said(name[len(MARK) :].strip(), marker), f"The marker {marker.name!r}")
    return tuple(sorted(found.items()))


def check_prompt(words: str, what: str) -> str:
    """``words`` of ``what``; raises `SettingsError` where nobody could send them."""
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{what} is no valid UTF-8; write it anew.", field="prompt") from error
    if len(words) > MAX_PROMPT:
        raise SettingsError(f"{what} has {len(words)} characters; it takes {MAX_PROMPT} at most.", field="prompt")
    return words


def _said(words: str, marker) -> str:
    if not words.startswith(TEXT):
        return words
    text = bpy.data.texts.get(words[len(TEXT) :].strip())
    if text is None:
        raise SettingsError(
            f"The marker {marker.name!r} at frame {marker.frame} names a text that is not in the file; rename it.",
            field="prompt",
        )
    return prompt_of_text(text.as_string())
