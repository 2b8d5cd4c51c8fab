"""Invariants of the parser for arbitrary ids; shared by the fuzzers.

`WORDS` are the tokens headers are made of, special ones and such without text too.
"""

from collections.abc import Sequence

from mlx_gptoss.harmony import events as e
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.vocabulary import SPECIALS, O200k

VOCABULARY = O200k()
HEADER_WORDS = (
    "assistant user analysis final commentary to= functions .f json We must ? think "
    'python browser .search { } [ ] " a 1 : <|call|> é'
)
HALVES = [250, 4103]  # tokens that are part of a character
# ` experiência`, ` finally`, ` codec`, ` jsonify`, ` assistants`: begin like headers
LONG = [41978, 8486, 74333, 80193, 86947]
WORDS = [*SPECIALS.values(), 200001, 201087, 300000, *HALVES, *LONG] + [
    token
    for word in HEADER_WORDS.split()
    for token in (*VOCABULARY.encode(word), *VOCABULARY.encode(" " + word))
]
BUILT_IN = ["python", "browser.search"]
TEXT_EVENTS = e.Reasoning | e.Preamble | e.Answer | e.OtherText | e.ToolCallDelta


def account(stream: Sequence[int]) -> Parser:
    """Parse `stream`; check that each id has one kind and no text is lost or added.

    Raises AssertionError if an invariant is violated.
    """
    parser = Parser(VOCABULARY, tools=["f"], built_in=BUILT_IN)
    events = [event for token in stream for event in parser.feed(token)]
    events += parser.finish()
    kinds = list(zip(stream, parser.token_kinds, strict=True))
    kept = [token for token, kind in kinds if kind == "text"]
    marks = set(SPECIALS.values())

    assert set(parser.token_kinds) <= {"text", "header", "control", "repaired"}
    assert not marks & set(kept)
    assert all(token in marks for token, kind in kinds if kind == "control")
    assert without_spaces(event_text(events)) == without_spaces(text_of(kinds))
    assert len(parser.repairs) >= ("repaired" in parser.token_kinds)
    render_messages(parser.messages, VOCABULARY)
    return parser


def text_of(kinds: Sequence[tuple[int, str]]) -> str:
    """Return the text of the ids of kind `text`; characters end with a message."""
    stretches: list[bytes] = [b""]
    for token, kind in kinds:
        if kind == "control":
            stretches.append(b"")
        elif kind == "text":
            stretches[-1] += VOCABULARY.token_bytes(token)
    return "".join(stretch.decode("utf-8", "replace") for stretch in stretches)


def event_text(events: Sequence[e.ParserEvent]) -> str:
    """Return the text of all events, and that of a held call once."""
    streamed = {event.id for event in events if isinstance(event, e.ToolCallDelta)}
    texts = []
    for event in events:
        if isinstance(event, e.ToolCallFailed):
            texts += [event.text] if event.id not in streamed else []
        elif isinstance(event, TEXT_EVENTS):
            texts.append(event.text)
    return "".join(texts)


def without_spaces(text: str) -> str:
    """Drop spaces: those between a header and its text belong to neither."""
    return "".join(text.split())
