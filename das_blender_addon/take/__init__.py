# SPDX-License-Identifier: GPL-3.0-or-later
"""From a shot to its frames: the recipe and its driver, takes and training clips on disk."""
