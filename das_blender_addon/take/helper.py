# SPDX-License-Identifier: GPL-3.0-or-later
"""A helper process, seen from within: composes frames for the process that started it.  No Blender in here.

It reads requests, one after the other, and answers each with what comes of it and at last ``done`` or ``failed``;
meanwhile it may ask for what it needs.  It ends with its standard input: whoever started it may be killed.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import Any, BinaryIO

import numpy as np

from .detail import Detail
from .each_frame import Told
from .pipe import receive, send


def serve(said: BinaryIO, output: BinaryIO) -> None:
    """Serve until ``said`` ends or nobody reads ``output``; that is the end of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for whoever started this
    try:
        _Helper(said, output).serve()
    finally:  # nobody reads what it says: Python itself would crash, as a thread waits for what is said to it
        os._exit(1)


class _Helper:
    """One process' work."""

    def __init__(self, said: BinaryIO, output: BinaryIO):
        self._output = output
        self._requests: queue.Queue[tuple] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._writing, self._asking = threading.Lock(), threading.Lock()
        self._number = self._stopped = 0  # of requests: the one at hand, and the last one that is to stop
        self._detail: Detail | None = None
        threading.Thread(target=self._read, args=(said,), name="das helper", daemon=True).start()

    def _read(self, said: BinaryIO) -> None:
        while True:
            try:
                kind, *rest = receive(said)
            except Exception:  # its end, or what is no message: whatever is being composed is for nobody
                os._exit(0)
            if kind == "stop":
                self._stopped = rest[0]  # one that is over may be meant
            elif kind == "answer":
                self._answers.put(rest[0])
            else:
                self._requests.put((kind, *rest))

    def serve(self) -> None:
        work = {"begin": self._begin, "carried": self._carried, "hold": self._hold, "compose": self._compose}
        while True:
            kind, *rest = self._requests.get()
            self._number += 1
            try:
                result = work[kind](*rest)
            except Exception as error:  # the one that asked does the same again, and says what is wrong
                self._say("failed", f"{type(error).__name__}: {error}")
            else:
                self._say("done", result)

    def _should_stop(self) -> bool:
        return self._stopped == self._number

    def _say(self, *message: Any) -> None:
        with self._writing:
            send(self._output, message)

    def _ask(self, *question: Any) -> Any:
        with self._asking:
            self._say(*question)
            return self._answers.get()

    # ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, *parts: Any) -> str:
        """``parts``: of `Detail`.  Answers numpy's version, which decides the last bits."""
        self._detail = Detail(*parts, tell=self._light)
        return np.__version__

    def _light(self, places: tuple[int, ...]) -> Told | None:
        return self._ask("light", places)

    def _carried(self, indices: tuple[int, ...]) -> np.ndarray:
        return self._detail.carried_with_alpha(
            indices, progress=lambda _done, _of: self._say("made"), should_stop=self._should_stop
        )

    def _hold(self, indices: tuple[int, ...]) -> tuple[int, ...]:
        """Answers which of the ``indices`` are held now."""
        return self._detail.hold(indices, self._should_stop)

    def _compose(self, indices: tuple[int, ...], packed: bool, painted_share: float) -> None:
        self._detail.compose(
            indices,
            lambda index: self._ask("painted", index),
            lambda index, frame, covered: self._say("frame", index, frame, covered),
            packed=packed,
            painted_share=painted_share,
            should_stop=self._should_stop,
        )
