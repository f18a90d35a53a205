# SPDX-License-Identifier: GPL-3.0-or-later
"""Training clips out of Blender: what the camera sees, rendered by Blender's own engine, and the exact tracking video
of the same frames at the same size, added to a dataset in the public layout (`clip_folder`).

The frames are rendered by a child Blender with the engine and the samples that render first frames, so the window
stays free and the scene as it is; see `child.pictures` for what is left out of the pictures.  At a size of another
shape than the render's the camera sees what Blender would render at that size.

A lossless clip keeps its frames as PNG files: they are the render and the tracking video to the last bit.  Otherwise
Blender encodes both as H.264, whose colours are a little off, most at the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..child.open_copy import PictureOrder
from ..child.scratch import Scratch
from ..client.files import write_whole
from ..errors import FirstFrameError, JobCancelled, SceneError, StorageError
from ..protocol.png import decode_png, encode_png
from ..shot.tracked import check_in_view
from ..tracking.geometry import GeometrySequence
from ..tracking.video import render_tracking_video
from .clip_folder import ClipPlace, append_clip, check_place
from .drive import Recipe, Status, in_thread
from .reporter import OnEvent, Reporter, counting
from .source import Source

CANCELLED = "The export of the clip was cancelled."

SPANS = {"exporting": (0.0, 0.1), "tracking": (0.1, 0.2), "rendering": (0.2, 0.9), "encoding video": (0.9, 0.98)}
"""Station → its part of an export's progress."""

ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class ClipRequest:
    """A clip that is to be made: everything that was chosen.

    ``size``: (width, height) in pixels.  ``engine``: one of `shot.first_frame.ENGINES`.  ``look``: of
    `scene.colours.kept_look`.  ``fps`` / ``fps_base``: frames
    per second of its videos.
    """

    folder: Path
    place: ClipPlace
    caption: str
    frames: tuple[int, ...]
    size: tuple[int, int]
    engine: str
    samples: int
    pixel_aspect: tuple[float, float]
    look: dict
    fps: int
    fps_base: float

    @property
    def lossless(self) -> bool:
        """Whether its videos are folders of PNG files."""
        return not self.place.video.endswith(".mp4")


@dataclass(frozen=True)
class DatasetClip:
    """A clip of a dataset.  ``video``, ``tracking``: a video file, or a folder of PNG files; ``first_frame``: a PNG.

    ``frames``: its Blender frames.  ``size``: (width, height) in pixels.
    """

    folder: Path
    name: str
    caption: str
    video: Path
    tracking: Path
    first_frame: Path
    frames: tuple[int, ...]
    size: tuple[int, int]


def export_clip(
    request: ClipRequest, source: Source, *, filmed: Sequence[np.ndarray] | None = None, on_event: OnEvent | None = None
) -> Recipe:
    """Make the clip and add it to its dataset.  Returns a `DatasetClip`.

    ``filmed``: pictures u8 [H,W,3] of the request's size, one for each frame, in the place of rendered ones.
    ``on_event`` gets `Progress` with the fraction of the whole export, on the thread that drives the recipe.

    Raises `SceneError` (nothing to track, or the scene cannot be rendered), `SettingsError` (there is a clip of that
    name), `StorageError` (a disk refused, or the dataset is damaged), `JobCancelled`.
    """
    report, count = Reporter(on_event, SPANS), len(request.frames)
    try:
        with _scratch_folder() as scratch:
            # 1. The folder, before anything takes time.
            yield Status("exporting", f"Opening {request.folder}", 0.0)
            yield from in_thread(lambda should_stop, _say: check_place(request.folder, request.place, should_stop))
            # 2. The geometry, and the tracking video of it.
            geometry = yield from source.export(request.frames, request.size, report)
            yield from in_thread(lambda stop, say: _draw(geometry, scratch / "tracking", stop, say), report)
            # 3. The frames.
            if filmed is None:
                files = yield from _rendered(source.pictures(_order(request), report, "rendering"))
                yield from in_thread(lambda stop, _say: _keep(files, scratch / "video", request.size, stop))
            else:
                yield from in_thread(lambda stop, _say: _write(filmed, scratch / "video", stop))
            # 4. All of it as it lies in a dataset.
            made, movies = scratch / "made", _laid_out(request, scratch)
            if not request.lossless:
                yield from source.movies(_movies(request, movies, count), report)
                _check_movies(movies)
            yield from in_thread(
                lambda stop, _say: append_clip(request.folder, request.place, request.caption, made, stop)
            )
    finally:
        source.close()
    clip = _clip(request)
    yield Status("done", f"The clip {clip.name} is in {clip.folder}", 1.0)
    return clip


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _order(request: ClipRequest) -> PictureOrder:
    return PictureOrder(
        request.frames, request.size, request.pixel_aspect, request.engine, request.samples, request.look
    )


def _rendered(pictures: Recipe) -> Recipe:
    """Nobody asked for a first frame: what went wrong with a picture is the scene's."""
    try:
        return (yield from pictures)
    except FirstFrameError as error:
        raise SceneError(error.message, detail=error.detail) from error


def _frame_name(index: int) -> str:
    return f"{index + 1:04d}.png"


def _draw(geometry: GeometrySequence, folder: Path, should_stop: ShouldStop, say: OnEvent) -> None:
    """The tracking video as PNG files in ``folder``."""
    said = counting("tracking", say)
    drawn = render_tracking_video(geometry, colours_only=True, progress=said, should_stop=should_stop)
    check_in_view(drawn)
    _write(drawn.video, folder, should_stop)


def _write(pictures: Sequence[np.ndarray], folder: Path, should_stop: ShouldStop) -> None:
    for index, picture in enumerate(pictures):
        _check_stop(should_stop)
        write_whole(folder / _frame_name(index), encode_png(picture))


def _keep(files: list[Path], folder: Path, size: tuple[int, int], should_stop: ShouldStop) -> None:
    """The rendered frames, checked, in ``folder``."""
    for index, file in enumerate(files):
        _check_stop(should_stop)
        write_whole(folder / _frame_name(index), _rendered_png(file, size))


def _laid_out(request: ClipRequest, scratch: Path) -> list[tuple[Path, Path]]:
    """The first frame and, in a lossless clip, both videos at their places below ``scratch / "made"``; returns each
    folder of frames with the place of its video.
    """
    place, made = request.place, scratch / "made"
    write_whole(made / place.first_frame, (scratch / "video" / _frame_name(0)).read_bytes())
    videos = [(scratch / "video", made / place.video), (scratch / "tracking", made / place.tracking)]
    for source, path in videos:
        path.parent.mkdir()
        if request.lossless:
            source.rename(path)
    return videos


def _movies(request: ClipRequest, videos: list[tuple[Path, Path]], count: int) -> dict:
    """The task of encoding the videos, see `child.pictures.make_movies`."""
    return {
        "movies": [
            {"frames": [str(folder / _frame_name(index)) for index in range(count)], "output": str(path)}
            for folder, path in videos
        ],
        "size": list(request.size),
        "fps": request.fps,
        "fps_base": request.fps_base,
    }


def _check_movies(videos: list[tuple[Path, Path]]) -> None:
    for _, path in videos:
        if not path.is_file() or not path.stat().st_size:
            raise StorageError(f"Blender has not written the video {path.name}; export the clip lossless instead.")


def _clip(request: ClipRequest) -> DatasetClip:
    folder, place = request.folder, request.place
    return DatasetClip(
        folder=folder,
        name=place.name,
        caption=request.caption,
        video=folder / place.video,
        tracking=folder / place.tracking,
        first_frame=folder / place.first_frame,
        frames=request.frames,
        size=request.size,
    )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    scratch = Scratch("clip")
    try:
        yield Path(scratch.name)
    finally:
        scratch.cleanup()


def _rendered_png(path: Path, size: tuple[int, int]) -> bytes:
    """A rendered frame without the date and render time that Blender writes into its files."""
    if not path.is_file():
        raise SceneError(f"Blender has not written the frame {path.name}; render it in Blender to see why.")
    pixels = decode_png(path.read_bytes(), name="The rendered frame", error=SceneError)
    height, width = pixels.shape[:2]
    if (width, height) != size:
        raise SceneError(
            f"The frames were rendered at {width}×{height} instead of {size[0]}×{size[1]}; a script in the file "
            "changes the resolution: remove it."
        )
    return encode_png(pixels)


def _check_stop(should_stop: ShouldStop) -> None:
    if should_stop():
        raise JobCancelled(CANCELLED)
