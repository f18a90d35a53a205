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
import time

import bpy

from .. import compat
from .guides import guided
from .look_content import attributes, file_state, image_files
from .look_fields import custom_properties, fields, plain

LOGGER = logging.getLogger(__name__)
MAX_DEPTH = 8

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
        "Collection",
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
        elif isinstance(item, bpy.types.Collection):
            self._describe_collection(item, out)
        elif isinstance(item, bpy.types.Text):
            out.append(item.as_string())
        else:
            self._describe_any(item, out)

    def _describe_any(self, item, out: list) -> None:
        if hasattr(item, "attributes"):  # hair: its own collections say the same, one by one
            out.append(attributes(item, with_positions=True))
        elif self._is_evaluated or not _is_animated(item):
            self._properties(item, 0, out)
        if isinstance(item, bpy.types.World):
            self._describe_custom(item, out)
        if isinstance(item, bpy.types.NodeTree):
            self._describe_tree(item, out)
        if isinstance(item, bpy.types.Image):
            out += image_files(item, with_strokes=self._is_evaluated or bpy.app.background)
        tree = getattr(item, "node_tree", None)
        if tree is not None and (bpy.app.version >= (5, 0, 0) or item.use_nodes):
            self._describe_tree(tree, out)

    def _describe_object(self, shape, out: list) -> None:
        out.append(shape.type)
        self._properties(shape, 1, out)
        out.append([self._refer(slot.material) if slot.material is not None else "" for slot in shape.material_slots])
        out.append([self._refer(system.settings) for system in shape.particle_systems])
        data = shape.data
        if isinstance(data, _FOLLOWED):
            out.append(self._refer(data))
        self._describe_custom(shape, out)
        if isinstance(data, bpy.types.Mesh):
            self._describe_custom(data, out)
        for modifier in shape.modifiers:
            if modifier.type == "NODES" and modifier.show_render and modifier.node_group is not None:
                self._describe_geometry_nodes(modifier, out)
        if not self._is_evaluated:
            return
        out.append(plain(shape.matrix_world))
        if isinstance(data, bpy.types.Mesh):
            out.append(attributes(data))
        if isinstance(data, bpy.types.Camera):
            self._properties(data.dof, 1, out)

    def _describe_custom(self, owner, out: list) -> None:
        """What a material's *Attribute* node may read of ``owner``."""
        if self._is_evaluated or not _is_animated(owner):
            out += custom_properties(owner)

    def _describe_geometry_nodes(self, modifier, out: list) -> None:
        """The nodes that may give surfaces their materials, and the materials that they are given."""
        out.append(self._refer(modifier.node_group))
        for item in modifier.node_group.interface.items_tree:
            if getattr(item, "socket_type", "") == "NodeSocketMaterial" and item.in_out == "INPUT":
                given = compat.modifier_input(modifier, item.identifier)
                out.append(self._refer(given) if given is not None else "")

    def _describe_collection(self, collection, out: list) -> None:
        """Who is in it, and, as lights know it, who is left out."""
        for members, links in (
            (collection.objects, collection.collection_objects), (collection.children, collection.collection_children)
        ):
            for member, link in zip(members, links, strict=False):
                out.append((member.name_full, link.light_linking.link_state))
        out.append([self._refer(child) for child in collection.children])

    def _describe_scene(self, scene, layer, out: list) -> None:
        out += [(name, plain(getattr(scene.render, name, None))) for name in _RENDER_SETTINGS]
        shading = scene.display.shading
        out += [(name, plain(getattr(shading, name, None))) for name in _WORKBENCH_SETTINGS]
        for engine in ("cycles", "cycles_curves", "eevee"):
            settings = getattr(scene, engine, None)
            if settings is not None:
                self._properties(settings, 1, out)
        kept = getattr(scene, "das", None)
        if kept is None or not kept.first_frame_view:
            self._properties(scene.view_settings, 1, out)
            out.append(scene.display_settings.display_device)
        elif scene.view_settings.curve_mapping is not None:
            self._properties(scene.view_settings.curve_mapping, 1, out)
        self._properties(layer, 1, out)
        out.append(layer.samples)
        self._describe_custom(layer, out)
        self._describe_custom(scene, out)
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
        return self._refer(value) if isinstance(value, bpy.types.ID) else plain(value)

    # ── Properties ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _properties(self, owner, depth: int, out: list) -> None:
        """(name, value) of all that can be set in ``owner``, and what it points to."""
        for name, kind in fields(owner):
            value = getattr(owner, name, None)
            if value is None:
                continue
            if kind == "VALUE":
                out.append((name, plain(value)))
            elif kind == "PATH":
                out.append((name, file_state(value, owner.id_data)))
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


def _is_animated(item) -> bool:
    animation = getattr(item, "animation_data", None)
    return animation is not None and (animation.action is not None or len(animation.drivers) > 0)


def _describe_collections(collection, out: list) -> None:
    hidden = collection.collection.hide_render
    out.append((collection.name, collection.exclude, collection.holdout, collection.indirect_only, hidden))
    for child in collection.children:
        _describe_collections(child, out)
