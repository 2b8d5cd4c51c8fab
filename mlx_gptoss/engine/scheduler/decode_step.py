"""One batched decode step: feed one token per sequence, then sample all next tokens.

Knows the model and its caches; nothing of queues, admission or callers.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import mlx.core as mx

from mlx_gptoss.engine.generate import CLEAR_CACHE_EVERY
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.rows import Row, gather_rows
from mlx_gptoss.engine.sampler import SampledToken, Sampler, SamplerInput
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.errors import GptOssError, ModelError
from mlx_gptoss.model.device import use_gpu_paths

ErrorScope = Callable[[Request], AbstractContextManager[None]]
Rows = list[tuple[Request, Sequence]]


class DecodeInput(NamedTuple):
    """One row of a decode step; `token` is None if no token is left to feed."""

    request: Request
    sequence: Sequence
    token: SampledToken | None


class DecodeStep:
    """Feeds tokens that may not be computed yet; keeps the logits of the last step."""

    def __init__(self, model: Callable[[], LanguageModel]) -> None:
        self.sampler = Sampler()
        self._model = model
        self._previous_logits: mx.array | None = None
        self._steps = 0

    def run(self, inputs: list[DecodeInput], isolate: ErrorScope) -> None:
        """Start computing the logits after each token, and sample the next tokens.

        A single row takes exactly the path of `generate`. Waits only for the logits of
        the previous step, so that an error of the model is raised here. Work of a
        single request runs within `isolate(request)`.
        """
        logits = self._forward(inputs)
        self._sample(
            [(request, sequence) for request, sequence, _ in inputs],
            isolate,
            lambda b, sequence: sequence.prepare_lookahead(Row(logits, b)),
            Sequence.accept_lookahead,
        )

    def sample_waiting(self, rows: Rows, isolate: ErrorScope) -> None:
        """Sample the next tokens of rows that had to wait for the one before."""
        self._sample(
            rows,
            isolate,
            lambda b, sequence: sequence.prepare_next(),
            Sequence.accept_next,
        )

    def _sample(
        self,
        rows: Rows,
        isolate: ErrorScope,
        prepare: Callable[[int, Sequence], SamplerInput | None],
        accept: Callable[[Sequence, SampledToken], None],
    ) -> None:
        """Sample from the rows that are ready, in one pass."""
        ready: list[tuple[Request, Sequence]] = []
        inputs: list[SamplerInput] = []
        for b, (request, sequence) in enumerate(rows):
            with isolate(request):
                found = prepare(b, sequence)
                if found is not None:
                    inputs.append(found)
                    ready.append((request, sequence))
        if not inputs:
            return
        sampled = self.sampler.sample(inputs)
        for (request, sequence), token in zip(ready, sampled, strict=True):
            with isolate(request):
                accept(sequence, token)

    def _forward(self, inputs: list[DecodeInput]) -> mx.array:
        """Return the float32 logits (B, V) after each token."""
        model = self._model()
        self._steps += 1
        if use_gpu_paths() and self._steps % CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()  # growing caches leave their old arrays behind
        tokens = gather_rows(
            [row.token.token for row in inputs if row.token is not None]
        )
        caches = [row.sequence.cache for row in inputs]
        cache = caches[0] if len(caches) == 1 else caches
        hidden = model.hidden(tokens[None], cache)  # (1, B, M)
        logits = model.logits(hidden)[0].astype(mx.float32)
        mx.async_eval(logits)
        previous, self._previous_logits = self._previous_logits, logits
        if previous is not None:
            mx.eval(previous)
        return logits

    def clear(self) -> None:
        """Release the logits of the last step."""
        self._previous_logits = None


def as_model_error(error: Exception, action: str) -> GptOssError:
    """Wrap an error of the model in a ModelError; return one of ours unchanged."""
    if isinstance(error, GptOssError):
        return error
    named = ModelError(f"the model failed while it {action}: {error}")
    named.__cause__ = error
    return named
