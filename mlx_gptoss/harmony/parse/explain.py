"""Explain a stream of ids span by span, for debugging and for `mlx-gptoss parse`."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Protocol

from mlx_gptoss.harmony.events import (
    Answer,
    MessageEnded,
    OtherText,
    ParserEvent,
    Preamble,
    Reasoning,
    Repair,
    Repaired,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.messages import Message, ToolDescription
from mlx_gptoss.harmony.parse.output import TokenKind
from mlx_gptoss.harmony.parse.parser import Parser, TokenSource
from mlx_gptoss.harmony.special_tokens import START

TITLES: Mapping[type, str] = {
    Reasoning: "reasoning",
    Preamble: "preamble",
    Answer: "answer",
    OtherText: "by another role",
    ToolCallDelta: "arguments",
}


class StreamTokenizer(TokenSource, Protocol):
    """A token source that can encode text, too."""

    def encode(self, text: str, /) -> list[int]: ...


@dataclass(frozen=True)
class TokenSpan:
    """Consecutive ids of one kind, and the events that they completed.

    `at` is the index of the first id.
    """

    at: int
    ids: list[int]
    kind: TokenKind
    text: str
    events: list[ParserEvent]


@dataclass(frozen=True)
class Explanation:
    """A whole stream: its spans, the messages and repairs, and the ids of each kind."""

    spans: list[TokenSpan]
    messages: list[Message]
    repairs: list[Repair]
    kind_counts: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the explanation as plain values, for JSON."""
        return {
            "runs": [_span_fields(span) for span in self.spans],
            "messages": [_fields(message) for message in self.messages],
            "repairs": [asdict(repair) for repair in self.repairs],
            "ids": {"all": self.kind_counts.total(), **self.kind_counts},
        }

    def lines(self) -> Iterator[str]:
        """Yield the explanation as lines of text: each span, with its events below."""
        width = len(str(self.kind_counts.total()))
        for span in self.spans:
            if span.ids:
                text = json_text(span.text)
                yield f"{span.at:>{width}}  {span.kind:8}  {len(span.ids):>4}  {text}"
            for event in span.events:
                yield f"{'':{width}}  -> {describe(event)}"
        parts = " + ".join(
            f"{n} {kind}" for kind, n in sorted(self.kind_counts.items())
        )
        yield f"{self.kind_counts.total()} ids = {parts or 'none'}"
        yield f"{len(self.messages)} messages, {len(self.repairs)} repairs"


def explain(
    ids: Sequence[int],
    tokenizer: StreamTokenizer,
    *,
    tools: Iterable[str | ToolDescription] | None = None,
    built_in: Iterable[str] = (),
    calls_on_analysis: bool = True,
) -> Explanation:
    """Explain `ids`, which follow `<|start|>assistant` or begin with `<|start|>`."""
    whole = bool(ids) and ids[0] == tokenizer.specials.get(START)
    parser = Parser(
        tokenizer,
        role=None if whole else "assistant",
        tools=tools,
        built_in=built_in,
        calls_on_analysis=calls_on_analysis,
    )
    events = [parser.feed(token) for token in ids]
    events.append(parser.finish())
    spans = list(_spans(ids, parser.token_kinds, events, tokenizer))
    return Explanation(
        spans, parser.messages, parser.repairs, Counter(parser.token_kinds)
    )


def _spans(
    ids: Sequence[int],
    kinds: Sequence[TokenKind],
    events: Sequence[list[ParserEvent]],
    tokenizer: StreamTokenizer,
) -> Iterator[TokenSpan]:
    names = {token: name for name, token in tokenizer.specials.items()}
    for _, group in groupby(range(len(ids)), key=lambda index: kinds[index]):
        group = list(group)
        kind = kinds[group[0]]
        for indices in _cut(group, events, single=kind == "control"):
            own = [ids[index] for index in indices]
            found = [event for index in indices for event in events[index]]
            text = _text(own, names, tokenizer)
            yield TokenSpan(indices[0], own, kind, text, merge_pieces(found))
    if events[-1]:  # decided only by the end of the stream
        yield TokenSpan(len(ids), [], "text", "", merge_pieces(events[-1]))


def _cut(
    indices: list[int], events: Sequence[list[ParserEvent]], *, single: bool
) -> Iterator[list[int]]:
    """Cut behind every event that is more than a piece of text; `single`: every id."""
    span: list[int] = []
    for index in indices:
        span.append(index)
        if single or any(type(event) not in TITLES for event in events[index]):
            yield span
            span = []
    if span:
        yield span


def merge_pieces(events: Iterable[ParserEvent]) -> list[ParserEvent]:
    """Join consecutive pieces of one text."""
    out: list[ParserEvent] = []
    for event in events:
        last = out[-1] if out else None
        if type(event) in TITLES and type(last) is type(event):
            text = last.text + event.text  # pyright: ignore
            out[-1] = type(event)(**{**vars(event), "text": text})
        else:
            out.append(event)
    return out


def describe(event: ParserEvent) -> str:
    """Describe an event in one line."""
    if (title := TITLES.get(type(event))) is not None:
        said = event.role if isinstance(event, OtherText) else title
        return f"{said}: {json_text(vars(event)['text'])}"
    if isinstance(event, ToolCallStarted):
        return f"call of {event.name} begins ({event.id})"
    if isinstance(event, ToolCall):
        return f"call of {event.name}: {event.arguments}"
    if isinstance(event, ToolCallFailed):
        return f"failed call of {event.name}: {event.problem}"
    if isinstance(event, Repaired):
        return f"repair: {event.repair.kind}: {event.repair.detail}"
    assert isinstance(event, MessageEnded)
    return _ended(event.message, complete=event.complete)


def _ended(message: Message, *, complete: bool) -> str:
    said = [message.role if not message.name else f"{message.role} {message.name}"]
    said += [f"on {message.channel}"] if message.channel else []
    said += [f"to {message.recipient}"] if message.recipient else []
    return f"message {'ended' if complete else 'cut off'}: {' '.join(said)}"


def _text(
    ids: Iterable[int], names: Mapping[int, str], tokenizer: StreamTokenizer
) -> str:
    data = b"".join(
        names[token].encode() if token in names else tokenizer.token_bytes(token)
        for token in ids
    )
    return data.decode("utf-8", "replace")


def _fields(message: Message) -> dict[str, Any]:
    """Return the fields of a message that the stream holds."""
    return {key: value for key, value in asdict(message).items() if key != "ended"}


def _span_fields(span: TokenSpan) -> dict[str, Any]:
    return {
        "at": span.at,
        "ids": span.ids,
        "fate": span.kind,
        "text": span.text,
        "events": _plain(span.events),
    }


def _plain(events: Iterable[ParserEvent]) -> list[dict[str, Any]]:
    return [{"event": type(event).__name__, **asdict(event)} for event in events]


def read_stream(text: str, tokenizer: StreamTokenizer) -> list[int]:
    """Read ids (numbers, commas, brackets), or text with special tokens by name.

    A JSON object with `ids` is accepted, too. A final line break is ignored.
    """
    if (ids := _given_ids(text)) is not None:
        return ids
    text = text.removesuffix("\n")
    names = map(re.escape, sorted(tokenizer.specials, key=len, reverse=True))
    ids = []
    for part in (
        re.split(f"({'|'.join(names)})", text) if tokenizer.specials else [text]
    ):
        special = tokenizer.specials.get(part)
        ids += tokenizer.encode(part) if special is None else [special]
    return ids


def _given_ids(text: str) -> list[int] | None:
    if text.lstrip().startswith("{"):
        try:
            text = json.dumps(json.loads(text)["ids"])
        except (ValueError, LookupError, TypeError):
            return None
    words = re.sub(r"[\[\],]", " ", text).split()
    numbers = bool(words) and all(re.fullmatch(r"-?\d{1,18}", word) for word in words)
    return [int(word) for word in words] if numbers else None
