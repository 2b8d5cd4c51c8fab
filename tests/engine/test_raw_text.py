"""Raw continuations: what follows a text, without Harmony."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.engine.answer import AnswerParser
from mlx_gptoss.engine.raw_text import TextParser, continue_text
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import Answer, Done
from tests.support.fakes import byte_tokenizer
from tests.support.scripted_chat import scripted_runtime

TOKENIZER = byte_tokenizer()
RETURN = TOKENIZER.specials["<|return|>"]


def decoded(
    tokens: list[int], *stop: str, show_control: bool = False
) -> tuple[str, AnswerParser]:
    text = TextParser(TOKENIZER, {RETURN}, show_control=show_control)
    parser = AnswerParser(text, stop)
    events = [event for token in tokens for event in parser.feed(token)]
    events += parser.finish()
    return "".join(e.text for e in events if isinstance(e, Answer)), parser


@given(st.text("a#é", max_size=9), st.lists(st.text("a#é", min_size=1), max_size=2))
def test_text_is_whole_or_ends_before_a_stop_string(
    text: str, stops: list[str]
) -> None:
    shown, parser = decoded([*TOKENIZER.encode(text), RETURN], *stops)

    if parser.stop_string is None:
        assert shown == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(shown + parser.stop_string)


@pytest.mark.parametrize("stop", [(), ("zzz",)])
def test_control_tokens_are_named_where_asked_and_half_a_character_is_replaced(
    stop: tuple[str, ...],
) -> None:
    half = TOKENIZER.encode("é")[:1]
    start = TOKENIZER.specials["<|start|>"]
    tokens = [start, *half, start, *half, RETURN]

    shown, _ = decoded(tokens, *stop, show_control=True)
    hidden, _ = decoded(tokens, *stop)

    assert shown == "<|start|>\ufffd<|start|>\ufffd"
    assert hidden == "\ufffd\ufffd"


def test_a_stop_string_is_the_reason_of_the_end() -> None:
    with scripted_runtime("never asked") as runtime:
        ids = runtime.tokenizer.encode("one two")
        runtime.model.logits_of = lambda read: [
            20.0 if n == ids[(len(read) - 1) % len(ids)] else 0.0 for n in range(300)
        ]
        *text, done = continue_text(
            runtime, "x", SamplingParams(temperature=0), stop=["two"]
        )

    assert "".join(e.text for e in text if isinstance(e, Answer)) == "one "
    assert isinstance(done, Done)
    assert (done.finish_reason, done.stats.finish_details) == ("stop", ("stop_string",))
