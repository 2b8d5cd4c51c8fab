"""Explain why the tensors of a checkpoint do not match its config.

Called when a check failed: considers all names and shapes together, and names the tool
that wrote the checkpoint (`tool_signatures`) or the wrong size in `config.json`. Reads
no file.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tool_signatures import find_signature, read_quant_method
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import FLOATS, Layout

Stored = Mapping[str, StoredTensor]

OWN_CONFIG = "take the `config.json` that was saved with these weights"
EVERY_LAYER = "model.layers.{n}."


@dataclass(frozen=True)
class Evidence:
    """A size of `config.json`, and a never-packed tensor that shows it.

    The size is that of `axis`, divided by `parts`.
    """

    key: str
    tensor: str
    axis: int
    parts: int = 1


EVIDENCE = (
    Evidence("vocab_size", "model.embed_tokens.weight", 0),
    Evidence("vocab_size", "lm_head.weight", 0),
    Evidence("hidden_size", "model.norm.weight", 0),
    Evidence("hidden_size", EVERY_LAYER + "input_layernorm.weight", 0),
    Evidence("num_attention_heads", EVERY_LAYER + "self_attn.sinks", 0),
    Evidence("num_local_experts", EVERY_LAYER + "mlp.router.bias", 0),
    Evidence("num_local_experts", EVERY_LAYER + "mlp.experts.gate_up_proj.bias", 0),
    Evidence("num_local_experts", EVERY_LAYER + "mlp.experts.gate_proj.bias", 0),
    Evidence("num_local_experts", EVERY_LAYER + "mlp.experts.down_proj.bias", 0),
    Evidence("intermediate_size", EVERY_LAYER + "mlp.experts.gate_up_proj.bias", 1, 2),
    Evidence("intermediate_size", EVERY_LAYER + "mlp.experts.gate_proj.bias", 1),
)


def explain_mismatch(
    raw: Mapping[str, Any], config: ModelConfig, layout: Layout | None, stored: Stored
) -> str | None:
    """Explain the fault of a checkpoint as a whole, or return None."""
    found = find_signature(stored)
    if found is not None:
        name, what = found
        return f"tensor `{name}` in `{stored[name].file}` {what}"
    if layout is None:
        return None
    method = read_quant_method(raw)
    if method is not None and "quantization" not in raw and all_floats(stored):
        return (
            f"`config.json` says `quant_method` = {method!r}, but the tensors are not "
            "quantized: remove `quantization_config` from it"
        )
    return explain_sizes(config, layout, stored)


def explain_sizes(config: ModelConfig, layout: Layout, stored: Stored) -> str | None:
    """Explain how tensors with gpt-oss's names contradict `config.json`, or None."""
    return (
        explain_layer_count(config, layout, stored)
        or explain_wrong_sizes(config, layout, stored)
        or explain_missing_head(layout, stored)
    )


def all_floats(stored: Stored) -> bool:
    return all(tensor.dtype in FLOATS for tensor in stored.values())


def explain_layer_count(
    config: ModelConfig, layout: Layout, stored: Stored
) -> str | None:
    """Compare the stored layers with `num_hidden_layers`."""
    there = find_layers(layout, stored)
    count, said = len(there), config.num_hidden_layers
    if not there or there == set(range(said)):
        return None
    file = next(iter(stored.values())).file
    missing = sorted(set(range(max(there) + 1)) - there)
    if missing:
        return (
            f"layer {missing[0]} of {max(there) + 1} is missing from `{file.parent}`: "
            "if it was removed, renumber the layers without a gap; if not, a file "
            "is missing"
        )
    if count < said:
        return (
            f"`{file.parent}` holds {count} layers, `config.json` says "
            f"`num_hidden_layers` = {said}: if layers were removed, set it to {count} "
            f"(with {count} `layer_types`); if not, a file is missing"
        )
    return (
        f"`{file.parent}` holds {count} layers, `config.json` says "
        f"`num_hidden_layers` = {said}: set it to {count} (with {count} "
        f"`layer_types`), or {OWN_CONFIG}"
    )


def find_layers(layout: Layout, stored: Stored) -> set[int]:
    first = layout.stored_name(EVERY_LAYER.format(n=0) + "input_layernorm.weight")
    before = re.escape(first.partition(".0.")[0])
    found = (re.match(rf"{before}\.(\d+)\.", name) for name in stored)
    return {int(match[1]) for match in found if match}


def explain_wrong_sizes(
    config: ModelConfig, layout: Layout, stored: Stored
) -> str | None:
    """Compare the sizes in `config.json` with those of the tensors."""
    wrong: dict[str, int] = {}
    for key in dict.fromkeys(evidence.key for evidence in EVIDENCE):
        sizes = dict(find_sizes(key, config, layout, stored))
        if len(set(sizes.values())) > 1:
            return describe_disagreement(key, sizes)
        for size in sizes.values():
            if size != getattr(config, key):
                wrong[key] = size
    wrong |= find_wrong_heads(config, layout, stored, wrong)
    if not wrong:
        return None
    said = ", ".join(f"`{key}` = {getattr(config, key)}" for key in wrong)
    true = ", ".join(map(str, wrong.values()))
    return (
        f"`config.json` has {said}, the weights in "
        f"`{next(iter(stored.values())).file.parent}` have {true}: correct it there, "
        f"or {OWN_CONFIG}"
    )


def find_sizes(
    key: str, config: ModelConfig, layout: Layout, stored: Stored
) -> Iterator[tuple[str, int]]:
    """Yield the tensors that show a size, each with its value."""
    for evidence in EVIDENCE:
        if evidence.key != key:
            continue
        layers = config.num_hidden_layers if "{n}" in evidence.tensor else 1
        for n in range(layers):
            tensor = stored.get(layout.stored_name(evidence.tensor.format(n=n)))
            if tensor is not None and len(tensor.shape) > evidence.axis:
                yield tensor.name, tensor.shape[evidence.axis] // evidence.parts


def describe_disagreement(key: str, sizes: Mapping[str, int]) -> str:
    """Name two tensors that show different values of one size."""
    (first, one), *rest = sizes.items()
    other, another = next((x, n) for x, n in rest if n != one)
    return (
        f"tensor `{first}` says that `{key}` is {one}, tensor `{other}` {another}: "
        "gpt-oss has one value throughout, so change all such tensors alike or use "
        "the unmodified model"
    )


def find_wrong_heads(
    config: ModelConfig, layout: Layout, stored: Stored, wrong: Mapping[str, int]
) -> dict[str, int]:
    """Derive the sizes of heads from separate biases of q and k."""

    def rows(name: str) -> int | None:
        tensor = stored.get(layout.stored_name(f"model.layers.0.self_attn.{name}.bias"))
        return tensor.shape[0] if tensor is not None and tensor.shape else None

    q, k = rows("q_proj"), rows("k_proj")
    heads = wrong.get("num_attention_heads", config.num_attention_heads)
    if not q or not k or q == k or not heads or q % heads:
        return {}
    found = {"head_dim": q // heads, "num_key_value_heads": k * heads // q}
    return {key: size for key, size in found.items() if size != getattr(config, key)}


def explain_missing_head(layout: Layout, stored: Stored) -> str | None:
    """Explain that the output head is missing while the embedding is present."""
    embedding = stored.get(layout.stored_name("model.embed_tokens.weight"))
    name = layout.stored_name("lm_head.weight")
    head = name.removesuffix("weight")
    if embedding is None or any(other.startswith(head) for other in stored):
        return None
    return (
        f"`{embedding.file}` has no output head (`{name}`), as if it were tied to the "
        "embedding: save the model with its own head, gpt-oss is not tied"
    )
