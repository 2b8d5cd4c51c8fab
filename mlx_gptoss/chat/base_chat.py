"""The common part of Chat and AsyncChat: settings, history, and operations on it.

Knows nothing of how turns are read: `chat` and `async_chat` do that.
"""

import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from types import EllipsisType
from typing import Any, Self

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.calls import PendingCalls
from mlx_gptoss.chat.history import (
    default_title,
    end_of_turn,
    question_indexes,
    start_of_last_turn,
)
from mlx_gptoss.chat.prompt import opening_messages
from mlx_gptoss.chat.toolbox import TOOL_SECONDS, Toolbox
from mlx_gptoss.chat.tools import ApprovalLike, Tool, ToolLike
from mlx_gptoss.chat.transcript import Transcript
from mlx_gptoss.chat.truncate import ERROR, OVERFLOWS
from mlx_gptoss.chat.turns import Turns
from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.engine.prompt_progress import OnPromptProgress
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.schema.compile import unenforced_lines
from mlx_gptoss.harmony.events import ToolCall
from mlx_gptoss.harmony.messages import (
    IDENTITY,
    Effort,
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)


class BaseChat:
    """A conversation with a model, without the methods that answer."""

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
        on_change: Callable[[Self], Any] | None = None,
        on_progress: OnPromptProgress | None = None,
        adapter: str | EllipsisType | None = ...,
        notes: Mapping[str, Any] | None = None,
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
        self.notes: dict[str, Any] = dict(notes or {})
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

    @property
    def queue_position(self) -> int:
        """The place of the answer in the queue: 1 is next, 0 is not queued."""
        return self._turns.queue_position

    @property
    def running_stats(self) -> Statistics | None:
        """The statistics so far of the generation in progress; None between turns."""
        return self._turns.running_stats

    def cancel(self) -> None:
        """End the answer in progress after its current token; from any thread.

        The turn ends with Done("cancelled") and keeps what was generated. A tool that
        runs is no longer waited for.
        """
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
        other.transcript, other.notes = transcript, dict(self.notes)
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
                notes=self.notes,
            )
            return saved.to_json(chat)

    @classmethod
    def from_json(
        cls, runtime: Runtime, data: Mapping[str, Any] | str, **options: Any
    ) -> Self:
        """Read `data`, a value of `to_json` or its text; `options` are those of Chat.

        They override what was saved. An adapter that `runtime` does not have is left
        out. Raises PromptError for anything else.
        """
        read = saved.from_json(data)
        options = {"notes": read.notes} | options
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
