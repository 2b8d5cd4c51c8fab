"""Training documents of the demo model: Harmony conversations that share a start.

    Document
    ├── start: system message, developer message     read by every branch
    └── branches: lists of messages                  blind to each other

`python -m examples.demo_model.data SEED COUNT` prints some. Text and messages
only; `rows.py` turns them into token ids.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from examples.demo_model import tasks, tool_tasks
from examples.demo_model.tasks import EFFORTS, Task
from examples.demo_model.tool_tasks import DemoTool
from examples.demo_model.words import COLORS, Words
from mlx_gptoss.harmony import messages as harmony
from mlx_gptoss.harmony.messages import Effort, Message, ToolDescription
from mlx_gptoss.harmony.render.pieces import Piece, RecipientPosition
from mlx_gptoss.harmony.render.prompt import drop_analysis, training_pieces

Skill = Callable[[Words, str], Task]
INSTRUCTIONS = (
    "You are a helpful assistant.",
    "Be brief.",
    "Answer politely.",
    "Use the tools when needed.",
    "You are a friendly assistant. Keep answers short.",
    "Always be honest.",
    "Help the user with the tools.",
)
JSON_INSTRUCTIONS = (
    "Reply with JSON only.",
    "Extract the fields as JSON.",
    "Extract JSON from the text.",
)
FACTS = {  # field: (ways to tell, ways to acknowledge, ways to ask, answer)
    "name": (
        "My name is {}.|I am {}.|Hi, my name is {}!|Call me {}.|Hello, I am {}.|"
        "Hi, I'm {}.|my name is {}|Hello! My name is {}. Remember it.|I'm called {}.",
        "Nice to meet you, {}!",
        "What is my name?|Do you remember my name?|Who am I?|Say my name.|"
        "what is my name|What's my name?|Tell me my name.",
        "Your name is {}.",
    ),
    "city": (
        "I live in {}.|I am from {}.|My city is {}.",
        "Nice, {} is a good place.",
        "Where do I live?|What is my city?|Where am I from?",
        "You live in {}.",
    ),
    "color": (
        "My favorite color is {}.|I like the color {}.",
        "Good to know, {} is nice.",
        "What is my favorite color?|Which color do I like?",
        "Your favorite color is {}.",
    ),
}


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of documents, and weights of the skills in plain ones."""

    tools: float = 0.36
    arithmetic: float = 0.34
    json: float = 0.05
    long: float = 0.04  # histories of several hundred tokens
    skills: tuple[float, ...] = (1.0, 1.5, 2.5, 0.5, 1.3, 2.0, 0)
    novelty: float = 0.35  # share of invented names, cities and words


SKILLS: tuple[Skill, ...] = (
    tasks.small_talk,
    tasks.sums,
    tasks.word_list,
    tasks.capital,
    tasks.decline,
    tasks.extract_json,
    tasks.decline_topic,
)


@dataclass(frozen=True)
class Branch:
    """One continuation of a document's start; its last turn is the target."""

    kind: str
    messages: list[Message]


@dataclass(frozen=True)
class Document:
    kind: str
    start: list[Message]
    branches: list[Branch]


class Author:
    """Writes documents; `held_out` uses words and problems never seen in training."""

    def __init__(self, seed: int, *, mix: Mix | None = None, held_out: bool = False):
        self.mix = mix or Mix()
        rng = random.Random(seed)
        self.words = Words(rng, held_out=held_out, novelty=self.mix.novelty)

    def document(self) -> Document:
        effort: Effort = self.words.pick(EFFORTS)
        kind = self.words.rng.random()
        if (kind := kind - self.mix.tools) < 0:
            return self._tool_document(effort)
        if (kind := kind - self.mix.arithmetic) < 0:
            return self._document("arithmetic", effort, self._sum, (4, 7))
        if (kind := kind - self.mix.json) < 0:
            return self._document("json", effort, self._json_told_by_developer, (2, 4))
        if (kind := kind - self.mix.long) < 0:
            return self._document("long", effort, self.long_recall, (1, 2))
        return self._document("plain", effort, self._plain, (3, 6))

    # -- starts of conversations

    def system(self, effort: Effort) -> Message:
        date = None
        if self.words.chance(0.5):
            rng = self.words.rng
            year, month, day = (
                rng.randint(24, 29),
                rng.randint(1, 12),
                rng.randint(1, 28),
            )
            date = f"20{year}-{month:02d}-{day:02d}"
        return harmony.system(effort, conversation_date=date)

    def instructions(self) -> str:
        """Return known instructions, or random words that must not confuse."""
        if self.words.chance(0.7):
            return self.words.pick(INSTRUCTIONS)
        phrases = [self.words.phrase() for _ in range(self.words.rng.randint(1, 4))]
        return ". ".join(phrase.capitalize() for phrase in phrases) + "."

    def plain_start(self, effort: Effort) -> list[Message]:
        start = [self.system(effort)]
        if self.words.chance(0.25):
            start.append(harmony.developer(self.instructions()))
        return start

    def tool_start(self, effort: Effort, tools: list[DemoTool]) -> list[Message]:
        described = [
            ToolDescription(tool.name, tool.description, tool.parameters())
            for tool in tools
        ]
        instructions = self.instructions() if self.words.chance(0.35) else None
        return [self.system(effort), harmony.developer(instructions, tools=described)]

    # -- documents

    def _document(
        self,
        kind: str,
        effort: Effort,
        branch: Callable[[Effort], Branch],
        counts: tuple[int, int],
    ) -> Document:
        start = self.plain_start(effort)
        if kind == "json":
            instructions = self.words.pick(JSON_INSTRUCTIONS)
            start = [self.system(effort), harmony.developer(instructions)]
        count = self.words.rng.randint(*counts)
        return Document(kind, start, [branch(effort) for _ in range(count)])

    def _tool_document(self, effort: Effort) -> Document:
        tools = tool_tasks.toolset(self.words)
        start = self.tool_start(effort, tools)
        adds = any(tool.name == "add" for tool in tools)
        others = (1, 0 if adds else 2, 1, 0.5, 0, 0.7, 0.7)
        branches = []
        for _ in range(self.words.rng.randint(2, 4)):
            if self.words.chance(0.85):
                branches.append(self.tool_branch(effort, tools))
            else:
                branches.append(self._plain(effort, weights=others))
        return Document("tools", start, branches)

    # -- branches

    def _sum(self, effort: Effort) -> Branch:
        task = tasks.sums(self.words, effort)
        return Branch(task.kind, turn(task))

    def _json_told_by_developer(self, effort: Effort) -> Branch:
        task = tasks.extract_json(self.words, effort, asked=False)
        return Branch(task.kind, turn(task))

    def _task(self, effort: Effort, weights: tuple[float, ...] | None = None) -> Task:
        skill = self.words.rng.choices(SKILLS, weights or self.mix.skills)[0]
        return skill(self.words, effort)

    def _plain(
        self, effort: Effort, weights: tuple[float, ...] | None = None
    ) -> Branch:
        if weights is None and self.words.chance(0.22):
            return self.recall(effort)
        history: list[Message] = []
        while self.words.chance(0.2):
            history += turn(self._task(effort, weights))
        task = self._task(effort, weights)
        return Branch(task.kind, history + turn(task))

    def recall(self, effort: Effort, *, between: int | None = None) -> Branch:
        """State a fact, talk about other things, then ask for the fact."""
        field = self.words.pick(["name", "name", "name", "city", "color"])
        fact = self._fact(field)
        told, asked = self._recall_turns(effort, field, fact)
        history = self._chatter(effort, self.words.pick([0, 0, 1])) + told
        if between is None and self.words.chance(0.25):
            return Branch("told", history)
        other = between is None and self.words.chance(0.25)
        if between is None:
            between = self.words.pick([0, 0, 1, 1, 2, 2, 3])
        history += self._chatter(effort, between)
        if other:  # not every question after a name asks for it
            task = self._task(effort, weights=(3, 2, 1, 0.5, 1, 1, 0))
            return Branch(task.kind, history + turn(task))
        return Branch("recall", history + asked)

    def long_recall(self, effort: Effort) -> Branch:
        """Like `recall` with a long history; half the time, another task ends it."""
        branch = self.recall(effort, between=self.words.rng.randint(4, 10))
        if self.words.chance(0.5):
            return branch
        task = self._task(effort)
        return Branch(task.kind, branch.messages + turn(task))

    def _fact(self, field: str) -> str:
        sources = {"name": self.words.name, "city": self.words.city}
        return sources[field]() if field in sources else self.words.pick(COLORS)

    def _chatter(self, effort: Effort, turns: int) -> list[Message]:
        history: list[Message] = []
        for _ in range(turns):
            history += turn(self._task(effort, weights=(2, 1, 1, 1, 1, 0.5, 0)))
        return history

    def _recall_turns(
        self, effort: Effort, field: str, fact: str
    ) -> tuple[list[Message], list[Message]]:
        tell, acknowledge, ask, final = FACTS[field]
        heard = {
            "low": f"{field} {fact}.",
            "medium": f"The user tells me the {field} {fact}.",
            "high": f"The user tells me the {field} {fact}. I should remember it. "
            "There is no question.",
        }[effort]
        remembered = {  # then the fact is in the text after known words
            "low": acknowledge,
            "medium": f"The user told me the {field}. I said: {acknowledge}",
            "high": f"The user asks about the {field}. I look at the earlier messages. "
            f"The user told me the {field} and I said: {acknowledge}",
        }[effort]
        pick = self.words.pick
        told = Task("told", pick(tell.split("|")), heard, acknowledge)
        asked = Task("recall", pick(ask.split("|")), remembered, final)
        return turn(told, fact), turn(asked, fact)

    def tool_branch(self, effort: Effort, tools: list[DemoTool]) -> Branch:
        """Ask for one of the tools; the result and the answer often follow."""
        history: list[Message] = []
        if self.words.chance(0.15):
            history += self.tool_turn(effort, tools, answered=True).messages
        if self.words.chance(0.1):
            history += turn(self._task(effort, weights=(2, 0, 1, 1, 0, 1, 0)))
        answered = self.words.chance(0.6)
        own = self.tool_turn(effort, tools, answered=answered)
        return Branch(own.kind, history + own.messages)

    def tool_turn(
        self, effort: Effort, tools: list[DemoTool], *, answered: bool
    ) -> Branch:
        """Ask for a tool; with `answered`, the result and the answer follow."""
        tool = self.words.pick(tools)
        user, given = tool_tasks.request(self.words, tool)
        thought = tool_tasks.thought_before_call(effort, tool, given)
        asked = [
            harmony.user(user),
            harmony.reasoning(thought),
            harmony.tool_call(tool.name, tool_tasks.arguments_json(given)),
        ]
        if not answered:
            return Branch("call", asked)
        returned, final = tool_tasks.result(self.words, tool)
        asked.append(harmony.tool_result(tool.name, returned))
        if thought := tool_tasks.thought_before_answer(effort, tool):
            asked.append(harmony.reasoning(thought))
        return Branch("answer", [*asked, harmony.answer(final)])


def turn(task: Task, fact: str = "") -> list[Message]:
    """Return the messages of one exchange; `fact` fills placeholders."""
    texts = (task.user, task.analysis, task.final)
    if fact:
        texts = tuple(text.replace("{}", fact) for text in texts)
    user, analysis, final = texts
    return [harmony.user(user), harmony.reasoning(analysis), harmony.answer(final)]


def branch_pieces(
    start: list[Message], branch: Branch, *, recipient_in: RecipientPosition = "role"
) -> tuple[list[Piece], list[Piece]]:
    """Render a branch after its start; return the pieces of both.

    Every stop of the last turn is a target: calls and the final answer.
    """
    given = start + branch.messages
    asked = max(i for i, message in enumerate(given) if message.role == "user")
    history = drop_analysis(given[:asked])
    last_user, messages = len(history), history + given[asked:]
    pieces = training_pieces(messages, recipient_in=recipient_in)
    for index in range(last_user + 1, len(messages) - 1):
        if messages[index].is_call:
            called = training_pieces(messages[: index + 1], recipient_in=recipient_in)
            pieces[: len(called)] = called
    shared = len(training_pieces(start))
    return pieces[:shared], pieces[shared:]


def show(document: Document) -> str:
    """Format a document for people, with the targets in [[ ]]."""
    text = []
    for branch in document.branches:
        start, pieces = branch_pieces(document.start, branch)
        if not text:
            text.append("".join(piece.text for piece in start))
        body = "".join(f"[[{p.text}]]" if p.target else p.text for p in pieces)
        text.append(f"  -- {branch.kind}: " + body.replace("]][[", ""))
    return "\n".join(text)


if __name__ == "__main__":
    author = Author(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        print(show(author.document()))
