# SPDX-License-Identifier: GPL-3.0-or-later
"""Control tasks, one file each: ``check(spec, inputs, model)`` without torch and ``run(spec, inputs, context)``."""
