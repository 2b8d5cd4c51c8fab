"""Write conversations that teach the demo model to call tools it has never seen.

    python -m examples.tune_demo.rows calls.jsonl --count 4000

Every tool is made up. No word in its name or in its arguments' names is in those that
the evaluation (`examples/demo_model/cases.py`) calls unseen. A share of other tasks
keeps what the model can do already. The rows are in OpenAI's chat format; the same seed
writes the same.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.demo_model import tool_tasks
from examples.demo_model.cases import cases
from examples.demo_model.data import Author, Mix
from examples.demo_model.tasks import EFFORTS
from examples.demo_model.tool_tasks import DemoTool
from mlx_gptoss.harmony.messages import (
    DeveloperContent,
    Message,
    SystemContent,
    ToolDescription,
    function_tools,
)

EVALUATED = 120  # cases of each kind whose names are left out
UNSEEN_KINDS = ("tool call", "answer from result")  # of cases with held-out words
NOVELTY = 0.9  # share of made-up words
CAPITALS = 0.2  # share of those with a capital letter
SIMPLE = 0.7  # share of tools with at most one argument, which users seldom name
EARLIER = 0.15  # share of conversations with tools that have an earlier turn
ANSWERED = 0.3  # share of those whose call is followed by result and answer
TOOLS = (4, 3, 2, 1)  # weights of 1, 2, 3 and 4 tools
OTHERS = Mix(tools=0, arithmetic=0.3, json=0.2, long=0.1, novelty=0.7)


def evaluated_names() -> set[str]:
    """Return the tools' names in the evaluation, and the words of unseen names."""
    left_out: set[str] = set()
    for case in cases(EVALUATED):
        for tool in function_tools(case.prompt):
            unseen = case.kind in UNSEEN_KINDS
            left_out |= name_parts(tool) if unseen else {tool.name}
    return left_out


def name_parts(tool: DemoTool | ToolDescription) -> set[str]:
    """Return the name of a tool, and the words in it and in its arguments' names."""
    if isinstance(tool, DemoTool):
        names = [argument.name for argument in tool.arguments]
    else:
        names = list((tool.parameters or {}).get("properties", ()))
    words = {word for name in (tool.name, *names) for word in name.split("_")}
    return words | {tool.name}


class Skill:
    """Writes conversations with tools; no name has a part that is in `left_out`."""

    def __init__(self, seed: int, left_out: set[str]) -> None:
        self._author = Author(seed, mix=OTHERS)
        self._author.words.novelty = NOVELTY
        self._author.words.capitals = CAPITALS
        self._others = Author(seed + 1, mix=OTHERS)
        self._left_out = left_out

    def call(self) -> list[Message]:
        """Return a conversation whose last turn calls a made-up tool."""
        words = self._author.words
        effort = words.pick(EFFORTS)
        count = words.rng.choices(range(1, len(TOOLS) + 1), TOOLS)[0]
        tools: dict[str, DemoTool] = {}
        while len(tools) < count:
            tool = self._tool(most_arguments=1 if words.chance(SIMPLE) else None)
            tools[tool.name] = tool
        chosen = list(tools.values())
        messages = self._author.tool_start(effort, chosen)
        if words.chance(EARLIER):
            messages += self._author.tool_turn(effort, chosen, answered=True).messages
        answered = words.chance(ANSWERED)
        turn = self._author.tool_turn(effort, chosen, answered=answered)
        return messages + turn.messages

    def _tool(self, most_arguments: int | None) -> DemoTool:
        """Make up tools until one fits."""
        while True:
            tool = tool_tasks.made_up_tool(self._author.words)
            fits = most_arguments is None or len(tool.arguments) <= most_arguments
            if fits and self._left_out.isdisjoint(name_parts(tool)):
                return tool

    def other(self) -> list[Message]:
        """Return a conversation without tools, of the tasks of the first training."""
        document = self._others.document()
        branch = self._others.words.pick(document.branches)
        return document.start + branch.messages


def rows(count: int, seed: int, others: float) -> Iterator[dict[str, Any]]:
    """Yield rows, of which the share `others` has no tools."""
    skill = Skill(seed, evaluated_names())
    random_kind = random.Random(seed)
    for _ in range(count):
        is_other = random_kind.random() < others
        yield chat_row(skill.other() if is_other else skill.call())


def chat_row(messages: Sequence[Message]) -> dict[str, Any]:
    """Write a conversation in OpenAI's chat format, with the reasoning."""
    row: dict[str, Any] = {"messages": []}
    written: list[dict[str, Any]] = row["messages"]
    thought: dict[str, str] = {}
    calls = 0
    for message in messages:
        content = message.content
        if isinstance(content, SystemContent):
            row["reasoning_effort"] = content.effort
            if content.conversation_date:
                row["date"] = content.conversation_date
        elif isinstance(content, DeveloperContent):
            if content.instructions:
                written.append({"role": "system", "content": content.instructions})
            if content.tools:
                row["tools"] = list(map(_tool_entry, content.tools))
        elif message.channel == "analysis":
            thought = {"reasoning_content": content}
        elif message.is_call:
            calls += 1
            written.append(
                {"role": "assistant", **thought, "tool_calls": [_call(message, calls)]}
            )
            thought = {}
        elif message.role == "assistant":
            written.append({"role": "assistant", "content": content, **thought})
            thought = {}
        elif message.role == "tool":
            result = {"role": "tool", "tool_call_id": _id(calls), "content": content}
            written.append(result)
        else:
            written.append({"role": message.role, "content": content})
    return row


def _tool_entry(tool: ToolDescription) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


def _call(message: Message, number: int) -> dict[str, Any]:
    name = str(message.recipient).removeprefix("functions.")
    function = {"name": name, "arguments": message.text}
    return {"id": _id(number), "type": "function", "function": function}


def _id(number: int) -> str:
    return f"call_{number}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=4000, help="conversations")
    parser.add_argument(
        "--others", type=float, default=0.35, help="share without tools"
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with given.file.open("w") as file:
        for row in rows(given.count, given.seed, given.others):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
