"""Write conversations that teach the demo model to call tools it has never seen.

    python -m examples.tune_demo.rows calls.jsonl --count 18000

Most tools are made up. No word in their names or in their arguments' names is in those
that the evaluation (`examples/demo_model/cases.py`) calls unseen. Some tools of the
first training, and other tasks of it, keep what the model can do. The rows are in
OpenAI's chat format; the same seed writes the same.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx_gptoss
from examples.demo_model import tool_tasks
from examples.demo_model.cases import cases
from examples.demo_model.data import Author, Mix
from examples.demo_model.tasks import EFFORTS
from examples.demo_model.tool_tasks import DemoTool
from examples.demo_model.words import CITIES, COLORS, FOODS, JOBS, NAMES, WORDS, Words
from mlx_gptoss.harmony.messages import (
    DeveloperContent,
    Effort,
    Message,
    SystemContent,
    ToolDescription,
    function_tools,
)

EVALUATED = 120  # cases of each kind whose names are left out
UNSEEN_KINDS = ("tool call", "answer from result")  # of cases with held-out words
NOVELTY = 0.95  # share of made-up words
CAPITALS = 0.2  # share of those with a capital letter
KNOWN = 0.15  # share of tools of the first training
SIMPLE = 0.5  # share of tools with at most one argument, which users seldom name
EARLIER = 0.08  # share of conversations with tools that have an earlier turn
ANSWERED = 0.25  # share of those whose call is followed by result and answer
TOOLS = (4, 3, 2, 1)  # weights of 1, 2, 3 and 4 tools
EFFORT_WEIGHTS = (3, 3, 2)  # of low, medium and high: the last is long
OTHERS = Mix(
    tools=0,
    arithmetic=0.2,
    json=0.3,
    long=0.1,
    skills=(1.0, 0.3, 2.4, 0.5, 0.8, 1.8, 0),
    novelty=0.7,
)
OTHERS_SHARE = 0.2
# Parts of names: made-up words, English words of other lists, and tokens of the model.
SYLLABLES, ENGLISH_WORDS, TOKENS = 0.45, 0.25, 0.18  # shares; the rest is trained words
ENGLISH = sorted(
    {
        word.lower()
        for word in (*WORDS, *COLORS, *FOODS, *JOBS, *NAMES, *CITIES)
        if word.isascii()
    }
)
VOCABULARY = Path(mlx_gptoss.__file__).parent / "demo" / "tokenizer.json"


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


class NewWords(Words):
    """Words whose names of tools and arguments have any tokens, so are to be copied."""

    def __init__(self, rng: random.Random, novelty: float) -> None:
        super().__init__(rng, held_out=False, novelty=novelty)
        self.capitals = CAPITALS
        self._tokens = word_tokens()

    def identifier(self, choices: Sequence[str], novelty: float = 0.6) -> str:
        """Draw a part of a name; those of results, of less novelty, are as before."""
        if novelty < SYLLABLES:
            return super().identifier(choices, novelty)
        drawn = self.rng.random()
        if drawn < SYLLABLES:
            return self.syllables()
        if drawn < SYLLABLES + ENGLISH_WORDS:
            return self.pick(ENGLISH)
        if drawn < SYLLABLES + ENGLISH_WORDS + TOKENS:
            return "".join(self.pick(self._tokens) for _ in range(self.pick([1, 1, 2])))
        return self.known(choices)


def word_tokens() -> list[str]:
    """Return the demo model's tokens of two or more small letters."""
    entries = json.loads(VOCABULARY.read_text("utf-8"))["model"]["vocab"]
    return sorted(
        token
        for token in entries
        if len(token) > 1 and token.isascii() and token.isalpha() and token.islower()
    )


class Skill:
    """Writes conversations with tools; no made-up name has a part in `left_out`."""

    def __init__(self, seed: int, left_out: set[str]) -> None:
        self._author = Author(seed)
        self._author.words = NewWords(self._author.words.rng, NOVELTY)
        self._others = Author(seed + 1, mix=OTHERS)
        self._others.words = NewWords(self._others.words.rng, OTHERS.novelty)
        self._left_out = left_out

    def call(self) -> list[Message]:
        """Return a conversation whose last turn calls a tool."""
        words = self._author.words
        effort: Effort = words.rng.choices(EFFORTS, EFFORT_WEIGHTS)[0]
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
        """Draw a known tool, or make up tools until one fits."""
        while True:
            if self._author.words.chance(KNOWN):
                return tool_tasks.known_tool(self._author.words)
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
    parser.add_argument("--count", type=int, default=18_000, help="conversations")
    parser.add_argument(
        "--others", type=float, default=OTHERS_SHARE, help="share without tools"
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with given.file.open("w") as file:
        for row in rows(given.count, given.seed, given.others):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
