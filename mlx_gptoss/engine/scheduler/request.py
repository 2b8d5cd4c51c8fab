"""A request: the prompt, the settings of its answer, and who is told of the steps.

Frozen data; `Sequence` is the state of the answer in the engine.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.engine.interfaces import OnProgress, TokenGuide, TokenIds
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_logprobs import PromptLogprobs
from mlx_gptoss.engine.sampling_params import SamplingParams

OnStep = Callable[[Step, Statistics], None]
OnPrompt = Callable[[PromptLogprobs], None]
OnEnd = Callable[[Statistics | None, BaseException | None], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One prompt to answer. The callbacks run in the engine thread.

    ids: the prompt, or what follows the tokens in `cache`.
    params: sampling settings.
    limit: most tokens to generate; 0 only reads the prompt.
    stop_tokens: token id -> finish reason.
    guide: keeps the answer within constraints.
    on_step(step, stats): called for each token, with the statistics up to it.
    on_end(stats, error): called once and last; stats is None if it never started.
    on_prompt(logprobs): called once the prompt is read, if `params` ask for its
        log-probabilities.
    on_progress(done, total): called after each prefill chunk, in prompt tokens.
    cancelled(): polled between chunks and steps; True cancels the request.
    adapter: the name of the adapter that computes it; None for none.
    cache: a KV cache of the caller; None leases one from the prompt cache.
    keep: whether the prompt cache is searched for the prompt and keeps the answer.
    shared: other requests have the same prompt, so that it is prefilled once.
    group: requests of one group are admitted or refused together; None: of its own.
    patient: never refused; waits however many others do.
    run_ahead: most steps computed ahead of those read (see `Generation.read`); None
        means without bound.
    """

    ids: TokenIds
    params: SamplingParams
    limit: int
    stop_tokens: Mapping[int, str]
    on_step: OnStep
    on_end: OnEnd
    guide: TokenGuide | None = None
    on_prompt: OnPrompt | None = None
    on_progress: OnProgress | None = None
    cancelled: Callable[[], bool] | None = None
    adapter: str | None = None
    cache: Any = None
    keep: bool = True
    shared: bool = False
    group: object = None
    patient: bool = False
    run_ahead: int | None = None
    arrival_time: float = field(default_factory=time.perf_counter)
