"""One expert at a time in numpy, for prefill and batches on a CPU.

MLX's quantized products on a CPU are scalar loops that decode a matrix again for each
row, and its exponential is ten times slower than numpy's. Here a matrix is decoded once
for all rows that chose its expert. Evaluates its arguments, so it has no gradient.

Dimensions: R rows, M hidden size, F intermediate size.
"""

from collections.abc import Callable

import numpy as np

SWISH_SLOPE = 1.702

# Multiplies x (R, in) by the projection of a name, with its biases: -> (R, out).
Project = Callable[[str, np.ndarray], np.ndarray]


def feed_forward(
    x: np.ndarray,
    project: Project,
    limit: float,
    *,
    packed: bool,
    joined: bool = False,
) -> np.ndarray:
    """Run x (R, M) float32 through gate, up and down -> (R, M).

    `packed`: gate and up are one projection with interleaved rows, or, `joined`, with
    the rows of gate before those of up.
    """
    if packed:
        z = project("gate_up_proj", x)
        gate, up = np.split(z, 2, axis=1) if joined else (z[:, 0::2], z[:, 1::2])
    else:
        gate, up = project("gate_proj", x), project("up_proj", x)
    return project("down_proj", swiglu(gate, up, limit))


def swiglu(gate: np.ndarray, up: np.ndarray, limit: float) -> np.ndarray:
    """Return swish(gate) * (up + 1) (R, F); the gate is clamped from above only."""
    gate = np.minimum(gate, np.float32(limit))
    y = np.clip(up, np.float32(-limit), np.float32(limit))
    y += 1
    y *= gate
    gate *= np.float32(-SWISH_SLOPE)
    with np.errstate(over="ignore"):  # of a very negative gate; the quotient is 0
        np.exp(gate, out=gate)
    gate += 1
    y /= gate
    return y
