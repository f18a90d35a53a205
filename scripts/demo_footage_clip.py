# SPDX-License-Identifier: GPL-3.0-or-later
"""The second half of `make demo-footage`: a clip of the room, rendered by Blender, and nothing else of it but the lens.

Blender's own tracker follows its points and finds its camera; then its motion goes to a restyled first picture, a new
camera sees it, and a box in it moves otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from demo import ROOT, say

FRAMES, SHOWN = 25, (1, 13, 25)
SIZE = (240, 160)
CLIP, PLATE, STYLED = "clip", "clip_plate", "styled.png"
SHOTS = {
    "transfer": ["transfer", "--first-picture", STYLED],
    "clip camera": ["camera", "--path", "orbit:-12; crane:0.3"],
    "clip move": ["move", "--mask", "parcel.npy", "--by", "0.8,0,0.4"],
}
WORDS = {
    "clip": "the clip, as it was filmed",
    "transfer": "its motion, another style",
    "clip camera": "another camera, orbit:-12; crane:0.3",
    "clip move": "a box moves otherwise",
}


def film(bpy, out: Path) -> None:
    """In the Blender that made the room: its camera moves, a box turns, and Cycles films both."""
    import numpy as np

    scene = bpy.context.scene
    camera, parcel = scene.camera, scene.objects["Parcel"]
    scene.frame_set(1)
    for place, turn, box, frame in (
        ((0.0, 0.0, 1.6), (np.pi / 2, 0.0, 0.0), 0.4, 1),
        ((0.8, 0.5, 1.75), (np.pi / 2 - 0.03, 0.0, 0.09), 0.9, FRAMES),
    ):
        camera.location, camera.rotation_euler = place, turn
        parcel.rotation_euler = (0.0, 0.0, box)
        for owner, name in ((camera, "location"), (camera, "rotation_euler"), (parcel, "rotation_euler")):
            owner.keyframe_insert(name, frame=frame)
    scene.cycles.samples, scene.cycles.use_denoising = 8, True
    for number in range(1, FRAMES + 1):
        scene.frame_set(number)
        scene.render.filepath = os.fspath(out / CLIP / f"{number:04d}.png")
        bpy.ops.render.render(write_still=True)


def restyle(out: Path) -> None:
    """The clip's first picture as a drawing would have it: other colours, few of them."""
    import numpy as np
    from PIL import Image

    picture = np.asarray(Image.open(out / CLIP / "0001.png").convert("RGB")).astype(int)
    styled = 255 - picture[..., [1, 2, 0]]
    Image.fromarray(((styled // 36) * 36 + 18).clip(0, 255).astype(np.uint8)).save(out / STYLED)


def render(out: Path, name: str, address: str, lens_mm: float) -> list[str]:
    """The frames of one of `SHOTS`, by its command; the first one finds the clip's camera and tracks for all."""
    word, *flags = SHOTS[name]
    flags = [str(out / flag) if flag in (STYLED, "parcel.npy") else flag for flag in flags]
    camera = "--camera" if word == "transfer" else "--clip-camera"
    known = ["--plate", str(out / PLATE), "--lens", str(lens_mm), "--tracks", "blender", camera, "solve"]
    if (out / PLATE).exists():
        known = ["--plate", str(out / PLATE)]
    known += ["--server", address, "--cache", str(out / "cache"), "--size", "x".join(map(str, SIZE))]
    command = [sys.executable, "-m", "das_blender_addon", word, str(out / CLIP), *flags, *known]
    command += ["--output", str(out / name.replace(" ", "_")), "--json"]
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(out / "blender_profile")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"demo-footage: {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])["frames"]


def shots(out: Path, address: str, lens_mm: float) -> dict[str, list[str]]:
    """Name → frames, the clip itself first."""
    restyle(out)
    frames = {"clip": [str(out / CLIP / f"{number:04d}.png") for number in range(1, FRAMES + 1)]}
    for name in SHOTS:
        say(WORDS[name])
        frames[name] = render(out, name, address, lens_mm)
    return frames
