# SPDX-License-Identifier: GPL-3.0-or-later
"""What reading somebody's file of arrays (.npz, .npy, .json beside them) may end in when it is damaged."""

from __future__ import annotations

import zlib
from zipfile import BadZipFile

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error)
