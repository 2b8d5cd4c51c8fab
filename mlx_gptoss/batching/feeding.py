"""One token of each answer through the model, all in one pass.

Knows the model and its caches, nothing of who asked.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_gptoss.batching.ticket import Ticket
from mlx_gptoss.decoding import Decoding
from mlx_gptoss.errors import GptOssError, ModelError
from mlx_gptoss.generate import CLEAR_EVERY
from mlx_gptoss.interfaces import LanguageModel
from mlx_gptoss.linear import on_gpu

Fed = tuple[Ticket, Decoding, mx.array | None]  # and the token () to feed, if any


class Feeder:
    """Feeds tokens that need not be computed yet; keeps the logits of the last pass."""

    def __init__(self, model: Callable[[], LanguageModel]) -> None:
        self._model = model
        self._before: mx.array | None = None
        self._passes = 0

    def feed(self, feeding: Sequence[Fed]) -> dict[Ticket, mx.array]:
        """Start computing the logits (V,) behind each token ().

        One answer alone takes the very path of `generate`. What is waited for are the
        logits of the pass before, so that an error of the model shows here.
        """
        model = self._model()
        self._passes += 1
        if on_gpu() and self._passes % CLEAR_EVERY == 0:
            mx.clear_cache()  # growing caches leave their former arrays behind
        tokens = [token for *_, token in feeding if token is not None]
        caches = [decoding.cache for _, decoding, _ in feeding]
        if len(caches) == 1:
            hidden = model.hidden(tokens[0].reshape(1, 1), caches[0])
        else:
            hidden = model.hidden(mx.stack(tokens)[:, None], caches)  # (B, 1, M)
        logits = model.logits(hidden)[:, -1].astype(mx.float32)  # (B, V)
        mx.async_eval(logits)
        before, self._before = self._before, logits
        if before is not None:
            mx.eval(before)
        return {ticket: logits[b] for b, (ticket, *_) in enumerate(feeding)}

    def forget(self) -> None:
        """Let go of the last logits."""
        self._before = None


def failed(error: Exception, doing: str) -> GptOssError:
    """Name an error of the model, unless it has a name of ours already."""
    if isinstance(error, GptOssError):
        return error
    named = ModelError(f"the model failed while it {doing}: {error}")
    named.__cause__ = error
    return named
