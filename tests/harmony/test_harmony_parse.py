"""The parser: as openai-harmony where that parses; sensible where it does not."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai_harmony
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_gptoss.harmony
from mlx_gptoss.harmony import events as e
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.parse.arguments import parse_arguments
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.render.pieces import RecipientPosition
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support import golden_streams
from tests.support.fakes import byte_tokenizer
from tests.support.harmony_strategies import names, texts
from tests.support.parser_account import BUILT_IN, VOCABULARY, WORDS, account
from tests.support.vocabulary import SPECIALS, ids_of, oracle

ASSISTANT = openai_harmony.Role.ASSISTANT
EXAMPLES = 200
SOAK_EXAMPLES = 10_000
NO_TOKEN = 5000  # an id that no test vocabulary has
GOLDEN = sorted(golden_streams.FOLDER.glob("*.txt"))


def parse(ids: list[int], **options: Any) -> tuple[Parser, list[e.ParserEvent]]:
    parser = Parser(VOCABULARY, **options)
    events = [event for token in ids for event in parser.feed(token)]
    return parser, events + parser.finish()


def soak(request: pytest.FixtureRequest) -> None:
    if "soak" not in request.config.option.markexpr:
        pytest.skip("run by hand: pytest -m soak")


# Recorded malformed streams


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_recorded_stream_is_read_as_recorded(path: Path) -> None:
    recorded = golden_streams.read(path)

    assert golden_streams.outcome(recorded.ids) == recorded.expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_recorded_stream_is_read_alike_in_another_vocabulary(path: Path) -> None:
    recorded = golden_streams.read(path)
    letters = byte_tokenizer()  # each byte a token, specials under other ids
    names = {token: name for name, token in SPECIALS.items()}
    ids: list[int] = []
    for token in recorded.ids:
        if token in names:
            ids.append(letters.special(names[token]))
        else:
            ids += list(VOCABULARY.token_bytes(token)) or [NO_TOKEN]

    assert [letters.token_bytes(one) for one in (65, NO_TOKEN)] == [b"A", b""]
    assert golden_streams.outcome(ids, letters) == recorded.expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_history_from_a_malformed_stream_reads_without_repairs(path: Path) -> None:
    offered = golden_streams.OFFERED
    parser, _ = parse(golden_streams.read(path).ids, tools=offered)
    ids = render_messages(parser.messages, VOCABULARY, complete=False)
    again, _ = parse(ids, role=None, tools=offered)

    harmless = {"missing-channel", "unknown-channel", "call-on-analysis", "arguments"}
    assert {repair.kind for repair in again.repairs} <= harmless


def test_every_kind_of_malformed_stream_is_recorded() -> None:
    letters = {path.stem[0] for path in GOLDEN}

    assert letters >= set("abcdefghijklmnopq")


README = Path(mlx_gptoss.harmony.__file__).with_name("README.md").read_text()
REPAIRS = README.partition("\n### Repairs\n")[2].partition("\n#")[0]
KINDS = set(re.findall(r"^\| `([a-z-]+)` \|", REPAIRS, re.MULTILINE))


def test_every_kind_of_repair_is_explained_and_recorded() -> None:
    recorded = "\n".join(path.read_text() for path in GOLDEN)

    assert set(re.findall(r"^repair: ([a-z-]+):", recorded, re.MULTILINE)) == KINDS


# Equality with the library


def library(ids: list[int]) -> list[tuple[Any, ...]]:
    found = oracle().parse_messages_from_completion_tokens(ids, ASSISTANT)
    return [
        (
            one.author.role.value,
            "".join(content.to_dict()["text"] for content in one.content),
            one.channel,
            one.recipient,
            one.content_type,
            one.author.name,
        )
        for one in found
    ]


def ours(ids: list[int], **options: Any) -> list[tuple[Any, ...]]:
    return [
        (
            one.role,
            one.text,
            one.channel,
            one.recipient,
            one.content_type,
            one.name,
        )
        for one in parse(ids, **options)[0].messages
    ]


json_objects = st.dictionaries(texts, texts | st.integers(), max_size=3).map(json.dumps)
content_types = st.sampled_from([None, m.CONSTRAINED_JSON])
turns = st.lists(
    st.one_of(
        st.builds(
            m.Message,
            st.just("assistant"),
            texts,
            channel=st.sampled_from(m.CHANNELS) | st.none(),
        ),
        st.builds(
            m.Message,
            st.just("assistant"),
            json_objects,
            channel=st.sampled_from(m.CHANNELS),
            recipient=names.map("functions.".__add__),
            content_type=content_types,
        ),
        st.builds(
            m.Message,
            st.just("tool"),
            texts,
            channel=st.just("commentary"),
            recipient=st.just("assistant"),
            name=names.map("functions.".__add__),
        ),
        st.builds(m.user, texts),
    ),
    min_size=1,
    max_size=5,
).filter(lambda some: some[0].role == "assistant")


def same_as_library(turn: list[m.Message], place: RecipientPosition) -> None:
    ids = render_messages(
        turn, VOCABULARY, complete=False, keep_analysis=True, recipient_in=place
    )[2:]

    assert ours(ids) == library(ids)


@settings(max_examples=EXAMPLES, deadline=None)
@given(turns, st.sampled_from(["role", "channel"]))
def test_well_formed_turns_parse_as_in_the_library(
    turn: list[m.Message], place: RecipientPosition
) -> None:
    same_as_library(turn, place)


@pytest.mark.soak
def test_thousands_of_turns_parse_as_in_the_library(
    request: pytest.FixtureRequest,
) -> None:
    soak(request)
    places = st.sampled_from(["role", "channel"])
    settings(max_examples=SOAK_EXAMPLES, deadline=None)(
        given(turns, places)(same_as_library)
    )()


# Calls


CALL = "<|channel|>{} to=functions.f<|message|>{}<|call|>"


def calls(stream: str, **options: Any) -> list[str]:
    _, events = parse(ids_of(stream), **options)
    return [event.name for event in events if isinstance(event, e.ToolCall)]


@pytest.mark.parametrize(
    ("channel", "options", "expected"),
    [
        ("commentary", {"tools": ["f"]}, ["f"]),
        ("analysis", {"tools": ["f"]}, ["f"]),
        ("final", {"tools": ["f"]}, ["f"]),
        ("analysis", {}, ["f"]),
        ("analysis", {"tools": ["f"], "calls_on_analysis": False}, []),
        ("commentary", {"tools": ["f"], "calls_on_analysis": False}, ["f"]),
        ("commentary", {"tools": ["g"]}, []),
        ("analysis", {"tools": []}, []),
    ],
)
def test_a_call_is_accepted_by_channel_and_offer(
    channel: str, options: dict[str, Any], expected: list[str]
) -> None:
    assert calls(CALL.format(channel, "{}"), **options) == expected


CODE = "if x:\n    print({'a': [1]})"


@pytest.mark.parametrize(
    "header",
    [
        " to=python<|channel|>analysis code",
        "<|channel|>analysis to=python code",
        "<|channel|>analysis to=python",
        "<|channel|>analysis to=python <|constrain|>python",
        "<|channel|>commentary to=python code",
        "<|channel|>analysis to=functions.python code",
    ],
)
def test_code_for_the_python_tool_comes_as_it_is_written(header: str) -> None:
    ids = ids_of(f"{header}<|message|>{CODE}<|call|>")
    parser, events = parse(ids, tools=["f"], built_in=BUILT_IN)
    streamed = [one.text for one in events if isinstance(one, e.ToolCallDelta)]

    assert events[0] == e.ToolCallStarted("call_1", "python")
    assert "".join(streamed) == CODE and len(streamed) > 1
    assert e.ToolCall("call_1", "python", CODE) in events
    assert parser.messages[0].recipient == "python"


def test_the_browser_is_called_on_analysis_with_json() -> None:
    stream = '<|channel|>analysis to=browser.search<|message|>{"query": "x"}<|call|>'
    parser, events = parse(ids_of(stream), tools=[], built_in=BUILT_IN)

    assert events[-2] == e.ToolCall("call_1", "browser.search", '{"query": "x"}')
    assert parser.repairs == []


@pytest.mark.parametrize(
    ("closer", "kind"), [("<|end|>", e.Reasoning), ("<|call|>", e.ToolCallFailed)]
)
def test_a_built_in_tool_that_was_not_offered_is_not_called(
    closer: str, kind: type
) -> None:
    ids = ids_of(f"<|channel|>analysis to=python code<|message|>1 + 1{closer}")
    _, events = parse(ids, tools=["f"])

    assert [type(event) for event in events if isinstance(event, kind | e.ToolCall)]
    assert not [event for event in events if isinstance(event, e.ToolCall)]


CITY = m.ToolDescription(
    "f",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
)


@pytest.mark.parametrize(
    ("channel", "arguments", "expected"),
    [
        ("analysis", '{"city": "Oslo"}', ["f"]),
        ("analysis", '{"city": 3}', []),
        ("analysis", "{}", []),
        ("commentary", "{}", ["f"]),  # the tool itself says what is missing
    ],
)
def test_on_analysis_the_arguments_must_be_what_the_schema_says(
    channel: str, arguments: str, expected: list[str]
) -> None:
    assert calls(CALL.format(channel, arguments), tools=[CITY]) == expected


def test_what_the_schema_says_is_told_to_a_model_that_waits() -> None:
    _, events = parse(ids_of(CALL.format("analysis", "{}")), tools=[CITY])

    assert events[-2] == e.ToolCallFailed("call_1", "f", "{}", "`city` is missing")


def test_a_call_streams_its_arguments_and_numbers_itself() -> None:
    stream = (
        '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>'
        "<|start|>assistant<|channel|>commentary to=functions.g<|message|>{}<|call|>"
    )
    _, events = parse(ids_of(stream))
    told = [event for event in events if not isinstance(event, e.MessageEnded)]

    assert told == [
        e.ToolCallStarted("call_1", "f"),
        e.ToolCallDelta("call_1", '{"'),
        e.ToolCallDelta("call_1", "a"),
        e.ToolCallDelta("call_1", '":'),
        e.ToolCallDelta("call_1", " "),
        e.ToolCallDelta("call_1", "1"),
        e.ToolCallDelta("call_1", "}"),
        e.ToolCall("call_1", "f", '{"a": 1}'),
        e.ToolCallStarted("call_2", "g"),
        e.ToolCallDelta("call_2", "{}"),
        e.ToolCall("call_2", "g", "{}"),
    ]


NOT_OBJECTS = [
    "null",
    "[1]",
    "{} {}",
    '{"a": NaN}',
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '{"a": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", NOT_OBJECTS, ids=lambda text: text[:12])
def test_arguments_that_are_no_json_object_are_a_problem(text: str) -> None:
    assert parse_arguments(text).problem


def test_a_call_with_unreadable_arguments_fails_with_the_reason() -> None:
    _, events = parse(ids_of(CALL.format("commentary", "[1]")))

    assert events[-2] == e.ToolCallFailed(
        "call_1", "f", "[1]", "the arguments are not a JSON object: this is a number"
    )


# Streaming and the record


def test_text_comes_in_whole_characters() -> None:
    ids = ids_of("<|channel|>final<|message|>a🫠é日本<|return|>")
    _, events = parse(ids)
    pieces = [event.text for event in events if isinstance(event, e.Answer)]

    assert "".join(pieces) == "a🫠é日本"
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        ("<|channel|> finally it is.", " finally it is."),
        ("<|constrain|> experiência", " experiência"),
    ],
)
def test_a_word_that_begins_like_a_header_stays_whole(stream: str, text: str) -> None:
    assert ours(ids_of(stream + "<|return|>"))[0][1] == text


def test_a_whole_conversation_parses_with_role_none() -> None:
    given = [m.user("q"), m.reasoning("c"), m.answer("f")]
    ids = render_messages(given, VOCABULARY, complete=False, keep_analysis=True)

    assert parse(ids, role=None)[0].messages == given


streams = st.lists(st.sampled_from(WORDS), max_size=40)
wild_streams = st.lists(st.integers(-5, 300_000), max_size=40)


def kinds_are_explained(stream: list[int]) -> None:
    assert {repair.kind for repair in account(stream).repairs} <= KINDS


@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(streams)
def test_any_stream_of_header_tokens_is_accounted_for(stream: list[int]) -> None:
    kinds_are_explained(stream)


@settings(max_examples=EXAMPLES, deadline=None)
@given(wild_streams)
def test_any_stream_of_ids_is_accounted_for(stream: list[int]) -> None:
    account(stream)


@pytest.mark.soak
def test_many_streams_are_accounted_for(request: pytest.FixtureRequest) -> None:
    soak(request)
    settings(max_examples=SOAK_EXAMPLES, deadline=None)(
        given(streams)(kinds_are_explained)
    )()


# Work is counted, not timed: calls, and the lengths of the texts they run over.
LENGTH = 300
CONSTANT = {"startswith", "append", "isinstance"}  # whatever the length
LINEAR = 2.2  # of twice as many ids; a quadratic reading has 4


def work(read: Callable[[list[int]], object], ids: list[int]) -> int:
    total = 0

    def count(frame: object, event: str, called: Any) -> None:
        nonlocal total
        if event == "call":
            total += 1
        elif event == "c_call":
            text = getattr(called, "__self__", None)
            if called.__name__ in CONSTANT or not isinstance(text, str | bytes):
                text = ""
            total += 1 + len(text)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        read(ids)
    finally:
        sys.setprofile(before)
    return total


def growth(read: Callable[[list[int]], object], unit: list[int]) -> float:
    return work(read, unit * 2 * LENGTH) / work(read, unit * LENGTH)


REPEATED = [
    "<|channel|>",
    "<|channel|>final",
    "<|channel|>analysis We must",
    "<|constrain|>json",
    "<|start|>",
    "<|end|>",
    "<|message|>a",
    "We<|end|>",
    " We",
    " to=",
    " to=f",
    "<|channel|>analysis to=functions.f<|message|>{}<|end|>",
    "assistant<|channel|>analysis to=functions.f<|message|>[[",
    "<|start|>user<|message|>Hi<|end|>",
    "{",
    "\xe9",
]


@pytest.mark.parametrize("unit", REPEATED)
def test_the_work_is_linear_whatever_repeats(unit: str) -> None:
    assert growth(parse, ids_of(unit)) < LINEAR


def test_work_that_grows_with_what_was_read_is_seen() -> None:
    def reread(ids: list[int]) -> None:
        text = b""
        for _ in ids:
            text += b"a"
            text.decode()

    assert growth(reread, [0]) > LINEAR
