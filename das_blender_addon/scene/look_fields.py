# SPDX-License-Identifier: GPL-3.0-or-later
"""Which properties of Blender's data decide how a first frame looks: all, but for those that are named here."""

from __future__ import annotations

import bpy

_WITHOUT = tuple((kind, frozenset(kind.bl_rna.properties.keys())) for kind in (bpy.types.ID, bpy.types.Node))
"""What every data block and every node has says nothing of its look."""
_SKIPPED = frozenset(
    # What no picture shows, or what is read elsewhere.
    """rna_type animation_data node_preview grease_pencil edit_text pixels render_slots bindings packed_file
    packed_files device tile_size use_auto_tile texture_limit samples taa_samples interface_items interface view_center
    feature_set threads grids tracking nodes links lineart texture_paint_images texture_paint_slots paint_active_slot
    paint_clone_slot line_color line_priority color_tag default_group_node_width description is_active is_expanded
    select""".split()
)
_SKIPPED_PREFIXES = tuple("show_ display preview use_preview debug_ bl_ bake viewport active_".split())
_SKIPPED_OF = {
    # Where it stands (its matrix is read), what it is made of (geometry is read), how it is edited; an empty's picture.
    bpy.types.Object: tuple(
        """data mode parent track_axis up_axis location rotation_ scale dimensions delta_ lock_ matrix_ modifiers
        shader_effects constraints vertex_groups empty_ image_user field collision soft_body particle_systems rigid_body
        use_simulation_cache hide_ use_camera_lock_parent use_parent_final_indices pose use_shape_key_edit_mode
        use_mesh_mirror_ animation_visualization motion_path material_slots add_rest_position_attribute
        use_grease_pencil_lights""".split()
    ),
    # Its name, what it holds (read elsewhere), passes beside the picture, what is drawn over a render.
    bpy.types.ViewLayer: tuple(
        """name use_pass pass_crypto aovs lightgroups layer_collection objects depsgraph freestyle_settings
        use_freestyle use_grease_pencil""".split()
    ),
}
"""How names begin that say nothing of the look; of these two nor do properties of add-ons other than Cycles."""
_OF_CYCLES = "cycles"

_WORDS = frozenset((bool, int, float, str, type(None)))
_known: dict[type, list[tuple[str, str]]] = {}


def fields(owner) -> list[tuple[str, str]]:
    """(name, kind) of the properties of ``owner`` that count; kind VALUE, PATH, POINTER or COLLECTION."""
    known = _known.get(type(owner))
    if known is None:
        without = next((names for kind, names in _WITHOUT if isinstance(owner, kind)), ())
        prefixes = next((names for kind, names in _SKIPPED_OF.items() if isinstance(owner, kind)), ())
        known = _known[type(owner)] = [
            (name, _kind(prop))
            for name, prop in owner.bl_rna.properties.items()
            if name not in without
            and name not in _SKIPPED
            and not name.startswith(_SKIPPED_PREFIXES + prefixes)
            and not (prefixes and prop.is_runtime and not name.startswith(_OF_CYCLES))
            and _counts(prop)
        ]
    return known


def custom_properties(owner) -> list[tuple]:
    """(name, value) of the numbers, words and arrays that its user has put into ``owner``, for materials to read."""
    registered, found = owner.bl_rna.properties, []
    for name, value in owner.items():
        if name not in registered and (type(value) in _WORDS or hasattr(value, "to_list")):
            found.append((name, plain(value)))
    return sorted(found, key=lambda one: one[0])


def _counts(prop) -> bool:
    if getattr(prop, "is_deprecated", False):
        return False
    return prop.type in ("POINTER", "COLLECTION") or not prop.is_readonly


def _kind(prop) -> str:
    if prop.type in ("POINTER", "COLLECTION"):
        return prop.type
    return "PATH" if prop.type == "STRING" and prop.subtype == "FILE_PATH" else "VALUE"


def plain(value):
    """``value`` as numbers, words and tuples, whose `repr` is the same everywhere."""
    if type(value) in _WORDS:
        return value
    if isinstance(value, set | frozenset):
        return sorted(value)
    try:
        values = tuple(value)
    except TypeError:
        return type(value).__name__
    return values if not values or type(values[0]) in _WORDS else tuple(plain(one) for one in values)
