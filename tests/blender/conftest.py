# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender as a module, with the extension enabled as an add-on in an empty profile, and one real server for all
tests.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("BLENDER_USER_RESOURCES", tempfile.mkdtemp(prefix="das-blender-"))

import bpy  # noqa: I001  (addon_utils is found once bpy is there)
import addon_utils
import pytest

from tests.support.scenes import add_camera, add_cube, key
from tests.support.server import running_server

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "das_blender_addon"
SIZE = (96, 64)
LAST_FRAME = 9

_status = 0


def pytest_sessionfinish(session, exitstatus):
    global _status
    _status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Leave at once: Blender 4.2 and 4.5 as a module crash or hang in their own exit code while classes are
    registered.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)


def _forget_the_tests_name():
    """A child Blender is kept for the next job in the same environment: the name of the test, which pytest puts there,
    would let every test start one of its own.
    """
    os.environ.pop("PYTEST_CURRENT_TEST", None)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    _forget_the_tests_name()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    _forget_the_tests_name()


@pytest.fixture
def one_status_a_tick(monkeypatch):
    """A window's job says one thing at each tick of its timer, and is over at the end, its threads too."""
    from das_blender_addon.take import drive
    from das_blender_addon.ui import session

    monkeypatch.setattr(session, "BUDGET_S", 0.0)
    yield
    session.stop_job()
    drive.wait_for_threads(60.0)


@pytest.fixture(scope="session")
def addon():
    """The extension, enabled as users have it (with an entry in the preferences)."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    module = addon_utils.enable(PACKAGE, default_set=True)
    assert module is not None, "the extension cannot be enabled; Blender has printed why"
    return module


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No DAS_… variable of the machine changes what a test sees."""
    for name in list(os.environ):
        if name.startswith("DAS_") and name != "DAS_SERVER_PYTHON":
            monkeypatch.delenv(name)


@pytest.fixture
def scene(addon):
    """An empty file's scene, small and without anything that changes colours; no objects, no camera."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.render.resolution_percentage = 100
    scene.render.dither_intensity = 0.0
    scene.view_settings.view_transform = "Standard"
    scene.frame_start, scene.frame_end = 1, LAST_FRAME
    scene.frame_set(1)
    return scene


@pytest.fixture
def blank_scene():
    """An empty file's scene as Blender makes it, the extension enabled or not; no objects, no camera."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy.context.scene


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real server with the embedded preview model."""
    with running_server(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """One cache for all tests, so that the same shot is sent once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shot_scene(scene, server, cache_folder):
    """An orange cube that moves past a camera in nine frames; the model makes exactly the render's 96 × 64 pixels."""
    camera = add_camera(scene)
    cube = add_cube(scene, size=2.0)
    key(cube, "location", {1: -1.5, LAST_FRAME: 1.5}, index=0)
    key(cube, "rotation_euler", {1: 0.0, LAST_FRAME: 1.0}, index=2)
    key(camera.data, "lens", {1: 40.0, LAST_FRAME: 60.0})
    orange = bpy.data.materials.new("Orange")
    if orange.node_tree is None:  # always there since Blender 5.0
        orange.use_nodes = True
    shader = orange.node_tree.nodes["Principled BSDF"]
    shader.inputs["Emission Color"].default_value = (1.0, 0.2, 0.0, 1.0)
    shader.inputs["Emission Strength"].default_value = 1.0
    shader.inputs["Base Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    cube.data.materials.append(orange)
    scene.render.engine = "DAS"
    scene.das.server = server.address
    scene.das.cache_folder = str(cache_folder)
    scene.das.first_frame_samples = 1
    scene.das.size = "96x64"
    scene.das.key_mode = "FIRST"  # no further picture is rendered where a test does not ask for one
    return scene


@pytest.fixture
def shot_file(shot_scene, tmp_path):
    """The shot, saved; the command's own flags say where the server and the cache are."""
    shot_scene.das.server = ""
    path = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    return path
