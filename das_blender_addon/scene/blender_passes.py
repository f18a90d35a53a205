# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own render passes, as a view layer asks for them, filled from the frame's exact geometry: what Cycles gives
at the centre of each pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..compat import INDEX_PASSES
from ..tracking.cryptomatte import NOTHING, ids_of, ranked, said_in_files, sampled
from ..tracking.passes import SurfacePasses, surface_passes
from .camera import active_camera
from .content.surfaces import RenderSheets
from .export import GeometryExport
from .grease_pencil import has_grease_pencil
from .shading import ShadingReader

FAR_AWAY = 1e10
"""Depth where there is no surface, as Blender's engines give it."""


@dataclass(frozen=True)
class Pass:
    """``name``: in the render result, in files and in the compositor.  ``setting``: the view layer's; ``channels``: a
    letter each; ``kind``: Blender's name for what the numbers are.
    """

    name: str
    setting: str
    channels: str
    kind: str


DEPTH = Pass("Depth", "use_pass_z", "Z", "VALUE")
NORMAL = Pass("Normal", "use_pass_normal", "XYZ", "VECTOR")
VECTOR = Pass("Vector", "use_pass_vector", "XYZW", "VECTOR")
OBJECT_INDEX = Pass(INDEX_PASSES[0], "use_pass_object_index", "X", "VALUE")
MATERIAL_INDEX = Pass(INDEX_PASSES[1], "use_pass_material_index", "X", "VALUE")
PASSES = (DEPTH, NORMAL, VECTOR, OBJECT_INDEX, MATERIAL_INDEX)
OBJECTS, MATERIALS, ASSETS = "CryptoObject", "CryptoMaterial", "CryptoAsset"
MATTES = {
    OBJECTS: "use_pass_cryptomatte_object",
    MATERIALS: "use_pass_cryptomatte_material",
    ASSETS: "use_pass_cryptomatte_asset",
}
"""How the names of Cryptomatte's passes begin → the view layer's setting."""
MOST_LEVELS = 16
"""Of Cryptomatte; two in each pass."""


def wanted_passes(scene, layer) -> tuple[Pass, ...]:
    """Those that ``layer`` of ``scene`` has turned on; with Grease Pencil the depth in any case: Blender draws it over
    the result, behind what this says is nearer.
    """
    found = [one for one in PASSES if getattr(layer, one.setting) or (one is DEPTH and has_grease_pencil(scene))]
    for kind, setting in MATTES.items():
        if getattr(layer, setting):
            count = (min(MOST_LEVELS, layer.pass_cryptomatte_depth) + 1) // 2
            found += [Pass(f"{kind}{number:02d}", setting, "rgba", "COLOR") for number in range(count)]
    return tuple(found)


def render_passes(
    depsgraph,
    size: tuple[int, int],
    wanted: tuple[Pass, ...],
    step: Callable[[int | None], None],
    check: Callable[[], None] | None = None,
    sheets: RenderSheets | None = None,
    said: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Name → [H,W,C] f32, rows top-down, of the passes ``wanted`` of the frame that ``depsgraph``, a render's, holds.

    ``size``: (width, height).  For *Vector* ``step(frame)`` sets it to the frames beside it, and back with None;
    ``check`` is called now and then; ``sheets`` renders alpha that is no image, which is solid without; what they raise
    passes through.  ``said`` gets what files say of the passes.  Raises `SceneError`.
    """
    scene = depsgraph.scene
    frame = scene.frame_current
    camera = active_camera(scene, frame)  # a cut is no motion: all frames are seen by the camera of this one
    export = GeometryExport(*size, shading=ShadingReader())
    if VECTOR not in wanted:
        export.add(frame, depsgraph, is_shaded=True)
        geometry, index, motion = export.finish(sheets), 0, {}
    else:
        try:
            for number in (frame - 1, frame, frame + 1):
                step(number)
                export.add(number, depsgraph, camera, is_shaded=number == frame)
        finally:
            step(None)
        geometry, index, motion = export.finish(sheets), 1, {"before": 0, "after": 2}
    mattes = [one for one in wanted if one not in _VALUES]
    made = _mattes(geometry, index, export.shading, mattes, depsgraph.view_layer.name, check, said)
    if len(mattes) < len(wanted):
        found = surface_passes(geometry, index, **motion, shading=export.shading, check=check)
        made |= {one.name: _VALUES[one](found) for one in wanted if one in _VALUES}
    return made


def _mattes(geometry, index: int, shading, wanted: list[Pass], layer: str, check, said) -> dict[str, np.ndarray]:
    """Name → [H,W,4] f32: two ids and their coverages in each."""
    if not wanted:
        return {}
    objects, materials = sampled(geometry, index, shading, check)
    things = {
        OBJECTS: (objects, shading.object_names), ASSETS: (objects, shading.assets),
        MATERIALS: (materials, shading.material_names),
    }  # fmt: skip
    shape, made = (geometry.cameras.height, geometry.cameras.width), {}
    for kind, (samples, names) in things.items():
        own = [one for one in wanted if one.name.startswith(kind)]
        if not own:
            continue
        each = sorted(set(names))
        number = np.array([each.index(name) for name in names], np.int32)
        samples = np.where(samples == NOTHING, NOTHING, np.append(number, NOTHING)[samples]).astype(np.int32)
        pairs = ranked(samples, ids_of(each), 2 * len(own)).reshape(*shape, len(own), 4)
        made |= {one.name: pairs[:, :, place] for place, one in enumerate(own)}
        if said is not None:
            said.update(said_in_files(f"{layer}.{kind}", each))
    return made


def _vector(found: SurfacePasses) -> np.ndarray:
    """(x, y) to where the point was in the frame before, and from where it will be in the frame after; y up."""
    values = np.concatenate([found.before, -found.after], axis=2) * np.array((1, -1, 1, -1), np.float32)
    return np.where(np.isfinite(values), values, np.float32(0.0))


_VALUES = {
    DEPTH: lambda found: np.minimum(found.depth, np.float32(FAR_AWAY))[..., None],
    NORMAL: lambda found: found.normal,
    VECTOR: _vector,
    OBJECT_INDEX: lambda found: found.object_index[..., None].astype(np.float32),
    MATERIAL_INDEX: lambda found: found.material_index[..., None].astype(np.float32),
}
