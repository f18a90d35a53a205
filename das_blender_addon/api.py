# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripting interface: what the operators, the render engine and the commands call, and what a TD's script calls.

    from das_blender_addon import api

    tracking = api.export_tracking(scene)                       # only the tracking video; no server needed
    for frame, passes in api.surface_passes(scene): ...         # depth, normals, motion, objects; no server needed
    take = api.render_take(scene, server="localhost", seed=7)   # everything; blocks
    api.add_to_sequencer(take, scene)
    report = api.adherence(scene, take)                         # does it follow the animation?
    api.export_dataset(scene, "clips", lossless=True)           # a clip to train on; no server needed
    stage = api.import_plate("street.jpg", lens_mm=26)          # a picture as a scene: stage.scene, stage.camera
    stage = api.import_plate("walk.mp4", lens_mm=26, camera="solve", tracks="blender")          # a clip, likewise

`render_take` drives the recipe that the operators and the render engine drive (`take.recipes`).  Its stations can be
called one by one: `server_capabilities` → `plan_shot` → `export_shot` → `ensure_first_frame` → `take_request` →
`run_take`.  Functions with a ``scene`` belong on the thread that may touch Blender; the others need no Blender.
``progress(done, of)`` and ``should_stop()`` are called on the calling thread; a True answer raises `JobCancelled`.
All errors are `das_blender_addon.errors.DasError`.
"""

from __future__ import annotations

from .jobs.measuring import adherence
from .jobs.passes import surface_passes
from .jobs.scripting import (
    add_to_sequencer,
    check_shot,
    ensure_first_frame,
    export_dataset,
    export_shot,
    export_tracking,
    key_pictures,
    render_take,
    run_take,
    server_capabilities,
)
from .shot.first_frame import render_digest
from .shot.pictures import FirstFrame, first_frame_path, first_frame_state
from .shot.plan import ShotPlan
from .shot.scene_shot import plan_shot
from .shot.shot_folder import shot_folder
from .shot.tracked import ShotTracking, shot_from_geometry
from .staging.entry import import_plate
from .staging.stage import Stage
from .take.cache import Take, TakeRequest, TakeSettings, find_take, load_take, take_request
from .tracking.passes import SurfacePasses

__all__ = [
    "FirstFrame",
    "ShotPlan",
    "ShotTracking",
    "Stage",
    "SurfacePasses",
    "Take",
    "TakeRequest",
    "TakeSettings",
    "add_to_sequencer",
    "adherence",
    "check_shot",
    "ensure_first_frame",
    "export_dataset",
    "export_shot",
    "export_tracking",
    "find_take",
    "first_frame_path",
    "first_frame_state",
    "import_plate",
    "key_pictures",
    "load_take",
    "plan_shot",
    "render_digest",
    "render_take",
    "run_take",
    "server_capabilities",
    "shot_folder",
    "shot_from_geometry",
    "surface_passes",
    "take_request",
]
