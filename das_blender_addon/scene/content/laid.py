# SPDX-License-Identifier: GPL-3.0-or-later
"""Where images lie on the triangles that they cut out, and whether they stay there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .shader import Alpha


@dataclass(frozen=True)
class Laid:
    """Triangles of the object ``name`` that an image cuts out by ``alpha`` of the ``material``, where it lay on them
    first: ``corners`` [C,3] of the mesh, at ``uv`` [C,3,2] f32.
    """

    name: str
    material: str
    alpha: Alpha
    corners: np.ndarray
    uv: np.ndarray

    def has_moved(self, data) -> bool:
        """Whether the image does not lie there any more, on the mesh ``data``."""
        found = uv_of(data, self.alpha)
        if found is None or self.corners.max(initial=-1) >= len(found):
            return True
        return not np.array_equal(found[self.corners], self.uv, equal_nan=True)


def uv_of(data, alpha: Alpha) -> np.ndarray | None:
    """[L,2] f32 of all corners, where the image is on them; None where the mesh has no such map."""
    layers = data.uv_layers
    layer = layers.get(alpha.uv_map) if alpha.uv_map else next((one for one in layers if one.active_render), None)
    if layer is None:
        return None
    corners = np.empty((len(data.loops), 2), np.float32)
    layer.uv.foreach_get("vector", corners.reshape(-1))
    (scale_u, offset_u), (scale_v, offset_v) = alpha.placement
    return corners * np.float32((scale_u, scale_v)) + np.float32((offset_u, offset_v))
