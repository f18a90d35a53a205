# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for: the settings of a shot, its plan, its folder and its first picture."""
