# SPDX-License-Identifier: GPL-3.0-or-later
"""The stations of a take's pictures: each key picture found, fitted or rendered; see `recipes`.  No Blender in here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..child.open_copy import PictureOrder
from ..client.leases import Requester
from ..client.take import JobEvent, Progress
from ..errors import DasError, JobCancelled
from ..scene.camera import blender_camera_values
from ..shot.first_frame import (
    FirstFrameWish,
    Unfitted,
    find_first_frame,
    fitted_first_frame,
    keep_first_frame,
)
from ..shot.pictures import DIGITS, FirstFrame
from ..shot.resolved import KeyChoice, ResolvedSettings
from ..shot.tracked import PictureView, ShotTracking, part_of_cameras
from ..tracking.geometry import CameraPath
from .drive import Recipe, Status, in_thread
from .source import Report, SceneFacts, Source

LOGGER = logging.getLogger(__name__)
WAIT_S = 0.2
"""Seconds between two looks for a picture that another process renders."""


def wish_of(
    facts: SceneFacts, settings: ResolvedSettings, *, began: float = 0.0, again: bool = False
) -> FirstFrameWish:
    return FirstFrameWish(
        folder=facts.folder,
        path=settings.first_frame_path,
        image=settings.first_frame_image,
        engine=settings.first_frame_engine,
        samples=settings.first_frame_samples,
        look=facts.look,
        layer_apart=facts.layer_apart,
        owner=facts.owner,
        file=facts.file,
        blender=facts.blender,
        shading=facts.shading,
        again=again,
        not_before=began if settings.new_first_frame else 0.0,
        as_of=facts.read_at,
    )


def key_pictures(
    wish: FirstFrameWish,
    shot: ShotTracking,
    choices: Sequence[KeyChoice] | None,
    source: Source,
    report: Report,
    unreachable: DasError | None = None,
    again: Sequence[int] = (),
) -> Recipe:
    """The pictures [`FirstFrame`] of ``shot.views``, in their order; those that have to be rendered by one child.

    ``again``: Blender frames whose pictures are rendered whatever is there.
    """
    own = {choice.frame: choice for choice in choices or ()}
    wish = replace(wish, used=tuple(view.frame for view in shot.views))
    pictures = []
    for number, view in enumerate(shot.views):
        order = picture_order(view, part_of_cameras(shot.cameras, [number]))
        if not view.is_first:
            choice = own.get(view.frame)
            path, image = ("", "") if choice is None else (choice.path, choice.image)
            wish = replace(wish, path=path, image=image)
        part = one_of_several(report, number, len(shot.views))
        asked = replace(wish, again=view.frame in again)
        pictures.append((yield from picture_of(asked, view, order, source, part, unreachable)))
    return pictures


def one_of_several(report: Report, number: int, of: int) -> Report:
    """``report`` for the job ``number`` (from 0) of several that make up one station."""

    def told(event: JobEvent, words: str = "") -> Status | None:
        if isinstance(event, Progress):
            event = replace(event, fraction=(number + event.fraction) / of)
        return report(event, words)

    return told


def first_frame(
    wish: FirstFrameWish,
    shot: ShotTracking,
    source: Source,
    report: Report,
    unreachable: DasError | None = None,
) -> Recipe:
    """The `FirstFrame` of ``shot``; see `picture_of`."""
    order = picture_order(shot.views[0], part_of_cameras(shot.cameras, [0]))
    return (yield from picture_of(wish, shot.views[0], order, source, report, unreachable))


def picture_of(
    wish: FirstFrameWish,
    view: PictureView,
    order: PictureOrder,
    source: Source,
    report: Report,
    unreachable: DasError | None = None,
) -> Recipe:
    """The picture (`FirstFrame`) of ``view``, rendered as ``order`` says where it is missing, stale, or wanted again;
    not rendered where the server is ``unreachable``: then that is raised.
    """
    found = yield from in_thread(lambda _should_stop, _say: find_first_frame(wish, view))
    if isinstance(found, Unfitted):
        file, notes = yield from source.fitted(fitting_of(found, view, wish.look))
        found = fitted_first_frame(found, file, notes)
    if found is None and unreachable is not None:
        raise unreachable
    if found is None:
        found = yield from _rendered(wish, view, order, source, report)
    for note in found.notes:
        LOGGER.log(logging.INFO if found.origin == "rendered" else logging.WARNING, "%s", note)
        yield report(Progress("first frame", 1, 1, 1.0), note)
    return found


def _rendered(
    wish: FirstFrameWish, view: PictureView, order: PictureOrder, source: Source, report: Report
) -> Recipe:
    """The picture as `source` renders it, or as another process does that was first: it is waited for."""
    name = f"first-{view.frame}-{wish.digest(view)[:DIGITS]}"
    with Requester(wish.folder / "leases", name) as requester:
        while not wish.again and requester.lead() is None and not requester.is_led_from_here():
            words = f"Another process renders the {view.name}; waiting for it"
            yield report(Progress("first frame", 0, 0, 0.0), words)
            found = yield from in_thread(lambda stop, _say: _wait_for_another(requester, wish, view, stop))
            if found is not None:
                return found
        found = yield from in_thread(lambda _stop, _say: find_first_frame(wish, view))
        if found is not None:
            return found
        yield report(Progress("first frame", 0, 0, 0.0), f"Rendering the {view.name} with {wish.engine.title()}")
        order = replace(order, engine=wish.engine, samples=wish.samples, look=wish.look)
        files = yield from source.pictures(order, report, "first frame")
        return (yield from in_thread(lambda _stop, _say: keep_first_frame(wish, view, files[0])))


def _wait_for_another(
    requester: Requester, wish: FirstFrameWish, view: PictureView, should_stop: Callable[[], bool]
) -> FirstFrame | None:
    """The picture of whoever renders it; None when they have given up."""
    while True:
        is_led = requester.is_led()  # before the look: who gives up has put its picture there
        found = find_first_frame(wish, view)
        if found is not None or not is_led:
            return found
        if should_stop():
            raise JobCancelled("The render of the first frame was cancelled.")
        time.sleep(WAIT_S)


def fitting_of(unfitted: Unfitted, view: PictureView, look: dict) -> dict:
    """What `child.fitting.fitted_picture` reads."""
    return {
        "image": unfitted.image,
        "path": unfitted.path,
        "frame": view.frame,
        "name": view.name,
        "size": list(view.size),
        "crop": list(view.framing.crop),
        "keep_alpha": not view.is_first,
        "view_transform": look.get("view_transform", ""),
    }


def picture_order(view: PictureView, cameras: CameraPath) -> PictureOrder:
    """The picture of ``view`` by its overscanned camera; engine, samples and look come later.

    The sensor is given per mm of lens: the child reads the lens of that frame.
    """
    values = blender_camera_values(cameras, 0, lens_mm=1.0)
    return PictureOrder(
        frames=(view.frame,),
        size=(values.width, values.height),
        pixel_aspect=values.pixel_aspect,
        engine="",
        samples=0,
        look={},
        camera={
            "matrix_world": values.matrix_world,
            "sensor_width_per_lens": values.sensor_width,
            "ortho_scale": values.ortho_scale,
            "shift": [values.shift_x, values.shift_y],
        },
    )
