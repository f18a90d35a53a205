# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``das doctor`` looks at: versions, libraries, cache folder, first frame's engine, server and its models."""

from __future__ import annotations

import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bpy

from . import local_server
from .errors import DasError, FirstFrameError, JobCancelled, SceneError, SettingsError, StorageError
from .jobs import of_scene
from .protocol.messages import PROTOCOL_VERSIONS
from .protocol.sizes import sizes_in_words
from .scene.drivers import check_drivers
from .scene.lacking import lacking
from .shot.plan import choose_model
from .shot.settings import resolve_settings
from .shot.shot_folder import shot_folder
from .take import drive
from .take.cache import TakeSettings, job_spec


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.  ``hint``: what to do about it.  ``exit_code``: the process's, when it is not
    ``ok``.
    """

    name: str
    ok: bool
    words: str
    hint: str = ""
    exit_code: int = 0


def checks(scene, should_stop, *, with_shot: bool = False) -> Iterator[Check]:
    """All of it, one after the other.  ``with_shot``: ``scene`` is somebody's, so its shot is looked at, too."""
    yield Check("Diffusion as Shader", True, f"{version()}, protocol {', '.join(map(str, PROTOCOL_VERSIONS))}")
    yield Check("Blender", True, f"{bpy.app.version_string}, Python {platform.python_version()}, {platform.platform()}")
    yield Check("libraries", True, ", ".join(f"{name} {number}" for name, number in library_versions().items()))
    try:
        settings = resolve_settings(scene)
    except DasError as error:
        yield _failed("settings", error, "correct the variable or flag, or leave it out")
        return
    yield _check_cache(settings.cache_folder)
    yield _check_first_frame(scene, settings)
    yield _check_scripts(scene)
    try:
        yield Check("local server", True, local_server.find_executable())
    except SettingsError as error:
        yield Check(
            "local server", True, error.message, hint="only needed to start a server on this machine from Blender"
        )
    if with_shot:
        yield _check_scene(scene)
    yield from _check_server(scene, settings, should_stop, with_shot)


def _check_scene(scene) -> Check:
    """The scene as far as it can be known without a render."""
    try:
        camera = of_scene.check_scene(scene)
    except DasError as error:
        return _failed("scene", error, "")
    lacks = "; ".join(lacking())
    return Check("scene", True, f"{scene.name!r} seen by {camera.name!r}", hint=f"{lacks}." if lacks else "")


def _check_cache(folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".das-", suffix=".part") as probe:
            probe.write(b"probe")
        free_gb = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        failure = StorageError(f"{folder} cannot be written to: {error.strerror}.")
        return _failed("cache folder", failure, "choose another one with --cache, DAS_CACHE, or in the preferences")
    return Check("cache folder", True, f"{folder}, {free_gb:.1f} GB free")


def _check_first_frame(scene, settings) -> Check:
    folder = shot_folder(scene, settings.cache_folder)
    try:
        of_scene.check_first_frame(folder, of_scene.owner_of(scene, folder), settings)
    except FirstFrameError as error:
        return _failed("first frame", error, "choose another image, or none")
    if settings.first_frame_path or settings.first_frame_image:
        return Check("first frame", True, settings.first_frame_path or settings.first_frame_image)
    if settings.first_frame_engine == "CYCLES" and "cycles" not in bpy.context.preferences.addons:
        return _failed(
            "first frame", FirstFrameError("The add-on Cycles is off."), "enable it, or choose EEVEE or WORKBENCH"
        )
    return Check("first frame", True, f"rendered with {settings.first_frame_engine}")


def _check_scripts(scene) -> Check:
    try:
        check_drivers(scene)
    except SceneError as error:
        return _failed("drivers", error, "blender --enable-autoexec, for a file that you trust")
    return Check("drivers", True, "all Python drivers of the file run")


def _check_server(scene, settings, should_stop, with_shot: bool) -> Iterator[Check]:
    try:
        welcome = drive.finish(of_scene.hello(scene, settings), should_stop=should_stop)
    except JobCancelled:
        raise
    except DasError as error:
        remedy = f"start one with: das-server serve --bind {settings.server}"
        yield _failed("server", error, "" if isinstance(error, SettingsError) else remedy)
        return
    yield Check(
        "server",
        True,
        f"{welcome.server} at {settings.server}, protocol {welcome.version}, {', '.join(welcome.capabilities.devices)}",
    )
    for model in welcome.capabilities.models:
        mark = " (default)" if model.name == welcome.capabilities.default_model else ""
        state = "installed" if model.installed else "weights not installed"
        frames = "/".join(map(str, model.num_frames))
        yield Check("model", True, f"{model.name}{mark}: {state}, {frames} frames, {sizes_in_words(model)}")
    yield _check_shot(scene, settings, welcome.capabilities, with_shot)


def _check_shot(scene, settings, capabilities, with_shot: bool) -> Check:
    """Whether the server has the model that the settings ask for, and makes the shot with it."""
    try:
        if not with_shot:
            return Check("chosen model", True, choose_model(capabilities, settings.model).name)
        planned = of_scene.plan_shot(scene, settings, capabilities)
        job_spec(planned, TakeSettings.from_resolved(settings))
    except DasError as error:
        return _failed("shot" if with_shot else "chosen model", error, "")
    return Check("shot", True, " ".join(planned.notes))


def _failed(name: str, error: DasError, hint: str) -> Check:
    return Check(name, False, error.message, hint=hint, exit_code=error.exit_code)


def version() -> str:
    """The extension's version, as its manifest says."""
    here = Path(__file__).resolve().parent
    for folder in (here, here.parent):
        manifest = folder / "blender_manifest.toml"
        if manifest.is_file():
            return tomllib.loads(manifest.read_text(encoding="utf-8"))["version"]
    return "unknown"


def library_versions() -> dict[str, str]:
    """Versions of what the extension is built on; another extension's copy may have been loaded first."""
    import msgpack
    import numpy
    import zmq

    versions = {
        "numpy": numpy.__version__,
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "msgpack": ".".join(map(str, msgpack.version)),
    }
    try:
        import zstandard
    except ImportError:
        versions["zstandard"] = "none (zlib instead)"
    else:
        versions["zstandard"] = zstandard.__version__
    return versions
