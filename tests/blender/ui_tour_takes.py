# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the window's tour (`ui_tour`) that is about takes: the list, one over the viewport, the shot's check."""

import bpy


def tour_of_takes(scene, steps):
    """The stations; ``steps`` is the tour's own module."""
    manager = bpy.context.window_manager
    properties = next(area for area in manager.windows[0].screen.areas if area.type == "PROPERTIES")
    properties.spaces.active.search_filter = "seeds, prompts and"  # only what the panel Takes has
    yield from steps.settle(40)
    yield from steps.until(lambda: len(manager.das_takes) >= 2, "the takes of the shot are not listed")
    properties.spaces.active.search_filter = ""
    scene.frame_set(25)
    manager.das.show_take, manager.das.take_wipe = True, 0.5
    yield from show_only(steps, properties, "DAS_PT_takes")
    yield from steps.stop("takes")
    manager.das.show_take = False

    steps.call("check_shot")
    yield from steps.until(lambda: manager.das.job_state != "RUNNING", "the check did not end")
    steps.check(manager.das.job_state == "DONE", manager.das.job_line)
    yield from show_only(steps, properties, "DAS_PT_shot_check")
    yield from steps.stop("check")
    yield from show_only(steps, properties, "")


_hidden, _opened = [], []


def show_only(steps, properties, name: str):
    """Of our sub-panels only the panel ``name``, open; all of them as they were for ""."""
    while _opened:
        bpy.utils.unregister_class(_opened.pop())
    while _hidden:
        bpy.utils.register_class(_hidden.pop())
    if name:
        shown = getattr(bpy.types, name)
        for panel in [getattr(bpy.types, other, None) for other in reversed(OTHERS)]:
            if panel is not None:
                bpy.utils.unregister_class(panel)
                _hidden.append(panel)
        # Blender keeps for every name whether it is open: one by another name is as it is first shown.
        opened = type(f"{name}_opened", (shown,), {"bl_idname": f"{name}_opened", "bl_options": set()})
        bpy.utils.register_class(opened)
        _opened.append(opened)
    for _ in range(20):
        properties.tag_redraw()
        yield from steps.settle(4)


OTHERS = (
    "DAS_PT_take", "DAS_PT_first_frame", "DAS_PT_key_pictures", "DAS_PT_window", "DAS_PT_machine",
    "DAS_PT_shot_check", "DAS_PT_takes",
)  # fmt: skip
