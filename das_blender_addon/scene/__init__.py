# SPDX-License-Identifier: GPL-3.0-or-later
"""A Blender scene, read: its geometry, cameras, colours and strips."""
