"""Experts that are all in memory, in any form a checkpoint may have them.

Other storage only has to offer what `Experts` does:

    experts(x, chosen, shares) -> y     # (N, M), (N, T), (N, T) -> (N, M)

Knows nothing of routing or of layers. Dimensions: N tokens, T experts per token,
E experts, M hidden size, F intermediate size, R = N * T rows of work.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.config import ModelConfig, Quantization
from mlx_gptoss.layout import PACKED, Structure

SWISH_SLOPE = 1.702

# Sort rows by expert from here on: the gathered kernels of the GPU then read each
# expert once. On a CPU they ignore the order.
SORT_ROWS = 64


class Projection(nn.Module):
    """E matrices of one shape with their biases, packed or dense.

    Packed: weight uint32 [E, out, in / values per word], scales, biases (affine only).
    Dense: weight [E, in, out]. Always: bias [E, out].
    """

    def __init__(
        self, E: int, inputs: int, outputs: int, packing: Quantization | None
    ) -> None:
        super().__init__()
        self.packing = packing
        self.bias = mx.zeros((E, outputs))
        if packing is None:
            self.weight = mx.zeros((E, inputs, outputs))
            return
        groups = inputs // packing.group_size
        words = inputs * packing.bits // 32
        self.weight = mx.zeros((E, outputs, words), mx.uint32)
        if packing.mode == "mxfp4":
            self.scales = mx.zeros((E, outputs, groups), mx.uint8)
        else:
            self.scales = mx.zeros((E, outputs, groups))
            self.biases = mx.zeros((E, outputs, groups))

    def __call__(self, x: mx.array, chosen: mx.array, *, ordered: bool) -> mx.array:
        """Multiply x (..., 1, in) by the chosen matrices (...) -> (..., 1, out)."""
        if self.packing is None:
            y = mx.gather_mm(x, self.weight, rhs_indices=chosen, sorted_indices=ordered)
        else:
            y = mx.gather_qmm(
                x,
                self.weight,
                self.scales,
                self.get("biases"),
                rhs_indices=chosen,
                transpose=True,
                group_size=self.packing.group_size,
                bits=self.packing.bits,
                mode=self.packing.mode,
                sorted_indices=ordered,
            )
        return y + self.bias[chosen][..., None, :]


class Experts(nn.Module):
    """The experts of one layer, resident.

    Gate and up are one `gate_up_proj` with interleaved rows, as OpenAI packed them, or
    two projections, as mlx-lm splits them.
    """

    def __init__(self, config: ModelConfig, structure: Structure, path: str) -> None:
        super().__init__()
        E, M = config.num_local_experts, config.hidden_size
        F = config.intermediate_size
        self.limit = config.swiglu_limit

        def projection(name: str, inputs: int, outputs: int) -> Projection:
            packing = structure.quantization.get(f"{path}.{name}")
            return Projection(E, inputs, outputs, packing)

        self.packed = structure.experts == PACKED
        if self.packed:
            self.gate_up_proj = projection("gate_up_proj", M, 2 * F)
        else:
            self.gate_proj = projection("gate_proj", M, F)
            self.up_proj = projection("up_proj", M, F)
        self.down_proj = projection("down_proj", F, M)

    def __call__(self, x: mx.array, chosen: mx.array, shares: mx.array) -> mx.array:
        """Send x (N, M) through experts (N, T), weighted by shares (N, T) -> (N, M)."""
        N, T = chosen.shape
        if N * T < SORT_ROWS or mx.default_device().type == mx.DeviceType.cpu:
            y = self.work(x[:, None, None], chosen, ordered=False)  # (N, T, 1, M)
            return (y.squeeze(2) * shares[..., None]).sum(axis=1)
        order = mx.argsort(chosen.flatten())
        y = self.work(x[order // T][:, None], chosen.flatten()[order], ordered=True)
        y = y.squeeze(1)[mx.argsort(order)].reshape(N, T, -1)
        return (y * shares[..., None]).sum(axis=1)

    def work(self, x: mx.array, chosen: mx.array, *, ordered: bool) -> mx.array:
        """Run (..., 1, M) through one expert each, (...) -> (..., 1, M)."""
        if self.packed:
            z = self.gate_up_proj(x, chosen, ordered=ordered)
            gate, up = z[..., 0::2], z[..., 1::2]
        else:
            gate = self.gate_proj(x, chosen, ordered=ordered)
            up = self.up_proj(x, chosen, ordered=ordered)
        return self.down_proj(swiglu(gate, up, self.limit), chosen, ordered=ordered)


def swiglu_plain(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Gate `up + 1`; the gate is clamped from above only."""
    gate = mx.minimum(gate, limit)
    up = mx.clip(up, -limit, limit)
    return gate * mx.sigmoid(SWISH_SLOPE * gate) * (up + 1)


_swiglu_compiled = mx.compile(swiglu_plain, shapeless=True)


def swiglu(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Gate `up + 1`, in one kernel on a GPU (a CPU would start a C++ compiler)."""
    if mx.metal.is_available():
        return _swiglu_compiled(gate, up, limit)
    return swiglu_plain(gate, up, limit)
