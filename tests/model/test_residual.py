"""float16 that cannot overflow: a residual stream scaled by a power of two."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.load import load_model, stored_down_norms
from mlx_gptoss.engine.load import load
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.model import residual
from mlx_gptoss.model.adapters import AdapterStack
from mlx_gptoss.model.experts.projection import Projection
from mlx_gptoss.model.gpt_oss import Block, GptOss
from mlx_gptoss.model.residual import (
    expert_norms,
    residual_bound,
    row_norms,
    shrink_residual,
)
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import (
    Tensors,
    hf_config,
    random_tensors,
    write_folder,
)
from tests.support.low_rank import as_adapter, random_updates

IDS = list(range(30))
LARGEST = 65_504
COLUMN = 7
HALF_WAY = 59_904  # in bfloat16, as checkpoints have it


def massive(config: dict[str, Any]) -> Tensors:
    """Tensors whose residual stream passes 100,000 in the second layer.

    As in gpt-oss-120b, one column of it is large and the others are small.
    """
    tensors = random_tensors(config, seed=4)
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.experts.down_proj_bias"
        tensors[name][:, COLUMN] = HALF_WAY
    tensors["model.norm.weight"][COLUMN] = 1 / 64
    return tensors


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The largest value behind each layer."""
    seen: list[float] = []
    run = Block.__call__

    def watched(self: Block, *arguments: Any, **named: Any) -> mx.array:
        h = run(self, *arguments, **named)
        seen.append(float(np.abs(np.array(h.astype(mx.float32))).max()))
        return h

    monkeypatch.setattr(Block, "__call__", watched)
    yield seen


def errors(model: GptOss, expected: np.ndarray) -> float:
    """The root of the mean squared difference of logits."""
    found = np.array(model(mx.array([IDS])).astype(mx.float32))[0]
    return float(np.sqrt(((found - expected) ** 2).mean()))


def test_what_overflows_float16_is_computed_in_it(
    tmp_path: Path, stream: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = hf_config()
    tensors = massive(config)
    folder = write_folder(tmp_path, config, tensors)
    expected = oracle.logits(tensors, config, IDS)
    checkpoint = open_checkpoint(folder)

    exact = errors(load_model(checkpoint, dtype=mx.float32), expected)
    assert max(stream) > 100_000 > LARGEST
    bfloat16 = errors(load_model(checkpoint, dtype=mx.bfloat16), expected)
    stream.clear()
    float16 = errors(load_model(checkpoint, dtype=mx.float16), expected)

    assert max(stream) < LARGEST
    assert exact < 5e-4
    assert float16 < 0.02
    assert float16 < bfloat16 / 2
    with monkeypatch.context() as plain:
        plain.setattr(residual, "shrink_residual", lambda model, k: None)
        assert not np.isfinite(
            errors(load_model(checkpoint, dtype=mx.float16), expected)
        )


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds(seed: int, stream: list[float]) -> None:
    config = hf_config()
    model = build(config, random_tensors(config, seed=seed))

    model(mx.array([IDS]))

    assert max(stream) < residual_bound(model.model, ModelConfig.from_dict(config))


@pytest.mark.parametrize("k", [1, 4, 7])
def test_a_power_of_two_changes_only_how_sums_round(k: int) -> None:
    """In float32, whose exponent has room; with an adapter and without."""
    config = hf_config()
    tensors = random_tensors(config, seed=1)
    plain, shrunk = (build(config, tensors) for _ in range(2))
    shrink_residual(shrunk.model, k)

    updates = random_updates(config, 9)
    for model in (plain, shrunk):
        stack = AdapterStack(model.config, [as_adapter("own", updates)])
        model.set_adapters(stack)
        slot = stack.slot("own")
    for adapters in ([0], [slot]):
        a, b = (model(mx.array([IDS]), adapters=adapters) for model in (plain, shrunk))
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("mode", "bits", "group"),
    [
        ("affine", 4, 32),
        ("affine", 8, 64),
        ("mxfp4", 4, 32),
        ("nvfp4", 4, 16),
        ("mxfp8", 8, 32),
        ("", 16, 0),
    ],
)
def test_rows_are_no_longer_than_their_scales_allow(
    mode: str, bits: int, group: int
) -> None:
    how = Quantization(bits, group, mode) if mode else None
    rows = mx.random.normal((3, 8, 128), key=mx.random.key(1))
    projection = Projection(3, 128, 8, how)
    if how is None:
        projection.weight = rows.swapaxes(1, 2)
    else:
        packed = mx.quantize(rows, group_size=group, bits=bits, mode=mode)
        for name, array in zip(("weight", "scales", "biases"), packed, strict=False):
            projection[name] = array
        rows = mx.stack([projection.dequantize(e).T for e in range(3)])

    bounds, exact = expert_norms(projection), row_norms(rows)

    assert mx.all(bounds >= exact * 0.999).item()
    assert mx.all(bounds <= exact * (6 if "fp" in mode else 4)).item()


def test_streamed_experts_are_scaled_alike(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, hf_config(), massive(hf_config()))
    checkpoint = open_checkpoint(folder)
    experts = load_model(checkpoint, dtype=mx.float16).model.layers[1].mlp.experts
    norms = stored_down_norms(checkpoint, 1)
    assert mx.array_equal(norms, expert_norms(experts.down_proj))

    with load(folder, dtype="float16", experts="resident") as runtime:
        expected = runtime.logits(IDS)
    with load(folder, dtype="float16", experts="streamed") as runtime:
        assert mx.array_equal(runtime.logits(IDS), expected)
    assert mx.all(mx.isfinite(expected)).item()


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    config = hf_config(num_hidden_layers=1)
    tensors = random_tensors(config)
    name = "model.layers.0.self_attn.o_proj.bias"
    tensors[name][3] = 1e6
    folder = write_folder(tmp_path / "large", config, tensors)
    with pytest.raises(CheckpointError, match=f"`{name}` .* beyond 65,504, which"):
        load_model(open_checkpoint(folder), dtype=mx.float16)

    tensors = random_tensors(config)
    tensors["model.layers.0.mlp.experts.down_proj_scales"] += 20
    folder = write_folder(tmp_path / "larger", config, tensors)
    with pytest.raises(CheckpointError, match="float16 cannot hold well: use bfloat16"):
        load_model(open_checkpoint(folder), dtype=mx.float16)
