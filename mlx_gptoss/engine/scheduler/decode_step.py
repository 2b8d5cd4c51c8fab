"""One token of each answer through the model in one pass, those after them in one go.

Knows the model and its caches, nothing of who asked.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import mlx.core as mx

from mlx_gptoss.engine.generate import CLEAR_CACHE_EVERY
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.sampler import (
    SampledToken,
    SamplerInput,
    sample_batch,
    stack_tokens,
)
from mlx_gptoss.engine.scheduler.request import ENDED, Request
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.errors import GptOssError, ModelError
from mlx_gptoss.model.device import use_gpu_paths

DecodeInput = tuple[
    Request, Sequence, SampledToken | None
]  # and the token to feed, if any
ErrorScope = Callable[[Request], AbstractContextManager[None]]


class DecodeStep:
    """Feeds tokens that need not be computed yet; keeps the logits of the last pass."""

    def __init__(self, model: Callable[[], LanguageModel]) -> None:
        self._model = model
        self._previous_logits: mx.array | None = None
        self._steps = 0

    def run(self, inputs: list[DecodeInput], isolate: ErrorScope) -> None:
        """Start computing the logits behind each token, and the tokens after them.

        One answer alone takes the very path of `generate`. What is waited for are the
        logits of the pass before, so that an error of the model shows here. What is
        one answer's own is done within `alone(request)`.
        """
        logits = self._forward(inputs)
        wishes: list[SamplerInput | None] = [None] * len(inputs)
        for b, (request, sequence, _) in enumerate(inputs):
            with isolate(request):
                wishes[b] = sequence.prepare_sampling(logits[b])
        for ahead, (request, sequence, _) in zip(
            sample_batch(logits, wishes), inputs, strict=True
        ):
            if request.state != ENDED:
                with isolate(request):
                    sequence.accept_sample(ahead)

    def _forward(self, inputs: list[DecodeInput]) -> mx.array:
        """Return the logits (B, V) behind each token."""
        model = self._model()
        self._passes += 1
        if use_gpu_paths() and self._passes % CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()  # growing caches leave their former arrays behind
        tokens = stack_tokens([drawn for *_, drawn in inputs if drawn is not None])
        caches = [sequence.cache for _, sequence, _ in inputs]
        one = caches[0] if len(caches) == 1 else caches
        hidden = model.hidden(tokens[:, None], one)  # (B, 1, M)
        logits = model.logits(hidden)[:, -1].astype(mx.float32)
        mx.async_eval(logits)
        before, self._previous_logits = self._previous_logits, logits
        if before is not None:
            mx.eval(before)
        return logits

    def clear(self) -> None:
        """Let go of the last logits."""
        self._previous_logits = None


def as_model_error(error: Exception, action: str) -> GptOssError:
    """Name an error of the model, unless it has a name of ours already."""
    if isinstance(error, GptOssError):
        return error
    named = ModelError(f"the model failed while it {action}: {error}")
    named.__cause__ = error
    return named
