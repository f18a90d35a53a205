# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames as a movie that any player shows, encoded by a child Blender.  No Blender in here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..client.take import Log
from ..errors import SettingsError, StorageError
from ..protocol.png import decode_png
from .drive import Recipe
from .reporter import Reporter
from .source import Source

SUFFIX = ".mp4"


def movie(
    frames: Sequence[Path],
    output: Path,
    fps: int,
    fps_base: float,
    source: Source,
    heard: tuple[int, int] | None = None,
) -> Recipe:
    """``frames`` (PNG files of one size) as H.264 at ``output``, ``fps`` / ``fps_base`` of them a second; an odd last
    row or column is left out, as the format has none.  ``heard``: with the scene's sound from the first to the last of
    these frames of Blender's.  Returns ``output``.

    Raises `SettingsError` when a frame is narrower than two pixels, `StorageError`, `JobCancelled`.
    """
    report = Reporter(spans={"encoding video": (0.0, 1.0)})
    try:
        height, width = (side // 2 * 2 for side in decode_png(Path(frames[0]).read_bytes()).shape[:2])
        if not width or not height:
            raise SettingsError("A movie needs frames of two pixels a side at least.")
        draft = output.with_name(f".{output.stem}.part{SUFFIX}")
        sound = None if heard is None else (yield from source.sound(heard))
        if heard is not None and sound is None:
            yield report(Log("This Blender cannot write sound: the movie is silent."))
        request = {
            "movies": [
                {
                    "frames": [str(frame) for frame in frames],
                    "output": str(draft),
                    "sound": None if sound is None else str(sound),
                }
            ],
            "size": [width, height],
            "fps": fps,
            "fps_base": fps_base,
        }
        try:
            yield from source.movies(request, report)
            if not draft.is_file() or not draft.stat().st_size:
                raise StorageError(f"Blender has not written {output.name}; export the frames or a sheet instead.")
            draft.replace(output)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror or error}.") from error
    finally:
        source.close()
    return output
