# SPDX-License-Identifier: GPL-3.0-or-later
"""The room that a picture without depth is taken for, changed afterwards: its surfaces are made anew, and the cards of
its masked things stand where the ground is then.

What it was made from is kept with its scene (`Scene.das_room`).
"""

from __future__ import annotations

from dataclasses import fields

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ..errors import SceneError, SettingsError
from ..footage.layers import BACKGROUND, SKY, layers_of
from ..footage.plane import Room, plane_plate, room_of
from ..protocol.png import decode_png
from .stage import ROOM_BEHIND, Stage, layer_mesh, packed_image

VALUES = tuple(one.name for one in fields(Room))


def keep_room(stage: Stage, room: Room, every: int) -> None:
    """From now on the ``room`` of a ``stage`` can be changed, where anything of it is left between the things;
    ``every`` as of `stage.stage_plate`.
    """
    kept, things = stage.scene.das_room, list(stage.things.values())
    own = {one.name.split(".")[0]: one for one in stage.scene.objects if one not in things}
    if BACKGROUND not in own:
        return
    for name in VALUES:
        setattr(kept, name, getattr(room, name))
    kept.picture, kept.lens, kept.every = stage.scene.das.first_frame_image, stage.plate.lens_mm, every
    kept.pose = _flat(stage.plate.world_from_camera)
    kept.surface, kept.sky = own[BACKGROUND], own.get(SKY)
    for name, shape in stage.things.items():
        thing, mask = kept.things.add(), stage.plate.masks[name]
        thing.name, thing.shape, thing.origin = name, shape, shape.location
        thing.num_vertices = len(shape.data.vertices)
        thing.mask = packed_image(f"{name} Mask", np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
    kept.built, kept.num_vertices = words_of(kept), _vertices(kept)


def words_of(kept) -> str:
    """The values that ``kept`` says, to be compared."""
    return repr(room_of(kept))


def change_room(scene) -> None:
    """Make the surfaces of ``scene`` anew, as its `das_room` says.  A camera without motion of its own is held as the
    horizon says; one with keyframes stays, and the surfaces stand before its first pose.

    Raises `SettingsError` for a room that cannot be, `SceneError` where its surfaces are no longer its own; nothing is
    changed then.
    """
    kept = scene.das_room
    _check_own(kept)
    masks = {thing.name: _pixels(thing.mask)[..., 0] > 0 for thing in kept.things}
    plate = plane_plate(_pixels(kept.picture), kept.lens, room_of(kept), masks=masks)
    layers = layers_of(plate, kept.every)
    own, cards = ({part.name: part.mesh for part in layers.parts if part.is_thing is one} for one in (False, True))
    if BACKGROUND not in own:
        raise SettingsError("Between the things nothing but sky would be left; add a wall, or move the horizon.")
    camera, pose = scene.camera, plate.world_from_camera
    if camera is None or not _stands(camera, kept):
        pose = np.array(kept.pose, dtype=np.float64).reshape(4, 4)
    elif not np.allclose(pose, np.array(kept.pose).reshape(4, 4)):
        camera.matrix_world = Matrix(pose.tolist())
        kept.pose = _flat(pose)
    material = kept.surface.data.materials[0]
    made = {name: layer_mesh(name, mesh, plate, material, pose)[0] for name, mesh in own.items()}
    _replace(kept.surface, made[BACKGROUND])
    for thing in kept.things:
        if _is_there(thing):
            shown = thing.shape.data.materials[0]
            mesh, origin = layer_mesh(thing.name, cards[thing.name], plate, shown, pose, centred=True)
            _replace(thing.shape, mesh)
            thing.num_vertices = len(mesh.vertices)
            _carry(thing, origin)
    if SKY in made and kept.sky is None:
        kept.sky = bpy.data.objects.new(SKY, made[SKY])
        scene.collection.objects.link(kept.sky)
    elif SKY in made:
        _replace(kept.sky, made[SKY])
    elif kept.sky is not None:
        gone, mesh = kept.sky, kept.sky.data
        kept.sky = None
        bpy.data.objects.remove(gone)
        bpy.data.meshes.remove(mesh)
    if camera is not None:
        camera.data.clip_end = max(camera.data.clip_end, ROOM_BEHIND * layers.farthest)
    kept.built, kept.num_vertices = words_of(kept), _vertices(kept)


def _pixels(image) -> np.ndarray:
    """u8 [H,W,3] that ``image`` holds."""
    return decode_png(bytes(image.packed_file.data), name=f"The picture {image.name}")


def _carry(thing, origin: np.ndarray) -> None:
    """The object of ``thing`` goes to its new ``origin`` [3] with all that its owner has done with it: what he has
    moved or keyed is added to where it stands.
    """
    shape, step = thing.shape, Vector((origin - np.array(thing.origin)).tolist())
    thing.origin = origin.tolist()
    if shape.parent is not None:
        parent = shape.parent
        if bpy.app.background:  # nothing has drawn the scene, and so told where its objects are
            layer = thing.id_data.view_layers[0]
            layer.update()
            parent = parent.evaluated_get(layer.depsgraph)
        step = (parent.matrix_world @ shape.matrix_parent_inverse).to_3x3().inverted_safe() @ step
    if shape.animation_data is None and shape.parent is None:
        shape.location += step
    else:
        shape.delta_location += step


def _check_own(kept) -> None:
    pictures = [kept.picture, *(thing.mask for thing in kept.things)]
    if any(image is None or image.packed_file is None for image in pictures):
        raise SceneError("The picture that the room was made from is no longer in the file; import it again.")
    things = [thing for thing in kept.things if _is_there(thing)]
    is_edited = any(map(_is_edited, (kept.surface, *(thing.shape for thing in things))))
    is_edited |= not is_edited and any(len(thing.shape.data.vertices) != thing.num_vertices for thing in things)
    if is_edited or _vertices(kept) != kept.num_vertices:
        raise SceneError(
            "The surfaces of the room were edited by hand and stay as they are; undo that, or import the picture again."
        )


def _is_edited(shape) -> bool:
    """Whether a new mesh would take from the object ``shape`` what somebody gave it: a rig's weights, shape keys."""
    if shape.type != "MESH" or shape.mode != "OBJECT" or not shape.data.materials:
        return True
    return len(shape.vertex_groups) > 0 or shape.data.shape_keys is not None


def _vertices(kept) -> int:
    return sum(len(one.data.vertices) for one in (kept.surface, kept.sky) if one is not None)


def _is_there(thing) -> bool:
    """Whether the object of a room's ``thing`` was not deleted."""
    return thing.shape is not None and thing.shape.name in bpy.data.objects


def _stands(camera, kept) -> bool:
    """Whether ``camera`` has no motion and is where the room put it."""
    animation = camera.animation_data
    is_led = camera.parent is not None or len(camera.constraints) > 0
    is_moved = animation is not None and (animation.action or len(animation.drivers) or len(animation.nla_tracks))
    at_rest = np.allclose(_flat(np.array(camera.matrix_basis)), kept.pose, atol=1e-5)
    return not is_led and not is_moved and at_rest


def _replace(shape, mesh) -> None:
    old, name = shape.data, shape.data.name
    shape.data = mesh
    if not old.users:
        bpy.data.meshes.remove(old)
        mesh.name = name


def _flat(pose: np.ndarray) -> list[float]:
    return pose.ravel().tolist()
