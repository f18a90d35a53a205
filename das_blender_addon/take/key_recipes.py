# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user can ask for of a shot's key pictures, as recipes: which frames should be some, their pictures, and one
that is carried from the others.  No Blender in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..client.take import Log
from ..errors import SettingsError
from ..protocol.png import decode_png_with_alpha, encode_png
from ..shot.carried_pictures import keep_carried
from ..shot.pictures import FirstFrame
from ..shot.plan import plan_with_keys
from ..shot.resolved import ResolvedSettings
from ..shot.tracked import ShotTracking, picture_cameras, picture_view
from ..tracking.geometry import GeometrySequence
from ..tracking.suggest import MOST_UNSEEN, suggest_key_frames
from .detail import Detail, KeyPicture
from .drive import Recipe, in_thread
from .picture_recipes import key_pictures, wish_of
from .recipes import plan_of
from .reporter import Reporter
from .source import SceneFacts, Source


@dataclass(frozen=True)
class Suggested:
    """``frames``: Blender frames that should be key pictures, the first frame among them.

    ``looked_at`` [F]: frames; ``unseen_before``, ``unseen_after`` [F] f32: the share of each that no key picture shows,
    with those that there were and with all.
    """

    frames: tuple[int, ...]
    looked_at: tuple[int, ...]
    unseen_before: np.ndarray
    unseen_after: np.ndarray


def suggested(
    facts: SceneFacts,
    settings: ResolvedSettings,
    source: Source,
    *,
    wanted: Sequence[int] = (),
    most_unseen: float = MOST_UNSEEN,
) -> Recipe:
    """The fewest key pictures of the shot such that in every frame at most the share ``most_unseen`` (0 to 1) is seen
    by none; asks no server.  ``wanted``: Blender frames that stay.  Returns `Suggested`.
    """
    report = Reporter()
    try:
        geometry = yield from source.export(settings.frames, facts.render_size, report)

        def look(should_stop, _say):
            frames = geometry.frames
            places = [frames.index(frame) for frame in wanted]
            return suggest_key_frames(geometry, wanted=places, most_unseen=most_unseen, should_stop=should_stop)

        found = yield from in_thread(look)
        return Suggested(
            frames=tuple(geometry.frames[key] for key in found.key_indices),
            looked_at=tuple(geometry.frames[index] for index in found.frame_indices),
            unseen_before=found.unseen_before,
            unseen_after=found.unseen_after,
        )
    finally:
        source.close()


def rendered_keys(
    facts: SceneFacts, settings: ResolvedSettings, source: Source, *, again: Sequence[int] = ()
) -> Recipe:
    """The shot's key pictures, those that are missing or stale rendered, by one child.

    ``again``: Blender frames whose pictures are rendered whatever is there; painted ones are put aside.  Returns
    [`FirstFrame`], the first frame's first.
    """
    report = Reporter()
    try:
        _, pictures = yield from _shot_of_keys(facts, settings, source, report, again)
        return pictures
    finally:
        source.close()


def carried_key(facts: SceneFacts, settings: ResolvedSettings, source: Source, frame: int) -> Recipe:
    """A key picture of the Blender frame ``frame`` carried from the others and put into its place, transparent where
    they do not show it: to be painted there.  One that is in its place is put aside.  Returns its path.

    Raises `SettingsError` for the first frame, and for a frame that is not in the shot.
    """
    report = Reporter()
    try:
        if frame not in settings.frames:
            raise SettingsError(f"The frame {frame} is not in the shot; go to one of its frames.", field="key_pictures")
        if frame == settings.frames[0]:
            raise SettingsError(
                "The first frame is where all others are carried from; go to another frame.", field="key_pictures"
            )
        others = tuple(choice for choice in settings.key_pictures or () if choice.frame != frame)
        settings = replace(settings, key_pictures=others)
        shot, pictures = yield from _shot_of_keys(facts, settings, source, report)
        plan, index = shot.plan, settings.frames.index(frame)

        def carry(should_stop, _say) -> Path:
            keys = [
                KeyPicture(key, decode_png_with_alpha(picture.png), picture.png)
                for key, picture in zip(plan.keys, pictures, strict=True)
            ]
            picture = Detail(shot.geometry, plan, keys).carry_one(index, should_stop=should_stop)
            view = picture_view(shot.geometry, plan, index)
            return keep_carried(facts.folder, frame, encode_png(picture), view.digest, facts.owner, facts.file)

        return (yield from in_thread(carry))
    finally:
        source.close()


def _shot_of_keys(
    facts: SceneFacts,
    settings: ResolvedSettings,
    source: Source,
    report: Reporter,
    again: Sequence[int] = (),
) -> Recipe:
    """(`ShotTracking` without tracking videos, its pictures)."""
    _, planned, _ = yield from plan_of(facts, settings)
    choices = settings.key_pictures or ()
    planned = plan_with_keys(planned, [settings.frames.index(choice.frame) for choice in choices])
    geometry: GeometrySequence = yield from source.export(planned.frames, planned.render_size, report)
    names = source.simulated()
    if names:
        yield report(Log(f"Not baked, and so simulated from the first frame on: {', '.join(names)}."))
    shot = ShotTracking(
        plan=planned,
        videos=(),
        views=tuple(picture_view(geometry, planned, key) for key in planned.keys),
        cameras=picture_cameras(geometry, planned),
        geometry=geometry,
    )
    pictures: list[FirstFrame] = yield from key_pictures(
        wish_of(facts, settings), shot, choices, source, report, again=again
    )
    return shot, pictures

