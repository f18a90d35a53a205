# SPDX-License-Identifier: GPL-3.0-or-later
"""What a recipe needs of a scene: plain facts, read once at its start, and a source of geometry and pictures.

There are two sources (`jobs.sources`): a copy that a child Blender has open, and the scene of a Blender without a
window, walked inside its own render.  A recipe cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..child.open_copy import PictureOrder
from ..client.take import JobEvent
from ..shot.pictures import Owner
from ..shot.resolved import KeyChoice
from ..tracking.geometry import CameraPath
from .drive import Recipe, Status

Report = Callable[..., Status | None]
"""``report(event, words)``: the `Status` of an event."""
OnEvent = Callable[[JobEvent], None]


@dataclass(frozen=True)
class OwnPictures:
    """Pictures of the shot that the scene's own camera sees, for one that another camera sees.

    ``given``: files and images of the user's own.  ``owner``: whose painted ones count.
    """

    given: tuple[KeyChoice, ...]
    owner: Owner


@dataclass(frozen=True)
class SceneFacts:
    """A scene at the moment at which a job about it began.

    ``folder``: the shot's, in the cache.  ``render_size``: (width, height) in pixels; ``pixel_aspect``: (x, y).
    ``view_layer``: the layer that the job is about; ``layer_apart``: its name where the scene has others, else "".
    ``look``: of `scene.colours.kept_look`.  ``owner``: whose painted pictures count.
    ``shading``: digest of what a window compares to see that a picture is stale.  ``file``: the .blend, or "".
    ``transparent_film``: what no surface covers has alpha 0.  ``in_window``: somebody is looking: sizes may follow the
    machine's speed.  ``frames_per_second``: of its frames.  ``cameras``: (frame, name of the camera from there on).
    ``own_pictures``: where another camera than the scene's own sees the shot.  ``read_at``: when that moment was,
    seconds since the epoch.
    """

    name: str
    file: str
    folder: Path
    render_size: tuple[int, int]
    pixel_aspect: tuple[float, float]
    view_layer: str
    layer_apart: str
    look: dict
    owner: Owner
    shading: str
    blender: str
    transparent_film: bool
    in_window: bool
    frames_per_second: float
    cameras: tuple[tuple[int, str], ...] = ()
    own_pictures: OwnPictures | None = None
    read_at: float = 0.0


class Source(Protocol):
    """Geometry and pictures of one scene."""

    def export(self, frames: tuple[int, ...], size: tuple[int, int], report: Report) -> Recipe:
        """Returns the `GeometrySequence` at ``frames`` for a picture of ``size``; it is there until `close`.

        ``report`` gets `Progress` of "exporting".  Raises `SceneError`, `StorageError`, `JobCancelled`.
        """
        ...

    def pictures(self, order: PictureOrder, report: Report, stage: str) -> Recipe:
        """Returns the files of the pictures, which are there until `close`; ``report`` gets `Progress` of ``stage``.

        Raises `FirstFrameError`, `SceneError`, `StorageError`, `JobCancelled`.
        """
        ...

    def fitted(self, wanted: dict) -> Recipe:
        """Returns (PNG file, notes): any picture at a model's size, see `child.fitting.fitted_picture`.

        Raises `FirstFrameError`, `StorageError`, `JobCancelled`.
        """
        ...

    def sound(self, frames: tuple[int, int]) -> Recipe:
        """Returns a WAV file of what is heard from the first to the last of ``frames`` (Blender's numbers, both
        included), there until `close`; None where nothing is.

        Raises `StorageError`, `JobCancelled`.
        """
        ...

    def movies(self, request: dict, report: Report) -> Recipe:
        """Encodes pictures as movies, see `child.pictures.make_movies`; `Progress` is of "encoding video"."""
        ...

    def own_cameras(self) -> CameraPath | None:
        """The scene's own cameras at the frames that were exported last, where another one sees these; else None."""
        ...

    def simulated(self) -> list[str]:
        """The simulations that were stepped from their first frame for the export, by name."""
        ...

    def close(self) -> None:
        """Needed no more."""
        ...
