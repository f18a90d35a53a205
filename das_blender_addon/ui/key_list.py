# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of key pictures that a scene has, and what is known of its lines."""

from __future__ import annotations

from ..errors import DasError
from ..jobs.sources import owner_of
from ..shot.open_pictures import unsaved_strokes
from ..shot.pictures import first_frame_path, first_frame_state
from ..shot.scene_keys import KeyState, key_states
from ..shot.settings import resolve_settings
from ..shot.shot_folder import shot_folder
from .take_shelf import chosen_take


def states_of(scene) -> list[KeyState]:
    """The first frame and the others.  Raises what `resolve_settings` raises."""
    settings = resolve_settings(scene)
    return key_states(scene, settings, owner_of(scene, shot_folder(scene, settings.cache_folder)))


def state_at(scene, frame: int) -> KeyState | None:
    """The key picture at ``frame``; None where there is none."""
    return next((state for state in states_of(scene) if state.frame == frame), None)


def active_key(scene):
    """The chosen line of the list; None where it is empty."""
    keys = scene.das.key_pictures
    return keys[scene.das.key_index] if 0 <= scene.das.key_index < len(keys) else None


def keys_of_take(scene, entry) -> list[int]:
    """The frames of ``scene``'s shot, without the first, that were key pictures of the take ``entry``."""
    frames = resolve_settings(scene).frames
    made_of = [one["frame"] for one in entry.report.get("key_pictures", ()) if isinstance(one, dict)]
    return [frame for frame in made_of if frame in frames[1:]]


def automatic_keys(context) -> list[int]:
    """The frames that are key pictures by themselves, as far as the chosen take tells: those of the list count from the
    next one on, and an empty list would lose them.
    """
    settings = context.scene.das
    entry = chosen_take(context) if settings.key_mode == "AUTO" and not settings.key_pictures else None
    return [] if entry is None else keys_of_take(context.scene, entry)


def add_key(scene, frame: int) -> bool:
    """Let the list have a line for ``frame``, in its order; whether it was added.  The list counts from now on."""
    settings = scene.das
    settings.key_mode = "LIST"
    frames = [key.frame for key in settings.key_pictures]
    if frame in frames or frame == resolve_settings(scene).frames[0]:
        settings.key_index = frames.index(frame) if frame in frames else settings.key_index
        return False
    key = settings.key_pictures.add()
    key.frame = frame
    place = sum(other < frame for other in frames)
    settings.key_pictures.move(len(settings.key_pictures) - 1, place)
    settings.key_index = place
    return True


# ── Before a picture is replaced ────────────────────────────────────────────────────────────────────────────────────


def why_not_replace(scene, frame: int) -> str:
    """Why no button may put another picture in the place of the one at ``frame``, a sentence; "" where it may.

    A picture of the user's own is not in that place, and would go on counting; strokes that were not saved would be
    lost.
    """
    settings = scene.das
    try:
        resolved = resolve_settings(scene)
        if frame == resolved.frames[0]:
            own = bool(resolved.first_frame_path or resolved.first_frame_image)
        else:
            own = any(key.frame == frame and (key.path or key.image is not None) for key in settings.key_pictures)
        if own:
            return f"The picture at frame {frame} is one of your own: clear its path to have another one there"
        folder = shot_folder(scene, resolved.cache_folder)
        if unsaved_strokes(first_frame_path(folder, frame, owner=owner_of(scene, folder))) is not None:
            return f"The picture at frame {frame} has strokes that are not saved: save the image, or reload it"
    except DasError:  # the job itself will say it
        pass
    return ""


def painted_picture(scene, frame: int) -> str:
    """The name of the painted picture at ``frame`` that another one would replace, "" for none."""
    try:
        folder = shot_folder(scene, resolve_settings(scene).cache_folder)
    except DasError:  # the job itself will say it
        return ""
    owner = owner_of(scene, folder)
    if first_frame_state(folder, frame, owner=owner) != "user":
        return ""
    return first_frame_path(folder, frame, owner=owner).name
