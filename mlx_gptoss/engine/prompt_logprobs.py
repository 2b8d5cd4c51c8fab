"""Log-probabilities of a prompt: how likely the model held each of its tokens.

They are computed chunk by chunk with the prefill, a few positions at a time, because
the logits of a long prompt would not fit in memory. Dimensions: L prompt tokens,
N alternatives, P positions at a time, M hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.interfaces import TokenIds
from mlx_gptoss.engine.logprobs import top_logprobs

POSITIONS = 32  # P: whose logits are held at a time
COPIES = 5  # arrays (P, V) of 4 bytes that are alive at a time


@dataclass(frozen=True, eq=False)
class PromptLogprobs:
    """Log-probabilities of the tokens of a prompt, without the first.

    Entry i describes token i + 1 after the tokens before it. Natural logarithms:
    log-softmax of the model's unmodified float32 logits.

    logprobs: (L - 1,) float32.
    ranks: (L - 1,) int32; 1 is the most likely token of the vocabulary.
    top_ids, top_logprobs: the most likely tokens, (L - 1, N) int32 and float32, best
        first.
    """

    logprobs: np.ndarray
    ranks: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


class PromptScorer:
    """Collects the PromptLogprobs of one prompt, with `top` alternatives each."""

    def __init__(self, ids: TokenIds, top: int) -> None:
        self._ids = list(ids)
        self._top = top
        count = len(ids) - 1
        self._logprobs = np.zeros(count, np.float32)
        self._ranks = np.zeros(count, np.int32)
        self._top_ids = np.zeros((count, top), np.int32)
        self._top_logprobs = np.zeros((count, top), np.float32)

    def score(
        self, start: int, hidden: mx.array, unembed: Callable[[mx.array], mx.array]
    ) -> None:
        """Take the hidden states (1, n, M) of the tokens from `start` on; evaluates.

        `unembed` returns the logits (1, P, V) of hidden states (1, P, M).
        """
        end = min(start + hidden.shape[1], len(self._ids) - 1)
        for first in range(start, end, POSITIONS):
            last = min(first + POSITIONS, end)
            logits = unembed(hidden[:, first - start : last - start])[0]
            self._keep(first, last, logits.astype(mx.float32))

    @property
    def finite(self) -> bool:
        """Whether all logits so far were distributions."""
        return not np.isnan(self._logprobs).any()

    def result(self) -> PromptLogprobs:
        """Return what was collected, once all of the prompt was."""
        return PromptLogprobs(
            self._logprobs, self._ranks, self._top_ids, self._top_logprobs
        )

    def _keep(self, first: int, last: int, logits: mx.array) -> None:
        """Keep what describes the tokens after positions `first` to `last`."""
        following = mx.array(self._ids[first + 1 : last + 1])[:, None]  # (P, 1)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logits, following, axis=-1)
        logprobs = (chosen - total + (total - total))[:, 0]  # NaN if not finite
        ranks = (logits > chosen).sum(axis=-1) + 1
        kept = [logprobs, ranks]
        if self._top:
            kept += top_logprobs(logits - total)
        mx.eval(kept)
        self._logprobs[first:last] = np.array(logprobs)
        self._ranks[first:last] = np.array(ranks)
        if self._top:
            self._top_ids[first:last] = np.array(kept[2])[:, : self._top]
            self._top_logprobs[first:last] = np.array(kept[3])[:, : self._top]
