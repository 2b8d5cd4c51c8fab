"""The activation of experts, and its gradient.

In training only its inputs are kept: MLX's own gradient keeps what each operation
returns, seven values for one, and takes twice as many operations.
"""

from typing import cast

import mlx.core as mx

from mlx_gptoss.model.device import as_now, use_gpu_paths
from mlx_gptoss.model.experts.host import SWISH_SLOPE


def swiglu_plain(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Return swish(gate) * (up + 1); the gate is clamped from above only."""
    gate = mx.minimum(gate, limit)
    up = mx.clip(up, -limit, limit)
    return gate * mx.sigmoid(SWISH_SLOPE * gate) * (up + 1)


def swiglu_gradient(
    gate: mx.array, up: mx.array, cotangent: mx.array, limit: float
) -> tuple[mx.array, mx.array]:
    """Return the gradients of gate and up; that of a clamped value is zero."""
    clamped = mx.minimum(gate, limit)
    share = mx.sigmoid(SWISH_SLOPE * clamped)
    swish = clamped * share
    slope = share + SWISH_SLOPE * swish * (1 - share)
    along = cotangent * (mx.clip(up, -limit, limit) + 1) * slope
    of_gate = mx.where(gate <= limit, along, 0.0)
    return of_gate, mx.where(mx.abs(up) <= limit, cotangent * swish, 0.0)


_swiglu_compiled = mx.compile(swiglu_plain, shapeless=True)
_gradient_compiled = mx.compile(swiglu_gradient, shapeless=True)


def swiglu(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Run `swiglu_plain`, compiled to one kernel on a GPU.

    MLX compiles for a CPU too, but by starting a C++ compiler.
    """
    if use_gpu_paths():
        return _swiglu_compiled(gate, up, limit)
    return swiglu_plain(gate, up, limit)


def swiglu_in_training(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Return the same as `swiglu`, keeping gate and up for the gradient."""

    @mx.custom_function
    def activate(gate: mx.array, up: mx.array) -> mx.array:
        return swiglu(gate, up, limit)

    @activate.vjp
    @as_now
    def gradient(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
    ) -> tuple[mx.array, mx.array]:
        return _gradient(*primals, cotangent, limit)

    return cast(mx.array, activate(gate, up))


def interleaved_swiglu_in_training(z: mx.array, limit: float) -> mx.array:
    """Return the same of gate and up in turn, z (..., 2 F) -> (..., F)."""

    @mx.custom_function
    def activate(z: mx.array) -> mx.array:
        return swiglu(z[..., 0::2], z[..., 1::2], limit)

    @activate.vjp
    @as_now
    def gradient(z: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        both = _gradient(z[..., 0::2], z[..., 1::2], cotangent, limit)
        return mx.stack(list(both), axis=-1).reshape(z.shape)

    return cast(mx.array, activate(z))


def _gradient(
    gate: mx.array, up: mx.array, cotangent: mx.array, limit: float
) -> tuple[mx.array, mx.array]:
    if use_gpu_paths():
        return _gradient_compiled(gate, up, cotangent, limit)
    return swiglu_gradient(gate, up, cotangent, limit)
