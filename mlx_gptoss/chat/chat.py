"""The conversation itself: its history, its settings, and what can be done to it.

Tools with a function are run and the model goes on with their results. A call of a
tool without one ends the turn with Done("tool_calls"): give `submit_result` its
result and read on. A call that cannot be run (ToolCallFailed), is not approved or
takes too long is answered with why.

Leaving the iterator early, or Ctrl-C in it, ends the answer and keeps what came.
One answer at a time: until it is done or its iterator closed, whatever would change
the history raises PromptError, in the same thread too. Other threads may `cancel`,
read it, and `branch`: what they see ends with a whole message.
"""

import datetime
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from copy import copy
from typing import Any, Self

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.answer_lock import AnswerLock
from mlx_gptoss.chat.calls import (
    TOOL_SECONDS,
    Call,
    PendingCalls,
    Toolbox,
    insert_result,
)
from mlx_gptoss.chat.history import (
    default_title,
    end_of_turn,
    forgotten_after_edit,
    question_indexes,
    reopen_last_turn,
    start_of_turn,
)
from mlx_gptoss.chat.system_messages import system_messages
from mlx_gptoss.chat.tools import ApprovalLike, Tool, ToolLike
from mlx_gptoss.chat.truncate import ERROR, OVERFLOWS, fit_prompt
from mlx_gptoss.chat.turn import Turn
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling import SamplingParams
from mlx_gptoss.errors import GptOssError, LongPromptError, PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.schema.compile import unenforced_lines
from mlx_gptoss.harmony.events import Event, ToolCall
from mlx_gptoss.harmony.messages import (
    IDENTITY,
    Effort,
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    user,
)
from mlx_gptoss.harmony.render.prompt import encode_within, history_pieces

UNANSWERED = "Error: the call was interrupted"


class Chat:
    """A conversation with a model.

    `system` becomes the developer message's instructions; `identity` and `date`
    ("" for none) stand in the system message. `date=None` is today, read once, so
    that the prompt stays the same past midnight. `max_tokens` of `params` bounds a
    whole turn, tool calls included; `max_rounds` bounds its rounds of calls.

    `approve` decides which calls run: a policy (`allow`, `deny`), a function that is
    asked about each ToolCall, or an Approval with policies by tool. A tool runs in a
    thread of its own for at most `tool_seconds`; with None, in that of the caller.

    `constraints` say what may be sampled; by default whatever is well-formed, with
    arguments that follow the tools' schemas. A `tool_choice` that asks for a call
    holds until one has been made, a reasoning budget for a whole turn.

    A conversation that outgrows the context is a PromptError, or with `overflow`
    "drop-oldest" the model is no longer shown its oldest turns: `forgotten` counts
    their messages, which stay in `messages`.

    `effort`, `system`, `params`, `constraints` and `title` may be changed between
    turns. `on_change(chat)` is called whenever the history has changed: after a
    question, each message group of the model and each result; to save it, for one.
    Raises PromptError for a model that does not speak Harmony.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        effort: Effort | str = "medium",
        system: str | None = None,
        tools: Iterable[ToolLike] = (),
        identity: str = IDENTITY,
        date: str | None = None,
        params: SamplingParams | None = None,
        constraints: Constraints | None = None,
        max_rounds: int = 64,
        approve: ApprovalLike = "allow",
        tool_seconds: float | None = TOOL_SECONDS,
        overflow: str = ERROR,
        on_change: Callable[["Chat"], Any] | None = None,
    ) -> None:
        runtime.tokenizer.require_harmony()
        if overflow not in OVERFLOWS:
            known = " or ".join(f"`{name}`" for name in OVERFLOWS)
            raise PromptError(f"overflow `{overflow}` is unknown: use {known}")
        self.runtime = runtime
        self.effort = effort
        self.system = system
        self.identity = identity
        self.date = datetime.date.today().isoformat() if date is None else date
        self.params = params or SamplingParams()
        self.constraints = constraints or Constraints()
        self.max_rounds = max_rounds
        self.toolbox = Toolbox(tools, approve, tool_seconds)
        self.overflow = overflow
        self.on_change = on_change
        self._cancelled = threading.Event()
        self._answer_lock = AnswerLock()
        self.moment = threading.RLock()  # while messages and waiting calls disagree
        self.reset()

    def reset(self) -> None:
        """Begin another conversation: its own id, no history; settings stay."""
        with self._answer_lock.hold():
            self._begin()

    def _begin(self) -> None:
        self.toolbox.reset()
        self.id = uuid.uuid4().hex
        self.created = self.updated = _now()
        self._title: str | None = None
        self.messages: list[Message] = []
        self.forgotten = 0
        self.generations = 0  # so far, for their seeds
        self.calls = PendingCalls()
        self._turn = Turn(self)

    @property
    def title(self) -> str:
        """The name it was given, else the first line of the first question."""
        return self._title or default_title(self.messages)

    @title.setter
    def title(self, title: str | None) -> None:
        self._title = title or None
        self.changed()

    @property
    def effort(self) -> str:
        """How long the model reasons: low, medium or high."""
        return self._effort

    @effort.setter
    def effort(self, effort: Effort | str) -> None:
        SystemContent(effort=effort)  # pyright: ignore[reportArgumentType] - checks it
        self._effort = effort

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools by name."""
        return self.toolbox.tools

    @property
    def functions(self) -> list[ToolDescription]:
        """The tools of the developer message; the others are built-in."""
        return self.toolbox.functions

    @property
    def namespaces(self) -> tuple[ToolNamespace, ...]:
        """The built-in tools, as the system message declares them."""
        return self.toolbox.namespaces

    @property
    def unenforced(self) -> list[str]:
        """What the schemas of the tools and the answer ask for and no grammar keeps.

        A line for each schema. Raises SchemaError for a grammar that is wrong.
        """
        targets = self.toolbox.targets
        guide = self.runtime.guides.guide(self.constraints, targets)
        return [] if guide is None else unenforced_lines(guide.freed)

    @property
    def waiting(self) -> list[ToolCall]:
        """The calls that `submit_result` should answer."""
        return [call.event for call in self.calls.waiting.values()]

    @property
    def questions(self) -> list[str]:
        """What the user said, turn by turn."""
        return [self.messages[place].text for place in question_indexes(self.messages)]

    @property
    def conversation(self) -> list[Message]:
        """What the model is shown, the system and developer messages first."""
        return [*system_messages(self), *self.messages[self.forgotten :]]

    def send(self, text: str) -> Generator[Event]:
        """Say `text` and yield what the model does, until a Done.

        A question that does not fit the context raises PromptError and is not kept.
        """

        def longer() -> list[Message]:
            messages, waiting = list(self.messages), dict(self.calls.waiting)
            for call in self.calls.waiting.values():
                insert_result(messages, waiting, call, UNANSWERED)
            return [*messages, user(text)]

        return self._answer_lock.hold_during(self._ask(longer))

    def regenerate(self) -> Generator[Event]:
        """Forget the last answer, whole or not, and answer the question again."""

        def shorter() -> list[Message]:
            last = start_of_turn(self.messages, max(len(self.questions), 1))
            return reopen_last_turn(self.messages[: last + 1])

        return self._answer_lock.hold_during(self._ask(shorter))

    def edit(self, turn: int, text: str) -> Generator[Event]:
        """Ask the question of a turn (the first is 1) anew; what followed is forgotten.

        Raises PromptError, and changes nothing, if there is no such turn or `text`
        does not fit the context. `branch` first to keep both.
        """

        def edited() -> list[Message]:
            place = start_of_turn(self.messages, turn)
            name = self.messages[place].name
            return [*self.messages[:place], user(text, name=name)]

        return self._answer_lock.hold_during(self._ask(edited))

    def undo(self) -> str:
        """Forget the last turn; return its question. PromptError if there is none."""
        with self._answer_lock.hold():
            place = start_of_turn(self.messages, max(len(self.questions), 1))
            question = self.messages[place].text
            with self.moment:
                del self.messages[place:]
                self.calls.waiting.clear()
                self.forgotten = forgotten_after_edit(self.messages, self.forgotten)
            self._turn = Turn(self)
            self.changed()
        return question

    def branch(self, turn: int | None = None) -> Self:
        """Return a conversation of its own with this history, up to the end of `turn`.

        It has another id and the same settings, tools and runtime; what both have in
        common is read once. Tools that keep a state share it.
        """
        other = copy(self)
        other.id = uuid.uuid4().hex
        other.created = other.updated = _now()
        with self.moment:
            other.messages, other.calls = list(self.messages), self.calls.copy()
        if turn is not None:
            end = end_of_turn(other.messages, turn)
            if end < len(other.messages):
                del other.messages[end:]
                other.calls.waiting.clear()
                other.forgotten = forgotten_after_edit(other.messages, other.forgotten)
        other._cancelled = threading.Event()
        other._answer_lock, other.moment = AnswerLock(), threading.RLock()
        other._turn = Turn(other, self._turn.reasoning_tokens)
        return other

    def submit_result(self, call_id: str, text: str) -> Iterator[Event]:
        """Answer a waiting call; once all are answered, the model goes on.

        The result is kept at once, in the order of the calls whatever the order of
        the results; the events are empty while calls still wait.
        """
        with self._answer_lock.hold():
            waiting = self.calls.waiting
            if call_id not in waiting:
                known = ", ".join(f"`{one}`" for one in waiting) or "none"
                raise PromptError(
                    f"no call `{call_id}` waits; the waiting calls: {known}"
                )
            self.answer([waiting[call_id]], text)
            self.changed()
            going_on = self._continue(self._turn)
        return iter(()) if waiting else self._answer_lock.hold_during(going_on)

    def cancel(self) -> None:
        """End the answer under way after its present token; from any thread."""
        self._cancelled.set()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; tools, params and constraints are not in it."""
        with self.moment:
            return saved.to_json(saved.SavedChat.of(self, title=self._title))

    @classmethod
    def from_json(
        cls, runtime: Runtime, data: Mapping[str, Any] | str, **options: Any
    ) -> Self:
        """Read what `to_json` gave, also as text; `options` are those of Chat.

        They go before what was saved. Raises PromptError for anything else.
        """
        found = saved.from_json(data)
        chat = cls(runtime, **(found.settings | options))
        chat.id, chat._title = found.id, found.title
        chat.created, chat.updated = found.created, found.updated
        chat.messages, chat.forgotten = list(found.messages), found.forgotten
        made = sum(message.is_call for message in found.messages)
        chat.calls = PendingCalls({call.id: call for call in found.waiting}, made)
        return chat

    # What a Turn uses.

    def prompt(self) -> list[int]:
        """Render the conversation, without its oldest turns if it is too long."""
        self.forgotten = forgotten_after_edit(self.messages, self.forgotten)
        if self.overflow == ERROR or self.runtime.context is None:
            return self._render(self.forgotten)
        ids, self.forgotten = fit_prompt(
            self.messages,
            self.forgotten,
            self._render,
            context=self.runtime.context,
            max_tokens=self.params.max_tokens,
        )
        return ids

    def prepare(self) -> None:
        """Have the history read as the next prompt will show it, while nobody asks."""
        with suppress(LongPromptError):  # the next prompt begins elsewhere
            self.runtime.prepare(self._render(self.forgotten, complete=False))

    def answer(self, calls: Iterable[Call], text: str) -> None:
        """Put the result of calls that wait into the history."""
        with self.moment:
            for call in list(calls):
                insert_result(self.messages, self.calls.waiting, call, text)

    def changed(self) -> None:
        """Take note of the time, and tell who wants to know."""
        self.updated = _now()
        if self.on_change is not None:
            self.on_change(self)

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def _ask(self, history: Callable[[], list[Message]]) -> Generator[Event]:
        """Answer a history that ends with a question; if it cannot, keep the old."""
        messages = history()
        turn = self._turn
        kept = self.messages, self.calls.waiting, self.forgotten
        self._cancelled.clear()
        with self.moment:
            self.messages, self.calls.waiting = messages, {}
            self.forgotten = forgotten_after_edit(messages, self.forgotten)
        self._turn = Turn(self)
        try:
            stream = self._turn.start(self.params.max_tokens)
        except GptOssError:
            with self.moment:
                self.messages, self.calls.waiting, self.forgotten = kept
            self._turn = turn
            raise
        with closing(stream):
            self.changed()
            yield from self._turn.run(stream)

    def _continue(self, turn: Turn) -> Generator[Event]:
        if turn is not self._turn:
            raise PromptError(
                "this result is of an earlier turn: the chat went on without it"
            )
        self._cancelled.clear()
        self.messages = reopen_last_turn(self.messages)
        yield from turn.run(turn.resume(self.params.max_tokens))

    def _render(self, forgotten: int, *, complete: bool = True) -> list[int]:
        shown = [*system_messages(self), *self.messages[forgotten:]]
        pieces = history_pieces(shown, complete=complete)
        return encode_within(pieces, self.runtime.tokenizer, self.runtime.context)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
