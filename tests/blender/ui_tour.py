# SPDX-License-Identifier: GPL-3.0-or-later
"""A tour of a real Blender window through the whole path, with a picture at every stop.

python tests/blender/ui_tour.py out/tour [--images docs/images]

starts a server (unless DAS_SERVER names one), a virtual screen (Xvfb) and the Blender that BLENDER names, takes the
pictures (ImageMagick's ``import``) into ``out/tour/shots`` and writes those of the documentation into
``docs/images``.  Blender's Python must find pyzmq and msgpack; DAS_TOUR_PACKAGE names the extension where it is
installed as one.

Inside Blender this file is the tour itself: a generator that a timer drives.  Everything is done by the operators
that the buttons call.  At a stop it writes ``stop-NAME`` and goes on when the file is gone, or after STOP_LIMIT_S;
at ``stop-escape`` Escape is pressed.  Ends with status 0, or 1 when something was not as it should be (``tour.log``
says what).  One file, though long: it runs inside Blender by itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

INSIDE_BLENDER = "bpy" in sys.modules
if INSIDE_BLENDER:
    import bpy  # noqa: I001  (addon_utils is found once bpy is there)
    import addon_utils

    FOLDER = Path(os.environ["DAS_TOUR_FOLDER"]).resolve()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.blender.ui_tour_footage import tour_of_footage
    from tests.blender.ui_tour_keys import tour_of_keys
    from tests.blender.ui_tour_takes import day_with_takes, tour_of_takes

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = os.environ.get("DAS_TOUR_PACKAGE", "das_blender_addon")
STOP_LIMIT_S = 60.0
WAIT_LIMIT_S = 300.0
TICK_S = 0.05
SCREEN = ("1600", "1000")
PROPERTIES_WIDTH = 620


def tour():
    """The stations of the tour; every yield lets Blender's window go on.  One function, though long: one visit."""
    manager = bpy.context.window_manager
    # 1. The demo scene, the engine, a camera view, a wide Properties editor.
    scene = manager.windows[0].scene
    yield from settle()
    yield from arrange()
    yield from settle(30)
    yield from stop("idle")

    # An unkeyed pose, strokes that were never saved, and the Shader Editor, which any other engine leaves as it is.
    session_before = recorded_session(scene)
    yield from show_shader_editor()
    yield from stop("shader_editor")
    yield from show_view_again()

    # 2. The server is asked.
    call("test_connection")
    yield from until(lambda: manager.das.server_state != "RUNNING", "the connection was not tested")
    check(manager.das.server_state == "DONE", manager.das.server_line)
    yield from settle()
    yield from stop("connected")
    yield from shade("SOLID")

    # 3. The tracking video, in an Image Editor.
    for time_of in ("first", "second"):
        pressed = time.monotonic()
        call("preview_tracking")
        returned = time.monotonic()
        yield from until(
            lambda: manager.das.job_state != "RUNNING" or "speaks against" in manager.das.job_line,
            "the tracking preview did not come",
        )
        took, stood_still = time.monotonic() - pressed, returned - pressed
        yield from until(lambda: manager.das.job_state != "RUNNING", "the shot's report did not come")
        note(f"{time_of} preview: {took:.2f} s, the window stood still {stood_still:.2f} s")
    check(recorded_session(scene) == session_before, "the preview has changed the session")
    check(manager.das.job_state == "DONE", manager.das.job_line)
    check(bpy.data.images["DAS Tracking"].has_data or bpy.data.images["DAS Tracking"].size[0] > 0, "no tracking image")
    yield from settle()
    yield from stop("tracking")
    close_extra_windows()
    yield from settle()

    # 4. Key pictures; then a take is cancelled, in the middle of denoising.
    yield from tour_of_keys(scene, SimpleNamespace(**globals()))
    session_before = recorded_session(scene)
    call("render_take")
    yield from until(lambda: manager.das.progress > 0.35, "the first take did not get far")
    call("cancel")
    yield from until(lambda: manager.das.job_state != "RUNNING", "the take was not cancelled")
    check(manager.das.job_state == "CANCELLED", manager.das.job_line)

    # 5. A take runs while the window lives; a larger one, so that it still runs when its picture is taken.
    scene.das.size = "360x240"
    call("render_take")
    ticks = yield from until(lambda: module("ui.step_preview").preview_path() is not None, "no preview came")
    note(f"{ticks} ticks of the window until the first preview")
    yield from shade("MATERIAL")
    yield from stop("running")
    yield from shade("SOLID")
    yield from until(lambda: manager.das.job_state != "RUNNING", "the take did not end")
    check(manager.das.job_state == "DONE", manager.das.job_line)
    check(recorded_session(scene) == session_before, "the take has changed the session")
    yield from settle()
    yield from stop("done")

    # 6. Blender's own render jobs, on another thread: F12 of the cached take, then an animation that Escape stops.
    for time_of in ("first", "second, nothing changed"):
        pressed = time.monotonic()
        with bpy.context.temp_override(window=manager.windows[0]):
            bpy.ops.render.render("INVOKE_DEFAULT")
        yield from until(lambda: bpy.app.is_job_running("RENDER"), "F12 did not start")
        yield from until(lambda: not bpy.app.is_job_running("RENDER"), "F12 did not end")
        note(f"F12, {time_of}: {time.monotonic() - pressed:.2f} s")
    check(ENDED == ["complete", "complete"], f"F12 ended with {ENDED}")
    check(recorded_session(scene) == session_before, "F12 has changed the session")
    scene.das.seed = 44
    with bpy.context.temp_override(window=manager.windows[0]):
        bpy.ops.render.render("INVOKE_DEFAULT")
    yield from until(lambda: bpy.app.is_job_running("RENDER"), "F12 did not start")
    yield from settle(5)  # Blender itself first reads the scene on the render's thread, for any engine
    added = 0
    while bpy.app.is_job_running("RENDER"):  # its user goes on working
        if added < 3:
            with bpy.context.temp_override(window=manager.windows[0]):
                bpy.ops.object.empty_add(location=(added, 50.0, 0.0))
                bpy.ops.ed.undo_push(message="an empty")
            added += 1
        yield
    check(ENDED == ["complete"] * 3, f"F12 beside operators ended with {ENDED}")
    check(len([shape for shape in scene.objects if shape.type == "EMPTY"]) >= added > 0, "an operator's work is lost")
    scene.das.seed = 43
    with bpy.context.temp_override(window=manager.windows[0]):
        bpy.ops.render.render("INVOKE_DEFAULT", animation=True)
    yield from settle(60)
    yield from stop("escape")
    yield from until(lambda: not bpy.app.is_job_running("RENDER"), "Escape did not end the render")
    check(ENDED == ["complete"] * 3 + ["cancel"], f"the renders ended with {ENDED}")
    scene.das.seed = 42

    # 7. Every take of the shot, and what is to be known of it.
    yield from tour_of_takes(scene, SimpleNamespace(**globals()))

    # 8. A picture becomes a scene.
    yield from tour_of_footage(SimpleNamespace(**globals()))
    manager.windows[0].scene = scene
    yield from settle(20)

    # 9. The strip.
    call("add_to_sequencer")
    check(bpy.data.scenes.get(f"DAS Edit {scene.name}") is not None, "no edit scene")
    yield from show_sequencer(scene.das.edit_scene)
    yield from stop("strip")


def part_of_footage():
    yield from settle()
    yield from arrange()
    yield from settle(30)
    yield from tour_of_footage(SimpleNamespace(**globals()))


def part_of_takes():
    manager = bpy.context.window_manager
    scene = manager.windows[0].scene
    yield from settle()
    yield from arrange()
    yield from settle(30)
    scene.das.size, scene.das.key_mode, scene.frame_end = "192x128", "FIRST", 25
    yield from shade("SOLID")
    for seed in (1, 2):
        scene.das.seed = seed
        call("render_take")
        yield from until(lambda: manager.das.job_state == "RUNNING", "the take did not begin")
        yield from until(lambda: manager.das.job_state != "RUNNING", "the take did not end")
        check(manager.das.job_state == "DONE", manager.das.job_line)
    yield from shade("MATERIAL")
    yield from tour_of_takes(scene, SimpleNamespace(**globals()))
    yield from day_with_takes(scene, SimpleNamespace(**globals()))


def recorded_session(scene) -> tuple:
    """What no job may touch: an unkeyed pose, unsaved strokes, frame, selection; made at the first call."""
    image = bpy.data.images.get("Strokes")
    if image is None:
        image = bpy.data.images.new("Strokes", 8, 8)
        image.use_fake_user = True
        image.pixels[:] = [0.25] * len(image.pixels)
        posed = next(shape for shape in scene.objects if shape.type == "MESH" and shape.animation_data is None)
        posed["posed"] = True
        posed.rotation_euler.z += 0.3
        posed.select_set(True)
        bpy.context.view_layer.update()
    posed = next(shape for shape in scene.objects if shape.get("posed"))
    return (
        tuple(posed.rotation_euler),
        image.is_dirty,
        tuple(image.pixels),
        (scene.frame_current, scene.frame_subframe),
        tuple(shape.name for shape in scene.objects if shape.select_get()),
        tuple((shape.name, shape.hide_viewport, shape.hide_get()) for shape in scene.objects),
    )


def show_shader_editor():
    """The 3D viewport's area as a Shader Editor."""
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    area.ui_type = "ShaderNodeTree"
    yield from settle(20)
    check(area.ui_type == "ShaderNodeTree", "the Shader Editor is not there with this engine")


def show_view_again():
    window = bpy.context.window_manager.windows[0]
    next(area for area in window.screen.areas if area.type == "NODE_EDITOR").ui_type = "VIEW_3D"
    yield from settle(20)


ENDED = []
"""How Blender's render jobs ended."""


def note_complete(*_):
    ENDED.append("complete")


def note_cancel(*_):
    ENDED.append("cancel")


def open_scene() -> None:
    """The demo scene with the engine, out of a file that a background Blender makes."""
    file = FOLDER / "tour.blend"
    build = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from scripts import demo_scene; demo_scene.build_demo_scene"
    )
    subprocess.run(
        [
            bpy.app.binary_path,
            "-b",
            "--factory-startup",
            "--python-exit-code",
            "1",
            "--python-expr",
            f"{build}({str(file)!r})",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    bpy.ops.wm.open_mainfile(filepath=str(file))
    scene = bpy.context.scene
    scene.render.engine = "DAS"
    scene.view_settings.view_transform = "Standard"
    scene.das.prompt = "a striped clay creature bends and waves on a checkered floor, soft daylight"
    scene.das.seed = 42
    scene.das.cache_folder = str(FOLDER / "cache")


def arrange():
    """The camera's view on the left, the Render properties as high as the window on the right.

    Areas that were just made or closed crash Blender when they are touched before it has drawn them: hence the waits.
    """
    window = bpy.context.window_manager.windows[0]
    for kind in ("OUTLINER", "PROPERTIES", "DOPESHEET_EDITOR"):
        area = next((area for area in window.screen.areas if area.type == kind), None)
        if area is not None:
            with bpy.context.temp_override(window=window, screen=window.screen, area=area):
                bpy.ops.screen.area_close()
            yield from settle()
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    with bpy.context.temp_override(window=window, screen=window.screen, area=area):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=1.0 - PROPERTIES_WIDTH / window.width)
    yield from settle()
    left, right = sorted((area for area in window.screen.areas if area.type == "VIEW_3D"), key=lambda area: area.x)
    right.type = "PROPERTIES"
    yield from settle()
    right.spaces.active.context = "RENDER"
    view = left.spaces.active
    view.region_3d.view_perspective = "CAMERA"
    view.shading.type = "MATERIAL"
    view.overlay.show_overlays = False
    view.show_region_toolbar = False
    yield from settle()
    region = next(region for region in left.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, screen=window.screen, area=left, region=region):
        bpy.ops.view3d.view_center_camera()


def show_sequencer(edit):
    """The Video Editing workspace on the edit scene, without its file browser."""
    template = (
        Path(bpy.utils.system_resource("SCRIPTS")) / "startup/bl_app_templates_system/Video_Editing/startup.blend"
    )
    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window):
        bpy.ops.workspace.append_activate(idname="Video Editing", filepath=str(template))
    yield from settle(20)
    window.scene = edit
    module("compat").show_in_sequencer(SimpleNamespace(workspace=window.workspace), edit)
    edit.frame_set(25)
    browser = next((area for area in window.screen.areas if area.type == "FILE_BROWSER"), None)
    if browser is not None:
        with bpy.context.temp_override(window=window, screen=window.screen, area=browser):
            bpy.ops.screen.area_close()
    yield from settle(10)
    for area in window.screen.areas:
        if area.type == "SEQUENCE_EDITOR" and area.spaces.active.view_type != "PREVIEW":
            region = next(region for region in area.regions if region.type == "WINDOW")
            with bpy.context.temp_override(window=window, screen=window.screen, area=area, region=region):
                bpy.ops.sequencer.view_all()
    yield from settle(20)


def shade(kind: str):
    """Material preview for a picture, solid for speed: without a GPU the former takes seconds to draw."""
    window = bpy.context.window_manager.windows[0]
    for area in window.screen.areas:
        if area.type == "VIEW_3D":
            area.spaces.active.shading.type = kind
    yield from settle(20 if kind == "MATERIAL" else 2)


def close_extra_windows() -> None:
    manager = bpy.context.window_manager
    for window in list(manager.windows)[1:]:
        with bpy.context.temp_override(window=window):
            bpy.ops.wm.window_close()


# ── How the tour walks ──────────────────────────────────────────────────────────────────────────────────────────────


def module(name: str):
    __import__(f"{PACKAGE}.{name}")
    return sys.modules[f"{PACKAGE}.{name}"]


def call(name: str) -> None:
    """Press a button."""
    note(f"das.{name}")
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]):
        getattr(bpy.ops.das, name)("INVOKE_DEFAULT")


def settle(ticks: int = 8):
    """Let the window draw itself."""
    for _ in range(ticks):
        yield


def until(condition, otherwise: str):
    """Wait; returns the number of ticks that the window got meanwhile."""
    deadline, ticks = time.monotonic() + WAIT_LIMIT_S, 0
    while not condition():
        check(time.monotonic() < deadline, otherwise)
        ticks += 1
        yield
    return ticks


def stop(name: str):
    """Wait for a screenshot."""
    flag = FOLDER / f"stop-{name}"
    flag.touch()
    deadline = time.monotonic() + STOP_LIMIT_S
    while flag.exists() and time.monotonic() < deadline:
        yield
    flag.unlink(missing_ok=True)
    note(f"passed {name}")


def check(right: bool, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)


def note(text: str) -> None:
    with (FOLDER / "tour.log").open("a") as log:
        log.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def walk(steps) -> float | None:
    """One tick."""
    try:
        next(steps)
    except StopIteration:
        note("the end")
        leave(0)
    except BaseException:
        note(traceback.format_exc())
        leave(1)
    return TICK_S


def leave(status: int) -> None:
    sys.stdout.flush()
    os._exit(status)


def tour_main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    note(f"Blender {bpy.app.version_string}")
    preferences = bpy.context.preferences
    preferences.view.show_splash = False
    preferences.view.render_display_type = "NONE"
    if "." not in PACKAGE:
        sys.path.insert(0, str(ROOT))
    check(addon_utils.enable(PACKAGE, default_set=True) is not None, "the extension cannot be enabled")
    open_scene()
    bpy.app.handlers.render_complete.append(note_complete)
    bpy.app.handlers.render_cancel.append(note_cancel)
    steps = {"": tour, "footage": part_of_footage, "takes": part_of_takes}[os.environ.get("DAS_TOUR_PART", "")]()
    bpy.app.timers.register(lambda: walk(steps), first_interval=1.0, persistent=True)


# ── Outside of Blender: screen, server, pictures ────────────────────────────────────────────────────────────────────

IMAGES = {
    "connected": "ui_panel.png",
    "key_rendered": "ui_key_pictures.png",
    "key_carried": "ui_carried.png",
    "running": "ui_take_running.png",
    "takes": "ui_takes.png",
    "variations": "ui_variations.png",
    "follow": "ui_follow.png",
    "compared": "ui_compared.png",
    "footage_moved": "ui_footage.png",
    "footage_room": "ui_room.png",
    "strip": "ui_sequencer.png",
}
"""Stop → picture of the documentation."""


def conduct() -> int:
    """Start everything, take the pictures, end everything; returns Blender's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, help="folder for the pictures of the documentation")
    parser.add_argument("--part", choices=["footage", "takes"], default="", help="this part only")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    (folder / "shots").mkdir(parents=True, exist_ok=True)
    os.environ["DAS_TOUR_PART"] = arguments.part
    for old in (*folder.glob("stop-*"), folder / "tour.log"):
        old.unlink(missing_ok=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)  # a take of the last tour would be found at once
    make_picture(folder / "footage")
    if "DAS_SERVER" in os.environ:
        return conduct_with(os.environ["DAS_SERVER"], folder, arguments.images)
    sys.path.insert(0, str(ROOT))
    from tests.support.server import running_server

    with running_server(folder / "server") as server:
        return conduct_with(server.address, folder, arguments.images)


def make_picture(folder: Path) -> None:
    """``picture.png`` and ``depth.npy`` of a room, by Blender as a module of this Python."""
    folder.mkdir(exist_ok=True)
    program = "import sys, demo_footage; from pathlib import Path; demo_footage.make_picture(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT / "scripts", check=True)


def conduct_with(server: str, folder: Path, images: Path | None) -> int:
    display = f":{os.getpid() % 500 + 100}"
    environment = os.environ | {
        "DISPLAY": display,
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "DAS_SERVER": server,
        "DAS_TOUR_FOLDER": str(folder),
    }
    profile = [] if "." in PACKAGE else ["--factory-startup"]
    command = [os.environ.get("BLENDER", "blender"), *profile, "-p", "0", "0", *SCREEN, "--python", str(Path(__file__))]
    screen = subprocess.Popen(["Xvfb", display, "-screen", "0", f"{SCREEN[0]}x{SCREEN[1]}x24", "-nolisten", "tcp"])
    try:
        time.sleep(1.0)
        blender = subprocess.Popen(command, env=environment)
        while blender.poll() is None:
            for flag in sorted(folder.glob("stop-*")):
                take_picture(flag, environment, images)
            time.sleep(0.1)
        return blender.returncode
    finally:
        screen.terminate()
        screen.wait()


def take_picture(flag: Path, environment: dict, images: Path | None) -> None:
    """The window as it is now; then the tour may go on."""
    name = flag.name.removeprefix("stop-")
    subprocess.run(["xdotool", "mousemove", "800", "998"], env=environment, check=True)  # away from any tooltip
    time.sleep(0.3)
    if name == "escape":
        subprocess.run(["xdotool", "mousemove", "400", "400", "key", "Escape"], env=environment, check=True)
    shot = flag.parent / "shots" / f"{name}.png"
    subprocess.run(["import", "-window", "root", str(shot)], env=environment, check=True)
    if images is not None and name in IMAGES:
        smaller = ["-resize", "1280x", "-dither", "FloydSteinberg", "-colors", "256", "-strip"]
        subprocess.run(["convert", str(shot), *smaller, f"png8:{images / IMAGES[name]}"], check=True)
    flag.unlink(missing_ok=True)


if not INSIDE_BLENDER:
    if __name__ == "__main__":
        sys.exit(conduct())
else:
    try:
        tour_main()
    except BaseException:
        note(traceback.format_exc())
        leave(1)
