# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a take follow its animation?  Its model's frames, before anything is composed, are held against what exact
tracking predicts from the key pictures; a server finds how far apart they are.  No Blender in here.

    <take>/adherence/
        0001.png …     for every frame of the shot where it is off: heat maps at the model's size
        report.json    written last: the figures, see `measure`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..client.estimates import estimate
from ..client.files import write_whole
from ..client.job_run import JobEvent, Progress
from ..errors import SettingsError, StorageError
from ..protocol.png import decode_png, encode_png
from ..tracking.moments import NO_OBJECT, moments
from .adherence_figures import OFF_SHARE, Flicker, Means, Tally
from .adherence_frames import MeasuredFrames, flickers
from .adherence_words import table_of
from .cache import Take, TakeRequest, read_json
from .detail import Detail

KIND = "adherence"
"""Of the server's estimator, and the folder beside the take's frames."""
LAYOUT = 1
"""Version of report.json."""
CARRYING_SHARE = 0.4
"""A guess: the part of the time of a window's measuring that passes before anything is sent."""
SHOWN_OFF = 2.0
"""Heat maps are at their hottest where a point is so many times as far away as it may be."""
COLD, WARM, HOT, LOST = (40, 90, 200), (245, 200, 60), (220, 40, 40), (200, 60, 200)

OnEvent = Callable[[JobEvent], None]
StopQuestion = Callable[[], bool]


def read_report(folder: Path) -> dict | None:
    """The report of the take in ``folder``; None where it was not measured.  A file that did not change is not read
    twice."""
    path = folder / KIND / "report.json"
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    if _known.get(path, (0, None))[0] != changed:
        said = read_json(path) or {}
        is_ours = said.get("layout") == LAYOUT and said.get("take") == folder.name
        _known[path] = changed, said if is_ours and _can_be_told(said) else None
    return _known[path][1]


def _can_be_told(report: dict) -> bool:
    """Whether it has what panel and table read of it."""
    try:
        return bool(table_of(report))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return False


_known: dict[Path, tuple[int, dict | None]] = {}
"""The file of a report → when it changed, and what was read then."""


def heat_maps(folder: Path, count: int) -> list[Path]:
    """The files of the ``count`` frames of the take in ``folder``; none where it was not measured."""
    return [] if read_report(folder) is None else [folder / KIND / f"{index + 1:04d}.png" for index in range(count)]


def measure(
    request: TakeRequest,
    take: Take,
    server: str,
    *,
    on_event: OnEvent | None = None,
    should_stop: StopQuestion | None = None,
    timeout_s: float = 30.0,
) -> dict:
    """Measure ``take``, that of ``request``, on the server at the address, and keep heat maps and report beside it;
    blocks.  The shot of ``request`` must have its geometry.

    The report, and each of its ``frames``, ``objects`` and ``windows``, has the figures of `Tally.figures`, and the
    ``objects`` of each frame, by name, those of `Means.figures`.
    ``height``: of the model's frames, pixels; ``limit_px``: farther away is off.  ``seen``: share of the picture that a
    key picture shows: only that is measured.  ``composed``: share of the take's own frames that is made of key
    pictures, and so right by construction; it is not measured.  ``flicker``: mean levels by which a surface differs
    from itself in the frame before; ``flicker_expected``: those of the prediction, of its light.  ``seams``: where two
    windows show the same ``frames``, the mean levels by which they differ.  Frames are Blender's; windows count from 1.

    Raises `ModelError` where the server cannot measure (it says what to install), `StorageError` where the take cannot
    be read, any `TransportError`, `JobCancelled`.
    """
    if request.shot.geometry is None:
        raise SettingsError("The shot has no geometry to carry its pictures along with; export it again.")
    measuring = _Measuring(request, take)
    for number in range(len(request.plan.windows)):
        tell = _part_of(on_event, number, len(request.plan.windows))
        measuring.add_window(number, server, tell, should_stop, timeout_s)
    report = measuring.report()
    measuring.frames.fill_heat_maps()
    write_whole(take.folder / KIND / "report.json", json.dumps(report, indent=1, sort_keys=True).encode())
    return report


def _part_of(on_event: OnEvent | None, number: int, of: int) -> Callable[[int, int, float], None]:
    """``tell(step, of, fraction)`` of one of several windows."""

    def tell(step: int, steps: int, fraction: float) -> None:
        if on_event is not None:
            on_event(Progress("measuring", step, steps, (number + fraction) / of))

    return tell


class _Measuring:
    """One take being measured, window by window."""

    def __init__(self, request: TakeRequest, take: Take):
        self._request, self._take, self._plan = request, take, request.plan
        self._names = request.shot.geometry.names
        self._detail = request.detail or Detail(request.shot.geometry, request.plan, request.pictures)
        self._height = self._plan.model_size[1]
        self._all, self._objects = self._tally(), {}
        self.frames = MeasuredFrames(take.folder / KIND, self._height, self._plan.frames)
        self._windows: list[dict] = []
        self._seams: list[dict] = []
        self._before: tuple[int, np.ndarray] | None = None
        self._flicker, self._expected = Flicker(), Flicker()
        self._seen = self._pixels = 0
        said = read_json(take.folder / "take.json") or {}
        self._parts = [str(window.get("part", "")) for window in said.get("windows", [])]
        if len(self._parts) != len(self._plan.windows):
            raise StorageError(f"{take.folder} does not say which frames its model made; render the take anew.")

    def _tally(self) -> Tally:
        return Tally(self._height)

    def add_window(self, number: int, server: str, tell, should_stop: StopQuestion | None, timeout_s: float) -> None:
        """Measure the window ``number`` (from 0)."""
        window = self._plan.windows[number]
        self.frames.finish(self._plan.made[window.start])
        indices = self._plan.made_in(window)
        clip = np.stack(list(self._model_frames(number, len(indices))))

        def carrying(done: int, of: int) -> None:
            tell(done, of, CARRYING_SHARE * done / of)

        def estimating(event: JobEvent) -> None:
            if isinstance(event, Progress):
                tell(event.step, event.of, CARRYING_SHARE + (1.0 - CARRYING_SHARE) * event.fraction)

        carried = self._detail.carried_with_alpha(indices, progress=carrying, should_stop=should_stop)
        prediction, seen = np.ascontiguousarray(carried[..., :3]), carried[..., 3] > 0
        error = estimate(
            server, KIND, clip, prediction=prediction, seen=seen,
            on_event=estimating, should_stop=should_stop, timeout_s=timeout_s,
        )["error"]  # fmt: skip
        self._count(number, indices, clip, prediction, seen, error.astype(np.float32), should_stop)
        self._add_seam(window.start, clip)

    def _model_frames(self, number: int, count: int) -> Iterator[np.ndarray]:
        for place in range(count):
            path = self._take.folder / self._parts[number] / f"{place + 1:04d}.png"
            try:
                yield decode_png(path.read_bytes(), name=f"{path}", error=StorageError)
            except OSError as error:
                raise StorageError(f"{path} of the take cannot be read; render the take anew.") from error

    def _count(self, number, indices, clip, prediction, seen, error, should_stop) -> None:
        whole, flicker, expected = self._tally(), Flicker(), Flicker()
        cameras = self._plan.framing.overscan(self._request.shot.geometry.cameras)
        geometry = replace(self._request.shot.geometry, cameras=cameras)
        for place, moment in enumerate(moments(geometry, indices, should_stop=should_stop)):
            here, errors = seen[place], error[place]
            levels = np.abs(clip[place].astype(np.int16) - prediction[place]).mean(axis=2, dtype=np.float32)
            of_frame = self.frames.at(moment.index)
            for tally in (self._all, whole, of_frame.tally):
                tally.add(errors[here], levels[here])
            for owner in np.unique(moment.objects[here]):
                if owner != NO_OBJECT:
                    name, own = self._names[owner], here & (moment.objects == owner)
                    tallies = self._objects.setdefault(name, self._tally()), of_frame.objects.setdefault(name, Means())
                    for tally in tallies:
                        tally.add(errors[own], levels[own])
            if place:
                pair = (moment.before, moment.visible_before)
                twice = pair[1] & here & (sampled_mask(seen[place - 1], pair[0], pair[1]))
                for kept, frames, where in (
                    ((self._flicker, flicker, of_frame.flicker), clip, pair[1]),
                    ((self._expected, expected, of_frame.expected), prediction, twice),
                ):
                    for one in kept:
                        one.add(frames[place], frames[place - 1], pair[0], where)
            self._seen, self._pixels = self._seen + int(here.sum()), self._pixels + here.size
            self.frames.keep_heat_map(moment.index, partial(_heat_map_png, clip[place], here, errors))
        frames = [self._plan.frames[indices[end]] for end in (0, -1)]
        about = {"number": number + 1, "frames": frames, **flickers(flicker, expected)}
        self._windows.append({**about, **whole.figures()})

    def _add_seam(self, start: int, clip: np.ndarray) -> None:
        """What the window that begins at the place ``start`` shares with the one before."""
        if self._before is not None:
            first, before = self._before
            shared = min(first + len(before), start + len(clip)) - start
            if shared > 0:
                pairs = zip(before[start - first : start - first + shared], clip[:shared], strict=True)
                apart = [float(np.abs(a.astype(np.int16) - b).mean()) for a, b in pairs]
                ends = [self._plan.frames[self._plan.made[place]] for place in (start, start + shared - 1)]
                self._seams.append({"frames": ends, "difference": round(float(np.mean(apart)), 3)})
        self._before = start, clip

    def report(self) -> dict:
        """See `measure`."""
        seen = self._seen / self._pixels
        is_composed = self._plan.keeps_detail and not self._plan.fine_only
        whole = [{"name": name, **tally.figures()} for name, tally in self._objects.items()]
        return {
            "layout": LAYOUT,
            "take": self._take.key,
            "height": self._height,
            "limit_px": round(OFF_SHARE * self._height, 3),
            **self._all.figures(),
            **flickers(self._flicker, self._expected),
            "seen": round(seen, 4),
            "composed": round(seen, 4) if is_composed else 0.0,
            "frames": self.frames.told(),
            "objects": sorted(whole, key=lambda one: (-(one["off"] or 0.0), -(one["mean_px"] or 0.0), one["name"])),
            "windows": self._windows,
            "seams": self._seams,
        }


def _heat_map_png(frame: np.ndarray, seen: np.ndarray, error: np.ndarray) -> bytes:
    return encode_png(heat_map(frame, seen, error))


def sampled_mask(mask: np.ndarray, xy: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[H,W] bool: ``mask`` [H,W] at the pixels that hold the places ``xy`` [H,W,2], False where it is not ``where``."""
    found = np.zeros(mask.shape, bool)
    height, width = mask.shape
    places = np.floor(xy[where]).astype(np.int64)
    found[where] = mask[np.clip(places[:, 1], 0, height - 1), np.clip(places[:, 0], 0, width - 1)]
    return found


def heat_map(frame: np.ndarray, seen: np.ndarray, error: np.ndarray) -> np.ndarray:
    """[H,W,3] u8: ``frame`` [H,W,3] u8 in grey, darker where it is not ``seen`` [H,W], and over it how far each point
    is off, ``error`` [H,W] px: blue, yellow as far as it may be, red; purple where it is lost."""
    grey = frame.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
    picture = np.where(seen[..., None], 0.5 * grey + 60.0, 0.35 * grey)
    found = np.isfinite(error)
    hot = np.clip(error[found] / (OFF_SHARE * len(frame)), 0.0, SHOWN_OFF)
    steps = (0.0, 1.0, SHOWN_OFF)
    colours = np.stack([np.interp(hot, steps, channel) for channel in zip(COLD, WARM, HOT, strict=True)], axis=-1)
    picture[found] = 0.35 * picture[found] + 0.65 * colours
    picture[np.isinf(error)] = 0.35 * picture[np.isinf(error)] + 0.65 * np.array(LOST, np.float32)
    return np.rint(picture).astype(np.uint8)
