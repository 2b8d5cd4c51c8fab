"""Answer the requests of one WebSocket with the events of a stream, a message each.

    await SocketAnswers(service, send).answer(text, request)

The latest response is kept with its conversation, so that it can be continued over its
connection also if it is not stored. A request that fails to continue it drops it: its
client shall send the whole conversation then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from mlx_gptoss.api.generation import TokenCounts
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.responses.item_fields import CONTINUES_ANSWER
from mlx_gptoss.api.responses.live import LiveResponse, new_reply
from mlx_gptoss.api.responses.reply import ResponseBuilder
from mlx_gptoss.api.responses.request import ResponsesRequestReader
from mlx_gptoss.api.responses.socket import (
    TERMINAL,
    CreateMessage,
    name_ignored,
    previous_not_found,
)
from mlx_gptoss.api.wire import JsonObject, StreamEvent
from mlx_gptoss.engine.outputs import STOP
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.render.prompt import render_messages
from mlx_gptoss.server.bodies import parse_body
from mlx_gptoss.server.responses.compacting import compact_if_due
from mlx_gptoss.server.responses.start import (
    ignored_headers,
    load_question,
    reasoning_events,
    start_response,
)
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.stream import while_connected


@dataclass(frozen=True)
class LatestResponse:
    """A response and all items up to its end."""

    id: str
    items: list[JsonObject]


class SocketAnswers:
    """The answers of one connection; `send` sends an event."""

    def __init__(
        self, service: Service, send: Callable[[StreamEvent], Awaitable[None]]
    ) -> None:
        self._service = service
        self._send = send
        self._latest: LatestResponse | None = None

    async def answer(self, text: bytes, request: Request) -> None:
        """Answer one message. Raises what is wrong with it, before any event."""
        service = self._service
        body = await service.pools.run(
            len(text), parse_body, text, CreateMessage, service.settings.limits
        )
        assert isinstance(body, CreateMessage)
        answer = self._prepare if body.generate is False else self._respond
        latest = None
        try:
            earlier = await self._history(body)
            question = await load_question(body, request, service, earlier)
            latest = await while_connected(request, answer(body, question, request))
        finally:
            if latest is not None:
                self._latest = latest
            elif self._latest and self._latest.id == body.previous_response_id:
                self._latest = None

    async def _history(self, body: CreateMessage) -> list[JsonObject]:
        """Return the items of the conversation that a message continues."""
        previous, latest = body.previous_response_id, self._latest
        if previous is None:
            return []
        if latest is not None and latest.id == previous:
            return latest.items
        registry = self._service.responses
        if body.store is False or registry.store is None:
            raise previous_not_found()
        return await registry.history(previous)

    async def _respond(
        self, body: CreateMessage, question: ResponsesRequestReader, request: Request
    ) -> LatestResponse | None:
        """Send the events of an answer; return it unless it failed."""
        service = self._service
        names = reasoning_events(request.headers, service.settings)
        await compact_if_due(question, request, service)
        make = partial(question.read, settings=service.settings)
        job = await service.start(request, body.model, make)
        try:
            response = start_response(question, job, service, names)
            service.responses.add(response)
            job.on_close(partial(service.responses.remove, response))
            await self._send_events(response, question)
        finally:
            await job.close()
        reply = response.output.snapshot()
        if reply["status"] == "failed":
            return None
        output = reply["output"]
        if output and response.continues:
            output[0][CONTINUES_ANSWER] = True
        items = [*question.earlier, *question.items, *output]
        return LatestResponse(response.id, items)

    async def _send_events(
        self, response: LiveResponse, question: ResponsesRequestReader
    ) -> None:
        first = True
        async for event in self._service.responses.events(response):
            if first:
                event, first = name_ignored(event, ignored_headers(question)), False
            await self._send(event)
            if event["type"] in TERMINAL:  # an `error` may follow, which is HTTP's
                return
            await asyncio.sleep(0)  # ready events must not starve other tasks

    async def _prepare(
        self, body: CreateMessage, question: ResponsesRequestReader, request: Request
    ) -> LatestResponse:
        """Read the prompt into the cache, for a request that continues it."""
        service = self._service
        make = partial(question.read, settings=service.settings)
        choice = service.models.resolve(body.model)
        prepare = partial(prepare_prompt, adapter=choice.adapter)
        _, tokens = await service.inspect(request, body.model, make, prepare)
        builder = ResponseBuilder(new_reply(question, choice.name, stored=False))
        events = builder.begin()
        events += builder.end(STOP, TokenCounts(prompt_tokens=tokens))
        for event in events:
            await self._send(event)
        return LatestResponse(builder.reply.id, [*question.earlier, *question.items])


def prepare_prompt(
    conversation: ConversationRequest, runtime: Runtime, adapter: str | None
) -> int:
    """Prefill a conversation in idle time; return the tokens of its prompt."""
    messages = conversation.conversation
    ids = render_messages(messages, runtime.tokenizer, complete=False)
    runtime.prepare(ids, adapter=adapter)
    return len(conversation.render(runtime))
