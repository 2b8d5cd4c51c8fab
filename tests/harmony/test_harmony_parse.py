"""The parser equals openai-harmony where that parses, and recovers elsewhere."""

import json
import re
from pathlib import Path
from typing import Any

import openai_harmony
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_gptoss.harmony
from mlx_gptoss.harmony import events as e
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.render.pieces import RecipientPosition
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support import golden_streams
from tests.support.fakes import byte_tokenizer
from tests.support.harmony_strategies import names, texts
from tests.support.parser_account import VOCABULARY, WORDS, account
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
