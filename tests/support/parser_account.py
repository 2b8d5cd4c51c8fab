"""What must hold of the parser for any ids at all; shared by the fuzzers.

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
TOLD = e.Reasoning | e.Preamble | e.Answer | e.OtherText | e.ToolCallDelta


def account(stream: Sequence[int]) -> Parser:
    """Parse `stream`; each id has one fate, and the text told is that of the texts.

    Raises AssertionError where that does not hold.
    """
    parser = Parser(VOCABULARY, tools=["f"], built_in=BUILT_IN)
    events = [event for token in stream for event in parser.feed(token)]
    events += parser.finish()
    fates = list(zip(stream, parser.token_kinds, strict=True))
    kept = [token for token, fate in fates if fate == "text"]
    marks = set(SPECIALS.values())

    assert set(parser.token_kinds) <= {"text", "header", "control", "repaired"}
    assert not marks & set(kept)
    assert all(token in marks for token, fate in fates if fate == "control")
    assert without_spaces(told_text(events)) == without_spaces(text_of(fates))
    assert len(parser.repairs) >= ("repaired" in parser.token_kinds)
    render_messages(parser.messages, VOCABULARY)
    return parser


def text_of(fates: Sequence[tuple[int, str]]) -> str:
    """The text of the ids that are text; characters end where a message does."""
    stretches: list[bytes] = [b""]
    for token, fate in fates:
        if fate == "control":
            stretches.append(b"")
        elif fate == "text":
            stretches[-1] += VOCABULARY.token_bytes(token)
    return "".join(stretch.decode("utf-8", "replace") for stretch in stretches)


def told_text(events: Sequence[e.ParserEvent]) -> str:
    """All text the events gave; a call that was held back gives it once."""
    streamed = {event.id for event in events if isinstance(event, e.ToolCallDelta)}
    told = []
    for event in events:
        if isinstance(event, e.ToolCallFailed):
            told += [event.text] if event.id not in streamed else []
        elif isinstance(event, TOLD):
            told.append(event.text)
    return "".join(told)


def without_spaces(text: str) -> str:
    """Spaces between a header and the text after it belong to neither."""
    return "".join(text.split())
