"""Token ids -> events, one id at a time; never raises, whatever the ids are.

A well-formed stream gives what openai-harmony gives. A malformed one gives the
most sensible reading, and a list of the repairs made:

    parser = Parser(tokenizer, tools=["get_weather"])
    for token in tokens:
        for event in parser.feed(token): ...
    for event in parser.finish(): ...
    parser.messages         # what history keeps: `render_messages` takes them

Each id is text, header, control, or repaired away (`parser.fates`, one an id): no
markup reaches text, no text is lost unsaid. The time per id is constant.

Calls on `analysis`: a function call there is accepted when its tool was offered
and the arguments are a JSON object that the tool's schema allows (where the caller
gave it); else it is reasoning, or, when the model stopped to wait for the result
(`<|call|>`), a failed call that says so to it. `calls_on_analysis=False` accepts
none. A name in prose is never a call. Built-in tools are called on analysis as a
matter of course, python with plain code: they need no repair, only to be offered.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Literal, Protocol

from mlx_gptoss.harmony.events import (
    MessageEnded,
    ParserEvent,
    Repair,
    Repaired,
)
from mlx_gptoss.harmony.header import (
    Header,
    Part,
    Recovered,
    read_header,
    recover,
)
from mlx_gptoss.harmony.messages import Message, ToolDescription
from mlx_gptoss.harmony.offered import Offered
from mlx_gptoss.harmony.opened import Opened, open_message, text_event

Fate = Literal["text", "header", "control", "repaired"]
CLOSERS = ("<|end|>", "<|return|>", "<|call|>", "<|endoftext|>")
LONGEST_STRAY_HEADER = 8  # words; more of them before a mark are text of their own


class TokenSource(Protocol):
    """What parsing needs of a tokenizer: names of specials, bytes of an id."""

    @property
    def specials(self) -> Mapping[str, int]: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...


class Parser:
    """Read the ids a model samples after `<|start|>assistant`.

    `role=None` reads a whole conversation, which begins with `<|start|>`.
    `tools` are the function tools, by name or with their schema, and `built_in` the
    recipients of built-in ones (`python`, `browser.search`); `tools=None` takes any
    name for a tool.
    """

    def __init__(
        self,
        tokenizer: TokenSource,
        *,
        role: str | None = "assistant",
        tools: Iterable[str | ToolDescription] | None = None,
        built_in: Iterable[str] = (),
        calls_on_analysis: bool = True,
        next_id: Callable[[], str] | None = None,
    ) -> None:
        numbers = count(1)
        self.messages: list[Message] = []
        self.repairs: list[Repair] = []
        self.fates: list[Fate] = []
        self.answered = False  # a message on final has ended in this turn
        self._bytes = tokenizer.token_bytes
        self._names = {token: name for name, token in tokenizer.specials.items()}
        self._offered = Offered.of(tools, built_in)
        self._calls_on_analysis = calls_on_analysis
        self._next_id = next_id or (lambda: f"call_{next(numbers)}")
        self._events: list[ParserEvent] = []
        self._parts: list[Part] | None = None  # of the header being read
        self._role: str | None = None  # of that header, where the prompt gave it
        self._opened: Opened | None = None
        self._undecided: list[tuple[str, bool]] = []  # texts without a header, whole?
        if role is not None:
            self._begin_header(role)

    def feed(self, token_id: int) -> list[ParserEvent]:
        """Take one id; return what it completed, often one piece of text."""
        name = self._names.get(token_id)
        self.fates.append("control")
        if name is None:
            self._text(self._bytes(token_id))
        elif name == "<|start|>":
            self._start()
        elif name == "<|message|>":
            self._message()
        elif name == "<|channel|>":
            self._channel()
        elif name == "<|constrain|>":
            self._constrain()
        elif name in CLOSERS:
            self._close(name)
        else:
            self._refuse("unknown-token", f"`{name}` was dropped")
        return self._take_events()

    def finish(self) -> list[ParserEvent]:
        """End the stream: close what is open, decide what was left open."""
        if self._opened is not None:
            self._end_message(None)
        elif self._parts is not None:
            self._end_header(None)
        self._decide(follows=False)
        return self._take_events()

    # One method for each kind of token

    def _text(self, data: bytes) -> None:
        if not data:
            self._refuse("unknown-token", "an id without text was dropped")
        elif self._opened is not None:
            self.fates[-1] = "text"
            self._events += self._opened.feed(data)
        else:
            self._imply_start()
            assert self._parts is not None
            self.fates[-1] = "header"
            self._parts[-1].tokens.append((self._at, data))

    def _start(self) -> None:
        if self._opened is not None:
            self._mend("missing-end", "a message was ended by `<|start|>`")
            self._end_message(None, complete=True)
        elif self._parts is not None and self._header_has_content():
            self._end_header("<|start|>")
        self._begin_header(None)

    def _message(self) -> None:
        if self._opened is not None:
            self._refuse("stray-mark", "`<|message|>` inside a message was dropped")
            return
        self._imply_start()
        assert self._parts is not None
        if len(self._parts) == 1:
            self._rescue_prose()
        header = read_header(self._parts, self._role, self._offered)
        self._parts = None
        self._open(header)

    def _channel(self) -> None:
        if self._opened is not None:
            self._mend("missing-end", "a message was ended by `<|channel|>`")
            self._end_message(None, complete=True)
            self._begin_header("assistant")
        self._imply_start()
        self._rescue_prose()
        assert self._parts is not None
        self._parts.append(Part("<|channel|>"))

    def _constrain(self) -> None:
        if self._opened is not None:
            self._refuse("stray-mark", "`<|constrain|>` inside a message was dropped")
            return
        self._imply_start()
        assert self._parts is not None
        self._parts.append(Part("<|constrain|>"))

    def _close(self, name: str) -> None:
        if self._opened is not None:
            self._end_message(name)
        elif self._parts is not None:
            self._end_header(name)
        elif name != "<|endoftext|>":
            self._refuse("stray-end", f"`{name}` outside a message was dropped")

    # Headers

    def _begin_header(self, role: str | None) -> None:
        self._role = role
        self._parts = [Part(None)]

    def _imply_start(self) -> None:
        if self._parts is None:
            self._mend("missing-start", "`<|start|>assistant` was put in")
            self._begin_header("assistant")

    def _header_has_content(self) -> bool:
        parts = self._parts or []
        return len(parts) > 1 or any(part.tokens for part in parts)

    def _rescue_prose(self) -> None:
        """Make a long text before a mark a message of its own."""
        assert self._parts is not None
        if self._parts[-1].mark == "<|constrain|>":
            return
        if len(self._parts[-1].text.split()) > LONGEST_STRAY_HEADER:
            self._end_header("<|channel|>")
            self._begin_header("assistant")

    def _end_header(self, closer: str | None) -> None:
        """A header ended without `<|message|>`: keep what can be understood."""
        assert self._parts is not None
        parts, self._parts = self._parts, None
        found = recover(parts, self._role, self._offered)
        if closer is None and found is not None and self._is_cut_header(found):
            found = None
        if found is None:
            if any(part.tokens for part in parts) or len(parts) > 1:
                text = "".join(f"{part.mark or ''}{part.text}" for part in parts)
                self._drop(parts, "bad-header", f"`{text}` was dropped")
        elif found.headless:
            self._keep_headless(found, parts[-1], closer)
        else:
            self._mend("missing-message", "`<|message|>` was put into a header")
            self._read_as("text", parts[-1], found.body)
            self._open(found.header)
            assert self._opened is not None
            if found.body:
                self._events += self._opened.feed(found.body.encode())
            self._end_message(closer)

    def _is_cut_header(self, found: Recovered) -> bool:
        """Tell a header that the limit of tokens cut short from text."""
        body = found.body.strip()
        begins_recipient = found.headless and "to=".startswith(body)
        begins_role = found.headless and self._role is None and " " not in body
        return not body or begins_recipient or begins_role

    def _keep_headless(self, found: Recovered, part: Part, closer: str | None) -> None:
        """Text without a header: analysis if a message follows, else the answer."""
        header = found.header
        if header.role != "assistant":
            self._open(header)
            assert self._opened is not None
            self._events += self._opened.feed(found.body.encode())
            self._read_as("text", part, found.body)
            self._end_message(closer)
            return
        if self.answered:
            self._drop([part], "stray-text", f"`{found.body}` after the answer")
            return
        self._mend("no-header", "text without a header was kept")
        self._read_as("text", part, found.body)
        self._undecided.append((found.body, closer is not None))
        if closer == "<|return|>":
            self._decide(follows=False)

    def _decide(self, *, follows: bool) -> None:
        """Say what the texts without a header were, now that it is known."""
        undecided, self._undecided = self._undecided, []
        for index, (text, complete) in enumerate(undecided):
            last = index == len(undecided) - 1
            channel = "final" if last and not follows else "analysis"
            message = Message("assistant", text, channel)
            self._events.append(text_event(message))
            self._store(message, complete=complete)

    # Messages

    def _open(self, header: Header) -> None:
        self._decide(follows=header.role == "assistant")
        for kind, detail in header.repairs:
            self._mend(kind, detail)
        self._opened = open_message(
            header,
            self._offered,
            calls_on_analysis=self._calls_on_analysis,
            next_id=self._next_id,
        )
        self._events += self._opened.started()

    def _end_message(self, closer: str | None, *, complete: bool = False) -> None:
        assert self._opened is not None
        opened, self._opened = self._opened, None
        complete = complete or closer is not None
        message, events, repairs = opened.end(closer, complete=complete)
        self._events += events
        for kind, detail in repairs:
            self._mend(kind, detail)
        self._store(message, complete=complete)

    def _store(self, message: Message, *, complete: bool) -> None:
        if message.role != "assistant":
            self.answered = False
        elif message.channel not in ("analysis", "commentary") and not message.is_call:
            self.answered = True
        self.messages.append(message)
        self._events.append(MessageEnded(message, complete))

    # The record

    @property
    def _at(self) -> int:
        return len(self.fates) - 1

    def _mend(self, kind: str, detail: str) -> None:
        repair = Repair(kind, detail, max(self._at, 0))
        self.repairs.append(repair)
        self._events.append(Repaired(repair))

    def _refuse(self, kind: str, detail: str) -> None:
        self.fates[-1] = "repaired"
        self._mend(kind, detail)

    def _drop(self, parts: list[Part], kind: str, detail: str) -> None:
        for part in parts:
            for at, _ in part.tokens:
                self.fates[at] = "repaired"
        self._mend(kind, detail)

    def _read_as(self, fate: Fate, part: Part, body: str) -> None:
        for at in part.tail(body):
            self.fates[at] = fate

    def _take_events(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events
