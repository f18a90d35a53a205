# SPDX-License-Identifier: GPL-3.0-or-later
"""Each thing that a user can ask for of a scene: its recipe, made from the scene, and scripts' way to it."""
