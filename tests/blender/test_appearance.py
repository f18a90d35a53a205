# SPDX-License-Identifier: GPL-3.0-or-later
"""What decides how a first frame looks: its digest changes with all that a picture shows, and with nothing else."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.scene.appearance import appearance_digest, recent_shading_digest, shading_digest
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.shot.pictures import keep_rendered
from das_blender_addon.ui import operators
from tests.support.scenes import add_camera, add_grid, key, link

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0
PICTURE = encode_png(np.full((4, 6, 3), 10, np.uint8))


def node_tree(owner):
    if owner.node_tree is None:  # always there since Blender 5.0
        owner.use_nodes = True
    return owner.node_tree


@pytest.fixture
def looks(scene, tmp_path):
    """A floor with a material out of an image file, a packed image, a colour ramp and a group; a lamp; a world."""
    add_camera(scene, location=(0, -8, 3))
    floor = add_grid(scene, "Floor", cells=2, size=4)
    floor.data.uv_layers.new(name="UVMap")
    floor.data.color_attributes.new("Paint", "FLOAT_COLOR", "POINT")
    material = bpy.data.materials.new("Look")
    floor.data.materials.append(material)
    tree = node_tree(material)
    file = tmp_path / "wood.png"
    file.write_bytes(PICTURE)
    for name in ("file", "packed"):
        node = tree.nodes.new("ShaderNodeTexImage")
        node.name, node.image = name, bpy.data.images.load(str(file), check_existing=False)
        node.image.name = name
    bpy.data.images["packed"].pack()
    tree.nodes.new("ShaderNodeValToRGB").name = "ramp"
    group = bpy.data.node_groups.new("Group", "ShaderNodeTree")
    group.nodes.new("ShaderNodeValue").name = "value"
    tree.nodes.new("ShaderNodeGroup").node_tree = group
    shader = tree.nodes["Principled BSDF"]
    tree.links.new(tree.nodes["file"].outputs[0], shader.inputs["Base Color"])
    tree.nodes.new("ShaderNodeOutputMaterial").name = "other output"
    tree.nodes.new("ShaderNodeTexImage").image = bpy.data.images.new("new", 8, 8)
    scatter(floor)
    link(scene, "Lamp", bpy.data.lights.new("Lamp", "POINT")).location = (0, 0, 4)
    for name in ("Lit", "Dark"):
        bpy.data.collections.new(name).objects.link(floor)
    bpy.data.objects["Lamp"].light_linking.receiver_collection = bpy.data.collections["Lit"]
    bpy.data.objects["Lamp"].light_linking.blocker_collection = bpy.data.collections["Lit"]
    floor["tint"], floor.data["tint"], scene["tint"] = [0.0, 0.0, 1.0], 0.5, 0.5
    scene.world = bpy.data.worlds.new("World")
    node_tree(scene.world)
    key(material, "pass_index", {1: 0, 9: 8})
    return scene


def look_of(scene, frame: int = 1) -> str:
    digests = []

    def visit(_frame, depsgraph):
        digests.append(appearance_digest(depsgraph))

    walk_in_render(scene, scene.view_layers[0].name, [frame], visit)
    return digests[0]


def shader_input(name: str):
    return bpy.data.materials["Look"].node_tree.nodes["Principled BSDF"].inputs[name]


def paint_packed() -> None:
    image = bpy.data.images["packed"]
    image.pixels[0] = 0.9
    image.update()
    image.pack()


def rewrite_file() -> None:
    path = Path(bpy.path.abspath(bpy.data.images["file"].filepath))
    path.write_bytes(encode_png(np.full((4, 6, 3), 200, np.uint8)) + b"\0")


def unlink() -> None:
    tree = bpy.data.materials["Look"].node_tree
    tree.links.remove(tree.links[0])


def link_lamp(kind: str) -> None:
    setattr(bpy.data.objects["Lamp"].light_linking, kind, bpy.data.collections["Dark"])


def shadow_settings():
    floor = bpy.data.objects["Floor"]
    return floor if hasattr(floor, "shadow_terminator_geometry_offset") else floor.cycles  # Cycles' own until 4.2


def set_custom(owner, value) -> None:
    owner["tint"] = value
    owner.id_data.update_tag()


def stroke(name: str) -> None:
    """As a script paints: nothing is saved or packed."""
    image = bpy.data.images[name]
    image.pixels[1] = 0.7
    image.update()


def scatter(floor) -> None:
    """Cubes on every point of ``floor``, that only nodes know, of a material in the nodes and one that they are given.
    """
    group = bpy.data.node_groups.new("Scatter", "GeometryNodeTree")
    for name, kind, side in (
        ("Geometry", "Geometry", "INPUT"), ("Material", "Material", "INPUT"), ("Geometry", "Geometry", "OUTPUT")
    ):
        socket = group.interface.new_socket(name, in_out=side, socket_type=f"NodeSocket{kind}")
        if kind == "Material":
            given = socket.identifier
    nodes, connect = group.nodes, group.links.new
    begin, end, join = (nodes.new(kind) for kind in ("NodeGroupInput", "NodeGroupOutput", "GeometryNodeJoinGeometry"))
    connect(begin.outputs["Geometry"], join.inputs[0])
    for own in (True, False):
        cube, points = nodes.new("GeometryNodeMeshCube"), nodes.new("GeometryNodeInstanceOnPoints")
        chosen = nodes.new("GeometryNodeSetMaterial")
        if own:
            chosen.name = "Set Material"
            chosen.inputs["Material"].default_value = new_material("Of Instances")
        else:
            connect(begin.outputs["Material"], chosen.inputs["Material"])
        connect(cube.outputs[0], chosen.inputs["Geometry"])
        connect(begin.outputs["Geometry"], points.inputs["Points"])
        connect(chosen.outputs[0], points.inputs["Instance"])
        connect(points.outputs[0], join.inputs[0])
    connect(join.outputs[0], end.inputs[0])
    modifier = floor.modifiers.new("Scatter", "NODES")
    modifier.node_group = group
    if hasattr(modifier, "properties"):
        getattr(modifier.properties.inputs, given).value = new_material("Given")
    else:
        modifier[given] = new_material("Given")


def new_material(name: str):
    material = bpy.data.materials.new(name)
    node_tree(material)
    return material


CHANGES = {
    "roughness": lambda: setattr(shader_input("Roughness"), "default_value", 0.123),
    "node muted": lambda: setattr(bpy.data.materials["Look"].node_tree.nodes["file"], "mute", True),
    "ramp": lambda: setattr(
        bpy.data.materials["Look"].node_tree.nodes["ramp"].color_ramp.elements[0], "color", (1, 0, 0, 1)
    ),
    "interpolation": lambda: setattr(bpy.data.materials["Look"].node_tree.nodes["file"], "interpolation", "Closest"),
    "link": unlink,
    "group": lambda: setattr(bpy.data.node_groups["Group"].nodes["value"].outputs[0], "default_value", 2.0),
    "image file": rewrite_file,
    "packed image": paint_packed,
    "colour space": lambda: setattr(bpy.data.images["file"].colorspace_settings, "name", "Non-Color"),
    "lamp's energy": lambda: setattr(bpy.data.lights["Lamp"], "energy", 7.0),
    "lamp's place": lambda: setattr(bpy.data.objects["Lamp"], "location", (1, 0, 4)),
    "lamp hidden": lambda: setattr(bpy.data.objects["Lamp"], "hide_render", True),
    "world": lambda: setattr(
        bpy.data.worlds["World"].node_tree.nodes["Background"].inputs["Strength"], "default_value", 3.0
    ),
    "UV map": lambda: setattr(bpy.data.meshes["Floor"].uv_layers[0].uv[0], "vector", (0.25, 0.75)),
    "vertex colours": lambda: setattr(
        bpy.data.meshes["Floor"].color_attributes["Paint"].data[0], "color", (1, 0, 0, 1)
    ),
    "other material": lambda: bpy.data.meshes["Floor"].materials.append(bpy.data.materials.new("Other")),
    "shadow only": lambda: setattr(bpy.data.objects["Floor"], "visible_diffuse", False),
    "exposure": lambda: setattr(bpy.context.scene.view_settings, "exposure", 1.0),
    "bounces": lambda: setattr(bpy.context.scene.cycles, "max_bounces", 1),
    "transparent film": lambda: setattr(bpy.context.scene.render, "film_transparent", True),
    "light linking": lambda: link_lamp("receiver_collection"),
    "shadow linking": lambda: link_lamp("blocker_collection"),
    "left out of light linking": lambda: setattr(
        bpy.data.collections["Lit"].collection_objects[0].light_linking, "link_state", "EXCLUDE"
    ),
    "colour property of an object": lambda: set_custom(bpy.data.objects["Floor"], [1.0, 0.0, 0.0]),
    "property of a mesh": lambda: set_custom(bpy.data.meshes["Floor"], 0.7),
    "property of the scene": lambda: set_custom(bpy.context.scene, 0.7),
    "array of the scene": lambda: set_custom(bpy.context.scene, [3, 4]),
    "property of the view layer": lambda: set_custom(bpy.context.view_layer, 0.7),
    "property of the world": lambda: set_custom(bpy.data.worlds["World"], 0.7),
    "samples of the view layer": lambda: setattr(bpy.context.view_layer, "samples", 5),
    "denoising of the view layer": lambda: setattr(bpy.context.view_layer.cycles, "use_denoising", False),
    "shape of curves": lambda: setattr(bpy.context.scene.cycles_curves, "subdivisions", 5),
    "caustics": lambda: setattr(bpy.data.objects["Floor"].cycles, "is_caustics_caster", True),
    "holdout": lambda: setattr(bpy.data.objects["Floor"], "is_holdout", True),
    "shadow terminator": lambda: setattr(shadow_settings(), "shadow_terminator_geometry_offset", 0.5),
    "output node": lambda: setattr(
        bpy.data.materials["Look"].node_tree.nodes["other output"], "is_active_output", True
    ),
    "strokes on the image": lambda: stroke("file"),
    "strokes on the packed image": lambda: stroke("packed"),
    "strokes on a new image": lambda: stroke("new"),
    "material in instances": lambda: setattr(
        bpy.data.materials["Of Instances"].node_tree.nodes["Principled BSDF"].inputs["Roughness"], "default_value", 0.1
    ),
    "material given to instances": lambda: setattr(
        bpy.data.materials["Given"].node_tree.nodes["Principled BSDF"].inputs["Roughness"], "default_value", 0.1
    ),
    "other material in instances": lambda: setattr(
        bpy.data.node_groups["Scatter"].nodes["Set Material"].inputs["Material"],
        "default_value",
        bpy.data.materials["Look"],
    ),
    "depth of field": lambda: setattr(bpy.data.cameras["Camera"].dof, "use_dof", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_changes_with(looks, change):
    before = look_of(looks)
    CHANGES[change]()
    after = look_of(looks)
    assert after != before and after == look_of(looks)


OF_GEOMETRY = {"lamp's place", "UV map", "vertex colours", "depth of field"}
"""What a window's digest leaves to Blender's own word on it."""


@pytest.mark.any_blender
@pytest.mark.parametrize("change", sorted(CHANGES.keys() - OF_GEOMETRY))
def test_shading_digest_changes_with(looks, change):
    before = shading_digest(looks, looks.view_layers[0])
    CHANGES[change]()
    assert shading_digest(looks, looks.view_layers[0]) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda: setattr(bpy.data.materials["Look"].node_tree.nodes["ramp"], "location", (300, 40)),
        lambda: setattr(bpy.data.materials["Look"].node_tree.nodes["ramp"], "label", "a label"),
        lambda: setattr(bpy.data.materials["Look"].node_tree.nodes["ramp"], "select", True),
        lambda: bpy.context.scene.frame_set(5),
        lambda: bpy.data.materials.new("nobody's"),
        lambda: setattr(bpy.data.objects["Lamp"], "hide_viewport", True),
        lambda: setattr(bpy.data.objects["Floor"], "show_wire", True),
        lambda: setattr(bpy.context.scene.cycles, "preview_samples", 3),
        lambda: bpy.data.objects["Floor"].select_set(True),
    ],
)
def test_digest_does_not_change_with_what_no_picture_shows(looks, change):
    before = look_of(looks), shading_digest(looks, looks.view_layers[0])
    change()
    assert (look_of(looks), shading_digest(looks, looks.view_layers[0])) == before


def test_digest_counts_animation_where_it_stands(looks):
    assert look_of(looks, 1) != look_of(looks, 5)
    shading = shading_digest(looks, looks.view_layers[0])
    looks.frame_set(5)
    assert shading_digest(looks, looks.view_layers[0]) == shading


def test_digests_are_the_same_in_another_process(looks, tmp_path):
    looks.frame_set(7)
    path = tmp_path / "looks.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import bpy, addon_utils
        addon_utils.enable("das_blender_addon", default_set=True)
        bpy.ops.wm.open_mainfile(filepath={str(path)!r})
        from tests.blender.test_appearance import look_of, shading_digest
        scene = bpy.context.scene
        print("LOOK", look_of(scene), shading_digest(scene, scene.view_layers[0]), flush=True)
        import os
        os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "LOOK" in done.stdout, done.stderr
    assert done.stdout.split("LOOK ")[1].split()[:2] == [look_of(looks), shading_digest(looks, looks.view_layers[0])]


def test_digest_is_the_same_inside_a_render(looks):
    seen = []

    class DAS_TEST_look(bpy.types.RenderEngine):
        bl_idname = "DAS_TEST_LOOK"
        bl_label = "Test"

        def render(self, depsgraph):
            self.frame_set(3, 0.0)
            seen.append(appearance_digest(depsgraph))
            self.frame_set(1, 0.0)

    bpy.utils.register_class(DAS_TEST_look)
    try:
        looks.render.engine = "DAS_TEST_LOOK"
        bpy.ops.render.render()
    finally:
        bpy.utils.unregister_class(DAS_TEST_look)
    assert seen == [look_of(looks, 3)]


def test_panel_says_stale_when_a_material_changed(looks, tmp_path):
    looks.das.cache_folder = str(tmp_path / "cache")
    folder = api.shot_folder(looks, tmp_path / "cache")
    shading = shading_digest(looks, looks.view_layers[0])
    keep_rendered(folder, 1, "ab" * 32, PICTURE, {"shading": shading})
    assert operators.first_frame_words(looks) == ""
    CHANGES["roughness"]()
    deadline = time.monotonic() + LIMIT_S
    while recent_shading_digest(looks, looks.view_layers[0]) == shading:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert operators.first_frame_words(looks).startswith("Stale: materials")
