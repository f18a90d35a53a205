# SPDX-License-Identifier: GPL-3.0-or-later
"""Models as data: which there are (`registry`), where their files are (`checkpoint`), and the transformer itself."""
