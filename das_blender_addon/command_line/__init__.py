# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands are made of: their arguments, what they say, where results go, what an opened file lacks."""
