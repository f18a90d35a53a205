# SPDX-License-Identifier: GPL-3.0-or-later
"""A remeshed, waving Suzanne, and how well its tracking video knows where its points really were."""

from dataclasses import dataclass

import bpy
import numpy as np
from mathutils.bvhtree import BVHTree

from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.tracking.drawn import DrawnSurfaces
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.seen import seen_surfaces
from das_blender_addon.tracking.surface import interpolate_on_surface
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.scenes import add_camera

SIZE = (128, 96)


def waving_suzanne(scene, *, voxel_size=0.05, along_normal=False):
    """A camera and Suzanne, smooth, with a wave that runs through it and a new mesh in every frame."""
    add_camera(scene, location=(0.0, -5.0, 0.3))
    bpy.ops.mesh.primitive_monkey_add()
    suzanne = bpy.context.object
    smooth = suzanne.modifiers.new("Smooth", "SUBSURF")
    smooth.levels = smooth.render_levels = 1
    wave = suzanne.modifiers.new("Wave", "WAVE")
    wave.height, wave.width, wave.narrowness, wave.speed, wave.time_offset = 0.15, 1.2, 1.5, 0.06, -60
    wave.use_normal = along_normal
    remesh = suzanne.modifiers.new("Remesh", "REMESH")
    remesh.mode, remesh.voxel_size = "VOXEL", voxel_size
    return suzanne


def exported(scene, frames, size=SIZE):
    export = GeometryExport(*size)
    walk_in_render(scene, scene.view_layers[0].name, frames, export.add)
    return export.finish()


@dataclass(frozen=True)
class Kept:
    """Of the pixels of the last frame that see the surface: how many have a place in the first frame, how many that
    place within a pixel of the true one, and the errors [P] of those that have one, in pixels.
    """

    placed: float
    within_a_pixel: float
    errors: np.ndarray
    moved: float


def kept_points(geometry, truth) -> Kept:
    """Compare the tracking video of ``geometry`` with ``truth``, the same surface with one mesh in all frames."""
    last = geometry.num_frames - 1
    video = render_tracking_video(geometry)
    surfaces, camera = DrawnSurfaces(geometry), pinhole_at(geometry.cameras, last)
    surface = surfaces.at(last)
    world = surfaces.points(surface, last)
    points = camera.optical_points(world)
    pixels, seen = seen_surfaces(points, surface.triangles, camera)
    places = interpolate_on_surface(pixels, seen, surface.triangles, points, world.astype(np.float64), camera)
    now, then = truth.vertices[last].astype(np.float64), truth.vertices[0].astype(np.float64)
    tree = BVHTree.FromPolygons(now.tolist(), truth.triangles.tolist(), all_triangles=True)
    hits = [tree.find_nearest(place) for place in places.tolist()]
    corners = truth.triangles[[hit[2] for hit in hits]]
    nearest = np.array([hit[0][:] for hit in hits])
    weights = barycentric(nearest, *(now[corner] for corner in corners.T))
    first = pinhole_at(geometry.cameras, 0)
    true_xy = first.project(first.optical_points(np.einsum("pc,pck->pk", weights, then[corners])))
    xy = video.first_frame_xy[last].reshape(-1, 2)[pixels]
    errors = np.linalg.norm(xy - true_xy, axis=1)
    placed = np.isfinite(errors)
    rows, columns = np.divmod(pixels, camera.width)
    moved = float(np.median(np.linalg.norm(true_xy - np.stack([columns, rows], axis=1) - 0.5, axis=1)))
    return Kept(float(placed.mean()), float((errors <= 1.0).mean()), errors[placed], moved)


def barycentric(points, a, b, c) -> np.ndarray:
    """[P,3] weights of the corners ``a``, ``b``, ``c`` [P,3] at the ``points`` [P,3] of their triangles."""
    normal = np.cross(b - a, c - a)
    area = np.maximum(np.einsum("pk,pk->p", normal, normal), 1e-30)
    second = np.einsum("pk,pk->p", np.cross(points - a, c - a), normal) / area
    third = np.einsum("pk,pk->p", np.cross(b - a, points - a), normal) / area
    return np.stack([1.0 - second - third, second, third], axis=1)
