"""Predict the seconds of a forward pass from measured costs of its parts.

    pass(N rows) = sum over layers of
          linear(qkv, N) + linear(o, N) + linear(router, N)
        + touched experts * expert(N * T / touched rows) + one call
        + what small ones of these, and the keys and values that a decode step reads,
          take longer from memory than from a cache
        + query heads * (attended keys * key, or query-key pairs * score)
        + layer + N * (hidden size + width of q, k and v) * value
      + linear(lm_head, 1) + step
    first token  = passes of all chunks + layers * first

A cache loses the more, the more a pass reads: all of it from the cache's size on. Of
matrices half as large as those that were timed from memory, half of what that takes is
added. Keys and values take as long as so many weights of small matrices.

Rows of prefill choose experts at random, and the top layer sends its last row alone to
them. Source: the operations of `model/gpt_oss.py`, with costs that `mlx-gptoss probe`
measured through its own modules.
"""

from dataclasses import dataclass

from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.memory.costs import LARGE, SMALL, Costs, CostTable

# Least bits per weight, with scales, of each kind of linear layer.
DENSE_BITS, AFFINE8_BITS = 12, 6.25
MXFP4_EXPERT_BITS = 4.4  # at most; affine experts of 4 bits have more
FLOAT_BYTES = 4  # of a cached value, on a CPU
ATTENDED_BLOCK = 128  # queries that attend together in prefill; half see too many keys


@dataclass(frozen=True)
class BitsPerWeight:
    """Bits that a weight takes in memory, scales included."""

    attention: float
    head: float
    experts: float


@dataclass(frozen=True)
class PassTime:
    """Seconds of a forward pass: of its matrix products, and of the rest."""

    linear: float
    experts: float
    attention: float
    overhead: float

    @property
    def products(self) -> float:
        return self.linear + self.experts

    @property
    def total(self) -> float:
        return self.products + self.attention + self.overhead

    def __add__(self, other: "PassTime") -> "PassTime":
        return PassTime(
            self.linear + other.linear,
            self.experts + other.experts,
            self.attention + other.attention,
            self.overhead + other.overhead,
        )


def decode_time(
    costs: Costs, config: ModelConfig, bits: BitsPerWeight, depth: int
) -> PassTime:
    """Return the seconds of a decode step behind `depth` tokens."""
    return _rows_time(costs, config, bits, 1, depth) + _head_time(costs, config, bits)


def prefill_time(
    costs: Costs, config: ModelConfig, bits: BitsPerWeight, tokens: int, chunk: int
) -> PassTime:
    """Return the seconds from an empty cache to the first token behind `tokens`."""
    begin = PassTime(0.0, 0.0, 0.0, config.num_hidden_layers * costs.first)
    spent = begin + _head_time(costs, config, bits)
    for start in range(0, tokens, chunk):
        rows = min(chunk, tokens - start)
        spent += _rows_time(costs, config, bits, rows, start)
    return spent


def row_values(config: ModelConfig) -> int:
    """Count the values of a row that small operations of a layer work on."""
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    return config.hidden_size + heads * config.head_dim


def prefill_pairs(config: ModelConfig, tokens: int, chunk: int) -> float:
    """Count the pairs of a query and a key that a head multiplies, of all layers."""
    return sum(
        _layer_pairs(config, min(chunk, tokens - start), start)
        for start in range(0, tokens, chunk)
    )


def touched_experts(config: ModelConfig, tokens: float) -> float:
    """Estimate how many experts of a layer `tokens` tokens choose at random."""
    E, k = config.num_local_experts, config.num_experts_per_tok
    return E * (1 - (1 - k / E) ** tokens)


def _rows_time(
    costs: Costs, config: ModelConfig, bits: BitsPerWeight, rows: int, before: int
) -> PassTime:
    M, D = config.hidden_size, config.head_dim
    H, Hk = config.num_attention_heads, config.num_key_value_heads
    layers = config.num_hidden_layers
    pairs = _layer_pairs(config, rows, before)
    cached = 2 * Hk * D * pairs if rows == 1 else 0.0  # values of keys and values
    read = _read_bytes(config, bits, rows) + FLOAT_BYTES * cached
    share = costs.cold_share(read)
    sizes = M * (H + 2 * Hk) * D, H * D * M, M * config.num_local_experts
    attention = _linear(costs, bits.attention)
    tables = attention, attention, costs.dense
    linear = sum(
        table.seconds(size, rows) + share * costs.cold * _smallness(size, LARGE**2)
        for table, size in zip(tables, sizes, strict=True)
    )
    experts = (layers - 1) * _experts_time(costs, config, bits, rows, share)
    experts += _experts_time(costs, config, bits, 1, share)
    return PassTime(
        layers * linear,
        experts,
        H * pairs * (costs.key if rows == 1 else costs.score)
        + share * costs.cold * cached / SMALL**2,
        layers * (costs.layer + (rows - 1) * row_values(config) * costs.value),
    )


def _read_bytes(config: ModelConfig, bits: BitsPerWeight, rows: int) -> float:
    """Count the bytes of the layers' weights that a pass reads."""
    M, D = config.hidden_size, config.head_dim
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    experts = touched_experts(config, rows) * 3 * M * config.intermediate_size
    layer = M * D * heads * bits.attention + experts * bits.experts
    return config.num_hidden_layers * layer / 8


def _smallness(size: float, large: float) -> float:
    """Return 1 for a matrix of next to no weights, 0 from `large` ones on."""
    return max(0.0, 1 - size / large)


def _experts_time(
    costs: Costs, config: ModelConfig, bits: BitsPerWeight, rows: int, share: float
) -> float:
    """Seconds of the experts of one layer, of whose bytes no cache holds a share."""
    M, F, k = config.hidden_size, config.intermediate_size, config.num_experts_per_tok
    touched = touched_experts(config, rows)
    each = rows * k / touched
    if bits.experts <= MXFP4_EXPERT_BITS:
        one = _expert_table(costs, config, rows).seconds(3 * M * F, each)
    else:
        table = _linear(costs, bits.experts)
        one = table.seconds(2 * M * F, each) + table.seconds(M * F, each)
    one += share * costs.cold_expert * _smallness(M * F, LARGE**2)
    return costs.experts_call + touched * one


def _expert_table(costs: Costs, config: ModelConfig, rows: int) -> CostTable:
    """Choose the way in which `Experts` multiplies so many rows."""
    chosen = rows * config.num_experts_per_tok
    products = chosen * 3 * config.hidden_size * config.intermediate_size
    is_many = (
        chosen // config.num_local_experts >= costs.dequantize_rows
        and products >= costs.dequantize_products
    )
    return costs.dequantized if costs.dequantized and is_many else costs.experts


def _head_time(costs: Costs, config: ModelConfig, bits: BitsPerWeight) -> PassTime:
    weights = config.vocab_size * config.hidden_size
    head = _linear(costs, bits.head).seconds(weights, 1)
    return PassTime(head, 0.0, 0.0, costs.step)


def _linear(costs: Costs, bits: float) -> CostTable:
    if bits >= DENSE_BITS:
        return costs.dense
    return costs.affine8 if bits >= AFFINE8_BITS else costs.affine4


def _layer_pairs(config: ModelConfig, rows: int, before: int) -> float:
    return sum(
        _attended(rows, before, config.sliding_window if kind == SLIDING else None)
        for kind in config.layer_types
    )


def _attended(rows: int, before: int, window: int | None) -> float:
    """Count the pairs of a query and a key that one head multiplies."""
    if rows == 1:
        return before + 1 if window is None else min(before + 1, window)
    block = window or ATTENDED_BLOCK
    pairs = 0
    for start in range(0, rows, block):
        end = min(start + block, rows)
        keys = before + end
        if window is not None:
            keys = min(keys, end - start + window - 1)
        pairs += (end - start) * keys
    return pairs
