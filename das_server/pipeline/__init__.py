# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditioning → latents → frames: the numbered recipe (`pipeline`) and what it stands on."""
