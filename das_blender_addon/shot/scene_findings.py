# SPDX-License-Identifier: GPL-3.0-or-later
"""What an open scene itself tells of a shot before anything is exported: read only, nothing takes time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import DasError
from ..scene import sequencer
from ..scene.camera import active_camera, camera_from_blender, pixel_aspect, render_size
from ..scene.colours import colour_warning
from ..scene.drivers import check_drivers, handlers_of_session
from ..scene.lacking import lacking
from ..scene.layers import is_holdout, render_layer
from ..scene.simulations import unbaked
from ..scene.stereo import check_view
from .findings import NOTE, WARNING, Finding, refusal
from .settings import stereo_view


def findings_of_scene(scene, last: int) -> list[Finding]:
    """Of ``scene``, whose shot ends at the frame ``last``."""
    found: list[Finding] = []
    for check in (_check_view, _check_camera, check_drivers):
        found += _refused(lambda check=check: check(scene))
    found += _of_simulations(scene, last)
    found += _of_handlers()
    found += [Finding("file.lacks", WARNING, f"{clause}.", "It may render, and look wrong.") for clause in lacking()]
    if sequencer.hides_engine(scene):
        found.append(
            Finding(
                "scene.strips",
                WARNING,
                "The scene has strips, and Blender renders them instead of the shot.",
                "Turn off Post Processing › Sequencer.",
            )
        )
    words = colour_warning(scene)
    if words:
        found.append(Finding("scene.colours", WARNING, f"{words}.", "Keep Look puts the look into the pictures."))
    found += _of_pictures(scene)
    return found


def _refused(check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except DasError as error:
        return [refusal(error)]
    return []


def _check_view(scene) -> None:
    check_view(scene, stereo_view(scene))


def _check_camera(scene) -> None:
    camera = active_camera(scene, scene.frame_current)
    camera_from_blender(camera, *render_size(scene), aspect=pixel_aspect(scene))


def _of_simulations(scene, last: int) -> Iterator[Finding]:
    names = [one.name for one in unbaked(scene) if one.start <= last]
    if names:
        yield Finding(
            "scene.unbaked",
            WARNING,
            f"Not baked, and so simulated from the first frame on: {', '.join(names)}.",
            "Bake them, so that every job and every machine gets the same.",
        )


def _of_handlers() -> Iterator[Finding]:
    names = handlers_of_session()
    if names:
        yield Finding(
            "scene.handlers",
            WARNING,
            f"Only this session has the handlers {', '.join(names)}: what they change is not in what a second Blender "
            "exports and renders.",
            "Register them in a text of the file (Text › Register) or in an add-on.",
        )


def _of_pictures(scene) -> Iterator[Finding]:
    """What only a picture can show, and tracking does not."""
    camera = scene.camera
    if camera is not None and camera.type == "CAMERA" and camera.data.dof.use_dof:
        yield Finding(
            "scene.depth_of_field",
            NOTE,
            "Depth of field is in the pictures that Blender renders; tracking follows every point sharply.",
            objects=(camera.name,),
        )
    if scene.render.use_motion_blur:
        yield Finding("scene.motion_blur", NOTE, "Motion blur does not show in the shot's pictures.")
    layer = render_layer(scene)
    holdouts = tuple(
        shape.name
        for shape in _objects_of(layer.layer_collection)
        if not shape.hide_render and is_holdout(shape, layer)
    )
    if holdouts:
        words = "Holdouts cut holes into the picture: they are black, and nothing is tracked in them or through them."
        remedy = ""
        if not scene.render.film_transparent:
            words += " Their alpha is 1, as that of the whole film, where Cycles gives 0."
            remedy = "Choose Film › Transparent for holes that have no alpha."
        yield Finding("scene.holdout", NOTE, words, remedy, objects=holdouts)


def _objects_of(layer_collection) -> dict:
    """The objects of a view layer, each once: its own list may be out of date (Blender 5.2)."""
    if layer_collection.exclude:
        return {}
    found = dict.fromkeys(layer_collection.collection.objects)
    for child in layer_collection.children:
        found |= _objects_of(child)
    return found
