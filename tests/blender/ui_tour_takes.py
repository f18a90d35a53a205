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


def day_with_takes(scene, steps):
    """What comes after the first takes: variations in a sheet, whether one follows, two compared in the sequencer."""
    manager = bpy.context.window_manager
    window = manager.windows[0]
    properties = next(area for area in window.screen.areas if area.type == "PROPERTIES")
    view = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    view.ui_type = "IMAGE_EDITOR"
    yield from steps.settle(20)
    press("variations", seeds="1-4")
    yield from ended(steps, manager)
    yield from steps.until(lambda: is_shown(view, "DAS Variations"), "the sheet is not shown")
    yield from show_only(steps, properties, "DAS_PT_takes")
    yield from whole_picture(view, steps)
    yield from steps.stop("variations")

    yield from steps.until(lambda: len(manager.das_takes) == 4, "four takes are not listed")
    steps.call("measure_take")
    yield from ended(steps, manager)
    scene.frame_set(19)
    press("open_heat_maps")
    yield from steps.settle(20)
    yield from show_only(steps, properties, "DAS_PT_adherence")
    yield from whole_picture(view, steps)
    yield from steps.stop("follow")
    yield from show_only(steps, properties, "")

    press("compare_strips", other=manager.das_takes[2].name, mode="wipe")
    edit = scene.das.edit_scene
    edit.sequence_editor.active_strip = next(one for one in edit.sequence_editor.strips if one.type == "WIPE")
    yield from steps.show_sequencer(edit)
    for area in window.screen.areas:
        if area.type == "SEQUENCE_EDITOR" and area.spaces.active.view_type != "PREVIEW":
            area.spaces.active.show_region_ui = True
            yield from steps.settle(20)
            next(region for region in area.regions if region.type == "UI").active_panel_category = "Strip"
    yield from steps.settle(40)
    yield from steps.stop("compared")


def press(name: str, **values) -> None:
    """What the button does once its dialog is answered with ``values``."""
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]):
        getattr(bpy.ops.das, name)("EXEC_DEFAULT", **values)


def ended(steps, manager):
    yield from steps.until(lambda: manager.das.job_state == "RUNNING", "the job did not begin")
    yield from steps.until(lambda: manager.das.job_state != "RUNNING", "the job did not end")
    steps.check(manager.das.job_state == "DONE", manager.das.job_line)


def is_shown(area, name: str) -> bool:
    return area.spaces.active.image is not None and area.spaces.active.image.name == name


def whole_picture(area, steps):
    window = bpy.context.window_manager.windows[0]
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, screen=window.screen, area=area, region=region):
        bpy.ops.image.view_all(fit_view=True)
    yield from steps.settle(20)


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
