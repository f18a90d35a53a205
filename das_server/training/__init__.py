# SPDX-License-Identifier: GPL-3.0-or-later
"""Training: recipes, synthetic clips, the published objective, the loop.  Imported only where a model is trained."""
