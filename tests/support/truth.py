# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tracking video must show, found without this project's code: by Blender's rays, or by Cycles' own passes.

`by_rays` casts a ray through the centre of every pixel at the evaluated meshes of a frame, and looks its point up in
the first frame.  `by_cycles` knows what Cycles hit there (*Object Index*, *Position*) and carries it to the first frame
with the object: for what moves as a whole, whatever it is made of.
"""

from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from das_blender_addon import compat
from tests.support.exr import read_exr
from tests.support.waves import barycentric

PERCENTILES = (2.0, 98.0)
NORMAL_LENS = 50.0 / 36.0
HIDDEN = 1e-4
"""What is nearer than a point by more than this share of its distance hides it."""


@dataclass(frozen=True)
class Truth:
    """``colours`` [T,H,W,3] f64, 0 to 255; ``coverage`` [T,H,W] bool; ``visible`` [T,H,W] bool, whether the first frame
    shows the point, None where nobody knows; ``by_vertices`` [T,H,W,3]: colours of the vertices, interpolated, None.
    """

    colours: np.ndarray
    coverage: np.ndarray
    visible: np.ndarray | None = None
    by_vertices: np.ndarray | None = None


class View:
    """The scene's camera at the frame that is set, by Blender's own matrices."""

    def __init__(self, scene):
        depsgraph = bpy.context.evaluated_depsgraph_get()
        camera, render = scene.camera.evaluated_get(depsgraph), scene.render
        self.width, self.height = render.resolution_x, render.resolution_y
        projection = camera.calc_matrix_camera(
            depsgraph, x=self.width, y=self.height, scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y
        )
        self.place = np.array(camera.matrix_world)[:3, 3]
        self._camera = np.linalg.inv(np.array(camera.matrix_world.normalized(), np.float64))
        self._matrix = np.array(projection, np.float64) @ self._camera
        self._back = np.linalg.inv(self._matrix)
        self._behind = 0.0
        if camera.data.type == "ORTHO":
            self._behind = NORMAL_LENS * 2.0 / np.array(projection)[0, 0]

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the rays of all pixel centres begin and end [P,3]: on the near and the far plane."""
        y, x = (axis.reshape(-1) + 0.5 for axis in np.mgrid[: self.height, : self.width])
        return self.through(np.stack([x, y], axis=1))

    def through(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the places ``xy`` [P,2] of the picture."""
        x, y = 2.0 * xy[:, 0] / self.width - 1.0, 1.0 - 2.0 * xy[:, 1] / self.height
        ends = []
        for depth in (-1.0, 1.0):
            found = np.stack([x, y, np.full_like(x, depth), np.ones_like(x)], axis=1) @ self._back.T
            ends.append(found[:, :3] / found[:, 3:])
        return ends[0], ends[1]

    def sees(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where ``points`` [P,3] are in the picture [P,2], NaN behind the camera, and their depth [P]."""
        whole = np.c_[points, np.ones(len(points))]
        depth = -(whole @ self._camera.T)[:, 2]
        found = whole @ self._matrix.T
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = found[:, 0] / found[:, 3], found[:, 1] / found[:, 3]
        xy = np.stack([(x + 1.0) / 2.0 * self.width, (1.0 - y) / 2.0 * self.height], axis=1)
        xy[depth <= 0.0] = np.nan
        return xy, depth + self._behind


def colours_of(view: View, points: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """[P,3] f64, 0 to 255: of points of the first frame, in words; ``ends``: of the blue channel."""
    xy, depth = view.sees(points)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = ((xy >= 0.0) & (xy <= (view.width, view.height))).all(axis=1)
        blue = np.clip((1.0 / depth - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0)
    colours = 255.0 * np.stack([xy[:, 0] / view.width, xy[:, 1] / view.height, blue], axis=1)
    return np.where(inside[:, None], colours, 0.0)


# ── Rays ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def meshes_of(depsgraph) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """Instance → world vertices [N,3] f64 and triangles [M,3] of all that has faces and shows in ``depsgraph``."""
    found = {}
    for instance in depsgraph.object_instances:
        shape = instance.object
        if shape.type not in ("MESH", "CURVE", "SURFACE", "FONT", "META") or not instance.show_self:
            continue
        mesh = shape.to_mesh()
        if mesh is None:
            continue
        mesh.calc_loop_triangles()
        vertices = np.empty((len(mesh.vertices), 3), np.float32)
        mesh.vertices.foreach_get("co", vertices.reshape(-1))
        triangles = np.empty((len(mesh.loop_triangles), 3), np.int32)
        mesh.loop_triangles.foreach_get("vertices", triangles.reshape(-1))
        matrix = np.array(instance.matrix_world, np.float64)
        parent = instance.parent.name if instance.is_instance else ""
        numbers = tuple(instance.persistent_id) if instance.is_instance else ()
        if len(triangles):
            key = (parent, shape.name, numbers)
            found.setdefault(key, (vertices @ matrix[:3, :3].T + matrix[:3, 3], triangles))
        shape.to_mesh_clear()
    return found


class Rays:
    """The meshes of the frame that is set, and what rays meet of them; ``like``: those of the first frame."""

    def __init__(self, scene, like: "Rays | None" = None):
        meshes = meshes_of(bpy.context.evaluated_depsgraph_get())
        self.view = View(scene)
        self.keys = list(meshes) if like is None else like.keys
        vertices, triangles, offset = [], [], 0
        for key in self.keys:
            own, faces = meshes[key]
            vertices.append(own)
            triangles.append(faces + offset)
            offset += len(own)
        self.vertices = np.concatenate(vertices)
        self.triangles = np.concatenate(triangles) if like is None else like.triangles
        self._tree = BVHTree.FromPolygons(self.vertices.tolist(), self.triangles.tolist(), all_triangles=True)

    def hits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pixels [P] that see something, the triangles [P] that they see, and the weights [P,3] of its corners."""
        pixels, triangles, places = [], [], []
        for pixel, (start, end) in enumerate(zip(*self.view.rays(), strict=True)):
            way = Vector(end - start)
            place, _, triangle, _ = self._tree.ray_cast(Vector(start), way, way.length)
            if triangle is not None:
                pixels.append(pixel)
                triangles.append(triangle)
                places.append(place[:])
        corners = (self.vertices[self.triangles[triangles, corner]] for corner in range(3))
        weights = barycentric(np.array(places, np.float64).reshape(-1, 3), *corners)
        return np.array(pixels, np.int64), np.array(triangles, np.int64), weights

    def shows(self, points: np.ndarray) -> np.ndarray:
        """[P] bool: the camera sees the ``points`` [P,3] of its surfaces."""
        xy, _ = self.view.sees(points)
        shown = np.zeros(len(points), bool)
        inside = np.flatnonzero(((xy >= 0.0) & (xy <= (self.view.width, self.view.height))).all(axis=1))
        for number, start, end in zip(inside, *self.view.through(xy[inside]), strict=True):
            way, point = Vector(end - start), Vector(points[number])
            _, _, triangle, far = self._tree.ray_cast(Vector(start), way, way.length)
            asked = (point - Vector(start)).dot(way) / way.length
            shown[number] = triangle is not None and asked > 0.0 and far >= asked * (1.0 - HIDDEN) - 1e-5
        return shown


def by_rays(scene, frames) -> Truth:
    """For meshes that keep their topology, and whatever becomes one."""
    pictures = {name: [] for name in ("colours", "coverage", "visible", "by_vertices")}
    first = ends = None
    for frame in frames:
        scene.frame_set(frame)
        rays = Rays(scene, like=first)
        view, (pixels, triangles, weights) = rays.view, rays.hits()
        if first is None:
            first = rays
            places = np.einsum("pc,pcx->px", weights, first.vertices[first.triangles[triangles]])
            ends = np.percentile(1.0 / view.sees(places)[1], PERCENTILES)
            of_vertices = _published(first)
        corners = first.triangles[triangles]
        places = np.einsum("pc,pcx->px", weights, first.vertices[corners])
        for name, values in (
            ("colours", colours_of(first.view, places, ends)),
            ("coverage", np.ones(len(pixels), bool)),
            ("visible", first.shows(places)),
            ("by_vertices", np.einsum("pc,pcx->px", weights, of_vertices[corners])),
        ):
            picture = np.zeros((view.height * view.width, *values.shape[1:]), values.dtype)
            picture[pixels] = values
            pictures[name].append(picture.reshape(view.height, view.width, *values.shape[1:]))
    return Truth(**{name: np.stack(values) for name, values in pictures.items()})


def _published(first: Rays) -> np.ndarray:
    """[N,3] 0 to 255: colours as the published script gives them to vertices: black off the picture, and blue by the
    distances of all vertices.
    """
    far = np.linalg.norm(first.vertices - first.view.place, axis=1)
    low, high = np.percentile(1.0 / far, PERCENTILES)
    colours = colours_of(first.view, first.vertices, (low, high))
    blue = 255.0 * np.clip((1.0 / far - low) / max(high - low, 1e-9), 0.0, 1.0)
    inside = colours.any(axis=1)
    colours[:, 2] = np.where(inside, blue, 0.0)
    return colours


# ── Cycles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_cycles(scene, frames, folder: Path) -> Truth:
    """For objects that move as a whole and are no instances."""
    shapes = [shape for shape in scene.objects if shape.type != "CAMERA"]
    for number, shape in enumerate(shapes, 1):
        shape.pass_index = number
    first_matrices, first_view, ends = None, None, None
    colours, coverage = [], []
    for frame in frames:
        scene.frame_set(frame)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        matrices = [np.array(shape.evaluated_get(depsgraph).matrix_world, np.float64) for shape in shapes]
        view = View(scene)
        index, position = _cycles_passes(scene, folder / f"truth_{frame}.exr")
        pixels = np.flatnonzero(index)
        places = position.reshape(-1, 3)[pixels].astype(np.float64)
        if first_matrices is None:
            first_matrices, first_view = matrices, view
            ends = np.percentile(1.0 / view.sees(places)[1], PERCENTILES)
        for number, (now, then) in enumerate(zip(matrices, first_matrices, strict=True), 1):
            own = index.reshape(-1)[pixels] == number
            moved = then @ np.linalg.inv(now)
            places[own] = places[own] @ moved[:3, :3].T + moved[:3, 3]
        picture = np.zeros((view.height * view.width, 3))
        picture[pixels] = colours_of(first_view, places, ends)
        colours.append(picture.reshape(view.height, view.width, 3))
        coverage.append(index > 0)
    return Truth(np.stack(colours), np.stack(coverage))


def _cycles_passes(scene, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """[H,W] i32 and [H,W,3] f32: which object Cycles hits at the centres of pixels, and where."""
    layer, render = scene.view_layers[0], scene.render
    layer.use_pass_object_index = layer.use_pass_position = True
    render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 1, False, 0
    scene.cycles.transparent_max_bounces = 64
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", 0.01
    settings = render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.exr_codec, settings.color_depth = "OPEN_EXR_MULTILAYER", "NONE", "32"
    render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    planes = {tuple(name.split(".")[-2:]): values for name, values in read_exr(path).items()}
    position = np.stack([planes["Position", letter] for letter in "XYZ"], axis=2)
    return np.rint(planes[compat.INDEX_PASSES[0], "X"]).astype(np.int32), position
