# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between the Blender versions that the extension supports (4.2 to 5.2), found by asking for
features.
"""

from __future__ import annotations

from collections.abc import Callable

import bpy

ENGINE = "DAS"
PACKAGE = __package__
"""The name that Blender knows the extension by."""

INDEX_PASSES = ("Object Index", "Material Index") if bpy.app.version >= (5, 0, 0) else ("IndexOB", "IndexMA")
"""Names of the passes in a render result."""

_NEW_TIMES = {"start": "content_start", "left": "left_handle", "right": "right_handle", "duration": "duration"}
_OLD_TIMES = {
    "start": "frame_start",
    "left": "frame_final_start",
    "right": "frame_final_end",
    "duration": "frame_final_duration",
}
_SENSELESS_PANELS = (
    "FREESTYLE",
    "GPENCIL",
    "GREASE",
    "RENDER_PT_BAKE",
    "RENDER_PT_DEBUG",
    "MOTION_BLUR",
    "PASSES",
    "VIEW3D_PT_SHADING",
    "CYCLES_RENDER_PT_SAMPLING_VIEWPORT",
    "CYCLES_RENDER_PT_PERFORMANCE_VIEWPORT",
)
"""Parts of the names of panels that have nothing to do with a first frame or a take."""


# ── Render engines and panels ───────────────────────────────────────────────────────────────────────────────────────


def engine_identifier(name: str) -> str:
    """Blender's identifier of "CYCLES", "EEVEE" or "WORKBENCH"; EEVEE is BLENDER_EEVEE_NEXT in Blender 4.2 to 4.5."""
    if name == "EEVEE":
        known = {item.identifier for item in bpy.types.RenderSettings.bl_rna.properties["engine"].enum_items}
        return "BLENDER_EEVEE_NEXT" if "BLENDER_EEVEE_NEXT" in known else "BLENDER_EEVEE"
    return {"CYCLES": "CYCLES", "WORKBENCH": "BLENDER_WORKBENCH"}[name]


class _Engines(set):
    """The engines of a panel; ours is one of them for as long as the engine of the first frame is.

    Cycles and EEVEE have panels of their own for the same things: which ones show depends on the scene.
    """

    def __contains__(self, engine) -> bool:
        return super().__contains__(_first_frame_engine() if engine == ENGINE else engine)


_first_frame_engine: Callable[[], str] = str
"""Blender's identifier of the engine of the first frame, of the scene that is shown."""
_with_ours: list[type] = []
"""The classes whose engines `show_panels` made `_Engines`."""
_senseless: list[tuple[type, object]] = []
"""Panels that `show_panels` hides for our engine, with the poll of their own that they had, None where it is another
class's.
"""


def show_panels(first_frame_engine: Callable[[], str]) -> None:
    """Show for our engine the panels that Blender shows for the engine of the first frame.

    ``first_frame_engine()``: that of the scene that is shown, a name of `engine_identifier`.  Left out is what neither
    a first frame nor a take knows: baking, passes, motion blur and the viewport of Cycles.
    """
    global _first_frame_engine
    panels = [panel for panel in bpy.types.Panel.__subclasses__() if isinstance(_engines(panel), set)]
    known = set().union(*map(_engines, panels))

    def identifier() -> str:
        chosen = engine_identifier(first_frame_engine())
        return chosen if chosen in known else "BLENDER_RENDER"  # Cycles is an add-on, which may be off

    _first_frame_engine = identifier
    for panel in panels:
        owner = next(cls for cls in panel.__mro__ if "COMPAT_ENGINES" in cls.__dict__)
        if ENGINE in set(_engines(owner)):
            continue  # our own panel, or another extension's for our engine
        if any(word in panel.__name__.upper() for word in _SENSELESS_PANELS):
            if owner is not panel:
                _hide_for_ours(panel)
        elif not isinstance(_engines(owner), _Engines):
            owner.COMPAT_ENGINES = _Engines(_engines(owner))
            _with_ours.append(owner)


def _hide_for_ours(panel: type) -> None:
    """Its poll says no for our engine: it shares its engines with panels that are to show, and some of Cycles' panels
    ask the class that they share with instead of their own.
    """
    poll = next((cls.__dict__["poll"] for cls in panel.__mro__ if "poll" in cls.__dict__), None)
    if poll is None:  # it shows with every engine
        return
    _senseless.append((panel, panel.__dict__.get("poll")))
    panel.poll = classmethod(lambda cls, context: context.engine != ENGINE and poll.__get__(None, cls)(context))


def sampling_panels() -> list[type]:
    """The panels of Cycles and EEVEE that have the samples of a render."""
    names = (
        "CYCLES_RENDER_PT_sampling_render",
        "RENDER_PT_eevee_sampling_render",
        "RENDER_PT_eevee_next_sampling_render",  # Blender 4.2 to 4.5
    )
    return [getattr(bpy.types, name) for name in names if hasattr(bpy.types, name)]


def hide_panels() -> None:
    """Undo `show_panels`; panels that were made for our engine keep it."""
    for owner in _with_ours:
        owner.COMPAT_ENGINES = set(owner.COMPAT_ENGINES)
    for panel, poll in _senseless:
        if poll is None:
            del panel.poll
        else:
            panel.poll = poll
    _with_ours.clear()
    _senseless.clear()


def _engines(panel: type) -> set[str] | None:
    return getattr(panel, "COMPAT_ENGINES", None)


def relative_path_options() -> set[str]:
    """What a path property needs so that Blender 4.5 and newer do not warn of "//"; older ones do not know the
    option.
    """
    return {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


# ── Hair ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def poly_hair_is_straight(scene) -> bool:
    """Whether Cycles draws hair curves of type Poly straight from point to point; older ones bend all hair."""
    settings = getattr(scene, "cycles_curves", None)
    return settings is not None and "THICK_LINEAR" in settings.bl_rna.properties["shape"].enum_items


def hair_is_straight(scene) -> bool:
    """Whether all hair of ``scene`` leads straight from point to point."""
    return getattr(getattr(scene, "cycles_curves", None), "shape", "") == "THICK_LINEAR"


# ── Materials ───────────────────────────────────────────────────────────────────────────────────────────────────────


def shader_nodes(material):
    """The node tree that ``material`` is shaded by; None where there is none.  Until Blender 4.5 it may be off."""
    if material is None or (bpy.app.version < (5, 0, 0) and not material.use_nodes):
        return None
    return material.node_tree


# ── Grease Pencil ───────────────────────────────────────────────────────────────────────────────────────────────────

GREASE_PENCIL = frozenset(("GPENCIL", "GREASEPENCIL"))
"""Types of its objects: until Blender 4.2, and since 4.3."""


def draws_grease_pencil(layer) -> bool:
    """Whether Blender draws Grease Pencil over the result of an engine for the view layer ``layer``; until 4.2 it
    always does.
    """
    return getattr(layer, "use_grease_pencil", True)


def without_grease_pencil(scene) -> list[tuple[object, str, bool]]:
    """(owner, property, value) of all that must be set so that no Grease Pencil is drawn over renders of ``scene``."""
    if hasattr(scene.view_layers[0], "use_grease_pencil"):
        return [(layer, "use_grease_pencil", False) for layer in scene.view_layers]
    objects = [(shape, "hide_render", True) for shape in bpy.data.objects if shape.type in GREASE_PENCIL]
    layers = [(layer, "hide", True) for pencil in bpy.data.grease_pencils for layer in pencil.layers]
    return objects + layers  # that an object is hidden may be animated


# ── Sequencer: `sequences` until 4.3, both in 4.4, only `strips` since 5.0 ──────────────────────────────────────────


def sequence_editor(scene):
    """The scene's sequence editor, created if there is none."""
    return scene.sequence_editor or scene.sequence_editor_create()


def strips(scene):
    """The scene's top-level strips."""
    editor = sequence_editor(scene)
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def strips_inside(meta):
    """The strips of a meta strip."""
    return meta.strips if hasattr(meta, "strips") else meta.sequences


def all_strips(scene) -> list:
    """The strips of the scene, also those in meta strips; [] without a sequence editor."""
    editor = scene.sequence_editor
    if editor is None:
        return []
    return list(editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all)


def strips_that_render(scene) -> list:
    """The strips for which Blender renders the sequencer instead of the scene: top-level ones that are no sound.

    Since Blender 4.4 muted ones, by themselves or with their channel, do not count; before, they hide the scene behind
    black.
    """
    editor = scene.sequence_editor
    if editor is None:
        return []
    shown = [strip for strip in strips(scene) if strip.type != "SOUND"]
    if not hasattr(editor, "strips"):  # up to Blender 4.3
        return shown
    return [strip for strip in shown if not strip.mute and not editor.channels[strip.channel].mute]


def _time_property(strip, key: str) -> str:
    new = _NEW_TIMES[key]
    return new if new in strip.bl_rna.properties else _OLD_TIMES[key]


def strip_time(strip, key: str) -> int:
    """The strip's "start", "left", "right" (one past its last frame) or "duration", frames."""
    return int(getattr(strip, _time_property(strip, key)))


def set_strip_time(strip, key: str, value: int) -> None:
    """Set what `strip_time` gives."""
    setattr(strip, _time_property(strip, key), value)


def add_wipe(scene, name: str, channel: int, frames: tuple[int, int], first, second):
    """A strip that wipes from the strip ``first`` to ``second`` over the frames [start, end)."""
    start, end = frames
    known = strips(scene).bl_rna.functions["new_effect"].parameters
    times = {"length": end - start} if "length" in known else {"frame_end": end}  # since 5.0
    inputs = ("input1", "input2") if "input1" in known else ("seq1", "seq2")  # since 4.4
    named = {**times, **dict(zip(inputs, (first, second), strict=True))}
    return strips(scene).new_effect(name=name, type="WIPE", channel=channel, frame_start=start, **named)


def forget_strip_pixels(strip) -> None:
    """Make a strip read its files again; Blender 5.0 and newer keep the old pixels otherwise."""
    if not hasattr(strip, "invalidate_cache"):
        return
    for kind in ("RAW", "PREPROCESSED", "COMPOSITE"):
        try:
            strip.invalidate_cache(kind)
        except TypeError:  # not every version knows every kind
            continue


def sequencer_scene(context):
    """The scene whose strips the sequencer shows: the workspace's in 5.0 and newer, else the active one."""
    return getattr(context.workspace, "sequencer_scene", None) or context.scene


def show_in_sequencer(context, scene) -> None:
    """Let the sequencers of the workspace show ``scene`` (Blender 5.0 and newer; older ones show the window's
    scene).
    """
    workspace = getattr(context, "workspace", None)
    if workspace is not None and hasattr(workspace, "sequencer_scene"):
        workspace.sequencer_scene = scene


# ── Colours ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def working_space() -> str:
    """Name of the open file's scene-linear space; "" up to Blender 4.5, where files do not choose it."""
    colours = getattr(bpy.data, "colorspace", None)
    return colours.working_space if colours is not None else ""


def offers(owner, name: str, value: str) -> bool:
    """Whether the enumeration ``owner.name`` has ``value`` now: those of colours come from the machine's OpenColorIO
    configuration, and views and looks depend on the display.
    """
    return bool(bpy.types.UILayout.enum_item_name(owner, name, value))


# ── Output ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_image_output(scene, file_format: str = "PNG") -> None:
    """8-bit RGB image files; 5.0 and newer ask for the media type first."""
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format = file_format
    settings.color_mode = "RGB"
    if file_format == "PNG":
        settings.color_depth = "8"


def new_compositing(scene) -> tuple:
    """(node tree, socket of the picture) of ``scene``, which has no compositing yet."""
    if hasattr(scene, "compositing_node_group"):  # Blender 5.0 and newer
        tree = bpy.data.node_groups.new(scene.name, "CompositorNodeTree")
        scene.compositing_node_group = tree
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        return tree, tree.nodes.new("NodeGroupOutput").inputs[0]
    scene.use_nodes = True
    scene.node_tree.nodes.clear()
    return scene.node_tree, scene.node_tree.nodes.new("CompositorNodeComposite").inputs[0]


def set_video_output(scene, *, with_sound: bool = False) -> None:
    """An H.264 movie in an MP4 file, perceptually lossless; its sound, if any, as AAC."""
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "VIDEO"
    settings.file_format = "FFMPEG"
    settings.color_mode = "RGB"
    movie = scene.render.ffmpeg
    movie.format, movie.codec = "MPEG4", "H264"
    movie.constant_rate_factor, movie.ffmpeg_preset = "PERC_LOSSLESS", "GOOD"
    movie.gopsize = 12
    movie.audio_codec = "AAC" if with_sound else "NONE"


def placeholder(text: str) -> dict[str, str]:
    """Arguments for `UILayout.prop` that show ``text`` in an empty field, where Blender can (4.2 and newer can)."""
    known = bpy.types.UILayout.bl_rna.functions["prop"].parameters
    return {"placeholder": text} if "placeholder" in known else {}


# ── Geometry Nodes ──────────────────────────────────────────────────────────────────────────────────────────────────


def modifier_input(modifier, identifier: str):
    """What a Geometry Nodes modifier is given at the socket ``identifier`` of its group, None for nothing."""
    if hasattr(modifier, "properties"):  # Blender 5.2 and newer
        given = getattr(modifier.properties.inputs, identifier, None)
        return getattr(given, "value", None)
    return modifier.get(identifier)


def give_modifier_input(modifier, identifier: str, value) -> None:
    """Give a Geometry Nodes modifier ``value`` at the socket ``identifier`` of its group."""
    if hasattr(modifier, "properties"):  # Blender 5.2 and newer
        getattr(modifier.properties.inputs, identifier).value = value
    else:
        modifier[identifier] = value
