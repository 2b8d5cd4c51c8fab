"""Sampling: from logits to token ids, for one row or a whole batch.

Each row has its own settings, seed and mask, and gets the token it would get alone; all
share one pass. The order is: mask, bias, temperature, top-k, top-p, min-p.
Log-probabilities reported to users are log-softmax of the model's unmodified logits,
however the token was sampled.

Knows nothing of models, text or guides. Logits are float32. Dimensions: B rows,
V vocabulary.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import mlx.core as mx

from mlx_gptoss.engine.batch_settings import BatchSettings
from mlx_gptoss.engine.logprobs import sampled_logprobs, top_logprobs
from mlx_gptoss.engine.rows import Row, gather_rows, select_rows
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.token_masks import TokenMasks
from mlx_gptoss.engine.token_table import TokenMask
from mlx_gptoss.errors import PromptError
from mlx_gptoss.model.device import use_gpu_paths

SEED_BITS = 32  # in each of the two words of a key


class SamplerInput(NamedTuple):
    """How to sample one token from a row of logits (V,)."""

    logits: Row
    params: SamplingParams
    seed: int  # of this token only, below 2^64
    mask: TokenMask = None


class SampledTokens:
    """Token ids (B,) int32 that were sampled together, and what is known of them.

    `logprobs` are (B,); `top` the most likely ids and their logprobs (n, k), of `n`
    rows; `states` (B,) those of the automata that the rows follow.
    """

    def __init__(
        self,
        tokens: mx.array,
        logprobs: mx.array,
        top: tuple[mx.array, mx.array] | None = None,
        states: mx.array | None = None,
    ) -> None:
        self.tokens = tokens
        self.logprobs = logprobs
        self.top = top
        self.states = states

    @property
    def arrays(self) -> list[mx.array]:
        """All of them, to evaluate."""
        states = () if self.states is None else (self.states,)
        return [self.tokens, self.logprobs, *states, *(self.top or ())]

    @cached_property
    def values(self) -> list[tuple[int, float]]:
        """Token id and logprob of each row. Waits for them."""
        both = (cast("list[Any]", x.tolist()) for x in (self.tokens, self.logprobs))
        return list(zip(*both, strict=True))

    @cached_property
    def top_values(self) -> list[list[tuple[int, float]]]:
        """The most likely ids and logprobs of the rows that want them. Waits."""
        if self.top is None:
            return []
        ids, logprobs = (cast("list[Any]", one.tolist()) for one in self.top)
        return [list(zip(*row, strict=True)) for row in zip(ids, logprobs, strict=True)]


class SampledToken(NamedTuple):
    """One token of a batch, possibly not computed yet."""

    batch: SampledTokens
    row: int
    top_row: int  # among the rows with `top`
    top_count: int

    @property
    def token(self) -> Row:
        """The token id () int32, without waiting for it."""
        return Row(self.batch.tokens, self.row)

    @property
    def state(self) -> Row | None:
        """The automaton's state after the token, if the row follows one."""
        states = self.batch.states
        return None if states is None else Row(states, self.row)

    def result(self) -> tuple[int, float, list[tuple[int, float]]]:
        """Wait; return the token id, its logprob, and the most likely (id, logprob).

        The logprob is NaN where the logits are no distribution.
        """
        token, logprob = self.batch.values[self.row]
        count = self.top_count
        top = self.batch.top_values[self.top_row][:count] if count else []
        return token, logprob, top


class Sampler:
    """Samples batches; keeps on the device what they have in common.

    One thread at a time may use it, as with all MLX arrays.
    """

    def __init__(self) -> None:
        self._masks = TokenMasks()
        self._settings = BatchSettings([])

    def sample(self, inputs: Sequence[SamplerInput]) -> list[SampledToken]:
        """Sample one token per input, of which there is at least one; do not wait."""
        logits = gather_rows([one.logits for one in inputs])
        params = [one.params for one in inputs]
        if params != self._settings.params:
            self._settings = BatchSettings(params)
        settings = self._settings
        mask = self._masks.join([one.mask for one in inputs], logits.shape[-1])
        masked = logits if mask is None else mask.apply(logits)
        biased = settings.add_bias(masked)
        tokens = sample_rows(biased, settings, [one.seed for one in inputs])
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        logprobs = sampled_logprobs(tokens, logits, total, masked=biased is not logits)
        top = None
        if settings.top_rows:
            top = top_logprobs(select_rows(logits - total, settings.top_rows))
        states = None if mask is None else mask.advance(tokens)
        batch = SampledTokens(tokens, logprobs, top, states)
        mx.async_eval(batch.arrays)
        return [
            SampledToken(batch, row, *where)
            for row, where in enumerate(settings.top_places)
        ]


def sample_rows(
    logits: mx.array, settings: BatchSettings, seeds: Sequence[int]
) -> mx.array:
    """Sample from each row of logits (B, V) with its settings and seed: (B,) int32."""
    if settings.all_greedy:
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    scores = settings.filter(logits) + gumbel_rows(seeds, logits.shape[-1])
    tokens = mx.argmax(scores, axis=-1)
    if settings.greedy is not None:
        tokens = mx.where(settings.greedy, mx.argmax(logits, axis=-1), tokens)
    return tokens.astype(mx.int32)


def gumbel_rows(seeds: Sequence[int], size: int) -> mx.array:
    """Return Gumbel noise (B, size), each row from the key of its own seed.

    The largest of logits and noise is a sample of the softmax:
    https://arxiv.org/abs/1611.01144
    """
    if len(seeds) == 1:
        return mx.random.gumbel((1, size), key=mx.random.key(seeds[0]))
    low = (1 << SEED_BITS) - 1
    keys = mx.array([[seed >> SEED_BITS, seed & low] for seed in seeds], mx.uint32)
    return (_compiled_noise if use_gpu_paths() else _noise)(keys, size)


def _noise(keys: mx.array, size: int) -> mx.array:
    return mx.vmap(lambda key: mx.random.gumbel((size,), key=key))(keys)


_compiled_noise = mx.compile(_noise)  # ten pointwise kernels become one


def check_bias(logit_bias: Mapping[int, float], size: int) -> None:
    """Raise PromptError for a bias of a token outside a vocabulary of `size`."""
    if max(logit_bias) >= size:
        raise PromptError(
            f"`logit_bias` names token {max(logit_bias)}, but the vocabulary has "
            f"{size}: use the ids of this model's tokenizer"
        )
