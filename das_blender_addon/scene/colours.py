# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours between a scene and its takes: what would change finished pixels, and the look that the first frame keeps.

A take's frames are finished sRGB pictures.  The scene's look (view transform, look, exposure, gamma, curves, white
balance) belongs into the first frame, once; the frames themselves are shown by the view *Standard*, which gives every
byte back.  `keep_look` moves the look from the scene's view into the first frame.
"""

from __future__ import annotations

import numpy as np
from mathutils import Color

from ..errors import SettingsError

PLAIN_VIEW, NO_LOOK, SRGB = "Standard", "None", "sRGB"
SAME_SPACE = 1e-4
"""Blender's own matrices of linear Rec.709 to itself differ from the identity by some 1e-6."""


# ── What changes the pixels ─────────────────────────────────────────────────────────────────────────────────────────


def pixel_changes(scene) -> list[str]:
    """Everything in the scene's colour management that would change the frames of a take, in words."""
    view, output = scene.view_settings, scene.render.image_settings
    changes = []
    if view.view_transform != PLAIN_VIEW:
        changes.append(f"the view transform {view.view_transform}")
    if view.look != NO_LOOK:
        changes.append(f"the look {view.look}")
    if abs(view.exposure) > 1e-6:
        changes.append(f"the exposure {view.exposure:g}")
    if abs(view.gamma - 1.0) > 1e-6:
        changes.append(f"the gamma {view.gamma:g}")
    if view.use_curve_mapping:
        changes.append("the curves")
    if getattr(view, "use_white_balance", False):  # Blender 4.3 and newer
        changes.append("the white balance")
    if scene.display_settings.display_device != SRGB:
        changes.append(f"the display {scene.display_settings.display_device}")
    if output.color_management == "OVERRIDE":
        changes.append("the output's own colour management")
    if scene.render.dither_intensity > 0.0:
        changes.append(f"dithering ({scene.render.dither_intensity:g})")
    return changes


def colour_warning(scene) -> str:
    """One sentence that lists `pixel_changes` and says what to do, "" when the frames are shown as they are."""
    changes = pixel_changes(scene)
    if not changes:
        return ""
    listed = " and ".join(filter(None, (", ".join(changes[:-1]), changes[-1])))
    verb = "changes" if len(changes) == 1 and changes != ["the curves"] else "change"
    return f"{listed[0].upper()}{listed[1:]} {verb} the pixels of the frames; Keep Look shows them exactly as made"


# ── A view that changes nothing ─────────────────────────────────────────────────────────────────────────────────────

View = list[tuple[str, object]]
"""Paths from the scene and values of all that decides how pixels are shown, in the order in which it can be set."""


def show_plain(scene) -> View:
    """Give the scene, and its output where that has colours of its own, the view that shows a take's bytes as they
    are; what was there before.  The colour space of linear files (OpenEXR) is left alone.
    """
    plain = _plain_view(scene)
    before = [(path, scene.path_resolve(path)) for path, _ in plain]
    if before != plain:
        set_view(scene, plain)
    return before


def set_view(scene, view: View) -> None:
    """Set every property of ``view``."""
    for path, value in view:
        owner, _, name = path.rpartition(".")
        setattr(scene.path_resolve(owner), name, value)


def _plain_view(scene) -> View:
    """What makes a view plain; the view transform comes before the looks that it has."""
    values = {
        "display_settings.display_device": SRGB,
        "view_settings.view_transform": PLAIN_VIEW,
        "view_settings.look": NO_LOOK,
        "view_settings.exposure": 0.0,
        "view_settings.gamma": 1.0,
        "view_settings.use_curve_mapping": False,
    }
    if hasattr(scene.view_settings, "use_white_balance"):  # Blender 4.3 and newer
        values["view_settings.use_white_balance"] = False
    view: View = [("render.dither_intensity", 0.0), *values.items()]
    if scene.render.image_settings.color_management == "OVERRIDE":
        view += [(f"render.image_settings.{path}", value) for path, value in values.items()]
    return view


# ── The look of the first frame ─────────────────────────────────────────────────────────────────────────────────────


def keep_look(scene) -> None:
    """Remember the scene's look for its first frame and give the scene a view that shows a take's bytes as they are.

    A look that was kept before stays where the scene's view has none of its own.  Raises `SettingsError` where this
    Blender's colour configuration has no such view.
    """
    view, kept = scene.view_settings, scene.das
    if _has_look(view):
        kept.first_frame_view, kept.first_frame_look = view.view_transform, view.look
        kept.first_frame_exposure, kept.first_frame_gamma = view.exposure, view.gamma
        kept.first_frame_curves = view.use_curve_mapping
        kept.first_frame_white_balance = getattr(view, "use_white_balance", False)
    try:
        scene.display_settings.display_device = SRGB
        view.view_transform, view.look = PLAIN_VIEW, NO_LOOK
    except TypeError as error:
        raise SettingsError(
            f"This Blender's colour configuration has no view {PLAIN_VIEW} of the display {SRGB}; "
            "choose one that shows sRGB pictures as they are."
        ) from error
    view.exposure, view.gamma, view.use_curve_mapping = 0.0, 1.0, False
    if hasattr(view, "use_white_balance"):
        view.use_white_balance = False
    scene.render.image_settings.color_management = "FOLLOW_SCENE"
    scene.render.dither_intensity = 0.0


def kept_look(scene) -> dict:
    """The view settings of the first frame that go before the scene's own (their names → values); {} for none."""
    kept = scene.das if hasattr(scene, "das") else None  # a scene has none while the extension is not enabled
    if kept is None or not kept.first_frame_view:
        return {}
    return {
        "view_transform": kept.first_frame_view,
        "look": kept.first_frame_look or NO_LOOK,
        "exposure": kept.first_frame_exposure,
        "gamma": kept.first_frame_gamma,
        "use_curve_mapping": kept.first_frame_curves,
        "use_white_balance": kept.first_frame_white_balance,
    }


def _has_look(view) -> bool:
    return (
        view.view_transform != PLAIN_VIEW
        or view.look != NO_LOOK
        or abs(view.exposure) > 1e-6
        or abs(view.gamma - 1.0) > 1e-6
        or view.use_curve_mapping
        or getattr(view, "use_white_balance", False)
    )


# ── The file's working space ────────────────────────────────────────────────────────────────────────────────────────


def working_from_rec709(values: np.ndarray) -> np.ndarray:
    """Linear Rec.709 [...,3] f32 → the scene-linear space of the open file, by Blender's own matrix.

    Up to Blender 4.5 (and in most files) that is linear Rec.709 too: the same array comes back.
    """
    rows = [Color(unit).from_rec709_linear_to_scene_linear() for unit in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    matrix = np.array([tuple(row) for row in rows], np.float32)
    if np.allclose(matrix, np.eye(3), atol=SAME_SPACE):
        return values
    return values @ matrix
