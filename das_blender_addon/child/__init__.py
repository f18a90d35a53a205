# SPDX-License-Identifier: GPL-3.0-or-later
"""A second Blender: the copy that it opens, the process and its talk, and what runs in it."""
