"""Resident experts are plain arrays and stock operations: no wrapper, remap or sync."""

import io
import re
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.model.experts.projection import Projection
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.experts.swiglu import swiglu_plain
from tests.support import checkpoints

ADDRESS = re.compile(r"\b\d{6,}\b")


def plain(
    experts: Experts, x: mx.array, expert_indices: mx.array, limit: float
) -> mx.array:
    """Compute one layer's experts with stock operations only."""
    sizes = {"group_size": 32, "bits": 4, "mode": "mxfp4", "transpose": True}

    def product(p: Projection, x: mx.array) -> mx.array:
        y = mx.gather_qmm(
            x,
            p.weight,
            p.scales,
            None,
            rhs_indices=expert_indices,
            **sizes,  # pyright: ignore
        )
        return y + p.bias[expert_indices][..., None, :]

    z = product(experts.gate_up_proj, x[:, None, None])
    y = swiglu_plain(z[..., 0::2], z[..., 1::2], limit)
    return product(experts.down_proj, y).squeeze(2)


def drawn(y: mx.array) -> str:
    """Export a graph with operations numbered in order, not by address."""
    graph = io.StringIO()
    mx.export_to_dot(graph, y)
    numbers: dict[str, str] = {}
    return ADDRESS.sub(
        lambda found: numbers.setdefault(found[0], str(len(numbers))), graph.getvalue()
    )


@pytest.mark.skipif(mx.metal.is_available(), reason="compiles the activation there")
def test_the_graph_is_the_plain_one(tmp_path: Path) -> None:
    folder = checkpoints.write_checkpoint(tmp_path)
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    config = model.config
    for block in model.model.layers:
        experts = block.mlp.experts
        assert type(experts) is Experts
        x = mx.ones((2, config.hidden_size))
        expert_indices = mx.array([[0, 3, 1], [4, 2, 0]])
        found = experts.apply_gathered(x, expert_indices)
        expected = plain(experts, x, expert_indices, config.swiglu_limit)
        assert drawn(found) == drawn(expected)
        assert mx.array_equal(found, expected)


def test_building_a_token_evaluates_nothing(tmp_path: Path) -> None:
    folder = checkpoints.write_checkpoint(tmp_path)
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    before = mx.get_active_memory()
    logits = model(mx.array([[1]]))
    assert mx.get_active_memory() - before < 1000  # the ids and nothing computed
    mx.eval(logits)
