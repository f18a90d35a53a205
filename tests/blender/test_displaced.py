# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials that displace a surface are named: it is tracked where the mesh has it."""

import bpy
import pytest

from das_blender_addon import api
from das_blender_addon.shot.findings import WARNING
from tests.support.scenes import add_camera, add_cube


def displace(material, *, is_linked=True, in_group=False):
    """Give ``material`` a displacement, also one inside a group of nodes."""
    if material.node_tree is None:  # always there since Blender 5.0
        material.use_nodes = True
    tree = material.node_tree
    end = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    if in_group:
        inner = bpy.data.node_groups.new("Bumps", "ShaderNodeTree")
        inner.interface.new_socket("Moved", in_out="OUTPUT", socket_type="NodeSocketVector")
        node, out = inner.nodes.new("ShaderNodeDisplacement"), inner.nodes.new("NodeGroupOutput")
        inner.links.new(node.outputs[0], out.inputs[0])
        node = tree.nodes.new("ShaderNodeGroup")
        node.node_tree = inner
    else:
        node = tree.nodes.new("ShaderNodeDisplacement")
    if is_linked:
        tree.links.new(node.outputs[0], end.inputs["Displacement"])
    return material


@pytest.mark.parametrize(
    ("method", "how", "is_named"),
    [
        ("DISPLACEMENT", {}, True),
        ("BOTH", {"in_group": True}, True),
        ("BUMP", {}, False),
        ("DISPLACEMENT", {"is_linked": False}, False),
    ],
)
def test_displaced_surface_is_named_with_its_remedy(scene, method, how, is_named):
    add_camera(scene)
    cube = add_cube(scene, "Rock")
    cube.data.materials.append(bpy.data.materials.new("Plain"))
    cube.data.materials.append(displace(bpy.data.materials.new("Stone"), **how))
    cube.data.materials[1].displacement_method = method
    told = [one for one in api.check_shot(scene).findings if one.code == "scene.displaced"]
    assert [(one.level, one.objects) for one in told] == ([(WARNING, ("Rock",))] if is_named else [])
    assert all("'Stone'" in one.words and "Displace modifier" in one.remedy for one in told)
