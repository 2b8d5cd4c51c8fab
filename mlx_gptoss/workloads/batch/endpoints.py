"""The routes that a batch can ask: from the body of a request to its whole reply.

    asked = Asked(runtime, settings, "demo", adapter=None, seed=417)
    reply = await ENDPOINTS["/v1/chat/completions"](body, asked)

They read, answer and write as the server's routes do, without HTTP. `asked.answers`
has the answers afterwards, for their token counts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from mlx_gptoss.api.chat.reply import ChatReplyOptions
from mlx_gptoss.api.chat.reply import build_reply as build_chat_reply
from mlx_gptoss.api.chat.request import read_request
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.completions.reply import CompletionReplyOptions
from mlx_gptoss.api.completions.reply import build_reply as build_completion_reply
from mlx_gptoss.api.completions.request import read_prompts
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.errors import bad_request, validation_error
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt, start_answers
from mlx_gptoss.api.prompt import (
    ConversationRequest,
    choice_seed,
    prepare_prompts,
)
from mlx_gptoss.api.refused import RefusedAnswer, incoming_texts
from mlx_gptoss.api.responses.live import live_response
from mlx_gptoss.api.responses.request import ResponsesRequestReader, check_supported
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import ReplyModel, RequestBody
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.workloads.batch.items import CHAT_URL, RESPONSES_URL

Body = TypeVar("Body", bound=RequestBody)
Refuse = Callable[[Iterable[str]], Awaitable[str | None]]


@dataclass
class Asked:
    """Who answers a request, and how: the model under its name, and an adapter.

    `seed` is that of requests without one. `refuse` returns why some texts that came in
    are not answered, None if they are. `answers` are those that were started.
    """

    runtime: Runtime
    settings: ServerSettings
    model: str
    adapter: str | None = None
    seed: int | None = None
    refuse: Refuse | None = None
    answers: list[AnswerStream] = field(default_factory=list)

    async def start(
        self,
        prompts: Sequence[PreparedPrompt],
        conversation: ConversationRequest | None = None,
    ) -> list[AnswerStream]:
        """Start an answer to each prompt, raw ones or of a conversation."""
        if self.refuse is not None:
            if conversation is not None:
                texts = incoming_texts(conversation.conversation)
            else:
                texts = [self.runtime.tokenizer.decode(one.ids) for one in prompts]
            if (reason := await self.refuse(texts)) is not None:
                self.answers = [RefusedAnswer(self.runtime, reason) for _ in prompts]
                return self.answers
        prompts = [
            replace(
                prompt,
                adapter=self.adapter,
                conversation=(),  # no request will continue it
                params=prompt.params
                if prompt.params.seed is not None
                else replace(prompt.params, seed=choice_seed(self.seed, number)),
            )
            for number, prompt in enumerate(prompts)
        ]
        self.answers = await start_answers(self.runtime, prompts)
        return self.answers

    def end(self) -> None:
        """Stop what still runs. Idempotent."""
        for answer in self.answers:
            answer.abandon()


async def answer_chat(body: Mapping[str, Any], asked: Asked) -> ReplyModel:
    """Answer `/v1/chat/completions`."""
    request = read_body(ChatRequest, body)
    answers = await asked.start(*await asyncio.to_thread(_chat_prompts, request, asked))
    options = ChatReplyOptions.of(request, asked.model, asked.runtime, asked.settings)
    return await build_chat_reply(answers, options)


def _chat_prompts(
    request: ChatRequest, asked: Asked
) -> tuple[list[PreparedPrompt], ConversationRequest]:
    conversation = read_request(request, asked.runtime, asked.settings)
    return prepare_prompts(conversation, asked.runtime), conversation


async def answer_completion(body: Mapping[str, Any], asked: Asked) -> ReplyModel:
    """Answer `/v1/completions`."""
    request = read_body(CompletionRequest, body)
    prompts = await asyncio.to_thread(
        read_prompts, request, asked.runtime, asked.settings
    )
    answers = await asked.start(prompts)
    options = CompletionReplyOptions.of(request, asked.model, asked.runtime)
    return await build_completion_reply(answers, options)


async def answer_response(body: Mapping[str, Any], asked: Asked) -> ReplyModel:
    """Answer `/v1/responses`. Nothing is stored, so nothing can be continued."""
    request = read_body(ResponsesRequest, body)
    if request.previous_response_id is not None:
        raise bad_request(
            "a batch stores no responses: send the items themselves",
            param="previous_response_id",
        )
    question = ResponsesRequestReader(request)
    [answer] = await asked.start(
        *await asyncio.to_thread(_response_prompts, question, asked)
    )
    response = live_response(
        question,
        answer,
        asked.runtime.tokenizer,
        asked.model,
        stored=False,
        reasoning_events=asked.settings.reasoning_events,
    )
    async for parsed in answer:
        response.feed(parsed)
    response.end()
    return response.output.reply


def _response_prompts(
    question: ResponsesRequestReader, asked: Asked
) -> tuple[list[PreparedPrompt], ConversationRequest]:
    check_supported(question.request, asked.settings)
    conversation = question.read(asked.runtime, asked.settings)
    return prepare_prompts(conversation, asked.runtime), conversation


Endpoint = Callable[[Mapping[str, Any], Asked], Awaitable[ReplyModel]]
ENDPOINTS: dict[str, Endpoint] = {
    CHAT_URL: answer_chat,
    RESPONSES_URL: answer_response,
    "/v1/completions": answer_completion,
}


def read_body(kind: type[Body], body: Mapping[str, Any]) -> Body:
    """Check the body of a request. Raises ApiError as its route does."""
    try:
        request = kind.model_validate(dict(body))
    except ValidationError as error:
        raise validation_error(error.errors()) from error
    if getattr(request, "stream", None):
        raise bad_request("a batch has no streams: leave it out", param="stream")
    return request
