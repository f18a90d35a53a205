# SPDX-License-Identifier: GPL-3.0-or-later
"""Forgetting what nobody needs any more, in steps so small that no request waits for them."""

from __future__ import annotations

import logging
import time

from das_blender_addon.errors import StorageError
from das_server.door.beside import Beside
from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobStore

_log = logging.getLogger(__name__)

COLLECT_EVERY_S = 600.0
"""Pause before it begins anew."""

LOOK_AGAIN_S = 30.0
"""The same while there are more blobs than may be kept."""

IN_USE_S = 3600.0
"""A blob that was used so recently may be that of a job that is just being asked for."""

JOBS_AT_ONCE = 20
BLOBS_AT_ONCE = 100


class Collector:
    """Jobs that were over more than ``keep_s`` ago, but for results that somebody still wants (``keep_unfetched_s``, 0:
    they stay), and blobs that no job refers to and nobody used for so long; or sooner, those that were used longest ago
    first, where there are more than ``max_kept_bytes`` (0: any number).

    The disk is read and cleared beside the loop; the job list is asked in the loop, a few blobs at a time.  One that is
    asked for meanwhile is in use, and stays.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        beside: Beside,
        *,
        keep_s: float,
        keep_unfetched_s: float = 0.0,
        max_kept_bytes: int = 0,
    ):
        self._store, self._blobs, self._beside, self._keep_s = store, blobs, beside, keep_s
        self._keep_unfetched_s, self._max_kept_bytes = keep_unfetched_s, max_kept_bytes
        self._begin_at_s = time.monotonic()
        self._forgetting = False
        self._before_s = float("-inf")
        self._old: list[str] = []
        self._unused: list[str] = []
        self._heavy: list[tuple[float, str, int]] = []
        self._excess_bytes = 0
        self.kept_bytes = 0
        """Of all blobs, when they were counted last."""

    def step(self) -> None:
        """Go on a little, or begin when it is time; a disk that refuses is no reason to stop."""
        try:
            if self._forgetting:
                self._forget()
            elif self._old:
                self._sort_out()
            elif self._heavy:
                self._lighten()
            elif time.monotonic() >= self._begin_at_s:
                self._begin_at_s = time.monotonic() + COLLECT_EVERY_S
                self._forgetting = True
        except StorageError as error:
            _log.error("old jobs are not cleared away: %s", error.message)
            self._forgetting, self._old, self._unused, self._heavy = False, [], [], []

    def _forget(self) -> None:
        times = {"keep_s": self._keep_s, "keep_unfetched_s": self._keep_unfetched_s}
        gone = self._store.forget_old(**times, limit=JOBS_AT_ONCE)
        if gone:
            _log.info("forgot %s old jobs", len(gone))
        if len(gone) < JOBS_AT_ONCE:
            self._forgetting = False
            self._before_s = before_s = self._store.unix_time_before(self._keep_s)
            self._beside.do(lambda: self._blobs.old(before_s), self._found)

    def _found(self, shas: list[str] | None, error: Exception | None) -> None:
        if error is not None:
            _log.error("old blobs are not cleared away: %s", error)
        self._old, self._unused = shas or [], []
        if not self._old:
            self._weigh()

    def _sort_out(self) -> None:
        some, self._old = self._old[:BLOBS_AT_ONCE], self._old[BLOBS_AT_ONCE:]
        self._unused += [sha for sha in some if not self._store.is_referenced(sha)]
        if not self._old:
            unused, self._unused = self._unused, []
            self._delete(unused, self._before_s)
            self._weigh()

    def _delete(self, unused: list[str], before_s: float) -> None:
        if unused:
            self._store.disown_blobs(unused)
            self._beside.do(lambda: self._blobs.delete_old(unused, before_s), self._deleted)

    def _deleted(self, count: int | None, error: Exception | None) -> None:
        if error is not None:
            _log.error("old blobs are not cleared away: %s", error)
        elif count:
            _log.info("forgot %s old blobs", count)

    # ── By size ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _weigh(self) -> None:
        self._beside.do(self._blobs.kept, self._weighed)

    def _weighed(self, kept: list[tuple[float, str, int]] | None, error: Exception | None) -> None:
        if error is not None:
            _log.error("the blobs cannot be counted: %s", error)
            return
        self.kept_bytes = sum(size for *_, size in kept)
        self._excess_bytes = self.kept_bytes - self._max_kept_bytes if self._max_kept_bytes else 0
        before_s = time.time() - IN_USE_S
        self._heavy = [one for one in kept if one[0] < before_s] if self._excess_bytes > 0 else []
        if not self._heavy:
            self._note_excess()

    def _lighten(self) -> None:
        some, self._heavy = self._heavy[:BLOBS_AT_ONCE], self._heavy[BLOBS_AT_ONCE:]
        unused = []
        for _, sha, size_bytes in some:
            if self._excess_bytes > 0 and not self._store.is_referenced(sha):
                unused.append(sha)
                self._excess_bytes -= size_bytes
        self._delete(unused, time.time() - IN_USE_S)
        if not self._heavy or self._excess_bytes <= 0:
            self._heavy = []
            self._note_excess()

    def _note_excess(self) -> None:
        """Where more is needed than may be kept, no upload is taken before that has changed; it is soon looked at."""
        was_full, self._blobs.full = self._blobs.full, ""
        if self._excess_bytes <= 0:
            return
        self._begin_at_s = min(self._begin_at_s, time.monotonic() + LOOK_AGAIN_S)
        self._blobs.full = (
            f"The server keeps {self._excess_bytes + self._max_kept_bytes >> 20} MiB that jobs and results need, more "
            f"than its limit of {self._max_kept_bytes >> 20} MiB: fetch or cancel what is there, or raise its "
            "max_kept_bytes."
        )
        if not was_full:
            _log.warning("%s", self._blobs.full)
