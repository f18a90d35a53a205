# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the window's tour (`ui_tour`) that is about footage: a picture becomes a scene, its camera moves, a thing
of the artist's own stands in it, a take.
"""

import bpy

LENS_MM = 28.0
FRAMES = 17
ROOM = {"wall": 8.0, "right": 3.5, "ceiling": 3.2}


def tour_of_footage(steps):
    """The stations; ``steps`` is the tour's own module."""
    manager = bpy.context.window_manager
    window = manager.windows[0]
    made = steps.FOLDER / "footage"

    # 1. What File › Import asks.
    with bpy.context.temp_override(window=window):
        bpy.ops.das.import_picture("INVOKE_DEFAULT")
    yield from steps.settle(40)
    yield from steps.stop("footage_import")
    steps.close_extra_windows()
    yield from steps.settle(20)

    # 2. The picture is a scene.
    before = set(bpy.data.scenes)
    with bpy.context.temp_override(window=window):
        bpy.ops.das.import_picture(  # as a script calls it: the button would ask for the rest
            "EXEC_DEFAULT", filepath=str(made / "picture.png"), depth=str(made / "depth.npy"), depth_kind="metric",
            lens=LENS_MM, num_frames=FRAMES,
        )  # fmt: skip
    yield from steps.until(lambda: len(bpy.data.scenes) > len(before), "the picture did not become a scene")
    scene = window.scene
    steps.check(scene not in before, "the window shows another scene")
    yield from show_camera(steps, window)
    yield from steps.stop("footage_scene")

    # 3. Its camera goes to the right, and something stands in the room.
    camera = scene.camera
    for frame, right in ((1, 0.0), (FRAMES, 1.2)):
        camera.location.x = right
        camera.keyframe_insert("location", frame=frame)
    with bpy.context.temp_override(window=window):
        bpy.ops.mesh.primitive_monkey_add(size=0.9, location=(-0.6, 4.0, 0.45))
    scene.render.engine, scene.das.cache_folder = "DAS", str(steps.FOLDER / "cache")
    scene.das.prompt, scene.das.size = "a room with wooden furniture, soft light", "240x160"
    scene.frame_set(FRAMES)
    yield from show_camera(steps, window)
    yield from steps.stop("footage_moved")

    # 4. A take.
    steps.call("render_take")
    yield from steps.until(lambda: manager.das.job_state == "RUNNING", "the take did not begin")
    yield from steps.until(lambda: manager.das.job_state != "RUNNING", "the take did not end")
    steps.check(manager.das.job_state == "DONE", manager.das.job_line)
    manager.das.show_take, manager.das.take_wipe = True, 0.0
    yield from steps.settle(60)
    yield from steps.stop("footage_take")
    manager.das.show_take = False
    yield from tour_of_room(steps, window, made)


def tour_of_room(steps, window, made):
    """A picture without depth: the handles of its room, one of which was dragged."""
    before = set(bpy.data.scenes)
    with bpy.context.temp_override(window=window):
        bpy.ops.das.import_picture(
            "EXEC_DEFAULT", filepath=str(made / "picture.png"), lens=LENS_MM, num_frames=FRAMES, **ROOM
        )
    yield from steps.until(lambda: len(bpy.data.scenes) > len(before), "the picture did not become a scene")
    with bpy.context.temp_override(window=window):
        bpy.ops.das.drag_room(grip="left", to=(0.16, 0.6))
    steps.check(window.scene.das_room.left > 0.0, "the left wall did not come")
    yield from show_camera(steps, window)
    yield from steps.stop("footage_room")


def show_camera(steps, window):
    """The scene's camera, from behind its lens, with its textures."""
    yield from steps.settle(10)
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    view = area.spaces.active
    view.region_3d.view_perspective, view.shading.type = "CAMERA", "MATERIAL"
    view.overlay.show_overlays = False
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, screen=window.screen, area=area, region=region):
        bpy.ops.view3d.view_center_camera()
    yield from steps.settle(40)
