# SPDX-License-Identifier: GPL-3.0-or-later
"""The key pictures of a scene, as its panels and commands show them: where each is, where it comes from, its state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy

from ..scene.appearance import recent_shading_digest
from ..scene.edits import last_edit
from ..scene.layers import render_layer
from ..scene.named import image_named
from .carried_pictures import is_carried
from .pictures import Owner, first_frame_path, first_frame_state, picture_as_of, read_record
from .resolved import KeyChoice, ResolvedSettings
from .shot_folder import shot_folder


@dataclass(frozen=True)
class KeyState:
    """``frame``: Blender's.  ``path``: the picture, or the place for one; ``image``: a data block of the file instead.
    ``origin``: "rendered", "painted", "carried" or "own" (a file or image that was chosen).  ``state``: "missing",
    "fresh", "stale" (materials, lights, world or settings changed), "edited" (geometry or cameras were edited since it
    was last known to show the scene: it may be stale) or "unsaved" (strokes that were not saved yet).
    """

    frame: int
    path: Path
    image: str
    origin: str
    state: str


def key_states(scene, settings: ResolvedSettings, owner: Owner) -> list[KeyState]:
    """The first frame and the key pictures of the list, as far as is known without evaluating anything."""
    first = KeyChoice(settings.frames[0], settings.first_frame_path, settings.first_frame_image)
    return [key_state(scene, settings, owner, choice) for choice in (first, *(settings.key_pictures or ()))]


def key_state(scene, settings: ResolvedSettings, owner: Owner, choice: KeyChoice) -> KeyState:
    """What is known of one of them."""
    if choice.image:
        image = image_named(choice.image)
        state = "missing" if image is None else "unsaved" if image.is_dirty else "fresh"
        return KeyState(choice.frame, Path(), choice.image, "own", state)
    if choice.path:
        path = Path(choice.path)
        return KeyState(choice.frame, path, "", "own", _of_file(path, "fresh" if path.is_file() else "missing"))
    folder = shot_folder(scene, settings.cache_folder)
    path = first_frame_path(folder, choice.frame, owner=owner)
    state = first_frame_state(folder, choice.frame, owner=owner)
    if state == "user":
        origin = "carried" if is_carried(path) else "painted"
        return KeyState(choice.frame, path, "", origin, _of_file(path, "fresh"))
    if state == "missing":
        return KeyState(choice.frame, path, "", "rendered", "missing")
    shading = read_record(path).get("shading", "")
    now = "fresh"
    if shading and shading != recent_shading_digest(scene, render_layer(scene)):
        now = "stale"
    elif last_edit(scene) > picture_as_of(path):
        now = "edited"
    return KeyState(choice.frame, path, "", "rendered", _of_file(path, now))


def with_frames(settings: ResolvedSettings, frames: Sequence[int]) -> tuple[KeyChoice, ...]:
    """The key pictures of ``settings`` besides the first frame, and those at ``frames``, in order."""
    there = {choice.frame: choice for choice in settings.key_pictures or ()}
    for frame in frames:
        if frame != settings.frames[0]:
            there.setdefault(frame, KeyChoice(frame))
    return tuple(there[frame] for frame in sorted(there))


def _of_file(path: Path, state: str) -> str:
    """``state``, or "unsaved" where an image of this session holds strokes over the file."""
    name = os.path.realpath(path)
    for image in bpy.data.images:
        if image.is_dirty and image.filepath and os.path.realpath(bpy.path.abspath(image.filepath)) == name:
            return "unsaved"
    return state
