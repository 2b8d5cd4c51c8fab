"""The conversation: ask, and read the answer whole or as it comes.

    reply = Chat(runtime).ask("Is it raining in Paris?")
    print(reply.answer)

Tools with a function are run, and the model continues with their results. A call of a
tool without one ends the turn with Done("tool_calls"): pass its result to
`submit_result` and iterate again. A call that cannot be run (ToolCallFailed), is not
approved, or takes too long is answered with the reason.

Leaving the iterator early, or Ctrl-C in it, ends the answer and keeps what was
generated. One answer at a time: until it is done or its iterator closed, whatever would
change the history raises PromptError, in the same thread too. Other threads may
`cancel`, read the chat, and `branch`: what they see ends with a whole message.
"""

from collections.abc import Generator, Iterator
from typing import Any

from mlx_gptoss.chat.base_chat import BaseChat
from mlx_gptoss.chat.drive import drive
from mlx_gptoss.chat.history import edited, up_to_last_question
from mlx_gptoss.chat.reply import Reply, ReplyBuilder
from mlx_gptoss.chat.reply_format import ReplyFormat
from mlx_gptoss.errors import AnswerTimeout
from mlx_gptoss.harmony.events import Event


class Chat(BaseChat):
    """A conversation with a model: ask, and read the answer whole or as it comes.

        chat = Chat(runtime, effort="low", system="Be brief.", tools=[get_weather])
        print(chat.ask("Is it raining in Paris?").answer)
        for event in chat.send("And in Rome?"):
            ...

    runtime: the model, from `load`. Many chats may share it, in any threads: they are
        decoded together.
    effort: how long the model reasons: `low`, `medium` or `high`.
    system: instructions for the model, which become the developer message.
    tools: functions the model may call: Python functions, described by their name,
        annotations and docstring; Tools; dicts with `name`, `description` and
        `parameters` (a JSON schema), whose calls wait for `submit_result`; sets of
        tools, as `mlx_gptoss.chat.tools.notebook.Notebook` and `...browser.Browser`.
    identity, date: parts of the system message, "" for none. `date=None` is today,
        determined once, so that the prompt stays the same past midnight.
    params: sampling settings; their `max_tokens` limits a whole turn, reasoning and
        calls included.
    constraints: restrict what may be sampled; by default, to whatever is well-formed,
        with arguments that follow the tools' schemas. A `tool_choice` that requires a
        call holds until one has been made, a reasoning budget for a whole turn.
    max_rounds: most rounds of calls in a turn; then its finish reason is `length`.
    approve: decides which calls run: a policy (`allow`, `deny`), a function that is
        called with each ToolCall and returns whether it may run, or an Approval with
        policies by tool.
    tool_seconds: most seconds of each call, which runs in a thread of its own; the
        model reads that there was no result. None: no limit, in the caller's thread.
    overflow: what happens to a conversation that outgrows the context: "error" raises
        PromptError; with "drop-oldest" the model is no longer shown its oldest turns:
        `forgotten` counts their messages, which stay in `messages`.
    on_change: called with the chat whenever the history has changed: after a question,
        each message group of the model, and each result; for example `Sessions.save`.
    on_progress: called with a PromptProgress while a prompt is read: when a generation
        starts, and then after each chunk of the prompt, in the engine thread, which it
        must not block. The events of a turn begin after that.
    adapter: the name of the adapter that answers, None for the model without one; left
        out, it is the active one of the runtime (see `Runtime.use_adapter`).

    `notes` are JSON values that a program keeps with the chat: they are saved with it,
    and the model is not shown them.

    `effort`, `system`, `params`, `constraints`, `adapter`, `title` and `notes` may be
    changed between turns. `messages` is the history, as a list of Message.

    One answer at a time: a second question meanwhile, or another thread, needs a Chat
    of its own (`branch` copies one).

    Raises PromptError for a model that does not speak Harmony, and for tools or
    settings that cannot be used.
    """

    def ask(
        self, text: str, *, response_format: Any = None, timeout: float | None = None
    ) -> Reply:
        """Send `text` and return the whole answer as a Reply; tools run as in `send`.

        response_format: the form of the answer, for this turn. A type (a pydantic
            model, a dataclass, a TypedDict, `list[int]`, ...), a JSON schema as a dict,
            a `response_format` of OpenAI's API, or an AnswerFormat. The model cannot
            write anything else; `reply.parsed` is the answer as an instance of the
            type, or as JSON values. None is that of `constraints`, or plain text.
        timeout: most seconds for the turn, tools included; None is no limit.

        Raises AnswerTimeout (its `reply` is what came until then), AnswerFormatError if
        the answer was cut off before the end of its format or a validator of the type
        refuses it, and what `send` raises. After `cancel`, the Reply has finish_reason
        "cancelled". For the Reply of another turn: `Reply.of(chat.regenerate())`.
        """
        reader = ReplyFormat.of(response_format, self.constraints)
        turn = self._turns.ask(
            lambda: self.transcript.with_question(text), reader.to_enforce
        )
        builder = ReplyBuilder(text)
        try:
            for event in drive(turn, timeout):
                builder.add(event)
        except AnswerTimeout as error:
            error.reply = builder.cut_short(self._turns.stats)
            raise
        return reader.parse(builder.reply())

    def send(self, text: str, *, timeout: float | None = None) -> Generator[Event]:
        """Send `text` and yield the events of the turn, up to and including a Done.

        Iterate to run it: Reasoning, Preamble, Answer, ToolCall, ToolResult,
        ToolCallFailed, Done, each a kind of Event. Tools run as `approve` allows.
        Closing the iterator early, or leaving its loop, ends the answer and frees its
        place in the batch; the chat keeps what was generated.

        `timeout` is the most seconds from the first event that is asked for to the
        last, tools and time in the queue included. Then AnswerTimeout is raised, within
        a decode step or a chunk of the prompt; the chat keeps what was generated. A
        tool without a time limit of its own (`tool_seconds=None`) is waited for.

        Raises PromptError, and keeps nothing, if the question does not fit the context
        or another answer is running; ModelError if the model fails.
        """
        turn = self._turns.ask(lambda: self.transcript.with_question(text))
        return drive(turn, timeout)

    def regenerate(self, *, timeout: float | None = None) -> Generator[Event]:
        """Drop the last answer, complete or not, and answer the question again.

        Events, `timeout` and errors are those of `send`.
        """
        turn = self._turns.ask(lambda: up_to_last_question(self.messages))
        return drive(turn, timeout)

    def edit(
        self, turn: int, text: str, *, timeout: float | None = None
    ) -> Generator[Event]:
        """Replace the question of a turn (the first is 1), and drop all that followed.

        Raises PromptError, and changes nothing, if there is no such turn or `text`
        does not fit the context. `branch` first to keep both. Events and `timeout` are
        those of `send`.
        """
        turns = self._turns
        return drive(turns.ask(lambda: edited(self.messages, turn, text)), timeout)

    def submit_result(
        self, call_id: str, text: str, *, timeout: float | None = None
    ) -> Iterator[Event]:
        """Answer the waiting call `call_id` with `text`; after the last, go on.

        Results may come in any order; each is kept at once, in the order of the calls.
        There are no events while other calls wait. Raises PromptError
        for an id that is not in `waiting`. Events and `timeout` are those of `send`.
        """
        return drive(self._turns.submit_result(call_id, text), timeout)
