"""Predict the seconds of a forward pass from measured costs of its parts.

    pass(N rows) = sum over layers of
          linear(qkv, N) + linear(o, N) + linear(router, N)
        + touched experts * expert(N * T / touched rows) + one call
        + query heads * (attended keys * key, or query-key pairs * score)
        + layer + N * (hidden size + width of q, k and v) * value
      + linear(lm_head, 1) + step
    first token  = passes of all chunks + layers * first

Rows of prefill choose experts at random, and the top layer sends its last row alone to
them. Source: the operations of `model/gpt_oss.py`, with costs that `mlx-gptoss probe`
measured through its own modules.
"""

from dataclasses import dataclass

from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.memory.costs import Costs, CostTable

# Least bits per weight, with scales, of each kind of linear layer.
DENSE_BITS, AFFINE8_BITS = 12, 6.25
MXFP4_EXPERT_BITS = 4.4  # at most; affine experts of 4 bits have more
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
    attention = _linear(costs, bits.attention)
    linear = (
        attention.seconds(M * (H + 2 * Hk) * D, rows)
        + attention.seconds(H * D * M, rows)
        + costs.dense.seconds(M * config.num_local_experts, rows)
    )
    pairs = _layer_pairs(config, rows, before)
    experts = (layers - 1) * _experts_time(costs, config, bits, rows)
    experts += _experts_time(costs, config, bits, 1)
    return PassTime(
        layers * linear,
        experts,
        H * pairs * (costs.key if rows == 1 else costs.score),
        layers * (costs.layer + (rows - 1) * row_values(config) * costs.value),
    )


def _experts_time(
    costs: Costs, config: ModelConfig, bits: BitsPerWeight, rows: int
) -> float:
    """Seconds of the experts of one layer."""
    M, F, k = config.hidden_size, config.intermediate_size, config.num_experts_per_tok
    touched = touched_experts(config, rows)
    each = rows * k / touched
    if bits.experts <= MXFP4_EXPERT_BITS:
        table = _expert_table(costs, config, rows)
        return costs.experts_call + touched * table.seconds(3 * M * F, each)
    table = _linear(costs, bits.experts)
    one = table.seconds(2 * M * F, each) + table.seconds(M * F, each)
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
