"""Tool cases through OpenAI's two protocols: validity of replies, and success rates.

Modelled on the compatibility test of openai/gpt-oss. Each case (cases.jsonl) offers
tools, asks a question, returns the tool's result and reads the answer. The first turn
is streamed, the others are not. Replies are the server's responsibility and must all
be valid; tool calls are the model's, and are only counted.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Protocol

from jsonschema import Draft202012Validator

from mlx_gptoss.diagnostics.agents.received import (
    InvalidReply,
    ReceivedCompletion,
    ReceivedResponse,
    require,
    validate,
)
from mlx_gptoss.diagnostics.agents.streams import assemble_chat, assemble_response
from mlx_gptoss.diagnostics.http_client import HttpClient
from mlx_gptoss.errors import GptOssError

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
TOKENS = 1024
TURNS = 4  # a model may call twice


@dataclass(frozen=True)
class ToolCase:
    """A question, the tools offered (the first is the right one), the expected call."""

    name: str
    tools: Sequence[dict[str, Any]]
    input: str
    arguments: dict[str, Any]
    result: Any
    system: str | None = None


@dataclass
class CaseResult:
    """The result of a case; `error` describes an invalid reply, if there was one."""

    case: ToolCase
    api: str
    error: str | None = None
    called_tool: bool = False  # the right tool was called
    fits_schema: bool = False  # the arguments fit its schema
    exact: bool = False  # the arguments are the expected ones
    answer: str = ""
    cut: bool = False  # the answer, by the token limit
    calls: list[str] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether there was a complete answer."""
        return bool(self.answer) and not self.cut


def read_cases() -> Sequence[ToolCase]:
    """Read the cases in the package."""
    text = (files("mlx_gptoss.diagnostics.agents") / "cases.jsonl").read_text(
        encoding="utf-8"
    )
    return [ToolCase(**json.loads(line)) for line in text.splitlines()]


def run_cases(
    client: HttpClient, model: str, cases: Sequence[ToolCase]
) -> Iterator[CaseResult]:
    """Run each case through chat completions and through responses."""
    for case in cases:
        for api, talk in CONVERSATIONS.items():
            yield run_case(case, api, talk(client, model, case))


@dataclass(frozen=True)
class CaseCall:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class CaseReply:
    reasoning: str
    answer: str
    calls: Sequence[CaseCall]
    cut: bool = False  # by the token limit


class CaseConversation(Protocol):
    """A conversation about one case in one protocol."""

    def next_reply(self, *, streamed: bool) -> CaseReply: ...

    def add_result(self, call: CaseCall, result: str) -> None: ...


class ChatConversation:
    """By chat completions: every request sends the whole conversation."""

    def __init__(self, client: HttpClient, model: str, case: ToolCase) -> None:
        self._client = client
        system = [{"role": "system", "content": case.system}] if case.system else []
        self._messages: list[Any] = [*system, {"role": "user", "content": case.input}]
        self._body: dict[str, Any] = {
            "model": model,
            "tools": [{"type": "function", "function": tool} for tool in case.tools],
            "max_completion_tokens": TOKENS,
            "temperature": 0,
        }

    def next_reply(self, *, streamed: bool) -> CaseReply:
        """Request the next turn."""
        body = self._body | {"messages": self._messages}
        if streamed:
            more = {"stream": True, "stream_options": {"include_usage": True}}
            completion = assemble_chat(self._client.stream(CHAT, body | more))
        else:
            completion = validate(ReceivedCompletion, self._client.post(CHAT, body))
        (choice,) = completion.choices
        message = choice.message
        calls = message.tool_calls or []
        ended = "tool_calls" if calls else "stop"
        require(
            choice.finish_reason in (ended, "length"),
            f"finish_reason {choice.finish_reason} with {len(calls)} calls",
        )
        back = message.model_dump(exclude_none=True)
        self._messages.append(back | {"content": message.content})
        return CaseReply(
            message.reasoning or "",
            message.content or "",
            [
                CaseCall(one.id, one.function.name, one.function.arguments)
                for one in calls
            ],
            cut=choice.finish_reason == "length",
        )

    def add_result(self, call: CaseCall, result: str) -> None:
        """Add the result of a call."""
        given = {"role": "tool", "tool_call_id": call.id, "content": result}
        self._messages.append(given)


class ResponsesExchange:
    """By responses that are not stored: every request sends all items."""

    def __init__(self, client: HttpClient, model: str, case: ToolCase) -> None:
        self._client = client
        self._items: list[Any] = [{"role": "user", "content": case.input}]
        self._body: dict[str, Any] = {
            "model": model,
            "instructions": case.system,
            "tools": [
                {"type": "function", "strict": False} | tool for tool in case.tools
            ],
            "max_output_tokens": TOKENS,
            "temperature": 0,
            "store": False,
        }

    def next_reply(self, *, streamed: bool) -> CaseReply:
        """Request the next turn."""
        body = self._body | {"input": self._items}
        if streamed:
            events = self._client.stream(RESPONSES, body | {"stream": True})
            response = assemble_response(events)
        else:
            response = validate(ReceivedResponse, self._client.post(RESPONSES, body))
        reasoning, answer, calls = "", "", []
        for item in response.output:
            self._items.append(item.model_dump(exclude_none=True))
            if item.type == "reasoning":
                reasoning += "".join(part.text for part in item.content or ())
            elif item.type == "message":
                answer += "".join(part.text for part in item.content)
            elif item.type == "function_call":
                calls.append(CaseCall(item.call_id, item.name, item.arguments))
        return CaseReply(reasoning, answer, calls, cut=response.status == "incomplete")

    def add_result(self, call: CaseCall, result: str) -> None:
        """Add the result of a call."""
        kind = "function_call_output"
        self._items.append({"type": kind, "call_id": call.id, "output": result})


CONVERSATIONS = {"chat": ChatConversation, "responses": ResponsesExchange}


def run_case(case: ToolCase, api: str, conversation: CaseConversation) -> CaseResult:
    """Hold the conversation of a case and return its result."""
    ran = CaseResult(case, api)
    try:
        _hold_conversation(ran, conversation)
    except GptOssError as error:
        ran.error = str(error)
    return ran


def _hold_conversation(ran: CaseResult, conversation: CaseConversation) -> None:
    reasoned = False
    for turn in range(TURNS):
        reply = conversation.next_reply(streamed=turn == 0)
        reasoned = reasoned or bool(reply.reasoning)
        ran.answer, ran.cut = reply.answer, reply.cut
        for call in reply.calls:
            _record_call(ran, call)
            conversation.add_result(call, json.dumps(ran.case.result))
        if not reply.calls:
            break
    require(reasoned, "no reasoning came in any turn")


def _record_call(ran: CaseResult, call: CaseCall) -> None:
    """Record a call; the first call of the right tool is judged."""
    ran.calls.append(f"{call.name}({call.arguments})")
    names = {tool["name"]: tool for tool in ran.case.tools}
    if call.name not in names:
        raise InvalidReply(f"`{call.name}` was called, which was not offered")
    if ran.called_tool or call.name != ran.case.tools[0]["name"]:
        return
    ran.called_tool = True
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return
    schema = names[call.name]["parameters"]
    ran.fits_schema = Draft202012Validator(schema).is_valid(arguments)
    ran.exact = arguments == ran.case.arguments
