"""Models with streamed experts on random checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.checkpoint.load import load_model, load_parameters
from mlx_gptoss.model.experts.pressure import MemoryPressure
from mlx_gptoss.model.experts.reader import ExpertReader
from mlx_gptoss.model.experts.storage import ExpertStorage, Placement, stream_experts
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support import checkpoints, layout_writers

SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 9,
}


@dataclass
class Streamed:
    """A model and its storage; close it."""

    model: GptOss
    storage: ExpertStorage

    def __enter__(self) -> "Streamed":
        return self

    def __exit__(self, *_: object) -> None:
        self.storage.close()


def write(folder: Path, layout: str = "hf", **sizes: Any) -> Checkpoint:
    """Write a random checkpoint in a layout and open it."""
    config = checkpoints.hf_config(**(SMALL | sizes))
    tensors = checkpoints.random_tensors(config, seed=11)
    layout_writers.WRITERS[layout](folder, config, tensors)
    return open_checkpoint(folder)


def resident(checkpoint: Checkpoint, dtype: mx.Dtype = mx.float32) -> GptOss:
    return load_model(checkpoint, dtype=dtype)


def streamed(
    checkpoint: Checkpoint,
    slots: int | Mapping[int, int],
    *,
    dtype: mx.Dtype = mx.float32,
    reader: ExpertReader | None = None,
    in_place: bool = True,
    pressure: MemoryPressure | None = None,
) -> Streamed:
    """Load with `slots` in every layer, or per layer from a mapping."""
    layers = range(checkpoint.config.num_hidden_layers)
    places = dict.fromkeys(layers, slots) if isinstance(slots, int) else slots
    placement = Placement(places)
    model = GptOss(checkpoint.config, checkpoint.structure)
    storage = stream_experts(
        model,
        checkpoint.structure,
        placement,
        expert_records(checkpoint),
        dtype=dtype,
        reader=reader,
        in_place=in_place,
        pressure=pressure,
    )
    weights = load_parameters(
        checkpoint, dtype=dtype, select=lambda x: not placement.is_pooled(x.name)
    )
    model.load_weights(list(weights.items()), strict=True)
    return Streamed(model, storage)


def run(model: GptOss, prompt: list[int], tokens: int) -> mx.array:
    """Prefill a prompt in two chunks, then decode greedily: logits of all steps."""
    cache = model.make_cache()
    half = len(prompt) // 3
    rows = []
    for part in (prompt[:half], prompt[half:]):
        rows.append(model(mx.array([part]), cache)[0])
    for _ in range(tokens):
        token = mx.argmax(rows[-1][-1]).reshape(1, 1)
        rows.append(model(token, cache)[0])
    logits = mx.concatenate(rows)
    mx.eval(logits)
    return logits
