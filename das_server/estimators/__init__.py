# SPDX-License-Identifier: GPL-3.0-or-later
"""What measures pictures and clips: one file for each way, loaded in a worker only."""
