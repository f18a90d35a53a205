# SPDX-License-Identifier: GPL-3.0-or-later
"""The frames of a shot composed by this process and its helpers, each its share.  No Blender in here.

Whatever a helper does not do is done here; whoever asks sees no difference but the time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import JobCancelled
from ..shot.plan import ShotPlan
from ..tracking.geometry import GeometrySequence
from .detail import FINISHED_AT_A_TIME, PAINTED_SHARE, Counter, Detail, KeyPicture
from .helpers import Helper, HelperLost, helpers_for

LOGGER = logging.getLogger(__name__)

_Asked = Callable[[], bool]
FEWEST_FRAMES = 24
"""Shots that are shorter are composed before a helper has begun."""


class SharedDetail(Detail):
    """A `Detail` that has helpers while it is `helped`."""

    def __init__(self, geometry: GeometrySequence, plan: ShotPlan, pictures: Sequence[KeyPicture]):
        super().__init__(geometry, plan, pictures)
        self._parts = geometry, plan, tuple(replace(picture, png=b"") for picture in pictures)
        self._helpers: list[Helper] = []
        self._held_by: dict[Helper, set[int]] = {}

    @contextmanager
    def helped(self) -> Iterator[None]:
        """Have helpers, where the shot is long enough for them and the machine has room."""
        width, height = self.plan.picture_size
        needs = self.plan.keeps_detail and len(self.plan.frames) >= FEWEST_FRAMES
        size = width * height, self._geometry.vertices, sum(picture.pixels.nbytes for picture in self.pictures)
        if needs:
            self._at_render_size()  # before several threads ask for it
        try:
            for _ in range(helpers_for(*size) if needs else 0):
                helper = Helper(*self._parts)
                try:
                    helper.start()
                except HelperLost as lost:
                    self._say(lost)
                    break
                self._helpers.append(helper)
            yield
        finally:
            for helper in self._helpers:
                helper.close()
            self._helpers, self._held_by = [], {}

    def carried_with_alpha(
        self,
        indices: Sequence[int],
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> np.ndarray:
        """As `Detail.carried_with_alpha`."""
        wanted, helpers = sorted(set(indices)), self._free()
        if not helpers or len(wanted) < FEWEST_FRAMES:
            return super().carried_with_alpha(indices, progress=progress, should_stop=should_stop)
        done, lost = Counter(len(wanted), progress), []
        shares = {helper: wanted[number :: len(helpers) + 1] for number, helper in enumerate(helpers, 1)}
        own = wanted[:: len(helpers) + 1]

        def carry(some: list[int], stop: Callable[[], bool] | None) -> dict[int, np.ndarray]:
            made = super(SharedDetail, self).carried_with_alpha(some, progress=done.count, should_stop=stop)
            return dict(zip(some, made, strict=True))

        def of_helper(helper: Helper, stop: _Asked, given_up: _Asked) -> dict[int, np.ndarray]:
            some, counted = shares[helper], []

            def count() -> None:
                counted.append(1)
                done.count()

            try:
                made = helper.call(
                    "carried", tuple(some), answer=self._answering(stop), on_said=count, should_stop=stop,
                    given_up=given_up,
                )  # fmt: skip
            except HelperLost as error:
                self._say(error)
                done.again(len(counted))
                lost.extend(some)
                return {}
            return dict(zip(some, made, strict=True))

        made, parts = self._with_helpers(helpers, of_helper, lambda stop: carry(own, stop), should_stop)
        for part in parts:
            made |= part
        if lost:
            made |= carry(sorted(lost), should_stop)
        return np.stack([made[index] for index in indices])

    def hold(self, indices: Sequence[int], should_stop: Callable[[], bool]) -> tuple[int, ...]:
        """As `Detail.hold`; each helper holds its share."""
        placed = set().union(*self._held_by.values())
        indices = [index for index in indices if index not in placed]
        helpers = self._free() if len(indices) > 1 else []
        if not helpers:
            return super().hold(indices, should_stop)

        def of_helper(helper: Helper, stop: _Asked, given_up: _Asked) -> tuple[int, ...]:
            some = tuple(indices[1 + helpers.index(helper) :: len(helpers) + 1])
            answer = self._answering(lambda: False)  # one that is stopped here goes on with something else
            try:
                held = helper.call(
                    "hold", some, answer=answer, should_stop=stop, stops_itself=True, given_up=given_up
                )  # fmt: skip
            except HelperLost as error:
                self._say(error)
                return ()
            self._held_by.setdefault(helper, set()).update(held)
            return held

        own = indices[:: len(helpers) + 1]
        held, others = self._with_helpers(
            helpers, of_helper, lambda stop: super(SharedDetail, self).hold(own, stop), should_stop
        )
        return sum(others, held)

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
        """As `Detail.compose`."""
        helpers, done = self._free(), Counter(len(indices), progress)
        left, lock = set(indices), threading.Lock()

        def finish(index: int, frame: Any, covered: np.ndarray) -> None:
            take(index, frame, covered)
            with lock:
                left.discard(index)
            done.count()

        def here(some: Sequence[int], stop: Callable[[], bool] | None) -> None:
            super(SharedDetail, self).compose(
                some, painted, finish, packed=packed, painted_share=painted_share, should_stop=stop
            )

        own, shares = self._shares(indices, helpers)
        self._finished_at_a_time = 1 if helpers else FINISHED_AT_A_TIME

        def of_helper(helper: Helper, stop: _Asked, given_up: _Asked) -> None:
            asked, answer = ("compose", tuple(shares[helper]), packed, painted_share), self._answering(stop, painted)
            try:
                helper.call(*asked, answer=answer, on_said=finish, should_stop=stop, given_up=given_up)
            except HelperLost as error:
                self._say(error)

        self._with_helpers(helpers, of_helper, lambda stop: here(own, stop), should_stop)
        if left:
            here(sorted(left), should_stop)

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _processes(self) -> int:
        return 1 + len(self._free())

    def _free(self) -> list[Helper]:
        return [helper for helper in self._helpers if not helper.is_busy]

    def _shares(self, indices: Sequence[int], helpers: list[Helper]) -> tuple[list[int], dict[Helper, list[int]]]:
        """Which of ``indices`` are composed here and by each of the ``helpers``: where they are held, and of the others
        as many as makes all alike.
        """
        held = {helper: self._held_by.pop(helper, set()) for helper in helpers}
        own = [index for index in indices if index in self._ahead]
        shares = {helper: [one for one in indices if one in held[helper] and one not in own] for helper in helpers}
        placed = set(own).union(*held.values())
        for index in indices:
            if index not in placed:
                min((own, *shares.values()), key=len).append(index)
        return sorted(own), {helper: sorted(share) for helper, share in shares.items()}

    def _with_helpers(
        self,
        helpers: list[Helper],
        of_helper: Callable[[Helper, _Asked, _Asked], Any],
        here: Callable[[_Asked], Any],
        should_stop: _Asked | None,
    ) -> tuple[Any, list[Any]]:
        """What ``here`` gives, and what ``of_helper`` does for each of ``helpers`` beside it; when one fails, all stop.
        Both are given what says so, ``of_helper`` also whether ``here`` is done: who is not there by then is late.
        """
        failed, is_done = threading.Event(), threading.Event()

        def stop() -> bool:
            return failed.is_set() or (should_stop is not None and should_stop())

        def run(work: Callable[..., Any], *given: Any) -> Any:
            try:
                return work(*given)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(max(1, len(helpers)), thread_name_prefix="das helped") as pool:
            futures: list[Future] = [pool.submit(run, of_helper, helper, stop, is_done.is_set) for helper in helpers]
            own: Future = Future()
            try:
                own.set_result(run(here, stop))
            except JobCancelled as error:  # perhaps as a helper's frame could not be taken, which says more
                own.set_exception(error)
            finally:
                is_done.set()
        errors = [error for future in (own, *futures) if (error := future.exception()) is not None]
        if errors:
            raise next((error for error in errors if not isinstance(error, JobCancelled)), errors[0])
        return own.result(), [future.result() for future in futures]

    def _answering(self, stop: _Asked, painted: Callable[[int], np.ndarray] | None = None) -> Callable[..., Any]:
        """What a helper that asks is answered."""

        def answer(kind: str, *asked: Any) -> Any:
            if kind == "painted" and painted is not None:
                return painted(*asked)
            if kind != "light":
                raise HelperLost(f"it asks for {kind!r}")
            light = self._at_render_size().light(*asked, stop)
            return None if light is None else light.told

        return answer

    def _say(self, lost: HelperLost) -> None:
        LOGGER.info("A helper process does not help: %s.  Its frames are composed here.", lost)
