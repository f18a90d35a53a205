# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry → tracking video, and key pictures → what they show of every frame.  numpy only."""
