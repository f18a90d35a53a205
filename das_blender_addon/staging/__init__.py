# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage becomes a Blender scene: objects, a camera, keyframes."""
