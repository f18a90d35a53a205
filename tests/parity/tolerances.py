# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a result may lie from the published one, and why.

Another processor rounds differently: it adds in another order, fuses a multiplication with an addition, and its sine,
logarithm and exponential differ in the last bit.  The published numbers are those of one processor (AMD, AVX-512).
*Measured* is the largest difference seen on SSE4.2, AVX2 and AVX-512, as Intel and as AMD, and with every level that
``ATEN_CPU_CAPABILITY``, ``ONEDNN_MAX_CPU_ISA`` and ``MKL_CBWR`` offer; each tolerance is several times that.
"""

import math

NOISE_SCHEDULE_ATOL = 1e-12
"""A product of 1000 factors in float64, each rounded about three times: at most 1000 · 3 · 2⁻⁵³ = 3.3e-13; measured
2.8e-16."""

ROTARY_ATOL = 1e-6
"""Sines and cosines in float32 of angles below 16, whose last bit is 2⁻²⁰ = 9.5e-7; measured 0."""

DRAW_ATOL = 1e-5
"""Normal numbers in float32, out of the same bits by a logarithm, a root and a cosine, below 6 (2⁻²¹ = 4.8e-7 a
rounding); measured 9e-8."""

EMBEDS_ATOL = 5e-5
"""The text encoder in float32, values up to 4 (2⁻²² = 2.4e-7 a rounding) through its layers; measured 6.0e-6."""

STEP_ATOL = 1e-5
"""One step of the sampler in float32, values up to 11: ten roundings of at most 2⁻²⁰ = 9.5e-7; measured 1.1e-6."""

FLOAT32_ATOL = 5e-5
"""The transformer in float32, values up to 5: sums of up to 256 products in another order, through three blocks;
measured 9.3e-6."""

INTERMEDIATE_ATOL = 1e-4
"""The same within the transformer, where the residual streams reach 8; measured 1.1e-5."""

PREDICTION_ATOL = 1e-4
"""Clean latents out of the transformer's output in float32, values up to 5; measured 8.8e-6."""

LATENT_ATOL = 1e-4
"""Latents of up to 6 in float32, through the VAE and four steps of the transformer; measured 9.5e-6."""

FRAME_LEVELS, FRAME_SHARE = 1, 0.001
"""A value on the edge between two grey levels falls to either side: by one level, and rarely; measured: one level, at
a share of 0.00005."""

BFLOAT16_RELATIVE_RMS = 0.02
"""bfloat16 keeps eight bits.  The published bfloat16 results lie 0.85 % (root mean square) from the published float32
ones; roundings as large and independent of these are √2 · 0.85 % = 1.2 % away; measured 0.77 %."""

BFLOAT16_LATENT_ATOL = 0.25
"""The largest of 54 000 such differences, on latents of up to 6; measured 0.082."""

BFLOAT16_FRAME_LEVELS = 2.0
"""Their mean in grey levels; the published bfloat16 frames lie 0.86 from the float32 ones; measured 0.84."""

LOSS_RELATIVE = 1e-5
"""A mean of 27 000 squares in float32, whose roundings mostly cancel; measured 2.0e-7."""

LOSS_AGAIN_RELATIVE = 1e-4
"""The same loss out of the predicted clean latents, by a division that magnifies their roundings; measured 1e-7."""

GRADIENT_RELATIVE = 1e-4
"""Gradients in float32, each a sum over all tokens, back through three blocks; measured 3.4e-6."""

GUIDANCE_ULPS = 2


def guidance_atol(num_steps: int, timestep: int, guidance_scale: float) -> float:
    """Of guidance in float64: 1e-12, and what its angle's last bits make of it.  The angle π·((N − t)/N)⁵ reaches 1e15
    and its cosine shows every bit of the C library's power; measured 0.
    """
    angle = math.pi * abs((num_steps - timestep) / num_steps) ** 5
    return guidance_scale * (GUIDANCE_ULPS * math.ulp(angle) + 1e-12)
