"""Read a raw completion: a request to prompts."""

from dataclasses import replace
from typing import Any

from mlx_gptoss.api import options
from mlx_gptoss.api.alias_values import NO_LIMIT
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.generation import PreparedPrompt
from mlx_gptoss.api.limits import check_count, check_maximum, read_stop_strings
from mlx_gptoss.api.prompt import check_prompt_length, choice_seed
from mlx_gptoss.api.prompt_logprobs import check_entries
from mlx_gptoss.api.reply_parser import ReplyParser
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import wants_progress
from mlx_gptoss.engine.raw_text import TextParser, encode_text
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams

DEFAULT_MAX_TOKENS = 16  # OpenAI's default


def read_prompts(
    request: CompletionRequest, runtime: Runtime, settings: ServerSettings
) -> list[PreparedPrompt]:
    """Prepare the prompts of a request, `n` of each. Raises ApiError, PromptError."""
    limits = settings.limits
    _refuse_unsupported(request)
    prompts = _list_prompts(request.prompt)
    copies = request.n or 1
    check_count("prompt", len(prompts), limits.prompts)
    check_maximum("n", copies, limits.choices)
    check_maximum("`prompt` times `n`", copies * len(prompts), limits.prompts)
    params = _sampling_params(request, runtime, settings)
    stop_tokens = runtime.stop_tokens
    stop_strings = read_stop_strings(request.stop, limits)
    prepared, tokens = [], 0
    for prompt in prompts:
        if isinstance(prompt, str):
            prompt = encode_text(prompt, runtime, special=bool(request.parse_special))
        check_prompt_length(len(prompt), runtime)
        if params.prompt_logprobs is not None:
            tokens += copies * len(prompt)
            check_entries(tokens, params.prompt_logprobs, limits.prompt_logprobs)
        for number in range(copies):
            seeded = replace(params, seed=choice_seed(params.seed, number))
            text = TextParser(
                runtime.tokenizer,
                stop_tokens,
                show_control=request.skip_special_tokens is False,
            )
            parser = ReplyParser(text, stop_strings)
            prepared.append(
                PreparedPrompt(
                    prompt,
                    seeded,
                    parser,
                    shared=copies > 1,
                    reports_progress=wants_progress(request),
                )
            )
    return prepared


def max_tokens(requested: int | None) -> int | None:
    """Return the token limit; None is up to the end of the context."""
    if requested is None:
        return DEFAULT_MAX_TOKENS
    return None if requested == NO_LIMIT else requested


def _refuse_unsupported(request: CompletionRequest) -> None:
    if request.suffix:
        raise bad_request(
            "`suffix` is not supported: gpt-oss can only continue a prompt",
            param="suffix",
        )
    if request.best_of not in (None, request.n or 1):
        raise bad_request("`best_of` is not supported: leave it out", param="best_of")
    if request.stream and request.prompt_logprobs is not None:
        raise bad_request(
            "`prompt_logprobs` is not in streams: use `echo` with `logprobs`, or leave "
            "out `stream`",
            param="prompt_logprobs",
        )


def _prompt_logprobs(request: CompletionRequest) -> int | None:
    """Return how many alternatives to compute for each prompt token; None for none."""
    echoed = request.logprobs if request.echo else None
    asked = [n for n in (echoed, request.prompt_logprobs) if n is not None]
    return max(asked, default=None)


def _list_prompts(prompt: Any) -> list[str | list[int]]:
    """Return a list of prompts, each text or token ids."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    if not prompt:
        raise bad_request(
            "the prompt is empty: give at least one token", param="prompt"
        )
    return prompt


def _sampling_params(
    request: CompletionRequest, runtime: Runtime, settings: ServerSettings
) -> SamplingParams:
    return options.read_sampling_params(
        request,
        settings,
        max_tokens=max_tokens(request.max_tokens),
        top_logprobs=request.logprobs or 0,
        prompt_logprobs=_prompt_logprobs(request),
        vocab_size=runtime.tokenizer.vocab_size,
    )
