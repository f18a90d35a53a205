# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of a running job's last step: each Blender's own file, gone at the end of the job."""

import os
import subprocess
import sys
import textwrap
import time

import bpy
import numpy as np
import pytest

from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.machine import user_folder
from das_blender_addon.take import drive
from das_blender_addon.ui import panels, session
from das_blender_addon.ui.step_preview import preview_path
from tests.blender.test_panels import drawn
from tests.support.server import ROOT

DAY_S = 86400.0


def picture(level: int) -> bytes:
    return encode_png(np.full((8, 12, 3), level, np.uint8))


def shown():
    return bpy.context.window_manager.das


@pytest.fixture
def running(scene):
    """A job that has shown the picture of a step."""
    session.show_begin(shown(), "Render Take")
    session.show_status(shown(), drive.Status("denoising", "Denoising 2/4", 0.5, preview=picture(200)))
    yield
    session.show_end(shown(), "done", None)


@pytest.mark.any_blender
def test_two_blenders_of_one_user_do_not_write_over_each_others_preview(running):
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import bpy, addon_utils, os
        addon_utils.enable("das_blender_addon", default_set=True)
        from das_blender_addon.take import drive
        from das_blender_addon.ui import session
        from das_blender_addon.ui.step_preview import preview_path
        from tests.blender.test_step_preview import picture
        das = bpy.context.window_manager.das
        session.show_begin(das, "Render Take")
        session.show_status(das, drive.Status("denoising", "", 0.5, preview=picture(10)))
        print("PREVIEW", preview_path(), flush=True)
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    other = done.stdout.split("PREVIEW ")[1].splitlines()[0]
    assert os.path.dirname(other) == str(preview_path().parent)
    assert decode_png(preview_path().read_bytes()).max() == 200
    os.unlink(other)


def test_panel_shows_the_preview(running):
    assert "picture" in drawn(panels.DAS_PT_take)


def test_preview_is_removed_at_the_end(running):
    path = preview_path()
    assert path.is_file()
    session.show_end(shown(), "done", None)
    assert not path.exists() and preview_path() is None


def test_previews_that_a_killed_blender_left_are_swept(scene):
    folder = user_folder("previews")
    old, new = folder / "step-999999.jpg", folder / "step-999998.jpg"
    for file, age_s in ((old, 2 * DAY_S), (new, 60.0)):
        file.write_bytes(b"\xff\xd8")
        os.utime(file, (time.time() - age_s,) * 2)
    session.show_begin(shown(), "Render Take")
    session.show_end(shown(), "done", None)
    assert not old.exists() and new.exists()
    new.unlink()
