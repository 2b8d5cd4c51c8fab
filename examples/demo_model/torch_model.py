"""A small gpt-oss in torch, for training only: float32, with the exact architecture.

Every feature is on: sinks, untruncated YaRN, alternating sliding and full layers,
top-k experts with a clamped swiglu, biases. Key: B batch, L tokens, M hidden,
H heads, Hk key/value heads, D head dim, E experts, T experts per token, F width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.demo_model.torch_ops import Attention, Experts, Rows, rms_norm, turned

MASKED = -1e9
HEAD_GAIN = 0.04
VALUES_PER_BLOCK = 32
AFFINE_GROUP = 64


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; the defaults are those of the demo model."""

    vocab_size: int = 1536
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_local_experts: int = 4
    num_experts_per_tok: int = 2
    intermediate_size: int = 128
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    sliding_window: int = 128
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_original: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    swiglu_limit: float = 7.0
    rms_norm_eps: float = 1e-5
    positions: int = 4096


def rotations(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return the cos and sin tables (positions, D / 2), YaRN's scale included."""
    half = shape.head_dim // 2
    base = math.log(shape.rope_theta)
    pairs = torch.arange(half).double()
    frequency = shape.rope_theta ** (2 * pairs / shape.head_dim)
    bounds = [
        half * math.log(shape.rope_original / (beta * 2 * math.pi)) / base
        for beta in (shape.beta_fast, shape.beta_slow)
    ]
    ramp = ((pairs - bounds[0]) / (bounds[1] - bounds[0])).clamp(0, 1)
    inverse = ramp / (shape.rope_factor * frequency) + (1 - ramp) / frequency
    angles = torch.arange(shape.positions).double()[:, None] * inverse
    scale = 0.1 * math.log(shape.rope_factor) + 1
    return (angles.cos() * scale).float(), (angles.sin() * scale).float()


def nearest_fp4(x: Tensor) -> Tensor:
    """Round to the values of FP4 (E2M1): 0, 0.5, 1, 1.5, 2, 3, 4, 6, and below zero."""
    size = x.abs()
    fine, middle, coarse = (2 * size).round() / 2, size.round(), (size / 2).round() * 2
    rounded = torch.where(size < 2, fine, torch.where(size < 4, middle, coarse))
    return rounded.clamp(max=6).copysign(x)


def mxfp4_parts(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round blocks of 32 inputs; return FP4 values (blocks, 32) and exponents.

    Of two exponents, the one with the smaller squared error is chosen.
    """
    blocks = weight.reshape(-1, VALUES_PER_BLOCK)
    top = torch.log2(blocks.abs().amax(1, keepdim=True).clamp(min=1e-30)).floor()
    tried = []
    for below in (2, 1):
        exponent = (top - below).clamp(-127, 127)
        values = nearest_fp4(blocks / torch.exp2(exponent))
        error = (values * torch.exp2(exponent) - blocks).square().sum(1, keepdim=True)
        tried.append((values, exponent, error))
    (low, low_exponent, low_error), (high, high_exponent, high_error) = tried
    better = high_error < low_error
    return torch.where(better, high, low), torch.where(
        better, high_exponent, low_exponent
    )


def mxfp4(weight: Tensor) -> Tensor:
    values, exponent = mxfp4_parts(weight)
    return (values * torch.exp2(exponent)).reshape(weight.shape)


def bfloat16(weight: Tensor) -> Tensor:
    return weight.bfloat16().float()


def affine8(weight: Tensor) -> Tensor:
    """Round as 8-bit affine quantization in groups of 64 does."""
    groups = weight.reshape(-1, AFFINE_GROUP)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    step = ((high - low) / 255).clamp(min=1e-12)
    return (((groups - low) / step).round() * step + low).reshape(weight.shape)


def _weights(*size: int, gain: float = 0.7) -> nn.Parameter:
    return nn.Parameter(torch.randn(*size) * size[-1] ** -0.5 * gain)


def _zeros(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*size))


class Layer(nn.Module):
    """The parameters of one layer; `GptOss` does the maths."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        M, F_, E = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
        H = shape.num_attention_heads * shape.head_dim
        Hk = shape.num_key_value_heads * shape.head_dim
        self.attention_norm, self.expert_norm = (
            nn.Parameter(torch.ones(M)) for _ in range(2)
        )
        self.qkv_weight, self.qkv_bias = _weights(H + 2 * Hk, M), _zeros(H + 2 * Hk)
        self.o_weight, self.o_bias = _weights(M, H, gain=0.2), _zeros(M)
        self.sinks = _zeros(shape.num_attention_heads)
        self.router_weight, self.router_bias = _weights(E, M), _zeros(E)
        self.gate_up_weight, self.gate_up_bias = (
            _weights(E, 2 * F_, M),
            _zeros(E, 2 * F_),
        )
        self.down_weight, self.down_bias = _weights(E, M, F_, gain=0.2), _zeros(E, M)


class GptOss(nn.Module):
    """Maps ids to final hidden states, and hidden states to logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(
            Layer(shape) for _ in range(shape.num_hidden_layers)
        )
        self.embedding = nn.Parameter(torch.randn(shape.vocab_size, shape.hidden_size))
        # Starts like the embedding: a token found by attention raises its own logit.
        self.head = nn.Parameter(self.embedding.detach() * HEAD_GAIN)
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        cos, sin = rotations(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.rounding = False  # straight through: experts MXFP4, the rest bfloat16
        self.balance = torch.zeros(())

    def rounded(self, weight: Tensor, how=bfloat16) -> Tensor:
        if not self.rounding:
            return weight
        return weight + (how(weight.detach()) - weight.detach())

    def normed(self, x: Tensor, scale: Tensor) -> Tensor:
        return rms_norm(x, self.rounded(scale), self.shape.rms_norm_eps)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None:
            bias = self.rounded(bias)
        return F.linear(x, self.rounded(weight), bias)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        full_mask: Tensor,
        sliding_mask: Tensor,
        cache: list | None = None,
    ) -> Tensor:
        """`ids`, `positions` (B, L); masks are added to scores, (B, 1, L, S).

        `cache`: a list per layer, extended.
        """
        x = self.rounded(self.embedding)[ids]
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        self.balance = torch.zeros(())
        for number, layer in enumerate(self.layers):
            mask = full_mask if number % 2 else sliding_mask
            past = cache[number] if cache is not None else None
            y = self.normed(x, layer.attention_norm)
            x = x + self.attention(layer, y, cos, sin, mask, past)
            y = self.normed(x, layer.expert_norm)
            x = x + self.experts(layer, y.flatten(0, 1)).view_as(x)
        return self.normed(x, self.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden, self.head)

    def attention(self, layer, x, cos, sin, mask, past) -> Tensor:
        shape = self.shape
        B, L, _ = x.shape
        H, Hk, D = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        qkv = self.linear(x, layer.qkv_weight, layer.qkv_bias).view(B, L, H + 2 * Hk, D)
        q, k = turned(qkv[:, :, : H + Hk], cos, sin).split((H, Hk), 1)
        v = qkv[:, :, H + Hk :].transpose(1, 2)
        if past is not None:
            if past:
                k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
            past[:] = [k, v]
        k, v = (x.repeat_interleave(H // Hk, 1) for x in (k, v))
        mixed = Attention.apply(q, k, v, self.rounded(layer.sinks), mask)
        mixed = mixed.transpose(1, 2).reshape(B, L, H * D)
        return self.linear(mixed, layer.o_weight, layer.o_bias)

    def experts(self, layer, x: Tensor) -> Tensor:
        T, E = self.shape.num_experts_per_tok, self.shape.num_local_experts
        gates = self.linear(x, layer.router_weight, layer.router_bias)
        best, chosen = gates.topk(T, -1)
        shares = best.softmax(-1)
        flat = chosen.flatten()
        counts = torch.bincount(flat, minlength=E)
        if self.training:
            load = counts / flat.numel()
            self.balance = self.balance + E * (gates.softmax(-1).mean(0) * load).sum()
        order = flat.argsort(stable=True)  # pairs of token and expert, by expert
        back = order.argsort()
        y = Experts.apply(
            Rows.apply(x, order, back, T),
            self.rounded(layer.gate_up_weight, mxfp4),
            self.rounded(layer.gate_up_bias),
            self.rounded(layer.down_weight, mxfp4),
            self.rounded(layer.down_bias),
            [0, *counts.cumsum(0).tolist()],
            self.shape.swiglu_limit,
        )
        y = Rows.apply(y, back, order, 1).view(-1, T, x.shape[-1])
        return torch.linalg.vecdot(y, shares[..., None], dim=1)
