"""Bytes of a model's parts, caches and scratch memory, computed from its config."""

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import (
    ATTENTION,
    EMBEDDING,
    EXPERTS,
    LM_HEAD,
    NORMS,
    ROUTER,
)
from mlx_gptoss.model.kv_sizes import pool_bytes

MXFP4_BITS = 4.25  # per expert weight: 4 bits, and one scale byte per 32 values
# Bits per weight of attention, embedding and lm_head; None stays a float. Each affine
# group also has a scale and a bias, both floats.
RECIPE_BITS = {"lossless": None, "q8": 8, "q6": 6, "q4": 4}
GROUP_SIZE = 64
OFFERED_RECIPES = ("lossless", "q8", "q4")
FLOAT_BYTES = 2  # bfloat16: floats on disk, and in memory on a GPU

DEFAULT_CONTEXT = 8192  # tokens of KV cache to plan for by default
PREFILL_CHUNK = 512  # tokens per prefill step
SCORES_ON_CPU = (
    4  # copies: masked, with sinks, after softmax (3.5 to 3.75 were measured)
)
PROCESS_BYTES = 10**8  # Python, kernels, small buffers: an allowance


def recipe_bytes(
    config: ModelConfig, recipe: str, *, float_bytes: int = FLOAT_BYTES
) -> int:
    """Bytes of all tensors of this architecture under a conversion recipe."""
    return sum(recipe_parts(config, recipe, float_bytes=float_bytes).values())


def recipe_parts(
    config: ModelConfig, recipe: str, *, float_bytes: int = FLOAT_BYTES
) -> dict[str, int]:
    """Bytes of each part under a conversion recipe.

    Floats take 2 bytes on disk, and in memory the size of the compute dtype.
    """
    M, D, V = config.hidden_size, config.head_dim, config.vocab_size
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    qkv_rows = (heads + 2 * config.num_key_value_heads) * D
    experts = config.total_experts
    affine_bits, float_bits = RECIPE_BITS[recipe], 8 * float_bytes
    width = float_bits if affine_bits is None else affine_bits
    if affine_bits is not None:
        width += 2 * float_bits / GROUP_SIZE
    projections = round((qkv_rows * M + M * heads * D) * width / 8)
    vectors = (qkv_rows + M + heads) * float_bytes
    expert = record_bytes(config) + bias_bytes(config, float_bytes=float_bytes)
    return {
        EMBEDDING: round(V * M * width / 8),
        ATTENTION: layers * (projections + vectors),
        ROUTER: experts * (M + 1) * float_bytes,
        EXPERTS: experts * expert,
        NORMS: (2 * layers + 1) * M * float_bytes,
        LM_HEAD: round(V * M * width / 8),
    }


def record_bytes(config: ModelConfig) -> int:
    """Bytes of one MXFP4 expert without its biases."""
    return round(3 * config.hidden_size * config.intermediate_size * MXFP4_BITS / 8)


def bias_bytes(config: ModelConfig, *, float_bytes: int) -> int:
    """Bytes of the biases of one expert."""
    rows = 2 * config.intermediate_size + config.hidden_size
    return rows * float_bytes


def kv_bytes(config: ModelConfig, context: int, *, float_bytes: int) -> int:
    """Bytes of the KV cache of one sequence of `context` tokens, padding included."""
    return pool_bytes(config, [context], float_bytes=float_bytes)


def scratch_bytes(
    config: ModelConfig,
    context: int,
    *,
    float_bytes: int,
    metal: bool,
    chunk: int = PREFILL_CHUNK,
) -> int:
    """Bytes in use beside weights and caches while a chunk is prefilled."""
    chunk = min(chunk, context)
    M, F = config.hidden_size, config.intermediate_size
    pairs = chunk * config.num_experts_per_tok
    experts = pairs * (2 * M + 3 * F) * float_bytes
    # Metal's attention is fused; a CPU holds all scores of a chunk at once.
    scores = config.num_attention_heads * chunk * context * 4
    scores = 0 if metal else SCORES_ON_CPU * scores
    return PROCESS_BYTES + max(experts, scores)
