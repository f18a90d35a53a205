# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture with depth, and what becomes of it: meshes, layers behind things that move, camera paths.  numpy only."""
