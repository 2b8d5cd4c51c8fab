"""Streams of other servers: what they may leave out, and what they get wrong."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.streams import (
    CHAT,
    ServerAddress,
    StreamTiming,
    find_model,
    time_stream,
)
from tests.support.scripted_completions import (
    DONE,
    JSON,
    Script,
    ScriptedCompletions,
    event,
    last_event,
    usage,
)

BODY = {"prompt": "Hi", "max_tokens": 4}
USAGE = usage(9, 3, prompt_tokens_details={"cached_tokens": 7})
WHOLE = [event("Hé"), event("l"), event("lo"), last_event(), USAGE, DONE]


def answer_of(script: Script, **options: object) -> StreamTiming:
    with ScriptedCompletions(script) as server:
        return time_stream(ServerAddress("other", server.url), BODY, **options)  # type: ignore


def failure_of(script: Script, **address: object) -> str:
    with ScriptedCompletions(script) as server:
        other = replace(ServerAddress("other", server.url), **address)  # type: ignore
        with pytest.raises(EngineFailure) as raised:
            time_stream(other, BODY)
    return str(raised.value)


def test_a_stream_is_timed_and_counted() -> None:
    firsts: list[bool] = []

    found = answer_of(Script(WHOLE), on_first=lambda: firsts.append(True))

    assert (found.prompt_tokens, found.completion_tokens, found.counted) == (9, 3, True)
    assert (found.read_tokens, found.text, firsts) == (2, "Héllo", [True])
    assert len(found.arrivals) == 3
    assert found.asked < found.first == found.arrivals[0] <= found.ended


@given(st.lists(st.integers(1, len(b"".join(WHOLE)) - 1), max_size=6))
@settings(max_examples=10, deadline=None)
def test_chunks_may_be_split_anywhere(places: list[int]) -> None:
    whole = b"".join(WHOLE)
    cuts = [0, *sorted(set(places)), len(whole)]
    chunks = [whole[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]  # noqa: RUF007

    found = answer_of(Script(chunks))

    assert (found.text, found.completion_tokens, found.read_tokens) == ("Héllo", 3, 2)


def test_comments_and_line_ends_of_other_servers_are_read() -> None:
    chunks = [b": ping\n\n", event("a").replace(b"\n", b"\r\n"), b":\n\n", *WHOLE[1:]]

    assert answer_of(Script(chunks)).text == "allo"


def test_reasoning_and_calls_of_a_chat_are_tokens_but_not_history() -> None:
    deltas = ({"role": "assistant"}, {"reasoning": "x"}, {"reasoning_content": "y"})
    chunks = [event(choices=[{"delta": delta}]) for delta in deltas]
    chunks += [event(choices=[{"delta": {"tool_calls": [{}]}}])]
    chunks += [event("Yes", chat=True), event(choices=[{"finish_reason": "stop"}])]

    found = answer_of(Script([*chunks, USAGE, DONE]), path=CHAT)

    assert (len(found.arrivals), found.text) == (4, "Yes")


def test_without_usage_each_event_is_a_token() -> None:
    found = answer_of(Script([event("a"), event("b"), last_event(), DONE]))

    assert (found.completion_tokens, found.counted, found.read_tokens) == (
        2,
        False,
        None,
    )


def test_a_stream_without_done_ends_where_it_is_closed() -> None:
    assert answer_of(Script([event("a"), last_event()])).completion_tokens == 1


def test_a_connection_that_is_kept_open_ends_with_done() -> None:
    assert answer_of(Script(WHOLE, stays_open=True)).completion_tokens == 3


@pytest.mark.parametrize(
    ("more", "read"),
    [
        ({"timings": {"prompt_n": 5, "cache_n": 4}}, 5),  # llama-server
        ({"usage": {"prompt_eval_count": 6}}, 6),  # Ollama
        ({}, None),
    ],
)
def test_tokens_that_were_read_are_found_where_a_server_says_them(
    more: dict, read: int | None
) -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 1, **more.pop("usage", {})}
    chunks = [event("a"), last_event(), event(usage=counts, **more), DONE]

    assert answer_of(Script(chunks)).read_tokens == read


def test_a_model_and_a_key_are_sent_if_they_are_known() -> None:
    with ScriptedCompletions(Script(WHOLE)) as server:
        address = ServerAddress("other", f"{server.url}/v1/", key="k", model="m")
        time_stream(address, BODY)
        time_stream(ServerAddress("other", server.url), BODY)

    (path, named, headers), (_, unnamed, _) = server.requests
    assert (path, named["model"]) == ("/v1/completions", "m")
    assert headers["Authorization"] == "Bearer k"
    assert "model" not in unnamed
    assert named["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script([b'{"error": {"message": "out\\nof luck"}}'], 500), "out of luck"),
        (Script([b'{"error": "no model"}'], 404), "HTTP 404: no model"),
        (Script([b"<html>\n<b>x</b>"], 502), "HTTP 502: <html> <b>x</b>"),
        (Script([b"{}"], kind=JSON), "instead of events"),
        (Script([event("a"), event(error={"message": "full"})]), "other: full"),
        (Script([event("a"), event(error="full")]), "other: full"),
        (Script([b"data: oops\n\n"]), "an event that is no completion: 'oops'"),
        (Script([b"data: [1]\n\n"]), "an event that is no completion: [1]"),
        (Script([event(choices=["x"])]), "an event that is no completion"),
        (Script([event("a")]), "broke off a stream"),
        (Script([]), "broke off a stream"),
        (Script([last_event(), DONE]), "without any text"),
    ],
)
def test_an_answer_that_is_none_is_one_clear_line(script: Script, reason: str) -> None:
    found = failure_of(script)

    assert reason in found
    assert "\n" not in found and found.startswith("other")


def test_a_refusal_without_a_model_hints_at_its_name() -> None:
    refusal = Script([b'{"error": {"message": "model is required"}}'], 400)

    assert "give `--against-model`" in failure_of(refusal)
    assert "--against-model" not in failure_of(refusal, model="m")


def test_a_server_that_stalls_is_given_up() -> None:
    stalled = Script([event("a")], stays_open=True)

    assert failure_of(stalled, timeout=0.1) == "other sent nothing for 0.1 s"


def test_the_only_model_of_a_server_is_found() -> None:
    def found(models: tuple[str, ...] | None) -> str | None:
        with ScriptedCompletions(Script(models=models)) as server:
            return find_model(ServerAddress("other", server.url))

    assert [found(("a",)), found(()), found(None)] == ["a", None, None]
    with pytest.raises(EngineFailure, match=r"choose one with .* \(`a`, `b`\)"):
        found(("a", "b"))


def test_a_server_that_is_not_there_is_named() -> None:
    nobody = ServerAddress.on_loopback("nobody", 1)
    with pytest.raises(EngineFailure, match="nobody does not answer: "):
        time_stream(nobody, BODY)
    with pytest.raises(EngineFailure, match="nobody does not answer: "):
        find_model(nobody)
