"""Judge the tool calls in an answer: whether they are valid, and those expected.

A call is valid if it parses without a repair, its tool is offered, and its arguments
fit the tool's schema.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.harmony.events import ToolCall, ToolCallFailed
from mlx_gptoss.harmony.messages import ToolDescription
from mlx_gptoss.harmony.parse import Parser
from mlx_gptoss.harmony.parse.argument_errors import argument_errors


@dataclass(frozen=True)
class ReadCalls:
    """The calls of an answer, by tool and arguments; `sound`: nothing was repaired."""

    calls: tuple[tuple[str, Any], ...]
    sound: bool


@dataclass(frozen=True)
class AnswerCalls:
    """Whether all calls of an answer are valid, and whether they are the expected."""

    valid: bool
    same: bool


def read_calls(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    tools: Sequence[ToolDescription] | None = None,
) -> ReadCalls:
    """Parse the calls in an answer; without tools, any name is taken for a tool."""
    parser = Parser(tokenizer, tools=tools)
    events = [event for token in ids for event in parser.feed(token)]
    events += parser.finish()
    calls = tuple(
        (event.name, json.loads(event.arguments))
        for event in events
        if isinstance(event, ToolCall) and _is_json(event.arguments)
    )
    failed = any(isinstance(event, ToolCallFailed) for event in events)
    return ReadCalls(calls, sound=not failed and not parser.repairs)


def judge_calls(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    tools: Sequence[ToolDescription],
    wanted: ReadCalls,
) -> AnswerCalls:
    """Judge the calls of an answer that should have some."""
    found = read_calls(tokenizer, ids, tools)
    schemas = {tool.wire_name: tool.parameters for tool in tools}
    valid = bool(found.calls) and found.sound
    for name, arguments in found.calls:
        schema = schemas.get(name)
        valid &= name in schemas and not (
            schema and any(argument_errors(arguments, schema))
        )
    return AnswerCalls(valid=valid, same=found.calls == wanted.calls)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:  # code of the `python` tool
        return False
    return True
