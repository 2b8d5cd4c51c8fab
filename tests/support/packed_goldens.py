"""Tiny models as bitsandbytes, modelopt and compressed-tensors write them.

    pip install torch==2.13.0 bitsandbytes==0.50.2 compressed-tensors==0.20.1 \\
        nvidia-modelopt==0.47.0
    python -m tests.support.packed_goldens

writes tests/golden/packed_forms anew; CI only reads it. `pytest -m soak
tests/convert/test_packed_live.py` with the same packages writes other models, and the
demo, by

    python -m tests.support.packed_goldens FOLDER demo|SEED
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import checkpoints
from tests.support.demo_checkpoint import demo_config, demo_tensors
from tests.support.packed_writers import CASTS, FORMS, Source

FOLDER = Path(__file__).parents[1] / "golden" / "packed_forms"
DEMO = "demo"
CONFIG = checkpoints.hf_config(
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    hidden_size=64,
    intermediate_size=64,
    num_local_experts=3,
    vocab_size=64,
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=21)
GOLDEN_FORMS = (*FORMS, "compressed_cast")
EXPERTS = "model.layers.0.mlp.experts."


def other_config(seed: int) -> dict[str, Any]:
    """Draw sizes whose rows are whole blocks of bitsandbytes, as gpt-oss's are.

    Other rows are decoded wrongly by its own CPU kernel (`findings/`).
    """
    draw = np.random.default_rng(seed)
    hidden, inner = (int(64 * draw.integers(1, 6)) for _ in range(2))
    return checkpoints.hf_config(
        num_hidden_layers=2,
        hidden_size=hidden,
        intermediate_size=inner,
        num_local_experts=int(draw.integers(4, 9)),
        vocab_size=64,
    )


def write_all(folder: Path, what: str) -> None:
    """Write the demo, or a random model, in every form."""
    if what == DEMO:
        source = Source(demo_config(), demo_tensors())
    else:
        config = other_config(int(what))
        source = Source(config, checkpoints.random_tensors(config, seed=int(what)))
    for form, write in (FORMS | CASTS).items():
        write(source).save(folder / form, source.config)


if __name__ == "__main__":
    if sys.argv[1:]:
        write_all(Path(sys.argv[1]), sys.argv[2])
    else:
        for form in GOLDEN_FORMS:
            (FORMS | CASTS)[form](Source(CONFIG, TENSORS)).save(FOLDER / form, CONFIG)
