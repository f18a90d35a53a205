# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry → tracking video: cameras, colours, the rasteriser and framing.  numpy only."""
