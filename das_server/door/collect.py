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
JOBS_AT_ONCE = 20
BLOBS_AT_ONCE = 100


class Collector:
    """Jobs that ended more than ``keep_s`` ago, and blobs that no job refers to and nobody used for so long.

    The disk is read and cleared beside the loop; the job list is asked in the loop, a few blobs at a time.  One that is
    asked for meanwhile is in use, and stays.
    """

    def __init__(self, store: JobStore, blobs: BlobStore, beside: Beside, *, keep_s: float):
        self._store, self._blobs, self._beside, self._keep_s = store, blobs, beside, keep_s
        self._begin_at_s = time.monotonic()
        self._forgetting = False
        self._old: list[str] = []
        self._unused: list[str] = []

    def step(self) -> None:
        """Go on a little, or begin when it is time; a disk that refuses is no reason to stop."""
        try:
            if self._forgetting:
                self._forget()
            elif self._old:
                self._sort_out()
            elif time.monotonic() >= self._begin_at_s:
                self._begin_at_s = time.monotonic() + COLLECT_EVERY_S
                self._forgetting = True
        except StorageError as error:
            _log.error("old jobs are not cleared away: %s", error.message)
            self._forgetting, self._old, self._unused = False, [], []

    def _forget(self) -> None:
        gone = self._store.forget_old(keep_s=self._keep_s, limit=JOBS_AT_ONCE)
        if gone:
            _log.info("forgot %s old jobs", len(gone))
        if len(gone) < JOBS_AT_ONCE:
            self._forgetting = False
            self._beside.do(lambda: self._blobs.old(older_than_s=self._keep_s), self._found)

    def _found(self, shas: list[str] | None, error: Exception | None) -> None:
        if error is not None:
            _log.error("old blobs are not cleared away: %s", error)
        self._old, self._unused = shas or [], []

    def _sort_out(self) -> None:
        some, self._old = self._old[:BLOBS_AT_ONCE], self._old[BLOBS_AT_ONCE:]
        self._unused += [sha for sha in some if not self._store.is_referenced(sha)]
        if not self._old and self._unused:
            unused, self._unused = self._unused, []
            self._store.disown_blobs(unused)
            self._beside.do(lambda: self._blobs.delete_old(unused, older_than_s=self._keep_s), self._deleted)

    def _deleted(self, count: int | None, error: Exception | None) -> None:
        if error is not None:
            _log.error("old blobs are not cleared away: %s", error)
        elif count:
            _log.info("forgot %s old blobs", count)
