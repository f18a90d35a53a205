# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours between a scene and its takes: what would change finished pixels, and the look that the first frame keeps.

A take's frames are finished sRGB pictures.  The scene's look (view transform, look, exposure, gamma, curves, white
balance) belongs into the first frame, once; the frames themselves are shown by the view *Standard*, which gives every
byte back.  `keep_look` moves the look from the scene's view into the first frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from mathutils import Color

from ..compat import offers
from . import ocio

LOGGER = logging.getLogger(__name__)
PLAIN_VIEWS, PLAIN_DISPLAYS = ("Standard", "Un-tone-mapped"), ("sRGB", "sRGB - Display")
"""What gives every sRGB byte back, in Blender's own colour configuration and in those of ACES."""
SRGB_SPACES = ("sRGB", "sRGB - Texture", "Utility - sRGB - Texture")
"""What finished 8-bit pictures are in, in the same configurations."""
NO_LOOK = "None"
SAME_SPACE = 1e-4
"""Blender's own matrices of linear Rec.709 to itself differ from the identity by some 1e-6."""


# ── What changes the pixels ─────────────────────────────────────────────────────────────────────────────────────────


def pixel_changes(scene) -> list[str]:
    """Everything in the scene's colour management that would change the frames of a take, in words."""
    view, output = scene.view_settings, scene.render.image_settings
    changes = []
    if view.view_transform != plain_view(scene):
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
    if scene.display_settings.display_device != plain_display(scene):
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
        return unknown_view(scene)
    listed = " and ".join(filter(None, (", ".join(changes[:-1]), changes[-1])))
    verb = "changes" if len(changes) == 1 and changes != ["the curves"] else "change"
    return f"{listed[0].upper()}{listed[1:]} {verb} the pixels of the frames; Keep Look shows them exactly as made"


# ── A view that changes nothing ─────────────────────────────────────────────────────────────────────────────────────


def plain_display(place) -> str:
    """The display of ``place`` (a scene, or its output) that shows sRGB pictures as they are; in a colour configuration
    without one the display that has a view of its role for them, or else the one that ``place`` has.
    """
    settings, studio = place.display_settings, ocio.configuration()
    by_role = (name for name in (settings.display_device, *studio.views) if studio.picture_views(name))
    known = (name for name in (*PLAIN_DISPLAYS, *by_role) if offers(settings, "display_device", name))
    return next(known, settings.display_device)


def plain_view(place) -> str:
    """The view transform of ``place``, for the display that it has, that shows sRGB pictures as they are; in a colour
    configuration without one the view of its role for them, or else the one that ``place`` has.
    """
    settings = place.view_settings
    by_role = ocio.configuration().picture_views(place.display_settings.display_device)
    known = (name for name in (*PLAIN_VIEWS, *by_role) if offers(settings, "view_transform", name))
    return next(known, settings.view_transform)


def unknown_view(scene) -> str:
    """One sentence where the colour configuration has no view that we know to be plain, which names the one that was
    chosen; "" where it has.
    """
    view, display, studio = plain_view(scene), scene.display_settings.display_device, ocio.configuration()
    if view in PLAIN_VIEWS:
        return ""
    start = (
        f"This Blender's colour configuration has no view {PLAIN_VIEWS[0]}: the frames are shown by the view {view} of "
        f"the display {display}"
    )
    if view in studio.picture_views(display):
        return f"{start}, whose colour space {studio.picture_space} is that of its role {studio.picture_role}"
    return f"{start}; choose the view that shows sRGB pictures as they are"


def read_as_srgb(owner) -> str:
    """Let an image or a strip read its bytes as sRGB pictures; the name of its colour space.

    Where the colour configuration has no space that we know to be that, it is the one of its role for 8-bit pictures,
    or else the one that Blender gave it.
    """
    space, studio = owner.colorspace_settings, ocio.configuration()
    known = next((name for name in (*SRGB_SPACES, studio.picture_space) if name and offers(space, "name", name)), "")
    if known:
        space.name = known
    if space.name not in SRGB_SPACES:
        role = f"that of its role {studio.picture_role}" if known else "Blender's choice"
        LOGGER.info("The colour configuration has no space sRGB; pictures are read as %s, %s.", space.name, role)
    return space.name


def is_srgb(image) -> bool:
    """Whether the bytes of an image are read as those of sRGB pictures."""
    return image.colorspace_settings.name in (*SRGB_SPACES, ocio.configuration().picture_space)


View = list[tuple[str, object]]
"""Paths from the scene and values of all that decides how pixels are shown, in the order in which it can be set."""


def show_plain(scene) -> View:
    """Give the scene, and its output where that has colours of its own, the view that shows a take's bytes as they
    are; what was there before.  The colour space of linear files (OpenEXR) is left alone.
    """
    output = scene.render.image_settings
    places = {"": scene} | ({"render.image_settings.": output} if output.color_management == "OVERRIDE" else {})
    before = []
    for path, place in places.items():
        view = place.view_settings
        before.append((f"{path}display_settings.display_device", place.display_settings.display_device))
        before += [(f"{path}view_settings.{name}", getattr(view, name)) for name in _VIEW if hasattr(view, name)]
    before.append(("render.dither_intensity", scene.render.dither_intensity))
    for path, place in places.items():
        set_view(scene, [(f"{path}display_settings.display_device", plain_display(place))])
        plain = _VIEW | {"view_transform": plain_view(place)}
        set_view(scene, [(f"{path}view_settings.{name}", value) for name, value in plain.items()])
    set_view(scene, [("render.dither_intensity", 0.0)])
    return before


def set_view(scene, view: View) -> None:
    """Set every property of ``view`` that this Blender has and that is another now."""
    for path, value in view:
        owner, _, name = path.rpartition(".")
        owner = scene.path_resolve(owner)
        if getattr(owner, name, value) != value:
            setattr(owner, name, value)


_VIEW = {
    "view_transform": "",  # `plain_view`; before the looks that it has
    "look": NO_LOOK,
    "exposure": 0.0,
    "gamma": 1.0,
    "use_curve_mapping": False,
    "use_white_balance": False,  # Blender 4.3 and newer
}
"""What a plain view has."""


# ── The look of the first frame ─────────────────────────────────────────────────────────────────────────────────────


def keep_look(scene) -> None:
    """Remember the scene's look for its first frame and give the scene a view that shows a take's bytes as they are.

    A look that was kept before stays where the scene's view has none of its own.
    """
    view, kept = scene.view_settings, scene.das
    if _has_look(scene):
        kept.first_frame_view, kept.first_frame_look = view.view_transform, view.look
        kept.first_frame_exposure, kept.first_frame_gamma = view.exposure, view.gamma
        kept.first_frame_curves = view.use_curve_mapping
        kept.first_frame_white_balance = getattr(view, "use_white_balance", False)
    show_plain(scene)
    scene.render.image_settings.color_management = "FOLLOW_SCENE"


def kept_look(scene) -> dict:
    """The view settings of the first frame that go before the scene's own (their names → values); {} for none."""
    kept = scene.das if hasattr(scene, "das") else None  # a scene has none while the extension is not enabled
    if kept is None or not kept.first_frame_view:
        return {}
    if not offers(scene.view_settings, "view_transform", kept.first_frame_view):
        LOGGER.warning(
            "This Blender's colour configuration has no view %r, which was kept for the first frame; it takes the "
            "scene's own view %r.",
            kept.first_frame_view,
            scene.view_settings.view_transform,
        )
        return {}
    return {
        "view_transform": kept.first_frame_view,
        "look": kept.first_frame_look or NO_LOOK,
        "exposure": kept.first_frame_exposure,
        "gamma": kept.first_frame_gamma,
        "use_curve_mapping": kept.first_frame_curves,
        "use_white_balance": kept.first_frame_white_balance,
    }


def _has_look(scene) -> bool:
    view = scene.view_settings
    return (
        view.view_transform != plain_view(scene)
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
    return _by(Color.from_rec709_linear_to_scene_linear, values)


def rec709_from_working(values: np.ndarray) -> np.ndarray:
    """The inverse of `working_from_rec709`."""
    return _by(Color.from_scene_linear_to_rec709_linear, values)


def _by(change: Callable[[Color], Color], values: np.ndarray) -> np.ndarray:
    matrix = np.array([tuple(change(Color(unit))) for unit in ((1, 0, 0), (0, 1, 0), (0, 0, 1))], np.float32)
    return values if np.allclose(matrix, np.eye(3), atol=SAME_SPACE) else values @ matrix
