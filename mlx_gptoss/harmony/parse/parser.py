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
from typing import Protocol

from mlx_gptoss.harmony.events import MessageEnded, ParserEvent, Repair
from mlx_gptoss.harmony.messages import ROLES, Message, ToolDescription
from mlx_gptoss.harmony.parse.header import Header, HeaderPart, read_header
from mlx_gptoss.harmony.parse.open_message import OpenMessage, open_message, text_event
from mlx_gptoss.harmony.parse.output import ParserOutput, TokenKind
from mlx_gptoss.harmony.parse.recover import RecoveredMessage, recover
from mlx_gptoss.harmony.parse.tool_names import OfferedTools

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
        self._record = ParserOutput()
        self.answered = False  # a message on final has ended in this turn
        self._bytes = tokenizer.token_bytes
        self._names = {token: name for name, token in tokenizer.specials.items()}
        self._offered = OfferedTools.from_tools(tools, built_in)
        self._calls_on_analysis = calls_on_analysis
        self._next_id = next_id or (lambda: f"call_{next(numbers)}")
        self._parts: list[HeaderPart] | None = None  # of the header being read
        self._role: str | None = None  # of that header, where the prompt gave it
        self._opened: OpenMessage | None = None
        self._undecided: list[tuple[str, bool]] = []  # texts without a header, whole?
        if role is not None:
            self._begin_header(role)

    @property
    def token_kinds(self) -> list[TokenKind]:
        """What each id was: text, header, control or repaired."""
        return self._record.token_kinds

    @property
    def repairs(self) -> list[Repair]:
        return self._record.repairs

    @property
    def open_channel(self) -> str | None:
        """The channel of the text that is open now; None in a header or a call."""
        if self._opened is None or self._opened.tool is not None:
            return None
        channel = self._opened.message.channel
        return channel if channel in ("analysis", "commentary") else "final"

    def feed(self, token_id: int) -> list[ParserEvent]:
        """Take one id; return what it completed, often one piece of text."""
        name = self._names.get(token_id)
        self._record.add_token()
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
            self._record.drop_token("unknown-token", f"`{name}` was dropped")
        return self._record.take_events()

    def finish(self) -> list[ParserEvent]:
        """End the stream: close what is open, decide what was left open."""
        if self._opened is not None:
            self._end_message(None)
        elif self._parts is not None:
            self._end_header(None)
        self._decide(follows=False)
        return self._record.take_events()

    # One method for each kind of token

    def _text(self, data: bytes) -> None:
        if not data:
            self._record.drop_token("unknown-token", "an id without text was dropped")
        elif self._opened is not None:
            self._record.set_kind("text")
            self._record.emit(self._opened.feed(data))
        else:
            self._imply_start()
            assert self._parts is not None
            self._record.set_kind("header")
            self._parts[-1].tokens.append((self._record.index, data))

    def _start(self) -> None:
        if self._opened is not None:
            self._record.add_repair("missing-end", "a message was ended by `<|start|>`")
            self._end_message(None, complete=True)
        elif self._parts is not None and self._header_has_content():
            self._end_header("<|start|>")
        self._begin_header(None)

    def _message(self) -> None:
        if self._opened is not None:
            self._record.drop_token(
                "stray-mark", "`<|message|>` inside a message was dropped"
            )
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
            self._record.add_repair(
                "missing-end", "a message was ended by `<|channel|>`"
            )
            self._end_message(None, complete=True)
            self._begin_header("assistant")
        self._imply_start()
        self._rescue_prose()
        assert self._parts is not None
        self._parts.append(HeaderPart("<|channel|>"))

    def _constrain(self) -> None:
        if self._opened is not None:
            self._record.drop_token(
                "stray-mark", "`<|constrain|>` inside a message was dropped"
            )
            return
        self._imply_start()
        assert self._parts is not None
        self._parts.append(HeaderPart("<|constrain|>"))

    def _close(self, name: str) -> None:
        if self._opened is not None:
            self._end_message(name)
        elif self._parts is not None:
            self._end_header(name)
        elif name != "<|endoftext|>":
            self._record.drop_token(
                "stray-end", f"`{name}` outside a message was dropped"
            )

    # Headers

    def _begin_header(self, role: str | None) -> None:
        self._role = role
        self._parts = [HeaderPart(None)]

    def _imply_start(self) -> None:
        if self._parts is None:
            self._record.add_repair("missing-start", "`<|start|>assistant` was put in")
            self._begin_header("assistant")

    def _header_has_content(self) -> bool:
        parts = self._parts or []
        return len(parts) > 1 or any(part.tokens for part in parts)

    def _rescue_prose(self) -> None:
        """Make a long text before a mark a message of its own."""
        assert self._parts is not None
        if self._parts[-1].marker == "<|constrain|>":
            return
        if len(self._parts[-1].text.split()) > LONGEST_STRAY_HEADER:
            self._end_header("<|channel|>")
            self._begin_header("assistant")

    def _end_header(self, closer: str | None) -> None:
        """A header ended without `<|message|>`: keep what can be understood."""
        assert self._parts is not None
        parts, self._parts = self._parts, None
        found = recover(parts, self._role, self._offered)
        if closer is None and found is not None and found.is_truncated(self._role):
            found = None
        begun = len(parts) == 1 and self._role is None and parts[0].text in ROLES
        if closer is None and begun:
            return  # a prompt ends so: the next message has only begun
        if found is None:
            if any(part.tokens for part in parts) or len(parts) > 1:
                text = "".join(f"{part.marker or ''}{part.text}" for part in parts)
                self._record.drop_parts(parts, "bad-header", f"`{text}` was dropped")
        elif found.headless:
            self._keep_headless(found, parts[-1], closer)
        else:
            self._record.add_repair(
                "missing-message", "`<|message|>` was put into a header"
            )
            self._record.mark_text(parts[-1], found.body)
            self._open(found.header)
            assert self._opened is not None
            if found.body:
                self._record.emit(self._opened.feed(found.body.encode()))
            self._end_message(closer)

    def _keep_headless(
        self, found: RecoveredMessage, part: HeaderPart, closer: str | None
    ) -> None:
        """Text without a header: analysis if a message follows, else the answer."""
        header = found.header
        if header.role != "assistant":
            self._open(header)
            assert self._opened is not None
            self._record.emit(self._opened.feed(found.body.encode()))
            self._record.mark_text(part, found.body)
            self._end_message(closer)
            return
        if self.answered:
            self._record.drop_parts(
                [part], "stray-text", f"`{found.body}` after the answer"
            )
            return
        self._record.add_repair("no-header", "text without a header was kept")
        self._record.mark_text(part, found.body)
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
            self._record.emit([text_event(message)])
            self._store(message, complete=complete)

    # Messages

    def _open(self, header: Header) -> None:
        self._decide(follows=header.role == "assistant")
        for kind, detail in header.repairs:
            self._record.add_repair(kind, detail)
        self._opened = open_message(
            header,
            self._offered,
            calls_on_analysis=self._calls_on_analysis,
            next_id=self._next_id,
        )
        self._record.emit(self._opened.start_events())

    def _end_message(self, closer: str | None, *, complete: bool = False) -> None:
        assert self._opened is not None
        opened, self._opened = self._opened, None
        complete = complete or closer is not None
        message, events, repairs = opened.end(closer, complete=complete)
        self._record.emit(events)
        for kind, detail in repairs:
            self._record.add_repair(kind, detail)
        self._store(message, complete=complete)

    def _store(self, message: Message, *, complete: bool) -> None:
        if message.role != "assistant":
            self.answered = False
        elif message.channel not in ("analysis", "commentary") and not message.is_call:
            self.answered = True
        self.messages.append(message)
        self._record.emit([MessageEnded(message, complete)])
