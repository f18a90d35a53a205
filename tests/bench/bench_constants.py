# SPDX-License-Identifier: GPL-3.0-or-later
"""What each constant of composition, filling, relighting and light is worth: two shots composed with half, with all and
with twice of it, without any network, against Cycles.  A Markdown table, the dB and thousandths of SSIM that either
changes; "–" where every byte stays.  Nothing is asserted, nothing is changed.

Run: ``python tests/bench/bench_constants.py [--only NAME …]``; shots of `tests.support.key_shots`, rendered where they
are missing into ``out/bench_key_pictures/``.  Then come how far key pictures may lie apart, and, with two clips that
differ on purpose, what windows pass into one another by.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from das_blender_addon.take import each_frame, join, recipes
from das_blender_addon.tracking import blending, composition, footprint, relighting, rims, suggest
from das_blender_addon.tracking.composition import Composer, keys_around
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.resampling import resize_lanczos
from das_blender_addon.tracking.suggest import suggest_key_frames
from tests.bench.bench_key_pictures import ROOT, psnr, read, ssim
from tests.support.key_shots import RENDERED, load_geometry, picture_path, resized

SIZE = (384, 256)
MODEL_SIZE = (192, 128)
SHOTS = (("crossing", (1, 25, 49)), ("orbit90_a", (1, 49)))
SEEN, TOLD, LIT, COMPOSED = range(4)
"""What a constant decides first: correspondences, the light that is told, how it changes, how a frame is composed."""


def _needed() -> None:
    composition.NEEDED_INSIDE = blending.NEEDED_INSIDE


def _rims() -> None:
    rims.RISE = blending.RISE = rims._rise()


def _taps() -> None:
    footprint.MOST_TAPS = importlib.import_module("das_blender_addon.tracking.pyramid").MOST_TAPS


def _surfaces() -> None:
    found = importlib.import_module("das_blender_addon.tracking.visibility").SAME_SURFACE_SHARE
    importlib.import_module("das_blender_addon.tracking.correspondences").SAME_SURFACE_SHARE = found


@dataclass(frozen=True)
class Constant:
    """``name`` in the module ``room`` of `tracking`; ``tried``: instead of half and twice of it, where these make no
    sense.  ``after``: what is made of it at import.
    """

    room: str
    name: str
    stage: int = COMPOSED
    tried: tuple = ()
    after: Callable[[], None] = lambda: None

    @property
    def module(self):
        return importlib.import_module(f"das_blender_addon.tracking.{self.room}")

    @property
    def value(self):
        return getattr(self.module, self.name)

    def neighbours(self) -> tuple:
        half, twice = self.value / 2, self.value * 2
        whole = isinstance(self.value, int)
        return self.tried or ((max(1, int(half)), twice) if whole else (half, twice))

    def put(self, value) -> None:
        setattr(self.module, self.name, value)
        self.after()


CONSTANTS = (
    Constant("visibility", "VISIBLE_DEPTH_SHARE", SEEN),
    Constant("visibility", "SAME_SURFACE_SHARE", SEEN, after=_surfaces),
    Constant("composition", "OUTLINE_BELIEF"),
    Constant("blending", "NEEDED_INSIDE", tried=(0.275, 0.8), after=_needed),
    Constant("blending", "NEEDED_AT_OUTLINE"),
    Constant("blending", "DISTANT_KEY"),
    Constant("blending", "_LEAST_SHARE"),
    Constant("blending", "WORTH_ENOUGH", tried=(0.25, 1.0)),
    Constant("blending", "_LEAST_JOINED"),
    Constant("blending", "JOINED_AT"),
    Constant("blending", "JOINED_AFTER"),
    Constant("blending", "DOUBTFUL_RESOLUTION"),
    Constant("blending", "DOUBTFUL_LIGHT"),
    Constant("rims", "FEATHER_PX", tried=(2, 7), after=_rims),
    Constant("rims", "_LEAST_AT_RIM", after=_rims),
    Constant("rims", "BAND_SHARE"),
    Constant("rims", "LEAST_IN_BAND"),
    Constant("rims", "_WHOLE_AT", tried=(0.45, 1.0)),
    Constant("footprint", "_LEAST_RESOLUTION"),
    Constant("footprint", "_SHARP_FOOTPRINT"),
    Constant("pyramid", "MOST_TAPS", after=_taps),
    Constant("filling", "_MOST_CELLS"),
    Constant("filling", "_SMALLEST_CELL_PX"),
    Constant("filling", "_EVERY_PIXEL_UP_TO"),
    Constant("filling", "_LAYERS"),
    Constant("filling", "_LEAK"),
    Constant("filling", "_RIM_PX"),
    Constant("filling", "_RIM_FALLOFF", tried=(0.375, 0.9)),
    Constant("filling", "_RIM_DEPTH_SHARE"),
    Constant("filling", "_CLEAN_REACH_PX"),
    Constant("filling", "_AS_DOUBTFUL_PX"),
    Constant("filling", "_SLIVER_FALLOFF", tried=(0.475, 1.0)),
    Constant("filling", "_SLIVER_DEPTH_SHARE"),
    Constant("filling", "SOFTNESS"),
    Constant("relighting", "PLACES", LIT),
    Constant("relighting", "FITTED_SIDE", TOLD),
    Constant("relighting", "FITTED_POINTS", TOLD),
    Constant("relighting", "DARKEST", TOLD),
    Constant("relighting", "LEAST_EXPLAINED", TOLD),
    Constant("relighting", "GAMMA", TOLD),
    Constant("relighting", "MOST", LIT),
    Constant("relighting", "SEEN", LIT),
    Constant("relighting", "_SAME_PLANE", LIT),
    Constant("relighting", "_SAME_SURFACE", LIT),
    Constant("relighting", "EDGE", LIT),
    Constant("relighting", "MUCH", LIT),
    Constant("brightening", "STEADY", LIT),
    Constant("brightening", "BRIGHTER", LIT),
    Constant("light", "CASTER_POINTS", TOLD),
    Constant("light", "CELLS", TOLD),
    Constant("light", "BIAS_CELLS", TOLD),
    Constant("light", "_LEAST_MOVE", TOLD),
    Constant("light", "TRIED", TOLD),
    Constant("light", "KEPT", TOLD),
    Constant("light", "REFINED", TOLD),
    Constant("light", "STRONGEST", TOLD),
    Constant("light", "_EVENNESS", TOLD),
    Constant("light", "_REWEIGHTED", TOLD),
    Constant("light", "_STEPS", TOLD),
    Constant("light", "_MOST_OFF", TOLD),
    Constant("light", "_MOST_TANH", TOLD, tried=(0.45, 0.99)),
    Constant("light", "_LEAST_MEAN", TOLD),
    Constant("light", "LEAST_LIGHT", TOLD),
)


class Shot:
    """A rendered shot with key pictures at the Blender frames ``keys``; what no constant has touched is done once."""

    def __init__(self, folder: Path, keys: Sequence[int]):
        self.keys, self.geometry = [key - 1 for key in keys], load_geometry(folder, SIZE)
        self.pictures = [read(folder, SIZE, key) for key in keys]
        self.truths = {frame - 1: read(folder, SIZE, frame) for frame in RENDERED if frame not in keys}
        self.seen, self.told = self._see(), None
        self.told = self._tell()
        self.lit = self._light(self.seen, self.told)

    def _see(self):
        asked = {"frame_indices": list(self.truths), "background": True}
        return list(correspondences(self.geometry, self.keys, **asked))

    def _tell(self):
        return relighting.relighting(self.geometry, self.keys, self.pictures)

    def _light(self, seen, told):
        return [None if told is None else told.at(frame) for frame in seen]

    def measure(self, stage: int = COMPOSED) -> tuple[float, float, str]:
        """(mean PSNR, mean SSIM, digest of all frames), done anew from ``stage`` on."""
        seen = self._see() if stage == SEEN else self.seen
        told = self._tell() if stage <= TOLD else self.told
        lit = self._light(seen, told) if stage <= LIT else self.lit
        composer, found, digest = Composer(self.pictures), [], hashlib.sha256()
        for frame, light in zip(seen, lit, strict=True):
            picture = composer.compose(frame, light=light).picture
            digest.update(picture)
            truth = self.truths[frame.index]
            found.append((psnr(picture, truth), ssim(picture, truth)))
        return *np.mean(found, axis=0), digest.hexdigest()


def sweep(shots: Sequence[Shot], names: Sequence[str]) -> None:
    chosen = [shot.measure() for shot in shots]
    heads = " | ".join(f"{name}, keys at {', '.join(map(str, keys))}" for name, keys in SHOTS)
    print(f"\n| constant | chosen | tried | {heads} |\n|---|---|---|{'---|' * len(shots)}")
    print("| | | | " + " | ".join(f"{one[0]:.2f} dB, {one[1]:.4f}" for one in chosen) + " |", flush=True)
    for constant in CONSTANTS:
        if names and constant.name not in names:
            continue
        kept, tried = constant.value, constant.neighbours()
        cells = []
        for value in tried:
            constant.put(value)
            try:
                now = [shot.measure(constant.stage) for shot in shots]
            finally:
                constant.put(kept)
            cells.append(map(change, now, chosen))
        row = " | ".join("; ".join(cell) for cell in zip(*cells, strict=True))
        words = "; ".join(f"{one:g}" for one in tried)
        print(f"| `{constant.room}.{constant.name}` | {kept:g} | {words} | {row} |", flush=True)


def change(now, was) -> str:
    """What has changed: dB, and thousandths of SSIM."""
    if now[2] == was[2]:
        return "–"
    return f"{now[0] - was[0]:+.2f}, {1000 * (now[1] - was[1]):+.1f}"


def gaps(folder: Path) -> None:
    """How far key pictures may lie apart (`recipes.MOST_GAP`, 24), and what *Suggest* finds with other constants."""
    print("\n| shot | " + " | ".join(f"a key every {gap} frames" for gap in (48, 24, 12)) + " |\n|---|---|---|---|")
    between = [frame - 1 for frame in RENDERED if (frame - 1) % 12]
    for name, _ in SHOTS:
        cells = []
        for gap in (48, 24, 12):
            cells.append(between_keys(folder / name, list(range(0, 49, gap)), between))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n| *Suggest* | " + " | ".join(name for name, _ in SHOTS) + " |\n|---|" + "---|" * len(SHOTS))
    for words, options in (
        ("as chosen", {}), ("`MOST_UNSEEN` 0.025", {"most_unseen": 0.025}), ("`MOST_UNSEEN` 0.1", {"most_unseen": 0.1}),
        ("`WIDTH_PX` 80", {"width": 80}), ("`WIDTH_PX` 320", {"width": 320}), ("`MOST_FRAMES` 24", {"most_frames": 24}),
    ):
        found = [suggest_key_frames(load_geometry(folder / name, SIZE), **options) for name, _ in SHOTS]
        cells = (f"{[key + 1 for key in one.key_indices]}, worst {one.unseen_after.max():.3f}" for one in found)
        print(f"| {words} | " + " | ".join(cells) + " |", flush=True)


def between_keys(folder: Path, keys: Sequence[int], indices: Sequence[int], neighbours: int = 2) -> str:
    """Mean PSNR and SSIM of the frames ``indices`` (0-based), composed from those of the ``keys`` that are around."""
    found = []
    for index in indices:
        around = [keys[number] for number in keys_around(keys, index, neighbours)]
        shot = Shot.__new__(Shot)
        shot.keys, shot.geometry = around, load_geometry(folder, SIZE)
        shot.pictures = [read(folder, SIZE, key + 1) for key in around]
        shot.truths = {index: read(folder, SIZE, index + 1)}
        shot.seen, shot.told = shot._see(), shot._tell()
        shot.lit = shot._light(shot.seen, shot.told)
        found.append(shot.measure()[:2])
    return "{:.2f} dB, {:.4f}".format(*np.mean(found, axis=0))


def counts(folder: Path) -> None:
    """`NEIGHBOURS`, `SMALL_STEP`, `MOST_CANDIDATES` and `MOST_KEYS_IN_WINDOW`: half, as chosen, and twice."""
    names = [name for name, _ in SHOTS]
    print("\n| constant | " + " | ".join(names) + " |\n|---|" + "---|" * len(SHOTS))
    every12, between = list(range(0, 49, 12)), [frame - 1 for frame in RENDERED if (frame - 1) % 12]
    for value in (1, composition.NEIGHBOURS, 4):
        cells = [between_keys(folder / name, every12, between, value) for name in names]
        print(f"| `composition.NEIGHBOURS` {value}, a key every 12 frames | " + " | ".join(cells) + " |", flush=True)
    for value in (2, each_frame.SMALL_STEP, 8):
        cells = [small_light(folder / name, keys, value) for name, keys in SHOTS]
        print(f"| `each_frame.SMALL_STEP` {value}, at 192×128 | " + " | ".join(cells) + " |", flush=True)
    for room, name in ((suggest, "MOST_CANDIDATES"), (recipes, "MOST_KEYS_IN_WINDOW")):
        chosen = getattr(room, name)
        for value in (max(1, chosen // 2), chosen, 2 * chosen):
            setattr(room, name, value)
            most = None if room is suggest else value  # the shots are one window long
            found = [suggest_key_frames(load_geometry(folder / shot, SIZE), most_keys=most) for shot in names]
            setattr(room, name, chosen)
            cells = (f"{[key + 1 for key in one.key_indices]}, worst {one.unseen_after.max():.3f}" for one in found)
            print(f"| `{name}` {value} | " + " | ".join(cells) + " |", flush=True)


def small_light(folder: Path, keys: Sequence[int], step: int) -> str:
    """Mean PSNR and SSIM of the frames that are no key as the model is given them, light measured at every ``step``."""
    shot = Shot(folder, keys)
    geometry = replace(shot.geometry, cameras=resized(load_geometry(folder, SIZE).cameras, MODEL_SIZE))
    small = [resize_lanczos(picture, (0, 0, *SIZE), MODEL_SIZE) for picture in shot.pictures]
    told, composer, found = shot.told and shot.told.seen_by(geometry, step), Composer(small), []
    for frame in correspondences(geometry, shot.keys, frame_indices=list(shot.truths), background=True):
        picture = composer.compose(frame, light=told and told.at(frame)).picture
        truth = resize_lanczos(shot.truths[frame.index], (0, 0, *SIZE), MODEL_SIZE)
        found.append((psnr(picture, truth), ssim(picture, truth)))
    return "{:.2f} dB, {:.4f}".format(*np.mean(found, axis=0))


def joins(shot: Shot) -> None:
    """Two clips of one shot, the second darker and with a grain of its own, pass into one another."""
    picture = shot.pictures[0]
    grain = np.random.default_rng(0).normal(0.0, 6.0, (2, *picture.shape))
    clips = [np.clip(picture * tone + own, 0, 255).astype(np.uint8) for tone, own in ((1, grain[0]), (0.85, grain[1]))]
    own = np.mean([sharpness(clip) for clip in clips])
    print("\n| joining | sharpness inside the overlap, least | largest step, levels | of an even mixture: sharpness |")
    print("|---|---|---|---|")
    even = sharpness(np.mean(clips, axis=0)) / own
    for name, value, overlap in (
        ("as chosen", None, 8), ("OVERLAP", 4, 4), ("OVERLAP", 16, 16), ("DETAIL_PX", 3, 8), ("DETAIL_PX", 12, 8),
        ("PATCH_PX", 12, 8), ("PATCH_PX", 48, 8), ("EDGE", 0.02, 8), ("EDGE", 0.08, 8),
    ):
        kept = getattr(join, name, None)
        if kept is not None:
            setattr(join, name, value)
        join._moments.cache_clear()
        mixed = [join.passed_over(*clips, share) for share in (np.arange(overlap) + 0.5) / overlap]
        if kept is not None:
            setattr(join, name, kept)
        frames = [clips[0], *mixed, clips[1]]
        steps = [np.abs(b.astype(int) - a).mean() for a, b in zip(frames, frames[1:], strict=False)]
        least = min(map(sharpness, mixed)) / own
        print(f"| {name} {'' if value is None else value} | {least:.3f} | {max(steps):.1f} | {even:.3f} |", flush=True)
    join._moments.cache_clear()


def sharpness(picture: np.ndarray) -> float:
    """Mean square of second differences."""
    return float((np.diff(picture.astype(np.float32), 2, axis=1) ** 2).mean())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=(), help="names of constants; then nothing else is measured")
    options = parser.parse_args()
    folder = ROOT / "out" / "bench_key_pictures"
    command = [sys.executable, "-m", "tests.support.key_shots", str(folder), "--sizes", f"{SIZE[0]}x{SIZE[1]}"]
    there = all(picture_path(folder / name, SIZE, frame).exists() for name, _ in SHOTS for frame in RENDERED)
    command += ["--only", *(name for name, _ in SHOTS)]
    if not there and subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        return 1
    if options.only == ["neighbours"]:
        counts(folder)
        return 0
    shots = [Shot(folder / name, keys) for name, keys in SHOTS]
    sweep(shots, options.only)
    if not options.only:
        gaps(folder)
        counts(folder)
        joins(shots[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
