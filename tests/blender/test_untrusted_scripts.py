# SPDX-License-Identifier: GPL-3.0-or-later
"""A file whose Python drivers do not run, because its scripts are not trusted, is told of before anything is made."""

import bpy
import pytest

from das_blender_addon import commands, errors
from das_blender_addon.ui import panels
from tests.blender.test_panels import words
from tests.support.scenes import add_camera, add_cube

REFUSED, HARMLESS = "bpy.data.objects['Cube'].scale.x", "len('abc') + frame"
"""Blender runs some Python without trust, so the first one of several need not be the one that does not run."""


def save_with_drivers(scene, folder, *expressions: str) -> str:
    add_camera(scene)
    cube = add_cube(scene)
    for index, expression in enumerate(expressions):
        cube.driver_add("location", index).driver.expression = expression
    file = str(folder / "rig.blend")
    bpy.ops.wm.save_as_mainfile(filepath=file)
    return file


@pytest.fixture
def untrusted(scene, tmp_path):
    """An opened file with a driver that Blender refused to run."""
    file = save_with_drivers(scene, tmp_path, HARMLESS, REFUSED)
    bpy.ops.wm.open_mainfile(filepath=file, use_scripts=False)
    bpy.context.view_layer.update()
    assert bpy.app.autoexec_fail


def test_doctor_says_that_a_driver_does_not_run(untrusted, server, tmp_path, capsys):
    status = commands.main(["doctor", "--server", server.address, "--cache", str(tmp_path)])
    shown = capsys.readouterr().out
    assert status == errors.ScriptsDisabled.exit_code
    assert "FAIL  drivers" in shown and f"'Cube' (location, {REFUSED!r})" in shown
    assert "--enable-autoexec" in shown


def test_doctor_opens_the_file_that_it_is_given(untrusted, scene, server, tmp_path, capsys):
    file = str(tmp_path / "rig.blend")
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    status = commands.main(["doctor", file, "--server", server.address, "--cache", str(tmp_path)])
    assert status == errors.ScriptsDisabled.exit_code and "FAIL  drivers" in capsys.readouterr().out


def test_panel_warns(untrusted):
    assert "does not run" in words(panels.DAS_PT_take)


def test_drivers_that_run_need_no_trust(scene, server, tmp_path, capsys):
    file = save_with_drivers(scene, tmp_path, HARMLESS, "frame + 1")
    bpy.ops.wm.open_mainfile(filepath=file, use_scripts=False)
    bpy.context.view_layer.update()
    assert commands.main(["doctor", "--server", server.address, "--cache", str(tmp_path)]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert "does not run" not in words(panels.DAS_PT_take)
