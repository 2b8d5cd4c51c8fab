"""Outputs of generation: one Step per token, finish reasons, and statistics.

Data only; knows nothing of models. The stop token is the last Step and carries the
finish reason:

    stop         the model ended its answer (`<|return|>`, `<|endoftext|>`, an eos id)
    tool_calls   the model called a tool and waits for the result (`<|call|>`)
    length       `max_tokens`, the end of the context, or repeating text that was cut
    cancelled    never on a Step, only in Statistics: the caller stopped generation
    content_filter  of an answer that a guard refused: nothing was generated
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.tokenizer import Tokenizer

STOP, TOOL_CALLS, LENGTH, CANCELLED = "stop", "tool_calls", "length", "cancelled"
CONTENT_FILTER = "content_filter"
# Finish details of an answer that ended because its text repeated itself.
FINAL_LOOP, CALL_LOOP = "final_loop", "call_loop"
UNENFORCED = "unbound"  # finish detail: a schema was given up before the end
STOP_TOKEN_REASONS = {"<|return|>": STOP, "<|endoftext|>": STOP, "<|call|>": TOOL_CALLS}


@dataclass(frozen=True)
class Step:
    """One generated token.

    token: its id.
    logprob: its log-probability (natural logarithm, 0 or less): log-softmax of the
        model's unmodified float32 logits, before bias, temperature, filters and masks.
    finish_reason: `stop`, `tool_calls` or `length` on the last Step, else None.
    top_logprobs: the most likely (token id, logprob), best first; as many as
        `SamplingParams.top_logprobs`.
    """

    token: int
    logprob: float
    finish_reason: str | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Statistics:
    """Counts and times of one generation, so far or in total.

    prompt_tokens: tokens of the prompt, the cached ones included.
    cached_tokens: prompt tokens found in the prompt cache, which were not prefilled.
    completion_tokens: generated tokens, the stop token included.
    prompt_seconds: from the start of prefill to the first token, or during prefill to
        the end of the last chunk.
    generation_seconds: from the first token to the last.
    time_to_first_token: seconds from the arrival of the request to the first token,
        time in the queue included.
    peak_memory: peak of MLX's active memory, in bytes.
    finish_reason: `stop`, `tool_calls`, `length` or `cancelled`; None while running.
    generations: how many generations are summed up here.
    finish_details: the parts that were cut short: `reasoning_budget`,
        `preamble_budget`, `analysis_loop`, `commentary_loop`, `final_loop`,
        `call_loop`, `stop_string`, or, of a whole turn, `tool_rounds`; `unbound` if a
        schema was too costly and was not enforced to the end.

    Adding two sums them, as for the rounds of one turn.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    time_to_first_token: float = 0.0
    peak_memory: int = 0
    finish_reason: str | None = None
    generations: int = 1
    finish_details: tuple[str, ...] = ()

    @property
    def ended_in_loop(self) -> bool:
        """Whether the answer was cut because its text repeated itself."""
        return FINAL_LOOP in self.finish_details or CALL_LOOP in self.finish_details

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prefill speed, of the tokens that were not cached; 0.0 if unknown."""
        return _rate(self.prompt_tokens - self.cached_tokens, self.prompt_seconds)

    @property
    def generation_tokens_per_second(self) -> float:
        """Decode speed, without the first token (prefill yields it); 0.0 if unknown."""
        later = max(self.completion_tokens - self.generations, 0)
        return _rate(later, self.generation_seconds)

    def __add__(self, later: "Statistics") -> "Statistics":
        return Statistics(
            prompt_tokens=self.prompt_tokens + later.prompt_tokens,
            cached_tokens=self.cached_tokens + later.cached_tokens,
            completion_tokens=self.completion_tokens + later.completion_tokens,
            prompt_seconds=self.prompt_seconds + later.prompt_seconds,
            generation_seconds=self.generation_seconds + later.generation_seconds,
            time_to_first_token=self.time_to_first_token,
            peak_memory=max(self.peak_memory, later.peak_memory),
            finish_reason=later.finish_reason,
            finish_details=self.finish_details + later.finish_details,
            generations=self.generations + later.generations,
        )


def stop_reasons(
    tokenizer: "Tokenizer | None", eos_token_ids: Iterable[int] = ()
) -> dict[int, str]:
    """Map the ids of stop tokens to finish reasons.

    With a tokenizer, those of Harmony are included and unusable eos ids left out.
    """
    if tokenizer is None:
        return dict.fromkeys(eos_token_ids, STOP)
    ids = filter(tokenizer.may_end_answer, eos_token_ids)
    specials = tokenizer.specials
    reasons = STOP_TOKEN_REASONS.items()
    named = {specials[name]: why for name, why in reasons if name in specials}
    return dict.fromkeys(ids, STOP) | named


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
