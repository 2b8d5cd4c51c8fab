"""Exact rotary positions with YaRN scaling; knows nothing of heads or caches.

gpt-oss sets `truncate: false`: the bounds of YaRN's ramp are real numbers. Rounding
them, as is common, moves 9 of 32 frequencies by up to 76 %.

YaRN's factor `0.1 ln(factor) + 1` on cos and sin is not applied here. It multiplies
every q·k by its square, so `attention_scale` includes it.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_gptoss.format.config import ModelConfig, RopeScaling
from mlx_gptoss.model.device import use_gpu_paths

Rotation = Callable[[mx.array], mx.array]

MIN_RAMP_WIDTH = 0.001  # where the bounds coincide; as in the reference


def yarn_periods(config: ModelConfig) -> np.ndarray:
    """Return the periods (D/2,) in float64: angle in radians = position / period.

    "NTK by parts" (arXiv 2309.00071): fast pairs keep their period, slow ones are
    stretched by `factor`, and a linear ramp blends the two.
    """
    pairs = config.head_dim // 2
    periods = config.rope_theta ** (np.arange(pairs) / pairs)
    scaling = config.rope_scaling
    if scaling is None:
        return periods
    low, high = ramp_bounds(config, scaling)
    ramp = np.clip((np.arange(pairs) - low) / (high - low), 0, 1)
    return 1 / (ramp / (scaling.factor * periods) + (1 - ramp) / periods)


def ramp_bounds(config: ModelConfig, scaling: RopeScaling) -> tuple[float, float]:
    """Return the pairs, as real numbers, where stretching starts and is complete."""
    pairs = config.head_dim // 2
    context = scaling.original_max_position_embeddings

    def pair_turning(rotations: float) -> float:
        turns = math.log(context / (rotations * 2 * math.pi))
        return pairs * turns / math.log(config.rope_theta)

    low, high = pair_turning(scaling.beta_fast), pair_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    return low, max(high, low + MIN_RAMP_WIDTH)


def attention_scale(config: ModelConfig) -> float:
    """Return the factor on q·k: 1/sqrt(D) times YaRN's factor squared."""
    scale = config.head_dim**-0.5
    if config.rope_scaling is not None:
        scale *= (0.1 * math.log(config.rope_scaling.factor) + 1) ** 2
    return scale


def make_rotation(
    periods: np.ndarray,
    offset: int | Sequence[int],
    length: int,
    *,
    neighbours: bool = False,
) -> Rotation:
    """Return a function that rotates (B, heads, length, D) starting at `offset`.

    Rows at different positions have one offset each. A pair is a value of the first
    half of a head and one of the second, or two `neighbours`. Called once per pass for
    all layers. A GPU uses MLX's fused kernel. On a CPU that is a dozen operations per
    call, so cos and sin are computed here once, from float64 angles: float32 angles
    are off by 0.002 at position 100,000.
    """
    pairs = len(periods)
    if use_gpu_paths():
        frequencies = mx.array(periods, mx.float32)
        return lambda x: mx.fast.rope(
            x,
            2 * pairs,
            traditional=neighbours,
            base=None,
            scale=1.0,
            offset=offset
            if isinstance(offset, int)
            else mx.array(list(offset), mx.int32),
            freqs=frequencies,
        )
    starts = np.reshape(offset, (-1, 1, 1, 1))  # (B or 1, 1, 1, 1)
    angles = (starts + np.arange(length)[:, None]) / periods
    cos, sin = np.cos(angles), np.sin(angles)
    if neighbours:
        return rotate_neighbours(cos, sin)
    # (B or 1, 1, L, D)
    cosines = mx.array(np.concatenate([cos, cos], axis=-1), mx.float32)
    sines = mx.array(np.concatenate([-sin, sin], axis=-1), mx.float32)

    def rotate(x: mx.array) -> mx.array:
        swapped = mx.concatenate([x[..., pairs:], x[..., :pairs]], axis=-1)
        return (x * cosines + swapped * sines).astype(x.dtype)

    return rotate


def rotate_neighbours(cos: np.ndarray, sin: np.ndarray) -> Rotation:
    """Return a function that rotates pairs of neighbours; cos, sin (B or 1, 1, L, D/2).

    A pair is a complex number, so a rotation is one product.
    """
    turns = mx.array((cos + 1j * sin).astype(np.complex64))

    def rotate(x: mx.array) -> mx.array:
        turned = x.astype(mx.float32).view(mx.complex64) * turns
        return turned.view(mx.float32).astype(x.dtype)

    return rotate
