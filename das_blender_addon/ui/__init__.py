# SPDX-License-Identifier: GPL-3.0-or-later
"""What a window shows: properties, preferences, panels, operators, and the running job."""
