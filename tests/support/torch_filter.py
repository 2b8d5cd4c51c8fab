"""Run the tiny classifiers in transformers, as the judge of our logits.

    pip install torch==2.13.0 transformers==5.24.0
    python -m tests.support.torch_filter          # writes tests/golden/privacy_filter/

transformers computes them in float32, with eager attention and eager experts. CI reads
the file that was written; `pytest -m soak` runs this again where torch is installed.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.privacy_filters import filter_config, write_filter

GOLDEN = Path(__file__).parents[1] / "golden" / "privacy_filter" / "torch.json"
# Sizes, seeds and lengths of texts: within the band, across it, and one token.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "odd sizes": ({}, 1, 61),
    "few tokens": ({}, 1, 4),
    "one token": ({"num_hidden_layers": 1}, 2, 1),
    "one key head, other labels": (
        {
            "num_key_value_heads": 1,
            "num_attention_heads": 3,
            "head_dim": 10,
            "hidden_size": 33,
            "intermediate_size": 15,
            "sliding_window": 3,
            "labels": ["O", "B-name", "I-name", "B-code", "I-code"],
        },
        3,
        40,
    ),
    "long": ({"sliding_window": 16, "num_hidden_layers": 2}, 4, 150),
}


def ids_of(name: str) -> list[int]:
    """Return the token ids of a case."""
    overrides, seed, length = CASES[name]
    size = filter_config(**overrides)["vocab_size"]
    return np.random.default_rng(100 + seed).integers(0, size, length).tolist()


def run_in_torch(name: str) -> np.ndarray:
    """Return the logits (L, labels) of a case in transformers."""
    import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    import transformers

    overrides, seed, _ = CASES[name]
    with tempfile.TemporaryDirectory() as place:
        write_filter(place, seed=seed, **overrides)
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            place, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            found = model(input_ids=torch.tensor([ids_of(name)])).logits[0]
    return found.numpy()


def make_goldens() -> dict[str, Any]:
    """Return the versions, and the logits of all cases, to six digits."""
    import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    import transformers

    logits = {
        name: [[float(f"{x:.6g}") for x in row] for row in run_in_torch(name)]
        for name in CASES
    }
    versions = {each.__name__: each.__version__ for each in (torch, transformers)}
    return {"made_with": versions, "logits": logits}


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(make_goldens(), separators=(",", ":")) + "\n")
