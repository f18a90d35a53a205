# SPDX-License-Identifier: GPL-3.0-or-later
"""Synthetic clips with exact tracks: `make_clip(seed, bank, …)` gives a rendered video and its tracking video,
`make_keyed_clip` also what key pictures of a longer shot show of it.

Nothing is loaded from files: textures, scenes and motions are drawn from seeded generators, rays are cast by numba.
"""

from .clip import SyntheticClip, make_clip
from .keyed import KeyedClip, make_keyed_clip
from .textures import make_texture_bank

__all__ = ["KeyedClip", "SyntheticClip", "make_clip", "make_keyed_clip", "make_texture_bank"]
