# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames one after the other: the next one's correspondences are searched for while the last one is composed.  No
Blender in here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np

from ..errors import JobCancelled
from ..tracking.composition import NEIGHBOURS, Composer, PreparedPictures, keys_around
from ..tracking.correspondences import FrameCorrespondences, KeyViews, correspondences
from ..tracking.geometry import GeometrySequence
from ..tracking.light import Casters, Light
from ..tracking.relighting import Relighting, relighting
from .ahead_frames import Shown
from .freed_memory import KeptMemory

SMALL_STEP = 4
"""Every how many pixels of the model's size light is measured: the model paints over it."""
THREADS = 1
"""Frames that are composed at a time, beside the one that is searched for.  Of numpy's many short steps two threads do
not get two cores: 49 frames of the demo take 9.3 s with 2 (14.5 s of processor time) and 8.9 s with 1 (11.3 s); see
`helpers` for what does."""
LIGHTS_KEPT = 4
"""Groups of key pictures whose light is remembered."""

Told = tuple[Casters, Light, float]
"""What a `Relighting` is made of, besides geometry and keys."""


class Prepared:
    """``geometry`` at one size, and of the key pictures around the frame at hand all that is found out once.

    ``originals``: the key pictures that light is told from, by their frames; ``lit_as``: what has told it already.
    ``tell``: asked instead of telling it, for the frames of key pictures; None where these tell none.
    """

    def __init__(
        self,
        geometry: GeometrySequence,
        originals: Mapping[int, np.ndarray] | None = None,
        lit_as: Prepared | None = None,
        tell: Callable[[tuple[int, ...]], Told | None] | None = None,
    ):
        self.geometry, self.views, self.pictures = geometry, KeyViews(geometry), PreparedPictures()
        self.originals, self._lit_as, self._tell = originals, lit_as, tell
        self._lit: dict[tuple[int, ...], Relighting | None] = {}
        self._lock = threading.Lock()

    def light(self, places: Sequence[int], stop: Callable[[], bool]) -> Relighting | None:
        """Told from the key pictures at the frames ``places``, see `relighting`; None where nobody knows these."""
        if self._lit_as is not None:
            told = self._lit_as.light(places, stop)
            return None if told is None else told.seen_by(self.geometry, SMALL_STEP)
        if self.originals is None:
            return None
        with self._lock:  # two sizes, and other processes, ask at a time
            asked = tuple(places)
            if asked not in self._lit:
                while len(self._lit) >= LIGHTS_KEPT:
                    self._lit.pop(next(iter(self._lit)))
                self._lit[asked] = self._told(asked, stop)
            return self._lit[asked]

    def _told(self, places: tuple[int, ...], stop: Callable[[], bool]) -> Relighting | None:
        if self._tell is None:
            return relighting(self.geometry, places, [self.originals[key] for key in places], stop)
        told = self._tell(places)
        return None if told is None else Relighting(self.geometry, places, *told)


def each_shown(
    prepared: Prepared,
    keys: Sequence[int],
    picture_of: Callable[[int], np.ndarray],
    indices: Sequence[int],
    finish: Callable[[Shown], Any],
    should_stop: Callable[[], bool] | None,
    neighbours: int = NEIGHBOURS,
) -> Iterator[Any]:
    """What ``finish`` gives for each of ``indices``, in their order; it runs in another thread.  ``picture_of(key)`` is
    asked when the first frame beside that key is at hand.
    """
    stopped = threading.Event()

    def stop() -> bool:
        return stopped.is_set() or (should_stop is not None and should_stop())

    def work(frame: FrameCorrespondences, composer: Composer, light: Future, whole: set[int]) -> Any:
        if stop():
            raise JobCancelled("The take was cancelled.")
        lit = None
        if frame.index not in whole:
            composer.prepare(frame)
            told = light.result()
            lit = None if told is None else told.at(frame)
        return finish(Shown(frame.index, composer.gather(frame, lit)))

    waiting: list[Future] = []
    with (
        KeptMemory() as memory,
        ThreadPoolExecutor(THREADS, thread_name_prefix="das compose") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="das light") as teller,
    ):
        try:
            for around, group in groupby(indices, lambda index: keys_around(keys, index, neighbours)):
                pictures = [picture_of(keys[number]) for number in around]
                places = [keys[number] for number in around]
                whole = {key for key, picture in zip(places, pictures, strict=True) if picture.shape[2] == 3}
                composer = Composer(pictures, prepared=prepared.pictures)
                light = teller.submit(prepared.light, places, stop)  # while the key pictures are looked at
                frames = correspondences(
                    prepared.geometry,
                    places,
                    frame_indices=list(group),
                    background=True,
                    beside_only=True,
                    views=prepared.views,
                    should_stop=stop,
                )
                for frame in frames:  # the next one is searched for while the last one is composed
                    memory.used_for(frame.coverage.size)
                    waiting.append(pool.submit(work, frame, composer, light, whole))
                    if len(waiting) > THREADS:
                        yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            stopped.set()
