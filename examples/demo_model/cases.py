"""Held-out prompts and their expected outputs; knows nothing of how a model is run.

Training never shows their operands, tool and argument names, names and words.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from examples.demo_model import tasks, tool_tasks
from examples.demo_model.data import Author, Branch, turn
from examples.demo_model.tasks import EFFORTS, Task
from mlx_gptoss.harmony.messages import Effort, Message
from mlx_gptoss.harmony.render.prompt import drop_analysis

SEED = 990_001
THREE_DIGITS = re.compile(r"\d{3} [+-] \d{3}\b")
OUTPUT = re.compile(
    r"(?:<\|channel\|>analysis<\|message\|>(?P<analysis>.*?)<\|end\|>"
    r"<\|start\|>assistant)?"
    r"(?: to=functions\.(?P<tool>\S+?)<\|channel\|>commentary <\|constrain\|>json"
    r"<\|message\|>(?P<arguments>.*)<\|call\|>"
    r"|<\|channel\|>final<\|message\|>(?P<final>.*)<\|return\|>)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Output:
    """A parsed completion; `tool` is None for an answer."""

    analysis: str
    tool: str | None
    text: str

    @classmethod
    def parse(cls, written: str) -> "Output | None":
        """Parse a completion with its special tokens; None if it is not Harmony."""
        match = OUTPUT.fullmatch(written)
        if match is None or "<|" in (match["final"] or match["arguments"] or ""):
            return None
        text = match["arguments"] if match["tool"] else match["final"]
        return cls(match["analysis"] or "", match["tool"], text)


@dataclass(frozen=True)
class Case:
    """A prompt and its only correct output, apart from the analysis."""

    kind: str
    effort: Effort
    prompt: list[Message]
    tool: str | None
    text: str

    def accepts(self, output: Output | None) -> bool:
        if output is None or output.tool != self.tool:
            return False
        if self.tool is None:
            return output.text == self.text
        try:
            return json.loads(output.text) == json.loads(self.text)
        except ValueError:
            return False


def cases(count: int, seed: int = SEED) -> list[Case]:
    """Draw `count` cases of every kind, alternating efforts."""
    return [
        case
        for place, kind in enumerate(KINDS)
        for case in _of_kind(kind, Author(seed + place, held_out=True), count)
    ]


def _of_kind(kind: str, author: Author, count: int) -> Iterator[Case]:
    for number in range(count):
        effort = EFFORTS[number % len(EFFORTS)]
        start, branch = KINDS[kind](author, effort)
        yield _case(kind, effort, start, branch)


def _case(kind: str, effort: Effort, start: list[Message], branch: Branch) -> Case:
    """Ask for the last message, or for the call before it."""
    messages = list(branch.messages)
    target = messages.pop()
    if messages[-1].channel == "analysis":
        messages.pop()
    asked = max(i for i, message in enumerate(messages) if message.role == "user")
    prompt = start + drop_analysis(messages[:asked]) + messages[asked:]
    tool = target.recipient.removeprefix("functions.") if target.recipient else None
    return Case(kind, effort, prompt, tool, target.text)


def _skill(
    skill: Callable[..., Task], only: str = ""
) -> Callable[[Author, Effort], tuple[list[Message], Branch]]:
    def draw(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
        while True:
            task = skill(author.words, effort)
            if only in task.kind:
                return author.plain_start(effort), Branch(task.kind, turn(task))

    return draw


def _sum_of(
    effort: Effort,
) -> Callable[[Author, Effort], tuple[list[Message], Branch]]:
    draw = _skill(tasks.sums)
    return lambda author, _: draw(author, effort)


def _three_digit_sum(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
    while True:
        start, branch = _skill(tasks.sums)(author, effort)
        if THREE_DIGITS.match(branch.messages[-1].text):
            return start, branch


def _recall(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
    between = author.words.pick([1, 2, 2])
    return author.plain_start(effort), author.recall(effort, between=between)


def _long_recall(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
    between = author.words.pick([5, 7, 9])
    return author.plain_start(effort), author.recall(effort, between=between)


def _tool(
    author: Author, effort: Effort, *, answered: bool
) -> tuple[list[Message], Branch]:
    tools = tool_tasks.toolset(author.words)
    start = author.tool_start(effort, tools)
    return start, author.tool_turn(effort, tools, answered=answered)


def _call(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
    return _tool(author, effort, answered=False)


def _answer(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
    return _tool(author, effort, answered=True)


def _trained_words(
    draw: Callable[[Author, Effort], tuple[list[Message], Branch]],
) -> Callable[[Author, Effort], tuple[list[Message], Branch]]:
    """Cases with tools and words that training shows, in new combinations."""

    def drawn(author: Author, effort: Effort) -> tuple[list[Message], Branch]:
        author.words.held_out = False
        return draw(author, effort)

    return drawn


KINDS: dict[str, Callable[[Author, Effort], tuple[list[Message], Branch]]] = {
    "sums, low effort": _sum_of("low"),
    "sums, medium effort": _sum_of("medium"),
    "sums, high effort": _sum_of("high"),
    "tool call": _call,
    "tool call, known tools": _trained_words(_call),
    "answer from result": _answer,
    "JSON": _skill(tasks.extract_json),
    "repeat": _skill(tasks.word_list, "repeat"),
    "reverse": _skill(tasks.word_list, "reverse"),
    "count": _skill(tasks.word_list, "count"),
    "recall": _recall,
    "recall, long chat": _long_recall,
    "small talk": _skill(tasks.small_talk),
    "declines": _skill(tasks.decline),
    "capitals": _skill(tasks.capital),
    "sums of three digits": _three_digit_sum,
}
