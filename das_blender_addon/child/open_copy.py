# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of a scene that a child Blender has open: its geometry, and pictures of it.  No Blender in here: any thread.

Calls block; ``should_stop()`` is asked many times a second, and ``say`` gets `Progress`.
"""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..client.take import Progress
from ..errors import DasError, FirstFrameError, JobCancelled, SceneError, StorageError
from ..tracking.geometry import CameraPath, GeometrySequence
from ..tracking.spool import open_spool
from .process import ChildBlender, ChildBroke, Launch
from .warm import give_back, take_child

Say = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


class Copy(Protocol):
    """What `copy.write_copy` gives; a file in a folder of its own."""

    folder: Path
    scene: str
    view_layer: str
    view: str
    working_space: str

    def request(self) -> dict: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class PictureOrder:
    """Pictures of a scene by one of Blender's own engines.

    ``frames``: Blender's.  ``size``: (width, height) in pixels.  ``pixel_aspect``: (x, y).  ``engine``: CYCLES, EEVEE
    or WORKBENCH.  ``look``: of `scene.colours.kept_look`.  ``camera``: what `pictures.place_camera` reads; None for the
    scene's own cameras.
    """

    frames: tuple[int, ...]
    size: tuple[int, int]
    pixel_aspect: tuple[float, float]
    engine: str
    samples: int
    look: dict
    camera: dict | None = None


class OpenCopy:
    """Has a child Blender for as long as it is needed; `close` gives it back and removes the copy.

    `close` may be called while another thread is in the middle of a call: that thread, which is asked to stop, then
    gives back and removes.
    """

    def __init__(self, copy: Copy, launched: Launch):
        self._copy, self._launched = copy, launched
        self._child: ChildBlender | None = None
        self._memory_bytes = 0
        self._pictures = 0
        #: What `Source.own_cameras` tells, of the last export.
        self.own_cameras: CameraPath | None = None
        self._lock = threading.Lock()
        self._is_busy = self._is_closed = False
        self._remove = weakref.finalize(self, copy.close)  # also when nobody ever asks for anything

    def export(
        self, frames: Sequence[int], size: tuple[int, int], should_stop: ShouldStop, say: Say
    ) -> tuple[GeometrySequence, list[str]]:
        """The geometry at ``frames`` for a picture of ``size``, spooled to disk until `close`; and the simulations that
        had to be stepped for it, by name.

        Raises `SceneError`, `StorageError`, `JobCancelled`.
        """
        spool = self._copy.folder / "geometry"
        shutil.rmtree(spool, ignore_errors=True)
        try:
            spool.mkdir()
        except OSError as error:
            raise StorageError(f"{spool} cannot be written to ({error.strerror}); free some space there.") from error

        def pass_on(words: dict) -> None:
            say(Progress("exporting", words["done"], len(frames), words["done"] / len(frames)))

        request = {
            "task": "export",
            "scene": self._copy.scene,
            "view_layer": self._copy.view_layer,
            "view": self._copy.view,
            "frames": list(frames),
            "size": list(size),
            "spool": str(spool),
        }
        done = self._ask(request, SceneError, "The scene could not be exported", pass_on, should_stop, can_stop=True)
        geometry, own = open_spool(spool), done.get("own_cameras")
        self.own_cameras = None if own is None else CameraPath(
            **{name: None if value is None else np.array(value) for name, value in own.items()}, width=size[0],
            height=size[1],
        )  # fmt: skip
        return geometry, done["simulated"]

    def pictures(self, order: PictureOrder, should_stop: ShouldStop, say: Say, stage: str) -> list[Path]:
        """The pictures of ``order``, PNG files that are there until `close`; ``stage``: of the `Progress`.

        Raises `FirstFrameError`, `SceneError`, `JobCancelled`.
        """
        self._pictures += 1
        folder = self._copy.folder / f"pictures_{self._pictures}"
        files = [folder / f"{index + 1:04d}.png" for index in range(len(order.frames))]
        request = {
            "task": "pictures",
            "scene": self._copy.scene,
            "view_layer": self._copy.view_layer,
            "frames": [(frame, str(file)) for frame, file in zip(order.frames, files, strict=True)],
            "size": list(order.size),
            "pixel_aspect": list(order.pixel_aspect),
            "engine": order.engine,
            "samples": order.samples,
            "look": order.look,
            "camera": order.camera,
            "working_space": self._copy.working_space,
        }
        failed = f"The picture could not be rendered with {order.engine}"
        self._ask(request, FirstFrameError, failed, _samples(stage, say), should_stop, can_stop=False)
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise FirstFrameError(f"{failed}: the child Blender wrote no picture; render it in Blender to see why.")
        return files

    def fitted(self, wanted: dict, should_stop: ShouldStop) -> tuple[Path, list[str]]:
        """A PNG of any picture at a model's size, and what was done to it, see `fitting.fitted_picture`; it is there
        until `close`.  Raises `FirstFrameError`, `JobCancelled`.
        """
        self._pictures += 1
        output = self._copy.folder / f"fitted_{self._pictures}.png"
        request = {"task": "fitted", **wanted, "scene": self._copy.scene, "output": str(output)}
        done = self._ask(
            request, FirstFrameError, "The picture could not be read", None, should_stop, can_stop=False
        )
        return output, done["notes"]

    def sound(self, frames: tuple[int, int], should_stop: ShouldStop) -> Path | None:
        """A WAV file of what is heard from the first to the last of ``frames``, there until `close`; None where Blender
        cannot write it.  Raises `StorageError`, `SceneError`, `JobCancelled`.
        """
        output = self._copy.folder / "sound.wav"
        request = {"task": "sound", "scene": self._copy.scene, "frames": list(frames), "output": str(output)}
        failed = "The scene's sound could not be written"
        done = self._ask(request, StorageError, failed, None, should_stop, can_stop=False)
        return output if done["is_there"] else None

    def sheets(self, write: Callable[[Path], None], should_stop: ShouldStop) -> Path:
        """The file of the alpha (see `scene.content.sheet_files`) of the sheets that ``write(file)`` writes; there
        until `close`.  Raises `SceneError`, `JobCancelled`.
        """
        given, output = self._copy.folder / "sheets.npz", self._copy.folder / "alpha.npz"
        write(given)
        request = {"task": "sheets", "sheets": str(given), "output": str(output)}
        failed = "The alpha of materials could not be rendered"
        self._ask(request, SceneError, failed, None, should_stop, can_stop=True)
        return output

    def movies(self, request: dict, should_stop: ShouldStop, say: Say) -> None:
        """Encode movies, see `pictures.make_movies`.  The copy is no longer open then."""
        request = {"task": "movies", **request}
        failed, said = "The videos could not be encoded", _samples("encoding video", say)
        with self._busy():
            self._run(request, StorageError, failed, said, should_stop, can_stop=False)

    def close(self) -> None:
        """Needed no more: the child is given back, the copy and all that was made of it are removed."""
        with self._lock:
            self._is_closed = True
            if self._is_busy:
                return
        self._release()

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _release(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            give_back(child, self._memory_bytes)
        self._remove()

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """This thread is talking with the child; `close` leaves the end to it."""
        with self._lock:
            if self._is_closed:
                raise JobCancelled("The job was cancelled.")
            self._is_busy = True
        try:
            yield
        finally:
            with self._lock:
                self._is_busy, is_closed = False, self._is_closed
            if is_closed:
                self._release()

    def _ask(self, request: dict, error: type[DasError], failed: str, on_message, should_stop, *, can_stop) -> dict:
        with self._busy():
            if self._child is None:
                self._run(self._copy.request(), error, failed, None, should_stop, can_stop=False)
            return self._run(request, error, failed, on_message, should_stop, can_stop=can_stop)

    def _run(self, request: dict, error: type[DasError], failed: str, on_message, should_stop, *, can_stop) -> dict:
        try:
            done = self._answer(request, on_message, should_stop, can_stop)
        except ChildBroke as broke:
            raise error(f"{failed}: {broke}.", detail=broke.detail) from broke
        self._memory_bytes = done.get("memory", self._memory_bytes)
        return done

    def _answer(self, request: dict, on_message, should_stop, can_stop: bool) -> dict:
        """What the child answers; one that was kept from another job and has died since is replaced."""
        if self._child is None:
            self._child, is_kept = take_child(self._launched)
            try:
                return self._child.ask(request, on_message=on_message, should_stop=should_stop, can_stop=can_stop)
            except ChildBroke:
                if not is_kept:
                    raise
            self._child, _ = take_child(self._launched)
        return self._child.ask(request, on_message=on_message, should_stop=should_stop, can_stop=can_stop)


def _samples(stage: str, say: Say) -> Callable[[dict], None]:
    """Says how far the pictures are, samples included."""

    def pass_on(words: dict) -> None:
        if words["views"] == 1:
            if "step" in words:
                say(Progress(stage, words["step"], words["of"], words["step"] / words["of"]))
            return
        done = words["view"] + words.get("step", 0) / words.get("of", 1)
        say(Progress(stage, words["view"], words["views"], done / words["views"]))

    return pass_on


