# SPDX-License-Identifier: GPL-3.0-or-later
"""What renders and is no mesh, made into triangles: hair, points; and what a mesh's materials leave of it."""
