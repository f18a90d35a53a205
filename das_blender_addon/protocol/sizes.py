# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sizes a model makes: those of its list and, where it states one, those of its range.  Read by both sides, so
that the extension refuses what the server would refuse, in the same words.
"""

from __future__ import annotations

from .messages import ModelCapability

_MOST = 1 << 32
"""Pixels of a side beyond which a size is only brought back into the range, not kept in shape."""


def makes_size(model: ModelCapability, width: int, height: int) -> bool:
    """Whether ``model`` makes clips of ``width`` × ``height`` pixels."""
    if [width, height] in [list(size) for size in model.sizes]:
        return True
    about = model.size_range
    return (
        about.multiple > 0
        and width % about.multiple == 0
        and height % about.multiple == 0
        and max(about.smallest, 1) <= min(width, height) <= about.shorter
        and max(width, height) <= about.longer
    )


def nearest_size(model: ModelCapability, width: int, height: int) -> tuple[int, int]:
    """The (width, height) that ``model`` makes nearest to the given one: made smaller in its shape as far as needed,
    then rounded.  Without a range, the size of the list whose sides differ least."""
    if makes_size(model, width, height):
        return width, height
    about = model.size_range
    if about.multiple > 0:
        sides = [min(max(side, 1), _MOST) / about.multiple for side in (width, height)]
        least = max(1, -(-about.smallest // about.multiple))
        longer, shorter = about.longer // about.multiple, about.shorter // about.multiple
        scale = min(1.0, longer / max(sides), shorter / min(sides))
        near = tuple(max(least, int(side * scale + 0.5)) * about.multiple for side in sides)
        if makes_size(model, *near):
            return near
    near = _by_distance(model, width, height)[0]
    return near[0], near[1]


def advice(model: ModelCapability, width: int, height: int) -> str:
    """What to use instead of a size that ``model`` does not make, as the end of a sentence."""
    if model.size_range.multiple > 0:
        near = nearest_size(model, width, height)
        return f"use {near[0]}×{near[1]}, the nearest, or other {sizes_in_words(model)}"
    sizes = ", ".join(f"{one}×{other}" for one, other in _by_distance(model, width, height)[:12])
    return f"use {'one of ' if len(model.sizes) > 1 else ''}{sizes}"


def sizes_in_words(model: ModelCapability) -> str:
    """The range as "multiples of 8 from 48×48 to 360×240 or 240×360"; the whole list for a model without one."""
    about = model.size_range
    if about.multiple <= 0:
        return ", ".join(f"{width}×{height}" for width, height in model.sizes)
    most = dict.fromkeys((f"{about.longer}×{about.shorter}", f"{about.shorter}×{about.longer}"))
    return f"multiples of {about.multiple} from {about.smallest}×{about.smallest} to {' or '.join(most)}"


def _by_distance(model: ModelCapability, width: int, height: int) -> list[list[int]]:
    """The sizes of the list, nearest first."""
    return sorted(model.sizes, key=lambda size: abs(size[0] - width) + abs(size[1] - height))
