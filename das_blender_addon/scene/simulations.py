# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulations of a scene: which of them know only how to go on from their first frame, and which are baked.

A render's depsgraph plays back what caches hold and never simulates.  What is not baked is therefore stepped once from
its first frame on, in the scene itself, before anything is read: see `walk.step_simulations`.

Particles stand still from the end of the scene's range on, and simulation zones begin at its start.  A shot need not be
that range (``DAS_FRAMES``, ``-s``, ``-e``), and every part of it must move alike: `ranging_over` it they do.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bpy

LOGGER = logging.getLogger(__name__)
CACHED_MODIFIERS = ("CLOTH", "SOFT_BODY")


@dataclass(frozen=True)
class Simulation:
    """One simulation.  ``start``: its first frame.  ``is_baked``: its frames lie in a cache that nothing changes.

    ``is_on_disk``: that cache is a folder of files.
    """

    name: str
    start: int
    is_baked: bool
    is_on_disk: bool


def simulations(scene) -> list[Simulation]:
    """Every simulation of ``scene`` that a render shows, in the order of the objects."""
    found = []
    world = scene.rigidbody_world
    if world is not None and world.enabled and world.collection is not None and world.collection.all_objects:
        found.append(_of_cache(f"rigid bodies of the scene {scene.name!r}", world.point_cache))
    for shape in scene.objects:
        if shape.hide_render:
            continue
        found += _of_object(shape)
    return found


def unbaked(scene) -> list[Simulation]:
    """Those whose frames are in no cache yet."""
    return [simulation for simulation in simulations(scene) if not simulation.is_baked]


@contextmanager
def ranging_over(scene, frames: tuple[int, ...]) -> Iterator[None]:
    """Simulations of ``scene`` go on to the last of ``frames`` and begin no later than at the first, though the scene's
    range is another.
    """
    before = range_over(scene, frames)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(scene, name, value)


def range_over(scene, frames: tuple[int, ...], *, zones: bool | None = None) -> dict[str, object]:
    """What `ranging_over` does, for a scene that nobody keeps; returns the values that it had.

    ``zones``: whether those go by the scene's range; None where nobody has changed that.
    """
    first, last = frames[0], frames[-1]
    wanted = {"frame_preview_end": max(scene.frame_preview_end, last)}  # Blender looks at it though it is not in use
    if not scene.use_custom_simulation_range if zones is None else zones:
        wanted |= {
            "simulation_frame_start": min(scene.frame_start, first),
            "simulation_frame_end": max(scene.frame_end, last),
            "use_custom_simulation_range": True,
        }
    before = {name: getattr(scene, name) for name in wanted}
    for name, value in wanted.items():
        setattr(scene, name, value)
    return before


def cache_folder_name(file: str) -> str:
    """The folder beside the .blend ``file`` in which Blender keeps its disk caches."""
    return f"blendcache_{Path(file).stem}"


def disk_cache_prefixes(is_baked: bool) -> set[str]:
    """How the names of the files begin of every point cache of the open file that is on disk and baked, or not: those
    of the latter are written by whoever plays the scene.
    """
    return {
        prefix
        for owner, cache in _point_caches()
        if cache.use_disk_cache and not cache.use_external and cache.is_baked is is_baked
        for prefix in (cache.name or owner.name.encode().hex().upper(),)
    }


def replay_fluids_in(folder: Path) -> None:
    """Fluids of the open file that simulate whenever it is played, and write what they get, do so below ``folder``, and
    begin with what lies in their own folders.
    """
    domains = [
        (shape, modifier.domain_settings)
        for shape in bpy.data.objects
        for modifier in shape.modifiers
        if modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN"
    ]
    for number, (shape, domain) in enumerate(domains):
        if domain.cache_type == "REPLAY":
            here = folder / f"fluid_{number}"
            there = bpy.path.abspath(domain.cache_directory, library=shape.library)
            try:
                shutil.copytree(there, here)
            except OSError as error:  # there is none, or no room: it is simulated anew
                LOGGER.info("The cache %s does not come along (%s).", there, error)
                shutil.rmtree(here, ignore_errors=True)
                here.mkdir(exist_ok=True)
            domain.cache_directory = os.fspath(here)


def _point_caches() -> Iterator[tuple[bpy.types.ID, bpy.types.PointCache]]:
    """Every point cache of the open file and what it belongs to, hidden ones included."""
    for scene in bpy.data.scenes:
        if scene.rigidbody_world is not None:
            yield scene, scene.rigidbody_world.point_cache
    for shape in bpy.data.objects:
        for modifier in shape.modifiers:
            if modifier.type in CACHED_MODIFIERS:
                yield shape, modifier.point_cache
            elif modifier.type == "PARTICLE_SYSTEM":
                yield shape, modifier.particle_system.point_cache
            elif modifier.type == "DYNAMIC_PAINT" and modifier.canvas_settings is not None:
                yield from ((shape, surface.point_cache) for surface in modifier.canvas_settings.canvas_surfaces)


def _of_object(shape) -> Iterator[Simulation]:
    for modifier in shape.modifiers:
        if not modifier.show_render:
            continue
        name = f"{modifier.name} of {shape.name!r}"
        if modifier.type in CACHED_MODIFIERS:
            yield _of_cache(name, modifier.point_cache)
        elif modifier.type == "PARTICLE_SYSTEM":
            system = modifier.particle_system
            # Hair stands still unless it has dynamics; keyed and plain physics are a function of time.
            if system.settings.type != "HAIR" or system.use_hair_dynamics:
                yield _of_cache(name, system.point_cache)
        elif modifier.type == "DYNAMIC_PAINT" and modifier.canvas_settings is not None:
            for surface in modifier.canvas_settings.canvas_surfaces:
                if surface.is_active:
                    yield _of_cache(f"{surface.name} of {shape.name!r}", surface.point_cache)
        elif modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
            domain = modifier.domain_settings
            is_baked = domain.has_cache_baked_data or domain.has_cache_baked_mesh
            yield Simulation(name, domain.cache_frame_start, is_baked, True)
        elif modifier.type == "NODES" and has_simulation_zone(modifier.node_group):
            yield Simulation(name, _first_frame(shape), _is_baked_zone(modifier), False)


def _of_cache(name: str, cache) -> Simulation:
    return Simulation(name, cache.frame_start, cache.is_baked or cache.use_external, cache.use_disk_cache)


def has_simulation_zone(group, seen: frozenset = frozenset()) -> bool:
    """Whether a tree of geometry nodes simulates, in groups within it, too."""
    if group is None or group in seen:
        return False
    seen = seen | {group}
    return any(
        node.bl_idname == "GeometryNodeSimulationOutput"
        or (node.type == "GROUP" and has_simulation_zone(node.node_tree, seen))
        for node in group.nodes
    )


def _is_baked_zone(modifier) -> bool:
    """Whether files or packed data of a bake are there; Blender tells scripts no more of it."""
    own = [bake.directory for bake in modifier.bakes if bake.use_custom_path]
    folders = [Path(bpy.path.abspath(folder)) for folder in (modifier.bake_directory, *own) if folder]
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def _first_frame(shape) -> int:
    starts = [
        scene.simulation_frame_start if scene.use_custom_simulation_range else scene.frame_start
        for scene in bpy.data.scenes
        if shape.name in scene.objects
    ]
    return min(starts, default=1)
