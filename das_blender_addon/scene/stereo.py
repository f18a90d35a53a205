# SPDX-License-Identifier: GPL-3.0-or-later
"""One view of a stereoscopic scene, chosen by its name: a take has one.

The rules are Blender's own (``camera_stereo3d_model_matrix``, ``camera_stereo3d_shift_x``,
``camera_multiview_advanced``); they are repeated here because nothing but a render of all views follows them.
"""

from __future__ import annotations

from dataclasses import replace
from math import atan, cos, sin

import bpy
import numpy as np

from ..errors import SceneError
from ..tracking.geometry import CameraPath


def view_names(scene) -> list[str]:
    """The views that ``scene`` renders, [] without stereoscopy."""
    render = scene.render
    if not render.use_multiview:
        return []
    views = [view.name for view in render.views if view.use]
    return [name for name in views if name in ("left", "right")] if render.views_format == "STEREO_3D" else views


def check_view(scene, view: str) -> None:
    """Raise `SceneError` where ``scene`` has several views and ``view`` is none of them."""
    names = view_names(scene)
    if scene.render.use_multiview and view not in names:
        what = f"there is no view {view!r}" if view else "a take has one view only"
        raise SceneError(
            f"Stereoscopy is on, and {what}: choose {' or '.join(map(repr, names))} as View (DAS_VIEW), or turn off "
            "Output › Stereoscopy.",
            field="view",
        )


def camera_of_view(scene, camera, view: str):
    """The camera object of ``view``, "" for none, where ``camera`` is the scene's: of several cameras the one that is
    named so.  Does not ask whether stereoscopy is on: a walk turns it off.
    """
    if not view or scene.render.views_format != "MULTIVIEW":
        return camera
    suffixes = {one.name: one.camera_suffix for one in scene.render.views if one.use}
    for suffix in suffixes.values():
        if suffix and camera.name.endswith(suffix):
            found = bpy.data.objects.get(camera.name[: -len(suffix)] + suffixes[view])
            return camera if found is None else found
    return camera


def seen_by_eye(cameras: CameraPath, scene, lens, view: str) -> CameraPath:
    """``cameras``, one of them, with the camera data ``lens``, as the eye ``view`` of a pair sees; as they are where
    the scene has no pair.
    """
    if not view or scene.render.views_format != "STEREO_3D":
        return cameras
    stereo, is_left = lens.stereo, view == "left"
    if stereo.pivot == ("LEFT" if is_left else "RIGHT"):
        return cameras
    share = 0.5 if stereo.pivot == "CENTER" else 1.0
    aside = share * stereo.interocular_distance * (1.0 if is_left else -1.0)
    camera_from_eye, principal = np.eye(4), cameras.principal_px.copy()
    camera_from_eye[0, 3] = -aside
    if stereo.convergence_mode == "TOE":
        angle = atan(0.5 * stereo.interocular_distance / stereo.convergence_distance) * (1.0 if is_left else -1.0)
        turn = np.eye(4)
        turn[0, [0, 2]], turn[2, [0, 2]] = (cos(angle), -sin(angle)), (sin(angle), cos(angle))
        # About a pivot that is the other eye, the line between both is turned, too.
        camera_from_eye = camera_from_eye @ turn if stereo.pivot == "CENTER" else turn @ camera_from_eye @ turn
    if stereo.convergence_mode == "OFFAXIS":
        sensor = lens.sensor_height if lens.sensor_fit == "VERTICAL" else lens.sensor_width
        across = cameras.focal_px[:, 0] * (lens.ortho_scale if lens.type == "ORTHO" else sensor / lens.lens)
        principal[:, 0] -= aside / stereo.convergence_distance * lens.lens / lens.sensor_width * across
    seen_from = np.linalg.inv(camera_from_eye) @ cameras.camera_from_world
    return replace(cameras, camera_from_world=seen_from, principal_px=principal)
