"""Log-probabilities of a prompt as wire types: OpenAI's echo, and vLLM's field.

The first token of a prompt has none: its entry is null.
"""

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.logprobs import clamp_logprob, token_text
from mlx_gptoss.api.wire import JsonObject
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.prompt_logprobs import PromptLogprobs

VllmPromptLogprobs = list[dict[str, JsonObject] | None]


def check_entries(tokens: int, alternatives: int, limit: int) -> None:
    """Raise ApiError (400) for a reply with too many log-probabilities of prompts."""
    if (entries := tokens * (alternatives + 1)) > limit:
        raise bad_request(
            f"log-probabilities of {tokens:,} prompt tokens with {alternatives} "
            f"alternatives each are {entries:,} entries: this server sends {limit:,} "
            "at most; ask for fewer alternatives, or in several requests",
            param="prompt",
        )


def vllm_prompt_logprobs(
    ids: list[int], found: PromptLogprobs, tokenizer: Tokenizer
) -> VllmPromptLogprobs:
    """Write an object for each token, by token id: its own entry, then the likeliest.

    An entry has `logprob`, `rank` (1 is the likeliest) and `decoded_token`.
    """
    entries: VllmPromptLogprobs = [None]
    for i, token in enumerate(ids[1:]):
        told = [(token, float(found.logprobs[i]), int(found.ranks[i]))]
        told += [(one, p, n) for n, (one, p) in enumerate(_top(found, i), start=1)]
        entry: dict[str, JsonObject] = {}
        for one, logprob, rank in told:
            entry.setdefault(
                str(one),
                {
                    "logprob": clamp_logprob(logprob),
                    "rank": rank,
                    "decoded_token": token_text(tokenizer, one),
                },
            )
        entries.append(entry)
    return entries


def echoed_logprobs(
    found: PromptLogprobs, count: int
) -> list[tuple[float | None, list[tuple[int, float]]]]:
    """Return the logprob of each token of a prompt, and its `count` alternatives."""
    rest = [
        (float(found.logprobs[i]), _top(found, i)[:count])
        for i in range(len(found.logprobs))
    ]
    return [(None, []), *rest]


def _top(found: PromptLogprobs, i: int) -> list[tuple[int, float]]:
    ids, logprobs = found.top_ids[i].tolist(), found.top_logprobs[i].tolist()
    return list(zip(ids, logprobs, strict=True))
