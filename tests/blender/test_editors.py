# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own editors and panels with the engine chosen: nothing that the first frame needs disappears."""

import bpy
import pytest


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
