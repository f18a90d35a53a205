# SPDX-License-Identifier: GPL-3.0-or-later
"""What decides how a first frame looks besides its geometry and camera: materials, lights, world, images, node trees,
attributes of meshes, render and view settings, as digests that are the same in every process and session.

`appearance_digest` reads what is evaluated at one frame: animation, drivers and constraints count with their values
there.  `shading_digest` reads the data blocks as they are edited, at any frame and in milliseconds, for a window that
shows whether something changed; it leaves out the values of whatever is animated.

Both start at what a scene renders and follow the references from there.  Left out is what no picture shows: places and
colours of nodes, previews, viewport settings.  Not known are scripts that run during a render, and simulation caches on
disk: for those there is *Render First Frame* and ``--new-first-frame``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time

import bpy
import numpy as np

from .guides import guided

LOGGER = logging.getLogger(__name__)
MAX_DEPTH = 8
SAMPLED_BYTES = 4 << 20
"""Packed files up to this size are read whole, of larger ones evenly spaced pieces."""

_WITHOUT = tuple((kind, frozenset(kind.bl_rna.properties.keys())) for kind in (bpy.types.ID, bpy.types.Node))
"""What every data block and every node has says nothing of its look."""
_SKIPPED = frozenset(
    # What no picture shows, or what is read elsewhere.
    """rna_type animation_data node_preview grease_pencil edit_text pixels render_slots bindings packed_file
    packed_files device tile_size use_auto_tile texture_limit samples taa_samples interface_items interface view_center
    feature_set threads grids tracking nodes links lineart texture_paint_images texture_paint_slots paint_active_slot
    paint_clone_slot line_color line_priority color_tag default_group_node_width description""".split()
)
_SKIPPED_PREFIXES = tuple("show_ display preview use_preview debug_ bl_ is_ bake viewport active_".split())
_VALUE_NODES = {"ShaderNodeValue", "ShaderNodeRGB", "ShaderNodeNormal"}
_FOLLOWED = tuple(
    getattr(bpy.types, name)
    for name in (
        "Material",
        "World",
        "Light",
        "LightProbe",
        "NodeTree",
        "Image",
        "Texture",
        "ParticleSettings",
        "Volume",
        "Curves",
        "Text",
        "MovieClip",
        "CacheFile",
        "Object",
    )
    if hasattr(bpy.types, name)
)
_RENDER_SETTINGS = """film_transparent filter_size hair_type
    hair_subdiv use_simplify simplify_subdivision_render simplify_child_particles_render simplify_volumes
    simplify_shadows_render use_high_quality_normals""".split()
_WORKBENCH_SETTINGS = """light color_type single_color studio_light studiolight_rotate_z show_shadows shadow_intensity
    show_cavity cavity_type cavity_ridge_factor cavity_valley_factor show_object_outline object_outline_color
    show_specular_highlight show_backface_culling show_xray xray_alpha use_dof""".split()
_LAYER_SETTINGS = """use_sky use_ao use_solid use_strand use_volumes use_motion_blur""".split()
_OBJECT_SETTINGS = """type color pass_index is_holdout is_shadow_catcher visible_camera visible_diffuse visible_glossy
    visible_transmission visible_volume_scatter visible_shadow lightgroup instance_type use_empty_image_alpha""".split()
_ATTRIBUTES = {
    # data type of an attribute: (its property, numpy type, numbers for each element)
    "FLOAT": ("value", np.float32, 1),
    "INT": ("value", np.int32, 1),
    "BOOLEAN": ("value", np.bool_, 1),
    "FLOAT_VECTOR": ("vector", np.float32, 3),
    "FLOAT2": ("vector", np.float32, 2),
    "FLOAT_COLOR": ("color", np.float32, 4),
    "BYTE_COLOR": ("color", np.float32, 4),
    "QUATERNION": ("value", np.float32, 4),
    "INT8": ("value", np.int32, 1),
    "INT16_2D": ("value", np.int32, 2),
    "INT32_2D": ("value", np.int32, 2),
}


def appearance_digest(depsgraph) -> str:
    """SHA-256 (hex) of what decides the look of the frame that ``depsgraph`` holds; never raises."""
    walk = _Walk(is_evaluated=True)
    walk.add_scene(depsgraph.scene, depsgraph.view_layer)
    for item in depsgraph.ids:
        if isinstance(item, bpy.types.Object) and not item.hide_render and not guided(item):
            walk.add(item)
    return walk.digest()


def shading_digest(scene, layer) -> str:
    """SHA-256 (hex) of the materials, lights, worlds and settings that ``scene`` renders with in the view layer
    ``layer``, as they are edited; the same at every frame; never raises.
    """
    walk = _Walk(is_evaluated=False)
    walk.add_scene(scene, layer)
    for item in scene.objects:
        if not item.hide_render:
            walk.add(item)
    return walk.digest()


_recent: dict[int, tuple[float, float, str]] = {}
"""Scene (`session_uid`) → (when its digest was made, the seconds that it took, the digest)."""


def recent_shading_digest(scene, layer, patience_s: float = 1.0) -> str:
    """`shading_digest` of now or of a moment ago, for a panel that is drawn often: it costs 5 % of the time at most."""
    now = time.monotonic()
    made, cost, digest = _recent.get(scene.session_uid, (0.0, 0.0, ""))
    if not digest or now - made > max(patience_s, 20 * cost):
        digest = shading_digest(scene, layer)
        _recent[scene.session_uid] = (now, time.monotonic() - now, digest)
    return digest


class _Walk:
    """Collects one line of text for every data block that is reached."""

    def __init__(self, *, is_evaluated: bool):
        self._is_evaluated = is_evaluated
        self._lines: dict[str, str] = {}
        self._waiting: list = []

    def add(self, item) -> None:
        """The data block ``item`` and all that it refers to."""
        self._refer(item)
        while self._waiting:
            key, item = self._waiting.pop()
            self._lines[key] = self._line(key, self._describe, item)

    def add_scene(self, scene, layer) -> None:
        """What the scene itself and one view layer decide."""
        self._lines["scene"] = self._line("scene", self._describe_scene, scene, layer)
        if scene.world is not None:
            self.add(scene.world)

    def digest(self) -> str:
        text = "\n".join(f"{key} {self._lines[key]}" for key in sorted(self._lines))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _line(self, key: str, describe, *items) -> str:
        """All that ``describe(*items, out)`` finds; what was found until then when it fails."""
        out: list = []
        try:
            describe(*items, out)
        except Exception as error:  # a picture too many is rendered, or one too few: never none
            LOGGER.debug("%s is not read to its end: %s", key, error)
        return repr(out)

    def _refer(self, item) -> str:
        """The name of a data block; one that shows in pictures is read later."""
        key = f"{type(item).__name__}:{item.name_full}"
        if key not in self._lines and isinstance(item, _FOLLOWED):
            self._lines[key] = ""
            self._waiting.append((key, item))
        return key

    # ── Data blocks ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _describe(self, item, out: list) -> None:
        if isinstance(item, bpy.types.Object):
            self._describe_object(item, out)
        elif isinstance(item, bpy.types.Text):
            out.append(item.as_string())
        else:
            self._describe_any(item, out)

    def _describe_any(self, item, out: list) -> None:
        if hasattr(item, "attributes"):  # hair: its own collections say the same, one by one
            out.append(_attributes(item, with_positions=True))
        elif self._is_evaluated or not _is_animated(item):
            self._properties(item, 0, out)
        if isinstance(item, bpy.types.NodeTree):
            self._describe_tree(item, out)
        if isinstance(item, bpy.types.Image):
            out += _image_files(item)
        tree = getattr(item, "node_tree", None)
        if tree is not None and (bpy.app.version >= (5, 0, 0) or item.use_nodes):
            self._describe_tree(tree, out)

    def _describe_object(self, shape, out: list) -> None:
        out += [(name, _plain(getattr(shape, name, None))) for name in _OBJECT_SETTINGS]
        out.append([self._refer(slot.material) if slot.material is not None else "" for slot in shape.material_slots])
        out.append([self._refer(system.settings) for system in shape.particle_systems])
        data = shape.data
        if isinstance(data, _FOLLOWED):
            out.append(self._refer(data))
        if not self._is_evaluated:
            return
        out.append(_plain(shape.matrix_world))
        out += [(name, value) for name, value in sorted(shape.items()) if isinstance(value, int | float | str)]
        if isinstance(data, bpy.types.Mesh):
            out.append(_attributes(data))
        if isinstance(data, bpy.types.Camera):
            self._properties(data.dof, 1, out)

    def _describe_scene(self, scene, layer, out: list) -> None:
        out += [(name, _plain(getattr(scene.render, name, None))) for name in _RENDER_SETTINGS]
        shading = scene.display.shading
        out += [(name, _plain(getattr(shading, name, None))) for name in _WORKBENCH_SETTINGS]
        for engine in ("cycles", "eevee"):
            settings = getattr(scene, engine, None)
            if settings is not None:
                self._properties(settings, 1, out)
        kept = getattr(scene, "das", None)
        if kept is None or not kept.first_frame_view:
            self._properties(scene.view_settings, 1, out)
            out.append(scene.display_settings.display_device)
        elif scene.view_settings.curve_mapping is not None:
            self._properties(scene.view_settings.curve_mapping, 1, out)
        for name in ("material_override", "world_override"):
            override = getattr(layer, name, None)
            out.append(self._refer(override) if override is not None else "")
        out += [(name, bool(getattr(layer, name))) for name in _LAYER_SETTINGS if hasattr(layer, name)]
        _describe_collections(layer.layer_collection, out)

    def _describe_tree(self, tree, out: list) -> None:
        is_readable = self._is_evaluated or not _is_animated(tree)
        for node in tree.nodes:
            kind = node.bl_idname
            out.append((node.name, kind, node.mute))
            inner = getattr(node, "node_tree", None)
            if inner is not None:
                out.append(self._refer(inner))
            if not is_readable:
                continue
            self._properties(node, 1, out)
            for socket in node.inputs:
                out.append(self._socket_value(socket))
            if kind in _VALUE_NODES:
                out += [self._socket_value(socket) for socket in node.outputs]
        out += sorted(
            (link.from_node.name, link.from_socket.identifier, link.to_node.name, link.to_socket.identifier)
            for link in tree.links
            if not link.is_muted
        )

    def _socket_value(self, socket):
        value = getattr(socket, "default_value", None)
        return self._refer(value) if isinstance(value, bpy.types.ID) else _plain(value)

    # ── Properties ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _properties(self, owner, depth: int, out: list) -> None:
        """(name, value) of all that can be set in ``owner``, and what it points to."""
        for name, kind in _fields(owner):
            value = getattr(owner, name, None)
            if value is None:
                continue
            if kind == "VALUE":
                out.append((name, _plain(value)))
            elif kind == "PATH":
                out.append((name, _file_state(value, owner.id_data)))
            elif isinstance(value, bpy.types.ID):
                if not value.is_embedded_data:
                    out.append((name, self._refer(value)))
            elif depth < MAX_DEPTH:
                out.append(name)
                for one in value if kind == "COLLECTION" else (value,):
                    if isinstance(one, bpy.types.ID):
                        out.append(self._refer(one))
                    else:
                        self._properties(one, depth + 1, out)


_known_fields: dict[type, list[tuple[str, str]]] = {}


def _fields(owner) -> list[tuple[str, str]]:
    """(name, kind) of the properties of ``owner`` that count; kind VALUE, PATH, POINTER or COLLECTION."""
    known = _known_fields.get(type(owner))
    if known is None:
        without = next((names for kind, names in _WITHOUT if isinstance(owner, kind)), ())
        known = _known_fields[type(owner)] = [
            (name, _kind(prop))
            for name, prop in owner.bl_rna.properties.items()
            if name not in without and name not in _SKIPPED and not name.startswith(_SKIPPED_PREFIXES) and _counts(prop)
        ]
    return known


def _counts(prop) -> bool:
    if getattr(prop, "is_deprecated", False):
        return False
    return prop.type in ("POINTER", "COLLECTION") or not prop.is_readonly


def _kind(prop) -> str:
    if prop.type in ("POINTER", "COLLECTION"):
        return prop.type
    return "PATH" if prop.type == "STRING" and prop.subtype == "FILE_PATH" else "VALUE"


_WORDS = frozenset((bool, int, float, str, type(None)))


def _plain(value):
    """``value`` as numbers, words and tuples, whose `repr` is the same everywhere."""
    if type(value) in _WORDS:
        return value
    if isinstance(value, set | frozenset):
        return sorted(value)
    try:
        values = tuple(value)
    except TypeError:
        return type(value).__name__
    return values if not values or type(values[0]) in _WORDS else tuple(_plain(one) for one in values)


def _is_animated(item) -> bool:
    animation = getattr(item, "animation_data", None)
    return animation is not None and (animation.action is not None or len(animation.drivers) > 0)


def _describe_collections(collection, out: list) -> None:
    out.append((collection.name, collection.exclude, collection.holdout, collection.indirect_only))
    for child in collection.children:
        _describe_collections(child, out)


# ── What lies in files and arrays ───────────────────────────────────────────────────────────────────────────────────


def _file_state(path: str, item) -> tuple:
    """Name, size and time of a file; its folder does not count, which machines of a farm may call differently."""
    try:
        status = os.stat(bpy.path.abspath(path, library=item.library if item is not None else None))
        return os.path.basename(path), status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        return (os.path.basename(path),)


def _image_files(image) -> list:
    """What an image's pixels come from, besides the path that its properties name."""
    packed = [one.packed_file for one in image.original.packed_files]
    found: list = [(one.size, _sampled_sha(one.data)) for one in packed if one is not None]
    if image.source == "TILED":
        numbers = [tile.number for tile in image.tiles]
        found += [(number, _file_state(image.filepath.replace("<UDIM>", str(number)), image)) for number in numbers]
    return found


def _sampled_sha(content: bytes) -> str:
    if len(content) <= SAMPLED_BYTES:
        return hashlib.sha256(content).hexdigest()
    step, piece = len(content) // 64, SAMPLED_BYTES // 64
    digest = hashlib.sha256(content[-piece:])
    for start in range(0, len(content), step):
        digest.update(content[start : start + piece])
    return digest.hexdigest()


def _attributes(data, *, with_positions: bool = False) -> str:
    """A digest of the attributes that a material may read; geometry itself is read elsewhere."""
    digest = hashlib.blake2b(digest_size=16)
    for attribute in sorted(data.attributes, key=lambda one: one.name):
        known = _ATTRIBUTES.get(attribute.data_type)
        if known is None or attribute.name.startswith(".") or (attribute.name == "position" and not with_positions):
            continue
        name, dtype, width = known
        values = np.empty(len(attribute.data) * width, dtype)
        attribute.data.foreach_get(name, values)
        digest.update(f"{attribute.name} {attribute.domain} {attribute.data_type}".encode())
        digest.update(values)
    return digest.hexdigest()
