"""llama.cpp's and Ollama's names of gpt-oss's tensors: tables, used both ways.

llama.cpp's are `MODEL_ARCH.GPT_OSS` in the `gguf` package, Ollama's those of its
convert/convert_gptoss.go and model/models/gptoss/model.go. Reads no file.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.format.layout import LAYER, PACKED, PLAIN, SPLIT, Layout

ARCHITECTURE = "gpt-oss"
OLLAMA_ARCHITECTURE = "gptoss"
BLOCK = "blk.{n}."
MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
FUSED_EXPERTS = "ffn_gate_up_exps"
FUSED_MODULES = MODULES | {"mlp.experts.gate_up_proj": FUSED_EXPERTS}
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
OTHER_NAMES = {
    "model.embed_tokens.weight": EMBEDDING,
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": HEAD,
    LAYER + "input_layernorm.weight": BLOCK + "attn_norm.weight",
    LAYER + "post_attention_layernorm.weight": BLOCK + "post_attention_norm.weight",
    LAYER + "self_attn.sinks": BLOCK + "attn_sinks.weight",
}


def stored_names(modules: dict[str, str]) -> dict[str, str]:
    """Map canonical names to those in a GGUF whose modules have the names given."""
    return OTHER_NAMES | {
        f"{LAYER}{module}.{kind}": f"{BLOCK}{name}.{kind}"
        for module, name in modules.items()
        for kind in ("weight", "scales", "bias")
    }


GGUF = Layout(
    name="gguf",
    title="GGUF, as llama.cpp runs it",
    experts=SPLIT,
    names=stored_names(MODULES),
    expert_form=PLAIN,
)
# Rows of gate and up alternate, as in OpenAI's files: Ollama's first gpt-oss.
OLLAMA_FUSED = replace(
    GGUF,
    name="gguf-ollama",
    title="GGUF, as Ollama's first converter wrote it",
    experts=PACKED,
    names=stored_names(FUSED_MODULES),
)
LAYOUTS = (GGUF, OLLAMA_FUSED)

# Other names for the same tensor: ends of names, to llama.cpp's.
ALIASES = {
    ".attn_out.weight": ".attn_output.weight",
    ".attn_out.bias": ".attn_output.bias",
    ".attn_sinks": ".attn_sinks.weight",
    ".ffn_norm.weight": ".post_attention_norm.weight",
}
# q, k and v in one tensor, by rows in this order: Ollama's, from `original/`.
FUSED_QKV, QKV = "attn_qkv", ("attn_q", "attn_k", "attn_v")

LAYER_NUMBER = re.compile(r"^blk\.\d+\.")


def is_gguf(checkpoint: Checkpoint) -> bool:
    return checkpoint.layout in LAYOUTS


def usual_name(name: str) -> str:
    """Return llama.cpp's name of a tensor that may have one of the `ALIASES`."""
    for end, usual in ALIASES.items():
        if name.endswith(end):
            return name.removesuffix(end) + usual
    return name


def layout_of(names: Iterable[str]) -> Layout:
    """Return the layout of a GGUF with tensors of these names."""
    fused = any(f".{FUSED_EXPERTS}." in name for name in names)
    return OLLAMA_FUSED if fused else GGUF


def is_known(name: str) -> bool:
    """Whether gpt-oss has a tensor of that name in any layer."""
    known = LAYER_NUMBER.sub(BLOCK, name)
    return any(known in layout.names.values() for layout in LAYOUTS)
