"""Check a batch before a model is loaded: its size, and what is wrong with it.

    check = check_batch(job, folder, context=None)
    check.requests, check.prompt_tokens, check.problems

Every request is read and rendered as if it were to be answered; only its grammar is not
compiled. Reads the tokenizer, no weights.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlx_gptoss.api.chat.request import read_request
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.completions.request import read_prompts
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.errors import as_api_error, bad_request
from mlx_gptoss.api.responses.request import ResponsesRequestReader, check_supported
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.checkpoint.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import stop_reasons
from mlx_gptoss.workloads.batch.endpoints import read_body
from mlx_gptoss.workloads.batch.items import CHAT_URL, RESPONSES_URL, Item
from mlx_gptoss.workloads.batch.requests import read_items
from mlx_gptoss.workloads.batch.run import URLS, BatchJob

if TYPE_CHECKING:
    from mlx_gptoss.engine.runtime import Runtime

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class PromptSide:
    """What reading a request needs of a Runtime: its tokenizer and its limits."""

    tokenizer: Tokenizer
    context: int | None
    stop_tokens: dict[int, str]

    @property
    def longest_sequence(self) -> int | None:
        return self.context


@dataclass
class BatchCheck:
    """What there is to do.

    `requests` counts them by route. Of the `prompt_tokens`, `new_tokens` are not in
    the request before, so they have to be read. `problems` names the first rows that
    cannot be answered, `failing` counts them all.
    """

    requests: dict[str, int]
    prompt_tokens: int = 0
    new_tokens: int = 0
    longest_prompt: int = 0
    failing: int = 0
    problems: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.requests.values())


def check_batch(job: BatchJob, folder: Path, context: int | None) -> BatchCheck:
    """Read all of a batch. Raises BatchError for an input that is none.

    `folder` is that of the model, `context` the most tokens of prompt and answer.
    """
    reader = PromptReader.open(job, folder, context)
    urls: Counter[str] = Counter()
    check = BatchCheck({})
    problems: list[str] = []
    before: list[int] = []
    for item in read_items(job.open_input(), job.template, urls=URLS):
        try:
            prompts = reader.read(item)
        except Exception as error:
            check.failing += 1
            if len(problems) < SHOWN_PROBLEMS:
                why = as_api_error(error).message
                problems.append(f"{item.row.where} {why}")
            continue
        urls[item.url] += 1
        for prompt in prompts:
            check.prompt_tokens += len(prompt)
            check.longest_prompt = max(check.longest_prompt, len(prompt))
            check.new_tokens += len(prompt) - _common(before, prompt)
            before = prompt
    check.requests, check.problems = dict(urls), tuple(problems)
    return check


@dataclass(frozen=True)
class PromptReader:
    """Reads and renders requests, without a model."""

    job: BatchJob
    side: PromptSide

    @classmethod
    def open(cls, job: BatchJob, folder: Path, context: int | None) -> "PromptReader":
        tokenizer = Tokenizer.open(folder)
        tokenizer.require_harmony()
        config = open_checkpoint(folder).config
        longest = config.max_position_embeddings
        stops = dict(stop_reasons(tokenizer, config.eos_token_ids))
        return cls(job, PromptSide(tokenizer, min(context or longest, longest), stops))

    def read(self, item: Item) -> list[list[int]]:
        """Return the prompts of a request as token ids. Raises what answering would."""
        if item.problem is not None:
            raise bad_request(item.problem)
        runtime = cast("Runtime", self.side)  # no more of it is used
        settings = self.job.settings
        if item.url == CHAT_URL:
            request = read_body(ChatRequest, item.body)
            return [read_request(request, runtime, settings).render(runtime)]
        if item.url == RESPONSES_URL:
            response = read_body(ResponsesRequest, item.body)
            check_supported(response, settings)
            question = ResponsesRequestReader(response)
            return [question.read(runtime, settings).render(runtime)]
        raw = read_body(CompletionRequest, item.body)
        return [one.ids for one in read_prompts(raw, runtime, settings)]


def _common(first: list[int], second: list[int]) -> int:
    """Count the tokens with which both begin."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
