"""The automaton accepts every legal header and no other, by lists of headers."""

from itertools import product

import numpy as np
import pytest

from mlx_gptoss.engine.mask_table import pattern_choices, token_classes
from mlx_gptoss.engine.token_table import TextTokens, build_table
from mlx_gptoss.harmony.constrain.automaton import (
    CODE_CONTENT_TYPES,
    AllowedCall,
    AllowedTurn,
    Automaton,
    State,
    Vocabulary,
    build_automaton,
)
from mlx_gptoss.harmony.messages import answer, preamble, reasoning, tool_call
from mlx_gptoss.harmony.render.prompt import render_message
from tests.support.fakes import byte_tokenizer
from tests.support.vocabulary import FIRST_SPECIAL, SPECIALS, O200k, ids_of

BYTES = byte_tokenizer()
O200K = O200k()
TOOLS = (AllowedCall("functions.get"), AllowedCall("functions.get_weather"))
PYTHON = AllowedCall(
    "python", ("analysis", "commentary"), CODE_CONTENT_TYPES, has_grammar=False
)


def walk(
    automaton: Automaton, ids: list[int], state: int | None = None
) -> State | None:
    """Return the state behind `ids`, or None if one of them is not legal."""
    found: int | None = automaton.start if state is None else state
    for token in ids:
        assert found is not None
        found = automaton.step(found, token, text=token < FIRST_SPECIAL)
        if found is None:
            return None
    assert found is not None
    return automaton.states[found]


LEGAL = {
    "<|channel|>analysis<|message|>": State("text", "analysis"),
    "<|channel|>commentary<|message|>": State("text", "commentary"),
    "<|channel|>final<|message|>": State("text", "final"),
} | {
    header: State("grammar", "commentary", recipient)
    for recipient in ("functions.get", "functions.get_weather")
    for kind in ("", " json", " <|constrain|>json", "<|constrain|>json")
    for header in (
        f"<|channel|>commentary to={recipient}{kind}<|message|>",
        f" to={recipient}<|channel|>commentary{kind}<|message|>",
    )
}


@pytest.mark.parametrize("header", LEGAL)
def test_a_legal_header_leads_to_its_content(header: str) -> None:
    automaton = build_automaton(O200K, AllowedTurn(calls=TOOLS))

    assert walk(automaton, ids_of(header)) == LEGAL[header]


@pytest.mark.parametrize(
    "header",
    [
        "<|message|>",
        "<|channel|><|message|>",
        "<|channel|>analysi<|message|>",
        "<|channel|>analysis final",
        "<|channel|>analysis<|channel|>",
        "<|channel|>final <|constrain|>json",
        "<|channel|>analysis to=functions.get",
        "<|channel|>commentary to=functions.get_wether",
        "<|channel|>commentary to=functions<|message|>",
        "<|channel|>commentary to=functions.get_weather_now",
        "<|channel|>commentary?",
        " to=functions.get<|message|>",
        " to=functions.get<|channel|>final",
        " to=assistant",
        "We must refuse",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|start|>",
        "<|endoftext|>",
    ],
)
def test_every_other_header_is_refused(header: str) -> None:
    automaton = build_automaton(O200K, AllowedTurn(calls=TOOLS))

    assert walk(automaton, ids_of(header)) is None


def test_our_own_rendering_is_legal_in_both_forms() -> None:
    """Headers of calls in history are legal for the model."""
    automaton = build_automaton(
        O200K, AllowedTurn(calls=(AllowedCall("functions.get_weather"),))
    )
    messages = [reasoning("r"), preamble("p"), answer("a")]
    messages.append(tool_call("get_weather", "{}"))

    for message, place in product(messages, ("role", "channel")):
        ids = render_message(message, O200K, recipient_in=place)  # type: ignore[arg-type]
        assert walk(automaton, ids[2:]) is not None, (message, place)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        ("<|channel|>final<|message|>x<|return|>", "stop"),
        ("<|channel|>final<|message|>x<|end|>", "stop"),
        ("<|channel|>commentary to=functions.get<|message|>{}<|call|>", "tool_calls"),
        (
            "<|channel|>analysis<|message|>x<|end|><|start|>assistant"
            "<|channel|>final<|message|>x<|return|>",
            "stop",
        ),
        (
            "<|channel|>commentary to=functions.get<|message|>{}<|end|>"
            "<|start|>assistant to=functions.get<|channel|>commentary<|message|>{}"
            "<|call|>",
            "tool_calls",
        ),
    ],
)
def test_a_turn_ends_for_a_reason(stream: str, reason: str) -> None:
    automaton = build_automaton(O200K, AllowedTurn(calls=TOOLS))

    assert walk(automaton, ids_of(stream)) == State("done", finish_reason=reason)


@pytest.mark.parametrize(
    ("content", "enders"),
    [
        ("<|channel|>analysis<|message|>", {"<|end|>"}),
        ("<|channel|>commentary<|message|>", {"<|end|>"}),
        ("<|channel|>final<|message|>", {"<|end|>", "<|return|>"}),
        ("<|channel|>commentary to=functions.get<|message|>", {"<|end|>", "<|call|>"}),
    ],
)
def test_content_is_ended_by_its_own_tokens_only(
    content: str, enders: set[str]
) -> None:
    automaton = build_automaton(O200K, AllowedTurn(calls=TOOLS))
    begun = ids_of(content + "x")

    legal = {
        name
        for name, token in SPECIALS.items()
        if walk(automaton, [*begun, token]) is not None
    }

    assert legal == enders


def test_behind_a_call_stand_only_calls_and_only_if_they_may() -> None:
    one = "<|channel|>commentary to=functions.get<|message|>{}<|end|>"
    parallel, single = (
        build_automaton(O200K, AllowedTurn(calls=TOOLS, parallel=more))
        for more in (True, False)
    )

    for message in (
        "<|channel|>final",
        "<|channel|>analysis",
        "<|channel|>commentary<|",
    ):
        ids = ids_of(one + "<|start|>assistant" + message.removesuffix("<|"))
        ended = [*ids, SPECIALS["<|message|>"]]
        assert walk(parallel, ended) is None
    assert walk(single, ids_of(one)) == State("done", finish_reason="tool_calls")


def test_built_in_tools_are_called_where_they_were_trained() -> None:
    automaton = build_automaton(O200K, AllowedTurn(calls=(PYTHON,)))

    for header in (
        "<|channel|>analysis to=python code<|message|>",
        "<|channel|>commentary to=python code<|message|>",
        " to=python<|channel|>analysis<|message|>",
    ):
        found = walk(automaton, ids_of(header))
        assert found is not None
        assert (found.kind, found.recipient) == ("text", "python")


@pytest.mark.parametrize("channel", ["analysis", "commentary"])
def test_cut_text_is_closed_and_reasoning_does_not_begin_again(channel: str) -> None:
    automaton = build_automaton(O200K, AllowedTurn(calls=TOOLS))
    state = automaton.start
    for token in ids_of(f"<|channel|>{channel}<|message|>x"):
        found = automaton.step(state, token, text=token < FIRST_SPECIAL)
        assert found is not None
        state = found

    closing = automaton.cut_states[state]

    assert list(automaton.edges[closing]) == [SPECIALS["<|end|>"]]
    rest = "<|end|><|start|>assistant<|channel|>"
    assert walk(automaton, ids_of(rest + "final<|message|>"), closing) is not None
    assert walk(automaton, ids_of(rest + "commentary to=functions.get"), closing)
    assert walk(automaton, ids_of(rest + "analysis"), closing) is None
    assert walk(automaton, ids_of(rest + "commentary<|message|>"), closing) is None


def test_behind_one_message_of_a_forced_turn_stands_a_call() -> None:
    automaton = build_automaton(
        O200K, AllowedTurn(channels=("analysis",), calls=TOOLS, forced=True)
    )
    thought = "<|channel|>analysis<|message|>x<|end|><|start|>assistant"

    for legal in ("<|channel|>commentary to=functions.get", " to=functions.get"):
        assert walk(automaton, ids_of(legal)) is not None
        assert walk(automaton, ids_of(thought + legal)) is not None
    for again in ("<|channel|>analysis", "<|channel|>final"):
        assert walk(automaton, ids_of(thought + again)) is None


def test_names_may_hold_whatever_the_vocabulary_makes_of_them() -> None:
    names = ["a", "a_b", "äöü.ß", "get-the_2nd", "x" * 40]
    calls = tuple(AllowedCall(f"functions.{name}") for name in names)
    for vocabulary in (O200K, BYTES):
        automaton = build_automaton(vocabulary, AllowedTurn(calls=calls))
        for call in calls:
            rendered = render_message(tool_call(call.recipient[10:], "{}"), vocabulary)
            end = rendered.index(vocabulary.special("<|message|>")) + 1
            header = rendered[1 + len(vocabulary.encode("assistant")) : end]
            state = automaton.start
            for token in header:
                found = automaton.step(state, token, text=False)
                assert found is not None
                state = found
            assert automaton.states[state].recipient == call.recipient


def test_a_hundred_tools_make_a_small_table() -> None:
    calls = tuple(AllowedCall(f"functions.tool_number_{n}_of_many") for n in range(128))
    text = np.zeros(201_088, bool)
    text[:FIRST_SPECIAL] = True

    automaton = build_automaton(O200K, AllowedTurn(calls=calls))
    table = build_table(automaton, TextTokens(text))

    assert table.targets.nbytes + table.pattern_of.nbytes < 300_000
    classes, tokens = token_classes([table])
    assert classes.shape == text.shape
    assert len(table.patterns) * len(tokens) * 4 < 1_000_000


@pytest.mark.parametrize("vocabulary", [O200K, BYTES], ids=["o200k", "bytes"])
def test_the_table_says_what_the_automaton_says(vocabulary: Vocabulary) -> None:
    automaton = build_automaton(vocabulary, AllowedTurn(calls=(*TOOLS, PYTHON)))
    size = 300 if vocabulary is BYTES else 201_088
    text = np.zeros(size, bool)
    text[: 256 if vocabulary is BYTES else FIRST_SPECIAL] = True
    named = {token for edges in automaton.edges for token in edges}
    some = [*named, 0, 17, size - 1, vocabulary.special("<|endoftext|>")]

    table = build_table(automaton, TextTokens(text))
    classes, tokens = token_classes([table])

    for state, token in product(range(len(automaton.states)), some):
        if automaton.states[state].kind == "done":
            continue
        expected = automaton.step(state, token, text=bool(text[token]))
        start = table.start(state)
        pattern = table.pattern(start)
        assert pattern.legal(text)[token] == (expected is not None)
        choice = pattern_choices(pattern, classes, text[tokens])[classes[token]]
        assert (choice > 0) == (expected is not None)
        if expected is not None:
            assert table.targets[start + choice] == table.start(expected)
