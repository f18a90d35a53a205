# SPDX-License-Identifier: GPL-3.0-or-later
"""What the key pictures of a shot show of its frames: at the model's size, for the model to complete, and at the
render's size, completed by what the model has painted.  No Blender in here.  A frame is composed from the key pictures
around it (`keys_around`): a long shot costs no more per frame than a short one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import JobCancelled, SettingsError
from ..protocol.png import photographic_png
from ..shot.plan import ShotPlan
from ..tracking.fine_detail import over_model
from ..tracking.framing import seen_part
from ..tracking.geometry import GeometrySequence
from ..tracking.resampling import resize_lanczos
from .ahead_frames import AheadFrames, Shown
from .each_frame import Prepared, Told, each_shown

PAINTED_SHARE = 0.25
"""How much of a hole is painted by a model that completes a carried video; the rest continues the surroundings.

Against a share of 0, in the holes of five shots (`tests/bench/preview_eval.py --keys`): 0.25 brings +0.01 ± 0.02 dB
with one key picture, +0.04 ± 0.03 with two, +0.10 ± 0.05 with three; 0.5 brings −0.06, −0.01, +0.02; 1 brings −0.39,
−0.34, −0.57.  The shipped preview model was trained on what one first frame shows."""
BETWEEN_SCALE = 2
"""How many times larger than the model's frames those between them are composed.  At 1 they are softer than what the
model has made itself, which would be seen as a pulse: in an orbit they have 0.81 of its sharpness, at 2 all of it."""
FINISHED_AT_A_TIME = 2
"""Frames that were composed ahead and are finished at a time: filled and, by whoever takes them, packed."""


@dataclass(frozen=True)
class KeyPicture:
    """``index``: the frame of the shot, 0-based.  ``pixels`` [H,W,3 or 4] u8 of `ShotPlan.picture_size`, alpha 0 where
    nothing was painted.  ``png``: what it was read from.  ``origin``: of `FirstFrame`, "" where nobody said.
    """

    index: int
    pixels: np.ndarray
    png: bytes
    origin: str = ""


class Detail:
    """Composes the frames of one shot from its ``pictures``.

    ``geometry`` at ``plan.render_size``, which must be readable for as long as this is used.  ``tell``: see `Prepared`.
    """

    def __init__(
        self,
        geometry: GeometrySequence,
        plan: ShotPlan,
        pictures: Sequence[KeyPicture],
        *,
        tell: Callable[[tuple[int, ...]], Told | None] | None = None,
    ):
        if tuple(picture.index for picture in pictures) != plan.keys:
            raise SettingsError(
                f"There are key pictures at {[picture.index for picture in pictures]} and the plan has them at "
                f"{list(plan.keys)}: give one picture for each."
            )
        self._geometry, self.plan, self.pictures = geometry, plan, tuple(pictures)
        self._ahead, self._tell = AheadFrames(), tell
        self._finished_at_a_time = FINISHED_AT_A_TIME
        self._prepared: Prepared | None = None

    def carried(
        self,
        indices: Sequence[int],
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> np.ndarray:
        """[T,H,W,3] u8: the colours of `carried_with_alpha`."""
        made = self.carried_with_alpha(indices, progress=progress, should_stop=should_stop)
        return np.ascontiguousarray(made[..., :3])

    def carried_with_alpha(
        self,
        indices: Sequence[int],
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> np.ndarray:
        """[T,H,W,4] u8 at the model's size: the frames ``indices`` (0-based) as far as the key pictures tell, the rest
        filled from what is around it, with alpha 0.

        A frame that comes several times is made once.  Raises `JobCancelled`.
        """
        width, height = self.plan.model_size
        cameras = self.plan.framing.overscan(self._geometry.cameras)
        seen = Prepared(replace(self._geometry, cameras=cameras), lit_as=self._at_render_size())
        pictures = {picture.index: for_model(picture.pixels, self.plan) for picture in self.pictures}
        wanted = sorted(set(indices))
        made = np.empty((len(wanted), height, width, 4), np.uint8)
        done = Counter(len(wanted), progress)
        shown = each_shown(seen, self.plan.keys, pictures.__getitem__, wanted, _with_alpha, should_stop)
        for place, picture in enumerate(shown):
            made[place] = picture
            done.count()
        where = {index: place for place, index in enumerate(wanted)}
        return made[[where[index] for index in indices]]

    def between(
        self,
        made: Callable[[int], np.ndarray],
        take: Callable[[int, np.ndarray], None],
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """Call ``take(index, frame)`` with each frame [H,W,3] u8 at the model's size that the model does not make.

        It is composed from the two of ``made(index)`` [H,W,3] u8 around it; what neither shows continues what is around
        that.  ``take`` is called from several threads.  Raises `JobCancelled`.
        """
        plan, (width, height) = self.plan, self.plan.model_size
        fine = replace(
            plan.framing,
            model_size=(BETWEEN_SCALE * width, BETWEEN_SCALE * height),
            crop=tuple(BETWEEN_SCALE * side for side in plan.framing.crop),
        )
        seen = Prepared(replace(self._geometry, cameras=fine.overscan(self._geometry.cameras)))

        def enlarged(index: int) -> np.ndarray:
            return resize_lanczos(made(index), (0, 0, width, height), fine.model_size)

        def finish(shown: Shown) -> None:
            picture = shown.gathered.filled().picture
            take(shown.index, resize_lanczos(picture, (0, 0, *fine.model_size), (width, height)))

        done = Counter(len(plan.between), progress)
        for _ in each_shown(seen, plan.made, enlarged, plan.between, finish, should_stop, neighbours=1):
            done.count()

    def carry_one(self, index: int, *, should_stop: Callable[[], bool] | None = None) -> np.ndarray:
        """[H,W,4] u8 of ``plan.picture_size``: the frame ``index`` as far as the key pictures tell, with alpha 0 where
        they do not.

        Raises `JobCancelled`.
        """
        return next(self._shown([index], _with_alpha, should_stop))

    def compose_ahead(
        self,
        indices: Sequence[int],
        should_stop: Callable[[], bool],
        show: Callable[[np.ndarray], None] = lambda _frame: None,
        pause: Callable[[], Any] = lambda: None,
    ) -> None:
        """Compose as many of the frames ``indices`` as there is room for, for `compose`; returns when ``should_stop``
        says so, or at the end.  A key picture that is painted everywhere needs none.  ``show`` is given the first one
        that is no key picture [H,W,3] u8, at the render's size, as soon as it is there; then no more are begun until
        ``pause`` returns.
        """
        width, height = self.plan.picture_size
        whole = {picture.index for picture in self.pictures if picture.pixels.shape[2] == 3}
        wanted = [index for index in indices if index not in self._ahead and index not in whole]
        wanted = wanted[: self._ahead.room(width * height) * self._processes()]
        left, top, right, bottom = (int(side) for side in self.plan.pictures.crop)
        with suppress(JobCancelled):
            # Alone: others beside it would take the processor from it.
            alone = [index for index in wanted if index not in self.plan.keys][:1]
            for shown in self._shown(alone, self._ahead.keep, should_stop):
                show(np.ascontiguousarray(shown.gathered.filled().picture[top:bottom, left:right]))
                pause()
        self.hold([index for index in wanted if index not in self._ahead], should_stop)

    def hold(self, indices: Sequence[int], should_stop: Callable[[], bool]) -> tuple[int, ...]:
        """Compose those of the frames ``indices`` for `compose` that there is room for, until ``should_stop`` says so;
        returns which of them are held.
        """
        width, height = self.plan.picture_size
        indices = indices[: self._ahead.room(width * height)]
        with suppress(JobCancelled):  # each is kept at once: whoever stops this loses none that is made
            for _ in self._shown(indices, self._ahead.keep, should_stop):
                pass
        return tuple(index for index in indices if index in self._ahead)

    def compose(
        self,
        indices: Sequence[int],
        painted: Callable[[int], np.ndarray],
        take: Callable[[int, np.ndarray | bytes, np.ndarray], None],
        *,
        packed: bool = False,
        painted_share: float = PAINTED_SHARE,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """Call ``take(index, frame, covered)`` with each of the frames ``indices`` at the render's size: [H,W,3] u8,
        and [H,W] bool where it sees a surface.

        ``painted(index)`` [H,W,3] u8 at the model's size: what the model has made of it.  Both are called from several
        threads, for each frame once.  ``packed``: ``take`` gets the frame as a PNG.
        ``painted_share``: of a hole, with a model that completes a carried video
        and is not told of holes.
        Raises `JobCancelled`.
        """
        plan = self.plan
        box = seen_part(plan.pictures, plan.framing)
        left, top, right, bottom = (int(side) for side in plan.pictures.crop)
        share = painted_share if plan.reads_carried and not plan.reads_holes else 1.0
        done = Counter(len(indices), progress)

        pixel = plan.picture_size[0] / (box[2] - box[0])

        def finish(shown: Shown) -> None:
            gathered, painting = shown.gathered, None
            if plan.fine_only or not gathered.settled.all():
                painting = enlarge(painted(shown.index), box, plan.picture_size)
            if plan.fine_only:
                whole = over_model(gathered.filled(), gathered.inverse_depth, painting, pixel)
                if gathered.hole is not None:
                    whole[gathered.hole] = 0
            else:
                whole = gathered.filled(painting, share).picture
            seen = gathered.inverse_depth > 0.0
            whole, seen = (np.ascontiguousarray(part[top:bottom, left:right]) for part in (whole, seen))
            take(shown.index, photographic_png(whole) if packed else whole, seen)

        held = [index for index in indices if index in self._ahead]
        with ThreadPoolExecutor(self._finished_at_a_time, thread_name_prefix="das compose") as pool:
            for _ in pool.map(_unless(should_stop, lambda index: finish(self._ahead.pop(index))), held):
                done.count()
        rest = set(indices) - set(held)
        for _ in self._shown([index for index in indices if index in rest], finish, should_stop):
            done.count()

    def _processes(self) -> int:
        """How many compose ahead, each in memory of its own."""
        return 1

    def _shown(
        self, indices: Sequence[int], finish: Callable[[Shown], Any], should_stop: Callable[[], bool] | None
    ) -> Iterator[Any]:
        """What ``finish`` makes of what the key pictures show of each of the frames ``indices``, at their size."""
        prepared = self._at_render_size()
        return each_shown(prepared, self.plan.keys, prepared.originals.__getitem__, indices, finish, should_stop)

    def _at_render_size(self) -> Prepared:
        if self._prepared is None:
            cameras = self.plan.pictures.overscan(self._geometry.cameras)
            originals = {picture.index: picture.pixels for picture in self.pictures}
            self._prepared = Prepared(replace(self._geometry, cameras=cameras), originals, tell=self._tell)
        return self._prepared


def _with_alpha(shown: Shown) -> np.ndarray:
    """[H,W,4] u8, alpha 0 where no key picture shows what the pixel sees."""
    composed = shown.gathered.filled()
    alpha = np.where(composed.known, np.uint8(255), np.uint8(0))
    return np.concatenate([composed.picture, alpha[..., None]], axis=2)


def _unless(should_stop: Callable[[], bool] | None, work: Callable[[int], Any]) -> Callable[[int], Any]:
    def run(index: int) -> Any:
        if should_stop is not None and should_stop():
            raise JobCancelled("The take was cancelled.")
        return work(index)

    return run


def for_model(pixels: np.ndarray, plan: ShotPlan) -> np.ndarray:
    """[H,W,3 or 4] u8: the key picture ``pixels`` as the model sees it, at its size."""
    if plan.pictures == plan.framing:
        return pixels
    return shrink(pixels, seen_part(plan.framing, plan.pictures), plan.model_size)


def shrink(
    pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """``box`` of ``pixels`` [H,W,3 or 4] u8 at ``size`` (width, height); what alpha says was not painted counts for
    nothing beside what was, and keeps its colours elsewhere.
    """
    if pixels.shape[2] == 3:
        return resize_lanczos(pixels, box, size)
    alpha = pixels[..., 3:].astype(np.uint16)
    covered = ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)
    small = resize_lanczos(np.concatenate([covered, pixels[..., 3:]], axis=2), box, size)
    opacity = np.maximum(small[..., 3:], 1).astype(np.float32) / 255.0
    rgb = np.rint(np.clip(small[..., :3] / opacity, 0.0, 255.0)).astype(np.uint8)
    unpainted = small[..., 3] == 0
    if unpainted.any():
        rgb[unpainted] = resize_lanczos(np.ascontiguousarray(pixels[..., :3]), box, size)[unpainted]
    return np.concatenate([rgb, small[..., 3:]], axis=2)


def enlarge(pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """``box`` of ``pixels`` [H,W,3] u8 at ``size``; a fraction of a pixel beyond the border repeats it."""
    height, width = pixels.shape[:2]
    beyond = max(0.0, -box[0], -box[1], box[2] - width, box[3] - height)
    if beyond > 0.0:
        pad = int(np.ceil(beyond))
        pixels = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        box = tuple(side + pad for side in box)
    return resize_lanczos(pixels, box, size)


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Counter:
    """Tells ``progress`` how much of ``total`` is done; of several threads one at a time."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None):
        self._done, self._total, self._progress, self._lock = 0, total, progress, threading.Lock()
        self._again = 0

    def again(self, count: int) -> None:
        """So many that were counted are done once more."""
        with self._lock:
            self._again += count

    def count(self, *_of: int) -> None:
        """One more is done."""
        with self._lock:
            if self._again:
                self._again -= 1
                return
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
