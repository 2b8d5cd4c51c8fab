"""Chat completions: a request to what is asked, what was heard to replies.

Knows the wire types and turns; nothing of HTTP.
"""

import datetime
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mlx_gptoss.harmony.constrain import Constraints
from mlx_gptoss.harmony.events import (
    Answer,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.openai_chat import Restore, from_chat_messages, read_tool
from mlx_gptoss.runtime import Runtime
from mlx_gptoss.server import asking
from mlx_gptoss.server.ask import Ask
from mlx_gptoss.server.errors import bad_request
from mlx_gptoss.server.limits import check_count, check_most, check_stops
from mlx_gptoss.server.logprobs import finite, token_text
from mlx_gptoss.server.reading import Heard
from mlx_gptoss.server.schema import chat_reply as wire
from mlx_gptoss.server.schema.base import TokenUsage
from mlx_gptoss.server.schema.chat import ChatRequest
from mlx_gptoss.server.settings import BOTH, REASONING, REASONING_CONTENT, Settings
from mlx_gptoss.server.turn import Turn, merged
from mlx_gptoss.server.usage import usage_of
from mlx_gptoss.steps import LENGTH, STOP, TOOL_CALLS, Step
from mlx_gptoss.tokenizer import Tokenizer

HIDDEN = "hidden"
BETWEEN = "\n\n"  # a preamble and the answer behind it
FINISH = {STOP: STOP, TOOL_CALLS: TOOL_CALLS, LENGTH: LENGTH}


# What is asked


def ask_of(
    request: ChatRequest,
    runtime: Runtime,
    settings: Settings,
    restore: Restore | None = None,
) -> Ask:
    """Say what a request asks of the model; raises ApiError or PromptError.

    `restore` may put back the reasoning that calls came without.
    """
    limits = settings.limits
    check_count("messages", len(request.messages), limits.messages)
    check_most("n", request.n or 1, limits.choices)
    tools = tools_of(request, settings)
    choice = asking.read_tool_choice(request.tool_choice)
    budget, auto = budget_of(request, settings)
    constraints = Constraints(
        tool_choice=choice.choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        response_format=asking.read_answer_format(request.response_format, limits),
        max_reasoning_tokens=budget,
        loop_guard=settings.loop_guard,
        stop=check_stops(request.stop, limits),
    )
    return Ask(
        conversation=conversation_of(request, tools, settings, restore),
        tools=tools.descriptions,
        strict_tools=tools.strict,
        callable_tools=choice.callable,
        params=params_of(request, runtime),
        constraints=constraints,
        auto_budget=auto,
        choices=request.n or 1,
    )


def tools_of(request: ChatRequest, settings: Settings) -> asking.Tools:
    """The functions on offer; tools of other types are passed over."""
    descriptions, strict, others = [], set(), []
    for at, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            others.append(tool.type)
        elif tool.function is None:
            raise bad_request(f"tools[{at}] has no `function`", param="tools")
        else:
            descriptions.append(read_tool(tool.model_dump(), f"tools[{at}]"))
            if tool.function.strict:
                strict.add(tool.function.name)
    found = asking.Tools(tuple(descriptions), frozenset(strict), tuple(others))
    return asking.check_tools(found, settings.limits)


def conversation_of(
    request: ChatRequest,
    tools: asking.Tools,
    settings: Settings,
    restore: Restore | None,
) -> list[Message]:
    today = settings.date or datetime.date.today().isoformat()
    return from_chat_messages(
        request.plain_messages,
        tools=[
            {"name": t.name, "description": t.description, "parameters": t.parameters}
            for t in tools.descriptions
        ],
        response_format=request.response_format,
        effort=asking.effort_of(effort_of(request)),
        conversation_date=today,
        restore=restore,
    )


def effort_of(request: ChatRequest) -> str | None:
    nested = request.reasoning.effort if request.reasoning else None
    return request.reasoning_effort or nested


def budget_of(request: ChatRequest, settings: Settings) -> tuple[int | None, bool]:
    nested = request.reasoning.max_tokens if request.reasoning else None
    asked = [request.max_reasoning_tokens, nested]
    return asking.reasoning_budget(effort_of(request), asked, settings)


def params_of(request: ChatRequest, runtime: Runtime) -> Any:
    top = request.top_logprobs or 0
    if top and not request.logprobs:
        raise bad_request("`top_logprobs` needs `logprobs`", param="top_logprobs")
    return asking.sampling_params(
        request,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        top_logprobs=top,
        vocab_size=runtime.tokenizer.vocab_size,
    )


# What is answered


@dataclass(frozen=True)
class Manner:
    """How replies to one request are written."""

    model: str
    tokenizer: Tokenizer
    reasoning_fields: tuple[str, ...] = (REASONING,)
    logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(
        cls, request: ChatRequest, model: str, runtime: Runtime, settings: Settings
    ) -> "Manner":
        options = request.stream_options
        return cls(
            model,
            runtime.tokenizer,
            reasoning_fields(request, settings),
            logprobs=bool(request.logprobs),
            include_usage=bool(options and options.include_usage),
        )

    def reasoning(self, text: str) -> dict[str, Any]:
        return dict.fromkeys(self.reasoning_fields, text)

    def token_logprobs(self, steps: Sequence[Step]) -> wire.Logprobs | None:
        if not self.logprobs:
            return None
        return wire.Logprobs(
            content=[
                wire.TokenLogprob(
                    **self._logprob(step.token, step.logprob),
                    top_logprobs=[
                        wire.TopLogprob(**self._logprob(*one))
                        for one in step.top_logprobs
                    ],
                )
                for step in steps
            ]
        )

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_text(self.tokenizer, token),
            "logprob": finite(logprob),
            "bytes": list(self.tokenizer.token_bytes(token)),
        }


def reasoning_fields(request: ChatRequest, settings: Settings) -> tuple[str, ...]:
    """The names under which reasoning is shown; none if it is to be hidden."""
    excluded = bool(request.reasoning and request.reasoning.exclude)
    if excluded or request.include_reasoning is False:
        return ()
    wanted = request.reasoning_format or settings.reasoning_field
    if wanted == HIDDEN:
        return ()
    return (REASONING, REASONING_CONTENT) if wanted == BOTH else (wanted,)


class Writing:
    """Joins texts of one purpose, with a blank line between messages."""

    def __init__(self) -> None:
        self.text = ""
        self._kind: object = None

    def add(self, text: str, kind: object) -> str:
        """Take a piece of a message of `kind`; return it as it is to be shown."""
        shown = BETWEEN + text if self.text and kind != self._kind else text
        self._kind = kind
        self.text += shown
        return shown


class Collected:
    """What one turn has said: as deltas while it goes on, at its end as a message."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self._content, self._reasoning = Writing(), Writing()
        self._calls: dict[str, wire.ToolCallReply] = {}
        self._steps: list[Step] = []

    def add(self, heard: Heard) -> tuple[list[wire.Delta], wire.Logprobs | None]:
        """Take one token; return the deltas it makes, and its logprobs if shown."""
        logprobs = None
        if heard.visible and heard.step is not None:
            self._steps.append(heard.step)
            logprobs = self.manner.token_logprobs([heard.step])
        deltas = [self._delta(event) for event in heard.events]
        return [delta for delta in deltas if delta is not None], logprobs

    def _delta(self, event: ParserEvent) -> wire.Delta | None:
        match event:
            case Reasoning(text):
                shown = self._reasoning.add(text, Reasoning)
                fields = self.manner.reasoning(shown)
                return wire.Delta(**fields) if fields else None
            case Preamble(text) | Answer(text):
                return wire.Delta(content=self._content.add(text, type(event)))
            case ToolCallStarted(call_id, name):
                return self._begin_call(call_id, name)
            case ToolCallDelta(call_id, text):
                return self._more(call_id, text)
            case ToolCall(call_id, _, arguments):
                self._calls[call_id].function.arguments = arguments
            case ToolCallFailed(call_id, _, text):
                self._calls[call_id].function.arguments = text
        return None

    def _begin_call(self, call_id: str, name: str) -> wire.Delta:
        function = wire.CalledFunction(name=name, arguments="")
        self._calls[call_id] = wire.ToolCallReply(
            id=call_id, type="function", function=function
        )
        begun = wire.ToolCallDelta(
            index=len(self._calls) - 1,
            id=call_id,
            type="function",
            function=wire.FunctionDelta(name=name, arguments=""),
        )
        return wire.Delta(tool_calls=[begun])

    def _more(self, call_id: str, text: str) -> wire.Delta:
        index = list(self._calls).index(call_id)
        function = wire.FunctionDelta(arguments=text)
        return wire.Delta(
            tool_calls=[wire.ToolCallDelta(index=index, function=function)]
        )

    @property
    def message(self) -> wire.MessageReply:
        shown = self._reasoning.text
        more: dict[str, Any] = self.manner.reasoning(shown) if shown else {}
        if self._calls:
            more["tool_calls"] = list(self._calls.values())
        content = self._content.text
        return wire.MessageReply(
            role="assistant",
            content=content if content or not self._calls else None,
            refusal=None,
            **more,
        )

    def choice(self, index: int, finish_reason: str) -> wire.Choice:
        return wire.Choice(
            index=index,
            message=self.message,
            logprobs=self.manner.token_logprobs(self._steps),
            finish_reason=finish(finish_reason),
        )


def finish(reason: str) -> wire.FinishReason:
    """A turn that was cancelled by the server has been cut."""
    return cast("wire.FinishReason", FINISH.get(reason, LENGTH))


async def whole_reply(turns: Sequence[Turn], manner: Manner) -> wire.ChatReply:
    """Read all turns to their end."""
    collected = [Collected(manner) for _ in turns]
    async for number, heard in merged(turns):
        if heard is not None:
            collected[number].add(heard)
    return wire.ChatReply(
        id=manner.id,
        object="chat.completion",
        created=manner.created,
        model=manner.model,
        choices=[
            one.choice(number, turns[number].finish_reason)
            for number, one in enumerate(collected)
        ],
        usage=usage_of(turns),
    )


async def chunks(turns: Sequence[Turn], manner: Manner) -> AsyncIterator[wire.Chunk]:
    """The reply piece by piece, as its tokens come."""
    collected = [Collected(manner) for _ in turns]
    for number in range(len(turns)):
        yield _chunk(manner, number, wire.Delta(role="assistant", content=""))
    async for number, heard in merged(turns):
        if heard is None:
            reason = finish(turns[number].finish_reason)
            yield _chunk(manner, number, wire.Delta(), reason=reason)
            continue
        deltas, logprobs = collected[number].add(heard)
        if logprobs is not None and not deltas:  # a part of a character
            deltas = [wire.Delta(content="")]
        for delta in deltas:
            yield _chunk(manner, number, delta, logprobs)
            logprobs = None
    if manner.include_usage:
        yield _written(manner, [], usage_of(turns))


def _chunk(
    manner: Manner,
    number: int,
    delta: wire.Delta,
    logprobs: wire.Logprobs | None = None,
    reason: wire.FinishReason | None = None,
) -> wire.Chunk:
    choice = wire.ChunkChoice(
        index=number, delta=delta, logprobs=logprobs, finish_reason=reason
    )
    return _written(manner, [choice], None)


def _written(
    manner: Manner, choices: list[wire.ChunkChoice], usage: TokenUsage | None
) -> wire.Chunk:
    more: dict[str, Any] = {"usage": usage} if manner.include_usage else {}
    return wire.Chunk(
        id=manner.id,
        object="chat.completion.chunk",
        created=manner.created,
        model=manner.model,
        choices=choices,
        **more,
    )
