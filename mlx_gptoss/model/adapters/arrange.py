"""Updates of the matrices that a model has in memory, from those of a checkpoint's.

A checkpoint has q, k and v apart and gate and up interleaved; in memory q, k and v may
be one matrix, and gate and up two. Modules are named relative to their layer:
`self_attn.qkv_proj`, `mlp.router`, `mlp.experts.gate_up_proj`; `lm_head` belongs to no
layer.
"""

from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import (
    LAYER_MATRICES,
    PACKED,
    Structure,
    dimensions,
    fuses_qkv,
)
from mlx_gptoss.model.adapters.adapter import LowRank

TOP = -1  # the key of what belongs to no layer
LM_HEAD_MODULE = "lm_head"
QKV = tuple(f"self_attn.{x}_proj" for x in "qkv")
GATE_UP = "mlp.experts.gate_up_proj"
UNCHANGED = ("self_attn.o_proj", "mlp.router", "mlp.experts.down_proj")

Modules = Mapping[str, LowRank]


def arrange_updates(
    updates: Modules, config: ModelConfig, structure: Structure
) -> dict[int, dict[str, LowRank]]:
    """Return updates by layer and module, as `structure` has them; evaluates nothing.

    Layers without an update are left out.
    """
    found = {TOP: {name: x for name, x in updates.items() if name == LM_HEAD_MODULE}}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        own = {
            name.removeprefix(prefix): update
            for name, update in updates.items()
            if name.startswith(prefix)
        }
        fused = fuses_qkv(structure, layer)
        packed = structure.experts == PACKED
        found[layer] = dict(_layer_updates(own, config, fused=fused, packed=packed))
    return {layer: modules for layer, modules in found.items() if modules}


def _layer_updates(
    own: Modules, config: ModelConfig, *, fused: bool, packed: bool
) -> Iterator[tuple[str, LowRank]]:
    qkv = [own.get(name) for name in QKV]
    if not fused:
        yield from ((name, x) for name, x in zip(QKV, qkv, strict=True) if x)
    elif any(qkv):
        sizes = dimensions(config)
        outputs = [sizes[LAYER_MATRICES[name][1][0]] for name in QKV]
        yield "self_attn.qkv_proj", join_outputs(qkv, outputs)
    gate_up = own.get(GATE_UP)
    if gate_up is not None and packed:
        yield GATE_UP, gate_up
    elif gate_up is not None:
        a, b = gate_up.a, gate_up.b
        yield "mlp.experts.gate_proj", LowRank(a, mx.contiguous(b[..., 0::2]))
        yield "mlp.experts.up_proj", LowRank(a, mx.contiguous(b[..., 1::2]))
    for name in UNCHANGED:
        if name in own:
            yield name, own[name]


def join_outputs(parts: Sequence[LowRank | None], outputs: Sequence[int]) -> LowRank:
    """Make one update of matrices whose outputs lie side by side.

    The rank is the sum of the parts', `b` is block-diagonal.
    """
    a, b, start = [], [], 0
    for part, size in zip(parts, outputs, strict=True):
        if part is not None:
            after = sum(outputs) - start - size
            a.append(part.a)
            b.append(mx.pad(part.b, [(0, 0), (start, after)]))
        start += size
    return LowRank(mx.concatenate(a, axis=-1), mx.concatenate(b, axis=-2))
