"""Layers to time: linear ones and experts of random weights, and copies of them.

A matrix that is multiplied again and again stays in a cache, and those of a model may
not. So as many copies are timed in turn as a model of its size would have.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import PACKED, Structure
from mlx_gptoss.memory.costs import LARGE
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.model.device import choose_dtype, on_gpu
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.linear import make_linear

EXPERTS = 2  # of a timed layer, both chosen by every row
CACHE_BYTES_CPU, CACHE_BYTES_GPU = 32 * 2**20, 128 * 2**20
FEW_COPIES = 4
EXPONENT_BIAS, FP4_RMS = 127, 2.93
MOST_WORD = 2**31 - 1

Layer = Callable[[mx.array], mx.array]
ModuleKind = TypeVar("ModuleKind", bound=nn.Module)


def cache_bytes() -> int:
    """Return the bytes of weights of which no cache holds any when they come again."""
    return CACHE_BYTES_GPU if on_gpu() else CACHE_BYTES_CPU


def linear_layers(
    M: int, quantization: Quantization | None, *, cold: bool = False
) -> list[Layer]:
    layer = make_linear(M, M, quantization)
    layer.set_dtype(choose_dtype(None))
    layer.update({"bias": mx.ones_like(layer["bias"])})  # else a chain fades to 0
    return [*_copies(layer, cold=cold or M >= LARGE)]


def _copies(layer: ModuleKind, *, cold: bool) -> Iterator[ModuleKind]:
    """Yield a layer and copies of it: if cold, more than any cache holds."""
    layer.eval()
    mx.eval(layer.parameters())
    yield layer
    count = FEW_COPIES
    if cold:
        arrays = dict(tree_flatten(layer.parameters())).values()
        size = sum(array.nbytes for array in arrays)
        count = max(FEW_COPIES, -(-cache_bytes() // size))
    for _ in range(count - 1):
        other = copy.copy(layer)
        other.update(tree_map(lambda array: array + 0, layer.parameters()))
        mx.eval(other.parameters())
        yield other


def expert_layers(M: int, *, cold: bool = False) -> list[Experts]:
    """Return experts of random weights, all chosen by every row."""
    published = find_published_model("gpt-oss-20b")
    assert published is not None
    config = replace(
        published.config,
        hidden_size=M,
        intermediate_size=M,
        num_local_experts=EXPERTS,
        num_experts_per_tok=EXPERTS,
    )
    packing = {"experts.gate_up_proj": MXFP4, "experts.down_proj": MXFP4}
    experts = Experts(config, Structure(packing, PACKED), "experts")
    experts.set_dtype(choose_dtype(None))
    exponent = EXPONENT_BIAS - round(math.log2(FP4_RMS * M**0.5))
    for projection in experts.projections.values():
        shape = projection.weight.shape
        projection.weight = mx.random.randint(0, MOST_WORD, shape).astype(mx.uint32)
        projection.scales = mx.full(projection.scales.shape, exponent, mx.uint8)
        projection.bias = mx.ones_like(projection.bias)
    return list(_copies(experts, cold=cold or M >= LARGE))


def choose_all(apply: Callable[..., mx.array]) -> Layer:
    """Return a layer that sends every row to all experts."""
    is_layer = isinstance(apply, Experts)

    def run(x: mx.array) -> mx.array:
        shape = (len(x), EXPERTS)
        indices = mx.broadcast_to(mx.arange(EXPERTS, dtype=mx.uint32), shape)
        if not is_layer:
            return apply(x, indices).mean(axis=1)
        return apply(x, indices, mx.full(shape, 1 / EXPERTS, x.dtype))

    return run
