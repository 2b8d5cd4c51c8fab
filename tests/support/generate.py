"""Generate with a model that was not loaded from a folder."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler.prefill_pace import PrefillPace
from mlx_gptoss.engine.stream import Stream


def generate(
    model: Any,
    ids: Sequence[int],
    params: SamplingParams | None = None,
    *,
    context: int | None = None,
    chunk: int | None = None,
    **options: Any,
) -> Stream:
    """Return the Steps after `ids`; at most `chunk` prompt tokens in a pass."""
    if hasattr(model, "parameters"):
        mx.eval(model.parameters())  # another thread computes with them
    runtime = Runtime(model, context=context)
    if chunk is not None:
        runtime._scheduler._lifecycle.batch._pace = PrefillPace(chunk, fairness=0)
    return runtime.generate(ids, params, **options)
