# SPDX-License-Identifier: GPL-3.0-or-later
"""How well a made clip has the camera and the motion of its shot, where geometry and a true render of it are known.

Camera: each frame of the clip is laid over the true one by dense flow; so of every pixel that sees something still, the
exact point in the world and its place in the clip are known, and the camera that sees them there is computed (PnP).
Nothing drifts: every frame is measured by itself.  Motion: flow of the clip from frame to frame against the exact way
of each point (end-point error), and the clip against the true one (PSNR).  Needs OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from das_blender_addon.tracking.drawn import DrawnSurfaces
from das_blender_addon.tracking.geometry import GeometrySequence
from das_blender_addon.tracking.moments import moments
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.seen import seen_surfaces
from das_blender_addon.tracking.surface import interpolate_on_surface
from das_server.estimators.flow import Flow

STILL = 1e-4
"""Blender units; what moves farther in the shot is not still."""
MOST_POINTS, FEWEST_POINTS = 3000, 30
ROUND_TRIP_PX, OFF_SHARE = 1.0, 0.01
"""Points whose way there and back ends farther away do not count; of a camera those count that are off by less than
this share of the height."""
LIKE_TEXTURE = 0.5
"""Of the still points the share with the most texture counts."""


@dataclass(frozen=True)
class CameraError:
    """``rotation_deg``, ``translation`` [F]: of each frame that could be told; the latter in Blender units.  ``path``:
    how far the true camera goes, Blender units; ``turn_deg``: how far it turns.  ``frames``: F, of how many."""

    rotation_deg: np.ndarray
    translation: np.ndarray
    path: float
    turn_deg: float
    frames: tuple[int, int]


@dataclass(frozen=True)
class MotionError:
    """``psnr_db``: of all frames that are no key picture.  ``epe_px``: mean end-point error of the flow from frame to
    frame; ``way_px``: the mean length of the exact way."""

    psnr_db: float
    epe_px: float
    way_px: float


def camera_error(clip: np.ndarray, true: np.ndarray, geometry: GeometrySequence) -> CameraError:
    """Of ``clip`` against ``true``, both u8 [T,H,W,3], frames of ``geometry`` at their size."""
    cameras = geometry.cameras
    still, surfaces, flow = _still_triangles(geometry), DrawnSurfaces(geometry), Flow(is_exact=True)
    rotations, translations = [], []
    for index in range(geometry.num_frames):
        camera, surface = pinhole_at(cameras, index), surfaces.at(index)
        points = surfaces.optical(surface, index, camera)
        pixels, seen = seen_surfaces(points, surface.triangles, camera, None, surface.cut)
        world = surfaces.points(surface, index).astype(np.float64)
        places = interpolate_on_surface(pixels, seen, surface.triangles, points, world, camera)
        chosen = np.flatnonzero(still[seen])
        found = _found(flow, true[index], clip[index], pixels[chosen])
        kept = np.flatnonzero(np.isfinite(found[:, 0]))
        pose = _pose(places[chosen[kept]], found[kept], camera)
        if pose is not None:
            rotations.append(pose[0])
            translations.append(pose[1])
    centres = np.linalg.inv(cameras.camera_from_world)
    steps = np.linalg.norm(np.diff(centres[:, :3, 3], axis=0), axis=1)
    turns = [_angle(a[:3, :3] @ b[:3, :3].T) for a, b in zip(centres[1:], centres, strict=False)]
    told = len(rotations), geometry.num_frames
    return CameraError(np.array(rotations), np.array(translations), float(steps.sum()), float(np.sum(turns)), told)


def motion_error(clip: np.ndarray, true: np.ndarray, geometry: GeometrySequence, keys=()) -> MotionError:
    """Of ``clip`` against ``true`` and the motion of ``geometry``; ``keys``: indices of frames that are given."""
    flow, apart, ways = Flow(is_exact=True), [], []
    height, width = clip.shape[1:3]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    here = np.stack([x, y], axis=-1)
    for moment in moments(geometry, range(geometry.num_frames)):
        if moment.index:
            way = moment.before - here
            made = flow.between(_grey(clip[moment.index]), _grey(clip[moment.index - 1]))
            where = moment.visible_before
            apart.append(np.linalg.norm(made - way, axis=-1)[where])
            ways.append(np.linalg.norm(way, axis=-1)[where])
    others = [index for index in range(len(clip)) if index not in set(keys)]
    squares = np.mean((clip[others].astype(np.float64) - true[others]) ** 2)
    psnr = float(10.0 * np.log10(255.0**2 / squares)) if squares else float("inf")
    return MotionError(psnr, float(np.concatenate(apart).mean()), float(np.concatenate(ways).mean()))


def _still_triangles(geometry: GeometrySequence) -> np.ndarray:
    """[M] bool: none of the triangle's vertices moves."""
    first = np.array(geometry.vertices[0])
    moves = np.zeros(len(first), bool)
    for index in range(1, geometry.num_frames):
        moves |= ~(np.abs(np.asarray(geometry.vertices[index]) - first).max(axis=1) < STILL)
    return ~moves[geometry.triangles].any(axis=1)


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)


def _found(flow: Flow, true: np.ndarray, made: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """[P,2]: where the points of ``true`` at the flat ``pixels`` [P] are in ``made``, pixels, centres at +0.5; NaN
    where there is too little texture to tell, or the way back does not come home."""
    one, other = _grey(true), _grey(made)
    there, back = flow.between(one, other), flow.between(other, one)
    height, width = one.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    ahead = x + there[..., 0], y + there[..., 1]
    home = there + cv2.remap(back, *ahead, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (ahead[0] >= 0) & (ahead[1] >= 0) & (ahead[0] <= width - 1) & (ahead[1] <= height - 1)
    good = (inside & (np.linalg.norm(home, axis=2) <= ROUND_TRIP_PX)).reshape(-1)[pixels]
    texture = cv2.cornerMinEigenVal(one, 7).reshape(-1)[pixels]
    if len(texture):
        good &= texture >= np.quantile(texture, 1.0 - LIKE_TEXTURE)
    found = np.stack([part.reshape(-1)[pixels] + 0.5 for part in ahead], axis=1).astype(np.float64)
    found[~good] = np.nan
    return found


def _pose(places: np.ndarray, found: np.ndarray, camera) -> tuple[float, float] | None:
    """(degrees, Blender units) from ``camera`` to the one that sees ``places`` [P,3] at ``found`` [P,2]; None where too
    few points tell."""
    if len(places) < FEWEST_POINTS:
        return None
    step = max(1, len(places) // MOST_POINTS)
    places, found = np.ascontiguousarray(places[::step]), np.ascontiguousarray(found[::step])
    (fx, fy), (cx, cy) = camera.focal_px, camera.principal_px
    lens = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    true = np.asarray(camera.optical_from_world, np.float64)
    start = cv2.Rodrigues(true[:3, :3])[0], true[:3, 3:].copy()
    cv2.setRNGSeed(7)
    done, turn, way, inside = cv2.solvePnPRansac(
        places, found, lens, None, *start, True, iterationsCount=200, reprojectionError=OFF_SHARE * camera.height
    )
    if not done or inside is None or len(inside) < FEWEST_POINTS:
        return None
    inside = inside[:, 0]
    turn, way = cv2.solvePnPRefineLM(places[inside], found[inside], lens, None, turn, way)
    rotation = cv2.Rodrigues(turn)[0]
    centre, true_centre = -rotation.T @ way[:, 0], -true[:3, :3].T @ true[:3, 3]
    return _angle(rotation @ true[:3, :3].T), float(np.linalg.norm(centre - true_centre))


def _angle(rotation: np.ndarray) -> float:
    """Degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1.0) / 2.0, -1.0, 1.0))))
