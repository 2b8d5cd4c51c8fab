"""A conversation: history, tools, reasoning effort; one class for CLI, server, apps.

    chat = Chat(runtime, effort="low", tools=[get_weather])
    for event in chat.send("Is it raining in Paris?"):
        ...    # Reasoning | Preamble | Answer | ToolCall | ToolResult | Done

Tools with a function are run and the model goes on with their results. A call of a
tool without one ends the turn with Done("tool_calls"): give `submit_result` its
result and read on. A call that cannot be run (ToolCallFailed), is not approved or
takes too long is answered with why.

Leaving the iterator early, or Ctrl-C in it, ends the answer and keeps what came.
One thread at a time may use a Chat; only `cancel` may come from another.
"""

import datetime
import json
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any, Self

from mlx_gptoss.errors import PromptError
from mlx_gptoss.guide import Guide
from mlx_gptoss.harmony.constrain import (
    AUTO,
    NONE,
    Constraints,
    built_in_targets,
    function_targets,
)
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Event,
    MessageEnded,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)
from mlx_gptoss.harmony.messages import (
    IDENTITY,
    Effort,
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    developer,
    user,
)
from mlx_gptoss.harmony.parse import Parser
from mlx_gptoss.harmony.render import render_messages
from mlx_gptoss.listener import Listener
from mlx_gptoss.overflow import ERROR, OVERFLOWS, first_kept, room
from mlx_gptoss.runtime import Runtime, Stream
from mlx_gptoss.sampling import SamplingParams
from mlx_gptoss.steps import CANCELLED, LENGTH, STOP, TOOL_CALLS, Statistics
from mlx_gptoss.tools import Approval, ApprovalLike, ToolLike, ToolSet, tools_by_name

SHOWN = (Reasoning, Preamble, Answer, ToolCall, ToolCallFailed)
SETTINGS = ("effort", "system", "identity", "date")  # what a saved chat keeps
UNANSWERED = "Error: the call was interrupted"
TOO_LONG = "Error: the result has {} characters, too many to be read; ask for less"
TOOL_SECONDS = 120.0


@dataclass(frozen=True)
class Call:
    """A call in the history that waits for its result."""

    id: str
    name: str
    arguments: str
    recipient: str = ""
    channel: str = "commentary"
    problem: str = ""  # why it cannot be run

    def result(self, text: str) -> Message:
        """Build the tool's message; it answers on the channel of the call."""
        return Message(
            "tool",
            text,
            channel=self.channel,
            recipient="assistant",
            name=self.recipient,
        )


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

    `effort`, `system`, `params` and `constraints` may be changed between turns.
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
        tools = list(tools)
        self.tools = tools_by_name(tools)
        self.approval = Approval.of(approve)
        self.tool_seconds = tool_seconds
        self.overflow = overflow
        self._tool_sets = [one for one in tools if isinstance(one, ToolSet)]
        self._cancelled = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Forget the conversation and what the tools keep of it; settings stay."""
        for tool_set in self._tool_sets:
            tool_set.reset()
        self.messages: list[Message] = []
        self.forgotten = 0
        self._waiting: dict[str, Call] = {}
        self._called: Call | None = None  # until its message has ended
        self._guide: Guide | None = None  # of the generation under way
        self._reasoned = 0  # tokens of reasoning in this turn
        self._generations = count()
        self._call_numbers = count(1)

    @property
    def effort(self) -> str:
        """How long the model reasons: low, medium or high."""
        return self._effort

    @effort.setter
    def effort(self, effort: Effort | str) -> None:
        SystemContent(effort=effort)  # pyright: ignore[reportArgumentType] - checks it
        self._effort = effort

    @property
    def waiting(self) -> list[ToolCall]:
        """The calls that `submit_result` should answer."""
        calls = self._waiting.values()
        return [ToolCall(call.id, call.name, call.arguments) for call in calls]

    @property
    def functions(self) -> list[ToolDescription]:
        """The tools of the developer message; the others are built-in."""
        tools = self.tools.values()
        return [tool.description for tool in tools if tool.namespace is None]

    @property
    def namespaces(self) -> tuple[ToolNamespace, ...]:
        """The built-in tools, as the system message declares them."""
        found = [tool.namespace for tool in self.tools.values() if tool.namespace]
        return tuple(one for n, one in enumerate(found) if one not in found[:n])

    @property
    def conversation(self) -> list[Message]:
        """What the model is shown, the system and developer messages first."""
        content = SystemContent(
            identity=self.identity,
            conversation_date=self.date or None,
            effort=self._effort,  # pyright: ignore[reportArgumentType]
            namespaces=self.namespaces,
        )
        opening = [Message("system", content)]
        told = self.constraints.response_format
        formats = [told.shown] if told and told.shown else []
        if self.system or self.functions or formats:
            opening.append(
                developer(self.system, tools=self.functions, response_formats=formats)
            )
        return [*opening, *self.messages[self.forgotten :]]

    def send(self, text: str) -> Generator[Event]:
        """Say `text` and yield what the model does, until a Done.

        A question that does not fit the context raises PromptError and is not kept.
        """
        self._cancelled.clear()
        self._answer(self._waiting.values(), UNANSWERED)
        self.messages.append(user(text))
        self._reasoned = 0
        try:
            stream = self._start(self.params.max_tokens)
        except PromptError:
            self.messages.pop()
            raise
        yield from self._turn(stream)

    def submit_result(self, call_id: str, text: str) -> Iterator[Event]:
        """Answer a waiting call; once all are answered, the model goes on.

        The result is kept at once; the events are empty while calls still wait.
        """
        if call_id not in self._waiting:
            known = ", ".join(f"`{one}`" for one in self._waiting) or "none"
            raise PromptError(f"no call `{call_id}` waits; the waiting calls: {known}")
        self._answer([self._waiting[call_id]], text)
        return iter(()) if self._waiting else self._continue()

    def cancel(self) -> None:
        """End the answer under way after its present token; from any thread."""
        self._cancelled.set()

    def to_json(self) -> str:
        """Write the conversation and its settings; not tools, params, constraints."""
        state = {key: getattr(self, key) for key in SETTINGS} | {
            "messages": [asdict(message) for message in self.messages],
            "waiting": [asdict(call) for call in self._waiting.values()],
        }
        return json.dumps(state, ensure_ascii=False)

    @classmethod
    def from_json(cls, runtime: Runtime, text: str, **options: Any) -> Self:
        """Read what `to_json` wrote; `options` are those of Chat that it leaves out."""
        try:
            state = json.loads(text)
            settings = {key: state[key] for key in SETTINGS}
            messages = [Message(**message) for message in state["messages"]]
            waiting = {call["id"]: Call(**call) for call in state["waiting"]}
        except (ValueError, KeyError, TypeError) as error:
            raise PromptError(
                f"this is not a saved chat ({error}): give what `to_json` wrote"
            ) from error
        chat = cls(runtime, **settings, **options)
        chat.messages, chat._waiting = messages, waiting
        calls = sum(message.is_call for message in messages)
        chat._call_numbers = count(calls + 1)
        return chat

    def _continue(self) -> Generator[Event]:
        self._cancelled.clear()
        yield from self._turn(self._start(self.params.max_tokens))

    def _turn(self, stream: Stream) -> Generator[Event]:
        """Listen, run the tools that were called, and again until no more are."""
        total: Statistics | None = None
        for rounds in count(1):
            stats = yield from self._listen(stream)
            total = stats if total is None else total + stats
            called = bool(self._waiting)
            if total.finish_reason not in (CANCELLED, LENGTH):
                yield from self._run_tools()
            if reason := self._end(total, called=called, rounds=rounds):
                self._prepare()
                yield Done(reason, replace(total, finish_reason=reason))
                return
            stream = self._go_on(self._left(total))

    def _go_on(self, max_tokens: int | None) -> Stream:
        """Let the model read the results; those that do not fit are told to be long."""
        try:
            return self._start(max_tokens)
        except PromptError:
            for place in range(len(self.messages) - 1, -1, -1):
                message = self.messages[place]
                if message.role != "tool":
                    break
                text = TOO_LONG.format(len(message.text))
                self.messages[place] = replace(message, content=text)
            return self._start(max_tokens)

    def _end(self, total: Statistics, *, called: bool, rounds: int) -> str | None:
        """Say why the turn ends here, or None if the model has results to read."""
        if total.finish_reason in (CANCELLED, LENGTH):
            return total.finish_reason
        if self._waiting or not called:
            return TOOL_CALLS if self._waiting else STOP
        exhausted = self._left(total) == 0 or rounds == self.max_rounds
        return LENGTH if exhausted else None

    def _start(self, max_tokens: int | None) -> Stream:
        """Begin to generate the next message."""
        ids = self._prompt()
        seed = self.params.seed
        if seed is not None:  # each generation draws anew, and all repeat
            seed += next(self._generations)
        params = replace(self.params, max_tokens=max_tokens, seed=seed)
        targets = function_targets(self.functions) + built_in_targets(self.namespaces)
        self._guide = self.runtime.guides.guide(self._constraints_now(), targets)
        return self.runtime.generate(
            ids,
            params,
            reuse=True,
            guide=self._guide,
            cancelled=self._cancelled.is_set,
        )

    def _prompt(self) -> list[int]:
        """Render the conversation, without its oldest turns if it is too long."""
        asked = [n for n, one in enumerate(self.messages) if one.role == "user"]
        if asked and self.forgotten >= asked[-1]:  # those before may have been undone
            self.forgotten = 0
        before = self.forgotten
        ids = render_messages(self.conversation, self.runtime.tokenizer)
        context = self.runtime.context
        if self.overflow == ERROR or context is None:
            return ids
        if len(ids) > room(context, self.params.max_tokens):
            self.forgotten = first_kept(self.messages, context, self._size)
            ids = render_messages(self.conversation, self.runtime.tokenizer)
            if len(ids) >= context:  # the last turn alone is too long: refused
                self.forgotten = before
        return ids

    def _size(self, forgotten: int) -> int:
        """Count the tokens of the prompt without so many messages."""
        self.forgotten = forgotten
        return len(render_messages(self.conversation, self.runtime.tokenizer))

    def _prepare(self) -> None:
        """Have the history read as the next prompt will show it, while nobody asks."""
        self.runtime.prepare(
            render_messages(self.conversation, self.runtime.tokenizer, complete=False)
        )

    def _constraints_now(self) -> Constraints:
        """What is left of the constraints in this round of the turn."""
        given = self.constraints
        choice, budget = given.tool_choice, given.max_reasoning_tokens
        if choice != NONE and self.messages[-1].role == "tool":
            choice = AUTO  # the call that was asked for has been made
        if budget is not None:
            budget = max(budget - self._reasoned, 0)
        return replace(given, tool_choice=choice, max_reasoning_tokens=budget)

    def _listen(self, stream: Stream) -> Generator[Event, None, Statistics]:
        """Yield what one generation says; keep its messages, note its calls."""
        parser = Parser(
            self.runtime.tokenizer,
            tools=self.functions,
            built_in=[name for name, tool in self.tools.items() if tool.namespace],
            next_id=lambda: f"call_{next(self._call_numbers)}",
        )
        listener = Listener(parser, self.constraints.stop)
        try:
            for step in stream:
                yield from self._keep(listener.feed(step.token))
                if listener.stopped:
                    break
            yield from self._keep(listener.finish())
        finally:  # also when the reader left: what came stays
            stream.close()
            self._keep(listener.finish())
            self._reasoned += self._guide.reasoning_tokens if self._guide else 0
        return listener.judged(stream.stats)

    def _keep(self, events: Sequence[ParserEvent]) -> list[Event]:
        """Put ended messages into the history; return the events to show."""
        for event in events:
            if isinstance(event, ToolCall):
                self._called = Call(event.id, event.name, event.arguments)
            elif isinstance(event, ToolCallFailed):
                problem = f"Error: {event.problem}"
                self._called = Call(event.id, event.name, event.text, problem=problem)
            elif isinstance(event, MessageEnded):
                self._keep_message(event.message, complete=event.complete)
        return [event for event in events if isinstance(event, SHOWN)]

    def _keep_message(self, message: Message, *, complete: bool) -> None:
        if not complete and (message.is_call or not message.text):
            return  # half a call cannot be answered, and nothing says nothing
        self.messages.append(message)
        if message.is_call and self._called is not None:  # its event came before
            addressed = replace(
                self._called,
                recipient=message.recipient or "",
                channel=message.channel or "commentary",
            )
            self._waiting[addressed.id] = addressed
        self._called = None

    def _run_tools(self) -> Generator[Event]:
        """Answer the calls that can be answered here; the others go on waiting."""
        for call in list(self._waiting.values()):
            text = self._result(call)
            if text is not None:
                self._answer([call], text)
                yield ToolResult(call.id, text)

    def _result(self, call: Call) -> str | None:
        """Run a call that is approved, or say why not; None if that is not for us."""
        if call.problem:
            return call.problem
        tool = self.tools.get(call.name)
        if tool is None or tool.function is None:
            return None
        asked = ToolCall(call.id, call.name, call.arguments)
        return self.approval.refusal(asked) or tool.run(
            call.arguments,
            seconds=self.tool_seconds,
            cancelled=self._cancelled.is_set,
        )

    def _answer(self, calls: Iterable[Call], text: str) -> None:
        for call in list(calls):
            self.messages.append(call.result(text))
            self._waiting.pop(call.id, None)

    def _left(self, stats: Statistics) -> int | None:
        limit = self.params.max_tokens
        return None if limit is None else max(limit - stats.completion_tokens, 0)
