"""Training takes the memory that was planned, within a tenth."""

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.engine.planned_load import describe_checkpoint
from mlx_gptoss.memory import Budget
from mlx_gptoss.workloads.tune.decoded import decode_model
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.planning import BatchSize, TunePlanner, multiplies_fast
from mlx_gptoss.workloads.tune.trainer import Trainer
from tests.support.checkpoints import write_checkpoint
from tests.support.tuning import document, packed, updates_of

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
PLENTY = Budget(10**12, 10**12, "the memory of this test")
WITHIN = 0.1


def random_model(folder: Path, **overrides: Any) -> Path:
    """Write a model with sizes unlike the demo's."""
    return write_checkpoint(
        folder,
        hidden_size=384,
        intermediate_size=192,
        num_attention_heads=6,
        num_key_value_heads=2,
        num_hidden_layers=4,
        num_local_experts=6,
        num_experts_per_tok=3,
        sliding_window=128,
        vocab_size=2003,
        **overrides,
    )


def planned_and_measured(
    folder: Path, options: TuneOptions, lengths: tuple[int, ...]
) -> tuple[int, int]:
    """Return the planned bytes of a step, and MLX's peak."""
    checkpoint = open_checkpoint(folder)
    documents = [
        document(length + 1, n, checkpoint.config.vocab_size)
        for n, length in enumerate(lengths)
    ]
    batch = packed(*documents)
    planner = TunePlanner(
        describe_checkpoint(checkpoint, 4),
        options,
        PLENTY,
        can_decode=True,
        fast_blas=multiplies_fast(mx.float32),
    )
    plan = planner.plan([BatchSize(lengths, int(batch.learned.sum()))])
    gc.collect()  # models have cycles
    begun = mx.get_active_memory()
    model = load_model(checkpoint, dtype=mx.float32)
    if plan.load.decoded:
        decode_model(model)
    updates = updates_of(model, options, checkpointed=plan.load.checkpointed)
    with updates.attached(model):
        trainer = Trainer(model, updates, clip=1.0, step_bytes=plan.step_bytes)
        mx.reset_peak_memory()
        trainer.step([batch], 1e-3)
    return plan.array_bytes, mx.get_peak_memory() - begun


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", ["off", "on"])
@pytest.mark.parametrize("decode", ["off", "on"])
@pytest.mark.parametrize("target", ["attention", "experts", "all"])
@pytest.mark.parametrize("model", ["demo", "random"])
def test_it_takes_what_was_planned(
    tmp_path: Path, model: str, target: str, decode: str, checkpointing: str
) -> None:
    folder = DEMO if model == "demo" else random_model(tmp_path)
    options = TuneOptions(target=(target,), checkpointing=checkpointing, decode=decode)
    for lengths in ((300, 100), (60,) * 5):
        planned, measured = planned_and_measured(folder, options, lengths)
        assert planned == pytest.approx(measured, rel=WITHIN), lengths


def test_it_does_on_the_demo(tmp_path: Path) -> None:
    """One quick case of the above, for every run of the tests."""
    options = TuneOptions(checkpointing="off", decode="off")
    planned, measured = planned_and_measured(DEMO, options, (300, 200))
    assert planned == pytest.approx(measured, rel=WITHIN)
