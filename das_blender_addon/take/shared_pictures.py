# SPDX-License-Identifier: GPL-3.0-or-later
"""One look for several cameras: what was painted for the scene's own camera, or for a third one, is taken over by the
key pictures of a shot that another camera sees, where both see the same surface at the same moment.  No Blender in
here.

A key picture of another camera is one more picture of the shot: each pixel of this one is followed along its
surface into that one (`tracking.correspondences`), which shows it where nothing hides it there.  Where both have the
same look, this camera's own render stays, which is sharper; so it does where that camera does not see, its tone matched
to what is taken over beside it.  Pictures that somebody painted or gave for this camera stay as they are.  Where the
pictures of several cameras show a surface, the scene's own goes first, then the one that was painted last.  The scene's
own camera takes over nothing: its pictures are the shot's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..client.take import Log
from ..errors import FirstFrameError
from ..protocol.png import decode_png, decode_png_with_alpha, encode_png
from ..scene.camera import join_cameras
from ..shot.first_frame import FirstFrameWish, Unfitted, find_first_frame, fitted_first_frame
from ..shot.pictures import FirstFrame, painted_for_others, painted_frames, read_record
from ..shot.plan import ShotPlan, plan_with_keys
from ..shot.resolved import KeyChoice
from ..shot.tracked import PictureView, cameras_told, part_of, part_of_cameras, picture_view
from ..tracking.composition import Composer
from ..tracking.correspondences import correspondences
from ..tracking.geometry import CameraPath, GeometrySequence
from .drive import Recipe, in_thread
from .picture_recipes import fitting_of
from .source import Report, SceneFacts, Source

LOGGER = logging.getLogger(__name__)
APART_LEVELS = 10.0
"""A picture has another look where its colours lie so many levels, of 255, beyond those that the render has in 3×3
pixels: a picture that is carried mixes them otherwise at every edge."""
WINDOW_PX, LEAST_SHARE, GROWN_PX = 5, 0.25, 2
"""And where it has that at so large a share of a window of this side; so far around, it is taken over, too."""
TAKES_OVER = "takes over"
SHARED, RENDERED = "shared", "rendered"
"""Origins of pictures, see `FirstFrame`."""


def shared_pictures(
    facts: SceneFacts,
    wish: FirstFrameWish,
    planned: ShotPlan,
    geometry: GeometrySequence,
    pictures: Sequence[FirstFrame],
    source: Source,
    report: Report,
) -> Recipe:
    """``pictures`` [`FirstFrame`] at ``planned.keys``, those that were rendered with what other cameras' show of them;
    as they are where the scene's own camera sees the shot.  ``geometry``: exported last by ``source``.

    Raises `FirstFrameError`, `JobCancelled`.
    """
    own, cameras = facts.own_pictures, source.own_cameras()
    if own is None or cameras is None:
        return list(pictures)
    seen, found = replace(geometry, cameras=cameras), []
    for index, picture in zip(planned.keys, pictures, strict=True):
        if picture.origin == RENDERED:
            others = []
            other = yield from _of_own_camera(facts, wish, picture_view(seen, planned, index), source, report)
            if other is not None:
                others.append(_Other("the scene's own camera", other, cameras))
            others += yield from _of_third_cameras(facts, wish, planned, geometry, index, source, report)
            before = len(picture.notes)
            picture = yield from _taken_over(picture, others, index, geometry, planned)
            for note in picture.notes[before:]:
                LOGGER.info("%s", note)
                yield report(Log(note))
        found.append(picture)
    return found


def with_own_frames(facts: SceneFacts, planned: ShotPlan) -> ShotPlan:
    """``planned``, whose key pictures nobody chose, with some at the frames too for which the scene's own camera has
    pictures that were painted or given; as it is where that camera sees the shot, or the model reads no key pictures.
    """
    own = facts.own_pictures
    if own is None or not planned.reads_carried:
        return planned
    frames = {*(one.frame for one in own.given), *painted_frames(facts.folder, own.owner)}
    more = [index for index, frame in enumerate(planned.frames) if frame in frames]
    return plan_with_keys(planned, (*planned.keys, *more)) if set(more) - set(planned.keys) else planned


def shared_notes(pictures: Sequence[FirstFrame]) -> list[str]:
    """What a take says of those that took something over, a sentence each."""
    return [note for picture in pictures for note in picture.notes if picture.origin == SHARED and TAKES_OVER in note]


@dataclass(frozen=True)
class _Other:
    """A picture that ``camera`` (in words) sees from ``cameras`` (paths of all frames, at the render's size)."""

    camera: str
    picture: FirstFrame
    cameras: CameraPath


def _of_own_camera(
    facts: SceneFacts, wish: FirstFrameWish, view: PictureView, source: Source, report: Report
) -> Recipe:
    """The picture (`FirstFrame`) that was painted or given for ``view``, which the scene's own camera sees; None where
    there is none, or none that can be read: this shot can do without."""
    own = facts.own_pictures
    choice = next((one for one in own.given if one.frame == view.frame), KeyChoice(view.frame))
    wish = replace(wish, path=choice.path, image=choice.image, owner=own.owner, again=False)
    found = yield from _found(wish, view, source, report)
    if found is None:
        return None
    is_given = bool(choice.path or choice.image)
    painted_for = "" if is_given else read_record(found.path).get("geometry", "")
    return found if painted_for in ("", view.digest) else None


def _of_third_cameras(
    facts: SceneFacts,
    wish: FirstFrameWish,
    planned: ShotPlan,
    geometry: GeometrySequence,
    index: int,
    source: Source,
    report: Report,
) -> Recipe:
    """[`_Other`] of the frame ``index`` that were painted for cameras that are neither the scene's own nor this one,
    where geometry and that camera are as they were then; one for each camera."""
    own, frame, found = facts.own_pictures, geometry.frames[index], {}
    for owner, path in painted_for_others(facts.folder, frame, facts.owner.camera, own.owner):
        record = read_record(path)
        try:
            cameras = cameras_told(record["seen_from"], geometry.num_frames)
            view = picture_view(replace(geometry, cameras=cameras), planned, index)
        except (KeyError, TypeError, ValueError, AttributeError):  # of an earlier version, or damaged
            continue
        if owner.camera in found or record.get("geometry") != view.digest:
            continue
        theirs = replace(wish, path="", image="", owner=owner, again=False)
        picture = yield from _found(theirs, view, source, report)
        if picture is not None:
            found[owner.camera] = _Other(f"the camera {owner.camera!r}", picture, cameras)
    return list(found.values())


def _found(wish: FirstFrameWish, view: PictureView, source: Source, report: Report) -> Recipe:
    """The painted or given picture (`FirstFrame`) of ``wish`` for ``view``, None where there is none that can be read.
    """
    view = replace(view, is_first=False)  # what is transparent in it is nobody's
    try:
        found = yield from in_thread(lambda _stop, _say: find_first_frame(wish, view))
        if isinstance(found, Unfitted):
            file, notes = yield from source.fitted(fitting_of(found, view, wish.look))
            found = fitted_first_frame(found, file, notes)
    except FirstFrameError as error:
        LOGGER.warning("%s", error.message)
        yield report(Log(f"Nothing is taken over from another camera's picture: {error.message}"))
        return None
    return None if found is None or found.origin == RENDERED else found


def _taken_over(picture: FirstFrame, others: Sequence[_Other], index: int, geometry, planned: ShotPlan) -> Recipe:
    """``picture`` with what is other in those of ``others``, of which the first goes first."""

    def carry(should_stop, _say):
        rendered = decode_png(picture.png, name=f"The picture {picture.path}", error=FirstFrameError)
        whole, shares = rendered.copy(), []
        for other in reversed(others):
            pixels = decode_png_with_alpha(
                other.picture.png, name=f"The picture {other.picture.path}", error=FirstFrameError
            )
            both = [planned.pictures.overscan(one) for one in (other.cameras, geometry.cameras)]
            carried, share = carried_between(geometry, index, both, pixels, rendered, should_stop=should_stop)
            changed = (carried != rendered).any(axis=2)
            whole[changed] = carried[changed]
            shares.insert(0, share)
        return whole, shares

    if not others:
        return picture
    whole, shares = yield from in_thread(carry)
    took = [(other, share) for other, share in zip(others, shares, strict=True) if share]
    if not took:
        return picture
    notes = [
        f"The key picture of frame {geometry.frames[index]} {TAKES_OVER} {share:.0%} of itself from "
        f"{other.picture.path}, which was made for {other.camera}: as much looks different there of what both see."
        for other, share in took
    ]
    return FirstFrame(took[0][0].picture.path, encode_png(whole), SHARED, (*picture.notes, *notes))


def carried_between(
    geometry: GeometrySequence,
    index: int,
    cameras: Sequence[CameraPath],
    picture: np.ndarray,
    rendered: np.ndarray,
    *,
    should_stop=None,
) -> tuple[np.ndarray, float]:
    """([H,W,3] u8, the share of it that is taken over): ``rendered`` [H,W,3] u8, the frame ``index`` (0-based) of
    ``geometry`` as the second of two ``cameras`` (paths of all frames, of the pictures' size) sees it, with the colours
    of ``picture`` [H,W,3 or 4] u8, which the first one sees, where these are others.

    Raises `JobCancelled`.
    """
    both = join_cameras([part_of_cameras(path, [index]) for path in cameras])
    moment = replace(part_of(geometry, [index, index]), cameras=both)
    (frame,) = correspondences(moment, [0], frame_indices=[1], background=True, should_stop=should_stop)
    gathered = Composer([picture]).gather(frame)
    inside = gathered.known.copy()  # at an outline every pixel mixes two surfaces
    inside.reshape(-1)[gathered.outline] = False
    taken = _is_other(gathered.picture, rendered, inside)
    if not taken.any():
        return rendered, 0.0
    own = gathered.known & ~taken
    # Where that camera sees nothing, the tone of what is painted beside it counts, and no farther than it does.
    colours = np.where(own[..., None], rendered, gathered.picture).astype(np.float32)
    whole = replace(gathered, picture=colours).filled(rendered).picture
    beside = _grown(taken, ~gathered.known & (np.abs(whole.astype(np.int16) - rendered) > APART_LEVELS).any(axis=2))
    return np.where(beside[..., None], whole, rendered), float(taken.mean())


def _grown(seed: np.ndarray, within: np.ndarray) -> np.ndarray:
    """[H,W] bool: ``seed``, and what of ``within`` is joined to it."""
    while True:
        larger = seed | within & (_summed(seed.astype(np.float32), 3) > 0.5)
        if (larger == seed).all():
            return seed
        seed = larger


def _is_other(carried: np.ndarray, rendered: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[H,W] bool: the colours of ``carried`` [H,W,3] have another look there than ``rendered``, of what is ``known``.
    """
    height, width = known.shape
    framed = np.pad(rendered.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [framed[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    low, high = np.minimum.reduce(around) - APART_LEVELS, np.maximum.reduce(around) + APART_LEVELS
    apart = known & ((carried < low) | (carried > high)).any(axis=2)
    count, total = (_summed(mask.astype(np.float32), WINDOW_PX) for mask in (apart, known))
    return known & (_summed((apart & (count > LEAST_SHARE * total)).astype(np.float32), 2 * GROWN_PX + 1) > 0.5)


def _summed(values: np.ndarray, side: int) -> np.ndarray:
    """[H,W] f64: sums of ``values`` [H,W] in windows of the odd ``side``, 0 beyond the border."""
    for axis in (0, 1):
        ahead = [(side // 2 + 1, side // 2) if one == axis else (0, 0) for one in (0, 1)]
        total = np.cumsum(np.pad(values.astype(np.float64), ahead), axis=axis)
        length = values.shape[axis]
        upper, lower = (np.take(total, range(at, at + length), axis=axis) for at in (side, 0))
        values = upper - lower
    return values
