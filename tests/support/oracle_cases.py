"""Tiny random models, each with token ids and the float64 oracle's logits for them."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.gpt_oss import GptOss
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors

# float32 against float64 on logits of size about 4: errors of 1e-4 occur, and a wrong
# frequency, mask or clamp moves logits by more than 0.05.
TOLERANCE = 5e-4

# name: (tokens, config overrides)
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "window shorter than the prompt": (45, {}),
    "300 tokens, window 128": (
        300,
        {
            "sliding_window": 128,
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "num_attention_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 4,
        },
    ),
    "window longer than the prompt, 8 heads a key head, clamp binding": (
        37,
        {
            "sliding_window": 50,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "num_local_experts": 7,
            "num_experts_per_tok": 2,
            "swiglu_limit": 1.0,
        },
    ),
    "a key head a head, all layers full": (
        23,
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "num_local_experts": 6,
            "layer_types": ["full_attention"] * 2,
            "num_hidden_layers": 2,
        },
    ),
    "rounded yarn, all layers sliding, all experts": (
        29,
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 4,
            "layer_types": ["sliding_attention"] * 2,
            "num_hidden_layers": 2,
            "sliding_window": 5,
            "rope_scaling": hf_config()["rope_scaling"] | {"truncate": True},
        },
    ),
    "no yarn": (19, {"rope_scaling": None, "head_dim": 16}),
}


@cache
def case(name: str) -> tuple[list[int], np.ndarray, GptOss]:
    """Return token ids, the oracle's logits (L, V), and the model under test."""
    length, overrides = CASES[name]
    config = hf_config(**overrides)
    tensors = random_tensors(config, seed=3)
    ids = np.random.default_rng(4).integers(0, config["vocab_size"], length).tolist()
    return ids, oracle.logits(tensors, config, ids), build(config, tensors)


def feed(model: GptOss, ids: list[int], sizes: Iterable[int]) -> np.ndarray:
    """Run `ids` through a cache in chunks of `sizes`; return all rows (L, V)."""
    rows, start, kv_cache = [], 0, model.make_cache()
    for size in sizes:
        rows.append(model(mx.array([ids[start : start + size]]), kv_cache)[0])
        mx.eval(rows[-1])
        start += size
        if start >= len(ids):
            break
    assert kv_cache.offset == len(ids)
    return np.array(mx.concatenate(rows))
