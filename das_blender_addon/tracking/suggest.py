# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frames of a shot should be key pictures: the fewest such that hardly anything is seen by none of them.

The shot is looked at small and, when it is long, not at every frame.  A few frames, evenly spread, are the candidates;
one after the other the one that helps most is taken (greedy set cover), until in every frame the share of the picture
that no key picture shows is as small as asked.  Where the candidates do not suffice, the worst frame itself becomes
one, so the end is always reached; at last every key picture that has become superfluous is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ..errors import JobCancelled, SettingsError
from .drawn import DrawnSurfaces
from .geometry import HOLE, SILHOUETTE, CameraPath, GeometrySequence
from .projection import Pinhole, pinhole_at
from .seen import check_geometry, seen_surfaces
from .sky import shows_sky, sky_places
from .surface import corner_weights, interpolate_on_surface
from .visibility import FirstView

#: Share of a picture that may be seen by no key picture, width of the pictures that are looked at, most frames and
#: candidates.
MOST_UNSEEN, WIDTH_PX, MOST_FRAMES, MOST_CANDIDATES = 0.05, 160, 49, 13
_POINTS_PER_PIECE = 1 << 15


@dataclass(frozen=True)
class Suggestion:
    """``key_indices``: frames of the shot, 0-based, increasing, the wanted ones among them.

    ``frame_indices`` [F]: the frames that were looked at; ``unseen_before``, ``unseen_after`` [F] f32: the share of
    each that no key picture shows, with the wanted ones alone and with all.
    """

    key_indices: tuple[int, ...]
    frame_indices: tuple[int, ...]
    unseen_before: np.ndarray
    unseen_after: np.ndarray


def suggest_key_frames(
    geometry: GeometrySequence,
    *,
    wanted: Sequence[int] = (0,),
    most_unseen: float = MOST_UNSEEN,
    most_keys: int | None = None,
    width: int = WIDTH_PX,
    most_frames: int = MOST_FRAMES,
    should_stop: Callable[[], bool] | None = None,
) -> Suggestion:
    """Find the fewest key frames of ``geometry``, whose cameras may have any picture size.

    ``wanted``: frames (0-based) that are key pictures already; the first frame always is one.  ``most_unseen``: the
    share of a picture, 0…1, that may be seen by none.  ``most_keys``: stop at so many.  ``width``: of the pictures that
    are looked at; ``most_frames``: of so many frames at most, and the wanted ones.  Raises `SettingsError` for values
    that make no sense, `SceneError` when the arrays do not fit together, `JobCancelled` when ``should_stop`` says so.
    """
    check_geometry(geometry)
    count = geometry.num_frames
    fixed = sorted({0, *(int(index) for index in wanted)})
    if not 0 <= fixed[0] <= fixed[-1] < count:
        wrong = fixed[-1] if fixed[0] >= 0 else fixed[0]
        raise SettingsError(f"There is no frame {wrong} for a key picture: the shot has frames 0 to {count - 1}.")
    if not 0.0 <= most_unseen <= 1.0:
        raise SettingsError(f"The share that may be unseen is {most_unseen} and must be between 0 and 1.")
    if most_keys is not None and most_keys < 1:
        raise SettingsError(f"The most key pictures are {most_keys} and must be at least 1.")

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The search for key pictures was cancelled.")

    frames = sorted({*np.linspace(0, count - 1, min(count, most_frames)).round().astype(int).tolist(), *fixed})
    shot = _Shot(replace(geometry, cameras=small_cameras(geometry.cameras, width)), frames, check)
    most_keys = len(frames) if most_keys is None else most_keys
    candidates = min(len(frames), MOST_CANDIDATES) if most_keys > len(fixed) else 0
    spread = np.linspace(0, len(frames) - 1, candidates).round().astype(int)
    asked = sorted({*(frames[place] for place in spread), *fixed})
    with ThreadPoolExecutor(shot.threads, thread_name_prefix="das suggest") as pool:
        seen = dict(zip(asked, pool.map(shot.seen_by, asked), strict=True))
    before = shot.unseen(np.logical_or.reduce([seen[index] for index in fixed]))
    keys = _choose(shot, seen, fixed, most_unseen, most_keys)
    after = shot.unseen(np.logical_or.reduce([seen[index] for index in keys]))
    return Suggestion(tuple(sorted(keys)), tuple(frames), before, after)


def small_cameras(cameras: CameraPath, width: int) -> CameraPath:
    """The same views ``width`` pixels wide, never larger than they are."""
    width = max(1, min(width, cameras.width))
    height = max(1, round(cameras.height * width / cameras.width))
    scale = np.array([width / cameras.width, height / cameras.height])
    return replace(
        cameras,
        focal_px=cameras.focal_px * scale,
        principal_px=cameras.principal_px * scale,
        width=width,
        height=height,
    )


def _choose(
    shot: _Shot, seen: dict[int, np.ndarray], fixed: list[int], most_unseen: float, most_keys: int
) -> list[int]:
    """The frames of key pictures, the ``fixed`` ones first; ``seen`` holds the candidates and grows with others."""
    keys = list(fixed)
    while len(keys) < most_keys:
        known = np.logical_or.reduce([seen[index] for index in keys])
        unseen = shot.unseen(known)
        if unseen.max() <= most_unseen:
            break
        worst = shot.frames[int(unseen.argmax())]

        def left(index: int, known=known) -> tuple[float, float]:
            share = shot.unseen(known | seen[index])
            return float(np.maximum(share - most_unseen, 0.0).sum()), float(share.sum())

        others = [index for index in seen if index not in keys]
        best = min(others, key=left, default=None)
        if best is None or left(best)[0] > 0.0 and worst not in seen:
            # The worst frame shows itself whole: try it, too, before something is taken that does not suffice.
            seen[worst] = shot.seen_by(worst)
            best = worst if best is None or left(worst) < left(best) else best
        keys.append(best)
    for index in sorted(set(keys) - set(fixed)):
        rest = [key for key in keys if key != index]
        if shot.unseen(np.logical_or.reduce([seen[key] for key in rest])).max() <= most_unseen:
            keys = rest
    return keys


class _Shot:
    """All frames' pixels, one after the other, as points on surfaces (or of the sky)."""

    def __init__(self, geometry: GeometrySequence, frames: list[int], check: Callable[[], None]):
        self.geometry, self.frames, self._check = geometry, frames, check
        self._surfaces = DrawnSurfaces(geometry)
        #: How many keys may be asked for at a time: numpy works on one core, surfaces that change know one frame.
        self.threads = 2 if geometry.changes is None else 1
        self._pixels, self._triangles, self._weights = [], [], []
        self._sky, self._unknown = [], []
        for index in frames:
            camera = pinhole_at(geometry.cameras, index)
            surface = self._surfaces.at(index)
            points = self._surfaces.optical(surface, index, camera)
            pixels, seen = seen_surfaces(points, surface.triangles, camera, check, surface.cut)
            self._pixels.append(pixels)
            self._triangles.append(surface.triangles[seen])
            unknown = None if surface.roles is None else np.isin(surface.roles[seen], (SILHOUETTE, HOLE))
            self._unknown.append(unknown)
            self._weights.append(corner_weights(pixels, seen, surface.triangles, points, camera))
            bare = np.ones(camera.width * camera.height, dtype=bool)
            bare[pixels] = False
            self._sky.append(np.flatnonzero(bare))
            check()
        sizes = [len(pixels) + len(sky) for pixels, sky in zip(self._pixels, self._sky, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._size = sizes[0]

    def seen_by(self, key: int) -> np.ndarray:
        """[F·H·W] bool, frame by frame: the key picture at frame ``key`` shows that point."""
        self._check()
        geometry, place = self.geometry, self.frames.index(key)
        camera = pinhole_at(geometry.cameras, key)
        surfaces, surface = self._surfaces, self._surfaces.at(key)
        points = surfaces.optical(surface, key, camera)
        pixels, triangles = self._pixels[place], self._triangles[place]
        own = np.arange(len(triangles))
        depth = interpolate_on_surface(pixels, own, triangles, points, points, camera)[:, 2]
        view = FirstView.of(pixels, depth, own, triangles, points, camera, is_exact=False)
        parts = []
        of_frames = zip(self.frames, self._triangles, self._weights, self._unknown, self._sky, strict=True)
        points = surfaces.known(surface, key, camera)
        for index, seen, weights, unknown, sky in of_frames:
            if surfaces.at(index) is not surface:
                surface = surfaces.at(index)
                points = surfaces.known(surface, key, camera)
            for start in range(0, len(seen), _POINTS_PER_PIECE):
                piece = slice(start, start + _POINTS_PER_PIECE)
                corners, there = seen[piece].T, 0.0
                for corner, weight in zip(corners, weights[:, piece], strict=True):
                    there = there + np.ascontiguousarray(points.take(corner, axis=0).T) * weight
                there = there.T
                shown = view.shows(camera.project(there), there[:, 2])
                parts.append(shown if unknown is None else shown | unknown[piece])  # no picture would show it
            parts.append(self._sky_shown(sky, pinhole_at(geometry.cameras, index), view))
        return np.concatenate(parts)

    @staticmethod
    def _sky_shown(sky: np.ndarray, camera: Pinhole, view: FirstView) -> np.ndarray:
        return shows_sky(view, sky_places(sky, camera, view.camera))

    def unseen(self, known: np.ndarray) -> np.ndarray:
        """[F] f32: the share of each frame that is not ``known`` [F·H·W] bool."""
        return (1.0 - np.add.reduceat(known.astype(np.int32), self._starts) / self._size).astype(np.float32)
