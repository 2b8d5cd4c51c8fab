"""The costly steps of gpt-oss in training, for CPU cores (torch).

Each computes what its plain expression would; backward passes for which autograd makes
many copies are written out. Key: B batch, H heads, L queries, S keys, D head
dim, N pairs of a token and an expert, E experts.
"""

# pyright: reportMissingImports=false

import itertools
import os
from collections.abc import Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA = 1.702
QUERIES = 192
FUSED = SimpleNamespace(
    forward=torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    backward=torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
)
# Fused pointwise loops; needs a C++ compiler. MLX_GPTOSS_DEMO_COMPILE=0 goes without.
compiled = torch.compile(
    dynamic=True, disable=os.environ.get("MLX_GPTOSS_DEMO_COMPILE") == "0"
)


class Attention(torch.autograd.Function):
    """Attention with sinks on torch's fused kernel, which does not support them.

    The kernel gives the logarithm of each query's sum of weights. A sink adds to
    that sum alone: the kernel's output shrinks by its share, and the kernel's own
    backward pass is right when it is given the shrunk output and the larger sum.
    Queries go in blocks, each with the keys up to its end.
    """

    @staticmethod
    def forward(ctx, q, k, v, sinks, mask):  # q, k, v: (B, H, L or S, D)
        parts, lses = [], []
        for own, seen in blocks(q, k):
            part, lse = FUSED.forward(
                q[:, :, own],
                k[:, :, seen],
                v[:, :, seen],
                attn_mask=mask[:, :, own, seen],
                scale=q.shape[-1] ** -0.5,
            )
            parts.append(part)
            lses.append(lse)
        lse, sink = torch.cat(lses, 2), sinks.view(-1, 1)
        larger = torch.logaddexp(lse, sink)
        mixed = torch.cat(parts, 2) * torch.exp(lse - larger)[..., None]
        ctx.save_for_backward(q, k, v, mask, mixed, larger, sink)
        return mixed

    @staticmethod
    def backward(ctx, grad):
        q, k, v, mask, mixed, larger, sink = ctx.saved_tensors
        to_q, to_k, to_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for own, seen in blocks(q, k):
            to_q[:, :, own], part_k, part_v = FUSED.backward(
                grad[:, :, own],
                q[:, :, own],
                k[:, :, seen],
                v[:, :, seen],
                mixed[:, :, own],
                larger[:, :, own],
                0.0,
                False,
                attn_mask=mask[:, :, own, seen],
                scale=q.shape[-1] ** -0.5,
            )
            to_k[:, :, seen] += part_k
            to_v[:, :, seen] += part_v
        share = torch.exp(sink - larger)
        to_sink = -(share * (grad * mixed).sum(-1)).sum((0, 2))
        return to_q, to_k, to_v, to_sink, None


def blocks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Return slices of the queries and of the keys they see, with equal ends."""
    L, S = q.shape[2], k.shape[2]
    for start in range(0, L, QUERIES):
        end = min(start + QUERIES, L)
        yield slice(start, end), slice(0, S - L + end)


@compiled
def swiglu(inner: Tensor, limit: float) -> Tensor:
    """The gate's half of `inner` comes first, unlike in the published layout."""
    gate, up = inner.chunk(2, -1)
    gate = gate.clamp(max=limit)
    return gate * torch.sigmoid(ALPHA * gate) * (up.clamp(-limit, limit) + 1)


@compiled
def swiglu_gradient(inner: Tensor, grad: Tensor, limit: float) -> Tensor:
    raw_gate, raw_up = inner.chunk(2, -1)
    gate, up = raw_gate.clamp(max=limit), raw_up.clamp(-limit, limit) + 1
    share = torch.sigmoid(ALPHA * gate)
    slope = share * (1 + ALPHA * gate * (1 - share))
    to_gate = torch.where(raw_gate <= limit, grad * up * slope, 0)
    to_up = torch.where(raw_up.abs() <= limit, grad * gate * share, 0)
    return torch.cat((to_gate, to_up), -1)


@compiled
def rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), scale, epsilon)


@compiled
def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of `x` (B, L, H, D); return (B, H, L, D)."""
    left, right = x.chunk(2, -1)
    halves = (left * cos - right * sin, right * cos + left * sin)
    return torch.cat(halves, -1).transpose(1, 2)


class Experts(torch.autograd.Function):
    """Apply expert e to the rows bounds[e] to bounds[e + 1] of `x`.

    Written out because autograd would copy every expert's rows several times.
    """

    @staticmethod
    def forward(ctx, x, gate_up, gate_up_bias, down, down_bias, bounds, limit):
        inner = x.new_empty(len(x), gate_up.shape[1])
        y = torch.empty_like(x)
        parts = list(itertools.pairwise(bounds))
        for e, (a, b) in enumerate(parts):
            torch.addmm(gate_up_bias[e], x[a:b], gate_up[e].T, out=inner[a:b])
        active = swiglu(inner, limit)
        for e, (a, b) in enumerate(parts):
            torch.addmm(down_bias[e], active[a:b], down[e].T, out=y[a:b])
        ctx.save_for_backward(x, gate_up, down, inner, active)
        ctx.parts, ctx.limit = parts, limit
        return y

    @staticmethod
    def backward(ctx, grad):
        x, gate_up, down, inner, active = ctx.saved_tensors
        E, parts, limit = len(down), ctx.parts, ctx.limit
        to_active, to_x = torch.empty_like(active), torch.empty_like(x)
        to_gate_up, to_down = torch.empty_like(gate_up), torch.empty_like(down)
        to_gate_up_bias = gate_up.new_empty(E, gate_up.shape[1])
        to_down_bias = down.new_empty(E, down.shape[1])
        for e, (a, b) in enumerate(parts):
            torch.mm(grad[a:b], down[e], out=to_active[a:b])
            torch.mm(grad[a:b].T, active[a:b], out=to_down[e])
            torch.sum(grad[a:b], 0, out=to_down_bias[e])
        to_inner = swiglu_gradient(inner, to_active, limit)
        for e, (a, b) in enumerate(parts):
            torch.mm(to_inner[a:b], gate_up[e], out=to_x[a:b])
            torch.mm(to_inner[a:b].T, x[a:b], out=to_gate_up[e])
            torch.sum(to_inner[a:b], 0, out=to_gate_up_bias[e])
        return to_x, to_gate_up, to_gate_up_bias, to_down, to_down_bias, None, None


class Rows(torch.autograd.Function):
    """Repeat each row of `x` `times` times, then apply `order`, which `back` undoes."""

    @staticmethod
    def forward(ctx, x, order, back, times):
        ctx.back, ctx.times = back, times
        return x.index_select(0, order // times)

    @staticmethod
    def backward(ctx, grad):
        grads = grad.index_select(0, ctx.back).view(-1, ctx.times, grad.shape[-1])
        return grads.sum(1), None, None, None
