"""Measure the largest error of a logit, ours and stock mlx-lm's, against numpy.

    python -m examples.exactness [--json]

A random checkpoint in the published layout, 300 tokens, window 128, float32. The
reference is tests/support/oracle.py, the model in float64.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np

from mlx_gptoss import load
from tests.support import oracle
from tests.support.checkpoints import hf_config, random_tensors, write_folder

TOKENS = 300
CHUNKS = (50, 200, 50)  # the second is longer than the window
SIZES = {
    "sliding_window": 128,
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "vocab_size": 320,
}


def ours(folder: Path, ids: list[int], lengths: tuple[int, ...]) -> np.ndarray:
    """Feed the ids in pieces of these lengths; return float32 logits (L, V)."""
    with load(folder, dtype="float32") as runtime:
        cache = runtime.new_cache()
        ends = np.cumsum(lengths)
        pieces = [
            ids[end - length : end] for end, length in zip(ends, lengths, strict=True)
        ]
        rows = [np.array(runtime.logits(piece, cache=cache)) for piece in pieces]
    return np.concatenate(rows)


def stock(folder: Path, ids: list[int]) -> np.ndarray:
    from mlx_lm.utils import load_model  # it takes two seconds

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


def measure() -> dict[str, float]:
    """Return the largest logit, and the largest error of each way to run the model."""
    config = hf_config(**SIZES)
    tensors = random_tensors(config, seed=1)
    rng = np.random.default_rng(1)
    ids = [int(i) for i in rng.integers(0, SIZES["vocab_size"], TOKENS)]
    expected = oracle.logits(tensors, config, ids)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, config, tensors)
        ways: dict[str, Callable[[], np.ndarray]] = {
            "one pass": lambda: ours(folder, ids, (TOKENS,)),
            f"chunks of {CHUNKS}": lambda: ours(folder, ids, CHUNKS),
            "token by token": lambda: ours(folder, ids, (1,) * TOKENS),
            "stock mlx-lm, one pass": lambda: stock(folder, ids),
        }
        errors = {
            way: float(np.abs(run() - expected).max()) for way, run in ways.items()
        }
    return {"largest logit": float(np.abs(expected).max())} | errors


def main() -> None:
    found = measure()
    if "--json" in sys.argv[1:]:
        print(json.dumps(found, indent=2))
        return
    print(f"logits up to {found.pop('largest logit'):.1f}")
    for way, error in found.items():
        print(f"{way:26} {error:.1e}")


if __name__ == "__main__":
    main()
