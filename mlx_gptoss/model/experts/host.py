"""One expert at a time in numpy, for prefill and batches on a CPU.

MLX's quantized products on a CPU are scalar loops that decode a matrix again for each
row, and its exponential is ten times slower than numpy's. Here a matrix is decoded once
for all rows that chose its expert. Evaluates its arguments, so it has no gradient.

Dimensions: R rows, M hidden size, F intermediate size.
"""

from collections.abc import Callable, Mapping

import numpy as np

SWISH_SLOPE = 1.702

# Returns the product (R, out), biases included, of x (R, in).
Multiply = Callable[[np.ndarray], np.ndarray]


def feed_forward(
    x: np.ndarray, projections: Mapping[str, Multiply], limit: float
) -> np.ndarray:
    """Run x (R, M) float32 through gate, up and down -> (R, M)."""
    if "gate_up_proj" in projections:
        z = projections["gate_up_proj"](x)
        gate, up = z[:, 0::2], z[:, 1::2]
    else:
        gate, up = projections["gate_proj"](x), projections["up_proj"](x)
    return projections["down_proj"](swiglu(gate, up, limit))


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
