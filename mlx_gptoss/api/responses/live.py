"""A response in progress: its answer, and the reply that is built from it.

response = live_response(question, answer, tokenizer, "demo", stored=False, ...)
async for parsed in response.turn:
    response.feed(parsed)          # the events of a stream
response.end()
response.output.reply
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.logprobs import token_logprobs
from mlx_gptoss.api.reply_parser import ParsedToken
from mlx_gptoss.api.responses.initial_reply import initial_reply, wants_summary
from mlx_gptoss.api.responses.reply import ResponseBuilder
from mlx_gptoss.api.responses.request import (
    ResponsesRequestReader,
    wants_encrypted_reasoning,
    wants_logprobs,
)
from mlx_gptoss.api.responses.wire import ResponseReply, ResponsesRequest
from mlx_gptoss.api.wire import JsonObject, StreamEvent, TokenLogprob
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import Step


@dataclass
class LiveResponse:
    """A response in progress."""

    turn: AnswerStream
    output: ResponseBuilder
    logprobs_tokenizer: Tokenizer | None  # set if the reply has log-probabilities
    items: list[JsonObject]
    stored: bool
    continues: bool = False  # continues the last message of the input
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _steps: list[Step] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.output.reply.id

    def feed(self, parsed: ParsedToken) -> list[StreamEvent]:
        """Add a token's parser output; return the resulting stream events."""
        if parsed.progress is not None:
            return [self.output.report(parsed.progress)]
        if parsed.visible and parsed.step is not None:
            self._steps.append(parsed.step)
        return self.output.feed(parsed.events, self._logprobs(parsed))

    def _logprobs(self, parsed: ParsedToken) -> Sequence[TokenLogprob]:
        """Log-probabilities of the text emitted now; partial characters wait."""
        if not parsed.events:
            return ()
        steps, self._steps = self._steps, []
        if self.logprobs_tokenizer is None:
            return ()
        return token_logprobs(self.logprobs_tokenizer, steps)

    def end(self) -> list[StreamEvent]:
        turn = self.turn
        return self.output.end(turn.finish_reason, turn.usage, turn.finish_details)


def live_response(
    question: ResponsesRequestReader,
    answer: AnswerStream,
    tokenizer: Tokenizer,
    model: str,
    *,
    stored: bool,
    reasoning_events: str,
) -> LiveResponse:
    """Return the response to a question that was read, whose answer has started."""
    request = question.request
    asked = question.conversation_request
    assert isinstance(request, ResponsesRequest) and asked is not None
    builder = ResponseBuilder(
        new_reply(question, model, stored=stored),
        text_tools={tool.name for tool in asked.tools if tool.takes_text},
        grammar_tools={tool.name for tool in asked.tools if tool.grammar},
        names=question.tools.names,
        sealed=wants_encrypted_reasoning(request),
        summarized=wants_summary(request),
        reasoning_events=reasoning_events,
        compaction=question.compaction,
    )
    return LiveResponse(
        answer,
        builder,
        tokenizer if wants_logprobs(request) else None,
        question.items,
        stored,
        asked.continues_answer,
    )


def new_reply(
    question: ResponsesRequestReader, model: str, *, stored: bool
) -> ResponseReply:
    """Return the response to a question that was read, before its answer."""
    request = question.request
    asked = question.conversation_request
    assert isinstance(request, ResponsesRequest) and asked is not None
    return initial_reply(request, asked, question.tool_echoes, model, stored=stored)
