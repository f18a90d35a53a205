# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels draw, checked call by call against the running Blender's own description of `UILayout`."""

from types import SimpleNamespace

import bpy
import pytest

from das_blender_addon.client import known_servers
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.scene import sequencer
from das_blender_addon.take import drive
from das_blender_addon.ui import panels, preferences, session
from tests.blender.test_sequencer import write_frames


class Layout:
    """Stands in for Blender's `UILayout` (there is none without a window): records what is drawn, and refuses every
    argument, icon, property and operator that the real one of this Blender would refuse.
    """

    def __init__(self, drawn=None, buttons=None):
        self.drawn = [] if drawn is None else drawn
        self.buttons = [] if buttons is None else buttons

    def __setattr__(self, name, value):
        assert name in ("drawn", "buttons") or name in bpy.types.UILayout.bl_rna.properties, name
        object.__setattr__(self, name, value)

    def _called(self, function: str, arguments: dict) -> None:
        parameters = bpy.types.UILayout.bl_rna.functions[function].parameters
        for name, value in arguments.items():
            assert name in parameters, f"{function}() has no {name} in this Blender"
            if name == "icon":
                assert value in parameters["icon"].enum_items, f"there is no icon {value}"

    def _part(self, function: str, **arguments):
        self._called(function, arguments)
        return Layout(self.drawn, self.buttons)

    def row(self, **arguments):
        return self._part("row", **arguments)

    def column(self, **arguments):
        return self._part("column", **arguments)

    def split(self, **arguments):
        return self._part("split", **arguments)

    def box(self):
        return self._part("box")

    def label(self, **arguments):
        self._called("label", arguments)
        self.drawn.append(arguments["text"])

    def prop(self, data, name, **arguments):
        self._called("prop", arguments)
        assert name in data.bl_rna.properties, name
        self.drawn.append(name)

    def operator(self, name, **arguments):
        self._called("operator", arguments)
        self.drawn.append(name)
        self.buttons.append((name, Chosen(getattr(bpy.ops.das, name.removeprefix("das.")).get_rna_type())))
        return self.buttons[-1][1]

    def menu(self, name, **arguments):
        self._called("menu", arguments)
        assert getattr(bpy.types, name).bl_rna.base.identifier == "Menu"
        self.drawn.append(name)

    def popover(self, panel, **arguments):
        self._called("popover", arguments)
        assert getattr(bpy.types, panel).bl_rna.base.identifier == "Panel"
        self.drawn.append(panel)

    def separator(self, **arguments):
        self._called("separator", arguments)

    def progress(self, **arguments):
        self._called("progress", arguments)
        self.drawn.append(f"{arguments['factor']:.0%} {arguments['text']}")

    def template_ID(self, data, name, **arguments):
        self._called("template_ID", arguments)
        assert name in data.bl_rna.properties, name
        self.drawn.append(name)

    def template_list(self, name, list_id, data, items, active_data, active, **arguments):
        self._called("template_list", arguments)
        assert active in active_data.bl_rna.properties, active
        draw_item = vars(getattr(bpy.types, name))["draw_item"]
        for item in getattr(data, items):
            draw_item(None, bpy.context, Layout(self.drawn, self.buttons), data, item, 0, active_data, active)

    def template_icon(self, **arguments):
        self._called("template_icon", arguments)
        self.drawn.append("picture")


class Chosen(dict):
    """The arguments that a button gives to its operator; refuses those that the operator does not have."""

    def __init__(self, operator):
        object.__setattr__(self, "operator", operator)

    def __setattr__(self, name, value):
        assert name in self.operator.properties, f"{self.operator.identifier} has no {name}"
        self[name] = value


def drawn(panel) -> list[str]:
    """Everything that ``panel`` shows."""
    layout = Layout()
    panel.draw(SimpleNamespace(layout=layout), bpy.context)
    return layout.drawn


def words(panel) -> str:
    return " ".join(drawn(panel))


@pytest.mark.parametrize("panel", panels.CLASSES, ids=lambda panel: panel.__name__)
def test_panel_draws_on_an_empty_file(scene, panel):
    assert drawn(panel)


def test_panels_show_for_the_engine_only(scene):
    assert not panels.DAS_PT_shot.poll(bpy.context)
    scene.render.engine = "DAS"
    assert all(panel.poll(bpy.context) for panel in panels.CLASSES)


def test_everything_of_a_shot_can_be_set(scene):
    seen = {name for panel in panels.CLASSES for name in drawn(panel)}
    assert {"prompt", "negative_prompt", "seed", "steps", "guidance", "model", "size", "first_frame_path"} <= seen
    assert {"das.test_connection", "das.preview_tracking", "das.render_take", "das.add_to_sequencer"} <= seen
    assert {"das.render_first_frame", "das.open_first_frame", "das.randomise_seed"} <= seen


def test_summary_says_what_will_be_sent_once_the_server_was_asked(shot_scene):
    known_servers.forget_servers()
    assert "9 frames (1 to 9)" in words(panels.DAS_PT_window) and "not asked yet" in words(panels.DAS_PT_shot)
    bpy.ops.das.test_connection()
    shown = words(panels.DAS_PT_window)
    assert "9 frames" in shown and "96×64" in shown
    assert "ignores the prompt" in words(panels.DAS_PT_shot) and "das-server" in words(panels.DAS_PT_shot)


def test_summary_says_why_a_shot_cannot_be_sent(shot_scene):
    bpy.ops.das.test_connection()
    shot_scene.frame_end = 60
    said = words(panels.DAS_PT_window)
    assert "60 frames" in said and "in 2 windows, 1 to 49, 36 to 60" in said
    shot_scene.das.size = "50x50"
    assert "does not make 50×50" in words(panels.DAS_PT_window)


def test_running_job_shows_progress_preview_and_cancel(scene):
    das = bpy.context.window_manager.das
    session.show_begin(das, "Render Take")
    session.show_status(das, drive.Status("denoising", "Denoising 2/4", 0.5, preview=encode_png(picture())))
    shown = drawn(panels.DAS_PT_take)
    assert "50% Denoising 2/4" in shown and "das.cancel" in shown and "picture" in shown
    session.show_end(das, "", ValueError("no luck"))
    assert "no luck" in words(panels.DAS_PT_take) and "das.cancel" not in drawn(panels.DAS_PT_take)


def picture():
    import numpy as np

    return np.full((8, 12, 3), 200, np.uint8)


def test_first_frame_is_shown_as_a_picture(scene, tmp_path):
    assert "picture" not in drawn(panels.DAS_PT_first_frame)
    file = tmp_path / "first.png"
    file.write_bytes(encode_png(picture()))
    scene.das.first_frame_path = str(file)
    assert "picture" in drawn(panels.DAS_PT_first_frame)


def test_picture_of_ones_own_is_not_said_to_be_none(scene):
    assert "None yet" in words(panels.DAS_PT_first_frame)
    scene.das.first_frame_image = bpy.data.images.new("Mine", 8, 8)
    assert "Your own picture" in words(panels.DAS_PT_first_frame)
    assert "None yet" not in words(panels.DAS_PT_first_frame)


def test_traps_of_the_scene_are_told(scene, tmp_path):
    assert panels.scene_warnings(scene) == []
    scene.view_settings.view_transform = "AgX"
    sequencer.add_image_strip(scene, "strip", write_frames(tmp_path), 1)
    shown = words(panels.DAS_PT_take)
    assert "view transform AgX changes the pixels" in shown and "This scene has strips" in shown
    assert "das.keep_look" in drawn(panels.DAS_PT_take)


def test_unusable_override_is_shown_instead_of_a_crash(scene, monkeypatch):
    monkeypatch.setenv("DAS_SEED", "lucky")
    for panel in panels.CLASSES:
        drawn(panel)
    assert "DAS_SEED is 'lucky'" in words(panels.DAS_PT_window)


def test_preferences_page_draws(scene):
    chosen = bpy.context.preferences.addons["das_blender_addon"].preferences
    layout = Layout()
    page = SimpleNamespace(layout=layout, bl_rna=chosen.bl_rna, show_server_log=True)
    preferences.DAS_AP_preferences.draw(page, bpy.context)
    assert {"server", "cache_folder", "server_executable", "das.start_local_server"} <= set(layout.drawn)
