# SPDX-License-Identifier: GPL-3.0-or-later
"""*Repair Region*: a take of a scene with a part of it made anew, and nothing else changed."""

from __future__ import annotations

import random
from dataclasses import replace

from ..errors import SettingsError
from ..shot.resolved import MAX_SEED, ResolvedSettings
from ..take import recipes
from ..take.cache import TakeSettings
from ..take.drive import Recipe, WithEnd, in_thread
from ..take.library import TakeEntry
from ..take.region import Masks, Region, check_mask, put_region, region_masks, settings_inside
from ..take.reporter import Reporter
from . import of_scene
from .as_made import settings_as_made
from .sources import SharedSource, source_of


def region_again(
    scene,
    entry: TakeEntry,
    settings: ResolvedSettings,
    region: Region,
    *,
    seed: int | None = None,
    prompt: str = "",
    in_child: bool | None = None,
) -> Recipe:
    """The take ``entry`` with ``region`` made anew, with another ``seed`` (None: any) or ``prompt``; returns the new
    `Take`.  Only the windows that see it are made.

    Raises `SettingsError` for a region that is none, and where the scene would not make the take any more.
    """
    if "region" in entry.report:
        raise SettingsError(
            "The take has a repaired region already; choose the take that it was made of, or one of another seed.",
            field="take",
        )
    if entry.report.get("render_size"):
        check_mask(region, entry.report["render_size"][::-1], entry.take.frame_numbers)
    made_with = settings_as_made(scene, entry, settings)
    facts, made_with = of_scene.prepared(scene, made_with)
    if seed is None:
        seed = random.Random(f"{entry.key} {region.digest}").randrange(MAX_SEED)
        seed += seed == made_with.seed
    shared = SharedSource(
        source_of(scene, facts.view_layer, in_child=in_child, camera=made_with.camera), 2
    )
    export, again = shared.share(), shared.share()

    def steps() -> Recipe:
        frames = made_with.frames
        geometry = yield from export.export(frames, facts.render_size, Reporter())

        def look(should_stop, _say) -> Masks:
            return Masks(region_masks(region, geometry, frames, should_stop=should_stop))

        masks = yield from in_thread(look)
        asked = settings_inside(made_with, entry.take, masks, seed=seed, prompt=prompt)
        after = entry.key, TakeSettings.from_resolved(made_with)
        other = yield from recipes.only_take(recipes.take(facts, replace(asked, part=None), again, after=after))
        return (yield from in_thread(lambda stop, _say: put_region(entry.take, other, masks, region, should_stop=stop)))

    return WithEnd(steps(), lambda _error: shared.close())
