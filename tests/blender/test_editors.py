# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own editors and panels with the engine chosen: nothing that the first frame needs disappears."""

import addon_utils
import bpy
import pytest

from das_blender_addon import compat
from das_blender_addon.ui import panels


@pytest.fixture
def startup_scene(addon):
    """The file that Blender starts with, its workspaces and screens, the engine chosen."""
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    scene = bpy.context.scene
    scene.render.engine = "DAS"
    return scene


def test_shader_editor_can_be_opened(startup_scene):
    screen = bpy.data.screens["Shading"]
    (area,) = (area for area in screen.areas if area.type == "NODE_EDITOR")
    with bpy.context.temp_override(window=bpy.context.window, screen=screen, area=area):
        area.ui_type = "GeometryNodeTree"
        area.ui_type = "ShaderNodeTree"  # the editor menu: refused when it is not listed there
        assert area.spaces.active.tree_type == "ShaderNodeTree"


# ── Panels ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NEXT = "next_" if bpy.app.version < (5, 0, 0) else ""
WANTED = {
    "CYCLES": {
        "CYCLES_PT_context_material",
        "CYCLES_MATERIAL_PT_surface",
        "CYCLES_MATERIAL_PT_displacement",
        "CYCLES_MATERIAL_PT_settings",
        "NODE_CYCLES_MATERIAL_PT_settings",
        "CYCLES_WORLD_PT_surface",
        "CYCLES_WORLD_PT_settings",
        "CYCLES_LIGHT_PT_light",
        "CYCLES_LIGHT_PT_nodes",
        "CYCLES_CAMERA_PT_dof",
        "CYCLES_OBJECT_PT_visibility",
        "CYCLES_RENDER_PT_sampling",
        "CYCLES_RENDER_PT_sampling_render",
        "CYCLES_RENDER_PT_sampling_render_denoise",
        "CYCLES_RENDER_PT_light_paths",
        "CYCLES_RENDER_PT_film",
        "CYCLES_RENDER_PT_film_transparency",
        "CYCLES_RENDER_PT_performance",
        "CYCLES_RENDER_PT_filter",
    },
    "EEVEE": {
        "EEVEE_MATERIAL_PT_context_material",
        "EEVEE_MATERIAL_PT_surface",
        f"EEVEE_{NEXT.upper()}MATERIAL_PT_settings",
        f"NODE_EEVEE_{NEXT.upper()}MATERIAL_PT_settings",
        "EEVEE_WORLD_PT_surface",
        "DATA_PT_EEVEE_light",
        "DATA_PT_camera_dof",
        f"RENDER_PT_eevee_{NEXT}sampling",
        f"RENDER_PT_eevee_{NEXT}sampling_render",
        f"RENDER_PT_eevee_{NEXT}raytracing",
        f"RENDER_PT_eevee_{NEXT}film",
    },
    "WORKBENCH": {
        "EEVEE_MATERIAL_PT_context_material",
        "DATA_PT_light",
        "DATA_PT_camera_dof",
        "RENDER_PT_opengl_lighting",
        "RENDER_PT_opengl_color",
        "RENDER_PT_opengl_film",
    },
}
SHARED = {
    "RENDER_PT_format",
    "RENDER_PT_frame_range",
    "RENDER_PT_output",
    "RENDER_PT_color_management",
    "DATA_PT_lens",
    "DATA_PT_camera",
    "PARTICLE_PT_render",
    "PARTICLE_PT_emission",
    "WORLD_PT_custom_props",
    "VIEWLAYER_PT_layer",
}
SENSELESS = ("bake", "motion_blur", "passes", "freestyle", "VIEW3D_PT_shading", "CYCLES_RENDER_PT_sampling_viewport")


def panels_by_name() -> dict[str, type]:
    return {panel.__name__: panel for panel in bpy.types.Panel.__subclasses__() if hasattr(panel, "COMPAT_ENGINES")}


def senseless() -> set[str]:
    """Names of the panels of the Properties editor that are to show for no shot and can be asked without an editor."""
    return {
        name
        for name, panel in panels_by_name().items()
        if getattr(panel, "bl_context", "") in ("render", "output", "view_layer", "object")
        and not getattr(panel, "bl_parent_id", "")  # those show where their parents do
        and any(word in name for word in SENSELESS)
        and not name.startswith("DAS_")
    }


def shown(names) -> set[str]:
    """Those of ``names`` of panels that show now, for the active object."""
    found = panels_by_name()
    return {name for name in names & found.keys() if found[name].poll(bpy.context)}


@pytest.mark.parametrize("chosen", WANTED)
def test_panels_are_those_of_the_first_frames_engine(startup_scene, chosen):
    startup_scene.das.first_frame_engine = chosen
    names = {name for name, panel in panels_by_name().items() if "DAS" in panel.COMPAT_ENGINES}
    assert WANTED[chosen] | SHARED <= names
    for other in set(WANTED) - {chosen}:
        assert not (WANTED[other] - WANTED[chosen]) & names
    assert not shown(senseless())


def test_panels_ask_for_the_engine_of_the_scene_that_is_shown(startup_scene):
    cycles, eevee = panels_by_name()["CYCLES_RENDER_PT_film"], panels_by_name()[f"RENDER_PT_eevee_{NEXT}film"]
    startup_scene.das.first_frame_engine = "CYCLES"
    other = bpy.data.scenes.new("Other")
    other.render.engine, other.das.first_frame_engine = "DAS", "EEVEE"
    assert cycles.poll(bpy.context) and not eevee.poll(bpy.context)
    bpy.context.window.scene = other
    assert eevee.poll(bpy.context) and not cycles.poll(bpy.context)
    other.render.engine = "CYCLES"
    assert cycles.poll(bpy.context) and not eevee.poll(bpy.context)


def test_senseless_panels_are_those_of_other_engines_as_before(startup_scene):
    """Also those that do not ask their own engines, as Cycles' Motion Blur of an object does."""
    startup_scene.das.first_frame_engine = "CYCLES"
    assert bpy.context.object.type == "MESH" and not shown(senseless())
    startup_scene.render.engine = "CYCLES"
    with_cycles = shown(senseless())
    assert {"CYCLES_OBJECT_PT_motion_blur", "CYCLES_RENDER_PT_motion_blur", "CYCLES_RENDER_PT_passes"} <= with_cycles
    addon_utils.disable("das_blender_addon")
    try:
        assert shown(senseless()) == with_cycles
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)
    startup_scene.render.engine = "DAS"
    assert not shown(senseless())


def test_panels_are_as_before_when_disabled(startup_scene):
    mixed = {name for name in panels_by_name() if name.startswith("DAS_PT_")}
    assert {"DAS_PT_shot", "DAS_PT_takes"} <= mixed
    while_enabled = {name: set(panel.COMPAT_ENGINES) for name, panel in panels_by_name().items()}
    addon_utils.disable("das_blender_addon")
    try:
        startup_scene.render.engine = "CYCLES"
        found = panels_by_name()
        assert not [name for name in found if name not in mixed and "DAS" in found[name].COMPAT_ENGINES]
        assert {type(panel.COMPAT_ENGINES) for panel in found.values()} == {set}
        for name, panel in found.items():
            assert name in mixed or panel.COMPAT_ENGINES == while_enabled[name]
        assert "poll" not in found["CYCLES_RENDER_PT_motion_blur"].__dict__
        assert found["CYCLES_RENDER_PT_film"].poll(bpy.context)
        assert found["CYCLES_RENDER_PT_motion_blur"].poll(bpy.context)
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)


def test_samples_of_the_engine_say_that_others_count(startup_scene):
    def notes() -> list[str]:
        drawn = [function for panel in compat.sampling_panels() for function in panel.draw._draw_funcs]
        return [function.__name__ for function in drawn if function.__module__ == panels.__name__]

    assert len(compat.sampling_panels()) == len(notes()) == 2
    addon_utils.disable("das_blender_addon")
    try:
        assert not notes()
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)


def test_engines_that_others_add_to_a_panel_stay(startup_scene):
    panel = panels_by_name()["RENDER_PT_output"]
    panel.COMPAT_ENGINES.add("LUXCORE")
    addon_utils.disable("das_blender_addon")
    try:
        assert "LUXCORE" in panel.COMPAT_ENGINES
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)
    panel.COMPAT_ENGINES.discard("LUXCORE")
