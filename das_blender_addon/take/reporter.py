# SPDX-License-Identifier: GPL-3.0-or-later
"""What a recipe says of its progress: the one translation of events into lines and a fraction of the whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from ..client.take import JobEvent, Log, Preview, Progress, Silence
from .drive import Status

LOGGER = logging.getLogger(__name__)
SPANS = {
    "exporting": (0.02, 0.10),
    "key pictures": (0.10, 0.11),
    "tracking": (0.11, 0.18),
    "first frame": (0.18, 0.30),
}
"""Station → its part of a take's progress."""
JOB_SPAN = (0.30, 1.00)
"""The part of all that the server's stages make up."""
MEASURED_JOB_SPAN = (0.30, 0.90)
MEASURED_SPANS = {**SPANS, "measuring": (0.90, 1.00)}
"""Of a take that is measured afterwards."""

OnEvent = Callable[[JobEvent], None]


def counting(stage: str, say: OnEvent) -> Callable[[int, int], None]:
    """A ``progress(done, of)`` that says `Progress` of ``stage``."""
    return lambda done, of: say(Progress(stage, done, of, done / of if of else 1.0))


def about(seconds: float) -> str:
    """A duration in words, as roughly as it is known."""
    if seconds < 50:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {seconds / 3600:.1f} h"


class Clock:
    """Seconds per station."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, station: str) -> None:
        """``station`` is over and the next one begins."""
        now = time.perf_counter()
        self.seconds[station], self._since = now - self._since, now


class Reporter:
    """Events of the stations and of the running job (`client.take`) → `Status` for who drives the recipe, and the same
    events, with the fraction of the whole take, for ``on_event``.  Log lines also go to the log.
    """

    WORDS = {
        "exporting": "Exporting frame",
        "tracking": "Tracking video",
        "rendering": "Rendering frame",
        "encoding video": "Encoding video",
        "first frame": "First frame",
        "carrying": "Carrying key pictures",
        "uploading": "Sending",
        "queued": "Waiting in the queue",
        "loading": "Loading the model",
        "encoding": "Encoding",
        "denoising": "Denoising",
        "decoding": "Decoding",
        "composing": "Composing",
        "saving": "Saving",
        "downloading": "Receiving frames",
        "measuring": "Measuring",
    }

    def __init__(
        self,
        on_event: OnEvent | None = None,
        spans: dict[str, tuple[float, float]] = SPANS,
        job_span: tuple[float, float] = JOB_SPAN,
    ):
        self._on_event, self._spans, self._job_span = on_event, spans, job_span
        self._last = Status("queued", "Sending the job", job_span[0])

    def __call__(self, event: JobEvent, words: str = "") -> Status | None:
        """The status of ``event``, None for one that has none.  ``words``: its line, where there is a better one."""
        if isinstance(event, Progress):
            low, high = self._spans.get(event.stage, self._job_span)
            event = replace(event, fraction=low + (high - low) * event.fraction)
            self._last = Status(event.stage, words or self._words(event), event.fraction)
        if isinstance(event, Log):
            LOGGER.info("%s", event.text)
        if self._on_event is not None:
            self._on_event(event)
        if isinstance(event, Silence):
            said = f"No answer from the server for {event.seconds} s"
            return replace(self._last, text=said) if event.seconds else self._last
        if isinstance(event, Preview):
            return replace(self._last, preview=event.image)
        return self._last if isinstance(event, Progress) else None

    def _words(self, event: Progress) -> str:
        words = self.WORDS.get(event.stage, event.stage.capitalize())
        if event.stage == "queued":
            before = f", {event.step} before this one" if event.step else ""
            return words + before + (f", starts in {about(event.eta_s)}" if event.eta_s is not None else "")
        if event.eta_s is not None:
            return f"{self._counted(words, event)}, {about(event.eta_s)} left"
        return self._counted(words, event)

    def _counted(self, words: str, event: Progress) -> str:
        if event.of <= 1:
            return words
        if event.stage in ("exporting", "rendering"):
            return f"{words} {min(event.step + 1, event.of)}/{event.of}"
        if event.stage == "uploading":
            return f"{words} {100 * event.step // event.of} %"
        return f"{words} {event.step}/{event.of}"
