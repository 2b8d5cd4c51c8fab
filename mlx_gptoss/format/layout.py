"""Tensors of a gpt-oss model, and the layouts a checkpoint may store them in.

Canonical names are Hugging Face's module paths with `.weight`, `.scales`, `.biases` and
`.bias`, with separate q, k and v: `model.layers.0.mlp.experts.gate_up_proj.scales`. A
`Layout` maps them to the names in a file. Tables only: reads no file. A new layout is
added to `LAYOUTS` and recognized by `detect_layout`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from mlx_gptoss.format.config import ModelConfig, Quantization

PACKED = "packed"
SPLIT = "split"
JOINED = "joined"

ATTENTION, EXPERTS, ROUTER = "attention", "experts", "router"
EMBEDDING, LM_HEAD, NORMS = "embedding", "lm_head", "norms"
PARTS = (EMBEDDING, ATTENTION, ROUTER, EXPERTS, NORMS, LM_HEAD)

VALUES_PER_BLOCK = 32
BYTES_PER_BLOCK = 16  # of one MXFP4 block: two values a byte, low nibble first
BITS_PER_WORD = 32  # MLX packs quantized weights into uint32

# Storage of a stack of experts: MXFP4 blocks (experts, out, in/32, 16), dense
# (experts, in, out), or like any MLX matrix: (experts, out, in), dense or packed.
BLOCKS, IN_OUT, PLAIN = "blocks", "in_out", "plain"

# Bytes per value of every safetensors dtype of whole bytes.
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
FLOATS = ("BF16", "F16", "F32")
BYTES = ("U8", "F8_E8M0")
WORDS = ("U32",)

# Tensors that some exporters add and no computation needs: tables of rotary positions,
# and scales of a cache of keys and values in FP8, which is kept in floats here.
HARMLESS_TENSORS = re.compile(
    r"(.*\.)?(rotary_emb\.(inv_freq|original_inv_freq)|self_attn\.(attn\.)?[qkv]_scale)"
)


@dataclass(frozen=True)
class Structure:
    """How weights are laid out in memory; decided when a checkpoint is opened.

    `quantization` maps module paths ("model.layers.0.self_attn.q_proj", "lm_head",
    "model.layers.0.mlp.experts.gate_up_proj") to settings; a missing path is dense.
    `experts` is "packed" (one gate_up_proj, rows interleaved: even gate, odd up),
    "joined" (one gate_up_proj, all rows of gate before those of up) or "split"
    (separate gate_proj and up_proj).
    """

    quantization: Mapping[str, Quantization]
    experts: str


def fuses_qkv(structure: Structure, layer: int) -> bool:
    """Whether q, k and v share one setting, and so are one matrix in memory."""
    attention = f"model.layers.{layer}.self_attn"
    settings = [structure.quantization.get(f"{attention}.{x}_proj") for x in "qkv"]
    return settings[0] == settings[1] == settings[2]


@dataclass(frozen=True)
class Matrix:
    """A matrix (out, in) or a stack of them (experts, out, in); `bias` drops `in`."""

    path: str
    part: str
    shape: tuple[int, ...]
    has_bias: bool


@dataclass(frozen=True)
class Vector:
    """A norm's scale or a layer's sinks; always floats."""

    name: str
    part: str
    shape: tuple[int, ...]


# Dimensions: V vocabulary, M hidden, Q query rows, K key rows, H heads, E experts,
# F intermediate, G = 2F (gate and up rows), C labels of a classifier.
TOP_MATRICES = {
    "model.embed_tokens": (EMBEDDING, "VM"),
    "lm_head": (LM_HEAD, "VM"),
}
CLASSIFIER_MATRICES = {
    "model.embed_tokens": (EMBEDDING, "VM"),
    "score": (LM_HEAD, "CM"),  # the head, which has a bias
}
LAYER_MATRICES = {
    "self_attn.q_proj": (ATTENTION, "QM"),
    "self_attn.k_proj": (ATTENTION, "KM"),
    "self_attn.v_proj": (ATTENTION, "KM"),
    "self_attn.o_proj": (ATTENTION, "MQ"),
    "mlp.router": (ROUTER, "EM"),
}
EXPERT_MATRICES = {
    PACKED: {
        "mlp.experts.gate_up_proj": (EXPERTS, "EGM"),
        "mlp.experts.down_proj": (EXPERTS, "EMF"),
    },
    JOINED: {
        "mlp.experts.gate_up_proj": (EXPERTS, "EGM"),
        "mlp.experts.down_proj": (EXPERTS, "EMF"),
    },
    SPLIT: {
        "mlp.experts.gate_proj": (EXPERTS, "EFM"),
        "mlp.experts.up_proj": (EXPERTS, "EFM"),
        "mlp.experts.down_proj": (EXPERTS, "EMF"),
    },
}
TOP_VECTORS = {"model.norm.weight": (NORMS, "M")}
LAYER_VECTORS = {
    "input_layernorm.weight": (NORMS, "M"),
    "post_attention_layernorm.weight": (NORMS, "M"),
    "self_attn.sinks": (ATTENTION, "H"),
}


def dimensions(config: ModelConfig) -> dict[str, int]:
    """Map each dimension letter of the tables to its size."""
    return {
        "V": config.vocab_size,
        "M": config.hidden_size,
        "Q": config.num_attention_heads * config.head_dim,
        "K": config.num_key_value_heads * config.head_dim,
        "H": config.num_attention_heads,
        "E": config.num_local_experts,
        "F": config.intermediate_size,
        "G": 2 * config.intermediate_size,
        "C": len(config.labels),
    }


def matrices(config: ModelConfig, experts: str) -> Iterator[Matrix]:
    """List every matrix of a model whose experts are "packed", "joined" or "split"."""
    sizes = dimensions(config)
    in_layer = LAYER_MATRICES | EXPERT_MATRICES[experts]
    top = CLASSIFIER_MATRICES if config.is_classifier else TOP_MATRICES
    for path, (part, letters) in top.items():
        shape = tuple(sizes[x] for x in letters)
        yield Matrix(path, part, shape, has_bias="C" in letters)
    for n in range(config.num_hidden_layers):
        sizes["E"] = config.experts_in(n)
        for path, (part, letters) in in_layer.items():
            shape = tuple(sizes[x] for x in letters)
            yield Matrix(f"model.layers.{n}.{path}", part, shape, has_bias=True)


def vectors(config: ModelConfig) -> Iterator[Vector]:
    """List every norm and every layer's sinks."""
    sizes = dimensions(config)
    for name, (part, letter) in TOP_VECTORS.items():
        yield Vector(name, part, (sizes[letter],))
    for n, (name, (part, letter)) in product(
        range(config.num_hidden_layers), LAYER_VECTORS.items()
    ):
        yield Vector(f"model.layers.{n}.{name}", part, (sizes[letter],))


@cache
def part_table() -> dict[str, str]:
    """Map every canonical name, with `{n}` for the layer, to its part."""
    inside = LAYER_MATRICES | EXPERT_MATRICES[PACKED] | EXPERT_MATRICES[SPLIT]
    top = TOP_MATRICES | CLASSIFIER_MATRICES
    paths = {path: part for path, (part, _) in top.items()}
    paths |= {LAYER + path: part for path, (part, _) in inside.items()}
    table = {
        f"{path}.{kind}": part
        for path, part in paths.items()
        for kind in ("weight", "scales", "biases", "bias")
    }
    table |= {name: part for name, (part, _) in TOP_VECTORS.items()}
    return table | {LAYER + name: part for name, (part, _) in LAYER_VECTORS.items()}


@dataclass(frozen=True)
class Layout:
    """One way to store a model.

    `names` maps canonical names to stored ones where they differ; `{n}` is the layer.
    Matrices that share a stored name are concatenated by rows.
    `expert_form` is BLOCKS, IN_OUT or PLAIN.
    """

    name: str
    title: str
    experts: str
    names: Mapping[str, str] = field(repr=False)
    expert_form: str

    def stored_name(self, name: str) -> str:
        """Return a tensor's name in a file of this layout."""
        found = LAYER_NUMBER.search(name)
        if found is None:
            return self.names.get(name, name)
        template = name.replace(found[0], ".{n}.", 1)
        return self.names.get(template, template).replace("{n}", found[1])


LAYER_NUMBER = re.compile(r"\.(\d+)\.")
LAYER = "model.layers.{n}."
BLOCK = "block.{n}."


def expert_names(weight: str, scales: str | None) -> dict[str, str]:
    """Map packed experts to Hugging Face's names: `gate_up_proj` and a suffix."""
    suffixes = {"weight": weight, "bias": "_bias"}
    if scales is not None:
        suffixes["scales"] = scales
    return {
        f"{LAYER}mlp.experts.{name}.{kind}": f"{LAYER}mlp.experts.{name}{suffix}"
        for name in ("gate_up_proj", "down_proj")
        for kind, suffix in suffixes.items()
    }


ORIGINAL_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.scale",
    "lm_head.weight": "unembedding.weight",
    LAYER + "input_layernorm.weight": BLOCK + "attn.norm.scale",
    LAYER + "self_attn.q_proj.weight": BLOCK + "attn.qkv.weight",
    LAYER + "self_attn.k_proj.weight": BLOCK + "attn.qkv.weight",
    LAYER + "self_attn.v_proj.weight": BLOCK + "attn.qkv.weight",
    LAYER + "self_attn.q_proj.bias": BLOCK + "attn.qkv.bias",
    LAYER + "self_attn.k_proj.bias": BLOCK + "attn.qkv.bias",
    LAYER + "self_attn.v_proj.bias": BLOCK + "attn.qkv.bias",
    LAYER + "self_attn.sinks": BLOCK + "attn.sinks",
    LAYER + "self_attn.o_proj.weight": BLOCK + "attn.out.weight",
    LAYER + "self_attn.o_proj.bias": BLOCK + "attn.out.bias",
    LAYER + "post_attention_layernorm.weight": BLOCK + "mlp.norm.scale",
    LAYER + "mlp.router.weight": BLOCK + "mlp.gate.weight",
    LAYER + "mlp.router.bias": BLOCK + "mlp.gate.bias",
    LAYER + "mlp.experts.gate_up_proj.weight": BLOCK + "mlp.mlp1_weight.blocks",
    LAYER + "mlp.experts.gate_up_proj.scales": BLOCK + "mlp.mlp1_weight.scales",
    LAYER + "mlp.experts.gate_up_proj.bias": BLOCK + "mlp.mlp1_bias",
    LAYER + "mlp.experts.down_proj.weight": BLOCK + "mlp.mlp2_weight.blocks",
    LAYER + "mlp.experts.down_proj.scales": BLOCK + "mlp.mlp2_weight.scales",
    LAYER + "mlp.experts.down_proj.bias": BLOCK + "mlp.mlp2_bias",
}

HF = Layout(
    name="hf",
    title="Hugging Face, MXFP4 experts",
    experts=PACKED,
    names=expert_names("_blocks", "_scales"),
    expert_form=BLOCKS,
)
MLX_PACKED = Layout(
    name="mlx-packed",
    title="MLX, experts as OpenAI packed them",
    experts=PACKED,
    names=HF.names,
    expert_form=BLOCKS,
)
MLX_SPLIT = Layout(
    name="mlx-split",
    title="MLX, separate gate and up projections",
    experts=SPLIT,
    names={},
    expert_form=PLAIN,
)
ORIGINAL = Layout(
    name="original",
    title="OpenAI's original/",
    experts=PACKED,
    names=ORIGINAL_NAMES,
    expert_form=BLOCKS,
)
DENSE = Layout(
    name="dense",
    title="Hugging Face, dense experts",
    experts=PACKED,
    names=expert_names("", None),
    expert_form=IN_OUT,
)
DENSE_BLOCKS = Layout(
    name="dense-blocks",
    title="Hugging Face, dense experts named as blocks",
    experts=PACKED,
    names=expert_names("_blocks", None),
    expert_form=IN_OUT,
)
JOINED_DENSE = Layout(
    name="joined-dense",
    title="Hugging Face, dense experts, gate before up",
    experts=JOINED,
    names=DENSE.names,
    expert_form=IN_OUT,
)
SINGLE_PACKED = Layout(
    name="single-experts",
    title="dense, one tensor per expert",
    experts=PACKED,
    names={},
    expert_form=PLAIN,
)
SINGLE_SPLIT = Layout(
    name="single-experts-split",
    title="dense, one tensor per expert, separate gate and up projections",
    experts=SPLIT,
    names={},
    expert_form=PLAIN,
)
LAYOUTS = (
    HF,
    MLX_PACKED,
    MLX_SPLIT,
    ORIGINAL,
    DENSE,
    DENSE_BLOCKS,
    JOINED_DENSE,
    SINGLE_PACKED,
    SINGLE_SPLIT,
)


Form = tuple[str, tuple[int, ...]]  # dtype and shape


def detect_layout(
    tensors: Mapping[str, Form],
    *,
    mlx: bool,
    single_experts: bool = False,
    classifier: bool = False,
) -> Layout | None:
    """Detect the layout of `tensors` (by stored name), or None if it is not gpt-oss.

    Names decide; dtype and rank tell packed experts from dense ones. `mlx` is set if
    `config.json` has MLX's `quantization`, `single_experts` if experts were stored one
    by one and are stacked here, `classifier` if it is a token classifier's.
    """

    def first(pattern: str) -> Form | None:
        found = (name for name in tensors if re.fullmatch(pattern, name))
        name = next(found, None)
        return None if name is None else tensors[name]

    experts = r"model\.layers\.\d+\.mlp\.experts\."
    if classifier and first(experts + "gate_up_proj") is not None:
        return JOINED_DENSE
    if classifier:
        return None if first(experts + r"gate_proj\.weight") is None else MLX_SPLIT
    if first(r"block\.\d+\..+") is not None:
        return ORIGINAL
    if first(experts + r"gate_proj\.weight") is not None:
        return SINGLE_SPLIT if single_experts else MLX_SPLIT
    if first(experts + r"gate_up_proj\.weight") is not None:
        return SINGLE_PACKED
    blocks = first(experts + "gate_up_proj_blocks")
    if blocks is not None and blocks[0] not in BYTES and len(blocks[1]) == 3:
        return DENSE_BLOCKS
    if blocks is not None:
        quantized = any(name.endswith(".scales") for name in tensors)
        return MLX_PACKED if mlx or quantized else HF
    return None if first(experts + "gate_up_proj") is None else DENSE
