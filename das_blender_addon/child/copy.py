# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of the open file that a child Blender opens: written at one moment, and nothing else ever touches the scene.

It is Blender's own *Save a Copy* of the whole file (see docs/decisions): memory bakes, packed data and libraries travel
with it, and relative paths are rewritten for its place.  What no file holds travels beside it: unsaved pixels of images
and unsaved words of texts that belong to a file.  Disk caches of baked simulations are linked, others copied.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from .. import compat
from ..errors import SceneError, StorageError
from ..scene.drivers import names_of_drivers, runs_scripts
from ..scene.lacking import is_missing, missing_links
from ..scene.relative_paths import left_relative
from ..scene.simulations import cache_folder_name, disk_cache_prefixes
from ..shot.settings import stereo_view
from .scratch import Scratch


@dataclass(frozen=True)
class SceneCopy:
    """A file in a folder of its own, and what brings it to the state that the scene was in.

    ``images``, ``texts``: see `child.work.open_copy`.  ``use_scripts``: whether this Blender runs the file's scripts.
    ``driver_names``: see `scene.drivers.names_of_drivers`.  ``paths``: see `scene.relative_paths`.  ``missing``: see
    `scene.lacking.missing_links`.  ``view``: of a stereoscopic scene.  ``camera``: the name of the one that sees all of
    it, "" for the scene's.
    ``checks_drivers``: whether a driver that does not run is an error; not where its user sees the rig stand so.
    """

    scratch: Scratch
    file: Path
    scene: str
    view_layer: str
    view: str
    use_scripts: bool
    checks_drivers: bool
    working_space: str
    images: list[dict] = field(default_factory=list)
    texts: list[dict] = field(default_factory=list)
    driver_names: list[tuple[str, str]] = field(default_factory=list)
    paths: list[list] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    camera: str = ""

    @property
    def folder(self) -> Path:
        """Where it lies, with room for what is made of it."""
        return Path(self.scratch.name)

    def request(self) -> dict:
        """The child's task of opening it."""
        return {
            "task": "open",
            "file": str(self.file),
            "folder": str(self.folder),
            "scene": self.scene,
            "use_scripts": self.use_scripts,
            "checks_drivers": self.checks_drivers,
            "images": self.images,
            "texts": self.texts,
            "driver_names": self.driver_names,
            "paths": self.paths,
            "missing": self.missing,
            "camera": self.camera,
        }

    def close(self) -> None:
        """Remove it."""
        self.scratch.cleanup()


def write_copy(scene, view_layer: str, camera: str = "") -> SceneCopy:
    """A copy of the open file for a job about ``scene``, in a temporary folder; on the thread that may touch Blender.
    ``camera``: see `SceneCopy`.

    Raises `StorageError` when the disk refuses, `SceneError` when something cannot travel, naming it.
    """
    use_scripts = runs_scripts()
    scratch = Scratch("copy")
    folder = Path(scratch.name)
    try:
        file = folder / (Path(bpy.data.filepath).name or "untitled.blend")
        images = [_kept_pixels(image, folder) for image in bpy.data.images if _is_unsaved(image)]
        texts = [
            {"name": text.name_full, "words": text.as_string()}
            for text in bpy.data.texts
            if text.filepath and text.is_dirty and text.library is None
        ]
        _save_copy(file)
        _bring_disk_caches(folder)
    except OSError as refused:
        scratch.cleanup()
        raise StorageError(
            f"A copy of the scene could not be written to {folder} ({refused.strerror or refused}); free some space in "
            "the temporary folder."
        ) from refused
    except BaseException:
        scratch.cleanup()
        raise
    return SceneCopy(
        scratch=scratch,
        file=file,
        scene=scene.name_full,
        view_layer=view_layer,
        view=stereo_view(scene),
        use_scripts=use_scripts,
        checks_drivers=bpy.app.background or not (use_scripts or bpy.app.autoexec_fail),
        working_space=compat.working_space(),
        images=images,
        texts=texts,
        driver_names=names_of_drivers() if use_scripts else [],
        paths=left_relative() if bpy.data.filepath else [],
        missing=missing_links(),
        camera=camera,
    )


def _save_copy(file: Path) -> None:
    """Blender's *Save a Copy*; what other add-ons do on saving is for the user's own saving."""
    try:
        with _no_handlers(), _nothing_packed():
            done = bpy.ops.wm.save_as_mainfile(filepath=str(file), copy=True, check_existing=False, compress=False)
    except RuntimeError as refused:
        raise StorageError(
            f"A copy of the scene could not be written to {file} ({_why(refused, file.parent)}); free some space in "
            "the temporary folder."
        ) from refused
    if "FINISHED" not in done or not file.is_file():
        raise StorageError(f"A copy of the scene could not be written to {file}; free some space there.")


def _why(refused: RuntimeError, folder: Path) -> str:
    """Blender's reason.  Where it has none ("Error: Success"), or one of an earlier failure (the ``folder`` that it
    does not find is there), a disk has filled up while it wrote.
    """
    words = str(refused).strip().removeprefix("Error: ").rstrip(".")
    is_none = words in ("", "Success") or words == os.strerror(errno.ENOENT) and folder.is_dir()
    return "the disk is full" if is_none else words


@contextmanager
def _no_handlers() -> Iterator[None]:
    """No Python handler of saving is called meanwhile."""
    lists = [bpy.app.handlers.save_pre, bpy.app.handlers.save_post, bpy.app.handlers.save_post_fail]
    before = [list(handlers) for handlers in lists]
    for handlers in lists:
        handlers.clear()
    try:
        yield
    finally:
        for handlers, kept in zip(lists, before, strict=True):
            handlers[:] = kept


@contextmanager
def _nothing_packed() -> Iterator[None]:
    """*Automatically Pack Resources* is for the user's own saving, too: it would pack what the open file uses."""
    packs = bpy.data.use_autopack
    bpy.data.use_autopack = False
    try:
        yield
    finally:
        bpy.data.use_autopack = packs


def _is_unsaved(image) -> bool:
    """Whether this Blender alone has the pixels of an image that is used."""
    if not image.has_data or not image.users:
        return False
    if image.is_dirty:
        return image.source in ("FILE", "GENERATED", "TILED")
    return image.source == "FILE" and image.type == "IMAGE" and is_missing(image)


def _kept_pixels(image, folder: Path) -> dict:
    """Write an image's unsaved pixels beside the copy, bytes for byte images."""
    if image.source == "TILED":
        raise SceneError(f"The tiled image {image.name!r} has unsaved changes; save it (Image › Save) and start again.")
    width, height = image.size
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    if not image.is_float:
        pixels = np.rint(pixels * 255.0).astype(np.uint8)
    path = folder / f"image_{len(list(folder.glob('image_*')))}_{width}_{height}.npy"
    np.save(path, pixels, allow_pickle=False)
    return {"name": image.name_full, "pixels": str(path)}


def _bring_disk_caches(folder: Path) -> None:
    """Let the copy find the disk caches of the file: Blender looks for them beside a file, by its name.

    Those of baked simulations are only read, and linked.  Others are written when the copy is simulated: it has its
    own, or the artist's would be.
    """
    if not bpy.data.filepath:
        return
    name = cache_folder_name(bpy.data.filepath)
    caches = Path(bpy.data.filepath).resolve().parent / name
    if not caches.is_dir():
        return
    read_only = disk_cache_prefixes(True) - disk_cache_prefixes(False)
    (folder / name).mkdir()
    for file in filter(Path.is_file, caches.iterdir()):
        is_read_only = file.name.rsplit("_", 2)[0] in read_only  # <prefix>_<frame>_<number>.bphys
        if not is_read_only or not _linked(file, folder / name / file.name):
            shutil.copyfile(file, folder / name / file.name)


def _linked(file: Path, place: Path) -> bool:
    try:
        os.symlink(file, place)
        return True
    except OSError:  # Windows asks for a privilege
        return False
