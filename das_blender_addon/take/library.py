# SPDX-License-Identifier: GPL-3.0-or-later
"""All takes of a shot, this session's and last month's, read from what lies beside their frames.  No Blender in here.

Whether a take is starred is a file in its folder, `STAR`: it travels with the folder, and no take is written to.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError, StorageError
from .adherence import read_report
from .cache import LAYOUT, Take, read_json, take_of
from .cleaning import STAR, aside, is_starred

LEAST_DIGITS = 4
"""Of a key that names a take on the command line."""
SETTINGS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "model": "model",
    "tracking_range": "tracking_range",
    "background": "background",
}
"""Names in a take's report → names of a scene's settings."""
COMPARED = (
    *SETTINGS,
    "options",
    "window_seeds",
    "prompts_at",
    "region",
    "model_size",
    "render_size",
    "cameras",
    "keep_detail",
    "key_pictures",
    "frame_numbers",
)
"""What can differ between two takes of a shot, of their reports."""
MOST_SHOWN = 200
"""Characters of a prompt in a list."""


@dataclass(frozen=True)
class TakeEntry:
    """A take in the list.  ``made``: when it was finished, seconds since the epoch.  ``size_bytes``: on disk."""

    take: Take
    made: float
    size_bytes: int
    starred: bool

    @property
    def key(self) -> str:
        return self.take.key

    @property
    def report(self) -> dict:
        return self.take.report

    @property
    def adherence(self) -> dict | None:
        """Whether it follows its animation, as it was measured (`adherence.measure`); None where it was not."""
        return read_report(self.take.folder)

    @property
    def thumbnail(self) -> Path:
        """The frame in its middle."""
        return self.take.frames[len(self.take.frames) // 2]

    @property
    def when(self) -> str:
        """The minute at which it was made, local time."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.made))

    def words(self, before: TakeEntry | None = None) -> str:
        """Its seeds and model, and of the prompt what is other than in the take ``before`` it."""
        own = ", ".join(f"window {number}: {seed}" for number, seed in self.report.get("window_seeds", {}).items())
        seeds = f"seed {self.report['seed']}" + (f" ({own})" if own else "")
        return " · ".join(filter(None, (seeds, self.report["model"], self._new_words(before))))

    def _new_words(self, before: TakeEntry | None) -> str:
        own = str(self.report.get("prompt", ""))
        if before is None:
            return one_line(own)
        known = set(str(before.report.get("prompt", "")).lower().split())
        new = [word for word in own.split() if word.lower() not in known]
        return one_line(own if len(new) == len(own.split()) else "+ " + " ".join(new) if new else "")


def one_line(words: str, most: int = MOST_SHOWN) -> str:
    """``words`` in one line of at most ``most`` characters, all of them printable."""
    words = " ".join("".join(one if one.isprintable() else " " for one in words[: 2 * most]).split())
    return words if len(words) <= most else words[: most - 1] + "…"


_known: dict[Path, tuple[int, TakeEntry]] = {}
"""The folder of a take → when its take.json changed, and what was read then."""


def takes_of(folder: Path) -> list[TakeEntry]:
    """Every finished take in the shot's ``folder``, the newest first.

    What is no take, or one of another layout, is left out.  Frames are not looked at: `cache.load_take` does that.
    """
    try:
        folders = [Path(entry.path) for entry in os.scandir(folder / "takes") if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    found = [entry for entry in map(_entry, folders) if entry is not None]
    return sorted(found, key=lambda entry: (-entry.made, entry.key))


def _entry(folder: Path) -> TakeEntry | None:
    file = folder / "take.json"
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        return None
    starred = is_starred(folder)
    known = _known.get(folder)
    if known is not None and known[0] == changed:
        entry = known[1]
        return TakeEntry(entry.take, entry.made, entry.size_bytes, starred)
    said = read_json(file)
    if said is None or said.get("layout") != LAYOUT or said.get("key") != folder.name:
        return None
    try:
        take = take_of(folder, said, cached=True)
        entry = TakeEntry(take, changed / 1e9, _size(folder), starred)
        if not take.frames or not _can_be_told(entry):
            return None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    _known[folder] = changed, entry
    return entry


def _can_be_told(entry: TakeEntry) -> bool:
    """Whether its report has what lists and buttons read of it; raises, as they would, where it has not."""
    entry.words()
    settings_of(entry)
    differences(entry, entry)
    numbers = (entry.report["seed"], *entry.take.frame_numbers)
    return isinstance(entry.report["model"], str) and all(type(number) is int for number in numbers)


def find_entry(entries: Iterable[TakeEntry], name: str) -> TakeEntry:
    """The take ``name``: "last", a number of the list from 1 on, or the first digits of its key.

    Raises `SettingsError`.
    """
    entries = list(entries)
    if not entries:
        raise SettingsError("The shot has no take in this cache; render one, or name the cache with --cache.")
    if name == "last":
        return entries[0]
    if name.isascii() and name.isdigit() and len(name) < LEAST_DIGITS:
        if not 1 <= int(name) <= len(entries):
            raise SettingsError(f"There is no take {name}; there are 1 to {len(entries)}.", field="take")
        return entries[int(name) - 1]
    found = [entry for entry in entries if len(name) >= LEAST_DIGITS and entry.key.startswith(name.lower())]
    if len(found) != 1:
        several = "Several takes begin" if found else "No take begins"
        raise SettingsError(
            f"{several} with {name!r}; give a number of the list, {LEAST_DIGITS} or more digits "
            "of its key, or last.",
            field="take",
        )
    return found[0]


def differences(before: TakeEntry, after: TakeEntry) -> list[tuple[str, object, object]]:
    """(name, before, after) of everything that the two reports say differently."""
    found = []
    for name in COMPARED:
        one, other = (_told(entry.report.get(name), name) for entry in (before, after))
        if one != other:
            found.append((name, one, other))
    return found


def _told(value, name: str):
    if name == "window_seeds":
        return value or None
    if name == "cameras" and isinstance(value, list):
        return ", ".join(str(one[-1]) for one in value)
    if name == "frame_numbers" and isinstance(value, list) and value:
        return f"{value[0]} to {value[-1]}"
    if name == "key_pictures" and isinstance(value, list):
        return [(one.get("frame"), one.get("sha256")) if isinstance(one, dict) else one for one in value]
    return value


def settings_of(entry: TakeEntry) -> dict[str, object]:
    """What a scene's settings must be to make it again; names as in `Scene.das`."""
    chosen = {name: entry.report[said] for said, name in SETTINGS.items() if said in entry.report}
    size = entry.report.get("model_size")
    if size:
        chosen["size"] = f"{size[0]}x{size[1]}"
    options = entry.report.get("options") or {}
    chosen["speed"] = options.get("speed", "exact")
    chosen["loras"] = ", ".join(f"{name}:{weight:g}" for name, weight, _ in options.get("loras", []))
    return chosen


def set_star(entry: TakeEntry, starred: bool) -> None:
    """Star the take, or not.  Raises `StorageError`."""
    mark = entry.take.folder / STAR
    try:
        if starred:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{mark} cannot be written: {error.strerror}.") from error


def check_deletable(entry: TakeEntry, used: Collection[str]) -> None:
    """Raise `SettingsError` for a take that is starred, or on a strip of the open file: ``used`` are their keys."""
    if is_starred(entry.take.folder):  # by now, and by whomever
        raise SettingsError(f"The take {entry.key[:8]} is starred and is not deleted; take its star away first.")
    if entry.key in used:
        raise SettingsError(f"The take {entry.key[:8]} is on a strip of the file; remove the strip first.")


def delete_take(entry: TakeEntry) -> int:
    """Delete the take's folder; returns how many bytes that freed.  Raises `StorageError`."""
    gone = put_away(entry)
    if gone is None:
        return 0
    try:
        shutil.rmtree(gone)
    except OSError as error:
        raise StorageError(f"{gone} cannot be deleted: {error.strerror}.") from error
    return entry.size_bytes


def put_away(entry: TakeEntry) -> Path | None:
    """Take the take out of the list, at once however many files it has; returns its folder, which
    `cleaning.remove_gone` deletes at leisure, None where somebody has deleted it meanwhile.  The same take may be made
    anew then.  Raises `StorageError`.
    """
    folder = entry.take.folder
    try:
        gone = aside(folder)
    except FileNotFoundError:
        gone = None
    except OSError as error:
        raise StorageError(f"{folder} cannot be deleted: {error.strerror}.") from error
    _known.pop(folder, None)
    return gone


def check_frames(take: Take) -> None:
    """Raise `StorageError` where a frame of ``take`` is missing or empty on the disk."""
    for number, frame in zip(take.frame_numbers, take.frames, strict=True):
        try:
            is_there = frame.stat().st_size > 0
        except OSError:
            is_there = False
        if not is_there:
            raise StorageError(
                f"The frame {number} of the take {take.key[:8]} is missing or empty: {frame}; render the take again."
            )


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # it goes while it is looked at
                continue
    return total
