"""Parse sampled token ids into events, one id at a time. Never raises.

A well-formed stream gives what openai-harmony gives. A malformed one gives the most
sensible messages and a list of the repairs made:

    parser = Parser(tokenizer, tools=["get_weather"])
    for token in tokens:
        for event in parser.feed(token): ...
    for event in parser.finish(): ...
    parser.messages         # for history: pass them to `render_messages`

Every id is classified as text, header, control or repaired (`parser.token_kinds`): no
special token reaches text, and no text is dropped without a repair. Constant time per
id. Headers are parsed in `header.py`, and in `recover.py` if they never ended; tool
calls in `tool_call.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Protocol

from mlx_gptoss.harmony.events import MessageEnded, ParserEvent, Repair
from mlx_gptoss.harmony.messages import ROLES, Message, ToolDescription
from mlx_gptoss.harmony.parse.header import Header, HeaderPart, read_header
from mlx_gptoss.harmony.parse.open_message import (
    OpenMessage,
    open_message,
    text_event,
)
from mlx_gptoss.harmony.parse.output import ParserOutput, TokenKind
from mlx_gptoss.harmony.parse.recover import RecoveredMessage, recover
from mlx_gptoss.harmony.parse.tool_names import OfferedRecipients
from mlx_gptoss.harmony.special_tokens import (
    CHANNEL,
    CLOSERS,
    CONSTRAIN,
    END_OF_TEXT,
    MESSAGE,
    RETURN,
    START,
)

LONGEST_STRAY_HEADER = 8  # words; more before a special token are a message


class TokenSource(Protocol):
    """The part of a tokenizer that parsing uses: special tokens, and bytes of an id."""

    @property
    def specials(self) -> Mapping[str, int]: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...


class Parser:
    """Parses the ids that a model samples after `<|start|>assistant`.

    With `role=None` it parses a whole conversation, which begins with `<|start|>`.
    `tools` are the function tools, by name or with their schema, and `built_in` the
    recipients of built-in ones (`python`, `browser.search`); with `tools=None` every
    name is taken for a tool. `calls_on_analysis=False` accepts no function calls on
    that channel.
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
        self._output = ParserOutput()
        self.answered = False  # whether this turn has a complete message on `final`
        self._bytes = tokenizer.token_bytes
        self._names = {token: name for name, token in tokenizer.specials.items()}
        self._offered = OfferedRecipients.from_tools(tools, built_in)
        self._calls_on_analysis = calls_on_analysis
        self._next_id = next_id or (lambda: f"call_{next(numbers)}")
        self._parts: list[HeaderPart] | None = None  # of the open header
        self._role: str | None = None  # of that header, if the prompt gave it
        self._opened: OpenMessage | None = None
        self._undecided: list[tuple[str, bool]] = []  # headless texts; whether complete
        if role is not None:
            self._begin_header(role)

    @property
    def token_kinds(self) -> list[TokenKind]:
        """The kind of each id so far: text, header, control or repaired."""
        return self._output.token_kinds

    @property
    def repairs(self) -> list[Repair]:
        return self._output.repairs

    @property
    def open_channel(self) -> str | None:
        """The channel of the open text; None in a header or a call."""
        if self._opened is None or self._opened.call is not None:
            return None
        channel = self._opened.message.channel
        return channel if channel in ("analysis", "commentary") else "final"

    def feed(self, token_id: int) -> list[ParserEvent]:
        """Take one id; return the events it completes, often one piece of text."""
        name = self._names.get(token_id)
        self._output.add_token()
        if name is None:
            self._text(self._bytes(token_id))
        elif name == START:
            self._start()
        elif name == MESSAGE:
            self._message()
        elif name == CHANNEL:
            self._channel()
        elif name == CONSTRAIN:
            self._constrain()
        elif name in CLOSERS:
            self._close(name)
        else:
            self._output.drop_token("unknown-token", f"`{name}` was dropped")
        return self._output.take_events()

    def finish(self) -> list[ParserEvent]:
        """End the stream: close the open message and decide what headless text was."""
        if self._opened is not None:
            self._end_message(None)
        elif self._parts is not None:
            self._end_header(None)
        self._decide(follows=False)
        return self._output.take_events()

    # One method per kind of token

    def _text(self, data: bytes) -> None:
        if not data:
            self._output.drop_token("unknown-token", "an id without text was dropped")
        elif self._opened is not None:
            self._output.set_kind("text")
            self._output.emit(self._opened.feed(data))
        else:
            self._imply_start()
            assert self._parts is not None
            self._output.set_kind("header")
            self._parts[-1].tokens.append((self._output.index, data))

    def _start(self) -> None:
        if self._opened is not None:
            self._output.add_repair("missing-end", "a message was ended by `<|start|>`")
            self._end_message(None, complete=True)
        elif self._parts is not None and self._header_has_content():
            self._end_header(START)
        self._begin_header(None)

    def _message(self) -> None:
        if self._is_stray(MESSAGE):
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
            self._output.add_repair(
                "missing-end", "a message was ended by `<|channel|>`"
            )
            self._end_message(None, complete=True)
            self._begin_header("assistant")
        self._imply_start()
        self._rescue_prose()
        assert self._parts is not None
        self._parts.append(HeaderPart(CHANNEL))

    def _constrain(self) -> None:
        if self._is_stray(CONSTRAIN):
            return
        self._imply_start()
        assert self._parts is not None
        self._parts.append(HeaderPart(CONSTRAIN))

    def _close(self, name: str) -> None:
        if self._opened is not None:
            self._end_message(name)
        elif self._parts is not None:
            self._end_header(name)
        elif name != END_OF_TEXT:
            self._output.drop_token(
                "stray-end", f"`{name}` outside a message was dropped"
            )

    def _is_stray(self, name: str) -> bool:
        """Drop a special token of headers if a message is open."""
        if self._opened is not None:
            detail = f"`{name}` inside a message was dropped"
            self._output.drop_token("stray-mark", detail)
        return self._opened is not None

    # Headers

    def _begin_header(self, role: str | None) -> None:
        self._role = role
        self._parts = [HeaderPart(None)]

    def _imply_start(self) -> None:
        if self._parts is None:
            self._output.add_repair("missing-start", "`<|start|>assistant` was put in")
            self._begin_header("assistant")

    def _header_has_content(self) -> bool:
        parts = self._parts or []
        return len(parts) > 1 or any(part.tokens for part in parts)

    def _rescue_prose(self) -> None:
        """Make a long text before a special token a message of its own."""
        assert self._parts is not None
        if self._parts[-1].marker == CONSTRAIN:
            return
        if len(self._parts[-1].text.split()) > LONGEST_STRAY_HEADER:
            self._end_header(CHANNEL)
            self._begin_header("assistant")

    def _end_header(self, closer: str | None) -> None:
        """End a header that has no `<|message|>`: keep what can be understood."""
        assert self._parts is not None
        parts, self._parts = self._parts, None
        found = recover(parts, self._role, self._offered)
        if closer is None and found is not None and found.is_truncated(self._role):
            found = None
        is_prompt_end = (
            len(parts) == 1 and self._role is None and parts[0].text in ROLES
        )
        if closer is None and is_prompt_end:
            return  # as prompts end: the next message has only begun
        if found is None:
            if any(part.tokens for part in parts) or len(parts) > 1:
                text = "".join(f"{part.marker or ''}{part.text}" for part in parts)
                self._output.drop_parts(parts, "bad-header", f"`{text}` was dropped")
        elif found.headless:
            self._keep_headless(found, parts[-1], closer)
        else:
            self._output.add_repair(
                "missing-message", "`<|message|>` was put into a header"
            )
            self._output.mark_text(parts[-1], found.body)
            self._open(found.header)
            assert self._opened is not None
            if found.body:
                self._output.emit(self._opened.feed(found.body.encode()))
            self._end_message(closer)

    def _keep_headless(
        self, found: RecoveredMessage, part: HeaderPart, closer: str | None
    ) -> None:
        """Keep text without a header: analysis if a message follows, else an answer."""
        header = found.header
        if header.role != "assistant":
            self._open(header)
            assert self._opened is not None
            self._output.emit(self._opened.feed(found.body.encode()))
            self._output.mark_text(part, found.body)
            self._end_message(closer)
            return
        if self.answered:
            self._output.drop_parts(
                [part], "stray-text", f"`{found.body}` after the answer"
            )
            return
        self._output.add_repair("no-header", "text without a header was kept")
        self._output.mark_text(part, found.body)
        self._undecided.append((found.body, closer is not None))
        if closer == RETURN:
            self._decide(follows=False)

    def _decide(self, *, follows: bool) -> None:
        """Emit the texts without a header, now that their channel is known."""
        undecided, self._undecided = self._undecided, []
        for index, (text, complete) in enumerate(undecided):
            last = index == len(undecided) - 1
            channel = "final" if last and not follows else "analysis"
            message = Message("assistant", text, channel)
            self._output.emit([text_event(message)])
            self._store(message, complete=complete)

    # Messages

    def _open(self, header: Header) -> None:
        self._decide(follows=header.role == "assistant")
        for kind, detail in header.repairs:
            self._output.add_repair(kind, detail)
        self._opened = open_message(
            header,
            self._offered,
            calls_on_analysis=self._calls_on_analysis,
            next_id=self._next_id,
        )
        self._output.emit(self._opened.start_events())

    def _end_message(self, closer: str | None, *, complete: bool = False) -> None:
        assert self._opened is not None
        opened, self._opened = self._opened, None
        complete = complete or closer is not None
        ended = opened.end(closer, complete=complete)
        self._output.emit(ended.events)
        for kind, detail in ended.repairs:
            self._output.add_repair(kind, detail)
        self._store(ended.message, complete=complete)

    def _store(self, message: Message, *, complete: bool) -> None:
        if message.role != "assistant":
            self.answered = False
        elif message.channel not in ("analysis", "commentary") and not message.is_call:
            self.answered = True
        self.messages.append(message)
        self._output.emit([MessageEnded(message, complete)])
