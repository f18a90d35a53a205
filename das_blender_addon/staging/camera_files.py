# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera of another file (.blend, Alembic, USD, FBX) → a path, relative to its first frame.

It is read into a scene that is thrown away, by Blender's own importers; the open file is left as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..errors import SettingsError
from ..footage.usd_units import usd_units

BLEND, ALEMBIC, FBX, USD = ".blend", ".abc", ".fbx", (".usd", ".usda", ".usdc", ".usdz")
ENDINGS = (BLEND, ALEMBIC, FBX, *USD)
CLOCKS = (10_000, 1000, 100)
"""Frames a second that an Alembic file is read at: it tells seconds, and Blender its start in whole frames.  The first
one at which its end is one that Blender can be set to.
"""
LAST_FRAME = 1_000_000
FBX_ADD_ON = "import_scene.fbx"
ALIKE = 1e-6
"""Rates and frames that differ by this share are the same."""
MOST_NAMES = 5


@dataclass(frozen=True)
class FollowedCamera:
    """``poses`` [T,4,4] f64: camera → first camera.  ``fps`` of the shot.  ``notes``: what to know, in sentences."""

    poses: np.ndarray
    fps: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """``scene``, whose camera goes from its frame ``first`` to ``last`` (None: nobody says), ``rate`` of them a second;
    ``step``: of its frames that count.  ``metres``: of its unit.  ``is_clock``: the rate is not the file's, and
    ``first`` was rounded.
    """

    scene: object
    first: float
    last: float | None
    rate: float
    step: int = 1
    metres: float = 1.0
    is_clock: bool = False


def is_camera_file(words: str) -> bool:
    """Whether ``words`` of a path name a file."""
    return words.lower().endswith(ENDINGS)


def check_camera_file(path: Path) -> None:
    """Raise `SettingsError` where the file ``path`` cannot be followed, before any work begins."""
    if not path.is_file():
        raise SettingsError(f"There is no file {path} with a camera path.", field="path")
    ending = path.suffix.lower()
    if ending == BLEND and bpy.data.filepath and os.path.realpath(bpy.data.filepath) == os.path.realpath(path):
        # Blender cannot read the open file a second time; 4.2 crashes.
        raise SettingsError(f"{path} is the open file; open another one, or none, to follow its camera.", field="path")
    if ending != BLEND and _importer(ending) is None:
        raise SettingsError(
            f"This Blender has no importer of {ending} files, which {path} needs (for FBX it is an add-on that may be "
            f"off); save the camera as one of {', '.join(ENDINGS)} that it reads.",
            field="path",
        )


def camera_of_file(path: Path, num_frames: int, fps: float, *, is_free: bool) -> FollowedCamera:
    """How the one camera of the file ``path`` moves over the first ``num_frames`` frames, by time: of a .blend that of
    its scene, from that scene's first frame on; of another file from where its motion begins.

    ``fps``: of the shot; ``is_free``: the shot takes the file's rate, where that is known.  Raises `SettingsError`.
    """
    check_camera_file(path)
    with _scratch() as window:
        found = _of_blend(path) if path.suffix.lower() == BLEND else _imported(path)
        if window is not None:
            window.scene = found.scene
        if is_free and not found.is_clock:
            fps = found.rate
        ratio = found.rate / fps
        ratio = found.step * (1.0 if abs(ratio - 1.0) < ALIKE else ratio)
        first = found.first
        if found.is_clock and abs(off := round(first / ratio) * ratio - first) <= 0.5:
            first += off  # on a frame of the shot
        poses = _poses(found.scene, first + ratio * np.arange(num_frames))
    poses[:, :3, 3] *= found.metres
    notes = []
    if np.ptp(poses, axis=0).max() < ALIKE:
        notes.append(f"The camera of {path.name} does not move.")
    elif found.last is not None and (frames := round((found.last - first) / ratio) + 1) < num_frames:
        notes.append(
            f"The camera of {path.name} moves for {frames} of the shot's {num_frames} frames, and stands still then."
        )
    if found.is_clock:
        notes.append(f"{path.name} does not say its frames a second; the shot has {fps:g} (--fps).")
    elif ratio != found.step:
        notes.append(f"{path.name} has {found.rate:g} frames a second and the shot {fps:g}; it is followed by time.")
    return FollowedCamera(poses, fps, tuple(notes))


@contextmanager
def _scratch() -> Iterator[object]:
    """The window, or None; what is made meanwhile is gone afterwards."""
    before, window = set(bpy.data.user_map()), bpy.context.window
    shown = window.scene if window is not None else None
    try:
        yield window
    finally:
        if window is not None:
            window.scene = shown
        bpy.data.batch_remove(set(bpy.data.user_map()) - before)


def _of_blend(path: Path) -> _Found:
    try:
        with bpy.data.libraries.load(os.fspath(path), link=False) as (source, target):
            target.scenes = list(source.scenes)
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"{path} cannot be opened for its camera: {str(error).strip()}", field="path") from error
    scenes = [scene for scene in target.scenes if scene is not None and scene.camera is not None]
    if len(scenes) != 1:
        raise SettingsError(
            f"{path} has {len(scenes)} scenes with a camera, and one is needed to say which path is meant.",
            field="path",
        )
    scene = scenes[0]
    return _Found(scene, scene.frame_start, None, scene.render.fps / scene.render.fps_base, scene.frame_step)


# ── Alembic, USD, FBX ───────────────────────────────────────────────────────────────────────────────────────────────


def _importer(ending: str) -> Callable | None:
    """The operator that reads files of this ``ending``; None where this Blender lacks it."""
    windows, scenes = bpy.ops.wm, bpy.ops.import_scene
    choices = {ALEMBIC: (windows.alembic_import,), FBX: (windows.fbx_import, scenes.fbx)}
    for operator in choices.get(ending, (windows.usd_import,)):
        try:
            operator.get_rna_type()
        except KeyError:
            continue
        return operator
    return None


def _imported(path: Path) -> _Found:
    ending = path.suffix.lower()
    if ending == ALEMBIC:
        for clock in CLOCKS:
            scene = _read(path, {"as_background_job": False, "set_frame_range": True}, clock)
            if scene.frame_end <= LAST_FRAME:
                break
        return _Found(scene, scene.frame_start, scene.frame_end, clock, is_clock=True)
    if ending == FBX:
        before = set(bpy.data.actions)
        scene = _read(path, {})
        return _of_fbx(scene, path, set(bpy.data.actions) - before)
    units = usd_units(path)
    # The importer leaves motion in the file's unit, and turns only what stands still into metres.
    wanted = {"set_frame_range": True, "import_visible_only": False, "apply_unit_conversion_scale": False}
    scene = _read(path, {**wanted, "import_materials": False})
    return _Found(scene, scene.frame_start, scene.frame_end, units.rate, metres=units.metres)


def _read(path: Path, wanted: dict, rate: int = 24):
    """A new scene of ``rate`` frames a second with all of the file ``path`` in it, and its camera."""
    scene = bpy.data.scenes.new("Camera File")
    scene.frame_start = scene.frame_end = 1
    scene.render.fps, scene.render.fps_base = rate, 1.0
    operator = _importer(path.suffix.lower())
    known = operator.get_rna_type().properties
    if bpy.context.window is not None:
        bpy.context.window.scene = scene
    try:
        with bpy.context.temp_override(scene=scene, view_layer=scene.view_layers[0]):
            chosen = {name: value for name, value in wanted.items() if name in known}
            done = operator(filepath=os.fspath(path), **chosen)
    except RuntimeError as error:
        raise _unread(path, str(error)) from error
    if "FINISHED" not in done:
        raise _unread(path)
    scene.camera = _camera(scene, path)
    return scene


def _unread(path: Path, words: str = "") -> SettingsError:
    lines = words.removeprefix("Error: ").strip().splitlines()
    reason = f": {lines[0]}" if lines else ""
    return SettingsError(f"{path} cannot be read for its camera{reason}.", field="path")


def _camera(scene, path: Path):
    cameras = sorted((shape for shape in scene.objects if shape.type == "CAMERA"), key=lambda shape: shape.name)
    if len(cameras) == 1:
        return cameras[0]
    names = ", ".join(camera.name for camera in cameras[:MOST_NAMES])
    raise SettingsError(
        f"{path} has {len(cameras) or 'no'} cameras{f' ({names})' if names else ''}, and one is needed to say which "
        "path is meant.",
        field="path",
    )


def _of_fbx(scene, path: Path, actions: set) -> _Found:
    """Of the imported ``actions`` there is one for each take, or, by the add-on, for each object of each take."""
    chain = [scene.camera]
    while chain[-1].parent is not None:
        chain.append(chain[-1].parent)
    names = {action.name for action in actions}
    if _importer(FBX).idname_py() == FBX_ADD_ON:
        marks = [(name, f"{one.name}|") for name in names for one in chain]
        names = {name.removeprefix(mark) for name, mark in marks if name.startswith(mark)}
    takes = {re.sub(r"\.\d+$", "", name) for name in names}
    if len(takes) > 1:
        raise SettingsError(
            f"{path} has {len(takes)} takes ({', '.join(sorted(takes)[:MOST_NAMES])}), and one is needed to say which "
            "motion is meant.",
            field="path",
        )
    used = [one.animation_data.action for one in chain if one.animation_data and one.animation_data.action]
    spans = [action.frame_range for action in used] or [(1.0, 1.0)]
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    return _Found(scene, first, last, scene.render.fps / scene.render.fps_base)


def _poses(scene, frames: np.ndarray) -> np.ndarray:
    poses = []
    for frame in frames:
        whole = round(frame) if abs(frame - round(frame)) < 1e-4 else int(np.floor(frame))
        scene.frame_set(whole, subframe=float(np.clip(frame - whole, 0.0, 0.9999)))
        evaluated = scene.camera.evaluated_get(scene.view_layers[0].depsgraph)
        poses.append(np.array(evaluated.matrix_world.normalized(), dtype=np.float64))
    return np.linalg.inv(poses[0]) @ np.stack(poses)
