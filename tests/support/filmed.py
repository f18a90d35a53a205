# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip of a Blender scene of which all is known: depth, camera and where each point of the first picture goes."""

from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

from das_blender_addon.footage.clip import ClipPlate
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene.camera import camera_from_blender
from tests.support.raycast import camera_rays
from tests.support.rooms import painted

HIDDEN = 0.02
"""A point this share farther away than what its pixel shows is hidden."""


@dataclass(frozen=True)
class Film:
    """``plate``: all that is known, tracks of every ``every``-th pixel; ``names`` [T,H,W] of what each pixel shows."""

    plate: ClipPlate
    names: np.ndarray


def film(scene, num_frames: int, *, every: int = 1, pictures: np.ndarray | None = None, thing: str = "") -> Film:
    """What the scene's camera sees from frame 1 on; ``thing``: the object that becomes a mask.  Rigid objects only."""
    width, height = scene.render.resolution_x, scene.render.resolution_y
    depths, names, cameras, worlds, views = [], [], [], [], []
    local = owners = None
    for number in range(num_frames):
        scene.frame_set(1 + number)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        shown = scene.camera.evaluated_get(depsgraph)
        view = camera_from_blender(shown, width, height)
        depth, who, hits = _cast(scene, depsgraph, view, width, height)
        depths.append(depth)
        names.append(who)
        cameras.append(np.array(shown.matrix_world.normalized(), dtype=np.float64))
        worlds.append({one.name: np.array(one.evaluated_get(depsgraph).matrix_world) for one in scene.objects})
        views.append(view)
        if local is None:
            owners = who[::every, ::every].ravel()
            local = _local(hits[::every, ::every].reshape(-1, 3), owners, worlds[0])
    scene.frame_set(1)
    tracks, visible = _tracks(local, owners, worlds, views, depths)
    depth, names = np.stack(depths), np.stack(names)
    masks = {thing: names[0] == thing} if thing else {}
    made = np.stack([painted(one) for one in names]) if pictures is None else pictures
    valid, lens = np.isfinite(depth), scene.camera.data.lens
    plate = ClipPlate(
        made,
        np.where(valid, depth, 0.0).astype(np.float32),
        valid,
        lens,
        24.0,
        np.stack(cameras),
        tracks,
        visible,
        masks,
    )
    return Film(plate, names)


def _cast(scene, depsgraph, view, width, height):
    y, x = np.mgrid[0:height, 0:width] + 0.5
    origin, rays = camera_rays(view, 0, x.ravel(), y.ravel())
    hits, names = _hit(scene, depsgraph, origin, rays)
    depth = np.einsum("nc,nc->n", hits - origin, rays) / np.einsum("nc,nc->n", rays, rays)
    depth = np.where(np.isfinite(depth), depth, np.inf)
    return depth.reshape(height, width), names.reshape(height, width), hits.reshape(height, width, 3)


def _local(hits: np.ndarray, owners: np.ndarray, world: dict) -> np.ndarray:
    local = np.full(hits.shape, np.nan)
    for name in set(owners) - {""}:
        chosen, back = owners == name, np.linalg.inv(world[name])
        local[chosen] = hits[chosen] @ back[:3, :3].T + back[:3, 3]
    return local


def _tracks(local, owners, worlds, views, depths):
    count, (height, width) = len(worlds), depths[0].shape
    known = owners != ""
    tracks = np.zeros((count, int(known.sum()), 3), np.float32)
    visible = np.zeros(tracks.shape[:2], bool)
    for number, (world, view, depth) in enumerate(zip(worlds, views, depths, strict=True)):
        places = np.zeros((len(local), 3))
        for name in set(owners) - {""}:
            chosen = owners == name
            places[chosen] = local[chosen] @ world[name][:3, :3].T + world[name][:3, 3]
        seen = places[known] @ view.camera_from_world[0][:3, :3].T + view.camera_from_world[0][:3, 3]
        z = -seen[:, 2]
        x = view.principal_px[0, 0] + view.focal_px[0, 0] * seen[:, 0] / z
        y = view.principal_px[0, 1] - view.focal_px[0, 1] * seen[:, 1] / z
        tracks[number] = np.stack([x, y, z], axis=1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0)
        at = np.floor(np.clip(y, 0, height - 1)).astype(int), np.floor(np.clip(x, 0, width - 1)).astype(int)
        visible[number] = inside & (z < depth[at] * (1.0 + HIDDEN))
    return tracks, visible


def textured(scene, *, scale: float = 7.0) -> None:
    """Every mesh shines with a pattern of its own that a tracker can hold on to."""
    for number, shape in enumerate(one for one in scene.objects if one.type == "MESH"):
        material = bpy.data.materials.new(f"Pattern {shape.name}")
        if material.node_tree is None:
            material.use_nodes = True
        tree = material.node_tree
        tree.nodes.clear()
        place, noise = tree.nodes.new("ShaderNodeTexCoord"), tree.nodes.new("ShaderNodeTexNoise")
        ramp, emission = tree.nodes.new("ShaderNodeValToRGB"), tree.nodes.new("ShaderNodeEmission")
        output = tree.nodes.new("ShaderNodeOutputMaterial")
        noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = scale, 4.0
        dark, light = ramp.color_ramp.elements
        dark.position, light.position = 0.4, 0.62
        colour = np.array([37, 61, 89]) * (number + 1) % 100 / 100.0
        dark.color, light.color = (*(0.25 * colour), 1.0), (*(0.4 + 0.6 * colour), 1.0)
        tree.links.new(place.outputs["Object"], noise.inputs["Vector"])
        tree.links.new(noise.outputs["Fac" if "Fac" in noise.outputs else 0], ramp.inputs["Fac"])
        tree.links.new(ramp.outputs["Color"], emission.inputs["Color"])
        tree.links.new(emission.outputs["Emission"], output.inputs["Surface"])
        shape.data.materials.clear()
        shape.data.materials.append(material)


def filmed(scene, folder: Path, num_frames: int, samples: int = 4) -> np.ndarray:
    """u8 [T,H,W,3]: the scene rendered by Cycles into ``folder`` as 0001.png and so on."""
    render, before = scene.render, scene.render.engine
    render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising, render.dither_intensity = samples, False, 0.0
    scene.view_settings.view_transform = "Standard"
    settings = render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"
    for number in range(num_frames):
        scene.frame_set(1 + number)
        render.filepath = str(folder / f"{number + 1:04d}.png")
        bpy.ops.render.render(scene=scene.name, write_still=True)
    scene.frame_set(1)
    render.engine = before
    return np.stack([decode_png((folder / f"{number + 1:04d}.png").read_bytes()) for number in range(num_frames)])


def follow(scene, at: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tracks f32 [T,N,3], visible bool [T,N], cameras [T,4,4]) of the points that the first picture shows ``at`` [N,2]
    pixels; NaN where it shows nothing.
    """
    width, height = scene.render.resolution_x, scene.render.resolution_y
    local = owners = None
    tracks, visible, cameras = [], [], []
    for number in range(num_frames):
        scene.frame_set(1 + number)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        shown = scene.camera.evaluated_get(depsgraph)
        view = camera_from_blender(shown, width, height)
        world = {one.name: np.array(one.evaluated_get(depsgraph).matrix_world) for one in scene.objects}
        cameras.append(np.array(shown.matrix_world.normalized(), dtype=np.float64))
        if local is None:
            origin, rays = camera_rays(view, 0, at[:, 0].astype(np.float64), at[:, 1].astype(np.float64))
            hits, owners = _hit(scene, depsgraph, origin, rays)
            local = _local(hits, owners, world)
        places = np.full(local.shape, np.nan)
        for name in set(owners) - {""}:
            chosen = owners == name
            places[chosen] = local[chosen] @ world[name][:3, :3].T + world[name][:3, 3]
        seen = places @ view.camera_from_world[0][:3, :3].T + view.camera_from_world[0][:3, 3]
        z = -seen[:, 2]
        x = view.principal_px[0, 0] + view.focal_px[0, 0] * seen[:, 0] / z
        y = view.principal_px[0, 1] - view.focal_px[0, 1] * seen[:, 1] / z
        tracks.append(np.stack([x, y, z], axis=1))
        eye = cameras[-1][:3, 3]
        again, _ = _hit(scene, depsgraph, eye, np.nan_to_num(places - eye, nan=1.0))
        near = np.linalg.norm(again - eye, axis=1) > np.linalg.norm(places - eye, axis=1) * (1.0 - 0.002)
        visible.append(near & (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0))
    scene.frame_set(1)
    return np.stack(tracks).astype(np.float32), np.stack(visible), np.stack(cameras)


def _hit(scene, depsgraph, origin, rays) -> tuple[np.ndarray, np.ndarray]:
    hits, names, start = np.full((len(rays), 3), np.nan), np.full(len(rays), "", dtype=object), Vector(origin)
    for number, ray in enumerate(rays):
        hit, place, _, _, thing, _ = scene.ray_cast(depsgraph, start, Vector(ray))
        if hit:
            hits[number], names[number] = place, thing.name
    return hits, names
