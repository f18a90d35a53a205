# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each pixel of a frame lies in several key pictures of the shot, exactly, and whether they show it.

The triangle that a pixel sees is searched once per frame; its surface point is then followed to every key frame along
the vertices, forward or backward in time, and compared with what that frame's camera sees (`visibility`).  What has no
surface at all, the sky, lies infinitely far away: its direction is followed instead, where that is wanted.

Frames come one after the other: in memory are the views of the K key frames and the frame at hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..errors import JobCancelled, SettingsError
from .drawn import Drawn, DrawnSurfaces
from .geometry import GeometrySequence
from .projection import Pinhole, pinhole_at
from .rasteriser import NO_TRIANGLE
from .seen import check_geometry, seen_surfaces
from .sky import shows_sky, sky_places
from .surface import interpolate_on_surface
from .visibility import SAME_SURFACE_SHARE, FirstView

_PIXELS_PER_PIECE = 1 << 16
_HOLE = NO_TRIANGLE - 1
#: Key pictures that are prepared at a time: numpy works on one core.
KEYS_AT_A_TIME = 2


@dataclass(frozen=True)
class FrameCorrespondences:
    """What one frame shares with K key pictures of the same size; rows are top-down.

    ``index``: the frame, 0-based; ``key_indices``: the key pictures' frames, 0-based, in the order of the arrays.
    ``xy`` [K,H,W,2] f32: where the point that each pixel sees lies in the key picture, pixels, centres at +0.5 (may lie
    outside the picture); NaN where there is none or it lies behind that camera; nothing of keys that were not followed.
    ``visible`` [K,H,W] bool: it lies inside the key picture and nothing hides it there.
    ``coverage`` [H,W] bool: the frame sees a surface.  ``depth`` [H,W] f32: how far away, Blender units; inf where
    there is none.  ``hole`` [H,W] bool: it sees a hole, nothing whatever is behind it; None where it sees none.
    ``key_edges`` [K,H,W] bool: in the key picture, pixels at an outline, which show two surfaces mixed; the same array
    for all frames.  ``key_inverse_depth``: K [H,W] f32, how far away what the key picture sees is, 1/Blender units, 0
    for nothing; the same for all frames.  ``enter``: see `follow`.
    """

    index: int
    key_indices: tuple[int, ...]
    xy: np.ndarray
    visible: np.ndarray
    coverage: np.ndarray
    depth: np.ndarray
    key_edges: np.ndarray
    key_inverse_depth: Sequence[np.ndarray] = ()
    enter: Callable[[int, np.ndarray], None] = lambda _number, _wanted: None
    hole: np.ndarray | None = None

    def follow(self, number: int, wanted: np.ndarray) -> None:
        """Enter ``xy`` and ``visible`` of the key ``number`` where they are ``wanted`` [H,W] bool, for frames of which
        only the keys beside them were followed.
        """
        self.enter(number, wanted)


class KeyViews:
    """What key frames of ``geometry`` show, each looked at once for several `correspondences` of it.

    Of keys that are not asked for any more nothing is kept.
    """

    def __init__(self, geometry: GeometrySequence):
        self.geometry, self._lock = geometry, threading.Lock()
        self._views: dict[int, tuple[FirstView, np.ndarray]] = {}

    def of(
        self, keys: Sequence[int], surfaces: DrawnSurfaces, check: Callable[[], None]
    ) -> list[tuple[FirstView, np.ndarray]]:
        """For each of the ``keys`` what it shows, and its outlines [H,W] bool."""
        with self._lock:
            self._views = {key: self._views[key] for key in keys if key in self._views}
            missing = [key for key in keys if key not in self._views]
            asked = []
            for key in missing:
                camera, surface = pinhole_at(self.geometry.cameras, key), surfaces.at(key)
                asked.append((surfaces.optical(surface, key, camera), surface, camera, check))
            with ThreadPoolExecutor(KEYS_AT_A_TIME, thread_name_prefix="das views") as pool:
                self._views |= zip(missing, pool.map(lambda one: _view(*one), asked), strict=True)
            return [self._views[key] for key in keys]


def correspondences(
    geometry: GeometrySequence,
    key_indices: Sequence[int],
    *,
    frame_indices: Sequence[int] | None = None,
    background: bool = False,
    beside_only: bool = False,
    views: KeyViews | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[FrameCorrespondences]:
    """Every frame of ``geometry``, at the size of its cameras, compared with the key frames ``key_indices`` (0-based).

    ``frame_indices``: which frames, and in which order; None for all.  ``background``: follow the sky, too, as if it
    were infinitely far away; without, it has no place anywhere.  ``beside_only``: only the keys just before and after
    a frame are followed, the others where `FrameCorrespondences.follow` is asked to.  ``views``: of ``geometry``, to
    be shared.  ``should_stop()`` is asked many times per frame.

    Raises `SettingsError` for a frame that the shot does not have, `SceneError` when the arrays do not fit together,
    `JobCancelled` when ``should_stop`` says so.
    """
    check_geometry(geometry)
    keys, wanted = _checked(geometry, key_indices, frame_indices)

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The search for correspondences was cancelled.")

    return _frames(geometry, keys, wanted, background, beside_only, views or KeyViews(geometry), check)


def _checked(geometry, key_indices, frame_indices) -> tuple[tuple[int, ...], tuple[int, ...]]:
    count = geometry.num_frames
    keys = tuple(int(key) for key in key_indices)
    wanted = tuple(range(count)) if frame_indices is None else tuple(int(index) for index in frame_indices)
    if not keys:
        raise SettingsError("There is no key picture: name at least one of the shot's frames.")
    for name, indices in (("key picture", keys), ("frame", wanted)):
        for index in indices:
            if not 0 <= index < count:
                raise SettingsError(f"There is no frame {index} for a {name}: the shot has frames 0 to {count - 1}.")
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise SettingsError(f"Two key pictures are at frame {twice}: keep one of them.")
    return keys, wanted


def _frames(geometry, keys, wanted, background, beside_only, shared, check) -> Iterator[FrameCorrespondences]:
    surfaces = DrawnSurfaces(geometry)
    views, edges = zip(*shared.of(keys, surfaces, check), strict=True)
    edges = np.stack(edges)
    surface = key_points = None
    for index in wanted:
        if surfaces.at(index) is not surface:
            surface = surfaces.at(index)
            key_points = _key_points(surfaces, surface, keys, views)
        camera = pinhole_at(geometry.cameras, index)
        points = surfaces.optical(surface, index, camera)
        follower = _Follower(camera, points, surface.triangles, key_points, views, background)
        numbers = beside(index, keys) if beside_only else range(len(keys))
        yield _frame(index, keys, follower, numbers, surface, edges, check)


def beside(index: int, keys: Sequence[int]) -> tuple[int, ...]:
    """Which of ``keys`` come just before and just after the frame ``index``; that at it alone, where there is one."""
    before = max((key for key in keys if key <= index), default=None)
    after = min((key for key in keys if key >= index), default=None)
    return tuple(number for number, key in enumerate(keys) if key in (before, after))


def _key_points(surfaces: DrawnSurfaces, surface: Drawn, keys, views: list[FirstView]) -> np.ndarray:
    """[N,3·K] f64: where the points of ``surface`` are in the key frames, in the optical spaces of their cameras."""
    found = None
    for number, (key, view) in enumerate(zip(keys, views, strict=True)):
        points = surfaces.known(surface, key, view.camera)
        if found is None:
            found = np.empty((len(points), 3 * len(keys)))
        found[:, 3 * number : 3 * number + 3] = points
    return found


def _view(points, surface: Drawn, camera, check) -> tuple[FirstView, np.ndarray]:
    """What the key frame shows, prepared for questions about points, and its outlines [H,W] bool."""
    triangles = surface.triangles
    pixels, seen = seen_surfaces(points, triangles, camera, check, surface.cut)
    _, _, holes = surface.without_holes(pixels, seen)
    depth = interpolate_on_surface(pixels, seen, triangles, points, points, camera)[:, 2]
    # A picture has one colour for a pixel: what counts is what its centre shows.
    view = FirstView.of(pixels, depth, seen, triangles, points, camera, is_exact=False)
    shown = view.inverse_depth
    if len(holes):  # a hole in a face is at an outline, too
        shown = shown.copy()
        shown[holes] = 0.0
    return view, outlines(shown.reshape(camera.height, camera.width))


@dataclass(frozen=True)
class _Follower:
    """Finds where what the pixels of one frame see lies in the key pictures.

    ``points`` [N,3], ``key_points`` [N,3·K] f64: the corners of ``triangles`` in the optical spaces of ``camera`` and
    of the ``views``.
    """

    camera: Pinhole
    points: np.ndarray
    triangles: np.ndarray
    key_points: np.ndarray
    views: Sequence[FirstView]
    background: bool

    def follow(self, numbers: Sequence[int], pixels, seen, xy, visible, depth=None) -> None:
        """Enter the keys ``numbers`` into ``xy`` [K,H·W] c64 and ``visible`` [K,H·W] at flat ``pixels`` [P] that have
        ``seen`` [P] triangles, and how far away these are into ``depth`` [H·W].
        """
        columns = [self.key_points[:, 3 * number : 3 * number + 3] for number in numbers]
        attributes = np.concatenate([*columns, *(() if depth is None else (self.points[:, 2:],))], axis=1)
        # In pieces that stay in the processor's cache, for all key pictures while the triangles' weights are at hand.
        for start in range(0, len(pixels), _PIXELS_PER_PIECE):
            piece = pixels[start : start + _PIXELS_PER_PIECE]
            triangle = seen[start : start + _PIXELS_PER_PIECE]
            place = interpolate_on_surface(piece, triangle, self.triangles, self.points, attributes, self.camera)
            piece = _as_slice(piece)
            if depth is not None:
                depth[piece] = place[:, -1]
            for at, number in enumerate(numbers):
                there, view = place[:, 3 * at : 3 * at + 3], self.views[number]
                found = view.camera.project(there)
                xy[number, piece] = _as_complex(found)
                visible[number, piece] = view.shows(found, there[:, 2])

    def follow_sky(self, numbers: Sequence[int], pixels, xy, visible) -> None:
        """Enter where the directions of the ``pixels`` [P] without a surface lie in the key pictures."""
        for start in range(0, len(pixels), _PIXELS_PER_PIECE):
            piece = pixels[start : start + _PIXELS_PER_PIECE]
            for number in numbers:
                found = sky_places(piece, self.camera, self.views[number].camera)
                xy[number, piece] = _as_complex(found)
                visible[number, piece] = shows_sky(self.views[number], found)


def _as_slice(pixels: np.ndarray) -> np.ndarray | slice:
    """The increasing ``pixels`` [P], as a slice where none is left out: several times faster to write to."""
    first, last = int(pixels[0]), int(pixels[-1]) + 1
    return slice(first, last) if last - first == len(pixels) else pixels


def _as_complex(xy: np.ndarray) -> np.ndarray:
    """[P] c64, x + iy, of ``xy`` [P,2]: numpy moves it as one number."""
    found = np.empty(len(xy), np.complex64)
    found.real, found.imag = xy[:, 0], xy[:, 1]
    return found


def _frame(index, keys, follower: _Follower, numbers, drawn: Drawn, edges, check) -> FrameCorrespondences:
    camera = follower.camera
    nearest = seen_surfaces(follower.points, drawn.triangles, camera, check, drawn.cut)
    pixels, seen, holes = drawn.without_holes(*nearest)
    check()
    count, shape = camera.height * camera.width, (camera.height, camera.width)
    xy = np.zeros((len(keys), count, 2), dtype=np.float32)  # takes no memory before something is written
    xy[list(numbers)] = np.nan
    places = xy.view(np.complex64)[..., 0]
    visible = np.zeros((len(keys), count), dtype=bool)
    depth = np.full(count, np.inf, dtype=np.float32)
    follower.follow(numbers, pixels, seen, places, visible, depth)
    check()
    surface = np.full(count, NO_TRIANGLE, np.int32)
    surface[pixels], surface[holes] = seen, _HOLE
    if follower.background:
        follower.follow_sky(numbers, np.flatnonzero(surface == NO_TRIANGLE), places, visible)
    done, begun = set(numbers), set(numbers)

    def enter(number: int, wanted: np.ndarray) -> None:
        if number in done:
            return
        if number not in begun:
            xy[number] = np.nan
            begun.add(number)
        asked = np.flatnonzero(wanted)
        seen = surface.take(asked)
        there = np.flatnonzero(seen >= 0)
        follower.follow([number], asked[there], seen[there], places, visible)
        if follower.background:
            follower.follow_sky([number], asked[seen == NO_TRIANGLE], places, visible)

    return FrameCorrespondences(
        index,
        keys,
        xy.reshape(len(keys), *shape, 2),
        visible.reshape(len(keys), *shape),
        (surface >= 0).reshape(shape),
        depth.reshape(shape),
        edges,
        tuple(view.inverse_depth.reshape(shape) for view in follower.views),
        enter,
        (surface == _HOLE).reshape(shape) if len(holes) else None,
    )


def outlines(inverse_depth: np.ndarray) -> np.ndarray:
    """[H,W] bool: pixels beside which another surface begins; ``inverse_depth`` [H,W], 1/Blender units, 0 for none.

    1/depth is linear in the picture on a plane, however steep it is seen: what counts is its second difference.
    """
    found = np.zeros(inverse_depth.shape, dtype=bool)
    for axis in (0, 1):
        values, mark = np.moveaxis(inverse_depth, axis, 0), np.moveaxis(found, axis, 0)
        step = np.diff(values, axis=0)
        bend = np.abs(np.diff(step, axis=0))
        bent = bend > SAME_SURFACE_SHARE * np.maximum(np.maximum(values[:-2], values[1:-1]), values[2:])
        mark[1:-1] |= bent
        if len(values) == 2:
            mark |= (np.abs(step) > SAME_SURFACE_SHARE * values.max(axis=0))
        elif len(values) > 2:
            # The picture's border has one neighbour only: it goes with the pixel beside it where the step is there.
            mark[0] |= bent[0] & (np.abs(step[0]) > np.abs(step[1]))
            mark[-1] |= bent[-1] & (np.abs(step[-1]) > np.abs(step[-2]))
    return found
