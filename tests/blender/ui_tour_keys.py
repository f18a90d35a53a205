# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the window's tour (`ui_tour`) that is about key pictures: suggested, rendered, one carried and opened."""

import bpy


def tour_of_keys(scene, steps):
    """The stations; ``steps`` is the tour's own module."""
    session = bpy.context.window_manager.das
    scene.frame_set(25)
    steps.call("suggest_key_pictures")
    yield from steps.until(lambda: session.job_state != "RUNNING", "the suggestion did not end")
    steps.check(session.job_state == "DONE", session.job_line)
    steps.check(scene.das.key_mode == "LIST", "the suggestion made no list")
    steps.note(session.job_line)
    if not any(key.frame == 25 for key in scene.das.key_pictures):
        steps.call("add_key_picture")
    yield from steps.settle(20)
    yield from scroll_to_keys(steps)
    properties = next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == "PROPERTIES")
    properties.spaces.active.search_filter = "key"
    yield from steps.settle(20)
    yield from steps.stop("key_suggested")

    steps.call("render_key_pictures")
    yield from steps.until(lambda: session.job_state != "RUNNING", "the key pictures were not rendered")
    steps.check(session.job_state == "DONE", session.job_line)
    yield from steps.settle(20)
    yield from steps.stop("key_rendered")
    properties.spaces.active.search_filter = ""

    scene.frame_set(13)
    steps.call("carry_key_picture")
    yield from steps.until(lambda: session.job_state != "RUNNING", "no picture was carried")
    steps.check(session.job_state == "DONE", session.job_line)
    yield from steps.settle(20)
    yield from steps.stop("key_carried")
    steps.close_extra_windows()
    place = [key.frame for key in scene.das.key_pictures].index(13)
    scene.das.key_index = place
    steps.call("remove_key_picture")
    yield from steps.settle(20)


def scroll_to_keys(steps):
    """The Properties editor shows only what is about key pictures, and a timeline lies below the view."""
    window = bpy.context.window_manager.windows[0]
    view = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    with bpy.context.temp_override(window=window, screen=window.screen, area=view):
        bpy.ops.screen.area_split(direction="HORIZONTAL", factor=0.25)
    yield from steps.settle()
    low = min((area for area in window.screen.areas if area.type == "VIEW_3D"), key=lambda area: area.y)
    low.ui_type = "TIMELINE"
    yield from steps.settle()
    region = next(region for region in low.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, screen=window.screen, area=low, region=region):
        bpy.ops.action.view_all()
    yield from steps.settle(20)
