# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip's plate as a Blender scene: as a picture's (`stage`), and its surfaces move as the clip's points do.

Positions of every frame lie in PC2 files, which Mesh Cache modifiers read.  A masked thing hangs on an empty that
follows its middle, so that keyframes of its own are added to how it moves in the clip.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import bpy
import numpy as np

from ..footage.alignment import Alignment
from ..footage.clean_plate import carried_background, followed_mask
from ..footage.clip import ClipPlate
from ..footage.layers import SKY, Layer, Layers, layers_of, painted_out, sky_depth_of
from ..footage.lifting import Lifted, camera_path_of, lift
from ..footage.mesh import PlateMesh
from ..footage.moving import apart_limit, influence, motion_field, motion_of, positions, trusted
from ..footage.pc2 import write_pc2
from ..footage.plate import Plate
from ..footage.steadying import steadied
from .motion import key_camera
from .stage import CAMERA_FROM_OPTICAL, Stage, layer_object, packed_image, plate_camera, set_rate, set_render, shining

PATH_OF = "{} in the Clip"
"""The empty that follows a thing."""
STILL = 1e-6
"""Blender units that nothing moves by."""


@dataclass(frozen=True)
class ClipShot:
    """How a clip is staged: ``name`` of the scene; ``folder`` of its PC2 files; ``size`` (width, height) of the render,
    pixels, None for the clip's; ``every``: pixels along the side of a quad; ``first_picture`` u8 [H,W,3]: in the place
    of the clip's own, any size; ``alignment`` of the clip to that; ``background``: a movie, or the first file of a
    sequence, that the camera shows behind the scene, None for the first picture.
    """

    name: str
    folder: Path
    size: tuple[int, int] | None = None
    every: int = 1
    first_picture: np.ndarray | None = None
    alignment: Alignment = Alignment()
    background: Path | None = None


@dataclass(frozen=True)
class Surface:
    """``part`` of a clip's layers; ``mesh``: aligned; ``middles`` f64 [T,3]: of a thing, world; ``cache``: the PC2 file
    of its positions, None where nothing of it moves.
    """

    part: Layer
    mesh: PlateMesh
    middles: np.ndarray | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Surfaces:
    """All that `stage_surfaces` makes a scene of; ``farthest``: Blender units."""

    clip: ClipPlate
    shot: ClipShot
    layers: Layers
    surfaces: tuple[Surface, ...]
    farthest: float


def stage_clip(clip: ClipPlate, shot: ClipShot) -> Stage:
    """A new scene with ``clip`` in it, which the extension's engine renders.  Raises as `prepare_surfaces`."""
    return stage_surfaces(prepare_surfaces(clip, shot))


def prepare_surfaces(clip: ClipPlate, shot: ClipShot) -> Surfaces:
    """The surfaces of ``clip``, and the files of how they move.  No Blender.  Raises `SettingsError` (tracks, masks),
    `StorageError` (the folder).
    """
    plate = clip.first
    lifted = lift(clip, sky_depth_of(plate))
    if lifted is not None:
        lifted = trusted(steadied(clip, lifted), plate.focal_px)
    motion = None if lifted is None else motion_of(lifted, plate.focal_px)
    layers = layers_of(plate, shot.every, None if lifted is None else _field(plate, lifted, motion, shot.every))
    moved = [None if lifted is None else _moved(part, plate, lifted, motion) for part in layers.parts]
    if plate.masks:
        layers = _seen_behind(clip, layers, moved, None if lifted is None else (lifted, motion))
    made = [_surface(part, plate, one, len(clip), shot) for part, one in zip(layers.parts, moved, strict=True)]
    return Surfaces(clip, shot, layers, tuple(made), _farthest(layers, lifted))


def stage_surfaces(made: Surfaces) -> Stage:
    """The scene of ``made``."""
    clip, shot, layers, plate = made.clip, made.shot, made.layers, made.clip.first
    size = shot.size or plate.size
    scene = bpy.data.scenes.new(shot.name)
    picture = packed_image(shot.name, plate.picture if shot.first_picture is None else shot.first_picture)
    shown = shining(shot.name, picture)
    behind = shown
    if plate.masks:
        behind = shining(f"{shot.name} Background", packed_image(f"{shot.name} Background", layers.background))
    camera = plate_camera(scene, plate, picture, size, made.farthest)
    set_render(scene, size, len(clip), picture)
    set_rate(scene, clip.fps)
    if shot.background is not None:
        _show_clip(camera, shot.background)
    key_camera(camera, camera_path_of(clip), 1)
    things = {}
    for surface in made.surfaces:
        shape = _shape(scene, surface, plate, behind if surface.part.is_filled else shown)
        if surface.part.is_thing:
            things[surface.part.name] = shape
    return Stage(scene, camera, things, plate, layers)


def _field(plate: Plate, lifted: Lifted, motion: np.ndarray, every: int) -> np.ndarray:
    """[H,W,C]: how each pixel (as the middle of its block) moves; 1: what neighbours on a surface may differ by."""
    depth = np.where(plate.valid, plate.depth, sky_depth_of(plate))
    chosen = np.ones(len(lifted.at), bool)
    return motion_field(lifted, motion, depth, chosen, every) / apart_limit(lifted)


def _seen_behind(clip: ClipPlate, layers: Layers, moved: list, moving) -> Layers:
    """``layers`` whose background shows, behind the things, what other frames of the clip show there."""
    masks = clip.masks
    covered = np.zeros((len(clip), *layers.filled.shape), bool)
    for part, places in zip(layers.parts, moved, strict=True):
        if part.is_thing:
            covered |= followed_mask(clip, masks[part.name], part.mesh, places, moving and moving[0])
    shown = carried_background(clip, layers.filled, layers.behind, covered, moving)
    return replace(layers, background=painted_out(clip.pictures[0], layers.filled, shown))


def _farthest(layers: Layers, lifted: Lifted | None) -> float:
    return layers.farthest if lifted is None else max(layers.farthest, float(np.abs(lifted.places).max()))


def _show_clip(camera, path: Path) -> None:
    """``path`` as the camera's background, frame by frame."""
    shown = camera.data.background_images[0]
    shown.source, shown.clip = "MOVIE_CLIP", bpy.data.movieclips.load(os.fspath(path))
    shown.clip.frame_start = 1


def _moved(part: Layer, plate: Plate, lifted: Lifted, motion: np.ndarray):
    """frame (from 0) → [V,3], optical space of the first camera; None where nothing of the part moves."""
    x, y = (np.floor(lifted.at[:, axis]).astype(int) for axis in (0, 1))
    hidden = np.zeros(plate.depth.shape, bool)
    for mask in plate.masks.values():
        hidden |= mask
    if part.is_thing:
        chosen = plate.masks[part.name][y, x]
    elif part.name == SKY:
        chosen = ~plate.valid[y, x] & ~hidden[y, x]
    else:
        chosen = plate.valid[y, x] & ~hidden[y, x]
    if not chosen.any() or np.abs(lifted.places[:, chosen] - lifted.places[:1, chosen]).max() <= STILL:
        return None
    moved = influence(part.mesh, lifted, motion, chosen)
    return lambda number: positions(part.mesh, moved, lifted, number)


def _surface(part: Layer, plate: Plate, moved, count: int, shot: ClipShot) -> Surface:
    """A layer with how it moves, which is written."""
    is_thing = part.is_thing
    aligned = shot.alignment.matrix(plate)
    mesh = replace(part.mesh, vertices=_applied(aligned, part.mesh.vertices).astype(np.float32))
    mesh = replace(mesh, pixels=shot.alignment.pixels(mesh.pixels, plate.size).astype(np.float32))
    if moved is None:
        return Surface(part, mesh)
    world = plate.world_from_camera

    def places(number: int) -> np.ndarray:
        return (_applied(aligned, moved(number)) * CAMERA_FROM_OPTICAL) @ world[:3, :3].T + world[:3, 3]

    middles = np.stack([np.median(places(number), axis=0) for number in range(count)]) if is_thing else None
    origins = np.zeros((count, 3)) if middles is None else middles
    path = shot.folder / f"{_file_name(part.name, is_thing)}.pc2"
    write_pc2(path, (places(number) - origins[number] for number in range(count)), count, len(mesh.vertices))
    return Surface(part, mesh, middles, path)


def _shape(scene, surface: Surface, plate: Plate, material):
    """The object of a surface."""
    name = surface.part.name
    made = layer_object(scene, name, surface.mesh, plate, material, centred=surface.part.is_thing)
    if surface.cache is None:
        return made
    if surface.middles is not None:
        _hang(scene, made, surface.middles)
    cache = made.modifiers.new("Clip", "MESH_CACHE")
    cache.cache_format, cache.filepath = "PC2", os.fspath(surface.cache)
    cache.frame_start, cache.interpolation, cache.play_mode = 1.0, "NONE", "SCENE"
    return made


def _applied(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    return places @ matrix.T


def _hang(scene, thing, middles: np.ndarray) -> None:
    """An empty goes along ``middles`` [T,3] and carries ``thing``, which stays at its origin."""
    carrier = bpy.data.objects.new(PATH_OF.format(thing.name), None)
    scene.collection.objects.link(carrier)
    carrier.empty_display_size = 0.2
    for number, place in enumerate(middles):
        carrier.location = place.tolist()
        carrier.keyframe_insert("location", frame=1 + number)
    carrier.location = middles[0].tolist()
    thing.parent, thing.location = carrier, (0.0, 0.0, 0.0)


def _file_name(name: str, is_thing: bool) -> str:
    """Each layer's own, whatever its name; things do not meet the background and the sky."""
    if not is_thing:
        return name
    kept = "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in name)[:40]
    digest = "" if kept == name else f" {hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"Thing {kept}{digest}".replace("Thing Thing", "Thing")
