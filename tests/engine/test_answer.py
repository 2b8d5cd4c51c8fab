"""Stop strings: cut wherever the tokens fall, and in the answer only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.engine.answer import AnswerParser, StopStrings
from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.harmony.events import Answer, MessageEnded, Reasoning
from mlx_gptoss.harmony.messages import answer, reasoning
from mlx_gptoss.harmony.parse.parser import Parser
from tests.support.fakes import byte_tokenizer, token_ids

TOKENIZER = byte_tokenizer()


@given(
    st.lists(st.text("ab#", max_size=4), max_size=8),
    st.lists(st.text("ab#", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_what_is_shown_is_the_text_before_the_first_stop(
    pieces: list[str], stops: list[str]
) -> None:
    text = "".join(pieces)
    # A stop is found when its last character comes: the earliest end decides.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    strings = StopStrings(stops)

    shown = "".join(strings.feed(piece) for piece in pieces) + strings.flush()

    if not ends:
        assert (shown, strings.found) == (text, None)
    else:
        assert strings.found in stops
        assert text.startswith(shown + strings.found)
        assert not any(stop in shown for stop in stops)


def test_nothing_is_held_back_that_cannot_become_a_stop() -> None:
    strings = StopStrings(["###"])

    assert [strings.feed(piece) for piece in ("a", "#", "b", "##", "c")] == [
        "a",
        "",
        "#b",
        "",
        "##c",
    ]


def heard(stream: str, *stop: str) -> tuple[list[object], AnswerParser]:
    listener = AnswerParser(Parser(TOKENIZER), stop)
    events: list[object] = []
    for token in token_ids(stream, TOKENIZER):
        events += listener.feed(token)
    events += listener.finish()
    return events, listener


STREAM = (
    "<|channel|>analysis<|message|>Is ### here?<|end|><|start|>assistant"
    "<|channel|>final<|message|>One ### two<|return|>"
)


def test_stop_strings_bind_the_answer_only() -> None:
    events, listener = heard(STREAM, "###", "zwei")

    thought = "".join(e.text for e in events if isinstance(e, Reasoning))
    said = "".join(e.text for e in events if isinstance(e, Answer))
    assert (thought, said) == ("Is ### here?", "One ")
    ended = [event for event in events if isinstance(event, MessageEnded)]
    assert [one.message for one in ended] == [reasoning(thought), answer("One ")]
    assert listener.stopped


@pytest.mark.parametrize("stop", [(), ("four",), ("two!", "### twi")])
def test_without_a_stop_everything_is_heard(stop: tuple[str, ...]) -> None:
    events, listener = heard(STREAM, *stop)

    said = "".join(e.text for e in events if isinstance(e, Answer))
    assert (said, listener.stopped) == ("One ### two", False)
    before = Statistics(1, 0, finish_reason="length")
    assert listener.with_stop_string(before) == before


def test_a_stop_is_the_reason_of_the_end() -> None:
    _, listener = heard(STREAM, "###")

    stats = listener.with_stop_string(Statistics(1, 0, finish_reason="cancelled"))

    assert (stats.finish_reason, stats.finish_details) == ("stop", ("stop_string",))
