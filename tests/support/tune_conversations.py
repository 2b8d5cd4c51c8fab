"""Random conversations of whole turns, as messages and as rows of a training file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from mlx_gptoss.harmony import messages as m
from tests.support.harmony_strategies import names, oracle_message, texts

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = st.builds(m.ToolDescription, names, texts, st.none() | st.just(CITY))
words = texts.filter(str.strip)
dates = st.none() | st.just("2026-11-22")


@dataclass(frozen=True)
class Talk:
    """A conversation as its start and its turns; a turn begins with its user."""

    start: tuple[m.Message, ...]
    turns: tuple[tuple[m.Message, ...], ...]

    @property
    def messages(self) -> list[m.Message]:
        return [*self.start, *(one for turn in self.turns for one in turn)]


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """Draw a talk; the last turn may end with a call, all others with an answer."""
    offered = draw(
        st.lists(tools, min_size=1, max_size=2, unique_by=lambda tool: tool.name)
    )
    start = [m.system(draw(st.sampled_from(m.EFFORTS)), conversation_date=draw(dates))]
    if draw(st.booleans()):
        start.append(m.developer(draw(st.none() | words), tools=offered))
    called = st.sampled_from([tool.name for tool in offered])
    turns = [_turn(draw, called) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        turns[-1] = _without_answer(turns[-1])
    return Talk(tuple(start), tuple(map(tuple, turns)))


def _turn(draw: st.DrawFn, called: st.SearchStrategy[str]) -> list[m.Message]:
    turn = [m.user(draw(words))]
    for _ in range(draw(st.integers(0, 2))):
        turn += _thought(draw)
        if draw(st.booleans()):
            turn.append(m.preamble(draw(words)))
        name = draw(called)
        arguments = draw(st.dictionaries(names, texts | st.integers(), max_size=2))
        turn.append(m.tool_call(name, json.dumps(arguments)))
        turn.append(m.tool_result(name, draw(words)))
    return [*turn, *_thought(draw), m.answer(draw(words))]


def _thought(draw: st.DrawFn) -> list[m.Message]:
    return [m.reasoning(draw(words))] if draw(st.booleans()) else []


def _without_answer(turn: Sequence[m.Message]) -> list[m.Message]:
    """Cut a turn behind its last call; one without calls stays."""
    calls = [place for place, message in enumerate(turn) if message.is_call]
    return list(turn[: calls[-1] + 1]) if calls else list(turn)


def harmony_row(talk: Talk) -> dict[str, Any]:
    """Write a talk as openai_harmony writes it."""
    messages = [json.loads(oracle_message(one).to_json()) for one in talk.messages]
    return {"messages": messages}


def chat_row(talk: Talk, thought_key: str = "thinking") -> dict[str, Any]:
    """Write a talk in OpenAI's chat format."""
    system = talk.start[0].content
    assert isinstance(system, m.SystemContent)
    row: dict[str, Any] = {"reasoning_effort": system.effort, "messages": []}
    if system.conversation_date is not None:
        row["date"] = system.conversation_date
    for message in talk.start[1:]:
        content = message.content
        assert isinstance(content, m.DeveloperContent)
        row["tools"] = [_entry(tool) for tool in content.tools]
        if content.instructions:
            row["messages"].append({"role": "system", "content": content.instructions})
    for turn in talk.turns:
        row["messages"] += _chat_turn(turn, thought_key)
    return row


def _entry(tool: m.ToolDescription) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description}
    if tool.parameters is not None:
        function["parameters"] = tool.parameters  # pyright: ignore[reportArgumentType]
    return {"type": "function", "function": function}


def _chat_turn(turn: Sequence[m.Message], thought_key: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    pending: dict[str, Any] = {}
    for message in turn:
        if message.channel == "analysis":
            pending[thought_key] = message.text
        elif message.is_call:
            name = str(message.recipient).removeprefix("functions.")
            function = {"name": name, "arguments": message.text}
            call = {"type": "function", "function": function}
            out.append({"role": "assistant", **pending, "tool_calls": [call]})
            pending = {}
        elif message.channel == "commentary" and message.role == "assistant":
            pending["content"] = message.text
        elif message.role == "assistant":
            out.append({"role": "assistant", **pending, "content": message.text})
            pending = {}
        elif message.role == "tool":
            out.append({"role": "tool", "content": message.text})
        else:
            out.append({"role": message.role, "content": message.text})
    return out
