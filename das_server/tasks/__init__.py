# SPDX-License-Identifier: GPL-3.0-or-later
"""Control tasks: one file each, each with ``check(spec, inputs, model)`` (no torch) and ``run(spec, inputs, context)``."""
