"""Write conversations that teach a small language model to speak Harmony.

    python -m examples.real_language_model.harmony_rows harmony.jsonl --count 600

Questions, short writing tasks, small talk and calls of invented tools, in one turn or
several, each with a reasoning effort and the reasoning that belongs to it; and some
plain prose, so that the model does not unlearn it. The rows are in the form that
`mlx-gptoss tune` reads. The same seed writes the same. With `held_out`, topics, tools,
names and words are those that training never shows.
"""

import argparse
import datetime
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.real_language_model import topics
from examples.real_language_model.invented_tools import ToolMaker
from examples.real_language_model.tools import HELD_OUT_TOOLS, TOOLS, Tool, words
from examples.real_language_model.writing_tasks import Exchange, WritingTasks

PROSE = Path(__file__).parent / "prose.txt"
EFFORTS = ("low", "medium", "high")
DAY_ONE, DAYS = datetime.date(2024, 7, 1), 1500  # of the system messages' dates
DATED, INSTRUCTED = 0.9, 0.35  # shares with a date, with instructions
TOOL_COUNTS = (6, 3, 1)  # weights of one, two and three tools
UNUSED_TOOLS = 0.2  # share of conversations with tools that need none
PREAMBLES = 0.12  # share of calls with a text before them
SECOND_TURNS = 0.35
INVENTED = 0.75  # share of conversations with tools that are made up for them
PROSE_SHARE, TOOL_SHARE = 0.16, 0.36
PROSE_LENGTH = 900  # characters of a row of prose, at most one paragraph more

QUESTION_FORMS = (
    "{question}",
    "{question}",
    "{question}",
    "Can you tell me something about {topic}? {question}",
    "I would like to know more about {topic}.",
    "Please explain: {question}",
    "Hi! {question}",
    "A question about {topic}. {question}",
)
THOUGHTS = {
    "low": ("A question about {topic}.", "About {topic}."),
    "medium": (
        "The user asks about {topic}. A short explanation is enough.",
        "The user wants to know about {topic}. I know the main point.",
    ),
    "high": (
        "The user asks about {topic}. The answer should begin with the main point, in "
        "plain words. One more sentence can follow.",
        "The user wants to know about {topic}. First comes the main point. Then I can "
        "add a detail.",
    ),
}
MORE = ("Tell me more.", "Can you say more about that?", "And what else?", "Go on.")
MORE_THOUGHTS = {
    "low": "More about {topic}.",
    "medium": "The user wants to hear more about {topic}. I can add one thing.",
    "high": "The user wants to hear more about {topic}. I have said the main point "
    "already, so I should add something new.",
}
CALL_THOUGHTS = {
    "low": ("A task for {tool}.", "The tool is {tool}."),
    "medium": (
        "The user wants to {aim}. The tool for that is {tool}.",
        "To {aim}, I need {tool}.",
    ),
    "high": (
        "The user wants to {aim}. There is a tool for that, {tool}. It needs "
        "{arguments}, and the message has all of it.",
        "I look at the tools. The tool {tool} fits, because the user wants to {aim}. "
        "It needs {arguments}.",
    ),
}
RESULT_THOUGHTS = {
    "low": ("The result is there.",),
    "medium": ("The result of {tool} is there. I tell the user.",),
    "high": (
        "The result of {tool} is there. It is what the user asked for, so no other "
        "call is needed. One sentence is enough.",
    ),
}
ANSWER_NOW, CALL_NOW = "Now I answer.", "Now I call {tool}."  # end every analysis
PREAMBLE = ("I will look that up.", "One moment, please.", "Let me check.")

Row = dict[str, Any]


class Author:
    """Draws conversations as rows, from one side of topics, tools and words."""

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out
        self.tasks = WritingTasks(self.rng, held_out=held_out)
        self._facts = topics.HELD_OUT_FACTS if held_out else topics.FACTS
        self._tools = HELD_OUT_TOOLS if held_out else TOOLS
        self._maker = ToolMaker(self.rng, [tool.name for tool in HELD_OUT_TOOLS])
        self._calls = 0

    def talk(self, effort: str) -> Row:
        """Return a conversation without tools, of one or two turns."""
        turns = self._turn(effort)
        if self.rng.random() < SECOND_TURNS:
            turns += self._turn(effort)
        return self._row(effort, turns)

    def fact(self, effort: str) -> Row:
        """Return a question about a topic with its answer."""
        return self._row(effort, self._fact(effort))

    def task(self, effort: str) -> Row:
        """Return a short writing task, or small talk."""
        return self._row(effort, self._said(self.tasks.draw(effort)))

    def tool_talk(self, effort: str) -> Row:
        """Return a conversation with tools; most use one and answer from its result."""
        count = self.rng.choices((1, 2, 3), TOOL_COUNTS)[0]
        offered = self._offered(count)
        if self.rng.random() < UNUSED_TOOLS:
            return self._row(effort, self._turn(effort), offered)
        return self._row(effort, self._call(effort, offered[0]), offered)

    def call(self, effort: str) -> Row:
        """Return a conversation whose only turn calls a tool."""
        offered = self.rng.sample(self._tools, self.rng.choices((1, 2, 3))[0])
        return self._row(effort, self._call(effort, offered[0]), offered)

    def _offered(self, count: int) -> list[Tool]:
        """Return tools, most of them new ones."""
        if self.held_out or self.rng.random() > INVENTED:
            return self.rng.sample(self._tools, count)
        tools: dict[str, Tool] = {}
        while len(tools) < count:
            tool = self._maker.draw()
            tools[tool.name] = tool
        return list(tools.values())

    def _turn(self, effort: str) -> list[Row]:
        if self.rng.random() < 0.5:
            return self._fact(effort)
        return self._said(self.tasks.draw(effort))

    def _fact(self, effort: str) -> list[Row]:
        fact = self.rng.choice(self._facts)
        said = fact._asdict()
        answer = fact.answer
        both = {"low": 0.1, "medium": 0.5, "high": 0.9}[effort]
        if more := self.rng.random() < both:
            answer = f"{fact.answer} {fact.detail}"
        question = self.rng.choice(QUESTION_FORMS).format(**said)
        thought = self.rng.choice(THOUGHTS[effort]).format(**said)
        turns = self._said(Exchange(question, thought, answer))
        if not more and self.rng.random() < SECOND_TURNS:
            asked = self.rng.choice(MORE)
            again = MORE_THOUGHTS[effort].format(**said)
            turns += self._said(Exchange(asked, again, fact.detail))
        return turns

    def _said(self, one: Exchange) -> list[Row]:
        return [
            {"role": "user", "content": one.question},
            {
                "role": "assistant",
                "reasoning_content": f"{one.thought} {ANSWER_NOW}",
                "content": one.answer,
            },
        ]

    def _call(self, effort: str, tool: Tool) -> list[Row]:
        arguments, result = tool.draw(self.rng, held_out=self.held_out)
        written = words(arguments | result)
        said = {
            "tool": tool.name,
            "aim": tool.aim.format(**written),
            "arguments": " and ".join(one.name for one in tool.arguments),
            "result": compact(result),
        }
        self._calls += 1
        call = {
            "id": f"call_{self._calls}",
            "type": "function",
            "function": {"name": tool.name, "arguments": compact(arguments)},
        }
        calling: Row = {
            "role": "assistant",
            "reasoning_content": " ".join(
                (self.rng.choice(CALL_THOUGHTS[effort]), CALL_NOW)
            ).format(**said),
            "tool_calls": [call],
        }
        if self.rng.random() < PREAMBLES:
            calling["content"] = self.rng.choice(PREAMBLE)
        return [
            {
                "role": "user",
                "content": self.rng.choice(tool.requests).format(**written),
            },
            calling,
            {"role": "tool", "tool_call_id": call["id"], "content": compact(result)},
            {
                "role": "assistant",
                "reasoning_content": " ".join(
                    (self.rng.choice(RESULT_THOUGHTS[effort]), ANSWER_NOW)
                ).format(**said),
                "content": tool.answer.format(**written),
            },
        ]

    def _row(self, effort: str, turns: list[Row], offered: Sequence[Tool] = ()) -> Row:
        row: Row = {"reasoning_effort": effort}
        if self.rng.random() < DATED:
            day = DAY_ONE + datetime.timedelta(self.rng.randrange(DAYS))
            row["date"] = day.isoformat()
        if offered:
            shown = self.rng.sample(offered, len(offered))
            row["tools"] = [tool.entry for tool in shown]
        if self.rng.random() < INSTRUCTED:
            side = (
                topics.HELD_OUT_INSTRUCTIONS if self.held_out else topics.INSTRUCTIONS
            )
            turns = [{"role": "system", "content": self.rng.choice(side)}, *turns]
        row["messages"] = turns
        return row


def compact(values: Row) -> str:
    """Write a JSON object as gpt-oss does: without spaces."""
    return json.dumps(values, separators=(",", ":"))


def rows(count: int, seed: int = 1) -> Iterator[Row]:
    """Yield training rows."""
    author = Author(seed)
    passages = prose(author.rng)
    for _ in range(count):
        drawn = author.rng.random()
        if drawn < PROSE_SHARE:
            yield {"text": next(passages)}
            continue
        effort = author.rng.choice(EFFORTS)
        with_tools = drawn < PROSE_SHARE + TOOL_SHARE
        yield author.tool_talk(effort) if with_tools else author.talk(effort)


def prose(rng: random.Random) -> Iterator[str]:
    """Yield passages of prose for ever: all in random order, then all again."""
    paragraphs = PROSE.read_text(encoding="utf-8").strip().split("\n\n")
    passages = [""]
    for paragraph in paragraphs:
        if len(passages[-1]) > PROSE_LENGTH:
            passages.append("")
        passages[-1] += "\n\n" * bool(passages[-1]) + paragraph
    while True:
        yield from rng.sample(passages, len(passages))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write conversations to train on.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with given.file.open("w", encoding="utf-8") as file:
        for row in rows(given.count, given.seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
