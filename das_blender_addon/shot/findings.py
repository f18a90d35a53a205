# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody should know of a shot before it costs time on a GPU: `Finding` after finding, never the first only.

No Blender in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DasError
from ..tracking.geometry import OFF_SCREEN, Note
from ..tracking.shot_curves import ShotCurves

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)
BARE_SHARE, NEW_SHARE, FAST_SHARE = 0.25, 0.10, 0.05
"""Set by reasoning, not measured: a picture whose covered part is smaller gives a model little to follow; more than
this that no key picture shows is plainly the model's own; points that move by more of the height from one frame to the
next leave what a video model's latents (16 pixels of about 480 a side) see as one place."""
FAST_PATCHES = 0.5
"""Measured of the embedded model (`bench_motion.py`): what moves by half a patch of its latents from one frame to the
next is still where it should be, at 6 pixels it is half a ghost, however large the picture is."""
LEAST_PATH_SHARE = 1.0 / 255.0
"""Of the height: a level of the tracking video's bytes.  At 128 pixels that is half a pixel, which the embedded model
follows to 12 %; of half as much it makes too much or nothing (measured, too)."""

HARMLESS = ("glass", "grease_pencil", "see_through", "shadow_catcher", "ignored", "silhouette", "background", "holdout")
"""Codes of `Note` about what is as somebody may expect it."""
REMEDIES = {
    "glass": "Object properties › Transmission › What Is Behind has that tracked instead.",
    "no_number": "Look for a modifier or driver that divides by 0 there.",
    "displaced": "Displace its mesh by a Displace modifier instead, or choose Bump Only in the material's settings.",
    "alpha": "Bake its alpha into an image on a UV map, or leave it solid.",
    "changing_alpha": "Hide the object for rendering where it shall not be, or leave it as it is.",
}
"""By code of `Note`; there is none for others."""


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    ``code``: stable, for programs.  ``level``: "error" (the shot is refused), "warning" (it renders, and may surprise)
    or "note".  ``words``: one sentence.  ``remedy``: what to do, "" where there is nothing to do.  ``objects``: names.
    ``frame``: Blender's, None where it is about no frame.  ``exit_code``: of a command that stops for it, else 0.
    """

    code: str
    level: str
    words: str
    remedy: str = ""
    objects: tuple[str, ...] = ()
    frame: int | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class ShotReport:
    """All ``findings`` of a shot, the gravest first.  ``frames`` [F]: the Blender frames of ``curves``; without curves
    where the shot could not be looked at.  ``notes``: what will be sent, in sentences.
    """

    findings: tuple[Finding, ...]
    frames: tuple[int, ...] = ()
    curves: ShotCurves | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Of the gravest finding; 0 where the shot renders."""
        return next((finding.exit_code for finding in self.findings if finding.level == ERROR), 0)


def refusal(error: DasError) -> Finding:
    """``error`` is what a render of the shot would end with."""
    return Finding(error.code, ERROR, error.message, exit_code=error.exit_code)


def sorted_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The gravest first, each once, else in the order in which they were found."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: LEVELS.index(finding.level)))


def findings_of_notes(notes: Sequence[Note]) -> Iterator[Finding]:
    """What renders and is not tracked, or not as it renders."""
    off_screen = tuple(note.name for note in notes if note.code == OFF_SCREEN)
    if off_screen:
        count = len(off_screen)
        words = "1 object that renders never comes" if count == 1 else f"{count} objects that render never come"
        yield Finding(
            f"scene.{OFF_SCREEN}",
            NOTE,
            f"{words} into view in the shot.",
            "Hide for rendering what shall not be seen: it costs time and memory.",
            off_screen,
        )
    for note in (note for note in notes if note.code != OFF_SCREEN):
        level = NOTE if note.code in HARMLESS else WARNING
        yield Finding(f"scene.{note.code}", level, note.sentence, REMEDIES.get(note.code, ""), (note.name,))


def findings_of_curves(
    curves: ShotCurves,
    frames: Sequence[int],
    model_height: int | None = None,
    every: int = 1,
    *,
    patch_px: int = 0,
    sky: bool = False,
) -> Iterator[Finding]:
    """What the look of a shot tells.  ``frames``: Blender's, of ``curves``; ``model_height`` in pixels, None: unknown;
    ``every``: it makes every so manieth frame; ``patch_px``: of a model that starts from carried frames, 0 for others.
    ``sky``: what has no surface is in the tracking video, too."""
    if curves.depth is None:
        yield Finding("shot.empty", NOTE, "The first frame shows no surface.", frame=frames[0])
        return
    near, middle, far = curves.depth
    yield Finding(
        "shot.depth",
        NOTE,
        f"The first frame's surfaces are {near:.3g} to {far:.3g} units away (2nd to 98th percentile), half of them "
        f"nearer than {middle:.3g}; what is nearer or farther keeps the colour of these ends.",
    )
    place = int(np.argmin(curves.covered))
    if curves.covered[place] < BARE_SHARE and not sky:
        yield Finding(
            "shot.bare",
            WARNING,
            f"Only {curves.covered[place]:.0%} of frame {frames[place]} shows a tracked surface.",
            "What has no surface is black in the tracking video: move the camera, put something behind the subject, or "
            "choose Sky as Background.",
            frame=frames[place],
        )
    place = int(np.argmax(curves.unseen))
    if curves.unseen[place] > NEW_SHARE:
        yield Finding(
            "shot.new",
            WARNING,
            f"{curves.unseen[place]:.0%} of frame {frames[place]} is shown by no key picture; the model paints it.",
            "Add a key picture there, or let Suggest find some.",
            frame=frames[place],
        )
    place = int(np.argmax(curves.motion))
    motion = float(curves.motion[place]) * every
    if motion > (FAST_PATCHES * patch_px / model_height if patch_px and model_height else FAST_SHARE):
        yield Finding(
            "shot.fast",
            WARNING,
            f"Points move by {motion:.0%} of the picture's height at frame {frames[place]}, from one frame of the "
            "model to the next.",
            "A video model may blur or lose what moves so fast: slow it down there, or add key pictures around it.",
            frame=frames[place],
        )
    if len(frames) > 1 and model_height is not None and curves.path < LEAST_PATH_SHARE:
        yield Finding(
            "shot.still",
            WARNING,
            f"Half of the first frame moves by less than {LEAST_PATH_SHARE * model_height:.1f} pixels of the model's "
            "picture in the whole shot: less than its tracking video tells apart.",
            "A video model may ignore it and move things by itself: check that the camera or the subject is animated.",
        )
