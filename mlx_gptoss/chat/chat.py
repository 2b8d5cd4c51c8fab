"""The conversation: its history and settings, and the operations on them.

Tools with a function are run, and the model continues with their results. A call of a
tool without one ends the turn with Done("tool_calls"): pass its result to
`submit_result` and iterate again. A call that cannot be run (ToolCallFailed), is not
approved, or takes too long is answered with the reason.

Leaving the iterator early, or Ctrl-C in it, ends the answer and keeps what was
generated. One answer at a time: until it is done or its iterator closed, whatever would
change the history raises PromptError, in the same thread too. Other threads may
`cancel`, read the chat, and `branch`: what they see ends with a whole message.
"""

import datetime
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from copy import copy
from types import EllipsisType
from typing import Any, Self

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.calls import PendingCalls
from mlx_gptoss.chat.history import (
    default_title,
    edited,
    end_of_turn,
    question_indexes,
    start_of_last_turn,
    up_to_last_question,
)
from mlx_gptoss.chat.prompt import opening_messages
from mlx_gptoss.chat.toolbox import TOOL_SECONDS, Toolbox
from mlx_gptoss.chat.tools import ApprovalLike, Tool, ToolLike
from mlx_gptoss.chat.transcript import Transcript
from mlx_gptoss.chat.truncate import ERROR, OVERFLOWS
from mlx_gptoss.chat.turns import Turns
from mlx_gptoss.engine.prompt_progress import OnPromptProgress
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
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
)


class Chat:
    """A conversation with a model.

    `system` becomes the instructions of the developer message; `identity` and `date`
    ("" for none) are part of the system message. `date=None` is today, determined once,
    so that the prompt stays the same past midnight. `max_tokens` of `params` limits a
    whole turn, tool calls included; `max_rounds` limits its rounds of calls.

    `approve` decides which calls run: a policy (`allow`, `deny`), a function that is
    called with each ToolCall, or an Approval with policies by tool. A tool runs in a
    thread of its own for at most `tool_seconds`; with None, in the caller's thread.

    `constraints` restrict what may be sampled; by default, to whatever is well-formed,
    with arguments that follow the tools' schemas. A `tool_choice` that requires a call
    holds until one has been made, a reasoning budget for a whole turn.

    A conversation that outgrows the context raises PromptError, or with `overflow`
    "drop-oldest" the model is no longer shown its oldest turns: `forgotten` counts
    their messages, which stay in `messages`.

    `adapter` is the name of the adapter that answers, None for the model without one;
    left out, it is the active one of the runtime (see `Runtime.use_adapter`).

    `effort`, `system`, `params`, `constraints`, `adapter` and `title` may be changed
    between turns. `on_change(chat)` is called whenever the history has changed: after a
    question, each message group of the model, and each result; for example to save it.
    `on_progress(progress)` is called with a PromptProgress while a prompt is read: when
    a generation starts, and then after each chunk of the prompt, in the engine thread,
    which it must not block. The events of a turn begin after that.

    Raises PromptError for a model that does not speak Harmony.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        effort: Effort | str = "medium",
        system: str | None = None,
        tools: "Iterable[ToolLike]" = (),
        identity: str = IDENTITY,
        date: str | None = None,
        params: SamplingParams | None = None,
        constraints: Constraints | None = None,
        max_rounds: int = 64,
        approve: "ApprovalLike" = "allow",
        tool_seconds: float | None = TOOL_SECONDS,
        overflow: str = ERROR,
        on_change: Callable[["Chat"], Any] | None = None,
        on_progress: OnPromptProgress | None = None,
        adapter: str | EllipsisType | None = ...,
    ) -> None:
        runtime.tokenizer.require_harmony()
        if overflow not in OVERFLOWS:
            known = " or ".join(f"`{name}`" for name in OVERFLOWS)
            raise PromptError(f"overflow `{overflow}` is unknown: use {known}")
        self.runtime = runtime
        self.adapter = adapter
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
        self.on_progress = on_progress
        self.transcript = Transcript()
        self._title: str | None = None
        self._turns = Turns(self)
        self._new_id()
        self.toolbox.reset()

    # State

    @property
    def messages(self) -> list[Message]:
        """The history, without the system and developer messages."""
        return self.transcript.messages

    @messages.setter
    def messages(self, messages: list[Message]) -> None:
        self.transcript.messages = messages

    @property
    def forgotten(self) -> int:
        """How many of the oldest messages the model is no longer shown."""
        return self.transcript.forgotten

    @property
    def title(self) -> str:
        """The title that was set, else the first line of the first question."""
        return self._title or default_title(self.messages)

    @title.setter
    def title(self, title: str | None) -> None:
        self._title = title or None
        self.record_change()

    @property
    def effort(self) -> str:
        """How long the model reasons: low, medium or high."""
        return self._effort

    @effort.setter
    def effort(self, effort: Effort | str) -> None:
        SystemContent(effort=effort)  # pyright: ignore[reportArgumentType] - checks it
        self._effort = effort

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that answers; None for the model without one."""
        chosen = self._adapter
        return self.runtime.adapter if isinstance(chosen, EllipsisType) else chosen

    @adapter.setter
    def adapter(self, adapter: str | EllipsisType | None) -> None:
        if not isinstance(adapter, EllipsisType):
            self.runtime.require_adapter(adapter)
        self._adapter = adapter

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools by name."""
        return self.toolbox.tools

    @property
    def functions(self) -> list[ToolDescription]:
        """The tools of the developer message; the others are built in."""
        return self.toolbox.functions

    @property
    def namespaces(self) -> tuple[ToolNamespace, ...]:
        """The built-in tools, as the system message declares them."""
        return self.toolbox.namespaces

    @property
    def unenforced(self) -> list[str]:
        """The parts of the schemas of tools and answer that no grammar can enforce.

        One line per schema. Raises SchemaError for an invalid grammar.
        """
        targets = self.toolbox.targets
        guide = self.runtime.guides.create(self.constraints, targets)
        return [] if guide is None else unenforced_lines(guide.unenforced)

    @property
    def waiting(self) -> list[ToolCall]:
        """The calls that `submit_result` should answer."""
        return [call.event for call in self.transcript.waiting.values()]

    @property
    def questions(self) -> list[str]:
        """The user's message of each turn."""
        return [self.messages[place].text for place in question_indexes(self.messages)]

    @property
    def conversation(self) -> list[Message]:
        """The messages the model is shown, the system and developer messages first."""
        return [*opening_messages(self), *self.messages[self.forgotten :]]

    # Turns

    def send(self, text: str) -> Generator[Event]:
        """Send `text` and yield the events of the turn, up to and including a Done.

        Iterate to run it: Reasoning, Preamble, Answer, ToolCall, ToolResult,
        ToolCallFailed, Done, each a kind of Event. Tools run as `approve` allows.
        Raises PromptError, and keeps nothing, if the question does not fit the context
        or another answer is running.
        """
        return self._turns.ask(lambda: self.transcript.with_question(text))

    def regenerate(self) -> Generator[Event]:
        """Drop the last answer, complete or not, and answer the question again."""
        return self._turns.ask(lambda: up_to_last_question(self.messages))

    def edit(self, turn: int, text: str) -> Generator[Event]:
        """Replace the question of a turn (the first is 1), and drop all that followed.

        Raises PromptError, and changes nothing, if there is no such turn or `text`
        does not fit the context. `branch` first to keep both.
        """
        return self._turns.ask(lambda: edited(self.messages, turn, text))

    def submit_result(self, call_id: str, text: str) -> Iterator[Event]:
        """Answer a waiting call; once all are answered, the model continues.

        Results may come in any order; each is kept at once, in the order of the calls.
        There are no events while other calls wait. Raises PromptError
        for an id that is not in `waiting`.
        """
        return self._turns.submit_result(call_id, text)

    def cancel(self) -> None:
        """End the answer in progress after its current token; from any thread."""
        self._turns.cancel()

    # History

    def record_change(self) -> None:
        """Note the time of a change of the history, and call `on_change`."""
        self.updated = _now()
        if self.on_change is not None:
            self.on_change(self)

    def reset(self) -> None:
        """Start a new conversation: another id, no history, the same settings."""
        with self._turns.lock.hold():
            self.toolbox.reset()
            self.transcript = Transcript()
            self._title = None
            self._turns.begin()
            self._new_id()

    def undo(self) -> str:
        """Drop the last turn and return its question. PromptError if there is none."""
        with self._turns.lock.hold():
            place = start_of_last_turn(self.messages)
            question = self.messages[place].text
            self.transcript.truncate(place)
            self._turns.begin()
            self.record_change()
        return question

    def branch(self, turn: int | None = None) -> Self:
        """Return an independent chat with this history, up to the end of `turn`.

        It has another id and the same settings, tools and runtime; the prompt cache
        serves what both have in common. Tools that keep a state share it.
        """
        other = copy(self)
        transcript = self.transcript.copy()
        if turn is not None:
            end = end_of_turn(transcript.messages, turn)
            if end < len(transcript.messages):
                transcript.truncate(end)
        other.transcript = transcript
        other._turns = Turns(other, self._turns.reasoning_tokens)
        other._new_id()
        return other

    def to_json(self) -> dict[str, Any]:
        """Return the chat as JSON values, without tools, params and constraints."""
        with self.transcript.lock:
            chat = saved.SavedChat(
                id=self.id,
                title=self._title,
                created=self.created,
                updated=self.updated,
                effort=self.effort,
                system=self.system,
                identity=self.identity,
                date=self.date,
                forgotten=self.forgotten,
                messages=tuple(self.messages),
                waiting=tuple(self.transcript.waiting.values()),
                adapter=self.adapter,
            )
            return saved.to_json(chat)

    @classmethod
    def from_json(
        cls, runtime: Runtime, data: Mapping[str, Any] | str, **options: Any
    ) -> Self:
        """Read the value of `to_json`, or its text; `options` are those of Chat.

        They override what was saved. An adapter that `runtime` does not have is left
        out. Raises PromptError for anything else.
        """
        read = saved.from_json(data)
        if read.adapter in runtime.adapters:
            options = {"adapter": read.adapter} | options
        made = sum(message.is_call for message in read.messages)
        calls = PendingCalls({call.id: call for call in read.waiting}, made)
        chat = cls(runtime, **(read.settings | options))
        chat.transcript = Transcript(list(read.messages), calls, read.forgotten)
        chat.id, chat._title = read.id, read.title
        chat.created, chat.updated = read.created, read.updated
        return chat

    # Internal

    def _new_id(self) -> None:
        self.id = uuid.uuid4().hex
        self.created = self.updated = _now()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
