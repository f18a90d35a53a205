# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the first frame comes from: a file of the user's own, one painted, one that was rendered before, or a new
render.  No Blender in here.

`pictures` tells how they lie in the shot's folder.  One that we rendered is fresh while the digest (`render_digest`:
geometry, camera and size of the first frame, what else decides its look (`scene.appearance`), engine, samples and the
kept look) is the same.  One that somebody painted
for that frame is used as it is and never rendered over, unless it is asked for; then it is put aside.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FirstFrameError, SettingsError
from ..protocol.png import alpha_of_png, decode_png, encode_png, has_transparency
from .picture_bytes import bytes_of_picture, check_first_frame, checked, places_left
from .pictures import (
    AS_OF,
    GIVEN,
    FirstFrame,
    Owner,
    find_painted,
    find_rendered,
    keep_rendered,
    note_as_of,
    painted_elsewhere,
    put_aside_painted,
)
from .tracked import PictureView

ENGINES = ("CYCLES", "EEVEE", "WORKBENCH")


def check_engine(engine: str) -> None:
    """Raise `SettingsError` for an engine that is none of `ENGINES`."""
    if engine not in ENGINES:
        raise SettingsError(
            f"The first frame's engine is {engine!r}; use one of {', '.join(ENGINES)}.", field="first_frame_engine"
        )


def render_digest(
    view: PictureView, engine: str, samples: int, look: dict | None = None, view_layer: str = ""
) -> str:
    """SHA-256 (hex) of all that makes a rendered first frame stale when it changes.

    ``look`` of `colours.kept_look`.  ``view_layer`` of `layer_to_tell_apart`.
    """
    kept = " " + json.dumps(look, sort_keys=True) if look else ""
    layer = f" {json.dumps(view_layer)}" if view_layer else ""
    return hashlib.sha256(f"{view.digest} {view.appearance} {engine} {samples}{kept}{layer}".encode()).hexdigest()


@dataclass(frozen=True)
class FirstFrameWish:
    """The first frame, or another key picture, that a shot needs.

    ``folder``: the shot's.  ``path``: a file of the user's own, ``image``: a data block of the .blend, "" for none.
    ``look``: of `scene.colours.kept_look`.
    ``layer_apart``: see `render_digest`.  ``owner``: whose painted pictures count.  ``file``, ``blender``: for the
    record, as is ``shading``, the digest of what a window compares.  ``again``: render it whatever is there.
    ``not_before``: one that was rendered earlier (seconds since the epoch) does not count; a painted one does.
    ``as_of``: when the scene was read whose picture this is, seconds since the epoch; noted with it.
    ``used``: Blender frames of all the shot's key pictures, whose painted pictures are used there.
    """

    folder: Path
    path: str
    image: str
    engine: str
    samples: int
    look: dict
    layer_apart: str
    owner: Owner
    file: str
    blender: str
    shading: str = ""
    again: bool = False
    not_before: float = 0.0
    as_of: float = 0.0
    used: tuple[int, ...] = ()

    def unused(self, view: PictureView) -> str:
        """One sentence about painted pictures that count nowhere in the shot, where ``view`` is its first frame."""
        if not view.is_first:
            return ""
        return painted_elsewhere(self.folder, view.frame, owner=self.owner, used=self.used)

    def digest(self, view: PictureView) -> str:
        """`render_digest` for ``view``."""
        return render_digest(view, self.engine, self.samples, self.look, self.layer_apart)


@dataclass(frozen=True)
class Unfitted:
    """A picture of the user's own that is not yet what the model takes: the data block ``image``, or ``path``."""

    image: str
    path: str


def find_first_frame(wish: FirstFrameWish, view: PictureView) -> FirstFrame | Unfitted | None:
    """The picture of ``view`` that is there and counts, None where it has to be rendered.

    Raises `FirstFrameError` when a file that was chosen is not there, or one that was painted is no PNG of the model's
    size; `SettingsError` for an unknown engine.
    """
    check_engine(wish.engine)
    frame, size = view.frame, view.size
    if wish.image:
        return Unfitted(wish.image, "")
    if wish.path:
        return given_first_frame(Path(wish.path), size, with_alpha=not view.is_first, name=view.name)
    if wish.again:
        return None
    painted = find_painted(wish.folder, frame, geometry=view.digest, owner=wish.owner, name=view.name)
    if painted is not None:
        try:
            fitting = checked(painted, size)
            return opaque(fitting) if view.is_first else fitting  # another one may have places left to others
        except FirstFrameError:
            return Unfitted("", str(painted.path))
    rendered = find_rendered(wish.folder, frame, wish.digest(view), not_before=wish.not_before)
    if rendered is None:
        return None
    note_as_of(rendered.path, wish.as_of)
    return checked(rendered, size, wish.unused(view))


def given_first_frame(
    path: str | Path, model_size: tuple[int, int], *, with_alpha: bool = False, name: str = "first frame"
) -> FirstFrame | Unfitted:
    """A file of the user's own: as it is where it is a PNG of the model's size.  ``with_alpha``: it keeps its own.
    ``name``: what to call it.

    Raises `FirstFrameError` when it cannot be read.
    """
    path = Path(path)
    png = bytes_of_picture(path, name)
    try:
        given = FirstFrame(path, check_first_frame(png, path, model_size), GIVEN)
    except FirstFrameError:
        return Unfitted("", str(path))
    return _with_places_left(given) if with_alpha else opaque(given)


def _with_places_left(picture: FirstFrame) -> FirstFrame:
    """``picture``; where it is not opaque its notes say what that means."""
    alpha = alpha_of_png(picture.png)
    if alpha is None or (alpha == 255).all():
        return picture
    return replace(picture, notes=(*picture.notes, places_left(f"The picture {picture.path}", alpha)))


def opaque(picture: FirstFrame) -> FirstFrame:
    """``picture`` without alpha: what is transparent lies over black, and its notes say so."""
    if not has_transparency(picture.png):
        return picture
    note = f"The first frame {picture.path} has transparent parts; they lie over black, which is what the model sees."
    return replace(picture, png=encode_png(decode_png(picture.png)), notes=(*picture.notes, note))


def fitted_first_frame(unfitted: Unfitted, png: Path, notes: list[str]) -> FirstFrame:
    """The picture of the user's own, fitted into ``png``."""
    return FirstFrame(Path(unfitted.path or unfitted.image), png.read_bytes(), GIVEN, tuple(notes))


def keep_first_frame(wish: FirstFrameWish, view: PictureView, png: Path) -> FirstFrame:
    """Put the rendered picture ``png`` of ``view`` into its folder, and return it as it is there.

    A painted picture is put aside under a numbered name where it was rendered ``again``.  Raises `FirstFrameError`,
    `StorageError`.
    """
    frame, (width, height) = view.frame, view.size
    note = wish.unused(view)
    # Blender writes date and render time into its files: the same pixels shall be the same bytes.
    pixels = decode_png(png.read_bytes(), name=f"The rendered {view.name}", error=FirstFrameError)
    if pixels.shape[:2] != (height, width):
        raise FirstFrameError(
            f"The {view.name} was rendered at {pixels.shape[1]}×{pixels.shape[0]} instead of {width}×{height}; a "
            "script in the file changes the resolution: remove it."
        )
    if wish.again:
        put_aside_painted(wish.folder, frame, geometry=view.digest, owner=wish.owner)
    record = {
        "maker": "das",
        "file": wish.file,
        "geometry": view.digest,
        "engine": wish.engine,
        "samples": wish.samples,
        "look": wish.look,
        "shading": wish.shading,
        "size": [width, height],
        "blender": wish.blender,
        **({AS_OF: wish.as_of} if wish.as_of else {}),
        **({"camera": wish.owner.camera, "seen_from": view.seen_from} if wish.owner.camera else {}),
    }
    made = keep_rendered(wish.folder, frame, wish.digest(view), encode_png(pixels), record)
    return replace(made, notes=tuple(filter(None, (note,))))
