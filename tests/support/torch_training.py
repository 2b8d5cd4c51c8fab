"""Train the tiny model in PyTorch, as the judge of losses, gradients and AdamW.

    pip install torch==2.14.1 transformers==5.24.0 peft==0.21.2
    python -m tests.support.torch_training            # writes tests/golden/training/

transformers computes the model (eager attention, dense experts, float32), peft applies
the adapter, torch clips and steps. Documents are computed one by one. CI reads the file
that was written; `pytest -m soak` runs this again where torch is installed.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint.adapters import WeightUpdate, open_adapter, write_adapter
from mlx_gptoss.format.config import ModelConfig
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.layout_writers import write_float32
from tests.support.low_rank import random_updates

GOLDEN = Path(__file__).parents[1] / "golden" / "training" / "torch.json"
CONFIG = hf_config(
    hidden_size=64,
    intermediate_size=32,
    head_dim=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_hidden_layers=2,
    num_local_experts=4,
    num_experts_per_tok=2,
    vocab_size=61,
)
TENSORS = random_tensors(CONFIG, seed=11)
MODULES = (
    *(f"self_attn.{x}_proj" for x in "qkvo"),
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
)
UPDATES = random_updates(CONFIG, 12, MODULES, rank=2)
LENGTHS = (9, 17, 26)  # the window is 8
STEPS, RATE, DECAY, CLIP = 3, 0.02, 0.1, 0.5
SHOWN = 24  # values of each array that are kept


def documents() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids, and which of them are learned."""
    draw = np.random.default_rng(13)
    found = []
    for length in LENGTHS:
        ids = draw.integers(0, CONFIG["vocab_size"], length).astype(np.int32)
        found.append((ids, draw.random(length) < 0.6))
    return found


def shown(array: np.ndarray) -> list[float]:
    """Return some values of an array, evenly spread."""
    flat = array.reshape(-1).astype(np.float64)
    return flat[:: max(1, len(flat) // SHOWN)][:SHOWN].tolist()


def train_in_torch() -> dict[str, Any]:
    """Return losses, gradient norms, and the adapter after the steps."""
    import peft  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    import transformers

    parsed = ModelConfig.from_dict(CONFIG)
    with tempfile.TemporaryDirectory() as place:
        base, adapter, after = (
            Path(place) / name for name in ("base", "lora", "after")
        )
        base.mkdir()
        write_float32(base, CONFIG, dict(TENSORS))
        write_adapter(_pairs(), adapter, parsed)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager"
        )
        model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
        trained = [x for x in model.parameters() if x.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
        losses, norms = [], []
        for _ in range(STEPS):
            loss = _loss(model, torch)
            optimizer.zero_grad()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(trained, CLIP).item())
            losses.append(loss.item())
            optimizer.step()
        model.save_pretrained(after)
        values = {
            path: {"a": shown(update.a), "b": shown(update.b)}
            for path, update in open_adapter(after, parsed).updates()
        }
    return {
        "made_with": {
            each.__name__: each.__version__ for each in (torch, transformers, peft)
        },
        "losses": losses,
        "gradient_norms": norms,
        "after": values,
    }


def _pairs() -> dict[str, Any]:
    return {path: WeightUpdate(a, b) for path, (a, b) in UPDATES.items()}


def _loss(model: Any, torch: Any) -> Any:
    """Return the cross entropy of all learned tokens by their number."""
    total, count = 0.0, 0
    for ids, learned in documents():
        tokens = torch.tensor(ids.astype(np.int64))[None]
        scores = model(input_ids=tokens[:, :-1]).logits[0].log_softmax(-1)
        places = np.flatnonzero(learned[1:])
        total = total - scores[places, tokens[0, 1:][places]].sum()
        count += len(places)
    return total / count


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(train_in_torch(), indent=1) + "\n")
