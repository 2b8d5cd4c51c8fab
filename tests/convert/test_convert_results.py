"""The tables of convert/README.md are generated from stored results and from shapes.

To accept a change: MLX_GPTOSS_UPDATE_GOLDEN=1 pytest, on this file.
"""

import json
import math
import os
from pathlib import Path

import pytest

from examples import recipe_accuracy
from examples.real_language_model import quality
from mlx_gptoss.format.config import MXFP4, ModelConfig
from mlx_gptoss.format.layout import EXPERTS, PACKED, matrices, vectors
from mlx_gptoss_convert.plan.recipe import RECIPES, Recipe, bits_per_weight
from tests.support.checkpoints import hf_config

CONVERT = Path(__file__).resolve().parents[2] / "convert"
README = CONVERT / "README.md"
RESULTS = CONVERT / "results"
UPDATE = "MLX_GPTOSS_UPDATE_GOLDEN"
BITS = {
    "lossless": "as in the source (bfloat16)",
    "q8": "8 bits, groups of 64",
    "q6": "6 bits, groups of 64",
    "q4": "4 bits, groups of 64",
}
PUBLISHED = {  # layers and experts of gpt-oss-20b and gpt-oss-120b
    "gpt-oss-20b": (24, 32),
    "gpt-oss-120b": (36, 128),
}


def published_config(layers: int, experts: int) -> ModelConfig:
    return ModelConfig.from_dict(
        hf_config(
            num_hidden_layers=layers,
            num_local_experts=experts,
            num_experts_per_tok=4,
            hidden_size=2880,
            intermediate_size=2880,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=64,
            vocab_size=201088,
        )
    )


def converted_bytes(config: ModelConfig, recipe: Recipe) -> int:
    """Sum the bytes of all tensors, with bfloat16 as the dense dtype."""
    total = sum(2 * math.prod(vector.shape) for vector in vectors(config))
    for matrix in matrices(config, PACKED):
        setting = MXFP4 if matrix.part == EXPERTS else recipe.setting(matrix.path)
        bits = 16 if setting is None else bits_per_weight(setting)
        total += round(math.prod(matrix.shape) * bits / 8)
        if matrix.has_bias:
            total += 2 * math.prod(matrix.shape[:-1])
    return total


def sizes_table() -> str:
    lines = [
        "| recipe | attention, embedding, lm_head | gpt-oss-20b | gpt-oss-120b |",
        "|---|---|---:|---:|",
    ]
    configs = [published_config(*numbers) for numbers in PUBLISHED.values()]
    for name, recipe in RECIPES.items():
        sizes = (
            f"{converted_bytes(config, recipe) / 1e9:.2f} GB" for config in configs
        )
        label = f"`{name}`" + (" (default)" if name == "q8" else "")
        lines.append(f"| {label} | {BITS[name]} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def results(name: str) -> list[quality.Row]:
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


TABLES = {
    "language_model": lambda: quality.table(results("language_model")),
    "demo_model": lambda: recipe_accuracy.table(results("demo_model")),
    "sizes": sizes_table,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_readme_is_generated(name: str) -> None:
    text = README.read_text()
    start = text.index(f"<!-- {name} -->\n") + len(f"<!-- {name} -->\n")
    end = text.index("<!-- end -->", start)
    generated = TABLES[name]() + "\n"
    if os.environ.get(UPDATE):
        README.write_text(text[:start] + generated + text[end:])
    assert README.read_text()[start : start + len(generated)] == generated
    assert README.read_text()[start + len(generated) :].startswith("<!-- end -->")
