# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo-footage`: a picture of a room, rendered by Blender with its depth, becomes shots in `out/demo_footage/`.

The camera goes round the room with the true depth and with none (a floor and a wall), and a box moves.  Everything
there is made anew by every run.  `demo_footage_clip` does the same with a clip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import demo_footage_clip
from demo import ROOT, say, start_server, stop_server

SIZE = (240, 160)
FRAMES, SHOWN = 25, (1, 13, 25)
LENS_MM = 28.0
BOXES = {
    # name: size, location, turn about z
    "Parcel": (1.0, (0.2, 4.0, 0.5), 0.4),
    "Cupboard": (2.0, (-1.8, 6.3, 1.0), 0.0),
    "Lamp": (0.6, (1.6, 5.0, 1.9), 0.9),
}
COLOURS = {
    "Floor": (0.5, 0.3, 0.15), "Wall": (0.6, 0.6, 0.7), "Left": (0.6, 0.2, 0.2), "Right": (0.2, 0.5, 0.25),
    "Ceiling": (0.8, 0.8, 0.8), "Parcel": (0.8, 0.5, 0.1), "Cupboard": (0.2, 0.3, 0.6), "Lamp": (0.9, 0.9, 0.3),
}  # fmt: skip
PLANES = {
    # name: location, turn
    "Floor": ((0.0, 5.0, 0.0), (0.0, 0.0, 0.0)),
    "Ceiling": ((0.0, 5.0, 3.2), (0.0, 0.0, 0.0)),
    "Wall": ((0.0, 8.0, 0.0), (1.5708, 0.0, 0.0)),
    "Left": ((-3.5, 5.0, 0.0), (0.0, 1.5708, 0.0)),
    "Right": ((3.5, 5.0, 0.0), (0.0, 1.5708, 0.0)),
}
SHOTS = {
    "camera": ["camera", "--path", "orbit:20"],
    "move": ["move", "--by", "0.9,0.3,0.5", "--rotate", "0,0,40"],
    "plane": ["camera", "--path", "orbit:20"],
}
WORDS = {
    "camera": "orbit:20, true depth",
    "move": "a box moves, true depth",
    "plane": "orbit:20, no depth: floor and wall",
}


def make_room(out: Path) -> None:
    """In a Blender of its own: picture, depth and the mask of a box, and a clip."""
    import bpy

    make_picture(out)
    demo_footage_clip.film(bpy, out)


def make_picture(out: Path) -> None:
    """Picture, depth and the mask of a box."""
    import bpy
    import numpy as np
    from mathutils import Vector

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    for name, (place, turn) in PLANES.items():
        bpy.ops.mesh.primitive_plane_add(size=14.0, location=place, rotation=turn)
        bpy.context.object.name = name
    for name, (size, place, turn) in BOXES.items():
        bpy.ops.mesh.primitive_cube_add(size=size, location=place, rotation=(0.0, 0.0, turn))
        bpy.context.object.name = name
    for name, colour in COLOURS.items():
        scene.objects[name].data.materials.append(_checkered(bpy, name, colour))
    bpy.ops.object.light_add(type="POINT", location=(1.0, 2.0, 2.9))
    bpy.context.object.data.energy = 400.0
    bpy.ops.object.camera_add(location=(0.0, 0.0, 1.6), rotation=(np.pi / 2, 0.0, 0.0))
    scene.camera = bpy.context.object
    scene.camera.data.lens = LENS_MM
    render = scene.render
    render.engine, render.filepath = "CYCLES", os.fspath(out / "picture.png")
    render.resolution_x, render.resolution_y = SIZE
    render.image_settings.color_mode = "RGB"
    scene.cycles.samples, scene.view_settings.view_transform = 64, "Standard"
    bpy.ops.render.render(write_still=True)

    focal = LENS_MM / 36.0 * SIZE[0]
    depth, parcel = np.zeros(SIZE[::-1], np.float32), np.zeros(SIZE[::-1], bool)
    depsgraph = bpy.context.evaluated_depsgraph_get()
    for y in range(SIZE[1]):
        for x in range(SIZE[0]):
            ray = Vector(((x + 0.5 - SIZE[0] / 2) / focal, 1.0, -(y + 0.5 - SIZE[1] / 2) / focal))
            _, place, _, _, thing, _ = scene.ray_cast(depsgraph, scene.camera.location, ray)
            depth[y, x], parcel[y, x] = place.y, thing is not None and thing.name == "Parcel"
    np.save(out / "depth.npy", depth)
    np.save(out / "parcel.npy", parcel)


def _checkered(bpy, name: str, colour):
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # always there since Blender 5.0
        material.use_nodes = True
    tree = material.node_tree
    checker, place = tree.nodes.new("ShaderNodeTexChecker"), tree.nodes.new("ShaderNodeTexCoord")
    checker.inputs["Scale"].default_value = 5.0
    checker.inputs["Color1"].default_value = (*colour, 1.0)
    checker.inputs["Color2"].default_value = (*(0.6 * part for part in colour), 1.0)
    tree.links.new(place.outputs["Object"], checker.inputs["Vector"])
    tree.links.new(checker.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
    return material


def render(out: Path, name: str, address: str) -> list[str]:
    """The frames of one of `SHOTS`, by its command."""
    word, *flags = SHOTS[name]
    known = ["--lens", str(LENS_MM), "--frames", str(FRAMES), "--server", address, "--cache", str(out / "cache")]
    if name == "plane":
        known += ["--depth", "plane", "--wall", "8"]
    else:
        known += ["--depth", str(out / "depth.npy"), "--depth-kind", "metric"]
    if word == "move":
        known += ["--mask", str(out / "parcel.npy")]
    command = [sys.executable, "-m", "das_blender_addon", word, str(out / "picture.png"), *flags, *known]
    command += ["--size", "x".join(map(str, SIZE)), "--output", str(out / name), "--json"]
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(out / "blender_profile")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"demo-footage: {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])["frames"]


def contact_sheet(file: Path, frames: dict[str, list[str]], words: dict[str, str]) -> None:
    """A row for each shot, a column for each moment."""
    from PIL import Image, ImageDraw, ImageFont

    (width, height), gap, label = SIZE, 6, 24
    sheet = Image.new("RGB", (len(SHOWN) * (width + gap) + gap, len(frames) * (height + label) + gap), (24, 24, 27))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for row, (name, files) in enumerate(frames.items()):
        for column, number in enumerate(SHOWN):
            x, y = gap + column * (width + gap), row * (height + label)
            said = words[name] if number == 1 else f"frame {number}"
            draw.text((x + 2, y + 4), said, fill=(220, 220, 225), font=font)
            sheet.paste(Image.open(files[number - 1]).convert("RGB"), (x, y + label))
    sheet.save(file, optimize=True)


def main() -> None:
    out = ROOT / "out" / "demo_footage"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    say("a picture, its depth and a mask; a clip")
    room = subprocess.run([sys.executable, __file__, "room", str(out)], cwd=ROOT, capture_output=True, text=True)
    if not (out / demo_footage_clip.CLIP / f"{FRAMES:04d}.png").is_file():
        sys.exit(f"demo-footage: the room was not rendered:\n{room.stderr}")
    process, address = start_server(out)
    try:
        frames = {}
        for name in SHOTS:
            say(WORDS[name])
            frames[name] = render(out, name, address)
        of_clip = demo_footage_clip.shots(out, address, LENS_MM)
    finally:
        stop_server(process)
    contact_sheet(out / "contact_sheet.png", frames, WORDS)
    contact_sheet(out / "clip_contact_sheet.png", of_clip, demo_footage_clip.WORDS)
    say(f"look at {out / 'contact_sheet.png'} and {out / 'clip_contact_sheet.png'}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["room"]:
        make_room(Path(sys.argv[2]))
        sys.stdout.flush()
        os._exit(0)  # Blender 4.2 and 4.5 as a module may hang in their own exit code
    main()
