# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditioning → latents → frames: what is the same for any family of models, and a room for each family."""
