# SPDX-License-Identifier: GPL-3.0-or-later
"""The family of Wan VACE: models that paint the holes of a carried video, through diffusers' own parts."""
