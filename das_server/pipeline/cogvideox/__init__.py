# SPDX-License-Identifier: GPL-3.0-or-later
"""The family of CogVideoX with a tracking branch: the published model and the embedded preview model."""
