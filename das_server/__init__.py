# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU server of Diffusion as Shader: takes tracking video, first frame and prompt, gives frames."""

__version__ = "0.1.0"
