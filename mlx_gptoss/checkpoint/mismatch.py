"""Explain why the tensors of a checkpoint do not match its config.

Called when a check failed: considers all names and shapes together, and names the tool
that wrote the checkpoint (`tool_signatures`) or the wrong size in `config.json`. Reads
no file.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.checkpoint.expert_mixtures import and_more, explain_mixture
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tool_signatures import find_signature
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.foreign_forms import USE_SOURCE, describe_method
from mlx_gptoss.format.layout import (
    FLOATS,
    HARMLESS_TENSORS,
    Layout,
    matrices,
    vectors,
)

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


EXPERTS_KEY = "num_local_experts"
EVIDENCE = (
    Evidence("vocab_size", "model.embed_tokens.weight", 0),
    Evidence("vocab_size", "lm_head.weight", 0),
    Evidence("hidden_size", "model.norm.weight", 0),
    Evidence("hidden_size", EVERY_LAYER + "input_layernorm.weight", 0),
    Evidence("num_attention_heads", EVERY_LAYER + "self_attn.sinks", 0),
    Evidence("intermediate_size", EVERY_LAYER + "mlp.experts.gate_up_proj.bias", 1, 2),
    Evidence("intermediate_size", EVERY_LAYER + "mlp.experts.gate_proj.bias", 1),
)
# Of one layer; layers may differ.
EXPERT_EVIDENCE = tuple(
    Evidence(EXPERTS_KEY, EVERY_LAYER + name, 0)
    for name in (
        "mlp.router.bias",
        "mlp.experts.gate_up_proj.bias",
        "mlp.experts.gate_proj.bias",
        "mlp.experts.down_proj.bias",
    )
)


def explain_mismatch(
    raw: Mapping[str, Any], config: ModelConfig, layout: Layout | None, stored: Stored
) -> str | None:
    """Explain the fault of a checkpoint as a whole, or return None."""
    method = describe_method(raw)
    if method is not None and not all(x.dtype in FLOATS for x in stored.values()):
        folder = next(iter(stored.values())).file.parent
        return (
            f"`{folder}` is quantized by {method}, which is not computed here: "
            f"{USE_SOURCE}"
        )
    found = find_signature(stored)
    if found is not None:
        name, what = found
        return f"tensor `{stored[name].name}` in `{stored[name].file}` {what}"
    mixture = explain_mixture(stored)
    if layout is None or mixture is not None:
        return mixture
    return explain_sizes(config, layout, stored) or explain_names(
        config, layout, stored
    )


def explain_sizes(config: ModelConfig, layout: Layout, stored: Stored) -> str | None:
    """Explain how tensors with gpt-oss's names contradict `config.json`, or None."""
    return (
        explain_layer_count(config, layout, stored)
        or explain_wrong_sizes(config, layout, stored)
        or explain_missing_head(config, layout, stored)
    )


def explain_names(config: ModelConfig, layout: Layout, stored: Stored) -> str | None:
    """Explain that some tensors are missing while others have unknown names."""
    needed = list(needed_names(config, layout))
    missing = [name for name in needed if name not in stored]
    known = {*needed, *possible_names(config, layout)}
    unknown = sorted(
        name for name in set(stored) - known if not HARMLESS_TENSORS.fullmatch(name)
    )
    if not missing or not unknown:
        return None
    tensor = stored[unknown[0]]
    return (
        f"`{tensor.file.parent}` has no tensor `{missing[0]}`{and_more(missing)}, but "
        f"`{tensor.name}`{and_more(unknown)}, which gpt-oss has not: another tool's "
        "names or another model's weights, export them under Hugging Face's names"
    )


def needed_names(config: ModelConfig, layout: Layout) -> Iterator[str]:
    """Yield the stored names of weights, biases and vectors."""
    for matrix in matrices(config, layout.experts):
        yield layout.stored_name(f"{matrix.path}.weight")
        if matrix.has_bias:
            yield layout.stored_name(f"{matrix.path}.bias")
    for vector in vectors(config):
        yield layout.stored_name(vector.name)


def possible_names(config: ModelConfig, layout: Layout) -> Iterator[str]:
    """Yield the stored names of what quantized matrices have besides."""
    for matrix in matrices(config, layout.experts):
        for kind in ("scales", "biases"):
            yield layout.stored_name(f"{matrix.path}.{kind}")


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
    wrong: dict[str, Any] = {}
    layers = range(config.num_hidden_layers)
    for key in dict.fromkeys(evidence.key for evidence in EVIDENCE):
        sizes = dict(find_sizes(key, layers, layout, stored))
        if len(set(sizes.values())) > 1:
            return describe_disagreement(key, sizes)
        for size in sizes.values():
            if size != getattr(config, key):
                wrong[key] = size
    wrong |= find_wrong_heads(config, layout, stored, wrong)
    counts = [dict(find_sizes(EXPERTS_KEY, [n], layout, stored)) for n in layers]
    for sizes in counts:
        if len(set(sizes.values())) > 1:
            return describe_disagreement(EXPERTS_KEY, sizes)
    there = [next(iter(sizes.values())) for sizes in counts if sizes]
    if len(there) == len(layers) and there != [*map(config.experts_in, layers)]:
        wrong[EXPERTS_KEY] = there[0] if len(set(there)) == 1 else there
    if not wrong:
        return None
    said = ", ".join(f"`{key}` = {said_size(config, key)}" for key in wrong)
    true = ", ".join(map(str, wrong.values()))
    return (
        f"`config.json` has {said}, the weights in "
        f"`{next(iter(stored.values())).file.parent}` have {true}: correct it there, "
        f"or {OWN_CONFIG}"
    )


def said_size(config: ModelConfig, key: str) -> Any:
    """Return what `config.json` says, a list if its layers differ in experts."""
    by_layer = list(config.experts_by_layer) if key == EXPERTS_KEY else []
    return by_layer or getattr(config, key)


def find_sizes(
    key: str, layers: Sequence[int], layout: Layout, stored: Stored
) -> Iterator[tuple[str, int]]:
    """Yield the tensors that show a size, each with its value."""
    for evidence in EVIDENCE + EXPERT_EVIDENCE:
        if evidence.key != key:
            continue
        for n in layers if "{n}" in evidence.tensor else (0,):
            tensor = stored.get(layout.stored_name(evidence.tensor.format(n=n)))
            if tensor is not None and len(tensor.shape) > evidence.axis:
                yield tensor.name, tensor.shape[evidence.axis] // evidence.parts


def describe_disagreement(key: str, sizes: Mapping[str, int]) -> str:
    """Name two tensors that show different values of one size."""
    (first, one), *rest = sizes.items()
    other, another = next((x, n) for x, n in rest if n != one)
    where = "in a layer" if key == EXPERTS_KEY else "throughout"
    return (
        f"tensor `{first}` says that `{key}` is {one}, tensor `{other}` {another}: "
        f"gpt-oss has one value {where}, so either tensors are missing, or change all "
        "of them alike"
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


def explain_missing_head(
    config: ModelConfig, layout: Layout, stored: Stored
) -> str | None:
    """Explain that the output head is missing while the embedding is present."""
    embedding = stored.get(layout.stored_name("model.embed_tokens.weight"))
    name = layout.stored_name("score.weight" if config.labels else "lm_head.weight")
    head = name.removesuffix("weight")
    if embedding is None or any(other.startswith(head) for other in stored):
        return None
    if config.labels:
        return (
            f"`{embedding.file}` has no head (`{name}`) that gives labels: save the "
            "model for token classification"
        )
    return (
        f"`{embedding.file}` has no output head (`{name}`): if it is tied to the "
        "embedding, set `tie_word_embeddings` to true in `config.json`; if not, save "
        "the model with its head"
    )
