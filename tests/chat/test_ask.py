"""`Chat.ask`: a whole turn as a Reply, structured answers, cancel and timeout."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import pytest

from mlx_gptoss import (
    AnswerFormat,
    Chat,
    Constraints,
    Reply,
    ReplyCall,
    Runtime,
    SamplingParams,
)
from mlx_gptoss.chat.reply_format import ReplyFormat
from mlx_gptoss.errors import (
    AnswerFormatError,
    AnswerTimeout,
    GptOssError,
    PromptError,
)
from mlx_gptoss.harmony.events import Answer, Event
from mlx_gptoss.harmony.messages import answer, user
from tests.support.chat_turns import BYE, CALL, GREEDY, get_weather, start
from tests.support.echoing import LONG, TALK, calling, echoing
from tests.support.fakes import answering

STEP = 0.005  # seconds of a token, where an answer must not end at once
SHORT = 0.4


class Total(pydantic.BaseModel):
    """A sum."""

    total: int
    unit: Literal["EUR", "USD"] = "EUR"

    @pydantic.field_validator("total")
    @classmethod
    def must_be_positive(cls, total: int) -> int:
        if total <= 0:
            raise ValueError("must be above 0")
        return total


@dataclass
class Point:
    x: int
    y: int


def running(runtime: Runtime) -> int:
    runtime.run(lambda: None)  # what the engine thread was doing is done
    return runtime.batch_statistics.running + runtime.batch_statistics.waiting


def test_a_reply_is_the_whole_turn() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[get_weather])
        reply = chat.ask("Rain?")

    call = ReplyCall(
        id="call_1",
        name="get_weather",
        arguments='{"city": "Paris"}',
        result="rain in Paris",
    )
    assert (reply.answer, reply.reasoning, reply.preamble) == ("Bye.", "Look.", "")
    assert (reply.calls, reply.finish_reason) == ((call,), "stop")
    assert (reply.prompt, reply.index, reply.error) == ("Rain?", 0, None)
    assert reply.stats.generations == 2
    assert reply.raise_for_error() is reply
    assert chat.messages[-1] == answer("Bye.")


def test_text_before_and_behind_a_call_is_in_paragraphs_of_its_own() -> None:
    again = "<|channel|>analysis<|message|>Rain!<|end|><|start|>assistant"
    with answering(CALL, again + BYE) as runtime:
        reply = start(runtime, tools=[get_weather]).ask("Rain?")

    assert (reply.reasoning, reply.answer) == ("Look.\n\nRain!", "Bye.")


def test_a_call_that_waits_has_no_result_and_the_next_reply_goes_on() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[{"name": "get_weather"}])
        reply = chat.ask("Rain?", response_format=Total)
        [call] = reply.calls
        assert (reply.finish_reason, call.result, reply.parsed) == (
            "tool_calls",
            None,
            None,
        )
        assert Reply.of(chat.submit_result(call.id, "sun")).answer == "Bye."


@pytest.mark.parametrize(
    ("given", "said", "parsed"),
    [
        (Total, '{"total":702}', Total(total=702)),
        (Point, '{"x":1,"y":2}', Point(1, 2)),
        (list[int], "[1,2]", [1, 2]),
        (Total.model_json_schema(), '{"total":7}', {"total": 7}),
        ({"type": "json_object"}, '{"a":null}', {"a": None}),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}},
            "7",
            7,
        ),
        (AnswerFormat.json_schema({"type": "boolean"}), "true", True),
        (AnswerFormat.regex("[a-c]+"), "abc", None),
        ({"type": "text"}, "hi", None),
    ],
)
def test_an_answer_has_the_format_of_its_turn(
    given: Any, said: str, parsed: Any
) -> None:
    with echoing() as runtime:
        chat = Chat(runtime, params=GREEDY, date="")
        reply = chat.ask(said, response_format=given)

        assert (reply.answer, reply.parsed) == (said, parsed)
        assert chat.constraints == Constraints()
        assert chat.ask("plain").answer == "plain"


def test_a_type_allows_only_the_fields_it_names() -> None:
    enforced = ReplyFormat.of(list[Point], Constraints()).to_enforce

    assert enforced is not None and enforced.in_prompt
    assert enforced.source["$defs"]["Point"]["additionalProperties"] is False


def test_the_format_of_the_chat_is_read_too() -> None:
    ints = AnswerFormat.json_schema({"type": "integer"})
    with echoing() as runtime:
        chat = Chat(runtime, date="", constraints=Constraints(response_format=ints))
        assert chat.ask("42").parsed == 42


def test_an_answer_without_its_format_is_an_error_with_the_reply() -> None:
    with echoing() as runtime:
        chat = Chat(runtime, params=GREEDY, date="")
        with pytest.raises(
            AnswerFormatError,
            match=r"is not `Total`: `total`: Value error, must be above 0$",
        ) as bad:
            chat.ask('{"total":-1}', response_format=Total)
        chat.params = SamplingParams(temperature=0, max_tokens=12)
        with pytest.raises(AnswerFormatError, match="cut off before the end") as cut:
            chat.ask('{"total":123456789}', response_format=Total)

    assert bad.value.reply.answer == '{"total":-1}'
    assert cut.value.reply.finish_reason == "length"


NO_FORMAT = r"^`response_format` is [^\n]*: give a type that pydantic knows, [^\n]*$"


@pytest.mark.parametrize("given", [7, Callable[[], int], "json", object()])
def test_what_is_no_format_is_refused_before_anything_runs(given: Any) -> None:
    with answering() as runtime:
        chat = start(runtime)
        with pytest.raises(PromptError, match=NO_FORMAT):
            chat.ask("hi", response_format=given)
    assert chat.messages == []


TURNS: dict[str, Callable[[Chat], Any]] = {
    "ask": lambda chat: chat.ask(TALK, timeout=SHORT),
    "send": lambda chat: list(chat.send(TALK, timeout=SHORT)),
    "regenerate": lambda chat: list(chat.regenerate(timeout=SHORT)),
    "edit": lambda chat: list(chat.edit(1, TALK, timeout=SHORT)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_an_answer_that_takes_too_long_is_ended_and_kept(turn: str) -> None:
    with echoing(STEP) as runtime:
        chat = Chat(runtime, params=GREEDY, date="")
        chat.ask("ready?")
        chat.messages = [user(TALK), answer("no")]
        began = time.monotonic()

        with pytest.raises(AnswerTimeout, match=r"within 0\.4 s.*raise `timeout`"):
            TURNS[turn](chat)

        assert time.monotonic() - began < 10
        assert running(runtime) == 0
        assert chat.messages[-1].ended == "cancelled"
        kept = chat.messages[-1].text
        assert 0 < len(kept) < len(LONG) and LONG.startswith(kept)
        assert chat.ask("hi", timeout=60).answer == "hi"


def test_the_error_has_what_came_until_then() -> None:
    with echoing(STEP) as runtime:
        chat = Chat(runtime, params=GREEDY, date="")
        chat.ask("ready?")
        with pytest.raises(TimeoutError) as error:  # a GptOssError, and this
            chat.ask(TALK, timeout=SHORT)

    assert isinstance(error.value, GptOssError)
    assert isinstance(error.value, AnswerTimeout)
    reply = error.value.reply
    assert reply.answer == chat.messages[-1].text
    assert reply.finish_reason == reply.stats.finish_reason == "cancelled"
    assert reply.stats.completion_tokens >= len(reply.answer)


def test_a_tool_is_not_waited_for_beyond_the_time_of_the_turn() -> None:
    held = threading.Event()

    def hang() -> None:
        held.wait()

    with echoing() as runtime:
        chat = Chat(runtime, params=GREEDY, date="", tools=[hang])
        chat.ask("ready?")
        with pytest.raises(AnswerTimeout) as error:
            chat.ask(calling("hang"), timeout=SHORT)
        held.set()

    [call] = error.value.reply.calls
    assert call.result == "Error: the call was interrupted"


@pytest.mark.parametrize("seconds", [0, -1, True, "5"])
def test_a_timeout_that_is_none_is_refused_at_once(seconds: Any) -> None:
    with answering() as runtime:
        chat = start(runtime)
        with pytest.raises(PromptError, match=r"`timeout` is .*: give seconds"):
            chat.send("hi", timeout=seconds)


def test_a_cancelled_ask_returns_what_came() -> None:
    with echoing(STEP) as runtime:
        chat: Chat = Chat(
            runtime,
            params=GREEDY,
            date="",
            on_progress=lambda progress: progress.finished and chat.cancel(),
        )
        reply = chat.ask(TALK)

    assert reply.finish_reason == "cancelled"
    assert len(reply.answer) < len(LONG)


def test_a_question_must_be_text() -> None:
    with answering() as runtime:
        chat = start(runtime)
        with pytest.raises(PromptError, match="a question is text, not int"):
            chat.ask(7)  # pyright: ignore[reportArgumentType]


def test_a_reply_can_be_made_of_any_events() -> None:
    events: list[Event] = [Answer("Hel"), Answer("lo")]

    reply = Reply.of(events)
    assert (reply.answer, reply.finish_reason) == ("Hello", "cancelled")


def test_many_chats_in_threads_are_decoded_together() -> None:
    """They share passes whoever asks: see `answer_all` for one thread."""
    with echoing(0.0005) as runtime:
        chats = [Chat(runtime, params=GREEDY, date="") for _ in range(8)]
        replies: list[str] = []
        threads = [
            threading.Thread(
                target=lambda c=chat: replies.append(c.ask(LONG[:60]).answer)
            )
            for chat in chats
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sizes = runtime.batch_statistics.batch_sizes

    assert replies == [LONG[:60]] * 8
    assert sum(sizes.values()) < 8 * 60
