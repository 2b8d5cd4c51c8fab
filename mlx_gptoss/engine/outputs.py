"""What generation gives: Steps, why it ended, and what it took.

Data only; knows nothing of models. A Step is one token. The stop token is the last
Step and carries the finish reason:

    stop         the model ended its answer (`<|return|>`, `<|endoftext|>`, an eos id)
    tool_calls   the model called a tool and waits (`<|call|>`)
    length       `max_tokens`, the end of the context, or text that goes in circles
    cancelled    never on a Step: the caller asked to stop (see `stats`)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.tokenizer import Tokenizer

STOP, TOOL_CALLS, LENGTH, CANCELLED = "stop", "tool_calls", "length", "cancelled"
# Finish details of what went in circles until it was cut: there the answer ends.
FINAL_LOOP, CALL_LOOP = "final_loop", "call_loop"
UNENFORCED = "unbound"  # the finish detail of text whose schema was given up on the way
STOP_TOKEN_REASONS = {"<|return|>": STOP, "<|endoftext|>": STOP, "<|call|>": TOOL_CALLS}


@dataclass(frozen=True)
class Step:
    """One generated token.

    `logprob` is log-softmax of the float32 logits as the model gave them, before
    temperature, bias or any cut; `top_logprobs` are the likeliest (token, logprob).
    """

    token: int
    logprob: float
    finish_reason: str | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Statistics:
    """What a generation took, so far or in all. Times are in seconds.

    `prompt_tokens` includes the `cached_tokens`, which were not read again.
    `finish_details` are what cut a text short before its end: `reasoning_budget`,
    `preamble_budget`, `analysis_loop`, `commentary_loop`, `final_loop`, `call_loop`,
    `stop_string`; or a whole turn: `tool_rounds`. `unbound` says that a schema asked
    too much and was not kept to the end.
    Adding two, as those of the rounds of one turn, sums them up.
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
        """Whether the answer was ended because it went in circles."""
        return FINAL_LOOP in self.finish_details or CALL_LOOP in self.finish_details

    @property
    def prompt_tokens_per_second(self) -> float:
        return _rate(self.prompt_tokens - self.cached_tokens, self.prompt_seconds)

    @property
    def generation_tokens_per_second(self) -> float:
        """Tokens after the first, which reading the prompt gives, by their time."""
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
    """Map stop tokens to finish reasons: by name where the vocabulary has them."""
    if tokenizer is None:
        return dict.fromkeys(eos_token_ids, STOP)
    ids = filter(tokenizer.may_end_answer, eos_token_ids)
    specials = tokenizer.specials
    named = {specials[n]: why for n, why in STOP_TOKEN_REASONS.items() if n in specials}
    return dict.fromkeys(ids, STOP) | named


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
