"""Tool cases through both of OpenAI's protocols: whether replies are well-formed, and
how often the model does what was asked.

After the compatibility test of openai/gpt-oss: each case (cases.jsonl) offers tools,
asks for something, gives the tool's result and takes the answer. The first turn is
streamed, the second is not. Shapes are the server's and must all be valid; calls are
the model's, and are only counted.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Protocol

from jsonschema import Draft202012Validator

from mlx_gptoss.diagnostics.agents.received import (
    BadShape,
    Completion,
    Response,
    read,
    require,
)
from mlx_gptoss.diagnostics.agents.streams import assemble_chat, assemble_response
from mlx_gptoss.diagnostics.http_client import Client
from mlx_gptoss.errors import GptOssError

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
TOKENS = 1024
TURNS = 4  # a model may call twice


@dataclass(frozen=True)
class Case:
    """Something to ask, the tools offered (the first is the right one), its call."""

    name: str
    tools: Sequence[dict[str, Any]]
    input: str
    arguments: dict[str, Any]
    result: Any
    system: str | None = None


@dataclass
class Ran:
    """How a case went; `fault` is what was wrong with a reply's shape, if anything."""

    case: Case
    api: str
    fault: str | None = None
    called: bool = False  # the right tool
    fits: bool = False  # and its schema
    exact: bool = False  # with the arguments expected
    answer: str = ""
    cut: bool = False  # the answer, by the limit of tokens
    calls: list[str] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether an answer came, and came to its end."""
        return bool(self.answer) and not self.cut


def read_cases() -> Sequence[Case]:
    """Return the cases that come with the package."""
    text = (files("mlx_gptoss.diagnostics.agents") / "cases.jsonl").read_text(
        encoding="utf-8"
    )
    return [Case(**json.loads(line)) for line in text.splitlines()]


def run_cases(client: Client, model: str, cases: Sequence[Case]) -> Iterator[Ran]:
    """Run each case through chat and through responses."""
    for case in cases:
        for api, talk in TALKS.items():
            yield judge(case, api, talk(client, model, case))


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    reasoning: str
    answer: str
    calls: Sequence[Call]
    cut: bool = False  # by the limit of tokens


class Talk(Protocol):
    """A conversation about one case, in one protocol."""

    def ask(self, *, streamed: bool) -> Reply: ...

    def give(self, call: Call, result: str) -> None: ...


class ChatTalk:
    """By chat completions: the conversation is sent each time."""

    def __init__(self, client: Client, model: str, case: Case) -> None:
        self._client = client
        system = [{"role": "system", "content": case.system}] if case.system else []
        self._messages: list[Any] = [*system, {"role": "user", "content": case.input}]
        self._body: dict[str, Any] = {
            "model": model,
            "tools": [{"type": "function", "function": tool} for tool in case.tools],
            "max_completion_tokens": TOKENS,
            "temperature": 0,
        }

    def ask(self, *, streamed: bool) -> Reply:
        """Ask for the next turn."""
        body = self._body | {"messages": self._messages}
        if streamed:
            more = {"stream": True, "stream_options": {"include_usage": True}}
            completion = assemble_chat(self._client.stream(CHAT, body | more))
        else:
            completion = read(Completion, self._client.post(CHAT, body))
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
        return Reply(
            message.reasoning or "",
            message.content or "",
            [Call(one.id, one.function.name, one.function.arguments) for one in calls],
            cut=choice.finish_reason == "length",
        )

    def give(self, call: Call, result: str) -> None:
        """Take the result of a call."""
        given = {"role": "tool", "tool_call_id": call.id, "content": result}
        self._messages.append(given)


class ResponsesTalk:
    """By responses that are not stored: the items are sent each time."""

    def __init__(self, client: Client, model: str, case: Case) -> None:
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

    def ask(self, *, streamed: bool) -> Reply:
        """Ask for the next turn."""
        body = self._body | {"input": self._items}
        if streamed:
            events = self._client.stream(RESPONSES, body | {"stream": True})
            response = assemble_response(events)
        else:
            response = read(Response, self._client.post(RESPONSES, body))
        reasoning, answer, calls = "", "", []
        for item in response.output:
            self._items.append(item.model_dump(exclude_none=True))
            if item.type == "reasoning":
                reasoning += "".join(part.text for part in item.content or ())
            elif item.type == "message":
                answer += "".join(part.text for part in item.content)
            elif item.type == "function_call":
                calls.append(Call(item.call_id, item.name, item.arguments))
        return Reply(reasoning, answer, calls, cut=response.status == "incomplete")

    def give(self, call: Call, result: str) -> None:
        """Take the result of a call."""
        kind = "function_call_output"
        self._items.append({"type": kind, "call_id": call.id, "output": result})


TALKS = {"chat": ChatTalk, "responses": ResponsesTalk}


def judge(case: Case, api: str, talk: Talk) -> Ran:
    """Hold one case's conversation and say how it went."""
    ran = Ran(case, api)
    try:
        _converse(ran, talk)
    except GptOssError as error:
        ran.fault = str(error)
    return ran


def _converse(ran: Ran, talk: Talk) -> None:
    reasoned = False
    for turn in range(TURNS):
        reply = talk.ask(streamed=turn == 0)
        reasoned = reasoned or bool(reply.reasoning)
        ran.answer, ran.cut = reply.answer, reply.cut
        for call in reply.calls:
            _judge(ran, call)
            talk.give(call, json.dumps(ran.case.result))
        if not reply.calls:
            break
    require(reasoned, "no reasoning came in any turn")


def _judge(ran: Ran, call: Call) -> None:
    """Count a call; the first of the right tool is the one that counts."""
    ran.calls.append(f"{call.name}({call.arguments})")
    names = {tool["name"]: tool for tool in ran.case.tools}
    if call.name not in names:
        raise BadShape(f"`{call.name}` was called, which was not offered")
    if ran.called or call.name != ran.case.tools[0]["name"]:
        return
    ran.called = True
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return
    schema = names[call.name]["parameters"]
    ran.fits = Draft202012Validator(schema).is_valid(arguments)
    ran.exact = arguments == ran.case.arguments
