"""One token of each answer through the model in one pass, those after them in one go.

Knows the model and its caches, nothing of who asked.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import mlx.core as mx

from mlx_gptoss.engine.generate import CLEAR_EVERY
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.sampler import Draw, Wish, draw, tokens_of
from mlx_gptoss.engine.scheduler.request import ENDED, Ticket
from mlx_gptoss.engine.sequence import Decoding
from mlx_gptoss.errors import GptOssError, ModelError
from mlx_gptoss.model.device import use_gpu_paths

Fed = tuple[Ticket, Decoding, Draw | None]  # and the token to feed, if any
Alone = Callable[[Ticket], AbstractContextManager[None]]


class Feeder:
    """Feeds tokens that need not be computed yet; keeps the logits of the last pass."""

    def __init__(self, model: Callable[[], LanguageModel]) -> None:
        self._model = model
        self._before: mx.array | None = None
        self._passes = 0

    def feed(self, feeding: Sequence[Fed], alone: Alone) -> None:
        """Start computing the logits behind each token, and the tokens after them.

        One answer alone takes the very path of `generate`. What is waited for are the
        logits of the pass before, so that an error of the model shows here. What is
        one answer's own is done within `alone(ticket)`.
        """
        logits = self._read(feeding)
        wishes: list[Wish | None] = [None] * len(feeding)
        for b, (ticket, decoding, _) in enumerate(feeding):
            with alone(ticket):
                wishes[b] = decoding.offer(logits[b])
        for ahead, (ticket, decoding, _) in zip(
            draw(logits, wishes), feeding, strict=True
        ):
            if ticket.state != ENDED:
                with alone(ticket):
                    decoding.accept(ahead)

    def _read(self, feeding: Sequence[Fed]) -> mx.array:
        """Return the logits (B, V) behind each token."""
        model = self._model()
        self._passes += 1
        if use_gpu_paths() and self._passes % CLEAR_EVERY == 0:
            mx.clear_cache()  # growing caches leave their former arrays behind
        tokens = tokens_of([drawn for *_, drawn in feeding if drawn is not None])
        caches = [decoding.cache for _, decoding, _ in feeding]
        one = caches[0] if len(caches) == 1 else caches
        hidden = model.hidden(tokens[:, None], one)  # (B, 1, M)
        logits = model.logits(hidden)[:, -1].astype(mx.float32)
        mx.async_eval(logits)
        before, self._before = self._before, logits
        if before is not None:
            mx.eval(before)
        return logits

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
