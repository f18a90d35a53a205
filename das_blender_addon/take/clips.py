# SPDX-License-Identifier: GPL-3.0-or-later
"""Training clips out of Blender: what the camera sees, rendered by Blender's own engine, and the exact tracking video
of the same frames at the same size, added to a dataset in the public layout (`dataset_folder`).

The frames are rendered by a child Blender with the engine and the samples that render first frames, so the window
stays free and the scene as it is; see `child_blender` for what is left out of the pictures.  At a size of another
shape than the render's the camera sees what Blender would render at that size.

A lossless clip keeps its frames as PNG files: they are the render and the tracking video to the last bit.  Otherwise
Blender encodes both as H.264, whose colours are a little off, most at the edges.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..child.child_blender import LOG_TAIL, ChildBlender, Launch, check_engine, launch, render_request, write_copy
from ..client.files import write_whole
from ..client.take import JobEvent, Progress
from ..errors import JobCancelled, SceneError, SettingsError, StorageError
from ..protocol.png import decode_png, encode_png
from ..scene.camera import pixel_aspect, render_size
from ..scene.walking import export, finder
from ..shot.plan import check_frames, check_in_view
from ..shot.settings import ResolvedSettings
from ..shot.shot_folder import shot_name
from ..tracking.geometry import GeometrySequence
from ..tracking.video import render_tracking_video
from .clip_folder import ClipPlace, append_clip, check_caption, check_place, place_of
from .drive import Recipe, Status, in_thread

CANCELLED = "The export of the clip was cancelled."

_SPANS = {"exporting": (0.0, 0.1), "tracking": (0.1, 0.2), "rendering": (0.2, 0.9), "encoding": (0.9, 0.98)}
"""Station → its part of an export's progress."""

OnEvent = Callable[[JobEvent], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class ClipRequest:
    """A clip that is to be made: everything that was chosen.

    ``size``: (width, height) in pixels.  ``engine``: one of `child_blender.ENGINES`.  ``fps`` / ``fps_base``: frames
    per second of its videos.
    """

    folder: Path
    place: ClipPlace
    caption: str
    frames: tuple[int, ...]
    size: tuple[int, int]
    engine: str
    samples: int
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


def clip_request(
    scene,
    settings: ResolvedSettings,
    folder: str | Path,
    *,
    name: str = "",
    caption: str = "",
    lossless: bool = False,
) -> ClipRequest:
    """The clip of the scene's shot with ``settings``: their frames, size (None: the render's), engine and samples.

    ``name`` "": `default_name`.  ``caption`` "": the prompt.

    Raises `SettingsError`: a name, caption, engine or size that cannot be used.
    """
    width, height = settings.size or render_size(scene)
    if not lossless and (width % 2 or height % 2):
        raise SettingsError(
            f"The clip's size is {width}×{height} pixels and its video format needs even numbers; choose another size, "
            "or a lossless clip.",
            field="size",
        )
    check_engine(settings.first_frame_engine)
    frames = check_frames(settings.frames)
    step = (frames[-1] - frames[0]) / (len(frames) - 1) if len(frames) > 1 else 1
    return ClipRequest(
        folder=Path(folder).resolve(),
        place=place_of(name or default_name(scene, frames), lossless=lossless),
        caption=check_caption(caption or settings.prompt),
        frames=frames,
        size=(width, height),
        engine=settings.first_frame_engine,
        samples=settings.first_frame_samples,
        fps=scene.render.fps,
        fps_base=scene.render.fps_base * step,
    )


def default_name(scene, frames: tuple[int, ...]) -> str:
    """The clip's name where none was given: file, scene and frames."""
    return f"{shot_name(scene)}_{frames[0]:04d}-{frames[-1]:04d}"


def export_clip(scene, request: ClipRequest, *, on_event: OnEvent | None = None) -> Recipe:
    """Make the clip and add it to its dataset.  Returns a `DatasetClip`.

    ``on_event`` gets `Progress` with the fraction of the whole export, on the thread that drives the recipe.

    Raises `SceneError` (nothing to track, or the scene cannot be rendered), `SettingsError` (there is a clip of that
    name), `StorageError` (a disk refused, or the dataset is damaged), `JobCancelled`.
    """
    report, find = _Reporter(on_event), finder(scene)
    # 1. The folder, before anything takes time.
    yield Status("exporting", f"Opening {request.folder}", 0.0)
    yield from in_thread(lambda should_stop, _say: check_place(request.folder, request.place, should_stop))
    # 2. The geometry, one frame between two yields.
    geometry = yield from export(find, request.frames, request.size, None, report)
    # 3. A child Blender renders the frames; meanwhile the tracking video is drawn.
    launched = launch()
    child = ChildBlender.start(lambda folder: _frames_request(find(), request, folder), launched, SceneError)

    def make(should_stop: ShouldStop, say: OnEvent) -> DatasetClip:
        try:
            return _make_clip(request, geometry, child, launched, should_stop, say)
        finally:
            child.close()

    clip = yield from in_thread(make, report)
    yield Status("done", f"The clip {clip.name} is in {clip.folder}", 1.0)
    return clip


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _frames_request(scene, request: ClipRequest, folder: Path) -> dict:
    """The task of rendering the clip's frames into the child's ``folder``."""
    return render_request(
        scene,
        write_copy(scene, folder, StorageError),
        frames=[(frame, str(folder / _frame_name(index))) for index, frame in enumerate(request.frames)],
        size=request.size,
        pixel_aspect=pixel_aspect(scene),
        engine=request.engine,
        samples=request.samples,
    )


def _frame_name(index: int) -> str:
    return f"{index + 1:04d}.png"


def _make_clip(
    request: ClipRequest,
    geometry: GeometrySequence,
    child: ChildBlender,
    launched: Launch,
    should_stop: ShouldStop,
    say: OnEvent,
) -> DatasetClip:
    """Everything that needs no Blender of our own, in a thread: draw, wait for ``child``, encode, append."""
    place, count = request.place, len(request.frames)
    with _scratch_folder() as scratch:
        video, tracking, made = scratch / "video", scratch / "tracking", scratch / "made"
        # 1. The tracking video.
        drawn = render_tracking_video(geometry, progress=_counting("tracking", say), should_stop=should_stop)
        check_in_view(drawn)
        for index, picture in enumerate(drawn.video):
            _check_stop(should_stop)
            write_whole(tracking / _frame_name(index), encode_png(picture))
        # 2. The rendered frames.
        _wait(child, "rendering", f"The frames could not be rendered with {request.engine}", should_stop, say)
        for index in range(count):
            _check_stop(should_stop)
            write_whole(video / _frame_name(index), _rendered_png(child.folder / _frame_name(index), request.size))
        # 3. All of it as it lies in a dataset.
        write_whole(made / place.first_frame, (video / _frame_name(0)).read_bytes())
        videos = [(video, made / place.video), (tracking, made / place.tracking)]
        for source, path in videos:
            path.parent.mkdir()
            if request.lossless:
                source.rename(path)
        if not request.lossless:
            _encode(request, videos, launched, should_stop, say)
        append_clip(request.folder, place, request.caption, made, should_stop)
    return DatasetClip(
        folder=request.folder,
        name=place.name,
        caption=request.caption,
        video=request.folder / place.video,
        tracking=request.folder / place.tracking,
        first_frame=request.folder / place.first_frame,
        frames=request.frames,
        size=request.size,
    )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="das-clip-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise StorageError(
            f"The temporary folder {tempfile.gettempdir()} cannot be written to ({error}); free some space there."
        ) from error


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


def _encode(
    request: ClipRequest,
    movies: list[tuple[Path, Path]],
    launched: Launch,
    should_stop: ShouldStop,
    say: OnEvent,
) -> None:
    """Let a child Blender make videos of ``movies``: folders of the clip's frames, and their video files."""
    task = {
        "task": "movies",
        "movies": [
            {"frames": [str(folder / _frame_name(index)) for index in range(len(request.frames))], "output": str(path)}
            for folder, path in movies
        ],
        "size": list(request.size),
        "fps": request.fps,
        "fps_base": request.fps_base,
    }
    child = ChildBlender.start(lambda _folder: task, launched, StorageError)
    try:
        _wait(child, "encoding", "The clip's videos could not be encoded", should_stop, say)
    finally:
        child.close()
    for _, path in movies:
        if not path.is_file() or not path.stat().st_size:
            raise StorageError(f"Blender has not written the video {path.name}; export the clip lossless instead.")


def _wait(child: ChildBlender, stage: str, failed: str, should_stop: ShouldStop, say: OnEvent) -> None:
    """Wait for ``child`` and say how far it is in ``stage``.  Raises `SceneError` that begins with ``failed``."""

    def pass_on(words: dict) -> None:
        done = words["view"] + words.get("step", 0) / words.get("of", 1)
        say(Progress(stage, words["view"], words["views"], done / words["views"]))

    why = child.wait(pass_on, should_stop, CANCELLED)
    if why:
        raise SceneError(f"{failed}: {why}.", detail=child.log()[-LOG_TAIL:])


def _check_stop(should_stop: ShouldStop) -> None:
    if should_stop():
        raise JobCancelled(CANCELLED)


def _counting(stage: str, say: OnEvent) -> Callable[[int, int], None]:
    return lambda done, of: say(Progress(stage, done, of, done / of if of else 1.0))


class _Reporter:
    """`Progress` of a station → `Status` for who drives the recipe, and the event itself, with the fraction of the
    whole export, for ``on_event``.
    """

    WORDS = {"tracking": "Tracking video", "rendering": "Rendering frame", "encoding": "Encoding video"}

    def __init__(self, on_event: OnEvent | None):
        self._on_event = on_event

    def __call__(self, event: Progress, words: str = "") -> Status:
        low, high = _SPANS[event.stage]
        event = replace(event, fraction=low + (high - low) * event.fraction)
        if self._on_event is not None:
            self._on_event(event)
        done = event.step if event.stage == "tracking" else event.step + 1
        return Status(event.stage, words or f"{self.WORDS[event.stage]} {done}/{event.of}", event.fraction)
