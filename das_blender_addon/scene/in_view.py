# SPDX-License-Identifier: GPL-3.0-or-later
"""Which objects that render never come into a shot's view: what is tracked of them nobody will see.

An object whose instances are shown by another one counts as that one: it is what can be moved.  Only what is certain is
said: an object is out of view while all its vertices are beyond one side of what the camera sees.
"""

from __future__ import annotations

import numpy as np

from ..tracking.geometry import BACKGROUND, OFF_SCREEN, CameraPath, Note
from .instances import Mesh, Placement

WORDS = "never comes into view"
_MOST_INSTANCES = 256
"""Of one object; those beyond count as seen where their boxes are."""


class InView:
    """Those of a shot: `look` at every frame."""

    def __init__(self):
        self._seen: dict[str, bool] = {}

    @property
    def notes(self) -> tuple[Note, ...]:
        """One for each object that was there and in no frame in view."""
        return tuple(Note(name, OFF_SCREEN, WORDS) for name, seen in sorted(self._seen.items()) if not seen)

    def look(self, cameras: CameraPath, meshes: list[Mesh]) -> None:
        """The next frame: ``meshes``, seen by the last camera of ``cameras``."""
        planes = None
        for mesh in meshes:
            for placement in mesh.placements:
                name = placement.name[0] or placement.name[1]
                if self._seen.get(name) or not mesh.topology.num_vertices:
                    continue
                planes = _planes(cameras) if planes is None else planes
                self._seen[name] = _is_in_view(mesh, placement, planes)


def _planes(cameras: CameraPath) -> np.ndarray:
    """[6,4] f64: sides of what the last camera sees; a world point p is inside where all planes · (p, 1) ≥ 0.  Near and
    far are the last two.
    """
    (focal_x, focal_y), (middle_x, middle_y) = cameras.focal_px[-1], cameras.principal_px[-1]
    # (X, −Y, −Z) of camera space is right, down and ahead in the picture.
    right, down, ahead = np.diag([1.0, -1.0, -1.0]) @ cameras.camera_from_world[-1][:3]
    one = np.array([0.0, 0.0, 0.0, 1.0])
    is_parallel = cameras.virtual_distance is not None and cameras.virtual_distance[-1] > 0.0
    per_pixel = one if is_parallel else ahead
    return np.stack([
        right + per_pixel * (middle_x / focal_x),
        per_pixel * ((cameras.width - middle_x) / focal_x) - right,
        down + per_pixel * (middle_y / focal_y),
        per_pixel * ((cameras.height - middle_y) / focal_y) - down,
        ahead - one * cameras.clip_start[-1],
        one * cameras.clip_end[-1] - ahead,
    ])  # fmt: skip


def _is_in_view(mesh: Mesh, placement: Placement, planes: np.ndarray) -> bool:
    """Whether an instance of ``mesh`` may be inside the ``planes`` [6,4]."""
    positions = mesh.positions
    if not np.isfinite(positions).all():
        positions = positions[np.isfinite(positions).all(axis=1)]
    if not len(positions):
        return False
    if placement.role == BACKGROUND:  # neither near nor far cuts it
        planes = planes[:4]
    low, high = positions.min(axis=0), positions.max(axis=0)
    corners = np.array([(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    # World planes through the matrices are planes in each instance's own space.
    own = np.einsum("pj,kji->kpi", planes[:, :3], placement.matrices.astype(np.float64))
    own[..., 3] += planes[:, 3]
    near = np.flatnonzero(~_all_beyond(own, corners))
    if not len(near) or len(near) > _MOST_INSTANCES:
        return bool(len(near))
    return any(not _all_beyond(own[[instance]], positions)[0] for instance in near)


def _all_beyond(planes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[K] bool: all ``points`` [N,3] are beyond the same one of the ``planes`` [K,P,4]."""
    distance = planes[..., :3] @ points.astype(np.float64).T + planes[..., 3:]
    return (distance < 0.0).all(axis=2).any(axis=1)
