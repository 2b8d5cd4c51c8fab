"""Adapters that PEFT itself saved, and what it adds to the weights: tests/golden/peft.

    python -m venv env
    env/bin/pip install peft==0.21.0 transformers==5.24.0 torch==2.13.0 numpy
    env/bin/python -m tests.support.peft_goldens tests/golden/peft

Each case is a folder as `save_pretrained` leaves it, and `expected.safetensors`: the
product of every weight's gain with a fixed vector, as PEFT's `merge_and_unload` makes
it. Knows nothing of this package.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 64,  # equal to the hidden size, as in gpt-oss
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 40,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "eos_token_id": 2,
}
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
CASES: dict[str, dict[str, Any]] = {
    "attention": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"o_proj": 1},
        "alpha_pattern": {"layers.1.self_attn.o_proj": 5},
    },
    "experts": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": [],
        "target_parameters": [GATE_UP, DOWN, "mlp.router.weight"],
        "rank_pattern": {DOWN: 1},
        "use_rslora": True,
    },
    "down": {
        "r": 2,
        "lora_alpha": 2,
        "target_modules": [],
        "target_parameters": [DOWN],
    },
    "head": {"r": 1, "lora_alpha": 7, "target_modules": ["lm_head"]},
}


def probe(columns: int) -> np.ndarray:
    """Return a vector (columns,) that tells the columns of a matrix apart."""
    return np.cos(np.arange(columns, dtype=np.float64) * 1.7)


def make(case: str, folder: Path) -> None:
    """Save one adapter with random A and B, and the gains of all weights."""
    import torch  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from peft import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        LoraConfig,
        get_peft_model,
    )
    from safetensors.numpy import save_file  # noqa: PLC0415
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(sorted(CASES).index(case))
    model = GptOssForCausalLM(GptOssConfig(**CONFIG)).to(torch.float32)
    before = {name: x.clone().double() for name, x in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(**CASES[case], bias="none"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    after = adapted.merge_and_unload().state_dict()
    gains = {}
    for name, weight in after.items():
        gained = (weight.double() - before[name]).numpy()
        if not np.abs(gained).max(initial=0):
            continue
        path = name.removesuffix(".weight")
        gained = gained.swapaxes(1, 2) if gained.ndim == 3 else gained  # (..., out, in)
        gains[path] = (gained @ probe(gained.shape[-1])).astype(np.float32)
    save_file(gains, folder / "expected.safetensors")
    (folder / "README.md").unlink(missing_ok=True)


def main(folder: str) -> None:
    for case in CASES:
        make(case, Path(folder) / case)


if __name__ == "__main__":
    main(*sys.argv[1:])
