# SPDX-License-Identifier: GPL-3.0-or-later
"""The shots of a scene: what the cameras that are bound to its markers see one after the other, or all of its cameras
at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import bpy

from .. import compat
from ..errors import SettingsError
from ..scene.camera import active_camera
from ..shot.resolved import ResolvedSettings
from ..shot.settings import resolve_settings

MARKERS, CAMERAS = "MARKERS", "CAMERAS"


@dataclass(frozen=True)
class SceneShot:
    """One of them: its ``name``, the scene's and what its take is made with."""

    name: str
    scene: str
    settings: ResolvedSettings


def shots_of(scene, by: str = MARKERS) -> list[SceneShot]:
    """The shots of ``scene``, in time where they are by `MARKERS`, else by the cameras' names.

    Raises `SettingsError` where there are none, and what `resolve_settings` raises.
    """
    settings = resolve_settings(scene)
    found = _of_markers(scene, settings) if by == MARKERS else _of_cameras(scene, settings)
    if not found:
        what = "camera that renders" if by == CAMERAS else "marker with a camera (Marker › Bind Camera to Markers)"
        raise SettingsError(f"The scene {scene.name!r} has no {what}, and so no shots.", field="camera")
    return found


def shots_of_scenes(scenes, by: str = MARKERS) -> list[SceneShot]:
    """Those of all ``scenes``; one without markers is a shot as a whole.  Raises as `shots_of` does."""
    found = []
    for scene in scenes:
        if by == MARKERS and not _bound(scene):
            active_camera(scene, scene.frame_start)
            found.append(SceneShot(scene.name, scene.name, resolve_settings(scene)))
        else:
            found += shots_of(scene, by)
    return found


def scenes_with_engine() -> list:
    """The scenes of the open file that use the engine, by name.  Raises `SettingsError` where none does."""
    found = [scene for scene in bpy.data.scenes if scene.render.engine == compat.ENGINE and scene.library is None]
    if not found:
        raise SettingsError("No scene of the file uses the render engine Diffusion as Shader.", field="scene")
    return found


def _bound(scene) -> list:
    """The markers with cameras, in time; of several at one frame the one that Blender takes."""
    markers = [marker for marker in scene.timeline_markers if marker.camera and not marker.camera.hide_render]
    first = {}
    for marker in markers:
        first.setdefault(marker.frame, marker)
    return [first[frame] for frame in sorted(first)]


def _of_markers(scene, settings: ResolvedSettings) -> list[SceneShot]:
    """From each marker to the next; frames before the first one are the first one's, as in Blender."""
    markers, found = _bound(scene), []
    for place, marker in enumerate(markers):
        begin = marker.frame if place else settings.frames[0]
        end = markers[place + 1].frame if place + 1 < len(markers) else settings.frames[-1] + 1
        frames = tuple(frame for frame in settings.frames if begin <= frame < end)
        if frames:
            found.append(SceneShot(marker.name, scene.name, _part_of(settings, frames)))
    return found


def _part_of(settings: ResolvedSettings, frames: tuple[int, ...]) -> ResolvedSettings:
    """``settings`` for some of their ``frames``; a first frame of one's own is that of the first frame only."""
    keys = settings.key_pictures
    inside = None if keys is None else tuple(key for key in keys if key.frame in frames[1:])
    own = {} if frames[0] == settings.frames[0] else _own_first(settings, frames[0])
    return replace(settings, frames=frames, key_pictures=inside, **own)


def _own_first(settings: ResolvedSettings, frame: int) -> dict:
    chosen = next((key for key in settings.key_pictures or () if key.frame == frame), None)
    return {
        "first_frame_path": "" if chosen is None else chosen.path,
        "first_frame_image": "" if chosen is None else chosen.image,
    }


def _of_cameras(scene, settings: ResolvedSettings) -> list[SceneShot]:
    """Every frame by every camera.  Pictures of one's own are the scene's own camera's."""
    names = sorted(shape.name for shape in scene.objects if shape.type == "CAMERA" and not shape.hide_render)
    own = None if scene.camera is None or _bound(scene) else scene.camera.name
    others = {"first_frame_path": "", "first_frame_image": "", "key_pictures": _frames_only(settings)}
    return [
        SceneShot(name, scene.name, settings if name == own else replace(settings, camera=name, **others))
        for name in names
    ]


def _frames_only(settings: ResolvedSettings):
    keys = settings.key_pictures
    return None if keys is None else tuple(replace(key, path="", image="") for key in keys)
