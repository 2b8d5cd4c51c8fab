"""Held-out prompts of Harmony, and the judgement of answers to them.

Prompts are conversations of `harmony_rows.py` with topics, tools and words that
training does not show, cut before an answer. Knows nothing of how a model is run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from examples.real_language_model.harmony_rows import (
    EFFORTS,
    Author,
    Row,
    compact,
)
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.harmony.events import ToolCall, ToolCallFailed
from mlx_gptoss.harmony.messages import Message, function_tools
from mlx_gptoss.harmony.openai_chat import from_chat_messages
from mlx_gptoss.harmony.parse import Parser
from mlx_gptoss.harmony.special_tokens import CALL, RETURN

SEED = 990_001
KINDS = ("question", "task", "second turn", "call", "result")


@dataclass(frozen=True)
class Case:
    """A held-out prompt; `call` is the expected call as text, if there is one."""

    kind: str
    messages: list[Message]
    call: str | None


@dataclass(frozen=True)
class Answer:
    """An answer as text, its faults, and its first call as text."""

    text: str
    faults: tuple[str, ...]
    call: str | None

    @property
    def valid(self) -> bool:
        return not self.faults


def cases(count: int, seed: int = SEED) -> list[Case]:
    """Draw held-out prompts, `count` of each kind, alternating efforts."""
    author = Author(seed, held_out=True)
    return [
        _case(author, kind, EFFORTS[number % len(EFFORTS)])
        for kind in KINDS
        for number in range(count)
    ]


def _case(author: Author, kind: str, effort: str) -> Case:
    """Draw a conversation and cut it before the answer that is asked for."""
    if kind == "question":
        row = author.fact(effort)
    elif kind == "task":
        row = author.task(effort)
    elif kind == "second turn":
        row = author.talk(effort)
        while len(_places(row, "user")) < 2:
            row = author.talk(effort)
    else:
        row = author.call(effort)
    place = -1 if kind in ("second turn", "result") else 0
    stop = _places(row, "assistant")[place]
    messages = from_chat_messages(
        row["messages"][:stop],
        tools=row.get("tools", ()),
        effort=row["reasoning_effort"],
        conversation_date=row.get("date"),
    )
    calls = row["messages"][stop].get("tool_calls")
    function = calls[0]["function"] if calls else None
    return Case(
        kind, messages, function and f"{function['name']} {function['arguments']}"
    )


def _places(row: Row, role: str) -> list[int]:
    return [at for at, one in enumerate(row["messages"]) if one["role"] == role]


def judge(ids: Sequence[int], case: Case, tokenizer: Tokenizer) -> Answer:
    """Judge the ids behind `<|start|>assistant`, with the token that ends them."""
    tools = function_tools(case.messages)
    parser = Parser(tokenizer, tools=tools)
    events: list[Any] = [event for token in ids for event in parser.feed(token)]
    events += parser.finish()
    calls = [event for event in events if isinstance(event, ToolCall)]
    found = [f"{repair.kind}: {repair.detail}" for repair in parser.repairs]
    found += [
        f"call: {event.problem}"
        for event in events
        if isinstance(event, ToolCallFailed)
    ]
    ended = tokenizer.decode(ids[-1:])
    if not (parser.answered and ended == RETURN) and not (calls and ended == CALL):
        found.append(f"ends with `{ended}`")
    if find_spec("openai_harmony"):
        found += strict_faults(ids, tokenizer, [tool.wire_name for tool in tools])
    call = (
        f"{calls[0].name} {compact(json.loads(calls[0].arguments))}" if calls else None
    )
    return Answer(tokenizer.decode(ids), tuple(found), call)


def strict_faults(
    ids: Sequence[int], tokenizer: Tokenizer, tools: Sequence[str]
) -> list[str]:
    """Return the faults that the tests' judges find, OpenAI's parser among them."""
    from tests.support.strict_harmony import faults  # noqa: PLC0415 - openai_harmony

    return faults(ids, tokenizer, tools=tools)
