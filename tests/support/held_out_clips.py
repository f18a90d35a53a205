# SPDX-License-Identifier: GPL-3.0-or-later
"""Render held-out clips in Blender: `python -m tests.support.held_out_clips FOLDER` writes one `.npz` per clip.

Sets: "motion" (the eight kinds), "large" (a few of them at the largest size, and the demo scene), "light" (light and
shadows that change).

Colours are Cycles renders; tracking video, coverage and first-frame positions come from the extension's own exporter.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZES = ((9, 96, 64), (9, 96, 64), (9, 96, 64), (17, 144, 96))
"""(frames, width, height) of the clips of each kind, in turn."""


LARGE_KINDS, LARGE_SIZE, LARGE_SAMPLES = ("rigid", "orbit", "low_poly_ground"), (9, 360, 240), 24
"""The clips of the largest size; their seed is of no other set."""
LARGE_SEED = 4
DEMO_SIZE = (49, 192, 128)
"""All frames of the demo scene, at the size that it is rendered with by default."""
CLIP_SETS = ("motion", "large", "light")


def planned_clips(clip_set: str = "motion", per_kind: int = 4) -> list[tuple[str, str, int, int, int, int]]:
    """(name, kind, seed, frames, width, height) of every clip of a set."""
    from tests.support.held_out_scenes import KINDS, LIGHT_KINDS

    if clip_set == "large":
        large = [(f"{kind}_{LARGE_SEED}", kind, LARGE_SEED, *LARGE_SIZE) for kind in LARGE_KINDS]
        return [*large, ("demo", "demo", 0, *DEMO_SIZE)]
    if clip_set == "light":
        return [(f"{kind}_{seed}", kind, seed, *SIZES[0]) for seed in range(per_kind) for kind in LIGHT_KINDS]
    return [(f"{kind}_{seed}", kind, seed, *SIZES[seed % len(SIZES)]) for seed in range(per_kind) for kind in KINDS]


def render_clip(path: Path, kind: str, seed: int, frames: int, width: int, height: int) -> None:
    """Build one scene, render it, export its tracking video, save all as `.npz`."""
    import bpy
    from PIL import Image

    from das_blender_addon import api

    scene = _build(kind, seed, frames, width, height)
    rgb = np.empty((frames, height, width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(frames):
            scene.frame_set(index + 1)
            scene.render.filepath = str(Path(folder) / "frame.png")
            bpy.ops.render.render(write_still=True)
            rgb[index] = np.asarray(Image.open(scene.render.filepath).convert("RGB"))
    scene.frame_set(1)
    tracking = api.export_tracking(scene, frames=range(1, frames + 1), size=(width, height))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, rgb=rgb, tracking=tracking.video, coverage=tracking.coverage,
                        xy=tracking.first_frame_xy.astype(np.float32), visible=tracking.first_frame_visible, kind=kind)


def _build(kind: str, seed: int, frames: int, width: int, height: int):
    """The Blender scene of a clip, to be rendered by Cycles at the clip's size."""
    if kind != "demo":
        from tests.support.held_out_scenes import build_scene

        samples = {"samples": LARGE_SAMPLES} if (width, height) == LARGE_SIZE[1:] else {}
        return build_scene(kind, seed, frames, width, height, **samples)
    from scripts.demo_scene import build_demo_scene

    scene = build_demo_scene()
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    return scene


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=CLIP_SETS, default="motion", dest="clip_set")
    parser.add_argument("--per-kind", type=int, default=4)
    options = parser.parse_args(sys.argv[1:])
    for name, *rest in planned_clips(options.clip_set, options.per_kind):
        path = options.folder / f"{name}.npz"
        if not path.exists():
            render_clip(path, *rest)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
