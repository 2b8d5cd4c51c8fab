"""One forward pass: the next token of some sequences, and prompt chunks of others.

Knows the model and its caches; nothing of queues, admission, sampling or callers.
"""

from itertools import accumulate
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_gptoss.engine.adapter_slots import as_argument
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.loaded_adapters import LoadedAdapters
from mlx_gptoss.engine.rows import gather_rows
from mlx_gptoss.engine.sampler import SampledToken
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.errors import GptOssError, ModelError
from mlx_gptoss.model.device import use_gpu_paths

CLEAR_CACHE_EVERY = 256  # passes


class PassRow(NamedTuple):
    """One row of a pass: a chunk of a prompt, or the token sampled last."""

    sequence: Sequence
    chunk: list[int]
    token: SampledToken | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether a token is sampled after this row."""
        if self.token is not None:
            return True
        if self.sequence.request.limit == 0:
            return False
        return self.sequence.sampled is None and self.sequence.ends_with(self.chunk)

    @property
    def scored(self) -> bool:
        """Whether the log-probabilities of a chunk's tokens are asked for."""
        return bool(self.chunk) and self.sequence.scorer is not None


class ForwardPass:
    """Runs rows through the model; tokens that are fed may not be computed yet.

    `model` returns the LanguageModel, `adapters` knows the slots of adapters.
    """

    def __init__(self, model: Any, adapters: LoadedAdapters) -> None:
        self._model = model
        self._adapters = adapters
        self._started: list[mx.array] = []  # to wait for the last pass
        self._passes = 0

    def start(self, rows: list[PassRow]) -> mx.array | None:
        """Start a pass; return the float32 logits (R, V) of the rows that need them.

        Rows with a token come first, then chunks that need logits, then the others.
        Waits for the pass before only, so that an error of the model is raised here.
        """
        model: LanguageModel = self._model()
        self._passes += 1
        if use_gpu_paths() and self._passes % CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()  # growing caches leave their old arrays behind
        caches = [row.sequence.cache for row in rows]
        chunks = [row for row in rows if row.chunk]
        scored = any(row.scored for row in chunks)
        ids, last = input_ids(rows)[None], bool(chunks) and not scored
        slots = [self._adapters.slot(row.sequence.adapter) for row in rows]
        how = {"last": last, **as_argument(slots)}
        if len(rows) == 1:
            hidden = model.hidden(ids, caches[0], **how)  # (1, 1, M)
        else:
            lengths = [len(row.chunk) or 1 for row in rows]
            hidden = model.hidden(ids, caches, lengths=lengths, **how)  # (1, R, M)
        if scored:  # (1, N, M)
            hidden = score_prompts(model, rows, hidden, slots)  # (1, R, M)
        count = sum(row.needs_logits for row in rows)
        logits = None
        if count:
            wanted = hidden if count == len(rows) else hidden[:, :count]
            logits = model.logits(wanted, **as_argument(slots[:count]))
            logits = logits[0].astype(mx.float32)
        # Of a chunk only the cache is needed, which saves the experts of the top layer.
        started = [x for row in chunks for x in row.sequence.cache.arrays]
        marks = completion_marks(started) if logits is None else [logits]
        mx.async_eval([*started, *marks])
        before, self._started = self._started, marks
        mx.eval(before)
        return logits

    def wait(self) -> None:
        """Wait for the pass, so that two of them never hold their memory at once."""
        mx.eval(self._started)
        self.clear()
        if use_gpu_paths():
            mx.clear_cache()  # chunks differ in size: their buffers pile up

    def clear(self) -> None:
        """Release the arrays of the last pass."""
        self._started = []


def score_prompts(
    model: LanguageModel, rows: list[PassRow], hidden: mx.array, slots: list[int]
) -> mx.array:
    """Note the log-probabilities of prompts; return the last positions (1, R, M).

    `hidden` are all positions (1, N, M). Evaluates them.
    """
    ends = list(accumulate(len(row.chunk) or 1 for row in rows))
    for row, end, slot in zip(rows, ends, slots, strict=True):
        scorer, sequence = row.sequence.scorer, row.sequence
        if scorer is None or not row.chunk:
            continue
        adapter = as_argument([slot])
        scorer.score(
            sequence.next_position,
            hidden[:, end - len(row.chunk) : end],
            lambda states, adapter=adapter: model.logits(states, **adapter),
        )
    return hidden[:, mx.array([end - 1 for end in ends])]


def completion_marks(arrays: list[mx.array]) -> list[mx.array]:
    """Return what is computed once `arrays` are, and shares no memory with them.

    A cache that is referred to would be copied by its next write.
    """
    return [x[:1, :1, :1, :1] + 0 for x in arrays[-1:]]


def input_ids(rows: list[PassRow]) -> mx.array:
    """Return the ids (N,) int32 of all rows, one after another; tokens come first."""
    tokens = [row.token.token for row in rows if row.token is not None]
    chunks = [token for row in rows for token in row.chunk]
    parts = [gather_rows(tokens)] if tokens else []
    parts += [mx.array(chunks, mx.int32)] if chunks else []
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def as_model_error(error: Exception, action: str) -> GptOssError:
    """Wrap an error of the model in a ModelError; return one of ours unchanged."""
    if isinstance(error, GptOssError):
        return error
    named = ModelError(f"the model failed while it {action}: {error}")
    named.__cause__ = error
    return named
