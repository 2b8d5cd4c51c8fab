"""A context filled to its end, with the real window: its memory is as planned.

`pytest -m soak -s tests/model/test_long_context.py` fills all 131,072 tokens; how long
one token's keys are is the model's business, so a small one shows the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.memory import kv_bytes
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import write_tokenizer

WINDOW = 128
ANSWER = 8
FLOAT = 4  # bytes


@pytest.mark.parametrize(
    "context", [3000, pytest.param(131_072, marks=pytest.mark.soak)]
)
def test_a_context_is_filled_to_its_end_within_the_plan(
    context: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    shape: dict[str, Any] = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_size": 64,
    }
    folder = write_checkpoint(
        tmp_path, seed=6, num_hidden_layers=2, sliding_window=WINDOW, **shape
    )
    write_tokenizer(folder)
    prompt = [n * n % 251 for n in range(context - ANSWER)]
    params = SamplingParams(temperature=0)
    with load(folder, context=context, cache=CacheOptions(idle=False)) as runtime:
        plan, config = runtime.plan, runtime.config
        assert plan is not None
        before = runtime.run(mx.get_active_memory)
        runtime.run(mx.reset_peak_memory)

        stream = runtime.generate(prompt, params, reuse=True, stop_tokens={})
        said = [step.token for step in stream]

        peak = stream.stats.peak_memory
        state = runtime.run(mx.get_active_memory) - before
        kept = runtime.cache_statistics
        print(
            f"{context:,} tokens: planned {plan.kv_bytes:,}, kept {kept.nbytes:,} with "
            f"{kept.snapshots} snapshots, in use {state:,}, peak {peak:,} of "
            f"{plan.total_bytes:,}; {stream.stats.prompt_seconds:.0f} s"
        )
        record_property("bytes kept", kept.nbytes)
        record_property("bytes in use", state)
        again = runtime.generate(prompt, params, reuse=True, stop_tokens={})
        assert [step.token for step in again] == said
        with pytest.raises(PromptError, match=f"the context holds {context:,}"):
            runtime.generate([*prompt, *said], params, reuse=True)

    snapshot = 2 * WINDOW * config.num_key_value_heads * config.head_dim * FLOAT
    arithmetic = kv_bytes(config, context - 1, float_bytes=FLOAT)
    assert (len(said), stream.stats.finish_reason) == (ANSWER, "length")
    assert again.stats.cached_tokens == len(prompt) - 1
    assert kept.nbytes == arithmetic + kept.snapshots * snapshot
    assert plan.kv_bytes == kv_bytes(config, context, float_bytes=FLOAT)
    # Beside the cache nothing stays but the ids and small constants.
    assert kept.nbytes <= state <= 1.01 * kept.nbytes + 2**20
    assert peak <= plan.total_bytes
