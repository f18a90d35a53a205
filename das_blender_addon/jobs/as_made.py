# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings with which a scene makes a take of it once more, seen by the camera that the take was made by."""

from __future__ import annotations

from dataclasses import replace

from ..errors import SettingsError
from ..scene.camera import cameras_at
from ..shot.resolved import ResolvedSettings
from ..take.again import settings_again
from ..take.library import TakeEntry

OF_LOOK = (
    "prompt", "prompts_at", "negative_prompt", "seed", "frames", "camera",
    "first_frame_path", "first_frame_image", "key_pictures",
)  # fmt: skip
OF_MODEL = ("guidance", "window_seeds")
"""Settings that a take keeps when it is made in full; the latter mean nothing to another model."""


def settings_as_made(scene, entry: TakeEntry, settings: ResolvedSettings) -> ResolvedSettings:
    """``settings`` of ``scene`` with everything that the take ``entry`` was made with, and its camera where that is
    another one than the scene's for its frames.
    """
    made = settings_again(entry, settings)
    seen = cameras_of(entry)
    if not seen or settings.camera:
        return made
    (_, name), *others = seen
    cameras = {shape.name for shape in scene.objects if shape.type == "CAMERA"}
    is_scenes = seen == cameras_at(scene.original, made.frames)
    return made if is_scenes or others or name not in cameras else replace(made, camera=name)


def full_settings(scene, entry: TakeEntry, settings: ResolvedSettings) -> ResolvedSettings:
    """``settings`` of ``scene`` with words, seed, camera and pictures of the take ``entry``, which was a first look:
    all else, size and steps first of all, is the scene's.  Guidance and seeds of windows are the take's where the scene
    has its model.

    Raises `SettingsError` for a take of which a region was repaired.
    """
    if "region" in entry.report:
        raise SettingsError(
            f"A region of the take {entry.key[:8]} was repaired, and is not made anew with it; choose the take that it "
            "was made of.",
            field="take",
        )
    made = settings_as_made(scene, entry, settings)
    kept = OF_LOOK + (OF_MODEL if settings.model in ("", made.model) else ())
    return replace(settings, anew=False, part=None, **{name: getattr(made, name) for name in kept})


def cameras_of(entry: TakeEntry) -> tuple[tuple[int, str], ...]:
    """(frame, name of the camera from there on) of the take; none where its report does not say."""
    return tuple((int(frame), str(name)) for frame, name in entry.report.get("cameras", ()))


def check_own_camera(scene, entry: TakeEntry, frame: int) -> None:
    """Raise `SettingsError` where another camera than the scene's has seen ``frame`` of the take ``entry``."""
    made_by = [name for at, name in cameras_of(entry) if at <= frame]
    own = [name for _, name in cameras_at(scene.original, [frame])]
    if made_by and own != made_by[-1:]:
        raise SettingsError(
            f"The take {entry.key[:8]} was made by the camera {made_by[-1]!r}, and the scene is seen by "
            f"{' '.join(map(repr, own)) or 'none'} at frame {frame}: make {made_by[-1]!r} the scene's camera first.",
            field="camera",
        )
